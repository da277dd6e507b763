//! The parts of buffers that shaders bind, and how rows are cut to fit them.
//!
//! A shader binds a limited part of a buffer (128 MiB is all that every adapter promises), and a
//! vocabulary or its logits may be larger. A window is such a part; a kernel on rows works on as many
//! pieces as it takes.
//! Read next: `record.rs`.

use std::sync::Arc;

use super::elementwise::contiguous;
use super::{Gpu, Memory, memory};
use crate::device::array::Array;

/// Windows begin at multiples of this many elements: 256 bytes, which every adapter accepts.
const ALIGNMENT: usize = 64;

/// Elements of a window, wherever it begins: an input's own offset may push its start down to the
/// alignment.
pub fn room(gpu: &Gpu) -> usize {
    gpu.bindable().saturating_sub(ALIGNMENT)
}

/// Cuts `count` rows of at most `width` elements into (first, rows), as few as bindings allow.
pub fn pieces(gpu: &Gpu, count: usize, width: usize) -> Result<Vec<(usize, usize)>, Arc<str>> {
    let room = room(gpu);
    if count * width <= room {
        return Ok(vec![(0, count)]);
    }
    // Whole multiples of the alignment, so that windows of every width begin where their rows do.
    let most = room / width / ALIGNMENT * ALIGNMENT;
    if most == 0 {
        return Err(Arc::from(format!(
            "{ALIGNMENT} rows of {width} elements are too wide for its shaders to bind"
        )));
    }
    Ok((0..count).step_by(most).map(|first| (first, most.min(count - first))).collect())
}

/// A dense array seen as rows.
pub struct Rows {
    /// The array itself, or a dense copy.
    pub dense: Array,
    /// How many rows there are.
    pub count: usize,
    /// Elements of a row.
    pub width: usize,
}

impl Rows {
    /// Rows along the last axis.
    pub fn of(x: &Array) -> Rows {
        Rows::behind(x, x.sizes().len().saturating_sub(1))
    }

    /// Rows of all elements behind the first `axes` axes.
    pub fn behind(x: &Array, axes: usize) -> Rows {
        let (outer, inner) = x.sizes().split_at(axes);
        Rows { dense: contiguous(x), count: outer.iter().product(), width: inner.iter().product() }
    }

    /// The window that holds some of the rows, and where in it they begin.
    pub fn window(&self, first: usize, rows: usize) -> (Window<'_>, usize) {
        let start = self.dense.layout().offset() + first * self.width;
        Window::of(memory(&self.dense), start, rows * self.width)
    }
}

/// The part of a buffer that a shader binds.
#[derive(Clone, Copy)]
pub struct Window<'a> {
    memory: &'a Memory,
    start: usize,
    end: usize,
}

impl<'a> Window<'a> {
    /// The window for `count` elements from `start` on, and where in it they begin. A buffer that can
    /// be bound is bound as a whole.
    pub fn of(memory: &'a Memory, start: usize, count: usize) -> (Window<'a>, usize) {
        if memory.len() <= memory.gpu().bindable() {
            return (Window { memory, start: 0, end: memory.len() }, start);
        }
        let aligned = start / ALIGNMENT * ALIGNMENT;
        (Window { memory, start: aligned, end: start + count }, start - aligned)
    }

    /// The window of exactly `count` elements from `start` on, which lies at the alignment.
    pub fn aligned(memory: &'a Memory, start: usize, count: usize) -> Window<'a> {
        debug_assert_eq!(start % ALIGNMENT, 0);
        Window { memory, start, end: start + count }
    }

    /// The window for all that a view touches, and where in it the view's first element lies.
    pub fn of_view(x: &'a Array) -> (Window<'a>, usize) {
        let (low, high) = x.layout().span().unwrap_or((0, 0));
        let (window, offset) = Window::of(memory(x), low as usize, (high - low) as usize);
        (window, offset + x.layout().offset() - low as usize)
    }

    /// Windows that together hold all that a view touches, and where in each of them the view's first
    /// element would lie; that number wraps around.
    pub fn over_view(x: &'a Array) -> Vec<(Window<'a>, usize)> {
        let memory = memory(x);
        let (low, high) = x.layout().span().map_or((0, 0), |(low, high)| (low as usize, high as usize));
        let step = (memory.gpu().bindable() / ALIGNMENT).max(1) * ALIGNMENT;
        let window = |start: usize| {
            (Window::aligned(memory, start, step.min(high - start)), x.layout().offset().wrapping_sub(start))
        };
        (low / ALIGNMENT * ALIGNMENT..high).step_by(step).map(window).collect()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether it can be bound.
    pub fn fits(&self) -> bool {
        self.len() <= self.memory.gpu().bindable()
    }

    /// What a dispatch binds, or why it cannot.
    pub fn binding(&self) -> Result<wgpu::BufferBinding<'a>, Arc<str>> {
        if !self.fits() {
            let (bytes, limit) = (4 * self.len(), 4 * self.memory.gpu().bindable());
            return Err(Arc::from(format!(
                "{bytes} bytes of one view are more than its shaders bind, {limit}"
            )));
        }
        // An empty array has a buffer all the same, because nothing cannot be bound.
        let size = wgpu::BufferSize::new(4 * self.len().max(1) as u64);
        Ok(wgpu::BufferBinding { buffer: self.memory.buffer()?, offset: 4 * self.start as u64, size })
    }
}
