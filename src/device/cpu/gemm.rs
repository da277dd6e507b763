//! Single-precision matrix products, `out = add + scale * a · b`, as five nested blocks.
//!
//! A product of m x k and k x n matrices reads every element of `a` n times and every element of
//! `b` m times. Fast code arranges for nearly all of these reads to hit registers or a near cache:
//!
//! 1. `n` is cut into blocks of [`BLOCK_COLUMNS`]  (a packed block of `b` stays in the shared cache)
//! 2. `k` is cut into blocks of [`BLOCK_DEPTH`]    (a panel of `b` fits the first-level cache)
//! 3. `m` is cut into blocks of [`BLOCK_ROWS`]     (bounds the memory for packed `a`)
//! 4. inside a block, tasks of a few panels each   (packed `a` of a task stays in the second level)
//! 5. inside a task, one tile of `out` at a time   (held in registers while `k` streams past)
//!
//! Packing copies a block into the order in which the tiles read it: panels as wide as a tile, each
//! holding depth step after depth step. Every packing and every set of tasks is a parallel loop.
//!
//! Each element of `out` is summed by one task in the order of `k`, so results do not depend on the
//! number of threads. Products with very few rows or columns take shorter roads, see [`multiply`].
//!
//! Read [`gemm`], [`multiply`] and [`multiply_blocked`] here, then `micro_kernel.rs`.

use super::micro_kernel::{self, Dot, Epilogue, Kernel, Panel, Tile, View};
use rayon::prelude::*;
use std::cell::Cell;

/// A stack of equally shaped strided matrices inside one slice: matrix `i` starts at `offsets[i]`.
pub struct Matrices<'a> {
    pub values: &'a [f32],
    pub offsets: &'a [usize],
    pub row_stride: isize,
    pub col_stride: isize,
}

const BLOCK_COLUMNS: usize = 2048;
const BLOCK_DEPTH: usize = 384;
const BLOCK_ROWS: usize = 4096;
/// A task multiplies this many panels of `a` with this many panels of `b`.
const TASK_PANELS: (usize, usize) = (8, 12);
/// Up to this many rows (or columns) a product is thin: memory traffic, not arithmetic, rules.
const THIN: usize = 8;
/// With at most this many rows, reading `b` where it lies is cheaper than packing it.
const IN_PLACE_ROWS: usize = 64;
/// Depth blocks for reading `b` in place: few enough rows for the processor to prefetch them all.
const IN_PLACE_DEPTH: usize = 32;
/// A large depth over a small `out` is cut into pieces of this length, summed separately.
const PIECE_DEPTH: usize = 256;
const PIECE_OUTPUTS: usize = 16 * 1024;
const MOST_PIECES: usize = 16;
/// A thin product gives each task this many columns.
const THIN_COLUMNS: usize = 512;
/// Below this many multiply-adds a product is done before another thread would have woken up.
const PARALLEL_WORK: usize = 1 << 20;

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
pub fn gemm_on(
    kernel: &'static Kernel,
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
    let parallel = work.saturating_mul(count) >= PARALLEL_WORK;
    // Many products go to the threads whole, a few large ones each use all threads.
    let whole = parallel && count > 1 && work < 16 * PARALLEL_WORK;
    let out_stack = View { pointer: out.as_mut_ptr(), row_stride: n as isize, col_stride: 1 };
    let group = if whole { (PARALLEL_WORK / 4 / work.max(1)).clamp(1, count) } else { 1 };
    for_each(whole, count.div_ceil(group), |task| {
        for index in task * group..count.min((task + 1) * group) {
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
    kernel: &'static Kernel,
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
    if product.parallel && rows * columns <= PIECE_OUTPUTS && depth >= 2 * PIECE_DEPTH {
        return multiply_in_pieces(product);
    }
    if rows > THIN {
        return multiply_blocked(product);
    }
    // A thin product reads `b` once; the threads share its columns.
    let step = if product.parallel { THIN_COLUMNS } else { columns };
    for_each(product.parallel, columns.div_ceil(step), |task| {
        let first = task * step;
        let part = Product {
            parallel: false,
            columns: step.min(columns - first),
            b: product.b.from(0, first),
            epilogue: product.epilogue.from(0, first),
            ..product
        };
        if part.b.row_stride == 1 { multiply_by_dots(part) } else { multiply_blocked(part) }
    });
}

/// Sums pieces of the depth separately, for a small `out` that alone could not occupy the threads.
fn multiply_in_pieces(product: Product) {
    let Product { rows, depth, columns, epilogue, .. } = product;
    let step = depth.div_ceil((depth / PIECE_DEPTH).min(MOST_PIECES));
    let size = rows * columns;
    let mut sums = vec![0.0; depth.div_ceil(step) * size];
    for_each_chunk(true, &mut sums, size, |piece, sums| {
        let first = piece * step;
        let out = View { pointer: sums.as_mut_ptr(), row_stride: columns as isize, col_stride: 1 };
        multiply(Product {
            parallel: false,
            depth: step.min(depth - first),
            a: product.a.from(0, first),
            b: product.b.from(first, 0),
            epilogue: Epilogue { out, scale: 1.0, addend: None },
            ..product
        });
    });
    let (total, pieces) = sums.split_at_mut(size);
    for piece in pieces.chunks(size) {
        total.iter_mut().zip(piece).for_each(|(total, value)| *total += value);
    }
    for (row, total) in total.chunks(columns).enumerate() {
        for (column, &sum) in total.iter().enumerate() {
            // SAFETY: (row, column) is an element of this product's `out`, which only we hold.
            unsafe { epilogue.write(row, column, sum) };
        }
    }
}

/// A thin product whose `b` has contiguous columns: scalar products, nothing large is packed.
fn multiply_by_dots(product: Product) {
    let Product { kernel, rows, depth, columns, a, b, epilogue, .. } = product;
    // One contiguous row of `a` can stay where it is; otherwise a zero-padded copy is made.
    let short_rows = if rows == 1 { 1 } else { kernel.short_rows };
    let mut copy = Vec::new();
    for first in (0..rows).step_by(short_rows) {
        let short_count = short_rows.min(rows - first);
        let mut short = a.from(first, 0);
        if short.col_stride != 1 || short_count < short_rows {
            copy.resize(short_rows * depth, 0.0);
            let panel = Panel {
                source: short,
                depth: short_count,
                across: depth,
                width: depth,
                destination: copy.as_mut_ptr(),
            };
            // SAFETY: `short_count` rows of `depth` values exist in `a` and fit the copy.
            unsafe { kernel.pack(&panel) };
            copy[short_count * depth..].fill(0.0);
            short = View { pointer: copy.as_mut_ptr(), row_stride: depth as isize, col_stride: 1 };
        }
        let dot = Dot {
            depth,
            long: b.pointer,
            long_stride: b.col_stride,
            long_count: columns,
            short: short.pointer,
            short_stride: short.row_stride,
            short_count,
            epilogue: epilogue.from(first, 0),
        };
        // SAFETY: all rows hold `depth` contiguous values, `short` exactly the rows `dot` expects;
        // the views came from checked matrices and this part of `out` belongs to this call.
        unsafe { kernel.dot(&dot) };
    }
}

/// The general road: the outer three loops and the packing.
fn multiply_blocked(product: Product) {
    let Product { kernel, parallel, rows, depth, columns, .. } = product;
    let in_place = product.b.col_stride == 1 && rows <= IN_PLACE_ROWS;
    let deepest = if rows <= THIN { IN_PLACE_DEPTH } else { BLOCK_DEPTH };
    let block_depth = even_step(depth, deepest);
    let height = even_step(rows, kernel.rows());
    let b_size = block_depth * columns.min(BLOCK_COLUMNS).next_multiple_of(kernel.columns());
    let a_size = block_depth * rows.min(BLOCK_ROWS).next_multiple_of(height);
    with_scratch(b_size + a_size, |scratch| {
        let (b_scratch, a_scratch) = scratch.split_at_mut(b_size);
        for (column, columns) in ranges(columns, BLOCK_COLUMNS) {
            for (step, depth) in ranges(depth, block_depth) {
                let b = product.b.from(step, column);
                let b_chunk = kernel.columns() * depth;
                let b_panels = columns.div_ceil(kernel.columns());
                for_each_chunk(parallel, &mut b_scratch[..b_panels * b_chunk], b_chunk, |panel, chunk| {
                    let first = panel * kernel.columns();
                    let across = kernel.columns().min(columns - first);
                    if !(in_place && across == kernel.panel_width(across)) {
                        pack(kernel, b.from(0, first), depth, across, kernel.panel_width(across), chunk);
                    }
                });
                for (row, rows) in ranges(rows, BLOCK_ROWS / height * height) {
                    let a = product.a.from(row, step);
                    let a_chunk = height * depth;
                    let a_scratch = &mut a_scratch[..rows.div_ceil(height) * a_chunk];
                    for_each_chunk(parallel, a_scratch, a_chunk, |panel, chunk| {
                        let first = panel * height;
                        let across = height.min(rows - first);
                        pack(kernel, a.from(first, 0).transposed(), depth, across, across, chunk);
                    });
                    let epilogue = product.epilogue.from(row, column);
                    let epilogue = if step == 0 { epilogue } else { epilogue.accumulating() };
                    let block = Block {
                        product: Product { rows, depth, columns, a, b, epilogue, ..product },
                        height,
                        in_place,
                        packed_a: a_scratch,
                        packed_b: b_scratch,
                    };
                    block.multiply();
                }
            }
        }
    });
}

/// Packs one panel into `chunk`.
fn pack(kernel: &Kernel, source: View, depth: usize, across: usize, width: usize, chunk: &mut [f32]) {
    assert!(across <= width && depth * width <= chunk.len());
    let destination = chunk.as_mut_ptr();
    // SAFETY: `source` lies inside a checked matrix and the destination fits the chunk.
    unsafe { kernel.pack(&Panel { source, depth, across, width, destination }) };
}

/// A block with its operands packed.
struct Block<'a> {
    product: Product,
    /// Rows in a panel of `a`.
    height: usize,
    in_place: bool,
    packed_a: &'a [f32],
    packed_b: &'a [f32],
}

impl Block<'_> {
    /// The fourth loop: cuts the block into tasks.
    fn multiply(&self) {
        let row_panels = self.product.rows.div_ceil(self.height);
        let column_panels = self.product.columns.div_ceil(self.product.kernel.columns());
        let task_rows = even_step(row_panels, TASK_PANELS.0);
        let task_columns = even_step(column_panels, TASK_PANELS.1);
        let across = column_panels.div_ceil(task_columns);
        for_each(self.product.parallel, row_panels.div_ceil(task_rows) * across, |task| {
            let (first_row, first_column) = (task / across * task_rows, task % across * task_columns);
            for column_panel in first_column..column_panels.min(first_column + task_columns) {
                for row_panel in first_row..row_panels.min(first_row + task_rows) {
                    self.multiply_tile(row_panel, column_panel);
                }
            }
        });
    }

    /// The fifth loop's body.
    fn multiply_tile(&self, row_panel: usize, column_panel: usize) {
        let Product { kernel, rows, depth, columns, .. } = self.product;
        let (row, column) = (row_panel * self.height, column_panel * kernel.columns());
        let columns = kernel.columns().min(columns - column);
        let width = kernel.panel_width(columns);
        let packed = &self.packed_b[column * depth..][..width * depth];
        let (b, b_stride) = if self.in_place && columns == width {
            (self.product.b.at(0, column).cast_const(), self.product.b.row_stride)
        } else {
            (packed.as_ptr(), width as isize)
        };
        let rows = self.height.min(rows - row);
        let a = self.packed_a[row * depth..][..rows * depth].as_ptr();
        let epilogue = self.product.epilogue.from(row, column);
        // SAFETY: the slices just taken prove the packed panels' sizes, `b` in place and the
        // epilogue's matrices were checked by `gemm`, and no other task has this tile of `out`.
        unsafe { kernel.tile(rows, &Tile { depth, a, b, b_stride, columns, epilogue }) };
    }
}

/// The smallest step that cuts `total` into as few parts as steps of `most` would.
fn even_step(total: usize, most: usize) -> usize {
    total.div_ceil(total.div_ceil(most).max(1)).max(1)
}

/// Cuts `0..total` into (start, length) pairs; a total of zero still gives one, empty.
fn ranges(total: usize, step: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..total.max(1)).step_by(step).map(move |start| (start, step.min(total - start)))
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

/// Lends a cache-line aligned buffer of arbitrary contents.
///
/// Each thread keeps its largest one: fresh memory would cost a page fault every 1024 floats.
fn with_scratch(size: usize, body: impl FnOnce(&mut [f32])) {
    thread_local!(static KEPT: Cell<Vec<f32>> = const { Cell::new(Vec::new()) });
    const LINE: usize = 16;
    let mut buffer = KEPT.take();
    if buffer.len() < size + LINE {
        buffer.resize(size + LINE, 0.0);
    }
    let start = buffer.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    body(&mut buffer[start..][..size]);
    KEPT.set(buffer);
}

#[cfg(test)]
#[path = "gemm_tests.rs"]
mod tests;
