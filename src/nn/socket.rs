//! The socket: the weights of a layer, and the place beside them where an adapter may sit.
//!
//! An adapter is defined by the weights it makes of the frozen ones ([`Adapter::adapt`]). Merging
//! keeps those weights beside the base, and unmerging drops them, so both are exact to the bit
//! whatever the method does. No model code knows adapters.
//! Read next: `linear.rs` and `embedding.rs`, which are sockets with a way forward, or `adapters/mod.rs`.

use std::sync::{Arc, RwLock};

use super::module::{Module, Walker};
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

    /// Two factors `[out, rank]` and `[rank, in]` whose product is all that `adapt` adds, if there are;
    /// transposed in an embedding, where they are `[width, rank]` and `[rank, rows]`.
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

/// The weights of a layer, with room for an adapter. Cloning shares it.
#[derive(Clone)]
pub struct Socket(Arc<Inner>);

struct Inner {
    weight: Param,
    bias: Option<Param>,
    embedding: bool,
    slot: RwLock<Slot>,
}

/// What a socket holds.
#[derive(Clone)]
pub(super) enum Slot {
    Plain,
    Adapted(Arc<dyn Adapter>),
    Merged(Arc<dyn Adapter>, Weights),
}

impl Socket {
    /// An empty socket of a linear layer: `[out, in]` and `[out]`.
    pub(super) fn linear(weight: Param, bias: Option<Param>) -> Socket {
        Socket(Arc::new(Inner { weight, bias, embedding: false, slot: RwLock::new(Slot::Plain) }))
    }

    /// An empty socket of an embedding: `[rows, width]`.
    pub(super) fn embedding(weight: Param) -> Socket {
        Socket(Arc::new(Inner { weight, bias: None, embedding: true, slot: RwLock::new(Slot::Plain) }))
    }

    /// The parameter `[out, in]`, or `[rows, width]`.
    pub fn weight(&self) -> &Param {
        &self.0.weight
    }

    /// The parameter `[out]`, if the layer has one.
    pub fn bias(&self) -> Option<&Param> {
        self.0.bias.as_ref()
    }

    /// Whether the layer is an embedding.
    pub fn is_embedding(&self) -> bool {
        self.0.embedding
    }

    /// The size of the last axis of the input; an embedding's number of rows.
    pub fn inputs(&self) -> usize {
        self.0.weight.sizes()[if self.0.embedding { 0 } else { 1 }]
    }

    /// The size of the last axis of the output.
    pub fn outputs(&self) -> usize {
        self.0.weight.sizes()[if self.0.embedding { 1 } else { 0 }]
    }

    /// The layer's own weights, without any adapter.
    pub fn base(&self) -> Weights {
        Weights { weight: self.0.weight.value(), bias: self.0.bias.as_ref().map(Param::value) }
    }

    /// The adapter, if one sits there.
    pub fn adapter(&self) -> Option<Arc<dyn Adapter>> {
        match self.now() {
            Slot::Plain => None,
            Slot::Adapted(adapter) | Slot::Merged(adapter, _) => Some(adapter),
        }
    }

    /// Puts an adapter in.
    ///
    /// **Errors** when one sits there already.
    pub fn attach(&self, adapter: Arc<dyn Adapter>) -> Result<()> {
        let mut slot = self.0.slot.write().expect(UNHARMED);
        match *slot {
            Slot::Plain => *slot = Slot::Adapted(adapter),
            _ => return Err(Error::Adapter("this layer has an adapter already; detach it first".into())),
        }
        Ok(())
    }

    /// Takes the adapter out and gives it back.
    pub fn detach(&self) -> Option<Arc<dyn Adapter>> {
        let adapter = self.adapter();
        self.put(Slot::Plain);
        adapter
    }

    /// Computes the adapted weights once and uses them from now on; the base stays untouched.
    pub fn merge(&self) {
        if let Slot::Adapted(adapter) = self.now() {
            let merged = crate::inference(|| adapter.adapt(&self.base()));
            let merged = Weights { weight: merged.weight.detach(), bias: merged.bias.map(|b| b.detach()) };
            self.put(Slot::Merged(adapter, merged));
        }
    }

    /// Goes back to computing with base and adapter apart.
    pub fn unmerge(&self) {
        if let Slot::Merged(adapter, _) = self.now() {
            self.put(Slot::Adapted(adapter));
        }
    }

    /// What it holds now.
    pub(super) fn now(&self) -> Slot {
        self.0.slot.read().expect(UNHARMED).clone()
    }

    fn put(&self, slot: Slot) {
        *self.0.slot.write().expect(UNHARMED) = slot;
    }
}

const UNHARMED: &str = "no code panics while it holds the socket";

/// The layer's parameters, then those of the adapter.
impl Module for Socket {
    fn walk(&self, at: &mut Walker<'_>) {
        at.param("weight", &self.0.weight);
        if let Some(bias) = &self.0.bias {
            at.param("bias", bias);
        }
        if let Some(adapter) = self.adapter() {
            adapter.walk(at);
        }
    }

    fn socket(&self) -> Option<&Socket> {
        Some(self)
    }
}
