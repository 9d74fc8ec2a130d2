//! Endpoints in `state.db`. Owns their tables; every change is synced before it is reported.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicI64},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use rusqlite::{Connection, params};

use super::{Endpoint, EndpointStore, StoreError};
use crate::{
    event::EndpointName,
    secret::Secret,
    signature::{Key, Keyring},
    state_db,
};

/// What a secret is for: to verify signatures, or to stand in the URL for callbacks.
const SIGNATURE: &str = "signature";
const CALLBACK: &str = "callback";

/// The store.
#[derive(Debug)]
pub struct SqliteEndpointStore(Mutex<Connection>);

impl SqliteEndpointStore {
    /// Opens the store in `state.db` at `path`. Blocks.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = state_db::open(path)?;
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
               secret TEXT NOT NULL,
               expires_at_us INTEGER,
               PRIMARY KEY (endpoint, purpose, version)
             );
             COMMIT;",
        )?;
        Ok(Self(Mutex::new(connection)))
    }
}

impl EndpointStore for SqliteEndpointStore {
    fn load(&self) -> Result<Vec<Endpoint>, StoreError> {
        let connection = self.0.lock();
        let mut select = connection.prepare(
            "SELECT name, event_types, entity_id, provider_endpoint_id, created_at_us, registration
             FROM endpoints",
        )?;
        let mut rows = select.query([])?;
        let mut endpoints = Vec::new();
        while let Some(row) = rows.next()? {
            let name: String = row.get(0)?;
            endpoints.push(Endpoint {
                keyring: keyring(&connection, &name, SIGNATURE)?,
                callback_tokens: keyring(&connection, &name, CALLBACK)?,
                registration: serde_json::from_str(&row.get::<_, String>(5)?)?,
                name: name.parse()?,
                event_types: serde_json::from_str(&row.get::<_, String>(1)?)?,
                entity_id: row.get(2)?,
                provider_endpoint_id: row.get(3)?,
                created_at: Timestamp::from_microsecond(row.get(4)?)?,
                last_delivery_us: Arc::new(AtomicI64::new(i64::MIN)),
            });
        }
        Ok(endpoints)
    }

    fn save(&self, endpoint: &Endpoint) -> Result<(), StoreError> {
        let mut connection = self.0.lock();
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
            transaction.execute(
                "INSERT INTO secrets VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    endpoint.name.as_str(),
                    purpose,
                    key.version,
                    key.secret.expose(),
                    key.expires_at.map(Timestamp::as_microsecond),
                ],
            )?;
        }
        transaction.commit()?;
        Ok(())
    }

    fn delete(&self, name: &EndpointName) -> Result<(), StoreError> {
        let mut connection = self.0.lock();
        let transaction = connection.transaction()?;
        transaction.execute("DELETE FROM secrets WHERE endpoint = ?1", [name.as_str()])?;
        transaction.execute("DELETE FROM endpoints WHERE name = ?1", [name.as_str()])?;
        transaction.commit()?;
        Ok(())
    }
}

fn keyring(connection: &Connection, endpoint: &str, purpose: &str) -> Result<Keyring, StoreError> {
    let mut select = connection.prepare_cached(
        "SELECT version, secret, expires_at_us FROM secrets
         WHERE endpoint = ?1 AND purpose = ?2 ORDER BY version DESC",
    )?;
    let mut rows = select.query([endpoint, purpose])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        keys.push(Key {
            version: row.get(0)?,
            secret: Secret::new(row.get::<_, String>(1)?)?,
            expires_at: row
                .get::<_, Option<i64>>(2)?
                .map(Timestamp::from_microsecond)
                .transpose()?,
        });
    }
    Ok(Keyring::new(keys))
}
