//! What published directories hold and say: every architecture, heads, what is left out and what is left over.

mod common;
mod published;

use engrad::adapters::{self, Lora};
use engrad::nn::{LlamaConfig, Model, Pretrained, Side, files};
use engrad::{Device, Rng, Tensor, inference};
use published::{
    encoder_json, gpt2_json, llama_json, open, pair_json, refusal, saved, t5_json, values, with, write_config,
};
use serde_json::{Value, json};

#[test]
fn what_published_files_hold_besides_is_left_aside() {
    let architecture = |name: &str| json!({"architectures": [name]});
    let cases = [
        // Classes of tokens, not of the text, whatever stands below them.
        (
            with(encoder_json(), "bert", architecture("BertForTokenClassification")),
            "bert.pooler.dense.weight",
        ),
        (
            with(encoder_json(), "roberta", architecture("RobertaForTokenClassification")),
            "roberta.pooler.dense.weight",
        ),
        (
            with(encoder_json(), "roberta", architecture("RobertaForSequenceClassification")),
            "roberta.pooler.dense.weight",
        ),
        (with(encoder_json(), "bert", architecture("BertForMaskedLM")), "cls.seq_relationship.weight"),
        (
            with(t5_json(), "t5", json!({})),
            "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
        ),
        (with(pair_json(), "bart", json!({})), "model.encoder.version"),
    ];
    for (config, name) in cases {
        let (directory, model) = saved(config);
        let path = directory.path().join("model.safetensors");
        let mut stored = files::read(&path, &Device::Cpu).expect("readable").tensors;
        stored.insert(name.into(), Tensor::ones([8, 8], &Device::Cpu));
        files::write(&path, &stored, Default::default()).expect("it is written");
        let loaded = open(directory.path()).unwrap_or_else(|what| panic!("{name}: {what}"));
        assert_eq!(std::mem::discriminant(&loaded.model), std::mem::discriminant(&model.model), "{name}");
        assert_eq!(values(&loaded), values(&model), "{name}");
    }
}

#[test]
fn a_t5_whose_file_has_an_output_of_its_own_is_not_tied() {
    let (directory, model) = saved(with(t5_json(), "t5", json!({"tie_word_embeddings": false})));
    // As transformers 5 writes it.
    let said = json!({"tie_word_embeddings": true, "scale_decoder_outputs": false});
    write_config(directory.path(), &with(t5_json(), "t5", said));
    assert_eq!(values(&open(directory.path()).expect("it loads")), values(&model));
}

#[test]
fn what_a_configuration_leaves_out_is_what_transformers_takes() {
    let parse = |config: &Value| LlamaConfig::parse(config).map_err(|error| error.to_string());
    let mut mistral = with(llama_json(), "mistral", json!({"max_position_embeddings": 8192}));
    let said = parse(&mistral).expect_err("it has a window");
    assert!(said.contains("sliding_window of 4096 tokens is not implemented"), "{said}");
    mistral["sliding_window"] = Value::Null;
    parse(&mistral).expect("it has none");

    let mut roberta = with(encoder_json(), "roberta", json!({}));
    roberta.as_object_mut().expect("an object").remove("pad_token_id");
    let made = Pretrained::from_config(roberta, &mut Rng::seeded(1), &Device::Cpu).expect("sensible");
    let Model::Encoder(encoder) = made.model else { panic!("an encoder") };
    assert_eq!((encoder.config().pad_token_id, encoder.positions()), (1, 8));
}

#[test]
fn configurations_that_cannot_become_a_model_are_refused() {
    let named = |name: &str| json!({"architectures": [name]});
    let classes =
        |count: Value| json!({"architectures": ["GPT2ForSequenceClassification"], "num_labels": count});
    let cases = [
        (with(encoder_json(), "bert", named("BertForQuestionAnswering")), "expected one that ends with"),
        (with(gpt2_json(), "gpt2", named("GPT2ForTokenClassification")), "not implemented on a gpt2"),
        (with(pair_json(), "bart", named("BartForSequenceClassification")), "not implemented on a bart"),
        (with(gpt2_json(), "gpt2", classes(json!(0))), "the number of labels is 0"),
        (with(gpt2_json(), "gpt2", classes(json!(u64::MAX))), "the number of labels is 18446744073709551615"),
        (with(gpt2_json(), "gpt2", json!({"n_embd": 1u64 << 63})), "n_embd is 9223372036854775808"),
        (
            with(pair_json(), "marian", json!({"max_position_embeddings": 1 << 24, "d_model": 512})),
            "are 8589934592 sines",
        ),
        (
            with(
                t5_json(),
                "t5",
                json!({"num_heads": 4096, "relative_attention_num_buckets": 1 << 23,
                    "relative_attention_max_distance": 1 << 23}),
            ),
            "these sizes make 34359738368 parameters",
        ),
    ];
    for (config, words) in cases {
        let made = Pretrained::from_config(config, &mut Rng::seeded(1), &Device::Cpu);
        let said = made.err().unwrap_or_else(|| panic!("{words}")).to_string();
        assert!(said.contains(words), "{said} lacks {words:?}");
    }
}

#[test]
fn a_model_is_saved_without_adapters_only() {
    let (directory, model) = saved(llama_json());
    let before = std::fs::read(directory.path().join("model.safetensors")).expect("readable");
    let tuned = adapters::attach(&model.model, "*.q_proj", Lora::new(2)).expect("it has these layers");
    let said = model.save(directory.path()).expect_err("an adapter is in").to_string();
    assert!(said.contains("model.layers.0.self_attn.q_proj has an adapter"), "{said}");
    tuned.detach();
    model.save(directory.path()).expect("it is written");
    assert_eq!(std::fs::read(directory.path().join("model.safetensors")).expect("readable"), before);
}

#[test]
fn a_directory_that_was_not_written_to_its_end_is_no_model() {
    let (directory, model) = saved(llama_json());
    let at = |name: &str| directory.path().join(name);
    for name in ["config.json", "model.safetensors"] {
        std::fs::remove_file(at(name)).expect("it was there");
    }
    // Nothing can take this name any more, so that saving ends there.
    std::fs::create_dir(at("model.safetensors")).expect("it is made");
    model.save(directory.path()).expect_err("the weights cannot be written");
    assert!(!at("config.json").exists(), "what says that there is a model comes last");
    let said = refusal(directory.path());
    assert!(said.contains("config.json"), "{said}");
}

#[test]
fn targets_may_be_padded_on_either_side() {
    for config in [with(pair_json(), "bart", json!({})), with(t5_json(), "t5", json!({}))] {
        let made =
            Pretrained::from_config(config, &mut Rng::seeded(1), &Device::Reference).expect("sensible");
        let model = made.model.seq2seq().expect("it reads sources");
        let sources = model.sources(&[vec![3, 4, 5], vec![6, 7]]).expect("they fit");
        let scores = |side: Side| {
            let targets = model.batch(&[vec![2, 3], vec![2, 9, 8, 7]], side).expect("they fit");
            let first = targets.spans[0].start;
            let scores = inference(|| model.translate(&sources, &targets));
            [scores.narrow(0, 0, 1).narrow(1, first, 2).to_f64(), scores.narrow(0, 1, 1).to_f64()].concat()
        };
        common::compare(&scores(Side::Left), &scores(Side::Right), 1e-9).expect("the same scores");
    }
}

#[test]
fn every_architecture_is_made_saved_and_loaded_by_its_configuration() {
    let (encoder, pair, t5) = (encoder_json(), pair_json(), t5_json());
    let cases = [
        (&encoder, "bert", "BertModel"),
        (&encoder, "bert", "BertForSequenceClassification"),
        (&encoder, "bert", "BertForTokenClassification"),
        (&encoder, "bert", "BertForMaskedLM"),
        (&encoder, "roberta", "RobertaModel"),
        (&encoder, "roberta", "RobertaForSequenceClassification"),
        (&encoder, "roberta", "RobertaForTokenClassification"),
        (&encoder, "roberta", "RobertaForMaskedLM"),
        (&gpt2_json(), "gpt2", "GPT2LMHeadModel"),
        (&gpt2_json(), "gpt2", "GPT2ForSequenceClassification"),
        (&llama_json(), "llama", "LlamaForCausalLM"),
        (&llama_json(), "llama", "LlamaForSequenceClassification"),
        (&llama_json(), "mistral", "MistralForCausalLM"),
        (&llama_json(), "qwen2", "Qwen2ForCausalLM"),
        (&pair, "bart", "BartForConditionalGeneration"),
        (&pair, "marian", "MarianMTModel"),
        (&t5, "t5", "T5ForConditionalGeneration"),
    ];
    for (config, family, name) in cases {
        let mut config = config.clone();
        config["model_type"] = json!(family);
        config["architectures"] = json!([name]);
        let (directory, model) = saved(config);
        let loaded = open(directory.path()).unwrap_or_else(|what| panic!("{name}: {what}"));
        assert_eq!(values(&loaded), values(&model), "{name}");
        assert_eq!(std::mem::discriminant(&loaded.model), std::mem::discriminant(&model.model), "{name}");
        let alone = matches!(loaded.model, Model::CausalLm(_));
        assert_eq!(loaded.model.language_model().is_some(), alone, "{name}");
        let paired = matches!(loaded.model, Model::Bart(_) | Model::T5(_));
        assert_eq!(loaded.model.seq2seq().is_some(), paired, "{name}");
    }
}
