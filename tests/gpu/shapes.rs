//! Grids of more workgroups than one axis holds, every form of a kernel, and numbers at the edges.

use engrad::device::gpu::{GpuOptions, Rung, Sharing};
use engrad::{Device, Tensor};

use super::common::{self, compare, largest, random};
use super::{agrees, own};

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
