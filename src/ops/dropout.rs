//! Dropout: zeros at random places, and the rest scaled up (Srivastava et al. 2014).

use crate::error::refuse;
use crate::ops::elementwise::elementwise;
use crate::tensor::Tensor;
use crate::tensor::autograd::next_mask_seed;

impl Tensor {
    /// Each element 0 with `probability`, else divided by `1 - probability`.
    ///
    /// Acts only inside of [`training`](crate::training); elsewhere the tensor is passed on. The mask
    /// is computed again in the backward pass instead of being stored.
    ///
    /// **Panics** when the probability is not in `0..=1`.
    #[track_caller]
    pub fn dropout(&self, probability: f64) -> Tensor {
        let probability = checked("dropout", probability);
        if probability == 0.0 {
            return self.clone();
        }
        let Some(seed) = next_mask_seed() else { return self.clone() };
        let scale = if probability < 1.0 { 1.0 / (1.0 - probability) } else { 0.0 };
        elementwise("dropout", [self], |[x]| x.random(seed).less(probability).select(0.0, x * scale))
    }
}

/// A probability as all devices compare with it, in f32: so that each drops the same elements.
///
/// **Panics** when it is not in `0..=1`.
#[track_caller]
pub(super) fn checked(op: &str, probability: f64) -> f64 {
    if !(0.0..=1.0).contains(&probability) {
        refuse(op, format_args!("{probability} is no probability"));
    }
    f64::from(probability as f32)
}
