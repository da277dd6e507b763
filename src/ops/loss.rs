//! Losses, composed of other ops. Each reduces to one number unless told otherwise.

use crate::device::array::Ids;
use crate::error::refuse;
use crate::layout::broadcast;
use crate::ops::elementwise::{elementwise, soft_plus};
use crate::tensor::Tensor;

/// How the losses of the elements become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// Their mean (over those that count).
    #[default]
    Mean,
    /// Their sum.
    Sum,
    /// They stay as they are.
    None,
}

impl Reduction {
    fn apply(self, losses: Tensor) -> Tensor {
        match self {
            Reduction::Mean => losses.mean(..),
            Reduction::Sum => losses.sum(..),
            Reduction::None => losses,
        }
    }
}

/// Cross-entropy with options; `CrossEntropy::default()` is the plain mean.
///
/// Targets that do not count are [`Ids::IGNORED`].
#[derive(Clone, Debug, Default)]
pub struct CrossEntropy {
    /// The weight of each class: `[classes]`.
    pub class_weights: Option<Tensor>,
    /// The share of the target that is spread over all classes.
    pub label_smoothing: f64,
    /// How rows become one number; the mean is weighted by the classes' weights.
    pub reduction: Reduction,
}

impl CrossEntropy {
    /// The loss of `logits: [n, classes]` against `targets: [n]`.
    ///
    /// **Panics** when the sizes do not fit, or the label smoothing is not in `0..=1`.
    #[track_caller]
    pub fn of(&self, logits: &Tensor, targets: &Ids) -> Tensor {
        let losses = logits.cross_entropy_rows(targets);
        self.reduce("cross_entropy", losses, targets, logits, || logits.log_softmax(-1))
    }

    /// The same for log-probabilities `[n, classes]` (negative log-likelihood).
    ///
    /// **Panics** when the sizes do not fit.
    #[track_caller]
    pub fn of_log_probabilities(&self, log_p: &Tensor, targets: &Ids) -> Tensor {
        let fits = log_p.ndim() == 2
            && targets.sizes() == &log_p.sizes()[..1]
            && targets.limit() <= log_p.sizes()[1];
        if !fits {
            let (targets, limit) = (targets.sizes(), targets.limit());
            refuse("nll_loss", format_args!("{:?} and targets {targets:?} below {limit}", log_p.sizes()));
        }
        let picked = log_p.gather(1, &targets.reshape([targets.count(), 1])).squeeze(1);
        self.reduce("nll_loss", -picked, targets, log_p, || log_p.clone())
    }

    /// Weights, smooths and reduces the losses of the rows of `scores`; `log_p` gives the
    /// log-probabilities where smoothing asks for them.
    #[track_caller]
    fn reduce(
        &self,
        op: &str,
        losses: Tensor,
        targets: &Ids,
        scores: &Tensor,
        log_p: impl Fn() -> Tensor,
    ) -> Tensor {
        if !(0.0..=1.0).contains(&self.label_smoothing) {
            refuse(op, format_args!("a label smoothing of {} is no share", self.label_smoothing));
        }
        let (device, class_count) = (scores.device(), scores.size(-1));
        let counts: Vec<f32> =
            targets.values().iter().map(|&id| if id == Ids::IGNORED { 0.0 } else { 1.0 }).collect();
        let mut weights = Tensor::new(&counts, targets.sizes(), &device);
        let mut total = losses;
        if let Some(classes) = &self.class_weights {
            if classes.sizes() != [class_count] {
                let (weights, scores) = (classes.sizes(), scores.sizes());
                refuse(op, format_args!("class weights of {weights:?} for scores of {scores:?}"));
            }
            // An ignored target gathers a weight of 0.
            weights = classes.unsqueeze(1).embedding(targets).squeeze(1);
            total = total * &weights;
        }
        if self.label_smoothing > 0.0 {
            // The mean over classes of -log p, weighted by class.
            let spread = match &self.class_weights {
                Some(classes) => -(log_p() * classes).sum(-1) / class_count as f64,
                None => -log_p().mean(-1),
            };
            let counted = Tensor::new(&counts, targets.sizes(), &device);
            total = total * (1.0 - self.label_smoothing) + spread * counted * self.label_smoothing;
        }
        match self.reduction {
            Reduction::Mean => total.sum(..) / weights.sum(..),
            other => other.apply(total),
        }
    }
}

/// Losses between tensors of equal (or broadcast) sizes. Each panics when the sizes do not fit.
impl Tensor {
    /// Mean cross-entropy over the targets that count: `[n, classes]`, targets `[n]`.
    #[track_caller]
    pub fn cross_entropy(&self, targets: &Ids) -> Tensor {
        CrossEntropy::default().of(self, targets)
    }

    /// Mean negative log-likelihood of log-probabilities: `[n, classes]`, targets `[n]`.
    #[track_caller]
    pub fn nll_loss(&self, targets: &Ids) -> Tensor {
        CrossEntropy::default().of_log_probabilities(self, targets)
    }

    /// Squared differences.
    #[track_caller]
    pub fn mse_loss(&self, target: &Tensor, reduction: Reduction) -> Tensor {
        reduction.apply(elementwise("mse_loss", [self, target], |[x, y]| (x - y) * (x - y)))
    }

    /// Absolute differences.
    #[track_caller]
    pub fn l1_loss(&self, target: &Tensor, reduction: Reduction) -> Tensor {
        reduction.apply(elementwise("l1_loss", [self, target], |[x, y]| (x - y).abs()))
    }

    /// Half the square of a difference below `delta`, and a straight line beyond (Huber 1964).
    #[track_caller]
    pub fn huber_loss(&self, target: &Tensor, delta: f64, reduction: Reduction) -> Tensor {
        reduction.apply(elementwise("huber_loss", [self, target], |[x, y]| {
            let distance = (x - y).abs();
            distance.less(delta).select(0.5 * distance * distance, delta * (distance - 0.5 * delta))
        }))
    }

    /// Binary cross-entropy of logits against probabilities, exact for large logits.
    #[track_caller]
    pub fn bce_with_logits(&self, target: &Tensor, reduction: Reduction) -> Tensor {
        reduction.apply(self.bce_with_logits_elements(target, &Tensor::ones([], &self.device())))
    }

    /// As [`Tensor::bce_with_logits`] per element, with the positive class weighted.
    #[track_caller]
    pub fn bce_with_logits_elements(&self, target: &Tensor, positive_weight: &Tensor) -> Tensor {
        elementwise("bce_with_logits", [self, target, positive_weight], |[x, y, weight]| {
            (1.0 - y) * x + (1.0 + (weight - 1.0) * y) * soft_plus(-x)
        })
    }

    /// The cosine of the angle between vectors along `axis`, which disappears; lengths count as at
    /// least `eps`.
    #[track_caller]
    pub fn cosine_similarity(&self, other: &Tensor, axis: isize, eps: f64) -> Tensor {
        // Lengths are those of the broadcast vectors: an axis of size 1 counts as often as it is repeated.
        let Some(sizes) = broadcast(self.sizes(), other.sizes()) else {
            refuse("cosine_similarity", format_args!("{:?} and {:?}", self.sizes(), other.sizes()))
        };
        let (a, b) = (self.expand(&sizes), other.expand(&sizes));
        (a.normalize(axis, eps) * b.normalize(axis, eps)).sum(axis)
    }
}
