//! Views, joins and repetitions.

use engrad::Tensor;

use super::super::argument::{Argument, Call, Integers};
use super::{Row, getitem, pad};

pub const ROWS: &[Row] = &[
    ("permute", |c| c.x().permute(&c.integers(0, "dims").unwrap_or_default()).into()),
    ("transpose", |c| c.x().transpose(c.integer(0, "dim0", 0), c.integer(1, "dim1", 1)).into()),
    ("t", |c| c.x().t().into()),
    ("movedim", |c| move_axes(c).into()),
    ("reshape", |c| reshaped(c).into()),
    ("view", |c| reshaped(c).into()),
    ("flatten", |c| c.x().flatten(c.integer(0, "start_dim", 0), c.integer(1, "end_dim", -1)).into()),
    ("unflatten", |c| {
        let axis = c.integer(0, "dim", 0);
        let sizes = inferred(c.x().size(axis), &c.integers(1, "sizes").unwrap_or_default());
        c.x().unflatten(axis, &sizes).into()
    }),
    ("squeeze", |c| squeezed(c).into()),
    ("unsqueeze", |c| c.x().unsqueeze(c.integer(0, "dim", 0)).into()),
    ("expand", |c| {
        let sizes = c.integers(0, "size").unwrap_or_default();
        let (x, added) = (c.x(), sizes.len().saturating_sub(c.x().ndim()));
        let size = |(axis, &size): (usize, &isize)| match size {
            -1 => x.sizes()[axis - added],
            size => size as usize,
        };
        x.expand(sizes.iter().enumerate().map(size).collect::<Vec<usize>>()).into()
    }),
    ("narrow", |c| {
        let axis = c.integer(0, "dim", 0);
        c.x().narrow(axis, place(c, 1, "start", c.x().size(axis)), c.count(2, "length")).into()
    }),
    ("select", |c| {
        let axis = c.integer(0, "dim", 0);
        c.x().select(axis, place(c, 1, "index", c.x().size(axis))).into()
    }),
    ("slice", |c| {
        let axis = c.integer(0, "dim", 0);
        let part = |at, name| c.has(at, name).then(|| c.integer(at, name, 0));
        getitem::sliced(&c.x(), axis, [part(1, "start"), part(2, "end"), part(3, "step")]).into()
    }),
    ("getitem", |c| getitem::getitem(c).into()),
    ("__getitem__", |c| getitem::getitem(c).into()),
    ("flip", |c| {
        let axes = c.integers(0, "dims").unwrap_or_default();
        axes.into_iter().fold(c.x(), |x, axis| x.flip(axis)).into()
    }),
    ("roll", |c| rolled(c).into()),
    ("diagonal", |c| {
        let (first, second) = (c.integer(1, "dim1", 0), c.integer(2, "dim2", 1));
        let ndim = c.x().ndim() as isize;
        let mut order: Vec<isize> = (0..ndim).filter(|axis| ![first, second].contains(axis)).collect();
        order.extend([first, second]);
        c.x().permute(&order).diagonal(c.integer(0, "offset", 0)).into()
    }),
    ("tril", |c| c.x().tril(c.integer(0, "diagonal", 0)).into()),
    ("triu", |c| c.x().triu(c.integer(0, "diagonal", 0)).into()),
    ("cat", |c| Tensor::concat(&borrowed(&c.tensors(c.input())), c.integer(0, "dim", 0)).into()),
    ("stack", |c| Tensor::stack(&borrowed(&c.tensors(c.input())), c.integer(0, "dim", 0)).into()),
    ("split", |c| {
        let axis = c.integer(1, "dim", 0);
        let size = c.x().size(axis);
        let sizes = match c.get(0, "split_size") {
            Argument::List(_) => c.counts(0, "split_size"),
            _ => {
                let piece = c.count(0, "split_size");
                (0..size).step_by(piece).map(|start| piece.min(size - start)).collect()
            }
        };
        c.x().split(axis, &sizes).into()
    }),
    ("split_with_sizes", |c| c.x().split(c.integer(1, "dim", 0), &c.counts(0, "split_sizes")).into()),
    ("chunk", |c| c.x().chunk(c.count(0, "chunks"), c.integer(1, "dim", 0)).into()),
    ("unbind", |c| {
        let axis = c.integer(0, "dim", 0);
        (0..c.x().size(axis)).map(|at| c.x().select(axis, at)).collect::<Vec<Tensor>>().into()
    }),
    ("repeat", |c| c.x().repeat(&c.counts(0, "repeats")).into()),
    ("tile", |c| {
        let mut times = c.counts(0, "dims");
        let missing = c.x().ndim().saturating_sub(times.len());
        times.splice(0..0, std::iter::repeat_n(1, missing));
        c.x().repeat(&times).into()
    }),
    ("pad", |c| pad::padded(c).into()),
];

pub fn borrowed(tensors: &[Tensor]) -> Vec<&Tensor> {
    tensors.iter().collect()
}

/// Sizes in which one -1 stands for what the others leave of `count`.
fn inferred(count: usize, sizes: &[isize]) -> Vec<usize> {
    let known: usize = sizes.iter().filter(|&&size| size != -1).map(|&size| size as usize).product();
    let open = sizes.iter().filter(|&&size| size == -1).count();
    assert!(open == 0 || (open == 1 && known > 0), "harness: {sizes:?} leave a size open");
    sizes.iter().map(|&size| if size == -1 { count / known } else { size as usize }).collect()
}

fn reshaped(c: &Call) -> Tensor {
    let sizes = c.integers(0, "shape").unwrap_or_default();
    c.x().reshape(inferred(c.x().count(), &sizes))
}

/// An index that may count from the end, or be a tensor without axes.
fn place(c: &Call, at: usize, name: &str, size: usize) -> usize {
    let index = match c.get(at, name) {
        Argument::Integers(Integers { values, .. }) => values[0] as isize,
        _ => c.integer(at, name, 0),
    };
    (if index < 0 { index + size as isize } else { index }) as usize
}

/// Every moved axis goes to its place, the others keep their order.
fn move_axes(c: &Call) -> Tensor {
    let ndim = c.x().ndim() as isize;
    let axes = |at, name| -> Vec<isize> {
        c.integers(at, name).unwrap_or_default().iter().map(|axis| axis.rem_euclid(ndim)).collect()
    };
    let (from, to) = (axes(0, "source"), axes(1, "destination"));
    let mut others = (0..ndim).filter(|axis| !from.contains(axis));
    let order: Vec<isize> = (0..ndim)
        .map(|place| match to.iter().position(|&axis| axis == place) {
            Some(at) => from[at],
            None => others.next().expect("as many axes as places"),
        })
        .collect();
    c.x().permute(&order)
}

fn squeezed(c: &Call) -> Tensor {
    let ndim = c.x().ndim() as isize;
    let named = c.integers(0, "dim").unwrap_or_else(|| (0..ndim).collect());
    let mut axes: Vec<isize> = named.iter().map(|axis| axis.rem_euclid(ndim.max(1))).collect();
    // From the last, so that the others keep their numbers.
    axes.sort_unstable();
    axes.iter().rev().fold(c.x(), |x, &axis| x.squeeze(axis))
}

/// Without axes everything is rolled as one row.
fn rolled(c: &Call) -> Tensor {
    let shifts = c.integers(0, "shifts").unwrap_or_default();
    match c.integers(1, "dims") {
        Some(axes) => shifts.iter().zip(axes).fold(c.x(), |x, (&shift, axis)| x.roll(shift, axis)),
        None => c.x().reshape([c.x().count()]).roll(shifts[0], 0).reshape(c.x().sizes()),
    }
}
