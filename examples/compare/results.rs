//! The file of results: one line of JSON per finished run, appended as the run ends.
//!
//! A comparison that was killed goes on with what the file has; a line that was cut off by that is dropped.
//! Read next: `report.rs`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use engrad::nn::files::write_whole;
use engrad::{Error, Result};
use serde::{Deserialize, Serialize};

use super::lock;
use super::numbers;
use super::options::Settings;

/// How a run went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub method: String,
    pub seed: u64,
    /// The task's measures in the end, by name.
    #[serde(deserialize_with = "numbers::measures")]
    pub measures: BTreeMap<String, f64>,
    /// How many numbers were trained in the end.
    pub trained: usize,
    /// The median step: forward, backward and update.
    pub step_seconds: f64,
    /// Bytes that tensors held at most at once in a step, where the device counts them.
    pub peak: usize,
    /// The loss of each step.
    pub losses: Vec<f64>,
    /// The ranks of all sites whenever they changed, with the number of steps done by then.
    pub ranks: Vec<(u64, Vec<usize>)>,
}

/// The runs that are there, and where the next ones go.
pub struct Results {
    path: PathBuf,
    /// The file of settings, and what is in it.
    settings: PathBuf,
    text: String,
    /// Keeps other processes out.
    lock: Option<File>,
    pub runs: Vec<Run>,
}

impl Results {
    /// Opens a comparison in a directory, or nothing where there is none: [`Results::begin`] writes that.
    ///
    /// **Errors** when the directory holds a comparison of other settings, another process is at work there, or it
    /// cannot be read.
    pub fn open(directory: &Path, settings: &Settings) -> Result<Results> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |source| Error::Io { path, source }
        };
        let (kept, path) = (directory.join("settings.json"), directory.join("results.jsonl"));
        let text = serde_json::to_string_pretty(settings)
            .map_err(|error| Error::Format { path: kept.clone(), what: error.to_string() })?;
        let mut results = Results { path, settings: kept.clone(), text, lock: None, runs: Vec::new() };
        if !kept.exists() {
            return Ok(results);
        }
        let text = std::fs::read_to_string(&kept).map_err(io(&kept))?;
        let before: Settings = serde_json::from_str(&text)
            .map_err(|error| Error::Format { path: kept.clone(), what: error.to_string() })?;
        if before != *settings {
            let what = "belongs to a comparison with other settings; choose another --out".into();
            return Err(Error::Format { path: kept, what });
        }
        results.lock = Some(lock::hold(&kept)?);
        let path = &results.path;
        if path.exists() {
            let text = std::fs::read_to_string(path).map_err(io(path))?;
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            for (number, line) in text[..whole].lines().enumerate() {
                results.runs.push(serde_json::from_str(line).map_err(|error| Error::Format {
                    path: path.clone(),
                    what: format!("line {}: {error}", number + 1),
                })?);
            }
            if whole < text.len() {
                write_whole(path, &text.as_bytes()[..whole])?;
            }
        }
        Ok(results)
    }

    /// Begins the comparison where there is none, now that its model and data were found.
    ///
    /// **Errors** when the directory cannot be written, or another process is at work there.
    pub fn begin(&mut self) -> Result<()> {
        if self.lock.is_none() {
            let directory = self.settings.parent().unwrap_or(Path::new(""));
            if self.settings.exists() {
                let what = format!("another process has begun in {}; wait for it", directory.display());
                return Err(Error::Config(what));
            }
            std::fs::create_dir_all(directory)
                .map_err(|source| Error::Io { path: directory.into(), source })?;
            write_whole(&self.settings, self.text.as_bytes())?;
            self.lock = Some(lock::hold(&self.settings)?);
        }
        Ok(())
    }

    pub fn has(&self, method: &str, seed: u64) -> bool {
        self.runs.iter().any(|run| run.method == method && run.seed == seed)
    }

    /// Appends a run to the file.
    ///
    /// **Errors** when it cannot be written.
    pub fn add(&mut self, run: Run) -> Result<()> {
        let line = serde_json::to_string(&run).expect("a run is plain numbers and texts") + "\n";
        let file = OpenOptions::new().append(true).create(true).open(&self.path);
        let written =
            file.and_then(|mut file| file.write_all(line.as_bytes()).and_then(|()| file.sync_data()));
        written.map_err(|source| Error::Io { path: self.path.clone(), source })?;
        self.runs.push(run);
        Ok(())
    }
}
