//! Regular expressions over module paths, as adapter files use them.

use std::cell::Cell;

use crate::error::{Error, Result};

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
