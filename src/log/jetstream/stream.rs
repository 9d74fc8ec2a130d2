//! The stream that is the log. Owns what it has to be, and which log it is.

use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use sha2::{Digest, Sha256};

use super::entry::Subjects;
use crate::{event::LogId, limits, nats::Declaration};

/// The id of the log that a stream is: one that was made anew under an old name is another log.
pub(super) fn log_id(info: &Info) -> LogId {
    let mut digest = Sha256::new();
    digest.update(&info.config.name);
    digest.update(info.created.unix_timestamp_nanos().to_be_bytes());
    let digest = digest.finalize();
    LogId::new(digest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)))
}

/// The stream as it has to be.
pub(super) fn declaration(stream: &str) -> Declaration {
    let config = Config {
        name: stream.to_owned(),
        description: Some("hookstream's event log".to_owned()),
        subjects: vec![Subjects::of(stream).all],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        duplicate_window: limits::STREAM_DUPLICATE_WINDOW,
        allow_direct: true,
        ..Config::default()
    };
    Declaration {
        what: "the log",
        config,
    }
}
