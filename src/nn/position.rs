//! What a position adds to a token: sines (arXiv 1706.03762, section 3.5), or a learned bias for the
//! distance of two tokens (arXiv 1910.10683, section 2.1).
//! Read next: `rotary.rs`, the third way.

use super::embedding::Embedding;
use crate::device::Device;
use crate::device::array::Ids;
use crate::tensor::Tensor;

/// For position p the sines of `p / 10000^(2i/width)` for each i, and behind them the cosines:
/// `[rows, width]`.
pub fn sinusoids(rows: usize, width: usize, device: &Device) -> Tensor {
    let angle = |row: usize, i: usize| row as f64 / 10_000f64.powf(2.0 * i as f64 / width as f64);
    let pairs = width / 2;
    let value = |at: usize| match (at / width, at % width) {
        (row, i) if i < pairs => angle(row, i).sin(),
        (row, i) => angle(row, i - pairs).cos(),
    };
    let values: Vec<f64> = (0..rows * width).map(value).collect();
    Tensor::from_f64(&values, [rows, width], device)
}

/// A bias per head for each distance of a key from a query, in classes that widen with the distance.
pub struct RelativeBias {
    /// `[classes, heads]`
    pub table: Embedding,
    /// From this distance on all fall into one class.
    pub furthest: usize,
    /// Whether keys stand on both sides of the query; else all stand before it.
    pub both_sides: bool,
}

impl RelativeBias {
    /// For queries at `past..past + queries` and keys from 0 on: `[1, heads, queries, keys]`.
    #[track_caller]
    pub fn forward(&self, past: usize, queries: usize, keys: usize) -> Tensor {
        let classes = self.table.weight().sizes()[0];
        let class = |at: usize| self.class(past + at / keys, at % keys, classes) as u32;
        let ids: Vec<u32> = (0..queries * keys).map(class).collect();
        let ids = Ids::new(ids, [queries, keys], classes).expect("classes below their number");
        self.table.forward(&ids).permute(&[2, 0, 1]).unsqueeze(0)
    }

    fn class(&self, query: usize, key: usize, classes: usize) -> usize {
        let (first, classes) = match self.both_sides {
            true => (if key > query { classes / 2 } else { 0 }, classes / 2),
            false => (0, classes),
        };
        let distance = if self.both_sides { query.abs_diff(key) } else { query.saturating_sub(key) };
        // Half of the classes hold one distance each, the others grow by a constant factor.
        let exact = classes / 2;
        if distance < exact {
            return first + distance;
        }
        let steps = (distance as f64 / exact as f64).ln() / (self.furthest as f64 / exact as f64).ln();
        first + (exact + (steps * (classes - exact) as f64) as usize).min(classes - 1)
    }
}
