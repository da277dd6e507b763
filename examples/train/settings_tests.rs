//! Settings are taken from flags and files, repeat a run, and are refused in words where they cannot be used.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::tests::{go, remains, settings, tiny, tiny_decoder};
use super::*;

#[test]
fn a_run_is_repeated_by_its_own_settings() {
    let directory = tiny();
    go(settings(directory.path(), "first", &["--steps=5", "--batch=7", "--seed=3"]));
    let config = directory.path().join("first/run.toml");
    let words = [
        "train",
        "--config",
        config.to_str().unwrap(),
        "--out",
        directory.path().join("second").to_str().unwrap(),
    ]
    .map(OsString::from);
    go(options::read(&words).unwrap().settings);
    assert!(remains(&directory.path().join("first")) == remains(&directory.path().join("second")));
    let again = fresh(settings(directory.path(), "first", &[]), &AtomicBool::new(false));
    assert!(matches!(again, Err(Ended::Failed(error)) if error.to_string().contains("holds a run already")));
}

#[test]
fn a_run_that_keeps_less_ends_with_the_same_bits() {
    let directory = tiny();
    let runs = [("kept", "--recompute=false"), ("again", "--recompute")].map(|(name, flag)| {
        let outcome = go(settings(directory.path(), name, &["--steps=5", "--adapter-dropout=0.1", flag]));
        assert_eq!(outcome.steps, 5);
        directory.path().join(name)
    });
    assert!(remains(&runs[0]) == remains(&runs[1]));
}

#[test]
fn flags_win_over_the_file_and_its_mistakes_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.toml");
    let read = |text: &str, more: &[&str]| {
        fs::write(&file, text).unwrap();
        let words = ["train", "--config", file.to_str().unwrap()];
        options::read(&words.iter().chain(more).map(OsString::from).collect::<Vec<_>>())
    };
    let settings =
        read("rank = 4\nrate = 1e-3\ntask = \"rte\"\nwarm-up = 0\nrecompute = true", &["--rank", "16"]);
    let settings = settings.unwrap().settings;
    assert_eq!((settings.rank, settings.rate, &*settings.task, settings.warm_up), (16, 1e-3, "rte", 0.0));
    assert!(settings.recompute);
    let epochs = |more: &[&str]| read("epochs = 3\nsteps = 4", more).unwrap().settings;
    assert_eq!((epochs(&[]).steps, epochs(&["--steps", "5"]).steps), (Some(4), Some(5)));
    assert_eq!((epochs(&["--epochs", "7"]).steps, epochs(&["--epochs", "7"]).epochs), (None, 7));
    for (text, expected) in [
        ("rnak = 4", "rnak is no setting; did you mean rank?"),
        ("warmup = 4", "did you mean warm-up?"),
        ("rank = 0", "invalid value '0' for '--rank <RANK>'"),
        ("rate = -1.0", "expected a number above 0"),
        ("method = \"lorra\"", "did you mean lora?"),
        ("rank = [4]", "rank is [4], expected one number, text, true or false"),
        ("rank = ", "line 1, column"),
        ("rank = 4000000000", "4000000000 is not in 1..=65536"),
        ("length-penalty = nan", "expected a finite number"),
    ] {
        let error = read(text, &[]).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("a.toml"), "{text}: {error}");
    }
}

#[test]
fn what_a_run_cannot_use_is_an_error_that_says_so() {
    let directory = tiny();
    let path = directory.path();
    let failed = |settings: Settings| match fresh(settings, &AtomicBool::new(false)) {
        Err(Ended::Failed(error)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let with = |change: fn(&mut Settings)| {
        let mut settings = settings(path, "run", &[]);
        change(&mut settings);
        failed(settings)
    };
    assert!(with(|s| s.task = "colla".into()).contains("did you mean cola?"));
    assert!(with(|s| s.model = PathBuf::new()).contains("--model DIR is missing"));
    assert!(with(|s| s.data = "nowhere".into()).contains("nowhere"));
    assert!(with(|s| s.label_smoothing = 0.5).contains("--label-smoothing does nothing with cola"));
    let head = |s: &mut Settings| (s.method, s.targets) = ("head".into(), Some("*".into()));
    assert!(with(head).contains("--targets does nothing with head"));
    let many = with(|s| s.accumulate = 3);
    assert!(many.contains("--accumulate 3 is more than an epoch's 2 batches of 32 rows"), "{many}");
    assert!(with(|s| (s.rate, s.warm_up) = (1e30, 0.0)).contains("lower the learning rate"));
    fs::remove_dir_all(path.join("run")).unwrap();
    let records = tiny_decoder();
    let encoder = ["--task=e2e", "--data", records.path().join("data").to_str().unwrap()].map(String::from);
    let encoder = encoder.each_ref().map(String::as_str);
    assert!(failed(settings(path, "encoder", &encoder)).contains("expected a decoder"));
    let decoder = ["--model", records.path().join("model").to_str().unwrap()].map(String::from);
    assert!(
        failed(settings(path, "decoder", &decoder.each_ref().map(String::as_str)))
            .contains("expected \"bert\" or \"roberta\"")
    );
    fs::write(path.join("data/train.tsv"), "x\t1\t\ta\nx\t7\t\tb\n").unwrap();
    assert!(with(|_| ()).contains("train.tsv, line 2, column 2: found \"7\""));
    assert!(
        !path.join("run").exists(),
        "a run that cannot begin leaves nothing that stands in the next one's way"
    );
    let begun = settings(path, "begun", &[]).resolved().unwrap();
    let mut working = Folder::create(&begun).unwrap();
    working.begin(&begun).unwrap();
    let second = resume(&path.join("begun"), &AtomicBool::new(false));
    assert!(matches!(second, Err(Ended::Failed(error)) if error.to_string().contains("another process")));
    let late = Folder::create(&Settings { out: path.join("late"), ..begun.clone() }).map(|mut late| {
        fs::create_dir(path.join("late")).unwrap();
        fs::copy(path.join("begun/run.toml"), path.join("late/run.toml")).unwrap();
        late.begin(&begun).unwrap_err().to_string()
    });
    assert!(late.unwrap().contains("holds a run already"));
    let resumed = resume(&path.join("data"), &AtomicBool::new(false));
    assert!(matches!(resumed, Err(Ended::Failed(error)) if error.to_string().contains("run.toml")));
}

#[test]
fn a_directory_in_which_something_is_missing_or_changed_is_refused() {
    let directory = tiny();
    let run = directory.path().join("run");
    let never = AtomicBool::new(false);
    let failed = |outcome: std::result::Result<Outcome, Ended>| match outcome {
        Err(Ended::Failed(error)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    go(settings(directory.path(), "run", &["--steps=4", "--evaluate=1"]));
    let [toml, log] = ["run.toml", "log.jsonl"].map(|name| fs::read_to_string(run.join(name)).unwrap());

    fs::remove_file(run.join("result.json")).unwrap();
    fs::write(run.join("log.jsonl"), log.replacen("\"step\":2", "\"st", 1)).unwrap();
    let error = failed(resume(&run, &never));
    assert!(
        error.contains("log.jsonl: it has 1 of the 4 updates that checkpoint.safetensors has"),
        "{error}"
    );
    fs::write(run.join("log.jsonl"), &log).unwrap();
    for (found, instead, expected) in [
        ("accumulate = 1", "accumulate = 0", "0 is not in 1..=100000"),
        ("warm-up = 0.06", "warm-up = nan", "expected a number from 0 to below 1"),
        ("rank = 8", "rnak = 8", "rnak is no setting; did you mean rank?"),
    ] {
        fs::write(run.join("run.toml"), toml.replace(found, instead)).unwrap();
        let error = failed(resume(&run, &never));
        assert!(error.contains("run.toml") && error.contains(expected), "{error}");
    }
    fs::write(run.join("run.toml"), &toml).unwrap();
    assert_eq!(resume(&run, &never).unwrap().steps, 4);

    for name in ["run.toml", "checkpoint.safetensors", "result.json"] {
        fs::remove_file(run.join(name)).unwrap();
        let error = failed(fresh(settings(directory.path(), "run", &[]), &never));
        assert!(error.contains("of another run; remove the directory"), "without {name}: {error}");
    }
}

#[test]
fn a_run_whose_first_update_fails_leaves_nothing() {
    let directory = tiny();
    let few = ["--method=prefix-tuning", "--rank=11", "--max-length=100"];
    let failed = fresh(settings(directory.path(), "run", &few), &AtomicBool::new(false));
    assert!(
        matches!(&failed, Err(Ended::Failed(error)) if error.to_string().contains("positions")),
        "{failed:?}"
    );
    assert!(!directory.path().join("run").exists());
}

#[test]
fn all_linear_layers_of_an_encoder_can_be_adapted() {
    let directory = tiny();
    let outcome = go(settings(directory.path(), "run", &["--targets=all-linear", "--rank=1", "--steps=1"]));
    // Two blocks of four square layers and two of 8 and 12, the pooler and the head.
    assert_eq!(outcome.trained, 2 * (4 * 16 + 2 * 20) + 72 + 18);
}
