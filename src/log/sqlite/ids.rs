//! Which ids the log may have, in memory. Owns the answer "certainly not", which is the one for nearly every delivery and
//! spares it the index; refuses to know which event has an id.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use fastbloom::AtomicBloomFilter;
use rusqlite::Connection;

use super::database::open_for_reading;
use crate::{event::EventId, limits};

/// The ids of all events, and their aliases. What retention removed stays in until the next start, and so may be asked
/// for in vain.
#[derive(Debug)]
pub(super) struct Ids {
    filter: AtomicBloomFilter,
    /// Whether the ids from before the start are in.
    is_complete: AtomicBool,
}

impl Ids {
    /// Ids of a log that has this many events.
    pub(super) fn new(events: u64) -> Self {
        let events = usize::try_from(events).unwrap_or(usize::MAX);
        let expected = events.saturating_mul(2).max(limits::KNOWN_IDS_MIN);
        Self {
            filter: AtomicBloomFilter::with_false_pos(limits::KNOWN_IDS_FALSE_POSITIVES)
                .expected_items(expected),
            is_complete: AtomicBool::new(false),
        }
    }

    /// Notes an id that the log has from now on.
    pub(super) fn add(&self, id: EventId) {
        self.filter.insert_hash(hash(id.as_bytes()));
    }

    /// Whether the log may have this id. It has not if this says so.
    pub(super) fn may_have(&self, id: EventId) -> bool {
        !self.is_complete.load(Ordering::Acquire) || self.filter.contains_hash(hash(id.as_bytes()))
    }

    /// Reads the ids that were there before the start. Until that is done every id may be there. Blocks.
    pub(super) fn complete(&self, log: &Path, index: &Path, is_closing: impl Fn() -> bool) {
        let read = || {
            let all = self.read(&open_for_reading(log)?, "SELECT id FROM aliases", &is_closing)?
                && self.read(&open_for_reading(index)?, "SELECT id FROM events", &is_closing)?;
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
            self.filter.insert_hash(hash(row.get_ref(0)?.as_blob()?));
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

    #[test]
    fn every_id_may_be_there_until_the_old_ones_are_read() {
        assert!(Ids::new(0).may_have(id(1)));
    }

    #[test]
    fn what_was_added_may_be_there_and_hardly_anything_else() {
        let ids = Ids::new(0);
        ids.is_complete.store(true, Ordering::Release);
        (0..10_000).for_each(|number| ids.add(id(number)));
        assert!((0..10_000).all(|number| ids.may_have(id(number))));
        let wrong = (10_000..20_000)
            .filter(|&number| ids.may_have(id(number)))
            .count();
        assert!(wrong < 200, "{wrong} of 10,000");
    }
}
