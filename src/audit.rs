//! The audit trail: who changed what, when, and what came of it. Owns its records and their bound; refuses to know gRPC,
//! and in what they are stored.

pub mod shared;
pub mod sqlite;

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{clock::Clock, state_db::StoreError, tasks};

/// Something that was done, or that was asked for and refused.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Action {
    /// Who: a token's name, `operator`, `anonymous`, or `hookstream` for the service itself.
    pub actor: String,
    /// From where; empty for the service itself.
    pub address: String,
    /// What, such as `ManageEndpoint.create`.
    pub action: String,
    /// To what: a name.
    pub target: String,
    /// What came of it: `OK`, the reason of the refusal, or `UNFINISHED` for what the service itself began and tries
    /// again.
    pub outcome: String,
}

/// An action in the trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the trail, rising.
    pub id: i64,
    /// When it ended.
    pub at: Timestamp,
    /// What was done.
    pub action: Action,
}

/// Which records to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Question {
    /// Only those before this one.
    pub before_id: Option<i64>,
    /// Only those at or after this time.
    pub since: Option<Timestamp>,
    /// How many at most.
    pub most: usize,
}

/// Where the trail is kept. A record is durable when the call returns. Calls block.
pub trait AuditStore: Send + Sync + 'static {
    /// Adds a record; forgets the oldest beyond the bound.
    fn append(&self, at: Timestamp, action: &Action) -> Result<(), StoreError>;
    /// Records, newest first.
    fn list(&self, question: Question) -> Result<Vec<Record>, StoreError>;
}

/// The audit trail.
#[derive(Clone)]
pub struct Audit {
    store: Arc<dyn AuditStore>,
    clock: Clock,
}

impl Audit {
    /// A trail in this store.
    pub fn new(store: Arc<dyn AuditStore>, clock: Clock) -> Self {
        Self { store, clock }
    }

    /// Records what was done. It is done already, so a record that cannot be stored is at least logged.
    pub async fn record(&self, action: Action) {
        let (store, at) = (Arc::clone(&self.store), self.clock.now());
        let appended = action.clone();
        let result = tasks::blocking(move || store.append(at, &appended)).await;
        let result = result.map_err(StoreError::from).and_then(|result| result);
        if let Err(error) = result {
            let Action {
                actor,
                address,
                action,
                target,
                outcome,
            } = action;
            tracing::error!(%error, actor, address, action, target, outcome, "the audit trail cannot be written");
        }
    }

    /// Records, newest first.
    pub async fn list(&self, question: Question) -> Result<Vec<Record>, StoreError> {
        let store = Arc::clone(&self.store);
        tasks::blocking(move || store.list(question)).await?
    }
}
