//! The binary: reads the command line and runs the command. Owns the exit status; everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use hookstream::cli::{self, Cli};

/// Events are many small allocations made on one thread and freed on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
