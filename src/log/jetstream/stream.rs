//! The stream that is the log. Owns its declaration and the check of one that is there; never changes one.

use async_nats::jetstream::{
    Context, ErrorCode,
    context::{CreateStreamErrorKind, GetStreamErrorKind},
    stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType, Stream},
};
use sha2::{Digest, Sha256};

use super::{JetStreamError, connection::Settings, entry::Subjects};
use crate::{event::LogId, limits};

/// Opens the stream, or makes it if there is none.
pub(super) async fn open(context: &Context, settings: &Settings) -> Result<Stream, JetStreamError> {
    context
        .query_account()
        .await
        .map_err(JetStreamError::NoJetStream)?;
    let name = &settings.stream;
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| JetStreamError::Stream {
        name: name.clone(),
        source,
    };
    let stream = match context.get_stream(name).await {
        Ok(stream) => stream,
        Err(error) if is_missing(&error.kind()) => create(context, settings).await?,
        Err(error) => return Err(failed(error.into())),
    };
    let differences = differences(stream.cached_info(), settings);
    if differences.is_empty() {
        Ok(stream)
    } else {
        Err(JetStreamError::Differs {
            name: name.clone(),
            differences: differences.join("; "),
        })
    }
}

/// The id of the log that a stream is: one that was made anew under an old name is another log.
pub(super) fn log_id(info: &Info) -> LogId {
    let mut digest = Sha256::new();
    digest.update(&info.config.name);
    digest.update(info.created.unix_timestamp_nanos().to_be_bytes());
    let digest = digest.finalize();
    LogId::new(digest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)))
}

async fn create(context: &Context, settings: &Settings) -> Result<Stream, JetStreamError> {
    let clustered = context.client().server_info().cluster.is_some();
    let most = if clustered {
        limits::STREAM_REPLICAS_DEFAULT
    } else {
        1
    };
    let mut replicas = settings.replicas.unwrap_or(most);
    loop {
        let error = match context.create_stream(wanted(settings, replicas)).await {
            Ok(stream) => {
                tracing::info!(
                    stream = settings.stream,
                    replicas,
                    "made the stream that is the log"
                );
                return Ok(stream);
            }
            // Another replica was faster.
            Err(error) if is_there(&error.kind()) => {
                let stream = context.get_stream(&settings.stream).await;
                return stream.map_err(|source| JetStreamError::Stream {
                    name: settings.stream.clone(),
                    source: source.into(),
                });
            }
            Err(error) => error,
        };
        // A cluster of fewer servers than would be wanted.
        if settings.replicas.is_none() && replicas > 1 && lacks_servers(&error.kind()) {
            replicas -= 1;
            continue;
        }
        return Err(JetStreamError::Stream {
            name: settings.stream.clone(),
            source: error.into(),
        });
    }
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
    let mut differences = Vec::new();
    let mut compare = |what: &str, found: String, wanted: String| {
        if found != wanted {
            differences.push(format!("{what} is {found} and must be {wanted}"));
        }
    };
    compare(
        "subjects",
        format!("{:?}", found.subjects),
        format!("{:?}", wanted.subjects),
    );
    compare(
        "retention",
        format!("{:?}", found.retention),
        format!("{:?}", wanted.retention),
    );
    compare(
        "storage",
        format!("{:?}", found.storage),
        format!("{:?}", wanted.storage),
    );
    compare(
        "discard",
        format!("{:?}", found.discard),
        format!("{:?}", wanted.discard),
    );
    compare(
        "max_age",
        format!("{:?}", found.max_age),
        format!("{:?}", wanted.max_age),
    );
    for (what, found) in [
        ("mirror", found.mirror.is_some()),
        (
            "sources",
            found.sources.as_ref().is_some_and(|sources| !sources.is_empty()),
        ),
        ("sealed", found.sealed),
        ("no_ack", found.no_ack),
        ("deny_delete", found.deny_delete),
        ("deny_purge", found.deny_purge),
        ("subject_transform", found.subject_transform.is_some()),
    ] {
        compare(what, found.to_string(), false.to_string());
    }
    let bounded = |limit: i64| {
        if limit > 0 {
            limit.to_string()
        } else {
            "none".to_owned()
        }
    };
    compare(
        "max_msgs_per_subject",
        bounded(found.max_messages_per_subject),
        bounded(0),
    );
    if let Some(replicas) = settings.replicas {
        compare(
            "num_replicas",
            found.num_replicas.to_string(),
            replicas.to_string(),
        );
    }
    differences
}

/// A cluster or a single server that cannot keep as many copies.
const LACKS_SERVERS: [ErrorCode; 3] = [
    ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED,
    ErrorCode::CLUSTER_NO_PEERS,
    ErrorCode::INSUFFICIENT_RESOURCES,
];

fn is_missing(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn is_there(kind: &CreateStreamErrorKind) -> bool {
    matches!(kind, CreateStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST)
}

fn lacks_servers(kind: &CreateStreamErrorKind) -> bool {
    matches!(kind, CreateStreamErrorKind::JetStream(error) if LACKS_SERVERS.contains(&error.error_code()))
}
