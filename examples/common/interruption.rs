//! Ctrl-C ends a run after the step it is in, so that a checkpoint can be left; a second one ends it at once.
//! Read next: `finetune/stage.rs`, which leaves the checkpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What becomes true when Ctrl-C is pressed. Where the system tells nobody of it, a warning says what
/// Ctrl-C will do `without` that.
pub fn asked(without: &str) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    let watching = ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nstopping after this step; Ctrl-C again to stop at once");
    });
    if let Err(error) = watching {
        eprintln!("warning: Ctrl-C will {without}: {error}");
    }
    stop
}
