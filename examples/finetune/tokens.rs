//! Text to token ids with the published model's own tokenizer.

use std::path::Path;

use engrad::tasks::{self, Understanding};
use engrad::{Error, Result};
use tokenizers::{Tokenizer, TruncationParams};

use super::published;
use super::task::{Example, Task};

/// Reads SST-2 from `train.tsv` and `dev.tsv`: at most `rows` of the first, all of the second.
///
/// **Errors** when a file is missing or malformed.
pub fn sst2(model: &Path, data: &Path, rows: usize, max_length: usize) -> Result<Task> {
    let tokenizer = tokenizer(model, max_length)?;
    let mut examples = Understanding::Sst2.read(data)?;
    examples.train.truncate(rows);
    let labels = Understanding::Sst2.labels().to_vec();
    let [train, dev] = [examples.train, examples.dev].map(|rows| encode(&tokenizer, rows));
    Ok(Task { train: train?, dev: dev?, labels })
}

/// The tokenizer of a model directory, which cuts long texts.
fn tokenizer(model: &Path, max_length: usize) -> Result<Tokenizer> {
    let mut tokenizer = published::need(model)?;
    let truncation = TruncationParams { max_length, ..TruncationParams::default() };
    let set = tokenizer.with_truncation(Some(truncation)).map(drop);
    set.map_err(|error| Error::Format { path: model.into(), what: error.to_string() })?;
    Ok(tokenizer)
}

fn encode(tokenizer: &Tokenizer, rows: Vec<tasks::Example>) -> Result<Vec<Example>> {
    let labels: Vec<u32> = rows.iter().map(|row| row.label as u32).collect();
    let texts: Vec<String> = rows.into_iter().map(|row| row.first).collect();
    let encoded = tokenizer
        .encode_batch_fast(texts, true)
        .map_err(|error| Error::Data(format!("the tokenizer refuses a text: {error}")))?;
    let example = |(encoding, label): (tokenizers::Encoding, u32)| Example {
        tokens: encoding.get_ids().to_vec(),
        label,
    };
    Ok(encoded.into_iter().zip(labels).map(example).collect())
}
