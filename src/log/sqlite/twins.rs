//! What `log.db` knows of twins: the aliases of stored events, and the entries of the history that still wait for their
//! push. Owns the two tables; leaves the rule to [`crate::log::twin`].
//!
//! Both tables are in the log and not in the index, because an alias is a promise like the event it stands for: it is
//! written in the writer's transactions and synced with them. What is empty, or cannot concern an event, costs no query.

use std::cell::Cell;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::database::{from_sql, to_sql};
use crate::{
    event::{EventId, NewEvent, Sequence, Verification},
    log::twin::{self, Search, Side},
};

/// An alias is the other id of a stored event; an event has one at the most. `of_body` tells ids that are digests of
/// bodies (of pushes) from ids made of HeyGen's (of entries): an id is looked for among its own kind only.
pub(super) const SCHEMA: &str = "
    CREATE TABLE aliases (
      of_body INTEGER NOT NULL,
      id BLOB NOT NULL,
      sequence INTEGER NOT NULL UNIQUE,
      PRIMARY KEY (of_body, id)
    ) WITHOUT ROWID;
    CREATE TABLE open_entries (
      sequence INTEGER PRIMARY KEY,
      subject BLOB NOT NULL,
      created_at_us INTEGER NOT NULL
    );
    CREATE INDEX open_entries_by_subject ON open_entries (subject, created_at_us);
    CREATE INDEX open_entries_by_time ON open_entries (created_at_us);";

/// What the writer remembers of the tables, to leave them alone. All of it errs on the side of asking them.
#[derive(Debug)]
pub(super) struct Twins {
    aliases_of_body: Cell<bool>,
    other_aliases: Cell<bool>,
    /// No open entry was created later.
    newest_open: Cell<Option<Timestamp>>,
}

impl Twins {
    pub(super) fn open(log: &Connection) -> Result<Self, rusqlite::Error> {
        let aliases = |of_body: bool| {
            log.query_row(
                "SELECT EXISTS (SELECT 1 FROM aliases WHERE of_body = ?1)",
                [of_body],
                |row| row.get(0),
            )
        };
        let newest_open: Option<i64> =
            log.query_row("SELECT max(created_at_us) FROM open_entries", [], |row| {
                row.get(0)
            })?;
        Ok(Self {
            aliases_of_body: Cell::new(aliases(true)?),
            other_aliases: Cell::new(aliases(false)?),
            newest_open: Cell::new(
                newest_open.map(|us| Timestamp::from_microsecond(us).unwrap_or(Timestamp::MAX)),
            ),
        })
    }

    /// The event that this one's id is an alias of.
    pub(super) fn alias(
        &self,
        log: &Connection,
        event: &NewEvent,
    ) -> Result<Option<Sequence>, rusqlite::Error> {
        if !self.may_have_aliases(event).get() {
            return Ok(None);
        }
        log.prepare_cached("SELECT sequence FROM aliases WHERE of_body = ?1 AND id = ?2")?
            .query_row(params![is_of_body(event), event.id.as_bytes()], |row| {
                row.get(0).map(from_sql)
            })
            .optional()
    }

    /// Whether a stored event is the twin of another already.
    pub(super) fn is_taken(&self, log: &Connection, sequence: Sequence) -> Result<bool, rusqlite::Error> {
        log.prepare_cached("SELECT 1 FROM aliases WHERE sequence = ?1")?
            .exists([to_sql(sequence)])
    }

    /// Makes the id of `event` an alias of the stored event that it is the twin of.
    pub(super) fn pair(
        &self,
        log: &Connection,
        event: &NewEvent,
        first: Sequence,
    ) -> Result<(), rusqlite::Error> {
        self.may_have_aliases(event).set(true);
        // One that is there already led to a damaged record.
        log.prepare_cached("INSERT OR REPLACE INTO aliases (of_body, id, sequence) VALUES (?1, ?2, ?3)")?
            .execute(params![is_of_body(event), event.id.as_bytes(), to_sql(first)])?;
        if twin::is_push(event) {
            log.prepare_cached("DELETE FROM open_entries WHERE sequence = ?1")?
                .execute([to_sql(first)])?;
        }
        Ok(())
    }

    /// The search for the entry that a push is the twin of; `None` if none can be open.
    pub(super) fn search(&self, push: &NewEvent) -> Option<Search> {
        let newest = self.newest_open.get()?;
        let possible = twin::is_push(push) && newest >= *twin::times_of_entries(push.received_at).start();
        possible.then(|| Search::of(push)).flatten()
    }

    /// The open entry that a search for entries finds.
    pub(super) fn open_entry(
        &self,
        log: &Connection,
        search: &Search,
    ) -> Result<Option<Sequence>, rusqlite::Error> {
        let Side::Entries(times) = &search.side else {
            return Ok(None);
        };
        log.prepare_cached(
            "SELECT sequence FROM open_entries
             WHERE subject = ?1 AND created_at_us >= ?2 AND created_at_us <= ?3
             ORDER BY created_at_us, sequence LIMIT 1",
        )?
        .query_row(
            params![
                search.subject.as_bytes(),
                times.start().as_microsecond(),
                times.end().as_microsecond()
            ],
            |row| row.get(0).map(from_sql),
        )
        .optional()
    }

    /// Notes that a stored entry of the history waits for its push, and forgets those that no push can come for any more:
    /// `received_at` never goes backwards.
    pub(super) fn stored(
        &self,
        log: &Connection,
        sequence: Sequence,
        event: &NewEvent,
        subject: Option<&Search>,
    ) -> Result<(), rusqlite::Error> {
        if event.verification != Verification::History {
            return Ok(());
        }
        let times = twin::times_of_entries(event.received_at);
        log.prepare_cached("DELETE FROM open_entries WHERE created_at_us < ?1")?
            .execute([times.start().as_microsecond()])?;
        let (Some(search), Some(created_at)) = (subject, event.created_at) else {
            return Ok(());
        };
        if created_at < *times.start() {
            return Ok(());
        }
        self.newest_open.set(self.newest_open.get().max(Some(created_at)));
        log.prepare_cached("INSERT INTO open_entries (sequence, subject, created_at_us) VALUES (?1, ?2, ?3)")?
            .execute(params![
                to_sql(sequence),
                search.subject.as_bytes(),
                created_at.as_microsecond()
            ])
            .map(drop)
    }

    /// Forgets what concerns trimmed events. To be opened again once that is committed.
    pub(super) fn trim(&self, log: &Connection, through: Sequence) -> Result<(), rusqlite::Error> {
        if self.aliases_of_body.get() || self.other_aliases.get() {
            log.execute("DELETE FROM aliases WHERE sequence <= ?1", [to_sql(through)])?;
        }
        if self.newest_open.get().is_some() {
            log.execute("DELETE FROM open_entries WHERE sequence <= ?1", [to_sql(through)])?;
        }
        Ok(())
    }

    fn may_have_aliases(&self, event: &NewEvent) -> &Cell<bool> {
        if is_of_body(event) {
            &self.aliases_of_body
        } else {
            &self.other_aliases
        }
    }
}

/// The event that this id is an alias of, of whichever kind.
pub(super) fn sequence_of_alias(log: &Connection, id: EventId) -> Result<Option<Sequence>, rusqlite::Error> {
    log.prepare_cached("SELECT sequence FROM aliases WHERE of_body IN (0, 1) AND id = ?1")?
        .query_row([id.as_bytes()], |row| row.get(0).map(from_sql))
        .optional()
}

fn is_of_body(event: &NewEvent) -> bool {
    event.provider_event_id.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;

    const WINDOW: i64 = limits::TWIN_WINDOW.as_secs() as i64;

    fn log() -> Connection {
        let log = Connection::open_in_memory().unwrap();
        log.execute_batch(SCHEMA).unwrap();
        log
    }

    fn event(verification: Verification, id: &str, second: i64) -> NewEvent {
        let time = Timestamp::from_second(second).unwrap();
        let body = format!(
            r#"{{{id}"created_at":"{time}","event_type":"avatar_video.fail","event_data":{{"video_id":"v"}}}}"#
        );
        NewEvent::new("one".parse().unwrap(), verification, body.into(), time)
    }

    fn entry(second: i64) -> NewEvent {
        event(
            Verification::History,
            &format!(r#""event_id":"{second}","#),
            second,
        )
    }

    fn push(second: i64) -> NewEvent {
        let signature = Verification::Signature {
            header_name: "signature".into(),
            signature: [1; 32],
            secret_version: 1,
        };
        event(signature, "", second)
    }

    fn store(twins: &Twins, log: &Connection, sequence: u64, entry: &NewEvent) {
        let search = Search::of(entry);
        twins
            .stored(log, Sequence::new(sequence), entry, search.as_ref())
            .unwrap();
    }

    fn rows(log: &Connection, table: &str) -> Vec<i64> {
        let mut select = log
            .prepare(&format!("SELECT sequence FROM {table} ORDER BY sequence"))
            .unwrap();
        let rows = select.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    #[test]
    fn what_is_empty_is_not_asked() {
        let log = log();
        let twins = Twins::open(&log).unwrap();
        log.execute_batch("DROP TABLE aliases; DROP TABLE open_entries")
            .unwrap();
        for event in [push(1), entry(1)] {
            assert_eq!(twins.alias(&log, &event).unwrap(), None);
            assert!(twins.search(&event).is_none());
        }
        twins.trim(&log, Sequence::new(9)).unwrap();
    }

    #[test]
    fn a_push_after_the_last_window_asks_for_no_entry() {
        let log = log();
        let twins = Twins::open(&log).unwrap();
        store(&twins, &log, 1, &entry(1000));
        for twins in [twins, Twins::open(&log).unwrap()] {
            assert!(twins.search(&push(1000 + WINDOW)).is_some());
            assert!(twins.search(&push(1001 + WINDOW)).is_none());
        }
    }

    #[test]
    fn entries_that_no_push_can_come_for_are_forgotten() {
        let log = log();
        let twins = Twins::open(&log).unwrap();
        store(&twins, &log, 1, &entry(1000));
        store(&twins, &log, 2, &entry(1001));
        store(&twins, &log, 3, &entry(1001 + WINDOW));
        for (sequence, created_at) in [(4, 1000), (5, 1001)] {
            let mut late = entry(created_at);
            late.received_at = Timestamp::from_second(1001 + WINDOW).unwrap();
            store(&twins, &log, sequence, &late);
        }
        assert_eq!(rows(&log, "open_entries"), [2, 3, 5]);
    }

    #[test]
    fn trimming_leaves_nothing_of_trimmed_events() {
        let log = log();
        let twins = Twins::open(&log).unwrap();
        for sequence in 1..=3_u64 {
            store(&twins, &log, sequence, &entry(1000 + sequence as i64));
        }
        twins.pair(&log, &push(1001), Sequence::new(1)).unwrap();
        twins.pair(&log, &entry(2001), Sequence::new(4)).unwrap();
        twins.pair(&log, &entry(2002), Sequence::new(5)).unwrap();
        twins.trim(&log, Sequence::new(2)).unwrap();
        assert_eq!(rows(&log, "aliases"), [4, 5]);
        assert_eq!(rows(&log, "open_entries"), [3]);
        twins.trim(&log, Sequence::new(4)).unwrap();
        assert_eq!(rows(&log, "aliases"), [5]);
        assert_eq!(rows(&log, "open_entries"), [] as [i64; 0]);
    }

    #[test]
    fn aliases_of_one_kind_alone_are_trimmed_too() {
        for event in [push(1001), entry(1001)] {
            let log = log();
            let twins = Twins::open(&log).unwrap();
            twins.pair(&log, &event, Sequence::new(1)).unwrap();
            assert_eq!(rows(&log, "aliases"), [1]);
            twins.trim(&log, Sequence::new(1)).unwrap();
            assert_eq!(rows(&log, "aliases"), [] as [i64; 0]);
        }
    }
}
