//! A table of vectors looked up by id.

use super::module::{Module, Walker};
use super::param::Param;
use crate::device::Device;
use crate::device::array::Ids;
use crate::rng::Rng;
use crate::tensor::Tensor;

/// `[rows, width]`, looked up by ids below `rows`.
pub struct Embedding {
    weight: Param,
}

impl Embedding {
    /// A table of normally distributed numbers with `deviation`.
    pub fn new(rows: usize, width: usize, deviation: f64, rng: &mut Rng, device: &Device) -> Embedding {
        Embedding::from_weights(&Tensor::normal(deviation, [rows, width], rng, device))
    }

    /// A given table: `[rows, width]`.
    pub fn from_weights(table: &Tensor) -> Embedding {
        Embedding { weight: Param::new(table) }
    }

    /// The vector of each id: `[ids..] -> [ids.., width]`.
    ///
    /// **Panics** when the ids were checked against a larger table.
    #[track_caller]
    pub fn forward(&self, ids: &Ids) -> Tensor {
        self.weight.value().embedding(ids)
    }

    /// The parameter `[rows, width]`.
    pub fn weight(&self) -> &Param {
        &self.weight
    }
}

impl Module for Embedding {
    fn walk(&self, at: &mut Walker<'_>) {
        at.param("weight", &self.weight);
    }
}
