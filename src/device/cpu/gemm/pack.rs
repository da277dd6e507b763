//! Copies a panel of an operand into the order in which `tile.rs` reads it, depth step after depth step.
//!
//! Whatever the strides of the operand, what follows sees one layout; values contiguous along the depth
//! are transposed block by block in registers.

use super::vectors::{MOST_LANES, Vector, load_up_to, store_up_to};
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
    let &Panel { source, depth, across, width, .. } = panel;
    // SAFETY: all indices stay below the extents the caller vouches for.
    unsafe {
        if source.row_stride == 1 && source.col_stride != 1 {
            for first in (0..width).step_by(V::LANES) {
                pack_transposed::<V>(panel, first);
            }
            return;
        }
        for step in 0..depth {
            let from = source.at(step, 0);
            for first in (0..width).step_by(V::LANES) {
                let present = across.saturating_sub(first).min(V::LANES);
                let row = if source.col_stride == 1 {
                    load_up_to::<V>(from.wrapping_add(first), present)
                } else {
                    let mut lanes = [0.0; MOST_LANES];
                    for (lane, value) in lanes[..present].iter_mut().enumerate() {
                        *value = *source.at(step, first + lane);
                    }
                    V::load(lanes.as_ptr())
                };
                store_step(row, panel, step, first);
            }
        }
    }
}

/// Stores a register's part of a depth step, from column `first` on.
///
/// Where a step is narrower than a register, the whole register is stored as long as it stays inside the
/// destination: what lies past the step is the beginning of later ones, which are stored after it. A masked store
/// takes a dozen cycles on AMD's processors before AVX-512.
///
/// # Safety
/// As for [`pack`]; narrow steps are stored in ascending order.
#[inline(always)]
unsafe fn store_step<V: Vector>(register: V, panel: &Panel, step: usize, first: usize) {
    let &Panel { depth, width, destination, .. } = panel;
    // SAFETY: of the destination's depth x width elements only existing ones are touched.
    unsafe {
        let to = destination.add(step * width + first);
        if width < V::LANES && step * width + V::LANES <= depth * width {
            register.store(to);
        } else {
            store_up_to(register, to, width - first);
        }
    }
}

/// Packs up to `LANES` columns from `first` on whose values are contiguous along the depth.
#[inline(always)]
unsafe fn pack_transposed<V: Vector>(panel: &Panel, first: usize) {
    let &Panel { source, depth, across, .. } = panel;
    // SAFETY: lanes past the last column repeat it until they become zeros, and the last steps are read from a copy,
    // so all reads stay inside the extents `pack`'s caller vouches for.
    unsafe {
        let mut columns = [source.at(0, first).cast_const(); MOST_LANES];
        for (lane, column) in columns.iter_mut().enumerate() {
            *column = source.at(0, (first + lane).min(across - 1));
        }
        let whole = depth - depth % 4;
        for start in (0..whole).step_by(4) {
            for (step, register) in four_steps::<V>(&columns, start).into_iter().enumerate() {
                store_step(register, panel, start + step, first);
            }
        }
        if whole < depth {
            let mut rest = [[0.0; 4]; MOST_LANES];
            for (rest, column) in rest.iter_mut().zip(&columns) {
                rest.as_mut_ptr().copy_from_nonoverlapping(column.add(whole), depth - whole);
            }
            let rest = rest.each_ref().map(|rest| rest.as_ptr());
            for (step, register) in four_steps::<V>(&rest, 0).into_iter().take(depth - whole).enumerate() {
                store_step(register, panel, whole + step, first);
            }
        }
        let padding = across.max(first)..panel.width.min(first + V::LANES);
        for column in padding {
            (0..depth).for_each(|step| *panel.destination.add(step * panel.width + column) = 0.0);
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
