//! The devices, and the one place that chooses between them.
//!
//! [`Device::run`] takes a [`Kernel`] and gives arrays. Because kernels are data, tracing
//! (`TRACE=1` prints each with its sizes and time) and counting ([`counted`]) are one function each.
//! Nothing below this line knows histories.
//! Read next: `kernel.rs`, then `reference.rs`.

pub mod array;
pub mod cpu;
mod erf;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod kernel;
mod reference;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::layout::Layout;
use array::{Array, Buffer};
use kernel::Kernel;

/// Where tensors live and kernels run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// f64 and plain loops: slow, and the definition of every kernel.
    Reference,
    /// f32 on all cores.
    Cpu,
    /// f32 in WGSL shaders, on whatever the driver offers. [`Device::gpu`] opens one.
    #[cfg(feature = "gpu")]
    Gpu(Arc<gpu::Gpu>),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Device::Reference => "reference",
            Device::Cpu => "cpu",
            #[cfg(feature = "gpu")]
            Device::Gpu(_) => "gpu",
        })
    }
}

/// Reads the names that [`Device`] displays; `gpu` opens one.
impl std::str::FromStr for Device {
    type Err = crate::Error;

    fn from_str(name: &str) -> Result<Device> {
        match name {
            "reference" => Ok(Device::Reference),
            "cpu" => Ok(Device::Cpu),
            #[cfg(feature = "gpu")]
            "gpu" => Device::gpu(),
            #[cfg(not(feature = "gpu"))]
            "gpu" => Err(crate::Error::Device("this build has no gpu; build with the feature gpu".into())),
            _ => Err(crate::Error::Device(format!(
                "no device is called {name:?}; there are gpu, cpu and reference"
            ))),
        }
    }
}

impl Device {
    /// The GPU that the environment asks for ([`gpu::GpuOptions::from_environment`]), or the fastest
    /// kind there is. It is shared while somebody holds it; after a failure the next call opens a new
    /// one.
    ///
    /// **Errors** when there is none that fits, or when it cannot be opened. [`gpu::adapters`] lists
    /// what there is.
    #[cfg(feature = "gpu")]
    pub fn gpu() -> Result<Device> {
        Ok(Device::Gpu(gpu::Gpu::shared()?))
    }

    /// Waits until everything asked of the device so far is done.
    ///
    /// **Errors** when the device has failed. Devices on the processor do their work at once.
    pub fn synchronise(&self) -> Result<()> {
        match self {
            Device::Reference | Device::Cpu => Ok(()),
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => gpu.synchronise(),
        }
    }

    /// Every whole number up to this is one of the device's numbers.
    pub(crate) fn counts_to(&self) -> usize {
        match self {
            Device::Reference => 1 << f64::MANTISSA_DIGITS,
            _ => 1 << f32::MANTISSA_DIGITS,
        }
    }

    /// Whether its numbers are 64 bits long.
    pub(crate) fn keeps_f64(&self) -> bool {
        *self == Device::Reference
    }

    /// Bytes of pooled buffers that the tensors on it held at most at once since [`Device::forget_peak`]; `None` where
    /// nobody counts.
    pub fn peak_bytes(&self) -> Option<u64> {
        match self {
            Device::Reference => None,
            Device::Cpu => Some(cpu::pool_statistics().peak),
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => Some(gpu.pool_statistics().peak),
        }
    }

    /// Measures [`Device::peak_bytes`] anew from what is held now.
    pub fn forget_peak(&self) {
        match self {
            Device::Reference => {}
            Device::Cpu => cpu::forget_peak(),
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => gpu.forget_peak(),
        }
    }

    /// Whether attention pays as one kernel; where it does not, it is composed of products and a softmax.
    pub(crate) fn fuses_attention(&self) -> bool {
        match self {
            Device::Reference | Device::Cpu => true,
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => gpu.fuses_attention(),
        }
    }

    /// Copies values to the device, dense in row-major order.
    pub(crate) fn upload(&self, values: &[f32], sizes: &[usize]) -> Array {
        let buffer = match self {
            Device::Reference => Buffer::Reference(Arc::new(values.iter().map(|&x| f64::from(x)).collect())),
            Device::Cpu => Buffer::Cpu(Arc::new(cpu::Memory::copied(values))),
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => Buffer::Gpu(Arc::new(gpu::upload(gpu, values))),
        };
        Array::new(Layout::contiguous(sizes), buffer)
    }

    /// As [`Device::upload`]; devices that compute in f32 round.
    pub(crate) fn upload_f64(&self, values: &[f64], sizes: &[usize]) -> Array {
        match self {
            Device::Reference => {
                Array::new(Layout::contiguous(sizes), Buffer::Reference(Arc::new(values.to_vec())))
            }
            _ => self.upload(&values.iter().map(|&x| x as f32).collect::<Vec<_>>(), sizes),
        }
    }

    /// Does the work and gives one array per output.
    ///
    /// **Panics** when an input lives on another device, or there are not `N` outputs.
    pub fn run<const N: usize>(&self, kernel: Kernel) -> [Array; N] {
        for input in kernel.inputs() {
            assert!(
                input.device() == *self,
                "{}: an input lives on {}, not {self}",
                kernel.name(),
                input.device()
            );
        }
        let watched = Watched::begin(&kernel);
        let outputs = match self {
            Device::Reference => reference::run(&kernel),
            Device::Cpu => cpu::run(kernel),
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => gpu::run(gpu, &kernel),
        };
        if let Some(watched) = watched {
            // So that each kernel has its own time; a failure shows when somebody reads.
            let _ = self.synchronise();
            watched.end();
        }
        outputs
            .try_into()
            .unwrap_or_else(|outputs: Vec<Array>| panic!("a kernel gives {} outputs, not {N}", outputs.len()))
    }
}

/// The values of an array in row-major order, as f32.
///
/// **Errors** when the device has failed.
pub(crate) fn download(array: &Array) -> Result<Vec<f32>> {
    match array.buffer() {
        Buffer::Reference(values) => Ok(array.layout().positions().map(|at| values[at] as f32).collect()),
        Buffer::Cpu(memory) => Ok(array.layout().positions().map(|at| memory[at]).collect()),
        #[cfg(feature = "gpu")]
        Buffer::Gpu(_) => gpu::read(array),
    }
}

/// As [`download`], without rounding on the reference device.
pub(crate) fn download_f64(array: &Array) -> Result<Vec<f64>> {
    match array.buffer() {
        Buffer::Reference(values) => Ok(array.layout().positions().map(|at| values[at]).collect()),
        _ => Ok(download(array)?.into_iter().map(f64::from).collect()),
    }
}

/// What a device's pool of buffers holds, in bytes. Buffers may be longer than what they hold, and on the CPU small
/// ones are not pooled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStatistics {
    /// Bytes of the buffers that arrays hold now.
    pub used: u64,
    /// Bytes of the buffers that wait for their next use.
    pub pooled: u64,
    /// The most bytes that were ever in use at once.
    pub peak: u64,
    /// How many buffers were made, not counting those used again.
    pub made: u64,
}

/// What one kind of kernel did while it was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Count {
    /// How often it ran.
    pub runs: u64,
    /// Floating-point operations of matrix products.
    pub flops: u64,
    /// Bytes read and written, at four per element.
    pub bytes: u64,
    /// Elements of the largest array that one of them wrote.
    pub largest: usize,
    /// Time until the device was done with it.
    pub time: Duration,
}

impl Count {
    fn add(&mut self, other: &Count) {
        self.runs += other.runs;
        self.flops += other.flops;
        self.bytes += other.bytes;
        self.largest = self.largest.max(other.largest);
        self.time += other.time;
    }
}

/// Counts by kernel name.
pub type Counts = BTreeMap<&'static str, Count>;

thread_local! {
    static COUNTS: RefCell<Option<Counts>> = const { RefCell::new(None) };
}

static TRACE: LazyLock<bool> = LazyLock::new(|| std::env::var_os("TRACE").is_some_and(|on| on != "0"));

/// A kernel that somebody looks at while it runs.
struct Watched {
    name: &'static str,
    count: Count,
    trace: Option<String>,
    started: Instant,
}

impl Watched {
    /// `None` when nobody counts or traces.
    fn begin(kernel: &Kernel) -> Option<Watched> {
        if !*TRACE && COUNTS.with_borrow(Option::is_none) {
            return None;
        }
        let inputs: Vec<_> = kernel.inputs().iter().map(|x| x.sizes().to_vec()).collect();
        let outputs = kernel.output_sizes();
        let largest = outputs.iter().map(|sizes| sizes.iter().product()).max().unwrap_or(0);
        let [flops, bytes] = [kernel.flops(), kernel.bytes()];
        Some(Watched {
            name: kernel.name(),
            count: Count { runs: 1, flops, bytes, largest, time: Duration::ZERO },
            trace: TRACE.then(|| format!("{inputs:?} -> {outputs:?}")),
            started: Instant::now(),
        })
    }

    fn end(self) {
        let time = self.started.elapsed();
        COUNTS.with_borrow_mut(|counts| {
            if let Some(counts) = counts {
                counts.entry(self.name).or_default().add(&Count { time, ..self.count });
            }
        });
        if let Some(sizes) = self.trace {
            eprintln!("{:>18} {:8.1} us  {sizes}", self.name, time.as_secs_f64() * 1e6);
        }
    }
}

/// Runs `body` and counts the kernels this thread gives to devices meanwhile, waiting for each.
pub fn counted<R>(body: impl FnOnce() -> R) -> (R, Counts) {
    let outer = COUNTS.replace(Some(Counts::new()));
    let result = body();
    let counts = COUNTS.replace(outer).unwrap_or_default();
    COUNTS.with_borrow_mut(|outer| {
        let Some(outer) = outer else { return };
        for (name, count) in &counts {
            outer.entry(name).or_default().add(count);
        }
    });
    (result, counts)
}
