//! The audit trail in `state.db`. Owns its table; a record is synced before it is reported.

use std::path::Path;

use jiff::Timestamp;
use parking_lot::Mutex;
use rusqlite::{Connection, params};

use super::{Action, AuditStore, Question, Record};
use crate::{
    limits,
    state_db::{self, StoreError},
};

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_us INTEGER NOT NULL,
    actor TEXT NOT NULL,
    address TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    outcome TEXT NOT NULL
);";

/// The store.
#[derive(Debug)]
pub struct SqliteAuditStore {
    connection: Mutex<Connection>,
    records_max: i64,
}

impl SqliteAuditStore {
    /// Opens the store at `path`, or makes one there. Blocks.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = state_db::open(path)?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self {
            connection: Mutex::new(connection),
            records_max: limits::AUDIT_RECORDS_MAX,
        })
    }
}

impl AuditStore for SqliteAuditStore {
    fn append(&self, at: Timestamp, action: &Action) -> Result<(), StoreError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        transaction.execute(
            "INSERT INTO audit (at_us, actor, address, action, target, outcome) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                at.as_microsecond(),
                action.actor,
                action.address,
                action.action,
                action.target,
                action.outcome,
            ],
        )?;
        transaction.execute(
            "DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - ?1",
            [self.records_max],
        )?;
        transaction.commit()?;
        Ok(())
    }

    fn list(&self, question: Question) -> Result<Vec<Record>, StoreError> {
        let connection = self.connection.lock();
        let mut select = connection.prepare_cached(
            "SELECT id, at_us, actor, address, action, target, outcome FROM audit
             WHERE id < ?1 AND at_us >= ?2 ORDER BY id DESC LIMIT ?3",
        )?;
        let mut rows = select.query(params![
            question.before_id.unwrap_or(i64::MAX),
            question.since.map_or(i64::MIN, Timestamp::as_microsecond),
            i64::try_from(question.most)?,
        ])?;
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            records.push(Record {
                id: row.get(0)?,
                at: Timestamp::from_microsecond(row.get(1)?)?,
                action: Action {
                    actor: row.get(2)?,
                    address: row.get(3)?,
                    action: row.get(4)?,
                    target: row.get(5)?,
                    outcome: row.get(6)?,
                },
            });
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(target: &str) -> Action {
        Action {
            actor: "operator".into(),
            address: "127.0.0.1".into(),
            action: "ManageEndpoint.create".into(),
            target: target.into(),
            outcome: "OK".into(),
        }
    }

    fn targets(store: &SqliteAuditStore, question: Question) -> Vec<String> {
        let records = store.list(question).unwrap();
        records.into_iter().map(|record| record.action.target).collect()
    }

    #[test]
    fn the_newest_records_come_first_survive_a_restart_and_push_out_the_oldest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.db");
        let open = || SqliteAuditStore {
            records_max: 3,
            ..SqliteAuditStore::open(&path).unwrap()
        };
        let at = |second| Timestamp::from_second(second).unwrap();
        for second in 1..=5 {
            open().append(at(second), &action(&second.to_string())).unwrap();
        }
        let store = open();
        let all = Question {
            most: 10,
            ..Question::default()
        };
        assert_eq!(targets(&store, all), ["5", "4", "3"]);
        assert_eq!(targets(&store, Question { most: 1, ..all }), ["5"]);
        assert_eq!(
            targets(
                &store,
                Question {
                    before_id: Some(4),
                    ..all
                }
            ),
            ["3"]
        );
        assert_eq!(
            targets(
                &store,
                Question {
                    since: Some(at(4)),
                    ..all
                }
            ),
            ["5", "4"]
        );
        assert_eq!(
            store.list(all).unwrap()[0],
            Record {
                id: 5,
                at: at(5),
                action: action("5")
            }
        );
    }
}
