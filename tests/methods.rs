//! What is particular to one adapter method in a whole model; the laws of all of them stand in
//! `adapters.rs`, those of single layers in `laws.rs`.

mod common;
mod subjects;
mod tiny;

use common::{on_every_device, test_on};
use engrad::adapters::{
    self, AdaLora, Adapted, Dora, Ia3, Listed, Lora, Method, Mtlora, RankGrowth, Start, Structure,
    TransformStart, TriAdaptLora, Usual, Variant,
};
use engrad::nn::{Classifier, Linear, Param};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Device, Tensor, training};
use subjects::{SQUARE, model, named, near, output, scatter};

fn param(adapted: &Adapted, path: &str) -> Param {
    let all = adapted.trainable();
    all.iter().find(|(name, _)| name == path).unwrap_or_else(|| panic!("no {path} in {all:?}")).1.clone()
}

on_every_device! {
    fn with_t_frozen_at_the_identity_mtlora_is_lora_for_a_whole_run(device) {
        let run = |tuned: Adapted, model: &Classifier| -> Vec<f64> {
            let mut trainer = Trainer::new(tuned, AdamW::new(0.01), Schedule::constant(0.02));
            (0..20).map(|_| trainer.step(|| tiny::loss(model)).unwrap().loss).collect()
        };
        let model = model(device);
        let tuned = adapters::attach(&model, SQUARE, Lora::new(3)).unwrap();
        let starts: Vec<Tensor> = tuned.trainable().iter().map(|(_, param)| param.value().detach()).collect();
        let expected = run(tuned, &model);
        for structure in [Structure::Shim, Structure::Icfm, Structure::Ctcm, Structure::Dtsm] {
            let model = self::model(device);
            let tuned = adapters::attach(&model, SQUARE, Mtlora::new(structure, 3)).unwrap();
            tuned.trainable().iter().filter(|(path, _)| path.contains("mtlora_")).for_each(|(_, param)| param.freeze());
            tuned.trainable().iter().zip(&starts).for_each(|((_, param), start)| param.set(start));
            assert_eq!(run(tuned, &model), expected, "{structure:?}");
        }
    }

    fn growing_changes_no_output_bit_and_leaves_old_blocks_alone(device) {
        for variant in [Variant::Block, Variant::Single] {
            let model = model(device);
            let method = TriAdaptLora {
                variant,
                interval: 1,
                increment: Some(3),
                growth: RankGrowth::Fixed,
                top_k: 4,
                safe: false,
                ..TriAdaptLora::new(7, 9)
            };
            let mut tuned = adapters::attach(&model, SQUARE, method).unwrap();
            scatter(&tuned, 9);
            let nothing = (engrad::Gradients::default(), std::collections::HashMap::new());
            for number in 1..=2 {
                let before = output(&model);
                let remembered = |(path, param): (String, Param)| (path, param.id(), param.value().to_f64());
                let old: Vec<_> = tuned.trainable().into_iter().map(remembered).collect();
                tuned.after_update(&adapters::Update::new(number, &nothing.0, &nothing.1)).unwrap();
                assert_eq!(tuned.ranks(), [1 + 3 * number as usize; 4]);
                assert_eq!(output(&model), before, "{variant:?}");
                let now = tuned.trainable();
                for (path, id, values) in &old {
                    let (_, param) = now.iter().find(|(other, _)| other == path).unwrap();
                    assert!(param.id() == *id && param.value().to_f64() == *values, "{path}");
                }
                // New rows and columns of T learn first; the new A and B have gradients of exactly 0.
                let is_new = |(path, _): &&(String, Param)| old.iter().all(|(other, ..)| other != path);
                let values: Vec<_> =
                    now.iter().filter(is_new).map(|(path, param)| (path, param.value())).collect();
                assert!(!values.is_empty());
                let gradients = tiny::loss(&model).backward();
                for (path, value) in values {
                    let zero = gradients.of(&value).unwrap().to_f64().iter().all(|x| *x == 0.0);
                    assert_eq!(zero, path.contains("triadapt_A") || path.contains("triadapt_B"), "{path}");
                }
            }
        }
    }
}

#[test]
fn right_after_growing_a_matrix_is_the_least_important() {
    let model = model(&Device::Cpu);
    let method = TriAdaptLora {
        interval: 1,
        increment: Some(2),
        growth: RankGrowth::Fixed,
        top_k: 1,
        safe: true,
        ..TriAdaptLora::new(7, 9)
    };
    let mut tuned = adapters::attach(&model, SQUARE, method).unwrap();
    scatter(&tuned, 9);
    let nothing = (engrad::Gradients::default(), std::collections::HashMap::new());
    for number in 1..=2 {
        tuned.after_update(&adapters::Update::new(number, &nothing.0, &nothing.1)).unwrap();
    }
    let [first, second] = tuned.checks() else { panic!("two checks") };
    for (site, score) in second.scores.iter().enumerate() {
        assert_eq!(*score < 0.0, first.chosen.contains(&site));
        assert!(first.chosen.contains(&site) || *score == 0.0);
    }
}

#[test]
fn growth_stops_at_its_budget() {
    let model = model(&Device::Cpu);
    let tuned = adapters::attach(
        &model,
        SQUARE,
        TriAdaptLora { interval: 1, increment: Some(1), ..TriAdaptLora::new(3, 12) },
    )
    .unwrap();
    let mut trainer = Trainer::new(tuned, AdamW::new(0.0), Schedule::constant(0.02));
    let mut before = vec![1; 4];
    for _ in 0..20 {
        trainer.step(|| tiny::loss(&model)).unwrap();
        let ranks = trainer.subject.ranks();
        assert!(ranks.iter().zip(&before).all(|(now, before)| now >= before));
        before = ranks;
    }
    assert_eq!(before.iter().sum::<usize>(), 12);
    assert_eq!(trainer.subject.checks().last().unwrap().ranks, before);
}

#[test]
fn starts_that_can_never_learn_are_refused() {
    for structure in [Structure::Icfm, Structure::Ctcm] {
        let method = Mtlora { start: TransformStart::ZeroT, ..Mtlora::new(structure, 2) };
        let message = adapters::attach(&model(&Device::Cpu), SQUARE, method).err().unwrap().to_string();
        assert!(message.contains("every gradient"), "{message}");
    }
}

#[test]
fn the_two_parts_of_dtsm_keep_their_distance() {
    let model = model(&Device::Reference);
    let tuned = adapters::attach(&model, SQUARE, Mtlora::new(Structure::Dtsm, 3)).unwrap();
    let path = "bert.encoder.layer.0.attention.self.query.mtlora_";
    let [c, d] = ["C", "D"].map(|name| param(&tuned, &format!("{path}{name}")));
    let distance = || (c.value() - d.value()).to_f64();
    let before = distance();
    let mut trainer = Trainer::new(tuned, AdamW::new(0.0), Schedule::constant(0.02));
    for _ in 0..10 {
        trainer.step(|| tiny::loss(&model)).unwrap();
    }
    assert!(c.value().to_f64()[1] != 0.0);
    near(&distance(), &before, 1e-14, "C - D");
}

#[test]
fn the_budget_falls_along_its_cubic_and_as_many_triplets_act() {
    let model = model(&Device::Cpu);
    let method = AdaLora { warm_up: 3, final_steps: 5, interval: 2, ..AdaLora::new(4, 2, 20) };
    let budgets: Vec<usize> = (0..=20).map(|step| method.budget(step, 4)).collect();
    assert_eq!((budgets[3], budgets[15], budgets[20]), (16, 8, 8));
    // 8 + 8·(1 - 3/12)³ = 11.375
    assert_eq!(budgets[6], 11);
    let tuned = adapters::attach(&model, SQUARE, method).unwrap();
    let mut trainer = Trainer::new(tuned, AdamW::new(0.0), Schedule::constant(0.02));
    for _ in 0..20 {
        trainer.step(|| tiny::loss(&model)).unwrap();
    }
    let checks = trainer.subject.checks();
    assert_eq!(checks.iter().map(|check| check.step).collect::<Vec<_>>(), [4, 6, 8, 10, 12, 14, 15]);
    for check in checks {
        assert_eq!(check.count, budgets[check.step as usize]);
        assert_eq!(check.ranks.iter().sum::<usize>(), check.count);
    }
    let acting = |(path, param): &(String, Param)| {
        let numbers = param.value().to_f64();
        path.ends_with("lora_E").then(|| numbers.iter().filter(|x| **x != 0.0).count())
    };
    assert_eq!(trainer.subject.trainable().iter().filter_map(acting).sum::<usize>(), 8);
}

#[test]
fn an_update_that_factors_is_exported_exactly_and_others_with_their_error() {
    let rows = [
        ("mtlora, fused", true),
        ("triadaptlora, growing", true),
        ("adalora", true),
        ("vera", true),
        ("pissa", true),
        ("lora with embeddings", true),
        ("dora", false),
    ];
    for (subject, exact) in rows.map(|(name, exact)| (named(name), exact)) {
        let model = model(&Device::Reference);
        let tuned = subject.moved(&model);
        let folder = tempfile::tempdir().unwrap();
        for rank in [2, 8] {
            let error = tuned.export_as_lora(folder.path(), rank).unwrap();
            assert_eq!(error == 0.0, exact || rank == 8, "{}: {error:e}", subject.name);
        }
        let other = self::model(&Device::Reference);
        adapters::load(&other, folder.path()).unwrap();
        near(&output(&other), &output(&model), 1e-12, subject.name);
    }
}

#[test]
fn a_dropped_input_matters_in_training_only() {
    let model = model(&Device::Cpu);
    named("lora with dropout").moved(&model);
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
    for rank in [0, 17, usize::MAX] {
        let error = adapters::attach(&model, "*.query", Lora::new(rank)).err().unwrap().to_string();
        assert!(error.contains(&format!("rank {rank} does not fit 8 -> 8")), "{error}");
    }
    assert_eq!(tiny::state(&model), state);
}

/// Its file holds the start beside what became of it, and so twice as many ranks.
#[test]
fn a_pissa_of_as_many_ranks_as_a_matrix_has_is_loaded_again() {
    let folder = tempfile::tempdir().unwrap();
    let (model, other) = (model(&Device::Cpu), self::model(&Device::Cpu));
    let tuned = adapters::attach(&model, SQUARE, Lora { start: Start::Pissa, ..Lora::new(8) }).unwrap();
    scatter(&tuned, 3);
    tuned.save(folder.path()).unwrap();
    adapters::load(&other, folder.path()).unwrap();
    near(&output(&other), &output(&model), 1e-5, "loaded");
}

/// A layer with a bias, called `only`.
fn layer(weight: &Tensor, bias: &Tensor) -> tiny::Chain {
    let layer = Linear::from_weights(weight, Some(bias));
    tiny::Chain { layers: vec![("only".into(), layer)], between: Tensor::clone }
}

#[test]
fn dora_leaves_a_row_of_zeros_alone() {
    for device in common::devices() {
        let x = common::random(&[3, 2], 1, &device);
        let weight = Tensor::new(&[1.0, 2.0, 0.0, 0.0], [2, 2], &device);
        let model = layer(&weight, &Tensor::new(&[0.5, 0.25], [2], &device));
        let before = model.forward(&x).to_f64();
        let tuned = adapters::attach(&model, "only", Dora::new(1)).unwrap();
        near(&model.forward(&x).to_f64(), &before, 1e-6, "fresh");
        let gradients = model.forward(&x).square().sum(..).backward();
        for (path, param) in tuned.trainable() {
            let gradient = gradients.of(&param.value()).unwrap().to_f64();
            assert!(gradient.iter().all(|x| x.is_finite()), "{path}: {gradient:?}");
        }
        tuned.merge().unwrap();
        near(&model.forward(&x).to_f64(), &before, 1e-6, "merged");
    }
}

#[test]
fn ia3_scales_the_only_input_of_a_feed_forward_layer_and_not_its_bias() {
    let device = Device::Cpu;
    let model = layer(&Tensor::ones([2, 1], &device), &Tensor::new(&[1.0, 2.0], [2], &device));
    let tuned = adapters::attach(&model, "only", Ia3::new(["only"])).unwrap();
    param(&tuned, "only.ia3_l").set(&Tensor::full(3.0, [1, 1], &device));
    let x = Tensor::full(5.0, [1, 1], &device);
    assert_eq!(model.forward(&x).to_f64(), [16.0, 17.0]);
    tuned.merge().unwrap();
    assert_eq!(model.forward(&x).to_f64(), [16.0, 17.0]);
}

#[test]
fn settings_that_fit_no_layer_are_refused() {
    let refused = |method: Box<dyn Method>, words: &str| {
        let error = adapters::attach(&model(&Device::Cpu), SQUARE, method).err().expect(words).to_string();
        assert!(error.contains(words), "{error}");
    };
    for alpha in [0.0, -1.0, f64::NAN] {
        refused(Lora { start: Start::Pissa, alpha, ..Lora::new(2) }.into(), "leaves PiSSA no scale");
    }
    let fused = vec![("query".into(), 4)];
    refused(
        Mtlora { fused, ..Mtlora::new(Structure::Shim, 3) }.into(),
        "4 groups of rank 3 do not fit 8 -> 8",
    );
}

#[test]
fn a_state_of_absurdly_many_ranks_is_refused() {
    let model = model(&Device::Cpu);
    let mut tuned = adapters::attach(&model, "*.0.*.query", TriAdaptLora::new(4, 9)).unwrap();
    let mut state = tuned.state();
    let count = 20_000;
    for (name, tensor) in &mut state {
        if name.ends_with("/sizes") || name.ends_with("/since") {
            let values: Vec<f64> = (0..count).map(|at| if at == 0 { 1.0 } else { 8.0 }).collect();
            *tensor = Tensor::from_f64(&values, [count], &Device::Reference);
        }
    }
    let error = tuned.restore(&state).unwrap_err().to_string();
    assert!(error.contains("do not go on from"), "{}", &error[..200]);
}

/// A saved adapter of the list, with a changed entry.
fn changed(method: &str, key: &str, value: serde_json::Value) -> engrad::Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let usual = Listed::named(method)?.usual(&Usual::new(2, 9));
    adapters::attach(&model(&Device::Cpu), SQUARE, usual)?.save(folder.path())?;
    let path = folder.path().join("adapter_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    std::fs::write(&path, config.to_string()).unwrap();
    adapters::load(&model(&Device::Cpu), folder.path()).map(drop)
}

#[test]
fn sizes_that_no_layer_limits_have_a_limit_of_their_own() {
    for (method, key) in
        [("vera", "r"), ("bottleneck", "hidden_size"), ("prompt-tuning", "num_virtual_tokens")]
    {
        let error = changed(method, key, 4_000_000_000u64.into()).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains("expected 1 to 65536"), "{error}");
    }
}

#[test]
fn other_ways_to_write_the_plain_case_are_read() {
    for (method, key, value) in [
        ("loha", "rank_dropout", serde_json::json!(0)),
        ("lokr", "module_dropout", serde_json::json!(0)),
        ("lora", "layers_to_transform", serde_json::json!([])),
    ] {
        changed(method, key, value).unwrap_or_else(|error| panic!("{method}: {error}"));
    }
}

#[test]
fn variants_that_are_not_implemented_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(&Device::Cpu);
    named("lora").moved(&model).save(folder.path()).unwrap();
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
        ("init_lora_weights", "\"mica\""),
        ("velora_config", "{}"),
        ("arrow_config", "{}"),
        ("ensure_weight_tying", "true"),
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
        let other = self::model(&Device::Cpu);
        let state = tiny::state(&other);
        let error = adapters::load(&other, folder.path()).err().expect(key).to_string();
        // The key as a word of its own, or a word that is refused.
        let word = value.parse::<f64>().is_err() && error.contains(value.trim_matches('"'));
        assert!(word || error.contains(&format!(" {key} ")), "{key}: {error}");
        assert_eq!(tiny::state(&other), state, "{key}");
    }
}
