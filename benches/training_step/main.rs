//! Whole training steps and single kernels on fixed inputs, as JSON lines to compare with other frameworks.
//!
//! `cargo bench --bench training_step -- --work W1 --threads 2 [--steps 10] [--warmup 3] [--peer NAME]
//! [--device gpu]`
//!
//! | work | what |
//! |---|---|
//! | W1 | encoder LoRA step: 6 layers, width 384, batch 32 x 64 tokens, rank 8 on query and value |
//! | W1-adapters | the same with several methods in turn, beside a head alone with the same way back |
//! | W1-scaling | W1 at other sizes of batch and time: cost of a token and memory, as a table and a picture |
//! | W2 | the same, every parameter trained |
//! | W3 | decoder LoRA step: GPT-2 of 6 layers, width 384, batch 8 x 128 tokens, rank 4 on the fused projection |
//! | W4 | the same decoder going on greedily: a prompt of 32 tokens, 128 more, with cached keys and values |
//! | W5 | single kernels: products, softmax, layer norm, GELU |
//!
//! Weights and tokens come from a small integer hash, so that every framework computes the same
//! numbers: equal losses prove equal work. The head of W1 and W2 reads the first token, so the last block computes that
//! of no other; with `--every-token` it does, as in other frameworks. `--profile` prints where the time of a step goes;
//! `--recompute` keeps only the input of each block (W1 to W3).

#[path = "../../examples/common/curves.rs"]
mod curves;
mod decoder;
mod encoder;
mod inputs;
mod kernels;
mod measuring;

use engrad::Device;

/// What the command line says.
struct Options {
    work: String,
    threads: usize,
    steps: usize,
    warmup: usize,
    peer: String,
    profile: bool,
    recompute: bool,
    every_token: bool,
    device: Device,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str, default: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).map_or(default.to_string(), String::clone)
    };
    let number = |name: &str, default: &str| value(name, default).parse().expect("a number");
    let given = |name: &str| arguments.iter().any(|argument| argument == name);
    let options = Options {
        work: value("--work", "W1"),
        threads: number("--threads", "2"),
        steps: number("--steps", "10"),
        warmup: number("--warmup", "3"),
        peer: value("--peer", "engrad"),
        profile: given("--profile"),
        recompute: given("--recompute"),
        every_token: given("--every-token"),
        device: value("--device", "cpu").parse().expect("a device of this machine"),
    };
    engrad::device::cpu::use_threads(Some(options.threads)).expect("the first pool");
    match options.work.as_str() {
        "W1" | "W2" => encoder::step(&options),
        "W1-scaling" => encoder::scaling(&options),
        "W1-adapters" => encoder::steps_of_methods(&options),
        "W3" => decoder::step(&options),
        "W4" => decoder::continuation(&options),
        "W5" => kernels::measure(&options),
        other => eprintln!("{other} is not among the works W1, W1-adapters, W1-scaling, W2 to W5"),
    }
}
