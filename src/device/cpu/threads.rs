//! Which threads compute: rayon's, and the one that calls, if it says so first.
//!
//! A thread outside of rayon's pool hands each kernel over and sleeps until it is done. Waking two threads takes tens
//! of microseconds, as long as a small kernel itself; a thread inside of the pool takes a part of the work instead.
//! Read next: `elementwise.rs`, whose blocks they share.

use crate::error::{Error, Result};

/// Lets the calling thread compute too, as one of `count` threads (none: one for each core).
///
/// For a program's beginning, on the thread that will train or generate, before anything was computed; kernels asked
/// for by other threads then have one thread fewer. Results are the same bits with any number of threads.
///
/// **Errors** when `count` threads are asked for and the process has its threads already. Without a count they stay
/// as they are.
pub fn use_threads(count: Option<usize>) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(count.unwrap_or(0)).use_current_thread();
    match (pool.build_global(), count) {
        (Err(error), Some(count)) => Err(Error::Config(format!("{count} threads: {error}"))),
        _ => Ok(()),
    }
}
