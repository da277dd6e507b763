//! Single-precision matrix products, `out = add + scale * a · b`, as five nested loops.
//!
//! A product of m x k and k x n matrices reads every element of `a` n times and every element of
//! `b` m times. Fast code arranges for nearly all of these reads to hit registers or a near cache:
//!
//! 1. `n` is cut into blocks of [`BLOCK_COLUMNS`]; that part of `b` is packed once, for all threads;
//! 2. `m` is cut into tasks of up to [`TASK_PANELS`] tiles' heights, which the threads share;
//! 3. `k` is cut into parts of [`BLOCK_DEPTH`]; a task packs that part of its rows of `a`, which
//!    then stays in the core's second-level cache;
//! 4. one panel of `b` after the other, as wide as a tile, stays in the first-level cache
//! 5. while it meets the task's panels of `a`: each time one tile of `out` is held in registers.
//!
//! Packing copies a panel into the order in which tiles read it, depth step after depth step.
//!
//! Each element of `out` is summed by one task in the order of `k`, so results do not depend on the
//! number of threads. Products with very few rows or columns take shorter roads, see [`multiply`].
//!
//! Read [`gemm`], [`multiply`] and [`multiply_blocked`] here, then `micro_kernel.rs`.

use super::memory::with_scratch;
use super::micro_kernel::{self, Dot, Epilogue, MicroKernel, Panel, Tile, View};
use rayon::prelude::*;
use std::ops::Range;

/// A stack of equally shaped strided matrices inside one slice: matrix `i` starts at `offsets[i]`.
pub struct Matrices<'a> {
    pub values: &'a [f32],
    pub offsets: &'a [usize],
    pub row_stride: isize,
    pub col_stride: isize,
}

const BLOCK_COLUMNS: usize = 2048;
const BLOCK_DEPTH: usize = 384;
/// A task takes this many panels of `a`, and there should be this many tasks.
const TASK_PANELS: usize = 8;
const LEAST_TASKS: usize = 16;
/// Blocks of the depth for which `b` is packed at once, to wait for each other less often.
const PACKED_BLOCKS: usize = 6;
/// Panels of `b` packed by one task, and depth steps packed before going on to the next panel.
const PACKED_PANELS: usize = 4;
const PACKED_STEPS: usize = 16;
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
    let small = rows * columns <= PIECE_OUTPUTS;
    if depth == 0 {
        return write_sums(&product.epilogue, columns, &vec![0.0; rows * columns]);
    }
    if product.parallel && small && depth >= 2 * PIECE_DEPTH {
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
    let step = even_step(depth, PIECE_DEPTH.max(depth.div_ceil(MOST_PIECES)));
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
    write_sums(&epilogue, columns, total);
}

/// Finishes the elements of a whole product from their sums.
fn write_sums(epilogue: &Epilogue, columns: usize, sums: &[f32]) {
    for (row, sums) in sums.chunks(columns).enumerate() {
        for (column, &sum) in sums.iter().enumerate() {
            // SAFETY: (row, column) is an element of this product's `out`, which only we hold.
            unsafe { epilogue.write(row, column, sum) };
        }
    }
}

/// A thin product whose `b` has contiguous columns: scalar products, nothing large is packed.
fn multiply_by_dots(product: Product) {
    let Product { kernel, rows, depth, columns, a, b, epilogue, .. } = product;
    let short_rows = if rows == 1 { 1 } else { kernel.short_rows };
    for first in (0..rows).step_by(short_rows) {
        let short_count = short_rows.min(rows - first);
        // The rows stand as they are where they are complete and contiguous; else a copy is.
        let complete = short_count == short_rows && a.col_stride == 1;
        let copied = if complete { 0 } else { short_rows * depth };
        with_scratch(copied, |copy| {
            let mut short = a.from(first, 0);
            if !complete {
                copy.fill(0.0);
                pack_panels(kernel, short, [short_count, depth, depth], |across| across, copy);
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
        });
    }
}

/// The general road: the first loop, and the packing of `b`.
fn multiply_blocked(product: Product) {
    let Product { kernel, parallel, rows, depth, columns, b, .. } = product;
    let in_place = b.col_stride == 1 && rows <= IN_PLACE_ROWS;
    let block_depth = even_step(depth, if rows <= THIN { IN_PLACE_DEPTH } else { BLOCK_DEPTH });
    let packed_depth = depth.min(PACKED_BLOCKS * block_depth);
    let packed_columns = columns.min(BLOCK_COLUMNS).next_multiple_of(kernel.columns());
    with_scratch(packed_depth * packed_columns, |packed_b| {
        for (column, columns) in ranges(columns, BLOCK_COLUMNS) {
            for (step, depth) in ranges(depth, packed_depth) {
                let epilogue = product.epilogue.from(0, column);
                let product = Product {
                    depth,
                    columns,
                    a: product.a.from(0, step),
                    b: b.from(step, column),
                    epilogue: if step == 0 { epilogue } else { epilogue.accumulating() },
                    ..product
                };
                let size = columns.next_multiple_of(kernel.columns()) * depth;
                let packed_b = &mut packed_b[..size];
                let strip = PACKED_PANELS * kernel.columns();
                for_each_chunk(parallel, packed_b, strip * depth, |task, packed_b| {
                    let columns = task * strip..columns.min((task + 1) * strip);
                    pack_b(&product, in_place, columns, packed_b);
                });
                Block { product, block_depth, in_place, packed_b }.multiply();
            }
        }
    });
}

/// Packs some columns of `b`; of those read in place only a last panel that is not full.
fn pack_b(product: &Product, in_place: bool, columns: Range<usize>, packed_b: &mut [f32]) {
    let Product { kernel, depth, b, .. } = *product;
    let panel = kernel.columns();
    let skip = if in_place { columns.len() / panel * panel } else { 0 };
    let source = b.from(0, columns.start + skip);
    let shape = [depth, columns.len() - skip, panel];
    pack_panels(kernel, source, shape, |across| kernel.panel_width(across), &mut packed_b[skip * depth..]);
}

/// Packs a depth x `across` source into panels of `panel` columns, one after the other.
///
/// A last panel of fewer columns is padded with zeros to the width `padded` says.
fn pack_panels(
    kernel: &MicroKernel,
    source: View,
    [depth, across, panel]: [usize; 3],
    padded: impl Fn(usize) -> usize,
    packed: &mut [f32],
) {
    // Rows of several panels lie side by side in memory: a few depth steps at a time keep the
    // reads close together. Values contiguous along the depth are best read to the end.
    let steps = if source.row_stride == 1 { depth } else { PACKED_STEPS };
    for (step, depth_part) in ranges(depth, steps.max(1)) {
        for (first, across) in ranges(across, panel) {
            let width = padded(across);
            let destination = &mut packed[first * depth + step * width..][..depth_part * width];
            let destination = destination.as_mut_ptr();
            let source = source.from(step, first);
            let panel = Panel { source, depth: depth_part, across, width, destination };
            // SAFETY: `source` lies inside a checked matrix; the destination was just checked.
            unsafe { kernel.pack(&panel) };
        }
    }
}

/// A block of the product for which `b` is packed, except where it is read in place.
struct Block<'a> {
    product: Product,
    block_depth: usize,
    in_place: bool,
    packed_b: &'a [f32],
}

impl Block<'_> {
    /// The second loop: tasks of some rows, and of some columns where the rows make too few tasks.
    fn multiply(&self) {
        let Product { kernel, parallel, rows, columns, .. } = self.product;
        let height = even_step(rows, kernel.rows());
        let row_panels = rows.div_ceil(height);
        let most_panels = (row_panels / LEAST_TASKS).clamp(3, TASK_PANELS);
        let task_rows = height * even_step(row_panels, most_panels);
        let row_tasks = rows.div_ceil(task_rows);
        let column_panels = columns.div_ceil(kernel.columns());
        let column_tasks = if parallel && row_tasks < LEAST_TASKS / 4 { LEAST_TASKS / row_tasks } else { 1 };
        let task_panels = even_step(column_panels, column_panels.div_ceil(column_tasks).max(TASK_PANELS / 2));
        let column_tasks = column_panels.div_ceil(task_panels);
        for_each(parallel, row_tasks * column_tasks, |task| {
            let row = task / column_tasks * task_rows;
            let first_panel = task % column_tasks * task_panels;
            let panels = first_panel..column_panels.min(first_panel + task_panels);
            self.multiply_rows(row, task_rows.min(rows - row), height, panels);
        });
    }

    /// The other three loops: over parts of the depth, panels of `b`, and packed panels of `a`.
    fn multiply_rows(&self, first: usize, rows: usize, height: usize, b_panels: Range<usize>) {
        let Product { kernel, depth, a, .. } = self.product;
        with_scratch(rows * self.block_depth, |packed_a| {
            for (step, depth) in ranges(depth, self.block_depth) {
                let source = a.from(first, step).transposed();
                pack_panels(kernel, source, [depth, rows, height], |across| across, packed_a);
                for b_panel in b_panels.clone() {
                    for (row, rows) in ranges(rows, height) {
                        let packed_a = &packed_a[row * depth..][..rows * depth];
                        self.multiply_tile(packed_a, first + row, rows, step, b_panel);
                    }
                }
            }
        });
    }

    /// Multiplies a packed panel of `a` that starts at (`row`, `step`) with a panel of `b`.
    fn multiply_tile(&self, packed_a: &[f32], row: usize, rows: usize, step: usize, b_panel: usize) {
        let Product { kernel, columns, b, epilogue, .. } = self.product;
        let depth = packed_a.len() / rows;
        let column = b_panel * kernel.columns();
        let columns = kernel.columns().min(columns - column);
        let width = kernel.panel_width(columns);
        let (b, b_stride) = if self.in_place && columns == kernel.columns() {
            (b.at(step, column).cast_const(), b.row_stride)
        } else {
            let panel = &self.packed_b[column * self.product.depth + step * width..];
            (panel[..width * depth].as_ptr(), width as isize)
        };
        let epilogue = epilogue.from(row, column);
        let epilogue = if step == 0 { epilogue } else { epilogue.accumulating() };
        let tile = Tile { depth, a: packed_a.as_ptr(), b, b_stride, columns, epilogue };
        // SAFETY: the lengths of the packed panels were just checked; `b` in place and the
        // epilogue's matrices lie inside checked ones; no other task has this tile of `out`.
        unsafe { kernel.tile(rows, &tile) };
    }
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

#[cfg(test)]
#[path = "gemm_tests.rs"]
mod tests;
