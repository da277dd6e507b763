//! The socket of a layer: where an adapter may sit.
//!
//! An adapter is defined by the weights it makes of the frozen ones ([`Adapter::adapt`]). Merging
//! keeps those weights beside the base, and unmerging drops them, so both are exact to the bit
//! whatever the method does. No model code knows adapters.
//! Read next: `linear.rs` and `embedding.rs`, which have sockets, or `adapters/mod.rs`.

use std::sync::{Arc, RwLock};

use super::module::Module;
use super::param::Param;
use crate::device::array::Ids;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The weights of a layer as a computation sees them.
#[derive(Clone, Debug)]
pub struct Weights {
    /// `[out, in]` in a linear layer, `[rows, width]` in an embedding.
    pub weight: Tensor,
    /// `[out]`
    pub bias: Option<Tensor>,
}

impl Weights {
    /// `x·Wᵀ + b`: `[.., in] -> [.., out]`.
    #[track_caller]
    pub fn apply(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }
}

/// What sits in one layer.
pub trait Adapter: Module + Send + Sync {
    /// The definition: the weights this adapter makes of the base's.
    fn adapt(&self, base: &Weights) -> Weights;

    /// The same result on `x: [.., in] -> [.., out]`, where it is cheaper not to form the matrix.
    fn forward(&self, x: &Tensor, base: &Weights) -> Tensor {
        self.adapt(base).apply(x)
    }

    /// The same for an embedding: `[ids..] -> [ids.., width]`.
    fn lookup(&self, ids: &Ids, base: &Weights) -> Tensor {
        self.adapt(base).weight.embedding(ids)
    }

    /// Two factors `[out, rank]` and `[rank, in]` whose product is all that `adapt` adds, if there are.
    fn factors(&self) -> Option<[Tensor; 2]> {
        None
    }

    /// The tensors of its file, where they are not its parameters one by one.
    fn stored(&self) -> Option<Vec<Stored>> {
        None
    }
}

/// A matrix of an adapter's file that is made of several parameters; 0 where none stands.
pub struct Stored {
    /// What stands behind the module's path.
    pub name: &'static str,
    /// Rows and columns.
    pub sizes: [usize; 2],
    /// Each part, and where its first element stands.
    pub parts: Vec<(Param, [usize; 2])>,
}

/// The socket itself. Cloning shares it.
#[derive(Clone, Default)]
pub(crate) struct Socket(Arc<RwLock<Slot>>);

/// What a socket holds.
#[derive(Clone, Default)]
pub(crate) enum Slot {
    #[default]
    Plain,
    Adapted(Arc<dyn Adapter>),
    Merged(Arc<dyn Adapter>, Weights),
}

impl Socket {
    /// What it holds now.
    pub(crate) fn now(&self) -> Slot {
        self.0.read().expect("no code panics while it holds the socket").clone()
    }

    pub(crate) fn adapter(&self) -> Option<Arc<dyn Adapter>> {
        match self.now() {
            Slot::Plain => None,
            Slot::Adapted(adapter) | Slot::Merged(adapter, _) => Some(adapter),
        }
    }

    /// **Errors** when an adapter sits there already.
    pub(crate) fn attach(&self, adapter: Arc<dyn Adapter>) -> Result<()> {
        let mut slot = self.0.write().expect("no code panics while it holds the socket");
        match *slot {
            Slot::Plain => *slot = Slot::Adapted(adapter),
            _ => return Err(Error::Adapter("this layer has an adapter already; detach it first".into())),
        }
        Ok(())
    }

    pub(crate) fn detach(&self) -> Option<Arc<dyn Adapter>> {
        let adapter = self.adapter();
        self.put(Slot::Plain);
        adapter
    }

    /// Computes the adapted weights once and uses them from now on.
    pub(crate) fn merge(&self, base: &Weights) {
        if let Slot::Adapted(adapter) = self.now() {
            let merged = crate::inference(|| adapter.adapt(base));
            let merged = Weights { weight: merged.weight.detach(), bias: merged.bias.map(|b| b.detach()) };
            self.put(Slot::Merged(adapter, merged));
        }
    }

    /// Goes back to computing with base and adapter apart.
    pub(crate) fn unmerge(&self) {
        if let Slot::Merged(adapter, _) = self.now() {
            self.put(Slot::Adapted(adapter));
        }
    }

    fn put(&self, slot: Slot) {
        *self.0.write().expect("no code panics while it holds the socket") = slot;
    }
}
