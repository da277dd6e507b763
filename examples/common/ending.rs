//! How a program ends: a mistake is said in words, and makes the exit code 1.

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
