//! Views against a naive model that looks every element up by its index, and kernels on random views
//! against the reference device. Random shapes and chains of views come from proptest.
//! Read next: `views/mod.rs`, the steps of such chains and the model.

mod common;
mod views;

use common::{compare, devices, fast_devices, largest};
use engrad::layout::{Layout, broadcast};
use engrad::{Device, Ids, Rng, Tensor};
use proptest::prelude::*;
use views::{Model, View, indices, order, other_sizes, view};

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1 => Just(0usize), 3 => Just(1), 9 => 2..6usize], 0..4)
}

/// A layout from random parts, with the length of the buffer it lies in.
fn layout() -> impl Strategy<Value = Layout> {
    (sizes(), prop::collection::vec(view(), 0..6)).prop_map(|(sizes, views)| {
        let mut x = Tensor::zeros(&sizes, &Device::Cpu).contiguous();
        let mut model = Model::counting(&sizes);
        for view in views {
            if let Some((next, next_model)) = view.apply(&x, &model) {
                (x, model) = (next, next_model);
            }
        }
        x.array().layout().clone()
    })
}

/// Strides under which `sizes` walk over `positions`, if there are any: each stride is read off one
/// neighbour, and then everything is compared.
fn strides_by_force(positions: &[usize], sizes: &[usize]) -> bool {
    let dense = Layout::contiguous(sizes);
    let step = |axis: usize| match sizes[axis] {
        1 => 0,
        _ => positions[dense.strides()[axis] as usize] as isize - positions[0] as isize,
    };
    let strides: Vec<isize> = (0..sizes.len()).map(step).collect();
    let at = |index: &Vec<usize>| {
        index.iter().zip(&strides).fold(positions[0] as isize, |at, (&i, &stride)| at + i as isize * stride)
    };
    indices(sizes).iter().map(at).eq(positions.iter().map(|&at| at as isize))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn chains_of_views_show_the_elements_of_the_model(
        sizes in sizes(),
        views in prop::collection::vec(view(), 1..8),
    ) {
        for device in devices() {
            let mut model = Model::counting(&sizes);
            let mut x = Tensor::new(&model.values, &sizes, &device);
            for view in &views {
                let Some((next, next_model)) = view.apply(&x, &model) else { continue };
                (x, model) = (next, next_model);
                prop_assert_eq!(x.sizes(), &model.sizes[..], "after {:?}", view);
                prop_assert_eq!(x.to_vec(), model.values.clone(), "after {:?}", view);
                prop_assert_eq!((&x + 0.5).to_vec(), model.values.iter().map(|x| x + 0.5).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn reshape_is_a_view_exactly_when_strides_can_express_it(layout in layout(), seed in any::<u64>()) {
        let sizes = other_sizes(seed, layout.count());
        let positions: Vec<usize> = layout.positions().collect();
        match layout.reshape(&sizes) {
            Some(view) => {
                prop_assert_eq!(view.sizes(), &sizes[..]);
                prop_assert_eq!(view.positions().collect::<Vec<_>>(), positions);
            }
            None => prop_assert!(!strides_by_force(&positions, &sizes), "{layout:?} to {sizes:?}"),
        }
    }

    #[test]
    fn a_span_is_the_reach_of_its_positions(layout in layout()) {
        let span = layout.span();
        let low = layout.positions().min().map(|at| at as isize);
        let high = layout.positions().max().map(|at| at as isize + 1);
        prop_assert_eq!(span, low.zip(high));
        prop_assert_eq!(layout.positions().count(), layout.count());
        let dense = layout.positions().enumerate().all(|(i, at)| at == layout.offset() + i);
        prop_assert_eq!(layout.is_contiguous(), dense);
    }

    #[test]
    fn broadcasting_follows_the_last_axes(a in sizes(), b in sizes()) {
        let common = broadcast(&a, &b);
        prop_assert_eq!(&common, &broadcast(&b, &a));
        let ndim = a.len().max(b.len());
        let size = |sizes: &[usize], axis: usize| {
            if axis + sizes.len() < ndim { 1 } else { sizes[axis + sizes.len() - ndim] }
        };
        let fits = (0..ndim).all(|axis| {
            let (a, b) = (size(&a, axis), size(&b, axis));
            a == b || a == 1 || b == 1
        });
        prop_assert_eq!(common.is_some(), fits);
        if let Some(common) = common {
            for sizes in [&a, &b] {
                prop_assert!(Layout::contiguous(sizes.clone()).expand(&common).is_some());
            }
        }
    }
}

/// A random tensor under a chain of views, the same on each device, with at least `axes` axes.
fn viewed(sizes: &[usize], views: &[View], axes: usize, device: &Device) -> Tensor {
    let mut model = Model::counting(sizes);
    let mut x = Tensor::uniform(-2.0, 2.0, sizes, &mut Rng::seeded(1), device);
    for view in views {
        if let Some((next, next_model)) = view.apply(&x, &model) {
            (x, model) = (next, next_model);
        }
    }
    while x.ndim() < axes {
        x = x.unsqueeze(0);
    }
    x
}

/// Compares what `f` makes of the same view on every device.
fn agree(
    (sizes, views): &(Vec<usize>, Vec<View>),
    axes: usize,
    f: impl Fn(&Tensor) -> Tensor,
) -> Result<(), TestCaseError> {
    let expected = f(&viewed(sizes, views, axes, &Device::Reference));
    let values = expected.to_f64();
    for device in fast_devices() {
        let found = f(&viewed(sizes, views, axes, &device));
        prop_assert_eq!(found.sizes(), expected.sizes());
        let result = compare(&found.to_f64(), &values, 1e-5 * largest(&values).max(1.0));
        prop_assert!(result.is_ok(), "{device}: {}", result.unwrap_err());
    }
    Ok(())
}

/// Larger sizes, so that blocks and threads come into play, and a chain of views.
fn views() -> impl Strategy<Value = (Vec<usize>, Vec<View>)> {
    let size = prop_oneof![1 => Just(0usize), 2 => Just(1), 6 => 2..9usize, 2 => 30..60usize];
    (prop::collection::vec(size, 1..4), prop::collection::vec(view(), 0..5))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn elementwise_ops_read_any_view(x in views()) {
        agree(&x, 0, |x| x.tanh() * x - x)?;
    }

    #[test]
    fn an_operand_broadcasts_under_any_view(x in views()) {
        agree(&x, 1, |x| {
            let row = x.narrow(0, 0, x.size(0).min(1));
            x * row.exp() + row
        })?;
    }

    #[test]
    fn folds_read_any_view(x in views(), seed in any::<u64>()) {
        agree(&x, 1, |x| {
            let axes: Vec<isize> = order(seed, x.ndim()).iter().map(|&axis| axis as isize).collect();
            // The mean: where the terms of a sum cancel, their rounding is left over.
            x.mean(&axes[..1 + seed as usize % axes.len()])
        })?;
        agree(&x, 1, |x| {
            let axis = seed as isize % x.ndim() as isize;
            let axis = axis.rem_euclid(x.ndim() as isize);
            if x.size(axis) == 0 { x.clone() } else { x.max(axis) }
        })?;
    }

    #[test]
    fn rows_are_normalised_in_any_view(x in views()) {
        agree(&x, 1, |x| x.softmax(-1))?;
        agree(&x, 1, |x| x.log_softmax(0))?;
        agree(&x, 1, |x| x.rms_norm(None, 1e-2))?;
        agree(&x, 1, |x| x.cumsum(-1))?;
    }

    #[test]
    fn products_read_any_view(x in views()) {
        // A row times its transpose is a number, the other way round it is a square.
        prop_assume!(viewed(&x.0, &x.1, 2, &Device::Reference).count() < 3000);
        agree(&x, 2, |x| x.matmul(&x.t()))?;
        agree(&x, 2, |x| x.t().matmul(x))?;
        agree(&x, 2, |x| x.narrow(-2, 0, x.size(-2).min(1)).add_matmul(x, &x.t().matmul(x), 0.1))?;
    }

    #[test]
    fn parts_are_joined_in_any_view(x in views(), axis in 0..4isize) {
        agree(&x, 1, |x| {
            let axis = axis % x.ndim() as isize;
            Tensor::concat(&[x, &x.flip(axis), &x.narrow(axis, 0, x.size(axis) / 2)], axis)
        })?;
        agree(&x, 1, |x| Tensor::stack(&[x, &x.exp()], axis % (x.ndim() as isize + 1)))?;
    }

    #[test]
    fn elements_are_picked_in_any_view(x in views(), axis in 0..4isize, seed in any::<u64>()) {
        let ids = |count: usize, limit: usize| {
            let mut rng = Rng::seeded(seed);
            let id = |_| if limit == 0 { Ids::IGNORED } else { rng.below(limit) as u32 };
            Ids::new((0..count).map(id).collect::<Vec<u32>>(), [count], limit).unwrap()
        };
        agree(&x, 1, |x| x.index_select(axis % x.ndim() as isize, &ids(7, x.size(axis % x.ndim() as isize))))?;
        agree(&x, 1, |x| {
            let axis = axis % x.ndim() as isize;
            x.gather(axis, &ids(x.count(), x.size(axis)).reshape(x.sizes()))
        })?;
        agree(&x, 2, |x| {
            let rows = x.flatten(0, -2);
            rows.scatter_rows(&ids(rows.size(0), 5), 5)
        })?;
        agree(&x, 1, |x| x.sort(-1, true).0)?;
    }
}

#[cfg(feature = "ndarray")]
#[test]
fn arrays_of_ndarray_go_there_and_back_in_their_logical_order() {
    for device in devices() {
        for sizes in [&[][..], &[0, 3], &[2, 3, 4]] {
            let count = sizes.iter().product();
            let x = Tensor::arange(count, &device).reshape(sizes).t();
            let array = x.to_ndarray();
            assert_eq!((array.shape(), array.iter().copied().collect()), (x.sizes(), x.to_vec()), "{device}");
            let y = Tensor::from_ndarray(&array.reversed_axes(), &device);
            assert_eq!(y.to_vec(), x.permute(&(0..x.ndim() as isize).rev().collect::<Vec<_>>()).to_vec());
        }
    }
}

/// The way back puts zeros where a step passed over elements, but none beyond the end.
#[test]
fn a_step_beyond_the_end_takes_the_first_element() {
    for device in devices() {
        let x = Tensor::arange(3, &device).tracked();
        let y = x.slice(0, 1..3, usize::MAX);
        assert_eq!(y.to_vec(), [1.0], "{device}");
        assert_eq!(y.backward().of(&x).unwrap().to_vec(), [0.0, 1.0, 0.0], "{device}");
    }
}

/// Random views rarely leave an empty array's axes in an order that no single stride follows.
#[test]
fn products_and_sums_of_empty_views_are_zeros() {
    for device in devices() {
        for sizes in [[0, 3, 4, 5, 6], [2, 0, 4, 5, 6], [2, 3, 4, 0, 6], [2, 3, 4, 5, 0]] {
            let x = Tensor::uniform(1.0, 2.0, sizes, &mut Rng::seeded(1), &device);
            let x = x.permute(&[2, 1, 0, 3, 4]);
            let y = x.t().matmul(&x);
            assert_eq!(y.sizes(), [sizes[2], sizes[1], sizes[0], sizes[4], sizes[4]], "{device}");
            let sums = [&[0][..], &[2], &[0, 2, 3], &[1, 3]].map(|axes: &[isize]| x.sum(axes));
            for y in [&[y][..], &sums].concat() {
                assert!(y.to_f64().iter().all(|&y| y == 0.0), "{device} {sizes:?}");
            }
        }
    }
}
