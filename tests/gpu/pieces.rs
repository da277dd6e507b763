//! What outgrows a binding or takes too long at once is computed in pieces; what cannot be is an error.

use engrad::device::gpu::{Gpu, GpuOptions};
use engrad::{Device, Ids, Mask, Tensor, attention, training};

use super::common::{self, random};
use super::{agrees, own};

/// How many dispatches `body` records. What it poisons is uploaded, and counts for nothing.
fn dispatches(gpu: &Gpu, body: impl FnOnce()) -> u64 {
    let before = gpu.dispatches();
    body();
    gpu.dispatches() - before
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
fn views_that_exceed_a_binding_are_computed_in_pieces() {
    let limited = GpuOptions { binding_limit: Some(1 << 16), ..GpuOptions::default() };
    let Some((device, gpu)) = own(&limited) else { return };
    gpu.poison_new_buffers(true);
    let x = |sizes: &'static [usize]| move |device: &Device| random(sizes, 1, device);
    let (wide, deep) = (x(&[150, 170]), x(&[1, 40, 20, 30]));
    // One view, both inputs, every second column, backwards.
    agrees(&device, 1e-6, |device| wide(device).t().exp() + random(&[150], 2, device));
    agrees(&device, 1e-6, |device| wide(device).t() * random(&[150, 170], 2, device).t());
    agrees(&device, 1e-6, |device| x(&[200, 170])(device).flip(1).slice(1, 0..170, 2) + 1.0);
    // Reductions whose halves would not be dense, or whose result is larger than what is read.
    agrees(&device, 1e-5, |device| deep(device).transpose(1, 2).sum(-1));
    agrees(&device, 0.0, |device| deep(device).transpose(1, 2).max(1));
    let long = dispatches(&gpu, || {
        agrees(&device, 1e-5, |device| random(&[300], 2, device).expand([20_000, 300]).sum(-1));
    });
    assert!(long < 30, "{long} dispatches: the terms were cut instead of the result");
    agrees(&device, 1e-5, |device| random(&[2, 1, 30, 40], 2, device).expand([2, 9, 30, 40]).sum(2));
    // Joined rows of more than a binding, and of more than a 64th of one.
    agrees(&device, 0.0, |device| Tensor::concat(&[&x(&[3, 9000])(device), &x(&[3, 8001])(device)], 1));
    agrees(&device, 0.0, |device| Tensor::concat(&[&x(&[40, 300])(device), &x(&[40, 301])(device)], 1));
    let ids = common::table::ids(&[200], 301);
    agrees(&device, 1e-6, |device| x(&[200, 207])(device).scatter_rows(&ids, 301));
}

/// Sizes of `a`, `b` and what is added.
const PRODUCTS: &[[&[usize]; 3]] = &[
    [&[1, 20_000], &[20_000, 1], &[1]],
    [&[1, 5], &[5, 20_000], &[20_000]],
    [&[20_000, 5], &[5, 1], &[1]],
    [&[150, 3], &[3, 170], &[150, 170]],
    // Batches that behave as no single axis are copied, and the copy is larger.
    [&[2, 1, 4, 40, 50], &[2, 3, 4, 50, 2], &[2]],
];

#[test]
fn products_of_every_shape_are_cut_along_the_axis_that_reaches_furthest() {
    let limited = GpuOptions { binding_limit: Some(1 << 16), ..GpuOptions::default() };
    let Some((device, gpu)) = own(&limited) else { return };
    gpu.poison_new_buffers(true);
    for &[a, b, add] in PRODUCTS {
        for ways in 0..8 {
            let operand = |sizes: &[usize], seed, way: usize, device: &Device| match sizes {
                [batch @ .., rows, columns] if ways & way > 0 => {
                    random(&[batch, &[*columns, *rows]].concat(), seed, device).t()
                }
                _ => random(sizes, seed, device),
            };
            let pieces = dispatches(&gpu, || {
                agrees(&device, 1e-5, |device| {
                    let a = operand(a, 1, 1, device).expand([&b[..b.len() - 2], &a[a.len() - 2..]].concat());
                    operand(add, 3, 4, device).add_matmul(&a, &operand(b, 2, 2, device), 0.5)
                });
            });
            assert!(pieces < 30, "{pieces} dispatches for {a:?} {b:?}, ways {ways}");
        }
    }
}

#[test]
fn what_cannot_be_cut_is_an_error_that_names_the_limit() {
    let limited = GpuOptions { binding_limit: Some(1 << 16), ..GpuOptions::default() };
    let Some((device, _gpu)) = own(&limited) else { return };
    let error = random(&[2, 20_000], 1, &device).softmax(-1).read().unwrap_err().to_string();
    assert!(error.contains("too wide"), "{error}");
    let x = random(&[300, 60], 1, &device);
    let error = attention(&x, &x, &x, &Mask::full(), 0.1, 0.0).read().unwrap_err().to_string();
    assert!(error.contains("65536"), "{error}");
    assert_eq!((Tensor::ones([3], &device) + 1.0).to_vec(), [2.0; 3], "the device goes on");
}

#[test]
fn more_terms_than_shaders_count_are_summed() {
    let Some(device) = common::gpu() else { return };
    // A broadcast view: 2³² + 2¹⁶ elements in the room of one.
    let x = Tensor::full(2.0, [65_537, 65_536], &device);
    let expected = 2.0 * 65_537.0 * 65_536.0;
    let total = x.sum(..).item();
    assert!((total / expected - 1.0).abs() < 1e-5, "{total} should be {expected}");
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
        let pieces = dispatches(&gpu, || agrees(&device, 1e-5, product));
        assert!(
            pieces >= least && (least > 1 || pieces < 10),
            "{pieces} dispatches for {batch} x {m} x {n} x {k}"
        );
    }
    // One dispatch forward and two back, each for one of a batch of six alone.
    let both_ways = |device: &Device| {
        let [q, k, v] = [1, 2, 3].map(|seed| random(&[6, 40, 8], seed, device).tracked());
        let seen = training(3, || attention(&q, &k, &v, &Mask::causal(), 0.2, 0.3));
        let gradients = seen.tanh().sum(..).backward();
        Tensor::concat(&[&q, &k, &v].map(|x| gradients.of(x).unwrap()), 0)
    };
    let (free, unlimited) = own(&GpuOptions::default()).expect("as the first one");
    let whole = dispatches(&unlimited, || drop(both_ways(&free)));
    let pieces = dispatches(&gpu, || drop(both_ways(&device)));
    assert_eq!(pieces - whole, 3 * 5);
    agrees(&device, 1e-5, both_ways);
}

#[test]
fn a_large_vocabulary_is_looked_up_and_scored_through_small_bindings() {
    // GPT-2's 50,257 words at width 64 are 12.9 MB; its own width 768 makes 154 MB of them, more than
    // the 128 MiB that every adapter binds. A twelfth of both keeps the test short.
    const WORDS: usize = 50_257;
    let limited = GpuOptions { binding_limit: Some((128 << 20) / 12), ..GpuOptions::default() };
    let Some((device, gpu)) = own(&limited) else { return };
    let tokens = Ids::new([0, 50_256, 31_337, 41_942, 41_943, Ids::IGNORED], [6], WORDS).unwrap();
    let run = |device: &Device| {
        let table = (random(&[WORDS, 64], 1, device) * 0.1).tracked();
        let hidden = table.embedding(&tokens);
        let loss = hidden.linear(&table, None).cross_entropy(&tokens);
        let value = loss.detach().reshape([1]);
        Tensor::concat(&[&value, &loss.backward().of(&table).unwrap().flatten(0, 1)], 0)
    };
    let pieces = dispatches(&gpu, || agrees(&device, 1e-5, run));
    assert!(pieces > 15, "{pieces} dispatches: the table was not cut");
}
