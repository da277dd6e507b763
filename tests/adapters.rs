//! The list of methods, and the laws that each of them obeys on every device.
//!
//! A new method adds a line to [`METHODS`] and inherits every law.

mod common;
mod tiny;

use common::{close, on_every_device, test_on};
use engrad::adapters::{
    self, AdaLora, Adapted, Dora, Ia3, LoHa, LoKr, Lora, Method, Mtlora, San, SanMode, Ssf, Structure,
    TriAdaptLora, Vera,
};
use engrad::nn::{Classifier, freeze, named_params, sockets, unfreeze};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Device, Error, Rng, Tensor, inference, training};

/// A method under test.
struct Subject {
    name: &'static str,
    make: fn() -> Box<dyn Method>,
    /// How many numbers it trains in a layer of given inputs and outputs.
    count: fn(usize, usize) -> usize,
}

const METHODS: [Subject; 18] = [
    Subject {
        name: "lora",
        make: || Box::new(Lora::new(3)),
        count: |inputs, outputs| 3 * (inputs + outputs),
    },
    Subject {
        name: "rank-stabilised lora",
        make: || Box::new(Lora { rank_stabilised: true, alpha: 5.0, seed: 9, ..Lora::new(2) }),
        count: |inputs, outputs| 2 * (inputs + outputs),
    },
    Subject {
        name: "lora with dropout",
        make: || Box::new(Lora { dropout: 0.5, ..Lora::new(1) }),
        count: |inputs, outputs| inputs + outputs,
    },
    Subject {
        name: "mtlora shim",
        make: || Box::new(Mtlora::new(Structure::Shim, 3)),
        count: |inputs, outputs| 3 * (inputs + outputs) + 9,
    },
    Subject {
        name: "mtlora icfm",
        make: || Box::new(Mtlora::new(Structure::Icfm, 3)),
        count: |inputs, outputs| 3 * (inputs + outputs) + 9,
    },
    Subject {
        name: "mtlora ctcm",
        make: || Box::new(Mtlora::new(Structure::Ctcm, 3)),
        count: |inputs, outputs| 3 * (inputs + outputs) + 18,
    },
    Subject {
        name: "mtlora dtsm",
        make: || Box::new(Mtlora::new(Structure::Dtsm, 3)),
        count: |inputs, outputs| 3 * (inputs + outputs) + 18,
    },
    Subject {
        name: "triadaptlora",
        make: || Box::new(TriAdaptLora::new(4, 20)),
        count: |inputs, outputs| inputs + outputs + 2,
    },
    Subject {
        name: "san",
        make: || Box::new(San { shift: true, ..San::new(SanMode::Both) }),
        count: |_, outputs| 2 * outputs,
    },
    Subject {
        name: "dora",
        make: || Box::new(Dora::new(3)),
        count: |inputs, outputs| 3 * (inputs + outputs) + outputs,
    },
    Subject { name: "ia3", make: || Box::new(Ia3::new(["value"])), count: |_, outputs| outputs },
    Subject {
        name: "ssf",
        make: || Box::new(Ssf { deviation: 0.0, seed: 0 }),
        count: |_, outputs| 2 * outputs,
    },
    Subject { name: "vera", make: || Box::new(Vera::new(5)), count: |_, outputs| outputs + 5 },
    Subject {
        name: "loha",
        make: || Box::new(LoHa::new(2)),
        count: |inputs, outputs| 4 * (inputs + outputs),
    },
    // 8 is cut into 2·4, 12 into 3·4; by the factor 4 into 4·2 and 4·3.
    Subject { name: "lokr", make: || Box::new(LoKr::new(2)), count: |_, outputs| outputs / 4 * 2 + 16 },
    Subject {
        name: "lokr, D a product",
        make: || Box::new(LoKr::new(1)),
        count: |_, outputs| outputs / 4 * 2 + 8,
    },
    Subject {
        name: "lokr, both products",
        make: || Box::new(LoKr { decompose_both: true, factor: Some(4), ..LoKr::new(1) }),
        count: |_, outputs| 12 + usize::from(outputs == 12),
    },
    Subject {
        name: "adalora",
        make: || Box::new(AdaLora::new(4, 2, 40)),
        count: |inputs, outputs| 4 * (inputs + outputs) + 4,
    },
];

const SITES: &str = "*.{query,value,intermediate.dense}";

fn model(device: &Device) -> Classifier {
    tiny::classifier(&tiny::config(), device)
}

fn fresh(subject: &Subject, model: &Classifier) -> Adapted {
    adapters::attach(model, SITES, (subject.make)()).expect("the model has these layers")
}

/// Adapters that are no longer fresh: every parameter moved a little.
fn moved(subject: &Subject, model: &Classifier) -> Adapted {
    let tuned = fresh(subject, model);
    let mut rng = Rng::seeded(31);
    for (_, param) in tuned.trainable() {
        let noise = Tensor::normal(0.3, param.sizes(), &mut rng, &param.device());
        param.set(&(param.value() + noise));
    }
    tuned
}

fn output(model: &Classifier) -> Vec<f64> {
    inference(|| model.forward(&tiny::batch(model).0)).to_f64()
}

/// Runs a law for every method, and says which one breaks it.
fn every_method(law: impl Fn(&Subject)) {
    for subject in &METHODS {
        println!("{}", subject.name);
        law(subject);
    }
}

on_every_device! {
    fn a_fresh_adapter_leaves_the_output_unchanged(device) {
        every_method(|subject| {
            let model = model(device);
            let before = output(&model);
            let tuned = fresh(subject, &model);
            assert_eq!(output(&model), before);
            tuned.merge();
            assert_eq!(output(&model), before);
        });
    }

    fn only_adapters_receive_gradients(device) {
        every_method(|subject| {
            let model = model(device);
            let tuned = moved(subject, &model);
            let gradients = tiny::loss(&model).backward();
            assert_eq!(gradients.len(), tuned.trainable().len());
            for (path, param) in tuned.trainable() {
                assert!(gradients.of(&param.value()).is_some(), "{path}");
            }
        });
    }

    fn the_fast_way_forward_is_the_definition(device) {
        every_method(|subject| {
            let model = model(device);
            moved(subject, &model);
            for (path, linear) in sockets(&model) {
                let Some(adapter) = linear.adapter() else { continue };
                let x = Tensor::normal(1.0, [2, 3, linear.inputs()], &mut Rng::seeded(3), device);
                let [fast, defined] = inference(|| {
                    [adapter.forward(&x, &linear.base()), adapter.adapt(&linear.base()).apply(&x)]
                });
                println!("{path}");
                close(&fast, &defined.to_f64(), 1e-5);
            }
        });
    }

    fn merging_leaves_the_output_unchanged_and_is_the_same_every_time(device) {
        every_method(|subject| {
            let model = model(device);
            let tuned = moved(subject, &model);
            let before = output(&model);
            tuned.merge();
            let merged = output(&model);
            close(&Tensor::from_f64(&merged, [merged.len()], device), &before, 1e-5);
            tuned.merge();
            assert_eq!(output(&model), merged, "merging twice is merging once");
            tuned.unmerge();
            tuned.merge();
            assert_eq!(output(&model), merged);
        });
    }

    fn unmerging_restores_every_bit(device) {
        every_method(|subject| {
            let model = model(device);
            let tuned = moved(subject, &model);
            let (before, bits) = (output(&model), tiny::state(&model));
            for _ in 0..3 {
                tuned.merge();
                assert_eq!(tiny::state(&model), bits, "merging writes no weight");
                tuned.unmerge();
            }
            assert_eq!(output(&model), before);
        });
    }

    fn saving_and_loading_restores_every_bit(device) {
        every_method(|subject| {
            let folder = tempfile::tempdir().unwrap();
            let one = model(device);
            let tuned = moved(subject, &one).also_train("{classifier.weight,*.output.LayerNorm.*}").unwrap();
            for (_, param) in tuned.trainable() {
                param.set(&(param.value() * 1.25));
            }
            tuned.save(folder.path()).unwrap();
            let other = model(device);
            let loaded = adapters::load(&other, folder.path()).unwrap();
            assert_eq!(output(&other), output(&one));
            let bits = |model: &Classifier| -> Vec<_> {
                tiny::state(model).into_iter().map(|(path, (bits, _))| (path, bits)).collect()
            };
            assert_eq!(bits(&other), bits(&one));
            let paths = |tuned: &Adapted| -> Vec<String> { tuned.trainable().into_iter().map(|(path, _)| path).collect() };
            // modules_to_save names whole modules, so the head's bias is trained too after loading.
            let mut expected = paths(&tuned);
            expected.push("classifier.bias".into());
            assert_eq!(paths(&loaded), expected);
        });
    }

    fn as_many_numbers_are_trained_as_the_formula_says(device) {
        every_method(|subject| {
            let model = model(device);
            let total: usize = named_params(&model).iter().map(|(_, param)| param.count()).sum();
            let tuned = fresh(subject, &model);
            let sites = [(8, 8), (8, 8), (8, 12)];
            let expected: usize = sites.iter().map(|&(inputs, outputs)| (subject.count)(inputs, outputs)).sum();
            assert_eq!(tuned.summary().trainable(), expected);
            assert_eq!(tuned.summary().total(), total + expected);
        });
    }

    fn the_loss_falls_on_a_toy_task(device) {
        every_method(|subject| {
            let model = model(device);
            let before = tiny::loss(&model).item();
            let tuned = fresh(subject, &model).also_train("classifier.*").unwrap();
            let mut trainer = Trainer::new(tuned, AdamW::default(), Schedule::constant(0.02)).seeded(1);
            for _ in 0..80 {
                trainer.step(|| tiny::loss(&model)).unwrap();
            }
            let after = tiny::loss(&model).item();
            assert!(after < 0.3 * before, "from {before} to {after}");
        });
    }

    fn detaching_restores_the_model(device) {
        every_method(|subject| {
            let model = model(device);
            freeze(&model, "*.pooler.*").unwrap();
            let (before, state) = (output(&model), tiny::state(&model));
            let tuned = moved(subject, &model);
            tuned.merge();
            tuned.detach();
            assert_eq!(output(&model), before);
            assert_eq!(tiny::state(&model), state, "values, and what is trainable");
            fresh(subject, &model).detach();
            assert_eq!(tiny::state(&model), state);
        });
    }

    fn a_pattern_that_fits_nothing_names_a_layer_that_exists(device) {
        every_method(|subject| {
            let model = model(device);
            let state = tiny::state(&model);
            let error = adapters::attach(&model, "*.q_proj", (subject.make)()).err().unwrap().to_string();
            assert!(error.contains("*.q_proj"), "{error}");
            assert!(error.contains("bert.encoder.layer.0.attention.self.query"), "{error}");
            assert_eq!(tiny::state(&model), state);
            let error = fresh(subject, &model).also_train("score.*").err().unwrap().to_string();
            assert!(error.contains("score.*"), "{error}");
            assert!(error.contains("bert.embeddings.word_embeddings.weight"), "{error}");
            assert_eq!(tiny::state(&model), state, "the adapters are out again");
        });
    }

    fn a_failing_attach_leaves_the_model_as_it_was(device) {
        every_method(|subject| {
            let model = model(device);
            // The second of the sites is taken.
            let first = adapters::attach(&model, "*.value", (subject.make)()).unwrap();
            let (before, state) = (output(&model), tiny::state(&model));
            let error = adapters::attach(&model, SITES, (subject.make)()).err().unwrap().to_string();
            assert!(error.contains("self.value") && error.contains("detach"), "{error}");
            assert_eq!((output(&model), tiny::state(&model)), (before, state));
            first.detach();
            assert!(sockets(&model).iter().all(|(_, linear)| linear.adapter().is_none()));
        });
    }

    fn a_failing_load_leaves_the_model_as_it_was(device) {
        every_method(|subject| {
            let folder = tempfile::tempdir().unwrap();
            moved(subject, &model(device)).save(folder.path()).unwrap();
            std::fs::write(folder.path().join("adapter_model.safetensors"), b"cut").unwrap();
            let model = model(device);
            freeze(&model, "*.pooler.*").unwrap();
            let (before, state) = (output(&model), tiny::state(&model));
            assert!(matches!(adapters::load(&model, folder.path()), Err(Error::Format { .. })));
            assert_eq!(tiny::state(&model), state);
            assert_eq!(output(&model), before);
            unfreeze(&model, "*").unwrap();
        });
    }
}

#[test]
fn every_method_trains_alike_on_every_device() {
    every_method(|subject| {
        let run = |device: &Device| {
            let model = model(device);
            let mut trainer =
                Trainer::new(fresh(subject, &model), AdamW::default(), Schedule::constant(0.01)).seeded(7);
            let losses: Vec<f64> =
                (0..10).map(|_| trainer.step(|| tiny::loss(&model)).unwrap().loss).collect();
            (losses, output(&model))
        };
        let reference = run(&Device::Reference);
        for device in common::fast_devices() {
            let found = run(&device);
            common::compare(&found.0, &reference.0, 1e-5).unwrap();
            common::compare(&found.1, &reference.1, 1e-4).unwrap();
        }
    });
}

#[test]
fn a_dropped_input_matters_in_training_only() {
    let model = model(&Device::Cpu);
    let subject = &METHODS[2];
    moved(subject, &model);
    let plain = tiny::loss(&model).item();
    let [first, again, other] = [1, 1, 2].map(|seed| training(seed, || tiny::loss(&model)).item());
    assert_eq!(first, again, "the same seed drops the same");
    assert_ne!(first, other);
    assert_ne!(first, plain);
}

#[test]
fn a_rank_that_no_layer_can_use_is_refused() {
    let model = model(&Device::Cpu);
    let state = tiny::state(&model);
    for rank in [0, 9, usize::MAX] {
        let error = adapters::attach(&model, "*.query", Lora::new(rank)).err().unwrap().to_string();
        assert!(error.contains(&format!("rank {rank} does not fit 8 -> 8")), "{error}");
    }
    assert_eq!(tiny::state(&model), state);
}

#[test]
fn variants_that_are_not_implemented_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(&Device::Cpu);
    moved(&METHODS[0], &model).save(folder.path()).unwrap();
    let path = folder.path().join("adapter_config.json");
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let rows = [
        ("lora_bias", "true"),
        ("bias", "\"some\""),
        ("rank_pattern", "{\"query\": 0}"),
        ("alpha_pattern", "{\"query\": \"x\"}"),
        ("layers_to_transform", "[9]"),
        ("target_modules", "\"(query\""),
        ("init_lora_weights", "\"pissa\""),
        ("arrow_config", "{}"),
        ("peft_type", "\"HRA\""),
        ("r", "0"),
        ("r", "1.5"),
        ("r", "1e300"),
        ("lora_alpha", "\"large\""),
        ("lora_dropout", "1"),
        ("modules_to_save", "[3]"),
    ];
    for (key, value) in rows {
        let mut config = config.clone();
        config[key] = serde_json::from_str(value).unwrap();
        std::fs::write(&path, config.to_string()).unwrap();
        let other = tiny::classifier(&tiny::config(), &Device::Cpu);
        let state = tiny::state(&other);
        let error = adapters::load(&other, folder.path()).err().expect(key).to_string();
        assert!(error.contains(key) || error.contains(value.trim_matches('"')), "{key}: {error}");
        assert_eq!(tiny::state(&other), state, "{key}");
    }
}

#[test]
fn names_as_they_stand_in_a_live_peft_model_load_too() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (model(&Device::Cpu), model(&Device::Cpu));
    moved(&METHODS[0], &one).also_train("classifier.*").unwrap().save(folder.path()).unwrap();
    let path = folder.path().join("adapter_model.safetensors");
    let saved = engrad::nn::files::read(&path, &Device::Cpu).unwrap();
    let live = saved.tensors.iter().map(|(name, tensor)| {
        let name = name.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default.");
        (name.replace("classifier.", "classifier.modules_to_save.default."), tensor.clone())
    });
    let mut live: std::collections::BTreeMap<_, _> = live.collect();
    engrad::nn::files::write(&path, &live, Default::default()).unwrap();
    adapters::load(&other, folder.path()).unwrap().detach();
    let (name, tensor) = saved.tensors.into_iter().next().unwrap();
    live.insert(name, tensor);
    engrad::nn::files::write(&path, &live, Default::default()).unwrap();
    let error = adapters::load(&other, folder.path()).err().unwrap().to_string();
    assert!(error.contains("twice"), "{error}");
}
