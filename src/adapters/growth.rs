//! What growing methods share: how many sites grow, which ones, how far, and the record of it; and the
//! orthogonality penalty of methods whose factors should stay apart.

use super::identity;
use crate::tensor::Tensor;

/// A decision about ranks.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// How many updates were done.
    pub step: u64,
    /// What importance was measured from, per site; empty where scores are not differences.
    pub values: Vec<f64>,
    /// The importance of each site; where ranks shrink, of each triplet.
    pub scores: Vec<f64>,
    /// How many sites the schedule wanted to grow; where ranks shrink, the budget of triplets.
    pub count: usize,
    /// The score that decided: sites from it on grow; triplets up to it are switched off.
    pub threshold: f64,
    /// The sites that grew.
    pub chosen: Vec<usize>,
    /// The rank of each site afterwards.
    pub ranks: Vec<usize>,
}

/// The threshold is the `count`-th largest score. Every site that reaches it is chosen, which may be
/// more than `count`; or exactly `count` of them, the earlier of equal ones first.
pub(super) fn choose(scores: &[f64], count: usize, exactly: bool) -> (f64, Vec<usize>) {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let threshold = scores[order[count - 1]];
    let mut chosen: Vec<usize> = if exactly {
        order[..count].to_vec()
    } else {
        (0..scores.len()).filter(|&site| scores[site] >= threshold).collect()
    };
    chosen.sort_unstable();
    (threshold, chosen)
}

/// How many ranks a file may say that a layer has. A budget is one of all layers together, so a small one may have
/// been given more than its matrix can use; but no file makes us allocate whatever it says.
pub(super) fn most_ranks(inputs: usize, outputs: usize) -> usize {
    inputs.max(outputs).max(4096)
}

/// The mean over all factors of how far their rows are from being orthonormal: `mean ‖F·Fᵀ - I‖`.
pub(super) fn orthogonality(factors: &[Tensor]) -> Option<Tensor> {
    let distances = factors
        .iter()
        .map(|factor| (factor.matmul(&factor.t()) - identity(factor.sizes()[0], &factor.device())).norm(..));
    let total = distances.reduce(|sum, distance| sum + distance)?;
    Some(total * (1.0 / factors.len() as f64))
}
