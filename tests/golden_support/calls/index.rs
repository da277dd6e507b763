//! Picking and adding by index.

use engrad::{Ids, Tensor};

use super::super::argument::{Argument, BY_NAME, Call, Integers, checked_ids, from_the_end};
use super::Row;

pub const ROWS: &[Row] = &[
    ("embedding", |c| embedding(c).into()),
    ("gather", |c| {
        let axis = c.integer(0, "dim", 0);
        let ids = c.ids(1, "index", c.x().size(axis));
        match ids.count() {
            // Nothing is picked, so PyTorch lets the indices have another number of axes.
            0 => c.x().gather(axis, &ids.reshape(vec![0; c.x().ndim()])).reshape(ids.sizes()).into(),
            _ => c.x().gather(axis, &ids).into(),
        }
    }),
    ("take_along_dim", |c| take_along(c).into()),
    ("index_select", |c| {
        let axis = c.integer(0, "dim", 0);
        c.x().index_select(axis, &c.ids(1, "index", c.x().size(axis))).into()
    }),
    ("index_add", |c| {
        let axis = c.integer(0, "dim", 0);
        let source = c.tensor(2, "source") * c.number(BY_NAME, "alpha", 1.0);
        c.x().index_add(axis, &c.ids(1, "index", c.x().size(axis)), &source).into()
    }),
    ("scatter_add", |c| {
        let axis = c.integer(0, "dim", 0);
        c.x().scatter_add(axis, &c.ids(1, "index", c.x().size(axis)), &c.tensor(2, "src")).into()
    }),
    ("scatter", |c| scatter(c).into()),
];

/// Either order of table and indices. The row at `padding_idx` gets no gradient.
fn embedding(c: &Call) -> Tensor {
    let (indices, table) = match c.input() {
        Argument::Integers(_) => (c.input(), c.tensor(0, "weight")),
        _ => (c.get(0, "input"), c.x()),
    };
    let rows = table.size(0);
    let ids = checked_ids(c.whole_numbers(indices), rows, None);
    if !c.has(1, "padding_idx") {
        return table.embedding(&ids);
    }
    let padding = c.integer(1, "padding_idx", 0).rem_euclid(rows as isize) as f64;
    let is_padding = Tensor::arange(rows, &c.device).eq(&Tensor::full(padding, [], &c.device)).unsqueeze(1);
    Tensor::where_(&is_padding, &table.detach(), &table).embedding(&ids)
}

/// Indices broadcast against the tensor on all other axes; without an axis both are one row.
fn take_along(c: &Call) -> Tensor {
    let whole = c.whole_numbers(c.get(0, "indices"));
    if !c.has(1, "dim") {
        let flat = Integers { values: whole.values.clone(), sizes: vec![whole.values.len()] };
        return c
            .x()
            .reshape([c.x().count()])
            .gather(0, &checked_ids(&from_the_end(&flat, c.x().count()), c.x().count(), None));
    }
    let axis = c.integer(1, "dim", 0);
    let at = axis.rem_euclid(c.x().ndim() as isize) as usize;
    let sizes = |of: &[usize], along: usize| -> Vec<usize> {
        let other = |axis: usize| of[axis].max(c.x().sizes()[axis]).max(whole.sizes[axis]);
        (0..of.len()).map(|axis| if axis == at { along } else { other(axis) }).collect()
    };
    let spread = c.as_tensor(c.get(0, "indices")).expand(sizes(&whole.sizes, whole.sizes[at]));
    let values = spread.to_f64().into_iter().map(|value| value as i64).collect();
    let ids = Integers { values, sizes: spread.sizes().to_vec() };
    let x = c.x().expand(sizes(c.x().sizes(), c.x().sizes()[at]));
    x.gather(axis, &checked_ids(&from_the_end(&ids, x.sizes()[at]), x.sizes()[at], None))
}

/// Replaces instead of adding: what is written to is emptied first.
fn scatter(c: &Call) -> Tensor {
    let axis = c.integer(0, "dim", 0);
    let ids: Ids = c.ids(1, "index", c.x().size(axis));
    let zeros = Tensor::zeros(c.x().sizes(), &c.device);
    let written = zeros.scatter_add(axis, &ids, &Tensor::ones(ids.sizes(), &c.device));
    let source = zeros.scatter_add(axis, &ids, &c.tensor(2, "src"));
    Tensor::where_(&written, &source, &c.x())
}
