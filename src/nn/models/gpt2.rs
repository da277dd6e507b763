//! GPT-2 (Radford et al. 2019): learned positions, pre-norm blocks, queries, keys and values from one
//! layer, output through the token vectors.
//!
//! Its four matrices per block lie as `[in, out]` in the files, and as `[out, in]` here.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::config::{
    check_divides, check_eps, check_plain, check_probabilities, check_sizes, check_total, entries,
};
use super::decoder::{CausalLm, Decoder, DecoderNames, Positions};
use crate::error::Result;
use crate::nn::attention::{Attention, Projections};
use crate::nn::block::{Block, Order};
use crate::nn::feed_forward::{Activation, FeedForward};
use crate::nn::fresh::Fresh;
use crate::nn::virtual_tokens::VirtualTokens;

/// The numbers of a `config.json` that shape a GPT-2, under their published names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Gpt2Config {
    pub vocab_size: usize,
    pub n_positions: usize,
    pub n_embd: usize,
    pub n_layer: usize,
    pub n_head: usize,
    /// 4 · n_embd without it.
    pub n_inner: Option<usize>,
    pub activation_function: Activation,
    pub resid_pdrop: f64,
    pub embd_pdrop: f64,
    pub attn_pdrop: f64,
    pub layer_norm_epsilon: f64,
    pub initializer_range: f64,
    pub scale_attn_weights: bool,
    pub scale_attn_by_inverse_layer_idx: bool,
    pub tie_word_embeddings: bool,
}

/// The smallest published model.
impl Default for Gpt2Config {
    fn default() -> Gpt2Config {
        Gpt2Config {
            vocab_size: 50257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: Activation::GeluNew,
            resid_pdrop: 0.1,
            embd_pdrop: 0.1,
            attn_pdrop: 0.1,
            layer_norm_epsilon: 1e-5,
            initializer_range: 0.02,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            tie_word_embeddings: true,
        }
    }
}

const NAMES: DecoderNames =
    DecoderNames { prefix: "transformer", tokens: "wte", positions: "wpe", blocks: "h", norm: "ln_f" };

impl Gpt2Config {
    /// Reads a `config.json`.
    ///
    /// **Errors** when it contradicts itself or asks for a variant that is not implemented.
    pub fn parse(json: &serde_json::Value) -> Result<Gpt2Config> {
        check_plain(json, &[("add_cross_attention", json!(false))])?;
        let config: Gpt2Config = entries(json)?;
        config.check()?;
        Ok(config)
    }

    fn inner(&self) -> usize {
        self.n_inner.unwrap_or(self.n_embd.saturating_mul(4))
    }

    /// **Errors** when the numbers contradict one another.
    pub fn check(&self) -> Result<()> {
        check_sizes(&[
            ("vocab_size", self.vocab_size),
            ("n_positions", self.n_positions),
            ("n_embd", self.n_embd),
            ("n_head", self.n_head),
            ("n_inner", self.inner()),
        ])?;
        let width = self.n_embd;
        check_total(
            ("n_layer", self.n_layer),
            [self.vocab_size + self.n_positions, width],
            &[(4 * width, width), (2 * width, self.inner())],
        )?;
        check_divides(("n_embd", width), ("n_head", self.n_head))?;
        check_probabilities(&[
            ("resid_pdrop", self.resid_pdrop),
            ("embd_pdrop", self.embd_pdrop),
            ("attn_pdrop", self.attn_pdrop),
        ])?;
        check_eps("layer_norm_epsilon", self.layer_norm_epsilon)
    }

    /// The body with fresh weights.
    ///
    /// **Errors** when the configuration contradicts itself.
    pub fn body(&self, fresh: &mut Fresh) -> Result<Decoder> {
        self.check()?;
        fresh.deviate(self.initializer_range);
        let width = self.n_embd;
        let tokens = fresh.table(self.vocab_size, width);
        let positions = Positions::Learned(fresh.table(self.n_positions, width));
        let blocks: Vec<Arc<Block>> =
            (0..self.n_layer).map(|layer| Arc::new(self.block(layer, fresh))).collect();
        fresh.deviate(self.initializer_range);
        Ok(Decoder {
            virtual_tokens: VirtualTokens::new(&tokens, &blocks),
            tokens,
            positions,
            limit: self.n_positions,
            dropout: self.embd_pdrop,
            blocks,
            norm: fresh.layer_norm(width, self.layer_norm_epsilon).into(),
            names: NAMES,
        })
    }

    /// The language model with fresh weights.
    ///
    /// **Errors** when the configuration contradicts itself.
    pub fn causal_lm(&self, fresh: &mut Fresh) -> Result<CausalLm> {
        let body = self.body(fresh)?;
        let untied = !self.tie_word_embeddings;
        let output = untied.then(|| fresh.linear_with(self.n_embd, self.vocab_size, false));
        Ok(CausalLm::new(body, output))
    }

    fn block(&self, layer: usize, fresh: &mut Fresh) -> Block {
        let (width, head) = (self.n_embd, self.n_embd / self.n_head);
        let [attention_norm, norm] =
            [(); 2].map(|()| fresh.layer_norm(width, self.layer_norm_epsilon).into());
        // What joins the residual sum begins smaller, so that the sum does not grow with the layers (GPT-2 paper, 2.3).
        let usual = self.initializer_range;
        let joining = usual / (2.0 * self.n_layer as f64).sqrt();
        let mut linear =
            |inputs, outputs, deviation| fresh.deviate(deviation).linear(inputs, outputs).stored_transposed();
        let scale = if self.scale_attn_weights { 1.0 / (head as f64).sqrt() } else { 1.0 };
        Block {
            order: Order::PreNorm,
            attention: Attention {
                inputs: Projections::Fused(linear(width, 3 * width, usual)),
                output: linear(width, width, joining),
                heads: self.n_head,
                key_heads: self.n_head,
                scale: if self.scale_attn_by_inverse_layer_idx { scale / (layer + 1) as f64 } else { scale },
                dropout: self.attn_pdrop,
                names: ["attn.c_attn", "", "", "attn.c_proj"],
            },
            attention_norm,
            across: None,
            feed_forward: FeedForward {
                gate: None,
                up: linear(width, self.inner(), usual),
                down: linear(self.inner(), width, joining),
                activation: self.activation_function,
                dropout: 0.0,
                names: ["", "mlp.c_fc", "mlp.c_proj"],
            },
            norm,
            dropout: self.resid_pdrop,
            names: ["ln_1", "", "ln_2"],
        }
    }
}
