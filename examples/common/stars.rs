//! A task that needs attention: in a row of digits stands one star; which digit is beside it?
//!
//! To answer, a model must find the star and look one place further. No digit by itself helps.
//! Read next: `05_transformer.rs`, which learns it.

use engrad::nn::{Classifier, Encoder, EncoderConfig, TokenBatch};
use engrad::{Device, Ids, Result, Rng, inference};

/// Token ids: the digits are themselves; each row begins with `START`.
const STAR: u32 = 10;
const START: u32 = 11;
const PADDING: u32 = 12;

/// Rows of 5 to 11 tokens, and the digit that stands `beside` places right of each star (1, or -1 for left).
pub fn rows(count: usize, beside: isize, rng: &mut Rng) -> (Vec<Vec<u32>>, Vec<u32>) {
    let row = |rng: &mut Rng| {
        let mut row: Vec<u32> = (0..4 + rng.below(7)).map(|_| rng.below(10) as u32).collect();
        let star = 1 + rng.below(row.len() - 2);
        row[star] = STAR;
        let answer = row[star.saturating_add_signed(beside)];
        row.insert(0, START);
        (row, answer)
    };
    (0..count).map(|_| row(rng)).unzip()
}

/// A small encoder with a head for ten digits.
pub fn model(seed: u64, device: &Device) -> Result<Classifier> {
    let config = EncoderConfig {
        vocab_size: 13,
        hidden_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        intermediate_size: 96,
        max_position_embeddings: 11,
        type_vocab_size: 1,
        initializer_range: 0.1,
        pad_token_id: PADDING,
        ..EncoderConfig::default()
    };
    let rng = &mut Rng::seeded(seed);
    Ok(Classifier::new(Encoder::new(&config, rng, device)?, 10, rng))
}

/// Fresh rows as the model wants them: padded tokens, and the answers `[count]`.
pub fn batch(model: &Classifier, count: usize, beside: isize, rng: &mut Rng) -> Result<(TokenBatch, Ids)> {
    let (rows, answers) = rows(count, beside, rng);
    Ok((model.encoder.batch(&rows, None)?, Ids::new(answers, [count], 10)?))
}

/// The share of a thousand rows, always the same ones, that the model answers correctly.
pub fn accuracy(model: &Classifier, beside: isize) -> Result<f64> {
    let (tokens, answers) = batch(model, 1000, beside, &mut Rng::seeded(1000))?;
    let guesses = inference(|| model.forward(&tokens)).argmax(-1);
    let right = guesses.values().iter().zip(answers.values()).filter(|(guess, answer)| guess == answer);
    Ok(right.count() as f64 / 1000.0)
}
