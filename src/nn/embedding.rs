//! A table of vectors looked up by id, with a socket in which an adapter may sit.

use std::sync::Arc;

use super::module::{Module, Walker};
use super::param::Param;
use super::socket::{Adapter, Slot, Socket, Weights};
use crate::device::Device;
use crate::device::array::Ids;
use crate::error::Result;
use crate::rng::Rng;
use crate::tensor::Tensor;

/// `[rows, width]`, looked up by ids below `rows`. Cloning shares the table.
#[derive(Clone)]
pub struct Embedding(Arc<Inner>);

struct Inner {
    weight: Param,
    socket: Socket,
}

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
        Embedding(Arc::new(Inner { weight, socket: Socket::default() }))
    }

    /// The vector of each id: `[ids..] -> [ids.., width]`, through the adapter if there is one.
    ///
    /// **Panics** when the ids were checked against a larger table.
    #[track_caller]
    pub fn forward(&self, ids: &Ids) -> Tensor {
        match self.0.socket.now() {
            Slot::Plain => self.0.weight.value().embedding(ids),
            Slot::Adapted(adapter) => adapter.lookup(ids, &self.base()),
            Slot::Merged(_, weights) => weights.weight.embedding(ids),
        }
    }

    /// The table itself, without any adapter. An output head that shares the table uses this one.
    pub fn base(&self) -> Weights {
        Weights { weight: self.0.weight.value(), bias: None }
    }

    /// The parameter `[rows, width]`.
    pub fn weight(&self) -> &Param {
        &self.0.weight
    }

    /// Puts an adapter into the socket.
    ///
    /// **Errors** when one sits there already.
    pub fn attach(&self, adapter: Arc<dyn Adapter>) -> Result<()> {
        self.0.socket.attach(adapter)
    }

    /// The adapter in the socket, if there is one.
    pub fn adapter(&self) -> Option<Arc<dyn Adapter>> {
        self.0.socket.adapter()
    }

    /// Takes the adapter out of the socket and gives it back.
    pub fn detach(&self) -> Option<Arc<dyn Adapter>> {
        self.0.socket.detach()
    }

    /// Computes the adapted table once and uses it from now on; the base stays untouched.
    pub fn merge(&self) {
        self.0.socket.merge(&self.base());
    }

    /// Goes back to computing with base and adapter apart.
    pub fn unmerge(&self) {
        self.0.socket.unmerge();
    }
}

impl Module for Embedding {
    fn walk(&self, at: &mut Walker<'_>) {
        at.param("weight", &self.0.weight);
        if let Some(adapter) = self.adapter() {
            adapter.walk(at);
        }
    }

    fn as_embedding(&self) -> Option<&Embedding> {
        Some(self)
    }
}
