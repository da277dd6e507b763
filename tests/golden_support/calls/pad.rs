//! Borders: PyTorch lists them as (before, after) from the last axis to the first.

use engrad::{Ids, Tensor};

use super::super::argument::{Argument, Call};

pub fn padded(c: &Call) -> Tensor {
    let listed = c.integers(0, "pad").unwrap_or_default();
    let x = c.x();
    let mut borders = vec![(0, 0); x.ndim()];
    for (at, pair) in listed.chunks(2).enumerate() {
        borders[x.ndim() - 1 - at] = (pair[0], pair[1]);
    }
    // The second argument is the mode, or the value where the mode is not asked for.
    let (mode, value) = match c.get(1, "mode") {
        Argument::Text(mode) => (mode.as_str(), c.number(2, "value", 0.0)),
        _ => ("constant", c.number(1, "value", 0.0)),
    };
    let source: fn(isize, isize) -> isize = match mode {
        "constant" => return x.pad(&borders, value),
        "reflect" => |at, size| (size - 1 - (at.rem_euclid((2 * size - 2).max(1)) - (size - 1)).abs()).max(0),
        "replicate" => |at, size| at.clamp(0, size - 1),
        "circular" => return circular(&x, &borders),
        other => panic!("harness: pad mode {other:?} is not known"),
    };
    borders.iter().enumerate().fold(x, |x, (axis, &border)| filled_from(&x, axis, border, source))
}

/// Negative borders cut off first; what remains is repeated around.
fn circular(x: &Tensor, borders: &[(isize, isize)]) -> Tensor {
    let cuts: Vec<(isize, isize)> =
        borders.iter().map(|(before, after)| ((*before).min(0), (*after).min(0))).collect();
    let cut = x.pad(&cuts, 0.0);
    borders.iter().enumerate().fold(cut, |x, (axis, &(before, after))| {
        filled_from(&x, axis, (before.max(0), after.max(0)), |at, size| at.rem_euclid(size))
    })
}

/// Every place along the axis takes the element that `source` names for it.
fn filled_from(
    x: &Tensor,
    axis: usize,
    (before, after): (isize, isize),
    source: fn(isize, isize) -> isize,
) -> Tensor {
    if (before, after) == (0, 0) {
        return x.clone();
    }
    let size = x.sizes()[axis] as isize;
    let ids: Vec<u32> = (-before..size + after).map(|at| source(at, size) as u32).collect();
    let count = ids.len();
    let ids = Ids::new(ids, [count], size as usize).unwrap_or_else(|error| panic!("{error}"));
    x.index_select(axis as isize, &ids)
}
