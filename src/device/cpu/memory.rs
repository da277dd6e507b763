//! Buffers of the CPU device, and the pool they come from and return to.
//!
//! A training step asks for the same buffers as the step before. Handing them out again saves the
//! system's page faults, which cost more than many kernels. The pool never makes the process larger
//! than it was at its own peak: what lies in the pool and what is in use together stay below the most
//! that was ever in use at once.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Smaller buffers are not worth the pool's lock.
const SMALLEST_POOLED: usize = 1 << 12;

static POOL: Mutex<Pool> = Mutex::new(Pool { free: BTreeMap::new(), pooled: 0, used: 0, peak: 0 });
static POISON: AtomicBool = AtomicBool::new(false);

/// Fills every buffer with NaN before a kernel writes to it, so that an element nobody wrote shows.
/// Meant for tests.
pub fn poison_new_buffers(on: bool) {
    POISON.store(on, Ordering::Relaxed);
}

/// Elements in use and elements waiting in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStatistics {
    /// Elements of the buffers that arrays hold now.
    pub used: usize,
    /// Elements of the buffers that wait for their next use.
    pub pooled: usize,
    /// The most elements that were ever in use at once.
    pub peak: usize,
}

/// How full the pool is now.
pub fn pool_statistics() -> PoolStatistics {
    let pool = POOL.lock().expect("no code panics while it holds the pool");
    PoolStatistics { used: pool.used, pooled: pool.pooled, peak: pool.peak }
}

/// Measures the peak anew from what is in use now, and gives what waits in the pool back to the system.
pub fn forget_peak() {
    let mut pool = POOL.lock().expect("no code panics while it holds the pool");
    pool.peak = pool.used;
    pool.trim();
}

/// Free buffers by capacity.
struct Pool {
    free: BTreeMap<usize, Vec<Vec<f32>>>,
    pooled: usize,
    used: usize,
    peak: usize,
}

impl Pool {
    /// A free buffer for `length` elements that wastes at most a quarter of it.
    fn take(&mut self, length: usize) -> Option<Vec<f32>> {
        let (&capacity, buffers) = self.free.range_mut(length..=length + length / 4).next()?;
        let buffer = buffers.pop();
        if buffers.is_empty() {
            self.free.remove(&capacity);
        }
        self.pooled -= capacity;
        buffer
    }

    fn put(&mut self, buffer: Vec<f32>) {
        self.pooled += buffer.capacity();
        self.free.entry(buffer.capacity()).or_default().push(buffer);
    }

    /// Gives the largest free buffers back to the system until the pool keeps its promise.
    fn trim(&mut self) {
        self.peak = self.peak.max(self.used);
        while self.used + self.pooled > self.peak {
            let Some(mut largest) = self.free.last_entry() else { break };
            self.pooled -= *largest.key();
            largest.get_mut().pop();
            if largest.get().is_empty() {
                largest.remove();
            }
        }
    }
}

/// Elements in main memory; they return to the pool when dropped.
pub struct Memory {
    values: Vec<f32>,
}

impl Memory {
    /// Room for `length` elements of unspecified (but valid) value, to be overwritten by a kernel.
    pub fn reserve(length: usize) -> Memory {
        if length < SMALLEST_POOLED {
            return Memory {
                values: vec![if POISON.load(Ordering::Relaxed) { f32::NAN } else { 0.0 }; length],
            };
        }
        let mut pool = POOL.lock().expect("no code panics while it holds the pool");
        let found = pool.take(length);
        pool.used += found.as_ref().map_or(length, Vec::capacity);
        pool.trim();
        drop(pool);
        let mut values = found.unwrap_or_else(|| Vec::with_capacity(0));
        if values.capacity() == 0 {
            values = vec![0.0; length];
        }
        values.resize(length, 0.0);
        if POISON.load(Ordering::Relaxed) {
            values.fill(f32::NAN);
        }
        Memory { values }
    }

    /// A copy of `values`.
    pub fn copied(values: &[f32]) -> Memory {
        let mut memory = Memory::reserve(values.len());
        memory.values.copy_from_slice(values);
        memory
    }

    /// The elements, to be written by the kernel that made the buffer.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}

impl Deref for Memory {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        if values.capacity() >= SMALLEST_POOLED
            && let Ok(mut pool) = POOL.lock()
        {
            pool.used -= values.capacity();
            pool.put(values);
            pool.trim();
        }
    }
}
