//! Ops that pick elements by index, and ops that add elements at an index.
//!
//! Two kernels are each other's gradient: rows of a table by id, and rows added at an id. Picking
//! along any axis is a matter of computing the right row numbers, which the host knows.

use crate::device::array::Ids;
use crate::device::kernel::Kernel;
use crate::error::refuse;
use crate::layout::{Layout, resolve_axis};
use crate::tensor::Tensor;
use crate::tensor::autograd::edge;

/// Picking and adding by index. Each panics when ids were checked against another limit than the
/// size they index, or sizes do not fit; ids themselves were checked when they were made.
impl Tensor {
    /// Row `ids[i]` of this table; zeros for an ignored id: `[rows, width] -> [ids.., width]`.
    #[track_caller]
    pub fn embedding(&self, ids: &Ids) -> Tensor {
        if self.ndim() != 2 || ids.limit() > self.sizes()[0] {
            refuse("embedding", format_args!("ids below {} in a table of {:?}", ids.limit(), self.sizes()));
        }
        let [value] = self.device().run(Kernel::Gather { table: self.array(), ids });
        let (rows, ids) = (self.sizes()[0], ids.clone());
        Tensor::from_op("embedding", value, [edge(self, [], move |g, []| g.scatter_rows(&ids, rows))])
    }

    /// Adds row i to row `ids[i]` of zeros: `[ids.., width] -> [count, width]`.
    #[track_caller]
    pub fn scatter_rows(&self, ids: &Ids, count: usize) -> Tensor {
        let fits = self.ndim() == ids.sizes().len() + 1 && self.sizes()[..self.ndim() - 1] == *ids.sizes();
        if !fits || ids.limit() > count {
            let (sizes, limit) = (ids.sizes(), ids.limit());
            refuse(
                "scatter_rows",
                format_args!("{:?} at ids {sizes:?} below {limit} to {count} rows", self.sizes()),
            );
        }
        let [value] = self.device().run(Kernel::ScatterAdd { rows: self.array(), ids, count });
        let ids = ids.clone();
        Tensor::from_op("scatter_rows", value, [edge(self, [], move |g, []| g.embedding(&ids))])
    }

    /// The indices `ids` (one axis) along `axis`, in their order.
    #[track_caller]
    pub fn index_select(&self, axis: isize, ids: &Ids) -> Tensor {
        let at = resolve_axis("index_select", axis, self.ndim());
        if self.ndim() == 0 && ids.count() == 1 {
            return self.reshape([1]).index_select(0, ids).reshape([]);
        }
        if ids.limit() > self.size(axis) || ids.sizes().len() > 1 || self.ndim() == 0 {
            refuse(
                "index_select",
                format_args!(
                    "ids {:?} below {} along axis {at} of {:?}",
                    ids.sizes(),
                    ids.limit(),
                    self.sizes()
                ),
            );
        }
        let front = self.move_axis(at as isize, 0);
        let mut sizes = front.sizes().to_vec();
        let rows = front.reshape([sizes[0], sizes[1..].iter().product()]);
        sizes[0] = ids.count();
        rows.embedding(&ids.reshape([ids.count()])).reshape(&sizes).move_axis(0, at as isize)
    }

    /// This tensor with the indices of `source` added at `ids` (one axis) along `axis`.
    #[track_caller]
    pub fn index_add(&self, axis: isize, ids: &Ids, source: &Tensor) -> Tensor {
        let at = resolve_axis("index_add", axis, self.ndim());
        if self.ndim() == 0 && source.ndim() == 0 && ids.count() == 1 {
            return self.reshape([1]).index_add(0, ids, &source.reshape([1])).reshape([]);
        }
        let mut sizes = self.sizes().to_vec();
        if let Some(size) = sizes.get_mut(at) {
            *size = ids.count();
        }
        if ids.limit() > self.size(axis) || source.sizes() != sizes || self.ndim() == 0 {
            refuse(
                "index_add",
                format_args!(
                    "{} ids below {} for {:?} into {:?}",
                    ids.count(),
                    ids.limit(),
                    source.sizes(),
                    self.sizes()
                ),
            );
        }
        let front = source.move_axis(at as isize, 0);
        let mut sizes = front.sizes().to_vec();
        let rows = front.reshape([ids.count(), sizes[1..].iter().product()]);
        sizes[0] = self.sizes()[at];
        self + rows
            .scatter_rows(&ids.reshape([ids.count()]), sizes[0])
            .reshape(&sizes)
            .move_axis(0, at as isize)
    }

    /// At each position the element whose index along `axis` the id there says:
    /// `[.., n, ..]`, ids `[.., k, ..] -> [.., k, ..]`.
    #[track_caller]
    pub fn gather(&self, axis: isize, ids: &Ids) -> Tensor {
        let flat = self.flat_positions("gather", axis, ids);
        self.reshape([self.count(), 1]).embedding(&flat).reshape(ids.sizes())
    }

    /// This tensor with each element of `source` added where the id at its position says, along `axis`.
    #[track_caller]
    pub fn scatter_add(&self, axis: isize, ids: &Ids, source: &Tensor) -> Tensor {
        let flat = self.flat_positions("scatter_add", axis, ids);
        let within =
            source.ndim() == ids.sizes().len() && ids.sizes().iter().zip(source.sizes()).all(|(i, s)| i <= s);
        if !within {
            refuse("scatter_add", format_args!("ids {:?} for a source of {:?}", ids.sizes(), source.sizes()));
        }
        let mut used = source.clone();
        for (axis, &size) in ids.sizes().iter().enumerate() {
            used = used.narrow(axis as isize, 0, size);
        }
        let added = used.reshape([ids.count(), 1]).scatter_rows(&flat, self.count());
        self + added.reshape(self.sizes())
    }

    /// Ids along one axis as positions in the row-major order of this tensor.
    #[track_caller]
    fn flat_positions(&self, op: &str, axis: isize, ids: &Ids) -> Ids {
        let axis = resolve_axis(op, axis, self.ndim());
        let sizes = ids.sizes();
        let others = |at: usize| at == axis || sizes[at] <= self.sizes()[at];
        if sizes.len() != self.ndim()
            || !(0..self.ndim()).all(others)
            || ids.limit() > self.size(axis as isize)
        {
            refuse(
                op,
                format_args!("ids {sizes:?} below {} along axis {axis} of {:?}", ids.limit(), self.sizes()),
            );
        }
        if self.count() > Ids::IGNORED as usize {
            let (sizes, limit) = (self.sizes(), Ids::IGNORED);
            refuse(
                op,
                format_args!("{sizes:?} has more elements than the {limit} that an id can tell apart"),
            );
        }
        // Where each id's own position lies, with its index along the axis taken as 0.
        let dense = Layout::contiguous(self.sizes());
        let stride = dense.strides().get(axis).copied().unwrap_or(1) as u32;
        let mut strides = dense.strides().to_vec();
        if let Some(stride) = strides.get_mut(axis) {
            *stride = 0;
        }
        let bases: Vec<usize> = Layout::strided(sizes.to_vec(), strides, 0).positions().collect();
        let flat = |at: usize, id: u32| if id == Ids::IGNORED { id } else { bases[at] as u32 + id * stride };
        ids.map(self.count(), vec![ids.count()], flat)
    }
}
