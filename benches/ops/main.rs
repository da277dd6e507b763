//! The op table again, timed: each row's largest case with the rate it reaches, beside what the
//! machine can do at most, measured in the same run.
//!
//! `cargo bench --bench ops [-- FILTER] [--device gpu]`; `-- products` times matrix products and the row
//! kernels at a transformer's sizes against those ceilings; `-- expressions` compares interpreted formulas with
//! hand-written loops instead (the figures behind the elementwise design, see ARCHITECTURE.md), and
//! `-- scaling` attention in one kernel with attention composed of products and a softmax.

mod ceilings;
#[path = "../../tests/common/mod.rs"]
mod common;
mod expressions;
mod products;
mod scaling;

use std::hint::black_box;
use std::time::Instant;

use ceilings::Ceilings;
use common::Arrangement;
use common::row::Case;
use common::table::table;
use engrad::device::counted;
use engrad::device::cpu::use_threads;
use engrad::{Device, Tensor, inference};

fn main() {
    use_threads(None).expect("there is always a pool");
    let mut filter = String::new();
    let mut device = Device::Cpu;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--device" => {
                let name = arguments.next().expect("the name of a device");
                device = name.parse().expect("a device of this machine");
            }
            other if !other.starts_with("--") => filter = other.into(),
            _ => {}
        }
    }
    match filter.as_str() {
        "expressions" => return expressions::compare(),
        "scaling" => return scaling::compare(&device),
        _ => {}
    }
    let ceilings = Ceilings::of(&device);
    println!("{device}: copy {:.1} GB/s, multiply-add {:.0} GFLOP/s", ceilings.copy, ceilings.multiply_add);
    match filter.as_str() {
        "products" => products::measure(&device, &ceilings),
        _ => measure_rows(&device, &filter),
    }
}

/// The largest case of each row whose name holds the filter.
fn measure_rows(device: &Device, filter: &str) {
    println!("{:28} {:>34} {:>10} {:>10} {:>10}", "op", "sizes", "us", "GB/s", "GFLOP/s");
    for row in table().iter().filter(|row| row.name.contains(filter)) {
        let elements = |case: &Case| case.sizes.iter().map(|s| s.iter().product::<usize>()).sum::<usize>();
        let cases = row.cases();
        let dense = cases.iter().filter(|case| case.arrangement == Arrangement::Dense);
        let Some(case) = dense.max_by_key(|case| elements(case)) else { continue };
        let inputs = case.stored(device);
        let (_, counts) = counted(|| inference(|| case.call(&inputs)));
        let seconds = inference(|| best_time_on(device, || case.call(&inputs)));
        let bytes: u64 = counts.values().map(|count| count.bytes).sum();
        let flops: u64 = counts.values().map(|count| count.flops).sum();
        let (gb, gflop) = (bytes as f64 / seconds / 1e9, flops as f64 / seconds / 1e9);
        println!(
            "{:28} {:>34} {:10.1} {gb:10.2} {gflop:10.1}",
            row.name,
            format!("{:?}", case.sizes),
            seconds * 1e6
        );
    }
}

/// As [`best_time`], of a tensor that is really there.
fn best_time_on(device: &Device, run: impl Fn() -> Tensor) -> f64 {
    best_time(|| {
        black_box(run());
        device.synchronise().expect("the device goes on");
    })
}

/// The shortest of many runs, in seconds: what the code can do when the machine lets it.
fn best_time(mut run: impl FnMut()) -> f64 {
    let begun = Instant::now();
    let mut best = f64::INFINITY;
    let mut runs = 0;
    while runs < 5 || (begun.elapsed().as_secs_f64() < 0.1 && runs < 10_000) {
        let started = Instant::now();
        run();
        best = best.min(started.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}
