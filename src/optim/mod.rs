//! How gradients change parameters.
//!
//! An optimiser updates one parameter at a time, as one elementwise program over value, gradient and
//! its own state, which is kept per parameter: parameters that appear in mid-training start fresh.
//! Read next: `adamw.rs`, `schedule.rs`, `clip.rs`.

mod adamw;
pub mod clip;
mod schedule;
mod sgd;

pub use adamw::AdamW;
pub use schedule::{Schedule, Shape};
pub use sgd::Sgd;

use std::collections::HashMap;

use crate::device::array::Array;
use crate::error::{Error, Result, refuse};
use crate::nn::Param;
use crate::tensor::Tensor;

/// A rule that turns a gradient into a new value.
pub trait Optimizer {
    /// Changes `param` by its gradient. `rate` is the learning rate, `decay` scales the weight decay.
    fn update(&mut self, param: &Param, gradient: &Tensor, rate: f64, decay: f64);

    /// What a parameter's next update depends on, by name; empty before its first.
    fn state(&self, param: &Param) -> Vec<(&'static str, Tensor)>;

    /// Puts back what [`Optimizer::state`] gave; an empty state is that of a parameter before its first
    /// update.
    ///
    /// **Errors** when a part is missing or misshapen; the state is then as it was.
    fn restore(&mut self, param: &Param, state: &HashMap<String, Tensor>) -> Result<()>;
}

/// What an update of `param` reads of its gradient.
///
/// **Panics** when the gradient has other sizes than the parameter, or lives elsewhere.
#[track_caller]
fn fitting(name: &str, param: &Param, gradient: &Tensor) -> Array {
    let (sizes, found) = (param.sizes(), gradient.sizes());
    if sizes != found || param.device() != gradient.device() {
        let (here, there) = (param.device(), gradient.device());
        refuse(name, format_args!("a gradient of {found:?} on {there} for {sizes:?} on {here}"));
    }
    gradient.array().clone()
}

/// Takes `names` out of a stored state, in their order; all have the parameter's sizes, except that
/// `"steps"` is one number.
fn stored<const N: usize>(
    param: &Param,
    state: &HashMap<String, Tensor>,
    names: [&str; N],
) -> Result<[Tensor; N]> {
    let mut found = Vec::with_capacity(N);
    for name in names {
        let sizes: &[usize] = if name == "steps" { &[] } else { param.sizes() };
        match state.get(name) {
            Some(tensor) if tensor.sizes() == sizes => found.push(tensor.clone()),
            Some(tensor) => {
                let found = tensor.sizes();
                return Err(Error::Names(format!("optimiser state {name} is {found:?}, expected {sizes:?}")));
            }
            None => return Err(Error::Names(format!("optimiser state {name} is missing"))),
        }
    }
    found.try_into().map_err(|_| Error::Names("optimiser state is incomplete".into()))
}
