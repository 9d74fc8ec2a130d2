//! Streams as they have to be. Owns making one that is missing and checking one that is there; never changes one.

use std::error::Error;

use async_nats::jetstream::{
    Context, ErrorCode,
    context::{CreateStreamErrorKind, GetStreamError, GetStreamErrorKind, RequestError, RequestErrorKind},
    stream::{Config, Stream},
};
use tokio::time::Instant;

use super::{Nats, NatsError};
use crate::limits;

/// What a stream has to be.
pub(crate) struct Declaration {
    /// What it is for, as people call it.
    pub(crate) what: &'static str,
    /// Its configuration. On how many servers it is kept is decided when it is made.
    pub(crate) config: Config,
}

impl Declaration {
    /// Opens the stream, or makes it if there is none. A cluster that is just starting is waited for.
    pub(crate) async fn open(self, nats: &Nats) -> Result<Stream, NatsError> {
        let stream = open(nats, &self.config).await?;
        let differences = differences(&stream.cached_info().config, &self.config, nats.settings.replicas);
        if differences.is_empty() {
            return Ok(stream);
        }
        Err(NatsError::Differs {
            name: self.config.name,
            what: self.what,
            differences: differences.join("; "),
        })
    }
}

async fn open(nats: &Nats, wanted: &Config) -> Result<Stream, NatsError> {
    let (context, settings) = (&nats.context, &nats.settings);
    let deadline = Instant::now() + limits::NATS_START_TIMEOUT;
    let clustered = context.client().server_info().cluster.is_some();
    let most = if clustered {
        limits::STREAM_REPLICAS_DEFAULT
    } else {
        1
    };
    let mut replicas = settings.replicas.unwrap_or(most);
    loop {
        let config = Config {
            num_replicas: replicas,
            ..wanted.clone()
        };
        let (error, cause) = match open_or_make(context, config).await {
            Ok(stream) => return Ok(stream),
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

async fn open_or_make(context: &Context, config: Config) -> Result<Stream, (NatsError, Cause)> {
    let (name, replicas) = (config.name.clone(), config.num_replicas);
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| NatsError::Stream {
        name: name.clone(),
        source,
    };
    let error = match context.get_stream(&name).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    match error.kind() {
        GetStreamErrorKind::JetStream(found) if found.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
        GetStreamErrorKind::JetStream(found) if NO_JETSTREAM.contains(&found.error_code()) => {
            return Err((NatsError::NoJetStream(error), Cause::Lasting));
        }
        GetStreamErrorKind::JetStream(found) => {
            return Err((failed(error.into()), Cause::of(found.error_code())));
        }
        GetStreamErrorKind::Request if nobody_answers(&error) => {
            return Err((NatsError::NoJetStream(error), Cause::Lasting));
        }
        GetStreamErrorKind::Request => return Err((failed(error.into()), Cause::Passing)),
        _ => return Err((failed(error.into()), Cause::Lasting)),
    }
    let error = match context.create_stream(config).await {
        Ok(stream) => {
            tracing::info!(stream = name, replicas, "made the stream");
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

/// What of a stream is not as it has to be: only what would lose or falsify what is kept in it.
fn differences(found: &Config, wanted: &Config, replicas: Option<usize>) -> Vec<String> {
    let says = |value: &dyn std::fmt::Debug| format!("{value:?}");
    let sources = |config: &Config| config.sources.as_ref().is_some_and(|sources| !sources.is_empty());
    let is = |flag: bool| says(&flag);
    // What is not bounded is 0 here and -1 there.
    let most = |count: i64| says(&count.max(0));
    let of = |part: &dyn Fn(&Config) -> String| (part(found), part(wanted));
    let fields = [
        ("subjects", of(&|config| says(&config.subjects))),
        ("retention", of(&|config| says(&config.retention))),
        ("storage", of(&|config| says(&config.storage))),
        ("discard", of(&|config| says(&config.discard))),
        ("max_age", of(&|config| says(&config.max_age))),
        (
            "max_msgs_per_subject",
            of(&|config| most(config.max_messages_per_subject)),
        ),
        ("mirror", of(&|config| is(config.mirror.is_some()))),
        ("sources", of(&|config| is(sources(config)))),
        ("sealed", of(&|config| is(config.sealed))),
        ("no_ack", of(&|config| is(config.no_ack))),
        ("deny_delete", of(&|config| is(config.deny_delete))),
        ("deny_purge", of(&|config| is(config.deny_purge))),
        (
            "subject_transform",
            of(&|config| is(config.subject_transform.is_some())),
        ),
    ];
    let replicas = replicas.map(|replicas| ("num_replicas", (says(&found.num_replicas), says(&replicas))));
    fields
        .into_iter()
        .chain(replicas)
        .filter(|(_, (found, wanted))| found != wanted)
        .map(|(what, (found, wanted))| format!("{what} is {found} and must be {wanted}"))
        .collect()
}
