//! Attention in one kernel is attention by its formula: over keys in two parts it is composed of products
//! and a softmax, and both must give the same, gradients and dropout included.

mod common;

use common::{compare, largest, on_every_device, random, test_on};
use engrad::{Device, Mask, Tensor, attention, attention_over, training};

/// Result and gradients by queries, keys and values.
fn outcome(inputs: &[Tensor], call: impl Fn(&[Tensor]) -> Tensor) -> Vec<Vec<f64>> {
    let leaves: Vec<Tensor> = inputs.iter().map(Tensor::tracked).collect();
    let output = training(11, || call(&leaves));
    let value = output.to_f64();
    let g = random(output.sizes(), 5, &output.device());
    let gradients = output.backward_with(g);
    let of = |leaf| gradients.of(leaf).expect("each input has a gradient").to_f64();
    std::iter::once(value).chain(leaves.iter().map(of)).collect()
}

/// Sizes of queries, keys and values: short, past one block, a single query, fewer heads of keys.
const SIZES: [[[usize; 4]; 3]; 4] = [
    [[2, 3, 4, 5], [2, 3, 6, 5], [2, 3, 6, 7]],
    [[2, 2, 130, 33], [2, 2, 131, 33], [2, 2, 131, 65]],
    [[2, 2, 1, 8], [2, 2, 70, 8], [2, 2, 70, 8]],
    [[2, 4, 66, 8], [2, 2, 66, 8], [2, 2, 66, 8]],
];

fn masks(queries: usize, keys: usize, device: &Device) -> Vec<(&'static str, Mask)> {
    let spans = [1..keys - 1, keys / 2..keys];
    let waves = Tensor::arange(queries, device).unsqueeze(1) + 0.3 * Tensor::arange(keys, device);
    vec![
        ("full", Mask::full()),
        ("causal", Mask::causal_after(keys - queries)),
        ("causal without a past", Mask::causal()),
        ("padding", Mask::lengths(&[keys, keys / 2], keys, device).expect("lengths within the time")),
        ("spans", Mask::spans(&spans, keys, device)),
        ("spans, and nothing before", Mask::spans(&spans, keys, device).and_causal()),
        ("a bias", Mask::full().with_bias(&waves.sin())),
        ("a bias, causal", Mask::causal_after(keys - queries).with_bias(&waves.sin())),
        ("kept keys", Mask::keep(&waves.sin().gt(&Tensor::full(0.3, [], device)))),
        ("kept keys, causal", Mask::keep(&waves.sin().gt(&Tensor::full(0.3, [], device))).and_causal()),
    ]
}

on_every_device! {
    fn one_kernel_computes_what_products_and_a_softmax_do(device) {
        let tolerance = if *device == Device::Reference { 1e-12 } else { 2e-5 };
        for sizes in SIZES {
            let inputs: Vec<Tensor> = (0..3).map(|at| random(&sizes[at], at as u64, device)).collect();
            let (queries, keys) = (sizes[0][2], sizes[1][2]);
            for (name, mask) in masks(queries, keys, device) {
                for dropout in [0.0, 0.4] {
                    let fused = outcome(&inputs, |x| attention(&x[0], &x[1], &x[2], &mask, 0.4, dropout));
                    let composed = outcome(&inputs, |x| {
                        let part = |from, count| (x[1].narrow(2, from, count), x[2].narrow(2, from, count));
                        let parts = [part(0, keys / 3), part(keys / 3, keys - keys / 3)];
                        attention_over(&x[0], &parts, &mask, 0.4, dropout)
                    });
                    for (at, (found, expected)) in fused.iter().zip(&composed).enumerate() {
                        compare(found, expected, tolerance * largest(expected).max(1.0)).unwrap_or_else(|what| {
                            panic!("{name}, dropout {dropout}, {sizes:?}, number {at}: {what}")
                        });
                    }
                }
            }
        }
    }
}

on_every_device! {
    fn a_bias_of_fewer_axes_is_the_same_for_all_rows_and_heads(device) {
        for sizes in SIZES {
            let inputs: Vec<Tensor> = (0..3).map(|at| random(&sizes[at], at as u64, device)).collect();
            let [_, heads, queries, _] = sizes[0];
            let bias = random(&[heads, queries, sizes[1][2]], 3, device);
            for short in [bias.clone(), bias.select(0, 0), bias.narrow(0, 0, 1)] {
                let front = vec![1; 4 - short.ndim()];
                let long = short.reshape([&front[..], short.sizes()].concat());
                let [found, expected] = [short, long].map(|bias| {
                    let mask = Mask::causal().with_bias(&bias);
                    outcome(&inputs, |x| attention(&x[0], &x[1], &x[2], &mask, 0.4, 0.0))
                });
                assert_eq!(found, expected, "{sizes:?}");
            }
        }
    }
}

#[test]
fn attention_is_one_kernel_forward_and_one_back() {
    let x = random(&[2, 2, 70, 8], 1, &Device::Cpu).tracked();
    let (gradients, counts) =
        engrad::device::counted(|| attention(&x, &x, &x, &Mask::causal(), 0.4, 0.0).sum(..).backward());
    assert!(gradients.of(&x).is_some());
    let runs = |name| counts.get(name).map_or(0, |count| count.runs);
    assert_eq!((runs("attention"), runs("attention_grad"), runs("matmul"), runs("softmax")), (1, 1, 0, 0));
}
