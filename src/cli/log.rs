//! `hookstream log`. Owns taking the events of a log into a file and out of one again.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};
use data_encoding::HEXLOWER;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use prost::Message;
use tempfile::NamedTempFile;

use super::{client::Server, follow, serve, telemetry};
use crate::{
    archive::{Reader, Writer},
    config::Config,
    event::{EndpointName, NewEvent, Sequence, Verification},
    filter::Filter,
    grpc::proto::{
        Event, Position, SubscribeEventsRequest, VerificationMethod, subscribe_events_request::Start,
        subscribe_events_response::Frame,
    },
    limits,
    log::{Direction, EventLog, Limit, Outcome, Range},
    service::engines::open_log,
};

/// Takes a log into a file, and out of one.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Writes all events that a running service has into a file.
    #[command(after_help = "Examples:
  hookstream log export events.hookstream
  hookstream log export - | zstd > events.hookstream.zst

The file holds events, not endpoints and their secrets, tokens, or subscriptions. Its format is in the documentation; its
events are messages hookstream.v1.Event.")]
    Export(Export),
    /// Adds the events of a file to a log. A log in a data directory must have no service running on it.
    #[command(after_help = "Examples:
  hookstream log import events.hookstream --data-dir /var/lib/hookstream
  zstd -d < events.hookstream.zst | hookstream log import - --data-dir restored
  hookstream log import events.hookstream --log jetstream --jetstream-url nats://10.0.0.1:4222 --sealing-key-file key \\
    --data-dir /tmp/copy

What is there already is not added again, so an import that was cut off goes on when it is repeated. A log that is made this
way is another log: cursors of the one before are refused. Events keep their ids and times, and the file is believed: who can
write it can put events into it that HeyGen never sent.")]
    Import(Import),
}

/// Writes events into a file.
#[derive(Args, Debug)]
pub struct Export {
    #[command(flatten)]
    server: Server,
    /// The file, which must not be there yet; `-` for standard output.
    file: PathBuf,
}

/// Reads events from a file.
#[derive(Args, Debug)]
pub struct Import {
    #[command(flatten)]
    settings: serve::Settings,
    /// The file; `-` for standard input.
    file: PathBuf,
}

impl Command {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Export(export) => export.run().await?,
            Self::Import(import) => import.run().await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Says how far something got, once a second at the most.
struct Progress {
    what: &'static str,
    events: u64,
    started: Instant,
    told: Instant,
}

impl Progress {
    fn begin(what: &'static str) -> Self {
        let started = Instant::now();
        Self {
            what,
            events: 0,
            started,
            told: started,
        }
    }

    fn event(&mut self) {
        self.events += 1;
        if self.told.elapsed() >= Duration::from_secs(1) {
            self.told = Instant::now();
            let per_second = self.events as f64 / self.started.elapsed().as_secs_f64();
            anstream::eprintln!("{} {} events, {per_second:.0} a second", self.what, self.events);
        }
    }
}

impl Export {
    async fn run(self) -> anyhow::Result<()> {
        if self.file == Path::new("-") {
            self.write(BufWriter::new(io::stdout().lock())).await?;
            return Ok(());
        }
        let file = self.file.clone();
        let failed = || format!("{} cannot be written", file.display());
        if file.exists() {
            bail!(
                "{} is there already: name another file, or remove it",
                file.display()
            );
        }
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        // Under its name only once it is whole; readable by its owner alone.
        let partial = NamedTempFile::new_in(directory.unwrap_or(Path::new("."))).with_context(failed)?;
        let written = self.write(BufWriter::new(partial)).await?;
        let partial = written.into_inner().with_context(failed)?;
        partial.as_file().sync_all().with_context(failed)?;
        partial.persist_noclobber(&file).with_context(failed)?;
        Ok(())
    }

    async fn write<W: Write>(&self, file: W) -> anyhow::Result<W> {
        let client = self.server.connect().await?;
        let request = SubscribeEventsRequest {
            start: Some(Start::Position(Position::Earliest.into())),
            stop_at_tail: true,
            continue_after_gap: true,
            ..SubscribeEventsRequest::default()
        };
        let mut frames = std::pin::pin!(follow::frames(self.server.clone(), client, request));
        let mut writer = Writer::begin(file)?;
        let mut progress = Progress::begin("exported");
        while let Some(response) = frames.try_next().await? {
            if let Some(Frame::Event(event)) = response.frame {
                writer.write(&event.encode_to_vec())?;
                progress.event();
            }
        }
        let file = writer.end()?;
        anstream::eprintln!("exported {} events", progress.events);
        Ok(file)
    }
}

impl Import {
    async fn run(self) -> anyhow::Result<()> {
        let config = Config::parse(&self.settings.0?)?;
        telemetry::start(config.log_format);
        let name = self.file.display().to_string();
        let file: Box<dyn Read + Send> = if self.file == Path::new("-") {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(&self.file).with_context(|| format!("{name} cannot be opened"))?)
        };
        let file = Reader::begin(BufReader::new(file)).with_context(|| name.clone())?;
        let (log, data_dir) = open_log(&config).await?;
        let added = add(&*log, file).await;
        log.close().await;
        drop(data_dir);
        let Added { new, known } = added.with_context(|| name)?;
        anstream::eprintln!("imported {new} events; {known} were there already");
        Ok(())
    }
}

#[derive(Default)]
struct Added {
    new: u64,
    known: u64,
}

async fn add<R: Read>(log: &dyn EventLog, mut file: Reader<R>) -> anyhow::Result<Added> {
    let newest = newest_received_at(log).await?;
    let (mut added, mut progress) = (Added::default(), Progress::begin("imported"));
    let mut is_whole = false;
    while !is_whole {
        let (mut events, mut bytes, mut broken) = (Vec::new(), 0, None);
        while events.len() < limits::IMPORT_APPENDS_MAX && bytes < limits::IMPORT_BYTES_MAX {
            match file
                .next_event()
                .map_err(anyhow::Error::from)
                .and_then(|content| content.map(event_of).transpose())
            {
                Ok(Some(event)) => {
                    bytes += event.body.len();
                    events.push(event);
                }
                Ok(None) => {
                    is_whole = true;
                    break;
                }
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
        }
        for event in &events {
            // What is older than what is there could only be added out of its place.
            if newest.is_some_and(|newest| event.received_at < newest) && log.find(event.id).await?.is_none()
            {
                bail!(
                    "the log has events newer than {}, which is not among them: import into a log that is empty, or that has \
                     only what an import before put there",
                    event.id
                );
            }
        }
        // What stands before something that is wrong is good.
        for appended in log.append_in_order(events).await? {
            progress.event();
            match appended.outcome {
                Outcome::New => added.new += 1,
                _ => added.known += 1,
            }
        }
        if let Some(error) = broken {
            return Err(error);
        }
    }
    Ok(added)
}

async fn newest_received_at(log: &dyn EventLog) -> anyhow::Result<Option<Timestamp>> {
    let bounds = log.bounds();
    let range = Range {
        after: bounds.trimmed,
        through: bounds.tail,
    };
    if bounds.tail == Sequence::ZERO || range.after >= range.through {
        return Ok(None);
    }
    let limit = Limit {
        events: 1,
        bytes: usize::MAX,
    };
    let newest = log
        .read(range, Direction::Backward, &Filter::default(), limit)
        .await?;
    Ok(newest.events.first().map(|event| event.event.received_at))
}

/// The event as it was before it was stored.
fn event_of(content: Bytes) -> anyhow::Result<NewEvent> {
    let event = Event::decode(content).context("an event of it cannot be read")?;
    let told = event.verification.clone().unwrap_or_default();
    let verification = match told.method() {
        VerificationMethod::Signature => Verification::Signature {
            header_name: told.header_name.into(),
            signature: HEXLOWER
                .decode(told.signature.as_bytes())
                .ok()
                .and_then(|signature| signature.try_into().ok())
                .with_context(|| format!("{}: its signature is none", event.id))?,
            secret_version: told.secret_version,
        },
        VerificationMethod::CallbackToken => Verification::CallbackToken,
        VerificationMethod::History => Verification::History,
        VerificationMethod::Unspecified => bail!("{} does not say why it is believed", event.id),
    };
    let received_at = event
        .received_at
        .with_context(|| format!("{} has no time", event.id))?;
    let received_at = Timestamp::new(received_at.seconds, received_at.nanos)
        .with_context(|| format!("{}: its time is none", event.id))?;
    let endpoint: EndpointName = event
        .endpoint
        .parse()
        .with_context(|| format!("{}: `{}` is no endpoint", event.id, event.endpoint))?;
    let made = NewEvent::new(endpoint, verification, event.raw_body, received_at);
    if made.id.to_string() != event.id {
        bail!(
            "{} is not the id of what stands below it: the file was changed",
            event.id
        );
    }
    Ok(made)
}
