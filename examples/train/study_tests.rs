//! What reports and studies promise: means and chances as they are, no run of another plan, no trial among results.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::report::{Run, table};
use super::tests::tiny;
use super::*;

#[test]
fn a_report_has_means_deviations_and_the_chance_of_a_difference() {
    let run = |method: &str, seed: u64, value: f64| {
        let words = ["train", "--task=cola", "--method", method].map(OsString::from);
        let settings = Settings { seed, ..options::read(&words).unwrap().settings };
        let (values, score) = (BTreeMap::from([("matthews".to_string(), value)]), value);
        let (steps, trained) = (1, 10);
        let outcome = Outcome {
            steps,
            best_step: 1,
            score,
            values,
            trained,
            seconds: 1.0,
            step_seconds: 0.5,
            peak: None,
        };
        Run { settings, outcome }
    };
    let runs: Vec<Run> = [("lora", [0.84, 0.83, 0.85]), ("vera", [0.82, 0.83, 0.81])]
        .into_iter()
        .flat_map(|(method, values)| (0..3).map(move |seed| run(method, seed, values[seed as usize])))
        .collect();
    let alone = table(&runs[..1], "lora");
    assert!(
        alone.ends_with("| 1 | matthews 0.8400 | 10 | 500.0 | - |\n"),
        "one run has no deviation: {alone}"
    );
    let text = table(&runs, "lora");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[2], "| cola | lora | 8 | 0.002 | 3 | matthews 0.8400 ± 0.0100 | 10 | 500.0 | - |");
    // scipy.stats.ttest_rel says 0.2254.
    assert_eq!(
        lines[3],
        "| cola | vera | 8 | 0.002 | 3 | matthews 0.8200 ± 0.0100 | 10 | 500.0 | 0.225 (3 pairs) |"
    );
}

#[test]
fn a_rate_at_which_training_diverges_is_none_to_choose() {
    let directory = tiny();
    let path = directory.path();
    let text = format!(
        "rates = [1e30, 1e-3]\nhold-out = 20\n[common]\nmodel = {:?}\ndata = {:?}\ntask = \"cola\"\n\
         steps = 3\n[[runs]]\nmethod = \"lora\"\n",
        path.join("model"),
        path.join("data")
    );
    let (plan, never) = (path.join("plan.toml"), AtomicBool::new(false));
    fs::write(&plan, &text).unwrap();
    study::run(&plan, &path.join("study"), &never).unwrap();
    let report = fs::read_to_string(path.join("study/report.md")).unwrap();
    assert!(report.contains("| cola | lora | 8 | 0.001 |"), "{report}");
    fs::write(&plan, text.replace(", 1e-3", "")).unwrap();
    let outcome = study::run(&plan, &path.join("study"), &never);
    let Err(Ended::Failed(error)) = outcome else { panic!("{outcome:?}") };
    assert!(error.to_string().contains("none of the rates [1e30] has a score"), "{error}");
}

#[test]
fn the_plans_beside_this_file_can_be_read() {
    for (plan, runs) in [("study.toml", 5 * 8), ("study_generation.toml", 8)] {
        let plan = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/train").join(plan);
        let named = study::named(&plan, &study::Study::read(&plan).unwrap().runs).unwrap();
        assert_eq!(named.len(), runs, "{plan:?}");
    }
}

#[test]
fn a_plan_is_checked_as_a_whole_before_its_first_run() {
    let directory = tiny();
    let (path, plan) = (directory.path(), directory.path().join("plan.toml"));
    let text = format!(
        "[common]\nmodel = {:?}\ndata = {:?}\nsteps = 1\n[[runs]]\ntask = \"cola\"\n[[runs]]\n",
        path.join("model"),
        path.join("data")
    );
    for (last, expected) in
        [("task = \"colla\"", "did you mean cola?"), ("task = \"rte\"\ndata = \"nowhere\"", "nowhere")]
    {
        fs::write(&plan, text.clone() + last).unwrap();
        let outcome = study::run(&plan, &path.join("study"), &AtomicBool::new(false));
        let Err(Ended::Failed(error)) = outcome else { panic!("{outcome:?}") };
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!path.join("study").exists());
    }
}

#[test]
fn a_study_goes_on_where_it_was_left() {
    let directory = tiny();
    let path = directory.path();
    let plan = path.join("plan.toml");
    let text = format!(
        "seeds = [0, 1]\nrates = [1e-3, 1e-2]\nhold-out = 20\n[common]\nmodel = {:?}\ndata = {:?}\ntask = \"cola\"\n\
         steps = 3\n[[runs]]\nmethod = [\"lora\", \"head\"]\n",
        path.join("model"),
        path.join("data")
    );
    fs::write(&plan, &text).unwrap();
    let (out, stop) = (path.join("study"), AtomicBool::new(true));
    // Stopped after its first step, and then gone on with.
    assert!(matches!(study::run(&plan, &out, &stop), Err(Ended::Interrupted)));
    stop.store(false, Ordering::Relaxed);
    study::run(&plan, &out, &stop).unwrap();
    let report = fs::read_to_string(out.join("report.md")).unwrap();
    assert!(report.contains("| cola | lora | 8 |") && report.contains("| cola | head | 8 |"), "{report}");
    let drawn = fs::read_to_string(out.join("report.svg")).unwrap();
    assert!(drawn.contains("cola, matthews") && drawn.contains("lora, 0.0") && drawn.contains("head, 0.0"));
    assert_eq!(drawn.matches("<circle").count(), 2 * (2 + 1), "two seeds and their mean, of two methods");
    study::run(&plan, &out, &stop).unwrap();
    assert_eq!(fs::read_to_string(out.join("report.md")).unwrap(), report);
    // The trials by which rates were chosen are no results.
    let lines = |text: &str| text.lines().map(String::from).collect::<BTreeSet<String>>();
    let again = table(&report::finished(std::slice::from_ref(&out)).unwrap(), "lora");
    assert_eq!(lines(&again), lines(&report));
    assert_eq!(report::finished(&[out.join("choosing")]).unwrap().len(), 4);
    assert_eq!(report::finished(&[out.clone(), out.join("runs")]).unwrap().len(), 4, "each run once");
    let copy = path.join("copy");
    fs::create_dir(&copy).unwrap();
    for name in ["run.toml", "result.json"] {
        fs::copy(out.join("runs/cola-lora-0").join(name), copy.join(name)).unwrap();
    }
    let twice = report::finished(&[out.clone(), copy]).map(|runs| runs.len());
    assert!(twice.as_ref().is_err_and(|error| error.to_string().contains("are the same run")), "{twice:?}");
    for (found, wrong, expected) in [
        ("rates", "ratse", "did you mean rates?"),
        ("rates = [1e-3", "rates = [-1e-3", "rates holds -0.001"),
        ("seeds = [0", "seeds = [0.5", "seeds holds 0.5"),
        ("hold-out = 20", "hold-out = -20", "hold-out is -20"),
        ("hold-out = 20", "hold-out = \"20\"", "hold-out is \"20\""),
        ("\"head\"", "\"lora\"", "two runs are called cola-lora"),
        ("\"lora\", \"head\"", "", "one method or more"),
        ("seeds = [0, 1]", "seeds = [0, 1, 0]", "seeds holds 0 twice"),
        ("seeds = [0, 1]", "seeds = [1e300]", "expected whole numbers from 0 to below 2^60"),
        ("seeds = [0, 1]", "seeds = 3", "seeds is 3, expected a list"),
        ("steps = 3", "steps = 3\nseed = 5", "seed of a run is said for all runs at once"),
        ("steps = 3", "steps = 3\nrate = 1e-3", "rate of a run is said"),
        ("steps = 3", "steps = 3\nout = \"x\"", "out of a run is said"),
        // What is finished was another run.
        ("steps = 3", "steps = 4\nalpha = 8", "another plan: alpha is 16.0 there, here 8.0, steps is 3"),
    ] {
        fs::write(&plan, text.replace(found, wrong)).unwrap();
        let outcome = study::run(&plan, &out, &stop);
        let Err(Ended::Failed(error)) = outcome else { panic!("{wrong}: {outcome:?}") };
        assert!(error.to_string().contains(expected), "{error}");
    }
}
