//! `hookstream config`. Owns showing the configuration.

use std::{io::Write, process::ExitCode};

use clap::Subcommand;

use super::serve::Settings;
use crate::config::Config;

/// Looks at the configuration without starting anything.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Says whether the configuration is valid, and if not, everything that is wrong with it.
    #[command(after_help = "Example:\n  hookstream config check --config /etc/hookstream.toml")]
    Check(Settings),
    /// Prints the effective configuration as TOML, with where each value comes from; secrets are redacted.
    #[command(after_help = "Example:\n  hookstream config print --retention-age 7days")]
    Print(Settings),
}

impl Command {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut out = anstream::stdout();
        match self {
            Self::Check(settings) => {
                Config::parse(&settings.0?)?;
                writeln!(out, "the configuration is valid")?;
            }
            Self::Print(settings) => {
                let layered = settings.0?;
                Config::parse(&layered)?;
                for sourced in layered {
                    match sourced.value {
                        Some(value) => {
                            let line = format!("{} = {}", sourced.key, toml::Value::String(value));
                            writeln!(out, "{line:<44} # {}", sourced.source)?;
                        }
                        None => writeln!(out, "# {} is not set", sourced.key)?,
                    }
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
