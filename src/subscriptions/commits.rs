//! How places become durable. Owns the one task that writes them: the more wait, the larger the batch; one alone waits
//! for nobody.
//!
//! What is written is how a subscription stands at that moment, so a batch holds each subscription once, whatever number of
//! acknowledgements it answers for.
//!
//! A commit that failed is tried again, other than an append of the log: the storage has taken all of it back and writes all
//! of it anew, so that the next sync covers it whatever became of the pages of the one that failed.

use std::{collections::HashMap, mem, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::{store::SubscriptionStore, subscription::Subscription};
use crate::{
    limits,
    state_db::StoreError,
    tasks::{self, Tasks},
};

/// The commits of all subscriptions.
pub struct Commits {
    shared: Arc<Shared>,
    tasks: Tasks,
}

/// A commit that failed. The cause is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the place of the subscription cannot be stored at the moment")]
pub struct NotStored;

/// A commit that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Ticket(u64);

struct Shared {
    queue: Mutex<Queue>,
    work: Notify,
    outcome: watch::Sender<Outcome>,
}

#[derive(Default)]
struct Queue {
    unsaved: HashMap<u64, Arc<Subscription>>,
    /// The commit that takes what is queued now.
    next: u64,
    closing: bool,
}

/// The newest commits: what a later one stores includes what an earlier one did not.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    durable: u64,
    failed: u64,
}

impl Commits {
    /// Starts the task.
    pub fn start(store: Arc<dyn SubscriptionStore>) -> Self {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                next: 1,
                ..Queue::default()
            }),
            work: Notify::new(),
            outcome: watch::Sender::default(),
        });
        let tasks = Tasks::new();
        tasks.spawn(Arc::clone(&shared).run(store));
        Self { shared, tasks }
    }

    /// Asks that how a subscription stands now be stored.
    pub fn ask(&self, subscription: &Arc<Subscription>) -> Ticket {
        let mut queue = self.shared.queue.lock();
        queue
            .unsaved
            .entry(subscription.id)
            .or_insert_with(|| Arc::clone(subscription));
        self.shared.work.notify_one();
        Ticket(queue.next)
    }

    /// Waits until it is durable.
    pub async fn wait(&self, Ticket(number): Ticket) -> Result<(), NotStored> {
        let mut outcome = self.shared.outcome.subscribe();
        let settled = outcome.wait_for(|outcome| outcome.durable >= number || outcome.failed >= number);
        let settled = *settled.await.map_err(|_| NotStored)?;
        if settled.durable >= number {
            Ok(())
        } else {
            Err(NotStored)
        }
    }

    /// Stores what is queued and ends the task.
    pub async fn close(&self) {
        self.shared.queue.lock().closing = true;
        self.shared.work.notify_one();
        self.tasks.end().await;
    }
}

impl Shared {
    async fn run(self: Arc<Self>, store: Arc<dyn SubscriptionStore>) {
        loop {
            let (unsaved, number, closing) = {
                let mut queue = self.queue.lock();
                let unsaved = mem::take(&mut queue.unsaved);
                if !unsaved.is_empty() {
                    queue.next += 1;
                }
                (unsaved, queue.next - 1, queue.closing)
            };
            if unsaved.is_empty() {
                if closing {
                    return;
                }
                self.work.notified().await;
                continue;
            }
            match commit(&store, &unsaved).await {
                Ok(()) => self.outcome.send_modify(|outcome| outcome.durable = number),
                Err(error) => {
                    tracing::error!(%error, "the places of subscriptions cannot be stored; trying again");
                    self.outcome.send_modify(|outcome| outcome.failed = number);
                    if closing {
                        return;
                    }
                    self.put_back(unsaved);
                    tokio::time::sleep(limits::SUBSCRIPTIONS_COMMIT_RETRY_DELAY).await;
                }
            }
        }
    }

    fn put_back(&self, unsaved: HashMap<u64, Arc<Subscription>>) {
        let mut queue = self.queue.lock();
        for (id, subscription) in unsaved {
            queue.unsaved.entry(id).or_insert(subscription);
        }
    }
}

/// Stores what is new of these, all together.
async fn commit(
    store: &Arc<dyn SubscriptionStore>,
    unsaved: &HashMap<u64, Arc<Subscription>>,
) -> Result<(), StoreError> {
    let changes: Vec<_> = unsaved.values().filter_map(|one| one.unsaved()).collect();
    if changes.is_empty() {
        return Ok(());
    }
    let store = Arc::clone(store);
    let write = move || store.commit(&changes).map(|dead_letters| (changes, dead_letters));
    let (changes, dead_letters) = tasks::blocking(write).await??;
    for (changes, dead_letters) in changes.into_iter().zip(dead_letters) {
        if let Some(subscription) = unsaved.get(&changes.id) {
            subscription.saved(changes, dead_letters);
        }
    }
    Ok(())
}
