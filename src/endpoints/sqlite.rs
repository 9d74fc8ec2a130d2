//! Endpoints in `state.db`. Owns their tables; every change is synced before it is reported.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::{
    Endpoint, EndpointListener, EndpointStore, StoreError,
    sealed::{CALLBACK, Place, SIGNATURE},
};
use crate::{
    event::EndpointName,
    sealing::SealingKeys,
    signature::{Key, Keyring},
    state_db,
};

/// The store.
pub struct SqliteEndpointStore {
    connection: Mutex<Connection>,
    keys: SealingKeys,
    listener: OnceLock<EndpointListener>,
}

impl SqliteEndpointStore {
    /// Opens the store in `state.db` at `path`. Secrets that are stored otherwise than under the current key are sealed
    /// anew, and no trace of how they were stored before is left. Blocks.
    pub fn open(path: &Path, keys: SealingKeys) -> Result<Self, StoreError> {
        let mut connection = state_db::open(path)?;
        connection.execute_batch(
            "BEGIN IMMEDIATE;
             CREATE TABLE IF NOT EXISTS endpoints (
               name TEXT PRIMARY KEY,
               event_types TEXT NOT NULL,
               entity_id TEXT NOT NULL,
               provider_endpoint_id TEXT NOT NULL,
               created_at_us INTEGER NOT NULL,
               registration TEXT NOT NULL
             );
             CREATE TABLE IF NOT EXISTS secrets (
               endpoint TEXT NOT NULL,
               purpose TEXT NOT NULL,
               version INTEGER NOT NULL,
               secret BLOB NOT NULL,
               since_us INTEGER NOT NULL,
               expires_at_us INTEGER,
               PRIMARY KEY (endpoint, purpose, version)
             );
             CREATE TABLE IF NOT EXISTS traces_left (since_sealing INTEGER PRIMARY KEY);
             COMMIT;",
        )?;
        seal_anew(&mut connection, &keys)?;
        remove_traces(&connection)?;
        Ok(Self {
            connection: Mutex::new(connection),
            keys,
            listener: OnceLock::new(),
        })
    }
}

/// Seals under the current key whatever is not. The same transaction notes that traces of the old form are left, so that a
/// crash before they are removed does not make them stay.
fn seal_anew(connection: &mut Connection, keys: &SealingKeys) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut sealed_anew = Vec::new();
    {
        let mut select =
            transaction.prepare("SELECT rowid, endpoint, purpose, version, secret FROM secrets")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let place = Place::of(row.get(1)?, row.get(2)?, row.get(3)?);
            if keys.is_current(stored(row, 4)?) {
                continue;
            }
            let secret = place.open(stored(row, 4)?, keys)?;
            sealed_anew.push((row.get::<_, i64>(0)?, keys.seal(&secret, &place.context())));
        }
    }
    if sealed_anew.is_empty() {
        return Ok(());
    }
    for (rowid, sealed) in &sealed_anew {
        transaction.execute(
            "UPDATE secrets SET secret = ?2 WHERE rowid = ?1",
            params![rowid, sealed],
        )?;
    }
    transaction.execute("INSERT OR IGNORE INTO traces_left VALUES (1)", [])?;
    transaction.commit()?;
    let key = keys.current.as_ref().map(|key| key.id().to_string());
    tracing::info!(
        secrets = sealed_anew.len(),
        key,
        "stored secrets were sealed under the current key"
    );
    Ok(())
}

fn remove_traces(connection: &Connection) -> Result<(), StoreError> {
    let left = connection
        .query_row("SELECT 1 FROM traces_left", [], |_| Ok(()))
        .optional()?;
    if left.is_some() {
        state_db::leave_no_trace(connection)?;
        connection.execute("DELETE FROM traces_left", [])?;
    }
    Ok(())
}

/// A stored secret where it lies, uncopied. What is of another type is nothing that opens.
fn stored<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a [u8], rusqlite::Error> {
    Ok(row.get_ref(column)?.as_blob().unwrap_or_default())
}

impl SqliteEndpointStore {
    fn load(&self) -> Result<Vec<Endpoint>, StoreError> {
        let connection = self.connection.lock();
        let mut select = connection.prepare(
            "SELECT name, event_types, entity_id, provider_endpoint_id, created_at_us, registration
             FROM endpoints",
        )?;
        let mut rows = select.query([])?;
        let mut endpoints = Vec::new();
        while let Some(row) = rows.next()? {
            let name: String = row.get(0)?;
            endpoints.push(Endpoint {
                keyring: self.keyring(&connection, &name, SIGNATURE)?,
                callback_tokens: self.keyring(&connection, &name, CALLBACK)?,
                registration: serde_json::from_str(&row.get::<_, String>(5)?)?,
                name: name.parse()?,
                event_types: serde_json::from_str(&row.get::<_, String>(1)?)?,
                entity_id: row.get(2)?,
                provider_endpoint_id: row.get(3)?,
                created_at: Timestamp::from_microsecond(row.get(4)?)?,
                revision: 0,
                deliveries: Arc::default(),
            });
        }
        Ok(endpoints)
    }

    fn keyring(&self, connection: &Connection, endpoint: &str, purpose: &str) -> Result<Keyring, StoreError> {
        let mut select = connection.prepare_cached(
            "SELECT version, secret, since_us, expires_at_us FROM secrets
             WHERE endpoint = ?1 AND purpose = ?2 ORDER BY version DESC",
        )?;
        let mut rows = select.query([endpoint, purpose])?;
        let mut keys = Vec::new();
        while let Some(row) = rows.next()? {
            let place = Place {
                endpoint: endpoint.into(),
                purpose: purpose.into(),
                version: row.get(0)?,
            };
            keys.push(Key {
                version: place.version,
                secret: place.open(stored(row, 1)?, &self.keys)?,
                since: Timestamp::from_microsecond(row.get(2)?)?,
                expires_at: row
                    .get::<_, Option<i64>>(3)?
                    .map(Timestamp::from_microsecond)
                    .transpose()?,
            });
        }
        Ok(Keyring::new(keys))
    }

    fn tell(&self, name: &EndpointName, endpoint: Option<Endpoint>) {
        if let Some(listener) = self.listener.get() {
            listener(name.clone(), endpoint);
        }
    }
}

impl EndpointStore for SqliteEndpointStore {
    fn follow(&self, listener: EndpointListener) -> Result<(), StoreError> {
        for endpoint in self.load()? {
            listener(endpoint.name.clone(), Some(endpoint));
        }
        self.listener
            .set(listener)
            .map_err(|_| "the endpoints are followed already".into())
    }

    fn save(&self, endpoint: &Endpoint) -> Result<(), StoreError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        transaction.execute(
            "INSERT OR REPLACE INTO endpoints VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                endpoint.name.as_str(),
                serde_json::to_string(&endpoint.event_types)?,
                endpoint.entity_id,
                endpoint.provider_endpoint_id,
                endpoint.created_at.as_microsecond(),
                serde_json::to_string(&endpoint.registration)?,
            ],
        )?;
        transaction.execute(
            "DELETE FROM secrets WHERE endpoint = ?1",
            [endpoint.name.as_str()],
        )?;
        let signatures = endpoint.keyring.keys().iter().map(|key| (SIGNATURE, key));
        let callbacks = endpoint.callback_tokens.keys().iter().map(|key| (CALLBACK, key));
        for (purpose, key) in signatures.chain(callbacks) {
            let place = Place {
                endpoint: endpoint.name.as_str().into(),
                purpose: purpose.into(),
                version: key.version,
            };
            transaction.execute(
                "INSERT INTO secrets VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    endpoint.name.as_str(),
                    purpose,
                    key.version,
                    self.keys.seal(&key.secret, &place.context()),
                    key.since.as_microsecond(),
                    key.expires_at.map(Timestamp::as_microsecond),
                ],
            )?;
        }
        transaction.commit()?;
        self.tell(&endpoint.name, Some(endpoint.clone()));
        Ok(())
    }

    fn delete(&self, endpoint: &Endpoint) -> Result<(), StoreError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        transaction.execute(
            "DELETE FROM secrets WHERE endpoint = ?1",
            [endpoint.name.as_str()],
        )?;
        transaction.execute("DELETE FROM endpoints WHERE name = ?1", [endpoint.name.as_str()])?;
        transaction.commit()?;
        self.tell(&endpoint.name, None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;
    use crate::{sealing::SealingKey, secret::Secret};

    const SECRET: &str = "whsec_the_one_to_look_for";
    const TOKEN: &str = "token_to_look_for";

    struct Disk(tempfile::TempDir);

    impl Disk {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn open(&self, keys: &SealingKeys) -> Result<SqliteEndpointStore, String> {
            let store = SqliteEndpointStore::open(&self.0.path().join("state.db"), keys.clone());
            store.map_err(chain)
        }

        fn load(&self, keys: &SealingKeys) -> Result<Vec<Endpoint>, String> {
            self.open(keys)?.load().map_err(chain)
        }

        fn change(&self, sql: &str) {
            let connection = Connection::open(self.0.path().join("state.db")).unwrap();
            connection.execute_batch(sql).unwrap();
        }

        /// Whether a text is in any of the files.
        fn shows(&self, text: &str) -> bool {
            let files = fs::read_dir(self.0.path()).unwrap();
            files
                .map(|file| fs::read(file.unwrap().path()).unwrap())
                .any(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
        }
    }

    fn chain(error: StoreError) -> String {
        format!("{:#}", anyhow::Error::from_boxed(error))
    }

    fn keys(current: &SealingKey, previous: &[&SealingKey]) -> SealingKeys {
        SealingKeys {
            current: Some(current.clone()),
            previous: previous.iter().map(|&key| key.clone()).collect(),
        }
    }

    fn key() -> SealingKey {
        SealingKey::generate()
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned()).unwrap()
    }

    fn endpoint(name: &str) -> Endpoint {
        let ring = |text: &str| {
            Keyring::new(Vec::new()).rotated(secret(text), Timestamp::UNIX_EPOCH, Duration::ZERO)
        };
        Endpoint {
            name: name.parse().unwrap(),
            event_types: Vec::new(),
            entity_id: String::new(),
            provider_endpoint_id: String::new(),
            created_at: Timestamp::UNIX_EPOCH,
            keyring: ring(&format!("{SECRET}_{name}")),
            callback_tokens: ring(&format!("{TOKEN}_{name}")),
            registration: super::super::Registration::Local,
            revision: 0,
            deliveries: Arc::default(),
        }
    }

    fn secrets(endpoints: &[Endpoint]) -> Vec<&str> {
        let rings = endpoints
            .iter()
            .flat_map(|endpoint| [&endpoint.keyring, &endpoint.callback_tokens]);
        rings
            .flat_map(|ring| ring.keys())
            .map(|key| key.secret.expose())
            .collect()
    }

    fn filled(keys: &SealingKeys) -> Disk {
        let disk = Disk::new();
        let store = disk.open(keys).unwrap();
        for name in ["a", "b"] {
            store.save(&endpoint(name)).unwrap();
        }
        disk
    }

    fn all_secrets() -> [String; 4] {
        [
            format!("{SECRET}_a"),
            format!("{TOKEN}_a"),
            format!("{SECRET}_b"),
            format!("{TOKEN}_b"),
        ]
    }

    #[test]
    fn sealed_secrets_survive_a_restart_and_are_in_no_file() {
        let keys = keys(&key(), &[]);
        let disk = filled(&keys);
        assert!(!disk.shows(SECRET) && !disk.shows(TOKEN));
        let store = disk.open(&keys).unwrap();
        assert_eq!(secrets(&store.load().unwrap()), all_secrets());
        store.save(&endpoint("a")).unwrap();
        assert!(!disk.shows(SECRET) && !disk.shows(TOKEN));
    }

    #[test]
    fn without_a_key_they_are_readable() {
        let disk = filled(&SealingKeys::default());
        assert!(disk.shows(SECRET) && disk.shows(TOKEN));
        let loaded = disk.load(&SealingKeys::default()).unwrap();
        assert_eq!(secrets(&loaded), all_secrets());
    }

    #[test]
    fn a_first_key_seals_what_is_there_and_leaves_no_trace_of_it_also_after_a_crash() {
        let disk = Disk::new();
        let readable = disk.open(&SealingKeys::default()).unwrap();
        for number in 0..200 {
            readable.save(&endpoint(&format!("e{number}"))).unwrap();
        }
        for number in 0..150 {
            readable.delete(&endpoint(&format!("e{number}"))).unwrap();
        }
        // As after a crash: the write-ahead log is left as it is.
        let crashed = Disk::new();
        for file in ["state.db", "state.db-wal"] {
            fs::copy(disk.0.path().join(file), crashed.0.path().join(file)).unwrap();
        }
        drop(readable);
        for disk in [disk, crashed] {
            assert!(disk.shows(SECRET));
            let keys = keys(&key(), &[]);
            let store = disk.open(&keys).unwrap();
            assert!(!disk.shows(SECRET) && !disk.shows(TOKEN), "while open");
            assert_eq!(store.load().unwrap().len(), 50);
            drop(store);
            assert!(!disk.shows(SECRET) && !disk.shows(TOKEN), "once closed");
        }
    }

    #[test]
    fn a_crash_between_sealing_and_removing_traces_does_not_make_them_stay() {
        let disk = filled(&SealingKeys::default());
        let keys = keys(&key(), &[]);
        let mut connection = state_db::open(&disk.0.path().join("state.db")).unwrap();
        seal_anew(&mut connection, &keys).unwrap();
        drop(connection);
        disk.change("CREATE TABLE stale AS SELECT 'whsec_the_one_to_look_for'; PRAGMA secure_delete = OFF; DROP TABLE stale");
        assert!(disk.shows(SECRET));
        assert_eq!(secrets(&disk.load(&keys).unwrap()), all_secrets());
        assert!(!disk.shows(SECRET));
    }

    #[test]
    fn a_rotated_key_seals_everything_and_the_key_before_is_no_longer_needed() {
        let (old, new) = (key(), key());
        let disk = filled(&keys(&old, &[]));
        assert_eq!(secrets(&disk.load(&keys(&new, &[&old])).unwrap()), all_secrets());
        assert_eq!(secrets(&disk.load(&keys(&new, &[])).unwrap()), all_secrets());
        assert!(disk.load(&keys(&old, &[])).is_err());
        let id = data_encoding::HEXLOWER
            .decode(old.id().to_string().as_bytes())
            .unwrap();
        let bytes = fs::read(disk.0.path().join("state.db")).unwrap();
        assert!(
            !bytes.windows(id.len()).any(|part| part == id),
            "nothing under the old key is left"
        );
    }

    #[test]
    fn a_wrong_key_is_an_error_that_names_the_needed_one_and_changes_nothing() {
        let (own, other) = (key(), key());
        let disk = filled(&keys(&own, &[]));
        let error = disk.open(&keys(&other, &[])).err().unwrap();
        for part in [
            &own.id().to_string(),
            &other.id().to_string(),
            "endpoint a",
            "--previous-sealing-key-file",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(secrets(&disk.load(&keys(&own, &[])).unwrap()), all_secrets());
    }

    #[test]
    fn a_missing_key_is_an_error_that_names_it() {
        let own = key();
        let disk = filled(&keys(&own, &[]));
        let error = disk.open(&SealingKeys::default()).err().unwrap();
        assert!(
            error.contains(&own.id().to_string()) && error.contains("no key was given"),
            "{error}"
        );
    }

    #[test]
    fn a_changed_or_swapped_value_is_an_error_that_names_endpoint_and_purpose() {
        let changes = [
            "UPDATE secrets SET secret = zeroblob(0) WHERE endpoint = 'b' AND purpose = 'callback'",
            "UPDATE secrets SET secret = 'text' WHERE endpoint = 'b' AND purpose = 'callback'",
            "UPDATE secrets SET secret = substr(secret, 1, length(secret) - 1) || x'00'
               WHERE endpoint = 'b' AND purpose = 'callback'",
            "UPDATE secrets SET secret = (SELECT secret FROM secrets WHERE endpoint = 'a' AND purpose = 'callback')
               WHERE endpoint = 'b' AND purpose = 'callback'",
            "UPDATE secrets SET secret = (SELECT secret FROM secrets WHERE endpoint = 'b' AND purpose = 'signature')
               WHERE endpoint = 'b' AND purpose = 'callback'",
            "UPDATE secrets SET version = 1 + version WHERE endpoint = 'b' AND purpose = 'callback'",
        ];
        for change in changes {
            let keys = keys(&key(), &[]);
            let disk = filled(&keys);
            disk.change(change);
            let error = disk.load(&keys).unwrap_err();
            assert!(
                error.contains("endpoint b: its callback secret"),
                "{change}: {error}"
            );
        }
    }
}
