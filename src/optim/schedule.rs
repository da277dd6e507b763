//! The learning rate over the steps: up from 0 during warm-up, then along a shape.

/// How the rate moves after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// It stays.
    #[default]
    Constant,
    /// In a straight line to 0 at the last step.
    Linear,
    /// Along half a cosine to 0 at the last step (arXiv 1608.03983, without restarts).
    Cosine,
}

/// The learning rate of each step, counted from 0; the same as transformers' schedules.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The rate after warm-up.
    pub peak: f64,
    /// Steps in which the rate grows in a straight line from 0.
    pub warm_up: u64,
    /// Steps in all; the rate stays 0 after them, unless it is constant.
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

    /// The rate of a step.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warm_up {
            return self.peak * step as f64 / self.warm_up as f64;
        }
        let span = self.total.saturating_sub(self.warm_up).max(1) as f64;
        let done = ((step - self.warm_up) as f64 / span).min(1.0);
        self.peak
            * match self.shape {
                Shape::Constant => 1.0,
                Shape::Linear => 1.0 - done,
                Shape::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            }
    }
}
