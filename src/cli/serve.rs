//! `hookstream serve`. Owns the life of the service's process: configuration, readiness line, signals.

use std::process::ExitCode;

use anyhow::Context;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::telemetry;
use crate::{
    clock::Clock,
    config::{self, Config, ConfigError, Sourced},
    limits, process,
    service::Service,
};

/// The settings of the service as given, read only when the command runs, so that all mistakes come together.
#[derive(Debug)]
pub struct Settings(pub Result<Vec<Sourced>, ConfigError>);

impl FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(config::layers(matches)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Settings {
    fn augment_args(command: Command) -> Command {
        command.args(config::args())
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Runs the service until SIGTERM or SIGINT, then drains it. A second signal ends it at once. On SIGHUP the files of
/// certificates are read again at once.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hookstream serve
  hookstream serve --data-dir /var/lib/hookstream --public-url https://hooks.example.com
  hookstream serve --config /etc/hookstream.toml --retention-age 7days
  hookstream serve --ingress-listen 0.0.0.0:443 --ingress-tls-certificate-file cert.pem --ingress-tls-key-file key.pem")]
pub struct Serve {
    #[command(flatten)]
    settings: Settings,
}

impl Serve {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let config = Config::parse(&self.settings.0?)?;
        telemetry::start(config.log_format);
        say_what_is_unwise(&config);
        prepare_process();
        let mut signals = Signals::new()?;
        let mut hangup = watch(SignalKind::hangup())?;
        let service = Service::start(&config, Clock::system()).await?;
        tracing::info!(
            ingress = %service.ingress_address,
            grpc = %service.grpc_address,
            admin = %service.admin_address,
            "ready"
        );
        if config.sealing_keys.current.is_none() {
            tracing::info!(
                "endpoint secrets are stored readable, in a file that is its owner's alone: --sealing-key-file seals them"
            );
        }
        loop {
            tokio::select! {
                () = signals.next() => break,
                _ = hangup.recv() => {
                    tracing::info!("SIGHUP: reading the files of certificates again");
                    service.reload();
                }
            }
        }
        drain(service, signals).await;
        Ok(ExitCode::SUCCESS)
    }
}

/// Logs what an operator should know of a configuration.
pub fn say_what_is_unwise(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}

/// Gives the process what it needs for its connections, and keeps its memory to itself.
pub fn prepare_process() {
    match process::raise_open_files_max() {
        Ok(Some(most)) if most < limits::OPEN_FILES_WANTED => tracing::warn!(
            most,
            wanted = limits::OPEN_FILES_WANTED,
            "the system lets this process open too few files for all the connections it would hold: raise the hard limit \
             (`ulimit -Hn`, LimitNOFILE= in systemd)"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files cannot be raised"),
    }
    if let Err(error) = process::hide_memory() {
        tracing::warn!(%error, "the process's memory cannot be kept out of core dumps");
    }
}

/// Drains a service; another signal ends the process at once.
pub async fn drain(service: Service, mut signals: Signals) {
    tokio::select! {
        () = service.drain() => {}
        () = signals.next() => {
            tracing::warn!("second signal: ending at once");
            std::process::exit(1);
        }
    }
}

/// The signals that ask the process to end.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals from their default, which is to end at once.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: watch(SignalKind::terminate())?,
            interrupt: watch(SignalKind::interrupt())?,
        })
    }

    /// Waits for one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn watch(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("the system refuses to watch for signals")
}
