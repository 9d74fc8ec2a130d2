//! The embedded log as a copy of one that is elsewhere. Owns taking in its entries, in its order and under its sequences;
//! refuses to know where it is.
//!
//! What is a duplicate is decided here, by the same rules and from the same entries at every copy, and so alike (I6). That
//! retention removed events is an entry too, because what it removed can come again as new.

use std::{path::Path, sync::Arc};

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::{
    SqliteLog,
    database::{self, Beginning, Durability, LogDatabase, OpenError},
    writer::Command,
};
use crate::{
    event::{EventId, LogId, NewEvent, Sequence, StoredEvent},
    log::{AppendError, Appended, EventLog, ReadError, Retention, metrics::LogMetrics},
};

/// What stands at a sequence of the log elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub sequence: Sequence,
    /// What it changes.
    pub change: Change,
}

/// What an entry changes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "nearly every entry is an event")]
pub enum Change {
    /// An event is new, or a duplicate.
    Append(NewEvent),
    /// Retention removes everything up to a sequence.
    Trim {
        /// The last that goes.
        through: Sequence,
    },
    /// Nothing that concerns a copy.
    Nothing,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Of an event.
    Appended(Appended),
    /// So many events are gone.
    Trimmed(u64),
    /// Nothing.
    Nothing,
}

/// Where a copy begins that has nothing yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The log.
    pub log_id: LogId,
    /// Retention has removed everything up to here.
    pub trimmed: Sequence,
    /// When the newest of that was received; `None` if nothing was.
    pub received_at: Option<Timestamp>,
}

/// A copy.
#[derive(Debug)]
pub struct Projection {
    log: SqliteLog,
    position: Sequence,
}

impl Projection {
    /// Opens the copy in `directory`. One that is missing, damaged, of another log, or behind where the log begins by now, is
    /// begun anew. Blocks.
    pub fn open(
        directory: &Path,
        start: Start,
        metrics: LogMetrics,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self, OpenError> {
        let path = directory.join("log.db");
        let beginning = || Beginning {
            log_id: start.log_id,
            trimmed: start.trimmed,
            received_at_us: start.received_at.map_or(i64::MIN, Timestamp::as_microsecond),
        };
        let open = || LogDatabase::open(&path, Durability::Rebuildable, beginning);
        let unusable = match open() {
            Ok(log) if log.log_id() != start.log_id => Some("it is of another log".to_owned()),
            Ok(log) if log.position() < start.trimmed => {
                Some("it ends before where the log begins by now".to_owned())
            }
            Ok(_) => None,
            Err(error @ OpenError::File { .. }) => return Err(error),
            Err(error) => Some(error.to_string()),
        };
        if let Some(reason) = unusable {
            tracing::warn!(path = %path.display(), reason, "the copy of the log is of no use and is made anew");
            database::remove(&path)?;
            database::remove(&directory.join("index.db"))?;
        }
        let log = open()?;
        let position = log.position();
        Ok(Self {
            log: SqliteLog::start(directory, log, metrics, progress)?,
            position,
        })
    }

    /// The copy, for reading. What is appended to it is lost.
    pub fn log(&self) -> &SqliteLog {
        &self.log
    }

    /// How far the log was taken in, when the copy was opened.
    pub fn position(&self) -> Sequence {
        self.position
    }

    /// Takes in what follows, in order; what became of each.
    pub async fn apply(&self, entries: Vec<Entry>) -> Result<Vec<Applied>, AppendError> {
        self.log.ask(|reply| Command::Apply { entries, reply }).await
    }

    /// The event with this id, if it is known. One that is not may be in the log all the same, a little further on.
    pub async fn known(&self, id: EventId) -> Option<Arc<StoredEvent>> {
        if let Some(event) = self.log.shared.recent.find(id) {
            return Some(event);
        }
        if !self.log.shared.indexed.ids.may_have(id) {
            return None;
        }
        self.log.find(id).await.ok().flatten()
    }

    /// Up to where retention removes events next, at most so many of them; `None` if nothing is due.
    pub async fn due(
        &self,
        retention: Retention,
        now: Timestamp,
        events_max: usize,
    ) -> Result<Option<Sequence>, ReadError> {
        let Some(through) = self.log.due(retention, now).await? else {
            return Ok(None);
        };
        let read = move |reader: &super::reader::Reader| reader.oldest(through, events_max);
        self.log.readers.with(read).await
    }

    /// When the newest event that retention removed was received.
    pub async fn trimmed_received_at(&self) -> Result<Option<Timestamp>, ReadError> {
        let us = self
            .log
            .readers
            .with(|reader| reader.trimmed_received_at_us())
            .await?;
        Ok(Timestamp::from_microsecond(us).ok())
    }

    /// Entries that were duplicates of events which retention has removed by now; a bounded number. Whoever begins to copy
    /// the log behind those events would take them for new.
    pub async fn duplicates_of_trimmed(&self) -> Result<Vec<Sequence>, ReadError> {
        let trimmed = self.log.bounds().trimmed;
        let read = move |reader: &super::reader::Reader| reader.duplicates_of_trimmed(trimmed);
        self.log.readers.with(read).await
    }

    /// Forgets duplicates that are no longer in the log.
    pub async fn forget(&self, duplicates: Vec<Sequence>) -> Result<(), AppendError> {
        let forget = |reply: oneshot::Sender<_>| Command::Forget { duplicates, reply };
        self.log.ask(forget).await
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{event::Verification, log::Outcome};

    fn start(log_id: u64, trimmed: u64) -> Start {
        Start {
            log_id: LogId::new(log_id),
            trimmed: Sequence::new(trimmed),
            received_at: None,
        }
    }

    fn open(directory: &Path, start: Start) -> Projection {
        Projection::open(directory, start, LogMetrics::default(), |_, _| {}).unwrap()
    }

    /// When the event at this place was received, by a clock behind that of the event before it: replicas' clocks differ.
    fn received_at(sequence: u64) -> Timestamp {
        Timestamp::from_second(1000 - sequence.cast_signed()).unwrap()
    }

    fn event(number: u64, sequence: u64) -> Entry {
        let body = Bytes::from(format!(r#"{{"event_type":"a.b","event_data":{{"n":{number}}}}}"#));
        let event = NewEvent::new(
            "dev".parse().unwrap(),
            Verification::CallbackToken,
            body,
            received_at(sequence),
        );
        Entry {
            sequence: Sequence::new(sequence),
            change: Change::Append(event),
        }
    }

    fn trim(through: u64, sequence: u64) -> Entry {
        Entry {
            sequence: Sequence::new(sequence),
            change: Change::Trim {
                through: Sequence::new(through),
            },
        }
    }

    fn appended(sequence: u64, outcome: Outcome) -> Applied {
        Applied::Appended(Appended {
            sequence: Sequence::new(sequence),
            outcome,
        })
    }

    #[tokio::test]
    async fn entries_keep_their_sequences_and_are_taken_in_once() {
        let directory = tempfile::tempdir().unwrap();
        let copy = open(directory.path(), start(7, 0));
        let applied = copy
            .apply(vec![event(1, 3), event(1, 4), event(2, 9)])
            .await
            .unwrap();
        let first = appended(3, Outcome::New);
        assert_eq!(
            applied,
            [first, appended(3, Outcome::Duplicate), appended(9, Outcome::New)]
        );
        let again = copy
            .apply(vec![event(1, 3), event(2, 9), event(3, 10)])
            .await
            .unwrap();
        assert_eq!(
            again,
            [Applied::Nothing, Applied::Nothing, appended(10, Outcome::New)]
        );
        copy.log().close().await;
        let copy = open(directory.path(), start(7, 0));
        assert_eq!(copy.position(), Sequence::new(10));
        copy.log().close().await;
    }

    #[tokio::test]
    async fn what_was_trimmed_is_new_again_and_its_duplicates_are_known_until_they_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let copy = open(directory.path(), start(7, 0));
        let entries = vec![event(1, 1), event(2, 2), event(1, 3), trim(1, 4), event(1, 5)];
        let applied = copy.apply(entries).await.unwrap();
        assert_eq!(
            applied[2..],
            [
                appended(1, Outcome::Duplicate),
                Applied::Trimmed(1),
                appended(5, Outcome::New)
            ]
        );
        let duplicates = copy.duplicates_of_trimmed().await.unwrap();
        assert_eq!(duplicates, [Sequence::new(3)]);
        copy.forget(duplicates).await.unwrap();
        assert_eq!(copy.duplicates_of_trimmed().await.unwrap(), []);
        assert_eq!(copy.trimmed_received_at().await.unwrap(), Some(received_at(1)));
        copy.log().close().await;
    }

    #[tokio::test]
    async fn a_copy_that_lags_behind_a_trim_goes_on_behind_it() {
        let directory = tempfile::tempdir().unwrap();
        let copy = open(directory.path(), start(7, 0));
        copy.apply(vec![event(1, 1), trim(50, 50)]).await.unwrap();
        let bounds = copy.log().bounds();
        assert_eq!(
            (bounds.trimmed, bounds.tail),
            (Sequence::new(50), Sequence::new(50))
        );
        copy.log().close().await;
    }

    #[tokio::test]
    async fn a_copy_of_another_log_or_behind_where_the_log_begins_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let copy = open(directory.path(), start(7, 0));
        copy.apply(vec![event(1, 1)]).await.unwrap();
        copy.log().close().await;
        let copy = open(directory.path(), start(8, 0));
        assert_eq!(
            (copy.position(), copy.log().log_id()),
            (Sequence::ZERO, LogId::new(8))
        );
        copy.apply(vec![event(1, 1)]).await.unwrap();
        copy.log().close().await;
        let copy = open(directory.path(), start(8, 5));
        assert_eq!(copy.position(), Sequence::new(5));
        assert_eq!(copy.log().bounds().tail, Sequence::new(5));
        copy.log().close().await;
    }
}
