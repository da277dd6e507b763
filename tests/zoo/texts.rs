//! Texts that a model goes on with, greedily, by beams and by other settings, against those of transformers.

use engrad::nn::{Choose, Generation, LanguageModel, Side, generate};

use super::Folder;

impl Folder<'_> {
    pub(super) fn texts(&mut self, model: &dyn LanguageModel) {
        let text = std::fs::read_to_string(self.path.join("generate.json")).expect("readable");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let ids = |value: &serde_json::Value| -> Vec<u32> {
            value.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
        };
        for case in json["cases"].as_array().expect("cases") {
            let (prompt, greedy, beam) =
                (ids(&case["prompt"]), ids(&case["greedy"]), ids(&case["beam4_eos2_new12_early_stopping"]));
            self.text(model, &prompt, &greedy, &Generation::greedy(greedy.len() - prompt.len()));
            let choose = Choose::Beams { beams: 4, length_penalty: 1.0, early: true };
            let settings = Generation { end: vec![2], choose, ..Generation::greedy(12) };
            self.text(model, &prompt, &beam, &settings);
        }
        for case in json["settings"].as_array().into_iter().flatten() {
            self.text(model, &ids(&case["prompt"]), &ids(&case["text"]), &settings(&case["settings"]));
        }
        let batched = &json["batched_left_padded"];
        let lists = |key: &str| batched[key].as_array().expect("lists").iter().map(&ids).collect::<Vec<_>>();
        let masked = lists("input_ids").into_iter().zip(lists("attention_mask"));
        let prompts: Vec<Vec<u32>> = masked
            .map(|(row, mask)| {
                row.into_iter().zip(mask).filter(|(_, kept)| *kept == 1).map(|(id, _)| id).collect()
            })
            .collect();
        let expected = lists("sequences");
        let time = lists("input_ids")[0].len();
        for side in [Side::Left, Side::Right] {
            let batch = model.batch(&prompts, side).expect("it fits");
            let settings = Generation::greedy(expected[0].len() - time);
            let found = generate(model, &batch, &settings, &mut |_, _| ()).expect("it goes on");
            let same = found.iter().zip(&expected).all(|(found, expected)| *found == expected[time..]);
            self.that(same, &format!("a batch padded on the {side:?} goes on as {found:?}"));
        }
    }

    fn text(&mut self, model: &dyn LanguageModel, prompt: &[u32], expected: &[u32], settings: &Generation) {
        let batch = model.batch(&[prompt.to_vec()], Side::Left).expect("it fits");
        let mut heard = Vec::new();
        let found = generate(model, &batch, settings, &mut |_, token| heard.push(token)).expect("it goes on");
        let good = found[0] == expected[prompt.len()..] && heard == found[0];
        self.that(good, &format!("{:?} gives {:?}, expected {expected:?}", settings.choose, found[0]));
    }
}

/// The settings of a text under their Hugging Face names.
fn settings(json: &serde_json::Value) -> Generation {
    let number =
        |key: &str, default: f64| json.get(key).and_then(serde_json::Value::as_f64).unwrap_or(default);
    let beams = number("num_beams", 1.0) as usize;
    let length_penalty = number("length_penalty", 1.0);
    let end = serde_json::json!({ "eos_token_id": json.get("eos_token_id").cloned().unwrap_or_default() });
    Generation {
        least: number("min_new_tokens", 0.0) as usize,
        choose: match beams {
            1 => Choose::Greedy,
            _ => Choose::Beams { beams, length_penalty, early: false },
        },
        repetition_penalty: number("repetition_penalty", 1.0),
        no_repeat: number("no_repeat_ngram_size", 0.0) as usize,
        ..Generation::greedy(12).ending_as(&end)
    }
}
