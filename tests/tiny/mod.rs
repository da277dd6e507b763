//! A classifier of about a thousand parameters and a batch for it, for tests of everything that
//! needs a whole model; and chains of layers, for tests of adapters alone.
#![allow(dead_code)]

use std::collections::BTreeMap;

use engrad::nn::{Classifier, Encoder, EncoderConfig, Linear, Module, TokenBatch, Walker, named_params};
use engrad::{Device, Ids, Rng, Tensor};

/// One layer, without dropout.
pub fn config() -> EncoderConfig {
    EncoderConfig {
        vocab_size: 12,
        hidden_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        intermediate_size: 12,
        max_position_embeddings: 6,
        initializer_range: 0.3,
        ..EncoderConfig::default()
    }
}

/// The same with dropout everywhere.
pub fn config_with_dropout() -> EncoderConfig {
    EncoderConfig { hidden_dropout_prob: 0.1, attention_probs_dropout_prob: 0.1, ..config() }
}

/// A fresh encoder; the same numbers on every device.
pub fn encoder(device: &Device) -> Encoder {
    Encoder::new(&config(), &mut Rng::seeded(1), device).unwrap()
}

/// A fresh encoder with a head for two classes; the same numbers on every device.
pub fn classifier(config: &EncoderConfig, device: &Device) -> Classifier {
    let mut rng = Rng::seeded(5);
    let encoder = Encoder::new(config, &mut rng, device).expect("the sizes fit");
    Classifier::new(encoder, 2, &mut rng)
}

/// Four sentences whose class is whether the first token is odd.
pub fn sentences() -> (Vec<Vec<u32>>, Vec<u32>) {
    let sentences = vec![vec![1, 7, 3], vec![2, 5, 9, 4, 11], vec![3], vec![4, 10]];
    let labels = sentences.iter().map(|sentence: &Vec<u32>| sentence[0] % 2).collect();
    (sentences, labels)
}

/// [`sentences`] as a batch, with labels.
pub fn batch(model: &Classifier) -> (TokenBatch, Ids) {
    let (sentences, labels) = sentences();
    let labels = Ids::new(labels, [sentences.len()], 2).expect("two classes");
    (model.encoder.batch(&sentences, None).expect("the sentences fit"), labels)
}

/// The loss on [`batch`].
pub fn loss(model: &Classifier) -> Tensor {
    let (batch, labels) = batch(model);
    model.forward(&batch).cross_entropy(&labels)
}

/// Every parameter's bits and whether it is trained, by path.
pub fn state(model: &dyn Module) -> BTreeMap<String, (Vec<u64>, bool)> {
    let of = |(path, param): (String, engrad::nn::Param)| {
        let bits = param.value().to_f64().into_iter().map(f64::to_bits).collect();
        (path, (bits, param.is_trainable()))
    };
    named_params(model).into_iter().map(of).collect()
}

/// Layers one after the other, with an activation between.
pub struct Chain {
    /// By name.
    pub layers: Vec<(String, Linear)>,
    /// The activation.
    pub between: fn(&Tensor) -> Tensor,
}

impl Chain {
    /// One layer without a bias, called `only`.
    pub fn one(weight: &Tensor) -> Chain {
        Chain { layers: vec![("only".into(), Linear::from_weights(weight, None))], between: Tensor::clone }
    }

    /// `[.., in] -> [.., out]`
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let mut outputs = self.layers[0].1.forward(x);
        for (_, layer) in &self.layers[1..] {
            outputs = layer.forward(&(self.between)(&outputs));
        }
        outputs
    }
}

impl Module for Chain {
    fn walk(&self, at: &mut Walker<'_>) {
        self.layers.iter().for_each(|(name, layer)| at.child(name, layer));
    }
}
