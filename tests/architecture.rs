//! The rules of `ARCHITECTURE.md` that a machine can keep: who may import whom, where kernels are
//! named, how long a file may be, where `unsafe` and macros stand. Exceptions are lists with reasons.

use std::collections::BTreeMap;
use std::path::Path;

/// A source file: its path below the folder that was asked for, its text, and its code without comments.
struct Source {
    path: String,
    text: String,
    code: String,
}

/// The files of the library.
fn sources() -> Vec<Source> {
    let files = sources_in("src");
    assert!(files.len() > 40, "{} files", files.len());
    files
}

fn sources_in(folder: &str) -> Vec<Source> {
    fn collect(folder: &Path, root: &Path, files: &mut Vec<Source>) {
        for entry in std::fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                collect(&path, root, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                let code = text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>();
                let name =
                    path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
                files.push(Source { path: name, code: code.join("\n"), text });
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files = Vec::new();
    collect(&root, &root, &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn source(path: &str) -> Source {
    sources().into_iter().find(|source| source.path == path).unwrap_or_else(|| panic!("no src/{path}"))
}

/// The first folder or file stem: the module of the crate that a file belongs to.
fn module(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

/// The layers of the picture in `lib.rs`, lowest first; modules of a layer do not know each other.
const LAYERS: [&[&str]; 7] = [
    &["layout", "expr", "rng", "metrics", "error"],
    &["device"],
    &["tensor"],
    &["ops"],
    &["nn"],
    &["adapters", "optim"],
    &["train", "tasks"],
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// What `lib.rs` re-exports, with the module it comes from.
fn exports() -> BTreeMap<String, String> {
    let mut exports = BTreeMap::new();
    let code = source("lib.rs").code.replace('\n', " ");
    for line in code.split(';').filter_map(|line| line.trim().strip_prefix("pub use ")) {
        let from = line.split("::").next().unwrap_or_default().trim();
        let names = line.rsplit("::").next().unwrap_or_default();
        for name in names.trim_matches(|c| "{} ".contains(c)).split(',') {
            exports.insert(name.trim().to_string(), from.to_string());
        }
    }
    exports
}

/// The names that stand right behind `crate::` in a file, also inside of braces.
fn imported(code: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = Vec::new();
    for (at, prefix) in code.match_indices("crate::") {
        if code[..at].ends_with('$') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => names.push(word(rest)),
            Some(group) => {
                let mut depth = 0;
                let mut item = String::new();
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => names.push(word(std::mem::take(&mut item).trim())),
                        _ if depth == 0 => item.push(c),
                        _ => {}
                    }
                }
                names.push(word(item.trim()));
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn imports_follow_the_layers() {
    let exports = exports();
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.path != "lib.rs") {
        let own = module(&source.path);
        let Some(own_layer) = layer(own) else { panic!("{own} stands in no layer") };
        for name in imported(&source.code) {
            let Some(other) = layer(&name).map(|_| &name).or_else(|| exports.get(&name)) else {
                panic!("src/{}: crate::{name} is neither a module nor an export", source.path)
            };
            // Every layer words its mistakes in one place, the lowest one too.
            let allowed = other == own || other == "error" || layer(other) < Some(own_layer);
            if !allowed {
                wrong.push(format!("src/{} imports crate::{name}, which is {other}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_of_the_crate_stands_in_a_layer() {
    let code = source("lib.rs").code;
    let modules: Vec<&str> = code
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub mod ").and_then(|name| name.strip_suffix(';')))
        .collect();
    assert!(modules.iter().all(|module| layer(module).is_some()), "{modules:?}");
    assert_eq!(modules.len(), LAYERS.iter().map(|layer| layer.len()).sum::<usize>());
}

/// Words that a part of the tree never says, and why.
const UNSPEAKABLE: &[(&str, &[&str], &str)] = &[
    ("device/", &["Gradients", "Tensor", "backward"], "devices do not know histories"),
    ("device/reference.rs", &["cpu", "gpu"], "devices do not know each other"),
    ("device/cpu/", &["gpu", "reference::"], "devices do not know each other"),
    ("device/gpu/", &["cpu::"], "devices do not know each other"),
    ("tensor/autograd.rs", &["Kernel", "Device::"], "the engine does not know which ops exist"),
    (
        "ops/",
        &["Device::Cpu", "Device::Reference", "Device::Gpu", "device::cpu"],
        "one fork, in device/mod.rs",
    ),
    ("nn/", &["Kernel", "device::cpu", "device::kernel", "adapters"], "modules are made of tensor methods"),
    ("adapters/", &["Kernel", "device::cpu", "device::kernel"], "methods are made of tensor methods"),
    ("optim/", &["device::cpu", "nn::linear"], "updates know parameters and gradients, no modules"),
    ("train/", &["Kernel", "device::cpu", "device::kernel"], "training owns the order, not the arithmetic"),
];

#[test]
fn what_a_layer_must_not_know_it_does_not_name() {
    let mut wrong = Vec::new();
    for source in &sources() {
        for (_, words, why) in UNSPEAKABLE.iter().filter(|(part, ..)| source.path.starts_with(part)) {
            for word in words.iter().filter(|word| names(&source.code, word)) {
                wrong.push(format!("src/{} names {word}: {why}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether `word` stands in the code, and not as a part of a longer one.
fn names(code: &str, word: &str) -> bool {
    let part_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back().is_some_and(part_of_a_word);
        let after = code[at + word.len()..].chars().next().is_some_and(part_of_a_word);
        !before && (!after || word.ends_with(':'))
    })
}

#[test]
fn only_the_device_layer_chooses_between_devices() {
    for source in sources().iter().filter(|source| !source.path.starts_with("device/")) {
        let chooses = source.code.lines().any(|line| {
            line.match_indices("Device::").any(|(at, _)| {
                let variant = line[at + 8..].trim_start_matches(|c: char| c.is_alphanumeric());
                let arm =
                    variant.split_once("=>").is_some_and(|(pattern, _)| !pattern.contains([')', ',', ';']));
                line[at + 8..].starts_with(|c: char| c.is_uppercase())
                    && (arm || line.contains("if let Device::"))
            })
        });
        assert!(!chooses, "src/{} chooses between devices", source.path);
    }
}

/// The variants of `Kernel`.
fn kernels() -> Vec<String> {
    let code = source("device/kernel.rs").code;
    let list = code.split("pub enum Kernel").nth(1).expect("the list of kernels");
    let list = list.split("\n}").next().expect("its end");
    let name = |line: &str| {
        let name = line.strip_prefix("    ")?.strip_suffix(" {")?;
        name.starts_with(|c: char| c.is_uppercase()).then(|| name.to_string())
    };
    list.lines().filter_map(name).collect()
}

#[test]
fn every_kernel_is_named_after_its_variant_defined_and_handled() {
    let kernels = kernels();
    assert!(kernels.len() >= 15, "{kernels:?}");
    let list = source("device/kernel.rs").code;
    for kernel in kernels {
        let arm = format!("Kernel::{kernel} {{ .. }} => \"");
        let name = list.split(&arm).nth(1).and_then(|rest| rest.split('"').next());
        let name = name.unwrap_or_else(|| panic!("Kernel::name does not name {kernel}"));
        assert_eq!(name.replace('_', ""), kernel.to_lowercase(), "the name of Kernel::{kernel}");
        for backend in ["device/reference.rs", "device/cpu/mod.rs", "device/gpu/record.rs"] {
            let handled = names(&source(backend).code, &format!("Kernel::{kernel}"));
            assert!(handled, "src/{backend} does not handle Kernel::{kernel}");
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
        assert!(root.join(format!("{name}.wgsl")).is_file(), "shaders/{name}.wgsl is missing");
    }
}

#[test]
fn every_shader_says_what_it_is_for_and_is_read_into_the_library() {
    let listed = source("device/gpu/pipeline.rs").code;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    for entry in std::fs::read_dir(root).expect("the shaders are in shaders") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a shader is text");
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        assert!(text.starts_with("// "), "shaders/{name}.wgsl does not say what it is for");
        let computes = text.contains("@compute");
        assert!(!computes || text.contains("ne invocation") || text.contains("workgroup"), "{name}");
        assert!(names(&listed, &name), "shaders/{name}.wgsl is not read");
        assert!(text.lines().count() <= 200, "shaders/{name}.wgsl is long");
    }
}

const LONGEST: usize = 400;

#[test]
fn files_stay_short_enough_to_be_read_in_one_go() {
    for source in sources() {
        let lines = source.text.lines().count();
        assert!(lines <= LONGEST, "src/{} has {lines} lines", source.path);
    }
}

#[test]
fn lines_stay_short_enough_to_stand_beside_another_file() {
    for folder in ["src", "tests", "examples", "benches"] {
        for source in sources_in(folder) {
            let long = source.text.lines().position(|line| line.chars().count() > 120);
            assert!(long.is_none(), "{folder}/{}, line {}", source.path, long.unwrap_or(0) + 1);
        }
    }
}

#[test]
fn every_file_opens_by_saying_what_it_is_for() {
    for folder in ["src", "tests", "examples", "benches"] {
        for source in sources_in(folder) {
            assert!(source.text.starts_with("//! "), "{folder}/{} does not", source.path);
        }
    }
}

/// The files and folders where `unsafe` may stand: vector instructions, and the test that calls them.
const UNSAFE: &[&str] = &["device/cpu/gemm/", "device/cpu/math/tests.rs", "device/cpu/simd.rs"];

#[test]
fn unsafe_code_stays_in_the_vector_loops() {
    for source in sources() {
        let found = names(&source.code, "unsafe");
        let allowed = UNSAFE.iter().any(|place| source.path.starts_with(place));
        assert!(!found || allowed, "src/{} is unsafe", source.path);
    }
    assert!(source("lib.rs").text.contains("#![deny(unsafe_code)]"));
}

/// Every macro of the crate, and why a function would not do.
const MACROS: &[(&str, &str)] = &[
    ("expr/formula.rs", "forwards the four operators to one function"),
    ("ops/elementwise.rs", "forwards the four operators, owned and borrowed"),
    ("device/gpu/pipeline.rs", "reads each shader's files into the library"),
    ("device/cpu/simd.rs", "compiles a function once per vector width"),
    ("device/cpu/gemm/micro_kernel.rs", "compiles the inner loop once per vector type"),
    ("device/cpu/math/tests.rs", "inlines a function into a loop per vector width"),
];

#[test]
fn macros_are_few_and_listed() {
    for source in sources() {
        let found = source.code.matches("macro_rules!").count();
        let listed = MACROS.iter().filter(|(path, _)| *path == source.path).count();
        assert!(found <= listed, "src/{} has {found} macros, {listed} are listed", source.path);
    }
}

#[test]
fn nothing_is_left_to_do() {
    for source in sources() {
        for word in ["TODO", "FIXME", "todo!", "unimplemented!", "dbg!"] {
            assert!(!source.text.contains(word), "src/{} holds a {word}", source.path);
        }
        let unwraps = source.code.matches(".unwrap()").count();
        assert!(
            unwraps == 0 || source.path.ends_with("tests.rs"),
            "src/{}: unwrap says no reason",
            source.path
        );
    }
}
