//! What is computed again in the backward pass has the gradients of what is kept, to the bit where nothing is
//! shared; and what is not kept takes no memory.

mod common;
mod published;

use common::{compare, on_every_device, test_on};
use engrad::adapters::{self, Lora};
use engrad::device::cpu::pool_statistics;
use engrad::nn::{Cache, LanguageModel, Model, Pretrained, Side, named_params};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Device, Rng, Tensor, inference, recomputed, recomputing, training};
use published::{encoder_json, gpt2_json, llama_json, pair_json, t5_json, with};
use serde_json::{Value, json};

fn random(sizes: &[usize], seed: u64, device: &Device) -> Tensor {
    Tensor::normal(1.0, sizes, &mut Rng::seeded(seed), device)
}

/// A model of each family, with dropout.
fn models(device: &Device) -> Vec<(&'static str, Pretrained)> {
    let dropped = json!({"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2, "resid_pdrop": 0.2,
        "attn_pdrop": 0.2, "embd_pdrop": 0.2, "attention_dropout": 0.2, "dropout": 0.2, "dropout_rate": 0.2,
        "num_hidden_layers": 3, "num_layers": 2, "encoder_layers": 2, "decoder_layers": 2});
    let families = [
        ("bert", encoder_json()),
        ("gpt2", gpt2_json()),
        ("llama", llama_json()),
        ("bart", pair_json()),
        ("t5", t5_json()),
    ];
    let made = |(family, json): (&'static str, Value)| {
        let config = with(with(json, family, json!({})), family, dropped.clone());
        (family, Pretrained::from_config(config, &mut Rng::seeded(1), device).expect("sensible"))
    };
    families.map(made).into()
}

/// One number that all parameters of the blocks have a part in.
fn loss(model: &Model) -> Tensor {
    let texts = [vec![3, 4, 5, 6], vec![7, 8]];
    let scores = match model {
        Model::Encoder(model) => model.forward(&model.batch(&texts, None).expect("it fits")),
        Model::CausalLm(model) => model.forward(&model.batch(&texts, Side::Right).expect("it fits")),
        model => {
            let model = model.seq2seq().expect("the others read sources");
            let targets = model.targets(&[vec![5, 4], vec![9, 8, 7]]).expect("they fit");
            model.translate(&model.sources(&texts).expect("they fit"), &targets)
        }
    };
    scores.tanh().square().sum(..)
}

/// How far sums of the same numbers in another order may be apart.
fn rounding(device: &Device) -> f64 {
    if *device == Device::Reference { 1e-13 } else { 1e-5 }
}

on_every_device! {
    fn every_family_has_the_same_gradients(device) {
        for (family, Pretrained { model, .. }) in models(device) {
            let kept = training(5, || loss(&model));
            let again = training(5, || recomputing(|| loss(&model)));
            assert!(again.graph().contains("recomputed") && !kept.graph().contains("recomputed"), "{family}");
            assert_eq!(kept.to_f64(), again.to_f64(), "{family}");
            let [kept, again] = [kept, again].map(Tensor::backward);
            let params = named_params(&model);
            let reached = params.iter().filter(|(_, param)| kept.of(&param.value()).is_some()).count();
            assert!(reached > 20 && reached == again.len(), "{family}");
            for (path, param) in &params {
                let [kept, again] = [&kept, &again].map(|gradients| gradients.of(&param.value()).map(Tensor::to_f64));
                // What several blocks look at gets its gradients in other groups: those of a block first.
                let shared = ["bart", "t5"].contains(&family);
                let allowed = if shared { rounding(device) } else { 0.0 };
                let (Some(kept), Some(again)) = (kept, again) else { continue };
                compare(&again, &kept, allowed).unwrap_or_else(|error| panic!("{family} {path}: {error}"));
            }
        }
    }

    fn a_part_may_lead_back_to_several_tensors_and_lie_in_another(device) {
        let [x, y, z] = [1, 2, 3].map(|seed| random(&[4, 4], seed, device).tracked());
        let whole = |keep: bool| {
            let part = { let (x, y) = (x.clone(), y.clone()); move || (&x * &y).dropout(0.5).matmul(&x) };
            let inner = part.clone();
            let outer = {
                let z = z.clone();
                move || if keep { part() * z.exp() + &z } else { recomputed(inner.clone()) * z.exp() + &z }
            };
            let result = if keep { outer() } else { recomputed(outer) };
            ((result + &x).dropout(0.5)).sum(..)
        };
        let [kept, again] = [true, false].map(|keep| training(3, || whole(keep)));
        assert_eq!(kept.to_f64(), again.to_f64());
        let [kept, again] = [kept, again].map(Tensor::backward);
        for leaf in [&x, &y, &z] {
            let [kept, again] = [&kept, &again].map(|all| all.of(leaf).expect("it has a part").to_f64());
            compare(&again, &kept, rounding(device)).unwrap();
        }
    }

    fn a_part_without_history_is_its_result(device) {
        let x = random(&[3], 1, device);
        let held = x.clone();
        assert!(!recomputed(move || held.exp()).is_tracked());
        let tracked = x.tracked();
        let held = tracked.clone();
        assert!(!inference(|| recomputed(move || held.exp())).is_tracked());
        let held = tracked.clone();
        let gradients = recomputed(move || held.clone()).sum(..).backward();
        assert_eq!(gradients.of(&tracked).map(Tensor::to_f64), Some(vec![1.0; 3]));
    }

    fn training_with_adapters_goes_the_same_way(device) {
        let config = with(gpt2_json(), "gpt2", json!({"resid_pdrop": 0.1, "attn_pdrop": 0.1}));
        let losses = [false, true].map(|recompute| {
            let model = Pretrained::from_config(config.clone(), &mut Rng::seeded(1), device).expect("sensible").model;
            let method = Lora { dropout: 0.1, ..Lora::new(2) };
            let tuned = adapters::attach(&model, "*.c_attn", method).expect("it has these");
            let mut trainer = Trainer::new(tuned, AdamW::new(0.0), Schedule::constant(1e-2)).recomputing(recompute);
            (0..3).map(|_| trainer.step(|| loss(&model)).expect("a finite loss").loss).collect::<Vec<f64>>()
        });
        assert_eq!(losses[0], losses[1]);
        assert!(losses[0][2] != losses[0][0]);
    }
}

/// A block behind virtual tokens keeps keys and values, so it is computed once.
#[test]
fn blocks_that_keep_keys_and_values_are_not_computed_again() {
    let model =
        Pretrained::from_config(gpt2_json(), &mut Rng::seeded(1), &Device::Cpu).expect("sensible").model;
    let Model::CausalLm(model) = &model else { panic!("a decoder") };
    let batch = model.batch(&[vec![3, 4, 5]], Side::Right).expect("it fits");
    let states = recomputing(|| model.body.hidden_states(&batch.ids, &mut Cache::new(batch.starts())));
    assert!(!states[states.len() - 1].graph().contains("recomputed"));
}

#[test]
fn what_is_computed_again_is_not_kept() {
    let x = random(&[128, 128], 1, &Device::Cpu).tracked();
    let deep = |x: &Tensor| (0..10).fold(x.clone(), |x, _| x.exp().tanh());
    let held = x.clone();
    let kept = |part: &dyn Fn() -> Tensor| {
        let before = pool_statistics().used;
        let _result = part();
        (pool_statistics().used - before) / (4 * x.count()) as u64
    };
    let again = kept(&|| {
        let held = held.clone();
        recomputed(move || deep(&held))
    });
    assert_eq!(again, 1, "the result alone");
    assert!(kept(&|| deep(&x)) >= 20, "each step of it");
}
