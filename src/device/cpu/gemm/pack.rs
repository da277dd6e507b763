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
/// The source's depth x `across` and the destination's depth x `width` elements exist.
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
///
/// Reads square blocks of registers and transposes each with repeated [`Vector::zip`]: every round
/// moves the top bit of the row number to the bottom of the lane number, so after log2(LANES)
/// rounds rows and lanes have changed places.
#[inline(always)]
unsafe fn pack_transposed<V: Vector>(panel: &Panel, first: usize) {
    let &Panel { source, depth, across, .. } = panel;
    let present = across.saturating_sub(first).min(V::LANES);
    // SAFETY: `present` and `steps` are clipped to the extents `pack`'s caller vouches for.
    unsafe {
        for start in (0..depth).step_by(V::LANES) {
            let steps = (depth - start).min(V::LANES);
            let mut block = [V::splat(0.0); MOST_LANES];
            for (lane, register) in block.iter_mut().take(V::LANES).enumerate() {
                if lane < present {
                    *register = load_up_to::<V>(source.at(start, first + lane), steps);
                }
            }
            let mut rounds = V::LANES;
            while rounds > 1 {
                let before = block;
                for pair in 0..V::LANES / 2 {
                    let (low, high) = before[pair].zip(before[pair + V::LANES / 2]);
                    (block[2 * pair], block[2 * pair + 1]) = (low, high);
                }
                rounds /= 2;
            }
            for (step, &register) in block.iter().take(V::LANES).enumerate() {
                if step < steps {
                    store_step(register, panel, start + step, first);
                }
            }
        }
    }
}
