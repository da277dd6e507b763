//! Every shader is read, checked and translated for all three drivers, on a machine without any: with
//! naga, the compiler inside wgpu, and with tint where it is installed. The limits are those every
//! WebGPU adapter keeps.
#![cfg(feature = "gpu")]

use engrad::device::gpu::render::{self, Guard};
use engrad::device::gpu::{Sharing, pipeline};
use engrad::expr::{Expr, Program};
use engrad::layout::Layout;
use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, back};

/// Bytes of workgroup memory that every adapter has.
const WORKGROUP_MEMORY: u32 = 16 << 10;
/// Invocations per workgroup that every adapter runs.
const INVOCATIONS: u32 = 256;
/// Storage buffers that every adapter binds at once.
const STORAGE_BUFFERS: usize = 8;

/// Reads, checks and translates a shader; `Err` says what is wrong with it.
fn check(text: &str) -> Result<(), String> {
    let module = naga::front::wgsl::parse_str(text).map_err(|error| error.emit_to_string(text))?;
    let capabilities = match text.contains("subgroupAdd") {
        true => Capabilities::SUBGROUP,
        false => Capabilities::empty(),
    };
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .map_err(|error| error.emit_to_string(text))?;
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).map_err(|error| error.to_string())?;
    let size = |space: AddressSpace| -> u32 {
        let variables = module.global_variables.iter().filter(|(_, variable)| variable.space == space);
        variables.map(|(_, variable)| layouter[variable.ty].size).sum()
    };
    let storage = module.global_variables.iter();
    let storage =
        storage.filter(|(_, variable)| matches!(variable.space, AddressSpace::Storage { .. })).count();
    if size(AddressSpace::WorkGroup) > WORKGROUP_MEMORY || storage > STORAGE_BUFFERS {
        return Err(format!(
            "{} bytes of workgroup memory, {storage} storage buffers",
            size(AddressSpace::WorkGroup)
        ));
    }
    for entry in &module.entry_points {
        let invocations: u32 = entry.workgroup_size.iter().product();
        if invocations > INVOCATIONS {
            return Err(format!("{} has {invocations} invocations", entry.name));
        }
        translate(&module, &info, &entry.name).map_err(|error| format!("{}: {error}", entry.name))?;
    }
    match module.entry_points.is_empty() {
        true => Err("no entry point".into()),
        false => Ok(()),
    }
}

fn translate(module: &naga::Module, info: &naga::valid::ModuleInfo, entry: &str) -> Result<(), String> {
    let stage = naga::ShaderStage::Compute;
    let options = back::spv::Options { lang_version: (1, 3), ..Default::default() };
    let pipeline = back::spv::PipelineOptions { shader_stage: stage, entry_point: entry.into() };
    back::spv::write_vec(module, info, &options, Some(&pipeline))
        .map_err(|error| format!("SPIR-V: {error}"))?;

    let options =
        back::msl::Options { fake_missing_bindings: true, lang_version: (2, 4), ..Default::default() };
    let pipeline =
        back::msl::PipelineOptions { entry_point: Some((stage, entry.into())), ..Default::default() };
    let (text, translated) = back::msl::write_string(module, info, &options, &pipeline)
        .map_err(|error| format!("MSL: {error}"))?;
    assert!(!text.is_empty());
    for name in translated.entry_point_names {
        name.map_err(|error| format!("MSL: {error}"))?;
    }

    let options = back::hlsl::Options { fake_missing_bindings: true, ..Default::default() };
    let pipeline = back::hlsl::PipelineOptions { entry_point: Some((stage, entry.into())) };
    let mut text = String::new();
    back::hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(module, info, None)
        .map_err(|error| format!("HLSL: {error}"))?;
    assert!(!text.is_empty());
    Ok(())
}

/// The name and text of every shader, in each form that those which fold rows have.
fn every_shader() -> impl Iterator<Item = (String, String)> {
    let forms = |name| Sharing::ALL.map(|sharing| (name, sharing));
    let text = |(name, sharing)| (format!("{name}.wgsl, {sharing:?}"), pipeline::source(name, sharing));
    pipeline::names().flat_map(forms).map(text)
}

/// Chrome's compiler is stricter than naga, about barriers for one. Where its program `tint` is
/// installed, it must accept every shader too.
#[test]
fn tint_accepts_every_shader_where_it_is_installed() {
    let Some(()) = tint("const fine = 1;").ok() else {
        return eprintln!("skipped: the program tint is not installed");
    };
    let barrier_for_some = "@compute @workgroup_size(8) fn main(@builtin(local_invocation_index) i: u32) \
         { if (i < 4u) { workgroupBarrier(); } }";
    assert!(tint(barrier_for_some).is_err() && check(barrier_for_some).is_ok(), "what naga lets through");
    let mut texts: Vec<(String, String)> = every_shader().collect();
    let program = Program::build_many(everything);
    let transposed = Layout::contiguous([4, 3, 5]).permute(&[2, 0, 1]);
    let rendered =
        render::render(&program, &[&transposed, &transposed], 0, 60, None).expect("a short formula");
    texts.push(("a formula".into(), rendered.shader()));
    let refused = texts.iter().filter_map(|(name, text)| Some(format!("{name}: {}", tint(text).err()?)));
    let refused: Vec<String> = refused.collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

fn tint(text: &str) -> Result<(), String> {
    let file = tempfile::Builder::new().suffix(".wgsl").tempfile().map_err(|error| error.to_string())?;
    // Naga does not know this line yet, without which no other compiler knows the operations.
    let enable = if text.contains("subgroupAdd") { "enable subgroups;\n" } else { "" };
    std::fs::write(file.path(), format!("{enable}{text}")).map_err(|error| error.to_string())?;
    let run = std::process::Command::new("tint").args(["--format", "wgsl"]).arg(file.path()).output();
    let run = run.map_err(|error| error.to_string())?;
    match run.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&run.stderr).into_owned()),
    }
}

#[test]
fn every_shader_compiles_for_every_driver_within_the_default_limits() {
    let mut failed = Vec::new();
    for (name, text) in every_shader() {
        if let Err(error) = check(&text) {
            failed.push(format!("{name}: {error}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_shader_with_a_mistake_is_found() {
    let good = pipeline::source("softmax", Sharing::Workgroup);
    assert!(check(&good.replace("row_sum(sum, here)", "row_sum(sum)")).is_err());
    assert!(check(&good.replace("ROW_GROUP = 64u", "ROW_GROUP = 512u")).is_err());
    assert!(check("const alone = 1;").is_err());
}

/// A formula that uses every instruction.
fn everything<'p>([x, y]: [Expr<'p>; 2]) -> [Expr<'p>; 2] {
    let one = (-x).exp() + x.exp_m1() - y.ln() * x.ln_1p() / y.sqrt() + x.tanh().sigmoid().erf();
    let two = x.sin().max(y.cos()).min(x.abs().sign()).pow(y.floor() + x.ceil() + y.round());
    let three = x.less(y).select(one, x.less_equal(two) + y.equal(x) + x.random(7 << 40));
    [one + two, three]
}

#[test]
fn rendered_programs_compile_for_every_driver_however_their_inputs_lie() {
    let program = Program::build_many(everything);
    let dense = Layout::contiguous([4, 3, 5]);
    let layouts = [
        dense.clone(),
        dense.permute(&[2, 0, 1]).permute(&[1, 2, 0]),
        Layout::contiguous([4, 5, 3]).permute(&[0, 2, 1]),
        dense.flip(0).flip(2),
        Layout::contiguous([3, 1]).expand(&[4, 3, 5]).expect("broadcasts"),
        Layout::contiguous([]).expand(&[4, 3, 5]).expect("broadcasts"),
        Layout::contiguous([9, 7, 11]).slice(0, 1, 9, 2).slice(1, 1, 7, 2).slice(2, 0, 10, 2),
    ];
    for first in &layouts {
        for second in &layouts {
            for guard in [None, Some(Guard { input: 1, length: 32 })] {
                let rendered = render::render(&program, &[first, second], 0, 60, guard);
                let rendered = rendered.expect("a short formula");
                check(&rendered.shader()).unwrap_or_else(|error| panic!("{error}\n{}", rendered.text));
            }
        }
    }
}

#[test]
fn other_numbers_seeds_and_sizes_are_the_same_text() {
    let text = |rate: f64, seed: u64, size: usize| {
        let program = Program::build(|[x]| x.random(seed).less(rate).select(x * rate, -1.0));
        let wide = Layout::contiguous([size, 2 * size]).slice(1, 0, size, 1);
        render::render(&program, &[&wide], 0, size * size, None).expect("a short formula")
    };
    let (one, two) = (text(0.1, 3, 4), text(0.7, 1 << 50, 9));
    assert_eq!(one.text, two.text);
    assert_ne!(one.words, two.words);
}

#[test]
fn a_formula_without_room_for_its_parameters_is_not_rendered() {
    let program = Program::build(|[x]| (0..200).fold(x, |sum, i| sum * (2.0 + f64::from(i))));
    assert!(render::render(&program, &[&Layout::contiguous([3])], 0, 3, None).is_none());
}
