//! `hookstream log`. Owns taking the events of a log into a file and out of one again, and one log into another.

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
    event::{EndpointName, NewEvent, Verification},
    grpc::proto::{
        Event, Position, SubscribeEventsRequest, VerificationMethod, subscribe_events_request::Start,
        subscribe_events_response::Frame,
    },
    limits,
    log::EventLog,
    service::{
        copy::{self, Added, Intake},
        engines::Storage,
    },
};

/// Takes a log into a file, out of one, or into another storage.
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
    /// Copies a log into another storage, with endpoints, tokens, the audit trail and subscriptions.
    #[command(after_help = "Examples:
  hookstream log copy --from /etc/hookstream.toml --log jetstream --jetstream-url nats://10.0.0.1:4222 \\
    --sealing-key-file sealing.key --data-dir ./replica-1
  hookstream log copy --from replica.toml --data-dir /var/lib/hookstream

Where it goes is said as for `serve`. FILE is the configuration file of the old service: of it, only data-dir, log, jetstream-* and
the sealing keys are read, and no variable stands in for what it does not say.

While that service runs, its events are copied, and the command exits with 3. Stop it then and repeat the command: what came
since is copied, and everything else. Subscriptions go on where they were, with the events that are under way and the dead
letters. The copy is another log: cursors that clients keep themselves are refused there.")]
    Copy(Copy),
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

/// Copies from one storage into another.
#[derive(Args, Debug)]
pub struct Copy {
    /// The configuration file of the service to copy from.
    #[arg(long, value_name = "FILE")]
    from: String,
    #[command(flatten)]
    settings: serve::Settings,
}

/// The exit code of a copy that is not whole yet, because a service runs on one of its sides.
const EVENTS_ALONE: u8 = 3;

impl Command {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Export(export) => export.run().await?,
            Self::Import(import) => import.run().await?,
            Self::Copy(copy) => return copy.run().await,
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

    fn add(&mut self, events: u64) {
        self.events += events;
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
                progress.add(1);
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
        let storage = Storage::of_log(&config).await?;
        let added = add(&*storage.log, file).await;
        storage.close().await;
        let Added { new, known } = added.with_context(|| name)?;
        anstream::eprintln!("imported {new} events; {known} were there already");
        Ok(())
    }
}

async fn add<R: Read>(log: &dyn EventLog, mut file: Reader<R>) -> anyhow::Result<Added> {
    let mut intake = Intake::begin(log).await?;
    let mut progress = Progress::begin("imported");
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
        // What stands before something that is wrong is good.
        let count = events.len() as u64;
        intake.add(events).await?;
        progress.add(count);
        if let Some(error) = broken {
            return Err(error);
        }
    }
    Ok(intake.added)
}

impl Copy {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let into = Config::parse(&self.settings.0?)?;
        telemetry::start(into.log_format);
        let from = Config::of_storage(&self.from)?;
        if from.data_dir == into.data_dir {
            bail!(
                "{} is both where it is copied from and where it goes: name another directory with --data-dir",
                from.data_dir.display()
            );
        }
        let from = Storage::open_to_read(&from).await?;
        let into = Storage::open(&into).await?;
        let copied = copy(&from, &into).await;
        from.close().await;
        into.close().await;
        copied
    }
}

async fn copy(from: &Storage, into: &Storage) -> anyhow::Result<ExitCode> {
    if from.log.log_id() == into.log.log_id() {
        bail!("it goes into the stream that it is copied from: name another with --jetstream-stream");
    }
    let mut progress = Progress::begin("copied");
    let events = copy::events(&*from.log, &*into.log, |count| progress.add(count)).await?;
    say("events", events);
    let kept = match (from.side(), into.side()) {
        (Some(from), Some(into)) => copy::kept(from, into).await?,
        (from, _) => {
            let side = if from.is_none() { "from" } else { "to" };
            anstream::eprintln!(
                "the service that is copied {side} is running, so only events were copied. Stop it and repeat this command: it \
                 goes on from here, and copies endpoints, tokens, the audit trail and subscriptions"
            );
            return Ok(ExitCode::from(EVENTS_ALONE));
        }
    };
    say("endpoints", kept.endpoints);
    say("tokens", kept.tokens);
    say("audit records", kept.audit_records);
    say("subscriptions", kept.subscriptions);
    Ok(ExitCode::SUCCESS)
}

fn say(what: &str, Added { new, known }: Added) {
    match known {
        0 => anstream::eprintln!("{what}: {new} copied"),
        known => anstream::eprintln!("{what}: {new} copied, {known} were there already"),
    }
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
