//! A small language of its own: a grammar that makes sentences, and a task that needs the grammar.
//!
//! ```text
//! sentence  → [opening] subject verb (phrase | [adverb])       the verb agrees with the subject
//! subject   → phrase [clause] [preposition phrase]
//! clause    → "that" verb phrase                               the verb agrees with the noun before
//!           | "that" phrase verb                               the verb agrees with this phrase
//! phrase    → determiner [adjective] noun                      singular or plural
//! ```
//!
//! `the dogs that a farmer sees near the tree sleep`: the last verb agrees with `dogs`, although other
//! nouns stand nearer. Pretraining guesses hidden words of correct sentences. The task is another
//! one: in half of the sentences one verb has the wrong number, and the question is, is it correct?
//! Read next: `pretraining.rs`, where an encoder learns it.

use engrad::Rng;

use super::task::{Example, Task};

/// Singular and plural.
type Pair = [&'static str; 2];

const DETERMINERS: [Pair; 4] = [["the", "the"], ["my", "my"], ["a", "some"], ["every", "many"]];
const ADJECTIVES: [&str; 10] =
    ["old", "young", "small", "tall", "red", "quiet", "happy", "strange", "gentle", "clever"];
const NOUNS: [Pair; 20] = [
    ["dog", "dogs"],
    ["cat", "cats"],
    ["bird", "birds"],
    ["horse", "horses"],
    ["child", "children"],
    ["farmer", "farmers"],
    ["painter", "painters"],
    ["baker", "bakers"],
    ["sailor", "sailors"],
    ["singer", "singers"],
    ["teacher", "teachers"],
    ["tree", "trees"],
    ["river", "rivers"],
    ["house", "houses"],
    ["stone", "stones"],
    ["lamp", "lamps"],
    ["boat", "boats"],
    ["garden", "gardens"],
    ["bridge", "bridges"],
    ["mountain", "mountains"],
];
const WITH_OBJECT: [Pair; 8] = [
    ["sees", "see"],
    ["likes", "like"],
    ["follows", "follow"],
    ["finds", "find"],
    ["hears", "hear"],
    ["paints", "paint"],
    ["carries", "carry"],
    ["remembers", "remember"],
];
const ALONE: [Pair; 6] = [
    ["sleeps", "sleep"],
    ["waits", "wait"],
    ["falls", "fall"],
    ["shines", "shine"],
    ["sings", "sing"],
    ["grows", "grow"],
];
const ADVERBS: [&str; 5] = ["slowly", "often", "again", "quietly", "here"];
const PREPOSITIONS: [&str; 5] = ["near", "behind", "beside", "under", "above"];
const OPENINGS: [&str; 4] = ["today", "sometimes", "now", "then"];
const THAT: &str = "that";
const START_WORD: &str = "[start]";

/// Token ids that are no words.
pub const PADDING: u32 = 0;
pub const HIDDEN: u32 = 2;
/// The first id that is a word.
pub const FIRST_WORD: u32 = 3;
/// No sentence has more tokens: start, opening, phrase, "that" and verb and phrase, preposition and
/// phrase, verb, phrase.
pub const LONGEST: usize = 1 + 1 + 3 + 5 + 4 + 1 + 3;

/// The words and their ids.
pub struct Language {
    words: Vec<&'static str>,
}

/// A sentence and its verbs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sentence {
    pub tokens: Vec<u32>,
    /// The place of each verb, the main verb last, and the same verb in the other number.
    pub verbs: Vec<(usize, u32)>,
}

impl Language {
    /// The language; there is only one.
    pub fn new() -> Language {
        let mut words = vec!["[padding]", START_WORD, "[hidden]", THAT];
        let pairs = DETERMINERS.iter().chain(&NOUNS).chain(&WITH_OBJECT).chain(&ALONE);
        let single = ADJECTIVES.iter().chain(&ADVERBS).chain(&PREPOSITIONS).chain(&OPENINGS);
        for word in pairs.flatten().chain(single) {
            if !words.contains(word) {
                words.push(word);
            }
        }
        Language { words }
    }

    /// How many ids there are.
    pub fn size(&self) -> usize {
        self.words.len()
    }

    /// The words of a sentence, to be read.
    pub fn text(&self, tokens: &[u32]) -> String {
        tokens[1..].iter().map(|&id| self.words[id as usize]).collect::<Vec<_>>().join(" ")
    }

    fn id(&self, word: &str) -> u32 {
        let at = self.words.iter().position(|known| *known == word);
        at.expect("every word of the grammar is in the list") as u32
    }

    /// A sentence as the grammar makes it.
    pub fn sentence(&self, rng: &mut Rng) -> Sentence {
        let mut words = vec![START_WORD];
        let mut verbs = Vec::new();
        let mut verb = |pair: Pair, number: usize, words: &mut Vec<&'static str>| {
            verbs.push((words.len(), self.id(pair[1 - number])));
            words.push(pair[number]);
        };
        if rng.below(4) == 0 {
            words.push(one(&OPENINGS, rng));
        }
        let number = phrase(&mut words, rng);
        let clause = rng.below(3);
        if clause > 0 {
            words.push(THAT);
        }
        if clause == 1 {
            verb(one(&WITH_OBJECT, rng), number, &mut words);
            phrase(&mut words, rng);
        } else if clause == 2 {
            let inner = phrase(&mut words, rng);
            verb(one(&WITH_OBJECT, rng), inner, &mut words);
        }
        if rng.below(2) == 0 {
            words.push(one(&PREPOSITIONS, rng));
            phrase(&mut words, rng);
        }
        if rng.below(2) == 0 {
            verb(one(&WITH_OBJECT, rng), number, &mut words);
            phrase(&mut words, rng);
        } else {
            verb(one(&ALONE, rng), number, &mut words);
            if rng.below(2) == 0 {
                words.push(one(&ADVERBS, rng));
            }
        }
        Sentence { tokens: words.iter().map(|word| self.id(word)).collect(), verbs }
    }

    /// The task: label 1 for a sentence as the grammar makes it, 0 where one verb does not agree.
    pub fn agreement(&self, train: usize, dev: usize, seed: u64) -> Task {
        let rng = &mut Rng::derived(seed, 5 << 40);
        let mut rows = |count| (0..count).map(|i| self.judged(i % 2 == 0, rng)).collect();
        Task { train: rows(train), dev: rows(dev), labels: vec!["wrong", "correct"] }
    }

    /// A correct sentence, or one in which one verb has the wrong number.
    pub fn judged(&self, correct: bool, rng: &mut Rng) -> Example {
        let Sentence { mut tokens, verbs } = self.sentence(rng);
        if !correct {
            let (at, other) = one(&verbs, rng);
            tokens[at] = other;
        }
        Example { tokens, label: u32::from(correct) }
    }
}

/// A determiner, perhaps an adjective, and a noun, in one number, which is given back.
fn phrase(words: &mut Vec<&'static str>, rng: &mut Rng) -> usize {
    let number = rng.below(2);
    words.push(one(&DETERMINERS, rng)[number]);
    if rng.below(3) == 0 {
        words.push(one(&ADJECTIVES, rng));
    }
    words.push(one(&NOUNS, rng)[number]);
    number
}

fn one<T: Copy>(choices: &[T], rng: &mut Rng) -> T {
    choices[rng.below(choices.len())]
}
