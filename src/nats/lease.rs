//! Who does what only one replica at a time should do. Owns the lease: one key that goes by itself unless its holder renews
//! it; refuses to know what is done under it.
//!
//! A holder that has not renewed it for a while stops by its own clock, before another can take it. That makes two holders
//! at one time unlikely, not impossible (a process may be stopped at any point), so whatever is done under a lease has to be
//! right with two as well.

use std::fmt;

use async_nats::jetstream::{
    kv::{Operation, Store, Watch},
    stream::Config,
};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Nats, NatsError, bucket};
use crate::{limits, tasks::Tasks};

/// The part of a bucket's name.
const PART: &str = "LEASES";

/// A process that takes part, as the others know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// No two processes that run have the same; one that takes another's place has.
    pub id: String,
    /// Where the others reach its gRPC.
    pub url: String,
}

/// Whether this replica is the one that does something.
#[derive(Clone, Debug)]
pub struct Lease {
    state: watch::Receiver<State>,
    is_shared: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    is_held: bool,
    /// Who holds it, as far as is known.
    holder: Option<Replica>,
}

impl Lease {
    /// That of a service which has no other replicas.
    pub fn alone() -> Self {
        let held = State {
            is_held: true,
            holder: None,
        };
        Self {
            state: watch::Sender::new(held).subscribe(),
            is_shared: false,
        }
    }

    /// Takes part in the lease of this `name` as `replica`, until told to `end`: then it is given back.
    pub async fn contend(
        nats: &Nats,
        name: &'static str,
        replica: Replica,
        tasks: &Tasks,
        end: CancellationToken,
    ) -> Result<Self, NatsError> {
        let lapses = Config {
            max_age: limits::LEASE_DURATION,
            duplicate_window: limits::LEASE_DURATION,
            ..Config::default()
        };
        let store = bucket::open(nats, PART, lapses).await?;
        let contender = Contender {
            store,
            name,
            replica,
            state: watch::Sender::default(),
        };
        let state = contender.state.subscribe();
        tasks.spawn(async move {
            let revision = end.run_until_cancelled(contender.run()).await;
            if revision.is_none() && contender.state.borrow().is_held {
                let given_back =
                    tokio::time::timeout(limits::LEASE_INTERVAL, contender.store.delete(name)).await;
                if !matches!(given_back, Ok(Ok(()))) {
                    tracing::debug!(lease = name, "the lease was not given back: it lapses");
                }
            }
        });
        Ok(Self {
            state,
            is_shared: true,
        })
    }

    /// Whether it is this replica.
    pub fn is_held(&self) -> bool {
        self.state.borrow().is_held
    }

    /// Who holds it, as far as is known: one that was killed may still be named.
    pub fn holder(&self) -> Option<Replica> {
        self.state.borrow().holder.clone()
    }

    /// Whether there may be other replicas.
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Waits until it becomes this replica; for good if that is decided already.
    pub async fn taken(&mut self) {
        loop {
            self.changed().await;
            if self.is_held() {
                return;
            }
        }
    }

    /// Waits until another holds it, or nobody, or this replica; for good if that is decided.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id, self.url)
    }
}

impl Replica {
    fn of(value: &[u8]) -> Option<Self> {
        let (id, url) = str::from_utf8(value).ok()?.split_once(' ')?;
        Some(Self {
            id: id.to_owned(),
            url: url.to_owned(),
        })
    }
}

struct Contender {
    store: Store,
    name: &'static str,
    replica: Replica,
    state: watch::Sender<State>,
}

impl Contender {
    async fn run(&self) {
        let (mut revision, mut renewed_at) = (0, Instant::now());
        // What a process left that had this one's place before.
        let mut is_inherited = true;
        let mut changes = None;
        loop {
            let asked_at = Instant::now();
            let asked = self.ask(revision, is_inherited);
            let asked = tokio::time::timeout(limits::LEASE_INTERVAL, asked).await;
            match asked {
                Ok(Some(taken)) => {
                    (revision, renewed_at) = (taken, asked_at);
                    if self.hold(true) {
                        tracing::info!(
                            lease = self.name,
                            "this replica now does what one of them has to do"
                        );
                    }
                }
                _ if revision > 0 && renewed_at.elapsed() < limits::LEASE_HELD_MAX => {}
                _ => {
                    revision = 0;
                    if self.hold(false) {
                        tracing::warn!(
                            lease = self.name,
                            "the lease is lost: another replica does it from now on"
                        );
                    }
                }
            }
            is_inherited &= asked.is_err();
            let pause = tokio::time::sleep_until(asked_at + limits::LEASE_INTERVAL);
            tokio::select! {
                () = pause => {}
                () = self.given_back(&mut changes), if revision == 0 => {}
            }
        }
    }

    /// Whether that is news.
    fn hold(&self, is_held: bool) -> bool {
        self.state.send_if_modified(|state| {
            let news = state.is_held != is_held;
            state.is_held = is_held;
            if news {
                // Who has it now is soon told.
                state.holder = is_held.then(|| self.replica.clone());
            }
            news
        })
    }

    /// Learns who holds it, until nobody does any more.
    async fn given_back(&self, changes: &mut Option<Watch>) {
        if changes.is_none() {
            *changes = self.store.watch_with_history(self.name).await.ok();
        }
        while let Some(watch) = changes {
            let Some(Ok(entry)) = watch.next().await else {
                *changes = None;
                break;
            };
            let is_held = entry.operation == Operation::Put;
            let holder = Replica::of(&entry.value).filter(|_| is_held);
            self.state.send_if_modified(|state| {
                let news = state.holder != holder;
                state.holder = holder;
                news
            });
            if !is_held {
                return;
            }
        }
        std::future::pending().await
    }

    /// Renews it, or takes it if nobody has it. The revision that this made.
    async fn ask(&self, revision: u64, is_inherited: bool) -> Option<u64> {
        let value = Bytes::from(self.replica.to_string());
        if revision == 0 {
            if let Ok(taken) = self.store.create(self.name, value.clone()).await {
                return Some(taken);
            }
            if !is_inherited {
                return None;
            }
            let found = self.store.entry(self.name).await.ok()??;
            let is_ours = Replica::of(&found.value).is_some_and(|holder| holder.id == self.replica.id);
            if !is_ours {
                return None;
            }
            return self.store.update(self.name, value, found.revision).await.ok();
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
