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
    if 0 < top_k && top_k < order.len() {
        let higher_first = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
        order.select_nth_unstable_by(top_k, higher_first);
        order.truncate(top_k);
        order.sort_unstable_by(higher_first);
    }
    let largest = scores.iter().copied().fold(NEVER, f64::max);
    let weight = |at: usize| ((scores[at] - largest) / temperature).exp();
    let mut choices: Vec<Choice> = order.into_iter().map(|at| (at, weight(at))).collect();
    if top_p < 1.0 {
        keep_probable(&mut choices, top_p);
    }
    let mut left = rng.uniform() * choices.iter().map(|choice| choice.1).sum::<f64>();
    let drawn = choices.iter().find(|choice| {
        left -= choice.1;
        left < 0.0
    });
    drawn.or(choices.last()).map_or(0, |choice| choice.0 as u32)
}

/// A token and its weight: its probability times a number that all share.
type Choice = (usize, f64);

/// Keeps the fewest of the most probable that together reach `top_p`, the highest first; at least one.
fn keep_probable(choices: &mut Vec<Choice>, top_p: f64) {
    let total: f64 = choices.iter().map(|choice| choice.1).sum();
    let highest = choices.iter().map(|choice| choice.1).fold(0.0, f64::max);
    // All that are rarer than this have less than 1 - p together, so the others reach p: of a large vocabulary few are
    // left to be sorted. Of equal ones a rounded mean could be above all.
    let rare = ((1.0 - top_p) * total / choices.len() as f64).min(highest);
    choices.retain(|choice| choice.1 >= rare);
    choices.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut kept = 0.0;
    let enough = choices.iter().position(|choice| {
        kept += choice.1;
        kept >= top_p * total
    });
    choices.truncate(enough.map_or(choices.len(), |at| at + 1));
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

#[cfg(test)]
mod tests {
    use super::{Choice, best, keep_probable, sample};
    use crate::rng::Rng;
    use proptest::prelude::*;

    /// By its definition: all sorted, taken until they reach p.
    fn fewest(mut choices: Vec<Choice>, top_p: f64) -> Vec<Choice> {
        choices.sort_by(|a, b| b.1.total_cmp(&a.1));
        let total: f64 = choices.iter().map(|choice| choice.1).sum();
        let sum = |count: usize| choices[..count].iter().map(|choice| choice.1).sum::<f64>();
        let enough = (1..=choices.len()).find(|&count| sum(count) >= top_p * total);
        choices[..enough.unwrap_or(choices.len())].to_vec()
    }

    #[test]
    fn one_choice_stays_however_small_p_is() {
        let mut choices = vec![(4, 0.1), (5, 0.1), (6, 0.1)];
        keep_probable(&mut choices, 1e-20);
        assert_eq!(choices, [(4, 0.1)]);
    }

    #[test]
    fn only_the_highest_k_are_drawn_and_any_k_is_allowed() {
        let scores: Vec<f64> = (0..50).map(|at| f64::from(at * 7 % 10)).collect();
        let draws = |top_k: usize| -> Vec<u32> {
            let mut rng = Rng::seeded(3);
            (0..500).map(|_| sample(&scores, 9.0, top_k, 1.0, &mut rng)).collect()
        };
        for top_k in [1, 3, 7, 49] {
            let mut drawn: Vec<usize> = draws(top_k).into_iter().map(|token| token as usize).collect();
            drawn.sort_unstable();
            drawn.dedup();
            let mut expected = best(&scores, top_k);
            expected.sort_unstable();
            assert_eq!(drawn, expected, "the highest {top_k}");
        }
        for top_k in [50, 51, usize::MAX] {
            assert_eq!(draws(top_k), draws(0), "all of 50 with {top_k}");
        }
    }

    proptest! {
        /// Weights of a few bits, whose sums are exact in any order, many of them equal.
        #[test]
        fn what_reaches_p_is_found_without_sorting_all(
            weights in proptest::collection::vec(0u32..40, 1..200),
            top_p in 1e-9..1.0f64,
        ) {
            let weights = weights.iter().map(|&weight| f64::from(weight * weight) / 64.0);
            let mut choices: Vec<Choice> = weights.enumerate().collect();
            prop_assume!(choices.iter().any(|choice| choice.1 > 0.0));
            let expected = fewest(choices.clone(), top_p);
            keep_probable(&mut choices, top_p);
            prop_assert_eq!(choices, expected);
        }
    }
}
