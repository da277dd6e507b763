//! Pretraining: an encoder learns the language by guessing hidden words (arXiv 1810.04805, section 3.1).
//!
//! One word in five must be guessed. Of these, eight in ten are hidden, one is replaced by any word
//! and one stays as it is, so the encoder has to form an opinion about every word that it sees.
//! Read next: `finetune/tuning.rs`, what is then learned on top.

use engrad::nn::{Encoder, EncoderConfig, Linear, Module, TokenBatch, Walker};
use engrad::{Device, Ids, Result, Rng, Tensor, inference};

use super::language::{FIRST_WORD, HIDDEN, LONGEST, Language, PADDING, Sentence};

/// The sizes of the small encoder.
pub fn config(language: &Language) -> EncoderConfig {
    EncoderConfig {
        vocab_size: language.size(),
        hidden_size: 64,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        intermediate_size: 128,
        max_position_embeddings: LONGEST,
        type_vocab_size: 1,
        initializer_range: 0.08,
        pad_token_id: PADDING,
        ..EncoderConfig::default()
    }
}

/// An encoder with a head that gives a score to every word of the vocabulary.
pub struct Guesser {
    pub encoder: Encoder,
    head: Linear,
}

/// Sentences with hidden words, and what the words were.
pub struct Puzzle {
    tokens: TokenBatch,
    /// The places to guess, counted over the whole batch: `[guesses]`.
    places: Ids,
    /// The words that stood there: `[guesses]`.
    words: Ids,
}

impl Guesser {
    /// Fresh weights.
    pub fn new(config: &EncoderConfig, rng: &mut Rng, device: &Device) -> Result<Guesser> {
        let encoder = Encoder::new(config, rng, device)?;
        let head = Linear::new(config.hidden_size, config.vocab_size, config.initializer_range, rng, device);
        Ok(Guesser { encoder, head })
    }

    /// New sentences with hidden words: a function of the generator alone, so that step follows step
    /// in the same way after an interruption.
    pub fn puzzle(&self, language: &Language, count: usize, rng: &mut Rng) -> Result<Puzzle> {
        let mut sentences: Vec<Vec<u32>> = (0..count).map(|_| language.sentence(rng).tokens).collect();
        let time = sentences.iter().map(Vec::len).max().unwrap_or(0);
        let (mut places, mut words) = (Vec::new(), Vec::new());
        for (row, sentence) in sentences.iter_mut().enumerate() {
            // The first token only marks the start, and the first sentence always hides its last word,
            // so that no batch is without a question.
            for at in 1..sentence.len() {
                let asked = rng.below(5) == 0 || (row == 0 && at + 1 == sentence.len());
                if !asked {
                    continue;
                }
                places.push((row * time + at) as u32);
                words.push(sentence[at]);
                match rng.below(10) {
                    0 => {}
                    1 => sentence[at] = FIRST_WORD + rng.below(language.size() - FIRST_WORD as usize) as u32,
                    _ => sentence[at] = HIDDEN,
                }
            }
        }
        let asked = places.len();
        Ok(Puzzle {
            tokens: self.encoder.batch(&sentences, None)?,
            places: Ids::new(places, [asked], count * time)?,
            words: Ids::new(words, [asked], language.size())?,
        })
    }

    /// The scores of all words at some places: `[places, vocabulary]`. Only those go through the head.
    fn scores(&self, tokens: &TokenBatch, places: &Ids) -> Tensor {
        self.head.forward(&self.encoder.forward(tokens).flatten(0, 1).index_select(0, places))
    }

    /// How wrong the guesses are.
    pub fn loss(&self, puzzle: &Puzzle) -> Tensor {
        self.scores(&puzzle.tokens, &puzzle.places).cross_entropy(&puzzle.words)
    }

    /// Whether the encoder prefers the main verb in its right number to the wrong one when it is hidden:
    /// the share of `count` sentences. Nobody told it what a verb is.
    pub fn agreement(&self, language: &Language, count: usize, rng: &mut Rng) -> Result<f64> {
        let sentences: Vec<Sentence> = (0..count).map(|_| language.sentence(rng)).collect();
        let main_verb = |sentence: &Sentence| sentence.verbs[sentence.verbs.len() - 1];
        let mut hidden: Vec<Vec<u32>> = sentences.iter().map(|sentence| sentence.tokens.clone()).collect();
        hidden.iter_mut().zip(&sentences).for_each(|(row, sentence)| row[main_verb(sentence).0] = HIDDEN);
        let tokens = self.encoder.batch(&hidden, None)?;
        let place = |(row, sentence)| (row * tokens.time() + main_verb(sentence).0) as u32;
        let places: Vec<u32> = sentences.iter().enumerate().map(place).collect();
        let places = Ids::new(places, [count], count * tokens.time())?;
        let scores = inference(|| self.scores(&tokens, &places)).to_vec();
        let right = |(sentence, scores): &(&Sentence, &[f32])| {
            let (at, other) = main_verb(sentence);
            scores[sentence.tokens[at] as usize] > scores[other as usize]
        };
        let rights = sentences.iter().zip(scores.chunks(language.size())).filter(right).count();
        Ok(rights as f64 / count as f64)
    }
}

impl Module for Guesser {
    fn walk(&self, at: &mut Walker<'_>) {
        at.child("bert", &self.encoder);
        at.child("guess", &self.head);
    }
}
