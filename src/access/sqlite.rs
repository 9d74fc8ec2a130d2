//! Tokens in `state.db`. Owns their table; every change is synced before it is reported.

use std::{path::Path, sync::OnceLock};

use jiff::Timestamp;
use parking_lot::Mutex;
use rusqlite::{Connection, params};

use super::{Credential, Token, TokenDigest, TokenListener, TokenName, TokenStore};
use crate::state_db::{self, StoreError};

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS tokens (
    name TEXT PRIMARY KEY,
    digest BLOB,
    certificate_name TEXT,
    scopes TEXT NOT NULL,
    sees TEXT NOT NULL,
    created_at_us INTEGER NOT NULL,
    expires_at_us INTEGER
);";

/// The store.
pub struct SqliteTokenStore {
    connection: Mutex<Connection>,
    listener: OnceLock<TokenListener>,
}

impl SqliteTokenStore {
    /// Opens the store at `path`, or makes one there. Blocks.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = state_db::open(path)?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self {
            connection: Mutex::new(connection),
            listener: OnceLock::new(),
        })
    }

    fn load(&self) -> Result<Vec<Token>, StoreError> {
        let connection = self.connection.lock();
        let mut select = connection.prepare(
            "SELECT name, digest, certificate_name, scopes, sees, created_at_us, expires_at_us FROM tokens",
        )?;
        let mut rows = select.query([])?;
        let mut tokens = Vec::new();
        while let Some(row) = rows.next()? {
            let credential = match row.get::<_, Option<[u8; 32]>>(1)? {
                Some(digest) => Credential::Token(TokenDigest::from_bytes(digest)),
                None => Credential::Certificate(row.get(2)?),
            };
            let scopes: Vec<String> = serde_json::from_str(&row.get::<_, String>(3)?)?;
            let expires_at_us: Option<i64> = row.get(6)?;
            tokens.push(Token {
                name: row.get::<_, String>(0)?.parse()?,
                credential,
                scopes: scopes
                    .iter()
                    .map(|scope| scope.parse())
                    .collect::<Result<_, _>>()?,
                sees: serde_json::from_str(&row.get::<_, String>(4)?)?,
                created_at: Timestamp::from_microsecond(row.get(5)?)?,
                expires_at: expires_at_us.map(Timestamp::from_microsecond).transpose()?,
                revision: 0,
            });
        }
        Ok(tokens)
    }

    fn tell(&self, name: &TokenName, token: Option<Token>) {
        if let Some(listener) = self.listener.get() {
            listener(name.clone(), token);
        }
    }
}

impl TokenStore for SqliteTokenStore {
    fn follow(&self, listener: TokenListener) -> Result<(), StoreError> {
        for token in self.load()? {
            listener(token.name.clone(), Some(token));
        }
        self.listener
            .set(listener)
            .map_err(|_| "the tokens are followed already".into())
    }

    fn save(&self, token: &Token) -> Result<(), StoreError> {
        let (digest, certificate_name) = match &token.credential {
            Credential::Token(digest) => (Some(digest.as_bytes()), None),
            Credential::Certificate(name) => (None, Some(name)),
        };
        let connection = self.connection.lock();
        connection.execute(
            "INSERT INTO tokens VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                token.name.as_str(),
                digest,
                certificate_name,
                serde_json::to_string(&token.scopes.names().collect::<Vec<_>>())?,
                serde_json::to_string(&token.sees)?,
                token.created_at.as_microsecond(),
                token.expires_at.map(Timestamp::as_microsecond),
            ],
        )?;
        self.tell(&token.name, Some(token.clone()));
        Ok(())
    }

    fn delete(&self, token: &Token) -> Result<(), StoreError> {
        let connection = self.connection.lock();
        connection.execute("DELETE FROM tokens WHERE name = ?1", [token.name.as_str()])?;
        self.tell(&token.name, None);
        Ok(())
    }
}
