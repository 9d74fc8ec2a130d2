//! Reading `log.db` and `index.db`. Owns the pool of read-only connections and the queries; refuses to write.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::Semaphore;

use super::{
    Shared,
    database::{from_sql, open_for_reading, size_bytes, to_sql},
    index::View,
    segment::{segments, sequences},
    twins,
};
use crate::{
    event::{EventId, Sequence, StoredEvent},
    filter::Filter,
    limits,
    log::{Bounds, Chunk, Direction, Limit, Range, ReadError, record},
    tasks,
};

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

/// The last of the oldest `count` events up to a sequence.
pub(super) fn oldest(
    log: &Connection,
    through: Sequence,
    count: usize,
) -> Result<Option<Sequence>, rusqlite::Error> {
    let last: Option<i64> = log.query_row(
        "SELECT max(sequence) FROM
           (SELECT sequence FROM events WHERE sequence <= ?1 ORDER BY sequence LIMIT ?2)",
        params![to_sql(through), count as i64],
        |row| row.get(0),
    )?;
    Ok(last.map(from_sql))
}

/// When the last event up to a sequence was received, if its record is sound.
pub(super) fn received_at(log: &Connection, through: Sequence) -> Result<Option<Timestamp>, rusqlite::Error> {
    let last: Option<(i64, Vec<u8>)> = log
        .prepare_cached(
            "SELECT sequence, record FROM events WHERE sequence <= ?1 ORDER BY sequence DESC LIMIT 1",
        )?
        .query_row([to_sql(through)], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let event = last.and_then(|(sequence, record)| record::decode(from_sql(sequence), record.into()).ok());
    Ok(event.map(|event| event.event.received_at))
}

/// The position in a range just before the first event received at or after `time`: a binary search, because the log keeps
/// `received_at` in order.
pub(super) fn before_time(log: &Connection, range: Range, time: Timestamp) -> Result<Sequence, ReadError> {
    let mut select = log.prepare_cached(
        "SELECT sequence, record FROM events WHERE sequence > ?1 ORDER BY sequence LIMIT 1",
    )?;
    let (mut before, mut end) = (range.after.get(), range.through.get());
    while before < end {
        let middle = before + (end - before) / 2;
        let mut rows = select.query([to_sql(Sequence::new(middle))])?;
        let event = match rows.next()? {
            Some(row) => {
                let record = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
                Some(decode(from_sql(row.get(0)?), Bytes::copy_from_slice(record))?)
            }
            None => None,
        };
        match event {
            Some(event) if event.event.received_at < time => before = event.sequence.get(),
            _ => end = middle,
        }
    }
    Ok(Sequence::new(before))
}

/// A few readers, lent to one read at a time.
#[derive(Debug)]
pub(super) struct Readers {
    idle: Arc<Mutex<Vec<Reader>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn open(log: &Path, index: &Path) -> Result<Self, rusqlite::Error> {
        let reader = |_| {
            Ok(Reader {
                log: open_for_reading(log)?,
                index: open_for_reading(index)?,
            })
        };
        let readers = (0..limits::READERS_MAX)
            .map(reader)
            .collect::<Result<Vec<_>, rusqlite::Error>>()?;
        let permits = Arc::new(Semaphore::new(readers.len()));
        Ok(Self {
            idle: Arc::new(Mutex::new(readers)),
            permits,
        })
    }

    /// Runs a read on a thread where it may block.
    pub(super) async fn with<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let gone = || ReadError::Unavailable("the service is shutting down".into());
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|_| gone())?;
        let idle = Arc::clone(&self.idle);
        let read = move || {
            let reader = idle.lock().pop().ok_or_else(gone)?;
            let result = read(&reader);
            idle.lock().push(reader);
            drop(permit);
            result
        };
        tasks::blocking(read)
            .await
            .map_err(|error| ReadError::Unavailable(Box::new(error)))?
    }
}

/// One pair of read-only connections.
#[derive(Debug)]
pub(super) struct Reader {
    log: Connection,
    index: Connection,
}

impl Reader {
    /// Reads a range that the index covers.
    pub(super) fn read(
        &self,
        range: Range,
        direction: Direction,
        filter: &Filter,
        limit: Limit,
        shared: &Shared,
    ) -> Result<Chunk, ReadError> {
        if *filter == Filter::default() {
            return self.scan(range, direction, limit);
        }
        let kept = Range {
            after: range.after.max(shared.trimmed()),
            ..range
        };
        let mut parts = segments(kept, direction);
        let mut records = Records::new(limit);
        let mut scanned = None;
        for part in parts.by_ref().take(limits::READ_SEGMENTS_MAX) {
            let found = self.view(shared).matching(part, filter)?;
            if !self.fetch(sequences(&found, part, direction), &mut records)? {
                break;
            }
            scanned = Some(part.end(direction));
        }
        let is_done = parts.next().is_none();
        let scanned = scanned.filter(|_| !is_done).unwrap_or(range.end(direction));
        let mut chunk = records.chunk(direction, scanned)?;
        chunk.events.retain(|event| filter.matches(&event.event.keys));
        Ok(chunk)
    }

    /// Counts in a range that the index covers.
    pub(super) fn count(&self, range: Range, filter: &Filter, shared: &Shared) -> Result<u64, ReadError> {
        Ok(self.view(shared).count(range, filter)?)
    }

    fn view<'a>(&'a self, shared: &'a Shared) -> View<'a> {
        shared.indexed.view(&self.index)
    }

    /// Reads everything in the range.
    fn scan(&self, range: Range, direction: Direction, limit: Limit) -> Result<Chunk, ReadError> {
        let mut select = self.log.prepare_cached(&format!(
            "SELECT sequence, record FROM events WHERE sequence > ?1 AND sequence <= ?2 ORDER BY sequence {}",
            order(direction)
        ))?;
        let mut rows = select.query([to_sql(range.after), to_sql(range.through)])?;
        let mut records = Records::new(limit);
        while let Some(row) = rows.next()? {
            let record = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
            if !records.take(from_sql(row.get(0)?), record) {
                break;
            }
        }
        records.chunk(direction, range.end(direction))
    }

    /// Reads the records of these sequences; `false` if there is no room for one.
    fn fetch(
        &self,
        sequences: impl Iterator<Item = Sequence>,
        records: &mut Records,
    ) -> Result<bool, ReadError> {
        let mut select = self
            .log
            .prepare_cached("SELECT record FROM events WHERE sequence = ?1")?;
        for sequence in sequences {
            // A row that is not there was trimmed; the caller looks at the trim point when it has its answer.
            let mut rows = select.query([to_sql(sequence)])?;
            let Some(row) = rows.next()? else { continue };
            let record = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
            if !records.take(sequence, record) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The kept event with this id, as its own or as its alias.
    pub(super) fn find(&self, id: EventId, shared: &Shared) -> Result<Option<Arc<StoredEvent>>, ReadError> {
        for sequence in self.view(shared).with_id(id, shared.bounds().into()) {
            let event = self.event(sequence?)?.filter(|event| event.event.id == id);
            if event.is_some() {
                return Ok(event);
            }
        }
        let alias = twins::sequence_of_alias(&self.log, id)?;
        alias.map_or(Ok(None), |sequence| self.event(sequence))
    }

    /// The event at this place, if it is kept.
    fn event(&self, sequence: Sequence) -> Result<Option<Arc<StoredEvent>>, ReadError> {
        let mut records = Records::new(Limit {
            events: 1,
            bytes: usize::MAX,
        });
        self.fetch([sequence].into_iter(), &mut records)?;
        Ok(records.chunk(Direction::Forward, sequence)?.events.pop())
    }

    /// The position just before the first event received at or after `time`.
    pub(super) fn before_time(&self, bounds: Bounds, time: Timestamp) -> Result<Sequence, ReadError> {
        before_time(&self.log, bounds.into(), time)
    }

    /// The last of the oldest `count` events up to a sequence.
    pub(super) fn oldest(&self, through: Sequence, count: usize) -> Result<Option<Sequence>, ReadError> {
        Ok(oldest(&self.log, through, count)?)
    }

    /// When the newest event that retention removed was received (µs).
    pub(super) fn trimmed_received_at_us(&self) -> Result<i64, ReadError> {
        let select = "SELECT received_at_us FROM log";
        Ok(self.log.query_row(select, [], |row| row.get(0))?)
    }

    /// Duplicates of events that retention removed; a bounded number.
    pub(super) fn duplicates_of_trimmed(&self, trimmed: Sequence) -> Result<Vec<Sequence>, ReadError> {
        let mut select = self
            .log
            .prepare_cached("SELECT sequence FROM duplicates WHERE first <= ?1 ORDER BY first LIMIT ?2")?;
        let parameters = params![to_sql(trimmed), limits::DUPLICATES_REMOVED_MAX as i64];
        let rows = select.query_map(parameters, |row| row.get(0).map(from_sql))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(super) fn size_bytes(&self) -> Result<u64, ReadError> {
        Ok(size_bytes(&self.log)?)
    }
}

/// The records of a chunk, copied out of SQLite into one buffer that all its events share.
struct Records {
    limit: Limit,
    bytes: Vec<u8>,
    /// Where each record ends.
    ends: Vec<(Sequence, usize)>,
    is_full: bool,
}

impl Records {
    fn new(limit: Limit) -> Self {
        Self {
            limit,
            bytes: Vec::new(),
            ends: Vec::new(),
            is_full: false,
        }
    }

    /// Takes in the next record; `false` if there is no room for it.
    fn take(&mut self, sequence: Sequence, record: &[u8]) -> bool {
        let Limit { events, bytes } = self.limit;
        let too_large = self.bytes.len() + record.len() > bytes && !self.ends.is_empty();
        self.is_full = self.ends.len() == events || too_large;
        if self.is_full {
            return false;
        }
        if self.ends.is_empty() {
            // The rest will be like the first, to the limit of one or the other.
            let rest = record.len().saturating_mul(events);
            self.bytes.reserve(
                rest.min(bytes)
                    .max(record.len())
                    .min(limits::REPLAY_CHUNK_BYTES_MAX),
            );
        }
        self.bytes.extend_from_slice(record);
        self.ends.push((sequence, self.bytes.len()));
        true
    }

    /// The events. They settle everything up to `scanned` unless there was one too many.
    fn chunk(self, direction: Direction, scanned: Sequence) -> Result<Chunk, ReadError> {
        let bytes = Bytes::from(self.bytes);
        let mut start = 0;
        let event = |(sequence, end)| {
            let record = bytes.slice(std::mem::replace(&mut start, end)..end);
            decode(sequence, record)
        };
        let events = self.ends.into_iter().map(event).collect::<Result<Vec<_>, _>>()?;
        let last = events.last().filter(|_| self.is_full).map(|last| last.sequence);
        let scanned = match (last, direction) {
            (None, _) => scanned,
            (Some(last), Direction::Forward) => last,
            (Some(last), Direction::Backward) => last.previous(),
        };
        Ok(Chunk { events, scanned })
    }
}

fn order(direction: Direction) -> &'static str {
    match direction {
        Direction::Forward => "ASC",
        Direction::Backward => "DESC",
    }
}

fn decode(sequence: Sequence, record: Bytes) -> Result<Arc<StoredEvent>, ReadError> {
    record::decode(sequence, record)
        .map(Arc::new)
        .map_err(|_| ReadError::Damaged { sequence })
}
