//! Patterns over parameter and module paths: `*` stands for anything, `{a,b}` for either.
//!
//! Braces are not multiplied out, because ten pairs would make a thousand texts of one. Matching keeps the set
//! of places of the path up to which the pattern fits, so its time grows with the length of both only.
//! Read next: `module.rs`, whose walks make the paths.

/// A compiled path pattern, such as `*.attention.self.{query,value}` or `classifier.*`.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// One behind the other: the choices between braces, or a text outside of them as the only choice.
    parts: Vec<Vec<String>>,
}

impl Pattern {
    /// Reads a pattern; an unclosed brace stands for itself.
    pub fn new(text: &str) -> Pattern {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, choices, after)) = braces(rest) {
            parts.push(vec![before.to_string()]);
            parts.push(choices.split(',').map(|choice| choice.trim().to_string()).collect());
            rest = after;
        }
        parts.push(vec![rest.to_string()]);
        Pattern { parts }
    }

    /// Whether the whole path fits.
    pub fn matches(&self, path: &str) -> bool {
        // Whether the parts so far can end before each byte, or behind the last one.
        let mut ends = vec![false; path.len() + 1];
        ends[0] = true;
        for choices in &self.parts {
            let mut next = vec![false; ends.len()];
            for choice in choices {
                let reached = behind(choice, path.as_bytes(), ends.clone());
                next.iter_mut().zip(reached).for_each(|(end, reached)| *end |= reached);
            }
            ends = next;
        }
        ends[path.len()]
    }
}

/// The first pair of braces: what stands before, between and behind them.
fn braces(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('{')?;
    let (choices, after) = rest.split_once('}')?;
    Some((before, choices, after))
}

/// Where a text, in which only `*` is special, can end when it begins at one of `places`.
fn behind(text: &str, path: &[u8], mut places: Vec<bool>) -> Vec<bool> {
    for (number, piece) in text.split('*').enumerate() {
        // A star stands before every piece but the first: from the earliest place on, it reaches all.
        let reached = if number > 0 { places.iter().position(|&place| place) } else { None };
        if let Some(first) = reached {
            places[first..].fill(true);
        }
        let begins = |end: usize| end.checked_sub(piece.len()).is_some_and(|begin| places[begin]);
        let fits = |end| begins(end) && path[..end].ends_with(piece.as_bytes());
        places = (0..=path.len()).map(fits).collect();
    }
    places
}
