//! Log lines. Owns their form and where they go.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts logging to standard output: the log lines are what a service prints.
pub fn start(format: LogFormat) {
    let json = match format {
        LogFormat::Auto => !io::stdout().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter(LevelFilter::INFO));
    if json {
        builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .init();
    } else {
        builder
            .with_ansi(io::stdout().is_terminal())
            .with_target(false)
            .init();
    }
}

/// Starts logging of what goes wrong, to standard error: the command prints something else.
pub fn start_quietly() {
    tracing_subscriber::fmt()
        .with_env_filter(filter(LevelFilter::WARN))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}

fn filter(level: LevelFilter) -> EnvFilter {
    EnvFilter::builder()
        .with_env_var("HOOKSTREAM_LOG_LEVEL")
        .with_default_directive(level.into())
        .from_env_lossy()
}
