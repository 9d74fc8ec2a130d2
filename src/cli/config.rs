//! `hookstream config`. Owns showing the configuration, and making the keys it names.

use std::{io::Write, process::ExitCode};

use clap::Subcommand;

use super::serve::Settings;
use crate::{config::Config, sealing::SealingKey};

/// Looks at the configuration without starting anything, and makes keys for it.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Says whether the configuration is valid, and if not, everything that is wrong with it.
    #[command(after_help = "Example:\n  hookstream config check --config /etc/hookstream.toml")]
    Check(Settings),
    /// Prints the effective configuration as TOML, with where each value comes from; secrets are redacted.
    #[command(after_help = "Example:\n  hookstream config print --retention-age 7days")]
    Print(Settings),
    /// Makes a key for --sealing-key-file and prints it.
    #[command(after_help = "Example:
  (umask 077; hookstream config generate-sealing-key > sealing.key)
  hookstream serve --sealing-key-file sealing.key

To replace a key, make another one and start once with both: what is stored is sealed under the new key at that start.
  hookstream serve --sealing-key-file new.key --previous-sealing-key-file sealing.key")]
    GenerateSealingKey,
}

impl Command {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut out = anstream::stdout();
        match self {
            Self::Check(settings) => {
                for warning in Config::parse(&settings.0?)?.warnings {
                    writeln!(anstream::stderr(), "warning: {warning}")?;
                }
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
            Self::GenerateSealingKey => writeln!(out, "{}", *SealingKey::generate().to_base64())?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
