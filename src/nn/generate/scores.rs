//! What is done to scores before a token is chosen, and the choice.
//!
//! The order is that of Hugging Face: penalty, repeated runs, forbidden tokens, end too early, temperature, the
//! highest k, the probable p.

use super::Generation;
use crate::rng::Rng;

/// Takes a token out of the choice.
pub const NEVER: f64 = f64::NEG_INFINITY;

/// Applies the settings to the scores of the token after `text`, whose first `prompt` tokens were given.
pub fn adjust(scores: &mut [f64], text: &[u32], prompt: usize, settings: &Generation) {
    if settings.repetition_penalty != 1.0 {
        let mut seen = text.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for token in seen {
            let score = &mut scores[token as usize];
            *score *=
                if *score < 0.0 { settings.repetition_penalty } else { 1.0 / settings.repetition_penalty };
        }
    }
    if settings.no_repeat > 0 && text.len() + 1 >= settings.no_repeat {
        let run = &text[text.len() + 1 - settings.no_repeat..];
        let again = text.windows(settings.no_repeat).filter(|window| window.starts_with(run));
        again.for_each(|window| scores[window[settings.no_repeat - 1] as usize] = NEVER);
    }
    let too_early = text.len() - prompt < settings.least;
    let ends = settings.end.iter().filter(|_| too_early);
    settings.never.iter().chain(ends).for_each(|&token| scores[token as usize] = NEVER);
}

/// The first of the highest scores.
pub fn highest(scores: &[f64]) -> u32 {
    let better = |best: usize, at: usize| if scores[at] > scores[best] { at } else { best };
    (1..scores.len()).fold(0, better) as u32
}

/// A token drawn with the probabilities that softmax makes of the scores.
pub fn sample(scores: &[f64], temperature: f64, top_k: usize, top_p: f64, rng: &mut Rng) -> u32 {
    let mut order: Vec<usize> = (0..scores.len()).filter(|&at| scores[at] > NEVER).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    if top_k > 0 {
        order.truncate(top_k);
    }
    let Some(&first) = order.first() else { return 0 };
    let weights: Vec<f64> =
        order.iter().map(|&at| ((scores[at] - scores[first]) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    // The fewest of the most probable that together reach p; at least one.
    let mut kept = 0.0;
    let enough = weights.iter().position(|weight| {
        kept += weight;
        kept >= top_p * total
    });
    let count = enough.map_or(weights.len(), |at| at + 1);
    let mut left = rng.uniform() * weights[..count].iter().sum::<f64>();
    let drawn = weights[..count].iter().position(|weight| {
        left -= weight;
        left < 0.0
    });
    order[drawn.unwrap_or(count - 1)] as u32
}

/// The logarithms of the probabilities that softmax makes of the scores.
pub fn log_softmax(scores: &mut [f64]) {
    let largest = scores.iter().copied().fold(NEVER, f64::max);
    let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
    let shift = largest + sum.ln();
    scores.iter_mut().for_each(|score| *score -= shift);
}

/// The places of the `count` highest among all scores, the highest first; the earlier one where they
/// are equal.
pub fn best(scores: &[f64], count: usize) -> Vec<usize> {
    let mut best: Vec<usize> = Vec::with_capacity(count + 1);
    for (at, &score) in scores.iter().enumerate() {
        if best.len() == count && best.last().is_none_or(|&last| score <= scores[last]) {
            continue;
        }
        let place = best.partition_point(|&other| scores[other] >= score);
        best.insert(place, at);
        best.truncate(count);
    }
    best
}
