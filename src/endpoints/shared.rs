//! Endpoints in a bucket that all replicas share. Owns their form there; secrets are sealed before they leave the process.

use std::sync::Arc;

use bytes::Bytes;
use data_encoding::BASE64;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::{
    Conflict, Endpoint, EndpointListener, EndpointStore, Registration, StoreError,
    sealed::{CALLBACK, Place, SIGNATURE},
};
use crate::{
    event::EndpointName,
    nats::bucket::{Bucket, Change},
    sealing::SealingKeys,
    signature::{Key, Keyring},
    tasks::Tasks,
};

/// The store. To be made where there is a runtime.
pub struct SharedEndpointStore {
    bucket: Arc<Bucket>,
    keys: SealingKeys,
    tasks: Tasks,
    runtime: Handle,
}

/// An endpoint as it is stored, all but its name.
#[derive(Deserialize, Serialize)]
struct Document {
    event_types: Vec<String>,
    entity_id: String,
    provider_endpoint_id: String,
    created_at: Timestamp,
    registration: Registration,
    secrets: Vec<SealedSecret>,
}

#[derive(Deserialize, Serialize)]
struct SealedSecret {
    purpose: String,
    version: u32,
    sealed: String,
    since: Timestamp,
    expires_at: Option<Timestamp>,
}

impl SharedEndpointStore {
    /// The endpoints in this bucket, sealed with these keys. Its tasks end with `tasks`.
    pub fn new(bucket: Arc<Bucket>, keys: SealingKeys, tasks: Tasks) -> Self {
        Self {
            bucket,
            keys,
            tasks,
            runtime: Handle::current(),
        }
    }
}

impl EndpointStore for SharedEndpointStore {
    fn follow(&self, listener: EndpointListener) -> Result<(), StoreError> {
        let keys = self.keys.clone();
        // Those that are not sealed under the current key, until all are known.
        let stale = Arc::new(Mutex::new(Some(Vec::new())));
        let finds = Arc::clone(&stale);
        let listener = move |Change { key, revision, value }: Change| {
            let name: EndpointName = key.parse()?;
            let endpoint = value.map(|value| decode(&name, &value, revision, &keys));
            let endpoint = endpoint.transpose()?;
            if let (Some(finds), Some((endpoint, false))) = (&mut *finds.lock(), &endpoint) {
                finds.push(endpoint.clone());
            }
            listener(name, endpoint.map(|(endpoint, _)| endpoint));
            Ok(())
        };
        self.runtime.block_on(self.bucket.follow(&self.tasks, listener))?;
        let stale: Vec<Endpoint> = stale.lock().take().unwrap_or_default();
        for endpoint in &stale {
            match self.save(endpoint) {
                // Another replica was faster.
                Err(error) if error.is::<Conflict>() => {}
                saved => saved?,
            }
        }
        if !stale.is_empty() {
            tracing::info!(
                endpoints = stale.len(),
                "stored secrets were sealed under the current key"
            );
        }
        Ok(())
    }

    fn save(&self, endpoint: &Endpoint) -> Result<(), StoreError> {
        let value = encode(endpoint, &self.keys)?;
        self.runtime
            .block_on(self.bucket.put(endpoint.name.as_str(), value, endpoint.revision))
    }

    fn delete(&self, endpoint: &Endpoint) -> Result<(), StoreError> {
        self.runtime
            .block_on(self.bucket.delete(endpoint.name.as_str(), endpoint.revision))
    }
}

fn encode(endpoint: &Endpoint, keys: &SealingKeys) -> Result<Bytes, StoreError> {
    let signatures = endpoint.keyring.keys().iter().map(|key| (SIGNATURE, key));
    let callbacks = endpoint.callback_tokens.keys().iter().map(|key| (CALLBACK, key));
    let secrets = signatures.chain(callbacks).map(|(purpose, key)| {
        let place = Place::of(endpoint.name.to_string(), purpose.to_owned(), key.version);
        SealedSecret {
            purpose: purpose.to_owned(),
            version: key.version,
            sealed: BASE64.encode(&keys.seal(&key.secret, &place.context())),
            since: key.since,
            expires_at: key.expires_at,
        }
    });
    let document = Document {
        event_types: endpoint.event_types.clone(),
        entity_id: endpoint.entity_id.clone(),
        provider_endpoint_id: endpoint.provider_endpoint_id.clone(),
        created_at: endpoint.created_at,
        registration: endpoint.registration.clone(),
        secrets: secrets.collect(),
    };
    Ok(serde_json::to_vec(&document)?.into())
}

/// An endpoint, and whether all of it is sealed under the current key.
fn decode(
    name: &EndpointName,
    value: &[u8],
    revision: u64,
    keys: &SealingKeys,
) -> Result<(Endpoint, bool), StoreError> {
    let document: Document = serde_json::from_slice(value)?;
    let (mut signatures, mut callbacks) = (Vec::new(), Vec::new());
    let mut is_current = true;
    for SealedSecret {
        purpose,
        version,
        sealed,
        since,
        expires_at,
    } in document.secrets
    {
        let ring = match purpose.as_str() {
            SIGNATURE => &mut signatures,
            CALLBACK => &mut callbacks,
            other => {
                return Err(
                    format!("it has a secret for `{other}`, which this version does not know").into(),
                );
            }
        };
        let sealed = BASE64.decode(sealed.as_bytes())?;
        is_current &= keys.is_current(&sealed);
        ring.push(Key {
            version,
            secret: Place::of(name.to_string(), purpose, version).open(&sealed, keys)?,
            since,
            expires_at,
        });
    }
    let endpoint = Endpoint {
        name: name.clone(),
        event_types: document.event_types,
        entity_id: document.entity_id,
        provider_endpoint_id: document.provider_endpoint_id,
        created_at: document.created_at,
        keyring: Keyring::new(signatures),
        callback_tokens: Keyring::new(callbacks),
        registration: document.registration,
        revision,
        deliveries: Arc::default(),
    };
    Ok((endpoint, is_current))
}
