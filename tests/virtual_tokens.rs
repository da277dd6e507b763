//! Prompt tuning, p-tuning and prefix tuning: laws of what stands before a text, on every device.
//! What PEFT computes with them is in `golden_peft.rs`.

mod common;
mod tiny;

use common::{close, on_every_device, test_on};
use engrad::adapters::{self, Adapted, Method, PTuning, PrefixTuning, PromptStart, PromptTuning};
use engrad::nn::{
    Cache, CausalLm, Choose, Classifier, Fresh, Generation, Gpt2Config, LanguageModel, Linear, LlamaConfig,
    Sequences, Side, generate, named_params,
};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Device, Ids, Rng, Tensor, inference};
use serde_json::json;

/// A method, and how many numbers it trains before a stack of a width, a number of blocks, and a width
/// of keys.
struct Subject {
    name: &'static str,
    make: fn() -> Box<dyn Method>,
    count: fn(usize, usize, usize) -> usize,
}

const METHODS: [Subject; 4] = [
    Subject {
        name: "prompt tuning",
        make: || Box::new(PromptTuning::new(3)),
        count: |width, _, _| 3 * width,
    },
    Subject {
        name: "p-tuning",
        make: || Box::new(PTuning::new(2, 5)),
        count: |width, _, _| 2 * width + 5 * width + 5 + 5 * 5 + 5 + 5 * width + width,
    },
    Subject {
        name: "prefix tuning",
        make: || Box::new(PrefixTuning::new(3)),
        count: |_, blocks, keys| 3 * 2 * blocks * keys,
    },
    Subject {
        name: "prefix tuning with a projection",
        make: || Box::new(PrefixTuning { hidden: Some(4), ..PrefixTuning::new(2) }),
        count: |_, blocks, keys| 2 * keys + 4 * keys + 4 + 4 * 2 * blocks * keys + 2 * blocks * keys,
    },
];

const VOCABULARY: usize = 13;
const POSITIONS: usize = 16;

/// GPT-2, and a Llama with fewer key heads than query heads.
fn decoders(device: &Device) -> [CausalLm; 2] {
    let mut rng = Rng::seeded(3);
    let gpt2 = json!({"vocab_size": VOCABULARY, "n_positions": POSITIONS, "n_embd": 8, "n_layer": 2,
        "n_head": 2, "initializer_range": 0.3, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0});
    let llama = json!({"vocab_size": VOCABULARY, "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": POSITIONS, "rms_norm_eps": 1e-5, "initializer_range": 0.3});
    let [gpt2, llama] = [
        Gpt2Config::parse(&gpt2).unwrap().causal_lm(&mut Fresh::random(&mut rng, device)).unwrap(),
        LlamaConfig::parse(&llama).unwrap().causal_lm(&mut Fresh::random(&mut rng, device)).unwrap(),
    ];
    [gpt2, llama]
}

fn classifier(device: &Device) -> Classifier {
    tiny::classifier(&engrad::nn::EncoderConfig { max_position_embeddings: 9, ..tiny::config() }, device)
}

fn attach(subject: &Subject, model: &dyn engrad::nn::Module) -> Adapted {
    adapters::attach(model, "*", (subject.make)()).expect("the model has a place for virtual tokens")
}

fn texts() -> Vec<Vec<u32>> {
    vec![vec![1, 7, 3, 2, 9], vec![4, 12], vec![5, 6, 8, 10]]
}

fn logits(model: &CausalLm, rows: &[Vec<u32>], side: Side) -> Vec<Vec<f64>> {
    let batch = model.batch(rows, side).unwrap();
    let all = inference(|| model.forward(&batch)).to_f64();
    let row = |number: usize| {
        let span = &batch.spans[number];
        let start = number * batch.time();
        all[(start + span.start) * VOCABULARY..(start + span.end) * VOCABULARY].to_vec()
    };
    (0..rows.len()).map(row).collect()
}

fn near(found: &[f64], expected: &[f64], device: &Device) {
    close(&Tensor::from_f64(found, [found.len()], device), expected, 2e-5);
}

/// Runs a law for every method on every decoder.
fn every_decoder(device: &Device, law: impl Fn(&Subject, &CausalLm)) {
    for subject in &METHODS {
        for (model, name) in decoders(device).iter().zip(["gpt2", "llama"]) {
            println!("{} on {name}", subject.name);
            law(subject, model);
        }
    }
}

on_every_device! {
    fn they_change_the_results_and_leave_no_trace(device) {
        every_decoder(device, |subject, model| {
            let (before, state) = (logits(model, &texts(), Side::Right), tiny::state(model));
            let mut tuned = attach(subject, model);
            let with = logits(model, &texts(), Side::Right);
            assert_ne!(with, before);
            tuned.disable();
            assert_eq!(logits(model, &texts(), Side::Right), before);
            tuned.enable().unwrap();
            assert_eq!(logits(model, &texts(), Side::Right), with);
            let error = tuned.merge().unwrap_err().to_string();
            assert!(error.contains("cannot be merged"), "{error}");
            tuned.detach();
            assert_eq!(logits(model, &texts(), Side::Right), before);
            assert_eq!(tiny::state(model), state);
        });
    }

    fn padding_on_either_side_changes_nothing(device) {
        every_decoder(device, |subject, model| {
            attach(subject, model);
            for side in [Side::Left, Side::Right] {
                for (row, found) in texts().into_iter().zip(logits(model, &texts(), side)) {
                    near(&found, &logits(model, &[row], side)[0], device);
                }
            }
            let loss = |side| inference(|| model.loss(&model.batch(&texts(), side).unwrap())).to_f64();
            near(&loss(Side::Left), &loss(Side::Right), device);
        });
    }

    fn a_cache_gives_what_a_single_pass_gives(device) {
        every_decoder(device, |subject, model| {
            attach(subject, model);
            let rows: Vec<Vec<u32>> = texts().into_iter().map(|row| row[..2].to_vec()).collect();
            let whole = model.batch(&rows, Side::Left).unwrap();
            let (first, second) = inference(|| {
                let mut cache = Cache::new(whole.starts());
                let step = |at: usize, cache: &mut Cache| {
                    let column = rows.iter().map(|row| vec![row[at]]).collect::<Vec<_>>();
                    model.head(&model.hidden(&model.batch(&column, Side::Left).unwrap().ids, cache))
                };
                (step(0, &mut cache), step(1, &mut cache))
            });
            let found = Tensor::concat(&[&first, &second], 1).to_f64();
            let expected: Vec<f64> = logits(model, &rows, Side::Left).concat();
            near(&found, &expected, device);
        });
    }

    fn a_batch_of_prompts_goes_on_as_each_alone(device) {
        every_decoder(device, |subject, model| {
            attach(subject, model);
            let beams = Choose::Beams { beams: 3, length_penalty: 1.0, early: false };
            for choose in [Choose::Greedy, beams] {
                let settings = Generation { choose, end: vec![4], ..Generation::greedy(5) };
                let run = |rows: &[Vec<u32>]| {
                    let batch: Sequences = model.batch(rows, Side::Left).unwrap();
                    generate(model, &batch, &settings, &mut |_, _| ()).unwrap()
                };
                let alone: Vec<Vec<u32>> =
                    texts().iter().map(|row| run(std::slice::from_ref(row)).remove(0)).collect();
                assert_eq!(run(&texts()), alone, "{:?}", settings.choose);
            }
        });
    }

    fn an_encoder_takes_them_too(device) {
        for subject in &METHODS {
            println!("{}", subject.name);
            let model = classifier(device);
            let (sentences, _) = tiny::sentences();
            let scores = |rows: &[Vec<u32>]| {
                inference(|| model.forward(&model.encoder.batch(rows, None).unwrap())).to_f64()
            };
            let before = scores(&sentences);
            let tuned = attach(subject, &model);
            let all = scores(&sentences);
            assert_ne!(all, before);
            for (row, found) in sentences.iter().zip(all.chunks(2)) {
                near(found, &scores(std::slice::from_ref(row)), device);
            }
            let batch = model.encoder.batch(&sentences, None).unwrap();
            assert_eq!(model.encoder.forward(&batch).sizes(), [4, 5, 8], "results are those of the text");
            tuned.detach();
            assert_eq!(scores(&sentences), before);
        }
    }

    fn saving_and_loading_restores_every_bit(device) {
        every_decoder(device, |subject, model| {
            let folder = tempfile::tempdir().unwrap();
            let tuned = attach(subject, model);
            tuned.save(folder.path()).unwrap();
            let expected = logits(model, &texts(), Side::Right);
            tuned.detach();
            let loaded = adapters::load(model, folder.path()).unwrap();
            assert_eq!(logits(model, &texts(), Side::Right), expected);
            let paths: Vec<String> = loaded.trainable().into_iter().map(|(path, _)| path).collect();
            assert!(paths.len() == 1 && paths[0].ends_with("virtual_tokens.prompt_embeddings"), "{paths:?}");
        });
    }

    fn the_loss_falls_on_a_toy_task(device) {
        for subject in &METHODS {
            println!("{}", subject.name);
            let model = classifier(device);
            let before = tiny::loss(&model).item();
            let tuned = attach(subject, &model).also_train("classifier.*").unwrap();
            let mut trainer = Trainer::new(tuned, AdamW::default(), Schedule::constant(0.05)).seeded(1);
            for _ in 0..100 {
                trainer.step(|| tiny::loss(&model)).unwrap();
            }
            let after = tiny::loss(&model).item();
            assert!(after < 0.5 * before, "from {before} to {after}");
        }
    }
}

#[test]
fn counts_follow_their_formulas() {
    every_decoder(&Device::Cpu, |subject, model| {
        let keys = if named_params(model).iter().any(|(path, _)| path.contains("k_proj")) { 4 } else { 8 };
        let tuned = attach(subject, model);
        assert_eq!(tuned.summary().trainable(), (subject.count)(8, 2, keys));
    });
}

#[test]
fn gradients_are_those_that_small_steps_measure() {
    every_decoder(&Device::Reference, |subject, model| {
        let tuned = attach(subject, model);
        let batch = model.batch(&texts(), Side::Right).unwrap();
        let params = tuned.trainable();
        let values: Vec<Tensor> = params.iter().map(|(_, param)| param.value()).collect();
        let gradients = model.loss(&batch).backward();
        assert_eq!(gradients.len(), params.len(), "nothing frozen has a gradient");
        for ((path, param), value) in params.iter().zip(&values) {
            let exact = gradients.of(value).unwrap().to_f64();
            let start = value.to_f64();
            for at in [0, start.len() / 2, start.len() - 1] {
                // Norms of small vectors bend sharply: steps of 1e-5 are off by 1e-8.
                let step = 1e-6;
                let moved = |by: f64| {
                    let mut values = start.clone();
                    values[at] += by;
                    param.set(&Tensor::from_f64(&values, param.sizes(), &Device::Reference));
                    inference(|| model.loss(&batch).item())
                };
                let measured = (moved(step) - moved(-step)) / (2.0 * step);
                moved(0.0);
                let distance = (measured - exact[at]).abs();
                assert!(distance < 1e-8, "{path}[{at}]: {measured:e} and {:e}", exact[at]);
            }
        }
    });
}

#[test]
fn a_prompt_of_real_tokens_is_the_text_behind_these_tokens() {
    let [model, _] = decoders(&Device::Cpu);
    let long = logits(&model, &[vec![3, 1, 7, 2]], Side::Right);
    let method = PromptTuning { start: PromptStart::Tokens(vec![3, 1]), ..PromptTuning::new(2) };
    adapters::attach(&model, "*", method).unwrap();
    let found = logits(&model, &[vec![7, 2]], Side::Right);
    near(&found[0], &long[0][2 * VOCABULARY..], &Device::Cpu);
    // The first token is learned as well, from the virtual one before it.
    let scores = Tensor::from_f64(&long[0][VOCABULARY..3 * VOCABULARY], [2, VOCABULARY], &Device::Cpu);
    let expected = scores.cross_entropy(&Ids::new(vec![7, 2], [2], VOCABULARY).unwrap()).item();
    let loss = model.loss(&model.batch(&[vec![7, 2]], Side::Right).unwrap()).item();
    assert!((loss - expected).abs() < 1e-5, "{loss} and {expected}");
}

#[test]
fn they_take_positions_from_the_text() {
    every_decoder(&Device::Cpu, |subject, model| {
        let text = vec![1; POSITIONS];
        assert!(model.batch(std::slice::from_ref(&text), Side::Right).is_ok());
        attach(subject, model);
        assert!(model.batch(&[text], Side::Right).is_err());
    });
}

#[test]
fn a_batch_that_leaves_them_no_positions_is_refused_by_name() {
    let model = classifier(&Device::Cpu);
    let batch = model.encoder.batch(&[vec![1; 9]], None).unwrap();
    adapters::attach(&model, "*", PromptTuning::new(3)).unwrap();
    let forward = std::panic::AssertUnwindSafe(|| drop(model.forward(&batch)));
    let said = std::panic::catch_unwind(forward).expect_err("twelve positions of nine");
    let said = said.downcast_ref::<String>().expect("a text");
    assert!(
        said.starts_with("positions:") && said.contains("index 9 at position 9 is not below 9"),
        "{said}"
    );
}

#[test]
fn a_model_without_a_place_for_them_is_refused() {
    let linear = Linear::new(3, 2, 0.1, &mut Rng::seeded(1), &Device::Cpu);
    let error = adapters::attach(&linear, "*", PromptTuning::new(2)).err().unwrap().to_string();
    assert!(error.contains("no place for virtual tokens"), "{error}");
}
