//! Which ids the log may have, and where, in memory. Owns the answer "certainly not", which is the one for nearly every delivery
//! and spares it the index; refuses to know which event has an id.
//!
//! There is a filter for each chapter of the log, a number of the index's segments, so what retention removed goes, and of an id
//! that may be there only a part of the index is looked through. Filters of chapters that have ended are kept in the index, so that
//! a start has to read the ids of one chapter alone.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use fastbloom::AtomicBloomFilter;
use parking_lot::RwLock;
use rusqlite::{Connection, OptionalExtension, params, types::Null};

use super::{
    database::{from_sql, open_for_reading, to_sql},
    index::{SEGMENT_BITS, in_segment, part_of, segments},
};
use crate::{
    event::{EventId, Sequence},
    limits,
    log::{Direction, Range},
};

/// Events of a chapter, as a power of two.
const CHAPTER_BITS: u32 = SEGMENT_BITS + 4;

/// Filters in the index. Those of chapters that are not there are made from its events.
pub(super) const SCHEMA: &str = "CREATE TABLE chapters (number INTEGER PRIMARY KEY, ids BLOB NOT NULL);";

/// The ids of all kept events, and their aliases.
#[derive(Debug, Default)]
pub(super) struct Ids {
    by_chapter: RwLock<BTreeMap<u64, Chapter>>,
    /// Whether the aliases from before the start are in.
    has_aliases: AtomicBool,
}

#[derive(Debug)]
struct Chapter {
    filter: AtomicBloomFilter,
    /// Whether the ids from before the start are in.
    is_whole: AtomicBool,
    is_saved: AtomicBool,
}

impl Chapter {
    fn new(is_whole: bool) -> Self {
        Self::with(new_filter(), is_whole, false)
    }

    fn with(filter: AtomicBloomFilter, is_whole: bool, is_saved: bool) -> Self {
        Self {
            filter,
            is_whole: AtomicBool::new(is_whole),
            is_saved: AtomicBool::new(is_saved),
        }
    }

    /// One that was saved, if it is of the form that this version saves.
    fn saved(ids: &[u8]) -> Option<Self> {
        let (words, rest) = ids.as_chunks::<8>();
        let like = new_filter();
        if !rest.is_empty() || words.len() * 64 != like.num_bits() {
            return None;
        }
        let words: Vec<_> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let filter = AtomicBloomFilter::from_vec(words).hashes(like.num_hashes());
        Some(Self::with(filter, true, true))
    }

    fn may_have(&self, hash: u64) -> bool {
        !self.is_whole.load(Ordering::Acquire) || self.filter.contains_hash(hash)
    }
}

fn new_filter() -> AtomicBloomFilter {
    AtomicBloomFilter::with_false_pos(limits::KNOWN_IDS_FALSE_POSITIVES).expected_items(1 << CHAPTER_BITS)
}

/// The chapter of an event.
fn chapter_of(sequence: Sequence) -> u64 {
    sequence.get() >> CHAPTER_BITS
}

impl Ids {
    /// The ids of a log that keeps this, as far as the index has filters of them.
    pub(super) fn open(index: &Connection, kept: Range) -> Result<Self, rusqlite::Error> {
        let ids = Self::default();
        if kept.after < kept.through {
            let mut select = index.prepare("SELECT ids FROM chapters WHERE number = ?1")?;
            let mut by_chapter = ids.by_chapter.write();
            for number in chapter_of(kept.after.next())..=chapter_of(kept.through) {
                let saved: Option<Vec<u8>> = select
                    .query_row([number.cast_signed()], |row| row.get(0))
                    .optional()?;
                let saved = saved.and_then(|saved| Chapter::saved(&saved));
                by_chapter.insert(number, saved.unwrap_or_else(|| Chapter::new(false)));
            }
        }
        Ok(ids)
    }

    /// Notes the id of the event at a place, or an alias of it.
    pub(super) fn add(&self, id: EventId, sequence: Sequence) {
        self.add_hash(hash(id.as_bytes()), sequence);
    }

    fn add_hash(&self, hash: u64, sequence: Sequence) {
        let number = chapter_of(sequence);
        if let Some(chapter) = self.by_chapter.read().get(&number) {
            chapter.filter.insert_hash(hash);
            return;
        }
        // One that was not there at the start has no ids from before it.
        let mut by_chapter = self.by_chapter.write();
        let chapter = by_chapter.entry(number).or_insert_with(|| Chapter::new(true));
        chapter.filter.insert_hash(hash);
    }

    /// Forgets the chapters of which nothing is kept.
    pub(super) fn forget_through(&self, trimmed: Sequence) {
        let mut by_chapter = self.by_chapter.write();
        *by_chapter = by_chapter.split_off(&chapter_of(trimmed.next()));
    }

    /// Whether the log may have this id. It has not if this says so.
    pub(super) fn may_have(&self, id: EventId) -> bool {
        let hash = hash(id.as_bytes());
        !self.has_aliases.load(Ordering::Acquire)
            || self
                .by_chapter
                .read()
                .values()
                .any(|chapter| chapter.may_have(hash))
    }

    /// The parts of a range in which an event with this id may be, from the end; no others have one.
    pub(super) fn places(&self, id: EventId, within: Range) -> Vec<Range> {
        let hash = hash(id.as_bytes());
        let by_chapter = self.by_chapter.read();
        let chapters = by_chapter.iter().rev();
        chapters
            .filter(|(_, chapter)| chapter.may_have(hash))
            .map(|(&number, _)| part_of(within, CHAPTER_BITS, number))
            .filter(|part| part.after < part.through)
            .collect()
    }

    /// Saves the filters of chapters that have ended and are in the index up to here, and removes those of which nothing is
    /// kept. Which those are that were saved, to be noted once that is committed.
    pub(super) fn save(
        &self,
        index: &Connection,
        through: Sequence,
        trimmed: Sequence,
    ) -> Result<Vec<u64>, rusqlite::Error> {
        index
            .prepare_cached("DELETE FROM chapters WHERE number < ?1")?
            .execute([chapter_of(trimmed.next()).cast_signed()])?;
        let ended = chapter_of(through.next());
        let by_chapter = self.by_chapter.read();
        let due = |(_, chapter): &(&u64, &Chapter)| {
            chapter.is_whole.load(Ordering::Acquire) && !chapter.is_saved.load(Ordering::Acquire)
        };
        let mut saved = Vec::new();
        for (&number, chapter) in by_chapter.range(..ended).filter(due) {
            let ids: Vec<u8> = chapter.filter.iter().flat_map(u64::to_le_bytes).collect();
            index.execute(
                "INSERT OR REPLACE INTO chapters VALUES (?1, ?2)",
                params![number.cast_signed(), ids],
            )?;
            saved.push(number);
        }
        Ok(saved)
    }

    /// Notes which filters are saved.
    pub(super) fn saved(&self, numbers: &[u64]) {
        let by_chapter = self.by_chapter.read();
        for chapter in numbers.iter().filter_map(|number| by_chapter.get(number)) {
            chapter.is_saved.store(true, Ordering::Release);
        }
    }

    /// Reads what was there before the start and is in no saved filter. Until that is done every id may be there. Blocks.
    pub(super) fn complete(&self, log: &Path, index: &Path, is_closing: impl Fn() -> bool) {
        let read = || {
            let aliases = open_for_reading(log)?;
            let all = self.read(&aliases, "SELECT sequence, id FROM aliases", None, &is_closing)?;
            self.has_aliases.store(all, Ordering::Release);
            self.read_chapters(&open_for_reading(index)?, &is_closing)
        };
        if let Err(error) = read() {
            tracing::warn!(%error, "the ids of events cannot be read: each delivery is looked up");
        }
    }

    /// Reads the chapters that are not whole, the newest first.
    fn read_chapters(
        &self,
        index: &Connection,
        is_closing: &impl Fn() -> bool,
    ) -> Result<(), rusqlite::Error> {
        let newest: Option<i64> =
            index.query_row("SELECT max(sequence) FROM events", [], |row| row.get(0))?;
        let all = Range {
            after: Sequence::ZERO,
            through: newest.map_or(Sequence::ZERO, from_sql),
        };
        let lacking: Vec<_> = {
            let by_chapter = self.by_chapter.read();
            let is_lacking = |(_, chapter): &(&u64, &Chapter)| !chapter.is_whole.load(Ordering::Acquire);
            by_chapter
                .iter()
                .filter(is_lacking)
                .map(|(&number, _)| number)
                .collect()
        };
        let select = format!(
            "SELECT sequence, id FROM events WHERE {} AND sequence > ?2 AND sequence <= ?3",
            in_segment()
        );
        for number in lacking.into_iter().rev() {
            for segment in segments(part_of(all, CHAPTER_BITS, number), Direction::Forward) {
                if !self.read(index, &select, Some(segment), is_closing)? {
                    return Ok(());
                }
            }
            if let Some(chapter) = self.by_chapter.read().get(&number) {
                chapter.is_whole.store(true, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Whether it got to the end.
    fn read(
        &self,
        connection: &Connection,
        select: &str,
        within: Option<Range>,
        is_closing: impl Fn() -> bool,
    ) -> Result<bool, rusqlite::Error> {
        let mut select = connection.prepare_cached(select)?;
        let mut rows = match within {
            Some(Range { after, through }) => select.query(params![Null, to_sql(after), to_sql(through)])?,
            None => select.query([])?,
        };
        let mut count = 0_u64;
        while let Some(row) = rows.next()? {
            if count.is_multiple_of(1024) && is_closing() {
                return Ok(false);
            }
            self.add_hash(hash(row.get_ref(1)?.as_blob()?), from_sql(row.get(0)?));
            count += 1;
        }
        Ok(true)
    }
}

/// An id is a digest, so a part of it is as good as a hash. The seed is not needed against chosen ids: they cost a look-up
/// each, as every id would without the filter.
fn hash(id: &[u8]) -> u64 {
    id.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> EventId {
        let mut bytes = [7; 16];
        bytes[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        EventId::from_bytes(&bytes).unwrap()
    }

    fn range(after: u64, through: u64) -> Range {
        Range {
            after: Sequence::new(after),
            through: Sequence::new(through),
        }
    }

    fn complete() -> Ids {
        let ids = Ids::default();
        ids.has_aliases.store(true, Ordering::Release);
        ids
    }

    fn index_with_chapters() -> Connection {
        let index = Connection::open_in_memory().unwrap();
        index.execute_batch(SCHEMA).unwrap();
        index
    }

    #[test]
    fn every_id_may_be_anywhere_until_the_old_ones_are_read() {
        let ids = Ids::open(&index_with_chapters(), range(3, 9)).unwrap();
        assert!(ids.may_have(id(1)));
        assert_eq!(ids.places(id(1), range(3, 9)), [range(3, 9)]);
    }

    #[test]
    fn chapters_that_have_ended_are_as_they_were_after_a_restart() {
        let (ids, index) = (complete(), index_with_chapters());
        let chapter = 1 << CHAPTER_BITS;
        for sequence in 1..2 * chapter {
            ids.add(id(sequence), Sequence::new(sequence));
        }
        let saved = |through, trimmed| {
            let saved = ids
                .save(&index, Sequence::new(through), Sequence::new(trimmed))
                .unwrap();
            ids.saved(&saved);
            saved
        };
        assert!(saved(chapter - 2, 0).is_empty());
        assert_eq!(saved(chapter - 1, 0), [0]);
        assert!(saved(chapter, 0).is_empty());
        let restarted = Ids::open(&index, range(0, 2 * chapter - 1)).unwrap();
        let first = |number| restarted.places(id(number), range(0, chapter - 1)).len();
        assert_eq!((first(1), first(chapter - 1)), (1, 1));
        let others: usize = (1_000_000..1_001_000).map(first).sum();
        assert!(others < 10, "{others} of 1,000");
        // The second was not over yet.
        assert_eq!(
            restarted.places(id(1_000_000), range(chapter, 2 * chapter)).len(),
            1
        );
        assert!(saved(chapter, chapter).is_empty());
        let trimmed = Ids::open(&index, range(0, chapter - 1)).unwrap();
        assert_eq!(trimmed.places(id(1_000_000), range(0, chapter - 1)).len(), 1);
    }

    #[test]
    fn a_filter_of_another_form_is_not_used() {
        let bytes = new_filter().num_bits() / 8;
        assert!(Chapter::saved(&vec![0; bytes]).is_some());
        for other in [0, 8, bytes - 8, bytes + 1, bytes + 8] {
            assert!(Chapter::saved(&vec![0; other]).is_none(), "{other}");
        }
    }

    /// Ids after a start on an index of 2,000 events and a log with an alias of the first.
    fn after_a_start(is_closing: impl Fn() -> bool) -> Ids {
        let directory = tempfile::tempdir().unwrap();
        let (log, index) = (directory.path().join("log.db"), directory.path().join("index.db"));
        let create = |path, table| {
            let connection = Connection::open(path).unwrap();
            connection
                .execute_batch(&format!("CREATE TABLE {table} (sequence INTEGER, id BLOB);"))
                .unwrap();
            connection
        };
        let (aliases, events) = (create(&log, "aliases"), create(&index, "events"));
        events.execute_batch(SCHEMA).unwrap();
        let ids = Ids::open(&events, range(0, 2_000)).unwrap();
        assert!(ids.may_have(id(9_999)));
        aliases
            .execute("INSERT INTO aliases VALUES (1, ?1)", [id(5_000).as_bytes()])
            .unwrap();
        let events = events.unchecked_transaction().unwrap();
        for number in 1..=2_000_u64 {
            events
                .execute(
                    "INSERT INTO events VALUES (?1, ?2)",
                    params![number.cast_signed(), id(number).as_bytes()],
                )
                .unwrap();
        }
        events.commit().unwrap();
        ids.complete(&log, &index, is_closing);
        ids
    }

    #[test]
    fn after_a_start_the_ids_of_the_log_and_their_aliases_are_known() {
        let ids = after_a_start(|| false);
        for number in (1..=2_000).chain([5_000]) {
            assert!(ids.may_have(id(number)), "{number}");
        }
        let others = (6_000..7_000).filter(|&number| ids.may_have(id(number)));
        assert!(others.count() < 100);
        let places = (6_000..7_000).map(|number| ids.places(id(number), range(0, 2_000)).len());
        let chapters = 1 + (2_000 >> CHAPTER_BITS);
        assert!(places.sum::<usize>() < 5 * chapters);
    }

    #[test]
    fn ids_that_were_not_all_read_may_be_anywhere() {
        let ids = after_a_start(|| true);
        assert!((6_000..7_000).all(|number| ids.may_have(id(number))));
    }

    #[test]
    fn what_was_added_may_be_where_it_is_and_hardly_anything_else() {
        let ids = complete();
        (0..10_000).for_each(|number| ids.add(id(number), Sequence::new(number + 1)));
        for number in 0..10_000 {
            assert!(ids.may_have(id(number)));
            let places = ids.places(id(number), range(0, 20_000));
            let holds = |place: &Range| (place.after.get()..place.through.get()).contains(&number);
            assert!(places.iter().any(holds), "{number}: {places:?}");
        }
        let others = (10_000..11_000).map(|number| ids.places(id(number), range(0, 20_000)).len());
        let chapters = 1 + (10_000 >> CHAPTER_BITS);
        let wrong: usize = others.sum();
        assert!(wrong < 5 * chapters, "{wrong} of 1,000 times {chapters}");
    }

    #[test]
    fn what_was_trimmed_is_forgotten_as_far_as_chapters_go() {
        let ids = complete();
        let chapter = 1 << CHAPTER_BITS;
        ids.add(id(1), Sequence::new(chapter - 1));
        ids.add(id(2), Sequence::new(chapter));
        ids.forget_through(Sequence::new(chapter - 2));
        assert!(ids.may_have(id(1)) && ids.may_have(id(2)));
        ids.forget_through(Sequence::new(chapter - 1));
        assert!(!ids.may_have(id(1)) && ids.may_have(id(2)));
        assert_eq!(ids.places(id(2), range(0, chapter - 1)), []);
    }
}
