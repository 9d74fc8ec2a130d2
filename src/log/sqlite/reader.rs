//! Reading `log.db` and `index.db`. Owns the pool of read-only connections and the queries; refuses to write.

use std::{cmp::Reverse, path::Path, sync::Arc};

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};
use tokio::sync::Semaphore;

use super::{
    Shared,
    database::{from_sql, open_for_reading, size_bytes, to_sql},
    ids::Ids,
    index::{in_segment, segments},
    twins,
};
use crate::{
    event::{EventId, Keys, Sequence, StoredEvent},
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

/// The ids in the index.
pub(super) struct Identities<'a> {
    select: CachedStatement<'a>,
    kept: Range,
}

impl<'a> Identities<'a> {
    /// Of the events after `trimmed`.
    pub(super) fn of(index: &'a Connection, trimmed: Sequence) -> Result<Self, rusqlite::Error> {
        let newest: Option<i64> = index
            .prepare_cached("SELECT max(sequence) FROM events")?
            .query_row([], |row| row.get(0))?;
        let select = index.prepare_cached(&format!(
            "SELECT sequence FROM events WHERE {} AND id = ?1 AND sequence > ?2 AND sequence <= ?3
             ORDER BY sequence DESC LIMIT 1",
            in_segment()
        ))?;
        let through = newest.map_or(trimmed, from_sql);
        Ok(Self {
            select,
            kept: Range {
                after: trimmed,
                through,
            },
        })
    }

    /// The newest kept event with this id.
    pub(super) fn sequence(&mut self, id: EventId, ids: &Ids) -> Result<Option<Sequence>, rusqlite::Error> {
        let places = ids.places(id, self.kept).into_iter();
        for Range { after, through } in places.flat_map(|place| segments(place, Direction::Backward)) {
            let parameters = params![id.as_bytes(), to_sql(after), to_sql(through)];
            let found = self.select.query_row(parameters, |row| row.get(0).map(from_sql));
            if let Some(sequence) = found.optional()? {
                return Ok(Some(sequence));
            }
        }
        Ok(None)
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

/// A column of the index to look events up by, with the values to look for.
struct LookUp {
    column: &'static str,
    values: Vec<String>,
    /// Whether a row with one of the values certainly matches the filter.
    exact: bool,
}

impl LookUp {
    /// The most selective column that the filter names; `None` if it names none.
    fn of(filter: &Filter, known_types: impl FnOnce() -> Vec<String>) -> Option<Self> {
        let named = [
            !filter.callback_ids.is_empty(),
            !filter.entity_ids.is_empty(),
            !filter.event_types.is_empty(),
            !filter.endpoints.is_empty(),
        ];
        let exact = named.iter().filter(|&&named| named).count() == 1;
        let (column, mut values) = match named {
            [true, ..] => ("callback_id", filter.callback_ids.clone()),
            [_, true, ..] => ("entity_id", filter.entity_ids.clone()),
            [_, _, true, _] => {
                let wanted = |name: &String| filter.event_types.iter().any(|pattern| pattern.matches(name));
                ("event_type", known_types().into_iter().filter(wanted).collect())
            }
            [_, _, _, true] => ("endpoint", filter.endpoints.clone()),
            [false, false, false, false] => return None,
        };
        values.sort_unstable();
        values.dedup();
        Some(Self {
            column,
            values,
            exact,
        })
    }

    /// Whether the column is in segments.
    fn is_in_segments(&self) -> bool {
        matches!(self.column, "callback_id" | "entity_id")
    }

    /// Selects the rows that have a value (the first parameter) and lie between the second and the third.
    fn select(&self) -> String {
        let column = self.column;
        let segment = if self.is_in_segments() {
            in_segment()
        } else {
            "TRUE".to_owned()
        };
        // `<> ''` lets SQLite see that the partial indexes serve; a filter's values are never empty.
        format!(
            "SELECT sequence, event_type, entity_id, callback_id, endpoint FROM events
             WHERE {segment} AND {column} = ?1 AND {column} <> '' AND sequence > ?2 AND sequence <= ?3"
        )
    }

    /// The parts of a range to look up in, one after the other.
    fn parts(&self, range: Range, direction: Direction) -> Vec<Range> {
        if self.is_in_segments() {
            segments(range, direction).collect()
        } else {
            vec![range]
        }
    }
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
        match LookUp::of(filter, || shared.event_types.lock().iter().cloned().collect()) {
            None => self.scan(range, direction, limit),
            Some(look_up) => {
                let kept = Range {
                    after: range.after.max(shared.trimmed()),
                    ..range
                };
                let parts = look_up.parts(kept, direction);
                let end = range.end(direction);
                let (sequences, scanned) = self.look_up(&look_up, &parts, end, direction, filter, limit)?;
                self.fetch(&sequences, scanned, direction, limit)
            }
        }
    }

    /// Counts in a range that the index covers.
    pub(super) fn count(&self, range: Range, filter: &Filter, shared: &Shared) -> Result<u64, ReadError> {
        let Some(look_up) = LookUp::of(filter, || shared.event_types.lock().iter().cloned().collect()) else {
            let count = self
                .index
                .prepare_cached("SELECT count(*) FROM events WHERE sequence > ?1 AND sequence <= ?2")?
                .query_row([to_sql(range.after), to_sql(range.through)], |row| {
                    row.get::<_, i64>(0)
                })?;
            return Ok(count.cast_unsigned());
        };
        let mut select = self.index.prepare_cached(&look_up.select())?;
        let mut count = 0;
        for part in look_up.parts(range, Direction::Forward) {
            for value in &look_up.values {
                let mut rows = select.query(params![value, to_sql(part.after), to_sql(part.through)])?;
                while let Some(row) = rows.next()? {
                    count += u64::from(look_up.exact || filter.matches(&keys(row)?));
                }
            }
        }
        Ok(count)
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

    /// The sequences in the parts of a range that match the filter, in order, and how far they are complete: to the `end` of the
    /// range, or less.
    ///
    /// Every value is looked up by itself, because SQLite walks an index in order for one value only. A value that had more
    /// rows than were read bounds how far the merged answer is complete.
    fn look_up(
        &self,
        look_up: &LookUp,
        parts: &[Range],
        end: Sequence,
        direction: Direction,
        filter: &Filter,
        limit: Limit,
    ) -> Result<(Vec<Sequence>, Sequence), ReadError> {
        let LookUp { values, exact, .. } = look_up;
        let rows_max = if *exact {
            limit.events
        } else {
            (limits::READ_ROWS_MAX / values.len().max(1)).max(limit.events)
        };
        let select = format!(
            "{} ORDER BY sequence {} LIMIT ?4",
            look_up.select(),
            order(direction)
        );
        let mut select = self.index.prepare_cached(&select)?;
        let mut scanned = end;
        let mut found = Vec::new();
        for value in values {
            let (mut count, mut last) = (0, None);
            for part in parts {
                let rest = (rows_max - count) as i64;
                let parameters = params![value, to_sql(part.after), to_sql(part.through), rest];
                let mut rows = select.query(parameters)?;
                while let Some(row) = rows.next()? {
                    let sequence = from_sql(row.get(0)?);
                    (count, last) = (count + 1, Some(sequence));
                    if *exact || filter.matches(&keys(row)?) {
                        found.push(sequence);
                    }
                }
                if count == rows_max {
                    break;
                }
            }
            if let Some(last) = last.filter(|_| count == rows_max) {
                scanned = match direction {
                    Direction::Forward => scanned.min(last),
                    Direction::Backward => scanned.max(last.previous()),
                };
            }
        }
        match direction {
            Direction::Forward => {
                found.retain(|&sequence| sequence <= scanned);
                found.sort_unstable();
            }
            Direction::Backward => {
                found.retain(|&sequence| sequence > scanned);
                found.sort_unstable_by_key(|&sequence| Reverse(sequence));
            }
        }
        found.dedup();
        Ok((found, scanned))
    }

    /// Reads the records of these sequences as far as the limit allows.
    fn fetch(
        &self,
        sequences: &[Sequence],
        scanned: Sequence,
        direction: Direction,
        limit: Limit,
    ) -> Result<Chunk, ReadError> {
        let mut select = self
            .log
            .prepare_cached("SELECT record FROM events WHERE sequence = ?1")?;
        let mut records = Records::new(limit);
        for &sequence in sequences {
            // A row that is not there was trimmed; the caller looks at the trim point when it has its answer.
            let mut rows = select.query([to_sql(sequence)])?;
            let Some(row) = rows.next()? else { continue };
            let record = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
            if !records.take(sequence, record) {
                break;
            }
        }
        records.chunk(direction, scanned)
    }

    /// The kept event with this id, as its own or as its alias.
    pub(super) fn find(&self, id: EventId, shared: &Shared) -> Result<Option<Arc<StoredEvent>>, ReadError> {
        let mut identities = Identities::of(&self.index, shared.trimmed())?;
        let sequence = match identities.sequence(id, &shared.ids)? {
            Some(sequence) => Some(sequence),
            None => twins::sequence_of_alias(&self.log, id)?,
        };
        let Some(sequence) = sequence else {
            return Ok(None);
        };
        let limit = Limit {
            events: 1,
            bytes: usize::MAX,
        };
        Ok(self
            .fetch(&[sequence], sequence, Direction::Forward, limit)?
            .events
            .pop())
    }

    /// The position just before the first event received at or after `time`: a binary search, because the log keeps
    /// `received_at` in order.
    pub(super) fn before_time(&self, bounds: Bounds, time: Timestamp) -> Result<Sequence, ReadError> {
        let mut select = self.log.prepare_cached(
            "SELECT sequence, record FROM events WHERE sequence > ?1 ORDER BY sequence LIMIT 1",
        )?;
        let (mut before, mut end) = (bounds.trimmed.get(), bounds.tail.get());
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

fn keys(row: &rusqlite::Row<'_>) -> Result<Keys, rusqlite::Error> {
    let endpoint: String = row.get(4)?;
    let invalid =
        |error| rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Text, Box::new(error));
    Ok(Keys {
        event_type: row.get::<_, String>(1)?.into(),
        entity_id: row.get::<_, String>(2)?.into(),
        callback_id: row.get::<_, String>(3)?.into(),
        endpoint: endpoint.parse().map_err(invalid)?,
    })
}
