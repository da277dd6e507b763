//! The learning rate over the steps: up from 0 during warm-up, then along a shape.

/// How the rate moves after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Shape {
    /// It stays.
    #[default]
    Constant,
    /// In a straight line to 0 at the last step.
    Linear,
    /// Along half a cosine to 0 at the last step (arXiv 1608.03983, without restarts).
    Cosine,
    /// Along that many half cosines, each beginning at the peak.
    CosineRestarts(u32),
    /// Along `(1 - done)^power`, down to a share of the peak that then stays.
    Polynomial {
        /// 1 is a straight line.
        power: f64,
        /// The share of the peak at the last step.
        end: f64,
    },
    /// As `1 / √step`, scaled to begin at the peak; the number shifts the start and is mostly the
    /// length of the warm-up.
    InverseSqrt(u64),
    /// Multiplied by `factor` after every so many steps.
    Stepped {
        /// Steps between two changes.
        every: u64,
        /// What each change multiplies by.
        factor: f64,
    },
}

/// The learning rate of each step, counted from 0; up to the last step the same as transformers'.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The rate after warm-up.
    pub peak: f64,
    /// Steps in which the rate grows in a straight line from 0.
    pub warm_up: u64,
    /// Steps in all; after them a shape that ends stays at its end.
    pub total: u64,
    /// What happens after warm-up.
    pub shape: Shape,
}

impl Schedule {
    /// The same rate always.
    pub fn constant(rate: f64) -> Schedule {
        Schedule { peak: rate, warm_up: 0, total: u64::MAX, shape: Shape::Constant }
    }

    /// Warm-up, then in a straight line to 0.
    pub fn linear(peak: f64, warm_up: u64, total: u64) -> Schedule {
        Schedule { peak, warm_up, total, shape: Shape::Linear }
    }

    /// Warm-up, then along half a cosine to 0.
    pub fn cosine(peak: f64, warm_up: u64, total: u64) -> Schedule {
        Schedule { peak, warm_up, total, shape: Shape::Cosine }
    }

    /// The schedule of what joins at step `start`: from its own warm-up to the same last step.
    pub fn since(&self, start: u64) -> Schedule {
        Schedule { total: self.total.saturating_sub(start), ..*self }
    }

    /// The rate of a step.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warm_up {
            return self.peak * step as f64 / self.warm_up as f64;
        }
        let after = step - self.warm_up;
        let done = match self.total.checked_sub(self.warm_up) {
            Some(span) if after < span => after as f64 / span as f64,
            _ => 1.0,
        };
        let cosine = |done: f64| 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
        self.peak
            * match self.shape {
                Shape::Constant => 1.0,
                Shape::Linear => 1.0 - done,
                Shape::Cosine => cosine(done),
                Shape::CosineRestarts(_) if done == 1.0 => 0.0,
                Shape::CosineRestarts(cycles) => cosine((f64::from(cycles) * done).fract()),
                Shape::Polynomial { power, end } => (1.0 - end) * (1.0 - done).powf(power) + end,
                Shape::InverseSqrt(shift) => (shift.max(1) as f64 / (after + shift.max(1)) as f64).sqrt(),
                Shape::Stepped { every, factor } => factor.powf((after / every.max(1)) as f64),
            }
    }
}
