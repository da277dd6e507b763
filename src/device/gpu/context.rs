//! Choosing an adapter and opening it: the setup, done once per device.
//!
//! An adapter is what a driver offers: a graphics card, the graphics part of a processor, or a
//! program that computes on the processor and only looks like one. Nothing is chosen silently that
//! the caller refused, and every failure says what was found and what to do.
//! Read next: `queue.rs`.

use std::fmt;

use crate::error::{Error, Result};

/// Floating-point operations of one dispatch, because systems stop work that lasts seconds: a slow
/// adapter does this much in well below one.
const WORK: u64 = 20_000_000_000;
/// Bytes of as many elements as shaders count in 32 bits.
const COUNTABLE: u64 = 4 * u32::MAX as u64;

/// Which of several adapters is preferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Power {
    /// A graphics card of its own before one that is part of the processor.
    #[default]
    High,
    /// The other way round.
    Low,
}

/// How a GPU is chosen. [`Default`] takes the fastest kind and accepts a software adapter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuOptions {
    /// Which of several adapters is preferred.
    pub power: Power,
    /// A part of the adapter's name, in small or large letters.
    pub name: Option<String>,
    /// Whether an adapter that computes on the processor is an error.
    pub refuse_software: bool,
    /// Bytes of one buffer that a shader binds at once, where less than the adapter allows; larger
    /// arrays are worked on in pieces. Meant for tests.
    pub binding_limit: Option<u64>,
    /// Floating-point operations of one dispatch, where less than usual; larger products are computed
    /// in pieces. Meant for tests.
    pub work_limit: Option<u64>,
    /// Bytes of all arrays together, those that wait for their next use included; as many as the device
    /// gives unless set.
    pub memory_limit: Option<u64>,
}

impl GpuOptions {
    /// What the environment says: `ENGRAD_GPU_NAME` (a part of a name), `ENGRAD_GPU_POWER` (`high` or
    /// `low`), `ENGRAD_GPU_SOFTWARE` (`accept` or `refuse`).
    ///
    /// **Errors** when a variable holds another word.
    pub fn from_environment() -> Result<GpuOptions> {
        let word = |variable: &str, words: [&str; 2]| match std::env::var(variable) {
            Err(_) => Ok(false),
            Ok(found) if found == words[0] => Ok(false),
            Ok(found) if found == words[1] => Ok(true),
            Ok(found) => Err(Error::Device(format!(
                "{variable} is {found:?}, expected {:?} or {:?}",
                words[0], words[1]
            ))),
        };
        Ok(GpuOptions {
            power: if word("ENGRAD_GPU_POWER", ["high", "low"])? { Power::Low } else { Power::High },
            name: std::env::var("ENGRAD_GPU_NAME").ok().filter(|name| !name.is_empty()),
            refuse_software: word("ENGRAD_GPU_SOFTWARE", ["accept", "refuse"])?,
            ..GpuOptions::default()
        })
    }
}

/// What a driver offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterInfo {
    /// The name the driver gives.
    pub name: String,
    /// What kind of hardware: `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// The interface below: `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
}

impl AdapterInfo {
    fn of(adapter: &wgpu::Adapter) -> AdapterInfo {
        let info = adapter.get_info();
        AdapterInfo {
            name: info.name,
            kind: match info.device_type {
                wgpu::DeviceType::DiscreteGpu => "discrete",
                wgpu::DeviceType::IntegratedGpu => "integrated",
                wgpu::DeviceType::VirtualGpu => "virtual",
                wgpu::DeviceType::Cpu => "software",
                wgpu::DeviceType::Other => "other",
            },
            backend: info.backend.to_string(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
        }
    }

    /// Whether it computes on the processor.
    pub fn is_software(&self) -> bool {
        self.kind == "software"
    }

    /// The place among the kinds; the smallest is taken.
    fn rank(&self, power: Power) -> usize {
        let order = match power {
            Power::High => ["discrete", "integrated", "virtual", "other", "software"],
            Power::Low => ["integrated", "discrete", "virtual", "other", "software"],
        };
        order.iter().position(|kind| *kind == self.kind).unwrap_or(order.len())
    }
}

impl fmt::Display for AdapterInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {}, {})", self.name, self.kind, self.backend, self.driver)
    }
}

/// Every adapter of this machine, to be printed.
pub fn adapters() -> Vec<AdapterInfo> {
    found().iter().map(AdapterInfo::of).collect()
}

fn found() -> Vec<wgpu::Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()))
}

/// An opened adapter.
pub struct Context {
    /// What was opened.
    pub info: AdapterInfo,
    /// Bytes of the largest buffer it can hold.
    pub buffer_limit: u64,
    /// Bytes of one buffer that a shader can bind.
    pub binding_limit: u64,
    /// Floating-point operations of one dispatch.
    pub work_limit: u64,
    /// Whether shaders may use subgroup operations.
    pub subgroups: bool,
    /// Makes buffers, pipelines and encoders.
    pub device: wgpu::Device,
    /// Takes finished encoders.
    pub queue: wgpu::Queue,
}

impl Context {
    /// Opens the adapter that fits the options best.
    ///
    /// **Errors** when there is none, or when it cannot be opened.
    pub fn open(options: &GpuOptions) -> Result<Context> {
        let adapter = choose(found(), options)?;
        let info = AdapterInfo::of(&adapter);
        check_features(&info, adapter.get_downlevel_capabilities().flags)?;
        let limits = adapter.limits();
        let subgroups = adapter.features().contains(wgpu::Features::SUBGROUP);
        let descriptor = wgpu::DeviceDescriptor {
            required_features: if subgroups { wgpu::Features::SUBGROUP } else { wgpu::Features::empty() },
            required_limits: limits.clone(),
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) =
            pollster::block_on(adapter.request_device(&descriptor)).map_err(|error| refused(&info, error))?;
        let buffer_limit = limits.max_buffer_size.min(COUNTABLE);
        let binding_limit = limits.max_storage_buffer_binding_size.min(buffer_limit);
        let binding_limit = options.binding_limit.map_or(binding_limit, |limit| limit.min(binding_limit));
        let work_limit = options.work_limit.map_or(WORK, |limit| limit.min(WORK));
        Ok(Context { info, buffer_limit, binding_limit, work_limit, subgroups, device, queue })
    }
}

fn refused(info: &AdapterInfo, why: impl fmt::Display) -> Error {
    Error::Device(format!(
        "{info} cannot be opened: {why}; choose another by ENGRAD_GPU_NAME, or use the device cpu"
    ))
}

/// Whether an adapter can do what no shader here goes without.
fn check_features(info: &AdapterInfo, flags: wgpu::DownlevelFlags) -> Result<()> {
    match flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS) {
        true => Ok(()),
        false => Err(refused(info, "it runs no compute shaders")),
    }
}

fn choose(found: Vec<wgpu::Adapter>, options: &GpuOptions) -> Result<wgpu::Adapter> {
    let infos: Vec<AdapterInfo> = found.iter().map(AdapterInfo::of).collect();
    let at = choice(&infos, options)?;
    Ok(found.into_iter().nth(at).expect("a choice among those found"))
}

/// The number of the adapter to take.
fn choice(infos: &[AdapterInfo], options: &GpuOptions) -> Result<usize> {
    if infos.is_empty() {
        return Err(Error::Device(
            "no graphics adapter was found; install a driver for Vulkan, Metal or DirectX 12 \
             (Mesa's package mesa-vulkan-drivers holds one that needs no graphics card), or use the device cpu"
                .into(),
        ));
    }
    let listed = || infos.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let named = |info: &AdapterInfo| match &options.name {
        Some(name) => info.name.to_lowercase().contains(&name.to_lowercase()),
        None => true,
    };
    let mut fitting: Vec<usize> = (0..infos.len()).filter(|&at| named(&infos[at])).collect();
    if fitting.is_empty() {
        let name = options.name.as_deref().unwrap_or_default();
        return Err(Error::Device(format!("no adapter is called {name:?}; there are: {}", listed())));
    }
    if options.refuse_software {
        fitting.retain(|&at| !infos[at].is_software());
        if fitting.is_empty() {
            return Err(Error::Device(format!(
                "only a software adapter fits, which was refused; accept it, or use the device cpu; there are: {}",
                listed()
            )));
        }
    }
    // The first of equals, in the driver's order.
    Ok(fitting.into_iter().min_by_key(|&at| infos[at].rank(options.power)).expect("at least one fits"))
}

#[cfg(test)]
#[path = "context_tests.rs"]
mod tests;
