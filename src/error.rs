//! What can go wrong, and how it is said.
//!
//! Two kinds of mistakes are kept apart. A wrong shape in tensor algebra is a mistake of the
//! program: [`refuse`] panics with the op's name and the sizes, and points at the caller's line.
//! Everything that depends on the outside world (files, configurations, token ids, data, devices)
//! comes back as an [`Error`] that says what was found, what was expected and what to do.
//! Read next: `layout.rs`.

use std::fmt;
use std::path::{Path, PathBuf};

/// The result of everything that depends on the outside world.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong outside of tensor algebra.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file's content is not what its format says.
    Format {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        what: String,
    },
    /// A configuration contradicts itself, or asks for something that is not implemented.
    Config(String),
    /// An index lies outside of what it indexes, or indices do not fit their sizes.
    Ids(String),
    /// A data set is empty, malformed, or holds a value that cannot be used.
    Data(String),
    /// Names in a file and names in a model disagree; every disagreement is listed.
    Names(String),
    /// An adapter cannot be attached, merged, saved or loaded.
    Adapter(String),
    /// Trainable parameters that the loss does not depend on.
    MissingGradient(Vec<String>),
    /// A gradient disagrees with what a small step measures.
    Gradient(String),
    /// A loss or gradient is infinite or not a number.
    NotFinite(String),
    /// A device cannot be opened, or reported a failure.
    Device(String),
}

impl Error {
    pub(crate) fn io(path: impl AsRef<Path>, source: std::io::Error) -> Error {
        Error::Io { path: path.as_ref().to_path_buf(), source }
    }

    pub(crate) fn format(path: impl AsRef<Path>, what: impl Into<String>) -> Error {
        Error::Format { path: path.as_ref().to_path_buf(), what: what.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Error::Format { path, what } => write!(f, "{}: {what}", path.display()),
            Error::Config(what) => write!(f, "configuration: {what}"),
            Error::Ids(what) => write!(f, "ids: {what}"),
            Error::Data(what) => write!(f, "data: {what}"),
            Error::Names(what) => write!(f, "parameter names: {what}"),
            Error::Adapter(what) => write!(f, "adapter: {what}"),
            Error::MissingGradient(names) => write!(
                f,
                "no gradient reached {} trainable parameter(s): {}; freeze them, or let the loss depend on them",
                names.len(),
                names.join(", ")
            ),
            Error::Gradient(what) => write!(f, "gradient: {what}"),
            Error::NotFinite(what) => write!(f, "not finite: {what}"),
            Error::Device(what) => write!(f, "device: {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Ends an op whose sizes do not fit: the one place that words a shape panic.
#[cold]
#[track_caller]
pub fn refuse(op: &str, why: impl fmt::Display) -> ! {
    panic!("{op}: {why}")
}
