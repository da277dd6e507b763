//! Beam search: several texts at once, the most probable continuations of all of them kept.
//!
//! The rules about what counts as complete and when to stop are those of Hugging Face, so that the same
//! model gives the same text: a text is complete only if it ends among the best `beams` candidates, and
//! the search stops when no running text can pass the worst complete one.

use super::{Generation, Run, scores};
use crate::device::array::Ids;
use crate::error::Result;

/// A text and the sum of its log-probabilities (over a power of its length once it is complete).
#[derive(Clone)]
struct Beam {
    text: Vec<u32>,
    score: f64,
}

/// The search for the continuation of one prompt.
struct Search {
    prompt: usize,
    running: Vec<Beam>,
    /// The best complete texts, the best first.
    complete: Vec<Beam>,
    done: bool,
}

impl Run<'_> {
    pub(super) fn search(
        mut self,
        prompts: Vec<Vec<u32>>,
        settings: &Generation,
        beams: usize,
        length_penalty: f64,
        early: bool,
    ) -> Result<Vec<Vec<u32>>> {
        let rows = prompts.len();
        let mut searches: Vec<Search> = prompts
            .into_iter()
            .map(|text| Search {
                prompt: text.len(),
                running: vec![Beam { text, score: 0.0 }],
                complete: Vec::new(),
                done: settings.most == 0,
            })
            .collect();
        // Every prompt is read once; its beams begin as copies of what was kept.
        let mut width = 1;
        while !searches.iter().all(|search| search.done) {
            let mut scores = self.scores()?;
            let mut parents = Vec::with_capacity(rows * beams);
            for (row, search) in searches.iter_mut().enumerate() {
                let scores = &mut scores[row * width..(row + 1) * width];
                let chosen = match search.done {
                    true => vec![0; beams],
                    false => search.step(scores, settings, beams, length_penalty, early),
                };
                parents.extend(chosen.into_iter().map(|parent| (row * width + parent) as u32));
            }
            let limit = rows * width;
            // Beams of one prompt look at the same memory: only the first choice copies it.
            let stay =
                width == beams && parents.iter().enumerate().all(|(row, &parent)| row == parent as usize);
            if !stay {
                let parents = Ids::new(parents, [rows * beams], limit)?;
                self.cache.select(&parents, width != beams);
            }
            width = beams;
            let last = |beam: &Beam| beam.text[beam.text.len() - 1];
            let next = |search: &Search| (0..beams).map(|at| last(&search.running[at])).collect::<Vec<_>>();
            self.read(searches.iter().flat_map(next).collect())?;
        }
        let best = |search: Search| {
            let best = search.complete.into_iter().next();
            best.map_or(Vec::new(), |best| best.text[search.prompt..].to_vec())
        };
        Ok(searches.into_iter().map(best).collect())
    }
}

impl Search {
    /// Chooses the next running texts, and says which of the present ones each continues.
    fn step(
        &mut self,
        scores: &mut [Vec<f64>],
        settings: &Generation,
        beams: usize,
        length_penalty: f64,
        early: bool,
    ) -> Vec<usize> {
        let vocabulary = scores[0].len();
        let mut totals = Vec::with_capacity(self.running.len() * vocabulary);
        for (beam, scores) in self.running.iter().zip(scores) {
            scores::log_softmax(scores);
            scores::adjust(scores, &beam.text, self.prompt, settings);
            totals.extend(scores.iter().map(|score| beam.score + score));
        }
        // Enough that `beams` running ones remain even if each of the best could end in every way.
        let count = beams * (1 + settings.end.len()).max(2);
        let added = self.running[0].text.len() + 1 - self.prompt;
        let penalty = (added as f64).powf(length_penalty);
        let mut next: Vec<(usize, Beam)> = Vec::with_capacity(beams);
        for (place, at) in scores::best(&totals, count).into_iter().enumerate() {
            let (parent, token) = (at / vocabulary, (at % vocabulary) as u32);
            let ends = settings.end.contains(&token) || added == settings.most;
            if ends && place < beams {
                let text = [&self.running[parent].text[..], &[token]].concat();
                self.complete.push(Beam { text, score: totals[at] / penalty });
            } else if !ends && next.len() < beams {
                let text = [&self.running[parent].text[..], &[token]].concat();
                next.push((parent, Beam { text, score: totals[at] }));
            }
        }
        self.complete.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.complete.truncate(beams);
        let hopeless = |best: &Beam, worst: &Beam| best.score / penalty <= worst.score;
        self.done = match (next.first(), self.complete.get(beams - 1)) {
            (None, _) => true,
            (Some(_), None) => added == settings.most,
            (Some((_, best)), Some(worst)) => early || hopeless(best, worst) || added == settings.most,
        };
        // A vocabulary smaller than the number of beams leaves some without a text of their own.
        while let Some(last) = next.last().cloned().filter(|_| next.len() < beams) {
            next.push((last.0, Beam { score: scores::NEVER, ..last.1 }));
        }
        if next.is_empty() {
            self.running.resize_with(beams, || Beam { text: vec![0], score: scores::NEVER });
            return vec![0; beams];
        }
        let (parents, running) = next.into_iter().unzip();
        self.running = running;
        parents
    }
}
