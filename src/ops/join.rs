//! Ops that put elements side by side, and take them apart again.
//!
//! Joining is the one kernel here; padding, rolling and repeating are views and joins.

use crate::device::kernel::Kernel;
use crate::error::refuse;
use crate::layout::resolve_axis;
use crate::tensor::Tensor;
use crate::tensor::autograd::edge;

/// Putting elements side by side. Each panics when the sizes do not fit.
impl Tensor {
    /// Tensors behind one another along `axis`.
    ///
    /// **Panics** when there is none, or when other sizes than that of `axis` differ.
    #[track_caller]
    pub fn concat(parts: &[&Tensor], axis: isize) -> Tensor {
        let Some(first) = parts.first() else { refuse("concat", "no tensors") };
        let at = resolve_axis("concat", axis, first.ndim());
        let others = |x: &Tensor| {
            let mut sizes = x.sizes().to_vec();
            (at < sizes.len()).then(|| sizes.remove(at)).map(|_| sizes)
        };
        if parts.iter().any(|part| others(part).is_none() || others(part) != others(first)) {
            let all: Vec<_> = parts.iter().map(|part| part.sizes()).collect();
            refuse("concat", format_args!("sizes {all:?} differ besides axis {at}"));
        }
        if let Some(other) = parts.iter().find(|part| part.device() != first.device()) {
            refuse("concat", format_args!("operands on {} and {}", first.device(), other.device()));
        }
        let arrays: Vec<_> = parts.iter().map(|part| part.array()).collect();
        let [value] = first.device().run(Kernel::Concat { parts: &arrays, axis: at });
        let mut start = 0;
        let edges = parts.iter().map(|part| {
            let (from, size) = (start, part.sizes()[at]);
            start += size;
            edge(part, [], move |g, []| g.narrow(at as isize, from, size))
        });
        Tensor::from_op("concat", value, edges)
    }

    /// Tensors of equal sizes along a new axis.
    ///
    /// **Panics** when there is none, or when their sizes differ.
    #[track_caller]
    pub fn stack(parts: &[&Tensor], axis: isize) -> Tensor {
        let Some(first) = parts.first() else { refuse("stack", "no tensors") };
        let at = resolve_axis("stack", axis, first.ndim() + 1);
        if let Some(other) = parts.iter().find(|part| part.sizes() != first.sizes()) {
            refuse("stack", format_args!("{:?} beside {:?}", first.sizes(), other.sizes()));
        }
        let parts: Vec<Tensor> = parts.iter().map(|part| part.unsqueeze(axis)).collect();
        Tensor::concat(&parts.iter().collect::<Vec<_>>(), at as isize)
    }

    /// Pieces of the given sizes along `axis`.
    ///
    /// **Panics** when they do not add up to its size.
    #[track_caller]
    pub fn split(&self, axis: isize, sizes: &[usize]) -> Vec<Tensor> {
        let at = resolve_axis("split", axis, self.ndim());
        if self.ndim() == 0 || sizes.iter().sum::<usize>() != self.size(axis) {
            refuse("split", format_args!("{sizes:?} do not add up to axis {at} of {:?}", self.sizes()));
        }
        let mut start = 0;
        let piece = |&size: &usize| {
            start += size;
            self.narrow(axis, start - size, size)
        };
        sizes.iter().map(piece).collect()
    }

    /// At most `count` pieces of equal size along `axis`; the last may be smaller.
    #[track_caller]
    pub fn chunk(&self, count: usize, axis: isize) -> Vec<Tensor> {
        resolve_axis("chunk", axis, self.ndim());
        let size = self.size(axis);
        let piece = size.div_ceil(count.max(1)).max(1);
        let sizes: Vec<usize> =
            (0..size.max(1)).step_by(piece).map(|start| piece.min(size - start)).collect();
        self.split(axis, &sizes)
    }

    /// `value` before and after the elements of one axis.
    #[track_caller]
    pub fn pad_axis(&self, axis: isize, before: usize, after: usize, value: f64) -> Tensor {
        let at = resolve_axis("pad", axis, self.ndim());
        if self.ndim() == 0 {
            refuse("pad", "[] has no axis to pad");
        }
        let border = |size: usize| {
            let mut sizes = self.sizes().to_vec();
            sizes[at] = size;
            Tensor::full(value, sizes, &self.device())
        };
        match (before, after) {
            (0, 0) => self.clone(),
            (0, _) => Tensor::concat(&[self, &border(after)], axis),
            (_, 0) => Tensor::concat(&[&border(before), self], axis),
            _ => Tensor::concat(&[&border(before), self, &border(after)], axis),
        }
    }

    /// `value` around the elements: one (before, after) per axis from the first; negative numbers
    /// cut elements off.
    ///
    /// **Panics** when there are more pairs than axes, or more is cut off than there is.
    #[track_caller]
    pub fn pad(&self, borders: &[(isize, isize)], value: f64) -> Tensor {
        if borders.len() > self.ndim() {
            refuse("pad", format_args!("{} borders for the axes of {:?}", borders.len(), self.sizes()));
        }
        let mut padded = self.clone();
        for (axis, &(before, after)) in borders.iter().enumerate() {
            let size = padded.sizes()[axis];
            let (cut_before, cut_after) = ((-before).max(0) as usize, (-after).max(0) as usize);
            if cut_before + cut_after > size {
                refuse("pad", format_args!("{borders:?} cut more than there is of {:?}", self.sizes()));
            }
            let axis = axis as isize;
            padded = padded.narrow(axis, cut_before, size - cut_before - cut_after).pad_axis(
                axis,
                before.max(0) as usize,
                after.max(0) as usize,
                value,
            );
        }
        padded
    }

    /// The elements moved by `shift` places along `axis`; what leaves at one end enters at the other.
    #[track_caller]
    pub fn roll(&self, shift: isize, axis: isize) -> Tensor {
        resolve_axis("roll", axis, self.ndim());
        let size = self.size(axis);
        if size == 0 || self.ndim() == 0 {
            return self.clone();
        }
        match shift.rem_euclid(size as isize) as usize {
            0 => self.clone(),
            shift => Tensor::concat(
                &[&self.narrow(axis, size - shift, shift), &self.narrow(axis, 0, size - shift)],
                axis,
            ),
        }
    }

    /// The whole tensor `times[i]` times along axis `i`; more numbers than axes add leading axes.
    #[track_caller]
    pub fn repeat(&self, times: &[usize]) -> Tensor {
        if times.len() < self.ndim() {
            refuse("repeat", format_args!("{times:?} for the axes of {:?}", self.sizes()));
        }
        let added = times.len() - self.ndim();
        let (mut spread, mut repeated, mut joined) = (Vec::new(), Vec::new(), Vec::new());
        for (axis, &times) in times.iter().enumerate() {
            let size = if axis < added { 1 } else { self.sizes()[axis - added] };
            spread.extend([1, size]);
            repeated.extend([times, size]);
            joined.push(times * size);
        }
        self.reshape(spread).expand(repeated).reshape(joined)
    }
}
