//! Text to ids and back, for the kinds of vocabulary that decoders come with.
//! Read next: `common/tokens.rs`, the first of these kinds.

use std::path::Path;

use engrad::{Error, Result};
use serde_json::Value;
use tokenizers::Tokenizer;

use super::tokens;

/// Pieces that stand before those of several bytes: three marks, and every single byte.
const WHOLE: usize = 3 + 256;

/// A vocabulary.
pub enum Words {
    /// `tokenizer.json`, or GPT-2's `vocab.json` and `merges.txt`; and what a text begins with.
    Published(Box<Tokenizer>, Option<u32>),
    /// Pieces of bytes with scores, as small Llamas have them: neighbours whose joint piece has the
    /// highest score are joined.
    Pieces(Vec<(Vec<u8>, f64)>),
    /// Words between spaces; the first stands for the beginning.
    Listed(Vec<String>),
    /// None: ids are all there is.
    Numbers,
}

impl Words {
    /// The vocabulary of a model's directory.
    ///
    /// **Errors** when its file is malformed.
    pub fn open(directory: &Path, config: &Value) -> Result<Words> {
        let vocabulary = directory.join("vocab.json");
        let malformed = |path: &Path, what: String| Error::Format { path: path.into(), what };
        if let Some(tokenizer) = tokens::open(directory)? {
            let begin = config.get("bos_token_id").and_then(Value::as_u64).map(|id| id as u32);
            return Ok(Words::Published(Box::new(tokenizer), begin));
        }
        if !vocabulary.exists() {
            return Ok(Words::Numbers);
        }
        let text = std::fs::read_to_string(&vocabulary)
            .map_err(|source| Error::Io { path: vocabulary.clone(), source })?;
        let json: Value =
            serde_json::from_str(&text).map_err(|error| malformed(&vocabulary, error.to_string()))?;
        let piece = |(id, piece): (usize, &Value)| match (piece[0].as_str(), piece[1].as_f64()) {
            (Some(_), Some(score)) if (3..WHOLE).contains(&id) => Some((vec![(id - 3) as u8], score)),
            (Some(text), Some(score)) => Some((text.chars().map(|byte| byte as u8).collect(), score)),
            _ => None,
        };
        let pieces: Option<Vec<(Vec<u8>, f64)>> =
            json["pieces"].as_array().and_then(|all| all.iter().enumerate().map(piece).collect());
        // Any text can be said in single bytes.
        pieces.filter(|pieces| pieces.len() >= WHOLE).map(Words::Pieces).ok_or_else(|| {
            let what =
                format!("expected pieces of text with scores, {WHOLE} or more: marks and single bytes first");
            malformed(&vocabulary, what)
        })
    }

    /// The ids of a text, behind the token with which texts begin.
    ///
    /// **Errors** when the text holds what the vocabulary does not.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        match self {
            Words::Published(tokenizer, begin) => {
                let encoding = tokenizer
                    .encode_fast(text, false)
                    .map_err(|error| Error::Data(format!("the tokenizer refuses the text: {error}")))?;
                let ids = encoding.get_ids().to_vec();
                Ok(if ids.is_empty() { begin.iter().copied().collect() } else { ids })
            }
            Words::Pieces(pieces) => Ok(std::iter::once(1).chain(joined(pieces, text)).collect()),
            Words::Listed(words) => {
                let id = |word: &str| words.iter().position(|known| known == word).map(|at| at as u32);
                let ids = text.split_whitespace().map(|word| {
                    id(word).ok_or_else(|| Error::Data(format!("{word:?} is not among {words:?}")))
                });
                std::iter::once(Ok(0)).chain(ids).collect()
            }
            Words::Numbers => text
                .split_whitespace()
                .map(|id| {
                    id.parse().map_err(|_| Error::Data(format!("{id:?} is no id; this model has no words")))
                })
                .collect(),
        }
    }

    fn bytes(&self, ids: &[u32]) -> Vec<u8> {
        match self {
            Words::Published(tokenizer, _) => tokenizer.decode(ids, true).unwrap_or_default().into_bytes(),
            Words::Pieces(pieces) => {
                // The model may have more ids than the file has pieces.
                let piece = |&id: &u32| pieces.get(id as usize).filter(|_| id > 2);
                ids.iter().filter_map(piece).flat_map(|(bytes, _)| bytes.clone()).collect()
            }
            Words::Listed(words) => {
                let word =
                    |id: &u32| if *id == 0 { String::new() } else { format!("{} ", words[*id as usize]) };
                ids.iter().map(word).collect::<String>().into_bytes()
            }
            Words::Numbers => ids.iter().map(|id| format!("{id} ")).collect::<String>().into_bytes(),
        }
    }

    /// Says a text as it grows.
    pub fn speaker(&self, prompt: &[u32]) -> Speaker<'_> {
        Speaker { words: self, ids: prompt.to_vec(), said: 0 }
    }
}

/// A text that grows. Characters may be cut between tokens, so only whole ones are said.
pub struct Speaker<'w> {
    words: &'w Words,
    ids: Vec<u32>,
    said: usize,
}

impl Speaker<'_> {
    /// What was not said yet.
    pub fn so_far(&mut self) -> String {
        let bytes = self.words.bytes(&self.ids);
        let fresh = bytes.get(self.said..).unwrap_or_default();
        let whole = match std::str::from_utf8(fresh) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&fresh[..error.valid_up_to()]).expect("checked up to there"),
        };
        // The stand-in for a character whose bytes are not all there yet.
        let whole = whole.trim_end_matches('\u{FFFD}');
        self.said += whole.len();
        whole.to_string()
    }

    /// What one more token adds.
    pub fn next(&mut self, token: u32) -> String {
        self.ids.push(token);
        self.so_far()
    }
}

/// The bytes of a text, joined by score as long as any two neighbours make a piece.
fn joined(pieces: &[(Vec<u8>, f64)], text: &str) -> Vec<u32> {
    // The vocabulary's own texts begin with a space.
    let spaced = if text.is_empty() { String::new() } else { format!(" {text}") };
    let find = |bytes: &[u8]| {
        let place = pieces.iter().skip(WHOLE).position(|(piece, _)| piece == bytes);
        place.map(|at| (at + WHOLE) as u32)
    };
    let whole = |c: char| find(c.to_string().as_bytes());
    let bytes = |c: char| c.to_string().bytes().map(|byte| u32::from(byte) + 3).collect::<Vec<_>>();
    let mut ids: Vec<u32> =
        spaced.chars().flat_map(|c| whole(c).map_or_else(|| bytes(c), |id| vec![id])).collect();
    loop {
        let joint = |at: usize| {
            let id = find(&[&pieces[ids[at] as usize].0[..], &pieces[ids[at + 1] as usize].0].concat())?;
            Some((at, id))
        };
        let score = |id: u32| pieces[id as usize].1;
        let best = (0..ids.len().saturating_sub(1))
            .filter_map(joint)
            .max_by(|a, b| score(a.1).total_cmp(&score(b.1)).then(b.0.cmp(&a.0)));
        let Some((at, id)) = best else { return ids };
        ids.splice(at..at + 2, [id]);
    }
}
