//! NATS, as replicas of one service share it. Owns the connection, and that streams and buckets are declared alike and never
//! changed; refuses to know what is kept in them.

pub mod bucket;
mod connection;
mod declaration;
pub mod lease;

use async_nats::jetstream::{
    self, ErrorCode,
    context::{GetStreamError, GetStreamErrorKind},
};
use tokio::{sync::watch, time::Instant};

pub use self::connection::Settings;
pub(crate) use self::declaration::Declaration;
use crate::limits;

/// A connection to the servers, with JetStream over it. Clones share it.
#[derive(Clone, Debug)]
pub struct Nats {
    pub(crate) context: jetstream::Context,
    pub(crate) is_connected: watch::Receiver<bool>,
    pub(crate) settings: Settings,
}

/// What an attempt comes to, repeated until it succeeds or the deadline has passed: a stream that was just made, or lost its leader,
/// answers only when it has one.
pub(crate) async fn retry_until<T, E>(
    deadline: Instant,
    attempt: impl AsyncFn() -> Result<T, E>,
) -> Result<T, E> {
    loop {
        match attempt().await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(limits::NATS_START_INTERVAL).await,
            answer => return answer,
        }
    }
}

/// Why NATS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// An address is none.
    #[error("`{servers}` is no list of NATS servers such as nats://10.0.0.1:4222,nats://10.0.0.2:4222")]
    Address {
        /// What was given.
        servers: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file with credentials.
    #[error("the credentials in {} cannot be read", path.display())]
    Credentials {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No server answers, or none lets us in.
    #[error(
        "no NATS server of {servers} can be used: check --jetstream-url, the credentials, and that a server runs there"
    )]
    Unreachable {
        /// The servers.
        servers: String,
        /// Why.
        source: async_nats::ConnectError,
    },
    /// The servers have no JetStream, or not for this account.
    #[error(
        "the NATS server has no JetStream for this account: start it with -js, or enable it for the account"
    )]
    NoJetStream(#[source] GetStreamError),
    /// A stream cannot be made or opened.
    #[error("the stream {name} cannot be made or opened")]
    Stream {
        /// Its name.
        name: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is a stream of the name that would lose or falsify what is kept in it.
    #[error(
        "there is a stream {name} that cannot be {what}: {differences}. Change it with `nats stream edit`, or choose another name with --jetstream-stream"
    )]
    Differs {
        /// Its name.
        name: String,
        /// What it is to be.
        what: &'static str,
        /// Field by field.
        differences: String,
    },
}

impl Nats {
    /// Connects. A connection that is lost later is made again for as long as it takes.
    pub async fn connect(settings: &Settings) -> Result<Self, NatsError> {
        let (client, is_connected) = connection::connect(settings).await?;
        let (needed, taken) = (limits::MESSAGE_BYTES_MAX, client.server_info().max_payload);
        if taken < needed {
            tracing::warn!(
                max_payload = taken,
                needed,
                "the NATS servers take smaller messages than the largest delivery makes: larger ones are refused with 413; set \
                 max_payload to 2MB"
            );
        }
        Ok(Self {
            context: connection::jetstream(client),
            is_connected,
            settings: settings.clone(),
        })
    }

    /// Whether there is no stream of the log's name. What else may be wrong with it is found out where it is opened.
    pub(crate) async fn lacks_stream(&self) -> bool {
        let found = self.context.get_stream(&self.settings.stream).await;
        matches!(
            found.map_err(|error| error.kind()),
            Err(GetStreamErrorKind::JetStream(error)) if error.error_code() == ErrorCode::STREAM_NOT_FOUND
        )
    }

    /// The name of something that belongs to the log of this name.
    pub(crate) fn name_of(&self, part: &str) -> String {
        format!("{}_{part}", self.settings.stream)
    }
}
