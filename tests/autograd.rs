//! The engine that walks histories back: what it sums, what it keeps, what it leaves out.

mod common;

use common::{close, on_every_device, random, test_on};
use engrad::device::counted;
use engrad::{Device, Gradcheck, Tensor, edge, elementwise, gradcheck, inference, recomputed, training};

/// How many matrix products `body` gives to a device.
fn products<R>(body: impl FnOnce() -> R) -> u64 {
    counted(body).1.get("matmul").map_or(0, |count| count.runs)
}

/// How many kernels of any kind.
fn kernels<R>(body: impl FnOnce() -> R) -> u64 {
    counted(body).1.values().map(|count| count.runs).sum()
}

/// Runs `body` on a thread whose stack is far too small for a recursion of a hundred thousand calls.
fn on_a_small_stack(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(256 * 1024).spawn(body).expect("a thread");
    thread.join().expect("no overflow and no panic");
}

const LONG: usize = 100_000;

fn long_chain(x: &Tensor) -> Tensor {
    (0..LONG).fold(x.clone(), |y, _| y + 1.0)
}

on_every_device! {
    fn a_chain_of_a_hundred_thousand_ops_is_differentiated(device) {
        let device = device.clone();
        on_a_small_stack(move || {
            let x = random(&[3], 1, &device).tracked();
            let gradients = long_chain(&x).sum(..).backward();
            assert_eq!(gradients.of(&x).unwrap().to_vec(), [1.0; 3]);
        });
    }

    fn a_chain_of_a_hundred_thousand_ops_is_dropped(device) {
        let device = device.clone();
        on_a_small_stack(move || {
            let x = random(&[3], 1, &device).tracked();
            drop(long_chain(&x));
        });
    }

    fn a_chain_of_parts_that_are_computed_again_is_dropped(device) {
        let device = device.clone();
        on_a_small_stack(move || {
            let x = random(&[3], 1, &device).tracked();
            drop((0..LONG / 10).fold(x, |y, _| recomputed(move || &y + 1.0)));
        });
    }

    fn a_long_ladder_of_diamonds_is_walked_once_per_op(device) {
        // Each rung uses the one before twice: 2^60 ways lead back, and 60 ops.
        let x = Tensor::full(1.0, [], device).tracked();
        let y = (0..60).fold(x.clone(), |y, _| &y + &y);
        assert_eq!(y.backward().of(&x).unwrap().item(), 2f64.powi(60));
    }

    fn a_tensor_used_twice_sums_its_gradients(device) {
        let x = random(&[5], 2, device).tracked();
        let gradients = (&x * &x + &x).sum(..).backward();
        let expected: Vec<f64> = x.to_f64().iter().map(|x| 2.0 * x + 1.0).collect();
        close(gradients.of(&x).unwrap(), &expected, 1e-6);
    }

    fn one_tensor_as_both_operands_of_a_product_gets_both_gradients(device) {
        let x = random(&[4, 4], 3, device);
        gradcheck(|x| x[0].matmul(&x[0]), &[x]).unwrap();
    }

    fn broadcasting_is_undone_by_a_sum(device) {
        let (x, row) = (random(&[3, 4], 4, device).tracked(), random(&[1, 4], 5, device).tracked());
        let one = Tensor::full(2.0, [], device).tracked();
        let gradients = ((&x + &row) * &one).sum(..).backward();
        assert_eq!(gradients.of(&row).unwrap().sizes(), [1, 4]);
        close(gradients.of(&row).unwrap(), &[6.0; 4], 1e-6);
        let total: f64 = (&x + &row).to_f64().iter().sum();
        close(gradients.of(&one).unwrap(), &[total], 1e-5);
        assert_eq!(gradients.of(&one).unwrap().sizes(), [0usize; 0]);
    }

    fn a_frozen_input_has_no_edge(device) {
        let (x, frozen) = (random(&[2, 2], 6, device).tracked(), random(&[2, 2], 7, device));
        assert!(!(&frozen * &frozen).is_tracked());
        assert!(!frozen.matmul(&frozen).softmax(-1).is_tracked());
        let y = x.matmul(&frozen) + &frozen;
        assert!(y.is_tracked());
        assert_eq!(y.graph().lines().count(), 3, "{}", y.graph());
        assert_eq!(y.sum(..).backward().len(), 1);
    }

    fn a_frozen_weight_costs_no_product(device) {
        let x = random(&[6, 4], 8, device).tracked();
        let weight = random(&[5, 4], 9, device);
        for (weight, expected) in [(weight.clone(), 1), (weight.tracked(), 2)] {
            let loss = x.linear(&weight, None).sum(..);
            assert_eq!(products(|| loss.backward()), expected);
        }
        let frozen_input = x.detach();
        let loss = frozen_input.matmul(&weight.t().tracked()).sum(..);
        assert_eq!(products(|| loss.backward()), 1);
        let loss = frozen_input.matmul(&weight.t()).sum(..);
        assert_eq!(kernels(|| loss.backward()), 0);
    }

    fn the_gradient_stops_where_no_leaf_is_behind(device) {
        // Two layers below the first trained one: they are run forward only.
        let (w0, w1) = (random(&[4, 4], 10, device), random(&[4, 4], 11, device));
        let trained = random(&[4, 4], 12, device).tracked();
        let x = random(&[3, 4], 13, device);
        let loss = x.linear(&w0, None).tanh().linear(&w1, None).tanh().linear(&trained, None).sum(..);
        assert_eq!(products(|| loss.backward()), 1);
    }

    fn inference_builds_no_history(device) {
        let x = random(&[2, 2], 14, device).tracked();
        let y = inference(|| x.matmul(&x).exp() + &x);
        assert!(!y.is_tracked());
        assert!((&x + 1.0).is_tracked());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            inference(|| panic!("inside"))
        }));
        assert!(panicked.is_err());
        assert!((&x + 1.0).is_tracked(), "a panic inside must not leave recording off");
        assert!(inference(|| inference(|| 0) == 0 && !(&x + 1.0).is_tracked()));
    }

    fn detach_stops_the_gradient(device) {
        let x = random(&[3], 15, device).tracked();
        let gradients = (x.detach() * &x).sum(..).backward();
        assert_eq!(gradients.of(&x).unwrap().to_f64(), x.to_f64());
        assert!(!x.detach().is_tracked());
        assert!(x.detach().sum(..).backward().is_empty());
    }

    fn what_the_loss_does_not_depend_on_has_no_gradient(device) {
        let (x, y) = (random(&[3], 16, device).tracked(), random(&[3], 17, device).tracked());
        let gradients = x.sum(..).backward();
        assert!(gradients.of(&y).is_none());
        assert!(gradients.of(&x.detach()).is_none());
    }

    fn the_gradient_of_a_marked_result_is_kept(device) {
        let x = random(&[3], 18, device).tracked();
        let middle = &x * 2.0;
        let other = &x * 5.0;
        middle.keep_gradient();
        let gradients = (&middle * &middle + &other).sum(..).backward();
        let expected: Vec<f64> = middle.to_f64().iter().map(|m| 2.0 * m).collect();
        close(gradients.of(&middle).unwrap(), &expected, 1e-6);
        assert!(gradients.of(&other).is_none());
        assert_eq!(gradients.len(), 2);
    }

    fn backward_starts_from_a_given_gradient(device) {
        let x = random(&[2, 3], 19, device).tracked();
        let g = random(&[2, 3], 20, device);
        let gradients = (&x * 3.0).backward_with(g.clone());
        close(gradients.of(&x).unwrap(), &(g * 3.0).to_f64(), 1e-6);
    }

    fn a_leaf_is_its_own_gradient(device) {
        let x = Tensor::full(4.0, [], device).tracked();
        assert_eq!(x.clone().backward().of(&x).unwrap().item(), 1.0);
    }

    fn gradients_of_several_passes_add_up(device) {
        let (x, y) = (random(&[3], 21, device).tracked(), random(&[3], 22, device).tracked());
        let mut sum = (&x * 2.0).sum(..).backward();
        sum.add((&x * &y).sum(..).backward());
        sum.scale(0.5);
        let expected: Vec<f64> = y.to_f64().iter().map(|y| (2.0 + y) / 2.0).collect();
        close(sum.of(&x).unwrap(), &expected, 1e-6);
        let expected: Vec<f64> = x.to_f64().iter().map(|x| x / 2.0).collect();
        close(sum.of(&y).unwrap(), &expected, 1e-6);
    }

    fn a_clone_of_a_loss_is_differentiated_again(device) {
        let x = random(&[3], 23, device).tracked();
        let loss = x.exp().sum(..);
        let first = loss.clone().backward();
        let second = loss.backward();
        assert_eq!(first.of(&x).unwrap().to_f64(), second.of(&x).unwrap().to_f64());
    }

    fn dropout_acts_only_in_training(device) {
        let x = Tensor::ones([1000], device);
        assert_eq!(x.dropout(0.3).to_vec(), [1.0; 1000]);
        let dropped = training(1, || x.dropout(0.3)).to_f64();
        let zeros = dropped.iter().filter(|&&x| x == 0.0).count();
        assert!((250..350).contains(&zeros), "{zeros} of 1000");
        let kept = 1.0 / 0.7;
        assert!(dropped.iter().all(|&x| x == 0.0 || (x - kept).abs() < 1e-6));
        assert_eq!(x.dropout(0.3).to_vec(), [1.0; 1000], "training has ended");
    }

    fn a_seed_is_a_mask_and_each_call_has_its_own(device) {
        let x = Tensor::ones([200], device);
        let masks = |seed| training(seed, || [x.dropout(0.5).to_vec(), x.dropout(0.5).to_vec()]);
        let [first, second] = masks(7);
        assert_eq!(masks(7), [first.clone(), second.clone()]);
        assert_ne!(first, second);
        assert_ne!(masks(8)[0], first);
    }

    fn backward_drops_what_forward_dropped(device) {
        let x = random(&[4, 50], 24, device).tracked();
        let y = training(9, || x.dropout(0.4));
        let kept: Vec<bool> = y.to_f64().iter().map(|&y| y != 0.0).collect();
        // Outside of training, in another scope even: the mask belongs to the op.
        let gradients = training(10, || y.sum(..).backward());
        let g = gradients.of(&x).unwrap().to_f64();
        assert!(g.iter().zip(&kept).all(|(&g, &kept)| (g != 0.0) == kept));
    }

    fn a_graph_reads_as_an_indented_list(device) {
        let (x, w) = (random(&[2, 3], 25, device).tracked(), random(&[3, 4], 26, device).tracked());
        let y = x.matmul(&w).tanh();
        let text = (&y * &y).sum(..).graph();
        // Numbers differ from run to run.
        let plain: Vec<String> = text
            .lines()
            .map(|line| {
                let (name, rest) = line.split_once(" #").expect("a name and a number");
                format!("{name}{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
            })
            .collect();
        assert_eq!(plain, [
            "reshape []",
            "  sum [1, 1]",
            "    mul [2, 4]",
            "      tanh [2, 4]",
            "        matmul [2, 4]",
            "          leaf [2, 3]",
            "          leaf [3, 4]",
            "      tanh [2, 4] (as above)",
        ]);
        assert_eq!(x.detach().graph(), "");
    }

    fn a_display_names_sizes_device_and_op(device) {
        let text = random(&[3, 4], 27, device).tracked().exp().to_string();
        assert!(text.starts_with(&format!("[3, 4] on {device} from exp: [")), "{text}");
        assert!(text.ends_with(", ..]"), "{text}");
    }
}

#[test]
fn the_mask_is_equal_on_every_device() {
    // With the second seed, one of the numbers is the f32 that stands for 0.7, and smaller.
    for (seed, probability) in [(11, 0.25), (24_541, 0.7)] {
        let dropped = |device: &Device| {
            let y = training(seed, || Tensor::ones([70_000], device).dropout(probability));
            y.to_vec().iter().map(|&y| y == 0.0).collect::<Vec<bool>>()
        };
        let reference = dropped(&Device::Reference);
        for device in common::fast_devices() {
            assert!(dropped(&device) == reference, "{device}");
        }
    }
}

/// `x³` with a rule of its own, which is right only where `factor` is 3.
fn cube(x: &Tensor, factor: f64) -> Tensor {
    let value = x * x * x;
    let pull = edge(x, [x], move |g, [x]| g * x * x * factor);
    Tensor::from_op("cube", value.array().clone(), [pull])
}

#[test]
fn an_op_of_ones_own_is_checked() {
    let x = random(&[3, 2], 28, &Device::Reference);
    gradcheck(|x| cube(&x[0], 3.0), std::slice::from_ref(&x)).unwrap();
    gradcheck(|x| elementwise("mine", [&x[0]], |[x]| x * x.sigmoid() + (2.0 * x).sin()), &[x]).unwrap();
}

#[test]
fn a_wrong_gradient_is_caught_and_its_input_named() {
    let inputs = [random(&[4], 29, &Device::Reference), random(&[3, 2], 30, &Device::Reference)];
    let error = gradcheck(|x| x[0].sum(..) + cube(&x[1], 2.9), &inputs).unwrap_err().to_string();
    assert!(error.contains("input 1") && error.contains("[3, 2]"), "{error}");
}

#[test]
fn a_missing_gradient_is_caught() {
    let x = random(&[4], 31, &Device::Reference);
    let error = gradcheck(|x| x[0].detach().exp(), &[x]).unwrap_err().to_string();
    assert!(error.contains("the gradient says 0"), "{error}");
}

#[test]
fn a_gradient_that_is_not_a_number_is_caught() {
    let x = Tensor::zeros([2], &Device::Reference);
    assert!(gradcheck(|x| x[0].sqrt(), &[x]).is_err());
}

#[test]
fn the_settings_of_a_check_count() {
    let x = random(&[4], 32, &Device::Cpu);
    let lenient = Gradcheck { tolerance: 0.5, ..Gradcheck::default() };
    let worst = lenient.check(|x| cube(&x[0], 2.9), std::slice::from_ref(&x)).unwrap();
    assert!(worst > 1e-3, "{worst}");
    assert!(Gradcheck::default().check(|x| cube(&x[0], 2.9), &[x]).is_err());
}

#[test]
fn counts_name_kernels_and_nest() {
    let (a, b) = (random(&[3, 4], 33, &Device::Cpu), random(&[4, 5], 34, &Device::Cpu));
    let (inner, outer) = counted(|| {
        a.matmul(&b);
        counted(|| a.matmul(&b).exp()).1
    });
    assert_eq!(inner["matmul"].runs, 1);
    assert_eq!(outer["matmul"].runs, 2);
    assert_eq!(outer["matmul"].flops, 2 * 2 * 3 * 4 * 5);
    assert_eq!(inner["elementwise"].bytes, 2 * 4 * 15);
}
