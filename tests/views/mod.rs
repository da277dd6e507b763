//! Chains of views: each step on a tensor, and on a naive model that looks every element up by its index.

use engrad::{Rng, Tensor};
use proptest::prelude::*;

/// A tensor as its sizes and its elements in row-major order: the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    pub sizes: Vec<usize>,
    pub values: Vec<f32>,
}

impl Model {
    pub fn counting(sizes: &[usize]) -> Model {
        let count = sizes.iter().product();
        Model { sizes: sizes.to_vec(), values: (0..count).map(|i| i as f32).collect() }
    }

    /// A model of `sizes` whose element at an index is this one's at `source(index)`.
    pub fn picked(&self, sizes: Vec<usize>, source: impl Fn(&[usize]) -> Vec<usize>) -> Model {
        let at = |index: &[usize]| {
            let position = index.iter().zip(&self.sizes).fold(0, |at, (i, size)| at * size + i);
            self.values[position]
        };
        let values = indices(&sizes).iter().map(|index| at(&source(index))).collect();
        Model { sizes, values }
    }
}

/// Every index of `sizes` in row-major order.
pub fn indices(sizes: &[usize]) -> Vec<Vec<usize>> {
    sizes.iter().fold(vec![vec![]], |all, &size| {
        all.iter().flat_map(|index| (0..size).map(move |i| [&index[..], &[i]].concat())).collect()
    })
}

/// One step of a chain of views; numbers are taken modulo what is possible.
#[derive(Clone, Copy, Debug)]
pub enum View {
    Permute(u64),
    Slice(usize, usize, usize, usize),
    Flip(usize),
    Expand(usize, usize),
    Unsqueeze(usize),
    Squeeze(usize),
    Reshape(u64),
}

pub fn view() -> impl Strategy<Value = View> {
    let number = 0..1000usize;
    prop_oneof![
        any::<u64>().prop_map(View::Permute),
        (number.clone(), number.clone(), number.clone(), 1..4usize)
            .prop_map(|(a, b, c, d)| View::Slice(a, b, c, d)),
        number.clone().prop_map(View::Flip),
        (number.clone(), 0..4usize).prop_map(|(a, b)| View::Expand(a, b)),
        number.clone().prop_map(View::Unsqueeze),
        number.prop_map(View::Squeeze),
        any::<u64>().prop_map(View::Reshape),
    ]
}

pub fn order(seed: u64, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    Rng::seeded(seed).shuffle(&mut order);
    order
}

/// Random sizes with the given product.
pub fn other_sizes(seed: u64, mut count: usize) -> Vec<usize> {
    let mut rng = Rng::seeded(seed);
    let mut sizes = Vec::new();
    while count > 1 && sizes.len() < 4 {
        let divisors: Vec<usize> = (1..=count).filter(|d| count.is_multiple_of(*d)).collect();
        let size = divisors[rng.below(divisors.len())];
        sizes.push(size);
        count /= size;
    }
    sizes.push(count);
    sizes
}

impl View {
    /// The step on a tensor and on the model; `None` where it does not apply.
    pub fn apply(self, x: &Tensor, model: &Model) -> Option<(Tensor, Model)> {
        let ndim = model.sizes.len();
        let axis = |at: usize| (ndim > 0).then(|| at % ndim.max(1));
        let mut sizes = model.sizes.clone();
        Some(match self {
            View::Permute(seed) => {
                let order = order(seed, ndim);
                let signed: Vec<isize> = order.iter().map(|&axis| axis as isize).collect();
                let sizes = order.iter().map(|&axis| sizes[axis]).collect();
                let source = |index: &[usize]| {
                    let mut from = vec![0; index.len()];
                    order.iter().zip(index).for_each(|(&axis, &i)| from[axis] = i);
                    from
                };
                (x.permute(&signed), model.picked(sizes, source))
            }
            View::Slice(at, a, b, step) => {
                let axis = axis(at)?;
                let (a, b) = (a % (sizes[axis] + 1), b % (sizes[axis] + 1));
                let (start, stop) = (a.min(b), a.max(b));
                sizes[axis] = (start..stop).step_by(step).count();
                let source = |index: &[usize]| {
                    let mut from = index.to_vec();
                    from[axis] = start + from[axis] * step;
                    from
                };
                (x.slice(axis as isize, start..stop, step), model.picked(sizes, source))
            }
            View::Flip(at) => {
                let axis = axis(at)?;
                let last = |index: &[usize]| {
                    let mut from = index.to_vec();
                    from[axis] = model.sizes[axis] - 1 - from[axis];
                    from
                };
                (x.flip(axis as isize), model.picked(sizes, last))
            }
            View::Expand(at, size) => {
                let axis = axis(at).filter(|&axis| sizes[axis] == 1)?;
                sizes[axis] = size;
                let first = |index: &[usize]| {
                    let mut from = index.to_vec();
                    from[axis] = 0;
                    from
                };
                (x.expand(&sizes), model.picked(sizes, first))
            }
            View::Unsqueeze(at) => {
                let axis = at % (ndim + 1);
                sizes.insert(axis, 1);
                (x.unsqueeze(axis as isize), Model { sizes, ..model.clone() })
            }
            View::Squeeze(at) => {
                let axis = axis(at).filter(|&axis| sizes[axis] == 1)?;
                sizes.remove(axis);
                (x.squeeze(axis as isize), Model { sizes, ..model.clone() })
            }
            View::Reshape(seed) => {
                let sizes = other_sizes(seed, model.values.len());
                (x.reshape(&sizes), Model { sizes, ..model.clone() })
            }
        })
    }
}
