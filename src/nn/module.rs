//! The module tree: one hand-written `walk` per module serves parameters, files, freezing,
//! patterns, summaries and adapter sites.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::param::Param;
use super::pattern::Pattern;
use super::socket::Socket;
use crate::error::{Error, Result};

/// Something made of parameters and other modules.
pub trait Module {
    /// Names this module's parts to the walker, in forward order.
    fn walk(&self, at: &mut Walker<'_>);

    /// Where an adapter may sit, if this module is a layer that has such a place.
    fn socket(&self) -> Option<&Socket> {
        None
    }
}

/// A module that several hold is walked as itself.
impl<M: Module + ?Sized> Module for Arc<M> {
    fn walk(&self, at: &mut Walker<'_>) {
        (**self).walk(at);
    }

    fn socket(&self) -> Option<&Socket> {
        (**self).socket()
    }
}

/// What a walk comes across.
pub enum Part<'a> {
    /// A parameter.
    Param(&'a Param),
    /// A layer with room for an adapter, before its parameters.
    Socket(&'a Socket),
}

/// Carries the path while modules name their parts.
pub struct Walker<'v> {
    path: String,
    visit: &'v mut dyn FnMut(&str, Part),
}

impl<'v> Walker<'v> {
    /// Visits every part of `model` with its path.
    pub fn visit(model: &dyn Module, visit: &'v mut dyn FnMut(&str, Part)) {
        Walker { path: String::new(), visit }.enter(model);
    }

    /// A module called `name`, which may itself be a path, or empty for parts that stand here.
    pub fn child(&mut self, name: &str, module: &dyn Module) {
        self.within(name, |at| at.enter(module));
    }

    /// Modules called `name.0`, `name.1`, and so on.
    pub fn children<M: Module>(&mut self, name: &str, modules: &[M]) {
        for (number, module) in modules.iter().enumerate() {
            self.child(&format!("{name}.{number}"), module);
        }
    }

    /// A parameter called `name`.
    pub fn param(&mut self, name: &str, param: &Param) {
        self.within(name, |at| (at.visit)(&at.path, Part::Param(param)));
    }

    fn enter(&mut self, module: &dyn Module) {
        if let Some(socket) = module.socket() {
            (self.visit)(&self.path, Part::Socket(socket));
        }
        module.walk(self);
    }

    /// Parts are joined by a dot, except behind an underscore: below `in_proj_` stands `in_proj_weight`.
    fn within(&mut self, name: &str, body: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        if length > 0 && !name.is_empty() && !self.path.ends_with('_') {
            self.path.push('.');
        }
        self.path.push_str(name);
        body(self);
        self.path.truncate(length);
    }
}

/// Every parameter with its path, in forward order; a shared one appears once, under its first path.
pub fn named_params(model: &dyn Module) -> Vec<(String, Param)> {
    all_names(model).into_iter().map(|(mut names, param)| (names.swap_remove(0), param)).collect()
}

/// Every parameter with all of its paths: a tied one is walked under several.
pub(crate) fn all_names(model: &dyn Module) -> Vec<(Vec<String>, Param)> {
    let (mut found, mut places) = (Vec::<(Vec<String>, Param)>::new(), HashMap::new());
    Walker::visit(model, &mut |path, part| {
        if let Part::Param(param) = part {
            let place = *places.entry(param.id()).or_insert(found.len());
            match found.get_mut(place) {
                Some((names, _)) => names.push(path.to_string()),
                None => found.push((vec![path.to_string()], param.clone())),
            }
        }
    });
    found
}

/// Every layer with room for an adapter, by path, in forward order.
pub fn sockets(model: &dyn Module) -> Vec<(String, Socket)> {
    let mut found = Vec::new();
    Walker::visit(model, &mut |path, part| {
        if let Part::Socket(socket) = part {
            found.push((path.to_string(), socket.clone()));
        }
    });
    found
}

/// Freezes the parameters whose path fits the pattern, and says how many.
///
/// **Errors** when none fits.
pub fn freeze(model: &dyn Module, pattern: &str) -> Result<usize> {
    for_matching(model, pattern, Param::freeze)
}

/// Makes the parameters whose path fits the pattern trainable, and says how many.
///
/// **Errors** when none fits.
pub fn unfreeze(model: &dyn Module, pattern: &str) -> Result<usize> {
    for_matching(model, pattern, Param::unfreeze)
}

fn for_matching(model: &dyn Module, pattern: &str, change: impl Fn(&Param)) -> Result<usize> {
    let compiled = Pattern::new(pattern);
    let all = named_params(model);
    let matching: Vec<&Param> =
        all.iter().filter(|(path, _)| compiled.matches(path)).map(|(_, p)| p).collect();
    if matching.is_empty() {
        let example = all.first().map_or("none", |(path, _)| path);
        return Err(Error::Names(format!(
            "no parameter fits {pattern:?}; the first of {} is {example}",
            all.len()
        )));
    }
    matching.iter().for_each(|param| change(param));
    Ok(matching.len())
}

/// What a model is made of: displays as a table.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Path, sizes, and whether it is trained.
    pub rows: Vec<(String, Vec<usize>, bool)>,
}

/// The parameters of a model in a table, with totals and the share that is trained.
pub fn summary(model: &dyn Module) -> Summary {
    let row = |(path, param): (String, Param)| (path, param.sizes().to_vec(), param.is_trainable());
    Summary { rows: named_params(model).into_iter().map(row).collect() }
}

impl Summary {
    /// How many numbers training changes.
    pub fn trainable(&self) -> usize {
        self.rows.iter().filter(|row| row.2).map(|row| row.1.iter().product::<usize>()).sum()
    }

    /// How many numbers there are.
    pub fn total(&self) -> usize {
        self.rows.iter().map(|row| row.1.iter().product::<usize>()).sum()
    }

    /// The totals in one line, as PEFT prints them.
    pub fn totals(&self) -> String {
        let (trainable, total) = (self.trainable(), self.total());
        let percent = 100.0 * trainable as f64 / total.max(1) as f64;
        let [trainable, total] = [trainable, total].map(grouped);
        format!("trainable params: {trainable} || all params: {total} || trainable%: {percent:.4}")
    }
}

/// A number with a comma before every three digits.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let parts: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|d| str::from_utf8(d).expect("digits")).collect();
    parts.join(",")
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.0.len()).max().unwrap_or(0);
        for (path, sizes, trainable) in &self.rows {
            let mark = if *trainable { "trained" } else { "frozen" };
            writeln!(f, "{path:width$}  {:>14}  {mark}", format!("{sizes:?}"))?;
        }
        write!(f, "{}", self.totals())
    }
}
