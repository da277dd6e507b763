//! Text to token ids with the published model's own tokenizer.
//! Read next: `tuning.rs`.

use std::path::Path;

use engrad::tasks::{self, Understanding};
use engrad::{Error, Result};
use tokenizers::Tokenizer;

use super::published;
use super::task::{Example, Task};

/// Reads SST-2 from `train.tsv` and `dev.tsv`: at most `rows` of the first, all of the second.
///
/// **Errors** when a file is missing or malformed.
pub fn sst2(model: &Path, data: &Path, rows: usize, max_length: usize) -> Result<Task> {
    let tokenizer = published::cutting(model, max_length)?;
    let mut examples = Understanding::Sst2.read(data)?;
    examples.train.truncate(rows);
    let labels = Understanding::Sst2.labels().to_vec();
    let [train, dev] = [examples.train, examples.dev].map(|rows| encode(&tokenizer, rows));
    Ok(Task { train: train?, dev: dev?, labels })
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
