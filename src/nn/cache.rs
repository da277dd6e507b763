//! What a decoder keeps of the tokens it has seen: the keys and values of each layer.
//!
//! Tensors never change, so appending cannot write behind the end of one. Instead the kept tokens
//! stand in parts, and a part is joined with its predecessor once it has grown as long, as digits
//! carry in a binary counter: n tokens cost n·log n copied rows instead of n², in log n parts.
//! Memory: `2 · layers · batch · key heads · tokens · head · 4` bytes.

use crate::device::array::Ids;
use crate::ops::attention::Mask;
use crate::tensor::Tensor;

/// Parts shorter than this are always joined: few copies, and far fewer small products.
const SHORT: usize = 16;

/// The keys and values of one attention, each `[batch, heads, tokens, head]`, cut along the tokens.
#[derive(Clone, Default)]
pub struct KeysValues(Vec<(Tensor, Tensor)>);

impl KeysValues {
    /// Adds those of the next tokens.
    pub(super) fn push(&mut self, k: &Tensor, v: &Tensor) {
        // A view would keep the whole projection alive.
        let mut part = (k.contiguous(), v.contiguous());
        while let Some((k, v)) = self.0.pop_if(|(k, _)| k.size(2) < SHORT || k.size(2) <= part.0.size(2)) {
            part = (Tensor::concat(&[&k, &part.0], 2), Tensor::concat(&[&v, &part.1], 2));
        }
        self.0.push(part);
    }

    /// The parts in the order of the tokens.
    pub(super) fn parts(&self) -> &[(Tensor, Tensor)] {
        &self.0
    }
}

/// What one block keeps: of its own text, and of the memory it looks across to.
#[derive(Clone, Default)]
pub struct BlockCache {
    pub(super) own: KeysValues,
    pub(super) across: Option<(Tensor, Tensor)>,
}

/// What a forward pass stands on: where each row's text begins, how many tokens came before, what
/// was kept of them, and the memory of an encoder.
#[derive(Clone)]
pub struct Cache {
    starts: Vec<usize>,
    /// Tokens of no text that stand before each row, its padding included, and that all of it looks at.
    virtual_tokens: usize,
    past: usize,
    blocks: Option<Vec<BlockCache>>,
    memory: Option<(Tensor, Mask)>,
}

impl Cache {
    /// Keeps what is computed; row i is padded on the left by `starts[i]` tokens.
    pub fn new(starts: Vec<usize>) -> Cache {
        Cache { starts, virtual_tokens: 0, past: 0, blocks: Some(Vec::new()), memory: None }
    }

    /// Keeps nothing: for a single pass over whole texts, as in training.
    pub fn none(starts: Vec<usize>) -> Cache {
        Cache { blocks: None, ..Cache::new(starts) }
    }

    /// With the output of an encoder, `[batch, time, width]`, and which of it may be looked at.
    pub fn with_memory(mut self, memory: &Tensor, mask: Mask) -> Cache {
        self.memory = Some((memory.clone(), mask));
        self
    }

    /// The next pass begins with this many virtual tokens.
    pub(super) fn expect(&mut self, virtual_tokens: usize) {
        self.virtual_tokens = virtual_tokens;
    }

    /// Begins behind virtual tokens of which each block has the keys and values, `[key heads, tokens, head]`.
    pub(super) fn stand_on(&mut self, blocks: &[(Tensor, Tensor)]) {
        let rows = self.starts.len();
        let wide = |x: &Tensor| x.unsqueeze(0).expand([rows, x.size(0), x.size(1), x.size(2)]);
        let kept = |(k, v): &(Tensor, Tensor)| {
            let mut own = KeysValues::default();
            own.push(&wide(k), &wide(v));
            BlockCache { own, across: None }
        };
        self.blocks = Some(blocks.iter().map(kept).collect());
        self.virtual_tokens = blocks.first().map_or(0, |(k, _)| k.size(1));
        self.past = self.virtual_tokens;
    }

    /// How many virtual tokens stand before each text.
    pub(super) fn virtual_tokens(&self) -> usize {
        self.virtual_tokens
    }

    /// How many tokens were seen, virtual ones and left padding included.
    pub fn past(&self) -> usize {
        self.past
    }

    /// The memory of an encoder and its mask, if there is one.
    pub fn memory(&self) -> Option<&(Tensor, Mask)> {
        self.memory.as_ref()
    }

    /// Bytes of keys and values at four per number, without those of an encoder's memory.
    pub fn bytes(&self) -> usize {
        let parts = self.blocks.iter().flatten().flat_map(|block| block.own.parts());
        parts.map(|(k, v)| 4 * (k.count() + v.count())).sum()
    }

    /// Which keys the next `time` tokens may look at: none after them, none of the padding.
    pub(super) fn mask(&self, time: usize, device: &crate::Device) -> Mask {
        let causal = Mask::causal_after(self.past);
        if self.starts.iter().all(|&start| start == 0) {
            return causal;
        }
        // The padding stands between the virtual tokens and the text.
        let keys = self.past + time - self.virtual_tokens;
        let spans: Vec<_> = self.starts.iter().map(|&start| start..keys).collect();
        let bias = Mask::spans(&spans, keys, device).bias().expect("spans make a bias");
        causal.with_bias(&bias.pad_axis(3, self.virtual_tokens, 0, 0.0))
    }

    /// The position of each of the next `time` tokens in its row's text: one list for all rows if
    /// none is padded, else one per row.
    pub(super) fn positions(&self, time: usize) -> Vec<Vec<usize>> {
        let position = |at: usize, start: usize| match at < self.virtual_tokens {
            true => at,
            false => at.saturating_sub(start),
        };
        let row = |start: usize| (self.past..self.past + time).map(|at| position(at, start)).collect();
        match self.starts.iter().all(|&start| start == 0) {
            true => vec![row(0)],
            false => self.starts.iter().map(|&start| row(start)).collect(),
        }
    }

    /// As [`Cache::positions`], to look up in a table of `limit` rows: `[1 or batch, time]`.
    ///
    /// **Panics** when there are more positions than that; batches are checked when they are made.
    #[track_caller]
    pub(super) fn position_ids(&self, time: usize, limit: usize) -> Ids {
        let rows = self.positions(time);
        let sizes = [rows.len(), time];
        let ids: Vec<u32> = rows.into_iter().flatten().map(|at| at as u32).collect();
        Ids::new(ids, sizes, limit).unwrap_or_else(|error| crate::error::refuse("positions", error))
    }

    /// What block `number` keeps.
    pub(super) fn block(&mut self, number: usize) -> Option<&mut BlockCache> {
        let blocks = self.blocks.as_mut()?;
        if blocks.len() <= number {
            blocks.resize_with(number + 1, BlockCache::default);
        }
        blocks.get_mut(number)
    }

    /// The pass over `time` tokens is done.
    pub(super) fn advance(&mut self, time: usize) {
        self.past += time;
    }

    /// The rows `rows`, in their order; a row may be taken several times. With `across`, also of the
    /// memory.
    pub(super) fn select(&mut self, rows: &Ids, across: bool) {
        let pick = |x: &Tensor| x.index_select(0, rows);
        self.starts = rows.values().iter().map(|&row| self.starts[row as usize]).collect();
        for block in self.blocks.iter_mut().flatten() {
            for (k, v) in &mut block.own.0 {
                (*k, *v) = (pick(k), pick(v));
            }
            if let (Some((k, v)), true) = (&mut block.across, across) {
                (*k, *v) = (pick(k), pick(v));
            }
        }
        if let (Some((memory, mask)), true) = (&mut self.memory, across) {
            *memory = pick(memory);
            if let Some(bias) = mask.bias() {
                *mask = Mask::full().with_bias(&pick(&bias));
            }
        }
    }
}
