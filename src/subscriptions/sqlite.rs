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
    columns::UnderWay,
    dead_letters::DeadLetter,
    dispatch::Place,
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
            let under_way = UnderWay::decode(row.get_ref(7)?.as_blob()?)?;
            subscriptions.push(Stored {
                id: number(row, 0)?,
                name: row.get::<_, String>(1)?.parse()?,
                settings: Arc::new(settings),
                created_at: Timestamp::from_microsecond(row.get(3)?)?,
                log_id: LogId::new(number(row, 4)?),
                place: under_way.place(number(row, 5)?, Sequence::new(number(row, 6)?))?,
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
                UnderWay::of(place).encode_to_vec(),
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
                        letter.reason.as_str(),
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
                reason: row.get::<_, String>(2)?.parse()?,
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
        UnderWay::of(place).encode_to_vec(),
    ])
}

/// A number where SQLite has only signed ones.
fn number(row: &Row<'_>, column: usize) -> Result<u64, rusqlite::Error> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}
