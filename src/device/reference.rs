//! The definition of every kernel: f64, plain loops, nothing clever.
//!
//! Read this file to learn what a kernel means; the other devices are held to it. Every kernel
//! first reads its inputs in row-major order, so no strides appear below `read`.
//! Read next: `cpu/mod.rs` for the fast forms, or `tensor/mod.rs` to go up a layer.

use std::cmp::Ordering;
use std::f64::consts::PI;
use std::sync::Arc;

use super::array::{Array, Buffer, Ids};
use super::erf::{erf, normal_cdf};
use super::kernel::{AttentionInputs, Fold, Kernel, MASKED};
use crate::expr::{Binary, Instruction, Program, Unary};
use crate::layout::Layout;
use crate::rng;

/// Runs one kernel.
pub fn run(kernel: &Kernel) -> Vec<Array> {
    let values = match kernel {
        Kernel::Elementwise { program, inputs, sizes } => elementwise(program, inputs, sizes),
        Kernel::Reduce { op, x, axes } => vec![reduce(*op, x, axes)],
        Kernel::ArgMax { x } => vec![rows(x).map(|row| arg_max(&row) as f64).collect()],
        Kernel::ArgSort { x, descending } => {
            vec![rows(x).flat_map(|row| arg_sort(&row, *descending)).collect()]
        }
        Kernel::Recurrence { decay, input } => vec![recurrence(decay, input)],
        Kernel::MatMul { a, b, scale, add } => vec![matmul(a, b, *scale, *add)],
        Kernel::Concat { parts, axis } => vec![concat(parts, *axis)],
        Kernel::Gather { table, ids } => vec![gather(table, ids)],
        Kernel::ScatterAdd { rows, ids, count } => vec![scatter_add(rows, ids, *count)],
        Kernel::Softmax { x } => vec![rows(x).flat_map(|row| softmax(&row)).collect()],
        Kernel::SoftmaxGrad { y, g } => {
            vec![rows(y).zip(rows(g)).flat_map(|(y, g)| softmax_grad(&y, &g)).collect()]
        }
        Kernel::Normalise { x, weight, bias, eps, centred } => normalise(x, weight, bias, *eps, *centred),
        Kernel::NormaliseGrad { x, weight, statistics, g, centred } => {
            vec![normalise_grad(x, weight, statistics, g, *centred)]
        }
        Kernel::CrossEntropy { logits, targets } => cross_entropy(logits, targets),
        Kernel::CrossEntropyGrad { logits, log_sum, targets, g } => {
            vec![cross_entropy_grad(logits, log_sum, targets, g)]
        }
        Kernel::Attention { inputs } => attention(inputs),
        Kernel::AttentionGrad { inputs, sums, g, wanted } => attention_grad(inputs, sums, g, *wanted),
    };
    let array = |(values, sizes): (Vec<f64>, Vec<usize>)| {
        Array::new(Layout::contiguous(sizes), Buffer::Reference(Arc::new(values)))
    };
    values.into_iter().zip(kernel.output_sizes()).map(array).collect()
}

/// The elements in row-major order.
fn read(x: &Array) -> Vec<f64> {
    super::download_f64(x).expect("memory of the processor is always readable")
}

/// The rows along the last axis.
fn rows(x: &Array) -> impl Iterator<Item = Vec<f64>> {
    let (&width, outer) = x.sizes().split_last().expect("a row kernel takes at least one axis");
    // Rows without elements are rows still: a row kernel may give one number for each.
    let count: usize = outer.iter().product();
    let values = read(x);
    (0..count).map(move |row| values[row * width..(row + 1) * width].to_vec())
}

fn elementwise(program: &Program, inputs: &[Array], sizes: &[usize]) -> Vec<Vec<f64>> {
    let inputs: Vec<_> = inputs.iter().map(read).collect();
    let count: usize = sizes.iter().product();
    let elements = (0..count).map(|at| run_program(program, at, |input| inputs[input][at]));
    let mut outputs = vec![Vec::with_capacity(count); program.outputs().len()];
    for lines in elements {
        for (output, &line) in outputs.iter_mut().zip(program.outputs()) {
            output.push(lines[line]);
        }
    }
    outputs
}

/// The value of every line for one element.
fn run_program(program: &Program, at: usize, input: impl Fn(usize) -> f64) -> Vec<f64> {
    let mut lines = Vec::with_capacity(program.instructions().len());
    for instruction in program.instructions() {
        lines.push(match *instruction {
            Instruction::Input(number) => input(number),
            Instruction::Number(value) => value,
            Instruction::Random(seed) => f64::from(rng::uniform(seed, at as u32)),
            Instruction::Unary(f, a) => unary(f, lines[a]),
            Instruction::Binary(f, a, b) => binary(f, lines[a], lines[b]),
            Instruction::Select(condition, a, _) if lines[condition] != 0.0 => lines[a],
            Instruction::Select(_, _, b) => lines[b],
        });
    }
    lines
}

fn unary(f: Unary, x: f64) -> f64 {
    match f {
        Unary::Neg => -x,
        Unary::Exp => x.exp(),
        Unary::ExpM1 => x.exp_m1(),
        Unary::Ln => x.ln(),
        Unary::Ln1p => x.ln_1p(),
        Unary::Sqrt => x.sqrt(),
        Unary::Tanh => x.tanh(),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Erf => erf(x),
        // What x is multiplied by is 0 before 40: infinite ones have their limits.
        Unary::Gelu => x.max(-40.0) * normal_cdf(x),
        Unary::GeluSlope => normal_cdf(x) + x.clamp(-40.0, 40.0) * (-0.5 * x * x).exp() / (2.0 * PI).sqrt(),
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Abs => x.abs(),
        Unary::Sign => {
            if x == 0.0 {
                0.0
            } else {
                x.signum()
            }
        }
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
    }
}

fn binary(f: Binary, a: f64, b: f64) -> f64 {
    let one_if = |condition: bool| if condition { 1.0 } else { 0.0 };
    match f {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Max => {
            if a.is_nan() || a > b {
                a
            } else {
                b
            }
        }
        Binary::Min => {
            if a.is_nan() || a < b {
                a
            } else {
                b
            }
        }
        Binary::Pow => a.powf(b),
        Binary::Less => one_if(a < b),
        Binary::LessEqual => one_if(a <= b),
        Binary::Equal => one_if(a == b),
    }
}

fn reduce(op: Fold, x: &Array, axes: &[usize]) -> Vec<f64> {
    let kept: Vec<usize> = (0..x.sizes().len()).filter(|axis| !axes.contains(axis)).collect();
    let reduced = x.view(x.layout().permute(&[&kept[..], axes].concat()));
    let width: usize = axes.iter().map(|&axis| x.sizes()[axis]).product();
    let count: usize = kept.iter().map(|&axis| x.sizes()[axis]).product();
    let values = read(&reduced);
    (0..count)
        .map(|row| {
            let row = values[row * width..(row + 1) * width].iter().copied();
            match op {
                Fold::Sum => row.fold(0.0, |a, b| a + b),
                Fold::Max => row.fold(f64::NEG_INFINITY, |a, b| binary(Binary::Max, a, b)),
            }
        })
        .collect()
}

/// NaN counts as larger than every number, so that it shows.
fn ascending(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

fn arg_max(row: &[f64]) -> usize {
    (1..row.len()).fold(0, |best, at| if ascending(row[at], row[best]).is_gt() { at } else { best })
}

fn arg_sort(row: &[f64], descending: bool) -> Vec<f64> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| if descending { ascending(row[b], row[a]) } else { ascending(row[a], row[b]) });
    order.into_iter().map(|at| at as f64).collect()
}

fn recurrence(decay: &Array, input: &Array) -> Vec<f64> {
    let mut output = Vec::new();
    for (decay, input) in rows(decay).zip(rows(input)) {
        let mut h = 0.0;
        for (decay, input) in decay.into_iter().zip(input) {
            h = decay * h + input;
            output.push(h);
        }
    }
    output
}

fn matmul(a: &Array, b: &Array, scale: f64, add: Option<&Array>) -> Vec<f64> {
    let [.., m, k] = *a.sizes() else { unreachable!("a matrix") };
    let n = b.width();
    let batch: usize = a.sizes()[..a.sizes().len() - 2].iter().product();
    let (a, b, add) = (read(a), read(b), add.map(read));
    let mut output = vec![0.0; batch * m * n];
    for (i, out) in output.iter_mut().enumerate() {
        let (matrix, row, column) = (i / (m * n), i / n % m, i % n);
        let dot: f64 = (0..k).map(|j| a[(matrix * m + row) * k + j] * b[(matrix * k + j) * n + column]).sum();
        *out = scale * dot + add.as_ref().map_or(0.0, |add| add[i]);
    }
    output
}

fn concat(parts: &[&Array], axis: usize) -> Vec<f64> {
    let outer: usize = parts[0].sizes()[..axis].iter().product();
    let parts: Vec<_> = parts.iter().map(|part| read(part)).collect();
    let mut output = Vec::new();
    for row in 0..outer {
        for part in &parts {
            let width = part.len() / outer;
            output.extend_from_slice(&part[row * width..(row + 1) * width]);
        }
    }
    output
}

fn gather(table: &Array, ids: &Ids) -> Vec<f64> {
    let width: usize = table.sizes()[1..].iter().product();
    let table = read(table);
    let row = |&id: &u32| match id {
        Ids::IGNORED => vec![0.0; width],
        id => table[id as usize * width..(id as usize + 1) * width].to_vec(),
    };
    ids.values().iter().flat_map(row).collect()
}

fn scatter_add(rows: &Array, ids: &Ids, count: usize) -> Vec<f64> {
    let width = rows.width();
    let rows = read(rows);
    let mut output = vec![0.0; count * width];
    for (row, &id) in ids.values().iter().enumerate().filter(|&(_, &id)| id != Ids::IGNORED) {
        for column in 0..width {
            output[id as usize * width + column] += rows[row * width + column];
        }
    }
    output
}

fn softmax(row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let terms: Vec<f64> = row.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = terms.iter().sum();
    terms.into_iter().map(|term| term / sum).collect()
}

fn softmax_grad(y: &[f64], g: &[f64]) -> Vec<f64> {
    let dot: f64 = y.iter().zip(g).map(|(y, g)| y * g).sum();
    y.iter().zip(g).map(|(y, g)| y * (g - dot)).collect()
}

fn normalise(x: &Array, weight: &Array, bias: &Array, eps: f64, centred: bool) -> Vec<Vec<f64>> {
    let (mut output, mut statistics) = (Vec::new(), Vec::new());
    let (weight, bias) = (read(weight), read(bias));
    for row in rows(x) {
        let width = row.len() as f64;
        let mean = if centred { row.iter().sum::<f64>() / width } else { 0.0 };
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width;
        let rstd = 1.0 / (variance + eps).sqrt();
        let parts = row.iter().zip(&weight).zip(&bias);
        output.extend(parts.map(|((x, weight), bias)| (x - mean) * rstd * weight + bias));
        statistics.extend([mean, rstd]);
    }
    vec![output, statistics]
}

fn normalise_grad(x: &Array, weight: &Array, statistics: &Array, g: &Array, centred: bool) -> Vec<f64> {
    let mut output = Vec::new();
    let weight = read(weight);
    for ((x, g), statistics) in rows(x).zip(rows(g)).zip(rows(statistics)) {
        let (mean, rstd) = (statistics[0], statistics[1]);
        let y: Vec<f64> = x.iter().map(|x| (x - mean) * rstd).collect();
        let g: Vec<f64> = g.iter().zip(&weight).map(|(g, weight)| g * weight).collect();
        let width = y.len() as f64;
        let mean_g = if centred { g.iter().sum::<f64>() / width } else { 0.0 };
        let mean_gy = g.iter().zip(&y).map(|(g, y)| g * y).sum::<f64>() / width;
        output.extend(g.iter().zip(&y).map(|(g, y)| rstd * (g - mean_g - y * mean_gy)));
    }
    output
}

fn cross_entropy(logits: &Array, targets: &Ids) -> Vec<Vec<f64>> {
    let (mut losses, mut log_sums) = (Vec::new(), Vec::new());
    for (row, &target) in rows(logits).zip(targets.values()) {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        losses.push(if target == Ids::IGNORED { 0.0 } else { log_sum - row[target as usize] });
        log_sums.push(log_sum);
    }
    vec![losses, log_sums]
}

fn cross_entropy_grad(logits: &Array, log_sum: &Array, targets: &Ids, g: &Array) -> Vec<f64> {
    let mut output = Vec::new();
    for (((row, &target), log_sum), g) in rows(logits).zip(targets.values()).zip(read(log_sum)).zip(read(g)) {
        for (class, x) in row.into_iter().enumerate() {
            let hit = if class as u32 == target { 1.0 } else { 0.0 };
            output.push(if target == Ids::IGNORED { 0.0 } else { g * ((x - log_sum).exp() - hit) });
        }
    }
    output
}

/// What one query looks at, with the query's number among all.
struct Query {
    number: usize,
    q: Vec<f64>,
    /// The keys and values of its matrix.
    k: Vec<Vec<f64>>,
    v: Vec<Vec<f64>>,
    scores: Vec<f64>,
    /// What dropout makes of a weight: 0, or more than 1.
    factors: Vec<f64>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The queries of all matrices, one after the other.
fn queries(of: &AttentionInputs) -> impl Iterator<Item = Query> {
    let [_, queries, keys, ..] = of.dimensions();
    let (of, kept_scale) = (*of, of.kept_scale());
    let [q, k, v] = [of.q, of.k, of.v].map(|x| rows(x).collect::<Vec<_>>());
    let bias = of.bias.map(|bias| rows(bias).collect::<Vec<_>>());
    q.into_iter().enumerate().map(move |(number, q)| {
        let matrix = number / queries * keys..(number / queries + 1) * keys;
        let (k, v) = (k[matrix.clone()].to_vec(), v[matrix].to_vec());
        let score = |(key, k): (usize, &Vec<f64>)| {
            let added = bias.as_ref().map_or(0.0, |bias| bias[number][key]);
            let hidden = if key < of.visible(number % queries) { 0.0 } else { MASKED };
            of.scale * dot(&q, k) + added + hidden
        };
        let scores = k.iter().enumerate().map(score).collect();
        let factor = |key| match of.dropout {
            Some((seed, probability)) => {
                let random = f64::from(rng::uniform(seed, (number * keys + key) as u32));
                if random < probability { 0.0 } else { kept_scale }
            }
            None => 1.0,
        };
        Query { number, q, k, v, scores, factors: (0..keys).map(factor).collect() }
    })
}

fn attention(of: &AttentionInputs) -> Vec<Vec<f64>> {
    let [.., width] = of.dimensions();
    let (mut output, mut sums) = (Vec::new(), Vec::new());
    for query in queries(of) {
        let largest = query.scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        sums.extend([largest, query.scores.iter().map(|score| (score - largest).exp()).sum()]);
        let mut seen = vec![0.0; width];
        for ((weight, factor), v) in softmax(&query.scores).into_iter().zip(query.factors).zip(query.v) {
            seen.iter_mut().zip(v).for_each(|(seen, v)| *seen += weight * factor * v);
        }
        output.extend(seen);
    }
    vec![output, sums]
}

/// With weights `p`, their gradient is `dp = factor·(v·g)`, that of the scores `p·(dp - sum(p·dp))`.
fn attention_grad(of: &AttentionInputs, sums: &Array, g: &Array, wanted: [bool; 3]) -> Vec<Vec<f64>> {
    let [_, queries_of_matrix, keys, ..] = of.dimensions();
    let [mut dq, mut dk, mut dv] = [of.q, of.k, of.v].map(|x| vec![0.0; x.layout().count()]);
    let add = |to: &mut [f64], row: usize, factor: f64, x: &[f64]| {
        to[row * x.len()..].iter_mut().zip(x).for_each(|(to, x)| *to += factor * x);
    };
    for ((query, sums), g) in queries(of).zip(rows(sums)).zip(rows(g)) {
        let weights: Vec<f64> = query.scores.iter().map(|score| (score - sums[0]).exp() / sums[1]).collect();
        let pulled = query.v.iter().zip(&query.factors).map(|(v, factor)| factor * dot(v, &g));
        let of_scores = softmax_grad(&weights, &pulled.collect::<Vec<_>>());
        for key in 0..keys {
            let row = query.number / queries_of_matrix * keys + key;
            add(&mut dq, query.number, of.scale * of_scores[key], &query.k[key]);
            add(&mut dk, row, of.scale * of_scores[key], &query.q);
            add(&mut dv, row, weights[key] * query.factors[key], &g);
        }
    }
    [dq, dk, dv].into_iter().zip(wanted).map(|(x, wanted)| if wanted { x } else { Vec::new() }).collect()
}
