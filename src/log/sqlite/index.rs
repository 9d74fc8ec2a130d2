//! `index.db`: identity and filter columns of every event. Owns its schema and keeping it up to date; derived from the log
//! and disposable, so it promises nothing that a rebuild would not restore.
//!
//! Ids, resources and callbacks are names in no order. In one B-tree of them all, each new event would dirty another page of it, more
//! of them the more events there are; so what is looked up by them is in segments of the log, each of which fits in memory, and an
//! event dirties pages of the newest alone. Whoever looks something up goes from segment to segment.
//!
//! It is written with `synchronous=NORMAL`: after a power cut it may be behind, never inconsistent, and the next start
//! reads the rest from the log.

use std::{collections::BTreeSet, ops::RangeInclusive, path::Path, sync::Arc, thread, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, ToSql, params};

use super::{
    Shared,
    database::{self, LogDatabase, OpenError, from_sql, to_sql},
    ids::{self, Ids},
};
use crate::{
    event::{LogId, NewEvent, Sequence, StoredEvent},
    limits,
    log::{
        Direction, Range, record,
        twin::{self, Named, Search, Subject},
    },
};

const FORMAT: i64 = 3;
/// Events of a segment, as a power of two: about 3 MiB of a B-tree. A log of ten million has 150 of them.
/// Unit tests, whose logs are short, have many, too.
pub(super) const SEGMENT_BITS: u32 = if cfg!(test) { 3 } else { 16 };
/// Write-ahead log of the index at which it is folded in (pages of 4 KiB). Its sync disturbs the log's: rare.
const WAL_PAGES_MAX: i64 = 16 * 1024;

/// The index, open for writing.
#[derive(Debug)]
pub(super) struct Index {
    connection: Connection,
    through: Sequence,
}

/// Opens the index and reads into it what it lacks of the log. One that is missing, damaged or of another log is made anew.
pub(super) fn open_up_to_date(
    path: &Path,
    log: &mut LogDatabase,
    mut progress: impl FnMut(u64, u64),
) -> Result<Index, OpenError> {
    let mut index = match Index::open(path, log) {
        Ok(Some(index)) => index,
        unusable => {
            if let Err(error) = unusable {
                tracing::warn!(%error, "the index is unusable and is rebuilt from the log");
            }
            database::remove(path)?;
            Index::create(path, log.log_id())?
        }
    };
    index.through = index.through.max(log.trimmed());
    let first = index.through.get();
    let total = log.tail().get().saturating_sub(first);
    while index.through < log.tail() {
        let events = read_batch(&log.connection, index.through)?;
        let Some(&(last, _)) = events.last() else { break };
        let readable: Vec<_> = events
            .into_iter()
            .filter_map(|(_, event)| event.map(Arc::new))
            .collect();
        index.write(&readable, last, log.trimmed(), None)?;
        progress(last.get() - first, total);
    }
    Ok(index)
}

type Read = (Sequence, Option<StoredEvent>);

fn read_batch(log: &Connection, after: Sequence) -> Result<Vec<Read>, rusqlite::Error> {
    let mut select = log.prepare_cached(
        "SELECT sequence, record FROM events WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
    )?;
    let rows = select.query_map(
        params![to_sql(after), limits::INDEX_BATCH_EVENTS_MAX as i64],
        |row| {
            let (sequence, bytes) = (from_sql(row.get(0)?), row.get::<_, Vec<u8>>(1)?);
            let event = record::decode(sequence, Bytes::from(bytes)).ok();
            if event.is_none() {
                tracing::error!(%sequence, "a record is damaged and is left out of the index");
            }
            Ok((sequence, event))
        },
    )?;
    rows.collect()
}

impl Index {
    /// `None` if there is none, or one of another format or log.
    fn open(path: &Path, log: &LogDatabase) -> Result<Option<Self>, OpenError> {
        if !path.exists() {
            return Ok(None);
        }
        let connection = database::open_for_writing(path, "NORMAL")?;
        let format: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if format != FORMAT {
            return Ok(None);
        }
        let (log_id, through): (i64, i64) =
            connection.query_row("SELECT log_id, through FROM state", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let newest: Option<i64> =
            connection.query_row("SELECT max(sequence) FROM events", [], |row| row.get(0))?;
        let through = from_sql(through);
        let ours = LogId::new(log_id.cast_unsigned()) == log.log_id()
            && through <= log.tail()
            && newest.map_or(Sequence::ZERO, from_sql) <= through;
        Ok(ours.then_some(Self { connection, through }))
    }

    fn create(path: &Path, log_id: LogId) -> Result<Self, OpenError> {
        let connection = database::open_for_writing(path, "NORMAL")?;
        connection.execute_batch(
            "BEGIN IMMEDIATE;
             CREATE TABLE state (log_id INTEGER NOT NULL, through INTEGER NOT NULL);
             CREATE TABLE events (
               sequence INTEGER PRIMARY KEY,
               id BLOB NOT NULL,
               event_type TEXT NOT NULL,
               entity_id TEXT NOT NULL,
               callback_id TEXT NOT NULL,
               endpoint TEXT NOT NULL,
               received_at_us INTEGER NOT NULL,
               subject BLOB
             );
             CREATE INDEX by_event_type ON events (event_type);
             CREATE INDEX by_endpoint ON events (endpoint);",
        )?;
        connection.execute_batch(&format!(
            "CREATE INDEX by_id ON events (sequence >> {SEGMENT_BITS}, id);
             CREATE INDEX by_entity_id ON events (sequence >> {SEGMENT_BITS}, entity_id) WHERE entity_id <> '';
             CREATE INDEX by_callback_id ON events (sequence >> {SEGMENT_BITS}, callback_id) WHERE callback_id <> '';
             CREATE INDEX by_subject ON events (sequence >> {SEGMENT_BITS}, subject) WHERE subject IS NOT NULL;"
        ))?;
        connection.execute_batch(ids::SCHEMA)?;
        connection.execute(
            "INSERT INTO state VALUES (?1, 0)",
            params![log_id.get().cast_signed()],
        )?;
        connection.pragma_update(None, "user_version", FORMAT)?;
        connection.execute_batch("COMMIT")?;
        Ok(Self {
            connection,
            through: Sequence::ZERO,
        })
    }

    /// The ids of the events that are kept.
    pub(super) fn ids(&self, kept: Range) -> Result<Ids, rusqlite::Error> {
        Ids::open(&self.connection, kept)
    }

    /// The event types there are, by skipping from one to the next.
    pub(super) fn event_types(&self) -> Result<BTreeSet<String>, rusqlite::Error> {
        let mut types = BTreeSet::new();
        let mut select = self
            .connection
            .prepare("SELECT event_type FROM events WHERE event_type > ?1 ORDER BY event_type LIMIT 1")?;
        let mut last = String::new();
        while let Some(next) = select
            .query_row([&last], |row| row.get::<_, String>(0))
            .optional()?
        {
            types.insert(next.clone());
            last = next;
        }
        Ok(types)
    }

    /// Adds events, and forgets those that retention removed, in one transaction with how far the index got and with the filters
    /// of the chapters that have ended by that.
    fn write(
        &mut self,
        events: &[Arc<StoredEvent>],
        through: Sequence,
        trimmed: Sequence,
        ids: Option<&Ids>,
    ) -> Result<(), rusqlite::Error> {
        let transaction = self.connection.unchecked_transaction()?;
        let mut insert =
            transaction.prepare_cached("INSERT INTO events VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
        for event in events.iter().filter(|event| event.sequence > trimmed) {
            let keys = &event.event.keys;
            insert.execute(params![
                to_sql(event.sequence),
                event.event.id.as_bytes(),
                &*keys.event_type,
                &*keys.entity_id,
                &*keys.callback_id,
                keys.endpoint.as_str(),
                event.event.received_at.as_microsecond(),
                subject(&event.event).as_ref().map(Subject::as_bytes),
            ])?;
        }
        drop(insert);
        transaction.execute("DELETE FROM events WHERE sequence <= ?1", [to_sql(trimmed)])?;
        transaction.execute("UPDATE state SET through = ?1", [to_sql(through)])?;
        let saved = ids
            .map(|ids| ids.save(&transaction, through, trimmed))
            .transpose()?;
        transaction.commit()?;
        if let (Some(ids), Some(saved)) = (ids, saved) {
            ids.saved(&saved);
        }
        self.through = through;
        self.fold_in_write_ahead_log()
    }

    fn fold_in_write_ahead_log(&self) -> Result<(), rusqlite::Error> {
        let pages: i64 = self
            .connection
            .query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get(1))
            .unwrap_or(i64::MAX);
        if pages > WAL_PAGES_MAX {
            self.connection
                .query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))?;
        }
        Ok(())
    }
}

/// The subject of a push that is to be found by nothing else.
fn subject(event: &NewEvent) -> Option<Subject> {
    (twin::is_push(event) && Named::of(&event.keys) == Named::Data)
        .then(|| Subject::of(event))
        .flatten()
}

/// That a row is in the segment in which the range that ends with the third parameter lies: to be said wherever a column is looked
/// up that is in segments.
pub(super) fn in_segment() -> String {
    format!("sequence >> {SEGMENT_BITS} = ?3 >> {SEGMENT_BITS}")
}

/// The parts of a range that lie in one segment each, from its beginning or from its end.
pub(super) fn segments(range: Range, direction: Direction) -> impl Iterator<Item = Range> {
    let segment = |sequence: Sequence| sequence.get() >> SEGMENT_BITS;
    let mut numbers = segment(range.after.next())..=segment(range.through);
    let next = move || match direction {
        Direction::Forward => numbers.next(),
        Direction::Backward => numbers.next_back(),
    };
    std::iter::from_fn(next).map(move |number| part_of(range, SEGMENT_BITS, number))
}

/// The part of a range in one of the blocks of two to the power of `bits` that a log is divided into; empty if its end is not
/// past its beginning.
pub(super) fn part_of(range: Range, bits: u32, number: u64) -> Range {
    let first = number << bits;
    let last = first | ((1 << bits) - 1);
    Range {
        after: range.after.max(Sequence::new(first).previous()),
        through: range.through.min(Sequence::new(last)),
    }
}

/// The events received within `times` that are like an entry of the history in what the index knows; a bounded number, in
/// order.
pub(super) fn pushes_like(
    index: &Connection,
    entry: &NewEvent,
    search: &Search,
    times: &RangeInclusive<Timestamp>,
    trimmed: Sequence,
) -> Result<Vec<Sequence>, rusqlite::Error> {
    let keys = &entry.keys;
    let (name, value): (&str, &dyn ToSql) = match Named::of(keys) {
        Named::Entity(_) => ("entity_id = ?1 AND entity_id <> ''", &&*keys.entity_id),
        Named::Callback(_) => (
            "callback_id = ?1 AND callback_id <> '' AND +entity_id = ''",
            &&*keys.callback_id,
        ),
        Named::Data => ("subject = ?1", &search.subject.as_bytes()),
    };
    let after = before_time(index, trimmed, times.start().as_microsecond())?;
    let through = before_time(index, after, times.end().as_microsecond().saturating_add(1))?;
    // With `+` a column is compared and not looked up by: the name is the more selective.
    let mut select = index.prepare_cached(&format!(
        "SELECT sequence FROM events
         WHERE {} AND {name} AND sequence > ?2 AND sequence <= ?3 AND +event_type = ?4 AND +endpoint = ?5
         ORDER BY sequence LIMIT ?6",
        in_segment()
    ))?;
    let mut found = Vec::new();
    for Range { after, through } in segments(Range { after, through }, Direction::Forward) {
        let parameters = params![
            value,
            to_sql(after),
            to_sql(through),
            &*keys.event_type,
            keys.endpoint.as_str(),
            (limits::TWIN_CANDIDATES_MAX - found.len()) as i64,
        ];
        for sequence in select.query_map(parameters, |row| row.get(0).map(from_sql))? {
            found.push(sequence?);
        }
    }
    Ok(found)
}

/// The position just before the first indexed event after `after` that was received at or after a time: a binary search.
fn before_time(index: &Connection, after: Sequence, time_us: i64) -> Result<Sequence, rusqlite::Error> {
    let mut select = index.prepare_cached(
        "SELECT sequence, received_at_us FROM events WHERE sequence > ?1 ORDER BY sequence LIMIT 1",
    )?;
    let newest: Option<i64> = index
        .prepare_cached("SELECT max(sequence) FROM events")?
        .query_row([], |row| row.get(0))?;
    let (mut before, mut end) = (after.get(), newest.map_or(Sequence::ZERO, from_sql).get());
    while before < end {
        let middle = before + (end - before) / 2;
        let next: Option<(i64, i64)> = select
            .query_row([to_sql(Sequence::new(middle))], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        match next {
            Some((sequence, received_at_us)) if received_at_us < time_us => before = from_sql(sequence).get(),
            _ => end = middle,
        }
    }
    Ok(Sequence::new(before))
}

/// Follows the log until it closes: the body of the index's thread.
pub(super) fn follow(mut index: Index, shared: &Shared) {
    loop {
        let batch = shared.recent.next_batch();
        let last = match batch.last() {
            Some(event) => event.sequence,
            None if shared.recent.is_closing() => break,
            None => continue,
        };
        match index.write(&batch, last, shared.trimmed(), Some(&shared.ids)) {
            Ok(()) => {
                let lag = shared.recent.forget_through(last);
                shared.metrics.index_lag_events.set(lag as i64);
            }
            Err(error) => {
                // At the bound of its lag the writer waits, so deliveries are refused rather than memory filled.
                tracing::error!(%error, "the index cannot be written; trying again");
                if shared.recent.is_closing() {
                    break;
                }
                thread::sleep(Duration::from_secs(1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_range_is_its_segments_one_after_the_other(after in 0_u64..100, length in 1_u64..100) {
            let range = Range {
                after: Sequence::new(after),
                through: Sequence::new(after + length),
            };
            let parts: Vec<_> = segments(range, Direction::Forward).collect();
            prop_assert_eq!(parts.first().map(|part| part.after), Some(range.after));
            prop_assert_eq!(parts.last().map(|part| part.through), Some(range.through));
            for pair in parts.windows(2) {
                prop_assert_eq!(pair[0].through, pair[1].after);
            }
            for part in &parts {
                let segment = |sequence: Sequence| sequence.get() >> SEGMENT_BITS;
                prop_assert!(part.after < part.through);
                prop_assert_eq!(segment(part.after.next()), segment(part.through));
            }
            let mut falling: Vec<_> = segments(range, Direction::Backward).collect();
            falling.reverse();
            prop_assert_eq!(falling, parts);
        }
    }

    #[test]
    fn what_is_in_segments_is_looked_up_in_an_index_of_them() {
        let directory = tempfile::tempdir().unwrap();
        let index = Index::create(&directory.path().join("index.db"), LogId::new(1)).unwrap();
        for (condition, name) in [
            ("id = ?1", "by_id"),
            ("entity_id = ?1 AND entity_id <> ''", "by_entity_id"),
            ("callback_id = ?1 AND callback_id <> ''", "by_callback_id"),
            ("subject = ?1", "by_subject"),
        ] {
            let select = format!(
                "EXPLAIN QUERY PLAN SELECT sequence FROM events
                 WHERE {} AND {condition} AND sequence > ?2 AND sequence <= ?3 ORDER BY sequence",
                in_segment()
            );
            let plan: String = index
                .connection
                .query_row(&select, params!["x", 1, 2], |row| row.get(3))
                .unwrap();
            let expected = format!("INDEX {name} (<expr>=? AND");
            assert!(plan.contains(&expected), "{plan}");
        }
    }
}
