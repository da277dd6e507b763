//! Adapter directories in the layout of Hugging Face PEFT.
//!
//! `adapter_config.json` names the method, its settings and the adapted modules;
//! `adapter_model.safetensors` holds the parameters as `base_model.model.` + path. Reading is strict:
//! everything that does not match is listed in one error, and nothing stays attached.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Adapted, Lora, Method, attach_where};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{Module, Param, files};
use crate::tensor::Tensor;

const PREFIX: &str = "base_model.model.";

/// Writes both files; each appears whole or not at all.
pub fn save(adapted: &Adapted, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(|error| Error::io(directory, error))?;
    let mut config = adapted.method.config();
    let targets: Vec<&String> = adapted.sites.iter().map(|(path, _)| path).collect();
    config.insert("target_modules".into(), json!(targets));
    let modules = saved_modules(adapted);
    config.insert("modules_to_save".into(), if modules.is_empty() { Value::Null } else { json!(modules) });
    config.insert("task_type".into(), Value::Null);
    config.insert("base_model_name_or_path".into(), Value::Null);
    config.insert("inference_mode".into(), json!(true));
    let text = serde_json::to_string_pretty(&Value::Object(config)).expect("text keys and finite numbers");
    let tensors: BTreeMap<String, Tensor> = stored_params(adapted)
        .into_iter()
        .map(|(path, param)| (format!("{PREFIX}{path}"), param.value().detach()))
        .collect();
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    files::write(directory.join("adapter_model.safetensors"), &tensors, metadata)?;
    files::write_whole(directory.join("adapter_config.json"), text.as_bytes())
}

/// The modules of the base parameters that are trained beside the adapters.
fn saved_modules(adapted: &Adapted) -> Vec<String> {
    let module = |path: &String| path.rsplit_once('.').map_or(path.clone(), |(module, _)| module.to_string());
    let mut modules: Vec<String> = adapted.also.iter().map(module).collect();
    modules.sort();
    modules.dedup();
    modules
}

/// What an adapter's file holds: its own parameters, and the modules that were trained beside them,
/// whole, because `modules_to_save` names modules.
fn stored_params(adapted: &Adapted) -> Vec<(String, Param)> {
    let modules = saved_modules(adapted);
    let mut params = adapted.adapter_params();
    params.extend(adapted.base.iter().filter(|(path, _)| within(path, &modules)).cloned());
    params
}

/// Attaches a saved adapter to a model, as [`attach`](super::attach) does a fresh one.
///
/// **Errors** when a file is missing or malformed, the method or one of its variants is not
/// implemented, or names and shapes disagree; the model is then as it was.
pub fn load(model: &dyn Module, directory: impl AsRef<Path>) -> Result<Adapted> {
    let directory = directory.as_ref();
    let path = directory.join("adapter_config.json");
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io(&path, error))?;
    let config: Map<String, Value> =
        serde_json::from_str(&text).map_err(|error| Error::format(&path, error.to_string()))?;
    let said = |what: String| Error::format(&path, what);
    let method: Box<dyn Method> = match config.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => Box::new(Lora::from_config(&config).map_err(|error| said(error.to_string()))?),
        Some(other) => return Err(said(format!("peft_type {other:?} is not implemented"))),
        None => return Err(said("peft_type is missing".into())),
    };
    let names = |key: &str| match config.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(names)) if names.iter().all(Value::is_string) => {
            Ok(names.iter().filter_map(Value::as_str).map(String::from).collect::<Vec<String>>())
        }
        Some(other) => Err(said(format!("{key} is {other}, expected a list of names"))),
    };
    let (targets, excluded, saved) =
        (names("target_modules")?, names("exclude_modules")?, names("modules_to_save")?);
    let named = |path: &str, list: &[String]| list.iter().any(|name| ends_with_name(path, name));
    let chosen = |path: &str| named(path, &targets) && !named(path, &excluded) && !within(path, &saved);
    let Some(mut adapted) = attach_where(model, chosen, method)? else {
        return Err(said(format!("no linear layer of the model is among target_modules {targets:?}")));
    };
    adapted.train_also(|path| within(path, &saved));
    match fill(&adapted, &directory.join("adapter_model.safetensors")) {
        Ok(()) => Ok(adapted),
        Err(error) => {
            adapted.detach();
            Err(error)
        }
    }
}

/// Gives every stored parameter its value from the file, once all of them are there and fit.
fn fill(adapted: &Adapted, file: &Path) -> Result<()> {
    let params = stored_params(adapted);
    let device = params.first().map_or(Device::Cpu, |(_, param)| param.device());
    let tensors = files::read(file, &device)?.tensors;
    let count = tensors.len();
    let by_path: BTreeMap<String, Tensor> =
        tensors.into_iter().map(|(name, tensor)| (path_of(&name), tensor)).collect();
    if by_path.len() < count {
        return Err(Error::format(file, "holds a parameter twice, under two forms of its name"));
    }
    files::assign(file, &params, by_path)
}

/// The path of a stored parameter. Other tools write the adapter's name into it too, as it stands in a
/// live PEFT model: `lora_A.default.weight`.
fn path_of(name: &str) -> String {
    name.strip_prefix(PREFIX)
        .unwrap_or(name)
        .replace(".modules_to_save.default.", ".")
        .replace(".default.", ".")
}

/// Whether `name` is the whole path or its last segments.
fn ends_with_name(path: &str, name: &str) -> bool {
    path == name || path.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

/// Whether a path lies at or below one of the named modules.
fn within(path: &str, modules: &[String]) -> bool {
    let ends: Vec<usize> = path.match_indices('.').map(|(at, _)| at).chain([path.len()]).collect();
    modules.iter().any(|name| ends.iter().any(|&end| ends_with_name(&path[..end], name)))
}
