//! Ops that look for order: where the largest is, sorting, the k largest.
//!
//! Positions come back as [`Ids`], ready to pick with; asking for them waits for the device.

use crate::device::array::{Array, Ids};
use crate::device::download;
use crate::device::kernel::Kernel;
use crate::error::refuse;
use crate::layout::{Layout, resolve_axis};
use crate::tensor::Tensor;

/// Order along an axis. Each panics when the axis does not exist.
impl Tensor {
    /// The first position of the largest element along `axis`, which disappears. NaN is largest.
    ///
    /// **Panics** when there is nothing to choose from.
    #[track_caller]
    pub fn argmax(&self, axis: isize) -> Ids {
        self.first_largest("argmax", axis)
    }

    /// The first position of the largest element along `axis`, on behalf of `op`.
    #[track_caller]
    fn first_largest(&self, op: &str, axis: isize) -> Ids {
        let at = resolve_axis(op, axis, self.ndim());
        if self.size(axis) == 0 {
            refuse(op, format_args!("nothing to choose from along axis {at} of {:?}", self.sizes()));
        }
        let rows = if self.ndim() == 0 { self.reshape([1]) } else { self.move_axis(at as isize, -1) };
        let [positions] = self.device().run(Kernel::ArgMax { x: rows.array() });
        positions_as_ids(&positions, rows.size(-1))
    }

    /// The first position of the smallest element along `axis`, which disappears. NaN is smallest.
    ///
    /// **Panics** when there is nothing to choose from.
    #[track_caller]
    pub fn argmin(&self, axis: isize) -> Ids {
        (-self.detach()).first_largest("argmin", axis)
    }

    /// The positions that sort along `axis`; equal elements keep their order. NaN is largest.
    #[track_caller]
    pub fn argsort(&self, axis: isize, descending: bool) -> Ids {
        let at = resolve_axis("argsort", axis, self.ndim());
        if self.ndim() == 0 {
            return self.reshape([1]).argsort(0, descending).reshape([]);
        }
        let rows = self.transpose(at as isize, -1);
        let [positions] = self.device().run(Kernel::ArgSort { x: rows.array(), descending });
        let positions = Tensor::constant(positions).transpose(at as isize, -1);
        positions_as_ids(positions.array(), self.sizes()[at])
    }

    /// The elements in order along `axis`, and where they were.
    #[track_caller]
    pub fn sort(&self, axis: isize, descending: bool) -> (Tensor, Ids) {
        let axis = resolve_axis("sort", axis, self.ndim()) as isize;
        let order = self.argsort(axis, descending);
        (self.pick(axis, &order), order)
    }

    /// The `k` largest (or smallest) along `axis` in order, and where they were.
    ///
    /// **Panics** when there are fewer than `k`.
    #[track_caller]
    pub fn topk(&self, k: usize, axis: isize, largest: bool) -> (Tensor, Ids) {
        let at = resolve_axis("topk", axis, self.ndim());
        if k > self.size(axis) {
            refuse("topk", format_args!("{k} of axis {at} of {:?}", self.sizes()));
        }
        let order = self.argsort(axis, largest);
        let first = match self.ndim() {
            0 => order,
            _ => {
                let kept = Layout::contiguous(order.sizes()).slice(at, 0, k, 1);
                let values: Vec<u32> = kept.positions().map(|position| order.values()[position]).collect();
                Ids::new(values, kept.sizes(), order.limit()).expect("a part of ids that were checked")
            }
        };
        (self.pick(axis, &first), first)
    }

    /// The largest element along `axis`, which disappears, and where it was; the gradient goes to
    /// that one element.
    ///
    /// **Panics** when there is nothing to choose from.
    #[track_caller]
    pub fn max_at(&self, axis: isize) -> (Tensor, Ids) {
        let at = resolve_axis("max_at", axis, self.ndim());
        let ids = self.first_largest("max_at", axis);
        if self.ndim() == 0 {
            return (self.clone(), ids);
        }
        let mut kept = self.sizes().to_vec();
        kept[at] = 1;
        let value = self.gather(axis, &ids.reshape(kept)).squeeze(at as isize);
        (value, ids)
    }

    fn pick(&self, axis: isize, ids: &Ids) -> Tensor {
        match self.ndim() {
            0 => self.clone(),
            _ => self.gather(axis, ids),
        }
    }
}

fn positions_as_ids(positions: &Array, limit: usize) -> Ids {
    let values = download(positions).unwrap_or_else(|error| refuse("positions", error));
    let values: Vec<u32> = values.into_iter().map(|at| at as u32).collect();
    Ids::new(values, positions.sizes(), limit).expect("a kernel gives positions inside the axis")
}
