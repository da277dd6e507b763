//! What reports and studies promise: means and chances as they are, no run of another plan, no trial among results.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::report::{Run, table};
use super::tests::{go, settings, tiny};
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
    // Two rows that would look the same say what sets them apart; what is equal or has a column, they do not.
    let mut both = vec![run("lora", 0, 0.8), run("lora", 0, 0.7)];
    (both[1].settings.steps, both[1].settings.rank) = (Some(5), 4);
    let text = table(&both, "lora");
    assert!(text.contains("| lora, steps not set | 8 |") && text.contains("| lora, steps 5 | 4 |"), "{text}");
}

#[test]
fn a_run_counts_once_however_often_it_is_found() {
    let directory = tiny();
    let path = directory.path().canonicalize().unwrap();
    let runs = path.join("runs");
    fs::create_dir(&runs).unwrap();
    for (name, seed) in [("zero", "--seed=0"), ("one", "--seed=1")] {
        go(settings(&path, &format!("runs/{name}"), &["--steps=1", seed]));
    }
    #[cfg(unix)]
    for (to, name) in [(runs.join("zero"), "link"), (runs.clone(), "loop")] {
        std::os::unix::fs::symlink(to, runs.join(name)).unwrap();
    }
    let found = |names: &[&str]| {
        let found = report::finished(&names.iter().map(|name| path.join(name)).collect::<Vec<_>>());
        found.map(|(runs, unfinished)| (runs.len(), unfinished))
    };
    for names in [&["runs"][..], &["runs", "runs"], &["runs/one", "runs"]] {
        assert_eq!(found(names).unwrap(), (2, 0), "{names:?}");
    }
    for (name, file) in [("begun", "run.toml"), ("twin", "run.toml"), ("twin", "result.json")] {
        fs::create_dir_all(runs.join(name)).unwrap();
        fs::copy(runs.join("one").join(file), runs.join(name).join(file)).unwrap();
    }
    assert_eq!(found(&["runs/one", "runs/begun"]).unwrap(), (1, 1));
    let error = found(&["runs"]).unwrap_err().to_string();
    let [one, twin] = ["one", "twin"].map(|name| runs.join(name).display().to_string());
    assert!(error.contains(&format!("{one} and {twin} are runs of seed 1 and the same settings")), "{error}");
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
fn a_mistake_in_the_last_run_of_a_plan_is_found_before_the_first() {
    let directory = tiny();
    let path = directory.path();
    fs::create_dir(path.join("empty")).unwrap();
    for (head, last, expected) in [
        (
            "",
            "task = \"colla\"".to_string(),
            "colla-head: configuration: colla is no task; did you mean cola?",
        ),
        ("", "model = \"nowhere\"".into(), "cola-head: nowhere"),
        ("", format!("task = \"rte\"\ndata = {:?}", path.join("nowhere")), "nowhere"),
        ("", format!("task = \"rte\"\ndata = {:?}", path.join("empty")), "rte-head: data: "),
        ("", format!("task = \"e2e\"\ndata = {:?}", path.join("empty")), "e2e-head: "),
        ("", "hold-out = 60".into(), "cola-head: hold-out is 60 of 60 training rows, expected fewer"),
        ("rates = [1e-3]\nhold-out = 60", String::new(), "cola-lora: hold-out is 60 of 60 training rows"),
    ] {
        let [model, data] = ["model", "data"].map(|name| path.join(name));
        let text = format!(
            "{head}\n[common]\nmodel = {model:?}\ndata = {data:?}\ntask = \"cola\"\nsteps = 1\n[[runs]]\n\
             method = \"lora\"\n[[runs]]\nmethod = \"head\"\n{last}\n"
        );
        fs::write(path.join("plan.toml"), text).unwrap();
        let outcome = study::run(&path.join("plan.toml"), &path.join("study"), &AtomicBool::new(false));
        let Err(Ended::Failed(error)) = outcome else { panic!("{last}: {outcome:?}") };
        assert!(!path.join("study").exists(), "{last}: {error}");
        let error = error.to_string();
        assert!(error.contains("plan.toml") && error.contains(expected), "{error}");
    }
}

#[test]
fn a_plans_seeds_are_those_that_the_flag_takes() {
    let directory = tiny();
    let plan = directory.path().join("plan.toml");
    for seed in ["0", "9007199254740993", "1152921504606846975", "1152921504606846976", "-1", "1.5", "1e300"]
    {
        fs::write(&plan, format!("seeds = [{seed}]\n[[runs]]\n")).unwrap();
        let found = study::Study::read(&plan).map(|study| study.seeds);
        let flag = options::settings(&plan, &format!("seed = {seed}").parse().unwrap());
        assert_eq!(found.as_ref().ok(), flag.ok().map(|settings| vec![settings.seed]).as_ref(), "{seed}");
        let said =
            |error: &Error| error.to_string().contains(", expected whole numbers from 0 to below 2^60");
        assert!(found.as_ref().err().is_none_or(said), "{found:?}");
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
    let again = table(&report::finished(std::slice::from_ref(&out)).unwrap().0, "lora");
    assert_eq!(lines(&again), lines(&report));
    assert_eq!(report::finished(&[out.join("choosing")]).unwrap().0.len(), 4);
    for (found, wrong, expected) in [
        ("rates", "ratse", "did you mean rates?"),
        ("rates = [1e-3", "rates = [-1e-3", "rates holds -0.001"),
        ("seeds = [0", "seeds = [0.5", "seeds holds 0.5"),
        ("hold-out = 20", "hold-out = -20", "hold-out is -20"),
        ("hold-out = 20", "hold-out = \"20\"", "hold-out is \"20\""),
        ("\"head\"", "\"lora\"", "two runs are called cola-lora"),
        ("\"lora\", \"head\"", "", "one method or more"),
        ("seeds = [0, 1]", "seeds = [0, 1, 0]", "seeds holds 0 twice"),
        ("seeds = [0", "seeds = [\"0\"", "seeds holds \"0\", expected whole numbers"),
        ("seeds = [0, 1]", "seeds = 3", "seeds is 3, expected a list"),
        // What would have no effect.
        ("steps = 3", "steps = 3\nseed = 5", "seed = 5 has no effect in [common]"),
        ("steps = 3", "steps = 3\nout = \"x\"", "and [[runs]]; give --out DIR on the command line"),
        ("method =", "rate = 0.5\nmethod =", "rate = 0.5 has no effect in [common] and [[runs]]; leave out"),
        ("method =", "hold-out = 5\nmethod =", "and [[runs]]; write it above them"),
        ("rates = [1e-3, 1e-2]", "", "hold-out has no effect without rates to choose from"),
        // What is finished was another run.
        ("steps = 3", "steps = 4\nalpha = 8", "another plan: alpha is 16.0 there, here 8.0, steps is 3"),
    ] {
        fs::write(&plan, text.replace(found, wrong)).unwrap();
        let outcome = study::run(&plan, &out, &stop);
        let Err(Ended::Failed(error)) = outcome else { panic!("{wrong}: {outcome:?}") };
        assert!(error.to_string().contains(expected), "{error}");
    }
}
