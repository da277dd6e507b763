//! What several test files share: comparing values, running a test on each device, views of many
//! kinds, and the table of ops. Read next: `row.rs`, then `table.rs`.

// Each test file compiles this module for itself and uses a part of it.
#![allow(dead_code, unused_macros, unused_imports)]

pub mod row;
pub mod table;

use std::path::Path;

use engrad::{Device, Rng, Tensor};

/// The devices that are held to `Reference`. A new device is added here and in the two lists below.
pub fn fast_devices() -> Vec<Device> {
    [Some(Device::Cpu), gpu()].into_iter().flatten().collect()
}

/// Every device.
pub fn devices() -> Vec<Device> {
    [vec![Device::Reference], fast_devices()].concat()
}

/// A module with one test per device, so that results read `name::cpu`.
macro_rules! test_on {
    ($name:ident, $device:ident, $body:block, $($test:ident: $value:expr),*) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn check($device: &engrad::Device) $body

            $(#[test]
            fn $test() {
                if let Some(device) = $value {
                    check(&device);
                }
            })*
        }
    };
}
pub(crate) use test_on;

/// Makes each function a test per device.
macro_rules! on_every_device {
    ($(fn $name:ident($device:ident) $body:block)*) => {$(
        test_on!(
            $name, $device, $body,
            reference: Some(engrad::Device::Reference),
            cpu: Some(engrad::Device::Cpu),
            gpu: crate::common::gpu()
        );
    )*};
}
pub(crate) use on_every_device;

/// Makes each function a test per device that is held to `Reference`.
macro_rules! on_every_fast_device {
    ($(fn $name:ident($device:ident) $body:block)*) => {$(
        test_on!($name, $device, $body, cpu: Some(engrad::Device::Cpu), gpu: crate::common::gpu());
    )*};
}
pub(crate) use on_every_fast_device;

/// The GPU of this machine, opened once for a whole test file.
///
/// Without one the tests on it are skipped, and say so; `ENGRAD_REQUIRE_GPU=1` makes that a failure.
pub fn gpu() -> Option<Device> {
    static OPENED: std::sync::LazyLock<Result<Device, String>> =
        std::sync::LazyLock::new(|| "gpu".parse::<Device>().map_err(|error| error.to_string()));
    match &*OPENED {
        Ok(device) => {
            fuse_attention(device);
            Some(device.clone())
        }
        Err(why) if std::env::var("ENGRAD_REQUIRE_GPU").is_ok_and(|required| required == "1") => {
            panic!("ENGRAD_REQUIRE_GPU is 1, and there is no GPU: {why}")
        }
        Err(why) => {
            // Written past the test harness, which hides what a passing test prints.
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "SKIPPED on the gpu, which was not tested: {why}");
            None
        }
    }
}

/// Lets a GPU that computes on the processor take the shaders of attention that a graphics card takes.
pub fn fuse_attention(device: &Device) {
    #[cfg(feature = "gpu")]
    if let Device::Gpu(gpu) = device {
        gpu.force_fused_attention(Some(true));
    }
    #[cfg(not(feature = "gpu"))]
    let _ = device;
}

/// Fills every new buffer of the device with NaN before a kernel writes to it.
pub fn poison(device: &Device) {
    match device {
        Device::Cpu => engrad::device::cpu::poison_new_buffers(true),
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu.poison_new_buffers(true),
        _ => {}
    }
}

/// The text that names of cases must contain, of test files that count their cases themselves: what stands behind
/// `--`, and empty without it.
pub fn filter() -> String {
    // What follows these is theirs: `-- --test-threads 1` filters nothing.
    const WITH_VALUE: [&str; 6] =
        ["--test-threads", "--skip", "--format", "--color", "--logfile", "--shuffle-seed"];
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if WITH_VALUE.contains(&argument.as_str()) {
            arguments.next();
        } else if !argument.starts_with('-') {
            return argument;
        }
    }
    String::new()
}

/// Whether a folder's own name contains the filter, wherever the folder lies.
pub fn is_named(folder: &Path, filter: &str) -> bool {
    folder.file_name().is_some_and(|name| name.to_string_lossy().contains(filter))
}

/// The largest finite magnitude; 0 when there is none.
pub fn largest(values: &[f64]) -> f64 {
    values.iter().filter(|x| x.is_finite()).fold(0.0, |largest, x| largest.max(x.abs()))
}

/// The larger of two magnitudes. What is not a number is the largest of all; `f64::max` would lose it.
pub fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// Whether `found` is `expected` with differences of at most `distance`; NaN equals NaN.
pub fn compare(found: &[f64], expected: &[f64], distance: f64) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{} values, expected {}", found.len(), expected.len()));
    }
    let near = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= distance;
    match found.iter().zip(expected).position(|(&a, &b)| !near(a, b)) {
        None => Ok(()),
        Some(at) => Err(format!(
            "element {at} is {:e} and should be {:e}, with {distance:e} allowed",
            found[at], expected[at]
        )),
    }
}

/// The values of a tensor are those expected, within `tolerance` of their largest magnitude.
///
/// **Panics** with the first element that differs.
#[track_caller]
pub fn close(found: &Tensor, expected: &[f64], tolerance: f64) {
    if let Err(what) = compare(&found.to_f64(), expected, tolerance * largest(expected)) {
        panic!("{what}");
    }
}

/// Evenly drawn values in `-2..2`, the same on every device.
pub fn random(sizes: &[usize], seed: u64, device: &Device) -> Tensor {
    Tensor::uniform(-2.0, 2.0, sizes, &mut Rng::seeded(seed), device)
}

/// How the elements of an input lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// Row-major.
    Dense,
    /// The axes in reverse order.
    Transposed,
    /// Every second element along each axis of something larger.
    Stepped,
    /// Each axis from its end.
    Flipped,
    /// One row repeated along the first of several axes.
    Broadcast,
}

impl Arrangement {
    /// All of them.
    pub const ALL: [Arrangement; 5] = [
        Arrangement::Dense,
        Arrangement::Transposed,
        Arrangement::Stepped,
        Arrangement::Flipped,
        Arrangement::Broadcast,
    ];

    /// The sizes to store, so that [`Arrangement::view`] has `sizes`.
    pub fn stored(self, sizes: &[usize]) -> Vec<usize> {
        match self {
            Arrangement::Dense | Arrangement::Flipped => sizes.to_vec(),
            Arrangement::Transposed => sizes.iter().rev().copied().collect(),
            Arrangement::Stepped => sizes.iter().map(|size| 2 * size + 1).collect(),
            Arrangement::Broadcast if sizes.len() > 1 => [&[1], &sizes[1..]].concat(),
            Arrangement::Broadcast => sizes.to_vec(),
        }
    }

    /// The view of what was stored; a gradient flows back through it.
    pub fn view(self, stored: &Tensor, sizes: &[usize]) -> Tensor {
        let axes = 0..sizes.len() as isize;
        match self {
            Arrangement::Dense => stored.clone(),
            Arrangement::Transposed => stored.permute(&axes.rev().collect::<Vec<_>>()),
            Arrangement::Stepped => {
                axes.fold(stored.clone(), |x, axis| x.slice(axis, 1..2 * sizes[axis as usize] + 1, 2))
            }
            Arrangement::Flipped => axes.fold(stored.clone(), |x, axis| x.flip(axis)),
            Arrangement::Broadcast => stored.expand(sizes),
        }
    }
}
