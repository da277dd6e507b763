//! Finished runs as one table and one picture: for each task and method the mean over seeds, its deviation, and
//! whether the difference to one of the methods may be chance.
//!
//! Runs belong together when their settings differ in nothing but seed and directory. Two groups that were measured
//! on the same rows are compared over the seeds that both have, by a paired t-test on their scores: the mean of the
//! task's measures, or BLEU. Read next: `comparison.rs`, `study.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use engrad::metrics::paired_t_test;
use engrad::{Error, Result};

use super::comparison::Panel;
use super::folder::{Folder, Outcome, SETTINGS};
use super::options::Settings;
use super::samples::{mean, mean_and_deviation};
use super::study::CHOOSING;

/// A finished run.
pub struct Run {
    pub settings: Settings,
    pub outcome: Outcome,
}

/// Every finished run in these directories, and in the directories in them, each once. Of a study these are its
/// results: the trials by which it chose rates were measured on other rows. Says how many are not finished.
///
/// **Errors** when a file is malformed, there is no finished run, or two differ in nothing but their directories, which
/// would count as two seeds.
pub fn finished(paths: &[PathBuf]) -> Result<Vec<Run>> {
    let mut found = BTreeSet::new();
    paths.iter().try_for_each(|path| collect(path, &mut found))?;
    let mut runs = Vec::new();
    for path in &found {
        let (folder, settings) = Folder::open(path)?;
        runs.extend(folder.outcome()?.map(|outcome| Run { settings, outcome }));
    }
    if runs.is_empty() {
        let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(Error::Data(format!("no finished run in {}", names.join(", "))));
    }
    for group in groups(&runs) {
        let mut seeds: BTreeMap<u64, &Path> = BTreeMap::new();
        for Run { settings, .. } in group.runs {
            if let Some(other) = seeds.insert(settings.seed, &settings.out) {
                let (one, other) = (other.display(), settings.out.display());
                return Err(Error::Data(format!(
                    "{one} and {other} are the same run; leave one of them out"
                )));
            }
        }
    }
    match found.len() - runs.len() {
        0 => {}
        left => eprintln!("{left} runs are not finished, and left out"),
    }
    Ok(runs)
}

/// The directories of runs at or below a path, as they are called without links.
fn collect(path: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
    if path.join(SETTINGS).exists() {
        let whole = path.canonicalize().map_err(|source| Error::Io { path: path.into(), source })?;
        found.insert(whole);
        return Ok(());
    }
    let entries = std::fs::read_dir(path).map_err(|source| Error::Io { path: path.into(), source })?;
    let mut below: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    below.retain(|path| path.is_dir() && !path.is_symlink() && !path.ends_with(CHOOSING));
    below.iter().try_for_each(|path| collect(path, found))
}

/// Runs that differ in nothing but their seeds.
struct Group<'a> {
    settings: Settings,
    runs: Vec<&'a Run>,
}

fn groups(runs: &[Run]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group> = Vec::new();
    for run in runs {
        let settings = Settings { seed: 0, threads: None, out: PathBuf::new(), ..run.settings.clone() };
        match groups.iter_mut().find(|group| group.settings == settings) {
            Some(group) => group.runs.push(run),
            None => groups.push(Group { settings, runs: vec![run] }),
        }
    }
    groups
}

/// The table, in Markdown. Deviations are those of a sample.
pub fn table(runs: &[Run], against: &str) -> String {
    let groups = groups(runs);
    let mut text = format!(
        "| task | method | rank | rate | seeds | measures | trained | ms a step | p against {against} |\n\
         |---|---|---|---|---|---|---|---|---|\n"
    );
    for group in &groups {
        let Settings { task, method, rank, rate, .. } = &group.settings;
        let of =
            |part: fn(&Outcome) -> f64| group.runs.iter().map(|run| part(&run.outcome)).collect::<Vec<_>>();
        text += &format!(
            "| {task} | {method} | {rank} | {rate} | {} | {} | {:.0} | {:.1} | {} |\n",
            group.runs.len(),
            measures(group),
            mean(&of(|outcome| outcome.trained as f64)),
            1e3 * mean(&of(|outcome| outcome.step_seconds)),
            significance(group, &groups, against),
        );
    }
    text
}

/// The same as panels of a picture, one for each measure of each task.
pub fn panels(runs: &[Run]) -> Vec<Panel> {
    let mut panels: Vec<Panel> = Vec::new();
    for group in groups(runs) {
        let Settings { task, method, rate, .. } = &group.settings;
        for (measure, values) in group.measures() {
            let title = format!("{task}, {measure}");
            let row = (format!("{method}, {rate}"), values);
            match panels.iter_mut().find(|panel| panel.title == title) {
                Some(panel) => panel.rows.push(row),
                None => panels.push(Panel { title, rows: vec![row] }),
            }
        }
    }
    panels
}

impl Group<'_> {
    /// Each measure's values, one for each run that has it.
    fn measures(&self) -> BTreeMap<&str, Vec<f64>> {
        let mut measures: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (name, &value) in self.runs.iter().flat_map(|run| &run.outcome.values) {
            measures.entry(name).or_default().push(value);
        }
        measures
    }
}

fn measures(group: &Group) -> String {
    let cell = |(name, values): (&str, Vec<f64>)| format!("{name} {}", mean_and_deviation(&values));
    group.measures().into_iter().map(cell).collect::<Vec<_>>().join(", ")
}

/// The probability that the difference to the group of the method `against` is chance.
fn significance(group: &Group, groups: &[Group], against: &str) -> String {
    let measured = |settings: &Settings| {
        let Settings { task, data, hold_out, dev_rows, .. } = settings;
        (task.clone(), data.clone(), *hold_out, *dev_rows)
    };
    let comparable = |other: &&Group| {
        other.settings.method == against && measured(&other.settings) == measured(&group.settings)
    };
    let mut others = groups.iter().filter(comparable);
    let (Some(other), None) = (others.next(), others.next()) else { return "-".into() };
    let pair = |run: &&Run| {
        let partner = other.runs.iter().find(|partner| partner.settings.seed == run.settings.seed)?;
        Some((run.outcome.score, partner.outcome.score))
    };
    let (ours, theirs): (Vec<f64>, Vec<f64>) = group.runs.iter().filter_map(pair).unzip();
    match paired_t_test(&ours, &theirs) {
        p if group.settings.method == against || p.is_nan() => "-".into(),
        p => format!("{p:.3} ({} pairs)", ours.len()),
    }
}
