//! Numbers in the files of runs. JSON has no word for what is not a number, such as the correlation of answers
//! that are all the same: it is written as `null`, and read as what it was.
//! Read next: `compare/results.rs`, a file of such numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// Reads a number.
#[allow(dead_code, reason = "some files hold only measures")]
pub fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// Reads measures by name.
pub fn measures<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let values: BTreeMap<String, Option<f64>> = Deserialize::deserialize(from)?;
    Ok(values.into_iter().map(|(name, value)| (name, value.unwrap_or(f64::NAN))).collect())
}
