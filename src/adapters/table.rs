//! The numbers behind virtual tokens: a trained matrix, or what a trained network makes of one.
//!
//! A file holds what comes out, so a network serves training only; loaded from a file, the numbers are
//! trained themselves. Read next: `prompt_tuning.rs`, `prefix_tuning.rs`, `p_tuning.rs`.

use serde_json::{Map, Value, json};

use super::settings::{Settings, object};
use super::{Site, even};
use crate::error::{Error, Result};
use crate::nn::{Activation, Module, Param, Stack, Stored, Walker};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// `[tokens, numbers]`, trained or computed.
pub(super) struct Table {
    /// The numbers themselves, or what the network reads.
    embedding: Param,
    network: Option<Network>,
}

/// Linear layers with an activation between.
pub(super) struct Network {
    pub(super) name: &'static str,
    /// Weights `[out, in]` and biases `[out]`.
    layers: Vec<[Param; 2]>,
    activation: Activation,
}

impl Table {
    /// These numbers, trained themselves.
    pub(super) fn of(numbers: &Tensor) -> Table {
        Table { embedding: Param::new(numbers), network: None }
    }

    /// What a network makes of a matrix of as many rows.
    pub(super) fn through(network: Network, embedding: &Tensor) -> Table {
        Table { embedding: Param::new(embedding), network: Some(network) }
    }

    pub(super) fn value(&self) -> Tensor {
        let embedding = self.embedding.value();
        match &self.network {
            Some(network) => network.apply(embedding),
            None => embedding,
        }
    }

    /// The file's one tensor, where it is computed.
    pub(super) fn stored(&self) -> Option<Vec<Stored>> {
        self.network.as_ref()?;
        let value = crate::inference(|| self.value()).detach();
        let sizes = [value.sizes()[0], value.sizes()[1]];
        Some(vec![Stored { name: NAME, sizes, parts: vec![(Param::new(&value), [0, 0])] }])
    }
}

/// The only tensor of a file.
const NAME: &str = "prompt_embeddings";

impl Module for Table {
    fn walk(&self, at: &mut Walker<'_>) {
        let Some(network) = &self.network else { return at.param(NAME, &self.embedding) };
        at.param("embedding.weight", &self.embedding);
        for (number, [weight, bias]) in network.layers.iter().enumerate() {
            // The activations between count too.
            let name = format!("{}.{}", network.name, 2 * number);
            at.param(&format!("{name}.weight"), weight);
            at.param(&format!("{name}.bias"), bias);
        }
    }
}

impl Network {
    /// Layers of these widths, evenly from `±1/√in`.
    pub(super) fn new(
        name: &'static str,
        widths: &[usize],
        activation: Activation,
        rng: &mut Rng,
        site: &Site,
    ) -> Network {
        let layer = |pair: &[usize]| {
            let bound = 1.0 / (pair[0] as f64).sqrt();
            let weight = even([pair[1], pair[0]], rng, &site.device);
            let bias = Tensor::uniform(-bound, bound, [pair[1]], rng, &site.device);
            [Param::new(&weight), Param::new(&bias)]
        };
        Network { name, layers: widths.windows(2).map(layer).collect(), activation }
    }

    fn apply(&self, x: Tensor) -> Tensor {
        self.layers.iter().enumerate().fold(x, |x, (number, [weight, bias])| {
            let x = if number == 0 { x } else { self.activation.apply(&x) };
            x.linear(&weight.value(), Some(&bias.value()))
        })
    }
}

/// The stack that virtual tokens stand before.
///
/// **Errors** when the site is a layer.
pub(super) fn stack(site: &Site) -> Result<Stack> {
    site.stack.ok_or_else(|| Error::Adapter("virtual tokens stand before a model, not in a layer".into()))
}

/// How many virtual tokens a configuration asks for.
///
/// **Errors** when there is no number from 1 to 65536, or they would stand in two stacks.
pub(super) fn tokens(config: &Settings) -> Result<usize> {
    config.need(&["num_virtual_tokens"])?;
    config.plain(&[("num_transformer_submodules", json!(1))])?;
    config.size("num_virtual_tokens", 1)
}

/// What PEFT writes of every kind of virtual tokens.
pub(super) fn config(kind: &str, tokens: usize, width: usize, stack: &Stack) -> Map<String, Value> {
    object(json!({
        "peft_type": kind,
        "num_virtual_tokens": tokens,
        "token_dim": width,
        "num_layers": stack.blocks,
        "num_attention_heads": stack.key_heads,
        "num_transformer_submodules": 1,
    }))
}
