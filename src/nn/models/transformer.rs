//! The original Transformer (arXiv 1706.03762) between two sequences of vectors, with the norms after
//! the residual sums as published, or before them (arXiv 2002.04745).
//!
//! Names and defaults are those of PyTorch's `nn.Transformer`, so its state dictionaries load.

use std::sync::Arc;

use crate::error::refuse;
use crate::nn::attention::{Attention, Projections};
use crate::nn::block::{Block, Order, Surroundings, states};
use crate::nn::feed_forward::{Activation, FeedForward};
use crate::nn::fresh::Fresh;
use crate::nn::module::{Module, Walker};
use crate::nn::norm::LayerNorm;
use crate::ops::attention::Mask;
use crate::tensor::Tensor;

/// What shapes a Transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformerConfig {
    /// The size of each vector.
    pub width: usize,
    /// Divide the width.
    pub heads: usize,
    /// Blocks of the encoder.
    pub encoder_layers: usize,
    /// Blocks of the decoder.
    pub decoder_layers: usize,
    /// The width inside the feed-forward parts.
    pub hidden: usize,
    /// Between the two layers of a feed-forward part.
    pub activation: Activation,
    /// Where the norms stand.
    pub order: Order,
    /// The probability with which an element is dropped in training.
    pub dropout: f64,
}

/// The base model of the paper.
impl Default for TransformerConfig {
    fn default() -> TransformerConfig {
        TransformerConfig {
            width: 512,
            heads: 8,
            encoder_layers: 6,
            decoder_layers: 6,
            hidden: 2048,
            activation: Activation::Relu,
            order: Order::PostNorm,
            dropout: 0.1,
        }
    }
}

const EPS: f64 = 1e-5;

impl TransformerConfig {
    fn block(&self, across: bool, fresh: &mut Fresh) -> Block {
        let (width, heads) = (self.width, self.heads);
        let attention = |names, fresh: &mut Fresh| Attention {
            inputs: Projections::Fused(fresh.linear(width, 3 * width)),
            output: fresh.linear(width, width),
            heads,
            key_heads: heads,
            scale: 1.0 / ((width / heads) as f64).sqrt(),
            dropout: self.dropout,
            names,
        };
        Block {
            order: self.order,
            attention: attention(["self_attn.in_proj_", "", "", "self_attn.out_proj"], fresh),
            attention_norm: fresh.layer_norm(width, EPS).into(),
            across: across.then(|| {
                let names = ["multihead_attn.in_proj_", "", "", "multihead_attn.out_proj"];
                (attention(names, fresh), fresh.layer_norm(width, EPS).into())
            }),
            feed_forward: FeedForward {
                gate: None,
                up: fresh.linear(width, self.hidden),
                down: fresh.linear(self.hidden, width),
                activation: self.activation,
                dropout: self.dropout,
                names: ["", "linear1", "linear2"],
            },
            norm: fresh.layer_norm(width, EPS).into(),
            dropout: self.dropout,
            names: if across { ["norm1", "norm2", "norm3"] } else { ["norm1", "", "norm2"] },
        }
    }
}

/// An encoder and a decoder, each with a norm at its end.
pub struct Transformer {
    encoder: Vec<Arc<Block>>,
    encoder_norm: LayerNorm,
    decoder: Vec<Arc<Block>>,
    decoder_norm: LayerNorm,
}

impl Transformer {
    /// A model with fresh weights.
    ///
    /// **Panics** when the heads do not divide the width.
    #[track_caller]
    pub fn new(config: &TransformerConfig, fresh: &mut Fresh) -> Transformer {
        let (width, heads) = (config.width, config.heads);
        if heads == 0 || !width.is_multiple_of(heads) {
            refuse("Transformer::new", format_args!("{heads} heads do not divide a width of {width}"));
        }
        fresh.deviate((width as f64).powf(-0.5));
        Transformer {
            encoder: (0..config.encoder_layers).map(|_| Arc::new(config.block(false, fresh))).collect(),
            encoder_norm: fresh.layer_norm(width, EPS),
            decoder: (0..config.decoder_layers).map(|_| Arc::new(config.block(true, fresh))).collect(),
            decoder_norm: fresh.layer_norm(width, EPS),
        }
    }

    /// `source: [batch, time, width] -> [batch, time, width]`; the mask says what may be looked at.
    #[track_caller]
    pub fn encode(&self, source: &Tensor, mask: &Mask) -> Tensor {
        let states = states(&self.encoder, source.clone(), &Surroundings::of(mask.clone()));
        self.encoder_norm.forward(&states[states.len() - 1])
    }

    /// `target: [batch, time, width] -> [batch, time, width]`, looking across to `memory`, the encoder's
    /// output.
    #[track_caller]
    pub fn decode(&self, target: &Tensor, mask: &Mask, memory: &Tensor, memory_mask: &Mask) -> Tensor {
        let memory = Some((memory.clone(), memory_mask.clone()));
        let around = Surroundings { mask: mask.clone(), rotation: None, memory };
        let states = states(&self.decoder, target.clone(), &around);
        self.decoder_norm.forward(&states[states.len() - 1])
    }
}

impl Module for Transformer {
    fn walk(&self, at: &mut Walker<'_>) {
        at.children("encoder.layers", &self.encoder);
        at.child("encoder.norm", &self.encoder_norm);
        at.children("decoder.layers", &self.decoder);
        at.child("decoder.norm", &self.decoder_norm);
    }
}
