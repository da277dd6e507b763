//! The laws of MTLoRA: the four structures of T between the factors.

use std::collections::BTreeMap;

use engrad::adapters::{self, Adapted, Lora, Mtlora, Structure, TransformStart};
use engrad::nn::{Linear, Module, Walker};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Device, Reduction, Tensor};

use super::{
    Law, gradients, identity, largest, largest_gradient, merging, nothing, off, param, scatter, truth, update,
};
use crate::common::{larger, random};
use crate::tiny::Chain;

const INPUTS: usize = 6;
const OUTPUTS: usize = 5;
const RANK: usize = 3;

/// The law of a name, if it is one of MTLoRA's.
pub fn named(name: &str) -> Option<Law> {
    let structures = [
        ("SHIM: ", Structure::Shim),
        ("ICFM: ", Structure::Icfm),
        ("CTCM: ", Structure::Ctcm),
        ("DTSM: ", Structure::Dtsm),
    ];
    for (start, structure) in structures {
        if let Some(law) = name.strip_prefix(start).and_then(of_each) {
            return Some(Box::new(move |device| law(structure, device)));
        }
    }
    let law = match name {
        "ICFM: T symmetric" => icfm_is_symmetric,
        "ICFM: smallest eigenvalue of T not negative" => icfm_is_never_negative,
        "CTCM: det T = det C det D" => ctcm_determinant,
        "DTSM: gradients of C and D equal (bit for bit)" => dtsm_gradients_are_equal,
        "DTSM: C - D constant over AdamW steps without decay" => dtsm_keeps_its_distance,
        "(B Q, Q^-1 T P, P^-1 A) leaves the update unchanged" => changes_of_basis_cancel,
        "SHIM with B = 0, C = C0: first gradient of B is LoRA's with A = C0 A" => {
            shim_starts_like_another_lora
        }
        "fused T: dW_p = s B_p (T A)[rows of p]" => fused_update,
        "fused T: merged = unmerged" => fused_merging,
        "counts: LoRA r=8 768: 12,288; DeBERTaV3-base 1,327,104 + 4,608; LLaVA 319,815,680 + 3,670,016" => {
            counts
        }
        _ => return None,
    };
    Some(Box::new(law))
}

fn of_each(law: &str) -> Option<fn(Structure, &Device) -> f64> {
    Some(match law {
        "gradients are those of section 1.2" => gradients_are_the_formulas,
        "rank of the update at most r" => |structure, device| rank(&update(&scattered(structure, device).0)),
        "T = I at the identity start" => starts_at_the_identity,
        "T = I gives LoRA's update" => with_the_identity_is_lora,
        "B = 0: gradients of A, C, D exactly zero" => only_b_moves_first,
        "B = 0, T = I: gradient of B is LoRA's" => b_moves_as_in_lora,
        "T = 0: only C (and D) move, A and B have exactly zero gradients" => from_zero_only_t_moves,
        "T = 0 is a saddle, all gradients exactly zero" => zero_is_a_saddle,
        "merged = unmerged" => merging_is_exact,
        "T frozen at I = PEFT's LoRA, 20 AdamW steps: losses" => {
            |structure, device| frozen_runs(structure, device)[0]
        }
        "the same: final A and B" => |structure, device| frozen_runs(structure, device)[1],
        _ => return None,
    })
}

/// A layer that only the adapter fills, at its start.
fn fresh(structure: Structure, device: &Device) -> (Chain, Adapted) {
    let model = nothing(OUTPUTS, INPUTS, device);
    let tuned = adapters::attach(&model, "only", Mtlora::new(structure, RANK)).unwrap();
    (model, tuned)
}

fn scattered(structure: Structure, device: &Device) -> (Chain, Adapted) {
    let (model, tuned) = fresh(structure, device);
    scatter(&tuned, 1);
    (model, tuned)
}

/// A, B, C and, where there is one, D.
fn parts(tuned: &Adapted) -> [Tensor; 4] {
    let value = |end: &str| param(tuned, end).value().detach();
    let second = tuned.trainable().iter().any(|(path, _)| path.ends_with("mtlora_D"));
    let c = value("mtlora_C");
    [value("lora_A.weight"), value("lora_B.weight"), c.clone(), if second { value("mtlora_D") } else { c }]
}

fn transform(structure: Structure, c: &Tensor, d: &Tensor) -> Tensor {
    match structure {
        Structure::Shim => c.clone(),
        Structure::Icfm => c.matmul(&c.t()),
        Structure::Ctcm => c.matmul(d),
        Structure::Dtsm => c + d,
    }
}

/// T as the layer has it: the update where A, B and the scale are the identity.
fn t_of(structure: Structure, c: Option<u64>, device: &Device) -> Tensor {
    let model = nothing(RANK, RANK, device);
    let method = Mtlora { alpha: RANK as f64, ..Mtlora::new(structure, RANK) };
    let tuned = adapters::attach(&model, "only", method).unwrap();
    if let Some(seed) = c {
        scatter(&tuned, seed);
    }
    ["lora_A.weight", "lora_B.weight"].iter().for_each(|end| param(&tuned, end).set(&identity(RANK, device)));
    update(&model).detach()
}

/// A loss with the gradient G: `[out, in]` with respect to the update.
fn loss(model: &Chain, device: &Device) -> (Tensor, Tensor) {
    let g = random(&[OUTPUTS, INPUTS], 55, device);
    ((update(model) * &g).sum(..), g)
}

fn gradients_are_the_formulas(structure: Structure, device: &Device) -> f64 {
    let (model, tuned) = scattered(structure, device);
    let [a, b, c, d] = parts(&tuned);
    let t = transform(structure, &c, &d);
    let (loss, g) = loss(&model, device);
    let found = gradients(&tuned, loss);
    let scale = 2.0;
    let of_t = b.t().matmul(&g).matmul(&a.t()) * scale;
    let (of_c, of_d) = match structure {
        Structure::Icfm => ((&of_t + of_t.t()).matmul(&c), of_t.clone()),
        Structure::Ctcm => (of_t.matmul(&d.t()), c.t().matmul(&of_t)),
        _ => (of_t.clone(), of_t.clone()),
    };
    let expected = BTreeMap::from([
        ("only.lora_A.weight", t.t().matmul(&b.t()).matmul(&g) * scale),
        ("only.lora_B.weight", g.matmul(&a.t()).matmul(&t.t()) * scale),
        ("only.mtlora_C", of_c),
        ("only.mtlora_D", of_d),
    ]);
    found.iter().fold(0.0, |worst, (path, found)| larger(worst, off(found, &expected[path.as_str()])))
}

/// The rank of a matrix, by elimination with the largest pivot that is left.
fn rank(matrix: &Tensor) -> f64 {
    let [rows, columns] = [matrix.sizes()[0], matrix.sizes()[1]];
    let mut m = matrix.to_f64();
    let tiny = largest(&m) * if matrix.device() == Device::Reference { 1e-10 } else { 1e-4 };
    let mut rank = 0;
    while rank < rows.min(columns) {
        let places = (rank..rows).flat_map(|i| (rank..columns).map(move |j| (i, j)));
        let at = |&(i, j): &(usize, usize)| m[i * columns + j].abs();
        let (i, j) = places.max_by(|a, b| at(a).total_cmp(&at(b))).unwrap();
        if m[i * columns + j].abs() <= tiny {
            break;
        }
        (0..columns).for_each(|k| m.swap(i * columns + k, rank * columns + k));
        (0..rows).for_each(|k| m.swap(k * columns + j, k * columns + rank));
        for row in rank + 1..rows {
            let factor = m[row * columns + rank] / m[rank * columns + rank];
            (rank..columns).for_each(|k| m[row * columns + k] -= factor * m[rank * columns + k]);
        }
        rank += 1;
    }
    rank as f64
}

fn starts_at_the_identity(structure: Structure, device: &Device) -> f64 {
    off(&t_of(structure, None, device), &identity(RANK, device))
}

/// LoRA with the same A and B.
fn lora(a: &Tensor, b: &Tensor, device: &Device) -> (Chain, Adapted) {
    let model = nothing(OUTPUTS, INPUTS, device);
    let tuned =
        adapters::attach(&model, "only", Lora { alpha: 2.0 * RANK as f64, ..Lora::new(RANK) }).unwrap();
    param(&tuned, "lora_A.weight").set(a);
    param(&tuned, "lora_B.weight").set(b);
    (model, tuned)
}

fn with_the_identity_is_lora(structure: Structure, device: &Device) -> f64 {
    let (model, tuned) = fresh(structure, device);
    let [a, b] = [random(&[RANK, INPUTS], 8, device), random(&[OUTPUTS, RANK], 9, device)];
    param(&tuned, "lora_A.weight").set(&a);
    param(&tuned, "lora_B.weight").set(&b);
    off(&update(&model), &update(&lora(&a, &b, device).0))
}

fn only_b_moves_first(structure: Structure, device: &Device) -> f64 {
    let (model, tuned) = scattered(structure, device);
    param(&tuned, "lora_B.weight").set(&Tensor::zeros([OUTPUTS, RANK], device));
    let found = gradients(&tuned, loss(&model, device).0);
    assert!(largest_gradient(&found, &["lora_B"]) > 0.0);
    largest_gradient(&found, &["lora_A", "mtlora_"])
}

fn b_moves_as_in_lora(structure: Structure, device: &Device) -> f64 {
    let (model, tuned) = fresh(structure, device);
    let [a, b, ..] = parts(&tuned);
    let found = gradients(&tuned, loss(&model, device).0);
    let (model, tuned) = lora(&a, &b, device);
    let expected = gradients(&tuned, loss(&model, device).0);
    off(&found["only.lora_B.weight"], &expected["only.lora_B.weight"])
}

fn from_zero_only_t_moves(structure: Structure, device: &Device) -> f64 {
    let model = nothing(OUTPUTS, INPUTS, device);
    let method = Mtlora { start: TransformStart::ZeroT, ..Mtlora::new(structure, RANK) };
    let tuned = adapters::attach(&model, "only", method).unwrap();
    let found = gradients(&tuned, loss(&model, device).0);
    assert!(largest_gradient(&found, &["mtlora_C"]) > 0.0);
    largest_gradient(&found, &["lora_A.", "lora_B."])
}

fn zero_is_a_saddle(structure: Structure, device: &Device) -> f64 {
    let (model, tuned) = scattered(structure, device);
    let zero = Tensor::zeros([RANK, RANK], device);
    for (_, param) in tuned.trainable().iter().filter(|(path, _)| path.contains("mtlora_")) {
        param.set(&zero);
    }
    largest_gradient(&gradients(&tuned, loss(&model, device).0), &["only"])
}

fn merging_is_exact(structure: Structure, device: &Device) -> f64 {
    let model = Chain::one(&random(&[OUTPUTS, INPUTS], 3, device));
    let tuned = adapters::attach(&model, "only", Mtlora::new(structure, RANK)).unwrap();
    scatter(&tuned, 1);
    merging(&model, &tuned, device)
}

/// A regression for 20 steps: its losses, and A and B at the end.
fn regression(tuned: Adapted, model: &Chain, device: &Device) -> (Vec<f64>, [Tensor; 2]) {
    let (x, target) = (random(&[8, INPUTS], 21, device), random(&[8, OUTPUTS], 22, device));
    let ends = ["lora_A.weight", "lora_B.weight"].map(|end| param(&tuned, end));
    let mut trainer = Trainer::new(tuned, AdamW::new(0.0), Schedule::constant(0.02));
    let step = |_| trainer.step(|| model.forward(&x).mse_loss(&target, Reduction::Mean)).unwrap().loss;
    ((0..20).map(step).collect(), ends.map(|param| param.value()))
}

/// How far losses, and A and B, are from those of LoRA when T stays the identity.
fn frozen_runs(structure: Structure, device: &Device) -> [f64; 2] {
    let (model, tuned) = fresh(structure, device);
    let [a, b, ..] = parts(&tuned);
    let transforms = tuned.trainable();
    transforms.iter().filter(|(path, _)| path.contains("mtlora_")).for_each(|(_, param)| param.freeze());
    let (losses, ends) = regression(tuned, &model, device);
    let (model, tuned) = lora(&a, &b, device);
    let (expected, others) = regression(tuned, &model, device);
    assert!(expected[19] < expected[0]);
    let apart: Vec<f64> = losses.iter().zip(&expected).map(|(a, b)| a - b).collect();
    [largest(&apart), larger(off(&ends[0], &others[0]), off(&ends[1], &others[1]))]
}

fn icfm_is_symmetric(device: &Device) -> f64 {
    let t = t_of(Structure::Icfm, Some(4), device);
    off(&t, &t.t())
}

/// Every principal minor of a matrix without negative eigenvalues is at least 0.
fn icfm_is_never_negative(device: &Device) -> f64 {
    let t = t_of(Structure::Icfm, Some(4), device).to_f64();
    let minors = (1..1usize << RANK).map(|chosen| {
        let at: Vec<usize> = (0..RANK).filter(|at| chosen >> at & 1 == 1).collect();
        let rows = at.iter().map(|i| at.iter().map(|j| t[i * RANK + j]).collect::<Vec<_>>());
        determinant(&rows.collect::<Vec<_>>().concat(), at.len())
    });
    minors.fold(0.0, |worst, minor| larger(worst, -minor))
}

/// By the first row.
fn determinant(m: &[f64], size: usize) -> f64 {
    if size == 0 {
        return 1.0;
    }
    let without = |column: usize| -> Vec<f64> {
        let kept = (size..m.len()).filter(|at| at % size != column);
        kept.map(|at| m[at]).collect()
    };
    let term = |column: usize| m[column] * determinant(&without(column), size - 1);
    (0..size).map(|column| if column.is_multiple_of(2) { term(column) } else { -term(column) }).sum()
}

fn ctcm_determinant(device: &Device) -> f64 {
    let model = nothing(RANK, RANK, device);
    let tuned = adapters::attach(&model, "only", Mtlora::new(Structure::Ctcm, RANK)).unwrap();
    scatter(&tuned, 4);
    let [c, d] = ["mtlora_C", "mtlora_D"].map(|end| determinant(&param(&tuned, end).value().to_f64(), RANK));
    let t = determinant(&t_of(Structure::Ctcm, Some(4), device).to_f64(), RANK);
    (t - c * d).abs() / t.abs()
}

fn dtsm_gradients_are_equal(device: &Device) -> f64 {
    let (model, tuned) = scattered(Structure::Dtsm, device);
    let found = gradients(&tuned, loss(&model, device).0);
    truth(found["only.mtlora_C"].to_f64() == found["only.mtlora_D"].to_f64())
}

fn dtsm_keeps_its_distance(device: &Device) -> f64 {
    let (model, tuned) = fresh(Structure::Dtsm, device);
    let [c, d] = ["mtlora_C", "mtlora_D"].map(|end| param(&tuned, end));
    let distance = || c.value().detach() - d.value().detach();
    let (start, before) = (c.value().to_f64(), distance());
    regression(tuned, &model, device);
    assert!(c.value().to_f64() != start);
    off(&distance(), &before)
}

/// A matrix and its inverse: two shears one after the other.
fn invertible(shears: [[usize; 2]; 2], device: &Device) -> [Tensor; 2] {
    let shear = |[row, column]: [usize; 2], by: f64| {
        let mut values = identity(RANK, device).to_f64();
        values[row * RANK + column] = by;
        Tensor::from_f64(&values, [RANK, RANK], device)
    };
    let [first, second] = shears;
    [shear(first, 0.75).matmul(&shear(second, -1.5)), shear(second, 1.5).matmul(&shear(first, -0.75))]
}

fn changes_of_basis_cancel(device: &Device) -> f64 {
    let (model, tuned) = scattered(Structure::Shim, device);
    let [a, b, c, _] = parts(&tuned);
    let before = update(&model);
    let [q, q_inverse] = invertible([[0, 1], [2, 0]], device);
    let [p, p_inverse] = invertible([[1, 2], [0, 1]], device);
    param(&tuned, "lora_B.weight").set(&b.matmul(&q));
    param(&tuned, "mtlora_C").set(&q_inverse.matmul(&c).matmul(&p));
    param(&tuned, "lora_A.weight").set(&p_inverse.matmul(&a));
    off(&update(&model), &before)
}

fn shim_starts_like_another_lora(device: &Device) -> f64 {
    let (model, tuned) = scattered(Structure::Shim, device);
    let zero = Tensor::zeros([OUTPUTS, RANK], device);
    param(&tuned, "lora_B.weight").set(&zero);
    let [a, _, c, _] = parts(&tuned);
    let found = gradients(&tuned, loss(&model, device).0);
    let (model, tuned) = lora(&c.matmul(&a), &zero, device);
    let expected = gradients(&tuned, loss(&model, device).0);
    off(&found["only.lora_B.weight"], &expected["only.lora_B.weight"])
}

/// Three projections of `6 -> 4` with one T, on a base.
fn fused(base: &Tensor) -> (Chain, Adapted) {
    let model = Chain::one(base);
    let method = Mtlora { fused: vec![("only".into(), 3)], ..Mtlora::new(Structure::Ctcm, 2) };
    let tuned = adapters::attach(&model, "only", method).unwrap();
    scatter(&tuned, 6);
    (model, tuned)
}

fn fused_update(device: &Device) -> f64 {
    let (model, tuned) = fused(&Tensor::zeros([12, 6], device));
    let [a, b, c, d] = parts(&tuned);
    let mixed = transform(Structure::Ctcm, &c, &d).matmul(&a);
    let part = |at: usize| b.narrow(0, 4 * at, 4).matmul(&mixed.narrow(0, 2 * at, 2)) * 2.0;
    let expected = Tensor::concat(&[&part(0), &part(1), &part(2)], 0);
    off(&update(&model), &expected)
}

fn fused_merging(device: &Device) -> f64 {
    let (model, tuned) = fused(&random(&[12, 6], 5, device));
    merging(&model, &tuned, device)
}

/// Layers that cost no memory: one number, seen everywhere.
struct Shapes(Vec<Linear>);

impl Module for Shapes {
    fn walk(&self, at: &mut Walker<'_>) {
        at.children("layer", &self.0);
    }
}

/// What LoRA trains in layers of these inputs and outputs, and what MTLoRA trains besides.
fn count(shapes: &[(usize, [usize; 2])], rank: usize) -> [usize; 2] {
    let one = Tensor::zeros([1, 1], &Device::Cpu);
    let layers = || -> Shapes {
        let layer = |&(count, [inputs, outputs]): &(usize, [usize; 2])| {
            let weight = one.expand([outputs, inputs]);
            (0..count).map(move |_| Linear::from_weights(&weight, None))
        };
        Shapes(shapes.iter().flat_map(layer).collect())
    };
    let trained = |tuned: Adapted| tuned.trainable().iter().map(|(_, param)| param.count()).sum::<usize>();
    let plain = trained(adapters::attach(&layers(), "*", Lora::new(rank)).unwrap());
    let shim = trained(adapters::attach(&layers(), "*", Mtlora::new(Structure::Shim, rank)).unwrap());
    [plain, shim - plain]
}

fn counts(_: &Device) -> f64 {
    let deberta = [(4, [768, 768]), (1, [768, 3072]), (1, [3072, 768])];
    let llava = [(4, [4096, 4096]), (2, [4096, 11008]), (1, [11008, 4096])];
    truth(
        count(&[(1, [768, 768])], 8) == [12_288, 64]
            && count(&deberta, 8).map(|count| 12 * count) == [1_327_104, 4_608]
            && count(&llava, 128).map(|count| 32 * count) == [319_815_680, 3_670_016],
    )
}
