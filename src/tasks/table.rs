//! Rows of fields out of text files: tab-separated, or comma-separated with quotes.
//!
//! Every mistake is reported with the file, the line (from 1) and the column, which is the number of the
//! field (from 1), with its name where the file has a header.
//! Read next: `understanding.rs`.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// How fields stand in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Between tabs; quotes are characters like others.
    Tabs,
    /// Between commas; a field may stand in quotes, and then hold commas, line ends and doubled quotes
    /// (RFC 4180).
    Commas,
}

impl Format {
    /// The column in which a place lies, by the text before it: what stands in quotes separates nothing.
    fn column(self, before: &str) -> usize {
        let (mut column, mut quoted) = (1, false);
        for c in before.chars() {
            match (self, c) {
                (Format::Commas, '"') => quoted = !quoted,
                (_, '\n') if !quoted => column = 1,
                (Format::Tabs, '\t') => column += 1,
                (Format::Commas, ',') if !quoted => column += 1,
                _ => {}
            }
        }
        column
    }
}

/// What becomes of rows in which a column is missing, or empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Incomplete {
    /// They are mistakes.
    Refused,
    /// The file is published with some, and everybody leaves them out.
    LeftOut,
}

/// A line's fields.
pub(super) struct Row {
    /// The line at which it begins.
    pub line: usize,
    pub fields: Vec<String>,
}

/// All rows of a file.
pub(super) struct Table {
    path: PathBuf,
    /// The names of the columns, where the file has a header.
    names: Vec<String>,
    pub rows: Vec<Row>,
    /// How many rows were incomplete.
    pub left_out: usize,
}

impl Table {
    /// Reads a file, whose first line may be a header.
    ///
    /// **Errors** when it cannot be read, is not UTF-8, has no rows, a quote does not close, or a row has
    /// not as many fields as the header and is not left out.
    pub fn read(path: &Path, format: Format, header: bool, incomplete: Incomplete) -> Result<Table> {
        let text = text(path, |before| format.column(before))?;
        let mut table = Table { path: path.into(), names: Vec::new(), rows: Vec::new(), left_out: 0 };
        if text.is_empty() {
            return Err(table.fault(1, 1, "the file is empty"));
        }
        table.rows = match format {
            Format::Tabs => tab_separated(&text),
            Format::Commas => {
                comma_separated(&text).map_err(|(line, column, what)| table.fault(line, column, what))?
            }
        };
        if header {
            table.names = table.rows.remove(0).fields;
            if table.rows.is_empty() {
                return Err(table.fault(2, 1, "the file ends after its header; expected rows"));
            }
            let count = table.names.len();
            if incomplete == Incomplete::LeftOut {
                let all = table.rows.len();
                let filled = |field: &String| !field.trim().is_empty();
                table.rows.retain(|row| row.fields.len() == count && row.fields.iter().all(filled));
                table.left_out = all - table.rows.len();
                if table.rows.is_empty() {
                    return Err(table.fault(2, 1, format!("no row has all of its {count} columns")));
                }
            }
            if let Some(row) = table.rows.iter().find(|row| row.fields.len() != count) {
                let found = row.fields.len();
                let what = format!("the line has {found} columns, expected {count}");
                return Err(table.fault(row.line, found.min(count) + 1, what));
            }
        }
        Ok(table)
    }

    /// The place of the column that has one of the names.
    ///
    /// **Errors** when the header has none of them, or two.
    pub fn column(&self, names: &[&str]) -> Result<usize> {
        let mut places = (0..self.names.len()).filter(|&at| names.contains(&self.names[at].as_str()));
        let called = names.join(" or ");
        match (places.next(), places.next()) {
            (Some(place), None) => Ok(place),
            (None, _) => {
                let what = format!("the header names {:?}, but no column {called}", self.names);
                Err(self.fault(1, 1, what))
            }
            (_, Some(second)) => {
                Err(self.fault(1, second + 1, format!("the header has two columns {called}, expected one")))
            }
        }
    }

    /// A field that must be there and hold text.
    ///
    /// **Errors** when it does not.
    pub fn field<'a>(&self, row: &'a Row, at: usize) -> Result<&'a str> {
        let Some(field) = row.fields.get(at) else {
            let (found, expected) = (row.fields.len(), at + 1);
            let what = format!("the line has {found} columns, expected {expected} or more");
            return Err(self.fault(row.line, found + 1, what));
        };
        if field.trim().is_empty() {
            return Err(self.fault_in(row, at, "the text is empty"));
        }
        Ok(field)
    }

    /// A mistake in a field of a row.
    pub fn fault_in(&self, row: &Row, at: usize, what: impl std::fmt::Display) -> Error {
        let name = self.names.get(at).map_or(String::new(), |name| format!(" ({name})"));
        Error::Data(format!("{}, line {}, column {}{name}: {what}", self.path.display(), row.line, at + 1))
    }

    fn fault(&self, line: usize, column: usize, what: impl std::fmt::Display) -> Error {
        Error::Data(format!("{}, line {line}, column {column}: {what}", self.path.display()))
    }
}

/// A file's text without the mark that some systems put at the beginning of UTF-8. `column` says in which one a
/// place lies, by the text before it.
pub(super) fn text(path: &Path, column: impl Fn(&str) -> usize) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').map(String::from).unwrap_or(text)),
        Err(error) => {
            let (at, bytes) = (error.utf8_error().valid_up_to(), error.as_bytes());
            let before = String::from_utf8_lossy(&bytes[..at]);
            let (line, column) = (1 + before.matches('\n').count(), column(&before));
            Err(Error::Data(format!(
                "{}, line {line}, column {column}: byte {} of the line (0x{:02x}) is not UTF-8",
                path.display(),
                byte_of_line(&before),
                bytes[at]
            )))
        }
    }
}

/// The number of the byte that follows a text, counted from 1 in its line.
pub(super) fn byte_of_line(before: &str) -> usize {
    before.len() - before.rfind('\n').map_or(0, |newline| newline + 1) + 1
}

fn tab_separated(text: &str) -> Vec<Row> {
    let lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
    let fields = |line: &str| line.strip_suffix('\r').unwrap_or(line).split('\t').map(String::from).collect();
    lines.zip(1..).map(|(text, line)| Row { line, fields: fields(text) }).collect()
}

/// The rows, or line, column and kind of the first mistake.
fn comma_separated(text: &str) -> std::result::Result<Vec<Row>, (usize, usize, String)> {
    let mut commas = Commas { rest: text, line: 1 };
    let mut rows = Vec::new();
    while !commas.rest.is_empty() {
        let mut row = Row { line: commas.line, fields: Vec::new() };
        loop {
            let began = commas.line;
            let field = commas.field().map_err(|what| (began, row.fields.len() + 1, what))?;
            row.fields.push(field);
            match commas.rest.strip_prefix(',') {
                Some(rest) => commas.rest = rest,
                None => break,
            }
        }
        if let Some(rest) = commas.rest.strip_prefix('\n') {
            commas = Commas { rest, line: commas.line + 1 };
        }
        rows.push(row);
    }
    Ok(rows)
}

/// What is left of a comma-separated text, and the line at which it begins.
struct Commas<'a> {
    rest: &'a str,
    line: usize,
}

impl Commas<'_> {
    /// Takes the next field; what is left then is empty, or begins with a comma or a line end.
    fn field(&mut self) -> std::result::Result<String, String> {
        let Some(mut rest) = self.rest.strip_prefix('"') else {
            let (field, rest) = self.rest.split_at(self.rest.find([',', '\n']).unwrap_or(self.rest.len()));
            if field.contains('"') {
                return Err(
                    "a quote in a field that does not begin with one; double it and quote the field".into()
                );
            }
            self.rest = rest;
            return Ok(field.strip_suffix('\r').unwrap_or(field).into());
        };
        let mut field = String::new();
        loop {
            let end = rest.find('"').ok_or("the quote that opens the field does not close")?;
            field.push_str(&rest[..end]);
            rest = &rest[end + 1..];
            // Two quotes stand for one.
            let Some(after) = rest.strip_prefix('"') else { break };
            field.push('"');
            rest = after;
        }
        self.line += field.matches('\n').count();
        self.rest = rest.strip_prefix('\r').unwrap_or(rest);
        match self.rest.chars().next() {
            None | Some(',' | '\n') => Ok(field),
            Some(c) => {
                Err(format!("{c:?} follows the quote that closes the field; expected a comma or a line end"))
            }
        }
    }
}
