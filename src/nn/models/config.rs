//! What the checks of all configurations share.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};

/// Limits far beyond what is trained on one machine, so that a wrong number in a file ends in an error
/// and not in an attempt to allocate terabytes.
const LARGEST_SIZE: usize = 1 << 24;
const MOST_LAYERS: usize = 1 << 12;
const MOST_PARAMETERS: u128 = 1 << 34;

/// The entries of a `config.json` that a model reads.
///
/// **Errors** when one is missing or of another kind.
pub(super) fn entries<C: DeserializeOwned>(json: &Value) -> Result<C> {
    serde_json::from_value(json.clone()).map_err(|error| Error::Config(error.to_string()))
}

/// **Errors** when a size is 0 or absurd.
pub(super) fn check_sizes(sizes: &[(&str, usize)]) -> Result<()> {
    match sizes.iter().find(|(_, value)| *value == 0 || *value > LARGEST_SIZE) {
        Some((name, value)) => Err(Error::Config(format!("{name} is {value}, expected 1 to {LARGEST_SIZE}"))),
        None => Ok(()),
    }
}

/// **Errors** when there are absurdly many layers, or numbers in tables of `rows` times `width`, and in
/// layers of `matrices` times their sizes. The sizes are within their limits.
pub(super) fn check_total(
    (name, layers): (&str, usize),
    tables: [usize; 2],
    matrices: &[(usize, usize)],
) -> Result<()> {
    if layers > MOST_LAYERS {
        return Err(Error::Config(format!("{name} is {layers}, expected at most {MOST_LAYERS}")));
    }
    let layer: u128 = matrices.iter().map(|&(inputs, outputs)| inputs as u128 * outputs as u128).sum();
    let total = tables[0] as u128 * tables[1] as u128 + layers as u128 * layer;
    match total > MOST_PARAMETERS {
        true => {
            let what = format!("these sizes make {total} parameters, which is more than {MOST_PARAMETERS}");
            Err(Error::Config(what))
        }
        false => Ok(()),
    }
}

/// **Errors** when the second does not divide the first.
pub(super) fn check_divides((name, value): (&str, usize), (by, divisor): (&str, usize)) -> Result<()> {
    match divisor > 0 && value.is_multiple_of(divisor) {
        true => Ok(()),
        false => Err(Error::Config(format!("{by} {divisor} does not divide {name} {value}"))),
    }
}

/// **Errors** when a probability is not in `0..1`.
pub(super) fn check_probabilities(values: &[(&str, f64)]) -> Result<()> {
    match values.iter().find(|(_, value)| !(0.0..1.0).contains(value)) {
        Some((name, value)) => Err(Error::Config(format!("{name} is {value}, not in 0..1"))),
        None => Ok(()),
    }
}

/// **Errors** when a token is outside of the vocabulary.
pub(super) fn check_token((name, id): (&str, u32), vocabulary: usize) -> Result<()> {
    match (id as usize) < vocabulary {
        true => Ok(()),
        false => Err(Error::Config(format!("{name} {id} is outside the vocabulary of {vocabulary}"))),
    }
}

/// **Errors** when a norm's eps is negative or not finite.
pub(super) fn check_eps(name: &str, eps: f64) -> Result<()> {
    match eps >= 0.0 && eps.is_finite() {
        true => Ok(()),
        false => Err(Error::Config(format!("{name} is {eps}, expected 0 or a little more"))),
    }
}

/// **Errors** when an option is there and asks for something that is not implemented.
pub(super) fn check_plain(json: &Value, implemented: &[(&str, Value)]) -> Result<()> {
    for (key, expected) in implemented {
        if let Some(found) = json.get(key).filter(|found| *found != expected && !found.is_null()) {
            return Err(Error::Config(format!("{key} {found} is not implemented; expected {expected}")));
        }
    }
    Ok(())
}
