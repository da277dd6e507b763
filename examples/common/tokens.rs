//! The tokenizer that a published model comes with.
//! Read next: `answering.rs`, which makes rows of them.

use std::path::Path;

use engrad::{Error, Result};
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{Tokenizer, TruncationParams};

/// Reads `tokenizer.json`, or GPT-2's `vocab.json` and `merges.txt`; none where a directory has neither.
/// The file may ask for padding to a fixed length, which would multiply the work: that is left out.
///
/// **Errors** when a file is malformed.
pub fn open(directory: &Path) -> Result<Option<Tokenizer>> {
    let [json, vocabulary, merges] =
        ["tokenizer.json", "vocab.json", "merges.txt"].map(|name| directory.join(name));
    let malformed =
        |path: &Path, error: tokenizers::Error| Error::Format { path: path.into(), what: error.to_string() };
    if json.exists() {
        let mut tokenizer = Tokenizer::from_file(&json).map_err(|error| malformed(&json, error))?;
        tokenizer.with_padding(None);
        return Ok(Some(tokenizer));
    }
    if !vocabulary.exists() || !merges.exists() {
        return Ok(None);
    }
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let model = BPE::from_file(&text(&vocabulary), &text(&merges)).build();
    let mut tokenizer = Tokenizer::new(model.map_err(|error| malformed(&merges, error))?);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok(Some(tokenizer))
}

/// The same, where there must be one.
///
/// **Errors** when there is none, or it is malformed.
#[allow(dead_code, reason = "programs that also know other vocabularies only open")]
pub fn need(directory: &Path) -> Result<Tokenizer> {
    open(directory)?.ok_or_else(|| {
        let what = "expected the model's tokenizer.json, or vocab.json and merges.txt".into();
        Error::Format { path: directory.into(), what }
    })
}

/// The same, cutting texts to so many tokens, those that stand around them included; of a pair the longer text
/// is cut.
///
/// **Errors** as [`need`], or when so few tokens leave no room for a text.
#[allow(dead_code, reason = "decoders cut for themselves")]
pub fn cutting(directory: &Path, longest: usize) -> Result<Tokenizer> {
    let mut tokenizer = need(directory)?;
    let truncation = TruncationParams { max_length: longest, ..TruncationParams::default() };
    let set = tokenizer.with_truncation(Some(truncation)).map(drop);
    set.map_err(|error| Error::Format { path: directory.into(), what: error.to_string() })?;
    Ok(tokenizer)
}

/// How long rows may be: as `asked`, as far as a model's positions allow. Virtual tokens, where a method has them,
/// take up to `rank` of these; that room is left with every method, so that all see the same rows.
#[allow(dead_code, reason = "not every program trains on rows of its own length")]
pub fn longest(asked: usize, positions: Option<usize>, rank: usize) -> usize {
    positions.map_or(asked, |positions| asked.min(positions.saturating_sub(rank).max(positions / 2)))
}
