//! Attention without a stored matrix of scores, and its gradient.
//!
//! A block of queries meets all of its keys at once: the scores of a block stay in the second-level
//! cache, its softmax is complete, and three quarters of the work are products of `gemm`. What a
//! block needs grows with the number of keys, and nothing grows with its square. The backward pass
//! computes the weights again from each query's largest score and sum (arXiv 2205.14135, section 3.1).
//! Keys that no query of a block may look at are passed over: those after the last query's own, and
//! the padding behind a text.

use std::slice::from_ref;

use rayon::prelude::*;

use super::gemm::{Addend, Matrices, gemm_here};
use super::matmul::matrix_offsets;
use super::memory::with_scratch;
use super::reduce::{dot, largest_number, sum};
use super::simd::simd;
use super::softmax::rows_at_once;
use super::{GRAIN, math};
use crate::device::array::Array;
use crate::device::kernel::{AttentionInputs, MASKED};
use crate::rng;

/// Queries of a block: enough for the products to run at their full speed.
const BLOCK: usize = 64;
/// A score below this is that of a hidden key.
const HIDDEN: f32 = 0.5 * MASKED as f32;

/// The weighted values, and each query's largest score and sum of exponentials.
pub fn attention(of: &AttentionInputs, out: &mut [f32], sums: &mut [f32]) {
    let work = Work::new(of);
    let [batch, queries, _, _, width] = work.dimensions;
    let (mut out, mut sums) = (out, sums);
    let mut blocks = Vec::with_capacity(batch * queries.div_ceil(BLOCK));
    for matrix in 0..batch {
        for block in work.blocks(matrix) {
            let of_block = (out.split_at_mut(block.rows * width), sums.split_at_mut(block.rows * 2));
            let ((block_out, more_out), (block_sums, more_sums)) = of_block;
            (out, sums) = (more_out, more_sums);
            blocks.push((block, block_out, block_sums));
        }
    }
    work.share(blocks, |(block, out, sums)| work.attend(block, out, sums));
}

/// The gradients by queries, keys and values that are wanted; the others are empty.
pub fn attention_grad(of: &AttentionInputs, sums: &Array, g: &Array, gradients: [&mut [f32]; 3]) {
    let work = Work::new(of);
    let [batch, queries, keys, width, out] = work.dimensions;
    let (sums, g) = (super::contiguous(sums), Source::new(g));
    let sums = super::elements(&sums);
    let wanted = gradients.each_ref().map(|gradient| !gradient.is_empty());
    let mut rest = gradients;
    let sizes = [queries * width, keys * width, keys * out];
    let mut matrices = Vec::with_capacity(batch);
    for matrix in 0..batch {
        let mut parts: [&mut [f32]; 3] = [&mut [], &mut [], &mut []];
        for (at, part) in parts.iter_mut().enumerate().filter(|&(at, _)| wanted[at]) {
            let (of_matrix, more) = std::mem::take(&mut rest[at]).split_at_mut(sizes[at]);
            (*part, rest[at]) = (of_matrix, more);
        }
        matrices.push((matrix, parts));
    }
    work.share(matrices, |(matrix, [dq, dk, dv])| {
        let sums = &sums[matrix * queries * 2..][..queries * 2];
        dk.fill(0.0);
        dv.fill(0.0);
        for block in work.blocks(matrix) {
            let rows = block.first..block.first + block.rows;
            let dq = if dq.is_empty() { &mut [][..] } else { &mut dq[rows.start * width..rows.end * width] };
            work.pull(block, &sums[rows.start * 2..rows.end * 2], &g, [dq, dk, dv]);
        }
    });
}

/// Matrices of one operand, by where each begins.
struct Source<'a> {
    values: &'a [f32],
    offsets: Vec<usize>,
    row_stride: isize,
    col_stride: isize,
}

impl<'a> Source<'a> {
    fn new(x: &'a Array) -> Source<'a> {
        let [.., row_stride, col_stride] = *x.layout().strides() else { unreachable!("two axes") };
        Source { values: super::buffer(x), offsets: matrix_offsets(x), row_stride, col_stride }
    }

    /// Where a row of a matrix begins.
    fn row(&self, matrix: usize, row: usize) -> usize {
        self.offsets[matrix].wrapping_add_signed(row as isize * self.row_stride)
    }

    fn from<'o>(&self, offset: &'o usize) -> Matrices<'o>
    where
        'a: 'o,
    {
        let (row_stride, col_stride) = (self.row_stride, self.col_stride);
        Matrices { values: self.values, offsets: from_ref(offset), row_stride, col_stride }
    }

    fn transposed<'o>(&self, offset: &'o usize) -> Matrices<'o>
    where
        'a: 'o,
    {
        let Matrices { values, offsets, row_stride, col_stride } = self.from(offset);
        Matrices { values, offsets, row_stride: col_stride, col_stride: row_stride }
    }
}

/// A contiguous matrix of `columns`.
fn dense(values: &[f32], columns: usize) -> Matrices<'_> {
    Matrices { values, offsets: &[0], row_stride: columns as isize, col_stride: 1 }
}

/// The same, read as its transpose.
fn turned(values: &[f32], columns: usize) -> Matrices<'_> {
    Matrices { values, offsets: &[0], row_stride: 1, col_stride: columns as isize }
}

/// Some neighbouring queries of one matrix.
#[derive(Clone, Copy)]
struct Block {
    matrix: usize,
    first: usize,
    rows: usize,
}

/// The operands, found in their buffers.
struct Work<'a> {
    of: AttentionInputs<'a>,
    dimensions: [usize; 5],
    q: Source<'a>,
    k: Source<'a>,
    v: Source<'a>,
    bias: Option<Source<'a>>,
}

impl<'a> Work<'a> {
    fn new(of: &AttentionInputs<'a>) -> Work<'a> {
        let [q, k, v] = [of.q, of.k, of.v].map(Source::new);
        Work { of: *of, dimensions: of.dimensions(), q, k, v, bias: of.bias.map(Source::new) }
    }

    /// The queries of a matrix in blocks, cut by size alone.
    fn blocks(&self, matrix: usize) -> impl Iterator<Item = Block> {
        let queries = self.dimensions[1];
        let block = move |first| Block { matrix, first, rows: BLOCK.min(queries - first) };
        (0..queries).step_by(BLOCK).map(block)
    }

    /// Does every task, on all threads if that pays.
    fn share<T: Send>(&self, tasks: Vec<T>, body: impl Fn(T) + Sync + Send) {
        let [batch, queries, keys, width, out] = self.dimensions;
        if batch * queries * keys * (width + out) < GRAIN * 16 {
            return tasks.into_iter().for_each(body);
        }
        tasks.into_par_iter().for_each(body);
    }

    /// How many keys, from the first one on, hold all that a block may look at.
    fn reach(&self, block: Block) -> usize {
        let visible = self.of.visible(block.first + block.rows - 1);
        match &self.bias {
            // One row for all queries: the padding of a text.
            Some(bias) if bias.row_stride == 0 => {
                let start = bias.offsets[block.matrix];
                let key = |key: &usize| {
                    let bias = bias.values[start.wrapping_add_signed(*key as isize * bias.col_stride)];
                    bias > HIDDEN || bias.is_nan()
                };
                (0..visible).rev().find(key).map_or(self.dimensions[2], |last| last + 1)
            }
            _ => visible,
        }
    }

    /// `scale · q·kᵀ + bias` of a block over its first `keys` keys, with what hides later keys.
    fn scores(&self, block: Block, keys: usize, scores: &mut [f32]) {
        let Block { matrix, first, rows } = block;
        let [q, k] = [self.q.row(matrix, first), self.k.row(matrix, 0)];
        let bias = self.bias.as_ref().map(|bias| (bias, bias.row(matrix, first)));
        let bias = bias.as_ref().map(|(bias, offset)| bias.from(offset));
        let addend = bias.map_or(Addend::Nothing, Addend::Matrix);
        let sizes = [rows, self.dimensions[3], keys];
        gemm_here(sizes, &self.q.from(&q), &self.k.transposed(&k), self.of.scale as f32, addend, scores);
        if self.of.past.is_some() {
            for (query, scores) in scores.chunks_exact_mut(keys).enumerate() {
                let visible = self.of.visible(first + query).min(keys);
                scores[visible..].iter_mut().for_each(|score| *score += MASKED as f32);
            }
        }
    }

    /// The forward pass of a block.
    fn attend(&self, block: Block, out: &mut [f32], sums: &mut [f32]) {
        let [_, _, keys, _, width] = self.dimensions;
        with_scratch(block.rows * keys, |scratch| {
            let mut reach = self.reach(block);
            let mut weights = &mut scratch[..block.rows * reach];
            self.scores(block, reach, weights);
            exponentials(weights, reach, sums);
            if reach < keys && has_hidden_row(sums) {
                // To a query that sees nothing but hidden keys, all of them are alike.
                reach = keys;
                weights = &mut scratch[..block.rows * keys];
                self.scores(block, keys, weights);
                exponentials(weights, keys, sums);
            }
            self.drop_some(block, reach, weights, 1.0);
            let v = self.v.row(block.matrix, 0);
            let sizes = [block.rows, reach, width];
            gemm_here(sizes, &dense(weights, reach), &self.v.from(&v), 1.0, Addend::Nothing, out);
            let kept = self.of.kept_scale() as f32;
            for (out, sums) in out.chunks_exact_mut(width.max(1)).zip(sums.chunks_exact(2)) {
                let factor = kept / sums[1];
                out.iter_mut().for_each(|out| *out *= factor);
            }
        });
    }

    /// The backward pass of a block: its queries' gradient, and its part of the keys' and values'.
    fn pull(&self, block: Block, sums: &[f32], g: &Source, [dq, dk, dv]: [&mut [f32]; 3]) {
        let Block { matrix, first, rows } = block;
        let [_, _, keys, width, out] = self.dimensions;
        let reach = if has_hidden_row(sums) { keys } else { self.reach(block) };
        let [q, g_at] = [self.q.row(matrix, first), g.row(matrix, first)];
        let [k, v] = [self.k.row(matrix, 0), self.v.row(matrix, 0)];
        let (kept, scale) = (self.of.kept_scale() as f32, self.of.scale as f32);
        with_scratch(2 * rows * reach, |scratch| {
            let (weights, pulled) = scratch.split_at_mut(rows * reach);
            self.scores(block, reach, weights);
            weights_again(weights, reach, sums);
            if !dq.is_empty() || !dk.is_empty() {
                let sizes = [rows, out, reach];
                gemm_here(sizes, &g.from(&g_at), &self.v.transposed(&v), 1.0, Addend::Nothing, pulled);
                self.drop_some(block, reach, pulled, kept);
                pull_softmax(weights, reach, pulled);
            }
            if !dq.is_empty() {
                let (sizes, of_scores) = ([rows, reach, width], dense(pulled, reach));
                gemm_here(sizes, &of_scores, &self.k.from(&k), scale, Addend::Nothing, dq);
            }
            if !dk.is_empty() {
                let (sizes, of_scores) = ([reach, rows, width], turned(pulled, reach));
                let dk = &mut dk[..reach * width];
                gemm_here(sizes, &of_scores, &self.q.from(&q), scale, Addend::Out, dk);
            }
            if !dv.is_empty() {
                self.drop_some(block, reach, weights, kept);
                let (sizes, weights) = ([reach, rows, out], turned(weights, reach));
                gemm_here(sizes, &weights, &g.from(&g_at), 1.0, Addend::Out, &mut dv[..reach * out]);
            }
        });
    }

    /// Drops weights of a block, and multiplies those that stay; nothing without dropout.
    fn drop_some(&self, block: Block, width: usize, weights: &mut [f32], kept: f32) {
        if let Some((seed, probability)) = self.of.dropout {
            let [_, queries, keys, ..] = self.dimensions;
            let first = (block.matrix * queries + block.first) * keys;
            drop_rows(seed, probability as f32, first, keys, kept, width, weights);
        }
    }
}

/// Whether a query found nothing but hidden keys.
fn has_hidden_row(sums: &[f32]) -> bool {
    sums.chunks_exact(2).any(|sums| sums[0] <= HIDDEN)
}

simd! {
    fn exponentials(scores: &mut [f32], width: usize, sums: &mut [f32]) {
        let some = rows_at_once(width);
        for (rows, sums) in scores.chunks_mut(some * width).zip(sums.chunks_mut(some * 2)) {
            for (row, sums) in rows.chunks_exact(width).zip(sums.chunks_exact_mut(2)) {
                sums[0] = largest_number(row);
            }
            for (row, sums) in rows.chunks_exact_mut(width).zip(sums.chunks_exact(2)) {
                for x in row {
                    *x = math::exp_of_negative::<FMA>(*x - sums[0]);
                }
            }
            for (row, sums) in rows.chunks_exact(width).zip(sums.chunks_exact_mut(2)) {
                sums[1] = sum(row);
            }
        }
    }
}

simd! {
    fn weights_again(scores: &mut [f32], width: usize, sums: &[f32]) {
        for (row, sums) in scores.chunks_exact_mut(width).zip(sums.chunks_exact(2)) {
            let (largest, factor) = (sums[0], 1.0 / sums[1]);
            for x in row {
                *x = math::exp_of_negative::<FMA>(*x - largest) * factor;
            }
        }
    }
}

simd! {
    fn pull_softmax(weights: &[f32], width: usize, g: &mut [f32]) {
        for (weights, g) in weights.chunks_exact(width).zip(g.chunks_exact_mut(width)) {
            let dot = dot(weights, g);
            g.iter_mut().zip(weights).for_each(|(g, &weight)| *g = weight * (*g - dot));
        }
    }
}

simd! {
    fn drop_rows(
        seed: u64,
        probability: f32,
        first: usize,
        stride: usize,
        kept: f32,
        width: usize,
        values: &mut [f32],
    ) {
        for (row, values) in values.chunks_exact_mut(width).enumerate() {
            let start = (first + row * stride) as u32;
            for (key, x) in values.iter_mut().enumerate() {
                let random = rng::uniform(seed, start.wrapping_add(key as u32));
                *x = if random < probability { 0.0 } else { *x * kept };
            }
        }
    }
}
