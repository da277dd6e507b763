//! From a kernel to dispatches: which shader, which parameters, how many workgroups.
//!
//! Row kernels take dense rows; what lies otherwise is copied first. Every kernel works on windows of
//! its buffers: one for everything in the usual case, several where an array outgrows a binding.
//! Read next: `elementwise.rs`, `matmul.rs`, `reduce.rs`.

use std::sync::Arc;

use super::elementwise::elementwise;
use super::pipeline::{self, Pipeline, Recipe, Sharing};
use super::queue::Dispatch;
use super::window::{Rows, Window, pieces, room};
use super::{Gpu, Memory, attention, matmul, memory, reduce, reserve, upload_words};
use crate::device::array::{Array, Ids};
use crate::device::kernel::Kernel;

/// Invocations per workgroup where each works for itself: `ELEMENT_GROUP` of `common.wgsl`.
const ELEMENT_GROUP: usize = 256;
/// Invocations per workgroup of shaders that fold rows: `ROW_GROUP` of `rows.wgsl`.
const ROW_GROUP: usize = 64;
/// Elements of the runs that sorting begins with.
const RUN: usize = 64;

/// Done, or why the result cannot be computed.
pub type Recorded = Result<(), Arc<str>>;

/// Records a kernel with at least one element to compute.
pub fn record(gpu: &Arc<Gpu>, kernel: &Kernel, outputs: &[Arc<Memory>]) -> Recorded {
    match (kernel, outputs) {
        (Kernel::Elementwise { program, inputs, .. }, _) => elementwise(gpu, program, inputs, outputs),
        (Kernel::Reduce { op, x, axes }, [y]) => reduce::run(gpu, *op, x, axes, y),
        (Kernel::MatMul { a, b, scale, add }, [y]) => matmul::run(gpu, a, b, *scale as f32, *add, y),
        (Kernel::Concat { parts, axis }, [y]) => concat(gpu, parts, *axis, y),
        (Kernel::Gather { table, ids }, [y]) => gather(gpu, table, ids, y),
        (Kernel::ScatterAdd { rows, ids, count }, [y]) => scatter_add(gpu, rows, ids, *count, y),
        (Kernel::ArgSort { x, descending }, [y]) => arg_sort(gpu, x, *descending, y),
        (Kernel::ArgMax { x }, _) => by_rows(gpu, "arg_max", Each::Group, &[x], &[], &[], outputs),
        (Kernel::Recurrence { decay, input }, _) => {
            by_rows(gpu, "recurrence", Each::Invocation, &[decay, input], &[], &[], outputs)
        }
        (Kernel::Softmax { x }, _) => by_rows(gpu, "softmax", Each::Row, &[x], &[], &[], outputs),
        (Kernel::SoftmaxGrad { y, g }, _) => {
            by_rows(gpu, "softmax_grad", Each::Row, &[y, g], &[], &[], outputs)
        }
        (Kernel::Normalise { x, weight, bias, eps, centred }, _) => {
            let settings = [(*eps as f32).to_bits(), u32::from(*centred)];
            by_rows(gpu, "normalise", Each::Row, &[x, weight, bias], &[], &settings, outputs)
        }
        (Kernel::NormaliseGrad { x, weight, statistics, g, centred }, _) => {
            let inputs = [*x, weight, statistics, g];
            by_rows(gpu, "normalise_grad", Each::Row, &inputs, &[], &[u32::from(*centred)], outputs)
        }
        (Kernel::CrossEntropy { logits, targets }, _) => {
            by_rows(gpu, "cross_entropy", Each::Row, &[logits], &[targets], &[], outputs)
        }
        (Kernel::CrossEntropyGrad { logits, log_sum, targets, g }, _) => {
            // One number for each row is a row of one.
            let [log_sum, g] = [log_sum, g].map(|x| x.view(x.layout().unsqueeze(x.sizes().len())));
            let inputs = [*logits, &log_sum, &g];
            by_rows(gpu, "cross_entropy_grad", Each::Element, &inputs, &[targets], &[], outputs)
        }
        (Kernel::Attention { inputs }, [out, sums]) => attention::attention(gpu, inputs, [out, sums]),
        (Kernel::AttentionGrad { inputs, sums, g, wanted }, [dq, dk, dv]) => {
            attention::attention_grad(gpu, inputs, [sums, g], [dq, dk, dv], *wanted)
        }
        _ => unreachable!("as many outputs as Kernel::output_sizes says"),
    }
}

/// What works on one row, or on less.
#[derive(Clone, Copy, PartialEq)]
enum Each {
    /// On each row whoever [`Gpu::sharing`] says.
    Row,
    /// A workgroup on each row.
    Group,
    /// An invocation on each row.
    Invocation,
    /// An invocation on each element.
    Element,
}

/// A kernel that works on each row by itself. The first input gives the width; an input of one row
/// serves all rows; `ids` hold one index for each row. Parameters are: rows (or elements), width, the
/// offset of each input, `settings`.
fn by_rows(
    gpu: &Arc<Gpu>,
    shader: &str,
    each: Each,
    inputs: &[&Array],
    ids: &[&Ids],
    settings: &[u32],
    outputs: &[Arc<Memory>],
) -> Recorded {
    let inputs: Vec<Rows> = inputs.iter().map(|x| Rows::of(x)).collect();
    let ids: Vec<Memory> = ids.iter().map(|ids| upload_words(gpu, ids.values())).collect();
    let (count, width) = (inputs[0].count, inputs[0].width);
    let sharing = gpu.sharing(width);
    // Outputs and indices as rows too.
    let written: Vec<(&Memory, usize)> = outputs.iter().map(|y| (&**y, y.len() / count)).collect();
    let listed: Vec<(&Memory, usize)> = ids.iter().map(|list| (list, 1)).collect();
    let widths = inputs.iter().map(|x| x.width).chain(written.iter().map(|&(_, width)| width));
    for (first, rows) in pieces(gpu, count, widths.max().unwrap_or(1))? {
        let mut params = vec![(if each == Each::Element { rows * width } else { rows }) as u32, width as u32];
        let mut bound = Vec::new();
        for x in &inputs {
            let (window, offset) = if x.count == 1 { x.window(0, 1) } else { x.window(first, rows) };
            params.push(offset as u32);
            bound.push(window);
        }
        params.extend(settings);
        let part = |&(memory, width): &(_, usize)| Window::aligned(memory, first * width, rows * width);
        bound.extend(listed.iter().map(part));
        let targets: Vec<Window> = written.iter().map(part).collect();
        let groups = match each {
            Each::Row if sharing == Sharing::Alone => rows.div_ceil(ROW_GROUP),
            Each::Row | Each::Group => rows,
            Each::Invocation => per_element(rows),
            Each::Element => per_element(rows * width),
        };
        let pipeline = shader_pipeline(gpu, shader, "main", sharing, [bound.len(), targets.len()]);
        dispatch(gpu, &pipeline, &params, &bound, &targets, groups, 0)?;
    }
    Ok(())
}

/// Workgroups when each invocation does one of `count` things.
pub fn per_element(count: usize) -> usize {
    count.div_ceil(ELEMENT_GROUP)
}

fn concat(gpu: &Arc<Gpu>, parts: &[&Array], axis: usize, y: &Memory) -> Recorded {
    let parts: Vec<Rows> = parts.iter().map(|part| Rows::behind(part, axis)).collect();
    let total: usize = parts.iter().map(|part| part.width).sum();
    let copy = |part: &Rows, from: usize, to: usize, rows: usize, width: usize| {
        let begin = part.dense.layout().offset() + from;
        let (source, offset) = Window::of(memory(&part.dense), begin, rows * width);
        let (target, begin) = Window::of(y, to, (rows - 1) * total + width);
        let params = [rows * width, width, offset, total, begin].map(|word| word as u32);
        launch(gpu, "concat", "main", &params, &[source], &[target], per_element(rows * width))
    };
    let mut start = 0;
    for part in parts.iter().filter(|part| part.count * part.width > 0) {
        let most = room(gpu) / total;
        if most > 0 {
            for first in (0..part.count).step_by(most) {
                let rows = most.min(part.count - first);
                copy(part, first * part.width, first * total + start, rows, part.width)?;
            }
        } else {
            for row in 0..part.count {
                for (first, count) in pieces(gpu, part.width, 1)? {
                    copy(part, row * part.width + first, row * total + start + first, 1, count)?;
                }
            }
        }
        start += part.width;
    }
    Ok(())
}

fn gather(gpu: &Arc<Gpu>, table: &Array, ids: &Ids, y: &Memory) -> Recorded {
    let table = Rows::behind(table, 1);
    let width = table.width;
    let ids = upload_words(gpu, ids.values());
    for (first, rows) in pieces(gpu, ids.len(), width.max(1))? {
        let list = Window::aligned(&ids, first, rows);
        let target = Window::aligned(y, first * width, rows * width);
        for (row, held) in pieces(gpu, table.count, width)? {
            let (source, offset) = table.window(row, held);
            let params = [rows * width, width, offset, row, held].map(|word| word as u32);
            launch(gpu, "gather", "main", &params, &[source, list], &[target], per_element(rows * width))?;
        }
    }
    Ok(())
}

fn scatter_add(gpu: &Arc<Gpu>, rows: &Array, ids: &Ids, count: usize, y: &Memory) -> Recorded {
    let rows = Rows::of(rows);
    let width = rows.width;
    let sources = ids.sources(count);
    let [starts, positions] = [sources.starts(), sources.positions()].map(|words| upload_words(gpu, words));
    let [starts, positions] = [&starts, &positions].map(|list| Window::aligned(list, 0, list.len()));
    for (first, targets) in pieces(gpu, count, width)? {
        let target = Window::aligned(y, first * width, targets * width);
        for (row, held) in pieces(gpu, rows.count, width)? {
            let (source, offset) = rows.window(row, held);
            let params = [targets * width, width, offset, first, row, held].map(|word| word as u32);
            let inputs = [source, starts, positions];
            launch(gpu, "scatter_add", "main", &params, &inputs, &[target], per_element(targets * width))?;
        }
    }
    Ok(())
}

/// Sorts runs, then merges them two by two, from one buffer to another and back.
fn arg_sort(gpu: &Arc<Gpu>, x: &Array, descending: bool, y: &Arc<Memory>) -> Recorded {
    let x = Rows::of(x);
    let merges = x.width.div_ceil(RUN).next_power_of_two().ilog2();
    let spare = if merges > 0 { reserve(gpu, y.len())? } else { y.clone() };
    let flip = if descending { u32::MAX } else { 0 };
    for (first, rows) in pieces(gpu, x.count, x.width)? {
        let (keys, offset) = x.window(first, rows);
        let [y, spare] = [y, &spare].map(|memory| Window::aligned(memory, first * x.width, rows * x.width));
        // The last pass writes to `y`.
        let (mut target, mut other) = if merges.is_multiple_of(2) { (y, spare) } else { (spare, y) };
        let pass = |entry, run: usize, order, target| {
            let params = [(rows * x.width) as u32, x.width as u32, offset as u32, flip, run as u32];
            launch(gpu, "arg_sort", entry, &params, &[keys, order], &[target], per_element(rows * x.width))
        };
        // The first pass reads no order, and the keys stand in its place.
        pass("sort_runs", RUN, keys, target)?;
        for merge in 0..merges {
            std::mem::swap(&mut target, &mut other);
            pass("merge", RUN << merge, other, target)?;
        }
    }
    Ok(())
}

/// Records an entry point of a shader.
pub fn launch(
    gpu: &Gpu,
    shader: &str,
    entry: &str,
    params: &[u32],
    inputs: &[Window],
    outputs: &[Window],
    groups: usize,
) -> Recorded {
    launch_heavy(gpu, shader, entry, params, inputs, outputs, groups, 0)
}

/// As [`launch`], with the number of floating-point operations, where they are many.
#[expect(clippy::too_many_arguments, reason = "one place, and each argument has a name at the caller")]
pub fn launch_heavy(
    gpu: &Gpu,
    shader: &str,
    entry: &str,
    params: &[u32],
    inputs: &[Window],
    outputs: &[Window],
    groups: usize,
    flops: u64,
) -> Recorded {
    // Whoever asks for a workgroup on each row asks because the rows are long.
    let sharing = gpu.sharing(usize::MAX);
    let pipeline = shader_pipeline(gpu, shader, entry, sharing, [inputs.len(), outputs.len()]);
    dispatch(gpu, &pipeline, params, inputs, outputs, groups, flops)
}

fn shader_pipeline(
    gpu: &Gpu,
    shader: &str,
    entry: &str,
    sharing: Sharing,
    [inputs, outputs]: [usize; 2],
) -> Arc<Pipeline> {
    let recipe = Recipe { name: shader, entry, inputs, outputs };
    let key = format!("{shader} {entry} {sharing:?}");
    gpu.pipelines.get(&gpu.context.device, &key, recipe, || pipeline::source(shader, sharing))
}

/// Hands a dispatch to the queue.
pub fn dispatch(
    gpu: &Gpu,
    pipeline: &Pipeline,
    params: &[u32],
    inputs: &[Window],
    outputs: &[Window],
    groups: usize,
    flops: u64,
) -> Recorded {
    let mut bindings = Vec::with_capacity(inputs.len() + outputs.len());
    for window in inputs.iter().chain(outputs) {
        bindings.push(window.binding()?);
    }
    gpu.queue.dispatch(&Dispatch { pipeline, params, buffers: &bindings, grid: grid(groups), flops });
    Ok(())
}

/// Workgroups along x and y, since one axis holds no more than 65,535.
fn grid(groups: usize) -> [u32; 2] {
    let rows = groups.div_ceil(65_535).max(1);
    [groups.div_ceil(rows) as u32, rows as u32]
}
