//! Giving a model the tensors of a file or a published directory, by name and strictly.
//!
//! Everything missing, unexpected or misshapen is listed in one error, and nothing changes unless
//! everything fits. Names may differ from ours in the known ways only: an older name of a norm's
//! weight and bias, and the family's prefix on one side. A tied parameter may stand under each of its
//! names, with equal values.
//! Read next: `files.rs` for the format, `models/auto.rs` for whole directories.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::files::{read, write, write_whole};
use super::module::{Module, all_names, named_params, sockets};
use super::param::{Form, Param};
use super::pattern::Pattern;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// What headed models put in front of their body's names.
const PREFIXES: [&str; 4] = ["bert.", "roberta.", "transformer.", "model."];

/// What published files hold beside the parameters: floating-point buffers, and in T5's a bias that its
/// attention across never had.
const LEFTOVERS: &str = "*{h.*.attn.bias,h.*.attn.masked_bias,rotary_emb.inv_freq,\
    EncDecAttention.relative_attention_bias.weight,encoder.version,decoder.version}";

/// Saves every parameter of a model under its path, in the published form.
///
/// **Errors** when the file cannot be written; an earlier one then stays as it was.
pub fn save(path: impl AsRef<Path>, model: &dyn Module) -> Result<()> {
    let stored = |(name, param): (String, Param)| (name, param.stored(&param.value()));
    let tensors = named_params(model).into_iter().map(stored).collect();
    write(path, &tensors, HashMap::from([("format".into(), "pt".into())]))
}

/// Writes a directory in the published layout: `model.safetensors`, and last the `config.json` without which
/// it is no model's.
///
/// **Errors** when the model has adapters, of which that layout knows nothing, or the directory cannot be
/// written.
pub(super) fn save_directory(directory: &Path, config: &Value, model: &dyn Module) -> Result<()> {
    if let Some((path, _)) = sockets(model).iter().find(|(_, socket)| socket.adapter().is_some()) {
        return Err(Error::Adapter(format!(
            "{path} has an adapter, which a model's own files cannot hold; save it with `Adapted::save`, and the \
             model once it is detached"
        )));
    }
    std::fs::create_dir_all(directory).map_err(|error| Error::io(directory, error))?;
    save(directory.join("model.safetensors"), model)?;
    write_whole(directory.join("config.json"), format!("{config:#}").as_bytes())
}

/// Loads every parameter of a model by its path; nothing changes unless everything fits.
///
/// **Errors** when the file is malformed, or lists all that is missing, unexpected or misshapen.
pub fn load(path: impl AsRef<Path>, model: &dyn Module) -> Result<()> {
    let path = path.as_ref();
    let params = all_names(model);
    let device = params.first().map_or(Device::Cpu, |(_, param)| param.device());
    for (param, tensor) in fit(path, &params, read(path, &device)?.tensors, "")? {
        param.set(&tensor);
    }
    Ok(())
}

/// Gives each parameter the tensor of its name, once all are there and fit and none is left over.
///
/// **Errors** as [`matched`]; no parameter has then changed.
pub(crate) fn assign(
    path: &Path,
    params: &[(String, Param)],
    stored: BTreeMap<String, Tensor>,
) -> Result<()> {
    matched(path, params, stored)?.iter().for_each(|(param, tensor)| param.set(tensor));
    Ok(())
}

/// Finds each parameter's tensor by name.
///
/// **Errors** list all that is missing, unexpected or misshapen.
pub(crate) fn matched(
    path: &Path,
    params: &[(String, Param)],
    stored: BTreeMap<String, Tensor>,
) -> Result<Vec<(Param, Tensor)>> {
    let params: Vec<_> = params.iter().map(|(name, param)| (vec![name.clone()], param.clone())).collect();
    fit(path, &params, stored, "")
}

/// As [`matched`] for parameters of several names; tensors that fit the pattern `surplus` may be left.
fn fit(
    path: &Path,
    params: &[(Vec<String>, Param)],
    mut stored: BTreeMap<String, Tensor>,
    surplus: &str,
) -> Result<Vec<(Param, Tensor)>> {
    let mut problems = Vec::new();
    let mut found = Vec::new();
    for (names, param) in params {
        let expected = param.stored_sizes();
        let aliases = names.iter().flat_map(|name| aliases(name));
        let mut tensors: Vec<(String, Tensor)> =
            aliases.filter_map(|name| stored.remove_entry(&name)).collect();
        let Some((name, tensor)) = (!tensors.is_empty()).then(|| tensors.swap_remove(0)) else {
            if param.form() != Form::Buffer {
                problems.push(format!("missing: {} {expected:?}", names[0]));
            }
            continue;
        };
        if tensor.sizes() != expected {
            let found = tensor.sizes();
            problems.push(format!("misshapen: {name} is {found:?} in the file, {expected:?} in the model"));
        }
        for (other, copy) in &tensors {
            let sizes = copy.sizes();
            if sizes != tensor.sizes() || copy.read_f64()? != tensor.read_f64()? {
                problems.push(format!("contradicting: {other} {sizes:?} is not {name}, to which it is tied"));
            }
        }
        found.push((param.clone(), param.stored(&tensor)));
    }
    let ignored = [LEFTOVERS, surplus].map(Pattern::new);
    let left = stored.iter().filter(|(name, _)| !ignored.iter().any(|pattern| pattern.matches(name)));
    problems.extend(left.map(|(name, tensor)| format!("unexpected: {name} {:?}", tensor.sizes())));
    if !problems.is_empty() {
        return Err(Error::Names(format!("{}:\n  {}", path.display(), problems.join("\n  "))));
    }
    Ok(found)
}

/// The names under which a parameter may stand in a file, the likeliest first.
fn aliases(name: &str) -> Vec<String> {
    let mut names = vec![name.to_string()];
    match PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        Some(bare) => names.push(bare.to_string()),
        None => names.extend(PREFIXES.iter().map(|prefix| format!("{prefix}{name}"))),
    }
    let older: Vec<String> = names
        .iter()
        .filter(|name| name.contains("LayerNorm"))
        .map(|name| {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        })
        .collect();
    names.extend(older);
    names
}

/// A published model as it lies on the disk: what `config.json` says, and all tensors.
pub struct Directory {
    path: PathBuf,
    /// The whole of `config.json`.
    pub config: Value,
    tensors: BTreeMap<String, Tensor>,
}

impl Directory {
    /// Reads `config.json` and `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// **Errors** when a file or shard is missing or malformed, or two shards hold the same tensor.
    pub fn open(path: impl AsRef<Path>, device: &Device) -> Result<Directory> {
        let path = path.as_ref().to_path_buf();
        let config = read_json(&path.join("config.json"))?;
        let (whole, index) = (path.join("model.safetensors"), path.join("model.safetensors.index.json"));
        let others = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
        let tensors = match whole.exists() {
            false if index.exists() => read_shards(&path, &index, device)?,
            false if others.iter().any(|name| path.join(name).exists()) => {
                let what = "is missing, and PyTorch's own files are not read; load the model with transformers \
                            and save it with `save_pretrained`, which writes safetensors";
                return Err(Error::format(whole, what));
            }
            _ => read(&whole, device)?.tensors,
        };
        Ok(Directory { path, config, tensors })
    }

    /// The configuration as a model reads it.
    ///
    /// **Errors** when a field is missing or of another kind.
    pub fn parse<C: serde::de::DeserializeOwned>(&self) -> Result<C> {
        serde_json::from_value(self.config.clone())
            .map_err(|error| Error::format(self.path.join("config.json"), error.to_string()))
    }

    /// Whether a tensor's name fits the pattern.
    pub fn has(&self, pattern: &str) -> bool {
        let pattern = Pattern::new(pattern);
        self.tensors.keys().any(|name| pattern.matches(name))
    }

    /// The sizes of the first tensor whose name fits the pattern.
    pub fn sizes(&self, pattern: &str) -> Option<&[usize]> {
        let pattern = Pattern::new(pattern);
        self.tensors.iter().find(|(name, _)| pattern.matches(name)).map(|(_, tensor)| tensor.sizes())
    }

    /// Fills a model; tensors whose names fit the pattern `surplus` may be left over. Where the file
    /// has a head and the model is a bare body, only the body is read.
    ///
    /// **Errors** list all that is missing, unexpected or misshapen; no parameter has then changed.
    pub fn fill(mut self, model: &dyn Module, surplus: &str) -> Result<()> {
        let params = all_names(model);
        let bare = |prefix: &&&str| !params.iter().any(|(names, _)| names[0].starts_with(**prefix));
        let headed = |prefix: &&&str| self.tensors.keys().any(|name| name.starts_with(**prefix));
        if let Some(prefix) = PREFIXES.iter().filter(bare).find(headed) {
            self.tensors.retain(|name, _| name.starts_with(prefix));
        }
        let found = fit(&self.path, &params, self.tensors, surplus)?;
        found.iter().for_each(|(param, tensor)| param.set(tensor));
        Ok(())
    }
}

/// Reads a JSON file.
///
/// **Errors** when it is missing or malformed.
pub(super) fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
    serde_json::from_str(&text).map_err(|error| Error::format(path, error.to_string()))
}

fn read_shards(directory: &Path, index: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let json = read_json(index)?;
    let malformed = || Error::format(index, "expected a weight_map from tensor names to files beside it");
    let map = json.get("weight_map").and_then(Value::as_object).ok_or_else(malformed)?;
    let mut places = BTreeMap::new();
    for (name, file) in map {
        // A shard lies beside its index: nothing that leads elsewhere is followed.
        let file = file.as_str().filter(|file| Path::new(file).file_name() == Some(file.as_ref()));
        places.insert(name, file.ok_or_else(malformed)?);
    }
    let mut tensors = BTreeMap::new();
    for file in places.values().collect::<BTreeSet<_>>() {
        let path = directory.join(file);
        if !path.exists() {
            let of = places.values().filter(|other| other == &file).count();
            let what = format!("the shard {file} with {of} of {} tensors is missing", places.len());
            return Err(Error::format(index, what));
        }
        for (name, tensor) in read(&path, device)?.tensors {
            if tensors.insert(name.clone(), tensor).is_some() {
                return Err(Error::format(path, format!("{name} stands in an earlier shard too")));
            }
        }
    }
    Ok(tensors)
}
