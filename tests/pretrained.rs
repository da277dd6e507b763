//! Models from directories and text from models: what the golden values do not show.
//! Read next: `directories.rs`, what published directories hold and say.

mod common;
mod published;

use common::{on_every_device, test_on};
use engrad::nn::{
    Cache, CausalLm, Choose, Fresh, Generation, Gpt2Config, LanguageModel, LlamaConfig, Side, files,
    generate, named_params,
};
use engrad::{Device, Error, Ids, Rng, inference};
use published::{VOCABULARY, gpt2_json, llama_json, open, refusal, saved, values, write_config};
use serde_json::{Value, json};

fn decoders(device: &Device) -> [CausalLm; 2] {
    let mut rng = Rng::seeded(3);
    let gpt2 = Gpt2Config { initializer_range: 0.3, ..Gpt2Config::parse(&gpt2_json()).expect("sensible") };
    let llama = LlamaConfig::parse(&llama_json()).expect("sensible");
    [
        gpt2.causal_lm(&mut Fresh::random(&mut rng, device)).expect("sensible"),
        llama.causal_lm(&mut Fresh::random(&mut rng, device)).expect("sensible"),
    ]
}

fn text(length: usize, seed: u64) -> Vec<u32> {
    let mut rng = Rng::seeded(seed);
    (0..length).map(|_| rng.below(VOCABULARY) as u32).collect()
}

on_every_device! {
    fn scores_with_a_cache_are_those_without(device) {
        for model in decoders(device) {
            let batch = model.batch(&[text(50, 1), text(41, 2)], Side::Left).expect("it fits");
            let whole = inference(|| model.forward(&batch));
            let mut cache = Cache::new(batch.starts());
            let mut from = 0;
            // A prompt, then one by one past several joinings, then several at once.
            for length in [7].into_iter().chain([1; 36]).chain([3, 4]) {
                let ids: Vec<u32> = (0..2)
                    .flat_map(|row| batch.ids.values()[row * 50 + from..row * 50 + from + length].to_vec())
                    .collect();
                let ids = Ids::new(ids, [2, length], VOCABULARY).expect("it was checked");
                let scores = inference(|| model.head(&model.hidden(&ids, &mut cache)));
                let expected = whole.narrow(1, from, length);
                // The first row's tokens only where the second has padding.
                let rows = if from < 9 { 1 } else { 2 };
                let (found, expected) = (scores.narrow(0, 0, rows).to_f64(), expected.narrow(0, 0, rows).to_f64());
                common::compare(&found, &expected, 2e-5 * common::largest(&expected)).expect("the same scores");
                from += length;
            }
            assert_eq!(from, 50);
        }
    }

    fn the_cache_takes_the_memory_of_its_formula(device) {
        // Layers, key heads and head size of the two models.
        for (model, [layers, heads, head]) in decoders(device).iter().zip([[2, 2, 8], [2, 2, 4]]) {
            let batch = model.batch(&[text(21, 1), text(21, 2)], Side::Left).expect("it fits");
            let mut cache = Cache::new(batch.starts());
            inference(|| model.hidden(&batch.ids, &mut cache));
            assert_eq!(cache.bytes(), 2 * layers * 2 * heads * 21 * head * 4);
        }
    }
}

fn go_on(model: &CausalLm, prompts: &[Vec<u32>], settings: &Generation) -> Vec<Vec<u32>> {
    let prompts = model.batch(prompts, Side::Right).expect("it fits");
    generate(model, &prompts, settings, &mut |_, _| ()).expect("it goes on")
}

fn sampled(seed: u64, temperature: f64, top_k: usize, top_p: f64) -> Generation {
    let choose = Choose::Sample { seed, temperature, top_k, top_p };
    Generation { choose, ..Generation::greedy(20) }
}

#[test]
fn the_same_seed_draws_the_same_text_and_another_seed_another() {
    let [model, _] = decoders(&Device::Cpu);
    let prompts = [text(5, 1), text(5, 1)];
    let first = go_on(&model, &prompts, &sampled(7, 1.0, 0, 1.0));
    assert_eq!(first, go_on(&model, &prompts, &sampled(7, 1.0, 0, 1.0)));
    assert_ne!(first, go_on(&model, &prompts, &sampled(8, 1.0, 0, 1.0)));
    assert_ne!(first[0], first[1], "each row draws from a stream of its own");
}

#[test]
fn sampling_that_leaves_one_choice_is_greedy() {
    let [model, _] = decoders(&Device::Cpu);
    let prompts = [text(5, 1), text(9, 2)];
    let greedy = go_on(&model, &prompts, &Generation::greedy(20));
    for settings in [sampled(1, 1.0, 1, 1.0), sampled(2, 1.0, 0, 1e-9), sampled(3, 1e-9, 0, 1.0)] {
        assert_eq!(go_on(&model, &prompts, &settings), greedy, "{settings:?}");
    }
}

#[test]
fn draws_follow_the_probabilities_of_the_scores() {
    let [model, _] = decoders(&Device::Cpu);
    let prompt = text(6, 4);
    let batch = model.batch(&vec![prompt.clone(); 1], Side::Left).expect("it fits");
    let scores = inference(|| model.forward(&batch).select(1, 5).softmax(-1).to_f64());
    let rows = 4000;
    let settings = Generation { most: 1, ..sampled(5, 1.0, 0, 1.0) };
    let drawn = go_on(&model, &vec![prompt; rows], &settings);
    for (token, probability) in scores.iter().enumerate() {
        let count = drawn.iter().filter(|text| text[0] as usize == token).count() as f64;
        let spread = (probability * rows as f64).sqrt() * 4.5 + 1.0;
        assert!((count - probability * rows as f64).abs() < spread, "token {token}: {count} of {rows}");
    }
}

#[test]
fn each_token_is_heard_as_it_is_chosen() {
    let [model, _] = decoders(&Device::Cpu);
    let prompts = model.batch(&[text(5, 1), text(3, 2)], Side::Left).expect("it fits");
    let mut heard = vec![Vec::new(); 2];
    let mut rows = Vec::new();
    let settings = Generation::greedy(6);
    let found = generate(&model, &prompts, &settings, &mut |row, token| {
        heard[row].push(token);
        rows.push(row);
    });
    assert_eq!(heard, found.expect("it goes on"));
    assert_eq!(rows, [0, 1].repeat(6));
}

#[test]
fn a_text_stops_at_its_end_token_while_others_go_on() {
    let [model, _] = decoders(&Device::Cpu);
    let prompts = [text(5, 1), text(9, 2)];
    let free = go_on(&model, &prompts, &Generation::greedy(12));
    let end = free[0][3];
    let at = |row: usize| free[row].iter().position(|&token| token == end).map_or(12, |at| at + 1);
    let ended = go_on(&model, &prompts, &Generation { end: vec![end], ..Generation::greedy(12) });
    assert_eq!(ended, [free[0][..at(0)].to_vec(), free[1][..at(1)].to_vec()]);
}

#[test]
fn a_forbidden_token_is_never_chosen() {
    let [model, _] = decoders(&Device::Cpu);
    let prompts = [text(5, 1), text(9, 2)];
    let free = go_on(&model, &prompts, &Generation::greedy(12));
    let said = json!({ "bad_words_ids": [[free[0][0]], [free[1][0]]] });
    let beams = Choose::Beams { beams: 3, length_penalty: 1.0, early: false };
    for choose in [Choose::Greedy, sampled(1, 2.0, 0, 1.0).choose, beams] {
        let settings = Generation { choose, ..Generation::greedy(12) };
        let found = go_on(&model, &prompts, &settings.forbidding_as(&said).expect("single tokens"));
        assert!(
            found.iter().flatten().all(|token| *token != free[0][0] && *token != free[1][0]),
            "{found:?}"
        );
    }
    let said = json!({ "bad_words_ids": [[7], [4]], "eos_token_id": [4, 5] });
    assert_eq!(
        Generation::greedy(1).forbidding_as(&said).expect("single tokens").never,
        [7],
        "a text can end"
    );
    let several = Generation::greedy(1).forbidding_as(&json!({ "bad_words_ids": [[1, 2]] }));
    assert!(several.expect_err("a run").to_string().contains("holds [1,2]"));
}

#[test]
fn prompts_and_settings_that_do_not_fit_are_refused() {
    let [model, _] = decoders(&Device::Cpu);
    let says = |error: Error, words: &[&str]| {
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text:?} lacks one of {words:?}");
    };
    says(model.batch(&[text(65, 1)], Side::Left).expect_err("too long"), &["65 tokens", "64 positions"]);
    says(model.batch(&[vec![3, 29]], Side::Left).expect_err("no such token"), &["token 29", "ends at 29"]);
    says(model.batch(&[vec![]], Side::Left).expect_err("nothing"), &["empty"]);
    let prompt = model.batch(&[text(60, 1)], Side::Left).expect("it fits");
    let go_on = |settings: Generation| generate(&model, &prompt, &settings, &mut |_, _| ());
    assert_eq!(go_on(Generation::greedy(5)).expect("the last is not read")[0].len(), 5);
    says(go_on(Generation::greedy(6)).expect_err("too long"), &["60 tokens and 6 more", "64 positions"]);
    says(go_on(Generation::greedy(usize::MAX)).expect_err("too long"), &["64 positions"]);
    let beams = Choose::Beams { beams: usize::MAX, length_penalty: 1.0, early: false };
    says(
        go_on(Generation { choose: beams, ..Generation::greedy(1) }).expect_err("too many"),
        &["cannot be followed"],
    );
    let end = Generation::greedy(1).ending_as(&json!({ "eos_token_id": (1u64 << 32) + 3 }));
    says(go_on(end).expect_err("no such token"), &["end token", "ends at 29"]);
    let end = Generation { end: vec![29], ..Generation::greedy(1) };
    says(go_on(end).expect_err("no such token"), &["end token 29", "ends at 29"]);
    let never = Generation { never: vec![30], ..Generation::greedy(1) };
    says(go_on(never).expect_err("no such token"), &["forbidden token 30", "ends at 29"]);
    for (temperature, top_p) in [(0.0, 1.0), (f64::NAN, 1.0), (1.0, 0.0), (1.0, 1.5)] {
        let mut settings = sampled(1, temperature, 0, top_p);
        settings.most = 1;
        says(go_on(settings).expect_err("no sense"), &["cannot be followed"]);
    }
}

#[test]
fn a_model_in_shards_is_the_model_in_one_file() {
    let (directory, model) = saved(llama_json());
    let whole = directory.path().join("model.safetensors");
    let tensors = files::read(&whole, &Device::Cpu).expect("readable").tensors;
    std::fs::remove_file(&whole).expect("it was there");
    let mut map = serde_json::Map::new();
    for (number, names) in tensors.keys().collect::<Vec<_>>().chunks(tensors.len().div_ceil(3)).enumerate() {
        let file = format!("model-{number}.safetensors");
        let part = names.iter().map(|&name| (name.clone(), tensors[name].clone())).collect();
        files::write(directory.path().join(&file), &part, Default::default()).expect("it is written");
        map.extend(names.iter().map(|&name| (name.clone(), json!(file))));
    }
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    std::fs::write(directory.path().join("model.safetensors.index.json"), index).expect("it is written");
    assert_eq!(values(&open(directory.path()).expect("all shards are there")), values(&model));
    let second = directory.path().join("model-1.safetensors");
    std::fs::copy(directory.path().join("model-0.safetensors"), &second).expect("it is there");
    let said = refusal(directory.path());
    assert!(said.contains("model-1.safetensors") && said.contains("in an earlier shard too"), "{said}");
    std::fs::remove_file(&second).expect("it was there");
    let said = refusal(directory.path());
    assert!(said.contains("model-1.safetensors") && said.contains("missing"), "{said}");
}

#[test]
fn weights_of_half_precision_load_as_what_they_stand_for() {
    let (directory, model) = saved(gpt2_json());
    let path = directory.path().join("model.safetensors");
    for kind in [safetensors::Dtype::F16, safetensors::Dtype::BF16] {
        let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = named_params(&model.model)
            .into_iter()
            .map(|(name, param)| {
                let stored = param.stored(&param.value());
                let round = |x: f32| match kind {
                    safetensors::Dtype::F16 => half::f16::from_f32(x).to_le_bytes(),
                    _ => half::bf16::from_f32(x).to_le_bytes(),
                };
                (name, stored.sizes().to_vec(), stored.to_vec().into_iter().flat_map(round).collect())
            })
            .collect();
        let views = bytes.iter().map(|(name, sizes, bytes)| {
            (name, safetensors::tensor::TensorView::new(kind, sizes.clone(), bytes).expect("they fit"))
        });
        std::fs::write(&path, safetensors::serialize(views, None).expect("they fit")).expect("it is written");
        let loaded = open(directory.path()).expect("it loads");
        for ((name, found), (_, expected)) in values(&loaded).iter().zip(values(&model)) {
            let largest = common::largest(&expected);
            common::compare(found, &expected, largest / 128.0)
                .unwrap_or_else(|what| panic!("{name}: {what}"));
        }
    }
}

#[test]
fn the_matrices_of_gpt2_lie_transposed_in_files_only() {
    let (directory, model) = saved(gpt2_json());
    let stored =
        files::read(directory.path().join("model.safetensors"), &Device::Cpu).expect("readable").tensors;
    assert_eq!(stored["transformer.h.0.attn.c_attn.weight"].sizes(), [16, 48]);
    let params = named_params(&model.model);
    let (_, param) =
        params.iter().find(|(name, _)| name == "transformer.h.0.attn.c_attn.weight").expect("there");
    assert_eq!(param.sizes(), [48, 16]);
    assert_eq!(param.value().t().to_vec(), stored["transformer.h.0.attn.c_attn.weight"].to_vec());
    assert!(!stored.contains_key("lm_head.weight"), "tied tensors are stored once");
}

#[test]
fn published_names_may_lack_their_prefix_and_come_with_buffers_and_copies() {
    let (directory, model) = saved(gpt2_json());
    let path = directory.path().join("model.safetensors");
    let stored = files::read(&path, &Device::Cpu).expect("readable").tensors;
    let mut bare: std::collections::BTreeMap<String, engrad::Tensor> = stored
        .into_iter()
        .map(|(name, tensor)| (name.trim_start_matches("transformer.").to_string(), tensor))
        .collect();
    let ones = engrad::Tensor::ones([1, 1, 4, 4], &Device::Cpu);
    bare.insert("h.0.attn.bias".into(), ones.clone());
    bare.insert("h.1.attn.masked_bias".into(), ones.clone());
    bare.insert("lm_head.weight".into(), bare["wte.weight"].clone());
    files::write(&path, &bare, Default::default()).expect("it is written");
    assert_eq!(values(&open(directory.path()).expect("it loads")), values(&model));
    bare.insert("lm_head.weight".into(), &bare["wte.weight"] + 1.0);
    bare.insert("h.0.attn.bias_of_ours".into(), ones);
    bare.remove("ln_f.weight");
    files::write(&path, &bare, Default::default()).expect("it is written");
    let said = refusal(directory.path());
    for words in [
        "contradicting: lm_head.weight",
        "unexpected: h.0.attn.bias_of_ours",
        "missing: transformer.ln_f.weight",
    ] {
        assert!(said.contains(words), "{said} lacks {words:?}");
    }
}

#[test]
fn what_a_directory_says_wrongly_is_named() {
    let change = |key: &str, value: Value| {
        let (directory, model) = saved(llama_json());
        let mut config = model.config.clone();
        config[key] = value;
        write_config(directory.path(), &config);
        refusal(directory.path())
    };
    let cases = [
        ("model_type", json!("mamba"), "\"mamba\" is not implemented"),
        ("model_type", Value::Null, "model_type is missing"),
        ("vocab_size", json!(30), "misshapen: model.embed_tokens.weight is [29, 16] in the file, [30, 16]"),
        ("num_hidden_layers", json!(3), "missing: model.layers.2.self_attn.q_proj.weight"),
        ("num_hidden_layers", json!(1), "unexpected: model.layers.1."),
        ("num_key_value_heads", json!(3), "num_key_value_heads 3 does not divide num_attention_heads 4"),
        ("intermediate_size", json!(0), "intermediate_size is 0"),
        ("hidden_act", json!("swoosh"), "swoosh"),
        ("tie_word_embeddings", json!(true), "contradicting: lm_head.weight"),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}), "\"yarn\" is not implemented"),
        // The older name of the kind beside the newer one.
        ("rope_scaling", json!({"type": "linear", "rope_type": "linear"}), "factor is missing"),
        (
            "rope_scaling",
            json!({"type": "linear", "factor": -2.0}),
            "factor is -2, expected a positive number",
        ),
        (
            "rope_scaling",
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32}),
            "high_freq_factor 4 is not above low_freq_factor 4",
        ),
        ("attention_bias", json!(true), "missing: model.layers.0.self_attn.q_proj.bias"),
    ];
    for (key, value, words) in cases {
        let said = change(key, value.clone());
        assert!(said.contains(words), "{key} = {value}: {said} lacks {words:?}");
    }
}

#[test]
fn weights_in_a_format_that_is_not_read_are_named_with_what_to_do() {
    let (directory, _) = saved(llama_json());
    let at = |name: &str| directory.path().join(name);
    std::fs::rename(at("model.safetensors"), at("pytorch_model.bin")).expect("it was there");
    let said = refusal(directory.path());
    assert!(said.contains("model.safetensors: is missing") && said.contains("save_pretrained"), "{said}");
}

/// As GPT-2's paper says (2.3), and as transformers begins.
#[test]
fn what_joins_the_residual_sum_of_a_fresh_gpt2_begins_smaller() {
    let config = json!({
        "model_type": "gpt2", "vocab_size": 300, "n_positions": 64, "n_embd": 64, "n_layer": 8, "n_head": 4,
        "initializer_range": 0.1, "tie_word_embeddings": false,
    });
    let mut rng = Rng::seeded(1);
    let config = Gpt2Config::parse(&config).expect("sensible");
    let model = config.causal_lm(&mut Fresh::random(&mut rng, &Device::Cpu)).expect("sensible");
    let mut joining = 0;
    for (path, param) in named_params(&model) {
        if !path.ends_with(".weight") || path.contains("ln_") {
            continue;
        }
        joining += usize::from(path.ends_with("c_proj.weight"));
        let expected = if path.ends_with("c_proj.weight") { 0.1 / 4.0 } else { 0.1 };
        let values = param.value().to_f64();
        let found = (values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt();
        assert!((found / expected - 1.0).abs() < 0.05, "{path}: {found}, expected {expected}");
    }
    assert_eq!(joining, 16);
}
