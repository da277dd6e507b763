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
    for (text, expected) in [
        ("rnak = 4", "rnak is no setting; did you mean rank?"),
        ("warmup = 4", "did you mean warm-up?"),
        ("rank = 0", "invalid value '0' for '--rank <RANK>'"),
        ("rate = -1.0", "expected a number above 0"),
        ("method = \"lorra\"", "did you mean lora?"),
        ("rank = [4]", "rank is [4], expected one number, text, true or false"),
        ("rank = ", "line 1, column"),
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
