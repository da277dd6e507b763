//! The tokenizer that a published model comes with.

use std::path::Path;

use engrad::{Error, Result};
use tokenizers::Tokenizer;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

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
