//! A stand-in for HeyGen's webhook side, for the tests and for a machine without HeyGen. Owns playing HeyGen: the v3
//! webhook API, signed deliveries with retries, and faults on demand. Refuses to know anything of hookstream but how
//! bodies are signed, which event types there are, and what their payloads look like; and refuses to promise what HeyGen
//! does not document.

mod account;
mod answer;
mod api;
mod calls;
mod chance;
mod connections;
mod deliver;
mod faults;
mod idempotency;
mod page;
mod parameters;
#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::net::TcpListener;

use self::{account::Account, api::Api, chance::Chance, deliver::Deliveries};
pub use self::{
    account::{Happened, Registration},
    api::{Call, Request},
    faults::{ApiFault, Chances, DeliveryFault, Faults, UNKNOWN_TYPE},
};
use crate::{clock::Clock, samples, tasks::Tasks};

/// How the stand-in behaves where HeyGen could behave in several ways.
#[derive(Clone)]
pub struct Settings {
    /// Where the API listens.
    pub listen: String,
    /// What calls have to show, as `X-Api-Key` or as `Authorization: Bearer`.
    pub api_key: String,
    /// Tells when events happen and how old an idempotency key is.
    pub clock: Clock,
    /// Whether only https URLs can be registered, as with HeyGen.
    pub require_https: bool,
    /// Whether a URL that does not answer the probe with 2xx is refused. Undocumented for v3.
    pub probe_must_answer: bool,
    /// Whether `"events": []`, and `"events": null` in an update, are refused. HeyGen does not document what they mean.
    pub refuse_undocumented: bool,
    /// How long an answer to a delivery may take. HeyGen: 10 s.
    pub delivery_timeout: Duration,
    /// The pause after the first failed attempt; each further one is twice as long. HeyGen's is unpublished.
    pub retry_first: Duration,
    /// How long after an event its delivery is tried again. HeyGen: 24 h.
    pub retry_for: Duration,
    /// Decides the ids and which faults happen. Two stand-ins of one seed give the same ids.
    pub seed: u64,
    /// Whether delivered bodies carry `event_id` and `created_at`; the event history always does.
    pub bodies_carry_event_id: bool,
    /// Where the signature stands.
    pub header_name: SignatureHeader,
    /// Whether deliveries carry `Heygen-Timestamp` and `Heygen-Event-Id`, which nothing signs.
    pub unsigned_headers: bool,
    /// Whether `event_data` in the history differs from what was delivered: names of fields, fresh links; same ids.
    pub history_shape_differs: bool,
}

impl Default for Settings {
    /// HeyGen's documented behaviour, on this machine: any free port, and http URLs are taken.
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:0".to_owned(),
            api_key: "stand-in".to_owned(),
            clock: Clock::system(),
            require_https: false,
            probe_must_answer: false,
            refuse_undocumented: true,
            delivery_timeout: Duration::from_secs(10),
            retry_first: Duration::from_secs(1),
            retry_for: Duration::from_secs(24 * 3600),
            seed: 0,
            bodies_carry_event_id: false,
            header_name: SignatureHeader::Signature,
            unsigned_headers: false,
            history_shape_differs: false,
        }
    }
}

/// The header that a delivery is signed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureHeader {
    /// `Signature`.
    Signature,
    /// `Heygen-Signature`.
    HeygenSignature,
    /// Both, with the same value.
    Both,
}

/// A running stand-in. Dropping it stops it too, without waiting.
pub struct StandIn {
    address: SocketAddr,
    account: Arc<Account>,
    api: Arc<Api>,
    faults: Arc<Faults>,
    deliveries: Arc<Deliveries>,
    clock: Clock,
    tasks: Tasks,
}

impl StandIn {
    /// Starts listening.
    pub async fn start(settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind(&settings.listen).await?;
        let address = listener.local_addr()?;
        let tasks = Tasks::new();
        let chance = Chance::new(settings.seed);
        let account = Arc::new(Account::new(chance));
        let faults = Arc::new(Faults::new(chance));
        let client = deliver::client().map_err(io::Error::other)?;
        let deliveries = Deliveries::new(
            &settings,
            client.clone(),
            Arc::clone(&account),
            Arc::clone(&faults),
            tasks.clone(),
        );
        let clock = settings.clock.clone();
        let api = Arc::new(Api::new(
            settings,
            client,
            Arc::clone(&account),
            Arc::clone(&faults),
            tasks.clone(),
        ));
        connections::serve(listener, Arc::clone(&api), tasks.clone());
        Ok(Self {
            address,
            account,
            api,
            faults,
            deliveries: Arc::new(deliveries),
            clock,
            tasks,
        })
    }

    /// What stands before `/v3/…`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets an event happen in the account, with a sample as its payload, and delivers it to every endpoint that wants
    /// it. Its id. Belongs into a tokio runtime.
    pub fn emit(&self, event_type: &str, number: u64) -> String {
        self.emit_event(event_type, samples::event_data(event_type, number))
    }

    /// As [`emit`](Self::emit), with this payload.
    pub fn emit_event(&self, event_type: &str, event_data: Value) -> String {
        let event = self.happen(event_type, event_data);
        if self.faults.unknown_type_happens(event.number) {
            self.happen(UNKNOWN_TYPE, samples::event_data(UNKNOWN_TYPE, event.number));
        }
        event.event_id.clone()
    }

    fn happen(&self, event_type: &str, event_data: Value) -> Arc<Happened> {
        let (event, takers) = self.account.happen(event_type, event_data, self.clock.now());
        self.deliveries.start(&event, &takers);
        event
    }

    /// The faults; all can be changed while it runs.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Every event that happened, oldest first, as it was delivered.
    pub fn history(&self) -> Vec<Happened> {
        self.account.history()
    }

    /// The endpoints, oldest first.
    pub fn registrations(&self) -> Vec<Registration> {
        self.account.registrations()
    }

    /// The calls to the API, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        self.api.requests()
    }

    /// Deliveries that were given up: the time for retries was over, the endpoint was gone or disabled, or too many were
    /// pending. Deliveries lost by a fault are not among them.
    pub fn given_up(&self) -> u64 {
        self.deliveries.given_up()
    }

    /// Disables an endpoint, as HeyGen may do. Whether there is one.
    pub fn disable(&self, endpoint_id: &str) -> bool {
        self.account.disable(endpoint_id)
    }

    /// Deletes an endpoint as somebody else with access to the account would. Whether there was one.
    pub fn delete_behind_our_back(&self, endpoint_id: &str) -> bool {
        self.account.delete(endpoint_id)
    }

    /// Waits until no delivery is under way or scheduled.
    pub async fn settled(&self) {
        self.deliveries.settled().await;
    }

    /// Cuts every connection, gives up every delivery, and waits until nothing runs.
    pub async fn end(self) {
        self.tasks.end().await;
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
    }
}
