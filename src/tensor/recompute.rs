//! Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): a part of a computation keeps nothing but
//! what it was computed from, and is computed a second time when its gradient is asked for.
//!
//! The part's history is made, looked through for where it begins, and dropped. The second time begins
//! with the same random numbers, so masks and results are the same bits.
//! Read next: `nn/block.rs`, whose stacks do this block by block.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::Tensor;
use super::autograd::{Edge, Input, Node, RANDOMNESS, RECORDING, Restore, pull_back};
use crate::rng::Rng;

thread_local! {
    static RECOMPUTING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `body` so that models keep only the input of each block, and compute the rest again in the backward
/// pass: less memory for a third (with adapters a half) more time, and the same gradients. (The same bits, but for
/// tensors that several blocks look at: the gradients of a block are added up first.) Blocks whose keys and
/// values are kept (prefix tuning, generation) are computed as ever.
pub fn recomputing<R>(body: impl FnOnce() -> R) -> R {
    let before = RECOMPUTING.replace(true);
    let _restore = Restore(move || RECOMPUTING.set(before));
    body()
}

/// Whether this runs inside of [`recomputing`].
pub(crate) fn is_recomputing() -> bool {
    RECOMPUTING.get()
}

/// The result of `part`, whose history is not kept: the backward pass runs `part` again. It must compute the
/// same both times, from what it captures. Gradients that [`Tensor::keep_gradient`] asks for inside of
/// it are not given.
///
/// ```
/// use engrad::{Device, Tensor, recomputed};
/// let x = Tensor::new(&[1.0, 2.0], [2], &Device::Cpu).tracked();
/// let held = x.clone();
/// let gradients = recomputed(move || held.exp().tanh()).sum(..).backward();
/// assert!(gradients.of(&x).is_some());
/// ```
pub fn recomputed(part: impl Fn() -> Tensor + Send + Sync + 'static) -> Tensor {
    let rng = RANDOMNESS.with_borrow(Clone::clone);
    let since = Node::next_id();
    let y = part();
    let inputs = match y.node() {
        Some(node) if node.id >= since => inputs_before(since, node),
        _ => return y,
    };
    let ids: Vec<u64> = inputs.iter().map(|input| input.node.id).collect();
    let pull = move |g: &Tensor| {
        let since = Node::next_id();
        let node = again(rng.clone(), &part).node;
        let node = node.expect("what was tracked the first time is tracked again");
        let mut gradients = pull_back(node, g.detach(), since);
        let of = |id| gradients.remove(id).expect("the second time begins where the first did");
        ids.iter().map(of).collect()
    };
    Tensor::with_node(y.array, Some(Node::new("recomputed", vec![Edge { inputs, pull: Box::new(pull) }])))
}

/// Runs `part` with a history and the random numbers that it had.
fn again(rng: Option<Rng>, part: impl Fn() -> Tensor) -> Tensor {
    let mut randomness = RANDOMNESS.replace(rng);
    let _randomness = Restore(move || RANDOMNESS.set(randomness.take()));
    let recording = RECORDING.replace(true);
    let _recording = Restore(move || RECORDING.set(recording));
    part()
}

/// Where a history leaves what was made from number `since` on.
fn inputs_before(since: u64, node: &Arc<Node>) -> Vec<Input> {
    let mut inputs = BTreeMap::new();
    let (mut seen, mut pending) = (HashSet::from([node.id]), vec![node]);
    while let Some(node) = pending.pop() {
        for input in node.edges.iter().flat_map(|edge| &edge.inputs) {
            if input.node.id < since {
                inputs.insert(input.node.id, Input { node: input.node.clone(), sizes: input.sizes.clone() });
            } else if seen.insert(input.node.id) {
                pending.push(&input.node);
            }
        }
    }
    inputs.into_values().collect()
}
