//! Log lines. Owns their form, where they go, and whose are never shown.

use std::io::{self, IsTerminal};

use tracing::{Level, Metadata, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, filter_fn},
    layer::{Filter, SubscriberExt},
    util::SubscriberInitExt,
};

use crate::config::LogFormat;

/// Who reads requests off the wire, and at debug level shows parts of those it cannot read: h2 the path of a callback, its
/// token included. Whatever level is asked for, they say nothing below info.
const READERS_OF_REQUESTS: [&str; 2] = ["h2", "hyper"];

/// Who says of NATS what we say in our own words, and at lower levels shows what is sent. It says nothing below a warning.
const NATS: &str = "async_nats";

/// Starts logging to standard output: the log lines are what a service prints.
pub fn start(format: LogFormat) {
    let json = match format {
        LogFormat::Auto => !io::stdout().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let lines = tracing_subscriber::fmt::layer();
    let lines = if json {
        let lines = lines.json().flatten_event(true);
        lines.with_current_span(false).with_span_list(false).boxed()
    } else {
        let lines = lines.with_ansi(io::stdout().is_terminal());
        lines.with_target(false).boxed()
    };
    start_with(lines, LevelFilter::INFO);
}

/// Starts logging of what goes wrong, to standard error: the command prints something else.
pub fn start_quietly() {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    start_with(lines.boxed(), LevelFilter::WARN);
}

fn start_with(lines: Box<dyn Layer<Registry> + Send + Sync>, level: LevelFilter) {
    tracing_subscriber::registry()
        .with(lines.with_filter(filter(level)))
        .init();
}

fn filter(level: LevelFilter) -> impl Filter<Registry> {
    let asked_for = EnvFilter::builder()
        .with_env_var("HOOKSTREAM_LOG_LEVEL")
        .with_default_directive(level.into())
        .from_env_lossy();
    // No directive in the variable can undo it.
    asked_for.and(filter_fn(may_be_shown))
}

fn may_be_shown(line: &Metadata<'_>) -> bool {
    let crate_name = line.target().split("::").next().unwrap_or_default();
    let least = match crate_name {
        NATS => Level::WARN,
        name if READERS_OF_REQUESTS.contains(&name) => Level::INFO,
        _ => Level::TRACE,
    };
    *line.level() <= least
}
