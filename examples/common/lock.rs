//! One process at a time: two at once would spoil a directory of results.
//! Read next: `train/folder.rs` and `compare/results.rs`, such directories.

use std::fs::{File, TryLockError};
use std::path::Path;

use engrad::{Error, Result};

/// Locks a file, in the name of the directory that it stands in, for as long as what comes back is held. The system
/// lets go of it however the process ends.
///
/// **Errors** when another process is at work there, or the file cannot be opened or locked.
pub fn hold(path: &Path) -> Result<File> {
    let io = |source| Error::Io { path: path.into(), source };
    let file = File::open(path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let directory = path.parent().unwrap_or(path).display();
            let what = format!("another process is at work in {directory}; wait for it, or stop it");
            Err(Error::Config(what))
        }
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}
