//! Token ids made into batches, checked once against the model that will see them.

use std::ops::Range;

use crate::device::array::Ids;
use crate::error::{Error, Result};

/// Sequences of token ids, padded to the longest, that were checked against a model.
#[derive(Clone, Debug)]
pub struct TokenBatch {
    /// `[batch, time]`
    pub ids: Ids,
    /// Segment of each token: `[batch, time]`.
    pub types: Ids,
    /// Tokens of each sequence before its padding.
    pub lengths: Vec<usize>,
}

impl TokenBatch {
    /// How many sequences.
    pub fn batch(&self) -> usize {
        self.ids.sizes()[0]
    }

    /// The length that all are padded to.
    pub fn time(&self) -> usize {
        self.ids.sizes()[1]
    }
}

/// The side on which shorter texts are filled up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Texts end together: generation goes on from there.
    Left,
    /// Texts begin together.
    Right,
}

/// Texts of different lengths side by side. Padding has no token: its embedding is 0, and no query
/// of a text looks at it.
#[derive(Clone, Debug)]
pub struct Sequences {
    /// `[batch, time]`, [`Ids::IGNORED`] in the padding.
    pub ids: Ids,
    /// Where each row's text stands.
    pub spans: Vec<Range<usize>>,
}

impl Sequences {
    /// Pads the rows to the longest.
    ///
    /// **Errors** when there is no row, one is empty or longer than `positions`, or an id is not below
    /// `vocabulary`.
    pub fn new(
        rows: &[Vec<u32>],
        side: Side,
        vocabulary: usize,
        positions: Option<usize>,
    ) -> Result<Sequences> {
        let time = longest(rows, positions)?;
        let span = |row: &Vec<u32>| match side {
            Side::Left => time - row.len()..time,
            Side::Right => 0..row.len(),
        };
        let spans: Vec<Range<usize>> = rows.iter().map(span).collect();
        let mut ids = Vec::with_capacity(rows.len() * time);
        for (row, span) in rows.iter().zip(&spans) {
            ids.extend(std::iter::repeat_n(Ids::IGNORED, span.start));
            ids.extend(row);
            ids.extend(std::iter::repeat_n(Ids::IGNORED, time - span.end));
        }
        if let Some(id) = rows.iter().flatten().find(|&&id| id as usize >= vocabulary) {
            return Err(Error::Ids(format!("token {id}, but the model's vocabulary ends at {vocabulary}")));
        }
        Ok(Sequences { ids: Ids::new(ids, [rows.len(), time], vocabulary)?, spans })
    }

    /// The length that all are padded to.
    pub fn time(&self) -> usize {
        self.ids.sizes()[1]
    }

    /// How far each row's text is from the left edge.
    pub fn starts(&self) -> Vec<usize> {
        self.spans.iter().map(|span| span.start).collect()
    }

    /// The texts without padding.
    pub fn rows(&self) -> Vec<Vec<u32>> {
        let rows = self.ids.values().chunks(self.time()).zip(&self.spans);
        rows.map(|(row, span)| row[span.clone()].to_vec()).collect()
    }

    /// What each token is followed by in its text, for a loss over all of them: `[batch · time]`, ignored
    /// after the last token and in the padding.
    pub fn next_tokens(&self) -> Ids {
        self.next_tokens_behind(0)
    }

    /// As [`Sequences::next_tokens`] where each row stands behind `front` virtual tokens, of which the last
    /// is followed by the text: `[batch · (front + time)]`.
    pub fn next_tokens_behind(&self, front: usize) -> Ids {
        let mut next = Vec::with_capacity(self.spans.len() * (front + self.time()));
        for (row, span) in self.ids.values().chunks(self.time()).zip(&self.spans) {
            let first = next.len();
            next.resize(first + front + row.len(), Ids::IGNORED);
            next[first + front + span.start..first + front + span.end - 1]
                .copy_from_slice(&row[span.start + 1..span.end]);
            if front > 0 {
                next[first + front - 1] = row[span.start];
            }
        }
        let sizes = [next.len()];
        Ids::new(next, sizes, self.ids.limit()).expect("they are ids of this batch")
    }

    /// The last token of each text, as a place among all `batch · time` tokens: `[batch]`.
    pub(super) fn last_tokens(&self) -> Ids {
        let time = self.time();
        let places = self.spans.iter().enumerate().map(|(row, span)| (row * time + span.end - 1) as u32);
        let places: Vec<u32> = places.collect();
        Ids::new(places, [self.spans.len()], self.ids.count()).expect("no text is empty")
    }
}

/// The length of the longest row.
///
/// **Errors** when there is no row, or one is empty or longer than `positions`.
pub(super) fn longest(rows: &[Vec<u32>], positions: Option<usize>) -> Result<usize> {
    let Some(time) = rows.iter().map(Vec::len).max() else {
        return Err(Error::Ids("a batch needs at least one sequence".into()));
    };
    if let Some(at) = rows.iter().position(Vec::is_empty) {
        return Err(Error::Ids(format!("sequence {at} of the batch is empty")));
    }
    match positions {
        Some(limit) if time > limit => Err(Error::Ids(format!(
            "a sequence of {time} tokens, but the model has {limit} positions; cut it"
        ))),
        _ => Ok(time),
    }
}
