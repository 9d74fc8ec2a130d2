//! `hookstream completions` and `hookstream man`. Owns what a shell and `man` are told of the commands; all of it is made from
//! the commands themselves.

use std::{fs, io, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, CommandFactory};

use super::Cli;

/// Prints what a shell needs to complete commands and options.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hookstream completions bash > ~/.local/share/bash-completion/completions/hookstream
  hookstream completions zsh > \"${fpath[1]}/_hookstream\"
  hookstream completions fish > ~/.config/fish/completions/hookstream.fish")]
pub struct Completions {
    /// For this shell.
    shell: clap_complete::Shell,
}

/// Writes a manual page for each command.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  hookstream man ~/.local/share/man/man1 && man hookstream-tail")]
pub struct Man {
    /// Into this directory, which is made if it is missing.
    directory: PathBuf,
}

impl Completions {
    /// Runs the command.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        clap_complete::generate(self.shell, &mut Cli::command(), "hookstream", &mut io::stdout());
        Ok(ExitCode::SUCCESS)
    }
}

impl Man {
    /// Runs the command.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let written = || format!("{} cannot be written", self.directory.display());
        fs::create_dir_all(&self.directory).with_context(written)?;
        let command = Cli::command().name("hookstream").disable_help_subcommand(true);
        clap_mangen::generate_to(command, &self.directory).with_context(written)?;
        Ok(ExitCode::SUCCESS)
    }
}
