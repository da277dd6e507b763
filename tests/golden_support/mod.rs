//! The parts of the golden test, in reading order: `folder` reads files, `argument` makes what a call
//! is given, `case` runs one and checks it, `calls` says what each call is in this crate, `compare`
//! says when numbers agree, `left_out` says what is not tried and why, `programs` and `errors` run
//! the other two kinds of cases, `export` chooses the committed part.

pub mod argument;
pub mod calls;
pub mod case;
pub mod compare;
pub mod errors;
pub mod export;
pub mod folder;
pub mod left_out;
pub mod programs;
