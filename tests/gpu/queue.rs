//! Work is recorded and goes off later: its order, its buffers, and who else records.

use engrad::device::gpu::GpuOptions;
use engrad::{Device, Tensor};

use super::common::{self, random};
use super::own;

#[test]
fn a_device_is_shared_while_it_is_held() {
    let Some(device) = common::gpu() else { return };
    assert_eq!(Device::gpu().unwrap(), device);
    assert_eq!("gpu".parse::<Device>().unwrap().to_string(), "gpu");
    let (other, _) = own(&GpuOptions::default()).unwrap();
    assert_ne!(other, device);
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
