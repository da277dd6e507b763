//! Several named adapters on one model: the laws that hold whatever their methods are.
//!
//! Each method stands beside the next one of the list.

mod common;
mod subjects;
mod tiny;

use common::{close, on_every_device, test_on};
use engrad::adapters::{self, Adapted, Lora};
use engrad::nn::{Classifier, freeze, sockets};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Device, Tensor, inference};
use subjects::{Subject, model, named, output, scatter};

/// Runs a law for every method and the one after it in the list.
fn every_pair(law: impl Fn(&Subject, &Subject)) {
    let all = subjects::all();
    for (number, first) in all.iter().enumerate() {
        let second = &all[(number + 1) % all.len()];
        println!("{} and {}", first.name, second.name);
        law(first, second);
    }
}

/// One adapter called `default` with a head, and `other` with a head of its own, which is active; and
/// what the model says with each.
fn two(model: &Classifier, first: &Subject, second: &Subject) -> (Adapted, [Vec<f64>; 2]) {
    let mut tuned = first.moved(model);
    let one = output(model);
    tuned.add("other", second.targets.clone(), second.method()).unwrap();
    let tuned = tuned.also_train("classifier.weight").unwrap();
    scatter(&tuned, 2);
    let other = output(model);
    (tuned, [one, other])
}

on_every_device! {
    fn two_adapters_do_not_disturb_each_other(device) {
        every_pair(|first, second| {
            let model = model(device);
            let (mut tuned, [one, other]) = two(&model, first, second);
            assert_ne!(one, other);
            assert_eq!((tuned.names(), tuned.active()), (vec!["default", "other"], "other"));
            for _ in 0..2 {
                tuned.activate("default").unwrap();
                assert_eq!(output(&model), one);
                first.merge(&tuned);
                close(&Tensor::from_f64(&output(&model), [one.len()], device), &one, 1e-5);
                tuned.activate("other").unwrap();
                assert_eq!(output(&model), other, "and nothing of it is merged");
            }
        });
    }

    fn a_disabled_model_is_the_base_to_the_bit(device) {
        every_pair(|first, second| {
            let model = model(device);
            let before = output(&model);
            let (mut tuned, [one, other]) = two(&model, first, second);
            tuned.disable();
            assert_eq!(output(&model), before);
            assert!(tuned.trainable().is_empty() && !tuned.is_enabled());
            tuned.enable().unwrap();
            assert_eq!(output(&model), other);
            tuned.disable();
            tuned.activate("default").unwrap();
            assert_eq!(output(&model), one);
        });
    }

    fn only_the_active_adapter_is_trained(device) {
        every_pair(|first, second| {
            let model = model(device);
            let (mut tuned, [one, _]) = two(&model, first, second);
            let of_other = tuned.trainable();
            let mut trainer = Trainer::new(tuned, AdamW::default(), Schedule::constant(0.05));
            let losses: Vec<f64> = (0..3).map(|_| trainer.step(|| tiny::loss(&model)).unwrap().loss).collect();
            assert_ne!(losses[2], losses[0]);
            tuned = trainer.subject;
            tuned.activate("default").unwrap();
            assert_eq!(output(&model), one);
            let gradients = tiny::loss(&model).backward();
            let of_default: Vec<u64> = tuned.trainable().iter().map(|(_, param)| param.id()).collect();
            for (path, param) in tuned.trainable() {
                assert!(gradients.of(&param.value()).is_some(), "{path}");
            }
            for (path, param) in of_other.iter().filter(|(_, param)| !of_default.contains(&param.id())) {
                assert!(gradients.of(&param.value()).is_none(), "{path}");
            }
        });
    }

    fn each_is_saved_by_name_and_gives_its_output_on_another_copy_of_the_base(device) {
        every_pair(|first, second| {
            let folder = tempfile::tempdir().unwrap();
            let one = model(device);
            let (tuned, outputs) = two(&one, first, second);
            tuned.save(folder.path()).unwrap();
            let copy = model(device);
            let mut loaded = adapters::load(&copy, folder.path()).unwrap();
            assert_eq!(output(&copy), outputs[0], "saved while it was not active");
            loaded.load("second", folder.path().join("other")).unwrap();
            assert_eq!((output(&copy), loaded.active()), (outputs[1].clone(), "second"));
            loaded.activate("default").unwrap();
            assert_eq!(output(&copy), outputs[0]);
            let again = tempfile::tempdir().unwrap();
            loaded.save_one("second", again.path()).unwrap();
            for file in ["adapter_config.json", "adapter_model.safetensors"] {
                let folders = [folder.path().join("other"), again.path().into()];
                let [before, after] = folders.map(|at| std::fs::read(at.join(file)).unwrap());
                assert!(before == after, "{file}");
            }
        });
    }

    fn removing_one_leaves_the_others_and_detaching_restores_the_model(device) {
        every_pair(|first, second| {
            let model = model(device);
            freeze(&model, "*.pooler.*").unwrap();
            let state = tiny::state(&model);
            let (mut tuned, [one, other]) = two(&model, first, second);
            tuned.add("third", "*.key", Lora::new(1)).unwrap();
            tuned.remove("default").unwrap();
            assert_eq!((tuned.names(), tuned.active()), (vec!["other", "third"], "third"));
            tuned.activate("other").unwrap();
            assert_eq!(output(&model), other);
            let error = tuned.remove("other").unwrap_err().to_string();
            assert!(error.contains("active"), "{error}");
            tuned.remove("third").unwrap();
            assert_eq!(output(&model), other);
            assert_ne!(output(&model), one);
            tuned.disable();
            tuned.detach();
            assert_eq!(tiny::state(&model), state, "values, and what is trainable");
        });
    }

    fn a_failing_addition_leaves_everything_as_it_was(device) {
        every_pair(|first, second| {
            let model = model(device);
            let (mut tuned, [_, other]) = two(&model, first, second);
            let state = tiny::state(&model);
            let mistakes = [
                (tuned.add("other", "*.key", Lora::new(1)), "already"),
                (tuned.add("a/b", "*.key", Lora::new(1)), "cannot name"),
                (tuned.add("third", "*.q_proj", Lora::new(1)), "*.q_proj"),
                (tuned.add("third", "*.key", Lora::new(99)), "rank 99"),
                (tuned.load("third", "nowhere"), "nowhere"),
                (tuned.activate("third"), "\"third\", only [\"default\", \"other\"]"),
                (tuned.remove("third"), "\"third\", only"),
                (tuned.combine("third", &[("fourth", 1.0)], 2).map(drop), "\"fourth\""),
                (tuned.combine("third", &[], 2).map(drop), "no adapters"),
            ];
            for (outcome, expected) in mistakes {
                let error = outcome.unwrap_err().to_string();
                assert!(error.contains(expected), "{error}");
            }
            assert_eq!((tiny::state(&model), output(&model)), (state, other));
        });
    }

    fn a_combination_is_the_weighted_sum_of_the_updates(device) {
        every_pair(|first, second| {
            let model = model(device);
            let (mut tuned, _) = two(&model, first, second);
            let weights = [("default", 0.7), ("other", -1.5)];
            let updates = |tuned: &mut Adapted, name: &str| -> Vec<Vec<f64>> {
                tuned.activate(name).unwrap();
                let update = |(_, socket): (String, engrad::nn::Socket)| {
                    let base = socket.base();
                    let adapted = socket.adapter().map(|adapter| inference(|| adapter.adapt(&base)));
                    adapted.map_or(vec![0.0; base.weight.count()], |adapted| (adapted.weight - base.weight).to_f64())
                };
                let layers = sockets(&model).into_iter().map(update);
                layers.chain([model.head.weight().value().to_f64()]).collect()
            };
            let base = {
                tuned.disable();
                model.head.weight().value().to_f64()
            };
            let parts = weights.map(|(name, _)| updates(&mut tuned, name));
            match tuned.combine("sum", &weights, 8) {
                // SAN, SSF and BitFit change biases, norm tuning norms; LoRA does neither. IA3 multiplies them.
                // Bottlenecks are no change of weights.
                Err(error) => {
                    let kinds = ["san", "ssf", "bitfit", "norms", "ia3", "bottleneck"];
                    let beyond = |name: &str| kinds.iter().any(|kind| name.starts_with(kind));
                    assert!(beyond(first.name) || beyond(second.name), "{error}");
                    assert!(error.to_string().contains("LoRA cannot say"), "{error}");
                }
                Ok(error) => {
                    assert!(error < 1e-6, "{error}");
                    assert_eq!(tuned.active(), "sum");
                    let found = updates(&mut tuned, "sum");
                    for (layer, found) in found.iter().enumerate() {
                        let start = |at: usize| if layer + 1 < parts[0].len() { 0.0 } else { base[at] };
                        let term = |part: usize, at| weights[part].1 * (parts[part][layer][at] - start(at));
                        let sum = |at| (0..2).map(|part| term(part, at)).sum::<f64>();
                        let expected: Vec<f64> = (0..found.len()).map(|at| start(at) + sum(at)).collect();
                        common::compare(found, &expected, 3e-6).unwrap();
                    }
                }
            }
        });
    }
}

#[test]
fn a_combination_of_lora_is_lora_and_learns_on() {
    let device = &Device::Cpu;
    let model = model(device);
    let (mut tuned, _) = two(&model, &named("lora"), &named("mtlora-ctcm"));
    tuned.activate("default").unwrap();
    assert_eq!(tuned.combine("sum", &[("default", 1.0), ("other", 1.0)], 1).unwrap(), 0.0);
    let rank = |path: &str| {
        let all = tuned.trainable();
        let found = all.iter().find(|(name, _)| name.ends_with(&format!("{path}.lora_A.weight")));
        found.map(|(_, param)| param.sizes()[0])
    };
    assert_eq!([rank("query"), rank("intermediate.dense")], [Some(6), Some(6)]);
    let folder = tempfile::tempdir().unwrap();
    tuned.save_one("sum", folder.path()).unwrap();
    let expected = output(&model);
    let copy = self::model(device);
    let loaded = adapters::load(&copy, folder.path()).unwrap();
    assert_eq!(output(&copy), expected);
    let mut trainer = Trainer::new(loaded, AdamW::default(), Schedule::constant(0.02));
    let losses: Vec<f64> = (0..20).map(|_| trainer.step(|| tiny::loss(&copy)).unwrap().loss).collect();
    assert!(losses[19] < losses[0], "{losses:?}");
}

#[test]
fn the_overview_names_each_adapter_and_marks_the_active_one() {
    let model = model(&Device::Cpu);
    let (mut tuned, _) = two(&model, &named("lora"), &named("mtlora-ctcm"));
    let [lora, mtlora, head] = [2 * 3 * (16 + 16 + 20), 2 * (3 * (16 + 16 + 20) + 3 * 18), 16];
    let total = engrad::nn::named_params(&model).iter().map(|(_, param)| param.count()).sum::<usize>() + lora;
    let expected = format!(
        "  default  LORA             6 layers {:>12} numbers\n\
         * other    MTLORA           6 layers {:>12} numbers\n\
         trainable params: {} || all params: {total} || trainable%: ",
        lora + head + 2,
        mtlora + head,
        mtlora + head,
    );
    let found = tuned.to_string().replace(',', "");
    assert!(found.starts_with(&expected), "{found}\n{expected}");
    tuned.activate("default").unwrap();
    assert!(tuned.to_string().starts_with("* default"), "{tuned}");
    let waiting = tuned.summary().rows.into_iter().filter(|(path, ..)| path.ends_with("(other)"));
    assert_eq!(waiting.map(|(_, _, trained)| trained).collect::<Vec<_>>(), [false; 24]);
}
