//! The training of an adapter, step by step: losses, every decision about ranks, and what it ends as.
//! Read next: `start.rs`.

use std::collections::BTreeSet;
use std::path::Path;

use engrad::adapters::{self, Adapted, Check};
use engrad::nn::Model;
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Device, inference};
use serde_json::{Value, json};

use super::{Checks, EXACT, base, outputs, saved, scratch, start};
use crate::stored::Stored;

pub fn check(root: &Path, folder: &Path, device: &Device, checks: &mut Checks) {
    let stored = Stored::read(folder.join("run"));
    let run = |structure| Run { root, folder, device, stored: &stored, structure };
    match stored.notes["runs"].as_object() {
        Some(runs) => runs.keys().for_each(|structure| run(Some(structure.as_str())).check(checks)),
        None => run(None).check(checks),
    }
}

/// One run of a folder; there is one for each structure of MTLoRA.
pub struct Run<'a> {
    root: &'a Path,
    folder: &'a Path,
    pub device: &'a Device,
    pub stored: &'a Stored,
    pub structure: Option<&'a str>,
}

impl Run<'_> {
    fn check(&self, checks: &mut Checks) {
        let model = base(self.root, &self.stored.notes, self.device);
        let mut trainer = self.trainer(&model);
        let mut born = BTreeSet::new();
        self.fill_newborn(&trainer.subject, &mut born);
        for step in 0..self.stored.notes["steps"].as_u64().expect("a number") as usize {
            self.step(step, &model, &mut trainer, checks);
            self.fill_newborn(&trainer.subject, &mut born);
        }
        let block = |name: &&str| name.starts_with("block.") || name.starts_with("triplet.");
        let stored: BTreeSet<String> = self.stored.names().filter(block).map(String::from).collect();
        checks.that(born == stored, || format!("{born:?} were born, and {stored:?} are stored"));
        self.compare_end(&trainer.subject, &model, checks);
    }

    /// What belongs to this run alone, where a folder holds several.
    fn own(&self) -> &Value {
        self.structure.map_or(&self.stored.notes, |structure| &self.stored.notes["runs"][structure])
    }

    /// The tensors that it ends with.
    pub fn ends(&self) -> Stored {
        self.stored.part(&self.structure.map_or("final.".into(), |name| format!("final.{name}.")), None)
    }

    fn scratch(&self, what: &str) -> std::path::PathBuf {
        scratch(self.folder, &format!("{}{what}", self.structure.unwrap_or_default()))
    }

    fn trainer(&self, model: &Model) -> Trainer<Adapted, AdamW> {
        let directory = self.scratch("start");
        start::write(self, model, &directory);
        let tuned = adapters::load(model, &directory).expect("the start loads");
        let notes = &self.stored.notes;
        let number = |key: &str| notes["optimizer"][key].as_f64().expect("a number");
        let schedule = match notes.get("schedule") {
            None => Schedule::constant(number("lr")),
            // Its words: five steps of warm-up, then to 0 at the last step.
            Some(_) => Schedule::linear(number("lr"), 5, notes["steps"].as_u64().expect("a number")),
        };
        Trainer::new(tuned, AdamW::new(number("weight_decay")), schedule)
    }

    /// Gives blocks their stored values when they are born, instead of those that were drawn.
    fn fill_newborn(&self, tuned: &Adapted, born: &mut BTreeSet<String>) {
        for (path, param) in tuned.trainable() {
            let Some((rest, number)) = path.rsplit_once('.').filter(|(_, n)| n.parse::<usize>().is_ok())
            else {
                continue;
            };
            let (site, name) = rest.rsplit_once('.').expect("a path and a name");
            let (kind, part) = match name {
                "triadapt_A" => ("block", "A"),
                "triadapt_B" => ("block", "B"),
                "triadapt_L" => ("block", "row"),
                "triadapt_U" => ("block", "col"),
                "lora_A" => ("triplet", "Q"),
                "lora_B" => ("triplet", "P"),
                _ => continue,
            };
            let key = format!("{kind}.{site}.{number}.{part}");
            if born.insert(key.clone()) {
                param.set(&self.stored.tensor(&key, self.device));
            }
        }
    }

    fn step(&self, step: usize, model: &Model, trainer: &mut Trainer<Adapted, AdamW>, checks: &mut Checks) {
        let inputs = self.stored.part("batch.", Some(step));
        let mut task = f64::NAN;
        let done = trainer.step(|| {
            let [_, loss] = outputs(model, &inputs);
            task = loss.item();
            loss
        });
        let total = done.expect("a finite step").loss;
        let name = format!("of step {}", step + 1);
        let entry = &self.stored.notes["log"][step];
        let losses = &self.own()["loss"][step];
        for (found, expected) in [(total, losses), (total, &entry["loss"]), (task, &entry["task_loss"])] {
            if let Some(expected) = expected.as_f64() {
                let allowed = if checks.exact { EXACT } else { 1e-4 };
                checks.off("loss", &name, (found - expected).abs(), allowed);
            }
        }
        checks.that(losses.is_number() || entry["loss"].is_number(), || format!("no loss {name} is stored"));
        if entry.is_object() {
            let ranks = trainer.subject.ranks();
            checks.that(json!(ranks) == entry["ranks"], || format!("the ranks {name} are {ranks:?}"));
            let made = trainer.subject.checks().last().filter(|check| check.step == step as u64 + 1);
            compare_check(made, &entry["check"], &name, checks);
        }
    }

    /// The tensors at the end, in the file that they are saved in, from which the adapter comes back.
    fn compare_end(&self, tuned: &Adapted, model: &Model, checks: &mut Checks) {
        let directory = self.scratch("end");
        tuned.save(&directory).expect("the target folder can be written");
        let (config, tensors) = saved(&directory, self.device);
        let ends = self.ends();
        checks.that(tensors.keys().map(String::as_str).eq(ends.names()), || {
            format!("the file holds {:?}", tensors.keys())
        });
        for (name, found) in &tensors {
            compare_final(name, &found.to_f64(), &ends.values(name), checks);
        }
        for (key, notes) in [("blocks", "final_blocks"), ("ranks", "final_ranks")] {
            let (found, expected) = (&config[key], &self.stored.notes[notes]);
            checks.that(found.is_null() || found == expected, || format!("{key} are saved as {found}"));
        }
        let inputs = self.stored.part("batch.", Some(0));
        let logits = |model: &Model| inference(|| outputs(model, &inputs)[0].to_f64());
        let other = base(self.root, &self.stored.notes, self.device);
        let again = adapters::load(&other, &directory).expect("what we write, we read");
        checks.that(again.ranks() == tuned.ranks(), || "the saved adapter has other ranks".into());
        checks.that(logits(&other) == logits(model), || "the saved adapter computes something else".into());
    }
}

/// In f64 every entry is compared. In f32 rounding may turn the sign of a gradient that is almost 0, of
/// which Adam makes a step like any other: single entries part, and lengths are compared. The worst of all
/// runs is off by 2e-3.
fn compare_final(name: &str, found: &[f64], expected: &[f64], checks: &mut Checks) {
    if checks.exact {
        return checks.values("final", name, [found, expected], 0.0, EXACT);
    }
    let length = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let apart = length(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    let whole = length(&mut expected.iter().copied());
    checks.off("final", name, if apart == 0.0 { 0.0 } else { apart / whole }, 5e-3);
}

/// A decision about ranks, or that there was none.
fn compare_check(made: Option<&Check>, expected: &Value, name: &str, checks: &mut Checks) {
    let Some(made) = made.filter(|_| !expected.is_null()) else {
        return checks.that(made.is_none() && expected.is_null(), || format!("the check {name} is {made:?}"));
    };
    let decided = (json!(made.count), json!(made.chosen));
    checks.that(decided == (expected["k"].clone(), expected["chosen"].clone()), || {
        format!("the check {name} decides {decided:?} instead of {expected}")
    });
    let numbers = |key: &str| -> Vec<f64> {
        let list = expected[key].as_array().into_iter().flatten();
        list.map(|x| x.as_f64().expect("a number")).collect()
    };
    // Scores may be differences of values, and are measured against these.
    let (values, scores) = (numbers("values"), numbers("scores"));
    let scale = values.iter().chain(&scores).fold(0.0, |largest: f64, x| largest.max(x.abs()));
    let threshold = expected["tau"].as_f64().expect("a number");
    // Half of the least margin between the last site that was chosen and the first that was not.
    let allowed = 1e-3;
    if !values.is_empty() {
        checks.values("values", name, [&made.values, &values], scale, allowed);
    }
    checks.values("scores", name, [&made.scores, &scores], scale, allowed);
    checks.values("threshold", name, [&[made.threshold], &[threshold]], scale, allowed);
}
