//! An encoder: what its batches and its configuration accept, its head, and the directory that it is saved in.

mod common;
mod tiny;

use common::{compare, on_every_device, test_on};
use engrad::adapters::{self, PrefixTuning};
use engrad::device::counted;
use engrad::nn::{Classifier, Encoder, EncoderConfig, files, named_params};
use engrad::{Device, Error, Ids, Rng, Tensor, inference, training};
use serde_json::{Value, json};
use tiny::encoder;

#[test]
fn token_ids_that_do_not_fit_are_errors() {
    let model = encoder(&Device::Cpu);
    type Rows<'r> = &'r [&'r [u32]];
    let rows: [(Rows, Option<Rows>, &str); 9] = [
        (&[], None, "at least one sequence"),
        (&[&[1, 2], &[]], None, "sequence 1 of the batch is empty"),
        (&[&[1, 2, 3, 4, 5, 6, 7]], None, "a sequence of 7 tokens, but the model has 6 positions"),
        (&[&[1, 12]], None, "index 12 at position 1 is not below 12"),
        (&[&[1, u32::MAX]], None, "marks none"),
        (&[&[1, 2]], Some(&[&[0, 2]]), "index 2 at position 1 is not below 2"),
        (&[&[1, 2]], Some(&[&[0, u32::MAX]]), "marks none"),
        (&[&[1, 2]], Some(&[&[0]]), "lengths of their sequences"),
        (&[&[1, 2]], Some(&[&[0, 0], &[0]]), "lengths of their sequences"),
    ];
    let own = |rows: &[&[u32]]| rows.iter().map(|row| row.to_vec()).collect::<Vec<_>>();
    for (sequences, types, expected) in rows {
        let found = model.batch(&own(sequences), types.map(own).as_deref());
        let Err(Error::Ids(error)) = found else { panic!("{expected}: {found:?}") };
        assert!(error.contains(expected), "{error}");
    }
    let labels = Ids::new([0, 2], [2], 2).unwrap_err().to_string();
    assert!(labels.contains("index 2 at position 1 is not below 2"), "{labels}");
}

#[test]
fn padding_changes_no_sentence() {
    let model = encoder(&Device::Reference);
    let (sentences, _) = tiny::sentences();
    let together = model.embed(&model.batch(&sentences, None).unwrap()).to_f64();
    for (sentence, expected) in sentences.iter().zip(together.chunks(8)) {
        let alone = model.embed(&model.batch(std::slice::from_ref(sentence), None).unwrap()).to_f64();
        for (alone, together) in alone.iter().zip(expected) {
            assert!((alone - together).abs() < 1e-12);
        }
    }
}

on_every_device! {
    fn a_first_token_alone_is_the_first_of_all(device) {
        for (layers, virtual_tokens) in [(0, 0), (1, 0), (3, 0), (3, 2)] {
            let config = EncoderConfig { num_hidden_layers: layers, max_position_embeddings: 9, ..tiny::config() };
            let model = tiny::classifier(&config, device);
            if virtual_tokens > 0 {
                adapters::attach(&model, "*", PrefixTuning::new(virtual_tokens)).unwrap();
            }
            let batch = tiny::batch(&model).0;
            let alone = model.encoder.pooled(&batch);
            let of_all = model.encoder.pool(&model.encoder.forward(&batch).select(1, 0));
            // Biases of keys have gradients that are nothing but rounding, so no relative limit holds.
            let allowed = if *device == Device::Reference { 1e-13 } else { 1e-5 };
            compare(&alone.to_f64(), &of_all.to_f64(), allowed).unwrap();
            let [alone, of_all] = [alone, of_all].map(|pooled| pooled.square().sum(..).backward());
            assert_eq!(alone.len(), of_all.len());
            for (path, param) in named_params(&model) {
                let Some(expected) = of_all.of(&param.value()) else { continue };
                let found = alone.of(&param.value()).unwrap_or_else(|| panic!("{path} has no gradient"));
                compare(&found.to_f64(), &expected.to_f64(), allowed)
                    .unwrap_or_else(|error| panic!("{layers} layers, {path}: {error}"));
            }
        }
    }
}

#[test]
fn the_last_block_makes_only_keys_and_values_of_every_token() {
    let model = tiny::classifier(&tiny::config(), &Device::Cpu);
    let batch = tiny::batch(&model).0;
    let (rows, tokens) = (batch.batch() as u64, (batch.batch() * batch.time()) as u64);
    let products = |forward: &dyn Fn() -> Tensor| counted(|| inference(forward)).1["matmul"].flops;
    // A layer of width 8 and hidden size 12: four square products, and up and down.
    let (square, wide) = (2 * 8 * 8, 2 * 8 * 12);
    assert_eq!(products(&|| model.encoder.forward(&batch)), tokens * (4 * square + 2 * wide));
    let (keys_and_values, rest, pooler) = (2 * square, 2 * square + 2 * wide, square);
    let first = tokens * keys_and_values + rows * (rest + pooler);
    assert_eq!(products(&|| model.encoder.pooled(&batch)), first);
}

fn published() -> Value {
    let mut config = serde_json::to_value(tiny::config()).unwrap();
    config["model_type"] = json!("bert");
    config
}

/// What reading a `config.json` with this text gives.
fn read(text: &str) -> Result<EncoderConfig, Error> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), text).unwrap();
    EncoderConfig::read(folder.path())
}

#[test]
fn a_configuration_that_cannot_be_built_is_an_error() {
    assert_eq!(read(&published().to_string()).unwrap(), tiny::config());
    let rows = [
        ("hidden_act", json!("softshrink"), "softshrink"),
        ("num_attention_heads", json!(3), "num_attention_heads 3 does not divide hidden_size 8"),
        ("num_attention_heads", json!(0), "num_attention_heads is 0"),
        ("hidden_size", json!(0), "hidden_size is 0"),
        ("hidden_size", json!(-8), "-8"),
        ("hidden_size", json!(8.5), "8.5"),
        ("vocab_size", json!(1u64 << 40), "vocab_size is 1099511627776"),
        ("num_hidden_layers", json!(u64::MAX), "num_hidden_layers is 18446744073709551615"),
        ("num_hidden_layers", json!(5000), "num_hidden_layers is 5000"),
        ("model_type", json!("gpt2"), "model_type \"gpt2\" is not implemented; expected \"bert\""),
        ("model_type", json!("roberta"), "expected a BERT"),
        ("position_embedding_type", json!("relative_key"), "relative_key"),
        ("is_decoder", json!(true), "is_decoder true is not implemented"),
        ("layer_norm_eps", json!(-1.0), "layer_norm_eps is -1"),
        ("hidden_dropout_prob", json!(1.0), "hidden_dropout_prob is 1"),
        ("pad_token_id", json!(12), "pad_token_id 12 is outside the vocabulary"),
    ];
    for (key, value, expected) in rows {
        let mut config = published();
        config[key] = value;
        let error = read(&config.to_string()).expect_err(expected).to_string();
        assert!(error.contains("config.json") && error.contains(expected), "{error}");
    }
    for key in ["vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "hidden_act"] {
        let mut config = published();
        config.as_object_mut().unwrap().remove(key);
        let error = read(&config.to_string()).expect_err(key).to_string();
        assert!(error.contains(&format!("missing field `{key}`")), "{error}");
    }
    for text in ["", "[]", "null", "{", "3", "\"bert\"", "{\"vocab_size\": 1e999}", "\u{feff}{}"] {
        assert!(matches!(read(text), Err(Error::Format { .. })), "{text:?}");
    }
    assert!(matches!(EncoderConfig::read("/no/such/folder"), Err(Error::Io { .. })));
}

#[test]
fn a_model_too_large_for_any_memory_is_refused_before_it_costs_any() {
    let huge = EncoderConfig { vocab_size: 1 << 24, hidden_size: 1 << 14, ..tiny::config() };
    let error = Encoder::new(&huge, &mut Rng::seeded(1), &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("parameters, which is more than"), "{error}");
    // Within the limits of a configuration, and beyond this machine: the file decides.
    let large = EncoderConfig { vocab_size: 1 << 21, hidden_size: 1 << 12, ..tiny::config() };
    large.check().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = published();
    config["vocab_size"] = json!(large.vocab_size);
    config["hidden_size"] = json!(large.hidden_size);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    files::save(folder.path().join("model.safetensors"), &encoder(&Device::Cpu)).unwrap();
    let error = Encoder::from_directory(folder.path(), &Device::Cpu).err().unwrap().to_string();
    let expected = "embeddings.word_embeddings.weight is [12, 8] in the file, [2097152, 4096] in the model";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_head_drops_what_its_own_probability_says() {
    let batch = |model: &Classifier| model.encoder.batch(&[vec![1, 2, 3]], None).unwrap();
    for (own, differs) in [(None, false), (Some(0.0), false), (Some(0.5), true)] {
        let config = EncoderConfig { classifier_dropout: own, ..tiny::config() };
        let model = tiny::classifier(&config, &Device::Cpu);
        let scores = |seed| training(seed, || model.forward(&batch(&model)).to_vec());
        let all: Vec<_> = (0..8).map(scores).collect();
        assert_eq!(all.iter().any(|scores| *scores != all[0]), differs, "{own:?}");
    }
    let mut json = published();
    json["classifier_dropout"] = json!(0.25);
    assert_eq!(read(&json.to_string()).unwrap().head_dropout(), 0.25);
}

#[test]
fn an_encoder_comes_back_from_the_directory_it_was_saved_in() {
    for device in common::devices() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("new/model");
        let saved = encoder(&device);
        saved.save_directory(&directory).unwrap();
        let loaded = Encoder::from_directory(&directory, &device).unwrap();
        assert_eq!(loaded.config(), saved.config());
        for ((path, a), (_, b)) in named_params(&saved).iter().zip(named_params(&loaded)) {
            assert_eq!(a.value().to_f64(), b.value().to_f64(), "{path}");
        }
    }
}

#[test]
fn an_encoder_is_not_saved_where_no_directory_can_be() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = encoder(&Device::Cpu).save_directory(file.path().join("below")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}
