//! Configurations of every family, and models saved as published directories are.
#![allow(dead_code)]

use std::path::Path;

use engrad::nn::{Pretrained, named_params};
use engrad::{Device, Rng};
use serde_json::{Value, json};

pub const VOCABULARY: usize = 29;

pub fn gpt2_json() -> Value {
    json!({"model_type": "gpt2", "vocab_size": VOCABULARY, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2})
}

pub fn llama_json() -> Value {
    json!({"model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "initializer_range": 0.3})
}

pub fn encoder_json() -> Value {
    json!({"vocab_size": 19, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 12, "max_position_embeddings": 10, "hidden_act": "gelu", "pad_token_id": 1,
        "id2label": {"0": "a", "1": "b", "2": "c"}})
}

pub fn pair_json() -> Value {
    json!({"vocab_size": 19, "d_model": 8, "encoder_layers": 1, "encoder_ffn_dim": 12,
        "encoder_attention_heads": 2, "decoder_layers": 1, "decoder_ffn_dim": 12, "decoder_attention_heads": 2,
        "max_position_embeddings": 10, "activation_function": "gelu", "decoder_start_token_id": 2, "init_std": 0.3})
}

pub fn t5_json() -> Value {
    json!({"vocab_size": 19, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2})
}

/// A configuration of a family, with these entries.
pub fn with(mut config: Value, family: &str, entries: Value) -> Value {
    config["model_type"] = json!(family);
    config.as_object_mut().expect("an object").extend(entries.as_object().expect("an object").clone());
    config
}

/// A model of a configuration, saved as published directories are.
pub fn saved(config: Value) -> (tempfile::TempDir, Pretrained) {
    let directory = tempfile::tempdir().expect("a place for files");
    let model = Pretrained::from_config(config, &mut Rng::seeded(5), &Device::Cpu).expect("sensible");
    model.save(directory.path()).expect("it is written");
    (directory, model)
}

pub fn open(directory: &Path) -> Result<Pretrained, String> {
    Pretrained::from_directory(directory, &Device::Cpu).map_err(|error| error.to_string())
}

pub fn refusal(directory: &Path) -> String {
    open(directory).err().expect("it is refused")
}

pub fn write_config(directory: &Path, config: &Value) {
    std::fs::write(directory.join("config.json"), config.to_string()).expect("it is written");
}

pub fn values(model: &Pretrained) -> Vec<(String, Vec<f64>)> {
    named_params(&model.model).into_iter().map(|(name, param)| (name, param.value().to_f64())).collect()
}
