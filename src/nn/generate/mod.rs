//! Text out of a language model: each step reads the last token, standing on cached keys and values,
//! and chooses the next from the scores.
//!
//! Scores are adjusted and chosen from on the host, in f64, so the same scores give the same text on
//! every device.
//! Read next: `scores.rs` for the rules, `beam.rs` for the search.

mod beam;
mod scores;

use serde_json::Value;

use super::cache::Cache;
use super::models::batch::{Sequences, Side};
use super::models::decoder::LanguageModel;
use super::models::seq2seq::Seq2Seq;
use crate::device::array::Ids;
use crate::error::{Error, Result};
use crate::rng::Rng;
use crate::tensor::autograd::inference;

/// More are a mistake, not a search.
const MOST_BEAMS: usize = 1 << 16;

/// How texts go on.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// At most this many tokens are added.
    pub most: usize,
    /// No end token comes before this many were added.
    pub least: usize,
    /// A text is complete with one of these.
    pub end: Vec<u32>,
    /// Tokens that are never chosen.
    pub never: Vec<u32>,
    /// What chooses among the scores.
    pub choose: Choose,
    /// Scores of tokens that stand in the text already are divided by this, or multiplied if they are
    /// negative (arXiv 1909.05858); 1 changes nothing.
    pub repetition_penalty: f64,
    /// No run of this many tokens comes twice; 0 allows all.
    pub no_repeat: usize,
}

/// What chooses among the scores.
#[derive(Clone, Debug, PartialEq)]
pub enum Choose {
    /// The highest score.
    Greedy,
    /// By chance, according to the scores.
    Sample {
        /// Every text has a stream of its own, which follows from this and its row.
        seed: u64,
        /// Scores are divided by this: above 1 more varied, below 1 less.
        temperature: f64,
        /// Only the highest so many; 0 takes all.
        top_k: usize,
        /// Only the fewest tokens whose probabilities sum to this (arXiv 1904.09751); 1 takes all.
        top_p: f64,
    },
    /// The text of the highest total score that a search with several texts at once finds.
    Beams {
        /// How many texts are followed.
        beams: usize,
        /// Total scores are divided by the length to this power: above 0 prefers longer texts.
        length_penalty: f64,
        /// Stop once as many texts are complete as are followed.
        early: bool,
    },
}

impl Generation {
    /// The highest score each time, `most` tokens long.
    pub fn greedy(most: usize) -> Generation {
        Generation {
            most,
            least: 0,
            end: Vec::new(),
            never: Vec::new(),
            choose: Choose::Greedy,
            repetition_penalty: 1.0,
            no_repeat: 0,
        }
    }

    /// With the end tokens that a `config.json` names.
    pub fn ending_as(mut self, config: &Value) -> Generation {
        self.end = ends(config);
        self
    }

    /// Without the tokens that a `config.json` or `generation_config.json` forbids (`bad_words_ids`), such as
    /// Marian's padding, which it would choose again and again. Its end tokens are not forbidden, as in transformers.
    ///
    /// **Errors** when it forbids a run of several tokens, which is not implemented.
    pub fn forbidding_as(mut self, config: &Value) -> Result<Generation> {
        let ends = ends(config);
        for word in config.get("bad_words_ids").and_then(Value::as_array).into_iter().flatten() {
            let only = word.as_array().filter(|ids| ids.len() == 1).and_then(|ids| ids[0].as_u64());
            let refused = || {
                Error::Config(format!("bad_words_ids holds {word}, which is not implemented; expected [id]"))
            };
            let id = token(only.ok_or_else(refused)?);
            if !ends.contains(&id) {
                self.never.push(id);
            }
        }
        Ok(self)
    }

    /// **Errors** when a setting makes no sense for this model and prompt.
    fn check(&self, model: &dyn LanguageModel, prompt: usize) -> Result<()> {
        let vocabulary = model.vocabulary();
        for (kind, ids) in [("end", &self.end), ("forbidden", &self.never)] {
            if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
                return Err(Error::Ids(format!(
                    "{kind} token {id}, but the model's vocabulary ends at {vocabulary}"
                )));
            }
        }
        // The last token is not read any more.
        if let Some(limit) = model.positions().filter(|limit| prompt.saturating_add(self.most) > limit + 1) {
            return Err(Error::Ids(format!(
                "a prompt of {prompt} tokens and {} more, but the model has {limit} positions; cut the prompt \
                 or ask for fewer",
                self.most
            )));
        }
        let sensible = match self.choose {
            Choose::Greedy => true,
            Choose::Sample { temperature, top_p, .. } => {
                temperature > 0.0 && temperature.is_finite() && top_p > 0.0 && top_p <= 1.0
            }
            Choose::Beams { beams, length_penalty, .. } => {
                (1..=MOST_BEAMS).contains(&beams) && length_penalty.is_finite()
            }
        };
        match sensible && self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite() {
            true => Ok(()),
            false => Err(Error::Config(format!("{self:?} cannot be followed"))),
        }
    }
}

/// The end tokens that a `config.json` names.
fn ends(config: &Value) -> Vec<u32> {
    let ids = match config.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.clone(),
        Some(id) => vec![id.clone()],
        None => Vec::new(),
    };
    ids.iter().filter_map(Value::as_u64).map(token).collect()
}

/// What is no token of any vocabulary stays one, and is refused with the others.
fn token(id: u64) -> u32 {
    u32::try_from(id).unwrap_or(u32::MAX)
}

/// Goes on from each prompt, and gives the added tokens, the end token included. Prompts may be padded
/// on either side. `on_token` hears of every row and token as it is chosen; a beam search tells the
/// whole text at its end.
///
/// **Errors** when the prompts and the tokens to add are longer than the positions, a setting makes no
/// sense, or the model's scores are not finite.
///
/// **Panics** when the model is one that reads a source first: that is [`translate`]'s.
pub fn generate(
    model: &dyn LanguageModel,
    prompts: &Sequences,
    settings: &Generation,
    on_token: &mut dyn FnMut(usize, u32),
) -> Result<Vec<Vec<u32>>> {
    settings.check(model, prompts.spans.iter().map(|span| span.len()).max().unwrap_or(0))?;
    let prompts = model.batch(&prompts.rows(), Side::Left)?;
    let run = Run { model, cache: Cache::new(prompts.starts()), next: prompts.ids.clone() };
    run.finished(prompts.rows(), settings, on_token)
}

/// What the model makes of each source text, as [`generate`].
///
/// **Errors** as [`generate`].
pub fn translate(
    model: &dyn Seq2Seq,
    sources: &Sequences,
    settings: &Generation,
    on_token: &mut dyn FnMut(usize, u32),
) -> Result<Vec<Vec<u32>>> {
    settings.check(model, 1)?;
    let prompts = vec![vec![model.start()]; sources.spans.len()];
    let next = model.batch(&prompts, Side::Left)?.ids;
    let cache = inference(|| model.reading(sources, Cache::new(vec![0; prompts.len()])));
    Run { model, cache, next }.finished(prompts, settings, on_token)
}

/// A model in the middle of its texts.
struct Run<'m> {
    model: &'m dyn LanguageModel,
    cache: Cache,
    /// What it reads next: `[rows, time]`.
    next: Ids,
}

impl Run<'_> {
    fn finished(
        self,
        prompts: Vec<Vec<u32>>,
        settings: &Generation,
        on_token: &mut dyn FnMut(usize, u32),
    ) -> Result<Vec<Vec<u32>>> {
        inference(|| match settings.choose {
            Choose::Beams { beams, length_penalty, early } => {
                let texts = self.search(prompts, settings, beams, length_penalty, early)?;
                for (row, text) in texts.iter().enumerate() {
                    text.iter().for_each(|&token| on_token(row, token));
                }
                Ok(texts)
            }
            _ => self.one_by_one(prompts, settings, on_token),
        })
    }

    fn one_by_one(
        mut self,
        prompts: Vec<Vec<u32>>,
        settings: &Generation,
        on_token: &mut dyn FnMut(usize, u32),
    ) -> Result<Vec<Vec<u32>>> {
        let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
        let mut texts = prompts;
        let mut open = vec![true; texts.len()];
        let mut streams: Vec<Rng> = match settings.choose {
            Choose::Sample { seed, .. } => {
                (0..texts.len()).map(|row| Rng::derived(seed, row as u64)).collect()
            }
            _ => Vec::new(),
        };
        for _ in 0..settings.most {
            let mut scores = self.scores()?;
            for row in (0..texts.len()).filter(|&row| open[row]).collect::<Vec<_>>() {
                let text = &mut texts[row];
                scores::adjust(&mut scores[row], text, lengths[row], settings);
                let token = match settings.choose {
                    Choose::Sample { temperature, top_k, top_p, .. } => {
                        scores::sample(&scores[row], temperature, top_k, top_p, &mut streams[row])
                    }
                    _ => scores::highest(&scores[row]),
                };
                text.push(token);
                on_token(row, token);
                open[row] = !settings.end.contains(&token);
            }
            if !open.contains(&true) {
                break;
            }
            // Complete texts go along, unheard.
            self.read(texts.iter().map(|text| text[text.len() - 1]).collect())?;
        }
        Ok(texts.iter().zip(lengths).map(|(text, length)| text[length..].to_vec()).collect())
    }

    /// Reads on, and gives each row's scores for the token after it.
    fn scores(&mut self) -> Result<Vec<Vec<f64>>> {
        let hidden = self.model.hidden(&self.next, &mut self.cache);
        let last = hidden.select(1, hidden.size(1) - 1);
        let scores = self.model.head(&last).read_f64()?;
        // One that is never to be chosen may be minus infinity.
        if let Some(score) = scores.iter().find(|&&score| score.is_nan() || score == f64::INFINITY) {
            return Err(Error::NotFinite(format!("a score of the model is {score}")));
        }
        Ok(scores.chunks(self.model.vocabulary()).map(<[f64]>::to_vec).collect())
    }

    /// What each row reads next.
    fn read(&mut self, tokens: Vec<u32>) -> Result<()> {
        let sizes = [tokens.len(), 1];
        self.next = Ids::new(tokens, sizes, self.model.vocabulary())?;
        Ok(())
    }
}
