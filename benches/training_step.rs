//! Whole training steps and single kernels on fixed inputs, as JSON lines to compare with other frameworks.
//!
//! `cargo bench --bench training_step -- --work W1 --threads 2 [--steps 10] [--warmup 3] [--peer NAME]
//! [--device gpu]`
//!
//! | work | what |
//! |---|---|
//! | W1 | encoder LoRA step: 6 layers, width 384, batch 32 x 64 tokens, rank 8 on query and value |
//! | W1-adapters | the same with several methods in turn, beside a head alone with the same way back |
//! | W2 | the same, every parameter trained |
//! | W3 | decoder LoRA step: GPT-2 of 6 layers, width 384, batch 8 x 128 tokens, rank 4 on the fused projection |
//! | W4 | the same decoder going on greedily: a prompt of 32 tokens, 128 more, with cached keys and values |
//! | W5 | single kernels: products, softmax, layer norm, GELU |
//!
//! Weights and tokens come from a small integer hash, so that every framework computes the same
//! numbers: equal losses prove equal work. `--profile` prints where the time of a step goes.

use std::time::Instant;

use engrad::adapters::{self, Adapted, BitFit, Lora, Mtlora, RankGrowth, Structure, TriAdaptLora};
use engrad::nn::{
    Activation, CausalLm, Classifier, Encoder, EncoderConfig, Fresh, Generation, Gpt2Config, LanguageModel,
    Module, Side, TokenBatch, generate, named_params,
};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Device, Ids, Rng, Tensor, device, inference};

struct Options {
    work: String,
    threads: usize,
    steps: usize,
    warmup: usize,
    peer: String,
    profile: bool,
    device: Device,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str, default: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).map_or(default.to_string(), String::clone)
    };
    let number = |name: &str, default: &str| value(name, default).parse().expect("a number");
    let options = Options {
        work: value("--work", "W1"),
        threads: number("--threads", "2"),
        steps: number("--steps", "10"),
        warmup: number("--warmup", "3"),
        peer: value("--peer", "engrad"),
        profile: arguments.iter().any(|argument| argument == "--profile"),
        device: value("--device", "cpu").parse().expect("a device of this machine"),
    };
    rayon::ThreadPoolBuilder::new().num_threads(options.threads).build_global().expect("the first pool");
    match options.work.as_str() {
        "W1" | "W2" => encoder_step(&options),
        "W1-adapters" => adapter_steps(&options),
        "W3" => decoder_step(&options),
        "W4" => continuation(&options),
        "W5" => kernels(&options),
        other => eprintln!("{other} is not among the works W1, W1-adapters, W2 to W5"),
    }
}

/// The integer hash that makes weights and tokens.
fn hash(seed: u32, position: u32) -> u32 {
    let mut x = position.wrapping_mul(0x9E37_79B1);
    x = x.wrapping_add(seed.wrapping_mul(0x85EB_CA77).wrapping_add(0xC2B2_AE3D));
    x ^= x >> 15;
    x = x.wrapping_mul(0x2C1B_3C6D);
    x ^= x >> 12;
    x = x.wrapping_mul(0x297A_2D39);
    x ^ (x >> 15)
}

/// Uniform weights of standard deviation 0.02.
const WEIGHTS: f32 = 0.034_641_016;

fn uniform(seed: u32, sizes: &[usize], scale: f32, device: &Device) -> Tensor {
    let count: usize = sizes.iter().product();
    let values: Vec<f32> =
        (0..count as u32).map(|i| (hash(seed, i) >> 8) as f32 * (scale / 8_388_608.0) - scale).collect();
    Tensor::new(&values, sizes, device)
}

fn tokens(seed: u32, count: usize, vocabulary: u32) -> Vec<u32> {
    (0..count as u32).map(|i| hash(seed, i) % vocabulary).collect()
}

/// Which hash seed makes the parameter of a path; `None` for biases and norms, which keep 0 and 1.
fn weight_seed(path: &str) -> Option<u32> {
    let parts = [
        ("word_embeddings.weight", 0),
        ("position_embeddings.weight", 1),
        ("token_type_embeddings.weight", 2),
        ("pooler.dense.weight", 900),
        ("classifier.weight", 901),
        ("wte.weight", 0),
        ("wpe.weight", 1),
    ];
    if let Some((_, seed)) = parts.iter().find(|(end, _)| path.ends_with(end)) {
        return Some(*seed);
    }
    let numbered = path.split_once("layer.").or(path.split_once("transformer.h."));
    let (layer, part) = numbered?.1.split_once('.')?;
    let parts = [
        ("attention.self.query.weight", 0),
        ("attention.self.key.weight", 1),
        ("attention.self.value.weight", 2),
        ("attention.output.dense.weight", 3),
        ("intermediate.dense.weight", 4),
        ("output.dense.weight", 5),
        ("attention.self.query.lora_A.weight", 10),
        ("attention.self.query.lora_B.weight", 11),
        ("attention.self.value.lora_A.weight", 12),
        ("attention.self.value.lora_B.weight", 13),
        ("attn.c_attn.weight", 0),
        ("attn.c_proj.weight", 1),
        ("mlp.c_fc.weight", 2),
        ("mlp.c_proj.weight", 3),
        ("attn.c_attn.lora_A.weight", 10),
        ("attn.c_attn.lora_B.weight", 11),
    ];
    let (_, number) = parts.iter().find(|(end, _)| *end == part)?;
    Some(100 * (layer.parse::<u32>().ok()? + 1) + number)
}

/// The encoder of W1 and W2 with a two-class head, and its batch.
fn encoder(options: &Options) -> (Classifier, TokenBatch, Ids) {
    let (batch, time) = (32, 64);
    let config = EncoderConfig {
        vocab_size: 30522,
        hidden_size: 384,
        num_hidden_layers: 6,
        num_attention_heads: 12,
        intermediate_size: 1536,
        max_position_embeddings: 512,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_act: Activation::Gelu,
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
        classifier_dropout: None,
        initializer_range: 0.02,
        pad_token_id: 0,
    };
    let mut rng = Rng::seeded(0);
    let encoder = Encoder::new(&config, &mut rng, &options.device).expect("a consistent configuration");
    let model = Classifier::new(encoder, 2, &mut rng);
    let sizes = [batch, time];
    let batch = TokenBatch {
        ids: Ids::new(tokens(7777, batch * time, 30522), sizes, 30522).expect("tokens below the vocabulary"),
        types: Ids::new(vec![0; batch * time], sizes, 2).expect("segment 0"),
        lengths: (0..batch).map(|row| 32 + (row * 7) % 33).collect(),
    };
    let labels = Ids::new((0..32).map(|row| row % 2).collect::<Vec<u32>>(), [32], 2).expect("two classes");
    (model, batch, labels)
}

/// W1 and W2: forward, backward and AdamW of an encoder with a two-class head.
fn encoder_step(options: &Options) {
    let (model, batch, labels) = encoder(options);
    let loss = || model.forward(&batch).cross_entropy(&labels);
    let (optimizer, schedule) = (AdamW::new(0.01), Schedule::constant(1e-4));
    if options.work == "W1" {
        let tuned: Adapted = adapters::attach(&model, "*.self.{query,value}", Lora::new(8))
            .and_then(|tuned| tuned.also_train("classifier.*"))
            .expect("the model has these layers");
        set_weights(&model);
        let mut trainer = Trainer::new(tuned, optimizer, schedule);
        measure_steps(options, 32 * 64, || trainer.step(loss).expect("a finite loss").loss);
    } else {
        set_weights(&model);
        let mut trainer = Trainer::new(&model, optimizer, schedule);
        measure_steps(options, 32 * 64, || trainer.step(loss).expect("a finite loss").loss);
    }
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
fn adapter_steps(options: &Options) {
    let mut all = Vec::new();
    for number in 0.. {
        let (model, batch, labels) = encoder(options);
        let Some((name, tuned)) = subjects(&model, number) else { break };
        set_weights(&model);
        let mut trainer = Trainer::new(tuned, AdamW::new(0.01), Schedule::constant(1e-4));
        let step =
            move || trainer.step(|| model.forward(&batch).cross_entropy(&labels)).expect("a finite loss");
        all.push((name, Box::new(step) as Box<dyn FnMut() -> engrad::train::Step>, Vec::new(), 0));
    }
    for round in 0..options.warmup.max(10) + options.steps {
        for (_, step, times, peak) in &mut all {
            let measured = round >= options.warmup.max(10);
            // The round before the first that counts measures memory, which takes buffers away.
            if round + 2 == options.warmup.max(10) {
                device::cpu::forget_peak();
                let before = device::cpu::pool_statistics().used;
                step();
                *peak = (device::cpu::pool_statistics().peak - before) * size_of::<f32>();
            } else {
                let started = Instant::now();
                step();
                let ms = started.elapsed().as_secs_f64() * 1e3;
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

fn set_weights(model: &dyn Module) {
    for (path, param) in named_params(model) {
        if let Some(seed) = weight_seed(&path) {
            param.set(&uniform(seed, param.sizes(), WEIGHTS, &param.value().device()));
        }
    }
}

fn measure_steps(options: &Options, tokens: usize, mut step: impl FnMut() -> f64) {
    let (mut times, mut losses, mut first) = (Vec::new(), Vec::new(), 0.0);
    for i in 0..options.warmup + options.steps {
        let started = Instant::now();
        losses.push(step());
        options.device.synchronise().expect("the device goes on");
        if i == 0 {
            first = since_start();
        }
        if i >= options.warmup {
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    let (median, _, _) = spread(&times);
    let (tokens, last) = (tokens as f64 / median * 1e3, losses[losses.len() - 1]);
    let rest = format!("\"tok_s\":{tokens:.2},\"first_s\":{first:.2},\"loss\":[{},{last}]", losses[0]);
    emit(options, &times, &rest);
    if options.profile {
        profile(step);
    }
}

/// Prints where the time of `work` goes.
fn profile<R>(work: impl FnMut() -> R) {
    let (_, counts) = device::counted(work);
    let total: f64 = counts.values().map(|count| count.time.as_secs_f64() * 1e3).sum();
    for (name, count) in counts {
        let ms = count.time.as_secs_f64() * 1e3;
        let (gflops, gbytes) = (count.flops as f64 / ms / 1e6, count.bytes as f64 / ms / 1e6);
        eprintln!(
            "{name:>20}: {:4} runs {ms:8.2} ms {:5.1} %  {gflops:7.1} GFLOP/s {gbytes:6.1} GB/s",
            count.runs,
            100.0 * ms / total
        );
    }
    eprintln!("{total:.1} ms in kernels");
}

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
fn decoder_step(options: &Options) {
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
    let mut trainer = Trainer::new(tuned, AdamW::new(0.01), Schedule::constant(1e-4));
    measure_steps(options, rows * time, || trainer.step(loss).expect("a finite loss").loss);
}

/// W4: how fast text comes out.
fn continuation(options: &Options) {
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

/// W5: each kernel in batches of about 50 ms.
fn kernels(options: &Options) {
    let device = &options.device;
    let products: [(&str, &[usize], &[usize]); 5] = [
        ("mm512", &[512, 512], &[512, 512]),
        ("mm2048x384x384", &[2048, 384], &[384, 384]),
        ("mm2048x768x8", &[2048, 768], &[768, 8]),
        ("mm2048x8x768", &[2048, 8], &[8, 768]),
        ("bmm384x64x32x64", &[384, 64, 32], &[384, 32, 64]),
    ];
    for (case, left, right) in products {
        let (a, b) = (uniform(1, left, 1.0, device), uniform(2, right, 1.0, device));
        let flops = 2.0 * (a.count() * b.size(-1)) as f64;
        measure_kernel(options, case, flops * 1e-9, "GFLOP/s", || a.matmul(&b));
    }
    let x = uniform(3, &[384, 64, 64], 1.0, device);
    measure_kernel(options, "softmax384x64x64", 8e-9 * x.count() as f64, "GB/s", || x.softmax(-1));
    let x = uniform(4, &[2048, 384], 1.0, device);
    let (weight, bias) =
        (Tensor::ones([384], device).contiguous(), Tensor::zeros([384], device).contiguous());
    let norm = || x.layer_norm(Some(&weight), Some(&bias), 1e-5);
    measure_kernel(options, "layernorm2048x384", 8e-9 * x.count() as f64, "GB/s", norm);
    let x = uniform(5, &[2048, 1536], 1.0, device);
    measure_kernel(options, "gelu2048x1536", 8e-9 * x.count() as f64, "GB/s", || x.gelu());
}

fn measure_kernel(options: &Options, case: &str, work: f64, unit: &str, kernel: impl Fn() -> Tensor) {
    let wait = || options.device.synchronise().expect("the device goes on");
    inference(|| {
        for _ in 0..options.warmup {
            kernel();
        }
        wait();
        let started = Instant::now();
        kernel();
        wait();
        let repeats = ((0.05 / started.elapsed().as_secs_f64()) as usize).max(1);
        let times: Vec<f64> = (0..options.steps.max(10))
            .map(|_| {
                let started = Instant::now();
                for _ in 0..repeats {
                    kernel();
                }
                wait();
                started.elapsed().as_secs_f64() * 1e3 / repeats as f64
            })
            .collect();
        let rate = work / spread(&times).0 * 1e3;
        emit(options, &times, &format!("\"case\":\"{case}\",\"rate\":{rate:.2},\"unit\":\"{unit}\""));
    });
}

/// Median, smallest and largest.
fn spread(times: &[f64]) -> (f64, f64, f64) {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median =
        if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
    (median, sorted[0], sorted[sorted.len() - 1])
}

fn emit(options: &Options, times: &[f64], rest: &str) {
    let (median, least, most) = spread(times);
    println!(
        "{{\"peer\":\"{}\",\"device\":\"{}\",\"work\":\"{}\",\"threads\":{},\"rss_mb\":{},\"ms\":{median:.4},\"ms_min\":{least:.4},\"ms_max\":{most:.4},\"n\":{},{rest}}}",
        options.peer,
        options.device,
        options.work,
        options.threads,
        peak_memory_mb().unwrap_or(0),
        times.len()
    );
}

/// The largest resident memory of this process, where the system tells.
fn peak_memory_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

/// Seconds since this process began, where the system tells.
fn since_start() -> f64 {
    let read = || {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let begun: f64 = stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()?;
        let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
        Some(uptime.split_whitespace().next()?.parse::<f64>().ok()? - begun / 100.0)
    };
    read().unwrap_or(0.0)
}
