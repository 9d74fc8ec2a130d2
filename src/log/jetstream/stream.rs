//! The stream that is the log. Owns its declaration and the check of one that is there; never changes one.

use std::error::Error;

use async_nats::jetstream::{
    Context, ErrorCode,
    context::{CreateStreamErrorKind, GetStreamError, GetStreamErrorKind, RequestError, RequestErrorKind},
    stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType, Stream},
};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{JetStreamError, connection::Settings, entry::Subjects};
use crate::{event::LogId, limits};

/// Opens the stream, or makes it if there is none. A cluster that is just starting is waited for.
pub(super) async fn open(context: &Context, settings: &Settings) -> Result<Stream, JetStreamError> {
    let deadline = Instant::now() + limits::NATS_START_TIMEOUT;
    let clustered = context.client().server_info().cluster.is_some();
    let most = if clustered {
        limits::STREAM_REPLICAS_DEFAULT
    } else {
        1
    };
    let mut replicas = settings.replicas.unwrap_or(most);
    let stream = loop {
        let (error, cause) = match open_or_make(context, settings, replicas).await {
            Ok(stream) => break stream,
            Err(failed) => failed,
        };
        match cause {
            Cause::Passing | Cause::LacksServers if Instant::now() < deadline => {
                tokio::time::sleep(limits::NATS_START_INTERVAL).await;
            }
            Cause::LacksServers if settings.replicas.is_none() && replicas > 1 => {
                replicas -= 1;
                tracing::warn!(
                    replicas,
                    "the cluster has no more servers: the stream is kept on fewer than three"
                );
            }
            _ => return Err(error),
        }
    };
    let differences = differences(stream.cached_info(), settings);
    if differences.is_empty() {
        Ok(stream)
    } else {
        Err(JetStreamError::Differs {
            name: settings.stream.clone(),
            differences: differences.join("; "),
        })
    }
}

/// What an attempt failed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// A cluster that has no leader at the moment.
    Passing,
    /// There are not as many servers as copies are wanted.
    LacksServers,
    /// Something that does not pass by itself.
    Lasting,
}

impl Cause {
    fn of(code: ErrorCode) -> Self {
        match code {
            ErrorCode::CLUSTER_NOT_AVAILABLE => Self::Passing,
            ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED
            | ErrorCode::CLUSTER_NO_PEERS
            | ErrorCode::INSUFFICIENT_RESOURCES => Self::LacksServers,
            _ => Self::Lasting,
        }
    }
}

const NO_JETSTREAM: [ErrorCode; 2] = [
    ErrorCode::JETSTREAM_NOT_ENABLED,
    ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT,
];

/// Whether the servers say that nobody listens where JetStream would.
fn nobody_answers(error: &GetStreamError) -> bool {
    let request = error
        .source()
        .and_then(|source| source.downcast_ref::<RequestError>());
    request.is_some_and(|request| request.kind() == RequestErrorKind::NoResponders)
}

async fn open_or_make(
    context: &Context,
    settings: &Settings,
    replicas: usize,
) -> Result<Stream, (JetStreamError, Cause)> {
    let name = &settings.stream;
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| JetStreamError::Stream {
        name: name.clone(),
        source,
    };
    let error = match context.get_stream(name).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    match error.kind() {
        GetStreamErrorKind::JetStream(found) if found.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
        GetStreamErrorKind::JetStream(found) if NO_JETSTREAM.contains(&found.error_code()) => {
            return Err((JetStreamError::NoJetStream(error), Cause::Lasting));
        }
        GetStreamErrorKind::JetStream(found) => {
            return Err((failed(error.into()), Cause::of(found.error_code())));
        }
        GetStreamErrorKind::Request if nobody_answers(&error) => {
            return Err((JetStreamError::NoJetStream(error), Cause::Lasting));
        }
        GetStreamErrorKind::Request => return Err((failed(error.into()), Cause::Passing)),
        _ => return Err((failed(error.into()), Cause::Lasting)),
    }
    let error = match context.create_stream(wanted(settings, replicas)).await {
        Ok(stream) => {
            tracing::info!(stream = name, replicas, "made the stream that is the log");
            return Ok(stream);
        }
        Err(error) => error,
    };
    let cause = match error.kind() {
        // Another replica was faster: the next attempt finds it.
        CreateStreamErrorKind::JetStream(found) if found.error_code() == ErrorCode::STREAM_NAME_EXIST => {
            Cause::Passing
        }
        CreateStreamErrorKind::JetStream(found) => Cause::of(found.error_code()),
        CreateStreamErrorKind::TimedOut | CreateStreamErrorKind::JetStreamUnavailable => Cause::Passing,
        _ => Cause::Lasting,
    };
    Err((failed(error.into()), cause))
}

/// The id of the log that a stream is: one that was made anew under an old name is another log.
pub(super) fn log_id(info: &Info) -> LogId {
    let mut digest = Sha256::new();
    digest.update(&info.config.name);
    digest.update(info.created.unix_timestamp_nanos().to_be_bytes());
    let digest = digest.finalize();
    LogId::new(digest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)))
}

/// The stream as it has to be.
fn wanted(settings: &Settings, replicas: usize) -> Config {
    Config {
        name: settings.stream.clone(),
        description: Some("hookstream's event log".to_owned()),
        subjects: vec![Subjects::of(&settings.stream).all],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        num_replicas: replicas,
        duplicate_window: limits::STREAM_DUPLICATE_WINDOW,
        allow_direct: true,
        ..Config::default()
    }
}

/// What of a stream is not as it has to be: only what would lose or falsify events.
fn differences(info: &Info, settings: &Settings) -> Vec<String> {
    let (found, wanted) = (&info.config, wanted(settings, 0));
    let says = |value: &dyn std::fmt::Debug| format!("{value:?}");
    let is = |flag: bool| says(&flag);
    let sources = found.sources.as_ref().is_some_and(|sources| !sources.is_empty());
    let no = is(false);
    let mut compared = vec![
        ("subjects", says(&found.subjects), says(&wanted.subjects)),
        ("retention", says(&found.retention), says(&wanted.retention)),
        ("storage", says(&found.storage), says(&wanted.storage)),
        ("discard", says(&found.discard), says(&wanted.discard)),
        ("max_age", says(&found.max_age), says(&wanted.max_age)),
        (
            "a bound of messages per subject",
            is(found.max_messages_per_subject > 0),
            no.clone(),
        ),
        ("mirror", is(found.mirror.is_some()), no.clone()),
        ("sources", is(sources), no.clone()),
        ("sealed", is(found.sealed), no.clone()),
        ("no_ack", is(found.no_ack), no.clone()),
        ("deny_delete", is(found.deny_delete), no.clone()),
        ("deny_purge", is(found.deny_purge), no.clone()),
        ("subject_transform", is(found.subject_transform.is_some()), no),
    ];
    if let Some(replicas) = settings.replicas {
        compared.push(("num_replicas", says(&found.num_replicas), says(&replicas)));
    }
    compared
        .into_iter()
        .filter(|(_, found, wanted)| found != wanted)
        .map(|(what, found, wanted)| format!("{what} is {found} and must be {wanted}"))
        .collect()
}
