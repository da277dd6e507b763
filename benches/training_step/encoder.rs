//! W1 and W2: steps of an encoder with a two-class head.

use engrad::adapters::{self, Adapted, BitFit, Lora, Mtlora, RankGrowth, Structure, TriAdaptLora};
use engrad::nn::{Classifier, Encoder, EncoderConfig, Family, Fresh, TokenBatch};
use engrad::optim::{AdamW, Schedule};
use engrad::train::{Step, Trainer};
use engrad::{Ids, Rng, Tensor, device};

use super::Options;
use super::curves::{Curve, picture};
use super::inputs::{set_weights, tokens};
use super::measuring::{emit, measure_steps, milliseconds, spread};

/// Rows and tokens of W1 and W2.
const SIZES: [usize; 2] = [32, 64];

/// The encoder of W1 and W2 with a two-class head, and a batch of `[batch, time]` tokens, of which rows
/// fill between half and all.
fn encoder(options: &Options, sizes @ [batch, time]: [usize; 2]) -> (Classifier, TokenBatch, Ids) {
    let config = EncoderConfig {
        hidden_size: 384,
        num_hidden_layers: 6,
        num_attention_heads: 12,
        intermediate_size: 1536,
        ..EncoderConfig::default()
    };
    // All weights are given below.
    let mut zeros = Fresh::zeros(&options.device);
    let encoder = Encoder::of_family(Family::Bert, &config, &mut zeros).expect("a consistent configuration");
    let model = Classifier::new(encoder, 2, &mut Rng::seeded(0));
    let labels = (0..batch).map(|row| row as u32 % 2).collect::<Vec<u32>>();
    let labels = Ids::new(labels, [batch], 2).expect("two classes");
    let batch = TokenBatch {
        ids: Ids::new(tokens(7777, batch * time, 30522), sizes, 30522).expect("tokens below the vocabulary"),
        types: Ids::new(vec![0; batch * time], sizes, 2).expect("segment 0"),
        lengths: (0..batch).map(|row| time / 2 + (row * 7) % (time / 2 + 1)).collect(),
    };
    (model, batch, labels)
}

/// W1 and W2: forward, backward and AdamW of an encoder with a two-class head.
pub fn step(options: &Options) {
    let (model, batch, labels) = encoder(options, SIZES);
    let loss = || scores(options, &model, &batch).cross_entropy(&labels);
    let (optimizer, schedule) = (AdamW::new(0.01), Schedule::constant(1e-4));
    if options.work == "W1" {
        let tuned = with_lora(&model);
        set_weights(&model);
        let mut trainer = Trainer::new(tuned, optimizer, schedule).recomputing(options.recompute);
        measure_steps(options, SIZES.iter().product(), || trainer.step(loss).expect("a finite loss").loss);
    } else {
        set_weights(&model);
        let mut trainer = Trainer::new(&model, optimizer, schedule).recomputing(options.recompute);
        measure_steps(options, SIZES.iter().product(), || trainer.step(loss).expect("a finite loss").loss);
    }
}

/// What the model says of each row: `[batch, 2]`.
fn scores(options: &Options, model: &Classifier, batch: &TokenBatch) -> Tensor {
    match options.every_token {
        false => model.forward(batch),
        true => {
            let first = model.encoder.forward(batch).select(1, 0);
            model.head.forward(&model.encoder.pool(&first))
        }
    }
}

/// LoRA and head of W1.
fn with_lora(model: &Classifier) -> Adapted {
    adapters::attach(model, "*.self.{query,value}", Lora::new(8))
        .and_then(|tuned| tuned.also_train("classifier.*"))
        .expect("the model has these layers")
}

/// W1 for more and longer rows: what a token costs, and the most memory in use on the device cpu, as a
/// table and as `scaling.svg`.
pub fn scaling(options: &Options) {
    const BATCHES: [usize; 4] = [8, 16, 32, 64];
    const TIMES: [usize; 4] = [64, 128, 256, 512];
    println!("| batch | time | ms a step | µs a token | peak MB | KB a token |\n|---|---|---|---|---|---|");
    let (mut costs, mut peaks) = (Vec::new(), Vec::new());
    for batch in BATCHES {
        let mut curves = [Vec::new(), Vec::new()];
        for time in TIMES {
            let (model, rows, labels) = encoder(options, [batch, time]);
            let tuned = with_lora(&model);
            set_weights(&model);
            let mut trainer = Trainer::new(tuned, AdamW::new(0.01), Schedule::constant(1e-4));
            let mut step =
                || trainer.step(|| model.forward(&rows).cross_entropy(&labels)).expect("a finite loss");
            step();
            device::cpu::forget_peak();
            let times: Vec<f64> = (0..options.steps.min(5)).map(|_| milliseconds(&mut step)).collect();
            let peak = device::cpu::pool_statistics().peak as f64 / 1e6;
            let (ms, tokens) = (spread(&times).0, (batch * time) as f64);
            let (cost, share) = (ms * 1e3 / tokens, peak * 1e3 / tokens);
            println!("| {batch} | {time} | {ms:.0} | {cost:.0} | {peak:.0} | {share:.0} |");
            curves[0].push((time as f64, cost));
            curves[1].push((time as f64, peak));
        }
        let [cost, peak] = curves.map(|points| Curve { name: format!("batch {batch}"), points });
        costs.push(cost);
        peaks.push(peak);
    }
    let panels = [("Cost of a token", "µs", &costs[..]), ("Peak memory", "MB", &peaks)];
    let drawn = picture("tokens of a row", &panels).expect("it can be drawn");
    std::fs::write("scaling.svg", drawn).expect("a place for the picture");
    println!("\nthe picture is scaling.svg");
}

/// What W1-adapters compares. The first trains the head and the biases of the first layer's queries and
/// values, so that the gradient takes the way back through the whole stack that adapters need.
fn subjects(model: &Classifier, number: usize) -> Option<(&'static str, Adapted)> {
    let sites = "*.self.{query,value}";
    let grown = TriAdaptLora {
        growth: RankGrowth::Fixed,
        increment: Some(1),
        top_k: 12,
        interval: 1,
        warm_up: 0,
        ..TriAdaptLora::new(8, 9)
    };
    let attached = match number {
        0 => ("head", adapters::attach(model, "*.layer.0.*.{query,value}", BitFit)),
        1 => ("lora", adapters::attach(model, sites, Lora::new(8))),
        2 => ("mtlora shim", adapters::attach(model, sites, Mtlora::new(Structure::Shim, 8))),
        3 => ("mtlora dtsm", adapters::attach(model, sites, Mtlora::new(Structure::Dtsm, 8))),
        4 => ("triadaptlora, one block of 8", {
            let whole = TriAdaptLora { first_rank: 8, ..TriAdaptLora::new(8, 10_000) };
            adapters::attach(model, sites, whole)
        }),
        5 => ("triadaptlora, grown to 8 blocks", adapters::attach(model, sites, grown)),
        _ => return None,
    };
    let tuned = attached.1.and_then(|tuned| tuned.also_train("classifier.*"));
    Some((attached.0, tuned.expect("the model has these layers")))
}

/// W1 with one method after the other, step by step in turn, so that a machine that slows down does so
/// for all of them.
pub fn steps_of_methods(options: &Options) {
    let mut all = Vec::new();
    for number in 0.. {
        let (model, batch, labels) = encoder(options, SIZES);
        let Some((name, tuned)) = subjects(&model, number) else { break };
        set_weights(&model);
        let mut trainer = Trainer::new(tuned, AdamW::new(0.01), Schedule::constant(1e-4));
        let step =
            move || trainer.step(|| model.forward(&batch).cross_entropy(&labels)).expect("a finite loss");
        all.push((name, Box::new(step) as Box<dyn FnMut() -> Step>, Vec::new(), 0));
    }
    for round in 0..options.warmup.max(10) + options.steps {
        for (_, step, times, peak) in &mut all {
            let measured = round >= options.warmup.max(10);
            // The round before the first that counts measures memory, which takes buffers away.
            if round + 2 == options.warmup.max(10) {
                device::cpu::forget_peak();
                let before = device::cpu::pool_statistics().used;
                step();
                *peak = device::cpu::pool_statistics().peak - before;
            } else {
                let ms = milliseconds(&mut *step);
                if measured {
                    times.push(ms);
                }
            }
        }
    }
    let head = all[0].2.clone();
    for (name, _, times, peak) in &all {
        let ratios: Vec<f64> = times.iter().zip(&head).map(|(ms, head)| ms / head).collect();
        let rest = format!(
            "\"case\":\"{name}\",\"over_head\":{:.3},\"ratio_of_medians\":{:.3},\"step_peak_mb\":{:.1}",
            spread(&ratios).0,
            spread(times).0 / spread(&head).0,
            *peak as f64 / 1e6
        );
        emit(options, times, &rest);
    }
}
