//! Shader files, and the compiled pipelines made of them.
//!
//! A shader is a plain WGSL file in `shaders/` with the parts it needs put in front. It is compiled
//! when it is first used and kept. Bindings are always: 0 the parameters, then the inputs, then the
//! outputs.
//! Read next: `render.rs`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

macro_rules! shaders {
    ($($name:ident: $($part:ident),*;)*) => {
        /// Every shader by name, with the names and texts of the files it consists of.
        const SHADERS: &[(&str, &[(&str, &str)])] = &[
            $((stringify!($name), &[
                $((stringify!($part), include_str!(concat!("../../../shaders/", stringify!($part), ".wgsl"))),)*
                (stringify!($name), include_str!(concat!("../../../shaders/", stringify!($name), ".wgsl"))),
            ])),*
        ];
    };
}

shaders! {
    elementwise: common, math, normal, angle, random;
    reduce: rows, common;
    arg_max: common, order;
    arg_sort: common, order;
    recurrence: common;
    matmul_naive: common, matmul;
    matmul_tiled: common, matmul;
    matmul_blocked: common, matmul;
    matmul_direct: common, matmul;
    matmul_thin: common, matmul;
    matmul_vector: rows, common, matmul;
    concat: common;
    gather: common;
    scatter_add: common;
    softmax: rows, common, math;
    softmax_grad: rows, common;
    normalise: rows, common;
    normalise_grad: rows, common;
    cross_entropy: rows, common, math;
    cross_entropy_grad: common, math;
    attention: common, math, random, attention_block;
    attention_grad: common, math, random, attention_block;
}

/// The names of all shaders.
pub fn names() -> impl Iterator<Item = &'static str> {
    SHADERS.iter().map(|(name, _)| *name)
}

/// Who works on a row, in the shaders that fold rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// One invocation.
    Alone,
    /// A workgroup, through its memory.
    Workgroup,
    /// A workgroup, with subgroup operations.
    Subgroups,
}

impl Sharing {
    /// All of them.
    pub const ALL: [Sharing; 3] = [Sharing::Alone, Sharing::Workgroup, Sharing::Subgroups];

    /// The file that stands in the place of `rows.wgsl`.
    fn part(self, rows: &'static str) -> &'static str {
        match self {
            Sharing::Alone => include_str!("../../../shaders/rows_alone.wgsl"),
            Sharing::Workgroup => rows,
            Sharing::Subgroups => include_str!("../../../shaders/rows_subgroup.wgsl"),
        }
    }
}

/// The whole text of a shader, as a driver gets it.
///
/// **Panics** when there is no such shader.
pub fn source(name: &str, sharing: Sharing) -> String {
    let found = SHADERS.iter().find(|(shader, _)| *shader == name);
    let (_, parts) = found.unwrap_or_else(|| panic!("no shader is called {name:?}"));
    let text = |&(part, text): &(&str, &'static str)| match part {
        "rows" => sharing.part(text),
        _ => text,
    };
    parts.iter().map(text).collect::<Vec<_>>().join("\n")
}

/// A compiled entry point and the layout of its bindings.
pub struct Pipeline {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
}

/// What a pipeline is made of.
#[derive(Clone, Copy)]
pub struct Recipe<'a> {
    /// The name in messages.
    pub name: &'a str,
    /// The function that is run.
    pub entry: &'a str,
    /// How many buffers are read.
    pub inputs: usize,
    /// How many buffers are written.
    pub outputs: usize,
}

/// The pipelines of one device, by text and entry point.
#[derive(Default)]
pub struct Pipelines {
    compiled: Mutex<HashMap<String, Arc<Pipeline>>>,
}

impl Pipelines {
    /// The pipeline of a key; `text` is only asked for the first time.
    pub fn get(
        &self,
        device: &wgpu::Device,
        key: &str,
        recipe: Recipe,
        text: impl FnOnce() -> String,
    ) -> Arc<Pipeline> {
        let mut compiled = self.compiled.lock().expect("no code panics while it holds the pipelines");
        if let Some(pipeline) = compiled.get(key) {
            return pipeline.clone();
        }
        let pipeline = Arc::new(compile(device, recipe, text()));
        compiled.insert(key.to_string(), pipeline.clone());
        pipeline
    }

    /// How many pipelines were compiled.
    pub fn count(&self) -> usize {
        self.compiled.lock().expect("no code panics while it holds the pipelines").len()
    }
}

fn compile(device: &wgpu::Device, recipe: Recipe, text: String) -> Pipeline {
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(recipe.name),
        source: wgpu::ShaderSource::Wgsl(text.into()),
    });
    let entries: Vec<wgpu::BindGroupLayoutEntry> = (0..=recipe.inputs + recipe.outputs)
        .map(|binding| wgpu::BindGroupLayoutEntry {
            binding: binding as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: match binding {
                    0 => wgpu::BufferBindingType::Uniform,
                    _ => wgpu::BufferBindingType::Storage { read_only: binding <= recipe.inputs },
                },
                has_dynamic_offset: binding == 0,
                min_binding_size: None,
            },
            count: None,
        })
        .collect();
    let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some(recipe.name),
        entries: &entries,
    });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(recipe.name),
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(recipe.name),
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some(recipe.entry),
        // Every shader writes its workgroup memory before it reads it.
        compilation_options: wgpu::PipelineCompilationOptions {
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        },
        cache: None,
    });
    Pipeline { pipeline, layout }
}
