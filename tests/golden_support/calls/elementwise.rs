//! Functions of each element, and of pairs of elements.

use engrad::Tensor;

use super::super::argument::{Argument, BY_NAME, Call};
use super::Row;

pub const ROWS: &[Row] = &[
    ("exp", |c| c.x().exp().into()),
    ("expm1", |c| c.x().expm1().into()),
    ("log", |c| c.x().log().into()),
    ("log1p", |c| c.x().log1p().into()),
    ("log2", |c| c.x().log2().into()),
    ("sqrt", |c| c.x().sqrt().into()),
    ("rsqrt", |c| c.x().rsqrt().into()),
    ("reciprocal", |c| c.x().reciprocal().into()),
    ("square", |c| c.x().square().into()),
    ("tanh", |c| c.x().tanh().into()),
    ("sigmoid", |c| c.x().sigmoid().into()),
    ("logsigmoid", |c| c.x().log_sigmoid().into()),
    ("log_sigmoid", |c| c.x().log_sigmoid().into()),
    ("softplus", |c| softplus(c).into()),
    ("relu", |c| c.x().relu().into()),
    ("leaky_relu", |c| c.x().leaky_relu(c.number(0, "negative_slope", 0.01)).into()),
    ("elu", |c| c.x().elu(c.number(0, "alpha", 1.0)).into()),
    ("gelu", |c| match c.text(0, "approximate", "none").as_str() {
        "tanh" => c.x().gelu_tanh().into(),
        _ => c.x().gelu().into(),
    }),
    ("gelu_tanh", |c| c.x().gelu_tanh().into()),
    ("silu", |c| c.x().silu().into()),
    ("mish", |c| c.x().mish().into()),
    ("glu", |c| {
        let halves = c.x().chunk(2, c.integer(0, "dim", -1));
        (&halves[0] * halves[1].sigmoid()).into()
    }),
    ("hardtanh", |c| c.x().clamp(c.number(0, "min_val", -1.0), c.number(1, "max_val", 1.0)).into()),
    ("erf", |c| c.x().erf().into()),
    ("sin", |c| c.x().sin().into()),
    ("cos", |c| c.x().cos().into()),
    ("neg", |c| (-c.x()).into()),
    ("abs", |c| c.x().abs().into()),
    ("sign", |c| c.x().sign().into()),
    ("floor", |c| c.x().floor().into()),
    ("ceil", |c| c.x().ceil().into()),
    ("round", |c| round(c).into()),
    ("isnan", |c| c.x().is_nan().into()),
    ("clamp", |c| clamp(c).into()),
    ("add", |c| (c.x() + c.tensor(0, "other") * c.number(1, "alpha", 1.0)).into()),
    ("sub", |c| (c.x() - c.tensor(0, "other") * c.number(1, "alpha", 1.0)).into()),
    ("mul", |c| (c.x() * c.tensor(0, "other")).into()),
    ("div", |c| {
        let quotient = c.x() / c.tensor(0, "other");
        match c.text(BY_NAME, "rounding_mode", "none").as_str() {
            "floor" => quotient.floor().into(),
            "trunc" => (quotient.sign() * quotient.abs().floor()).into(),
            _ => quotient.into(),
        }
    }),
    ("pow", |c| match c.get(0, "exponent") {
        Argument::Number(exponent) => c.x().powf(*exponent).into(),
        _ => c.x().pow(&c.tensor(0, "exponent")).into(),
    }),
    ("maximum", |c| c.x().maximum(&c.tensor(0, "other")).into()),
    ("minimum", |c| c.x().minimum(&c.tensor(0, "other")).into()),
    ("lt", |c| c.x().lt(&c.tensor(0, "other")).into()),
    ("le", |c| c.x().le(&c.tensor(0, "other")).into()),
    ("gt", |c| c.x().gt(&c.tensor(0, "other")).into()),
    ("ge", |c| c.x().ge(&c.tensor(0, "other")).into()),
    ("eq", |c| c.x().eq(&c.tensor(0, "other")).into()),
    ("ne", |c| c.x().ne(&c.tensor(0, "other")).into()),
    ("where", |c| match c.input() {
        Argument::Mask(mask) => Tensor::where_(mask, &c.tensor(0, "input"), &c.tensor(1, "other")).into(),
        _ => Tensor::where_(&c.tensor(0, "condition"), &c.x(), &c.tensor(1, "other")).into(),
    }),
    ("masked_fill", |c| match c.get(1, "value") {
        Argument::Number(value) => c.x().masked_fill(&c.tensor(0, "mask"), *value).into(),
        _ => Tensor::where_(&c.tensor(0, "mask"), &c.tensor(1, "value"), &c.x()).into(),
    }),
];

/// With a steepness `beta`, and a straight line where `beta·x` exceeds the threshold.
fn softplus(c: &Call) -> Tensor {
    if !c.has(0, "beta") {
        return c.x().softplus();
    }
    let (beta, threshold) = (c.number(0, "beta", 1.0), c.number(1, "threshold", 20.0));
    let scaled = c.x() * beta;
    let straight = scaled.gt(&Tensor::full(threshold, [], &c.device));
    Tensor::where_(&straight, &c.x(), &(scaled.softplus() / beta))
}

/// To a number of decimals, which may be negative.
fn round(c: &Call) -> Tensor {
    let decimals = c.integer(BY_NAME, "decimals", 0);
    let scale = 10f64.powi(decimals.unsigned_abs() as i32);
    match decimals {
        0 => c.x().round(),
        1.. => (c.x() * scale).round() / scale,
        _ => (c.x() / scale).round() * scale,
    }
}

/// Bounds may be numbers, tensors or missing.
fn clamp(c: &Call) -> Tensor {
    let tensors = [(0, "min"), (1, "max")].map(|(at, name)| !matches!(c.get(at, name), Argument::Number(_)));
    if tensors == [false, false] {
        return c.x().clamp(c.number(0, "min", 0.0), c.number(1, "max", 0.0));
    }
    let mut x = c.x();
    if let Some(low) = c.tensor_if(0, "min") {
        x = x.maximum(&low);
    }
    if let Some(high) = c.tensor_if(1, "max") {
        x = x.minimum(&high);
    }
    x
}
