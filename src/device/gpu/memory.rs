//! Buffers of a GPU, and the pool they come from and return to.
//!
//! Making a buffer costs far more than most kernels, and a training step asks for the same sizes as
//! the step before; so a dropped buffer waits in its size class for the next use. That is safe
//! before the GPU has caught up, because all work runs in the order in which it was recorded.
//! What a device cannot hold is no panic: the memory is void, what is computed from it is void, and
//! reading it says why.
//! Read next: `queue.rs`.

use std::collections::BTreeMap;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Arc, Mutex};

use super::Gpu;
use crate::device::PoolStatistics;

/// Free buffers by size class.
pub struct Pool {
    limit: u64,
    free: Mutex<Free>,
}

#[derive(Default)]
struct Free {
    buffers: BTreeMap<u64, Vec<wgpu::Buffer>>,
    statistics: PoolStatistics,
}

/// The size of the buffers that serve requests of `bytes`: four classes between powers of two, and
/// multiples of 256 below a kilobyte.
fn class(bytes: u64) -> u64 {
    let step = (bytes.max(256).next_power_of_two() / 8).max(256);
    bytes.max(256).next_multiple_of(step)
}

impl Pool {
    /// An empty one, for buffers of at most `limit` bytes together.
    pub fn new(limit: u64) -> Pool {
        Pool { limit, free: Mutex::default() }
    }

    /// How full the pool is now.
    pub fn statistics(&self) -> PoolStatistics {
        self.lock().statistics
    }

    /// Measures the peak anew from what is in use now.
    pub fn forget_peak(&self) {
        let mut free = self.lock();
        free.statistics.peak = free.statistics.used;
        free.trim();
    }

    /// A buffer of at least `bytes`, whose content is unspecified; `make` makes one of a given size, and
    /// `catch_up` waits for recorded work, which holds on to buffers until it is done.
    fn take(
        &self,
        bytes: u64,
        make: impl Fn(u64) -> Result<wgpu::Buffer, String>,
        catch_up: impl Fn(),
    ) -> Result<wgpu::Buffer, String> {
        let make = |free: &Free, size: u64| match free.statistics.used + free.statistics.pooled + size {
            total if total > self.limit => Err(format!(
                "out of memory: {total} bytes together are more than its limit of {}",
                self.limit
            )),
            _ => make(size),
        };
        let size = class(bytes);
        let mut free = self.lock();
        let found = free.buffers.get_mut(&size).and_then(Vec::pop);
        let buffer = match found {
            Some(buffer) => {
                free.statistics.pooled -= size;
                buffer
            }
            None => {
                // Room may be missing only because it waits here for sizes that nobody asks for.
                let buffer = make(&free, size).or_else(|why| match free.give_back() {
                    true => {
                        catch_up();
                        make(&free, size)
                    }
                    false => Err(why),
                })?;
                free.statistics.made += 1;
                buffer
            }
        };
        free.statistics.used += size;
        free.statistics.peak = free.statistics.peak.max(free.statistics.used);
        free.trim();
        Ok(buffer)
    }

    fn put(&self, buffer: wgpu::Buffer) {
        let mut free = self.lock();
        let size = buffer.size();
        free.statistics.used -= size;
        free.statistics.pooled += size;
        free.buffers.entry(size).or_default().push(buffer);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Free> {
        self.free.lock().expect("no code panics while it holds the pool")
    }
}

impl Free {
    /// Lets go of every waiting buffer; whether there was one.
    fn give_back(&mut self) -> bool {
        let some = !self.buffers.is_empty();
        self.buffers.clear();
        self.statistics.pooled = 0;
        some
    }

    /// Lets go of the largest waiting buffers until, with those in use, they take no more than twice
    /// the most that was ever in use: sizes that never come again must not pile up.
    fn trim(&mut self) {
        while self.statistics.used + self.statistics.pooled > 2 * self.statistics.peak {
            let Some(mut largest) = self.buffers.last_entry() else { break };
            self.statistics.pooled -= *largest.key();
            largest.get_mut().pop();
            if largest.get().is_empty() {
                largest.remove();
            }
        }
    }
}

/// Elements in the memory of a GPU; the buffer returns to the pool when dropped.
pub struct Memory {
    gpu: Arc<Gpu>,
    buffer: Result<wgpu::Buffer, Arc<str>>,
    length: usize,
}

impl Memory {
    /// Room for `length` elements of unspecified value, to be overwritten by a kernel.
    pub(super) fn reserve(gpu: &Arc<Gpu>, length: usize) -> Memory {
        // A failure of waiting is noted, and whoever reads next is told.
        let catch_up = || drop(gpu.synchronise());
        let buffer = gpu.pool.take(4 * length as u64, |size| gpu.make_buffer(size), catch_up);
        Memory { gpu: gpu.clone(), buffer: buffer.map_err(Arc::from), length }
    }

    /// Memory that holds nothing, and says why when it is read.
    pub(super) fn void(gpu: &Arc<Gpu>, length: usize, why: &Arc<str>) -> Memory {
        Memory { gpu: gpu.clone(), buffer: Err(why.clone()), length }
    }

    /// The device it belongs to.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The buffer, or why there is none.
    pub(super) fn buffer(&self) -> Result<&wgpu::Buffer, Arc<str>> {
        self.buffer.as_ref().map_err(Arc::clone)
    }
}

/// Never changes after it was made, except by the device.
impl UnwindSafe for Memory {}
impl RefUnwindSafe for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Ok(buffer) = std::mem::replace(&mut self.buffer, Err(Arc::from(""))) {
            self.gpu.pool.put(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::class;

    #[test]
    fn a_size_class_above_a_kilobyte_wastes_at_most_a_quarter() {
        for bytes in (0..100_000).step_by(4) {
            let size = class(bytes);
            assert!(size >= bytes && size.is_multiple_of(256));
            assert!(size <= 1024 || (size - bytes) * 4 <= bytes, "{bytes} in {size}");
            assert_eq!(class(size), size);
        }
    }
}
