//! The account: its endpoints and the events that happened in it. Owns what is stored and which endpoint wants which
//! event; refuses to know HTTP and how events are delivered.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

use super::chance::{Chance, Purpose};
use crate::{event_type, limits, secret::Secret};

/// A webhook registration.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Its place in the order of registrations.
    pub(super) number: u64,
    /// HeyGen's id of it.
    pub endpoint_id: String,
    /// Where its events are delivered.
    pub url: String,
    /// The types it wants; `None` is all.
    pub events: Option<Vec<String>>,
    /// The resource it is confined to. The API never shows it.
    pub entity_id: Option<String>,
    /// Whether events are delivered to it.
    pub is_enabled: bool,
    /// When it was registered.
    pub created_at: Timestamp,
    /// What its deliveries are signed with now. The API shows it when it is made and never again.
    pub secret: Secret,
    /// The status its URL answered the probe with before it was registered, if it answered in time.
    pub probe_status: Option<u16>,
}

/// What a registration is made of.
#[derive(Debug)]
pub struct NewRegistration {
    pub url: String,
    pub events: Option<Vec<String>>,
    pub entity_id: Option<String>,
    pub probe_status: Option<u16>,
}

/// An event that happened in the account.
#[derive(Clone, Debug, PartialEq)]
pub struct Happened {
    /// Its place in the order of events.
    pub(super) number: u64,
    /// HeyGen's id of it.
    pub event_id: String,
    /// Its type.
    pub event_type: String,
    /// Its payload, as it is delivered.
    pub event_data: Value,
    /// When it happened.
    pub created_at: Timestamp,
}

impl Happened {
    /// The id of the resource that it tells of.
    pub(super) fn entity_id(&self) -> Option<String> {
        let fields = event_type::entity_fields(&self.event_type).iter();
        match fields.filter_map(|&field| self.event_data.get(field)).next()? {
            Value::String(id) => Some(id.clone()),
            Value::Number(id) => Some(id.to_string()),
            _ => None,
        }
    }
}

impl Registration {
    fn wants(&self, event: &Happened) -> bool {
        self.is_enabled
            && self
                .events
                .as_ref()
                .is_none_or(|types| types.contains(&event.event_type))
            && self
                .entity_id
                .as_ref()
                .is_none_or(|id| event.entity_id().as_ref() == Some(id))
    }
}

/// The account that the API key opens.
pub struct Account {
    chance: Chance,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    registrations: BTreeMap<u64, Registration>,
    registered: u64,
    history: VecDeque<Arc<Happened>>,
    happened: u64,
}

impl State {
    fn find(&mut self, endpoint_id: &str) -> Option<&mut Registration> {
        self.registrations
            .values_mut()
            .find(|registration| registration.endpoint_id == endpoint_id)
    }
}

impl Account {
    pub fn new(chance: Chance) -> Self {
        Self {
            chance,
            state: Mutex::default(),
        }
    }

    /// Stores an event, and says which endpoints want it.
    pub fn happen(
        &self,
        event_type: &str,
        event_data: Value,
        created_at: Timestamp,
    ) -> (Arc<Happened>, Vec<u64>) {
        let mut state = self.state.lock();
        state.happened += 1;
        let number = state.happened;
        let event = Arc::new(Happened {
            number,
            event_id: format!("evt_{:016x}", self.chance.number(Purpose::EventId, &[number])),
            event_type: event_type.to_owned(),
            event_data,
            created_at,
        });
        if state.history.len() == limits::STAND_IN_HISTORY_EVENTS_MAX {
            state.history.pop_front();
        }
        state.history.push_back(Arc::clone(&event));
        let takers = state.registrations.values().filter(|one| one.wants(&event));
        let takers = takers.map(|registration| registration.number).collect();
        (event, takers)
    }

    /// Where a delivery goes and what signs it at this moment; nothing if the endpoint is gone or disabled.
    pub fn target(&self, number: u64) -> Option<(String, Secret)> {
        let state = self.state.lock();
        let registration = state.registrations.get(&number)?;
        registration
            .is_enabled
            .then(|| (registration.url.clone(), registration.secret.clone()))
    }

    /// Registers an endpoint; nothing if there are too many.
    pub fn register(&self, new: NewRegistration, created_at: Timestamp) -> Option<Registration> {
        let mut state = self.state.lock();
        if state.registrations.len() >= limits::ENDPOINTS_MAX {
            return None;
        }
        state.registered += 1;
        let number = state.registered;
        let registration = Registration {
            number,
            endpoint_id: format!("ep_{:016x}", self.chance.number(Purpose::EndpointId, &[number])),
            url: new.url,
            events: new.events,
            entity_id: new.entity_id,
            is_enabled: true,
            created_at,
            secret: Secret::generate(),
            probe_status: new.probe_status,
        };
        state.registrations.insert(number, registration.clone());
        Some(registration)
    }

    /// Changes an endpoint; nothing if there is none.
    pub fn change(&self, endpoint_id: &str, change: impl FnOnce(&mut Registration)) -> Option<Registration> {
        let mut state = self.state.lock();
        let registration = state.find(endpoint_id)?;
        change(registration);
        Some(registration.clone())
    }

    pub fn disable(&self, endpoint_id: &str) -> bool {
        self.change(endpoint_id, |registration| registration.is_enabled = false)
            .is_some()
    }

    pub fn delete(&self, endpoint_id: &str) -> bool {
        let mut state = self.state.lock();
        let Some(number) = state.find(endpoint_id).map(|registration| registration.number) else {
            return false;
        };
        state.registrations.remove(&number).is_some()
    }

    pub fn registrations(&self) -> Vec<Registration> {
        self.state.lock().registrations.values().cloned().collect()
    }

    /// Endpoints registered after this one, oldest first.
    pub fn registrations_after(&self, number: u64, count: usize) -> Vec<Registration> {
        let state = self.state.lock();
        let later = state.registrations.range(number.saturating_add(1)..);
        later.take(count).map(|(_, one)| one.clone()).collect()
    }

    pub fn history(&self) -> Vec<Happened> {
        let state = self.state.lock();
        state.history.iter().map(|event| Happened::clone(event)).collect()
    }

    /// Events before this one that match, newest first.
    pub fn events_before(
        &self,
        number: u64,
        count: usize,
        matches: impl Fn(&Happened) -> bool,
    ) -> Vec<Arc<Happened>> {
        let state = self.state.lock();
        let earlier = state
            .history
            .iter()
            .rev()
            .filter(|event| event.number < number && matches(event));
        earlier.take(count).cloned().collect()
    }
}
