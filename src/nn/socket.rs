//! The socket: the weights of a layer, and the place beside them where an adapter may sit.
//!
//! An adapter is defined by the weights it makes of the frozen ones ([`Adapter::adapt`]). Merging
//! keeps those weights beside the base, and unmerging drops them, so both are exact to the bit
//! whatever the method does. No model code knows adapters.
//! Read next: `linear.rs` and `embedding.rs`, which are sockets with a way forward, or `adapters/mod.rs`.

use std::sync::{Arc, RwLock};

use super::module::{Module, Walker};
use super::param::Param;
use super::virtual_tokens::Prefix;
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
    /// The definition: the weights this adapter makes of the base's. An adapter that is no change of
    /// weights leaves them; then `forward` or `prefix` is the definition, and `merges` says so.
    fn adapt(&self, base: &Weights) -> Weights {
        base.clone()
    }

    /// Whether the adapted weights are all that it does, so that they can take its place.
    fn merges(&self) -> bool {
        true
    }

    /// The same result on `x: [.., in] -> [.., out]`, where it is cheaper not to form the matrix.
    fn forward(&self, x: &Tensor, base: &Weights) -> Tensor {
        self.adapt(base).apply(x)
    }

    /// The same for an embedding: `[ids..] -> [ids.., width]`.
    fn lookup(&self, ids: &Ids, base: &Weights) -> Tensor {
        self.adapt(base).weight.embedding(ids)
    }

    /// What it puts before every text, where it sits before a stack of blocks rather than in a layer.
    fn prefix(&self) -> Option<Prefix> {
        None
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
    kind: Kind,
    slot: RwLock<Slot>,
}

/// What a socket belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Linear,
    Embedding,
    /// The weight is the table of token vectors that the stack reads, and which belongs to an embedding.
    Stack(Stack),
}

/// The sizes of a stack of blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stack {
    /// How many blocks.
    pub blocks: usize,
    /// The width of their input.
    pub width: usize,
    /// Heads of keys and values.
    pub key_heads: usize,
    /// The width of each.
    pub head: usize,
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
        Socket::new(weight, bias, Kind::Linear)
    }

    /// An empty socket of an embedding: `[rows, width]`.
    pub(super) fn embedding(weight: Param) -> Socket {
        Socket::new(weight, None, Kind::Embedding)
    }

    /// An empty socket before a stack of blocks that reads vectors of a table: `[rows, width]`.
    pub(super) fn stack(table: Param, stack: Stack) -> Socket {
        Socket::new(table, None, Kind::Stack(stack))
    }

    fn new(weight: Param, bias: Option<Param>, kind: Kind) -> Socket {
        Socket(Arc::new(Inner { weight, bias, kind, slot: RwLock::new(Slot::Plain) }))
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
        self.0.kind == Kind::Embedding
    }

    /// Whether the layer is linear.
    pub fn is_linear(&self) -> bool {
        self.0.kind == Kind::Linear
    }

    /// The stack of blocks behind it, if it belongs to no layer.
    pub fn blocks(&self) -> Option<Stack> {
        match self.0.kind {
            Kind::Stack(stack) => Some(stack),
            _ => None,
        }
    }

    /// The size of the last axis of the input; an embedding's number of rows.
    pub fn inputs(&self) -> usize {
        self.0.weight.sizes()[if self.is_linear() { 1 } else { 0 }]
    }

    /// The size of the last axis of the output.
    pub fn outputs(&self) -> usize {
        self.0.weight.sizes()[if self.is_linear() { 0 } else { 1 }]
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
    ///
    /// **Errors** when the adapter is more than a change of weights.
    pub fn merge(&self) -> Result<()> {
        if let Slot::Adapted(adapter) = self.now() {
            if !adapter.merges() {
                return Err(Error::Adapter(
                    "this adapter is no change of weights, so it cannot be merged".into(),
                ));
            }
            let merged = crate::inference(|| adapter.adapt(&self.base()));
            let merged = Weights { weight: merged.weight.detach(), bias: merged.bias.map(|b| b.detach()) };
            self.put(Slot::Merged(adapter, merged));
        }
        Ok(())
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
