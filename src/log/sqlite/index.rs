//! `index.db`: identity and filter columns of every event, a segment of the log at a time. Owns which segments are in memory and
//! which are written down, and its keeping up to date; derived from the log and disposable, so it promises nothing that a rebuild
//! would not restore.
//!
//! Events are added to a segment in memory. When it has ended it is written down, in order and once: ids and resources are names in
//! no order, and in a tree on disk that all of them are added to, each new event would write pages of its own. What was in memory
//! is read from the log again at a start.
//!
//! It is written with `synchronous=NORMAL`: after a power cut it may be behind, never inconsistent, and the next start
//! reads the rest from the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::RwLock;
use roaring::RoaringBitmap;
use rusqlite::{Connection, params};

use super::{
    Shared,
    database::{self, LogDatabase, OpenError, Sight, from_sql, to_sql},
    ids::{self, Ids},
    segment::{self, Field, Lists, Name, Saved, Segment, last_of, segment_of, segments, sequences},
};
use crate::{
    event::{EventId, LogId, NewEvent, Sequence, StoredEvent},
    filter::{Filter, TypePattern},
    limits,
    log::{
        Direction, Range, record,
        twin::{Named, Search},
    },
};

const FORMAT: i64 = 4;
/// Write-ahead log of the index at which it is folded in (pages of 4 KiB). Its sync disturbs the log's: rare.
const WAL_PAGES_MAX: i64 = 4 * 1024;
/// Events that are added while readers wait.
const EVENTS_ADDED_AT_ONCE: usize = 256;

/// The index, open for writing.
#[derive(Debug)]
pub(super) struct Index {
    connection: Connection,
    /// The first segment that is not written down.
    next: u64,
}

/// What of the index is in memory.
#[derive(Debug, Default)]
pub(super) struct Indexed {
    /// The segments that are not written down: the newest, and for a moment the one before.
    newest: RwLock<BTreeMap<u64, Segment>>,
    pub(super) ids: Ids,
}

/// Opens the index and reads into it what it lacks of the log. One that is missing, damaged or of another log is made anew.
pub(super) fn open_up_to_date(
    path: &Path,
    log: &LogDatabase,
    mut progress: impl FnMut(u64, u64),
) -> Result<(Index, Indexed), OpenError> {
    let (mut index, indexed) = match Index::open(path, log) {
        Ok(Some(opened)) => opened,
        unusable => {
            if let Err(error) = unusable {
                tracing::warn!(%error, "the index is unusable and is rebuilt from the log");
            }
            database::remove(path)?;
            (Index::create(path, log.log_id())?, Indexed::default())
        }
    };
    let first = through(&index.connection)?.max(log.trimmed());
    index.next = segment_of(first.next());
    let total = log.tail().get().saturating_sub(first.get());
    read_log(&log.connection, first, log.tail(), |events, last| {
        indexed.add_ids(events);
        index.add(events, &indexed, log.trimmed())?;
        progress(last.get() - first.get(), total);
        Ok(())
    })?;
    Ok((index, indexed))
}

/// Reads the index that another process writes, and what it lacks of the log, without writing.
pub(super) fn look_at(path: &Path, log: &Connection, sight: Sight) -> Result<Indexed, OpenError> {
    let index = database::open_for_reading(path)?;
    let indexed = Indexed {
        ids: Ids::open(&index)?,
        ..Indexed::default()
    };
    let first = through(&index)?.max(sight.trimmed);
    read_log(log, first, sight.tail, |events, _| {
        indexed.add_ids(events);
        indexed.add(events);
        Ok(())
    })?;
    Ok(indexed)
}

/// The end of the last segment that was written down.
fn through(index: &Connection) -> Result<Sequence, rusqlite::Error> {
    let newest: Option<i64> = index.query_row("SELECT max(number) FROM segments", [], |row| row.get(0))?;
    Ok(newest.map_or(Sequence::ZERO, |number| last_of(number.cast_unsigned())))
}

/// Hands over the readable events of a part of the log, with the last sequence that was read, a batch at a time.
fn read_log(
    log: &Connection,
    after: Sequence,
    through: Sequence,
    mut take: impl FnMut(&[Arc<StoredEvent>], Sequence) -> Result<(), rusqlite::Error>,
) -> Result<(), rusqlite::Error> {
    let mut select = log.prepare_cached(
        "SELECT sequence, record FROM events WHERE sequence > ?1 AND sequence <= ?2 ORDER BY sequence LIMIT ?3",
    )?;
    let mut last = after;
    while last < through {
        let parameters = params![
            to_sql(last),
            to_sql(through),
            limits::INDEX_BATCH_EVENTS_MAX as i64
        ];
        let mut rows = select.query(parameters)?;
        let mut events = Vec::new();
        let before = last;
        while let Some(row) = rows.next()? {
            last = from_sql(row.get(0)?);
            let bytes = Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?);
            match record::decode(last, bytes) {
                Ok(event) => events.push(Arc::new(event)),
                Err(_) => {
                    tracing::error!(sequence = %last, "a record is damaged and is left out of the index")
                }
            }
        }
        if last == before {
            break;
        }
        take(&events, last)?;
    }
    Ok(())
}

impl Index {
    /// `None` if there is none, or one of another format or log.
    fn open(path: &Path, log: &LogDatabase) -> Result<Option<(Self, Indexed)>, OpenError> {
        if !path.exists() {
            return Ok(None);
        }
        let connection = database::open_for_writing(path, "NORMAL")?;
        let format: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if format != FORMAT {
            return Ok(None);
        }
        let (log_id, newest): (i64, i64) =
            connection.query_row("SELECT log_id, newest FROM state", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        if LogId::new(log_id.cast_unsigned()) != log.log_id() || from_sql(newest) > log.tail() {
            return Ok(None);
        }
        let indexed = Indexed {
            ids: Ids::open(&connection)?,
            ..Indexed::default()
        };
        Ok(Some((Self { connection, next: 0 }, indexed)))
    }

    fn create(path: &Path, log_id: LogId) -> Result<Self, OpenError> {
        let connection = database::open_for_writing(path, "NORMAL")?;
        // `newest` is the last event that was written down.
        connection.execute_batch(
            "BEGIN IMMEDIATE; CREATE TABLE state (log_id INTEGER NOT NULL, newest INTEGER NOT NULL);",
        )?;
        connection.execute_batch(segment::SCHEMA)?;
        connection.execute_batch(ids::SCHEMA)?;
        connection.execute(
            "INSERT INTO state VALUES (?1, 0)",
            params![log_id.get().cast_signed()],
        )?;
        connection.pragma_update(None, "user_version", FORMAT)?;
        connection.execute_batch("COMMIT")?;
        Ok(Self { connection, next: 0 })
    }

    /// The event types there are.
    pub(super) fn event_types(&self, indexed: &Indexed) -> Result<BTreeSet<String>, rusqlite::Error> {
        let mut select = self
            .connection
            .prepare("SELECT DISTINCT value FROM lists WHERE field = ?1")?;
        let saved = select.query_map([Field::EventType as i64], |row| row.get(0))?;
        let mut types = saved.collect::<Result<BTreeSet<_>, _>>()?;
        let newest = indexed.newest.read();
        types.extend(newest.values().flat_map(Segment::event_types).map(str::to_owned));
        types.remove("");
        Ok(types)
    }

    /// Adds events to what is in memory, in their order, and writes down what has ended by them. After an error it may be called
    /// again with the same: events that are there already change nothing.
    fn add(
        &mut self,
        events: &[Arc<StoredEvent>],
        indexed: &Indexed,
        trimmed: Sequence,
    ) -> Result<(), rusqlite::Error> {
        for part in events.chunk_by(|one, next| segment_of(one.sequence) == segment_of(next.sequence)) {
            let number = part.first().map_or(0, |first| segment_of(first.sequence));
            if number >= self.next {
                self.save_before(number, indexed, trimmed)?;
                indexed.add(part);
            }
        }
        Ok(())
    }

    /// Writes down the segments in memory that come before one, with the filters of their ids, and forgets what retention removed,
    /// in one transaction.
    fn save_before(
        &mut self,
        number: u64,
        indexed: &Indexed,
        trimmed: Sequence,
    ) -> Result<(), rusqlite::Error> {
        let newest = indexed.newest.read();
        let Some((_, last)) = newest.range(..number).next_back() else {
            return Ok(());
        };
        let last = last.newest();
        let transaction = self.connection.unchecked_transaction()?;
        for (_, segment) in newest.range(..number) {
            segment.save(&transaction)?;
            indexed.ids.save(&transaction, segment.newest())?;
        }
        segment::remove_before(&transaction, segment_of(trimmed.next()))?;
        ids::remove_before(&transaction, trimmed.next())?;
        transaction.execute("UPDATE state SET newest = ?1", [to_sql(last)])?;
        transaction.commit()?;
        drop(newest);
        self.next = number;
        // Not before: what is in neither form is nowhere.
        let mut newest = indexed.newest.write();
        *newest = newest.split_off(&number);
        drop(newest);
        if let Err(error) = self.fold_in_write_ahead_log() {
            tracing::warn!(%error, "the write-ahead log of the index could not be folded in; it grows");
        }
        Ok(())
    }

    fn fold_in_write_ahead_log(&self) -> Result<(), rusqlite::Error> {
        let pages: i64 = self
            .connection
            .query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get(1))?;
        if pages > WAL_PAGES_MAX {
            self.connection
                .query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))?;
        }
        Ok(())
    }
}

impl Indexed {
    /// All of the index, with what of it is written down.
    pub(super) fn view<'a>(&'a self, saved: &'a Connection) -> View<'a> {
        View { indexed: self, saved }
    }

    /// Notes the ids of events that were stored before the start; of those that are stored after it the writer does.
    fn add_ids(&self, events: &[Arc<StoredEvent>]) {
        for event in events {
            self.ids.add(event.event.id, event.sequence);
        }
    }

    fn add(&self, events: &[Arc<StoredEvent>]) {
        for few in events.chunks(EVENTS_ADDED_AT_ONCE) {
            let mut newest = self.newest.write();
            for event in few {
                let number = segment_of(event.sequence);
                let segment = newest.entry(number).or_insert_with(|| Segment::new(number));
                segment.add(event);
            }
        }
    }
}

/// All of the index, for reading.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    indexed: &'a Indexed,
    /// What is written down. Outside a transaction: one that began before a segment was written down does not see it.
    saved: &'a Connection,
}

impl View<'_> {
    /// The events of a part's segment that a look at its lists finds.
    fn look(
        self,
        part: Range,
        look: impl FnOnce(&dyn Lists) -> Result<RoaringBitmap, rusqlite::Error>,
    ) -> Result<RoaringBitmap, rusqlite::Error> {
        let number = segment_of(part.through);
        // In this order, because a segment leaves memory after it was written down.
        if let Some(segment) = self.indexed.newest.read().get(&number) {
            return look(segment);
        }
        look(&Saved {
            index: self.saved,
            number,
        })
    }

    /// The events of a part's segment that a filter wants; it may be that one is called otherwise.
    pub(super) fn matching(self, part: Range, filter: &Filter) -> Result<RoaringBitmap, rusqlite::Error> {
        self.look(part, |lists| lists.matching(filter))
    }

    /// How many events of a range a filter wants. A name's hash stands for it here: that another one has it too in a log of ten
    /// million is one chance in a billion.
    pub(super) fn count(self, range: Range, filter: &Filter) -> Result<u64, rusqlite::Error> {
        segments(range, Direction::Forward)
            .map(|part| Ok(segment::count(&self.matching(part, filter)?, part)))
            .sum()
    }

    /// The events of a range that may have this id, the newest first. What is not asked for is not looked up.
    pub(super) fn with_id(
        self,
        id: EventId,
        within: Range,
    ) -> impl Iterator<Item = Result<Sequence, rusqlite::Error>> {
        let places = self.indexed.ids.places(id, within).into_iter();
        let parts = places.flat_map(|place| segments(place, Direction::Backward));
        parts.flat_map(
            move |part| match self.look(part, |lists| lists.named(Name::id(id))) {
                Ok(found) => sequences(&found, part, Direction::Backward).map(Ok).collect(),
                Err(error) => vec![Err(error)],
            },
        )
    }

    /// The events of a range that are like an entry of the history in what the index knows; a bounded number, in order.
    pub(super) fn pushes_like(
        self,
        entry: &NewEvent,
        search: &Search,
        range: Range,
    ) -> Result<Vec<Sequence>, rusqlite::Error> {
        let keys = &entry.keys;
        let filter = |entity_id: &str| Filter {
            event_types: vec![TypePattern::Exact(keys.event_type.to_string())],
            entity_ids: vec![entity_id.to_owned()],
            callback_ids: Vec::new(),
            endpoints: vec![keys.endpoint.as_str().to_owned()],
        };
        let mut found = Vec::new();
        for part in segments(range, Direction::Forward) {
            let like = self.look(part, |lists| match Named::of(keys) {
                Named::Entity(id) => lists.matching(&filter(id)),
                Named::Callback(_) | Named::Data => lists.named(Name::subject(&search.subject)),
            })?;
            found.extend(sequences(&like, part, Direction::Forward));
            if found.len() >= limits::TWIN_CANDIDATES_MAX {
                break;
            }
        }
        found.truncate(limits::TWIN_CANDIDATES_MAX);
        Ok(found)
    }
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
        match index.add(&batch, &shared.indexed, shared.trimmed()) {
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
    use super::*;
    use crate::event::Verification;

    fn event(sequence: u64) -> Arc<StoredEvent> {
        let body = format!(r#"{{"event_type":"a.b","event_data":{{"n":{sequence}}}}}"#);
        let time = jiff::Timestamp::UNIX_EPOCH;
        Arc::new(StoredEvent {
            sequence: Sequence::new(sequence),
            event: NewEvent::new(
                "dev".parse().unwrap(),
                Verification::CallbackToken,
                body.into(),
                time,
            ),
        })
    }

    /// A log of 30 events.
    fn log(directory: &Path) -> LogDatabase {
        let beginning = || database::Beginning {
            log_id: LogId::new(1),
            trimmed: Sequence::ZERO,
            received_at_us: i64::MIN,
        };
        let path = directory.join("log.db");
        let log = LogDatabase::open(&path, database::Durability::Synced, beginning).unwrap();
        for sequence in 1..=30_u64 {
            log.connection
                .execute(
                    "INSERT INTO events VALUES (?1, ?2)",
                    params![sequence.cast_signed(), record::encode(&event(sequence).event)],
                )
                .unwrap();
        }
        drop(log);
        LogDatabase::open(&path, database::Durability::Synced, beginning).unwrap()
    }

    #[test]
    fn what_was_written_down_is_not_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let log = log(directory.path());
        let path = directory.path().join("index.db");
        for read in [30, 7, 7] {
            let mut progress = Vec::new();
            let (_, indexed) =
                open_up_to_date(&path, &log, |done, total| progress.push((done, total))).unwrap();
            assert_eq!(progress, [(read, read)]);
            let saved = database::open_for_reading(&path).unwrap();
            assert_eq!(all(&indexed, &saved), (1..=30).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_index_that_is_not_of_this_log_or_of_this_form_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let log = log(directory.path());
        let path = directory.path().join("index.db");
        // The log ends with 30, and its last segment with 31.
        for (log_id, newest, format, is_used) in [
            (1, 30, FORMAT, true),
            (2, 30, FORMAT, false),
            (1, 31, FORMAT, false),
            (1, 30, FORMAT - 1, false),
        ] {
            database::remove(&path).unwrap();
            let mut index = Index::create(&path, LogId::new(log_id)).unwrap();
            let events: Vec<_> = (1..=newest).chain([32]).map(event).collect();
            index.add(&events, &Indexed::default(), Sequence::ZERO).unwrap();
            index
                .connection
                .pragma_update(None, "user_version", format)
                .unwrap();
            drop(index);
            let mut read = Vec::new();
            let (_, indexed) = open_up_to_date(&path, &log, |done, _| read.push(done)).unwrap();
            assert_eq!(read.is_empty(), is_used, "{log_id} {newest} {format}");
            let saved = database::open_for_reading(&path).unwrap();
            assert_eq!(all(&indexed, &saved), (1..=30).collect::<Vec<_>>());
        }
    }

    #[test]
    fn beside_its_writer_all_of_a_log_is_seen_however_much_of_it_is_written_down() {
        let directory = tempfile::tempdir().unwrap();
        let log = log(directory.path());
        let path = directory.path().join("index.db");
        let mut index = Index::create(&path, LogId::new(1)).unwrap();
        let sight = Sight {
            log_id: LogId::new(1),
            trimmed: Sequence::ZERO,
            tail: Sequence::new(29),
        };
        let saved = database::open_for_reading(&path).unwrap();
        let written = Indexed::default();
        for through in 1..=29 {
            let seen = look_at(&path, &log.connection, sight).unwrap();
            assert_eq!(all(&seen, &saved), (1..=29).collect::<Vec<_>>());
            let view = seen.view(&saved);
            for sequence in 1..=29 {
                let with_id = view.with_id(event(sequence).event.id, range(0, 29));
                let with_id: Vec<_> = with_id.map(Result::unwrap).collect();
                assert_eq!(with_id, [Sequence::new(sequence)]);
            }
            written.ids.add(event(through).event.id, Sequence::new(through));
            index.add(&[event(through)], &written, Sequence::ZERO).unwrap();
        }
    }

    fn range(after: u64, through: u64) -> Range {
        Range {
            after: Sequence::new(after),
            through: Sequence::new(through),
        }
    }

    fn all(indexed: &Indexed, saved: &Connection) -> Vec<u64> {
        let view = indexed.view(saved);
        let mut found = Vec::new();
        for part in segments(range(0, 100), Direction::Forward) {
            let matching = view.matching(part, &Filter::default()).unwrap();
            found.extend(sequences(&matching, part, Direction::Forward).map(Sequence::get));
        }
        found
    }

    /// A segment has eight events here.
    #[test]
    fn what_cannot_be_written_down_stays_in_memory_and_is_written_later() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index.db");
        let mut index = Index::create(&path, LogId::new(1)).unwrap();
        let indexed = Indexed::default();
        let reader = database::open_for_reading(&path).unwrap();
        let events: Vec<_> = (1..=20).map(event).collect();
        let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON segments WHEN NEW.number = 1 BEGIN SELECT RAISE(ABORT, 'no'); END";
        index.connection.execute_batch(refuse).unwrap();
        for _ in 0..2 {
            assert!(index.add(&events, &indexed, Sequence::ZERO).is_err());
            assert_eq!(all(&indexed, &reader), (1..=15).collect::<Vec<_>>());
            assert_eq!(through(&reader).unwrap(), Sequence::new(7));
        }
        index.connection.execute_batch("DROP TRIGGER refuse").unwrap();
        index.add(&events, &indexed, Sequence::ZERO).unwrap();
        assert_eq!(all(&indexed, &reader), (1..=20).collect::<Vec<_>>());
        assert_eq!(through(&reader).unwrap(), Sequence::new(15));
        assert_eq!(all(&Indexed::default(), &reader), (1..=15).collect::<Vec<_>>());
        // Once more: what was trimmed goes with the next that is written down.
        index.add(&[event(24)], &indexed, Sequence::new(9)).unwrap();
        assert_eq!(all(&Indexed::default(), &reader), (8..=20).collect::<Vec<_>>());
    }
}
