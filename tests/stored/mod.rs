//! Reference values as the golden folders store them: safetensors beside JSON.
//!
//! Read with the `safetensors` crate directly, because ids and masks are integers, which
//! `engrad::nn::files` passes over.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::Path;

use engrad::{Device, Ids, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::common::larger;

/// The tensors of one file by name, and what the JSON beside it says.
pub struct Stored {
    tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
    pub notes: serde_json::Value,
}

impl Stored {
    /// Reads `path.safetensors` and `path.json`.
    pub fn read(path: impl AsRef<Path>) -> Stored {
        let path = path.as_ref();
        let read = |extension: &str| {
            let path = path.with_extension(extension);
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let notes = serde_json::from_slice(&read("json")).expect("golden files hold valid JSON");
        let bytes = read("safetensors");
        let file = SafeTensors::deserialize(&bytes).expect("golden files are valid");
        let tensors =
            file.iter().map(|(name, view)| (name.into(), (view.shape().into(), numbers(&view)))).collect();
        Stored { tensors, notes }
    }

    fn tensor_of(&self, name: &str) -> &(Vec<usize>, Vec<f64>) {
        self.tensors.get(name).unwrap_or_else(|| panic!("{name} is not stored"))
    }

    /// Every name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The sizes of a tensor.
    pub fn sizes(&self, name: &str) -> Vec<usize> {
        self.tensor_of(name).0.clone()
    }

    /// The values of a tensor, whatever its type.
    pub fn values(&self, name: &str) -> Vec<f64> {
        self.tensor_of(name).1.clone()
    }

    /// One number.
    pub fn number(&self, name: &str) -> f64 {
        self.values(name)[0]
    }

    /// A tensor on a device.
    pub fn tensor(&self, name: &str, device: &Device) -> Tensor {
        Tensor::from_f64(&self.values(name), self.sizes(name), device)
    }

    /// Class labels, all of them or those of one step.
    pub fn labels(&self, name: &str, step: Option<usize>, classes: usize) -> Ids {
        let values: Vec<u32> = self.slice(name, step).1.iter().map(|&value| value as u32).collect();
        let count = values.len();
        Ids::new(values, [count], classes).expect("golden labels are valid")
    }

    /// Labels of tokens, of which a negative one does not count.
    pub fn token_labels(&self, name: &str, limit: usize) -> Ids {
        let values: Vec<i64> = self.values(name).iter().map(|&id| id as i64).collect();
        Ids::signed(&values, [values.len()], limit, Some(-100)).expect("golden labels are valid")
    }

    /// The labels of a language model: one belongs to the token before it, and some do not count.
    pub fn next_labels(&self, vocabulary: usize) -> Ids {
        let (labels, time) = (self.token_labels("labels", vocabulary), self.sizes("labels")[1]);
        let next = |at: usize| match (at + 1) % time {
            0 => Ids::IGNORED,
            _ => labels.values()[at + 1],
        };
        let shifted: Vec<u32> = (0..labels.count()).map(next).collect();
        Ids::new(shifted, [labels.count()], vocabulary).expect("golden labels are valid")
    }

    /// What stands under names with this start, the start taken off; of that only what belongs to a step,
    /// where one is given.
    pub fn part(&self, start: &str, step: Option<usize>) -> Stored {
        let named = self.tensors.iter().filter_map(|(name, (sizes, _))| {
            let short = name.strip_prefix(start)?.to_string();
            let sizes = if step.is_some() { sizes[1..].to_vec() } else { sizes.clone() };
            Some((short, (sizes, self.slice(name, step).1)))
        });
        Stored { tensors: named.collect(), notes: self.notes.clone() }
    }

    /// Token sequences and their segments without the padding, all of them or those of one step. Without
    /// a mask there is no padding.
    pub fn sequences(&self, step: Option<usize>) -> (Vec<Vec<u32>>, Option<Vec<Vec<u32>>>) {
        let (time, ids) = self.slice("input_ids", step);
        let mask = match self.has("attention_mask") {
            true => self.slice("attention_mask", step).1,
            false => vec![1.0; ids.len()],
        };
        let cut = |name: &str| -> Vec<Vec<u32>> {
            let values = self.slice(name, step).1;
            let rows = values.chunks(time).zip(mask.chunks(time));
            rows.map(|(row, mask)| {
                let length = mask.iter().filter(|&&counts| counts == 1.0).count();
                row[..length].iter().map(|&id| id as u32).collect()
            })
            .collect()
        };
        (cut("input_ids"), self.has("token_type_ids").then(|| cut("token_type_ids")))
    }

    /// The last size and the values of a tensor, or of its part that belongs to a step.
    fn slice(&self, name: &str, step: Option<usize>) -> (usize, Vec<f64>) {
        let (sizes, values) = (self.sizes(name), self.values(name));
        let last = sizes.last().copied().unwrap_or(1);
        let Some(step) = step else { return (last, values) };
        let length = values.len() / sizes[0];
        (last, values[step * length..(step + 1) * length].to_vec())
    }
}

fn numbers(view: &TensorView) -> Vec<f64> {
    let bytes = view.data();
    match view.dtype() {
        Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        Dtype::I64 => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
        Dtype::I16 => bytes.as_chunks().0.iter().map(|b| f64::from(i16::from_le_bytes(*b))).collect(),
        Dtype::I32 => bytes.as_chunks().0.iter().map(|b| f64::from(i32::from_le_bytes(*b))).collect(),
        Dtype::U8 | Dtype::BOOL => bytes.iter().map(|&b| f64::from(b)).collect(),
        other => panic!("{other:?} is not among the types of golden files"),
    }
}

/// The largest difference, relative to the largest magnitude expected (or to `scale`, if larger).
pub fn deviation(found: &[f64], expected: &[f64], scale: f64) -> f64 {
    assert_eq!(found.len(), expected.len(), "as many values as expected");
    let largest = expected.iter().fold(scale, |largest, x| largest.max(x.abs()));
    let differences = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    let worst = differences.fold(0.0, larger);
    if worst == 0.0 { 0.0 } else { worst / largest }
}

/// The deviation of a matrix from the sums, samples and rows that are stored of it under `key`.
pub fn summarised(stored: &Stored, key: &str, found: &[f64], width: usize) -> f64 {
    let part = |what: &str| format!("{key}.{what}");
    let mut worst: f64 = 0.0;
    let mut compared = 0;
    let mut compare = |what: &str, found: &[f64], scale: f64| {
        compared += 1;
        worst = larger(worst, deviation(found, &stored.values(&part(what)), scale));
    };
    // Before a layer norm the gradient sums to zero over the width: such sums are rounding alone, and
    // are measured against the largest element that enters them.
    let mut scale = 0.0;
    if stored.has(&part("stats")) {
        let squares: f64 = found.iter().map(|x| x * x).sum();
        let largest = found.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
        compare("stats", &[found.iter().sum(), squares.sqrt(), largest], 0.0);
        scale = stored.values(&part("stats"))[2];
        let at = stored.values(&part("sample_index"));
        compare("sample", &at.iter().map(|&at| found[at as usize]).collect::<Vec<_>>(), scale);
    }
    if stored.has(&part("rowsum")) {
        compare("rowsum", &found.chunks(width).map(|row| row.iter().sum()).collect::<Vec<_>>(), scale);
    }
    if stored.has(&part("colsum")) {
        let column = |at: usize| found.iter().skip(at).step_by(width).sum();
        compare("colsum", &(0..width).map(column).collect::<Vec<_>>(), scale);
    }
    if stored.has(&part("norm")) {
        compare("norm", &[found.iter().map(|x| x * x).sum::<f64>().sqrt()], 0.0);
    }
    if stored.has(&part("first_rows")) {
        let count = stored.values(&part("first_rows")).len();
        compare("first_rows", &found[..count], 0.0);
        let rest = found[count..].iter().fold(0.0, |rest, x| larger(rest, x.abs()));
        assert_eq!(rest, 0.0, "{key}: no gradient reaches positions that no sentence has");
    }
    if stored.has(&part("rows")) {
        let rows: Vec<usize> = stored.values(&part("rows")).iter().map(|&row| row as usize).collect();
        let chosen = rows.iter().flat_map(|&row| found[row * width..(row + 1) * width].iter().copied());
        compare("values", &chosen.collect::<Vec<_>>(), 0.0);
    }
    assert!(compared > 0, "{key} is not stored in any known form");
    worst
}

/// The values that belong to the places a mask keeps.
pub fn where_kept(values: &[f64], kept: &[f64]) -> Vec<f64> {
    let width = values.len() / kept.len();
    let rows = values.chunks(width).zip(kept).filter(|(_, kept)| **kept == 1.0);
    rows.flat_map(|(row, _)| row.to_vec()).collect()
}
