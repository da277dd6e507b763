//! Patterns over parameter and module paths: `*` stands for anything, `{a,b}` for either.

/// A compiled path pattern, such as `*.attention.self.{query,value}` or `classifier.*`.
#[derive(Clone, Debug)]
pub struct Pattern {
    alternatives: Vec<String>,
}

impl Pattern {
    /// Reads a pattern; an unclosed brace stands for itself.
    pub fn new(text: &str) -> Pattern {
        let mut alternatives = Vec::new();
        expand(text, &mut alternatives);
        Pattern { alternatives }
    }

    /// Whether the whole path fits.
    pub fn matches(&self, path: &str) -> bool {
        self.alternatives.iter().any(|alternative| fits(alternative, path))
    }
}

/// Writes out the first pair of braces, and those behind it.
fn expand(text: &str, alternatives: &mut Vec<String>) {
    let braces = text.find('{').and_then(|open| Some((open, open + text[open..].find('}')?)));
    let Some((open, close)) = braces else { return alternatives.push(text.to_string()) };
    for choice in text[open + 1..close].split(',') {
        expand(&format!("{}{}{}", &text[..open], choice.trim(), &text[close + 1..]), alternatives);
    }
}

/// Matches text in which only `*` is special: the pieces between the stars follow one another.
fn fits(pattern: &str, path: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == path };
    let Some(mut left) = path.strip_prefix(head) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let tail = pieces.pop().expect("split gives at least one piece");
    for piece in pieces {
        let Some(at) = left.find(piece) else { return false };
        left = &left[at + piece.len()..];
    }
    left.ends_with(tail)
}
