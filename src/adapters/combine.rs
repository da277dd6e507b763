//! Adapters of any method as plain LoRA: several as their weighted sum, or one for tools that know
//! nothing else.
//!
//! `W' = W + Σ wᵢ·(W'ᵢ - W)`. Where each update is a product of two factors the sum is one too, of the
//! factors side by side, and exact (PEFT's `add_weighted_adapter` calls this `cat`; what it calls
//! `linear` adds factors instead of updates, which brings products of unrelated factors in). Elsewhere
//! it is the best approximation of a given rank, by singular values, and the error is reported.

use std::path::Path;
use std::sync::Arc;

use super::attached::{Attached, Beside, Place};
use super::lora::{LowRank, LowRankTable};
use super::svd::svd;
use super::{Adapted, Lora, Patterns, files};
use crate::error::{Error, Result};
use crate::nn::Adapter;
use crate::tensor::Tensor;

impl Adapted {
    /// Puts one more adapter beside those that are there, a LoRA that does what they do together, each
    /// times its weight, and makes it the active one. Heads and norms that were trained beside them
    /// are summed the same way. Gives the largest relative error of a sum: 0 where all updates factor;
    /// others are cut to at most `rank`.
    ///
    /// **Errors** when a name is unknown or the new one cannot be used, or when one of them does what
    /// LoRA cannot say: change biases, or an embedding in another way than by factors. Everything is
    /// then as it was.
    pub fn combine(&mut self, name: &str, parts: &[(&str, f64)], rank: usize) -> Result<f64> {
        if parts.is_empty() {
            return Err(Error::Adapter(format!("{name:?} would be a sum of no adapters")));
        }
        let parts = parts.iter().map(|(part, weight)| Ok((&self.adapters[self.number(part)?].1, *weight)));
        let (mut attached, error) = sum(self, &parts.collect::<Result<Vec<_>>>()?, rank)?;
        self.add_made(name, move |_| attached.put_in().map(|()| attached))?;
        Ok(error)
    }

    /// Saves what the active adapter does as LoRA, and gives the largest relative error of an update: 0
    /// where all of them factor. Others are cut to at most `rank`.
    ///
    /// **Errors** as [`Adapted::combine`], or when the directory cannot be written.
    pub fn export_as_lora(&self, directory: impl AsRef<Path>, rank: usize) -> Result<f64> {
        let (attached, error) = sum(self, &[(self.current(), 1.0)], rank)?;
        files::save(self, &attached, directory.as_ref())?;
        Ok(error)
    }
}

/// One layer's updates: `[out, in]` each, with weights.
type Updates<'a> = Vec<(&'a Place, f64)>;

/// A LoRA outside of the model that does what the parts do together, and its largest relative error.
fn sum(adapted: &Adapted, parts: &[(&Attached, f64)], rank: usize) -> Result<(Attached, f64)> {
    let mut sites: Vec<Updates> = Vec::new();
    for (attached, weight) in parts {
        if let Some(beside) = attached.beside.iter().find(|beside| beside.by_method) {
            return Err(refused(&beside.path));
        }
        for place in &attached.places {
            match sites.iter_mut().find(|site| site[0].0.path == place.path) {
                Some(site) => site.push((place, *weight)),
                None => sites.push(vec![(place, *weight)]),
            }
        }
    }
    sites.sort_by_key(|site| adapted.host.number(&site[0].0.path));
    let (mut places, mut patterns, mut worst) = (Vec::new(), Patterns::default(), 0.0f64);
    for site in sites {
        let ([up, down], error) = factors(&site, rank)?;
        worst = worst.max(error);
        // A layer of which AdaLoRA has left no rank: a LoRA of rank 0 is none.
        if down.sizes()[0] == 0 {
            continue;
        }
        let Place { path, socket, .. } = site[0].0.clone();
        patterns.rank.push((path.clone(), down.sizes()[0]));
        patterns.alpha.push((path.clone(), down.sizes()[0] as f64));
        let adapter: Arc<dyn Adapter> = match socket.is_embedding() {
            true => Arc::new(LowRankTable::of(&down, &up)),
            false => Arc::new(LowRank::of(&down, &up)),
        };
        places.push(Place { path, socket, adapter });
    }
    let method = Lora { alpha: rank.max(1) as f64, patterns, ..Lora::new(rank.max(1)) };
    Ok((Attached { method: Box::new(method), places, beside: beside(adapted, parts), inside: false }, worst))
}

/// Two factors of a sum of updates, and the relative error.
fn factors(site: &Updates, rank: usize) -> Result<([Tensor; 2], f64)> {
    let pairs: Option<Vec<[Tensor; 2]>> = site
        .iter()
        .map(|(place, weight)| {
            place.adapter.factors().map(|[up, down]| [up.detach() * *weight, down.detach()])
        })
        .collect();
    let socket = &site[0].0.socket;
    let [smaller, larger] = [socket.inputs().min(socket.outputs()), socket.inputs().max(socket.outputs())];
    if let Some(pairs) = pairs {
        let side = |at: usize, axis: isize| {
            Tensor::concat(&pairs.iter().map(|pair| &pair[at]).collect::<Vec<_>>(), axis)
        };
        let [up, down] = [side(0, 1), side(1, 0)];
        // More factors than LoRA has room for: as many as the matrix has dimensions say the same.
        return match down.sizes()[0] > larger {
            true => Ok((cut(&up.matmul(&down), smaller)?.0, 0.0)),
            false => Ok(([up, down], 0.0)),
        };
    }
    let base = socket.base();
    let mut total: Option<Tensor> = None;
    for (place, weight) in site {
        let adapted = crate::inference(|| place.adapter.adapt(&base));
        let bits = |bias: &Option<Tensor>| bias.as_ref().map(Tensor::read_f64).transpose();
        if socket.is_embedding() || !place.adapter.merges() || bits(&adapted.bias)? != bits(&base.bias)? {
            return Err(refused(&place.path));
        }
        let update = (adapted.weight - &base.weight).detach() * *weight;
        total = Some(match total {
            Some(total) => total + update,
            None => update,
        });
    }
    cut(&total.ok_or_else(|| Error::Adapter("a sum of no adapters".into()))?, rank)
}

/// Heads and norms that the parts trained: the model's own, and the weighted sum of what was learned.
fn beside(adapted: &Adapted, parts: &[(&Attached, f64)]) -> Vec<Beside> {
    let mut all: Vec<Beside> = Vec::new();
    for beside in parts.iter().flat_map(|(attached, _)| &attached.beside) {
        if all.iter().any(|other| other.param.id() == beside.param.id()) {
            continue;
        }
        let learned = parts.iter().filter_map(|(part, weight)| Some((part.own(&beside.param)?, *weight)));
        let learned: Vec<(Tensor, f64)> = learned.collect();
        let rest = 1.0 - learned.iter().map(|(_, weight)| weight).sum::<f64>();
        let start = adapted.original(&beside.param) * rest;
        let other = learned.into_iter().fold(start, |sum, (own, weight)| sum + own * weight);
        all.push(Beside { other, ..beside.clone() });
    }
    all
}

fn refused(path: &str) -> Error {
    Error::Adapter(format!("{path}: LoRA cannot say what this does"))
}

/// The best factors of at most `rank`, and the relative error.
fn cut(update: &Tensor, rank: usize) -> Result<([Tensor; 2], f64)> {
    let [rows, columns] = [update.sizes()[0], update.sizes()[1]];
    let (left, values, right) = svd(&update.read_f64()?, rows, columns);
    let many = values.len();
    let kept = rank.clamp(1, many);
    let square = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>();
    let error = (square(&values[kept..]) / square(&values).max(f64::MIN_POSITIVE)).sqrt();
    let mut up = Vec::with_capacity(rows * kept);
    (0..rows).for_each(|row| up.extend((0..kept).map(|k| left[row * many + k] * values[k])));
    let mut down = Vec::with_capacity(kept * columns);
    (0..kept).for_each(|k| down.extend((0..columns).map(|column| right[column * many + k])));
    let device = update.device();
    let factors =
        [Tensor::from_f64(&up, [rows, kept], &device), Tensor::from_f64(&down, [kept, columns], &device)];
    Ok((factors, error))
}
