//! A published decoder against PyTorch: its scores, its loss, one gradient, and the text that it is known for.

use std::path::Path;

use engrad::nn::{Generation, LanguageModel, Model, Pretrained, Side, generate, named_params};

use super::{Folder, rows};
use crate::stored::deviation;

impl Folder<'_> {
    /// A published decoder: its scores, its loss, one gradient, and its text.
    pub(super) fn pretrained(&mut self, directory: &Path) {
        let stored = self.stored("forward");
        let loaded = Pretrained::from_directory(directory, self.device).expect("the model loads");
        self.round_trip(&loaded);
        let Model::CausalLm(model) = &loaded.model else { panic!("a decoder") };
        let batch = model.batch(&rows(&stored, "input_ids", None), Side::Right).expect("it fits");
        let logits = model.forward(&batch);
        self.value("logits", &logits.to_f64(), &stored.values("logits"));
        let loss = logits.flatten(0, 1).cross_entropy(&batch.next_tokens());
        self.value("loss", &loss.to_f64(), &stored.values("loss"));
        let gradients = loss.backward();
        for (key, path) in
            [("first_q", "layers.0.self_attn.q_proj.weight"), ("first_c_attn", "h.0.attn.c_attn.weight")]
        {
            if stored.has(&format!("grad.{key}")) {
                let params = named_params(model);
                let (_, param) = params.iter().find(|(name, _)| name.ends_with(path)).expect("it has one");
                let found = param.stored(gradients.of(&param.value()).expect("it matters"));
                let off = deviation(&found.to_f64(), &stored.values(&format!("grad.{key}")), 0.0);
                self.worst[1] = self.worst[1].max(off);
                self.that(off <= self.gradient, &format!("{key}: gradient off by {off:.1e}"));
            }
        }
        let (prompts, expected) = (rows(&stored, "prompt", None), rows(&stored, "greedy", None));
        let prompts = model.batch(&prompts, Side::Left).expect("it fits");
        let settings = Generation::greedy(expected[0].len() - prompts.time());
        let found = generate(model, &prompts, &settings, &mut |_, _| ()).expect("it goes on");
        for (found, expected) in found.iter().zip(&expected) {
            self.that(*found == expected[prompts.time()..], &format!("goes on as {found:?}"));
        }
        let story = directory.join("expected_greedy.txt");
        if story.exists() {
            let text = spoken(&directory.join("vocab.json"), &found[0]);
            let expected = std::fs::read_to_string(story).expect("readable");
            self.that(text.trim().starts_with(expected.trim()), &format!("tells: {text}"));
        }
    }
}

/// The text of tokens, each of which stands for some bytes.
fn spoken(vocabulary: &Path, tokens: &[u32]) -> String {
    let json = std::fs::read_to_string(vocabulary).expect("readable");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let piece = |&token: &u32| match token {
        3..=258 => vec![(token - 3) as u8],
        _ => {
            let piece = json["pieces"][token as usize][0].as_str().expect("text");
            piece.chars().map(|byte| byte as u8).collect()
        }
    };
    String::from_utf8_lossy(&tokens.iter().flat_map(piece).collect::<Vec<u8>>()).into_owned()
}
