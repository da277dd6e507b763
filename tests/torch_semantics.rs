//! Corners of PyTorch's semantics that golden values found wrong here, each under its own name.
//! Read next: `golden.rs`, which found them.

mod common;

use std::panic::catch_unwind;

use engrad::{Device, Ids, Mask, Tensor, attention};

fn gradient(x: &Tensor, f: impl Fn(&Tensor) -> Tensor) -> Vec<f32> {
    let leaf = x.tracked();
    f(&leaf).sum(..).backward().of(&leaf).expect("the result depends on x").to_vec()
}

fn row(values: &[f32], device: &Device) -> Tensor {
    Tensor::new(values, [values.len()], device)
}

#[test]
fn clamp_passes_no_gradient_at_its_limits() {
    for device in common::devices() {
        let x = row(&[-0.5, 0.0, 0.5, 0.75], &device);
        assert_eq!(gradient(&x, |x| x.clamp(-0.5, 0.5)), [0.0, 1.0, 0.0, 0.0], "{device}");
    }
}

#[test]
fn log_softmax_of_huge_equal_elements_is_still_uniform() {
    for device in common::devices() {
        let y = Tensor::full(1e30, [4], &device).log_softmax(0).to_vec();
        assert!(y.iter().all(|y| (y + 4f32.ln()).abs() < 1e-6), "{y:?} on {device}");
    }
}

#[test]
fn logsumexp_pulls_by_the_exponential_of_the_difference_to_its_result() {
    for device in common::devices() {
        // 1e30 + ln 4 is 1e30, so each element is as large as the result, as PyTorch has it.
        let x = Tensor::full(1e30, [4], &device);
        assert_eq!(gradient(&x, |x| x.logsumexp(0)), [1.0; 4], "{device}");
    }
}

#[test]
fn a_query_that_may_look_nowhere_sees_zeros_and_passes_no_gradient() {
    for device in common::devices() {
        let keep = Tensor::new(&[0.0, 0.0, 1.0, 1.0], [2, 2], &device);
        let x = Tensor::new(&[1.0, 2.0, 3.0, 4.0], [2, 2], &device);
        let seen = |v: &Tensor| attention(&x, &x, v, &Mask::keep(&keep), 1.0, 0.0);
        assert_eq!(seen(&x).to_vec()[..2], [0.0, 0.0], "{device}");
        // The weights of the other query add up to one for each of two columns.
        assert!((gradient(&x, seen).iter().sum::<f32>() - 2.0).abs() < 1e-6, "{device}");
    }
}

#[test]
fn cosine_similarity_measures_vectors_after_broadcasting() {
    for device in common::devices() {
        let a = Tensor::new(&[3.0, 4.0], [1, 2], &device);
        let b = Tensor::new(&[1.0, 0.0, 0.0, 1.0], [2, 2], &device);
        let along_the_repeated_axis = a.cosine_similarity(&b, 0, 1e-8).to_vec();
        assert!(along_the_repeated_axis.iter().all(|cos| (cos - 0.5f32.sqrt()).abs() < 1e-6), "{device}");
    }
}

#[test]
fn scalars_can_be_indexed_as_if_they_had_one_axis() {
    let first = Ids::new([0], [1], 1).expect("0 lies below 1");
    for device in common::devices() {
        let x = Tensor::full(2.0, [], &device);
        assert_eq!((x.index_select(0, &first).sizes(), x.index_select(0, &first).item()), (&[][..], 2.0));
        assert_eq!((x.index_add(0, &first, &x).sizes(), x.index_add(0, &first, &x).item()), (&[][..], 4.0));
    }
}

#[test]
fn a_negative_id_is_refused_unless_it_is_the_ignored_one() {
    assert!(Ids::signed(&[0, -1], [2], 7, None).is_err());
    let ids = Ids::signed(&[0, -100], [2], 7, Some(-100)).expect("-100 is ignored");
    assert_eq!(ids.values(), [0, Ids::IGNORED]);
}

#[test]
fn stack_names_itself_and_the_sizes_that_differ() {
    let refused = catch_unwind(|| {
        let parts = [2, 3].map(|size| Tensor::zeros([size], &Device::Cpu));
        Tensor::stack(&[&parts[0], &parts[1]], 0)
    });
    let message = refused.err().and_then(|panic| panic.downcast::<String>().ok()).expect("a refusal");
    assert_eq!(*message, "stack: [2] beside [3]");
}

#[test]
fn a_strided_tensor_never_reads_outside_of_its_view() {
    use engrad::layout::Layout;
    for device in common::devices() {
        let values = [f64::NAN, 1.0, f64::NAN, 2.0, f64::NAN];
        let x = Tensor::from_strided(&values, Layout::strided(vec![2], vec![2], 1), &device);
        assert_eq!((&x * &x).to_vec(), [1.0, 4.0], "{device}");
        let outside = Layout::strided(vec![2], vec![4], 1);
        assert!(catch_unwind(|| Tensor::from_strided(&values, outside.clone(), &device)).is_err());
    }
}
