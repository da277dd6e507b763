//! Which layers an adapter goes to: a pattern, a list of names, a regular expression, or all of them.

use std::cell::Cell;
use std::fmt;

use crate::error::{Error, Result};
use crate::nn::Pattern;

/// Which layers are adapted. Made from a pattern (`"*.self.{query,value}"`), from `"all-linear"` (every
/// linear layer except output heads), or from a list of names, each a module's whole path or its end.
#[derive(Clone, Debug)]
pub struct Targets {
    include: Include,
    except: Vec<String>,
    except_regex: Option<Regex>,
    outside: Vec<String>,
    layers: Option<(Vec<usize>, Vec<String>)>,
    embeddings: bool,
}

#[derive(Clone, Debug)]
enum Include {
    AllLinear,
    Pattern(String, Pattern),
    Names(Vec<String>),
    Regex(String, Regex),
}

/// Output heads, which `all-linear` leaves out.
const HEADS: [&str; 4] = ["classifier", "score", "lm_head", "qa_outputs"];

impl Targets {
    fn new(include: Include) -> Targets {
        Targets {
            include,
            except: Vec::new(),
            except_regex: None,
            outside: Vec::new(),
            layers: None,
            embeddings: false,
        }
    }

    /// Layers whose whole path fits a regular expression.
    ///
    /// **Errors** when it is malformed, or uses more than literals, `.`, classes, groups, `|`, `*`, `+`
    /// and `?`.
    pub fn regex(text: &str) -> Result<Targets> {
        Ok(Targets::new(Include::Regex(text.to_string(), Regex::new(text)?)))
    }

    /// Leaves out layers by name (the whole path or its end).
    pub fn except<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Targets {
        self.except.extend(names.into_iter().map(Into::into));
        self
    }

    /// Leaves out layers whose whole path fits a regular expression.
    pub(super) fn except_regex(mut self, text: &str) -> Result<Targets> {
        self.except_regex = Some(Regex::new(text)?);
        Ok(self)
    }

    /// Leaves out everything at or below these modules.
    pub(super) fn outside(mut self, modules: Vec<String>) -> Targets {
        self.outside = modules;
        self
    }

    /// Takes only layers within these numbers of the stack, which stand behind one of the segments
    /// `names`, or behind any two segments when no name is given.
    pub fn in_layers(mut self, numbers: Vec<usize>, names: Vec<String>) -> Targets {
        self.layers = Some((numbers, names));
        self
    }

    /// Also takes embeddings that fit, for methods that can adapt them.
    pub fn with_embeddings(mut self) -> Targets {
        self.embeddings = true;
        self
    }

    /// Whether the layer at a path is chosen.
    pub fn choose(&self, path: &str, embedding: bool) -> bool {
        if embedding && !self.embeddings {
            return false;
        }
        let included = match &self.include {
            Include::AllLinear => !embedding && !within(path, &HEADS),
            Include::Pattern(_, pattern) => pattern.matches(path),
            Include::Names(names) => names.iter().any(|name| ends_with_name(path, name)),
            Include::Regex(_, regex) => regex.matches(path),
        };
        let excluded = self.except.iter().any(|name| ends_with_name(path, name))
            || self.except_regex.as_ref().is_some_and(|regex| regex.matches(path))
            || within(path, &self.outside);
        included && !excluded && self.in_layer(path)
    }

    fn in_layer(&self, path: &str) -> bool {
        let Some((numbers, names)) = &self.layers else { return true };
        let segments: Vec<&str> = path.split('.').collect();
        let number = (1..segments.len()).find_map(|at| {
            let fits =
                if names.is_empty() { at > 1 } else { names.iter().any(|name| name == segments[at - 1]) };
            segments[at].parse::<usize>().ok().filter(|_| fits)
        });
        number.is_some_and(|number| numbers.contains(&number))
    }
}

impl From<&str> for Targets {
    fn from(text: &str) -> Targets {
        match text {
            "all-linear" => Targets::new(Include::AllLinear),
            _ => Targets::new(Include::Pattern(text.to_string(), Pattern::new(text))),
        }
    }
}

impl From<Vec<String>> for Targets {
    fn from(names: Vec<String>) -> Targets {
        Targets::new(Include::Names(names))
    }
}

impl<const N: usize> From<[&str; N]> for Targets {
    fn from(names: [&str; N]) -> Targets {
        Targets::from(names.map(String::from).to_vec())
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.include {
            Include::AllLinear => write!(f, "\"all-linear\"")?,
            Include::Pattern(text, _) | Include::Regex(text, _) => write!(f, "{text:?}")?,
            Include::Names(names) => write!(f, "{names:?}")?,
        }
        if self.except.is_empty() { Ok(()) } else { write!(f, " except {:?}", self.except) }
    }
}

/// Whether `name` is the whole path or its last segments.
pub(super) fn ends_with_name(path: &str, name: &str) -> bool {
    path == name || path.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

/// Whether a path lies at or below one of the named modules.
pub(super) fn within<S: AsRef<str>>(path: &str, modules: &[S]) -> bool {
    let ends: Vec<usize> = path.match_indices('.').map(|(at, _)| at).chain([path.len()]).collect();
    modules.iter().any(|name| ends.iter().any(|&end| ends_with_name(&path[..end], name.as_ref())))
}

/// As much of regular expressions as adapter files use, matched by trying one way after the other.
#[derive(Clone, Debug)]
pub(super) struct Regex(Vec<Piece>);

#[derive(Clone, Debug)]
enum Piece {
    Any,
    /// Ranges of characters, and whether these are the ones that do not fit.
    Class(Vec<(char, char)>, bool),
    Group(Vec<Vec<Piece>>),
    /// A piece at least and at most so many times.
    Repeat(Box<Piece>, usize, usize),
}

/// What is left to try before a match gives up: no honest expression over module paths comes near.
const TRIES: usize = 100_000;

impl Regex {
    pub(super) fn new(text: &str) -> Result<Regex> {
        let characters: Vec<char> = text.chars().collect();
        let mut at = 0;
        let alternatives =
            parse(&characters, &mut at, 0).filter(|_| at == characters.len()).ok_or_else(|| {
                Error::Adapter(format!("{text:?} is no regular expression that is understood here"))
            })?;
        Ok(Regex(vec![Piece::Group(alternatives)]))
    }

    /// Whether the whole text fits.
    pub(super) fn matches(&self, text: &str) -> bool {
        let characters: Vec<char> = text.chars().collect();
        let left = Cell::new(TRIES);
        fits(&self.0, &characters, &left, &|rest| rest.is_empty())
    }

    /// Whether the text fits from its start or from behind a dot, up to its end: PEFT's rule for keys of
    /// `rank_pattern`.
    pub(super) fn matches_end(&self, path: &str) -> bool {
        let starts = path.match_indices('.').map(|(at, _)| at + 1);
        std::iter::once(0).chain(starts).any(|start| self.matches(&path[start..]))
    }
}

fn parse(text: &[char], at: &mut usize, depth: usize) -> Option<Vec<Vec<Piece>>> {
    let mut alternatives = vec![Vec::new()];
    // Deeper groups than anyone writes would overflow the stack.
    if depth > 50 {
        return None;
    }
    while let Some(&c) = text.get(*at) {
        let one = |c| Piece::Class(vec![(c, c)], false);
        *at += 1;
        let piece = match c {
            '|' => {
                alternatives.push(Vec::new());
                continue;
            }
            ')' => {
                *at -= 1;
                break;
            }
            '^' if *at == 1 => continue,
            '$' if *at == text.len() => continue,
            '.' => Piece::Any,
            '(' => {
                if text.get(*at..*at + 2) == Some(&['?', ':']) {
                    *at += 2;
                }
                let group = parse(text, at, depth + 1)?;
                (text.get(*at) == Some(&')')).then_some(())?;
                *at += 1;
                Piece::Group(group)
            }
            '[' => class(text, at)?,
            '\\' => {
                let escaped = *text.get(*at)?;
                *at += 1;
                match escaped {
                    'd' => Piece::Class(vec![('0', '9')], false),
                    'w' => Piece::Class(vec![('a', 'z'), ('A', 'Z'), ('0', '9'), ('_', '_')], false),
                    c if c.is_alphanumeric() => return None,
                    c => one(c),
                }
            }
            '*' | '+' | '?' | '{' | '}' | '^' | '$' | ']' => return None,
            c => one(c),
        };
        let limits = match text.get(*at) {
            Some('*') => Some((0, usize::MAX)),
            Some('+') => Some((1, usize::MAX)),
            Some('?') => Some((0, 1)),
            _ => None,
        };
        let sequence = alternatives.last_mut()?;
        match limits {
            None => sequence.push(piece),
            Some((least, most)) => {
                *at += 1;
                // A lazy quantifier finds the same whole matches.
                if text.get(*at) == Some(&'?') {
                    *at += 1;
                }
                sequence.push(Piece::Repeat(Box::new(piece), least, most));
            }
        }
    }
    Some(alternatives)
}

fn class(text: &[char], at: &mut usize) -> Option<Piece> {
    let negated = text.get(*at) == Some(&'^');
    *at += usize::from(negated);
    let mut ranges = Vec::new();
    loop {
        let c = *text.get(*at)?;
        *at += 1;
        match c {
            ']' => return Some(Piece::Class(ranges, negated)),
            '\\' if text.get(*at) == Some(&'d') => {
                *at += 1;
                ranges.push(('0', '9'));
            }
            _ => match (text.get(*at), text.get(*at + 1)) {
                (Some('-'), Some(&last)) if last != ']' => {
                    *at += 2;
                    ranges.push((c, last));
                }
                _ => ranges.push((c, c)),
            },
        }
    }
}

fn fits(pieces: &[Piece], text: &[char], left: &Cell<usize>, rest: &dyn Fn(&[char]) -> bool) -> bool {
    let Some((first, others)) = pieces.split_first() else { return rest(text) };
    if left.get() == 0 {
        return false;
    }
    left.set(left.get() - 1);
    let next = |text: &[char]| fits(others, text, left, rest);
    match first {
        Piece::Any => !text.is_empty() && next(&text[1..]),
        Piece::Class(ranges, negated) => text.first().is_some_and(|c| {
            ranges.iter().any(|(low, high)| (low..=high).contains(&c)) != *negated && next(&text[1..])
        }),
        Piece::Group(alternatives) => alternatives.iter().any(|pieces| fits(pieces, text, left, &next)),
        Piece::Repeat(piece, least, most) => {
            let again = |shorter: &[char]| {
                let repeat = Piece::Repeat(piece.clone(), least.saturating_sub(1), most - 1);
                shorter.len() < text.len() && fits(&[repeat], shorter, left, &next)
            };
            (*most > 0 && fits(std::slice::from_ref(&**piece), text, left, &again))
                || (*least == 0 && next(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_expressions_match_whole_paths() {
        for (expression, path, expected) in [
            (r".*\.attn\.c_attn", "transformer.h.0.attn.c_attn", true),
            (r".*\.attn\.c_attn", "transformer.h.0.attn.c_attn.x", false),
            (r".*layer\.[0-3]\.attention\.self\.(query|value)", "encoder.layer.2.attention.self.value", true),
            (
                r".*layer\.[0-3]\.attention\.self\.(query|value)",
                "encoder.layer.4.attention.self.value",
                false,
            ),
            (r".*\.\d+\.attn.*", "11.attn.c_proj", false),
            (r".*\.\d+\.attn.*", "t.h.11.attn.c_proj", true),
            (r"(a|b)+c?", "abab", true),
            (r"[^.]*", "a.b", false),
            (r"^x$", "x", true),
        ] {
            assert_eq!(Regex::new(expression).unwrap().matches(path), expected, "{expression} on {path}");
        }
        for malformed in ["(a", "a)", "[a", "*a", r"a\", "a{2}", r"\b"] {
            assert!(Regex::new(malformed).is_err(), "{malformed} should be refused");
        }
    }

    #[test]
    fn a_hostile_expression_ends() {
        let regex = Regex::new("(a*)*(a*)*(a*)*b").unwrap();
        assert!(!regex.matches(&"a".repeat(200)));
    }

    #[test]
    fn keys_of_patterns_match_the_end_of_a_path() {
        let ends = |key: &str, path| Regex::new(key).unwrap().matches_end(path);
        assert!(ends("c_fc", "transformer.h.0.mlp.c_fc"));
        assert!(ends("h.0.attn.c_attn", "transformer.h.0.attn.c_attn"));
        assert!(!ends("fc", "transformer.h.0.mlp.c_fc"));
    }

    #[test]
    fn targets_choose_by_name_layer_and_exception() {
        let paths = ["bert.encoder.layer.0.self.query", "bert.encoder.layer.1.self.query", "classifier"];
        let chosen = |targets: Targets| paths.map(|path| targets.choose(path, false));
        assert_eq!(chosen("all-linear".into()), [true, true, false]);
        assert_eq!(chosen(["query"].into()), [true, true, false]);
        assert_eq!(chosen(["uery"].into()), [false; 3]);
        assert_eq!(chosen(Targets::from(["query"]).in_layers(vec![1], vec![])), [false, true, false]);
        assert_eq!(chosen(Targets::from("*").except(["query"])), [false, false, true]);
        assert_eq!(chosen(Targets::from("*").in_layers(vec![0], vec!["layer".into()])), [true, false, false]);
    }
}
