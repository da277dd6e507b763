//! Rotary positions (arXiv 2104.09864) in their half-split form: feature i turns with feature i + head/2.
//!
//! Position p turns pair i by the angle `p · base^(-2i/head)`, so a score depends on the distance of
//! two tokens only.

use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::elementwise::elementwise;
use crate::tensor::Tensor;

/// How far each pair of features turns per position.
#[derive(Clone, Debug)]
pub struct Rotary {
    frequencies: Vec<f64>,
}

/// Stretched frequencies, as configurations describe them; `rope_type` says which kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Stretch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_type: Option<String>,
    /// The older name of `rope_type`; many files hold both.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low_freq_factor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high_freq_factor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_max_position_embeddings: Option<f64>,
}

impl Rotary {
    /// For heads of `head` features.
    pub fn new(head: usize, base: f64) -> Rotary {
        let frequency = |i: usize| base.powf(-2.0 * i as f64 / head as f64);
        Rotary { frequencies: (0..head / 2).map(frequency).collect() }
    }

    /// With frequencies stretched for longer texts than the base model saw.
    ///
    /// **Errors** when the kind is not implemented, or a number that it needs is missing or makes no sense.
    pub fn stretched(mut self, stretch: &Stretch) -> Result<Rotary> {
        let need = |name: &str, value: Option<f64>| match value {
            Some(value) if value > 0.0 && value.is_finite() => Ok(value),
            Some(value) => Err(Error::Config(format!("rope: {name} is {value}, expected a positive number"))),
            None => Err(Error::Config(format!("rope: {name} is missing"))),
        };
        match stretch.rope_type.as_deref().or(stretch.kind.as_deref()) {
            None | Some("default") => {}
            Some("linear") => {
                let factor = need("factor", stretch.factor)?;
                self.frequencies.iter_mut().for_each(|f| *f /= factor);
            }
            // Long waves are slowed by the factor, short ones stay, and those between are blended.
            Some("llama3") => {
                let factor = need("factor", stretch.factor)?;
                let low = need("low_freq_factor", stretch.low_freq_factor)?;
                let high = need("high_freq_factor", stretch.high_freq_factor)?;
                let seen =
                    need("original_max_position_embeddings", stretch.original_max_position_embeddings)?;
                if high <= low {
                    return Err(Error::Config(format!(
                        "rope: high_freq_factor {high} is not above low_freq_factor {low}"
                    )));
                }
                for f in &mut self.frequencies {
                    let turns = seen * *f / (2.0 * std::f64::consts::PI);
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    *f *= kept + (1.0 - kept) / factor;
                }
            }
            Some(other) => {
                return Err(Error::Config(format!(
                    "rope_type {other:?} is not implemented; there are default, linear and llama3"
                )));
            }
        }
        Ok(self)
    }

    /// The rotation of tokens at these positions: one list for all rows, or one per row.
    pub fn at(&self, positions: &[Vec<usize>], device: &Device) -> Rotation {
        let angles =
            positions.iter().flatten().flat_map(|&at| self.frequencies.iter().map(move |f| at as f64 * f));
        let (cos, sin): (Vec<f64>, Vec<f64>) = angles.map(|angle| (angle.cos(), angle.sin())).unzip();
        let sizes = [positions.len(), 1, positions.first().map_or(0, Vec::len), self.frequencies.len()];
        Rotation { cos: Tensor::from_f64(&cos, sizes, device), sin: Tensor::from_f64(&sin, sizes, device) }
    }
}

/// Cosines and sines of the angles, `[1 or batch, 1, time, head/2]`.
#[derive(Clone)]
pub struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl Rotation {
    /// Turns queries or keys: `[batch, heads, time, head]`, the same sizes.
    #[track_caller]
    pub fn apply(&self, x: &Tensor) -> Tensor {
        let half = self.cos.size(-1);
        let (a, b) = (x.narrow(-1, 0, half), x.narrow(-1, half, half));
        let parts = [&a, &b, &self.cos, &self.sin];
        let first = elementwise("rotate", parts, |[a, b, cos, sin]| a * cos - b * sin);
        let second = elementwise("rotate", parts, |[a, b, cos, sin]| b * cos + a * sin);
        Tensor::concat(&[&first, &second], -1)
    }
}
