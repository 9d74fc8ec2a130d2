//! Drives what is pending at HeyGen to its end, one step after the other. Owns the steps: each asks HeyGen for one thing
//! and then stores the answer together with what comes next.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Registrar, RegistrarError, is_stale, not_done, status_of};
use crate::{
    endpoints::{Endpoint, Operation, Pending, Provider, ProviderStatus},
    event::EndpointName,
    heygen::{ApiError, Failure, Heygen, IdempotencyKey, NewRegistration, Registration, RegistrationChange},
    limits,
    secret::Secret,
};

/// An answer of HeyGen's that settles a step.
type Settled<T> = Result<T, ApiError>;

impl Registrar {
    /// Does what is pending. The caller holds the endpoint's lock.
    pub(super) async fn drive(&self, name: &EndpointName) -> Result<Arc<Endpoint>, RegistrarError> {
        self.unfinished.lock().insert(name.clone());
        let driven = self.drive_to_end(name).await;
        if self
            .endpoints
            .get(name)
            .is_none_or(|endpoint| endpoint.pending().is_none())
        {
            self.unfinished.lock().remove(name);
        }
        self.count_states();
        driven
    }

    async fn drive_to_end(&self, name: &EndpointName) -> Result<Arc<Endpoint>, RegistrarError> {
        loop {
            let endpoint = self.existing(name)?;
            let Some(pending) = endpoint.pending().cloned() else {
                return Ok(endpoint);
            };
            if is_stale(&pending, self.clock.now()) {
                self.renew(&endpoint, pending.operation).await?;
                continue;
            }
            self.step(&endpoint, pending).await?;
        }
    }

    async fn step(&self, endpoint: &Endpoint, pending: Pending) -> Result<(), RegistrarError> {
        let heygen = self.heygen()?;
        let key: IdempotencyKey = pending
            .idempotency_key
            .parse()
            .unwrap_or_else(|_| IdempotencyKey::generate());
        let id = endpoint.provider_endpoint_id.as_str();
        match pending.operation {
            Operation::Register => {
                let new = self.new_registration(endpoint)?;
                self.registered(endpoint, heygen.register(&key, &new).await).await
            }
            Operation::Adopt { knows_secret } => self.adopt(endpoint, heygen, &key, knows_secret).await,
            Operation::Change { event_types } => {
                let change = RegistrationChange {
                    url: None,
                    event_types: Some(event_types),
                };
                self.changed(endpoint, heygen.change(&key, id, &change).await)
                    .await
            }
            Operation::Rotate { overlap } => {
                let rotated = heygen.rotate_secret(&key, id).await;
                self.rotated(endpoint, rotated, overlap).await
            }
            Operation::Replace => {
                self.removed(endpoint, heygen, &key).await?;
                let next = self.pending(Operation::Register);
                let none_left = move |endpoint: &mut Endpoint| {
                    endpoint.provider_endpoint_id = String::new();
                    if let Some(provider) = endpoint.provider_mut() {
                        provider.status = ProviderStatus::Missing;
                        provider.pending = Some(next);
                    }
                };
                self.endpoints.modify(&endpoint.name, none_left).await?;
                Ok(())
            }
            Operation::Remove => {
                self.removed(endpoint, heygen, &key).await?;
                Ok(self.endpoints.delete(&endpoint.name).await?)
            }
        }
    }

    /// HeyGen no longer knows the key. What it may have done under it is looked for, so that nothing is done twice.
    async fn renew(&self, endpoint: &Endpoint, operation: Operation) -> Result<(), RegistrarError> {
        let mut found = None;
        if operation == Operation::Register {
            let registrations = self.heygen()?.registrations().await;
            let registrations = self.noted(endpoint, registrations, true).await?;
            let url = self.url_of(&endpoint.name)?;
            found = registrations
                .into_iter()
                .find(|registration| registration.url == url);
        }
        // Its answer is lost, and with it the secret.
        let adopt = Operation::Adopt { knows_secret: false };
        let operation = if found.is_some() { adopt } else { operation };
        let pending = self.pending(operation);
        let change = |endpoint: &mut Endpoint| {
            if let Some(found) = found {
                endpoint.provider_endpoint_id = found.id;
            }
            if let Some(provider) = endpoint.provider_mut() {
                provider.pending = Some(pending);
            }
        };
        self.endpoints.modify(&endpoint.name, change).await?;
        Ok(())
    }

    fn new_registration(&self, endpoint: &Endpoint) -> Result<NewRegistration, RegistrarError> {
        Ok(NewRegistration {
            url: self.url_of(&endpoint.name)?,
            event_types: endpoint
                .provider()
                .map(|provider| provider.event_types.clone())
                .unwrap_or_default(),
            entity_id: endpoint.entity_id.clone(),
        })
    }

    async fn registered(
        &self,
        endpoint: &Endpoint,
        registered: Settled<(Registration, Secret)>,
    ) -> Result<(), RegistrarError> {
        let (registration, secret) = match registered {
            Err(error) if !error.is_transient() && error.may_have_happened() => {
                // Registered, but with an answer that has no secret: what the key would repeat. It is adopted instead.
                return self.doubted(endpoint, error).await;
            }
            registered => self.noted(endpoint, registered, false).await?,
        };
        let now = self.clock.now();
        let overlap = limits::ROTATION_OVERLAP_DEFAULT;
        let done = |endpoint: &mut Endpoint| {
            endpoint.take_secret(secret, now, overlap);
            endpoint.provider_endpoint_id.clone_from(&registration.id);
            if let Some(provider) = endpoint.provider_mut() {
                provider.pending = None;
                take_in(provider, Some(&registration), now);
            }
        };
        self.endpoints.modify(&endpoint.name, done).await?;
        self.look_for_missed_events();
        tracing::info!(endpoint = %endpoint.name, provider_endpoint_id = registration.id, "registered at HeyGen");
        Ok(())
    }

    async fn adopt(
        &self,
        endpoint: &Endpoint,
        heygen: &Heygen,
        key: &IdempotencyKey,
        knows_secret: bool,
    ) -> Result<(), RegistrarError> {
        let wanted = self.new_registration(endpoint)?;
        let id = endpoint.provider_endpoint_id.as_str();
        let registrations = self.noted(endpoint, heygen.registrations().await, true).await?;
        let known = registrations.into_iter().find(|known| known.id == id);
        // Only what differs is asked for: HeyGen need not take a list of all types that it gave itself.
        let differs = |known: &Registration| RegistrationChange {
            url: (known.url != wanted.url).then(|| wanted.url.clone()),
            event_types: (known.event_types != wanted.event_types).then(|| wanted.event_types.clone()),
        };
        let change = known.as_ref().map(differs);
        // HeyGen then says that it does not have it.
        let anywhere = || RegistrationChange {
            url: Some(wanted.url.clone()),
            event_types: None,
        };
        let registration = match (known, change) {
            (
                Some(known),
                Some(RegistrationChange {
                    url: None,
                    event_types: None,
                }),
            ) => known,
            (_, change) => {
                let changed = heygen.change(key, id, &change.unwrap_or_else(anywhere)).await;
                self.noted(endpoint, changed, false).await?
            }
        };
        let rotate = self.pending(Operation::Rotate {
            overlap: limits::ROTATION_OVERLAP_DEFAULT,
        });
        let now = self.clock.now();
        let done = |endpoint: &mut Endpoint| {
            if let Some(provider) = endpoint.provider_mut() {
                provider.pending = (!knows_secret).then_some(rotate);
                take_in(provider, Some(&registration), now);
            }
        };
        self.endpoints.modify(&endpoint.name, done).await?;
        self.look_for_missed_events();
        Ok(())
    }

    async fn changed(
        &self,
        endpoint: &Endpoint,
        changed: Settled<Registration>,
    ) -> Result<(), RegistrarError> {
        let registration = self.noted(endpoint, changed, false).await?;
        let now = self.clock.now();
        let done = |provider: &mut Provider| {
            provider.pending = None;
            take_in(provider, Some(&registration), now);
        };
        self.endpoints.observe(&endpoint.name, done).await?;
        self.look_for_missed_events();
        Ok(())
    }

    async fn rotated(
        &self,
        endpoint: &Endpoint,
        rotated: Settled<Secret>,
        overlap: std::time::Duration,
    ) -> Result<(), RegistrarError> {
        let secret = match rotated {
            // Rotated, but with an answer that has no secret: only another rotation tells one.
            Err(error) if !error.is_transient() && error.may_have_happened() => {
                return self.doubted(endpoint, error).await;
            }
            rotated => self.noted(endpoint, rotated, false).await?,
        };
        let now = self.clock.now();
        let done = |endpoint: &mut Endpoint| {
            endpoint.take_secret(secret, now, overlap);
            if let Some(provider) = endpoint.provider_mut() {
                provider.pending = None;
                provider.failure = None;
            }
        };
        self.endpoints.modify(&endpoint.name, done).await?;
        self.look_for_missed_events();
        tracing::info!(endpoint = %endpoint.name, "the secret was rotated at HeyGen");
        Ok(())
    }

    /// Removes what HeyGen has of an endpoint; nothing is fine too.
    async fn removed(
        &self,
        endpoint: &Endpoint,
        heygen: &Heygen,
        key: &IdempotencyKey,
    ) -> Result<(), RegistrarError> {
        let mut id = endpoint.provider_endpoint_id.clone();
        if id.is_empty() {
            // A registration may have been made without its answer arriving.
            let registrations = self.noted(endpoint, heygen.registrations().await, true).await?;
            let url = self.url_of(&endpoint.name)?;
            match registrations.into_iter().find(|known| known.url == url) {
                Some(found) => id = found.id,
                None => return Ok(()),
            }
        }
        match heygen.remove(key, &id).await {
            Err(error) if error.is_not_found() => Ok(()),
            removed => self.noted(endpoint, removed, false).await,
        }
    }

    /// The answer of a step, or the end of the attempt: what passes by itself stays pending, what does not is given up. With
    /// `only_asked` HeyGen was not to change anything, so that nothing is given up.
    async fn noted<T>(
        &self,
        endpoint: &Endpoint,
        settled: Settled<T>,
        only_asked: bool,
    ) -> Result<T, RegistrarError> {
        let error = match settled {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let goes_on = error.is_transient() || only_asked;
        let failure = error.to_string();
        tracing::warn!(endpoint = %endpoint.name, error = failure, goes_on, "HeyGen did not do what it was asked");
        let missing = error.is_not_found();
        // HeyGen repeats its first answer to a key, and that may be this one.
        let keep_key = !matches!(error.failure(), Failure::Refused(refusal) if refusal.status >= 500);
        let change = |provider: &mut Provider| {
            provider.failure = Some(failure);
            if let Some(pending) = provider.pending.as_mut().filter(|_| !keep_key) {
                pending.key_made_at = Timestamp::UNIX_EPOCH;
            }
            if !goes_on {
                provider.pending = None;
                if missing {
                    provider.status = ProviderStatus::Missing;
                }
            }
        };
        self.endpoints.observe(&endpoint.name, change).await?;
        if goes_on {
            return Err(RegistrarError::Heygen { error, goes_on });
        }
        Err(not_done(error))
    }

    /// Something happened whose answer is lost for good: the key must not be used again.
    async fn doubted(&self, endpoint: &Endpoint, error: ApiError) -> Result<(), RegistrarError> {
        let failure = error.to_string();
        tracing::warn!(endpoint = %endpoint.name, error = failure, "HeyGen's answer was of no use; finding out");
        let change = |provider: &mut Provider| {
            provider.failure = Some(failure);
            if let Some(pending) = provider.pending.as_mut() {
                pending.key_made_at = Timestamp::UNIX_EPOCH;
            }
        };
        self.endpoints.observe(&endpoint.name, change).await?;
        Err(RegistrarError::Heygen { error, goes_on: true })
    }

    fn look_for_missed_events(&self) {
        if let Some(reconciler) = &self.reconciler {
            reconciler.wake();
        }
    }
}

/// Takes in how HeyGen shows a registration; `None` if it shows none.
pub(super) fn take_in(provider: &mut Provider, registration: Option<&Registration>, now: Timestamp) {
    provider.checked_at = Some(now);
    match registration {
        Some(registration) => {
            provider.failure = None;
            provider.status = status_of(registration);
            provider.url.clone_from(&registration.url);
            provider.event_types.clone_from(&registration.event_types);
        }
        None => provider.status = ProviderStatus::Missing,
    }
}
