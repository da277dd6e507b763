//! Values on a device: a buffer and the layout in which it is seen; and checked indices.
//!
//! Many arrays may share one buffer (views). A buffer that more than one array can see is never written.
//! Read next: `kernel.rs`.

use std::sync::Arc;

use super::Device;
use super::cpu::Memory;
#[cfg(feature = "gpu")]
use super::gpu;
use crate::error::{Error, Result};
use crate::layout::{self, Layout, checked_count};

/// A strided view of a shared buffer on one device.
#[derive(Clone)]
pub struct Array {
    layout: Layout,
    buffer: Buffer,
}

/// The elements themselves: f64 on `Reference`, f32 elsewhere.
#[derive(Clone)]
pub enum Buffer {
    /// Lives on [`Device::Reference`].
    Reference(Arc<Vec<f64>>),
    /// Lives on [`Device::Cpu`].
    Cpu(Arc<Memory>),
    /// Lives on [`Device::Gpu`].
    #[cfg(feature = "gpu")]
    Gpu(Arc<gpu::Memory>),
}

impl Array {
    /// The elements of `buffer` as `layout` sees them.
    ///
    /// **Panics** when the layout reaches outside of the buffer; everything that reads an array
    /// relies on this check.
    #[track_caller]
    pub fn new(layout: Layout, buffer: Buffer) -> Array {
        let length = match &buffer {
            Buffer::Reference(values) => values.len(),
            Buffer::Cpu(memory) => memory.len(),
            #[cfg(feature = "gpu")]
            Buffer::Gpu(memory) => memory.len(),
        };
        if let Some((low, high)) = layout.span() {
            assert!(
                low >= 0 && high <= length as isize,
                "layout {layout:?} in a buffer of {length} elements"
            );
        }
        Array { layout, buffer }
    }

    /// How the elements lie in the buffer.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The size of each axis.
    pub fn sizes(&self) -> &[usize] {
        self.layout.sizes()
    }

    /// The size of the last axis, along which row kernels work.
    pub(super) fn width(&self) -> usize {
        *self.sizes().last().expect("row kernels and products take at least one axis")
    }

    /// The shared elements.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// Where the elements live.
    pub fn device(&self) -> Device {
        match &self.buffer {
            Buffer::Reference(_) => Device::Reference,
            Buffer::Cpu(_) => Device::Cpu,
            #[cfg(feature = "gpu")]
            Buffer::Gpu(memory) => Device::Gpu(memory.gpu().clone()),
        }
    }

    /// The elements themselves, to be written anew, where they are f32 that nobody else holds and this
    /// array sees all of them in their order; else the array again.
    pub(super) fn into_memory(self) -> std::result::Result<Memory, Array> {
        let whole = self.layout.offset() == 0 && self.layout.is_contiguous();
        match self.buffer {
            Buffer::Cpu(memory) if whole && self.layout.count() == memory.len() => {
                Arc::try_unwrap(memory).map_err(|memory| Array { buffer: Buffer::Cpu(memory), ..self })
            }
            _ => Err(self),
        }
    }

    /// Another view of the same buffer.
    #[track_caller]
    pub fn view(&self, layout: Layout) -> Array {
        Array::new(layout, self.buffer.clone())
    }
}

/// Indices that were checked once, when they were made: every one lies below `limit`.
///
/// An id may also be [`Ids::IGNORED`]: it gathers zeros, scatters nowhere and costs no loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    values: Arc<Vec<u32>>,
    sizes: Vec<usize>,
    limit: usize,
}

impl Ids {
    /// Stands for "no index": padding, or a target that does not count.
    pub const IGNORED: u32 = u32::MAX;

    /// Indices below `limit`, in row-major order of `sizes`.
    ///
    /// **Errors** when an index is not below `limit`, or when their number is not that of `sizes`.
    pub fn new(values: impl Into<Vec<u32>>, sizes: impl Into<Vec<usize>>, limit: usize) -> Result<Ids> {
        let (values, sizes) = (values.into(), sizes.into());
        if checked_count(&sizes) != Some(values.len()) {
            return Err(Error::Ids(format!("{} indices do not fill the sizes {sizes:?}", values.len())));
        }
        if limit > Self::IGNORED as usize {
            return Err(Error::Ids(format!("a limit of {limit} does not fit 32 bits")));
        }
        if let Some(at) = values.iter().position(|&id| id as usize >= limit && id != Self::IGNORED) {
            return Err(Error::Ids(format!("index {} at position {at} is not below {limit}", values[at])));
        }
        Ok(Ids { values: Arc::new(values), sizes, limit })
    }

    /// Indices as other tools write them, with a sign: those equal to `ignored` (PyTorch's
    /// `ignore_index`) become [`Ids::IGNORED`], other negative ones are refused.
    ///
    /// **Errors** as [`Ids::new`].
    pub fn signed(
        values: &[i64],
        sizes: impl Into<Vec<usize>>,
        limit: usize,
        ignored: Option<i64>,
    ) -> Result<Ids> {
        let resolve = |(at, &id): (usize, &i64)| {
            if Some(id) == ignored {
                return Ok(Self::IGNORED);
            }
            match (0..limit as i64).contains(&id) {
                true => Ok(id as u32),
                false => Err(Error::Ids(format!("index {id} at position {at} does not fit {limit} entries"))),
            }
        };
        let values = values.iter().enumerate().map(resolve).collect::<Result<Vec<u32>>>()?;
        Ids::new(values, sizes, limit)
    }

    /// The indices in row-major order.
    pub fn values(&self) -> &[u32] {
        &self.values
    }

    /// The size of each axis.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// Every index is below this.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.values.len()
    }

    /// The same indices under other sizes.
    ///
    /// **Panics** when the number of elements differs.
    #[track_caller]
    pub fn reshape(&self, sizes: impl Into<Vec<usize>>) -> Ids {
        let sizes = sizes.into();
        assert_eq!(layout::count(&sizes), self.count(), "Ids::reshape {:?} to {sizes:?}", self.sizes);
        Ids { values: self.values.clone(), sizes, limit: self.limit }
    }

    /// For each of `count` targets the positions whose index it is.
    ///
    /// **Panics** when an index is not below `count`.
    pub(crate) fn sources(&self, count: usize) -> Sources {
        Sources::new(self, count)
    }

    /// The same positions with other indices; the caller keeps them below `limit`.
    pub(crate) fn map(&self, limit: usize, sizes: Vec<usize>, mut id: impl FnMut(usize, u32) -> u32) -> Ids {
        let values: Vec<u32> = self.values.iter().enumerate().map(|(at, &old)| id(at, old)).collect();
        debug_assert!(values.iter().all(|&id| (id as usize) < limit || id == Self::IGNORED));
        Ids { values: Arc::new(values), sizes, limit }
    }
}

/// For each target the positions that point at it, in order (a counting sort).
pub(crate) struct Sources {
    starts: Vec<u32>,
    positions: Vec<u32>,
}

impl Sources {
    fn new(ids: &Ids, count: usize) -> Sources {
        let kept = || ids.values().iter().enumerate().filter(|&(_, &id)| id != Ids::IGNORED);
        let mut starts = vec![0u32; count + 1];
        kept().for_each(|(_, &id)| starts[id as usize + 1] += 1);
        for target in 0..count {
            starts[target + 1] += starts[target];
        }
        let mut next = starts.clone();
        let mut positions = vec![0; starts[count] as usize];
        for (position, &id) in kept() {
            positions[next[id as usize] as usize] = position as u32;
            next[id as usize] += 1;
        }
        Sources { starts, positions }
    }

    /// The positions that point at a target.
    pub fn of(&self, target: usize) -> &[u32] {
        &self.positions[self.starts[target] as usize..self.starts[target + 1] as usize]
    }

    /// Where each target's positions begin; one more entry says where the last one's end.
    #[cfg(feature = "gpu")]
    pub fn starts(&self) -> &[u32] {
        &self.starts
    }

    /// The positions of all targets behind one another.
    #[cfg(feature = "gpu")]
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }
}
