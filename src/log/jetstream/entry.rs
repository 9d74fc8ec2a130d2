//! What the messages of the stream say. Owns their subjects and their form; refuses to know how they are sent and what is
//! done about them.

use bytes::Bytes;
use jiff::Timestamp;
use prost::Message;

use crate::{
    event::{NewEvent, Sequence},
    log::{
        record,
        sqlite::{Change, Entry},
    },
};

/// The subjects of one stream.
#[derive(Clone, Debug)]
pub(super) struct Subjects {
    /// Events: a record each.
    pub(super) event: String,
    /// Trims, in their place among the events.
    pub(super) trim: String,
    /// Marks that say from where the stream can be copied from now on.
    pub(super) mark: String,
    /// All of them.
    pub(super) all: String,
}

impl Subjects {
    pub(super) fn of(stream: &str) -> Self {
        let subject = |kind| format!("{stream}.log.{kind}");
        Self {
            event: subject("event"),
            trim: subject("trim"),
            mark: subject("mark"),
            all: subject("*"),
        }
    }

    /// What a message changes. One that cannot be read changes nothing, at every replica alike.
    pub(super) fn entry(&self, sequence: Sequence, subject: &str, payload: Bytes) -> Entry {
        let change = if subject == self.event {
            record::decode(sequence, payload)
                .map(|stored| Change::Append(stored.event))
                .ok()
        } else if subject == self.trim {
            Trim::decode(payload).map(Change::from).ok()
        } else if subject == self.mark {
            Some(Change::Nothing)
        } else {
            None
        };
        if change.is_none() {
            tracing::error!(%sequence, subject, "a message of the log cannot be read and is passed over");
        }
        Entry {
            sequence,
            change: change.unwrap_or(Change::Nothing),
        }
    }
}

/// Retention removes everything up to a sequence.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Trim {
    #[prost(uint64, tag = "1")]
    pub(super) through: u64,
}

impl From<Trim> for Change {
    fn from(trim: Trim) -> Self {
        Self::Trim {
            through: Sequence::new(trim.through),
        }
    }
}

/// The stream can be copied from here: what is before was trimmed, and no duplicate of it is behind.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Mark {
    #[prost(uint64, tag = "1")]
    pub(super) trimmed: u64,
    #[prost(sint64, optional, tag = "2")]
    received_at_us: Option<i64>,
}

impl Mark {
    pub(super) fn new(trimmed: Sequence, received_at: Option<Timestamp>) -> Self {
        Self {
            trimmed: trimmed.get(),
            received_at_us: received_at.map(Timestamp::as_microsecond),
        }
    }

    /// When the newest event that was trimmed was received.
    pub(super) fn received_at(&self) -> Option<Timestamp> {
        self.received_at_us
            .and_then(|us| Timestamp::from_microsecond(us).ok())
    }
}

/// An event as a message. One message is not larger than this by more than a header.
pub(super) fn of_event(event: &NewEvent) -> Bytes {
    record::encode(event).into()
}
