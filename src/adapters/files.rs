//! Adapter directories in the layout of Hugging Face PEFT.
//!
//! `adapter_config.json` names the method, its settings and the adapted modules;
//! `adapter_model.safetensors` holds the parameters as `base_model.model.` + path. Reading is strict:
//! everything that does not match is listed in one error, and nothing stays attached.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::attached::{Attached, Host, Place};
use super::list::method_of;
use super::settings::Settings;
use super::targets::{ends_with_name, within};
use super::{Adapted, Targets};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{Module, Param, Stored, files};
use crate::tensor::Tensor;

/// Before the name of every parameter that belongs to the model.
const PREFIX: &str = "base_model.model.";
/// Before the name of what all sites share, and of the model's parameters behind virtual tokens.
const SHARED: &str = "base_model.";

/// Writes both files of one adapter; each appears whole or not at all.
pub(super) fn save(adapted: &Adapted, attached: &Attached, directory: &Path) -> Result<()> {
    refuse_tied(&adapted.host, attached)?;
    std::fs::create_dir_all(directory).map_err(|error| Error::io(directory, error))?;
    let mut config = attached.method.config();
    let mut targets: Vec<&str> = attached.places.iter().map(|place| place.path.as_str()).collect();
    if targets.is_empty() {
        targets = attached.beside.iter().filter(|b| b.by_method).map(|b| split(&b.path).0).collect();
        targets.dedup();
    }
    // PEFT insists that IA³'s feed-forward modules are named as the targets are.
    if let Some(Value::Array(names)) = config.get("feedforward_modules") {
        let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
        let named = |path: &&&str| names.iter().any(|name| ends_with_name(path, name));
        let paths: Vec<&&str> = targets.iter().filter(named).collect();
        config.insert("feedforward_modules".into(), json!(paths));
    }
    if !attached.method.precedes() {
        config.insert("target_modules".into(), json!(targets));
        config.insert("exclude_modules".into(), Value::Null);
    }
    let modules = saved_modules(attached);
    config.insert("modules_to_save".into(), if modules.is_empty() { Value::Null } else { json!(modules) });
    // PEFT's word for GPT-2's matrices, which lie as `[in, out]` in its files.
    if let Some(transposed) = config.get_mut("fan_in_fan_out") {
        *transposed = attached.places.iter().any(Place::is_transposed).into();
    }
    let value = |param: &Param| attached.own(param).unwrap_or_else(|| adapted.original(param));
    let entries = stored(&adapted.host, attached);
    let tensors = entries.iter().map(|entry| (entry.file_name(), entry.gather(&value))).collect();
    for (key, value) in [
        ("task_type", task(&adapted.host, attached, &modules)),
        ("base_model_name_or_path", Value::Null),
        ("inference_mode", json!(true)),
    ] {
        config.insert(key.into(), value);
    }
    let text = serde_json::to_string_pretty(&Value::Object(config)).expect("text keys and finite numbers");
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    files::write(directory.join("adapter_model.safetensors"), &tensors, metadata)?;
    files::write_whole(directory.join("adapter_config.json"), text.as_bytes())
}

/// What PEFT trains beside adapters is a copy, and a layer that is tied to it stays as it was; here both are one. So a
/// file about one of them would say something else there.
///
/// **Errors** when such a parameter is trained beside the adapters, naming all its paths.
fn refuse_tied(host: &Host, attached: &Attached) -> Result<()> {
    let chosen = attached.beside.iter().filter(|beside| !beside.by_method);
    let tied = chosen.filter_map(|beside| host.tied.iter().find(|names| names[0] == beside.path)).next();
    match tied {
        None => Ok(()),
        Some(names) => Err(Error::Adapter(format!(
            "{} are one parameter, but in PEFT training one of them beside adapters leaves the others as they were; \
             adapt them, or leave them out of what is trained",
            names.join(" and ")
        ))),
    }
}

/// PEFT puts virtual tokens only before a model whose task is named; for a classifier it then insists on
/// the head. Other adapters do without.
fn task(host: &Host, attached: &Attached, modules: &[String]) -> Value {
    let has = |name: &str| host.layers().any(|path| within(path, &[name]));
    if !attached.method.precedes() {
        Value::Null
    // Below a RoBERTa's `lm_head`, which guesses hidden words, stand layers of their own.
    } else if host.layers().any(|path| path == "lm_head") {
        json!("CAUSAL_LM")
    } else if !has("classifier") && !has("score") {
        json!("FEATURE_EXTRACTION")
    } else if !modules.iter().any(|module| within(module, &["classifier", "score"])) {
        Value::Null
    } else if has("pooler.dense") || has("classifier.dense") || has("score") {
        json!("SEQ_CLS")
    } else {
        json!("TOKEN_CLS")
    }
}

/// The modules of the base parameters that were chosen to be trained beside the adapters.
fn saved_modules(attached: &Attached) -> Vec<String> {
    let chosen = attached.beside.iter().filter(|beside| !beside.by_method);
    let mut modules: Vec<String> = chosen.map(|beside| split(&beside.path).0.to_string()).collect();
    modules.sort();
    modules.dedup();
    modules
}

/// A parameter's module and its name there.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('.').unwrap_or(("", path))
}

/// A tensor of the file: a parameter, or several in one matrix.
struct Entry {
    /// Without the prefix.
    name: String,
    prefix: &'static str,
    content: Content,
}

enum Content {
    One(Param),
    Several(Stored),
}

impl Entry {
    fn file_name(&self) -> String {
        format!("{}{}", self.prefix, self.name)
    }

    /// The matrix as the file holds it, of the values that its parameters are said to have.
    fn gather(&self, value: &dyn Fn(&Param) -> Tensor) -> Tensor {
        match &self.content {
            Content::One(param) => param.stored(&value(param)),
            Content::Several(stored) => {
                let [rows, columns] = stored.sizes;
                let padded = stored.parts.iter().map(|(param, [row, column])| {
                    let [height, width] = [param.sizes()[0], param.sizes()[1]];
                    let wide = value(param).detach().pad_axis(1, *column, columns - column - width, 0.0);
                    wide.pad_axis(0, *row, rows - row - height, 0.0)
                });
                padded.reduce(|sum, part| sum + part).expect("a stored matrix has a part")
            }
        }
    }

    /// A parameter of the file's sizes: the one that is stored, or one to cut the parts from.
    fn whole(&self) -> Param {
        match &self.content {
            Content::One(param) => param.clone(),
            Content::Several(stored) => {
                let device = stored.parts.first().map_or(Device::Cpu, |(param, _)| param.device());
                Param::new(&Tensor::zeros(stored.sizes, &device))
            }
        }
    }

    /// Gives the parts their values.
    ///
    /// **Errors** when anything stands beside them.
    fn cut(&self, whole: &Param) -> Result<()> {
        let Content::Several(stored) = &self.content else { return Ok(()) };
        let value = whole.value().detach();
        for (param, [row, column]) in &stored.parts {
            param.set(&value.narrow(0, *row, param.sizes()[0]).narrow(1, *column, param.sizes()[1]));
        }
        let same = value.read_f64()? == self.gather(&Param::value).read_f64()?;
        if same {
            Ok(())
        } else {
            Err(Error::Names(format!("{} has values outside of its blocks", self.name)))
        }
    }
}

/// What an adapter's file holds: its parameters, and the modules that were trained beside them,
/// whole, because `modules_to_save` names modules.
fn stored(host: &Host, attached: &Attached) -> Vec<Entry> {
    let mut entries = Vec::new();
    for place in &attached.places {
        let contents: Vec<(String, Content)> = match place.adapter.stored() {
            Some(matrices) => matrices
                .into_iter()
                .map(|stored| (format!("{}.{}", place.path, stored.name), Content::Several(stored)))
                .collect(),
            None => place.params().into_iter().map(|(name, param)| (name, Content::One(param))).collect(),
        };
        // What stands before a model has no place in it.
        entries.extend(contents.into_iter().map(|(name, content)| match place.socket.blocks() {
            Some(_) => Entry { name: split(&name).1.to_string(), prefix: "", content },
            None => Entry { name, prefix: PREFIX, content },
        }));
    }
    let prefix = if attached.method.precedes() { SHARED } else { PREFIX };
    let modules = saved_modules(attached);
    for (path, param) in &host.params {
        let beside = attached.beside.iter().find(|beside| beside.path == *path);
        let name = match beside {
            Some(beside) if beside.by_method => {
                let (module, name) = split(path);
                let at_site = attached.places.iter().any(|place| place.path == module);
                attached.method.file_name(module, name, at_site)
            }
            _ if within(path, &modules) => path.clone(),
            _ => continue,
        };
        entries.push(Entry { name, prefix, content: Content::One(param.clone()) });
    }
    let shared = attached.method.shared().into_iter();
    entries.extend(shared.map(|(name, param)| Entry { name, prefix: SHARED, content: Content::One(param) }));
    entries
}

/// Attaches a saved adapter to a model, as [`attach`](super::attach) does a fresh one.
///
/// **Errors** when a file is missing or malformed, the method or one of its variants is not
/// implemented, or names and shapes disagree; the model is then as it was.
pub fn load(model: &dyn Module, directory: impl AsRef<Path>) -> Result<Adapted> {
    Adapted::first(model, |host| load_onto(host, directory.as_ref()))
}

/// Puts a saved adapter into the sockets of a model.
///
/// **Errors** as [`load`]; sockets and values are then as they were.
pub(super) fn load_onto(host: &Host, directory: &Path) -> Result<Attached> {
    let path = directory.join("adapter_config.json");
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io(&path, error))?;
    let config: Map<String, Value> =
        serde_json::from_str(&text).map_err(|error| Error::format(&path, error.to_string()))?;
    let config = Settings(&config);
    let said = |error: Error| match error {
        Error::Adapter(what) => Error::format(&path, what),
        other => other,
    };
    let method = method_of(&config).map_err(said)?;
    let saved = config.names("modules_to_save").map_err(said)?;
    let targets = targets_of(&config, &saved).map_err(said)?;
    let mut attached = host.attach(&targets, method).map_err(said)?;
    attached.train_beside(host, |path| within(path, &saved), false);
    let filled = all_adapted(&config, &attached)
        .and_then(|()| refuse_tied(host, &attached))
        .map_err(said)
        .and_then(|()| fill(host, &attached, &directory.join("adapter_model.safetensors")))
        .and_then(|()| attached.method.loaded());
    match filled {
        Ok(()) => Ok(attached),
        Err(error) => {
            attached.take_out();
            Err(error)
        }
    }
}

/// **Errors** when a map of our own layouts says something of layers that are not adapted.
fn all_adapted(config: &Settings, attached: &Attached) -> Result<()> {
    for key in ["blocks", "ranks", "predecessors"] {
        let paths = config.map(key)?.into_iter().map(|(path, _)| path);
        let others: Vec<&String> =
            paths.filter(|path| attached.places.iter().all(|place| place.path != **path)).collect();
        if !others.is_empty() {
            return Err(Error::Adapter(format!("{key} names layers that are not adapted: {others:?}")));
        }
    }
    Ok(())
}

/// PEFT's rules: a list of names, or a regular expression as one string; exclusions win, and nothing at
/// or below a module that is saved whole is adapted.
fn targets_of(config: &Settings, saved: &[String]) -> Result<Targets> {
    let mut targets = match config.get("target_modules") {
        Some(Value::String(text)) if text == "all-linear" => Targets::from("all-linear"),
        Some(Value::String(text)) => Targets::regex(text)?,
        _ => Targets::from(config.names("target_modules")?),
    };
    targets = targets.with_embeddings().outside(saved.to_vec());
    targets = match config.get("exclude_modules") {
        Some(Value::String(text)) => targets.except_regex(text)?,
        _ => targets.except(config.names("exclude_modules")?),
    };
    // PEFT takes an empty list for none at all.
    Ok(match config.numbers("layers_to_transform")?.filter(|numbers| !numbers.is_empty()) {
        Some(numbers) => targets.in_layers(numbers, config.names("layers_pattern")?),
        None => targets,
    })
}

/// Gives every stored parameter its value from the file, once all of them are there and fit.
fn fill(host: &Host, attached: &Attached, file: &Path) -> Result<()> {
    let entries = stored(host, attached);
    let whole: Vec<(String, Param)> =
        entries.iter().map(|entry| (entry.name.clone(), entry.whole())).collect();
    let device = whole.first().map_or(Device::Cpu, |(_, param)| param.device());
    let tensors = without_twins(file, files::read(file, &device)?.tensors)?;
    let count = tensors.len();
    let mut by_path: BTreeMap<String, Tensor> =
        tensors.into_iter().map(|(name, tensor)| (path_of(&name), tensor)).collect();
    if by_path.len() < count {
        return Err(Error::format(file, "holds a parameter twice, under two forms of its name"));
    }
    drop_copies(attached, file, &mut by_path)?;
    files::assign(file, &whole, by_path)?;
    let misplaced: Vec<String> = entries
        .iter()
        .zip(&whole)
        .filter_map(|(entry, (_, whole))| entry.cut(whole).err().map(|error| error.to_string()))
        .collect();
    if misplaced.is_empty() { Ok(()) } else { Err(Error::format(file, misplaced.join("\n  "))) }
}

/// With all biases trained, PEFT writes those of a module that is saved whole under two names more: where it keeps them
/// (`.modules_to_save.`), and what they were before (`.original_module.`), which nothing reads.
///
/// **Errors** when one name says otherwise than the other.
fn without_twins(file: &Path, tensors: BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
    let live = |name: &str| name.contains(".modules_to_save.") && !name.contains(".modules_to_save.default.");
    let (twins, mut tensors): (BTreeMap<_, _>, BTreeMap<_, _>) = tensors
        .into_iter()
        .filter(|(name, _)| !name.contains(".original_module."))
        .partition(|(name, _)| live(name));
    for (name, twin) in twins {
        let plain = name.replace(".modules_to_save.", ".");
        let tensor = tensors.entry(plain.clone()).or_insert_with(|| twin.clone());
        if tensor.sizes() != twin.sizes() || tensor.read_f64()? != twin.read_f64()? {
            return Err(Error::format(file, format!("{name} differs from {plain}, which is the same")));
        }
    }
    Ok(tensors)
}

/// PEFT copies the base's weights into the file of an adapted embedding or output head.
///
/// **Errors** when they are not the model's: the adapter was made for another base.
fn drop_copies(attached: &Attached, file: &Path, tensors: &mut BTreeMap<String, Tensor>) -> Result<()> {
    for place in &attached.places {
        let name = format!("{}.base_layer.weight", place.path);
        let Some(copy) = tensors.remove(&name) else { continue };
        let base = place.socket.base().weight;
        if copy.sizes() != base.sizes() || copy.read_f64()? != base.read_f64()? {
            return Err(Error::format(file, format!("{name} is not the weight of this model: another base")));
        }
    }
    Ok(())
}

/// The path of a stored parameter. Other tools write the adapter's name into it too, as it stands in a
/// live PEFT model: `lora_A.default.weight`.
fn path_of(name: &str) -> String {
    let path = name.strip_prefix(PREFIX).or_else(|| name.strip_prefix(SHARED)).unwrap_or(name);
    let path = path.replace(".modules_to_save.default.", ".").replace(".default.", ".");
    path.strip_suffix(".default").unwrap_or(&path).to_string()
}
