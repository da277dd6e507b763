//! How a program ends: a mistake is said in words, and makes the exit code 1.
//! Read next: `interruption.rs`, the other way to end.

use std::process::ExitCode;

use engrad::Result;

pub fn exit_code<T>(outcome: Result<T>) -> ExitCode {
    match outcome {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
