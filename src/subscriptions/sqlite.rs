//! Subscriptions in a file of their own. Owns its tables; every commit is synced before it is reported.
//!
//! It is another file than that of endpoints and tokens because it is written all the time, and one commit waits for
//! another of the same file.

use std::{path::Path, sync::Arc};

use jiff::Timestamp;
use parking_lot::Mutex;
use prost::Message;
use rusqlite::{Connection, Row, params};

use super::{
    dead_letters::{DeadLetter, Reason},
    dispatch::{Place, SavedEvent},
    settings::Settings,
    store::{Changes, Stored, SubscriptionStore},
};
use crate::{
    event::{LogId, Sequence},
    log::{Direction, Range},
    state_db::{self, StoreError},
};

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS subscriptions (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    settings TEXT NOT NULL,
    created_at_us INTEGER NOT NULL,
    log_id INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS places (
    id INTEGER PRIMARY KEY,
    generation INTEGER NOT NULL,
    position INTEGER NOT NULL,
    under_way BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS dead_letters (
    id INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    reason TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    PRIMARY KEY (id, sequence)
) WITHOUT ROWID;";

/// The store.
#[derive(Debug)]
pub struct SqliteSubscriptionStore(Mutex<Connection>);

/// Events under way, as columns; one that says nothing is left out.
#[derive(Clone, PartialEq, Message)]
struct StoredUnderWay {
    /// Distances, from 0 and from one event to the next.
    #[prost(uint64, repeated, tag = "1")]
    distances: Vec<u64>,
    #[prost(uint32, repeated, tag = "2")]
    attempts: Vec<u32>,
    /// Microseconds; 0 for none.
    #[prost(int64, repeated, tag = "3")]
    retry_at_us: Vec<i64>,
    #[prost(string, repeated, tag = "4")]
    entity_ids: Vec<String>,
}

impl SqliteSubscriptionStore {
    /// Opens the store at `path`, or makes one there. Blocks.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = state_db::open(path)?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self(Mutex::new(connection)))
    }
}

impl SubscriptionStore for SqliteSubscriptionStore {
    fn load(&self) -> Result<Vec<Stored>, StoreError> {
        let connection = self.0.lock();
        let mut select = connection.prepare(
            "SELECT id, name, settings, created_at_us, log_id, generation, position, under_way,
               (SELECT count(*) FROM dead_letters WHERE dead_letters.id = subscriptions.id)
             FROM subscriptions JOIN places USING (id)",
        )?;
        let mut rows = select.query([])?;
        let mut subscriptions = Vec::new();
        while let Some(row) = rows.next()? {
            let settings: Settings = serde_json::from_str(&row.get::<_, String>(2)?)?;
            let under_way = StoredUnderWay::decode(row.get_ref(7)?.as_blob()?)?;
            subscriptions.push(Stored {
                id: number(row, 0)?,
                name: row.get::<_, String>(1)?.parse()?,
                settings: Arc::new(settings),
                created_at: Timestamp::from_microsecond(row.get(3)?)?,
                log_id: LogId::new(number(row, 4)?),
                place: Place {
                    generation: number(row, 5)?,
                    position: Sequence::new(number(row, 6)?),
                    under_way: from_columns(&under_way)?,
                },
                dead_letters: number(row, 8)?,
            });
        }
        Ok(subscriptions)
    }

    fn create(&self, subscription: &Stored) -> Result<(), StoreError> {
        let mut connection = self.0.lock();
        let transaction = connection.transaction()?;
        transaction.execute(
            "INSERT INTO subscriptions VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                subscription.id.cast_signed(),
                subscription.name.as_str(),
                serde_json::to_string(&*subscription.settings)?,
                subscription.created_at.as_microsecond(),
                subscription.log_id.get().cast_signed(),
            ],
        )?;
        let place = &subscription.place;
        transaction.execute(
            "INSERT INTO places VALUES (?1, ?2, ?3, ?4)",
            params![
                subscription.id.cast_signed(),
                place.generation.cast_signed(),
                place.position.get().cast_signed(),
                to_columns(&place.under_way).encode_to_vec(),
            ],
        )?;
        transaction.commit()?;
        Ok(())
    }

    fn update(&self, id: u64, settings: &Settings) -> Result<(), StoreError> {
        self.0.lock().execute(
            "UPDATE subscriptions SET settings = ?2 WHERE id = ?1",
            params![id.cast_signed(), serde_json::to_string(settings)?],
        )?;
        Ok(())
    }

    fn relocate(&self, id: u64, log_id: LogId, place: &Place) -> Result<(), StoreError> {
        let mut connection = self.0.lock();
        let transaction = connection.transaction()?;
        let id = id.cast_signed();
        transaction.execute(
            "UPDATE subscriptions SET log_id = ?2 WHERE id = ?1",
            [id, log_id.get().cast_signed()],
        )?;
        update_place(&transaction, id, place)?;
        transaction.execute("DELETE FROM dead_letters WHERE id = ?1", [id])?;
        transaction.commit()?;
        Ok(())
    }

    fn delete(&self, id: u64) -> Result<(), StoreError> {
        let mut connection = self.0.lock();
        let transaction = connection.transaction()?;
        for table in ["dead_letters", "places", "subscriptions"] {
            transaction.execute(&format!("DELETE FROM {table} WHERE id = ?1"), [id.cast_signed()])?;
        }
        transaction.commit()?;
        Ok(())
    }

    fn commit(&self, changes: &[Changes]) -> Result<Vec<Option<u64>>, StoreError> {
        let mut connection = self.0.lock();
        let transaction = connection.transaction()?;
        let mut counts = Vec::with_capacity(changes.len());
        {
            let mut remove =
                transaction.prepare_cached("DELETE FROM dead_letters WHERE id = ?1 AND sequence = ?2")?;
            let mut add = transaction
                .prepare_cached("INSERT OR REPLACE INTO dead_letters VALUES (?1, ?2, ?3, ?4, ?5)")?;
            let mut count = transaction.prepare_cached("SELECT count(*) FROM dead_letters WHERE id = ?1")?;
            for Changes {
                id,
                place,
                dead_letters,
            } in changes
            {
                let id = id.cast_signed();
                let known = update_place(&transaction, id, place)?;
                if known == 0 || dead_letters.is_empty() {
                    counts.push(None);
                    continue;
                }
                for sequence in &dead_letters.removed {
                    remove.execute([id, sequence.get().cast_signed()])?;
                }
                for letter in &dead_letters.added {
                    add.execute(params![
                        id,
                        letter.sequence.get().cast_signed(),
                        letter.attempts,
                        reason_name(letter.reason),
                        letter.at.as_microsecond(),
                    ])?;
                }
                counts.push(Some(count.query_row([id], |row| number(row, 0))?));
            }
        }
        transaction.commit()?;
        Ok(counts)
    }

    fn dead_letters(
        &self,
        id: u64,
        range: Range,
        direction: Direction,
        most: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let order = match direction {
            Direction::Forward => "ASC",
            Direction::Backward => "DESC",
        };
        let connection = self.0.lock();
        let mut select = connection.prepare_cached(&format!(
            "SELECT sequence, attempts, reason, at_us FROM dead_letters
             WHERE id = ?1 AND sequence > ?2 AND sequence <= ?3 ORDER BY sequence {order} LIMIT ?4"
        ))?;
        let (after, through) = (range.after.get().cast_signed(), range.through.get().cast_signed());
        let mut rows = select.query(params![id.cast_signed(), after, through, most as i64])?;
        let mut letters = Vec::new();
        while let Some(row) = rows.next()? {
            letters.push(DeadLetter {
                sequence: Sequence::new(number(row, 0)?),
                attempts: row.get(1)?,
                reason: reason(&row.get::<_, String>(2)?)?,
                at: Timestamp::from_microsecond(row.get(3)?)?,
            });
        }
        Ok(letters)
    }

    fn trim_dead_letters(&self, id: u64, through: Sequence) -> Result<u64, StoreError> {
        let removed = self.0.lock().execute(
            "DELETE FROM dead_letters WHERE id = ?1 AND sequence <= ?2",
            [id.cast_signed(), through.get().cast_signed()],
        )?;
        Ok(removed as u64)
    }
}

/// Replaces the place of a subscription. How many there are of this id.
fn update_place(connection: &Connection, id: i64, place: &Place) -> Result<usize, rusqlite::Error> {
    let mut update = connection
        .prepare_cached("UPDATE places SET generation = ?2, position = ?3, under_way = ?4 WHERE id = ?1")?;
    update.execute(params![
        id,
        place.generation.cast_signed(),
        place.position.get().cast_signed(),
        to_columns(&place.under_way).encode_to_vec(),
    ])
}

/// A number where SQLite has only signed ones.
fn number(row: &Row<'_>, column: usize) -> Result<u64, rusqlite::Error> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::MaxAttempts => "max_attempts",
        Reason::Rejected => "rejected",
    }
}

fn reason(name: &str) -> Result<Reason, StoreError> {
    match name {
        "max_attempts" => Ok(Reason::MaxAttempts),
        "rejected" => Ok(Reason::Rejected),
        other => {
            Err(format!("a dead letter has the reason `{other}`, which this version does not know").into())
        }
    }
}

fn to_columns(under_way: &[SavedEvent]) -> StoredUnderWay {
    fn column<T: Default + PartialEq>(under_way: &[SavedEvent], value: impl Fn(&SavedEvent) -> T) -> Vec<T> {
        if under_way.iter().all(|event| value(event) == T::default()) {
            return Vec::new();
        }
        under_way.iter().map(value).collect()
    }
    let mut before = 0;
    let distance = |event: &SavedEvent| {
        let sequence = event.sequence.get();
        sequence - std::mem::replace(&mut before, sequence)
    };
    StoredUnderWay {
        distances: under_way.iter().map(distance).collect(),
        attempts: column(under_way, |event| event.attempts),
        retry_at_us: column(under_way, |event| {
            event.retry_at.map_or(0, Timestamp::as_microsecond)
        }),
        entity_ids: column(under_way, |event| event.entity_id.to_string()),
    }
}

fn from_columns(stored: &StoredUnderWay) -> Result<Vec<SavedEvent>, StoreError> {
    let mut sequence = 0_u64;
    let event = |(at, distance): (usize, &u64)| {
        sequence = sequence
            .checked_add(*distance)
            .ok_or("the place of a subscription is damaged")?;
        let retry_at_us = stored.retry_at_us.get(at).copied().filter(|&at| at != 0);
        Ok(SavedEvent {
            sequence: Sequence::new(sequence),
            attempts: stored.attempts.get(at).copied().unwrap_or_default(),
            retry_at: retry_at_us.map(Timestamp::from_microsecond).transpose()?,
            entity_id: stored
                .entity_ids
                .get(at)
                .map(|id| id.as_str().into())
                .unwrap_or_default(),
        })
    };
    stored.distances.iter().enumerate().map(event).collect()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::subscriptions::dispatch::DeadLetterChanges;

    struct Disk(tempfile::TempDir);

    impl Disk {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn open(&self) -> SqliteSubscriptionStore {
            SqliteSubscriptionStore::open(&self.0.path().join("subscriptions.db")).unwrap()
        }
    }

    fn stored(id: u64, name: &str) -> Stored {
        Stored {
            id,
            name: name.parse().unwrap(),
            settings: Arc::default(),
            created_at: Timestamp::from_second(1_000).unwrap(),
            log_id: LogId::new(u64::MAX),
            place: Place {
                position: Sequence::new(41),
                ..Place::default()
            },
            dead_letters: 0,
        }
    }

    fn letter(sequence: u64) -> DeadLetter {
        DeadLetter {
            sequence: Sequence::new(sequence),
            attempts: 3,
            reason: Reason::Rejected,
            at: Timestamp::from_second(2_000).unwrap(),
        }
    }

    fn all() -> Range {
        Range {
            after: Sequence::ZERO,
            through: Sequence::new(u64::MAX >> 1),
        }
    }

    #[test]
    fn what_was_stored_is_there_when_it_is_opened_again() {
        let disk = Disk::new();
        let (one, mut other) = (stored(u64::MAX, "one"), stored(2, "other"));
        let store = disk.open();
        store.create(&one).unwrap();
        store.create(&other).unwrap();
        other.settings = Arc::new(Settings {
            filter: crate::filter::Filter::parse(&["*.fail".to_owned()], vec![], vec![], vec![]).unwrap(),
            max_attempts: 7,
            ..Settings::default()
        });
        store.update(2, &other.settings).unwrap();
        other.place.generation = 3;
        other.place.under_way = vec![SavedEvent {
            sequence: Sequence::new(40),
            attempts: 2,
            retry_at: Some(Timestamp::from_second(5_000).unwrap()),
            entity_id: "v1".into(),
        }];
        let changes = Changes {
            id: 2,
            place: other.place.clone(),
            dead_letters: DeadLetterChanges {
                removed: vec![],
                added: vec![letter(1), letter(5)],
            },
        };
        store.commit(&[changes]).unwrap();
        other.dead_letters = 2;
        drop(store);
        let mut loaded = disk.open().load().unwrap();
        loaded.sort_by(|one, other| one.name.cmp(&other.name));
        assert_eq!(loaded, [one, other]);
    }

    #[test]
    fn dead_letters_are_read_in_either_direction_and_go_one_by_one_or_up_to_a_place() {
        let store = Disk::new().open();
        store.create(&stored(1, "one")).unwrap();
        let commit = |removed: &[u64], added: &[u64]| {
            let changes = Changes {
                id: 1,
                place: Place::default(),
                dead_letters: DeadLetterChanges {
                    removed: removed.iter().copied().map(Sequence::new).collect(),
                    added: added.iter().copied().map(letter).collect(),
                },
            };
            store.commit(&[changes]).unwrap();
        };
        let read = |direction, most| {
            let letters = store.dead_letters(1, all(), direction, most).unwrap();
            letters
                .iter()
                .map(|letter| letter.sequence.get())
                .collect::<Vec<_>>()
        };
        commit(&[], &[3, 1, 9, 5]);
        assert_eq!(read(Direction::Forward, 3), [1, 3, 5]);
        assert_eq!(read(Direction::Backward, 9), [9, 5, 3, 1]);
        // Put aside again in the same commit: what comes wins.
        commit(&[3, 5], &[5]);
        assert_eq!(read(Direction::Forward, 9), [1, 5, 9]);
        assert_eq!(store.trim_dead_letters(1, Sequence::new(5)).unwrap(), 2);
        assert_eq!(read(Direction::Forward, 9), [9]);
    }

    #[test]
    fn nothing_is_left_of_one_that_was_deleted_also_by_a_commit_that_came_too_late() {
        let store = Disk::new().open();
        store.create(&stored(1, "one")).unwrap();
        let changes = Changes {
            id: 1,
            place: Place::default(),
            dead_letters: DeadLetterChanges {
                removed: vec![],
                added: vec![letter(1)],
            },
        };
        store.commit(std::slice::from_ref(&changes)).unwrap();
        store.delete(1).unwrap();
        store.commit(&[changes]).unwrap();
        assert!(store.load().unwrap().is_empty());
        assert!(
            store
                .dead_letters(1, all(), Direction::Forward, 9)
                .unwrap()
                .is_empty()
        );
    }

    proptest! {
        #[test]
        fn events_under_way_survive_being_written_and_read(
            events in vec((1_u64..1 << 40, 0_u32..9, option::of(1_i64..1 << 50), "[a-z]{0,3}"), 0..20),
        ) {
            let mut sequence = 0;
            let saved = |(distance, attempts, retry_at_us, entity_id): (u64, u32, Option<i64>, String)| {
                sequence += distance;
                SavedEvent {
                    sequence: Sequence::new(sequence),
                    attempts,
                    retry_at: retry_at_us.map(|at| Timestamp::from_microsecond(at).unwrap()),
                    entity_id: entity_id.into(),
                }
            };
            let events: Vec<_> = events.into_iter().map(saved).collect();
            let bytes = to_columns(&events).encode_to_vec();
            let read = from_columns(&StoredUnderWay::decode(bytes.as_slice()).unwrap()).unwrap();
            prop_assert_eq!(read, events);
        }

        #[test]
        fn any_bytes_are_read_without_panicking(bytes in vec(any::<u8>(), 0..100)) {
            if let Ok(columns) = StoredUnderWay::decode(bytes.as_slice()) {
                let _ = from_columns(&columns);
            }
        }
    }
}
