//! An encoder that reads rows of tokens and answers with a class or a score: batches, loss, answers.
//! Read next: `tokens.rs`, where texts become tokens; `subject.rs`, what of the model is trained.

use std::collections::BTreeMap;
use std::path::Path;

use engrad::nn::{Classifier, Encoder, TokenBatch};
use engrad::tasks::{Example, Understanding};
use engrad::{Device, Error, Ids, Reduction, Result, Rng, Tensor, inference};
use tokenizers::{EncodeInput, Tokenizer};

use super::tokens;

/// Rows that are measured at once.
const MEASURED: usize = 64;

/// A row as the model reads it.
pub struct Row {
    pub tokens: Vec<u32>,
    /// The text that each token belongs to: 0 or 1.
    pub types: Vec<u32>,
    /// The number of a class, or a score.
    pub label: f64,
}

/// Texts and labels, padded to the longest.
pub struct Batch {
    tokens: TokenBatch,
    labels: Labels,
}

enum Labels {
    /// `[batch]`
    Classes(Ids),
    /// `[batch, 1]`
    Scores(Tensor),
}

/// A published encoder with a fresh head for so many classes, or for a score if there is none. A head that the
/// directory has, such as that of a masked language model, is left aside.
///
/// **Errors** when the directory holds no encoder.
pub fn model(directory: &Path, classes: usize, seed: u64, device: &Device) -> Result<Classifier> {
    let encoder = Encoder::from_directory(directory, device)?;
    Ok(Classifier::new(encoder, classes.max(1), &mut Rng::derived(seed, 4 << 40)))
}

/// Patterns of what is new or stands last in such a model, and is trained beside adapters.
pub fn beside(model: &Classifier) -> Vec<&'static str> {
    if model.dense.is_some() { vec!["classifier.*"] } else { vec!["*.pooler.*", "classifier.*"] }
}

/// Rows as the model wants them.
///
/// **Errors** when a token or a label is beyond the model.
pub fn batch<'a>(model: &Classifier, classes: usize, rows: impl Iterator<Item = &'a Row>) -> Result<Batch> {
    let (mut tokens, mut types, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        tokens.push(row.tokens.clone());
        types.push(row.types.clone());
        labels.push(row.label);
    }
    let count = labels.len();
    // RoBERTa has one segment only.
    let segments = model.encoder.config().type_vocab_size > 1;
    let tokens = model.encoder.batch(&tokens, segments.then_some(&types))?;
    let labels = if classes == 0 {
        let scores: Vec<f32> = labels.iter().map(|&label| label as f32).collect();
        Labels::Scores(Tensor::new(&scores, [count, 1], &model.encoder.device()))
    } else {
        let labels = labels.iter().map(|&label| label as u32).collect::<Vec<_>>();
        Labels::Classes(Ids::new(labels, [count], classes)?)
    };
    Ok(Batch { tokens, labels })
}

/// What is made small.
pub fn loss(model: &Classifier, batch: &Batch) -> Tensor {
    let answers = model.forward(&batch.tokens);
    match &batch.labels {
        Labels::Classes(classes) => answers.cross_entropy(classes),
        Labels::Scores(scores) => answers.mse_loss(scores, Reduction::Mean),
    }
}

/// A class or a score for each row. Rows of like length go together, so that little is padded; `watch`
/// hears how many are done.
///
/// **Errors** as [`batch`], when the device fails, or when an answer is no finite number.
pub fn answers(
    model: &Classifier,
    classes: usize,
    rows: &[Row],
    watch: &mut dyn FnMut(usize),
) -> Result<Vec<f64>> {
    let mut sorted: Vec<usize> = (0..rows.len()).collect();
    sorted.sort_by_key(|&row| rows[row].tokens.len());
    let mut answers = vec![0.0; sorted.len()];
    let mut done = 0;
    for part in sorted.chunks(MEASURED) {
        let batch = batch(model, classes, part.iter().map(|&row| &rows[row]))?;
        let scores = inference(|| model.forward(&batch.tokens)).read()?;
        if let Some(score) = scores.iter().find(|score| !score.is_finite()) {
            return Err(Error::NotFinite(format!("the model answers {score}; lower the learning rate")));
        }
        for (&row, scores) in part.iter().zip(scores.chunks(scores.len() / part.len())) {
            answers[row] = if classes == 0 { f64::from(scores[0]) } else { highest(scores) as f64 };
        }
        done += part.len();
        watch(done);
    }
    Ok(answers)
}

/// The task's own measures of answers to rows, by name.
pub fn measures(task: Understanding, rows: &[Row], answers: &[f64]) -> BTreeMap<String, f64> {
    let labels: Vec<f64> = rows.iter().map(|row| row.label).collect();
    let names = task.measures().iter().map(|name| name.to_string());
    names.zip(task.measure(&labels, answers)).collect()
}

/// The place of the highest number, the first of equal ones.
fn highest(scores: &[f32]) -> usize {
    (0..scores.len()).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0)
}

/// Texts as the model's tokenizer cuts them; pairs that are too long lose the end of their longer text.
///
/// **Errors** when the tokenizer is missing, malformed, or refuses a text.
pub fn encode(directory: &Path, longest: usize, parts: [Vec<Example>; 2]) -> Result<[Vec<Row>; 2]> {
    let tokenizer = tokens::cutting(directory, longest)?;
    let [train, dev] = parts.map(|examples| rows(&tokenizer, examples));
    Ok([train?, dev?])
}

fn rows(tokenizer: &Tokenizer, examples: Vec<Example>) -> Result<Vec<Row>> {
    let labels: Vec<f64> = examples.iter().map(|example| example.label).collect();
    let texts = examples.into_iter().map(|Example { first, second, .. }| match second {
        Some(second) => EncodeInput::Dual(first.into(), second.into()),
        None => EncodeInput::Single(first.into()),
    });
    let encoded = tokenizer
        .encode_batch_fast(texts.collect(), true)
        .map_err(|error| Error::Data(format!("the tokenizer refuses a text: {error}")))?;
    let row = |(encoding, label): (tokenizers::Encoding, f64)| Row {
        tokens: encoding.get_ids().to_vec(),
        types: encoding.get_type_ids().to_vec(),
        label,
    };
    Ok(encoded.into_iter().zip(labels).map(row).collect())
}
