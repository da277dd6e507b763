//! Copies a panel of an operand into the order in which `tile.rs` reads it, depth step after depth step.
//!
//! Whatever the strides of the operand, what follows sees one layout; values contiguous along the depth
//! are transposed block by block in registers.

use super::vectors::{MOST_LANES, Vector, store_up_to};
use super::view::View;

/// The arguments of [`pack`]: a depth x `across` source, a depth x `width` destination.
pub struct Panel {
    /// Rows run along the depth, columns across the panel.
    pub source: View,
    pub depth: usize,
    pub across: usize,
    /// The destination's row length; values past `across` become zero.
    pub width: usize,
    pub destination: *mut f32,
}

/// Copies a panel into consecutive memory, one depth step after the other.
///
/// # Safety
/// The source's depth x `across` and the destination's depth x `width` elements exist, and `across` is not 0.
#[inline(always)]
pub unsafe fn pack<V: Vector>(panel: &Panel) {
    let &Panel { source, depth, across, width, destination } = panel;
    // Whole rows come first: getting ready for the other forms takes as long as copying sixteen steps.
    if source.col_stride == 1 && across == width && width.is_multiple_of(V::LANES) {
        let vectors = width / V::LANES;
        for step in 0..depth {
            let (from, to) = (source.at(step, 0), destination.wrapping_add(step * width));
            for vector in 0..vectors {
                // SAFETY: these registers make up the `width` elements of this step.
                unsafe { V::load(from.add(vector * V::LANES)).store(to.add(vector * V::LANES)) };
            }
        }
        return;
    }
    let along_depth = source.row_stride == 1 && source.col_stride != 1;
    for first in (0..width).step_by(V::LANES) {
        // SAFETY: the caller's promise.
        unsafe { if along_depth { pack_transposed::<V>(panel, first) } else { pack_rows::<V>(panel, first) } }
    }
}

/// How many steps store a whole register from column `first` on.
///
/// Where a step is narrower than a register, that is done as long as it stays inside the destination: what lies past
/// the step is the beginning of later ones, which are stored after it. A masked store takes a dozen cycles on AMD's
/// processors before AVX-512.
#[inline(always)]
fn whole_stores<V: Vector>(panel: &Panel, first: usize) -> usize {
    let &Panel { depth, width, .. } = panel;
    if width - first >= V::LANES {
        depth
    } else if width < V::LANES && depth * width >= V::LANES {
        (depth * width - V::LANES) / width + 1
    } else {
        0
    }
}

/// Packs up to `LANES` columns from `first` on, row after row.
#[inline(always)]
unsafe fn pack_rows<V: Vector>(panel: &Panel, first: usize) {
    let &Panel { source, depth, across, width, destination } = panel;
    let present = across.saturating_sub(first).min(V::LANES);
    let whole_stores = whole_stores::<V>(panel, first);
    // SAFETY: all indices stay below the extents `pack`'s caller vouches for.
    unsafe {
        let to = destination.add(first);
        for step in 0..depth {
            let from = source.at(step, first);
            let row = if source.col_stride == 1 {
                V::load_first(from, present)
            } else {
                let mut lanes = [0.0; MOST_LANES];
                for (lane, value) in lanes[..present].iter_mut().enumerate() {
                    *value = *source.at(step, first + lane);
                }
                V::load(lanes.as_ptr())
            };
            let lanes = if step < whole_stores { V::LANES } else { width - first };
            store_up_to(row, to.add(step * width), lanes);
        }
    }
}

/// Packs up to `LANES` columns from `first` on whose values are contiguous along the depth.
#[inline(always)]
unsafe fn pack_transposed<V: Vector>(panel: &Panel, first: usize) {
    let &Panel { source, depth, across, width, destination } = panel;
    // SAFETY: lanes past the last column repeat it until they become zeros, and the last steps are read from a copy,
    // so all reads stay inside the extents `pack`'s caller vouches for.
    unsafe {
        let mut columns = [source.at(0, first).cast_const(); MOST_LANES];
        for (lane, column) in columns.iter_mut().enumerate() {
            *column = source.at(0, (first + lane).min(across - 1));
        }
        let whole_stores = whole_stores::<V>(panel, first);
        let store = |register: V, step: usize| {
            let lanes = if step < whole_stores { V::LANES } else { width - first };
            store_up_to(register, destination.add(step * width + first), lanes);
        };
        let unmasked = whole_stores - whole_stores % 4;
        for start in (0..unmasked).step_by(4) {
            let to = destination.add(start * width + first);
            for (step, register) in four_steps::<V>(&columns, start).into_iter().enumerate() {
                register.store(to.add(step * width));
            }
        }
        let whole = depth - depth % 4;
        for start in (unmasked..whole).step_by(4) {
            for (step, register) in four_steps::<V>(&columns, start).into_iter().enumerate() {
                store(register, start + step);
            }
        }
        if whole < depth {
            let mut rest = [[0.0; 4]; MOST_LANES];
            for (rest, column) in rest.iter_mut().zip(&columns) {
                rest.as_mut_ptr().copy_from_nonoverlapping(column.add(whole), depth - whole);
            }
            let rest = rest.each_ref().map(|rest| rest.as_ptr());
            for (step, register) in four_steps::<V>(&rest, 0).into_iter().take(depth - whole).enumerate() {
                store(register, whole + step);
            }
        }
        let padding = across.max(first)..width.min(first + V::LANES);
        for column in padding {
            (0..depth).for_each(|step| *destination.add(step * width + column) = 0.0);
        }
    }
}

/// Reads four steps of every column, and returns each step in a register.
///
/// A register reads four values of every fourth column, so that transposing the quads of four registers
/// finishes the work, and no value has to cross from one part of a register to another.
#[inline(always)]
unsafe fn four_steps<V: Vector>(columns: &[*const f32; MOST_LANES], start: usize) -> [V; 4] {
    // SAFETY: the caller vouches for four values of every column from `start` on.
    unsafe {
        let mut block = [V::splat(0.0); 4];
        for (row, register) in block.iter_mut().enumerate() {
            let column = |quad: usize| columns[(4 * quad + row) % V::LANES].add(start);
            *register = V::load_quads([column(0), column(1), column(2), column(3)]);
        }
        V::transpose_quads(block)
    }
}
