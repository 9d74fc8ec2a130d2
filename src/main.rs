//! The binary: reads the command line and runs the command. Owns the exit status; everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use hookstream::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
