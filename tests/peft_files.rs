//! Files as PEFT writes them in corners, and what it would misread. Golden adapters are in `golden_peft.rs`.

mod common;
mod subjects;
mod tiny;

use std::collections::BTreeMap;
use std::path::Path;

use engrad::adapters::{self, AdaLora, Ia3, Lora, Start, Targets};
use engrad::nn::{Fresh, Gpt2Config, files};
use engrad::{Device, Rng, Tensor};
use serde_json::{Value, json};
use subjects::{SQUARE, model, named};

/// Changes an entry of a saved adapter's configuration.
fn configure(folder: &Path, key: &str, value: Value) {
    let path = folder.join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    std::fs::write(&path, config.to_string()).unwrap();
}

/// Changes the tensors of a saved adapter.
fn rewrite(folder: &Path, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) {
    let path = folder.join("adapter_model.safetensors");
    let mut tensors = files::read(&path, &Device::Cpu).unwrap().tensors;
    change(&mut tensors);
    files::write(&path, &tensors, Default::default()).unwrap();
}

#[test]
fn names_as_they_stand_in_a_live_peft_model_load_too() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (model(&Device::Cpu), model(&Device::Cpu));
    named("lora").moved(&one).save(folder.path()).unwrap();
    let path = folder.path().join("adapter_model.safetensors");
    let saved = files::read(&path, &Device::Cpu).unwrap();
    let live = saved.tensors.iter().map(|(name, tensor)| {
        let name = name.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default.");
        (name.replace("classifier.", "classifier.modules_to_save.default."), tensor.clone())
    });
    let mut live: BTreeMap<_, _> = live.collect();
    files::write(&path, &live, Default::default()).unwrap();
    adapters::load(&other, folder.path()).unwrap().detach();
    let (name, tensor) = saved.tensors.into_iter().next().unwrap();
    live.insert(name, tensor);
    files::write(&path, &live, Default::default()).unwrap();
    let error = adapters::load(&other, folder.path()).err().unwrap().to_string();
    assert!(error.contains("twice"), "{error}");
}

#[test]
fn biases_that_peft_writes_twice_must_be_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (model(&Device::Cpu), model(&Device::Cpu));
    named("lora").moved(&one).save(folder.path()).unwrap();
    let head = |name: &str| format!("base_model.model.classifier.{name}");
    rewrite(folder.path(), |tensors| {
        let bias = tensors[&head("bias")].clone();
        tensors.insert(head("original_module.bias"), &bias + 1.0);
        tensors.insert(head("modules_to_save.bias"), bias);
    });
    adapters::load(&other, folder.path()).unwrap().detach();
    rewrite(folder.path(), |tensors| {
        let bias = &tensors[&head("bias")] + 1.0;
        tensors.insert(head("modules_to_save.bias"), bias);
    });
    let error = adapters::load(&other, folder.path()).err().unwrap().to_string();
    assert!(error.contains("modules_to_save.bias differs from base_model.model.classifier.bias"), "{error}");
}

#[test]
fn a_tied_parameter_is_not_trained_beside_adapters_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"vocab_size": 13, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2});
    let config = Gpt2Config::parse(&config).unwrap();
    let model = config.causal_lm(&mut Fresh::random(&mut Rng::seeded(3), &Device::Cpu)).unwrap();
    let tuned = adapters::attach(&model, "*.c_attn", Lora::new(2)).unwrap().also_train("*.wte.*").unwrap();
    let said = "transformer.wte.weight and lm_head.weight are one parameter";
    let error = tuned.save(folder.path()).unwrap_err().to_string();
    assert!(error.contains(said), "{error}");
    assert!(!folder.path().join("adapter_config.json").exists());
    tuned.detach();
    adapters::attach(&model, "*.c_attn", Lora::new(2)).unwrap().save(folder.path()).unwrap();
    configure(folder.path(), "modules_to_save", json!(["wte"]));
    let model = config.causal_lm(&mut Fresh::random(&mut Rng::seeded(3), &Device::Cpu)).unwrap();
    let error = adapters::load(&model, folder.path()).err().unwrap().to_string();
    assert!(error.contains(said), "{error}");
}

#[test]
fn an_embedding_does_not_start_from_singular_vectors() {
    let targets = Targets::from(["word_embeddings"]).with_embeddings();
    let start = Lora { start: Start::Pissa, ..Lora::new(2) };
    let error = adapters::attach(&model(&Device::Cpu), targets, start).err().unwrap().to_string();
    assert!(error.contains("word_embeddings") && error.contains("singular vectors"), "{error}");
}

#[test]
fn a_regular_expression_for_the_layers_of_ia3_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    adapters::attach(&model(&Device::Cpu), SQUARE, Ia3::new(["query"])).unwrap().save(folder.path()).unwrap();
    configure(folder.path(), "feedforward_modules", json!(".*query"));
    let error = adapters::load(&model(&Device::Cpu), folder.path()).err().unwrap().to_string();
    assert!(error.contains("feedforward_modules") && error.contains("regular expression"), "{error}");
}

#[test]
fn a_layer_without_ranks_is_left_out_of_an_exported_lora() {
    let (folder, exported) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    adapters::attach(&model(&Device::Cpu), SQUARE, AdaLora::new(2, 2, 20))
        .unwrap()
        .save(folder.path())
        .unwrap();
    let mut name = String::new();
    rewrite(folder.path(), |tensors| {
        name = tensors.keys().find(|name| name.ends_with("lora_A")).unwrap().replace("lora_A", "");
        for (end, axis) in [("lora_A", 0), ("lora_E", 0), ("lora_B", 1)] {
            let tensor = tensors.get_mut(&format!("{name}{end}")).unwrap();
            *tensor = tensor.narrow(axis, 0, 0);
        }
    });
    let site = name.trim_start_matches("base_model.model.").trim_end_matches('.');
    configure(folder.path(), "rank_pattern", json!({site: [false, false, false]}));
    let tuned = adapters::load(&model(&Device::Cpu), folder.path()).unwrap();
    tuned.export_as_lora(exported.path(), 2).unwrap();
    adapters::load(&model(&Device::Cpu), exported.path()).unwrap();
    let config = std::fs::read_to_string(exported.path().join("adapter_config.json")).unwrap();
    assert!(config.contains("target_modules") && !config.contains(site), "{config}");
}
