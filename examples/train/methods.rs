//! What a run of the tool trains, and its files.
//! Read next: `common/subject.rs`.

use std::path::Path;

use engrad::adapters::{self, Usual};
use engrad::nn::Module;
use engrad::{Result, nn};

use super::options::Settings;
use super::subject::Subject;

/// Prepares `model` for the method of the settings; `beside` as in [`Subject::new`].
///
/// **Errors** when the method does not fit the model.
pub fn prepare<'a>(
    model: &'a dyn Module,
    settings: &Settings,
    targets: &str,
    beside: &[&str],
    steps: u64,
) -> Result<Subject<'a>> {
    let usual = Usual {
        rank: settings.rank as usize,
        alpha: settings.alpha,
        dropout: settings.adapter_dropout,
        steps,
        seed: settings.seed,
    };
    Subject::new(model, &settings.method, &usual, settings.targets.as_deref(), targets, beside)
}

/// Saves what was trained: an adapter in PEFT's layout, or all parameters.
///
/// **Errors** when the directory cannot be written.
pub fn save(subject: &Subject, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)
        .map_err(|source| engrad::Error::Io { path: directory.into(), source })?;
    match subject {
        Subject::Adapted(adapted) => adapted.save(directory),
        Subject::Whole(model) => nn::save(directory.join("model.safetensors"), *model),
    }
}

/// Gives a fresh model what [`save`] kept.
///
/// **Errors** when the files do not fit.
pub fn load(model: &dyn Module, directory: &Path) -> Result<()> {
    match directory.join("adapter_config.json").exists() {
        true => adapters::load(model, directory).map(drop),
        false => nn::load(directory.join("model.safetensors"), model),
    }
}
