//! The corners of ops: infinities, NaN, -0, ties, nothing and one. Each is what PyTorch gives.

mod common;

use common::{close, on_every_device, test_on};
use engrad::{Device, Ids, Tensor, elementwise, training};

const INFINITY: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;

fn row(values: &[f32], device: &Device) -> Tensor {
    Tensor::new(values, [values.len()], device)
}

/// Equality in which NaN equals NaN.
#[track_caller]
fn same(found: &Tensor, expected: &[f32]) {
    let found = found.to_vec();
    let equal = |(a, b): (&f32, &f32)| a == b || a.is_nan() && b.is_nan();
    let all = found.len() == expected.len() && found.iter().zip(expected).all(equal);
    assert!(all, "{found:?} should be {expected:?}");
}

/// The gradient of `f` at `x`, from ones.
fn slope(x: &Tensor, f: impl Fn(&Tensor) -> Tensor) -> Tensor {
    let x = x.tracked();
    let y = f(&x);
    let ones = Tensor::ones(y.sizes(), &y.device());
    y.backward_with(ones).of(&x).expect("the result depends on x").clone()
}

on_every_device! {
    fn sine_and_cosine_hold_for_every_angle(device) {
        let angles = [0.5, 2.6e8, 2.7e8, -3e8, 1e10, -1e20, f32::MAX, -0.25, INFINITY];
        let x = row(&angles, device);
        let exact = |f: fn(f64) -> f64| angles.map(|angle| f(f64::from(angle)));
        close(&x.sin(), &exact(f64::sin), 1e-6);
        close(&x.cos(), &exact(f64::cos), 1e-6);
    }

    fn the_sine_of_an_angle_does_not_depend_on_its_neighbours(device) {
        let alone = row(&[0.1, 1.7, -3.3], device);
        let beside = row(&[0.1, 1.7, -3.3, 1e20], device);
        assert_eq!(alone.sin().to_f64(), beside.sin().to_f64()[..3]);
        assert_eq!(alone.cos().to_f64(), beside.cos().to_f64()[..3]);
    }

    fn equal_elements_keep_their_order_when_sorted(device) {
        let x = row(&[2.0, 1.0, 2.0, -0.0, 1.0, 0.0], device);
        assert_eq!(x.argsort(0, false).values(), [3, 5, 1, 4, 0, 2]);
        assert_eq!(x.argsort(0, true).values(), [0, 2, 1, 4, 3, 5]);
    }

    fn nan_sorts_as_the_largest(device) {
        let x = row(&[NAN, 1.0, INFINITY, NAN, -INFINITY], device);
        assert_eq!(x.argsort(0, false).values(), [4, 1, 2, 0, 3]);
        assert_eq!(x.argsort(0, true).values(), [0, 3, 2, 1, 4]);
        assert_eq!(x.argmax(0).values(), [0]);
        assert_eq!(x.argmin(0).values(), [0]);
        assert_eq!(row(&[3.0, 7.0, 7.0], device).argmax(0).values(), [1]);
    }

    fn a_maximum_is_nan_if_an_element_is(device) {
        let x = Tensor::new(&[1.0, NAN, 3.0, 4.0, 5.0, 6.0], [2, 3], device);
        same(&x.max(1), &[NAN, 6.0]);
        same(&x.max(0), &[4.0, NAN, 6.0]);
        same(&x.min(1), &[NAN, 4.0]);
        let (a, b) = (row(&[1.0, NAN, 2.0], device), row(&[NAN, 1.0, 3.0], device));
        same(&a.maximum(&b), &[NAN, NAN, 3.0]);
        same(&a.minimum(&b), &[NAN, NAN, 2.0]);
    }

    fn equal_largest_elements_share_the_gradient(device) {
        let x = row(&[3.0, 1.0, 3.0], device);
        same(&slope(&x, |x| x.max(0)), &[0.5, 0.0, 0.5]);
        same(&slope(&x, |x| x.max_at(0).0), &[1.0, 0.0, 0.0]);
        same(&slope(&x, |x| x.maximum(&row(&[3.0, 3.0, 0.0], device))), &[0.5, 0.0, 1.0]);
    }

    fn folds_of_nothing_are_neutral(device) {
        let x = Tensor::zeros([2, 0], device);
        same(&x.sum(1), &[0.0, 0.0]);
        same(&x.prod(1), &[1.0, 1.0]);
        same(&x.mean(1), &[NAN, NAN]);
        same(&x.var(1, 0.0), &[NAN, NAN]);
        same(&x.logsumexp(1), &[-INFINITY, -INFINITY]);
        same(&x.norm(1), &[0.0, 0.0]);
        assert_eq!(x.cumsum(1).sizes(), [2, 0]);
        assert_eq!(x.softmax(1).sizes(), [2, 0]);
        assert_eq!(x.sum(0).sizes(), [0]);
    }

    fn the_unbiased_variance_of_one_element_is_not_a_number(device) {
        let x = Tensor::new(&[3.0, 5.0], [2, 1], device);
        same(&x.var(1, 1.0), &[NAN, NAN]);
        same(&x.var(1, 0.0), &[0.0, 0.0]);
        same(&x.std(1, 1.0), &[NAN, NAN]);
    }

    fn products_pass_over_zeros_and_infinities(device) {
        same(&row(&[2.0, 0.0, 3.0, 4.0], device).cumprod(0), &[2.0, 0.0, 0.0, 0.0]);
        same(&slope(&row(&[2.0, 0.0, 3.0], device), |x| x.prod(0)), &[0.0, 6.0, 0.0]);
        same(&slope(&row(&[0.0, 0.0, 3.0], device), |x| x.prod(0)), &[0.0, 0.0, 0.0]);
        same(&row(&[INFINITY, 2.0, -1.0], device).cumprod(0), &[INFINITY, INFINITY, -INFINITY]);
        same(&row(&[NAN, 2.0], device).cumprod(0), &[NAN, NAN]);
        same(&row(&[-INFINITY, 2.0], device).prod(0), &[-INFINITY]);
    }

    fn large_values_do_not_overflow_in_softmax(device) {
        let x = row(&[1e30, 0.0, -1e30], device);
        same(&x.softmax(0), &[1.0, 0.0, 0.0]);
        same(&x.log_softmax(0), &[0.0, -1e30, -2e30]);
        same(&x.logsumexp(0), &[1e30]);
        let x = row(&[-INFINITY, 0.0, 0.0], device);
        same(&x.softmax(0), &[0.0, 0.5, 0.5]);
        same(&row(&[INFINITY, 0.0], device).logsumexp(0), &[INFINITY]);
        same(&row(&[-INFINITY, -INFINITY], device).logsumexp(0), &[-INFINITY]);
        same(&row(&[NAN, 0.0], device).softmax(0), &[NAN, NAN]);
    }

    fn activations_hold_for_large_arguments(device) {
        let x = row(&[1e4, -1e4], device);
        same(&x.softplus(), &[1e4, 0.0]);
        same(&x.log_sigmoid(), &[0.0, -1e4]);
        same(&x.sigmoid(), &[1.0, 0.0]);
        same(&x.tanh(), &[1.0, -1.0]);
        same(&x.gelu(), &[1e4, 0.0]);
        same(&row(&[INFINITY, -INFINITY], device).gelu(), &[INFINITY, 0.0]);
        same(&x.gelu_tanh(), &[1e4, 0.0]);
        same(&x.silu(), &[1e4, 0.0]);
        same(&x.mish(), &[1e4, 0.0]);
        same(&x.elu(1.0), &[1e4, -1.0]);
        for f in [Tensor::softplus, Tensor::sigmoid, Tensor::silu, Tensor::mish, Tensor::gelu_tanh] {
            assert!(slope(&x, f).to_vec().iter().all(|g| g.is_finite()));
        }
        for large in [x, row(&[INFINITY, -INFINITY], device)] {
            same(&slope(&large, Tensor::gelu), &[1.0, 0.0]);
        }
    }

    fn a_branch_not_taken_poisons_no_gradient(device) {
        let x = row(&[-1.0, 0.0, 4.0], device);
        let zero = Tensor::zeros([], device);
        let root = |x: &Tensor| Tensor::where_(&x.gt(&zero).detach(), &x.sqrt(), &zero);
        same(&root(&x), &[0.0, 0.0, 2.0]);
        let root = |x: &Tensor| elementwise("root", [x], |[x]| x.less_equal(0.0).select(0.0, x.sqrt()));
        same(&slope(&x, root), &[0.0, 0.0, 0.25]);
    }

    fn slopes_at_kinks_are_the_documented_ones(device) {
        let zero = row(&[0.0], device);
        same(&slope(&zero, Tensor::relu), &[0.0]);
        same(&slope(&zero, Tensor::abs), &[0.0]);
        same(&slope(&zero, |x| x.norm(0)), &[0.0]);
        same(&slope(&row(&[-1.0, 0.5, 1.0, 2.0], device), |x| x.clamp(-1.0, 1.0)), &[0.0, 1.0, 0.0, 0.0]);
        same(&slope(&zero, |x| x.normalize(0, 1e-6)), &[1e6]);
        same(&slope(&row(&[2.0; 3], device), |x| x.std(0, 1.0)), &[0.0; 3]);
    }

    fn powers_hold_at_their_corners(device) {
        let (x, y) = (row(&[0.0, 0.0, -2.0, 2.0], device), row(&[0.0, 2.0, 3.0, -1.0], device));
        same(&x.pow(&y), &[1.0, 0.0, -8.0, 0.5]);
        same(&slope(&x, |x| x.pow(&y)), &[0.0, 0.0, 12.0, -0.25]);
        same(&slope(&row(&[0.0], device), |x| x.powf(2.0)), &[0.0]);
        same(&x.powf(0.0), &[1.0; 4]);
        let (zero, y) = (row(&[0.0; 3], device), row(&[2.0, 0.0, -1.0], device));
        same(&slope(&y, |y| zero.pow(y)), &[0.0, 0.0, -INFINITY]);
    }

    fn rounding_goes_to_the_even_neighbour(device) {
        same(&row(&[0.5, 1.5, 2.5, -0.5, -1.5], device).round(), &[0.0, 2.0, 2.0, 0.0, -2.0]);
        same(&row(&[-0.0, 0.0, NAN, -3.0], device).sign(), &[0.0, 0.0, NAN, -1.0]);
    }

    fn nan_passes_through_choices(device) {
        let x = row(&[NAN, 9.0, -9.0], device);
        same(&x.clamp(-1.0, 1.0), &[NAN, 1.0, -1.0]);
        same(&x.relu(), &[NAN, 9.0, 0.0]);
        same(&x.is_nan(), &[1.0, 0.0, 0.0]);
        same(&x.eq(&x), &[0.0, 1.0, 1.0]);
        same(&x.ne(&x), &[1.0, 0.0, 0.0]);
    }

    fn dropping_everything_leaves_zeros_even_of_infinities(device) {
        let x = row(&[1.0, INFINITY, NAN], device);
        same(&training(1, || x.dropout(1.0)), &[0.0; 3]);
        same(&training(1, || x.dropout(0.0)), &[1.0, INFINITY, NAN]);
    }

    fn an_ignored_id_gathers_zero_and_scatters_nowhere(device) {
        let table = Tensor::new(&[1.0, 2.0, 3.0, 4.0], [2, 2], device);
        let ids = Ids::new([1, Ids::IGNORED, 1], [3], 2).unwrap();
        same(&table.embedding(&ids), &[3.0, 4.0, 0.0, 0.0, 3.0, 4.0]);
        same(&slope(&table, |table| table.embedding(&ids)), &[0.0, 0.0, 2.0, 2.0]);
        let none = Ids::new([Ids::IGNORED; 2], [2], 2).unwrap();
        same(&table.cross_entropy_rows(&none), &[0.0, 0.0]);
        same(&table.cross_entropy(&none), &[NAN]);
    }

    fn a_matrix_without_depth_is_zero_or_what_is_added(device) {
        let (a, b) = (Tensor::zeros([2, 0], device), Tensor::zeros([0, 2], device));
        same(&a.matmul(&b), &[0.0; 4]);
        same(&row(&[5.0, 6.0], device).add_matmul(&a, &b, 1.0), &[5.0, 6.0, 5.0, 6.0]);
        same(&a.linear(&b.t(), Some(&row(&[5.0, 6.0], device))), &[5.0, 6.0, 5.0, 6.0]);
    }

    fn einsum_broadcasts_a_shared_axis_of_one(device) {
        let (a, b) = (Tensor::new(&[1.0, 2.0], [2, 1], device), Tensor::ones([3, 2], device));
        same(&Tensor::einsum("ij,jk->ik", &a, &b), &[3.0, 3.0, 6.0, 6.0]);
    }
}
