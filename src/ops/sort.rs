//! Ops that look for order: where the largest is, sorting, the k largest.
//!
//! Positions come back as [`Ids`], ready to pick with; asking for them waits for the device. All of
//! these ops panic when the device has failed, except the two called `read`, on which the others stand.

use crate::device::array::{Array, Ids};
use crate::device::download_f64;
use crate::device::kernel::Kernel;
use crate::error::{Result, refuse};
use crate::layout::{Layout, resolve_axis};
use crate::tensor::Tensor;

/// Order along an axis. Each panics when the axis does not exist, and on devices that compute in f32
/// when it is longer than 2²⁴ = 16,777,216, up to which f32 counts.
impl Tensor {
    /// The first position of the largest element along `axis`, which disappears. NaN is largest.
    ///
    /// **Panics** when there is nothing to choose from, or when the device has failed.
    #[track_caller]
    pub fn argmax(&self, axis: isize) -> Ids {
        given("argmax", self.first_largest("argmax", axis))
    }

    /// As [`Tensor::argmax`].
    ///
    /// **Errors** when the device has failed. **Panics** when there is nothing to choose from.
    #[track_caller]
    pub fn read_argmax(&self, axis: isize) -> Result<Ids> {
        self.first_largest("read_argmax", axis)
    }

    /// The first position of the largest element along `axis`, on behalf of `op`.
    #[track_caller]
    fn first_largest(&self, op: &str, axis: isize) -> Result<Ids> {
        let at = resolve_axis(op, axis, self.ndim());
        if self.size(axis) == 0 {
            refuse(op, format_args!("nothing to choose from along axis {at} of {:?}", self.sizes()));
        }
        self.check_countable(op, at);
        let rows = if self.ndim() == 0 { self.reshape([1]) } else { self.move_axis(at as isize, -1) };
        let [positions] = self.device().run(Kernel::ArgMax { x: rows.array() });
        positions_as_ids(&positions, rows.size(-1))
    }

    /// The first position of the smallest element along `axis`, which disappears. NaN is smallest.
    ///
    /// **Panics** when there is nothing to choose from, or when the device has failed.
    #[track_caller]
    pub fn argmin(&self, axis: isize) -> Ids {
        given("argmin", (-self.detach()).first_largest("argmin", axis))
    }

    /// The positions that sort along `axis`; equal elements keep their order. NaN is largest.
    ///
    /// **Panics** when the device has failed.
    #[track_caller]
    pub fn argsort(&self, axis: isize, descending: bool) -> Ids {
        given("argsort", self.read_argsort(axis, descending))
    }

    /// As [`Tensor::argsort`]. With [`Tensor::gather`] it gives what `sort` and `topk` give.
    ///
    /// **Errors** when the device has failed.
    #[track_caller]
    pub fn read_argsort(&self, axis: isize, descending: bool) -> Result<Ids> {
        let at = resolve_axis("argsort", axis, self.ndim());
        if self.ndim() == 0 {
            return Ok(self.reshape([1]).read_argsort(0, descending)?.reshape([]));
        }
        self.check_countable("argsort", at);
        let rows = self.transpose(at as isize, -1);
        let [positions] = self.device().run(Kernel::ArgSort { x: rows.array(), descending });
        let positions = Tensor::constant(positions).transpose(at as isize, -1);
        positions_as_ids(positions.array(), self.sizes()[at])
    }

    /// The elements in order along `axis`, and where they were.
    ///
    /// **Panics** when the device has failed.
    #[track_caller]
    pub fn sort(&self, axis: isize, descending: bool) -> (Tensor, Ids) {
        let axis = resolve_axis("sort", axis, self.ndim()) as isize;
        let order = self.argsort(axis, descending);
        (self.pick(axis, &order), order)
    }

    /// The `k` largest (or smallest) along `axis` in order, and where they were.
    ///
    /// **Panics** when there are fewer than `k`, or when the device has failed.
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
    /// **Panics** when there is nothing to choose from, or when the device has failed.
    #[track_caller]
    pub fn max_at(&self, axis: isize) -> (Tensor, Ids) {
        let at = resolve_axis("max_at", axis, self.ndim());
        let ids = given("max_at", self.first_largest("max_at", axis));
        if self.ndim() == 0 {
            return (self.clone(), ids);
        }
        let mut kept = self.sizes().to_vec();
        kept[at] = 1;
        let value = self.gather(axis, &ids.reshape(kept)).squeeze(at as isize);
        (value, ids)
    }

    /// Positions come back as the device's numbers, which count exactly only so far.
    #[track_caller]
    fn check_countable(&self, op: &str, axis: usize) {
        let length = self.sizes().get(axis).copied().unwrap_or(1);
        let limit = self.device().counts_to();
        if length > limit {
            refuse(op, format_args!("axis {axis} of {:?} is longer than {limit}", self.sizes()));
        }
    }

    fn pick(&self, axis: isize, ids: &Ids) -> Tensor {
        match self.ndim() {
            0 => self.clone(),
            _ => self.gather(axis, ids),
        }
    }
}

/// What a device gave, on behalf of `op`, which has no way to say that it failed.
#[track_caller]
fn given(op: &str, ids: Result<Ids>) -> Ids {
    ids.unwrap_or_else(|error| refuse(op, error))
}

fn positions_as_ids(positions: &Array, limit: usize) -> Result<Ids> {
    let values: Vec<u32> = download_f64(positions)?.into_iter().map(|at| at as u32).collect();
    Ok(Ids::new(values, positions.sizes(), limit).expect("a kernel gives positions inside the axis"))
}
