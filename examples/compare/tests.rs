//! What a comparison promises: it goes on where it was stopped, and its table says what the runs did.

use std::fs;

use super::results::Run;
use super::*;

fn options(out: &std::path::Path, more: &[&str]) -> Options {
    let out = out.to_str().unwrap();
    let words =
        ["compare", "--steps", "6", "--pretraining-steps", "4", "--rank", "2", "--batch", "8", "--out", out];
    Options::parse_from(words.iter().chain(more))
}

#[test]
fn every_method_is_compared_on_the_programs_own_language() {
    let folder = tempfile::tempdir().unwrap();
    let table = run(&options(folder.path(), &["--seeds", "1", "--rate", "0.001"])).unwrap();
    for method in subject::names() {
        assert!(table.contains(&format!("| {method} | 1 |")), "{method} is missing in\n{table}");
    }
    for picture in ["loss.svg", "ranks.svg"] {
        assert!(fs::read_to_string(folder.path().join(picture)).unwrap().starts_with("<svg"), "{picture}");
    }
}

#[test]
fn methods_that_look_back_at_updates_see_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path(), &["--methods", "adalora,increlora", "--seeds", "1"]);
    options.settings.steps = 40;
    run(&options).unwrap();
    for line in fs::read_to_string(folder.path().join("results.jsonl")).unwrap().lines() {
        let Run { method, ranks, .. } = serde_json::from_str(line).unwrap();
        let (_, last) = ranks.last().unwrap();
        // Without gradients all scores are equal: one method then prunes everything, the other grows all alike.
        assert_eq!(last.iter().sum::<usize>(), 2 * last.len(), "{method}: {last:?}");
    }
}

#[test]
fn a_comparison_that_was_cut_off_goes_on_and_ends_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let asked = ["--methods", "head,lora", "--seeds", "2"];
    run(&options(folder.path(), &asked)).unwrap();
    let file = folder.path().join("results.jsonl");
    let whole = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    assert_eq!(lines.len(), 4);
    // Killed in the middle of a line: that run is made again, and no other.
    fs::write(&file, format!("{}\n{}\n{}", lines[0], lines[1], &lines[2][..40])).unwrap();
    run(&options(folder.path(), &asked)).unwrap();
    let again = fs::read_to_string(&file).unwrap();
    let read =
        |text: &str| -> Vec<Run> { text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    let (before, after) = (read(&whole), read(&again));
    assert_eq!(again.lines().take(2).collect::<Vec<_>>(), lines[..2]);
    for (a, b) in before.iter().zip(&after) {
        assert_eq!((&a.method, a.seed, &a.losses, &a.measures), (&b.method, b.seed, &b.losses, &b.measures));
    }
    let working = Results::open(folder.path(), &options(folder.path(), &asked).settings).unwrap();
    let error = run(&options(folder.path(), &asked)).unwrap_err().to_string();
    assert!(error.contains("another process is at work"), "{error}");
    drop(working);
    let error = run(&options(folder.path(), &["--rate", "0.5"])).unwrap_err().to_string();
    assert!(error.contains("other settings"), "{error}");
}

#[test]
fn a_comparison_that_cannot_begin_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let error =
        run(&options(&out, &["--model", "nowhere", "--task", "cola", "--data", "nowhere"])).unwrap_err();
    assert!(error.to_string().contains("nowhere") && !out.exists(), "{error}");
}

#[test]
fn a_run_that_diverges_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let asked = ["--methods", "full,lora", "--seeds", "1", "--rate", "1e30"];
    let table = run(&options(folder.path(), &asked)).unwrap();
    assert!(table.contains("| full | 1 |") && !table.contains("lora"), "{table}");
}

#[test]
fn a_measure_without_a_value_is_kept_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), &[]);
    let run = Run {
        method: "head".into(),
        seed: 0,
        measures: [("pearson".to_string(), f64::NAN)].into(),
        trained: 1,
        step_seconds: 0.5,
        peak: 0,
        losses: vec![0.1 + 0.2],
        ranks: Vec::new(),
    };
    let mut results = Results::open(&options.out, &options.settings).unwrap();
    results.begin().unwrap();
    results.add(run.clone()).unwrap();
    drop(results);
    let runs = Results::open(&options.out, &options.settings).unwrap().runs;
    assert!(runs[0].measures["pearson"].is_nan() && runs[0].losses == run.losses, "{runs:?}");
    assert!(report::table(&["head"], &runs).contains("| head | 1 | NaN"));
}

#[cfg(unix)]
#[test]
fn a_path_that_cannot_be_written_down_is_an_error_that_says_so() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path(), &[]);
    options.settings.model = Some(std::ffi::OsStr::from_bytes(b"\xff").into());
    let error = run(&options).unwrap_err().to_string();
    assert!(error.contains("settings.json") && error.contains("UTF-8"), "{error}");
}

#[test]
fn the_table_has_mean_and_deviation_over_seeds_and_the_ranks_in_the_end() {
    let made = |seed: u64, accuracy: f64, ranks: Vec<(u64, Vec<usize>)>| Run {
        method: "adalora".into(),
        seed,
        measures: [("accuracy".to_string(), accuracy)].into(),
        trained: 100 + seed as usize,
        step_seconds: 0.5,
        peak: 3_000_000 * (1 + seed as usize),
        losses: vec![1.0, 0.5],
        ranks,
    };
    let runs = [made(0, 0.5, vec![(0, vec![4, 4]), (2, vec![1, 3])]), made(1, 0.7, vec![(0, vec![4, 4])])];
    let table = report::table(&["lora", "adalora"], &runs);
    let line = "| adalora | 2 | 0.6000 ± 0.1414 | 100 | 500.0 | 6.0 | 1 to 4, mean 3.0 |";
    assert!(table.lines().count() == 3 && table.contains(line), "{table}");
}
