//! One endpoint as a value: what is known of it and what follows from that. Owns its states; changes nothing by itself.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::deliveries::Deliveries;
use crate::{event::EndpointName, secret::Secret, signature::Keyring};

/// An endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its name.
    pub name: EndpointName,
    /// The types it is meant for; empty = all. Patterns are legal.
    pub event_types: Vec<String>,
    /// The resource it is meant for; empty = all.
    pub entity_id: String,
    /// HeyGen's id of the registration; empty if unknown.
    pub provider_endpoint_id: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// The secrets it accepts; none before HeyGen has told the first.
    pub keyring: Keyring,
    /// The tokens that its callback URL may hold; none if it takes no callbacks.
    pub callback_tokens: Keyring,
    /// Who keeps the registration at HeyGen.
    pub registration: Registration,
    /// Which version of it the store has; 0 before it is stored.
    pub revision: u64,
    /// Shared between the versions of one endpoint, so that a change does not lose it.
    pub(super) deliveries: Arc<Deliveries>,
}

/// Who keeps the registration at HeyGen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Registration {
    /// Somebody else.
    #[default]
    Local,
    /// This service, through HeyGen's API.
    Heygen(Box<Provider>),
}

/// HeyGen's side of an endpoint, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// What is under way at HeyGen. It was stored before HeyGen was asked, so that a crash cannot forget it.
    pub pending: Option<Pending>,
    /// Why the last operation failed for good, for a person.
    pub failure: Option<String>,
    /// Whether HeyGen delivers.
    pub status: ProviderStatus,
    /// The URL that HeyGen has.
    pub url: String,
    /// The types that HeyGen has; empty = all.
    pub event_types: Vec<String>,
    /// When HeyGen was last asked with success.
    pub checked_at: Option<Timestamp>,
    /// Everything in HeyGen's history up to here is stored.
    pub reconciled_through: Option<Timestamp>,
}

/// Whether HeyGen delivers to a registration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProviderStatus {
    /// Not asked yet.
    #[default]
    Unknown,
    /// It does.
    Enabled,
    /// It has stopped.
    Disabled,
    /// It has no such registration.
    Missing,
}

/// An operation under way at HeyGen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// What is to be done.
    pub operation: Operation,
    /// Under which key HeyGen is asked: the same key has the same effect, once, for a day.
    pub idempotency_key: String,
    /// When the key was made.
    pub key_made_at: Timestamp,
}

/// What can be under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Make a registration.
    Register,
    /// Point an existing registration here; then rotate its secret unless that is known.
    Adopt {
        /// Whether the current secret here is the registration's.
        knows_secret: bool,
    },
    /// Replace its types.
    Change {
        /// With these, patterns spelled out; empty = all.
        event_types: Vec<String>,
    },
    /// Replace its secret.
    Rotate {
        /// How long the one before is still accepted.
        overlap: Duration,
    },
    /// Remove what is registered, then register.
    Replace,
    /// Remove it.
    Remove,
}

/// What an endpoint does with deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Accepts what the current secret signs.
    Active,
    /// Accepts the secret before as well, or the next one is on its way.
    Rotating,
    /// Waits to be registered.
    Pending,
    /// HeyGen does not deliver to it.
    Disabled,
    /// Is not registered, for a reason that does not pass by itself.
    Failed,
    /// Goes as soon as HeyGen has removed it.
    Deleting,
}

impl State {
    /// All states.
    pub const ALL: [Self; 6] = [
        Self::Active,
        Self::Rotating,
        Self::Pending,
        Self::Disabled,
        Self::Failed,
        Self::Deleting,
    ];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Rotating => "rotating",
            Self::Pending => "pending",
            Self::Disabled => "disabled",
            Self::Failed => "failed",
            Self::Deleting => "deleting",
        }
    }
}

impl Endpoint {
    /// When a delivery last verified here.
    pub fn last_delivery_at(&self) -> Option<Timestamp> {
        self.deliveries.last_verified_at()
    }

    /// Notes that a delivery verified.
    pub fn delivered(&self, at: Timestamp) {
        self.deliveries.verified(at);
    }

    /// Notes that a delivery did not verify. Whether it is the one that tells of a wrong secret, after others had verified.
    pub fn refused(&self, at: Timestamp) -> bool {
        self.deliveries.unverified(at)
    }

    /// Deliveries that did not verify, since the process started.
    pub fn unverified_deliveries(&self) -> u64 {
        self.deliveries.unverified_total()
    }

    /// Counts the secrets it has had, from 1; 0 before the first.
    pub fn secret_version(&self) -> u32 {
        self.keyring.keys().first().map_or(0, |key| key.version)
    }

    /// When the current secret was taken; `None` before the first.
    pub fn secret_since(&self) -> Option<Timestamp> {
        self.keyring.keys().first().map(|key| key.since)
    }

    /// When the previous secret stops being accepted, if it still is.
    pub fn previous_secret_expires_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.keyring
            .keys()
            .iter()
            .filter_map(|key| key.expires_at)
            .find(|&expiry| now < expiry)
    }

    /// HeyGen's side, if this service keeps the registration.
    pub fn provider(&self) -> Option<&Provider> {
        match &self.registration {
            Registration::Local => None,
            Registration::Heygen(provider) => Some(provider),
        }
    }

    /// HeyGen's side, if this service keeps the registration.
    pub fn provider_mut(&mut self) -> Option<&mut Provider> {
        match &mut self.registration {
            Registration::Local => None,
            Registration::Heygen(provider) => Some(provider),
        }
    }

    /// What is under way at HeyGen.
    pub fn pending(&self) -> Option<&Pending> {
        self.provider()?.pending.as_ref()
    }

    /// Whether HeyGen may sign with a secret that has not arrived here yet. What does not verify then must come again.
    pub fn may_miss_a_secret(&self) -> bool {
        self.pending().is_some_and(|pending| {
            matches!(
                pending.operation,
                Operation::Register | Operation::Adopt { .. } | Operation::Rotate { .. } | Operation::Replace
            )
        })
    }

    /// What it does with deliveries.
    pub fn state(&self, now: Timestamp) -> State {
        let no_secret = self.keyring.keys().is_empty();
        let pending = self.pending().map(|pending| &pending.operation);
        let status = self
            .provider()
            .map_or(ProviderStatus::Unknown, |provider| provider.status);
        match (pending, status) {
            (Some(Operation::Remove), _) => State::Deleting,
            (Some(Operation::Register | Operation::Adopt { .. } | Operation::Replace), _) => State::Pending,
            (Some(Operation::Rotate { .. }), _) if no_secret => State::Pending,
            (Some(Operation::Rotate { .. }), _) => State::Rotating,
            (_, ProviderStatus::Missing) => State::Failed,
            (_, ProviderStatus::Disabled) => State::Disabled,
            _ if no_secret => State::Failed,
            _ if self.previous_secret_expires_at(now).is_some() => State::Rotating,
            _ => State::Active,
        }
    }

    /// Why the state is not what one would wish, and what to do about it; empty if it is.
    pub fn state_reason(&self, now: Timestamp) -> String {
        let name = &self.name;
        let failure = self.provider().and_then(|provider| provider.failure.clone());
        match self.state(now) {
            State::Active | State::Rotating => failure.unwrap_or_default(),
            State::Pending => {
                let why = failure.unwrap_or_else(|| "HeyGen is being asked".to_owned());
                format!("waiting for HeyGen: {why}")
            }
            State::Deleting => {
                let why = failure.unwrap_or_else(|| "HeyGen is being asked".to_owned());
                format!("waiting for HeyGen to remove it: {why}")
            }
            State::Disabled => format!(
                "HeyGen has disabled the registration and delivers nothing; `hookstream endpoint recreate {name}` registers \
                 it anew"
            ),
            State::Failed => {
                let why = failure.unwrap_or_else(|| "HeyGen no longer has the registration".to_owned());
                format!("{why}; `hookstream endpoint recreate {name}` registers it anew, `delete` removes it")
            }
        }
    }

    /// Takes a new secret; the ones before stay valid until `expires_at` or their own time.
    pub fn take_secret(&mut self, secret: Secret, now: Timestamp, overlap: Duration) {
        self.keyring = self.keyring.rotated(secret, now, overlap);
    }
}
