//! The tasks in which a record is put into words: E2E, WebNLG and DART.
//!
//! A record is written as a prompt of the form `subject : property : object | ..`, as Hu et al. 2021
//! (arXiv 2106.09685) give it to GPT-2; E2E's has `property : value | ..`. Several texts may say the same
//! record: training takes each as a row, and measures compare with all of them.
//! Read next: `table.rs`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::table::{Format, Incomplete, Table};
use super::{nearest, text};
use crate::error::{Error, Result};

/// A task of putting records into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Generation {
    /// Descriptions of restaurants (Novikova et al. 2017, arXiv 1706.09254): `trainset.csv`, `devset.csv`.
    E2e,
    /// Facts out of an encyclopaedia (Gardent et al. 2017, doi:10.18653/v1/W17-3518): `train.json`,
    /// `dev.json` or `dev_part.json`. Only texts that are marked as good count.
    Webnlg,
    /// Facts of many kinds (Nan et al. 2021, arXiv 2007.02871): `dart-v1.1.1-full-train.json` and
    /// `dart-v1.1.1-full-dev.json`.
    Dart,
}

/// A record and the texts that say it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The record, as a line of text.
    pub prompt: String,
    /// The texts; at least one.
    pub references: Vec<String>,
}

/// The records of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Records {
    /// To train on.
    pub train: Vec<Record>,
    /// To measure on.
    pub dev: Vec<Record>,
}

/// Where only one file is there, every so manieth record is held out to measure on.
const HELD_OUT: usize = 10;

use Generation::{Dart, E2e, Webnlg};

impl Generation {
    /// Every task.
    pub const ALL: [Generation; 3] = [E2e, Webnlg, Dart];

    /// The task's name in commands and tables.
    pub fn name(self) -> &'static str {
        match self {
            E2e => "e2e",
            Webnlg => "webnlg",
            Dart => "dart",
        }
    }

    /// Reads the task from a directory with its published files. Where only one of the two is there, every
    /// tenth of its records is measured on and the others are trained on; no record is in both.
    ///
    /// **Errors** when no file of the task is there, or one is malformed.
    pub fn read(self, directory: impl AsRef<Path>) -> Result<Records> {
        let directory = directory.as_ref();
        let (train, dev): (&str, &[&str]) = match self {
            E2e => ("trainset.csv", &["devset.csv"]),
            Webnlg => ("train.json", &["dev.json", "dev_part.json"]),
            Dart => ("dart-v1.1.1-full-train.json", &["dart-v1.1.1-full-dev.json"]),
        };
        let there = |name: &str| Some(directory.join(name)).filter(|path| path.is_file());
        let train = there(train).map(|path| self.records(&path)).transpose()?;
        let dev = dev.iter().find_map(|name| there(name)).map(|path| self.records(&path)).transpose()?;
        match (train, dev) {
            (Some(train), Some(dev)) => Ok(Records { train, dev }),
            (Some(only), None) | (None, Some(only)) if only.len() >= HELD_OUT => {
                let (dev, train): (Vec<_>, Vec<_>) =
                    only.into_iter().enumerate().partition(|(at, _)| at % HELD_OUT == HELD_OUT - 1);
                let [train, dev] =
                    [train, dev].map(|part| part.into_iter().map(|(_, record)| record).collect());
                Ok(Records { train, dev })
            }
            (Some(only), None) | (None, Some(only)) => Err(Error::Data(format!(
                "{}: {} records of {self} in one file, expected {HELD_OUT} or more",
                directory.display(),
                only.len()
            ))),
            (None, None) => Err(Error::Data(format!("{} holds no file of {self}", directory.display()))),
        }
    }

    fn records(self, path: &Path) -> Result<Vec<Record>> {
        match self {
            E2e => restaurants(path),
            Webnlg => webnlg(path),
            Dart => dart(path),
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// By its name; **errors** name the nearest one.
impl FromStr for Generation {
    type Err = Error;

    fn from_str(name: &str) -> Result<Generation> {
        let names = || Generation::ALL.map(Generation::name);
        Generation::ALL.into_iter().find(|task| task.name() == name).ok_or_else(|| {
            let near = nearest(name, names()).unwrap_or_default();
            Error::Config(format!("{name} is no task; did you mean {near}? There are {}", names().join(", ")))
        })
    }
}

/// E2E: rows of a record and one text; rows of the same record are one.
fn restaurants(path: &Path) -> Result<Vec<Record>> {
    let table = Table::read(path, Format::Commas, true, Incomplete::Refused)?;
    let (meaning, reference) = (table.column(&["mr"])?, table.column(&["ref"])?);
    let mut grouped = Grouped::default();
    for row in &table.rows {
        let prompt = slots(table.field(row, meaning)?).map_err(|what| table.fault_in(row, meaning, what))?;
        grouped.add(prompt, table.field(row, reference)?.into());
    }
    Ok(grouped.records)
}

/// `name[Alimentum], area[city centre]` as `name : Alimentum | area : city centre`.
fn slots(text: &str) -> std::result::Result<String, String> {
    let slot = |piece: &str| {
        let (name, value) = piece.trim().strip_suffix(']')?.split_once('[')?;
        Some(format!("{} : {}", name.trim(), value.trim()))
    };
    let pieces = text.trim().split_inclusive("],").map(|piece| piece.trim_end_matches(','));
    let slots = pieces.map(|piece| slot(piece).ok_or(format!("found {piece:?}, expected name[value]")));
    Ok(slots.collect::<std::result::Result<Vec<_>, _>>()?.join(" | "))
}

/// Records in the order in which they first occur.
#[derive(Default)]
struct Grouped {
    records: Vec<Record>,
    places: HashMap<String, usize>,
}

impl Grouped {
    fn add(&mut self, prompt: String, reference: String) {
        let at = *self.places.entry(prompt.clone()).or_insert(self.records.len());
        if at == self.records.len() {
            self.records.push(Record { prompt, references: Vec::new() });
        }
        self.records[at].references.push(reference);
    }
}

#[derive(Deserialize)]
struct WebnlgFile {
    entries: Vec<BTreeMap<String, WebnlgEntry>>,
}

#[derive(Deserialize)]
struct WebnlgEntry {
    modifiedtripleset: Vec<Triple>,
    lexicalisations: Vec<Lexicalisation>,
}

#[derive(Deserialize)]
struct Triple {
    subject: String,
    property: String,
    object: String,
}

#[derive(Deserialize)]
struct Lexicalisation {
    comment: String,
    lex: String,
}

fn webnlg(path: &Path) -> Result<Vec<Record>> {
    let file: WebnlgFile = json(path)?;
    let mut records = Vec::new();
    for entry in file.entries.into_iter().flat_map(BTreeMap::into_values) {
        let triples =
            entry.modifiedtripleset.iter().map(|t| [&t.subject, &t.property, &t.object].map(String::as_str));
        let good = entry.lexicalisations.iter().filter(|text| text.comment == "good");
        let references: Vec<String> = good.map(|text| text.lex.clone()).collect();
        if !references.is_empty() {
            records.push(Record { prompt: facts(triples), references });
        }
    }
    filled(path, records)
}

#[derive(Deserialize)]
struct DartEntry {
    tripleset: Vec<[String; 3]>,
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Annotation {
    text: String,
}

fn dart(path: &Path) -> Result<Vec<Record>> {
    let entries: Vec<DartEntry> = json(path)?;
    let mut grouped = Grouped::default();
    for entry in entries {
        let prompt = facts(entry.tripleset.iter().map(|triple| triple.each_ref().map(String::as_str)));
        entry.annotations.into_iter().for_each(|annotation| grouped.add(prompt.clone(), annotation.text));
    }
    filled(path, grouped.records)
}

fn facts<'a>(triples: impl Iterator<Item = [&'a str; 3]>) -> String {
    triples.map(|triple| triple.join(" : ")).collect::<Vec<_>>().join(" | ")
}

fn filled(path: &Path, records: Vec<Record>) -> Result<Vec<Record>> {
    if records.is_empty() {
        return Err(Error::Data(format!(
            "{}, line 1, column 1: no record with a text; expected some",
            path.display()
        )));
    }
    Ok(records)
}

/// Reads a JSON file of a known form; mistakes name line and column.
fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = text(path)?;
    serde_json::from_str(&text).map_err(|error| {
        let what = error.to_string();
        let what = what.rsplit_once(" at line ").map_or(what.as_str(), |(what, _)| what);
        let (line, column) = (error.line().max(1), error.column().max(1));
        Error::Data(format!("{}, line {line}, column {column}: {what}", path.display()))
    })
}
