//! The commands. Owns the command line; each command is in a file of its own.

mod audit;
mod client;
mod cloud_event;
mod config;
mod deliver;
mod dev;
mod endpoint;
mod events;
mod follow;
mod hints;
mod log;
mod output;
mod playground;
mod secret_file;
mod serve;
mod shell;
mod subscription;
mod tail;
mod telemetry;
mod token;
mod trust;
mod work;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

/// HeyGen's webhooks as gRPC streams: verified, stored durably, delivered typed and filtered to any language.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Start with `hookstream dev`: the whole thing on this machine, no account needed."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Try it: serve on this machine, deliver a sample of every event type, show what a subscriber receives.
    Dev(dev::Dev),
    /// Run the service.
    Serve(serve::Serve),
    /// Play HeyGen: send a signed delivery.
    Deliver(deliver::Deliver),
    /// Follow events as they arrive.
    Tail(tail::Tail),
    /// Look at stored events.
    #[command(subcommand)]
    Events(events::Events),
    /// Wait for one event.
    Await(events::Await),
    /// Manage the endpoints that receive deliveries.
    #[command(subcommand)]
    Endpoint(endpoint::Command),
    /// Manage subscriptions: places that the service keeps, and work that several streams share.
    #[command(subcommand)]
    Subscription(subscription::Command),
    /// Search HeyGen's event history for undelivered events.
    Reconcile(endpoint::Reconcile),
    /// Manage who may use the service.
    #[command(subcommand)]
    Token(token::Command),
    /// Show who changed what.
    Audit(audit::Audit),
    /// Take the events of a log into a file, and out of one again.
    #[command(subcommand)]
    Log(log::Command),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(config::Command),
    /// Print what a shell needs to complete commands and options.
    Completions(shell::Completions),
    /// Write a manual page for each command.
    Man(shell::Man),
}

/// Runs a command to its end.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("the system refuses to start threads")?;
    let result = runtime.block_on(async {
        match cli.command {
            Command::Dev(command) => command.run().await,
            Command::Serve(command) => command.run().await,
            Command::Deliver(command) => command.run().await,
            Command::Tail(command) => command.run().await,
            Command::Events(command) => command.run().await,
            Command::Await(command) => command.run().await,
            Command::Endpoint(command) => command.run().await,
            Command::Subscription(command) => command.run().await,
            Command::Reconcile(command) => command.run().await,
            Command::Token(command) => command.run().await,
            Command::Audit(command) => command.run().await,
            Command::Log(command) => command.run().await,
            Command::Config(command) => command.run(),
            Command::Completions(command) => command.run(),
            Command::Man(command) => command.run(),
        }
    });
    // Nothing is left to do; a thread that still blocks on a dead disk must not hold the process.
    runtime.shutdown_background();
    match result {
        Err(error) if output::is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn examples(command: &clap::Command) -> Vec<String> {
        let own = command.get_after_help().map(ToString::to_string);
        let below = command.get_subcommands().flat_map(examples);
        own.into_iter().chain(below).collect()
    }

    #[test]
    fn no_example_has_a_secret_among_its_arguments() {
        let examples = examples(&Cli::command());
        assert!(examples.len() > 10);
        for example in examples {
            assert!(
                !example.contains("--secret ") && !example.contains("whsec_"),
                "{example}"
            );
        }
    }
}
