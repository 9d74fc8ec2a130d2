//! The endpoints: names, secrets and notes. Owns their life from creation to deletion; refuses to know HTTP, gRPC, or in
//! what they are stored.

mod deliveries;
mod endpoint;
mod sealed;
pub mod shared;
pub mod sqlite;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::RwLock;

pub use self::endpoint::{Endpoint, Operation, Pending, Provider, ProviderStatus, Registration, State};
pub use crate::state_db::{Conflict, StoreError};
use crate::{
    clock::Clock, event::EndpointName, filter::TypePattern, limits, secret::Secret, signature::Keyring, tasks,
};

/// What an endpoint is made of.
#[derive(Clone, Debug, Default)]
pub struct NewEndpoint {
    /// See [`Endpoint::event_types`].
    pub event_types: Vec<String>,
    /// See [`Endpoint::entity_id`].
    pub entity_id: String,
    /// See [`Endpoint::provider_endpoint_id`].
    pub provider_endpoint_id: String,
    /// The secret. If there is none, a new one is generated for a local registration; HeyGen tells that of its own.
    pub secret: Option<Secret>,
    /// See [`Endpoint::registration`].
    pub registration: Registration,
}

/// What to change of an endpoint.
#[derive(Clone, Debug, Default)]
pub struct EndpointChange {
    /// The new list.
    pub event_types: Option<Vec<String>>,
    /// The new value.
    pub entity_id: Option<String>,
}

/// Why an operation on endpoints failed. Nothing was changed, except that a failed store leaves it open.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The name is taken.
    #[error("an endpoint named {0} exists")]
    Exists(EndpointName),
    /// There is none of this name.
    #[error("no endpoint is named {0}")]
    NotFound(EndpointName),
    /// There are as many as there may be.
    #[error("{} endpoints exist; no more are allowed", limits::ENDPOINTS_MAX)]
    TooMany,
    /// A field is not valid.
    #[error("{field} {reason}")]
    Invalid {
        /// The field.
        field: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Another replica changed it at the same moment. A retry builds on that change.
    #[error("the endpoint {0} was changed at another replica at the same moment: look at it and try again")]
    Conflict(EndpointName),
    /// The change could not be stored. A retry may succeed.
    #[error("the endpoint could not be stored")]
    Store(#[source] StoreError),
}

/// Who is told of an endpoint that is there or has changed, or that is gone.
pub type EndpointListener = Box<dyn Fn(EndpointName, Option<Endpoint>) + Send + Sync>;

/// Where endpoints are kept. A change is durable, and told, when the call returns. Calls block.
pub trait EndpointStore: Send + Sync + 'static {
    /// Tells `listener` of every endpoint there is before it returns, and from then on of every change, in order, whoever
    /// makes it.
    fn follow(&self, listener: EndpointListener) -> Result<(), StoreError>;
    /// Makes or replaces one. [`Conflict`] if it is no longer of the revision that it is to replace.
    fn save(&self, endpoint: &Endpoint) -> Result<(), StoreError>;
    /// Removes one; the same.
    fn delete(&self, endpoint: &Endpoint) -> Result<(), StoreError>;
}

/// All endpoints, in memory and in their store.
pub struct Endpoints {
    store: Arc<dyn EndpointStore>,
    clock: Clock,
    by_name: Arc<RwLock<ByName>>,
    /// Held over a change and its storing.
    changing: tokio::sync::Mutex<()>,
}

type ByName = BTreeMap<EndpointName, Arc<Endpoint>>;

/// Takes in what a store tells.
fn take_in(by_name: &mut ByName, name: EndpointName, endpoint: Option<Endpoint>) {
    let before = by_name.remove(&name);
    if let Some(mut endpoint) = endpoint {
        if let Some(before) = before.filter(|before| before.created_at == endpoint.created_at) {
            endpoint.deliveries = Arc::clone(&before.deliveries);
        }
        by_name.insert(name, Arc::new(endpoint));
    }
}

impl Endpoints {
    /// The endpoints of a store. Blocks.
    pub fn load(store: Arc<dyn EndpointStore>, clock: Clock) -> Result<Self, StoreError> {
        let by_name = Arc::new(RwLock::new(ByName::new()));
        let told = Arc::clone(&by_name);
        store.follow(Box::new(move |name, endpoint| {
            take_in(&mut told.write(), name, endpoint);
        }))?;
        Ok(Self {
            store,
            clock,
            by_name,
            changing: tokio::sync::Mutex::default(),
        })
    }

    /// The endpoint of this name.
    pub fn get(&self, name: &EndpointName) -> Option<Arc<Endpoint>> {
        self.by_name.read().get(name).cloned()
    }

    /// All endpoints, in the order of names.
    pub fn all(&self) -> Vec<Arc<Endpoint>> {
        self.by_name.read().values().cloned().collect()
    }

    /// The endpoints after a name with a name that is `wanted`, in the order of names.
    pub fn list(
        &self,
        after: Option<&EndpointName>,
        most: usize,
        wanted: impl Fn(&EndpointName) -> bool,
    ) -> Vec<Arc<Endpoint>> {
        let by_name = self.by_name.read();
        let after = |name: &EndpointName| after.is_none_or(|after| name > after);
        by_name
            .values()
            .filter(|endpoint| after(&endpoint.name) && wanted(&endpoint.name))
            .take(most)
            .cloned()
            .collect()
    }

    /// Makes an endpoint.
    pub async fn create(&self, name: EndpointName, new: NewEndpoint) -> Result<Arc<Endpoint>, EndpointError> {
        check_event_types(&new.event_types)?;
        check_identifier("entity_id", &new.entity_id)?;
        check_identifier("provider_endpoint_id", &new.provider_endpoint_id)?;
        let _changing = self.changing.lock().await;
        if self.get(&name).is_some() {
            return Err(EndpointError::Exists(name));
        }
        if self.by_name.read().len() >= limits::ENDPOINTS_MAX {
            return Err(EndpointError::TooMany);
        }
        let now = self.clock.now();
        let generate = new.registration == Registration::Local;
        let secret = new.secret.or_else(|| generate.then(Secret::generate));
        let none = Keyring::new(Vec::new());
        self.save(Endpoint {
            name,
            event_types: new.event_types,
            entity_id: new.entity_id,
            provider_endpoint_id: new.provider_endpoint_id,
            created_at: now,
            keyring: secret.map_or_else(
                || none.clone(),
                |secret| none.rotated(secret, now, Duration::ZERO),
            ),
            callback_tokens: none.clone(),
            registration: new.registration,
            revision: 0,
            deliveries: Arc::default(),
        })
        .await
        .map_err(|error| match error {
            EndpointError::Conflict(name) => EndpointError::Exists(name),
            error => error,
        })
    }

    /// Changes an endpoint.
    pub async fn modify(
        &self,
        name: &EndpointName,
        change: impl FnOnce(&mut Endpoint),
    ) -> Result<Arc<Endpoint>, EndpointError> {
        let _changing = self.changing.lock().await;
        let mut endpoint = self.existing(name)?;
        change(&mut endpoint);
        self.save(endpoint).await
    }

    /// Takes in how HeyGen's side looks. It is stored only if it looks otherwise than before.
    pub async fn observe(
        &self,
        name: &EndpointName,
        look: impl FnOnce(&mut Provider),
    ) -> Result<Arc<Endpoint>, EndpointError> {
        let _changing = self.changing.lock().await;
        let mut endpoint = self.existing(name)?;
        let Some(provider) = endpoint.provider_mut() else {
            return Ok(Arc::new(endpoint));
        };
        let before = provider.clone();
        look(provider);
        let same = before
            == Provider {
                checked_at: before.checked_at,
                ..provider.clone()
            };
        if !same {
            return self.save(endpoint).await;
        }
        let endpoint = Arc::new(endpoint);
        self.by_name.write().insert(name.clone(), Arc::clone(&endpoint));
        Ok(endpoint)
    }

    /// Changes what an endpoint is meant for.
    pub async fn update(
        &self,
        name: &EndpointName,
        change: EndpointChange,
    ) -> Result<Arc<Endpoint>, EndpointError> {
        change.event_types.as_deref().map_or(Ok(()), check_event_types)?;
        change
            .entity_id
            .as_deref()
            .map_or(Ok(()), |id| check_identifier("entity_id", id))?;
        self.modify(name, |endpoint| {
            if let Some(event_types) = change.event_types {
                endpoint.event_types = event_types;
            }
            if let Some(entity_id) = change.entity_id {
                endpoint.entity_id = entity_id;
            }
        })
        .await
    }

    /// Replaces the secret; the one before goes on verifying for the overlap.
    pub async fn rotate_secret(
        &self,
        name: &EndpointName,
        secret: Secret,
        overlap: Duration,
    ) -> Result<Arc<Endpoint>, EndpointError> {
        let now = self.clock.now();
        self.modify(name, |endpoint| endpoint.take_secret(secret, now, overlap))
            .await
    }

    /// Replaces the token in the callback URL; the one before is accepted for the overlap.
    pub async fn rotate_callback_token(
        &self,
        name: &EndpointName,
        overlap: Duration,
    ) -> Result<(Arc<Endpoint>, Secret), EndpointError> {
        let (now, token) = (self.clock.now(), Secret::generate_token());
        let taken = token.clone();
        let change = move |endpoint: &mut Endpoint| {
            endpoint.callback_tokens = endpoint.callback_tokens.rotated(taken, now, overlap);
        };
        Ok((self.modify(name, change).await?, token))
    }

    /// Removes an endpoint.
    pub async fn delete(&self, name: &EndpointName) -> Result<(), EndpointError> {
        let _changing = self.changing.lock().await;
        let endpoint = self.existing(name)?;
        self.store(name, move |store| store.delete(&endpoint)).await
    }

    fn existing(&self, name: &EndpointName) -> Result<Endpoint, EndpointError> {
        let found = self
            .get(name)
            .ok_or_else(|| EndpointError::NotFound(name.clone()))?;
        Ok(Endpoint::clone(&found))
    }

    async fn save(&self, endpoint: Endpoint) -> Result<Arc<Endpoint>, EndpointError> {
        let endpoint = Arc::new(endpoint);
        let to_store = Arc::clone(&endpoint);
        self.store(&endpoint.name, move |store| store.save(&to_store))
            .await?;
        // As it was told; it may be gone again already.
        Ok(self.get(&endpoint.name).unwrap_or(endpoint))
    }

    async fn store(
        &self,
        name: &EndpointName,
        change: impl FnOnce(&dyn EndpointStore) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), EndpointError> {
        let store = Arc::clone(&self.store);
        let changed = tasks::blocking(move || change(&*store)).await;
        let changed = changed.map_err(StoreError::from).and_then(|changed| changed);
        changed.map_err(|error| match error.downcast_ref() {
            Some(Conflict) => EndpointError::Conflict(name.clone()),
            None => EndpointError::Store(error),
        })
    }
}

fn check_event_types(event_types: &[String]) -> Result<(), EndpointError> {
    if event_types.len() > limits::FILTER_VALUES_MAX {
        return Err(EndpointError::Invalid {
            field: "event_types".into(),
            reason: "has more than 100 values",
        });
    }
    for (at, text) in event_types.iter().enumerate() {
        TypePattern::parse(text).map_err(|reason| EndpointError::Invalid {
            field: format!("event_types[{at}]"),
            reason,
        })?;
    }
    Ok(())
}

fn check_identifier(field: &'static str, identifier: &str) -> Result<(), EndpointError> {
    if identifier.len() > limits::IDENTIFIER_BYTES_MAX {
        return Err(EndpointError::Invalid {
            field: field.into(),
            reason: "is longer than 256 bytes",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use jiff::Timestamp;

    use super::*;
    use crate::sealing::SealingKeys;

    fn name() -> EndpointName {
        "dev".parse().unwrap()
    }

    fn open(directory: &std::path::Path, now: &Arc<AtomicI64>) -> Endpoints {
        let now = Arc::clone(now);
        let clock = Clock::new(move || Timestamp::from_second(now.load(Ordering::SeqCst)).unwrap());
        let store =
            sqlite::SqliteEndpointStore::open(&directory.join("state.db"), SealingKeys::default()).unwrap();
        Endpoints::load(Arc::new(store), clock).unwrap()
    }

    #[tokio::test]
    async fn an_endpoint_and_its_secrets_survive_a_restart() {
        let (directory, now) = (tempfile::tempdir().unwrap(), Arc::new(AtomicI64::new(1000)));
        let endpoints = open(directory.path(), &now);
        let new = NewEndpoint {
            event_types: vec!["*.fail".into()],
            ..NewEndpoint::default()
        };
        let created = endpoints.create(name(), new).await.unwrap();
        let first = created.keyring.keys()[0].secret.clone();
        let second = Secret::generate();
        endpoints
            .rotate_secret(&name(), second.clone(), Duration::from_secs(60))
            .await
            .unwrap();
        drop(endpoints);

        let endpoint = open(directory.path(), &now).get(&name()).unwrap();
        assert_eq!(endpoint.event_types, ["*.fail"]);
        assert_eq!(endpoint.secret_version(), 2);
        let secrets: Vec<_> = endpoint
            .keyring
            .keys()
            .iter()
            .map(|key| key.secret.expose())
            .collect();
        assert_eq!(secrets, [second.expose(), first.expose()]);
        let expiry = endpoint.previous_secret_expires_at(Timestamp::from_second(1000).unwrap());
        assert_eq!(expiry, Some(Timestamp::from_second(1060).unwrap()));
        assert_eq!(
            endpoint.previous_secret_expires_at(Timestamp::from_second(1060).unwrap()),
            None
        );
    }

    #[tokio::test]
    async fn a_name_is_used_once_and_free_again_after_deletion() {
        let (directory, now) = (tempfile::tempdir().unwrap(), Arc::new(AtomicI64::new(0)));
        let endpoints = open(directory.path(), &now);
        endpoints.create(name(), NewEndpoint::default()).await.unwrap();
        let again = endpoints.create(name(), NewEndpoint::default()).await;
        assert!(matches!(again, Err(EndpointError::Exists(_))));
        endpoints.delete(&name()).await.unwrap();
        assert!(matches!(
            endpoints.delete(&name()).await,
            Err(EndpointError::NotFound(_))
        ));
        assert!(endpoints.create(name(), NewEndpoint::default()).await.is_ok());
    }
}
