//! Regular expressions over module paths, as adapter files use them.

use crate::error::{Error, Result};

/// An expression that must fit a whole path, or a path's end.
#[derive(Clone, Debug)]
pub(super) struct Regex {
    whole: regex_lite::Regex,
    end: regex_lite::Regex,
}

impl Regex {
    /// **Errors** when the text is no regular expression.
    pub(super) fn new(text: &str) -> Result<Regex> {
        let compiled = |text: &str| {
            let built = regex_lite::RegexBuilder::new(text).dot_matches_new_line(true).build();
            built.map_err(|error| Error::Adapter(format!("{text:?} is no regular expression: {error}")))
        };
        // By itself first, so that an unbalanced bracket cannot close the group around it.
        compiled(text)?;
        Ok(Regex {
            whole: compiled(&format!("^(?:{text})$"))?,
            end: compiled(&format!(r"^(?:.*\.)?(?:{text})$"))?,
        })
    }

    /// Whether the whole text fits.
    pub(super) fn matches(&self, text: &str) -> bool {
        self.whole.is_match(text)
    }

    /// Whether the text fits from its start or from behind a dot, up to its end: PEFT's rule for keys of
    /// `rank_pattern`.
    pub(super) fn matches_end(&self, path: &str) -> bool {
        self.end.is_match(path)
    }
}
