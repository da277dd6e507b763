//! The state of a training run in one file: trainable parameters, the optimiser's state and the step.
//!
//! A run that goes on from it computes the same bits as one that was never stopped, because
//! batches, dropout masks and learning rates follow from seed and step alone.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::trainer::{Trainable, Trainer};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{Param, files};
use crate::optim::Optimizer;
use crate::tensor::Tensor;

const PARAMETER: &str = "parameter.";
const OPTIMIZER: &str = "optimizer.";

impl<T: Trainable, O: Optimizer> Trainer<T, O> {
    /// Saves all that the next step depends on, as a safetensors file.
    ///
    /// **Errors** when the file cannot be written; an earlier checkpoint then stays as it was.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut tensors = BTreeMap::new();
        for (name, param) in self.params() {
            for (part, tensor) in self.optimizer.state(&param) {
                tensors.insert(format!("{OPTIMIZER}{name}/{part}"), tensor);
            }
            tensors.insert(format!("{PARAMETER}{name}"), param.value().detach());
        }
        let metadata = HashMap::from([("step".to_string(), self.step.to_string())]);
        files::write(path, &tensors, metadata)
    }

    /// Goes on where [`Trainer::save`] stopped.
    ///
    /// **Errors** when the file is malformed or belongs to other parameters; nothing has changed then
    /// except that the optimiser may hold some restored state.
    pub fn resume(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let params = self.params();
        let device = params.first().map_or(Device::Cpu, |(_, param)| param.device());
        let contents = files::read(path, &device)?;
        let step = contents.metadata.get("step").and_then(|step| step.parse().ok());
        let Some(step) = step else {
            return Err(Error::format(path, "holds no step: not a training checkpoint"));
        };
        let mut values: BTreeMap<String, Tensor> = BTreeMap::new();
        let mut states: HashMap<String, HashMap<String, Tensor>> = HashMap::new();
        for (name, tensor) in contents.tensors {
            if let Some(param) = name.strip_prefix(PARAMETER) {
                values.insert(param.to_string(), tensor);
            } else if let Some((param, part)) =
                name.strip_prefix(OPTIMIZER).and_then(|rest| rest.rsplit_once('/'))
            {
                states.entry(param.to_string()).or_default().insert(part.to_string(), tensor);
            }
        }
        for (name, param) in &params {
            if let Some(state) = states.get(name) {
                self.optimizer.restore(param, state)?;
            }
        }
        files::assign(path, &params, &mut values)?;
        self.step = step;
        Ok(())
    }

    fn params(&self) -> Vec<(String, Param)> {
        self.subject.groups().into_iter().flat_map(|group| group.params).collect()
    }
}
