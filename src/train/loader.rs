//! Which examples make each batch: a pure function of seed and step, so a resumed run needs no state.

use crate::error::{Error, Result};
use crate::rng::Rng;

/// Shuffles `count` examples anew in every epoch and cuts them into batches.
#[derive(Clone, Debug, PartialEq)]
pub struct Loader {
    count: usize,
    batch: usize,
    seed: u64,
    buckets: Option<Buckets>,
}

/// Which examples are of like length.
#[derive(Clone, Debug, PartialEq)]
struct Buckets {
    lengths: Vec<usize>,
    /// Batches of a bucket.
    batches: usize,
}

impl Loader {
    /// Batches of at most `batch` out of `count` examples; one of an epoch may be smaller.
    ///
    /// **Errors** when there are no examples, or a batch would be empty.
    pub fn new(count: usize, batch: usize, seed: u64) -> Result<Loader> {
        if count == 0 || batch == 0 {
            return Err(Error::Data(format!(
                "{count} examples in batches of {batch}: there is nothing to train on"
            )));
        }
        Ok(Loader { count, batch, seed, buckets: None })
    }

    /// Puts examples of like length together, so that little is padded: each bucket of so many batches is
    /// sorted by `lengths` (`[count]`) and cut anew, then the epoch's batches are shuffled. With 0 or 1
    /// batches to a bucket every batch keeps its examples.
    ///
    /// **Panics** when there is not one length for each example.
    pub fn bucketed(self, lengths: &[usize], batches: usize) -> Loader {
        assert_eq!(lengths.len(), self.count, "a length for each example");
        let buckets = (batches > 1).then(|| Buckets { lengths: lengths.to_vec(), batches });
        Loader { buckets, ..self }
    }

    /// How many batches an epoch has.
    pub fn batches_per_epoch(&self) -> usize {
        self.count.div_ceil(self.batch)
    }

    /// The batches of an epoch: indices of examples.
    pub fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.count).collect();
        Rng::derived(self.seed, epoch).shuffle(&mut order);
        let Some(Buckets { lengths, batches }) = &self.buckets else {
            return order.chunks(self.batch).map(<[usize]>::to_vec).collect();
        };
        let mut cut = Vec::new();
        for bucket in order.chunks_mut(self.batch.saturating_mul(*batches)) {
            bucket.sort_by_key(|&example| lengths[example]);
            cut.extend(bucket.chunks(self.batch).map(<[usize]>::to_vec));
        }
        // Longer ones would otherwise come last in every bucket.
        Rng::derived(self.seed, (1 << 40) + epoch).shuffle(&mut cut);
        cut
    }

    /// The batches from a step (counted over all epochs) up to another.
    pub fn steps(&self, from: u64, to: u64) -> impl Iterator<Item = Vec<usize>> + '_ {
        let per_epoch = self.batches_per_epoch() as u64;
        let mut current = (u64::MAX, Vec::new());
        (from..to).map(move |step| {
            let epoch = step / per_epoch;
            if current.0 != epoch {
                current = (epoch, self.epoch(epoch));
            }
            current.1[(step % per_epoch) as usize].clone()
        })
    }
}
