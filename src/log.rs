//! The event log: the one thing between ingress and subscribers. Owns the contract that every engine keeps; refuses to
//! know any engine, HTTP or gRPC.

pub mod jetstream;
pub mod memory;
pub mod metrics;
mod record;
pub mod sqlite;
mod twin;

#[cfg(test)]
mod conformance;

/// What of the log the fuzz targets reach beyond its contract.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub use super::{
        record::{Damaged, decode, encode},
        twin::Subject,
    };
}

use std::{mem::discriminant, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::{
    event::{EventId, LogId, NewEvent, Sequence, StoredEvent},
    filter::Filter,
};

/// A durable, totally ordered log of events.
///
/// **Append.** `append` returns only when the event is durable, or was already (I1). Concurrent appends share a sync: the
/// more wait, the larger the batch; one alone waits for nobody. An event whose id is in the log is a duplicate and is
/// answered with the sequence of the first (I6), under concurrency and across restarts, for as long as the first is kept.
/// An append that fails may still have happened; its retry is then a duplicate.
///
/// **Twins.** HeyGen tells of an event in two ways: it pushes it, and lists it in the event history. An entry of the history
/// has an event id; a push may have none, and then their ids differ although they are one event (I6). So the log pairs
/// them, at most one entry with one push, whichever comes first. A *push* is here an event that was signed and has no event
/// id. Others that were pushed, and callbacks, have no twins.
///
/// * Both have the same *subject*: the same endpoint and event type, and the same entity id; if that is empty in both, the
///   same callback id; if that is empty in both too, the same `event_data` (an object) as a JSON value.
/// * The push was received in the time from [`TWIN_CLOCK_SKEW`] before to [`TWIN_WINDOW`] after the entry was created.
///   `received_at` counts here as the log stores it. An entry that does not say when it was created has no twin.
/// * Of several pushes, an entry is paired with the one received first; of several entries, a push with the one created
///   first.
///
/// The one that comes second is a duplicate of the first, and its id becomes an *alias* of the first: an id like the event's
/// own to `append` and `find`, as durable as the event, and removed with it.
///
/// The rule errs where HeyGen says too little. An event is stored twice if the push and the entry show different ids, if only
/// one of them shows any, or if the push came outside the window. Two events of one subject within the window may be paired
/// crosswise, and if one of them was never pushed and the other is not in the history, they are taken for one. Of more than
/// [`TWIN_CANDIDATES_MAX`] events that could be the twin, an engine may look at the earliest only.
///
/// [`TWIN_CLOCK_SKEW`]: crate::limits::TWIN_CLOCK_SKEW
/// [`TWIN_WINDOW`]: crate::limits::TWIN_WINDOW
/// [`TWIN_CANDIDATES_MAX`]: crate::limits::TWIN_CANDIDATES_MAX
///
/// **Order.** Sequences rise strictly, never repeat and never regress, across restarts and when everything was trimmed
/// (I3). Gaps are allowed. `received_at` never goes backwards from one sequence to the next: the log raises it where the
/// clock went back, so that a time names one place in the log.
///
/// **Visibility.** An event is visible to `read`, `find` and `first_since` before `tail` announces it, and `tail`
/// announces it only when it is durable. A reader that was told N can read N. The announcement is a hint and may skip
/// values; the log is the truth.
///
/// **Reading.** `read` returns the matching events of a range in order, in chunks: an empty chunk that made progress is
/// not the end. Reading forward from before the trim point is [`ReadError::Trimmed`], never a silent gap; reading backward
/// ends at the trim point.
///
/// **Failure.** When a write or sync fails in a way that leaves in doubt what is on disk, the log closes for writing until
/// it is opened again, because a second sync would not tell of pages the first one lost. Reads go on. A full disk is no
/// such failure: nothing was written, and the next append tries again.
#[async_trait]
pub trait EventLog: Send + Sync + 'static {
    /// The incarnation of this log.
    fn log_id(&self) -> LogId;

    /// What is kept.
    fn bounds(&self) -> Bounds;

    /// Announces the highest durable sequence.
    fn tail(&self) -> watch::Receiver<Sequence>;

    /// Whether appends can succeed at the moment, and if not, why.
    fn writable(&self) -> watch::Receiver<Result<(), AppendError>>;

    /// Stores an event. See the contract above.
    async fn append(&self, event: NewEvent) -> Result<Appended, AppendError>;

    /// Stores events one after the other, so that their sequences have this order. After an error the first of them may be
    /// stored.
    async fn append_in_order(&self, events: Vec<NewEvent>) -> Result<Vec<Appended>, AppendError> {
        let mut appended = Vec::with_capacity(events.len());
        for event in events {
            appended.push(self.append(event).await?);
        }
        Ok(appended)
    }

    /// The matching events of `range`, in `direction`, up to `limit`. See [`Chunk`].
    async fn read(
        &self,
        range: Range,
        direction: Direction,
        filter: &Filter,
        limit: Limit,
    ) -> Result<Chunk, ReadError>;

    /// How many kept events of `range` match.
    async fn count(&self, range: Range, filter: &Filter) -> Result<u64, ReadError>;

    /// The event with this id or alias, if it is kept.
    async fn find(&self, id: EventId) -> Result<Option<Arc<StoredEvent>>, ReadError>;

    /// The position just before the first kept event received at or after `time`.
    async fn before_time(&self, time: Timestamp) -> Result<Sequence, ReadError>;

    /// The event types that are in the log, sorted; types whose every event was trimmed may still be among them.
    fn event_types(&self) -> Vec<String>;

    /// Removes the oldest events as the policy says, in small steps beside the appends.
    async fn trim(&self, retention: Retention, now: Timestamp) -> Result<Trimmed, AppendError>;

    /// Bytes of storage in use.
    fn size_bytes(&self) -> u64;

    /// What an event outlives once it is stored, as an operator would say it.
    fn durability(&self) -> String;

    /// Completes what was accepted and ends all of the log's threads. Later appends fail as closed.
    async fn close(&self);
}

/// What a log keeps: the events after `trimmed` up to and including `tail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The trim point: the highest sequence removed by retention.
    pub trimmed: Sequence,
    /// The highest durable sequence.
    pub tail: Sequence,
}

/// A range of positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Exclusive start.
    pub after: Sequence,
    /// Inclusive end.
    pub through: Sequence,
}

impl Range {
    /// What `Chunk::scanned` is when all of the range is settled.
    pub fn end(self, direction: Direction) -> Sequence {
        match direction {
            Direction::Forward => self.through,
            Direction::Backward => self.after,
        }
    }
}

impl From<Bounds> for Range {
    fn from(Bounds { trimmed, tail }: Bounds) -> Self {
        Self {
            after: trimmed,
            through: tail,
        }
    }
}

/// The order of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Rising sequences.
    Forward,
    /// Falling sequences.
    Backward,
}

/// How much one read returns at the most. One event is returned even if it is larger.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Number of events.
    pub events: usize,
    /// Bytes of their bodies.
    pub bytes: usize,
}

/// A part of the answer to a read.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Matching events, in the direction of the read.
    pub events: Vec<Arc<StoredEvent>>,
    /// How far the read got. Forward: all of `(after, scanned]` is settled, and the range is done when `scanned` reaches
    /// `through`. Backward: all of `(scanned, through]` is settled, and the range is done when `scanned` reaches `after`.
    pub scanned: Sequence,
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The place of the event, or of the first with its id.
    pub sequence: Sequence,
    /// Whether it is new.
    pub outcome: Outcome,
}

impl Appended {
    /// What becomes of an event that is there already.
    fn duplicate(first: &StoredEvent, event: &NewEvent) -> Self {
        let (of_first, of_event) = (&first.event.verification, &event.verification);
        let outcome = if discriminant(of_first) != discriminant(of_event) {
            Outcome::DuplicateOfOtherOrigin
        } else if first.event.body != event.body {
            Outcome::DuplicateWithOtherBody
        } else {
            Outcome::Duplicate
        };
        Self {
            sequence: first.sequence,
            outcome,
        }
    }
}

/// Whether an append stored something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The event was stored.
    New,
    /// The same event, byte for byte, was there.
    Duplicate,
    /// The same event was there with another body: HeyGen signs media URLs anew between retries. The first is kept.
    DuplicateWithOtherBody,
    /// The same event was there, but had come the other way: one was pushed, one is in the event history. Their bodies differ
    /// by nature; the first is kept.
    DuplicateOfOtherOrigin,
}

/// What to keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Remove events received longer ago than this.
    pub age: Option<Duration>,
    /// Remove the oldest events while the log's storage is larger than this.
    pub size_bytes: Option<u64>,
}

/// What a trim did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// How many events it removed.
    pub events: u64,
}

/// Why an event was not stored, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// There is no room. A retry succeeds once there is.
    #[error("the disk is full")]
    DiskFull,
    /// Another program holds the storage's lock. A retry succeeds once it lets go.
    #[error("another program holds the lock of the log's files")]
    Locked,
    /// The event is larger than the servers that keep the log take. It was not stored, and no retry helps.
    #[error("the event is larger than the servers that keep the log take")]
    TooLarge,
    /// The servers that keep the log do not answer. A retry succeeds once they do; the append may have happened.
    #[error("the servers that keep the log do not answer: {0}")]
    Unreachable(Arc<str>),
    /// The log is closed for writing until the service is started again.
    #[error("the log is closed for writing: {0}")]
    Closed(Arc<str>),
}

impl AppendError {
    /// Whether it may pass by itself: nothing of the log is in doubt.
    pub fn passes(&self) -> bool {
        matches!(self, Self::DiskFull | Self::Locked | Self::Unreachable(_))
    }
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Retention removed events after the start of the range. `trimmed` is the trim point.
    #[error("events up to sequence {trimmed} were removed by retention")]
    Trimmed {
        /// The highest sequence removed.
        trimmed: Sequence,
    },
    /// A stored record fails its checksum or cannot be read as a record.
    #[error("the record of sequence {sequence} is damaged")]
    Damaged {
        /// Its place.
        sequence: Sequence,
    },
    /// The storage failed. A retry may succeed.
    #[error("the log cannot be read")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}
