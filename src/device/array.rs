//! Values on a device: a buffer and the layout in which it is seen; and checked indices.
//!
//! Many arrays may share one buffer (views). A buffer is never written after it was made.
//! Read next: `kernel.rs`.

use std::sync::Arc;

use super::Device;
use super::cpu::Memory;
use crate::error::{Error, Result};
use crate::layout::Layout;

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
}

impl Array {
    /// The elements of `buffer` as `layout` sees them.
    ///
    /// **Panics** when the layout reaches outside of the buffer; everything that reads an array
    /// relies on this check.
    pub fn new(layout: Layout, buffer: Buffer) -> Array {
        let length = match &buffer {
            Buffer::Reference(values) => values.len(),
            Buffer::Cpu(memory) => memory.len(),
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

    /// The shared elements.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// Where the elements live.
    pub fn device(&self) -> Device {
        match self.buffer {
            Buffer::Reference(_) => Device::Reference,
            Buffer::Cpu(_) => Device::Cpu,
        }
    }

    /// Another view of the same buffer.
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
        let expected = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        if expected != Some(values.len()) {
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
        assert_eq!(
            sizes.iter().product::<usize>(),
            self.count(),
            "Ids::reshape {:?} to {sizes:?}",
            self.sizes
        );
        Ids { values: self.values.clone(), sizes, limit: self.limit }
    }

    /// The same positions with other indices; the caller keeps them below `limit`.
    pub(crate) fn map(&self, limit: usize, sizes: Vec<usize>, mut id: impl FnMut(usize, u32) -> u32) -> Ids {
        let values: Vec<u32> = self.values.iter().enumerate().map(|(at, &old)| id(at, old)).collect();
        debug_assert!(values.iter().all(|&id| (id as usize) < limit || id == Self::IGNORED));
        Ids { values: Arc::new(values), sizes, limit }
    }
}
