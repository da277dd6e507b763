//! What the parts of the main job promise, and that an interrupted run ends as an uninterrupted one.

use std::fs;
use std::path::{Path, PathBuf};

use engrad::Device;
use engrad::nn::Pretrained;

use super::language::{LONGEST, Sentence};
use super::*;

/// A folder for one test; it goes with its owner.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("room for temporary files")
}

#[test]
fn sentences_fit_the_encoder_and_follow_from_the_seed() {
    let language = Language::new();
    let sentences = |seed| {
        let rng = &mut Rng::seeded(seed);
        (0..20_000).map(|_| language.sentence(rng)).collect::<Vec<_>>()
    };
    assert_eq!(sentences(1), sentences(1));
    assert_ne!(sentences(1), sentences(2));
    let longest = sentences(1).iter().map(|sentence| sentence.tokens.len()).max();
    assert_eq!(longest, Some(LONGEST));
}

#[test]
fn a_wrong_sentence_is_a_correct_one_but_for_the_number_of_one_verb() {
    let language = Language::new();
    for seed in 0..500 {
        let Sentence { tokens, verbs } = language.sentence(&mut Rng::seeded(seed));
        let correct = language.judged(true, &mut Rng::seeded(seed));
        let wrong = language.judged(false, &mut Rng::seeded(seed));
        assert_eq!((&correct.tokens, correct.label, wrong.label), (&tokens, 1, 0));
        let changed: Vec<(usize, u32)> = (0..tokens.len())
            .filter(|&at| wrong.tokens[at] != tokens[at])
            .map(|at| (at, wrong.tokens[at]))
            .collect();
        assert!(changed.len() == 1 && verbs.contains(&changed[0]), "{tokens:?} {verbs:?} {changed:?}");
    }
    let task = language.agreement(200, 100, 3);
    assert_eq!(task.train.iter().filter(|example| example.label == 1).count(), 100);
    assert_eq!((task.dev.len(), task.guessing()), (100, 0.5));
    assert_ne!(task.train[..100], task.dev[..]);
}

/// A run of a few steps per stage.
fn small(out: &Path, more: &[&str]) -> Options {
    let out = out.to_str().unwrap();
    let words = ["finetune", "--pretraining-steps", "12", "--rows", "96", "--epochs", "2", "--out", out];
    Options::parse_from(words.iter().chain(more))
}

fn resumed(checkpoint: &Path, stop_after: Option<u64>) -> Options {
    let resume = ["finetune", "--resume", checkpoint.to_str().unwrap()];
    Options { stop_after, ..Options::parse_from(resume) }
}

fn interrupted(options: Options) -> PathBuf {
    match run(options, &AtomicBool::new(false)) {
        Err(Ended::Interrupted(checkpoint)) => checkpoint,
        other => panic!("expected an interruption, found {other:?}"),
    }
}

#[test]
fn an_interrupted_run_ends_with_the_bits_of_one_that_was_not() {
    let (straight, broken) = (folder(), folder());
    let never = AtomicBool::new(false);
    let whole = run(small(straight.path(), &[]), &never).unwrap();

    let during_pretraining = interrupted(small(broken.path(), &["--stop-after", "5"]));
    assert_eq!(during_pretraining, broken.path().join("pretraining.checkpoint.safetensors"));
    let during_full = interrupted(resumed(&during_pretraining, Some(5)));
    assert_eq!(during_full, broken.path().join("pretraining.checkpoint.safetensors"));
    let during_full = interrupted(resumed(&during_full, Some(4)));
    assert_eq!(during_full, broken.path().join("full.checkpoint.safetensors"));
    let earlier = fs::read(&during_full).unwrap();
    assert_eq!(interrupted(resumed(&during_full, Some(1))), during_full);
    // As a kill leaves it that comes between the record and the checkpoint.
    fs::write(&during_full, earlier).unwrap();
    let pieced = run(resumed(&during_full, None), &never).unwrap();

    for (a, b) in whole.iter().zip(&pieced) {
        assert_eq!((&a.name, a.accuracy, a.trained), (&b.name, b.accuracy, b.trained));
        assert_eq!(a.losses, b.losses, "{}", a.name);
    }
    for file in ["adapter/adapter_model.safetensors", "base/model.safetensors"] {
        let [a, b] = [&straight, &broken].map(|folder| fs::read(folder.path().join(file)).unwrap());
        assert!(a == b, "{file} differs");
    }
    assert!(fs::read_to_string(straight.path().join("loss.svg")).unwrap().starts_with("<svg"));
    assert!(!during_full.exists(), "a finished stage leaves no checkpoint");
}

/// BERT as it is published has a head for hidden words, and often no pooler.
#[test]
fn a_masked_language_model_is_a_base_too() {
    let (base, out, language) = (folder(), folder(), Language::new());
    let mut config = serde_json::to_value(pretraining::config(&language)).unwrap();
    config["model_type"] = "bert".into();
    config["architectures"] = serde_json::json!(["BertForMaskedLM"]);
    let published = Pretrained::from_config(config, &mut Rng::seeded(1), &Device::Cpu).unwrap();
    published.save(base.path()).unwrap();
    let never = AtomicBool::new(false);
    let (stages, options) = Stages::open(small(out.path(), &[]), &never).unwrap();
    let task = language.agreement(32, 32, 0);
    let tuning = Tuning { stages: &stages, options: &options, base: base.path(), task: &task };
    let record = tuning.run(Method::Lora).unwrap();
    assert!(record.finished && record.losses.iter().all(|loss| loss.is_finite()), "{record:?}");
}

#[test]
fn what_the_run_cannot_use_is_an_error_that_says_so() {
    let folder = folder();
    let file = folder.path().join("file");
    fs::write(&file, "nothing").unwrap();
    let broken = folder.path().join("lora.checkpoint.safetensors");
    fs::write(&broken, "no safetensors").unwrap();
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let published = |model: &Path, data: &Path| {
        let (model, data) = (model.to_str().unwrap(), data.to_str().unwrap());
        small(&folder.path().join("out"), &["--model", model, "--task", "sst2", "--data", data])
    };
    let cases = [
        (small(&file.join("below"), &[]), "file"),
        (resumed(&file, None), "not a checkpoint of this program"),
        (resumed(&folder.path().join("missing"), None), "missing"),
        (resumed(&broken, None), "settings.json"),
        (published(&folder.path().join("nowhere"), &empty), "nowhere"),
        (published(&empty, &empty), "tokenizer.json"),
    ];
    for (options, expected) in cases {
        match run(options, &AtomicBool::new(false)) {
            Err(Ended::Failed(error)) => assert!(error.to_string().contains(expected), "{error}"),
            other => panic!("expected an error with {expected:?}, found {other:?}"),
        }
    }
}

#[test]
fn a_checkpoint_that_was_cut_off_is_refused() {
    let folder = folder();
    let checkpoint = interrupted(small(folder.path(), &["--stop-after", "2"]));
    let bytes = fs::read(&checkpoint).unwrap();
    let anew = run(small(folder.path(), &[]), &AtomicBool::new(false));
    let Err(Ended::Failed(error)) = anew else { panic!("{anew:?}") };
    assert!(error.to_string().contains(&format!("go on with --resume {}", checkpoint.display())), "{error}");
    assert_eq!(fs::read(&checkpoint).unwrap(), bytes, "an interrupted job is not lost");
    fs::write(&checkpoint, &bytes[..bytes.len() / 2]).unwrap();
    let outcome = run(resumed(&checkpoint, None), &AtomicBool::new(false));
    assert!(matches!(outcome, Err(Ended::Failed(Error::Format { .. }))), "{outcome:?}");
}
