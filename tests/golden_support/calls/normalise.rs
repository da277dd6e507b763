//! Normalising, and probabilities along an axis.

use engrad::Tensor;

use super::super::argument::Call;
use super::Row;
use super::reduce::norm_keep;

pub const ROWS: &[Row] = &[
    ("softmax", |c| c.x().softmax(c.integer(0, "dim", -1)).into()),
    ("log_softmax", |c| c.x().log_softmax(c.integer(0, "dim", -1)).into()),
    ("layer_norm", |c| {
        let parts = [c.tensor_if(1, "weight"), c.tensor_if(2, "bias")];
        let eps = c.number(3, "eps", 1e-5);
        over_last_axes(c, parts, |x, [weight, bias]| x.layer_norm(weight, bias, eps)).into()
    }),
    ("rms_norm", |c| {
        // Without one, PyTorch takes the type's own; these references are f64.
        let eps = c.number(2, "eps", f64::EPSILON);
        over_last_axes(c, [c.tensor_if(1, "weight"), None], |x, [weight, _]| x.rms_norm(weight, eps)).into()
    }),
    ("group_norm", |c| group_norm(c).into()),
    ("normalize", |c| {
        let (order, axis) = (c.number(0, "p", 2.0), c.integer(1, "dim", 1));
        let eps = c.number(2, "eps", 1e-12);
        match order {
            2.0 => c.x().normalize(axis, eps).into(),
            _ => (c.x() / norm_keep(&c.x(), order, &[axis]).clamp(eps, f64::INFINITY)).into(),
        }
    }),
];

/// PyTorch normalises over several last axes; here they become one.
fn over_last_axes(
    c: &Call,
    parts: [Option<Tensor>; 2],
    normalise: impl Fn(&Tensor, [Option<&Tensor>; 2]) -> Tensor,
) -> Tensor {
    let sizes = c.counts(0, "normalized_shape");
    let x = c.x();
    // The sizes are checked by way of weight and bias; without them, weights of 1 carry them.
    let ones = || Tensor::ones(&sizes, &c.device);
    let [weight, bias] = parts;
    let weight = weight.or_else(|| (!x.sizes().ends_with(&sizes)).then(ones));
    let width = [sizes.iter().product()];
    let flat = |part: Tensor| part.reshape(width);
    let parts = [weight.map(flat), bias.map(flat)];
    let first = -(sizes.len() as isize);
    let rows = if sizes.len() > 1 { x.flatten(first, -1) } else { x.clone() };
    normalise(&rows, parts.each_ref().map(Option::as_ref)).reshape(x.sizes())
}

/// Channels in groups; gain and shift are per channel.
fn group_norm(c: &Call) -> Tensor {
    let x = c.x();
    let groups = c.count(0, "num_groups");
    let batch = x.size(0);
    let rows = x.reshape([batch, groups, x.count() / (batch * groups).max(1)]);
    let mut y = rows.layer_norm(None, None, c.number(3, "eps", 1e-5)).reshape(x.sizes());
    let mut channels = vec![1; x.ndim()];
    channels[1] = x.size(1);
    if let Some(weight) = c.tensor_if(1, "weight") {
        y = y * weight.reshape(&channels);
    }
    match c.tensor_if(2, "bias") {
        Some(bias) => y + bias.reshape(&channels),
        None => y,
    }
}
