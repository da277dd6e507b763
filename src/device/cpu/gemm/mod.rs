//! Single-precision matrix products, `out = add + scale * a · b`, written for the processor's vectors.
//!
//! [`gemm`] checks its operands and hands each product to [`multiply`], which chooses a road by shape:
//! the five nested loops of `blocked.rs` for large products, the shorter ones of `small.rs` for an `out`
//! of few elements. All roads end in the three inner loops of `micro_kernel.rs`.
//!
//! How a sum is cut depends on shapes alone, so results do not depend on the number of threads.
//! Read next: `blocked.rs`, then `micro_kernel.rs`.

mod blocked;
mod dot;
mod micro_kernel;
mod pack;
mod small;
#[cfg(test)]
mod tests;
mod tile;
mod vectors;
mod view;

use blocked::multiply_blocked;
use micro_kernel::MicroKernel;
use rayon::prelude::*;
use small::{MOST_OUTPUTS, PIECE_DEPTH, multiply_by_dots, multiply_in_pieces};
use view::{Epilogue, View, prefetch};

/// A stack of equally shaped strided matrices inside one slice: matrix `i` starts at `offsets[i]`.
pub struct Matrices<'a> {
    pub values: &'a [f32],
    pub offsets: &'a [usize],
    pub row_stride: isize,
    pub col_stride: isize,
}

/// Up to this many rows (or columns) a product is thin: memory traffic, not arithmetic, rules.
const THIN: usize = 8;
/// A thin product gives each task about this many numbers of its large operand.
const THIN_TASK: usize = 1 << 16;
/// So many columns are enough for the threads to share, where each is read on its own.
const SHARED_COLUMNS: usize = 64;
/// Below this many multiply-adds a product is done before another thread would have woken up.
const PARALLEL_WORK: usize = 1 << 20;
/// The same for the numbers that a thin product reads.
const PARALLEL_READS: usize = 1 << 18;
/// The operands of the next product of a stack are asked for while one is computed, if they hold at most so many
/// numbers: they have to wait in the second-level cache.
const ASKED_AHEAD: usize = 1 << 14;

/// `out[i] = add[i] + scale * a[i] · b[i]` for every matrix `i` of the stacks.
///
/// `a` holds m x k matrices, `b` k x n, `add` m x n, and `out` one contiguous m x n matrix after the
/// other, whatever it contained. Strides may be negative or zero (a bias has row stride 0).
///
/// # Panics
/// If the stacks differ in number, `out` has the wrong length, or an element lies outside `values`.
#[allow(clippy::too_many_arguments)] // the usual arguments of a matrix product
pub fn gemm(
    m: usize,
    k: usize,
    n: usize,
    a: &Matrices,
    b: &Matrices,
    scale: f32,
    add: Option<&Matrices>,
    out: &mut [f32],
) {
    gemm_on(micro_kernel::best(), [m, k, n], [a, b], scale, add, out);
}

/// [`gemm`] with a given kernel, so that the tests can reach all of them.
pub(crate) fn gemm_on(
    kernel: &'static MicroKernel,
    [m, k, n]: [usize; 3],
    [a, b]: [&Matrices; 2],
    scale: f32,
    add: Option<&Matrices>,
    out: &mut [f32],
) {
    let count = a.offsets.len();
    assert_eq!(b.offsets.len(), count, "as many right as left matrices");
    assert_eq!(Some(out.len()), count.checked_mul(m).and_then(|size| size.checked_mul(n)));
    if out.is_empty() {
        return;
    }
    a.assert_inside(m, k);
    b.assert_inside(k, n);
    if let Some(add) = add {
        assert_eq!(add.offsets.len(), count, "as many added as multiplied matrices");
        add.assert_inside(m, n);
    }
    let work = m.saturating_mul(k).saturating_mul(n);
    let thin = count == 1 && m.min(n) <= THIN && k.saturating_mul(m.max(n)) >= PARALLEL_READS;
    let parallel = thin || work.saturating_mul(count) >= PARALLEL_WORK;
    // Many products go to the threads whole, a few large ones each use all threads.
    let whole = parallel && count > 1 && work < 16 * PARALLEL_WORK;
    let out_stack = View { pointer: out.as_mut_ptr(), row_stride: n as isize, col_stride: 1 };
    let group = if whole { (PARALLEL_WORK / 4 / work.max(1)).clamp(1, count) } else { 1 };
    let ask_ahead = count > 1 && k.saturating_mul(m.saturating_add(n)) <= ASKED_AHEAD;
    for_each(whole, count.div_ceil(group), |task| {
        for index in task * group..count.min((task + 1) * group) {
            if ask_ahead && index + 1 < count {
                a.view(index + 1).lines(m, k).for_each(prefetch);
                b.view(index + 1).lines(k, n).for_each(prefetch);
            }
            multiply(Product {
                kernel,
                parallel: parallel && !whole,
                rows: m,
                depth: k,
                columns: n,
                a: a.view(index),
                b: b.view(index),
                epilogue: Epilogue {
                    out: out_stack.from(index * m, 0),
                    scale,
                    addend: add.map(|add| add.view(index)),
                },
            });
        }
    });
}

/// What a product is added to.
pub enum Addend<'a> {
    Nothing,
    Matrix(Matrices<'a>),
    /// What `out` holds.
    Out,
}

/// One product, the first of each stack, on the calling thread.
///
/// # Panics
/// As [`gemm`].
pub fn gemm_here(
    [m, k, n]: [usize; 3],
    a: &Matrices,
    b: &Matrices,
    scale: f32,
    addend: Addend,
    out: &mut [f32],
) {
    assert_eq!(Some(out.len()), m.checked_mul(n));
    if out.is_empty() {
        return;
    }
    a.assert_inside(m, k);
    b.assert_inside(k, n);
    let out = View { pointer: out.as_mut_ptr(), row_stride: n as isize, col_stride: 1 };
    let addend = match addend {
        Addend::Nothing => None,
        Addend::Out => Some(out),
        Addend::Matrix(add) => {
            add.assert_inside(m, n);
            Some(add.view(0))
        }
    };
    let epilogue = Epilogue { out, scale, addend };
    let (kernel, a, b) = (micro_kernel::best(), a.view(0), b.view(0));
    multiply(Product { kernel, parallel: false, rows: m, depth: k, columns: n, a, b, epilogue });
}

impl Matrices<'_> {
    fn view(&self, index: usize) -> View {
        View {
            pointer: self.values.as_ptr().wrapping_add(self.offsets[index]).cast_mut(),
            row_stride: self.row_stride,
            col_stride: self.col_stride,
        }
    }

    /// Panics unless all elements of all `rows` x `columns` matrices lie inside `values`; the
    /// soundness of everything below rests on this check.
    fn assert_inside(&self, rows: usize, columns: usize) {
        if rows == 0 || columns == 0 {
            return;
        }
        let (mut lowest, mut highest) = (0i128, 0i128);
        for (extent, stride) in [(rows, self.row_stride), (columns, self.col_stride)] {
            let reach = (extent - 1) as i128 * stride as i128;
            lowest += reach.min(0);
            highest += reach.max(0);
        }
        let first = self.offsets.iter().min().map_or(0, |&offset| offset as i128);
        let last = self.offsets.iter().max().map_or(0, |&offset| offset as i128);
        let inside = first + lowest >= 0 && last + highest < self.values.len() as i128;
        assert!(inside, "a {rows} x {columns} matrix reaches outside its values");
    }
}

/// One product, or a part of one.
#[derive(Clone, Copy)]
struct Product {
    kernel: &'static MicroKernel,
    parallel: bool,
    rows: usize,
    depth: usize,
    columns: usize,
    a: View,
    b: View,
    epilogue: Epilogue,
}

impl Product {
    /// The same product as `outᵀ = addᵀ + scale * bᵀ · aᵀ`.
    fn transposed(self) -> Product {
        Product {
            rows: self.columns,
            columns: self.rows,
            a: self.b.transposed(),
            b: self.a.transposed(),
            epilogue: self.epilogue.transposed(),
            ..self
        }
    }
}

/// Chooses the road for one product. The choice depends on nothing but shapes and strides.
fn multiply(product: Product) {
    let Product { rows, depth, columns, .. } = product;
    if columns < rows && columns <= THIN {
        return multiply(product.transposed());
    }
    let small = rows * columns <= MOST_OUTPUTS;
    if depth == 0 {
        return write_sums(&product.epilogue, columns, &vec![0.0; rows * columns]);
    }
    let by_dots = rows <= THIN && product.b.row_stride == 1;
    if product.parallel && small && depth >= 2 * PIECE_DEPTH && !(by_dots && columns >= SHARED_COLUMNS) {
        return multiply_in_pieces(product);
    }
    if rows > THIN {
        return multiply_blocked(product);
    }
    // A thin product reads `b` once; the threads share its columns.
    let step = match product.parallel {
        true => (THIN_TASK / depth).max(1).next_multiple_of(product.kernel.columns()),
        false => columns,
    };
    for_each(product.parallel, columns.div_ceil(step), |task| {
        let first = task * step;
        let part = Product {
            parallel: false,
            columns: step.min(columns - first),
            b: product.b.from(0, first),
            epilogue: product.epilogue.from(0, first),
            ..product
        };
        if by_dots { multiply_by_dots(part) } else { multiply_blocked(part) }
    });
}

/// Finishes the elements of a whole product from their sums.
fn write_sums(epilogue: &Epilogue, columns: usize, sums: &[f32]) {
    // SAFETY: these are elements of this product's `out`, which only we hold.
    unsafe { epilogue.write_rows(sums, columns, columns) };
}

/// The smallest step that cuts `total` into as few parts as steps of `most` would.
fn even_step(total: usize, most: usize) -> usize {
    total.div_ceil(total.div_ceil(most).max(1)).max(1)
}

/// Cuts `0..total` into (start, length) pairs.
fn ranges(total: usize, step: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..total).step_by(step).map(move |start| (start, step.min(total - start)))
}

fn for_each(parallel: bool, count: usize, body: impl Fn(usize) + Sync + Send) {
    if parallel && count > 1 {
        (0..count).into_par_iter().with_max_len(1).for_each(body);
    } else {
        (0..count).for_each(body);
    }
}

fn for_each_chunk(
    parallel: bool,
    values: &mut [f32],
    size: usize,
    body: impl Fn(usize, &mut [f32]) + Sync + Send,
) {
    let body = |(index, chunk): (usize, &mut [f32])| body(index, chunk);
    if parallel && values.len() > size {
        values.par_chunks_mut(size).enumerate().with_max_len(1).for_each(body);
    } else if !values.is_empty() {
        values.chunks_mut(size).enumerate().for_each(body);
    }
}
