//! Reverse-mode automatic differentiation.
//!
//! Each op that has a tracked input makes a [`Node`]: one [`Edge`] per tracked input (or one for several
//! whose gradients are computed together), holding what is needed to pull a gradient through. Nodes are
//! numbered as they are made, so a node's number is larger than its inputs' numbers, and taking the
//! largest pending number first *is* the reverse order: [`Tensor::backward`] needs no sort and no
//! recursion.
//! Saved tensors are detached; a pull therefore records nothing, and histories have no cycles.
//! Read next: `ops/matmul.rs` for an op with two edges, `ops/elementwise.rs` for all the others.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Tensor;
use crate::device::array::Array;
use crate::error::refuse;
use crate::rng::Rng;

/// Turns the gradient of an op's result into one for each input of an edge.
type Pull = Box<dyn Fn(&Tensor) -> Vec<Tensor> + Send + Sync>;

/// An op's place in the history.
pub struct Node {
    pub(super) id: u64,
    name: &'static str,
    pub(super) edges: Vec<Edge>,
    keep: AtomicBool,
}

/// The way back to one input, or to several whose gradients come out of one computation: what was kept,
/// and how a gradient is pulled through.
pub struct Edge {
    pub(super) inputs: Vec<Input>,
    pub(super) pull: Pull,
}

/// Where an edge leads.
pub(super) struct Input {
    pub(super) node: Arc<Node>,
    /// Of the input; a gradient of broadcast sizes is summed to these.
    pub(super) sizes: Vec<usize>,
}

impl Input {
    /// The way to `input`, if it is tracked.
    fn to(input: &Tensor) -> Option<Input> {
        input.tracked_node().map(|node| Input { node: node.clone(), sizes: input.sizes().to_vec() })
    }
}

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Node {
    pub(super) fn new(name: &'static str, edges: Vec<Edge>) -> Arc<Node> {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Node { id, name, edges, keep: AtomicBool::new(false) })
    }

    /// No node made so far has this number or a larger one.
    pub(super) fn next_id() -> u64 {
        NEXT.load(Ordering::Relaxed)
    }

    /// The op's name; "leaf" for a tensor that gradients are asked of.
    pub fn name(&self) -> &'static str {
        self.name
    }

    fn is_leaf(&self) -> bool {
        self.edges.is_empty()
    }
}

/// Frees a history in a loop, because a recursion as deep as the history would overflow the stack.
impl Drop for Node {
    fn drop(&mut self) {
        let mut pending = std::mem::take(&mut self.edges);
        while let Some(Edge { inputs, pull }) = pending.pop() {
            // A pull that computes a part again holds the part's inputs, and would be the last to let go of them.
            drop(pull);
            for input in inputs {
                if let Some(mut node) = Arc::into_inner(input.node) {
                    pending.append(&mut node.edges);
                }
            }
        }
    }
}

/// The way back from an op to `input`, or `None` if the input is not tracked: then nothing is kept
/// and nothing will be computed. `pull` turns the gradient of the output into that of the input; it
/// may leave broadcast axes in place, the engine sums them.
pub fn edge<const N: usize>(
    input: &Tensor,
    saved: [&Tensor; N],
    pull: impl Fn(&Tensor, [&Tensor; N]) -> Tensor + Send + Sync + 'static,
) -> Option<Edge> {
    let way = Input::to(input)?;
    let saved = saved.map(Tensor::detach);
    Some(Edge { inputs: vec![way], pull: Box::new(move |g| vec![pull(g, saved.each_ref())]) })
}

/// The way back from an op to those of `inputs` that are tracked, or `None` if none is. `pull` gives a
/// gradient for each input, in their order; it is told which are tracked, and what it gives for the
/// others is dropped.
pub fn edge_to_each<const M: usize, const N: usize>(
    inputs: [&Tensor; M],
    saved: [&Tensor; N],
    pull: impl Fn(&Tensor, [&Tensor; N], [bool; M]) -> [Tensor; M] + Send + Sync + 'static,
) -> Option<Edge> {
    let tracked = inputs.map(Tensor::is_recorded);
    let inputs: Vec<Input> = inputs.into_iter().filter_map(Input::to).collect();
    if inputs.is_empty() {
        return None;
    }
    let saved = saved.map(Tensor::detach);
    let pull = move |g: &Tensor| {
        let parts = pull(g, saved.each_ref(), tracked).into_iter().zip(tracked);
        parts.filter_map(|(part, tracked)| tracked.then_some(part)).collect()
    };
    Some(Edge { inputs, pull: Box::new(pull) })
}

impl Tensor {
    /// The result of an op: its value and the ways back to its tracked inputs.
    pub fn from_op(
        name: &'static str,
        value: Array,
        edges: impl IntoIterator<Item = Option<Edge>>,
    ) -> Tensor {
        let edges: Vec<Edge> = edges.into_iter().flatten().collect();
        Tensor::with_node(value, (!edges.is_empty()).then(|| Node::new(name, edges)))
    }

    /// The same values as a leaf that gradients can be asked of.
    pub fn tracked(&self) -> Tensor {
        Tensor::with_node(self.array().clone(), Some(Node::new("leaf", Vec::new())))
    }

    /// The same values without history: no gradient flows through.
    pub fn detach(&self) -> Tensor {
        Tensor::constant(self.array().clone())
    }

    /// Whether gradients flow back from this tensor.
    pub fn is_tracked(&self) -> bool {
        self.node().is_some()
    }

    /// Lets [`Gradients`] hold the gradient of this intermediate result too.
    pub fn keep_gradient(&self) {
        if let Some(node) = self.node() {
            node.keep.store(true, Ordering::Relaxed);
        }
    }

    /// Whether an op on this tensor is recorded: it is tracked, and not in [`inference`].
    pub(crate) fn is_recorded(&self) -> bool {
        self.tracked_node().is_some()
    }

    fn tracked_node(&self) -> Option<&Arc<Node>> {
        self.node().filter(|_| RECORDING.get())
    }

    /// The gradient of this one number with respect to every leaf it came from.
    ///
    /// Consumes the tensor, so that each saved activation is freed as soon as it was used; clone
    /// first to keep the history, [`Tensor::detach`] first to keep the value.
    ///
    /// **Panics** when there is more than one element.
    #[track_caller]
    pub fn backward(self) -> Gradients {
        if self.count() != 1 {
            refuse(
                "backward",
                format_args!("sizes {:?} are not one number; use backward_with", self.sizes()),
            );
        }
        let g = Tensor::ones(self.sizes(), &self.device());
        self.backward_with(g)
    }

    /// As [`Tensor::backward`], from a given gradient of this tensor's sizes.
    ///
    /// **Panics** when the sizes differ.
    #[track_caller]
    pub fn backward_with(self, g: Tensor) -> Gradients {
        if self.sizes() != g.sizes() {
            refuse("backward_with", format_args!("{:?} and a gradient of {:?}", self.sizes(), g.sizes()));
        }
        drop(self.array);
        Gradients { gradients: self.node.map(|node| pull_back(node, g.detach(), 0)).unwrap_or_default() }
    }

    /// Draws the history as indented text, one op per line; a part that was shown is named again only.
    pub fn graph(&self) -> String {
        let mut text = String::new();
        let mut seen = std::collections::HashSet::new();
        let mut stack: Vec<(usize, Arc<Node>, Vec<usize>)> =
            self.node().map(|node| (0, node.clone(), self.sizes().to_vec())).into_iter().collect();
        while let Some((depth, node, sizes)) = stack.pop() {
            let known = !seen.insert(node.id);
            let again = if known && !node.is_leaf() { " (as above)" } else { "" };
            text += &format!("{}{} #{} {sizes:?}{again}\n", "  ".repeat(depth), node.name, node.id);
            if !known {
                let inputs = node.edges.iter().rev().flat_map(|edge| edge.inputs.iter().rev());
                stack.extend(inputs.map(|input| (depth + 1, input.node.clone(), input.sizes.clone())));
            }
        }
        text
    }

    /// Sums what broadcasting repeated: the one place where it is undone.
    fn sum_to(self, sizes: &[usize]) -> Tensor {
        if self.sizes() == sizes {
            return self;
        }
        let added = self.ndim() - sizes.len();
        let repeated: Vec<isize> = (0..self.ndim())
            .filter(|&axis| axis < added || (sizes[axis - added] == 1 && self.sizes()[axis] != 1))
            .map(|axis| axis as isize)
            .collect();
        self.sum_keep(&repeated[..]).reshape(sizes)
    }
}

/// Pulls the gradient of a node back to the leaves, or to what was made before number `since`. Gives the
/// gradients there, and those that are to be kept on the way.
pub(super) fn pull_back(node: Arc<Node>, g: Tensor, since: u64) -> HashMap<u64, Tensor> {
    let mut gradients = HashMap::new();
    let mut pending = BTreeMap::from([(node.id, (node, g))]);
    while let Some((id, (node, g))) = pending.pop_last() {
        let edges = if id < since { &[][..] } else { &node.edges };
        for edge in edges {
            for (input, part) in edge.inputs.iter().zip((edge.pull)(&g)) {
                let part = part.sum_to(&input.sizes);
                let total = match pending.remove(&input.node.id) {
                    Some((_, sum)) => sum + part,
                    None => part,
                };
                pending.insert(input.node.id, (input.node.clone(), total));
            }
        }
        if edges.is_empty() || node.keep.load(Ordering::Relaxed) {
            gradients.insert(id, g);
        }
    }
    gradients
}

/// The gradients of one backward pass, by tensor.
#[derive(Default)]
pub struct Gradients {
    gradients: HashMap<u64, Tensor>,
}

impl Gradients {
    /// The gradient of a leaf (or of a tensor marked by [`Tensor::keep_gradient`]); `None` if the
    /// result does not depend on it.
    pub fn of(&self, tensor: &Tensor) -> Option<&Tensor> {
        self.gradients.get(&tensor.node()?.id)
    }

    /// How many tensors have a gradient.
    pub fn len(&self) -> usize {
        self.gradients.len()
    }

    /// Whether nothing received a gradient.
    pub fn is_empty(&self) -> bool {
        self.gradients.is_empty()
    }

    /// Adds another pass's gradients, as in accumulation over several batches.
    pub fn add(&mut self, other: Gradients) {
        for (id, g) in other.gradients {
            let total = match self.gradients.remove(&id) {
                Some(sum) => sum + g,
                None => g,
            };
            self.gradients.insert(id, total);
        }
    }

    /// Multiplies every gradient, as in clipping.
    pub fn scale(&mut self, factor: f64) {
        self.gradients = self.gradients.drain().map(|(id, g)| (id, g * factor)).collect();
    }
}

impl fmt::Debug for Gradients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gradients of {} tensors", self.len())
    }
}

thread_local! {
    pub(super) static RECORDING: Cell<bool> = const { Cell::new(true) };
    pub(super) static RANDOMNESS: RefCell<Option<Rng>> = const { RefCell::new(None) };
}

/// Restores a thread's setting even when the body panics.
pub(super) struct Restore<F: FnMut()>(pub(super) F);

impl<F: FnMut()> Drop for Restore<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Runs `body` without history: nothing is saved for a backward pass.
pub fn inference<R>(body: impl FnOnce() -> R) -> R {
    let before = RECORDING.replace(false);
    let _restore = Restore(move || RECORDING.set(before));
    body()
}

/// Runs `body` with dropout, whose masks follow from `seed`. Outside of this scope dropout passes
/// its input on: who wants randomness says where it comes from, and nothing can be left switched on.
pub fn training<R>(seed: u64, body: impl FnOnce() -> R) -> R {
    let mut before = RANDOMNESS.replace(Some(Rng::seeded(seed)));
    let _restore = Restore(move || RANDOMNESS.set(before.take()));
    body()
}

/// A seed for the next dropout mask; `None` outside of [`training`].
pub(crate) fn next_mask_seed() -> Option<u64> {
    RANDOMNESS.with_borrow_mut(|rng| rng.as_mut().map(Rng::next_seed))
}
