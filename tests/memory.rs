//! What the history of a computation holds, read off the CPU's pool. The pool is one for the
//! process, so these tests take turns and live in a file of their own.

use std::sync::{Mutex, MutexGuard, PoisonError};

use engrad::device::cpu::{forget_peak, pool_statistics};
use engrad::nn::Param;
use engrad::optim::{AdamW, Optimizer};
use engrad::{Device, Mask, Rng, Tensor, attention, attention_over, inference};

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes of one matrix: large enough for the pool to count it.
const BYTES: u64 = 128 * 128 * 4;

fn matrix(seed: u64) -> Tensor {
    Tensor::normal(0.1, [128, 128], &mut Rng::seeded(seed), &Device::Cpu)
}

/// Matrices that are alive after `body`, beside those before.
fn kept<R>(body: impl FnOnce() -> R) -> (R, u64) {
    let before = pool_statistics().used;
    let result = body();
    (result, (pool_statistics().used - before) / BYTES)
}

#[test]
fn a_frozen_weight_keeps_no_activation() {
    let _turn = turn();
    let (x, weight) = (matrix(1).tracked(), matrix(2));
    let input = &x + 1.0;
    // The input is only needed for the gradient of a tracked weight.
    let (frozen, saved) = kept(|| (&input * 2.0).linear(&weight, None));
    assert_eq!(saved, 1, "the product alone");
    drop(frozen);
    let tracked = weight.tracked();
    let (_product, saved) = kept(|| (&input * 2.0).linear(&tracked, None));
    assert_eq!(saved, 2, "the product and the input of the weight's gradient");
}

#[test]
fn an_elementwise_op_keeps_only_what_its_slope_reads() {
    let _turn = turn();
    let x = matrix(3).tracked();
    // The slope of a sum reads nothing, that of a scaling neither.
    let (_sum, saved) = kept(|| ((&x + &x) * 3.0).sum(..));
    assert_eq!(saved, 0);
    let (_root, saved) = kept(|| (&x * 2.0).exp().sum(..));
    assert_eq!(saved, 1, "the argument of exp");
}

#[test]
fn inference_keeps_nothing_but_the_result() {
    let _turn = turn();
    let (x, weight) = (matrix(4).tracked(), matrix(5).tracked());
    let layers = |x: &Tensor| (0..5).fold(x.clone(), |x, _| x.linear(&weight, None).tanh());
    let (_result, saved) = kept(|| inference(|| layers(&x)));
    assert_eq!(saved, 1);
    let (_result, saved) = kept(|| layers(&x));
    assert!(saved >= 10, "with history: {saved}");
}

#[test]
fn a_view_holds_no_copy() {
    let _turn = turn();
    let x = matrix(6);
    let (_views, saved) =
        kept(|| (x.t(), x.flip(0), x.slice(1, 0..128, 3), x.expand([50, 128, 128]), x.reshape([16384])));
    assert_eq!(saved, 0);
    let (_constants, saved) = kept(|| Tensor::zeros([1000, 1000], &Device::Cpu));
    assert_eq!(saved, 0, "a constant takes the room of one element");
}

#[test]
fn backward_frees_activations_as_it_goes() {
    let _turn = turn();
    let x = matrix(7).tracked();
    let layers = 40;
    // The slope of each layer says how much is alive while it is computed.
    let seen = std::sync::Arc::new(Mutex::new(Vec::new()));
    let note = seen.clone();
    let probe = |y: &Tensor| {
        let note = note.clone();
        let pull = engrad::edge(y, [], move |g, []| {
            note.lock().unwrap().push(pool_statistics().used / BYTES);
            g.clone()
        });
        Tensor::from_op("probe", y.array().clone(), [pull])
    };
    let loss = (0..layers).fold(x.clone(), |y, _| probe(&y.tanh())).sum(..);
    loss.backward();
    let alive = seen.lock().unwrap().clone();
    assert_eq!(alive.len(), layers);
    let (first, last) = (alive[0], alive[layers - 1]);
    assert!(first >= last + layers as u64 - 3, "{first} activations at first and {last} at last");
    assert!(alive.windows(2).all(|pair| pair[1] <= pair[0]), "{alive:?}");
}

#[test]
fn dropping_a_history_gives_everything_back() {
    let _turn = turn();
    let before = pool_statistics().used;
    {
        let x = matrix(8).tracked();
        let y = (0..10).fold(x.clone(), |y, _| y.exp().tanh());
        let gradients = y.sum(..).backward();
        assert!(gradients.of(&x).is_some());
    }
    assert_eq!(pool_statistics().used, before);
}

#[test]
fn the_pool_stays_near_the_peak_of_use() {
    let _turn = turn();
    for size in [5000, 70_000, 6000, 1 << 20, 5001, 300_000] {
        let x = Tensor::full(1.0, [size], &Device::Cpu) + 1.0;
        let _y = &x + &x;
        let now = pool_statistics();
        assert!(now.used + now.pooled <= now.peak + now.peak / 4, "{now:?}");
    }
    let now = pool_statistics();
    assert!(now.used + now.pooled <= now.peak + now.peak / 4, "{now:?}");
}

#[test]
fn a_second_step_takes_its_buffers_from_the_pool() {
    let _turn = turn();
    let (x, weight) = (matrix(9), matrix(10).tracked());
    let step = || x.linear(&weight, None).gelu().sum(..).backward();
    // One part of a step wants four buffers, another two of them and a smaller one.
    let (large, small) = (matrix(11), matrix(12).narrow(0, 0, 80).contiguous());
    let parts = || {
        let _four = [(); 4].map(|()| &large + 1.0);
        drop(_four);
        let _three = [&large + 1.0, &large + 2.0, &small + 1.0];
    };
    forget_peak();
    for work in [&(|| drop(step())) as &dyn Fn(), &parts] {
        work();
        let before = pool_statistics();
        (0..3).for_each(|_| work());
        assert_eq!(pool_statistics(), before);
    }
}

#[test]
fn forgetting_the_peak_measures_anew_and_gives_back_what_waits() {
    let _turn = turn();
    let small = matrix(11);
    drop(Tensor::full(1.0, [1 << 22], &Device::Cpu) + 1.0);
    assert!(pool_statistics().peak >= 4 << 22);
    forget_peak();
    let now = pool_statistics();
    assert_eq!((now.peak, now.pooled), (now.used, 0));
    let _next = &small + &small;
    // A buffer has room for one cache line more, so that its elements can begin at one.
    assert_eq!(pool_statistics().peak, now.used + BYTES + 64);
}

#[test]
fn an_update_writes_where_a_value_lay_that_nobody_else_holds() {
    let _turn = turn();
    let (param, gradient) = (Param::new(&matrix(12)), matrix(13));
    let mut optimizer = AdamW::new(0.01);
    let mut update = || optimizer.update(&param, &gradient, 1e-3, 1.0);
    update();
    let held = param.value();
    let before = held.to_vec();
    let ((), more) = kept(&mut update);
    assert_eq!(more, 1, "a value that is held stays, and the new one lies elsewhere");
    assert_eq!(held.to_vec(), before);
    drop(held);
    forget_peak();
    let used = pool_statistics().used;
    update();
    assert_eq!(pool_statistics().peak, used, "value, mean and square in their own memory");
}

#[test]
fn an_op_writes_where_an_intermediate_result_lay() {
    let _turn = turn();
    let x = matrix(14);
    forget_peak();
    let used = pool_statistics().used;
    let y = (&x + 1.0) * 2.0 - &x;
    assert_eq!(pool_statistics().peak, used + BYTES + 64, "room for one result");
    let expected: Vec<f32> = x.to_vec().iter().map(|x| (x + 1.0) * 2.0 - x).collect();
    assert_eq!(y.to_vec(), expected);
}

/// The most bytes in use at once, beyond those before, while attention goes forward and back.
fn attention_peak(time: usize, attend: impl Fn(&Tensor, &Tensor, &Tensor) -> Tensor) -> u64 {
    let input = |seed| Tensor::normal(1.0, [2, 4, time, 16], &mut Rng::seeded(seed), &Device::Cpu).tracked();
    let (q, k, v) = (input(1), input(2), input(3));
    forget_peak();
    let before = pool_statistics().used;
    let gradients = attend(&q, &k, &v).sum(..).backward();
    assert!(gradients.of(&k).is_some());
    pool_statistics().peak - before
}

#[test]
fn the_memory_of_attention_grows_linearly_in_time() {
    let _turn = turn();
    let fused = |q: &Tensor, k: &Tensor, v: &Tensor| attention(q, k, v, &Mask::causal(), 0.25, 0.0);
    // Over keys in two parts, all weights are stored.
    let composed = |q: &Tensor, k: &Tensor, v: &Tensor| {
        let half = |at| {
            (k.narrow(2, at * k.size(2) / 2, k.size(2) / 2), v.narrow(2, at * v.size(2) / 2, v.size(2) / 2))
        };
        attention_over(q, &[half(0), half(1)], &Mask::causal(), 0.25, 0.0)
    };
    let [short, long] = [256, 1024].map(|time| attention_peak(time, fused));
    assert!(long <= 4 * short + short / 8, "four times the time, and {short} bytes become {long}");
    let [short, long] = [256, 1024].map(|time| attention_peak(time, composed));
    assert!(long >= 12 * short, "every weight is stored, and {short} bytes become {long}");
}
