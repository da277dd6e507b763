//! What each PyTorch call is in this crate: one row per call, its name beside a closure.
//!
//! A row composes methods of [`Tensor`] where PyTorch offers an option that the crate leaves to its
//! users. The families are in the files beside this one.

mod elementwise;
mod getitem;
mod index;
mod loss;
mod matmul;
mod normalise;
mod pad;
mod reduce;
mod shape;

use engrad::{Ids, Tensor};

use super::argument::Call;

/// A call's name and what it is here.
pub type Row = (&'static str, fn(&Call) -> Outputs);

/// One result.
pub enum Output {
    Tensor(Tensor),
    Ids(Ids),
}

/// All results of a call.
pub struct Outputs(pub Vec<Output>);

impl Output {
    /// The values in row-major order, and the sizes.
    pub fn read(&self) -> (Vec<f64>, Vec<usize>) {
        match self {
            Output::Tensor(tensor) => (tensor.to_f64(), tensor.sizes().to_vec()),
            Output::Ids(ids) => {
                (ids.values().iter().map(|&id| f64::from(id)).collect(), ids.sizes().to_vec())
            }
        }
    }
}

impl From<Tensor> for Outputs {
    fn from(tensor: Tensor) -> Outputs {
        Outputs(vec![Output::Tensor(tensor)])
    }
}

impl From<Ids> for Outputs {
    fn from(ids: Ids) -> Outputs {
        Outputs(vec![Output::Ids(ids)])
    }
}

impl From<(Tensor, Ids)> for Outputs {
    fn from((tensor, ids): (Tensor, Ids)) -> Outputs {
        Outputs(vec![Output::Tensor(tensor), Output::Ids(ids)])
    }
}

impl From<Vec<Tensor>> for Outputs {
    fn from(tensors: Vec<Tensor>) -> Outputs {
        Outputs(tensors.into_iter().map(Output::Tensor).collect())
    }
}

/// The row of a call. Names carry PyTorch's module, or a remark behind them; neither counts.
pub fn find(name: &str) -> Option<fn(&Call) -> Outputs> {
    let families = [
        elementwise::ROWS,
        reduce::ROWS,
        shape::ROWS,
        index::ROWS,
        matmul::ROWS,
        normalise::ROWS,
        loss::ROWS,
    ];
    let plain = plain_name(name);
    families.into_iter().flatten().find(|(row, _)| *row == plain).map(|(_, call)| *call)
}

/// `nn.functional.pad(x, ..)` is `pad`.
pub fn plain_name(name: &str) -> &str {
    let name = name.strip_prefix("nn.functional.").unwrap_or(name);
    name.split(['(', ',']).next().unwrap_or(name)
}
