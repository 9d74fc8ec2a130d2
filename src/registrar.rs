//! Keeps registrations at HeyGen in step with the endpoints here. Owns what is done in which order, so that a crash at any
//! point neither registers twice nor loses a secret; refuses to know HTTP, gRPC and storage.
//!
//! What HeyGen is to do is stored with the endpoint before HeyGen is asked, with the idempotency key to ask under. Until
//! HeyGen's answer is stored as well, the operation is pending and is done again: HeyGen answers a repeated key with its
//! first answer, the secret included, for a day. Beyond that day a registration of our URL is looked for and adopted.

mod drive;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{
    clock::Clock,
    endpoints::{
        Endpoint, EndpointChange, EndpointError, Endpoints, NewEndpoint, Operation, Pending, Provider,
        Registration,
    },
    event::EndpointName,
    filter::TypePattern,
    heygen::{self, ApiError, Heygen, IdempotencyKey},
    limits,
    reconcile::Reconciler,
    secret::Secret,
};

/// Does what is asked of endpoints, at HeyGen too where this service keeps the registration.
pub struct Registrar {
    endpoints: Arc<Endpoints>,
    heygen: Option<Heygen>,
    /// Where HeyGen reaches this service, without a slash at the end; `None` if nobody said.
    public_url: Option<String>,
    clock: Clock,
    reconciler: Option<Arc<Reconciler>>,
    /// One operation at a time for each endpoint.
    busy: Mutex<HashMap<EndpointName, Weak<tokio::sync::Mutex<()>>>>,
    /// Endpoints whose operation this process was at and did not bring to its end.
    unfinished: Mutex<HashSet<EndpointName>>,
    states: Family<StateLabel, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistrarError {
    /// The endpoints refuse.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// There are no credentials for HeyGen's API.
    #[error(
        "this service has no credentials for HeyGen's API: start it with --heygen-api-key-file (or \
         HOOKSTREAM_HEYGEN_API_KEY), or create the endpoint as LOCAL with the secret that HeyGen showed you"
    )]
    NoCredentials,
    /// HeyGen could not reach this service.
    #[error(
        "HeyGen delivers only to a public https URL, and this service was told none: start it with --public-url, such as \
         https://hooks.example.com, the address of your reverse proxy or tunnel"
    )]
    NoPublicUrl,
    /// The operation makes sense only where this service keeps the registration.
    #[error("the endpoint {0} is registered by somebody else (LOCAL): there is nothing to do at HeyGen")]
    NotOurs(EndpointName),
    /// Something else is under way.
    #[error(
        "{0} has an operation under way at HeyGen; wait for it (`hookstream endpoint get {0}`) or delete the endpoint"
    )]
    Busy(EndpointName),
    /// A field does not fit the registration.
    #[error("{field} {reason}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// HeyGen has a registration of this URL that is not ours.
    #[error(
        "HeyGen already has a registration of {url}, {id}: adopt it (`--adopt {id}`), or remove it at HeyGen; another \
         process may be using it"
    )]
    UrlTaken {
        /// The URL.
        url: String,
        /// HeyGen's id of it.
        id: String,
    },
    /// HeyGen did not do it.
    #[error("{}", said(error, *goes_on))]
    Heygen {
        /// What HeyGen said, if it said anything.
        error: ApiError,
        /// Whether it is tried again until it is done.
        goes_on: bool,
    },
}

fn said(error: &ApiError, goes_on: bool) -> String {
    if goes_on {
        format!("{error}; it is tried again until it is done")
    } else {
        error.to_string()
    }
}

impl Registrar {
    /// A registrar of these endpoints. Without `heygen` it serves only endpoints that somebody else registers.
    pub fn new(
        endpoints: Arc<Endpoints>,
        heygen: Option<Heygen>,
        public_url: Option<&str>,
        clock: Clock,
        reconciler: Option<Arc<Reconciler>>,
        registry: &mut Registry,
    ) -> Self {
        let states = Family::default();
        registry.register(
            "endpoints",
            "Endpoints that this service registered, by state",
            states.clone(),
        );
        Self {
            endpoints,
            heygen,
            public_url: public_url.map(|url| url.trim_end_matches('/').to_owned()),
            clock,
            reconciler,
            busy: Mutex::default(),
            unfinished: Mutex::default(),
            states,
        }
    }

    /// The endpoints.
    pub fn endpoints(&self) -> &Arc<Endpoints> {
        &self.endpoints
    }

    /// What looks for events that were never delivered.
    pub fn reconciler(&self) -> Result<&Arc<Reconciler>, RegistrarError> {
        self.reconciler.as_ref().ok_or(RegistrarError::NoCredentials)
    }

    /// Whether endpoints can be registered at HeyGen.
    pub fn can_register(&self) -> bool {
        self.heygen.is_some()
    }

    /// Makes an endpoint whose registration somebody else keeps.
    pub async fn create(
        &self,
        name: EndpointName,
        new: NewEndpoint,
    ) -> Result<Arc<Endpoint>, RegistrarError> {
        Ok(self.endpoints.create(name, new).await?)
    }

    /// Makes an endpoint and registers it at HeyGen; with a `provider_endpoint_id`, adopts that registration.
    pub async fn register(
        &self,
        name: EndpointName,
        new: NewEndpoint,
    ) -> Result<Arc<Endpoint>, RegistrarError> {
        let adopts = !new.provider_endpoint_id.is_empty();
        if new.secret.is_some() && !adopts {
            return Err(RegistrarError::Invalid {
                field: "secret",
                reason:
                    "is made by HeyGen; give one only to adopt a registration, with its provider_endpoint_id"
                        .into(),
            });
        }
        let (heygen, url) = (self.heygen()?, self.url_of(&name)?);
        let _one_at_a_time = self.lock(&name).await;
        if self.endpoints.get(&name).is_some() {
            return Err(EndpointError::Exists(name).into());
        }
        let mut provider = Provider {
            url: url.clone(),
            ..Provider::default()
        };
        let registrations = heygen.registrations().await.map_err(not_done)?;
        let operation = if adopts {
            let known = registrations
                .into_iter()
                .find(|known| known.id == new.provider_endpoint_id);
            let known = known.ok_or_else(|| RegistrarError::Invalid {
                field: "provider_endpoint_id",
                reason: "is none of this account's registrations at HeyGen".into(),
            })?;
            provider.event_types = if new.event_types.is_empty() {
                known.event_types
            } else {
                self.spelled_out(&new.event_types).await?
            };
            Operation::Adopt {
                knows_secret: new.secret.is_some(),
            }
        } else {
            if let Some(known) = registrations.into_iter().find(|known| known.url == url) {
                return Err(RegistrarError::UrlTaken { url, id: known.id });
            }
            provider.event_types = self.spelled_out(&new.event_types).await?;
            Operation::Register
        };
        provider.pending = Some(self.pending(operation));
        let new = NewEndpoint {
            registration: Registration::Heygen(Box::new(provider)),
            ..new
        };
        self.endpoints.create(name.clone(), new).await?;
        let driven = self.drive(&name).await;
        if let Err(RegistrarError::Heygen { goes_on: false, .. }) = &driven {
            // HeyGen refuses for good: then nothing is made here either.
            self.endpoints.delete(&name).await?;
        }
        let endpoint = driven?;
        if let Some(id) = self.earlier_rival(&endpoint, &url).await {
            self.begin(&name, Operation::Remove).await?;
            // If HeyGen cannot be reached it is done later.
            let _ = self.drive(&name).await;
            return Err(RegistrarError::UrlTaken { url, id });
        }
        Ok(endpoint)
    }

    /// Another registration of this URL that is not certainly younger than ours. Two processes that register one name at the
    /// same moment do not see each other before, so at least one of them has to look afterwards and give way.
    async fn earlier_rival(&self, endpoint: &Endpoint, url: &str) -> Option<String> {
        let registrations = match self.heygen().ok()?.registrations().await {
            Ok(registrations) => registrations,
            Err(error) => {
                tracing::warn!(%error, "it is not known whether another process registered the same URL");
                return None;
            }
        };
        let id = &endpoint.provider_endpoint_id;
        let ours = registrations.iter().find(|known| known.id == *id)?.created_at;
        let rivals = registrations
            .iter()
            .filter(|known| known.url == url && known.id != *id);
        rivals
            .filter(|rival| {
                rival
                    .created_at
                    .is_none_or(|theirs| ours.is_none_or(|ours| theirs <= ours))
            })
            .map(|rival| rival.id.clone())
            .next()
    }

    /// Changes what an endpoint is meant for.
    pub async fn update(
        &self,
        name: &EndpointName,
        change: EndpointChange,
    ) -> Result<Arc<Endpoint>, RegistrarError> {
        if self.existing(name)?.provider().is_none() {
            return Ok(self.endpoints.update(name, change).await?);
        }
        if change.entity_id.is_some() {
            return Err(RegistrarError::Invalid {
                field: "entity_id",
                reason: "cannot be changed at HeyGen; delete the endpoint and create it anew".into(),
            });
        }
        let Some(patterns) = change.event_types.clone() else {
            return Ok(self.existing(name)?);
        };
        let _one_at_a_time = self.lock(name).await;
        self.free(name)?;
        let event_types = self.spelled_out(&patterns).await?;
        self.endpoints.update(name, change).await?;
        self.begin(name, Operation::Change { event_types }).await?;
        self.drive(name).await
    }

    /// Replaces the secret; the one before goes on verifying for the overlap.
    pub async fn rotate_secret(
        &self,
        name: &EndpointName,
        secret: Option<Secret>,
        overlap: Duration,
    ) -> Result<Arc<Endpoint>, RegistrarError> {
        if self.existing(name)?.provider().is_none() {
            let secret = secret.unwrap_or_else(Secret::generate);
            return Ok(self.endpoints.rotate_secret(name, secret, overlap).await?);
        }
        if secret.is_some() {
            return Err(RegistrarError::Invalid {
                field: "secret",
                reason: "is made by HeyGen for an endpoint that this service registered".into(),
            });
        }
        self.heygen()?;
        let _one_at_a_time = self.lock(name).await;
        self.free(name)?;
        self.begin(name, Operation::Rotate { overlap }).await?;
        self.drive(name).await
    }

    /// Registers an endpoint anew, whatever became of its registration.
    pub async fn recreate(&self, name: &EndpointName) -> Result<Arc<Endpoint>, RegistrarError> {
        if self.existing(name)?.provider().is_none() {
            return Err(RegistrarError::NotOurs(name.clone()));
        }
        self.heygen()?;
        let _one_at_a_time = self.lock(name).await;
        let endpoint = self.existing(name)?;
        if matches!(endpoint.pending(), Some(pending) if pending.operation == Operation::Remove) {
            return Err(RegistrarError::Busy(name.clone()));
        }
        let event_types = self.spelled_out(&endpoint.event_types).await?;
        self.endpoints
            .observe(name, |provider| provider.event_types = event_types)
            .await?;
        self.begin(name, Operation::Replace).await?;
        self.drive(name).await
    }

    /// Removes an endpoint, at HeyGen first if this service registered it.
    pub async fn delete(&self, name: &EndpointName) -> Result<(), RegistrarError> {
        if self.existing(name)?.provider().is_none() {
            return Ok(self.endpoints.delete(name).await?);
        }
        self.heygen()?;
        let _one_at_a_time = self.lock(name).await;
        self.begin(name, Operation::Remove).await?;
        match self.drive(name).await {
            Ok(_) | Err(RegistrarError::Endpoint(EndpointError::NotFound(_))) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn heygen(&self) -> Result<&Heygen, RegistrarError> {
        self.heygen.as_ref().ok_or(RegistrarError::NoCredentials)
    }

    /// Where HeyGen has to deliver.
    fn url_of(&self, name: &EndpointName) -> Result<String, RegistrarError> {
        let public_url = self.public_url.as_ref().ok_or(RegistrarError::NoPublicUrl)?;
        Ok(format!("{public_url}/webhooks/{name}"))
    }

    fn existing(&self, name: &EndpointName) -> Result<Arc<Endpoint>, EndpointError> {
        self.endpoints
            .get(name)
            .ok_or_else(|| EndpointError::NotFound(name.clone()))
    }

    /// An error if something is under way already.
    fn free(&self, name: &EndpointName) -> Result<(), RegistrarError> {
        match self.existing(name)?.pending() {
            Some(_) => Err(RegistrarError::Busy(name.clone())),
            None => Ok(()),
        }
    }

    fn pending(&self, operation: Operation) -> Pending {
        Pending {
            operation,
            idempotency_key: IdempotencyKey::generate().to_string(),
            key_made_at: self.clock.now(),
        }
    }

    /// Stores what is to be done at HeyGen, before HeyGen is asked.
    async fn begin(&self, name: &EndpointName, operation: Operation) -> Result<(), RegistrarError> {
        let pending = self.pending(operation);
        let change = |provider: &mut Provider| {
            provider.pending = Some(pending);
            provider.failure = None;
        };
        self.endpoints.observe(name, change).await?;
        Ok(())
    }

    async fn lock(&self, name: &EndpointName) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut busy = self.busy.lock();
            busy.retain(|_, lock| lock.strong_count() > 0);
            let lock = busy.get(name).and_then(Weak::upgrade).unwrap_or_default();
            busy.insert(name.clone(), Arc::downgrade(&lock));
            lock
        };
        lock.lock_owned().await
    }

    /// The types that these patterns mean at HeyGen; empty = all.
    async fn spelled_out(&self, patterns: &[String]) -> Result<Vec<String>, RegistrarError> {
        if patterns.is_empty() {
            return Ok(Vec::new());
        }
        let invalid = |reason: String| RegistrarError::Invalid {
            field: "event_types",
            reason,
        };
        let known = self.heygen()?.event_types().await.map_err(not_done)?;
        let mut event_types: Vec<String> = Vec::new();
        for text in patterns {
            let pattern =
                TypePattern::parse(text).map_err(|reason| invalid(format!("has `{text}`: {reason}")))?;
            let before = event_types.len();
            let matching = known.iter().filter(|known| pattern.matches(&known.event_type));
            event_types.extend(matching.map(|known| known.event_type.clone()));
            if event_types.len() == before {
                return Err(invalid(format!(
                    "has `{text}`, which is none of HeyGen's types; `hookstream events types` lists them"
                )));
            }
        }
        event_types.sort_unstable();
        event_types.dedup();
        Ok(event_types)
    }
}

fn not_done(error: ApiError) -> RegistrarError {
    RegistrarError::Heygen {
        error,
        goes_on: false,
    }
}

/// A key that is about to be forgotten by HeyGen must not be relied on.
fn is_stale(pending: &Pending, now: Timestamp) -> bool {
    now.duration_since(pending.key_made_at)
        >= jiff::SignedDuration::try_from(limits::IDEMPOTENCY_KEY_AGE_MAX)
            .unwrap_or(jiff::SignedDuration::MAX)
}

fn status_of(registration: &heygen::Registration) -> crate::endpoints::ProviderStatus {
    use crate::endpoints::ProviderStatus;
    match registration.status {
        heygen::RegistrationStatus::Enabled => ProviderStatus::Enabled,
        heygen::RegistrationStatus::Disabled => ProviderStatus::Disabled,
        heygen::RegistrationStatus::Unknown => ProviderStatus::Unknown,
    }
}
