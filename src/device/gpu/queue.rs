//! The one open encoder: work is recorded as it comes and submitted when somebody reads, or when
//! enough has gathered.
//!
//! Submitting costs, so many dispatches share one compute pass and one submission; the driver keeps
//! their order and lets each see what those before it wrote. Parameters of a dispatch are a slot in
//! one uniform buffer, bound at a dynamic offset; small uploads gather in one staging buffer. Both are
//! written just before the submission that uses them.
//! Read next: `pipeline.rs`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use super::context::Context;
use super::pipeline::Pipeline;

/// Alignment of parameter slots, which every adapter accepts.
const SLOT: usize = 256;
/// Bytes of parameters that one submission holds.
const SLOTS: usize = 256 * SLOT;
/// Larger uploads go their own way.
const STAGING: usize = 1 << 20;
/// A submission goes off with this many dispatches, so that the GPU starts before somebody reads.
const FULL: usize = 128;
/// Submissions that may wait for the GPU; one more waits for the oldest.
const IN_FLIGHT: usize = 8;

/// What went wrong on a device, once something has. It stays: what the device computed since is lost.
#[derive(Clone, Default)]
pub struct Failure(Arc<Mutex<Option<String>>>);

impl Failure {
    /// Notes a failure, unless an earlier one is noted.
    pub fn note(&self, what: String) {
        self.lock().get_or_insert(what);
    }

    /// What went wrong.
    pub fn get(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().expect("no code panics while it holds a failure")
    }
}

/// One piece of work for the GPU.
pub struct Dispatch<'a> {
    /// What is run.
    pub pipeline: &'a Pipeline,
    /// The words of the uniform `params`.
    pub params: &'a [u32],
    /// Bindings 1, 2, ..: inputs, then outputs.
    pub buffers: &'a [wgpu::BufferBinding<'a>],
    /// Workgroups along x and y.
    pub grid: [u32; 2],
    /// Floating-point operations, where they are many.
    pub flops: u64,
}

/// Records work for one device and hands it over.
pub struct Queue {
    device: wgpu::Device,
    queue: wgpu::Queue,
    failure: Failure,
    /// A submission goes off with this much arithmetic.
    work_limit: u64,
    params: wgpu::Buffer,
    staging: wgpu::Buffer,
    open: Mutex<Open>,
}

/// What was recorded and not yet submitted.
#[derive(Default)]
struct Open {
    /// Ends before the encoder does, so it stands before it.
    pass: Option<wgpu::ComputePass<'static>>,
    encoder: Option<wgpu::CommandEncoder>,
    params: Vec<u8>,
    staged: Vec<u8>,
    dispatches: usize,
    /// Dispatches since the queue was made.
    total: u64,
    flops: u64,
    in_flight: VecDeque<wgpu::SubmissionIndex>,
}

impl Queue {
    /// An empty queue.
    pub fn new(context: &Context, failure: &Failure) -> Queue {
        let Context { device, queue, work_limit, .. } = context;
        let buffer = |size: usize, usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: size as u64,
                usage: usage | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        Queue {
            params: buffer(SLOTS, wgpu::BufferUsages::UNIFORM),
            staging: buffer(STAGING, wgpu::BufferUsages::COPY_SRC),
            device: device.clone(),
            queue: queue.clone(),
            failure: failure.clone(),
            work_limit: *work_limit,
            open: Mutex::default(),
        }
    }

    /// Records a dispatch.
    pub fn dispatch(&self, work: &Dispatch) {
        if self.failure.get().is_some() {
            return;
        }
        let mut open = self.lock();
        let bytes: &[u8] = bytemuck::cast_slice(work.params);
        if open.params.len() + bytes.len().next_multiple_of(SLOT) > SLOTS {
            self.submit(&mut open);
        }
        let offset = open.params.len();
        open.params.extend_from_slice(bytes);
        open.params.resize(offset + bytes.len().next_multiple_of(SLOT), 0);
        let group = self.bind_group(work, bytes.len());
        let pass = open.pass(&self.device);
        pass.set_pipeline(&work.pipeline.pipeline);
        pass.set_bind_group(0, &group, &[offset as u32]);
        pass.dispatch_workgroups(work.grid[0], work.grid[1], 1);
        open.dispatches += 1;
        open.total += 1;
        open.flops += work.flops;
        if open.dispatches >= FULL || open.flops >= self.work_limit {
            self.submit(&mut open);
        }
    }

    fn bind_group(&self, work: &Dispatch, params: usize) -> wgpu::BindGroup {
        let size = wgpu::BufferSize::new(params.next_multiple_of(16) as u64);
        let params = wgpu::BufferBinding { buffer: &self.params, offset: 0, size };
        let entries: Vec<wgpu::BindGroupEntry> = std::iter::once(&params)
            .chain(work.buffers)
            .zip(0..)
            .map(|(binding, number)| wgpu::BindGroupEntry {
                binding: number,
                resource: wgpu::BindingResource::Buffer(binding.clone()),
            })
            .collect();
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &work.pipeline.layout,
            entries: &entries,
        })
    }

    /// Writes bytes (a multiple of four) to the start of a buffer, after everything recorded so far.
    pub fn upload(&self, bytes: &[u8], target: &wgpu::Buffer) {
        if bytes.is_empty() || self.failure.get().is_some() {
            return;
        }
        let mut open = self.lock();
        if open.staged.len() + bytes.len() > STAGING {
            self.submit(&mut open);
        }
        if bytes.len() > STAGING {
            // Nothing is recorded now, so writing at once keeps the order.
            self.queue.write_buffer(target, 0, bytes);
            return;
        }
        let offset = open.staged.len() as u64;
        open.staged.extend_from_slice(bytes);
        let size = bytes.len() as u64;
        open.encoder(&self.device).copy_buffer_to_buffer(&self.staging, offset, target, 0, size);
    }

    /// Submits everything recorded and waits for `count` elements from `start` on.
    pub fn read(&self, source: &wgpu::Buffer, start: usize, count: usize) -> Result<Vec<f32>, String> {
        self.check()?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let size = 4 * count as u64;
        let target = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read"),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut open = self.lock();
        open.encoder(&self.device).copy_buffer_to_buffer(source, 4 * start as u64, &target, 0, size);
        self.submit(&mut open);
        drop(open);
        let failure = self.failure.clone();
        target.map_async(wgpu::MapMode::Read, .., move |result| {
            if let Err(error) = result {
                failure.note(format!("values could not be read: {error}"));
            }
        });
        self.wait_for(wgpu::PollType::wait_indefinitely())?;
        let view = target.get_mapped_range(..).map_err(|error| error.to_string())?;
        Ok(bytemuck::pod_collect_to_vec(&view))
    }

    /// Submits everything recorded and waits until it is done.
    pub fn wait(&self) -> Result<(), String> {
        self.check()?;
        self.submit(&mut self.lock());
        self.wait_for(wgpu::PollType::wait_indefinitely())
    }

    /// Dispatches that were ever recorded.
    pub fn dispatches(&self) -> u64 {
        self.lock().total
    }

    fn check(&self) -> Result<(), String> {
        match self.failure.get() {
            None => Ok(()),
            Some(why) => Err(format!("{why}; open a new device, or use the device cpu")),
        }
    }

    fn wait_for(&self, until: wgpu::PollType) -> Result<(), String> {
        if let Err(error) = self.device.poll(until) {
            self.failure.note(format!("waiting for the device failed: {error}"));
        }
        self.check()
    }

    fn submit(&self, open: &mut Open) {
        drop(open.pass.take());
        let Some(encoder) = open.encoder.take() else { return };
        for (buffer, bytes) in [(&self.params, &mut open.params), (&self.staging, &mut open.staged)] {
            if !bytes.is_empty() {
                self.queue.write_buffer(buffer, 0, bytes);
                bytes.clear();
            }
        }
        (open.dispatches, open.flops) = (0, 0);
        open.in_flight.push_back(self.queue.submit([encoder.finish()]));
        if open.in_flight.len() > IN_FLIGHT {
            let submission_index = open.in_flight.pop_front();
            // A failure is noted, and whoever reads next is told.
            let _ = self.wait_for(wgpu::PollType::Wait { submission_index, timeout: None });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("no code panics while it records")
    }
}

impl Open {
    /// The encoder, between passes.
    fn encoder(&mut self, device: &wgpu::Device) -> &mut wgpu::CommandEncoder {
        drop(self.pass.take());
        self.encoder
            .get_or_insert_with(|| device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default()))
    }

    /// The compute pass that is open.
    fn pass(&mut self, device: &wgpu::Device) -> &mut wgpu::ComputePass<'static> {
        if self.pass.is_none() {
            let pass = self.encoder(device).begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            self.pass = Some(pass.forget_lifetime());
        }
        self.pass.as_mut().expect("just opened")
    }
}
