//! Attention and its gradient: one dispatch forward, two back.
//!
//! Strides are parameters, so heads that were split, turned or shared are not copied. What outgrows a binding
//! is cut along its batch.
//! Read next: `shaders/attention_block.wgsl`, `shaders/attention.wgsl`.

use std::sync::Arc;

use super::elementwise::contiguous;
use super::matmul::halves;
use super::record::{Recorded, launch_heavy};
use super::window::Window;
use super::{Gpu, Memory, dense, reserve};
use crate::device::array::Array;
use crate::device::kernel::AttentionInputs;
use crate::layout::Layout;

/// Queries, or keys, of a workgroup: `TILE` of `attention_block.wgsl`.
const TILE: usize = 32;
/// Columns that a workgroup sums: `BLOCKS * TILE` there.
const COLUMNS: usize = 64;

/// The weighted values, and two numbers for each query.
pub fn attention(gpu: &Arc<Gpu>, of: &AttentionInputs, outputs: [&Arc<Memory>; 2]) -> Recorded {
    let [_, queries, _, _, out] = of.dimensions();
    let [seen, sums] = outputs;
    let outputs = vec![with_batch(of, seen, queries, out), with_batch(of, sums, queries, 2)];
    by_batch(gpu, [operands(of), outputs].concat(), PRODUCTS, 0, &|arrays, queries_before| {
        let [inputs @ .., seen, sums] = arrays else { unreachable!("two outputs") };
        let call = Call { of, queries_before, sums: None, wanted: [true; 2] };
        call.launch(gpu, ("attention", "main"), inputs, [seen, sums], [queries, out], PRODUCTS)
    })
}

/// The gradients that are wanted; the others have empty memory.
pub fn attention_grad(
    gpu: &Arc<Gpu>,
    of: &AttentionInputs,
    [sums, g]: [&Array; 2],
    gradients: [&Arc<Memory>; 3],
    wanted: [bool; 3],
) -> Recorded {
    let [batch, queries, keys, width, out] = of.dimensions();
    let of_queries = reserve(gpu, batch * queries * 3)?;
    let rows = [queries, keys, keys];
    let outputs = (0..3).map(|at| {
        // Nothing is written of a gradient that is not wanted.
        let rows = if wanted[at] { rows[at] } else { 0 };
        with_batch(of, gradients[at], rows, [width, width, out][at])
    });
    let with_sums = vec![walkable(g), sums.clone(), with_batch(of, &of_queries, queries, 3)];
    let arrays = [operands(of), with_sums, outputs.collect()].concat();
    by_batch(gpu, arrays, PRODUCTS_BY_QUERIES, 0, &|arrays, queries_before| {
        let [inputs @ .., sums, of_queries, dq, dk, dv] = arrays else { unreachable!("three gradients") };
        let call = Call { of, queries_before, sums: Some(sums), wanted: [wanted[0], true] };
        call.launch(gpu, GRAD_BY_QUERIES, inputs, [dq, of_queries], [queries, width], PRODUCTS_BY_QUERIES)?;
        if wanted[1] || wanted[2] {
            let call = Call { sums: Some(of_queries), wanted: [wanted[1], wanted[2]], ..call };
            call.launch(gpu, GRAD_BY_KEYS, inputs, [dk, dv], [keys, width.max(out)], PRODUCTS_BY_KEYS)?;
        }
        Ok(())
    })
}

/// Matrix products that each entry point computes.
const PRODUCTS: usize = 2;
const PRODUCTS_BY_QUERIES: usize = 5;
const PRODUCTS_BY_KEYS: usize = 4;

const GRAD_BY_QUERIES: (&str, &str) = ("attention_grad", "by_queries");
const GRAD_BY_KEYS: (&str, &str) = ("attention_grad", "by_keys");

/// Queries, keys, values, and the bias if there is one, as shaders walk along them.
fn operands(of: &AttentionInputs) -> Vec<Array> {
    let given = [Some(of.q), Some(of.k), Some(of.v), of.bias].into_iter().flatten();
    given.map(walkable).collect()
}

/// The array itself, or a dense copy where shaders cannot walk along it.
fn walkable(x: &Array) -> Array {
    if walk(x).is_some() { x.clone() } else { contiguous(x) }
}

/// `x` as shaders walk along it, with three axes of its batch: rows, key heads, and the query heads that share one.
/// `None` when more do not behave as one.
fn walk(x: &Array) -> Option<Layout> {
    let [batch @ .., rows, columns] = x.sizes() else { unreachable!("matrices") };
    let (outer, inner) = batch.split_at(batch.len().saturating_sub(2));
    let [middle, inner] = match *inner {
        [middle, inner] => [middle, inner],
        [inner] => [1, inner],
        _ => [1, 1],
    };
    x.layout().reshape(&[outer.iter().product(), middle, inner, *rows, *columns])
}

/// Floating-point operations of `products` matrix products among queries, keys and values.
fn flops(inputs: &[Array], products: usize) -> u64 {
    let [batch @ .., queries, width] = inputs[0].sizes() else { unreachable!("matrices") };
    let [.., keys, out] = inputs[2].sizes() else { unreachable!("matrices") };
    (products * batch.iter().product::<usize>() * queries * keys * (width + out)) as u64
}

/// Memory as a matrix for each of the batch.
fn with_batch(of: &AttentionInputs, memory: &Arc<Memory>, rows: usize, columns: usize) -> Array {
    let batch = &of.q.sizes()[..of.q.sizes().len() - 2];
    dense(memory, [batch, &[rows, columns]].concat())
}

/// Calls `body` on the arrays, or on halves of their batch where one is too large to be bound, or
/// `products` matrix products are too much at once. It is told how many queries stand before the first.
fn by_batch(
    gpu: &Gpu,
    arrays: Vec<Array>,
    products: usize,
    before: usize,
    body: &dyn Fn(&[Array], usize) -> Recorded,
) -> Recorded {
    let batch = &arrays[0].sizes()[..arrays[0].sizes().len() - 2];
    let axis = batch.iter().position(|&size| size > 1);
    let small = arrays.iter().all(|x| Window::of_view(x).0.fits())
        && flops(&arrays, products) <= gpu.context.work_limit;
    let (false, Some(axis)) = (small, axis) else {
        return body(&arrays, before);
    };
    let cut = arrays.iter().map(|x| halves(x, axis)).collect::<Result<Vec<_>, _>>()?;
    let (one, other): (Vec<Array>, Vec<Array>) = cut.into_iter().map(|[one, other]| (one, other)).unzip();
    let queries: usize = one[0].sizes()[..one[0].sizes().len() - 1].iter().product();
    by_batch(gpu, one, products, before, body)?;
    by_batch(gpu, other, products, before + queries, body)
}

/// What a dispatch is told besides its arrays.
#[derive(Clone, Copy)]
struct Call<'a> {
    of: &'a AttentionInputs<'a>,
    queries_before: usize,
    /// The numbers kept for each query, where they are read.
    sums: Option<&'a Array>,
    wanted: [bool; 2],
}

impl Call<'_> {
    /// Records a shader over `inputs` (queries, keys, values, bias if there is one, gradient if there is
    /// one) whose workgroups own tiles of `[rows, columns]`; it computes that many matrix products.
    fn launch(
        &self,
        gpu: &Arc<Gpu>,
        (shader, entry): (&str, &str),
        inputs: &[Array],
        outputs: [&Array; 2],
        [rows, columns]: [usize; 2],
        products: usize,
    ) -> Recorded {
        let [_, _, keys, _, _] = self.of.dimensions();
        // Where there is no bias, the queries are bound in its place.
        let (given, rest) = inputs.split_at(3);
        let (bias, g) =
            if self.of.bias.is_some() { (&rest[0], rest.get(1)) } else { (&given[0], rest.first()) };
        let mut windows: Vec<Window> = Vec::new();
        let mut words: Vec<u32> = Vec::new();
        let mut batch = [0; 3];
        for x in given.iter().chain([bias]).chain(g) {
            let (window, offset) = Window::of_view(x);
            let walk = walk(x).expect("what cannot be walked along was copied");
            windows.push(window);
            words.push(offset as u32);
            words.extend(walk.strides().iter().map(|&stride| stride as u32));
            words.extend(walk.sizes()[3..].iter().map(|&size| size as u32));
            batch.copy_from_slice(&walk.sizes()[..3]);
        }
        let [outer, middle, inner] = batch;
        let batch = outer * middle * inner;
        words.resize(5 * 8, 0);
        let sums = self.sums.map(|sums| (Window::of_view(sums), sums.sizes()[sums.sizes().len() - 1]));
        let targets = outputs.map(Window::of_view);
        let (seed, probability) = self.of.dropout.unwrap_or((0, 0.0));
        let mut params = vec![
            batch as u32,
            middle as u32,
            inner as u32,
            u32::from(self.of.bias.is_some()),
            self.of.past.map_or(keys, |past| past.min(keys)) as u32,
            (self.of.scale as f32).to_bits(),
            (probability as f32).to_bits(),
            (self.of.kept_scale() as f32).to_bits(),
            seed as u32,
            (seed >> 32) as u32,
            self.queries_before as u32,
            sums.map_or(0, |(_, width)| width) as u32,
            sums.map_or(0, |((_, offset), _)| offset) as u32,
            targets[0].1 as u32,
            targets[1].1 as u32,
            u32::from(self.wanted[0]) + 2 * u32::from(self.wanted[1]),
        ];
        params.extend(words);
        windows.extend(sums.map(|((window, _), _)| window));
        let groups = batch * rows.div_ceil(TILE) * columns.div_ceil(COLUMNS).max(1);
        let flops = flops(inputs, products);
        launch_heavy(gpu, shader, entry, &params, &windows, &targets.map(|target| target.0), groups, flops)
    }
}
