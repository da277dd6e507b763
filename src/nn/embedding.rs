//! A table of vectors looked up by id, with a socket in which an adapter may sit.

use super::module::{Module, Walker};
use super::param::Param;
use super::socket::{Slot, Socket, Weights};
use crate::device::Device;
use crate::device::array::Ids;
use crate::rng::Rng;
use crate::tensor::Tensor;

/// `[rows, width]`, looked up by ids below `rows`. Cloning shares the table.
#[derive(Clone)]
pub struct Embedding(Socket);

impl Embedding {
    /// A table of normally distributed numbers with `deviation`.
    pub fn new(rows: usize, width: usize, deviation: f64, rng: &mut Rng, device: &Device) -> Embedding {
        Embedding::from_weights(&Tensor::normal(deviation, [rows, width], rng, device))
    }

    /// A given table: `[rows, width]`.
    pub fn from_weights(table: &Tensor) -> Embedding {
        Embedding::from_param(Param::new(table))
    }

    /// A given parameter as the table.
    pub fn from_param(weight: Param) -> Embedding {
        Embedding(Socket::embedding(weight))
    }

    /// The vector of each id: `[ids..] -> [ids.., width]`, through the adapter if there is one.
    ///
    /// **Panics** when the ids were checked against a larger table.
    #[track_caller]
    pub fn forward(&self, ids: &Ids) -> Tensor {
        match self.0.now() {
            Slot::Plain => self.weight().value().embedding(ids),
            Slot::Adapted(adapter) => adapter.lookup(ids, &self.base()),
            Slot::Merged(_, weights) => weights.weight.embedding(ids),
        }
    }

    /// Where an adapter may sit.
    pub fn socket(&self) -> &Socket {
        &self.0
    }

    /// The table itself, without any adapter. An output head that shares the table uses this one.
    pub fn base(&self) -> Weights {
        self.0.base()
    }

    /// The parameter `[rows, width]`.
    pub fn weight(&self) -> &Param {
        self.0.weight()
    }
}

impl Module for Embedding {
    fn walk(&self, at: &mut Walker<'_>) {
        self.0.walk(at);
    }

    fn socket(&self) -> Option<&Socket> {
        Some(&self.0)
    }
}
