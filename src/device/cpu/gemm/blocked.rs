//! The general road of a product: five nested loops around the inner ones of `micro_kernel.rs`.
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
//! A shallow product waits for the memory of `out`, while all of `b` is near. There the last two loops change places:
//! each panel of `a` meets all panels of `b`, and `out` is written row after row. The innermost of the five is one call
//! of the kernel either way, for a whole column or row of tiles.
//!
//! Packing copies a panel into the order in which tiles read it, depth step after depth step.
//! Each element of `out` is summed by one task in the order of `k`.

use std::ops::Range;

use super::micro_kernel::MicroKernel;
use super::pack::Panel;
use super::tile::{Ahead, MEMORY_STEPS, Next, ROWS_IN_PLACE, Strip, Tile, Tiles};
use super::view::{View, prefetch};
use super::{Product, THIN, even_step, for_each, for_each_chunk, ranges};
use crate::device::cpu::memory::with_scratch;

const BLOCK_COLUMNS: usize = 2048;
const BLOCK_DEPTH: usize = 384;
/// A task takes this many panels of `a`, and there should be this many tasks.
const TASK_PANELS: usize = 8;
const LEAST_TASKS: usize = 16;
/// Blocks of the depth for which `b` is packed at once: more make the threads wait for each other less often, but
/// every task reads all that is packed, which should stay in the outer cache.
const PACKED_BLOCKS: usize = 2;
/// Panels of `b` packed by one task, and depth steps packed before going on to the next panel.
const PACKED_PANELS: usize = 4;
const PACKED_STEPS: usize = 16;
/// With at most this many rows, reading `b` where it lies is cheaper than packing it; `a` likewise with at most
/// as many columns.
const IN_PLACE: usize = 64;
/// Depth blocks for reading `b` in place: few enough rows for the processor to prefetch them all.
const IN_PLACE_DEPTH: usize = 32;

/// The general road: the first loop, and the packing of `b`.
pub fn multiply_blocked(product: Product) {
    let Product { kernel, parallel, rows, depth, columns, b, .. } = product;
    let in_place = b.col_stride == 1 && rows <= IN_PLACE;
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
pub fn pack_panels(
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
        // The next steps' lines are asked for, since the rows they lie in may be far apart.
        let next_steps = steps.min(depth - step - depth_part);
        source.from(step + steps, 0).lines(next_steps, across).for_each(prefetch);
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
        let Product { kernel, parallel, rows, depth, columns, a, .. } = self.product;
        // Rows in one piece are worth lower tiles, which read them in place; rows far apart are packed faster.
        let in_one_piece = [a.row_stride, a.col_stride] == [depth as isize, 1];
        let most_rows = if in_one_piece && columns <= IN_PLACE { ROWS_IN_PLACE } else { kernel.rows() };
        let height = even_step(rows, most_rows.min(kernel.rows()));
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
            let column = task % column_tasks * task_panels * kernel.columns();
            let columns = column..columns.min(column + task_panels * kernel.columns());
            self.multiply_rows(row, task_rows.min(rows - row), height, columns);
        });
    }

    /// The other three loops: over parts of the depth, panels of `b`, and panels of `a`.
    fn multiply_rows(&self, first: usize, rows: usize, height: usize, columns: Range<usize>) {
        let Product { kernel, depth, a, .. } = self.product;
        let width = kernel.columns();
        let in_place = self.product.columns <= IN_PLACE && (a.row_stride == 1 || height <= ROWS_IN_PLACE);
        with_scratch(if in_place { 0 } else { rows * self.block_depth }, |packed_a| {
            for (step, depth) in ranges(depth, self.block_depth) {
                let a = a.from(first, step);
                if !in_place {
                    pack_panels(kernel, a.transposed(), [depth, rows, height], |across| across, packed_a);
                }
                // While there is arithmetic to hide its way from memory, ask for what the next task will pack.
                let next_rows = if in_place { 0 } else { rows.min(self.product.rows - first - rows) };
                let lines = a.from(rows, 0).lines(next_rows, depth);
                let tiles = rows.div_ceil(height) * columns.len().div_ceil(width);
                let mut ahead = Ahead { lines_a_tile: lines.len().div_ceil(tiles), lines };
                let packed_a = (!in_place).then_some(&*packed_a);
                let mut multiply = |rows: Run, columns: Run| {
                    let (a, a_step) = strip_of_a(a, packed_a, &rows, depth);
                    let (b, b_step) = self.strip_of_b(&columns, step..step + depth);
                    let epilogue = self.product.epilogue.from(first + rows.start, columns.start);
                    let epilogue = if step == 0 { epilogue } else { epilogue.accumulating() };
                    let tile = Tile { depth, a, b, columns: columns.size, epilogue };
                    let next = match columns.count {
                        1 => Next { a: a_step, b: 0, rows: rows.size, columns: 0 },
                        _ => Next { a: 0, b: b_step, rows: 0, columns: columns.size },
                    };
                    let tiles = Tiles { tile, count: rows.count * columns.count, next, ahead: &mut ahead };
                    // SAFETY: the lengths of the packed panels were just checked; operands in place and the
                    // epilogue's matrices lie inside checked ones; no other task has these tiles of `out`.
                    unsafe { kernel.tiles(rows.size, tiles) };
                };
                if depth <= MEMORY_STEPS {
                    for rows in one_by_one(0..rows, height) {
                        runs(columns.clone(), width).for_each(|columns| multiply(rows, columns));
                    }
                } else {
                    for columns in one_by_one(columns.clone(), width) {
                        runs(0..rows, height).for_each(|rows| multiply(rows, columns));
                    }
                }
            }
        });
    }

    /// Where some panels of `b` begin at a part of the depth, and how far it is from one to the next.
    fn strip_of_b(&self, columns: &Run, steps: Range<usize>) -> (Strip, isize) {
        let Product { kernel, depth, b, .. } = self.product;
        if self.in_place && columns.size == kernel.columns() {
            let strip = Strip { pointer: b.at(steps.start, columns.start), stride: b.row_stride, across: 1 };
            return (strip, columns.size as isize);
        }
        let width = kernel.panel_width(columns.size);
        let last = (columns.count - 1) * width * depth;
        let panels =
            &self.packed_b[columns.start * depth + steps.start * width..][..last + width * steps.len()];
        (Strip { pointer: panels.as_ptr(), stride: width as isize, across: 1 }, (width * depth) as isize)
    }
}

/// Where some panels of `a` begin, packed or in place, and how far it is from one to the next.
fn strip_of_a(a: View, packed_a: Option<&[f32]>, rows: &Run, depth: usize) -> (Strip, isize) {
    let Some(packed_a) = packed_a else {
        let (stride, across) = (a.col_stride, a.row_stride);
        return (Strip { pointer: a.at(rows.start, 0), stride, across }, rows.size as isize * across);
    };
    let panels = &packed_a[rows.start * depth..][..rows.count * rows.size * depth];
    let strip = Strip { pointer: panels.as_ptr(), stride: rows.size as isize, across: 1 };
    (strip, (rows.size * depth) as isize)
}

/// Panels side by side: `count` of them, each of `size` rows or columns.
#[derive(Clone, Copy)]
struct Run {
    start: usize,
    size: usize,
    count: usize,
}

/// Cuts a range into all panels that are whole, and what is left.
fn runs(range: Range<usize>, size: usize) -> impl Iterator<Item = Run> {
    let (count, rest) = (range.len() / size, range.len() % size);
    let whole = Run { start: range.start, size, count };
    let last = Run { start: range.end - rest, size: rest, count: 1 };
    [whole, last].into_iter().filter(|run| run.size * run.count > 0)
}

/// Cuts a range into its panels.
fn one_by_one(range: Range<usize>, size: usize) -> impl Iterator<Item = Run> {
    let start = range.start;
    ranges(range.len(), size).map(move |(first, size)| Run { start: start + first, size, count: 1 })
}
