//! Matrix products: finds each matrix of a batch in its buffer and hands them to `gemm`.
//! Read next: `gemm/mod.rs`, how a product is blocked and made fast.

use super::gemm::{Matrices, gemm};
use crate::device::array::Array;
use crate::layout::Layout;

/// `y = scale · a·b + add` for each matrix of the batch.
pub fn run(a: &Array, b: &Array, scale: f32, add: Option<&Array>, y: &mut [f32]) {
    let [.., m, k] = *a.sizes() else { unreachable!("the op checks for two axes") };
    let n = b.width();
    if y.is_empty() {
        return;
    }
    if k == 0 {
        // An empty sum: nothing of `a` and `b` exists that could be looked at.
        return match add {
            Some(add) => super::elementwise::copy(add, y),
            None => y.fill(0.0),
        };
    }
    let offsets = [a, b, add.unwrap_or(a)].map(matrix_offsets);
    let add = add.map(|add| matrices(add, &offsets[2]));
    gemm(m, k, n, &matrices(a, &offsets[0]), &matrices(b, &offsets[1]), scale, add.as_ref(), y);
}

/// Where each matrix of the batch begins.
pub fn matrix_offsets(x: &Array) -> Vec<usize> {
    let batch = x.sizes().len() - 2;
    let (sizes, strides) = (x.sizes()[..batch].to_vec(), x.layout().strides()[..batch].to_vec());
    Layout::strided(sizes, strides, x.layout().offset()).positions().collect()
}

fn matrices<'a>(x: &'a Array, offsets: &'a [usize]) -> Matrices<'a> {
    let [.., row_stride, col_stride] = *x.layout().strides() else { unreachable!("two axes") };
    Matrices { values: super::buffer(x), offsets, row_stride, col_stride }
}
