//! The GPU device: every kernel as a WGSL shader, run through wgpu on Vulkan, Metal or DirectX 12.
//!
//! This file says for each kernel which shader runs, with which parameters and over how many
//! workgroups; the shaders are in `shaders/`, one file per kernel. Row kernels take dense rows: what
//! lies otherwise is copied first. Work is recorded, not awaited: a failure shows when somebody reads.
//! Read next: `context.rs` (opening), `memory.rs` (buffers), `queue.rs` (submission), `pipeline.rs`
//! (compilation), `render.rs` (formulas), then `matmul.rs` and `reduce.rs`, which choose by shape.

mod context;
mod matmul;
mod memory;
pub mod pipeline;
mod queue;
mod reduce;
pub mod render;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::array::{Array, Buffer};
use super::kernel::Kernel;
use crate::error::{Error, Result};
use crate::expr::Program;
use crate::layout::Layout;
use context::Context;
pub use context::{AdapterInfo, GpuOptions, Power, adapters};
pub use memory::{Memory, PoolStatistics};
use pipeline::{Pipelines, Recipe};
use queue::{Dispatch, Failure, Queue};

/// Invocations per workgroup where each works for itself: `ELEMENT_GROUP` of `common.wgsl`.
const ELEMENT_GROUP: usize = 256;

/// An opened GPU.
pub struct Gpu {
    context: Context,
    queue: Queue,
    pool: memory::Pool,
    pipelines: Pipelines,
    failure: Failure,
    poison: AtomicBool,
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
            queue: Queue::new(&context.device, &context.queue, &failure),
            context,
            pool: memory::Pool::default(),
            pipelines: Pipelines::default(),
            failure,
            poison: AtomicBool::new(false),
        }))
    }

    /// What was opened.
    pub fn adapter(&self) -> &AdapterInfo {
        &self.context.info
    }

    /// How full the buffer pool is now.
    pub fn pool_statistics(&self) -> PoolStatistics {
        self.pool.statistics()
    }

    /// How many pipelines were compiled.
    pub fn pipelines(&self) -> usize {
        self.pipelines.count()
    }

    /// Fills every buffer with NaN before a kernel writes to it, so that an element nobody wrote
    /// shows. Meant for tests.
    pub fn poison_new_buffers(&self, on: bool) {
        self.poison.store(on, Ordering::Relaxed);
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

    fn error(&self, why: &str) -> Error {
        Error::Device(format!("{}: {why}; open a new device, or use the device cpu", self.context.info))
    }

    /// A buffer of `size` bytes, or why there is none.
    fn make_buffer(&self, size: u64) -> std::result::Result<wgpu::Buffer, String> {
        if size > self.context.limits.max_buffer_size {
            let largest = self.context.limits.max_buffer_size;
            return Err(format!("{size} bytes are more than its largest buffer of {largest}"));
        }
        let scope = self.context.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.context.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        match pollster::block_on(scope.pop()) {
            None => Ok(buffer),
            Some(_) => Err(format!("out of memory: no room for {size} bytes")),
        }
    }
}

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
    let dense = contiguous(x);
    let memory = memory(&dense);
    let values = match memory.buffer() {
        Ok(buffer) => memory.gpu().queue.read(buffer, dense.layout().offset(), dense.layout().count()),
        Err(why) => Err(why.to_string()),
    };
    values.map_err(|why| memory.gpu().error(&why))
}

/// Records one kernel.
pub fn run(gpu: &Arc<Gpu>, kernel: &Kernel) -> Vec<Array> {
    let sizes = kernel.output_sizes();
    let count = |sizes: &Vec<usize>| sizes.iter().product::<usize>();
    let inputs = kernel.inputs();
    let void = inputs.iter().find_map(|x| memory(x).buffer().err());
    let outputs: Vec<Memory> = match void {
        Some(why) => sizes.iter().map(|sizes| Memory::void(gpu, count(sizes), why)).collect(),
        None => sizes.iter().map(|sizes| reserve(gpu, count(sizes))).collect(),
    };
    // Where there is no room for one output, none is computed; the others then hold nothing either.
    let void = outputs.iter().find_map(|memory| memory.buffer().err().cloned());
    let outputs: Vec<Memory> = match &void {
        Some(why) => outputs.iter().map(|memory| Memory::void(gpu, memory.len(), why)).collect(),
        None => outputs,
    };
    if void.is_none() && outputs.iter().any(|memory| !memory.is_empty()) {
        record(gpu, kernel, &outputs.iter().collect::<Vec<_>>());
    }
    let array = |(memory, sizes): (Memory, Vec<usize>)| {
        Array::new(Layout::contiguous(sizes), Buffer::Gpu(Arc::new(memory)))
    };
    outputs.into_iter().zip(sizes).map(array).collect()
}

/// Finds the shader, its parameters and its grid for a kernel with at least one element to compute.
fn record(gpu: &Arc<Gpu>, kernel: &Kernel, outputs: &[&Memory]) {
    match (kernel, outputs) {
        (Kernel::Elementwise { program, inputs, .. }, _) => elementwise(gpu, program, inputs, outputs),
        (Kernel::Reduce { op, x, axes }, [y]) => reduce::run(gpu, *op, x, axes, y),
        (Kernel::MatMul { a, b, scale, add }, [y]) => matmul::run(gpu, a, b, *scale as f32, *add, y),
        (Kernel::Concat { parts, axis }, _) => concat(gpu, parts, *axis, outputs),
        (Kernel::ArgMax { x }, _) => {
            let x = Rows::of(x);
            launch(gpu, "arg_max", &[x.count, x.width, x.offset], &[x.memory()], outputs, x.by_row());
        }
        (Kernel::ArgSort { x, descending }, _) => {
            let x = Rows::of(x);
            let flip = if *descending { u32::MAX } else { 0 };
            let params = [x.elements(), x.width, x.offset, flip];
            launch(gpu, "arg_sort", &params, &[x.memory()], outputs, x.by_element());
        }
        (Kernel::Recurrence { decay, input }, _) => {
            let [decay, input] = [decay, input].map(|x| Rows::of(x));
            let params = [input.count, input.width, decay.offset, input.offset];
            let inputs = [decay.memory(), input.memory()];
            launch(gpu, "recurrence", &params, &inputs, outputs, per_element(input.count));
        }
        (Kernel::Gather { table, ids }, [y]) => {
            let table = Rows::behind(table, 1);
            let params = [y.len() as u32, table.width, table.offset, 0, table.count];
            let ids = upload_words(gpu, ids.values());
            launch(gpu, "gather", &params, &[table.memory(), &ids], outputs, per_element(y.len() as u32));
        }
        (Kernel::ScatterAdd { rows, ids, count }, [y]) => {
            let rows = Rows::of(rows);
            let sources = ids.sources(*count);
            let [starts, positions] =
                [sources.starts(), sources.positions()].map(|words| upload_words(gpu, words));
            let params = [y.len() as u32, rows.width, rows.offset];
            let inputs = [rows.memory(), &starts, &positions];
            launch(gpu, "scatter_add", &params, &inputs, outputs, per_element(y.len() as u32));
        }
        (Kernel::Softmax { x }, _) => {
            let x = Rows::of(x);
            launch(gpu, "softmax", &[x.count, x.width, x.offset], &[x.memory()], outputs, x.by_row());
        }
        (Kernel::SoftmaxGrad { y, g }, _) => {
            let [y, g] = [y, g].map(|x| Rows::of(x));
            let params = [y.count, y.width, y.offset, g.offset];
            launch(gpu, "softmax_grad", &params, &[y.memory(), g.memory()], outputs, y.by_row());
        }
        (Kernel::Normalise { x, eps, centred }, _) => {
            let x = Rows::of(x);
            let params = [x.count, x.width, x.offset, (*eps as f32).to_bits(), u32::from(*centred)];
            launch(gpu, "normalise", &params, &[x.memory()], outputs, x.by_row());
        }
        (Kernel::NormaliseGrad { y, rstd, g, centred }, _) => {
            let [y, rstd, g] = [y, rstd, g].map(|x| Rows::of(x));
            let params = [y.count, y.width, y.offset, rstd.offset, g.offset, u32::from(*centred)];
            let inputs = [y.memory(), rstd.memory(), g.memory()];
            launch(gpu, "normalise_grad", &params, &inputs, outputs, y.by_row());
        }
        (Kernel::CrossEntropy { logits, targets }, _) => {
            let logits = Rows::of(logits);
            let targets = upload_words(gpu, targets.values());
            let params = [logits.count, logits.width, logits.offset];
            launch(gpu, "cross_entropy", &params, &[logits.memory(), &targets], outputs, logits.by_row());
        }
        (Kernel::CrossEntropyGrad { logits, log_sum, targets, g }, _) => {
            let [logits, log_sum, g] = [logits, log_sum, g].map(|x| Rows::of(x));
            let targets = upload_words(gpu, targets.values());
            let params = [logits.elements(), logits.width, logits.offset, log_sum.offset, g.offset];
            let inputs = [logits.memory(), log_sum.memory(), &targets, g.memory()];
            launch(gpu, "cross_entropy_grad", &params, &inputs, outputs, logits.by_element());
        }
        _ => unreachable!("as many outputs as Kernel::output_sizes says"),
    }
}

/// A dense array seen as rows.
struct Rows {
    dense: Array,
    count: u32,
    width: u32,
    offset: u32,
}

impl Rows {
    /// Rows along the last axis.
    fn of(x: &Array) -> Rows {
        Rows::behind(x, x.sizes().len().saturating_sub(1))
    }

    /// Rows of all elements behind the first `axes` axes.
    fn behind(x: &Array, axes: usize) -> Rows {
        let dense = contiguous(x);
        let (outer, inner) = x.sizes().split_at(axes);
        let count = outer.iter().product::<usize>() as u32;
        let width = inner.iter().product::<usize>() as u32;
        let offset = dense.layout().offset() as u32;
        Rows { dense, count, width, offset }
    }

    fn memory(&self) -> &Memory {
        memory(&self.dense)
    }

    fn elements(&self) -> u32 {
        self.count * self.width
    }

    /// Workgroups when each takes one row.
    fn by_row(&self) -> usize {
        self.count as usize
    }

    /// Workgroups when each invocation takes one element.
    fn by_element(&self) -> usize {
        per_element(self.elements())
    }
}

/// Workgroups when each invocation does one of `count` things.
fn per_element(count: u32) -> usize {
    (count as usize).div_ceil(ELEMENT_GROUP)
}

/// Where an array lives.
fn memory(x: &Array) -> &Memory {
    match x.buffer() {
        Buffer::Gpu(memory) => memory,
        _ => unreachable!("Device::run has checked the device of each input"),
    }
}

/// Memory for a kernel to write.
fn reserve(gpu: &Arc<Gpu>, length: usize) -> Memory {
    let memory = Memory::reserve(gpu, length);
    if gpu.poison.load(Ordering::Relaxed) && length > 0 && memory.buffer().is_ok() {
        elementwise(gpu, &Program::constant(f64::NAN), &[], &[&memory]);
    }
    memory
}

/// The array itself if it is contiguous, else a contiguous copy.
fn contiguous(x: &Array) -> Array {
    if x.layout().is_contiguous() {
        return x.clone();
    }
    let program = Program::build(|[x]| x);
    let copy = Kernel::Elementwise { program: &program, inputs: &[x], sizes: x.sizes() };
    run(memory(x).gpu(), &copy).pop().expect("an elementwise kernel with one output")
}

fn elementwise(gpu: &Arc<Gpu>, program: &Program, inputs: &[&Array], outputs: &[&Memory]) {
    let count = outputs[0].len();
    let layouts: Vec<&Layout> = inputs.iter().map(|x| x.layout()).collect();
    let Some(rendered) = render::render(program, &layouts, 0, count) else {
        // Too many axes for the parameters. Dense inputs need none; and who writes a hundred
        // numbers into one formula is told by the index that fails.
        let dense: Vec<Array> = inputs.iter().map(|x| contiguous(x)).collect();
        assert!(
            inputs.iter().any(|x| !x.layout().is_contiguous()),
            "elementwise: a formula with too many inputs and numbers for one shader"
        );
        return elementwise(gpu, program, &dense.iter().collect::<Vec<_>>(), outputs);
    };
    let recipe =
        Recipe { name: "elementwise", entry: "main", inputs: inputs.len(), outputs: outputs.len() };
    let pipeline =
        gpu.pipelines.get(&gpu.context.device, &rendered.text, recipe, || rendered.shader());
    let inputs: Vec<&Memory> = inputs.iter().map(|x| memory(x)).collect();
    dispatch(gpu, &pipeline, &rendered.words, &inputs, outputs, per_element(count as u32), 0);
}

fn concat(gpu: &Arc<Gpu>, parts: &[&Array], axis: usize, outputs: &[&Memory]) {
    let parts: Vec<Rows> = parts.iter().map(|part| Rows::behind(part, axis)).collect();
    let total: u32 = parts.iter().map(|part| part.width).sum();
    let mut start = 0;
    for part in parts.iter().filter(|part| part.elements() > 0) {
        let params = [part.elements(), part.width, part.offset, total, start];
        launch(gpu, "concat", &params, &[part.memory()], outputs, part.by_element());
        start += part.width;
    }
}

/// Records a shader whose only entry point is `main`.
fn launch(
    gpu: &Gpu,
    shader: &str,
    params: &[u32],
    inputs: &[&Memory],
    outputs: &[&Memory],
    groups: usize,
) {
    launch_entry(gpu, shader, "main", params, inputs, outputs, groups, 0);
}

/// Records an entry point of a shader.
#[allow(clippy::too_many_arguments)]
fn launch_entry(
    gpu: &Gpu,
    shader: &str,
    entry: &str,
    params: &[u32],
    inputs: &[&Memory],
    outputs: &[&Memory],
    groups: usize,
    flops: u64,
) {
    let recipe = Recipe { name: shader, entry, inputs: inputs.len(), outputs: outputs.len() };
    let key = format!("{shader} {entry}");
    let pipeline = gpu.pipelines.get(&gpu.context.device, &key, recipe, || pipeline::source(shader));
    dispatch(gpu, &pipeline, params, inputs, outputs, groups, flops);
}

fn dispatch(
    gpu: &Gpu,
    pipeline: &pipeline::Pipeline,
    params: &[u32],
    inputs: &[&Memory],
    outputs: &[&Memory],
    groups: usize,
    flops: u64,
) {
    // A copy made on the way may have found no room; then there is nothing to run on.
    let buffers: std::result::Result<Vec<_>, _> =
        inputs.iter().chain(outputs).map(|memory| memory.buffer()).collect();
    let Ok(buffers) = buffers else { return };
    let bindings: Vec<_> = buffers.iter().map(|buffer| buffer.as_entire_buffer_binding()).collect();
    gpu.queue.dispatch(&Dispatch { pipeline, params, buffers: &bindings, grid: grid(groups), flops });
}

/// Workgroups along x and y, since one axis holds no more than 65,535.
fn grid(groups: usize) -> [u32; 2] {
    let rows = groups.div_ceil(65_535).max(1);
    [groups.div_ceil(rows) as u32, rows as u32]
}

/// Two are the same when they are one.
impl PartialEq for Gpu {
    fn eq(&self, other: &Gpu) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Gpu {}
