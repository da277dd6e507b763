//! A classification task: labelled rows of tokens, and the reader of the files they come from.
//!
//! The files are tab-separated text with a header line that names the columns. Every mistake in one
//! is reported with file, line and column; nothing is skipped or guessed.

use std::path::Path;

use engrad::{Error, Result};

/// A labelled row of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    pub tokens: Vec<u32>,
    pub label: u32,
}

/// What is to be learned, and what it is measured on.
pub struct Task {
    /// What each label means.
    pub labels: Vec<&'static str>,
    pub train: Vec<Example>,
    pub dev: Vec<Example>,
}

impl Task {
    /// The accuracy of always giving the commonest answer on the dev set.
    pub fn guessing(&self) -> f64 {
        let count = |label| self.dev.iter().filter(|example| example.label == label).count();
        let commonest = (0..self.labels.len() as u32).map(count).max().unwrap_or(0);
        commonest as f64 / self.dev.len().max(1) as f64
    }
}

/// Reads the column `label` and the first column with one of the `text` names.
///
/// **Errors** when the file cannot be read, is empty, is not UTF-8, has no such columns, or a line has
/// too few or too many fields, an empty text, or a label that is not below `labels`.
pub fn read_table(path: &Path, text: &[&str], labels: usize) -> Result<Vec<(String, u32)>> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
    let mut lines = bytes.strip_suffix(b"\n").unwrap_or(&bytes).split(|&byte| byte == b'\n').zip(1..);
    let fault = |line: usize, what: String| Error::Data(format!("{}, line {line}, {what}", path.display()));

    let (header, _) = lines.next().expect("splitting gives at least one piece");
    let names = fields(header).map_err(|what| fault(1, what))?;
    let names: Vec<&str> = names.iter().map(|name| name.trim_start_matches('\u{feff}')).collect();
    let find = |wanted: &[&str]| {
        names.iter().position(|name| wanted.contains(name)).ok_or_else(|| {
            let wanted = wanted.join(" or ");
            fault(1, format!("column 1: the header names {names:?}, but no column {wanted}"))
        })
    };
    if bytes.is_empty() {
        return Err(fault(
            1,
            format!("column 1: the file is empty; expected a header such as label<TAB>{}", text[0]),
        ));
    }
    let (text_at, label_at) = (find(text)?, find(&["label"])?);

    let mut rows = Vec::new();
    for (line, number) in lines {
        let row = fields(line).map_err(|what| fault(number, what))?;
        if row.len() != names.len() {
            let at = row.len().min(names.len()) + 1;
            let (found, expected) = (row.len(), names.len());
            return Err(fault(
                number,
                format!("column {at}: the line has {found} columns, expected {expected}"),
            ));
        }
        let in_column =
            |at: usize, what: String| fault(number, format!("column {} ({}): {what}", at + 1, names[at]));
        if row[text_at].trim().is_empty() {
            return Err(in_column(text_at, "the text is empty".into()));
        }
        match row[label_at].trim().parse::<u32>() {
            Ok(label) if (label as usize) < labels => rows.push((row[text_at].to_string(), label)),
            _ => {
                let expected = format!("expected a label from 0 to {}", labels - 1);
                return Err(in_column(label_at, format!("found {:?}, {expected}", row[label_at])));
            }
        }
    }
    if rows.is_empty() {
        return Err(fault(2, "column 1: the file ends after its header; expected rows".into()));
    }
    Ok(rows)
}

/// The fields of a line, without the carriage return that some systems put at its end.
fn fields(line: &[u8]) -> std::result::Result<Vec<&str>, String> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|error| {
        let valid = &line[..error.valid_up_to()];
        let column = 1 + valid.iter().filter(|&&byte| byte == b'\t').count();
        format!(
            "column {column}: byte {} of the line (0x{:02x}) is not UTF-8",
            valid.len() + 1,
            line[valid.len()]
        )
    })?;
    Ok(text.split('\t').collect())
}
