//! Reading a golden folder: JSON files with cases, each beside a safetensors file with the numbers.
//! Read next: `argument.rs`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// A tensor as it is stored; every type of number fits into f64 here.
#[derive(Clone, Debug)]
pub struct Stored {
    pub sizes: Vec<usize>,
    pub values: Vec<f64>,
}

/// One JSON file and the tensors its cases name.
pub struct File {
    /// The path inside of the golden folder, such as `ops/add.json`.
    pub name: String,
    pub json: Value,
    pub tensors: HashMap<String, Stored>,
}

impl File {
    /// **Panics** when a file is missing or malformed: then there is nothing to test with.
    pub fn read(root: &Path, name: &str) -> File {
        let path = root.join(name);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let json: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let tensors = match json["tensors"].as_str() {
            Some(beside) => read_tensors(&path.with_file_name(beside)),
            None => HashMap::new(),
        };
        File { name: name.to_string(), json, tensors }
    }

    pub fn cases(&self) -> &[Value] {
        self.json["cases"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The tensor called `key`.
    pub fn tensor(&self, key: &str) -> &Stored {
        self.tensors.get(key).unwrap_or_else(|| panic!("harness: {} has no tensor {key:?}", self.name))
    }
}

/// The files of single operations, of random programs and of refused calls that a folder holds.
pub fn file_names(root: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for part in ["ops", "hand"] {
        let Ok(entries) = std::fs::read_dir(root.join(part)) else { continue };
        let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        found.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        found.sort();
        let file_name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        names.extend(found.iter().filter_map(file_name).map(|name| format!("{part}/{name}")));
    }
    let others = ["programs.json", "errors/errors.json"].map(String::from);
    names.extend(others.into_iter().filter(|name| root.join(name).exists()));
    names
}

fn read_tensors(path: &Path) -> HashMap<String, Stored> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let stored = |view: &safetensors::tensor::TensorView| Stored {
        sizes: view.shape().to_vec(),
        values: numbers(view.dtype(), view.data()),
    };
    file.tensors().iter().map(|(name, view)| (name.clone(), stored(view))).collect()
}

fn numbers(dtype: Dtype, data: &[u8]) -> Vec<f64> {
    fn each<const N: usize>(data: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        data.as_chunks::<N>().0.iter().map(|&bytes| number(bytes)).collect()
    }
    match dtype {
        Dtype::F64 => each(data, f64::from_le_bytes),
        Dtype::F32 => each(data, |bytes| f64::from(f32::from_le_bytes(bytes))),
        Dtype::F16 => each(data, |bytes| half::f16::from_le_bytes(bytes).to_f64()),
        Dtype::BF16 => each(data, |bytes| half::bf16::from_le_bytes(bytes).to_f64()),
        Dtype::I64 => each(data, |bytes| i64::from_le_bytes(bytes) as f64),
        Dtype::I32 => each(data, |bytes| f64::from(i32::from_le_bytes(bytes))),
        Dtype::U8 | Dtype::BOOL => each(data, |[byte]| f64::from(byte)),
        other => panic!("harness: tensors of type {other:?} are not read"),
    }
}
