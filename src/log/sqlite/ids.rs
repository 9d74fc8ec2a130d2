//! Which ids the log may have, and where, in memory. Owns the answer "certainly not", which is the one for nearly every delivery
//! and spares it the index; refuses to know which event has an id.
//!
//! There is a filter for each chapter of the log, a number of the index's segments, so what retention removed goes, and of an id
//! that may be there only a part of the index is looked through. The filters are kept in the index, so that a start has to read the
//! ids of one segment alone.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use fastbloom::AtomicBloomFilter;
use parking_lot::RwLock;
use rusqlite::{Connection, params};

use super::{
    database::{from_sql, open_for_reading},
    segment::{SEGMENT_BITS, part_of},
};
use crate::{
    event::{EventId, Sequence},
    limits,
    log::Range,
};

/// Events of a chapter, as a power of two.
const CHAPTER_BITS: u32 = SEGMENT_BITS + 4;

pub(super) const SCHEMA: &str = "CREATE TABLE chapters (number INTEGER PRIMARY KEY, ids BLOB NOT NULL);";

/// The ids of all kept events, and their aliases.
#[derive(Debug, Default)]
pub(super) struct Ids {
    by_chapter: RwLock<BTreeMap<u64, AtomicBloomFilter>>,
    /// Whether the aliases from before the start are in.
    has_aliases: AtomicBool,
}

fn new_filter() -> AtomicBloomFilter {
    AtomicBloomFilter::with_false_pos(limits::KNOWN_IDS_FALSE_POSITIVES).expected_items(1 << CHAPTER_BITS)
}

/// A filter that was saved, if it is of the form that this version saves.
fn saved_filter(ids: &[u8]) -> Option<AtomicBloomFilter> {
    let (words, rest) = ids.as_chunks::<8>();
    let like = new_filter();
    if !rest.is_empty() || words.len() * 64 != like.num_bits() {
        return None;
    }
    let words: Vec<_> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    Some(AtomicBloomFilter::from_vec(words).hashes(like.num_hashes()))
}

/// The chapter of an event.
fn chapter_of(sequence: Sequence) -> u64 {
    sequence.get() >> CHAPTER_BITS
}

impl Ids {
    /// The ids that were saved. To be added: those of the events that are not written down in the index.
    pub(super) fn open(index: &Connection) -> Result<Self, rusqlite::Error> {
        let mut select = index.prepare("SELECT number, ids FROM chapters")?;
        let chapters = select.query_map([], |row| {
            let filter = saved_filter(row.get_ref(1)?.as_blob()?).ok_or(rusqlite::Error::InvalidQuery)?;
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), filter))
        })?;
        Ok(Self {
            by_chapter: RwLock::new(chapters.collect::<Result<_, _>>()?),
            ..Self::default()
        })
    }

    /// Notes the id of the event at a place, or an alias of it.
    pub(super) fn add(&self, id: EventId, sequence: Sequence) {
        self.add_hash(hash(id.as_bytes()), sequence);
    }

    fn add_hash(&self, hash: u64, sequence: Sequence) {
        let number = chapter_of(sequence);
        if let Some(filter) = self.by_chapter.read().get(&number) {
            filter.insert_hash(hash);
            return;
        }
        let mut by_chapter = self.by_chapter.write();
        by_chapter
            .entry(number)
            .or_insert_with(new_filter)
            .insert_hash(hash);
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
                .any(|filter| filter.contains_hash(hash))
    }

    /// The parts of a range in which an event with this id may be, from the end; no others have one.
    pub(super) fn places(&self, id: EventId, within: Range) -> Vec<Range> {
        let hash = hash(id.as_bytes());
        let by_chapter = self.by_chapter.read();
        let chapters = by_chapter.iter().rev();
        chapters
            .filter(|(_, filter)| filter.contains_hash(hash))
            .map(|(&number, _)| part_of(within, CHAPTER_BITS, number))
            .filter(|part| part.after < part.through)
            .collect()
    }

    /// Saves the filter of the chapter of an event; none if retention removed all of it.
    pub(super) fn save(&self, index: &Connection, sequence: Sequence) -> Result<(), rusqlite::Error> {
        let number = chapter_of(sequence);
        let ids: Option<Vec<u8>> = self
            .by_chapter
            .read()
            .get(&number)
            .map(|filter| filter.iter().flat_map(u64::to_le_bytes).collect());
        if let Some(ids) = ids {
            index
                .prepare_cached("INSERT OR REPLACE INTO chapters VALUES (?1, ?2)")?
                .execute(params![number.cast_signed(), ids])?;
        }
        Ok(())
    }

    /// Reads the aliases that were there before the start. Until that is done every id may be there. Blocks.
    pub(super) fn read_aliases(&self, log: &Path, is_closing: impl Fn() -> bool) {
        match self.all_aliases(log, is_closing) {
            Ok(all) => self.has_aliases.store(all, Ordering::Release),
            Err(error) => {
                tracing::warn!(%error, "the aliases of events cannot be read: each delivery is looked up");
            }
        }
    }

    /// Whether it got to the end.
    fn all_aliases(&self, log: &Path, is_closing: impl Fn() -> bool) -> Result<bool, rusqlite::Error> {
        let log = open_for_reading(log)?;
        let mut select = log.prepare("SELECT sequence, id FROM aliases")?;
        let mut rows = select.query([])?;
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

/// Removes the filters of the chapters before that of an event.
pub(super) fn remove_before(index: &Connection, sequence: Sequence) -> Result<(), rusqlite::Error> {
    index
        .prepare_cached("DELETE FROM chapters WHERE number < ?1")?
        .execute([chapter_of(sequence).cast_signed()])
        .map(drop)
}

/// An id is a digest, so a part of it is as good as a hash. The seed is not needed against chosen ids: they cost a look-up
/// each, as every id would without the filter. It is stored, so it has to be the same for ever.
pub(super) fn hash(id: &[u8]) -> u64 {
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
    fn what_was_saved_is_there_after_a_restart_until_it_is_trimmed() {
        let (ids, index) = (complete(), index_with_chapters());
        let chapter = 1 << CHAPTER_BITS;
        for sequence in 1..2 * chapter {
            ids.add(id(sequence), Sequence::new(sequence));
        }
        let in_first = |ids: &Ids, number| ids.places(id(number), range(0, chapter - 1)).len();
        ids.save(&index, Sequence::new(1)).unwrap();
        let restarted = Ids::open(&index).unwrap();
        assert_eq!(
            (in_first(&restarted, 1), in_first(&restarted, chapter - 1)),
            (1, 1)
        );
        let others: usize = (1_000_000..1_001_000)
            .map(|number| in_first(&restarted, number))
            .sum();
        assert!(others < 10, "{others} of 1,000");
        // It is saved again with what was added, and one of which nothing is kept is not.
        ids.add(id(1_000_000), Sequence::new(chapter - 1));
        ids.save(&index, Sequence::new(chapter - 1)).unwrap();
        ids.save(&index, Sequence::new(5 * chapter)).unwrap();
        assert_eq!(in_first(&Ids::open(&index).unwrap(), 1_000_000), 1);
        remove_before(&index, Sequence::new(chapter - 1)).unwrap();
        assert_eq!(in_first(&Ids::open(&index).unwrap(), 1), 1);
        remove_before(&index, Sequence::new(chapter)).unwrap();
        assert_eq!(in_first(&Ids::open(&index).unwrap(), 1), 0);
    }

    #[test]
    fn a_filter_of_another_form_is_not_used() {
        let bytes = new_filter().num_bits() / 8;
        assert!(saved_filter(&vec![0; bytes]).is_some());
        for other in [0, 8, bytes - 8, bytes + 1, bytes + 8] {
            assert!(saved_filter(&vec![0; other]).is_none(), "{other}");
        }
        let index = index_with_chapters();
        index
            .execute("INSERT INTO chapters VALUES (0, x'00')", [])
            .unwrap();
        assert!(Ids::open(&index).is_err());
    }

    /// Ids after a start on a log with an alias.
    fn after_a_start(is_closing: impl Fn() -> bool) -> Ids {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log.db");
        let aliases = Connection::open(&log).unwrap();
        aliases
            .execute_batch("CREATE TABLE aliases (sequence INTEGER, id BLOB);")
            .unwrap();
        aliases
            .execute("INSERT INTO aliases VALUES (1, ?1)", [id(5_000).as_bytes()])
            .unwrap();
        let ids = Ids::default();
        assert!(ids.may_have(id(9_999)));
        ids.read_aliases(&log, is_closing);
        ids
    }

    #[test]
    fn after_a_start_the_aliases_of_the_log_are_known() {
        let ids = after_a_start(|| false);
        assert!(ids.may_have(id(5_000)));
        let others = (6_000..7_000).filter(|&number| ids.may_have(id(number)));
        assert!(others.count() < 100);
    }

    #[test]
    fn an_id_may_be_anywhere_if_not_all_aliases_were_read() {
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
