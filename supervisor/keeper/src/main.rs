//! The program `skep-keeper`: see the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    match skep_keeper::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skep-keeper: {error}");
            ExitCode::from(125)
        }
    }
}
