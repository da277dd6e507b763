//! W3 and W4: a decoder trained, and going on.

use std::time::Instant;

use engrad::adapters::{self, Lora};
use engrad::nn::{CausalLm, Fresh, Generation, Gpt2Config, LanguageModel, Side, generate};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Device, Ids};

use super::Options;
use super::inputs::{set_weights, tokens};
use super::measuring::{emit, measure_steps, profile, since_start, spread};

fn decoder(device: &Device) -> CausalLm {
    let config = Gpt2Config {
        n_embd: 384,
        n_layer: 6,
        n_head: 6,
        resid_pdrop: 0.0,
        embd_pdrop: 0.0,
        attn_pdrop: 0.0,
        ..Gpt2Config::default()
    };
    config.causal_lm(&mut Fresh::zeros(device)).expect("a consistent configuration")
}

/// W3: forward, backward and AdamW of a decoder whose loss counts every token.
pub fn step(options: &Options) {
    let (rows, time, vocabulary) = (8, 128, 50257);
    let model = decoder(&options.device);
    let tuned = adapters::attach(&model, "*.c_attn", Lora::new(4)).expect("the model has these layers");
    set_weights(&model);
    let all = tokens(8888, rows * (time + 1), vocabulary);
    let texts: Vec<Vec<u32>> = all.chunks(time + 1).map(|row| row[..time].to_vec()).collect();
    let next: Vec<u32> = all.chunks(time + 1).flat_map(|row| row[1..].to_vec()).collect();
    let batch = model.batch(&texts, Side::Right).expect("tokens below the vocabulary");
    let targets = Ids::new(next, [rows * time], vocabulary as usize).expect("tokens below the vocabulary");
    let loss = || model.forward(&batch).flatten(0, 1).cross_entropy(&targets);
    let mut trainer =
        Trainer::new(tuned, AdamW::new(0.01), Schedule::constant(1e-4)).recomputing(options.recompute);
    measure_steps(options, rows * time, || trainer.step(loss).expect("a finite loss").loss);
}

/// W4: how fast text comes out.
pub fn continuation(options: &Options) {
    let model = decoder(&options.device);
    set_weights(&model);
    let prompt = model.batch(&[tokens(9999, 32, 50257)], Side::Left).expect("tokens below the vocabulary");
    let (mut times, mut first, mut text) = (Vec::new(), 0.0, Vec::new());
    let settings = Generation::greedy(128);
    let go_on = || generate(&model, &prompt, &settings, &mut |_, _| ()).expect("it fits").swap_remove(0);
    for i in 0..options.warmup + options.steps {
        let started = Instant::now();
        text = go_on();
        if i == 0 {
            first = since_start();
        }
        if i >= options.warmup {
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    let rate = text.len() as f64 / spread(&times).0 * 1e3;
    let sum = text.iter().sum::<u32>() % 65536;
    let rest = format!("\"tok_s\":{rate:.2},\"first_s\":{first:.2},\"loss\":[{},{sum}]", text[0]);
    emit(options, &times, &rest);
    if options.profile {
        profile(go_on);
    }
}
