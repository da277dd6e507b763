//! Matrix products: which rung of the ladder a product takes.
//!
//! Each rung is a shader of its own, in the order of [`Rung`] the better to be read. Strides are
//! parameters, so no operand is copied unless its batch has more axes than a shader walks.
//! Read next: `shaders/matmul.wgsl`.

use std::sync::Arc;

use super::elementwise::contiguous;
use super::record::{Recorded, launch_heavy, per_element};
use super::window::Window;
use super::{Gpu, Memory, dense, reserve};
use crate::device::array::Array;
use crate::layout::Layout;

/// One way to compute a matrix product. All of them are right for all sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// One invocation per element.
    Naive,
    /// Tiles of 16 x 16 in workgroup memory.
    Tiled,
    /// Tiles of 64 x 64, blocks of 4 x 4 in registers.
    Blocked,
    /// Few rows or few columns.
    Thin,
    /// One row or one column.
    Vector,
    /// Blocks of 16 x 16 in registers, for adapters that compute on the processor.
    Direct,
}

impl Rung {
    /// All of them.
    pub const ALL: [Rung; 6] =
        [Rung::Naive, Rung::Tiled, Rung::Blocked, Rung::Thin, Rung::Vector, Rung::Direct];

    fn shader(self) -> &'static str {
        match self {
            Rung::Naive => "matmul_naive",
            Rung::Tiled => "matmul_tiled",
            Rung::Blocked => "matmul_blocked",
            Rung::Thin => "matmul_thin",
            Rung::Vector => "matmul_vector",
            Rung::Direct => "matmul_direct",
        }
    }

    /// Height and width of the tile a workgroup computes, and how many of them it does.
    fn tile(self) -> Option<(usize, usize, usize)> {
        match self {
            Rung::Naive => None,
            Rung::Tiled => Some((16, 16, 1)),
            Rung::Blocked => Some((64, 64, 1)),
            Rung::Thin => Some((8, 32, 1)),
            Rung::Vector => Some((1, 1, 1)),
            Rung::Direct => Some((16, 16, 8)),
        }
    }

    /// The rung for a product.
    fn of(product: &Product, software: bool) -> Rung {
        let Product { batch, m, n, .. } = *product;
        let blocks = batch * m.div_ceil(64) * n.div_ceil(64);
        if software {
            // Half a block of 16 x 16 is still faster than no block.
            return if m * n < 32 { Rung::Naive } else { Rung::Direct };
        }
        match m.min(n) {
            1 if product.matrix_is_dense_along_k() => Rung::Vector,
            0..=16 if m * n >= 32 => Rung::Thin,
            0..=16 => Rung::Naive,
            // Fewer large tiles would leave most of a GPU idle.
            _ if blocks >= 32 => Rung::Blocked,
            _ => Rung::Tiled,
        }
    }
}

/// `y = scale · a·b + add` for each matrix of the batch.
pub fn run(
    gpu: &Arc<Gpu>,
    a: &Array,
    b: &Array,
    scale: f32,
    add: Option<&Array>,
    y: &Arc<Memory>,
) -> Recorded {
    let (rows, columns) = (&a.sizes()[..a.sizes().len() - 1], &b.sizes()[b.sizes().len() - 1..]);
    let y = dense(y, [rows, columns].concat());
    // What must be copied is copied before anybody asks whether it can be bound.
    let walked = |x: &Array| Operand::of(x).array;
    product(gpu, &walked(a), &walked(b), scale, add.map(walked).as_ref(), &y)
}

/// The product as one dispatch, or cut in two where an operand is too large to be bound, or the work
/// too much at once.
fn product(gpu: &Arc<Gpu>, a: &Array, b: &Array, scale: f32, add: Option<&Array>, y: &Array) -> Recorded {
    let (row, column) = (y.sizes().len() - 2, y.sizes().len() - 1);
    let (elements, terms) = (y.layout().count(), a.sizes()[column]);
    // What the rows and columns of each matrix are in the result: an axis of it, or the terms.
    let of_result = [Some(row), Some(column)];
    let matrices = [
        (Some(y), of_result),
        (add, of_result),
        (Some(a), [Some(row), None]),
        (Some(b), [None, Some(column)]),
    ];
    let reach =
        |x: &Array, axis: usize| (x.sizes()[axis].max(1) - 1) * x.layout().strides()[axis].unsigned_abs();
    let too_large = matrices.into_iter().find_map(|(x, axes)| {
        let x = x.filter(|x| !Window::of_view(x).0.fits())?;
        Some(axes[usize::from(reach(x, column) > reach(x, row))])
    });
    let heavy = 2 * (elements * terms) as u64 > gpu.context.work_limit && elements > 1;
    let countable = u32::try_from(terms).is_ok();
    if too_large.is_none() && !heavy && countable {
        return dispatch(gpu, a, b, scale, add, y);
    }
    // Along which axis of the result, if any, the halves touch less.
    let axis = match (y.sizes()[..row].iter().position(|&size| size > 1), too_large) {
        (Some(batch), _) => Some(batch),
        (None, Some(axis)) => axis,
        (None, None) if !countable => None,
        (None, None) => Some(if y.sizes()[row] >= y.sizes()[column] { row } else { column }),
    };
    let Some(axis) = axis else {
        // Half of the terms, and then the other half added to it.
        let half = dense(&reserve(gpu, y.layout().count())?, y.sizes().to_vec());
        let ([a, a_rest], [b, b_rest]) = (halves(a, column)?, halves(b, row)?);
        product(gpu, &a, &b, scale, add, &half)?;
        return product(gpu, &a_rest, &b_rest, scale, Some(&half), y);
    };
    let cut = |x: &Array, cut: bool| if cut { halves(x, axis) } else { Ok([x.clone(), x.clone()]) };
    let (a, b, y) = (cut(a, axis != column)?, cut(b, axis != row)?, cut(y, true)?);
    let add = add.map(|add| cut(add, true)).transpose()?;
    (0..2).try_for_each(|at| product(gpu, &a[at], &b[at], scale, add.as_ref().map(|add| &add[at]), &y[at]))
}

/// Both halves of an array along an axis.
pub fn halves(x: &Array, axis: usize) -> Result<[Array; 2], Arc<str>> {
    let size = x.sizes()[axis];
    if size < 2 {
        return Err(Arc::from(format!("a view of {:?} is more than its shaders bind", x.sizes())));
    }
    Ok([(0, size / 2), (size / 2, size)].map(|(start, stop)| x.view(x.layout().slice(axis, start, stop, 1))))
}

fn dispatch(gpu: &Arc<Gpu>, a: &Array, b: &Array, scale: f32, add: Option<&Array>, y: &Array) -> Recorded {
    let [.., m, k] = *a.sizes() else { unreachable!("the op checks for two axes") };
    let n = *b.sizes().last().expect("two axes");
    let batch = y.layout().count() / (m * n);
    let has_add = add.is_some();
    let [a, b, add, y] = [a, b, add.unwrap_or(a), y].map(Operand::of);
    let mut product = Product { batch, m, n, k, a, b, add, y };
    let rung = gpu.lock_forced().rung.unwrap_or_else(|| Rung::of(&product, gpu.adapter().is_software()));
    if rung == Rung::Thin && product.n < product.m {
        product = product.transposed();
    }
    let groups = match rung.tile() {
        None => per_element(batch * m * n),
        Some((height, width, each)) => {
            (batch * product.m.div_ceil(height) * product.n.div_ceil(width)).div_ceil(each)
        }
    };
    let [a, b, add, y] =
        [&product.a, &product.b, &product.add, &product.y].map(|operand| Window::of_view(&operand.array));
    let params = product.params(scale, has_add, [a.1, b.1, add.1, y.1]);
    let flops = 2 * (batch * m * n * k) as u64;
    launch_heavy(gpu, rung.shader(), "main", &params, &[a.0, b.0, add.0], &[y.0], groups, flops)
}

/// Sizes and operands of a product.
struct Product {
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
    a: Operand,
    b: Operand,
    add: Operand,
    y: Operand,
}

impl Product {
    /// The same product read the other way round: `yᵀ = bᵀ·aᵀ`.
    fn transposed(self) -> Product {
        let Product { batch, m, n, k, a, b, add, y } = self;
        let [a, b, add, y] = [a, b, add, y].map(Operand::transposed);
        Product { batch, m: n, n: m, k, a: b, b: a, add, y }
    }

    /// Whether a row of terms lies densely in the operand that is no vector.
    fn matrix_is_dense_along_k(&self) -> bool {
        match self.m {
            1 => self.b.strides[2] == 1,
            _ => self.a.strides[3] == 1,
        }
    }

    /// The words of `Params` in `matmul.wgsl`; `offsets` are those in the bound windows.
    fn params(&self, scale: f32, has_add: bool, offsets: [usize; 4]) -> Vec<u32> {
        let sizes = [self.batch, self.a.batch_inner, self.m, self.n, self.k];
        let mut params: Vec<u32> = sizes.map(|size| size as u32).to_vec();
        params.extend([scale.to_bits(), u32::from(has_add)]);
        for (operand, offset) in [&self.a, &self.b, &self.add, &self.y].into_iter().zip(offsets) {
            params.push(offset as u32);
            params.extend(operand.strides.map(|stride| stride as u32));
        }
        params
    }
}

/// A batch of matrices: where they are and how to step through them.
pub struct Operand {
    /// The array itself, or a dense copy.
    pub array: Array,
    /// The size of the last batch axis.
    pub batch_inner: usize,
    /// Between batches along the outer and the inner batch axis, between rows, between columns.
    pub strides: [isize; 4],
}

impl Operand {
    /// Any array of at least two axes.
    pub fn of(x: &Array) -> Operand {
        Operand::strided(x)
            .unwrap_or_else(|| Operand::strided(&contiguous(x)).expect("dense axes behave as one"))
    }

    /// `None` when the outer batch axes do not behave as one.
    fn strided(x: &Array) -> Option<Operand> {
        let (sizes, strides) = (x.sizes(), x.layout().strides());
        let axes = sizes.len();
        let inner = axes.checked_sub(3);
        let outer = ..inner.unwrap_or(0);
        let outer_axes = Layout::strided(sizes[outer].into(), strides[outer].into(), 0);
        let outer_stride = match outer_axes.groups()[..] {
            [] => 0,
            [(_, stride)] => stride,
            _ => return None,
        };
        Some(Operand {
            array: x.clone(),
            batch_inner: inner.map_or(1, |axis| sizes[axis]),
            strides: [
                outer_stride,
                inner.map_or(0, |axis| strides[axis]),
                strides[axes - 2],
                strides[axes - 1],
            ],
        })
    }

    fn transposed(mut self) -> Operand {
        self.strides.swap(2, 3);
        self
    }
}
