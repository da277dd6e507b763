//! The state of a training run in one file: trainable parameters, the optimiser's state and the step.
//!
//! A run that goes on from it computes the same bits as one that was never stopped, because
//! batches, dropout masks and learning rates follow from seed and step alone.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::trainer::{Trainable, Trainer};
use crate::adapters::Adapted;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{Param, files};
use crate::optim::Optimizer;
use crate::tensor::Tensor;

const PARAMETER: &str = "parameter.";
const OPTIMIZER: &str = "optimizer.";
const METHOD: &str = "method.";

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
            tensors.insert(format!("{PARAMETER}{name}"), param.stored(&param.value()));
        }
        for (name, tensor) in self.subject.adapters().map(Adapted::state).unwrap_or_default() {
            tensors.insert(format!("{METHOD}{name}"), tensor);
        }
        let metadata = HashMap::from([("step".to_string(), self.step.to_string())]);
        files::write(path, &tensors, metadata)
    }

    /// Goes on where [`Trainer::save`] stopped.
    ///
    /// **Errors** when the file is malformed, or belongs to other parameters or another optimiser; nothing
    /// has changed then, except that an adapter whose ranks change may have the file's ranks and their state.
    pub fn resume(&mut self, path: impl AsRef<Path>) -> Result<()>
    where
        O: Clone,
    {
        let path = path.as_ref();
        let device = self.params().first().map_or(Device::Cpu, |(_, param)| param.device());
        let contents = files::read(path, &device)?;
        let step = contents.metadata.get("step").and_then(|step| step.parse::<u32>().ok());
        let Some(step) = step else {
            return Err(Error::format(path, "holds no step: not a training checkpoint"));
        };
        // A method's numbers keep all their digits; and what has grown must be there before values are set.
        if contents.tensors.keys().any(|name| name.starts_with(METHOD)) {
            let exact = files::read(path, &Device::Reference)?.tensors;
            let state = exact
                .into_iter()
                .filter_map(|(name, tensor)| Some((name.strip_prefix(METHOD)?.into(), tensor)));
            match self.subject.adapters_mut() {
                Some(adapted) => adapted.restore(&state.collect())?,
                None => return Err(Error::format(path, "holds the state of adapters, and none are trained")),
            }
        }
        let params = self.params();
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
        let values = files::matched(path, &params, values)?;
        let mut optimizer = self.optimizer.clone();
        for (name, param) in &params {
            optimizer.restore(param, &states.remove(name).unwrap_or_default())?;
        }
        if let Some(name) = states.keys().next() {
            return Err(Error::format(
                path,
                format!("holds the optimiser's state of {name}, which is not trained"),
            ));
        }
        values.iter().for_each(|(param, value)| param.set(value));
        (self.optimizer, self.step) = (optimizer, u64::from(step));
        Ok(())
    }

    fn params(&self) -> Vec<(String, Param)> {
        self.subject.groups().into_iter().flat_map(|group| group.params).collect()
    }
}
