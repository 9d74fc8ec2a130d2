//! Tokens in a bucket that all replicas share. Owns their form there.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::{Credential, Token, TokenDigest, TokenListener, TokenName, TokenStore};
use crate::{
    filter::Filter,
    nats::bucket::{Bucket, Change},
    state_db::StoreError,
    tasks::Tasks,
};

/// The store. To be made where there is a runtime.
pub struct SharedTokenStore {
    bucket: Arc<Bucket>,
    tasks: Tasks,
    runtime: Handle,
}

/// A token as it is stored, all but its name.
#[derive(Deserialize, Serialize)]
struct Document {
    credential: StoredCredential,
    scopes: Vec<String>,
    sees: Filter,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum StoredCredential {
    /// In hexadecimal digits.
    Sha256(String),
    Certificate(String),
}

impl SharedTokenStore {
    /// The tokens in this bucket. Its tasks end with `tasks`.
    pub fn new(bucket: Arc<Bucket>, tasks: Tasks) -> Self {
        Self {
            bucket,
            tasks,
            runtime: Handle::current(),
        }
    }
}

impl TokenStore for SharedTokenStore {
    fn follow(&self, listener: TokenListener) -> Result<(), StoreError> {
        let listener = move |Change { key, revision, value }: Change| {
            let name: TokenName = key.parse()?;
            let token = value.map(|value| decode(&name, &value, revision));
            listener(name, token.transpose()?);
            Ok(())
        };
        self.runtime.block_on(self.bucket.follow(&self.tasks, listener))
    }

    fn save(&self, token: &Token) -> Result<(), StoreError> {
        let document = Document {
            credential: match &token.credential {
                Credential::Token(digest) => StoredCredential::Sha256(HEXLOWER.encode(digest.as_bytes())),
                Credential::Certificate(name) => StoredCredential::Certificate(name.clone()),
            },
            scopes: token.scopes.names().map(str::to_owned).collect(),
            sees: token.sees.clone(),
            created_at: token.created_at,
            expires_at: token.expires_at,
        };
        let value = serde_json::to_vec(&document)?;
        self.runtime
            .block_on(self.bucket.put(token.name.as_str(), value.into(), token.revision))
    }

    fn delete(&self, token: &Token) -> Result<(), StoreError> {
        self.runtime
            .block_on(self.bucket.delete(token.name.as_str(), token.revision))
    }
}

fn decode(name: &TokenName, value: &[u8], revision: u64) -> Result<Token, StoreError> {
    let document: Document = serde_json::from_slice(value)?;
    let credential = match document.credential {
        StoredCredential::Certificate(name) => Credential::Certificate(name),
        StoredCredential::Sha256(digits) => {
            let digest = HEXLOWER.decode(digits.as_bytes())?;
            let digest = digest.try_into().map_err(|_| "its digest is not of 32 bytes")?;
            Credential::Token(TokenDigest::from_bytes(digest))
        }
    };
    let scopes = document.scopes.iter().map(|scope| scope.parse());
    Ok(Token {
        name: name.clone(),
        credential,
        scopes: scopes.collect::<Result<_, _>>()?,
        sees: document.sees,
        created_at: document.created_at,
        expires_at: document.expires_at,
        revision,
    })
}
