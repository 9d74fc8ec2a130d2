//! Which ids the log may have, and where, in memory. Owns the answer "certainly not", which is the one for nearly every delivery
//! and spares it the index; refuses to know which event has an id.
//!
//! There is a filter for each chapter of the log, a number of the index's segments, so what retention removed goes, and of an id
//! that may be there only a part of the index is looked through.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use fastbloom::AtomicBloomFilter;
use parking_lot::RwLock;
use rusqlite::Connection;

use super::{
    database::{from_sql, open_for_reading},
    index::SEGMENT_BITS,
};
use crate::{
    event::{EventId, Sequence},
    limits,
    log::Range,
};

/// Events of a chapter, as a power of two.
const CHAPTER_BITS: u32 = SEGMENT_BITS + 4;

/// The ids of all kept events, and their aliases.
#[derive(Debug, Default)]
pub(super) struct Ids {
    by_chapter: RwLock<BTreeMap<u64, AtomicBloomFilter>>,
    /// Whether the ids from before the start are in.
    is_complete: AtomicBool,
}

impl Ids {
    /// Notes the id of the event at a place, or an alias of it.
    pub(super) fn add(&self, id: EventId, sequence: Sequence) {
        self.add_hash(hash(id.as_bytes()), sequence);
    }

    fn add_hash(&self, hash: u64, sequence: Sequence) {
        let chapter = sequence.get() >> CHAPTER_BITS;
        if let Some(filter) = self.by_chapter.read().get(&chapter) {
            filter.insert_hash(hash);
            return;
        }
        let new_filter = || {
            AtomicBloomFilter::with_false_pos(limits::KNOWN_IDS_FALSE_POSITIVES)
                .expected_items(1 << CHAPTER_BITS)
        };
        let mut by_chapter = self.by_chapter.write();
        let filter = by_chapter.entry(chapter).or_insert_with(new_filter);
        filter.insert_hash(hash);
    }

    /// Forgets the chapters of which nothing is kept.
    pub(super) fn forget_through(&self, trimmed: Sequence) {
        let first = trimmed.next().get() >> CHAPTER_BITS;
        let mut by_chapter = self.by_chapter.write();
        *by_chapter = by_chapter.split_off(&first);
    }

    /// Whether the log may have this id. It has not if this says so.
    pub(super) fn may_have(&self, id: EventId) -> bool {
        let hash = hash(id.as_bytes());
        !self.is_complete.load(Ordering::Acquire)
            || self
                .by_chapter
                .read()
                .values()
                .any(|filter| filter.contains_hash(hash))
    }

    /// The parts of a range in which an event with this id may be, from the end; no others have one.
    pub(super) fn places(&self, id: EventId, within: Range) -> Vec<Range> {
        if !self.is_complete.load(Ordering::Acquire) {
            return vec![within];
        }
        let hash = hash(id.as_bytes());
        let by_chapter = self.by_chapter.read();
        let chapters = by_chapter.iter().rev();
        let holding = chapters.filter(|(_, filter)| filter.contains_hash(hash));
        let part = |(chapter, _): (&u64, _)| {
            let first = chapter << CHAPTER_BITS;
            let last = first | ((1 << CHAPTER_BITS) - 1);
            Range {
                after: within.after.max(Sequence::new(first).previous()),
                through: within.through.min(Sequence::new(last)),
            }
        };
        holding
            .map(part)
            .filter(|part| part.after < part.through)
            .collect()
    }

    /// Reads the ids that were there before the start. Until that is done every id may be there. Blocks.
    pub(super) fn complete(&self, log: &Path, index: &Path, is_closing: impl Fn() -> bool) {
        let read = || {
            let all = self.read(
                &open_for_reading(log)?,
                "SELECT sequence, id FROM aliases",
                &is_closing,
            )? && self.read(
                &open_for_reading(index)?,
                "SELECT sequence, id FROM events",
                &is_closing,
            )?;
            Ok::<_, rusqlite::Error>(all)
        };
        match read() {
            Ok(all) => self.is_complete.store(all, Ordering::Release),
            Err(error) => {
                tracing::warn!(%error, "the ids of events cannot be read: each delivery is looked up")
            }
        }
    }

    /// Whether it got to the end.
    fn read(
        &self,
        connection: &Connection,
        select: &str,
        is_closing: impl Fn() -> bool,
    ) -> Result<bool, rusqlite::Error> {
        let mut select = connection.prepare(select)?;
        let mut rows = select.query([])?;
        let mut count = 0_u64;
        while let Some(row) = rows.next()? {
            self.add_hash(hash(row.get_ref(1)?.as_blob()?), from_sql(row.get(0)?));
            count += 1;
            if count.is_multiple_of(1024) && is_closing() {
                return Ok(false);
            }
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
        ids.is_complete.store(true, Ordering::Release);
        ids
    }

    #[test]
    fn every_id_may_be_anywhere_until_the_old_ones_are_read() {
        let ids = Ids::default();
        assert!(ids.may_have(id(1)));
        assert_eq!(ids.places(id(1), range(3, 9)), [range(3, 9)]);
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
