//! Losses.

use engrad::{CrossEntropy, Reduction, Tensor};

use super::super::argument::{Argument, BY_NAME, Call, Integers, checked_ids};
use super::Row;

pub const ROWS: &[Row] = &[
    ("mse_loss", |c| c.x().mse_loss(&target(c), reduction(c)).into()),
    ("l1_loss", |c| c.x().l1_loss(&target(c), reduction(c)).into()),
    ("huber_loss", |c| c.x().huber_loss(&target(c), c.number(BY_NAME, "delta", 1.0), reduction(c)).into()),
    ("smooth_l1_loss", |c| match c.number(BY_NAME, "beta", 1.0) {
        0.0 => c.x().l1_loss(&target(c), reduction(c)).into(),
        beta => (c.x().huber_loss(&target(c), beta, reduction(c)) / beta).into(),
    }),
    ("kl_div", |c| kl_div(c).into()),
    ("binary_cross_entropy", |c| binary_cross_entropy(c).into()),
    ("binary_cross_entropy_with_logits", |c| bce_with_logits(c).into()),
    ("bce_with_logits", |c| bce_with_logits(c).into()),
    ("cross_entropy", |c| match c.get(0, "target") {
        Argument::Integers(_) => class_loss(c, CrossEntropy::of).into(),
        _ => cross_entropy_of_probabilities(c).into(),
    }),
    ("nll_loss", |c| class_loss(c, CrossEntropy::of_log_probabilities).into()),
    ("cosine_similarity", |c| {
        c.x().cosine_similarity(&c.tensor(0, "x2"), c.integer(1, "dim", 1), c.number(2, "eps", 1e-8)).into()
    }),
];

fn target(c: &Call) -> Tensor {
    c.tensor(0, "target")
}

fn reduction(c: &Call) -> Reduction {
    match c.text(BY_NAME, "reduction", "mean").as_str() {
        "sum" => Reduction::Sum,
        "none" => Reduction::None,
        _ => Reduction::Mean,
    }
}

fn reduced(c: &Call, losses: &Tensor) -> Tensor {
    match c.text(BY_NAME, "reduction", "mean").as_str() {
        "sum" => losses.sum(..),
        "none" => losses.clone(),
        "batchmean" => losses.sum(..) / losses.size(0) as f64,
        _ => losses.mean(..),
    }
}

/// `target·(log target - x)`, which is 0 where the target is 0.
fn kl_div(c: &Call) -> Tensor {
    let (x, target) = (c.x(), target(c));
    if c.flag(BY_NAME, "log_target", false) {
        return reduced(c, &(target.exp() * (&target - x)));
    }
    let positive = target.gt(&Tensor::zeros([], &c.device));
    let safe = Tensor::where_(&positive, &target, &Tensor::ones([], &c.device));
    reduced(c, &(&target * safe.log() - &target * x))
}

/// Of probabilities; logarithms end at -100.
fn binary_cross_entropy(c: &Call) -> Tensor {
    let (x, y) = (c.x(), target(c));
    let log = |p: Tensor| p.log().clamp(-100.0, f64::INFINITY);
    let losses = -(&y * log(x.clone()) + (1.0 - &y) * log(1.0 - &x));
    reduced(c, &c.tensor_if(BY_NAME, "weight").map_or(losses.clone(), |weight| losses * weight))
}

fn bce_with_logits(c: &Call) -> Tensor {
    if !c.has(BY_NAME, "pos_weight") && !c.has(BY_NAME, "weight") {
        return c.x().bce_with_logits(&target(c), reduction(c));
    }
    let positive = c.tensor_if(BY_NAME, "pos_weight").unwrap_or(Tensor::ones([], &c.device));
    let losses = c.x().bce_with_logits_elements(&target(c), &positive);
    reduced(c, &c.tensor_if(BY_NAME, "weight").map_or(losses.clone(), |weight| losses * weight))
}

/// PyTorch has classes on the second axis (or the only one); here they are on the last of two.
fn class_rows(c: &Call) -> Tensor {
    let x = c.x();
    let axis = if x.ndim() == 1 { 0 } else { 1 };
    let classes = x.size(axis);
    let rows = x.count() / classes.max(1);
    x.move_axis(axis, -1).reshape([rows, classes])
}

fn class_loss(c: &Call, loss: impl Fn(&CrossEntropy, &Tensor, &engrad::Ids) -> Tensor) -> Tensor {
    let rows = class_rows(c);
    let whole = c.whole_numbers(c.get(0, "target"));
    let flat = Integers { values: whole.values.clone(), sizes: vec![whole.values.len()] };
    let ignored = c.integer(BY_NAME, "ignore_index", -100) as i64;
    let ids = checked_ids(&flat, rows.size(-1), Some(ignored));
    let options = CrossEntropy {
        class_weights: c.tensor_if(BY_NAME, "weight"),
        label_smoothing: c.number(BY_NAME, "label_smoothing", 0.0),
        reduction: reduction(c),
    };
    match loss(&options, &rows, &ids) {
        losses if options.reduction == Reduction::None => losses.reshape(&whole.sizes),
        one => one,
    }
}

/// Targets that are probabilities of every class; the mean is over the rows.
fn cross_entropy_of_probabilities(c: &Call) -> Tensor {
    let log_p = c.x().log_softmax(1);
    let mut terms = target(c) * &log_p;
    if let Some(weight) = c.tensor_if(BY_NAME, "weight") {
        let mut sizes = vec![1; log_p.ndim()];
        sizes[1] = weight.count();
        terms = terms * weight.reshape(&sizes);
    }
    reduced(c, &-terms.sum(1))
}
