//! What only a GPU can get wrong: large grids, bindings that are too small, deferred work, faults, and
//! memory that grows. That every op is right on it is shown by the table (`tests/ops.rs`).
#![cfg(feature = "gpu")]

mod common;

use std::sync::Arc;

use common::{compare, largest, random};
use engrad::device::gpu::{Gpu, GpuOptions, Rung, Sharing, adapters};
use engrad::nn::{Linear, Module, Param, Walker};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Device, Error, Ids, Mask, Rng, Tensor, attention, training};

/// A device of its own, for a test that breaks or counts it; `None` where there is no GPU.
fn own(options: &GpuOptions) -> Option<(Device, Arc<Gpu>)> {
    common::gpu()?;
    let gpu = Gpu::open(options).expect("a second device of the adapter that was opened before");
    let device = Device::Gpu(gpu.clone());
    common::fuse_attention(&device);
    Some((device, gpu))
}

/// Holds what `body` gives on the GPU to the reference.
#[track_caller]
fn agrees(device: &Device, tolerance: f64, body: impl Fn(&Device) -> Tensor) {
    let (found, expected) = (body(device), body(&Device::Reference));
    assert_eq!(found.sizes(), expected.sizes());
    let expected = expected.to_f64();
    if let Err(what) = compare(&found.to_f64(), &expected, tolerance * largest(&expected)) {
        panic!("{what}");
    }
}

#[test]
fn adapters_can_be_listed_and_asked_for_by_name() {
    let Some(_) = common::gpu() else { return };
    let all = adapters();
    assert!(!all.is_empty());
    for adapter in all {
        println!("{adapter}");
        let options = GpuOptions { name: Some(adapter.name.to_uppercase()), ..GpuOptions::default() };
        assert_eq!(Gpu::open(&options).unwrap().adapter().name, adapter.name);
    }
}

#[test]
fn an_adapter_that_is_not_there_or_is_refused_is_an_error_and_never_another_device() {
    let Some(_) = common::gpu() else { return };
    let none = GpuOptions { name: Some("no such adapter".into()), ..GpuOptions::default() };
    let Err(Error::Device(what)) = Gpu::open(&none) else { panic!("found one") };
    assert!(what.contains("no such adapter") && what.contains(&adapters()[0].name), "{what}");
    if adapters().iter().all(|adapter| adapter.is_software()) {
        let refusing = GpuOptions { refuse_software: true, ..GpuOptions::default() };
        let Err(Error::Device(what)) = Gpu::open(&refusing) else { panic!("opened one") };
        assert!(what.contains("only a software adapter"), "{what}");
    }
}

#[test]
fn a_device_is_shared_while_it_is_held() {
    let Some(device) = common::gpu() else { return };
    assert_eq!(Device::gpu().unwrap(), device);
    assert_eq!("gpu".parse::<Device>().unwrap().to_string(), "gpu");
    let (other, _) = own(&GpuOptions::default()).unwrap();
    assert_ne!(other, device);
}

#[test]
fn more_elements_than_one_axis_of_workgroups_holds() {
    let Some(device) = common::gpu() else { return };
    // 65,535 workgroups of 256 are 16,776,960.
    let count = 65_535 * 256 + 1000;
    let x = Tensor::arange(1000, &device).reshape([1000, 1]) + Tensor::zeros([1, count / 1000], &device);
    let found = (&x * 2.0 + 1.0).to_vec();
    let wrong = (0..x.count()).find(|&at| found[at] != 2.0 * (at / (count / 1000)) as f32 + 1.0);
    assert_eq!(wrong, None);
    let total = x.sum(..).item();
    assert!((total / (999.0 * 500.0 * (count / 1000) as f64) - 1.0).abs() < 1e-5, "{total}");
}

#[test]
fn more_rows_than_one_axis_of_workgroups_holds() {
    let Some(device) = common::gpu() else { return };
    const ROWS: usize = 70_001;
    let rows = |device: &Device| random(&[ROWS, 3], 1, device);
    agrees(&device, 1e-6, |device| rows(device).softmax(-1));
    agrees(&device, 1e-5, |device| rows(device).layer_norm(None, None, 1e-3));
    agrees(&device, 1e-6, |device| random(&[ROWS, 33], 2, device).sum(-1));
    agrees(&device, 1e-6, |device| random(&[ROWS, 33], 2, device).max(-1));
    let targets = common::table::ids(&[ROWS], 3);
    agrees(&device, 1e-5, |device| rows(device).cross_entropy_rows(&targets));
    let (found, expected) = (rows(&device).argmax(-1), rows(&Device::Reference).argmax(-1));
    assert_eq!(found, expected);
}

/// Sizes `[batch.., m, k]` and `[batch.., k, n]`, and whether either lies transposed.
const PRODUCTS: &[(&[usize], &[usize])] = &[
    (&[1, 1], &[1, 1]),
    (&[1, 300], &[300, 70]),
    (&[70, 300], &[300, 1]),
    (&[5, 0], &[0, 4]),
    (&[17, 33], &[33, 9]),
    (&[8, 500], &[500, 65]),
    (&[130, 7], &[7, 5]),
    (&[65, 64], &[64, 129]),
    (&[129, 65], &[65, 66]),
    (&[3, 20, 17], &[3, 17, 40]),
    (&[2, 3, 20, 17], &[2, 3, 17, 10]),
    (&[2, 2, 3, 5, 4], &[2, 2, 3, 4, 6]),
    (&[9001, 2, 3], &[9001, 3, 2]),
];

#[test]
fn every_rung_computes_every_product() {
    let Some((device, gpu)) = own(&GpuOptions::default()) else { return };
    gpu.poison_new_buffers(true);
    for &(a, b) in PRODUCTS {
        let product = |device: &Device, ways: [bool; 2]| {
            let operand = |sizes: &[usize], seed, transposed: bool| match transposed {
                false => random(sizes, seed, device),
                true => random(&swapped(sizes), seed, device).t(),
            };
            let columns = b[b.len() - 1];
            let add = random(&[columns], 5, device);
            add.add_matmul(&operand(a, 3, ways[0]), &operand(b, 4, ways[1]), 0.5)
        };
        for ways in [[false, false], [true, false], [false, true], [true, true]] {
            let expected = product(&Device::Reference, ways).to_f64();
            for rung in Rung::ALL.map(Some).into_iter().chain([None]) {
                gpu.force_rung(rung);
                let found = product(&device, ways).to_f64();
                compare(&found, &expected, 1e-5 * largest(&expected))
                    .unwrap_or_else(|what| panic!("{rung:?} {a:?} {b:?} transposed {ways:?}: {what}"));
            }
        }
    }
}

fn swapped(sizes: &[usize]) -> Vec<usize> {
    let mut sizes = sizes.to_vec();
    let last = sizes.len() - 1;
    sizes.swap(last - 1, last);
    sizes
}

#[test]
fn more_tiles_than_one_axis_of_workgroups_holds() {
    let Some((device, gpu)) = own(&GpuOptions::default()) else { return };
    gpu.force_rung(Some(Rung::Vector));
    let product = |device: &Device| {
        random(&[33_000, 2, 3], 1, device)
            .matmul(&random(&[3], 2, device).reshape([1, 3, 1]).expand([33_000, 3, 1]))
    };
    agrees(&device, 1e-6, product);
}

#[test]
fn what_exceeds_a_binding_is_computed_in_pieces() {
    // 64 KiB: 16,384 elements.
    let limited = GpuOptions { binding_limit: Some(1 << 16), ..GpuOptions::default() };
    let Some((device, gpu)) = own(&limited) else { return };
    gpu.poison_new_buffers(true);
    let x = |device: &Device| random(&[301, 207], 1, device);
    agrees(&device, 1e-6, |device| x(device).exp() * 0.5 + random(&[207], 2, device));
    agrees(&device, 0.0, |device| {
        training(3, || x(device).abs().dropout(0.3)).lt(&Tensor::full(1e-9, [], device))
    });
    agrees(&device, 1e-5, |device| x(device).sum(0));
    agrees(&device, 1e-5, |device| x(device).sum(1));
    agrees(&device, 1e-4, |device| x(device).sum(..));
    agrees(&device, 0.0, |device| x(device).max(0));
    agrees(&device, 1e-6, |device| x(device).softmax(-1));
    agrees(&device, 1e-5, |device| x(device).layer_norm(None, None, 1e-5));
    agrees(&device, 0.0, |device| Tensor::concat(&[&x(device), &x(device)], 0));
    let narrow = |device: &Device| random(&[601, 50], 2, device);
    agrees(&device, 0.0, |device| Tensor::concat(&[&narrow(device), &narrow(device)], 1));
    agrees(&device, 0.0, |device| x(device).sort(1, true).0);
    let targets = common::table::ids(&[301], 207);
    agrees(&device, 1e-5, |device| x(device).cross_entropy_rows(&targets));
    agrees(&device, 1e-5, |device| {
        let x = x(device).tracked();
        x.cross_entropy(&targets).backward().of(&x).unwrap().clone()
    });
    let rows = common::table::ids(&[500], 301);
    agrees(&device, 0.0, |device| x(device).embedding(&rows));
    agrees(&device, 1e-6, |device| {
        random(&[70, 207], 3, device).scatter_rows(&common::table::ids(&[70], 300), 301)
    });
    agrees(&device, 1e-5, |device| {
        let split = |seed| random(&[5, 50, 3, 40], seed, device).transpose(1, 2).tracked();
        let (q, k, v) = (split(6), split(7), split(8));
        let mask = Mask::lengths(&[50, 20, 1, 33, 49], 50, device).unwrap().and_causal();
        let seen = training(3, || attention(&q, &k, &v, &mask, 0.2, 0.3));
        let gradients = seen.tanh().sum(..).backward();
        let parts = [&q, &k, &v].map(|x| gradients.of(x).unwrap());
        Tensor::concat(&[parts[0], parts[1], parts[2], &attention(&q, &k, &v, &mask, 0.2, 0.0)], 0)
            .flatten(0, -1)
    });
    // A tied vocabulary: both gradients of a product with a large weight, and a large result.
    for (m, k, n) in [(301, 207, 60), (60, 207, 301), (207, 301, 60), (301, 60, 301)] {
        agrees(&device, 1e-5, |device| {
            let (a, b) = (random(&[m, k], 4, device).tracked(), random(&[n, k], 5, device).tracked());
            let gradients = a.linear(&b, None).tanh().sum(..).backward();
            let parts = [gradients.of(&a).unwrap(), gradients.of(&b).unwrap()].map(|g| g.flatten(0, -1));
            Tensor::concat(&[&parts[0], &parts[1]], 0)
        });
    }
}

#[test]
fn what_cannot_be_cut_is_an_error_that_names_the_limit() {
    let limited = GpuOptions { binding_limit: Some(1 << 16), ..GpuOptions::default() };
    let Some((device, _gpu)) = own(&limited) else { return };
    let error = random(&[2, 20_000], 1, &device).softmax(-1).read().unwrap_err().to_string();
    assert!(error.contains("too wide"), "{error}");
    let error = (random(&[150, 150], 1, &device).t() + 1.0).read().unwrap_err().to_string();
    assert!(error.contains("65536"), "{error}");
    assert_eq!((Tensor::ones([3], &device) + 1.0).to_vec(), [2.0; 3], "the device goes on");
}

#[test]
fn work_that_would_take_too_long_is_handed_over_in_pieces() {
    let limited = GpuOptions { work_limit: Some(10_000), ..GpuOptions::default() };
    let Some((device, gpu)) = own(&limited) else { return };
    gpu.poison_new_buffers(true);
    // 2·batch·m·n·k operations: 8,100,000 in at least 810 pieces; one piece; a batch.
    for (batch, m, n, k, least) in [(1, 45, 90, 1000, 810), (1, 10, 10, 50, 1), (6, 40, 30, 20, 28)] {
        let product = |device: &Device| {
            let (a, b) = (random(&[batch, m, k], 1, device), random(&[batch, n, k], 2, device));
            random(&[n], 3, device).add_matmul(&a, &b.transpose(1, 2), 0.5)
        };
        let before = gpu.dispatches();
        agrees(&device, 1e-5, product);
        let pieces = gpu.dispatches() - before;
        assert!(
            pieces >= least && (least > 1 || pieces < 10),
            "{pieces} dispatches for {batch} x {m} x {n} x {k}"
        );
    }
}

#[test]
fn a_large_vocabulary_is_looked_up_and_scored_through_small_bindings() {
    // GPT-2's 50,257 words at width 64 are 12.9 MB; its own width 768 makes 154 MB of them, more than
    // the 128 MiB that every adapter binds. A twelfth of both keeps the test short.
    const WORDS: usize = 50_257;
    let limited = GpuOptions { binding_limit: Some((128 << 20) / 12), ..GpuOptions::default() };
    let Some((device, gpu)) = own(&limited) else { return };
    let before = gpu.dispatches();
    let tokens = Ids::new([0, 50_256, 31_337, 41_942, 41_943, Ids::IGNORED], [6], WORDS).unwrap();
    let run = |device: &Device| {
        let table = (random(&[WORDS, 64], 1, device) * 0.1).tracked();
        let hidden = table.embedding(&tokens);
        let loss = hidden.linear(&table, None).cross_entropy(&tokens);
        let value = loss.detach().reshape([1]);
        Tensor::concat(&[&value, &loss.backward().of(&table).unwrap().flatten(0, 1)], 0)
    };
    agrees(&device, 1e-5, run);
    assert!(gpu.dispatches() - before > 15, "the table was cut");
}

#[test]
fn rows_are_folded_alike_by_whoever_works_on_them() {
    let Some((device, gpu)) = own(&GpuOptions::default()) else { return };
    gpu.poison_new_buffers(true);
    for sharing in Sharing::ALL {
        if sharing == Sharing::Subgroups && !gpu.has_subgroups() {
            println!("skipped: this adapter has no subgroup operations");
            continue;
        }
        gpu.force_sharing(Some(sharing));
        for width in [1, 7, 33, 64, 65, 300] {
            let x = |device: &Device| random(&[9, width], 1, device);
            agrees(&device, 1e-6, |device| x(device).softmax(-1));
            agrees(&device, 1e-5, |device| x(device).layer_norm(None, None, 1e-3));
            agrees(&device, 1e-5, |device| x(device).rms_norm(None, 1e-3));
            agrees(&device, 1e-6, |device| x(device).sum(-1));
            agrees(&device, 0.0, |device| x(device).max(-1));
            agrees(&device, 1e-5, |device| {
                let x = x(device).tracked();
                let loss = (x.softmax(-1) * x.layer_norm(None, None, 1e-3)).square().sum(..);
                loss.backward().of(&x).unwrap().clone()
            });
            let targets = common::table::ids(&[9], width);
            agrees(&device, 1e-5, |device| x(device).cross_entropy_rows(&targets));
            let mut values = vec![-3.0f32; 2 * width];
            values[width - 1] = f32::NAN;
            values[width..].fill(f32::NEG_INFINITY);
            let largest = Tensor::new(&values, [2, width], &device).max(-1).to_vec();
            assert!(largest[0].is_nan() && largest[1] == f32::NEG_INFINITY, "{largest:?}");
        }
        gpu.force_rung(Some(Rung::Vector));
        agrees(&device, 1e-5, |device| random(&[5, 300], 1, device).matmul(&random(&[300, 4], 2, device)));
        gpu.force_rung(None);
    }
}

#[test]
fn every_element_of_every_result_is_written() {
    let Some((device, gpu)) = own(&GpuOptions::default()) else { return };
    let results = |device: &Device| {
        let x = random(&[37, 41], 1, device);
        let ids = Ids::new([3, 36, Ids::IGNORED, 0], [4], 37).unwrap();
        let column = Ids::new(vec![1; 37], [37], 41).unwrap();
        vec![
            x.exp(),
            x.sum(0),
            x.max(1),
            Tensor::concat(&[&x, &x], 1),
            x.embedding(&ids),
            x.narrow(0, 0, 4).scatter_rows(&ids, 37),
            x.softmax(1),
            attention(&x, &x, &x, &Mask::causal(), 0.1, 0.0),
            x.layer_norm(None, None, 1e-5),
            x.cross_entropy_rows(&column),
            Tensor::recurrence(&x, &x),
            x.sort(1, false).0,
            x.matmul(&x.t()),
        ]
    };
    let clean = results(&device);
    // What the kernels above released comes back, full of NaN.
    gpu.poison_new_buffers(true);
    for (at, (found, expected)) in results(&device).iter().zip(&clean).enumerate() {
        assert_eq!(found.to_vec(), expected.to_vec(), "result {at}");
    }
}

#[test]
fn a_buffer_used_again_does_not_change_what_was_recorded_before() {
    let Some((device, _gpu)) = own(&GpuOptions::default()) else { return };
    // Below and above the size that goes through the staging buffer.
    for size in [100, 400_000] {
        let results: Vec<Tensor> = (0..5)
            .map(|value| {
                let x = Tensor::new(&vec![value as f32; size], [size], &device);
                // `x` returns to the pool before anything was submitted, and the next upload takes it.
                &x + 0.5
            })
            .collect();
        for (value, result) in results.iter().enumerate() {
            assert!(result.to_vec().iter().all(|&x| x == value as f32 + 0.5), "{value} of {size}");
        }
    }
}

#[test]
fn many_threads_share_a_device() {
    let Some(device) = common::gpu() else { return };
    let work = |seed: u64| {
        let x = random(&[40, 30], seed, &device);
        (0..30).fold(x, |x, _| (&x * 0.5).softmax(-1) + &x).to_vec()
    };
    let alone: Vec<Vec<f32>> = (0..4).map(work).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|seed| scope.spawn(move || work(seed))).collect();
        for (thread, expected) in threads.into_iter().zip(&alone) {
            assert_eq!(&thread.join().unwrap(), expected);
        }
    });
}

#[test]
fn a_second_run_gives_the_same_bits() {
    let Some(device) = common::gpu() else { return };
    let run = || {
        let (x, w) = (random(&[70, 65], 1, &device).tracked(), random(&[33, 65], 2, &device).tracked());
        let gradients = x.linear(&w, None).softmax(-1).square().sum(..).backward();
        [gradients.of(&x).unwrap().to_vec(), gradients.of(&w).unwrap().to_vec()].concat()
    };
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(run()), bits(run()));
}

#[test]
fn functions_hold_for_large_small_and_special_numbers() {
    let Some(device) = common::gpu() else { return };
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let values = [
        0.0, -0.0, 1e-6, -1e-6, 0.3, -0.3, 9.0, -9.0, 50.0, -50.0, 88.0, -100.0, 1e4, -1e4, 3e38, inf, -inf,
        nan,
    ];
    type Op = (&'static str, fn(&Tensor) -> Tensor);
    let ops: [Op; 22] = [
        ("exp", |x| x.exp()),
        ("expm1", |x| x.expm1()),
        ("log", |x| x.log()),
        ("log1p", |x| x.log1p()),
        ("sqrt", |x| x.sqrt()),
        ("tanh", |x| x.tanh()),
        ("sigmoid", |x| x.sigmoid()),
        ("erf", |x| x.erf()),
        ("gelu_tanh", |x| (x * 0.01).gelu_tanh()),
        ("softplus", |x| x.softplus()),
        ("abs", |x| x.abs()),
        ("sign", |x| x.sign()),
        ("floor", |x| x.floor()),
        ("round", |x| x.round()),
        ("is_nan", |x| x.is_nan()),
        ("maximum", |x| x.maximum(&x.flip(0))),
        ("minimum", |x| x.minimum(&x.flip(0))),
        ("lt", |x| x.lt(&x.flip(0))),
        ("eq", |x| x.eq(x)),
        ("pow of 3.5", |x| x.powf(3.5)),
        ("pow of -5", |x| x.powf(-5.0)),
        ("2 to the power", |x| Tensor::full(-2.0, [], &x.device()).pow(&x.round())),
    ];
    for (name, op) in ops {
        let run = |device: &Device| op(&Tensor::new(&values, [values.len()], device)).to_f64();
        let (found, expected) = (run(&device), run(&Device::Reference));
        for ((&x, &found), &expected) in values.iter().zip(&found).zip(&expected) {
            let expected = f64::from(expected as f32);
            let same = found == expected || (found.is_nan() && expected.is_nan());
            // Numbers below the normal ones may be flushed to zero.
            let near = (found - expected).abs() <= 1e-5 * expected.abs() + 1.2e-38;
            assert!(same || near, "{name} of {x} is {found}, should be {expected}");
        }
    }
}

#[test]
fn a_masked_row_is_even_and_finite() {
    let Some(device) = common::gpu() else { return };
    let masked = Tensor::full(engrad::ops::attention::MASKED, [3, 5], &device);
    assert_eq!(masked.softmax(-1).to_vec(), [0.2; 15]);
    let x = Tensor::new(&[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 0.0], [1, 4], &device);
    assert_eq!(x.softmax(-1).to_vec(), [0.0, 0.5, 0.0, 0.5]);
}

/// A small network with every kind of kernel a training step has.
struct Network {
    table: Param,
    hidden: Linear,
    head: Linear,
}

impl Module for Network {
    fn walk(&self, at: &mut Walker<'_>) {
        at.param("table", &self.table);
        at.child("hidden", &self.hidden);
        at.child("head", &self.head);
    }
}

impl Network {
    fn new(device: &Device) -> Network {
        let mut rng = Rng::seeded(3);
        let table = Param::new(&Tensor::normal(0.5, [11, 8], &mut rng, device));
        let [hidden, head] =
            [(8, 16), (16, 3)].map(|(from, to)| Linear::new(from, to, 0.3, &mut rng, device));
        Network { table, hidden, head }
    }

    fn loss(&self, step: u32) -> Tensor {
        let tokens = Ids::new((0..12).map(|at| (at * 5 + step) % 11).collect::<Vec<_>>(), [12], 11).unwrap();
        let classes =
            Ids::new((0..12).map(|at| (at * 5 + step) % 11 % 3).collect::<Vec<_>>(), [12], 3).unwrap();
        let x = self.table.value().embedding(&tokens).layer_norm(None, None, 1e-5);
        self.head.forward(&self.hidden.forward(&x).gelu().dropout(0.1)).cross_entropy(&classes)
    }
}

#[test]
fn a_thousand_training_steps_leave_memory_and_pipelines_as_they_were_after_ten() {
    let Some((device, gpu)) = own(&GpuOptions::default()) else { return };
    let network = Network::new(&device);
    let mut trainer =
        Trainer::new(&network, AdamW::default(), Schedule::linear(0.01, 20, 1000)).seeded(1).clipped(1.0);
    let mut state = None;
    let mut losses = Vec::new();
    for step in 0..1000 {
        losses.push(trainer.step(|| network.loss(step)).unwrap().loss);
        if step == 10 {
            state = Some((gpu.pool_statistics(), gpu.pipelines()));
        }
    }
    assert_eq!(Some((gpu.pool_statistics(), gpu.pipelines())), state);
    assert!(losses[999] < 0.2 * losses[0], "{} to {}", losses[0], losses[999]);
}

#[test]
fn training_follows_the_reference() {
    let Some(device) = common::gpu() else { return };
    let curve = |device: &Device| {
        let network = Network::new(device);
        let mut trainer = Trainer::new(&network, AdamW::default(), Schedule::constant(0.01)).seeded(1);
        (0..50).map(|step| trainer.step(|| network.loss(step)).unwrap().loss).collect::<Vec<_>>()
    };
    compare(&curve(&device), &curve(&Device::Reference), 1e-3).unwrap();
}

#[test]
fn a_lost_device_is_an_error_where_the_host_waits_and_a_new_one_goes_on() {
    let Some((device, gpu)) = own(&GpuOptions::default()) else { return };
    let network = Network::new(&device);
    let mut trainer = Trainer::new(&network, AdamW::default(), Schedule::constant(0.01)).clipped(1.0);
    trainer.step(|| network.loss(0)).unwrap();
    let before = random(&[4], 1, &device) + 1.0;
    gpu.destroy();
    let after = random(&[4], 1, &device) + 1.0;
    let lost = |result: engrad::Result<()>| {
        let Err(Error::Device(what)) = result else { panic!("{result:?}") };
        assert!(what.contains("lost") && what.contains("open a new device"), "{what}");
    };
    lost(before.read().map(drop));
    lost(after.read().map(drop));
    lost(after.sum(..).read_item().map(drop));
    lost(after.read_argmax(0).map(drop));
    lost(after.read_argsort(0, true).map(drop));
    lost(device.synchronise());
    lost(trainer.step(|| network.loss(1)).map(drop));
    let folder = tempfile::tempdir().unwrap();
    lost(engrad::nn::files::save(folder.path().join("lost.safetensors"), &network));
    assert!(before.to_string().contains("lost"), "printing says so too");

    let (fresh, _gpu) = own(&GpuOptions::default()).unwrap();
    let network = Network::new(&fresh);
    let mut trainer = Trainer::new(&network, AdamW::default(), Schedule::constant(0.01));
    assert!(trainer.step(|| network.loss(0)).is_ok());
}

#[test]
fn what_does_not_fit_is_an_error_where_it_is_read_and_the_device_goes_on() {
    let Some((device, _gpu)) = own(&GpuOptions::default()) else { return };
    // 64 TiB from four bytes: broadcasting costs nothing until somebody wants it dense.
    let huge = Tensor::ones([1 << 22, 1 << 22], &device) + 1.0;
    let from_it = (huge.narrow(0, 0, 1).narrow(1, 0, 5) * 2.0).exp();
    for result in [huge.read(), from_it.read()] {
        let Err(Error::Device(what)) = result else { panic!("{:?}", result.map(|x| x.len())) };
        assert!(what.contains("out of memory"), "{what}");
    }
    assert_eq!((Tensor::ones([3], &device) + 1.0).to_vec(), [2.0; 3]);
    device.synchronise().unwrap();
}
