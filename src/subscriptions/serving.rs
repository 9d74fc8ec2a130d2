//! Which replica serves the subscriptions: one of them, all of them, so that what is handed out is known in one place. Owns
//! their coming and going at this replica; refuses to know how the others are asked.

use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Subscriptions, metrics, shared::SharedSubscriptionStore};
use crate::{
    audit::Audit, clock::Clock, hub::Hub, limits, nats::bucket::Bucket, nats::lease::Lease,
    state_db::StoreError, tasks::Tasks,
};

/// Who serves the subscriptions.
#[derive(Clone)]
pub enum Serving {
    /// This replica.
    Here(Arc<Subscriptions>),
    /// The one that is reached under this URL.
    At(String),
    /// None at the moment, as far as is known.
    Nowhere,
}

/// The replica that serves the subscriptions, whichever it is. Clones see the same.
#[derive(Clone)]
pub struct ServingReplica {
    state: watch::Receiver<Serving>,
    end: CancellationToken,
}

/// What a replica needs to serve the subscriptions.
pub struct Parts {
    /// Where the log is.
    pub hub: Arc<Hub>,
    /// Where what the service does by itself is recorded.
    pub audit: Audit,
    /// The time.
    pub clock: Clock,
}

impl ServingReplica {
    /// This one, which has no others.
    pub fn alone(
        subscriptions: Arc<Subscriptions>,
        audit: Audit,
        tasks: &Tasks,
        registry: &mut Registry,
    ) -> Self {
        let (state, serving) = Self::new(Serving::Here(Arc::clone(&subscriptions)), registry);
        let end = serving.end.clone();
        tasks.spawn(async move {
            subscriptions.watch(audit, end).await;
            subscriptions.close().await;
            drop(state);
        });
        serving
    }

    /// The one that holds this lease, which ends with `lease_end`. What is served is in `bucket`.
    pub fn shared(
        lease: Lease,
        lease_end: CancellationToken,
        bucket: Arc<Bucket>,
        parts: Parts,
        tasks: &Tasks,
        registry: &mut Registry,
    ) -> Self {
        let (state, serving) = Self::new(Serving::Nowhere, registry);
        let contender = Contender {
            lease,
            bucket,
            parts,
            state,
            end: serving.end.clone(),
        };
        tasks.spawn(async move {
            contender.run().await;
            // Not before everything is stored: the next who holds it reads what is stored.
            lease_end.cancel();
        });
        serving
    }

    fn new(first: Serving, registry: &mut Registry) -> (watch::Sender<Serving>, Self) {
        let (state, now) = watch::channel(first);
        let serving = Self {
            state: now,
            end: CancellationToken::new(),
        };
        metrics::register(&serving, registry);
        (state, serving)
    }

    /// Who it is now.
    pub fn now(&self) -> Serving {
        self.state.borrow().clone()
    }

    /// Waits until it is another; for good if it stays the same.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Tells every stream here that the service is shutting down.
    pub fn drain(&self) {
        if let Serving::Here(subscriptions) = self.now() {
            subscriptions.drain();
        }
    }

    /// Stores what is not stored yet, and lets another replica take over. Later acknowledgements fail.
    pub async fn close(&self) {
        self.end.cancel();
        let mut state = self.state.clone();
        while state.changed().await.is_ok() {}
    }
}

struct Contender {
    lease: Lease,
    bucket: Arc<Bucket>,
    parts: Parts,
    state: watch::Sender<Serving>,
    end: CancellationToken,
}

impl Contender {
    async fn run(mut self) {
        let end = self.end.clone();
        while !end.is_cancelled() {
            if self.lease.is_held() {
                if let Err(error) = self.serve().await {
                    tracing::error!(%error, "the subscriptions cannot be loaded; trying again");
                    let pause = tokio::time::sleep(limits::SUBSCRIPTIONS_LOAD_RETRY_DELAY);
                    end.run_until_cancelled(pause).await;
                }
                continue;
            }
            let serving = match self.lease.holder() {
                Some(holder) => Serving::At(holder.url),
                None => Serving::Nowhere,
            };
            self.state.send_replace(serving);
            end.run_until_cancelled(self.lease.changed()).await;
        }
    }

    /// Serves them, for as long as this replica is the one.
    async fn serve(&mut self) -> Result<(), StoreError> {
        let store = Arc::new(SharedSubscriptionStore::new(Arc::clone(&self.bucket)));
        let mut superseded = store.superseded();
        let Parts { hub, audit, clock } = &self.parts;
        let subscriptions = Subscriptions::take_over(store, Arc::clone(hub), clock.clone()).await?;
        self.state.send_replace(Serving::Here(Arc::clone(&subscriptions)));
        let watch = subscriptions.watch(audit.clone(), self.end.clone());
        let lease = &mut self.lease;
        let lost = async {
            while lease.is_held() {
                lease.changed().await;
            }
        };
        tokio::select! {
            // Ends when told to end.
            () = watch => {}
            () = lost => {}
            _ = superseded.wait_for(|&superseded| superseded) => {
                tracing::warn!("another replica has served the subscriptions meanwhile; loading them again");
            }
        }
        if !self.end.is_cancelled() {
            // Whoever has a stream is to come again, and is then sent to whom it is now.
            self.state.send_replace(Serving::Nowhere);
            subscriptions.drain();
        }
        subscriptions.close().await;
        Ok(())
    }
}
