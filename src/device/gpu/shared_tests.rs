//! The GPU that a process shares: alone here, because the test breaks it for everybody.

use super::*;

#[test]
fn a_shared_device_that_failed_is_opened_anew() {
    let first = match Gpu::shared() {
        Ok(gpu) => gpu,
        Err(why) if std::env::var("ENGRAD_REQUIRE_GPU").is_ok_and(|required| required == "1") => {
            panic!("{why}")
        }
        Err(why) => return eprintln!("SKIPPED on the gpu, which was not tested: {why}"),
    };
    assert!(Arc::ptr_eq(&first, &Gpu::shared().unwrap()), "one device while it works");
    first.destroy();
    let second = Gpu::shared().unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
    assert!(first.synchronise().is_err() && second.synchronise().is_ok());
}
