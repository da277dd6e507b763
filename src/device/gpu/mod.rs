//! The GPU device: every kernel as a WGSL shader, run through wgpu on Vulkan, Metal or DirectX 12.
//!
//! The shaders are in `shaders/`, one file per kernel; `record.rs` says for each kernel which shader
//! runs, with which parameters and over how many workgroups. Work is recorded, not awaited: a failure
//! shows when somebody reads, as an error and never as a panic of the driver's.
//! Read next: `context.rs` (opening), `memory.rs` (buffers), `queue.rs` (submission), `pipeline.rs`
//! (compilation), `window.rs` and `record.rs` (kernels), `elementwise.rs` and `render.rs` (formulas), then `matmul.rs`
//! and `reduce.rs`, which choose by shape.

mod attention;
mod context;
mod elementwise;
mod matmul;
mod memory;
pub mod pipeline;
mod queue;
mod record;
mod reduce;
pub mod render;
mod window;

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::PoolStatistics;
use super::array::{Array, Buffer};
use super::kernel::Kernel;
use crate::error::{Error, Result};
use crate::layout::Layout;
use context::Context;
pub use context::{AdapterInfo, GpuOptions, Power, adapters};
pub use matmul::Rung;
pub use memory::Memory;
pub use pipeline::Sharing;
use queue::{Failure, Queue};

/// Rows of up to so many elements leave most of a workgroup idle; longer ones also sum more exactly in a
/// tree than one element after the other.
const SHORT: usize = 32;

/// An opened GPU.
pub struct Gpu {
    context: Context,
    queue: Queue,
    pool: memory::Pool,
    pipelines: pipeline::Pipelines,
    failure: Failure,
    poison: AtomicBool,
    forced: Mutex<Forced>,
}

/// What is chosen without looking at shapes.
#[derive(Clone, Copy, Default)]
struct Forced {
    rung: Option<Rung>,
    sharing: Option<Sharing>,
    attention: Option<bool>,
}

/// What can be asked of an opened GPU.
impl Gpu {
    /// Opens the adapter that fits the options best.
    ///
    /// **Errors** when there is none, or when it cannot be opened.
    pub fn open(options: &GpuOptions) -> Result<Arc<Gpu>> {
        let context = Context::open(options)?;
        let failure = Failure::default();
        let noted = failure.clone();
        context.device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| noted.note(error.to_string())));
        let noted = failure.clone();
        context.device.set_device_lost_callback(move |reason, message| {
            noted.note(format!("the device was lost ({reason:?}): {message}"));
        });
        Ok(Arc::new(Gpu {
            queue: Queue::new(&context, &failure),
            context,
            pool: memory::Pool::new(options.memory_limit.unwrap_or(u64::MAX)),
            pipelines: pipeline::Pipelines::default(),
            failure,
            poison: AtomicBool::new(false),
            forced: Mutex::default(),
        }))
    }

    /// The GPU of this process, as the environment asks for it: opened for the first who wants it,
    /// shared while somebody holds it, and opened anew after a failure.
    ///
    /// **Errors** as [`Gpu::open`].
    pub fn shared() -> Result<Arc<Gpu>> {
        static SHARED: Mutex<Weak<Gpu>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gpu) = shared.upgrade().filter(|gpu| gpu.failure.get().is_none()) {
            return Ok(gpu);
        }
        let gpu = Gpu::open(&GpuOptions::from_environment()?)?;
        *shared = Arc::downgrade(&gpu);
        Ok(gpu)
    }

    /// What was opened.
    pub fn adapter(&self) -> &AdapterInfo {
        &self.context.info
    }

    /// How full the buffer pool is now.
    pub fn pool_statistics(&self) -> PoolStatistics {
        self.pool.statistics()
    }

    /// Measures the pool's peak anew from what is in use now.
    pub fn forget_peak(&self) {
        self.pool.forget_peak();
    }

    /// How many pipelines were compiled.
    pub fn pipelines(&self) -> usize {
        self.pipelines.count()
    }

    /// Whether its shaders use subgroup operations.
    pub fn has_subgroups(&self) -> bool {
        self.context.subgroups
    }

    /// How many dispatches were recorded.
    pub fn dispatches(&self) -> u64 {
        self.queue.dispatches()
    }

    /// Fills every buffer with NaN before a kernel writes to it, so that an element nobody wrote
    /// shows. Meant for tests.
    pub fn poison_new_buffers(&self, on: bool) {
        self.poison.store(on, Ordering::Relaxed);
    }

    /// Takes one rung for every matrix product, or again the one its shape asks for. Meant for tests
    /// and benches.
    pub fn force_rung(&self, rung: Option<Rung>) {
        self.lock_forced().rung = rung;
    }

    /// Computes attention in one kernel, or not, or again as the adapter asks for it. Meant for tests and
    /// benches.
    pub fn force_fused_attention(&self, fused: Option<bool>) {
        self.lock_forced().attention = fused;
    }

    /// Adapters that compute on the processor lose more by barriers than by stored scores.
    pub(super) fn fuses_attention(&self) -> bool {
        self.lock_forced().attention.unwrap_or(!self.adapter().is_software())
    }

    /// Takes one form for every shader that folds rows, or again the one their length asks for. Meant
    /// for tests and benches; [`Sharing::Subgroups`] needs [`Gpu::has_subgroups`].
    pub fn force_sharing(&self, sharing: Option<Sharing>) {
        self.lock_forced().sharing = sharing;
    }

    /// Who works on rows of `width` elements.
    fn sharing(&self, width: usize) -> Sharing {
        match self.lock_forced().sharing {
            Some(forced) => forced,
            None if width <= SHORT => Sharing::Alone,
            None if self.context.subgroups => Sharing::Subgroups,
            None => Sharing::Workgroup,
        }
    }

    fn lock_forced(&self) -> MutexGuard<'_, Forced> {
        self.forced.lock().expect("no code panics while it holds what is forced")
    }

    /// Hands everything recorded to the device and waits until it is done.
    ///
    /// **Errors** when the device has failed; it stays so, and what it held is lost.
    pub fn synchronise(&self) -> Result<()> {
        self.queue.wait().map_err(|why| self.error(&why))
    }

    /// Gives the device back to the system at once. Its tensors are lost; reading them is an error.
    pub fn destroy(&self) {
        self.failure.note("the device was lost: it was destroyed".into());
        self.context.device.destroy();
    }

    /// Elements that a shader can bind of one buffer.
    fn bindable(&self) -> usize {
        (self.context.binding_limit / 4) as usize
    }

    fn error(&self, why: &str) -> Error {
        Error::Device(format!("{}: {why}", self.context.info))
    }

    /// A buffer of `size` bytes, or why there is none.
    fn make_buffer(&self, size: u64) -> std::result::Result<wgpu::Buffer, String> {
        let limit = self.context.buffer_limit;
        if size > limit {
            return Err(format!("out of memory: {size} bytes are more than its largest buffer of {limit}"));
        }
        let scope = self.context.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.context.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        match pollster::block_on(scope.pop()) {
            None => Ok(buffer),
            Some(_) => Err(format!("out of memory: no room for {size} bytes")),
        }
    }
}

/// Two are the same when they are one.
impl PartialEq for Gpu {
    fn eq(&self, other: &Gpu) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Gpu {}

/// A caught panic leaves nothing half-changed: what changes is behind locks, and a panic poisons them.
impl UnwindSafe for Gpu {}
impl RefUnwindSafe for Gpu {}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpu({})", self.context.info)
    }
}

/// Copies values to the device.
pub fn upload(gpu: &Arc<Gpu>, values: &[f32]) -> Memory {
    upload_bytes(gpu, bytemuck::cast_slice(values))
}

fn upload_words(gpu: &Arc<Gpu>, words: &[u32]) -> Memory {
    upload_bytes(gpu, bytemuck::cast_slice(words))
}

fn upload_bytes(gpu: &Arc<Gpu>, bytes: &[u8]) -> Memory {
    let memory = Memory::reserve(gpu, bytes.len() / 4);
    if let Ok(buffer) = memory.buffer() {
        gpu.queue.upload(bytes, buffer);
    }
    memory
}

/// The values of an array in row-major order. Waits for the device.
///
/// **Errors** when the device has failed, or could not hold what the array was computed from.
pub fn read(x: &Array) -> Result<Vec<f32>> {
    let dense = elementwise::contiguous(x);
    let memory = memory(&dense);
    let values = match memory.buffer() {
        Ok(buffer) => memory.gpu().queue.read(buffer, dense.layout().offset(), dense.layout().count()),
        Err(why) => Err(why.to_string()),
    };
    values.map_err(|why| memory.gpu().error(&why))
}

/// Records one kernel. What cannot be computed is void and says why when it is read.
pub fn run(gpu: &Arc<Gpu>, kernel: &Kernel) -> Vec<Array> {
    let sizes = kernel.output_sizes();
    let lengths: Vec<usize> = sizes.iter().map(|sizes| sizes.iter().product()).collect();
    let outputs = computed(gpu, kernel, &lengths).unwrap_or_else(|why| {
        lengths.iter().map(|&length| Arc::new(Memory::void(gpu, length, &why))).collect()
    });
    outputs.iter().zip(sizes).map(|(memory, sizes)| dense(memory, sizes)).collect()
}

/// Memory as an array.
fn dense(memory: &Arc<Memory>, sizes: Vec<usize>) -> Array {
    Array::new(Layout::contiguous(sizes), Buffer::Gpu(memory.clone()))
}

fn computed(
    gpu: &Arc<Gpu>,
    kernel: &Kernel,
    lengths: &[usize],
) -> std::result::Result<Vec<Arc<Memory>>, Arc<str>> {
    for input in kernel.inputs() {
        memory(input).buffer()?;
    }
    let outputs =
        lengths.iter().map(|&length| reserve(gpu, length)).collect::<std::result::Result<Vec<_>, _>>()?;
    if outputs.iter().any(|memory| !memory.is_empty()) {
        record::record(gpu, kernel, &outputs)?;
    }
    Ok(outputs)
}

/// Memory for a kernel to write.
fn reserve(gpu: &Arc<Gpu>, length: usize) -> std::result::Result<Arc<Memory>, Arc<str>> {
    let memory = Arc::new(Memory::reserve(gpu, length));
    memory.buffer()?;
    if gpu.poison.load(Ordering::Relaxed) && length > 0 {
        // Not by a kernel, which may be the one that leaves something out.
        gpu.queue.upload(bytemuck::cast_slice(&vec![f32::NAN; length]), memory.buffer()?);
    }
    Ok(memory)
}

/// Where an array lives.
fn memory(x: &Array) -> &Arc<Memory> {
    match x.buffer() {
        Buffer::Gpu(memory) => memory,
        _ => unreachable!("Device::run has checked the device of each input"),
    }
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;
