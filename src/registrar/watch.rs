//! Looks after the registrations without being asked. Owns the rhythm: what is pending is tried again, HeyGen's side is
//! looked at, secrets are rotated by age.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Registrar, StateLabel, drive::take_in};
use crate::{
    audit::{Action, Audit},
    endpoints::{Endpoint, Pending, ProviderStatus, State},
    heygen::Registration,
    limits,
    nats::lease::Lease,
};

impl Registrar {
    /// Looks after the registrations every `interval`, and rotates secrets older than `secret_age_max`, until stopped; among
    /// several replicas only where `lease` is held.
    pub async fn watch(
        &self,
        mut lease: Lease,
        interval: Duration,
        secret_age_max: Option<Duration>,
        audit: Audit,
        stop: CancellationToken,
    ) {
        let mut reachable = true;
        while !stop.is_cancelled() {
            let look = async {
                if lease.is_held() {
                    self.go_on(&lease).await;
                    reachable = self.look(reachable).await;
                    if let Some(age_max) = secret_age_max {
                        self.rotate_old_secrets(age_max, &audit).await;
                    }
                }
                self.count_states();
                let _ = tokio::time::timeout(interval, lease.taken()).await;
            };
            stop.run_until_cancelled(look).await;
        }
    }

    fn ours(&self) -> Vec<Arc<Endpoint>> {
        let all = self.endpoints.all();
        all.into_iter()
            .filter(|endpoint| endpoint.provider().is_some())
            .collect()
    }

    /// Tries again what is pending, unless another replica may be at it.
    async fn go_on(&self, lease: &Lease) {
        let now = self.clock.now();
        let is_elsewhere = |endpoint: &Endpoint, pending: &Pending| {
            let age = now.duration_since(pending.key_made_at).unsigned_abs();
            lease.is_shared()
                && age < limits::PENDING_ELSEWHERE_PATIENCE
                && !self.unfinished.lock().contains(&endpoint.name)
        };
        for endpoint in self.ours() {
            if endpoint
                .pending()
                .is_some_and(|pending| !is_elsewhere(&endpoint, pending))
            {
                let _one_at_a_time = self.lock(&endpoint.name).await;
                // A failure is logged where it happens, and stays with the endpoint.
                let _ = self.drive(&endpoint.name).await;
            }
        }
    }

    /// Looks at HeyGen's side. Whether HeyGen answered.
    async fn look(&self, reachable: bool) -> bool {
        let (Some(heygen), ours) = (&self.heygen, self.ours()) else {
            return true;
        };
        if ours.is_empty() {
            return true;
        }
        let asked_at = self.clock.now();
        let registrations = match heygen.registrations().await {
            Ok(registrations) => registrations,
            Err(error) => {
                if reachable {
                    tracing::warn!(%error, "HeyGen cannot be asked for its registrations; deliveries are not affected");
                }
                return false;
            }
        };
        if !reachable {
            tracing::info!("HeyGen answers again");
        }
        for endpoint in ours {
            let _one_at_a_time = self.lock(&endpoint.name).await;
            let Some(endpoint) = self.endpoints.get(&endpoint.name) else {
                continue;
            };
            // What changed after the list was asked for is newer than the list.
            let checked_at = endpoint.provider().and_then(|provider| provider.checked_at);
            if endpoint.pending().is_none() && checked_at.is_none_or(|checked_at| checked_at < asked_at) {
                self.compare(&endpoint, &registrations).await;
            }
        }
        true
    }

    /// Shows how many endpoints are in which state.
    pub(super) fn count_states(&self) {
        let now = self.clock.now();
        let mut counts = State::ALL.map(|state| (state, 0));
        for endpoint in self.ours() {
            let state = endpoint.state(now);
            counts
                .iter_mut()
                .filter(|(of, _)| *of == state)
                .for_each(|(_, count)| *count += 1);
        }
        for (state, count) in counts {
            self.states
                .get_or_create(&StateLabel { state: state.name() })
                .set(count);
        }
    }

    async fn compare(&self, endpoint: &Endpoint, registrations: &[Registration]) {
        let found = registrations
            .iter()
            .find(|registration| registration.id == endpoint.provider_endpoint_id);
        let now = self.clock.now();
        let before = endpoint.provider().map(|provider| provider.status);
        let observed = self
            .endpoints
            .observe(&endpoint.name, |provider| {
                // An old failure is no longer interesting once HeyGen shows the registration.
                take_in(provider, found, now);
            })
            .await;
        let after = match &observed {
            Ok(endpoint) => endpoint.provider().map(|provider| provider.status),
            Err(error) => {
                return tracing::error!(endpoint = %endpoint.name, %error, "HeyGen's side cannot be stored");
            }
        };
        if before == after {
            return;
        }
        match after {
            Some(ProviderStatus::Disabled | ProviderStatus::Missing) => tracing::error!(
                endpoint = %endpoint.name,
                "HeyGen no longer delivers to the endpoint: it is disabled or was removed there. `hookstream endpoint \
                 recreate {}` registers it anew; what was missed is found in HeyGen's history",
                endpoint.name
            ),
            Some(ProviderStatus::Enabled) => {
                tracing::info!(endpoint = %endpoint.name, "HeyGen delivers to the endpoint");
            }
            _ => {}
        }
    }

    async fn rotate_old_secrets(&self, age_max: Duration, audit: &Audit) {
        let now = self.clock.now();
        for endpoint in self.ours() {
            let old = endpoint
                .secret_since()
                .is_some_and(|since| now.duration_since(since).unsigned_abs() >= age_max);
            if old && endpoint.pending().is_none() {
                let overlap = limits::ROTATION_OVERLAP_DEFAULT;
                // Logged where it happens; it stays pending, or is tried again at the next look.
                let rotated = self.rotate_secret(&endpoint.name, None, overlap).await;
                let outcome = if rotated.is_ok() { "OK" } else { "UNFINISHED" };
                audit
                    .record(Action {
                        actor: "hookstream".to_owned(),
                        address: String::new(),
                        action: "ManageEndpoint.rotate_secret".to_owned(),
                        target: endpoint.name.to_string(),
                        outcome: outcome.to_owned(),
                    })
                    .await;
            }
        }
    }
}
