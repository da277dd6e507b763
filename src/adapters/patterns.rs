//! Ranks and alphas that differ between layers.

use serde_json::{Map, Value, json};

use super::Site;
use super::regex::Regex;
use super::settings::{Settings, plain_number};
use crate::error::{Error, Result};

/// Ranks and alphas that differ between layers. A key is a regular expression for the end of a path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patterns {
    /// Ranks by key.
    pub rank: Vec<(String, usize)>,
    /// Alphas by key.
    pub alpha: Vec<(String, f64)>,
}

impl Patterns {
    pub(super) fn from_config(config: &Settings) -> Result<Patterns> {
        let mut patterns = Patterns::default();
        for (key, value) in config.map("rank_pattern")? {
            let rank = value.as_u64().filter(|&rank| rank > 0 && rank < 1 << 32);
            let refused =
                || Error::Adapter(format!("rank_pattern {key} is {value}, expected a positive rank"));
            patterns.rank.push((key.clone(), rank.ok_or_else(refused)? as usize));
        }
        for (key, value) in config.map("alpha_pattern")? {
            let refused = || Error::Adapter(format!("alpha_pattern {key} is {value}, expected a number"));
            patterns.alpha.push((key.clone(), value.as_f64().ok_or_else(refused)?));
        }
        Ok(patterns)
    }

    pub(super) fn write(&self, config: &mut Map<String, Value>) {
        let ranks = self.rank.iter().map(|(key, rank)| (key.clone(), json!(rank)));
        config.insert("rank_pattern".into(), Value::Object(ranks.collect()));
        let alphas = self.alpha.iter().map(|(key, alpha)| (key.clone(), plain_number(*alpha)));
        config.insert("alpha_pattern".into(), Value::Object(alphas.collect()));
    }

    /// Rank and alpha at a site, where none other is given by a key.
    ///
    /// **Errors** when the rank does not fit it, or keys contradict one another.
    pub(super) fn at(&self, site: &Site, rank: usize, alpha: f64) -> Result<(usize, f64)> {
        let rank = value_at(&self.rank, &site.path, rank)?;
        let alpha = value_at(&self.alpha, &site.path, alpha)?;
        // Twice the size of the matrix: a saved PiSSA holds its start beside what became of it.
        let largest = 2 * site.inputs.max(site.outputs);
        if rank == 0 || rank > largest {
            let Site { inputs, outputs, .. } = site;
            return Err(Error::Adapter(format!(
                "rank {rank} does not fit {inputs} -> {outputs}; expected 1 to {largest}"
            )));
        }
        Ok((rank, alpha))
    }
}

/// The value of the key that fits. Which of several wins depends on their order, which files do not
/// keep, so they must agree.
fn value_at<T: Copy + PartialEq>(patterns: &[(String, T)], path: &str, default: T) -> Result<T> {
    let mut found = None;
    for (key, value) in patterns {
        if Regex::new(key)?.matches_end(path) {
            match found {
                Some((other, earlier)) if earlier != *value => {
                    return Err(Error::Adapter(format!(
                        "patterns {other:?} and {key:?} contradict one another"
                    )));
                }
                _ => found = Some((key, *value)),
            }
        }
    }
    Ok(found.map_or(default, |(_, value)| value))
}
