//! Who does what only one replica at a time should do. Owns the lease: one key that goes by itself unless its holder renews
//! it; refuses to know what is done under it.
//!
//! A holder that has not renewed it for a while stops by its own clock, before another can take it. That makes two holders
//! at one time unlikely, not impossible (a process may be stopped at any point), so whatever is done under a lease has to be
//! right with two as well.

use async_nats::jetstream::{kv::Store, stream::Config};
use bytes::Bytes;
use tokio::{sync::watch, time::Instant};

use super::{Nats, NatsError, bucket};
use crate::{limits, tasks::Tasks};

/// The part of a bucket's name.
const PART: &str = "LEASES";

/// Whether this replica is the one that does something.
#[derive(Clone, Debug)]
pub struct Lease {
    held: watch::Receiver<bool>,
    is_shared: bool,
}

impl Lease {
    /// That of a service which has no other replicas.
    pub fn alone() -> Self {
        let (_, held) = watch::channel(true);
        Self {
            held,
            is_shared: false,
        }
    }

    /// Takes part in the lease of this `name`, until told to end: then it is given back.
    pub async fn contend(nats: &Nats, name: &'static str, tasks: &Tasks) -> Result<Self, NatsError> {
        let lapses = Config {
            max_age: limits::LEASE_DURATION,
            duplicate_window: limits::LEASE_DURATION,
            ..Config::default()
        };
        let store = bucket::open(nats, PART, lapses).await?;
        let (holds, held) = watch::channel(false);
        let contender = Contender {
            store,
            name,
            replica: format!("{:016x}", rand::random::<u64>()).into(),
            holds,
        };
        let stop = tasks.stop().clone();
        tasks.spawn(async move {
            let revision = stop.run_until_cancelled(contender.run()).await;
            if revision.is_none() && *contender.holds.borrow() {
                let given_back =
                    tokio::time::timeout(limits::LEASE_INTERVAL, contender.store.delete(name)).await;
                if !matches!(given_back, Ok(Ok(()))) {
                    tracing::debug!(lease = name, "the lease was not given back: it lapses");
                }
            }
        });
        Ok(Self {
            held,
            is_shared: true,
        })
    }

    /// Whether it is this replica.
    pub fn is_held(&self) -> bool {
        *self.held.borrow()
    }

    /// Whether there may be other replicas.
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Waits until it becomes this replica; for good if that is decided already.
    pub async fn taken(&mut self) {
        loop {
            if self.held.changed().await.is_err() {
                return std::future::pending().await;
            }
            if self.is_held() {
                return;
            }
        }
    }
}

struct Contender {
    store: Store,
    name: &'static str,
    /// Says in the bucket who holds it, for people who look.
    replica: Bytes,
    holds: watch::Sender<bool>,
}

impl Contender {
    async fn run(&self) {
        let (mut revision, mut renewed_at) = (0, Instant::now());
        loop {
            let asked_at = Instant::now();
            let asked = tokio::time::timeout(limits::LEASE_INTERVAL, self.ask(revision)).await;
            match asked {
                Ok(Some(taken)) => {
                    (revision, renewed_at) = (taken, asked_at);
                    if !self.holds.send_replace(true) {
                        tracing::info!(
                            lease = self.name,
                            "this replica now does what one of them has to do"
                        );
                    }
                }
                _ if revision > 0 && renewed_at.elapsed() < limits::LEASE_HELD_MAX => {}
                _ => {
                    revision = 0;
                    if self.holds.send_replace(false) {
                        tracing::warn!(
                            lease = self.name,
                            "the lease is lost: another replica does it from now on"
                        );
                    }
                }
            }
            tokio::time::sleep_until(asked_at + limits::LEASE_INTERVAL).await;
        }
    }

    /// Renews it, or takes it if nobody has it.
    async fn ask(&self, revision: u64) -> Option<u64> {
        let value = self.replica.clone();
        if revision == 0 {
            return self.store.create(self.name, value).await.ok();
        }
        if let Ok(renewed) = self.store.update(self.name, value.clone(), revision).await {
            return Some(renewed);
        }
        // Perhaps it is still ours, and what is missing is the answer to an earlier renewal.
        let found = self.store.entry(self.name).await.ok()??;
        if found.value != value {
            return None;
        }
        self.store.update(self.name, value, found.revision).await.ok()
    }
}
