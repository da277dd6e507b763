//! Which layers an adapter goes to: a pattern, a list of names, a regular expression, or all of them.

use std::fmt;

use super::regex::Regex;
use crate::error::Result;
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
        if !self.except.is_empty() {
            write!(f, " except {:?}", self.except)?;
        }
        match &self.layers {
            Some((numbers, _)) => write!(f, " in layers {numbers:?}"),
            None => Ok(()),
        }
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

#[cfg(test)]
#[path = "targets_tests.rs"]
mod tests;
