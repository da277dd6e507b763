//! How a text is cut into the words that are compared.
//!
//! The rules are those of mteval-v13a, the script behind published BLEU scores, as sacrebleu applies them
//! (Post 2018, arXiv 1804.08771). Read next: `ngrams.rs`.

use std::sync::LazyLock;

use regex_lite::Regex;

/// How a text is cut into words before it is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tokenization {
    /// mteval-v13a: punctuation stands alone, except where it is part of a number.
    #[default]
    V13a,
    /// At white space only.
    Whitespace,
    /// Every character that is not white space is a word.
    Characters,
}

impl Tokenization {
    /// The words of a text.
    pub fn words(self, text: &str) -> Vec<String> {
        match self {
            Tokenization::V13a => {
                split(&separated(text.trim_end_matches(is_space))).map(String::from).collect()
            }
            Tokenization::Whitespace => split(text).map(String::from).collect(),
            Tokenization::Characters => text.chars().filter(|&c| !is_space(c)).map(String::from).collect(),
        }
    }
}

/// White space as Python counts it: beside Unicode's, the four ASCII separators.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The pieces of a text between white space.
pub(super) fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// Each rule of mteval-v13a and what it puts in its place, in the order in which they apply.
static RULES: LazyLock<[(Regex, &str); 4]> = LazyLock::new(|| {
    let rule = |pattern| Regex::new(pattern).expect("the patterns below are well formed");
    [
        // All ASCII punctuation but apostrophe, comma, hyphen and full stop.
        (rule(r##"([!-&(-+/:-@\[-`{-~])"##), " ${1} "),
        (rule(r"([^0-9])([.,])"), "${1} ${2} "),
        (rule(r"([.,])([^0-9])"), " ${1} ${2}"),
        (rule(r"([0-9])(-)"), "${1} ${2} "),
    ]
});

/// The text with spaces around what is a word of its own.
fn separated(text: &str) -> String {
    let mut text = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    for (escape, character) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
        text = text.replace(escape, character);
    }
    text = format!(" {text} ");
    for (rule, replacement) in RULES.iter() {
        text = rule.replace_all(&text, *replacement).into_owned();
    }
    text
}
