//! Published tasks: their files, read as they are published, and the measures they are judged by.
//!
//! [`Understanding`] has eight tasks of GLUE: a text, or two, and an answer. [`Generation`] has those in which
//! a record is put into words: E2E, WebNLG and DART. Readers give texts, because tokens belong to a model.
//! A malformed file is an error that names file, line and column; nothing is skipped or guessed.
//! Read next: `understanding.rs`, `generation.rs`; `table.rs` reads the rows of both.

mod generation;
mod mersenne;
mod table;
mod understanding;

use std::path::Path;

use crate::error::Result;

pub use generation::{Generation, Record, Records};
pub use mersenne::Mersenne;
pub use understanding::{Example, Examples, Understanding};

/// A text file in UTF-8, without the mark that some systems put at its beginning.
///
/// **Errors** when it cannot be read. Broken UTF-8 is reported with file, line, and the byte of the line as column.
pub fn text(path: impl AsRef<Path>) -> Result<String> {
    table::text(path.as_ref(), table::byte_of_line)
}

/// The known name that is nearest to a word that is none: for messages.
///
/// Distance counts characters to put in, take out or change (Levenshtein 1966).
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names.into_iter().min_by_key(|name| distance(word, name))
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    // `distances[j]`: from what was read of `a` to the first j characters of `b`.
    let mut distances: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut before = i;
        distances[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let changed = before + usize::from(a != *b);
            before = distances[j + 1];
            distances[j + 1] = changed.min(distances[j] + 1).min(before + 1);
        }
    }
    distances[b.len()]
}
