//! What TriAdaptLoRA puts into one layer: blocks of rank, and the matrices they form.

use std::sync::RwLock;

use super::{BlockStart, ScaleMode};
use crate::device::Device;
use crate::error::Result;
use crate::nn::{Adapter, Module, Param, Stored, Walker, Weights};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// The parameters that one growth adds.
#[derive(Clone)]
pub(super) struct Block {
    /// `[d, in]`
    pub(super) down: Param,
    /// `[out, d]`
    pub(super) up: Param,
    /// Rows of L: `[d, R']`
    pub(super) row: Param,
    /// Columns of U: `[R', d]`
    pub(super) col: Param,
    /// The update after which it was added.
    pub(super) since: u64,
}

impl Block {
    pub(super) fn params(&self) -> [(&'static str, &Param); 4] {
        [("A", &self.down), ("B", &self.up), ("L", &self.row), ("U", &self.col)]
    }
}

/// What sits in one layer.
pub(super) struct Triangular {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) device: Device,
    pub(super) blocks: RwLock<Vec<Block>>,
    pub(super) scale_mode: ScaleMode,
    pub(super) alpha: f64,
    pub(super) reference_rank: usize,
    pub(super) dropout: f64,
}

impl Triangular {
    pub(super) fn blocks(&self) -> Vec<Block> {
        self.blocks.read().expect("no code panics while it holds the blocks").clone()
    }

    pub(super) fn sizes(&self) -> Vec<usize> {
        self.blocks().iter().map(|block| block.down.sizes()[0]).collect()
    }

    pub(super) fn rank(&self) -> usize {
        self.sizes().iter().sum()
    }

    fn scale(&self) -> f64 {
        match self.scale_mode {
            ScaleMode::Constant => self.alpha / self.reference_rank as f64,
            ScaleMode::CurrentRank => self.alpha / (self.rank() as f64 + 1e-5),
        }
    }

    /// Appends a block of `size` ranks; `first` ones belong to the start of the adapter.
    pub(super) fn grow(&self, size: usize, start: BlockStart, first: bool, rng: &mut Rng, since: u64) {
        let (before, device) = (self.rank(), &self.device);
        let rank = before + size;
        let mut normal = |sizes: [usize; 2]| Tensor::normal(0.02, sizes, rng, device);
        let zeros = |sizes: [usize; 2]| Tensor::zeros(sizes, device);
        let down = normal([size, self.inputs]);
        let half = |rows: usize, columns: usize, at: [usize; 2]| {
            let mut values = vec![0.0f32; rows * columns];
            (0..size).for_each(|i| values[(at[0] + i) * columns + at[1] + i] = 0.5);
            Tensor::new(&values, [rows, columns], device)
        };
        let (up, row, col) = match start {
            BlockStart::C0 => (normal([self.outputs, size]), zeros([size, rank]), zeros([rank, size])),
            BlockStart::HalfIdentity => {
                (zeros([self.outputs, size]), half(size, rank, [0, before]), half(rank, size, [before, 0]))
            }
            BlockStart::Single => {
                let up = if first { zeros([self.outputs, size]) } else { normal([self.outputs, size]) };
                (up, normal([size, rank]), normal([rank, size]))
            }
        };
        let [down, up, row, col] = [down, up, row, col].map(|value| Param::new(&value));
        let block = Block { down, up, row, col, since };
        self.blocks.write().expect("no code panics while it holds the blocks").push(block);
    }

    /// A `[R, in]`, B `[out, R]` and T `[R, R]`.
    pub(super) fn assembled(&self) -> [Tensor; 3] {
        let blocks = self.blocks();
        let rank = self.rank();
        let join = |parts: Vec<Tensor>, axis: isize| match &parts[..] {
            [one] => one.clone(),
            several => Tensor::concat(&several.iter().collect::<Vec<_>>(), axis),
        };
        let filled = |part: Tensor, axis: isize| {
            let missing = rank - part.size(axis);
            if missing == 0 { part } else { part.pad_axis(axis, 0, missing, 0.0) }
        };
        let down = join(blocks.iter().map(|block| block.down.value()).collect(), 0);
        let up = join(blocks.iter().map(|block| block.up.value()).collect(), 1);
        let lower = join(blocks.iter().map(|block| filled(block.row.value(), 1)).collect(), 0);
        let upper = join(blocks.iter().map(|block| filled(block.col.value(), 0)).collect(), 1);
        [down, up, lower + upper]
    }

    /// `‖L + U‖`, summed in f64 on every device, over the number of blocks or the rank.
    ///
    /// **Errors** when the device has failed.
    pub(super) fn importance(&self, by_blocks: bool) -> Result<f64> {
        let [_, _, transform] = crate::inference(|| self.assembled());
        let norm = transform.read_f64()?.iter().map(|x| x * x).sum::<f64>().sqrt();
        let divisor = if by_blocks { self.sizes().len() } else { self.rank() };
        Ok(norm / divisor as f64)
    }
}

impl Module for Triangular {
    fn walk(&self, at: &mut Walker<'_>) {
        for (number, block) in self.blocks().iter().enumerate() {
            for (name, param) in block.params() {
                at.param(&format!("triadapt_{name}.{number}"), param);
            }
        }
    }
}

impl Adapter for Triangular {
    fn adapt(&self, base: &Weights) -> Weights {
        let [down, up, transform] = self.assembled();
        let weight = base.weight.add_matmul(&up, &transform.matmul(&down), self.scale());
        Weights { weight, bias: base.bias.clone() }
    }

    fn forward(&self, x: &Tensor, base: &Weights) -> Tensor {
        let [down, up, transform] = self.assembled();
        let low = x.dropout(self.dropout).linear(&down, None).linear(&transform, None);
        low.linear_add(&up, self.scale(), Some(&base.apply(x)))
    }

    fn factors(&self) -> Option<[Tensor; 2]> {
        let [down, up, transform] = self.assembled();
        Some([up * self.scale(), transform.matmul(&down)])
    }

    fn stored(&self) -> Option<Vec<Stored>> {
        let rank = self.rank();
        let mut stored = [
            Stored { name: "triadapt_A", sizes: [rank, self.inputs], parts: Vec::new() },
            Stored { name: "triadapt_B", sizes: [self.outputs, rank], parts: Vec::new() },
            Stored { name: "triadapt_L", sizes: [rank, rank], parts: Vec::new() },
            Stored { name: "triadapt_U", sizes: [rank, rank], parts: Vec::new() },
        ];
        let mut before = 0;
        for block in self.blocks() {
            let at = [[before, 0], [0, before], [before, 0], [0, before]];
            for ((stored, (_, param)), at) in stored.iter_mut().zip(block.params()).zip(at) {
                stored.parts.push((param.clone(), at));
            }
            before += block.down.sizes()[0];
        }
        Some(stored.into())
    }
}
