//! A small Llama, trained on sentences of a grammar: enough to see that it goes on sensibly.
//! Read next: `words.rs`.

use engrad::nn::{LanguageModel, Model, Pretrained, Side};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Device, Result, Rng};
use serde_json::json;

use super::words::Words;

const WORDS: [&str; 22] = [
    "<end>", "the", "a", "old", "small", "happy", "cat", "dog", "bird", "girl", "saw", "found", "liked",
    "red", "ball", "tree", "house", "and", "then", "smiled", "slept", ".",
];
const STEPS: usize = 200;

/// The trained model, and its words.
pub fn trained(device: &Device) -> Result<(Pretrained, Words)> {
    let config = json!({
        "model_type": "llama", "vocab_size": WORDS.len(), "hidden_size": 48, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    });
    let loaded = Pretrained::from_config(config, &mut Rng::seeded(1), device)?;
    let Model::CausalLm(model) = &loaded.model else { unreachable!("a Llama goes on with texts") };
    let mut rng = Rng::seeded(2);
    let mut trainer = Trainer::new(model, AdamW::new(0.01), Schedule::constant(3e-3));
    for step in 1..=STEPS {
        let rows: Vec<Vec<u32>> = (0..16).map(|_| story(&mut rng)).collect();
        let batch = model.batch(&rows, Side::Right)?;
        let loss = trainer.step(|| model.loss(&batch))?.loss;
        if step % 50 == 0 {
            eprintln!("step {step} of {STEPS}: loss {loss:.3}");
        }
    }
    Ok((loaded, Words::Listed(WORDS.iter().map(|word| word.to_string()).collect())))
}

/// Four sentences about one animal or child.
fn story(rng: &mut Rng) -> Vec<u32> {
    let one_of = |words: &[&'static str], rng: &mut Rng| words[rng.below(words.len())];
    let hero = one_of(&["cat", "dog", "bird", "girl"], rng);
    let mut words = vec!["a", one_of(&["old", "small", "happy"], rng), hero];
    for sentence in 0..4 {
        if sentence > 0 {
            words.extend(["then", "the", hero]);
        }
        match rng.below(3) {
            0 => words.push(one_of(&["smiled", "slept"], rng)),
            _ => words.extend([
                one_of(&["saw", "found", "liked"], rng),
                "a",
                "red",
                one_of(&["ball", "tree", "house"], rng),
                "and",
                one_of(&["smiled", "slept"], rng),
            ]),
        }
        words.push(".");
    }
    let id = |word: &str| WORDS.iter().position(|known| *known == word).expect("a word of the list") as u32;
    std::iter::once(0).chain(words.into_iter().map(id)).collect()
}
