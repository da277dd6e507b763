//! What IncreLoRA puts into one layer: triplets, the active ones first.

use std::sync::RwLock;

use super::super::Update;
use crate::device::Device;
use crate::error::Result;
use crate::nn::{Adapter, Module, Param, Stored, Walker, Weights};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// One rank.
#[derive(Clone)]
pub(super) struct Triplet {
    /// Row of Q: `[1, in]`
    pub(super) down: Param,
    /// Column of P: `[out, 1]`
    pub(super) up: Param,
    /// E: `[1, 1]`
    pub(super) value: Param,
    /// The updates after which factors and E joined.
    pub(super) since: [u64; 2],
}

/// What sits in one layer.
pub(super) struct Triplets {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) device: Device,
    /// Active ones first.
    pub(super) list: RwLock<(usize, Vec<Triplet>)>,
    /// The base's weight as a leaf, while gradients are collected.
    pub(super) leaf: RwLock<Option<Tensor>>,
    pub(super) alpha: f64,
    pub(super) dropout: f64,
}

impl Triplets {
    pub(super) fn list(&self) -> (usize, Vec<Triplet>) {
        self.list.read().expect("no code panics while it holds the triplets").clone()
    }

    fn scale(&self) -> f64 {
        self.alpha / (self.list().0 as f64 + 1e-5)
    }

    /// Q `[n, in]`, P `[out, n]` and E `[n, 1]`.
    fn assembled(&self, read: impl Fn(&Param) -> Tensor) -> [Tensor; 3] {
        let (_, list) = self.list();
        let join = |parts: Vec<Tensor>, axis| Tensor::concat(&parts.iter().collect::<Vec<_>>(), axis);
        [
            join(list.iter().map(|triplet| read(&triplet.down)).collect(), 0),
            join(list.iter().map(|triplet| read(&triplet.up)).collect(), 1),
            join(list.iter().map(|triplet| read(&triplet.value)).collect(), 0),
        ]
    }

    /// The frozen weight, in a form that shows its gradient until the next update.
    fn leaf(&self, base: &Weights) -> Tensor {
        let mut leaf = self.leaf.write().expect("no code panics while it holds the leaf");
        leaf.get_or_insert_with(|| base.weight.detach().tracked()).clone()
    }

    /// `Σ|dW ∘ ∂L/∂W|/√n`, of the values that made the gradient.
    ///
    /// **Errors** when the device has failed.
    pub(super) fn importance(&self, update: &Update) -> Result<Option<f64>> {
        let leaf = self.leaf.write().expect("no code panics while it holds the leaf").take();
        let Some(gradient) = leaf.and_then(|leaf| update.gradient_of(&leaf)) else { return Ok(None) };
        let [down, up, values] = self.assembled(|param| update.before(param));
        let change = up.matmul(&(down * values)) * self.scale();
        let total = (change * gradient).abs().sum(..).read_item()?;
        Ok(Some(total / ((self.inputs * self.outputs) as f64).sqrt()))
    }

    /// Appends triplets with E at `value`; frozen ones are a reserve.
    pub(super) fn append(&self, count: usize, value: f64, reserve: bool, rng: &mut Rng, since: u64) {
        let mut list = self.list.write().expect("no code panics while it holds the triplets");
        for _ in 0..count {
            let mut normal = |sizes: [usize; 2]| Param::new(&Tensor::normal(0.02, sizes, rng, &self.device));
            let (down, up) = (normal([1, self.inputs]), normal([self.outputs, 1]));
            let value = Param::new(&Tensor::full(value, [1, 1], &self.device));
            if reserve {
                value.freeze();
            }
            list.1.push(Triplet { down, up, value, since: [since; 2] });
        }
        if !reserve {
            list.0 = list.1.len();
        }
    }

    /// Sets `count` of the reserve free.
    pub(super) fn activate(&self, count: usize, since: u64) {
        let mut list = self.list.write().expect("no code panics while it holds the triplets");
        let (active, total) = (list.0, list.1.len());
        for triplet in &mut list.1[active..total.min(active + count)] {
            triplet.value.unfreeze();
            triplet.since[1] = since;
        }
        list.0 = total.min(active + count);
    }

    pub(super) fn silence_reserve(&self) {
        let (active, list) = self.list();
        list[active..].iter().for_each(|triplet| triplet.value.set(&Tensor::zeros([1, 1], &self.device)));
    }
}

impl Module for Triplets {
    fn walk(&self, at: &mut Walker<'_>) {
        for (number, triplet) in self.list().1.iter().enumerate() {
            at.param(&format!("lora_A.{number}"), &triplet.down);
            at.param(&format!("lora_B.{number}"), &triplet.up);
            at.param(&format!("lora_E.{number}"), &triplet.value);
        }
    }
}

impl Adapter for Triplets {
    fn adapt(&self, base: &Weights) -> Weights {
        let [down, up, values] = self.assembled(Param::value);
        let weight = base.weight.add_matmul(&up, &(down * values), self.scale());
        Weights { weight, bias: base.bias.clone() }
    }

    fn forward(&self, x: &Tensor, base: &Weights) -> Tensor {
        let weight = self.leaf(base);
        let [down, up, values] = self.assembled(Param::value);
        let low = x.dropout(self.dropout).linear(&(down * values), None);
        low.linear_add(&up, self.scale(), Some(&x.linear(&weight, base.bias.as_ref())))
    }

    fn factors(&self) -> Option<[Tensor; 2]> {
        let [down, up, values] = self.assembled(Param::value);
        Some([up * self.scale(), down * values])
    }

    fn stored(&self) -> Option<Vec<Stored>> {
        let (_, list) = self.list();
        let count = list.len();
        let mut stored = [
            Stored { name: "lora_A", sizes: [count, self.inputs], parts: Vec::new() },
            Stored { name: "lora_B", sizes: [self.outputs, count], parts: Vec::new() },
            Stored { name: "lora_E", sizes: [count, 1], parts: Vec::new() },
        ];
        for (at, triplet) in list.into_iter().enumerate() {
            stored[0].parts.push((triplet.down, [at, 0]));
            stored[1].parts.push((triplet.up, [0, at]));
            stored[2].parts.push((triplet.value, [at, 0]));
        }
        Some(stored.into())
    }
}
