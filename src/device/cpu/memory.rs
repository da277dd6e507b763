//! Buffers of the CPU device, and the pool they come from and return to.
//!
//! A training step asks for the same buffers as the step before. Handing them out again saves the
//! system's page faults, which cost more than many kernels. What lies in the pool and what is in use
//! stay together below five quarters of the most that was ever in use at once: the parts of a step
//! want buffers of other sizes, and without that room each part would give back what the next one wants.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::device::PoolStatistics;

/// Smaller buffers are not worth the pool's lock.
const SMALLEST_POOLED: usize = 1 << 12;

static POOL: Mutex<Pool> = Mutex::new(Pool { free: BTreeMap::new(), pooled: 0, used: 0, peak: 0, made: 0 });
static POISON: AtomicBool = AtomicBool::new(false);

/// Fills every buffer with NaN before a kernel writes to it, so that an element nobody wrote shows.
/// Meant for tests.
pub fn poison_new_buffers(on: bool) {
    POISON.store(on, Ordering::Relaxed);
}

/// How full the pool is now.
pub fn pool_statistics() -> PoolStatistics {
    let pool = POOL.lock().expect("no code panics while it holds the pool");
    let [used, pooled, peak] = [pool.used, pool.pooled, pool.peak].map(|elements| 4 * elements as u64);
    PoolStatistics { used, pooled, peak, made: pool.made }
}

/// Measures the peak anew from what is in use now, and gives what waits in the pool back to the system.
pub fn forget_peak() {
    let mut pool = POOL.lock().expect("no code panics while it holds the pool");
    pool.peak = pool.used;
    pool.free.clear();
    pool.pooled = 0;
}

/// Free buffers by length, and what [`PoolStatistics`] says, in elements.
struct Pool {
    free: BTreeMap<usize, Vec<Vec<f32>>>,
    pooled: usize,
    used: usize,
    peak: usize,
    made: u64,
}

impl Pool {
    /// A free buffer for `length` elements that is at most twice as long.
    fn take(&mut self, length: usize) -> Option<Vec<f32>> {
        let (&found, _) = self.free.range(length..=2 * length).next()?;
        self.remove(found)
    }

    fn remove(&mut self, length: usize) -> Option<Vec<f32>> {
        let buffers = self.free.get_mut(&length)?;
        let buffer = buffers.pop();
        if buffers.is_empty() {
            self.free.remove(&length);
        }
        self.pooled -= length;
        buffer
    }

    fn put(&mut self, buffer: Vec<f32>) {
        self.pooled += buffer.len();
        self.free.entry(buffer.len()).or_default().push(buffer);
    }

    /// Gives free buffers back to the system until the pool keeps its promise: the smallest one that
    /// is enough, so that a small buffer too many does not cost the largest.
    fn trim(&mut self) {
        self.peak = self.peak.max(self.used);
        let most = self.peak + self.peak / 4;
        while let Some(excess) = (self.used + self.pooled).checked_sub(most).filter(|&excess| excess > 0) {
            let enough = self.free.range(excess..).next().or(self.free.last_key_value());
            let Some((&length, _)) = enough else { break };
            drop(self.remove(length));
        }
    }
}

/// Elements in main memory, from a cache line's start on; they return to the pool when dropped.
#[derive(Default)]
pub struct Memory {
    values: Vec<f32>,
    start: usize,
    length: usize,
}

/// Elements of a cache line: a vector that lies across two lines is read and written twice.
const LINE: usize = 16;

impl Memory {
    /// Room for `length` elements of unspecified (but valid) value, to be overwritten by a kernel.
    pub fn reserve(length: usize) -> Memory {
        let room = length + LINE;
        let mut values = if room < SMALLEST_POOLED { vec![0.0; room] } else { pooled(room) };
        if POISON.load(Ordering::Relaxed) {
            values.fill(f32::NAN);
        }
        let start = values.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Memory { values, start, length }
    }

    /// A copy of `values`.
    pub fn copied(values: &[f32]) -> Memory {
        let mut memory = Memory::reserve(values.len());
        memory.values_mut().copy_from_slice(values);
        memory
    }

    /// The elements, to be written by the kernel that made the buffer.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.start..][..self.length]
    }
}

/// A free buffer of the pool, or a new one.
fn pooled(room: usize) -> Vec<f32> {
    let mut pool = POOL.lock().expect("no code panics while it holds the pool");
    let found = pool.take(room);
    pool.used += found.as_ref().map_or(room, Vec::len);
    pool.made += u64::from(found.is_none());
    pool.trim();
    drop(pool);
    found.unwrap_or_else(|| vec![0.0; room])
}

impl Deref for Memory {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[self.start..][..self.length]
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        if values.len() >= SMALLEST_POOLED
            && let Ok(mut pool) = POOL.lock()
        {
            pool.used -= values.len();
            pool.put(values);
            pool.trim();
        }
    }
}

/// Lends a cache-line aligned buffer of arbitrary contents.
///
/// Each thread keeps as many as it had in use at once: fresh memory would cost a page fault every 1024 floats.
pub fn with_scratch(size: usize, body: impl FnOnce(&mut [f32])) {
    thread_local!(static KEPT: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) });
    let mut buffer = KEPT.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < size + LINE {
        buffer.resize(size + LINE, 0.0);
    }
    let start = buffer.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    body(&mut buffer[start..][..size]);
    KEPT.with_borrow_mut(|kept| kept.push(buffer));
}
