//! The laws that every adapter obeys on every device, whatever its method.
//!
//! The subjects stand in `subjects/mod.rs`; what is particular to one method in `methods.rs`.

mod common;
mod subjects;
mod tiny;

use common::{close, on_every_device, test_on};
use engrad::adapters::{self, Adapted};
use engrad::nn::{Classifier, EncoderConfig, freeze, named_params, sockets};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Device, Rng, Tensor, device, inference};
use subjects::{Count, HEAD, RANK, STEPS, Subject, every, fresh_distance, model, near, output};

fn trainer(subject: &Subject, model: &Classifier) -> Trainer<Adapted, AdamW> {
    Trainer::new(subject.fresh(model), AdamW::new(0.01), Schedule::linear(0.01, 2, STEPS)).seeded(7)
}

on_every_device! {
    fn a_fresh_adapter_leaves_the_output_unchanged(device) {
        every(|subject| {
            let model = model(device);
            let before = output(&model);
            let tuned = subject.fresh(&model);
            let allowed = fresh_distance(subject.name);
            near(&output(&model), &before, allowed, subject.name);
            subject.merge(&tuned);
            near(&output(&model), &before, allowed, "merged");
        });
    }

    fn all_that_is_trained_has_a_gradient_and_nothing_frozen_has(device) {
        every(|subject| {
            let model = model(device);
            let tuned = subject.moved(&model);
            let trained: Vec<u64> = tuned.trainable().iter().map(|(_, param)| param.id()).collect();
            let values: Vec<(String, bool, Tensor)> = named_params(&model)
                .into_iter()
                .map(|(path, param)| (path, trained.contains(&param.id()), param.value()))
                .collect();
            let gradients = tiny::loss(&model).backward();
            for (path, trained, value) in values {
                assert_eq!(gradients.of(&value).is_some(), trained, "{path}");
            }
        });
    }

    fn the_fast_way_forward_is_the_definition(device) {
        every(|subject| {
            let model = model(device);
            subject.moved(&model);
            for (path, socket) in sockets(&model) {
                let Some(adapter) = socket.adapter().filter(|adapter| adapter.merges()) else { continue };
                println!("{path}");
                if socket.is_embedding() {
                    let ids = tiny::batch(&model).0.ids;
                    let [fast, defined] = inference(|| {
                        [adapter.lookup(&ids, &socket.base()), adapter.adapt(&socket.base()).weight.embedding(&ids)]
                    });
                    close(&fast, &defined.to_f64(), 1e-5);
                } else {
                    let x = Tensor::normal(1.0, [2, 3, socket.inputs()], &mut Rng::seeded(3), device);
                    let [fast, defined] = inference(|| {
                        [adapter.forward(&x, &socket.base()), adapter.adapt(&socket.base()).apply(&x)]
                    });
                    close(&fast, &defined.to_f64(), 1e-5);
                }
            }
        });
    }

    fn merging_leaves_the_output_unchanged_and_is_the_same_every_time(device) {
        every(|subject| {
            if !subject.merges() {
                return;
            }
            let model = model(device);
            let tuned = subject.moved(&model);
            let before = output(&model);
            subject.merge(&tuned);
            let merged = output(&model);
            near(&merged, &before, 1e-5, subject.name);
            subject.merge(&tuned);
            assert_eq!(output(&model), merged, "merging twice is merging once");
            tuned.unmerge();
            subject.merge(&tuned);
            assert_eq!(output(&model), merged);
        });
    }

    fn unmerging_restores_every_bit(device) {
        every(|subject| {
            let model = model(device);
            let plain = output(&model);
            let tuned = subject.moved(&model);
            let (before, bits) = (output(&model), tiny::state(&model));
            assert_ne!(before, plain);
            for _ in 0..3 {
                subject.merge(&tuned);
                assert_eq!(tiny::state(&model), bits, "merging writes no weight");
                tuned.unmerge();
            }
            assert_eq!(output(&model), before);
        });
    }

    fn saving_and_loading_restores_every_bit(device) {
        every(|subject| {
            let one = model(device);
            let tuned = subject.moved(&one);
            let [folder, again] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
            tuned.save(folder.path()).unwrap();
            let other = model(device);
            let loaded = adapters::load(&other, folder.path()).unwrap();
            assert_eq!(output(&other), output(&one));
            loaded.save(again.path()).unwrap();
            for file in ["adapter_config.json", "adapter_model.safetensors"] {
                let [first, second] = [&folder, &again].map(|place| std::fs::read(place.path().join(file)).unwrap());
                assert!(first == second, "{file} changes when it is loaded and saved");
            }
        });
    }

    fn as_many_numbers_are_trained_as_the_formula_says(device) {
        every(|subject| {
            let sites = [(8, 8), (8, 8), (8, 12)];
            let expected = match subject.count {
                Some(Count::Layer(count)) => 2 * sites.iter().map(|&(i, o)| count(i, o)).sum::<usize>(),
                Some(Count::All(count)) => count,
                None => return,
            };
            let model = model(device);
            let total: usize = named_params(&model).iter().map(|(_, param)| param.count()).sum();
            let tuned = subject.bare(&model);
            assert_eq!(tuned.summary().trainable(), expected);
            let base = tiny::state(&self::model(device));
            let of_base = tuned.trainable().into_iter().filter(|(path, _)| base.contains_key(path));
            let of_base: usize = of_base.map(|(_, param)| param.count()).sum();
            assert!(tuned.summary().total() >= total + expected - of_base);
            let tuned = tuned.also_train("classifier.*").unwrap();
            assert_eq!(tuned.summary().trainable(), expected + HEAD);
        });
    }

    fn a_resumed_run_goes_on_bit_for_bit(device) {
        every(|subject| {
            let start = model(device);
            let mut whole = trainer(subject, &start);
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("run.safetensors");
            for step in 0..10 {
                if step == 5 {
                    whole.save(&file).unwrap();
                }
                whole.step(|| tiny::loss(&start)).unwrap();
            }
            let again = model(device);
            let mut resumed = trainer(subject, &again);
            resumed.resume(&file).unwrap();
            for _ in 5..10 {
                resumed.step(|| tiny::loss(&again)).unwrap();
            }
            assert_eq!(tiny::state(&again), tiny::state(&start));
            assert_eq!(resumed.subject.ranks(), whole.subject.ranks());
        });
    }

    fn detaching_restores_the_model(device) {
        every(|subject| {
            let model = model(device);
            freeze(&model, "*.pooler.*").unwrap();
            let (before, state) = (output(&model), tiny::state(&model));
            let mut tuned = subject.moved(&model);
            subject.merge(&tuned);
            tuned.disable();
            assert_eq!(output(&model), before);
            tuned.detach();
            assert_eq!(output(&model), before);
            assert_eq!(tiny::state(&model), state, "values, and what is trainable");
            let tuned = subject.bare(&model);
            if !tuned.sites().is_empty() {
                subjects::scatter(&tuned, 5);
            }
            subject.merge(&tuned);
            tuned.detach();
            assert_eq!(output(&model), before);
            assert_eq!(tiny::state(&model), state);
        });
    }

}

// Whatever else trains as `Reference` does sees the same losses: the next test.
#[test]
fn the_loss_falls_on_a_toy_task() {
    every(|subject| {
        for device in [Device::Reference, Device::Cpu] {
            let model = model(&device);
            let before = tiny::loss(&model).item();
            let mut trainer =
                Trainer::new(subject.fresh(&model), AdamW::default(), Schedule::constant(0.02)).seeded(1);
            for _ in 0..60 {
                trainer.step(|| tiny::loss(&model)).unwrap();
            }
            let after = tiny::loss(&model).item();
            assert!(after < 0.3 * before, "from {before} to {after}");
        }
    });
}

#[test]
fn every_adapter_trains_alike_on_every_device() {
    every(|subject| {
        let run = |device: &Device| {
            let model = model(device);
            let mut trainer = trainer(subject, &model);
            let losses: Vec<f64> =
                (0..10).map(|_| trainer.step(|| tiny::loss(&model)).unwrap().loss).collect();
            (losses, output(&model), trainer.subject.ranks())
        };
        let reference = run(&Device::Reference);
        for device in common::fast_devices() {
            let found = run(&device);
            near(&found.0, &reference.0, 1e-5, "losses");
            near(&found.1, &reference.1, 1e-4, "outputs");
            assert_eq!(found.2, reference.2, "ranks");
        }
    });
}

#[test]
fn gradients_are_those_that_small_steps_measure() {
    every(|subject| {
        let model = model(&Device::Reference);
        let tuned = subject.moved(&model);
        let params = tuned.trainable();
        let total = || {
            let loss = tiny::loss(&model);
            tuned.penalty().map_or(loss.clone(), |penalty| loss + penalty)
        };
        let values: Vec<Tensor> = params.iter().map(|(_, param)| param.value()).collect();
        let gradients = total().backward();
        for ((path, param), value) in params.iter().zip(&values) {
            // DoRA takes the lengths of rows for constants, so its gradients are not slopes by design.
            if subject.name == "dora" && !path.contains("magnitude") && !path.contains("classifier") {
                continue;
            }
            let exact = gradients.of(value).unwrap().to_f64();
            let start = value.to_f64();
            for at in [0, start.len() / 2, start.len() - 1] {
                let step = 1e-5;
                let moved = |by: f64| {
                    let mut values = start.clone();
                    values[at] += by;
                    param.set(&Tensor::from_f64(&values, param.sizes(), &Device::Reference));
                    inference(|| total().item())
                };
                let measured = (moved(step) - moved(-step)) / (2.0 * step);
                moved(0.0);
                let distance = (measured - exact[at]).abs();
                assert!(distance < 1e-7, "{} {path}[{at}]: {measured:e} and {:e}", subject.name, exact[at]);
            }
        }
    });
}

/// Methods whose formula needs the whole matrix: a norm of it, a product element by element, or its
/// gradient as a score.
const DENSE: [&str; 4] = ["dora", "loha", "lokr", "increlora"];

#[test]
fn a_training_step_forms_no_update_as_large_as_a_frozen_weight_and_no_gradient_of_one() {
    // Three tokens at once: whatever has as many elements as the smallest weight is one.
    let config =
        EncoderConfig { hidden_size: 32, intermediate_size: 32, num_hidden_layers: 2, ..tiny::config() };
    every(|subject| {
        let device = &Device::Cpu;
        let model = tiny::classifier(&config, device);
        let batch = model.encoder.batch(&[vec![1, 7, 3]], None).unwrap();
        let label = engrad::Ids::new(vec![1], [1], 2).unwrap();
        let mut trainer = Trainer::new(subject.fresh(&model), AdamW::default(), Schedule::constant(1e-3));
        let loss = || model.forward(&batch).cross_entropy(&label);
        let (_, counts) = device::counted(|| trainer.step(loss).unwrap());
        let largest = counts.values().map(|count| count.largest).max().unwrap();
        let forms = largest >= 32 * 32;
        let allowed = DENSE.iter().any(|kind| subject.name.starts_with(kind));
        assert!(!forms || allowed, "{}: {largest} elements in one kernel", subject.name);
        // The exceptions show that the counter would see it.
        assert!(forms || !["dora", "loha", "increlora"].contains(&subject.name), "{}", subject.name);
    });
}

#[test]
fn the_list_finds_methods_by_name_and_names_them_all_otherwise() {
    for listed in adapters::METHODS {
        assert_eq!(adapters::Listed::named(listed.name).unwrap().name, listed.name);
        let config = listed.usual(&adapters::Usual::new(RANK, STEPS)).config();
        assert_eq!(config["peft_type"], listed.peft_type, "{}", listed.name);
    }
    let error = adapters::Listed::named("lorra").err().unwrap().to_string();
    assert!(error.contains("\"lorra\"") && error.contains("mtlora-shim"), "{error}");
}
