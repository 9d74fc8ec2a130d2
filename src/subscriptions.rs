//! Subscriptions: places in the log that the service keeps, and work that several streams share. Owns which there are and
//! their coming and going; refuses to know gRPC, and in what they are stored.
//!
//! | part | owns |
//! |---|---|
//! | `settings` | the terms of a subscription |
//! | `dispatch` | who has which event until when: a state machine that knows no log and no storage |
//! | `subscription` | one at work: it feeds its dispatch from the log while there are streams |
//! | `commits` | how a place becomes durable: acknowledgements share a sync |
//! | `survey` | how many events are still to come |
//! | `store`, `sqlite`, `shared` | the storage's contract, and the engines: a file, and what replicas share |
//! | `serving` | which replica serves them |
//!
//! One that nobody uses costs its place in memory and nothing else: no task, no timer, no work for an event.

mod columns;
mod commits;
mod dead_letters;
mod dispatch;
mod metrics;
mod serving;
mod settings;
pub mod shared;
pub mod sqlite;
mod store;
mod subscription;
mod survey;

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use parking_lot::RwLock;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::{commits::Commits, dispatch::Closed};
pub use self::{
    commits::NotStored,
    dead_letters::{DeadLetter, Reason},
    dispatch::{Acknowledged, DeadLetterChanges, Outcome, Place, SavedEvent, Standing},
    serving::{Parts, Serving, ServingReplica},
    settings::{AfterMaxAttempts, InvalidSubscriptionName, Ordering, Settings, SubscriptionName},
    store::{Changes, Stored, SubscriptionStore},
    subscription::{Deleted, Delivery, Part, Said, Subscription, SubscriptionStream},
    survey::Backlog,
};
use crate::{
    access,
    audit::{Action, Audit},
    clock::Clock,
    event::{EventId, Sequence},
    hub::Hub,
    limits,
    log::{Direction, Range, ReadError},
    state_db::StoreError,
    stream::TooManyStreams,
    tasks,
};

/// The subscriptions.
pub struct Subscriptions {
    hub: Arc<Hub>,
    clock: Clock,
    store: Arc<dyn SubscriptionStore>,
    commits: Arc<Commits>,
    by_name: RwLock<BTreeMap<SubscriptionName, Arc<Subscription>>>,
    /// One comes or goes at a time.
    managing: tokio::sync::Mutex<()>,
    streams: Arc<Semaphore>,
}

/// Why something cannot be done with a subscription.
#[derive(Debug, thiserror::Error)]
pub enum SubscriptionError {
    /// The name is taken.
    #[error("there is a subscription `{0}` already")]
    Exists(SubscriptionName),
    /// There is none of this name.
    #[error("there is no subscription `{0}`")]
    NotFound(SubscriptionName),
    /// As many exist as may.
    #[error("there are {} subscriptions; no more are allowed", limits::SUBSCRIPTIONS_MAX)]
    TooMany,
    /// The storage failed.
    #[error("a subscription could not be stored or read")]
    Store(#[source] StoreError),
    /// A place could not be stored.
    #[error(transparent)]
    NotStored(#[from] NotStored),
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Which dead letters.
#[derive(Clone, Debug)]
pub enum Which {
    /// Every one.
    All,
    /// Those of these events.
    Events(Vec<EventId>),
}

impl Subscriptions {
    /// The subscriptions of a storage, whose places are in the hub's log.
    pub async fn load(
        store: Arc<dyn SubscriptionStore>,
        hub: Arc<Hub>,
        clock: Clock,
    ) -> Result<Arc<Self>, StoreError> {
        let load = move || Self::of(store.load()?, store, hub, clock);
        tasks::blocking(load).await?
    }

    /// The same, where another replica handed out events: the log of this one may not have all of them yet.
    async fn take_over(
        store: Arc<dyn SubscriptionStore>,
        hub: Arc<Hub>,
        clock: Clock,
    ) -> Result<Arc<Self>, StoreError> {
        let reader = Arc::clone(&store);
        let all = tasks::blocking(move || reader.load()).await??;
        let log_id = hub.log().log_id();
        let here = all.iter().filter(|stored| stored.log_id == log_id);
        if let Some(last) = here.map(|stored| stored.place.position).max() {
            let mut tail = hub.log().tail();
            let has_it = tail.wait_for(|&tail| tail >= last);
            let _ = tokio::time::timeout(limits::SUBSCRIPTIONS_LOG_WAIT, has_it).await;
        }
        tasks::blocking(move || Self::of(all, store, hub, clock)).await?
    }

    /// These subscriptions. Blocks.
    fn of(
        all: Vec<Stored>,
        store: Arc<dyn SubscriptionStore>,
        hub: Arc<Hub>,
        clock: Clock,
    ) -> Result<Arc<Self>, StoreError> {
        let commits = Arc::new(Commits::start(Arc::clone(&store)));
        let mut by_name = BTreeMap::new();
        for mut stored in all {
            let bounds = hub.log().bounds();
            if stored.log_id != hub.log().log_id() {
                tracing::error!(subscription = %stored.name, "its place is in another log; it starts at the beginning of this one");
                stored.place = Place {
                    generation: stored.place.generation + 1,
                    position: bounds.trimmed,
                    ..Place::default()
                };
                stored.dead_letters = 0;
                store.relocate(stored.id, hub.log().log_id(), &stored.place)?;
            } else if stored.place.position > bounds.tail {
                tracing::error!(subscription = %stored.name, "its place is past the end of the log, which must have lost events; it goes on there");
                stored.place.position = bounds.tail;
                stored
                    .place
                    .under_way
                    .retain(|event| event.sequence <= bounds.tail);
            }
            let subscription = Subscription::new(
                stored,
                first_lease(),
                Arc::clone(&hub),
                clock.clone(),
                Arc::clone(&commits),
            );
            by_name.insert(subscription.name.clone(), subscription);
        }
        Ok(Arc::new(Self {
            hub,
            clock,
            store,
            commits,
            by_name: RwLock::new(by_name),
            managing: tokio::sync::Mutex::default(),
            streams: Arc::new(Semaphore::new(limits::STREAMS_MAX)),
        }))
    }

    /// Makes a subscription that starts after `start`.
    pub async fn create(
        &self,
        name: SubscriptionName,
        settings: Settings,
        start: Sequence,
    ) -> Result<Arc<Subscription>, SubscriptionError> {
        let _one_at_a_time = self.managing.lock().await;
        {
            let by_name = self.by_name.read();
            if by_name.contains_key(&name) {
                return Err(SubscriptionError::Exists(name));
            }
            if by_name.len() >= limits::SUBSCRIPTIONS_MAX {
                return Err(SubscriptionError::TooMany);
            }
        }
        let stored = Stored {
            id: rand::random(),
            name: name.clone(),
            settings: Arc::new(settings),
            created_at: self.clock.now(),
            log_id: self.hub.log().log_id(),
            place: Place {
                position: start,
                ..Place::default()
            },
            dead_letters: 0,
        };
        let to_store = stored.clone();
        self.in_store(move |store| store.create(&to_store)).await?;
        let (hub, clock) = (Arc::clone(&self.hub), self.clock.clone());
        let subscription = Subscription::new(stored, first_lease(), hub, clock, Arc::clone(&self.commits));
        self.by_name.write().insert(name, Arc::clone(&subscription));
        Ok(subscription)
    }

    /// One subscription.
    pub fn get(&self, name: &SubscriptionName) -> Result<Arc<Subscription>, SubscriptionError> {
        let found = self.by_name.read().get(name).cloned();
        found.ok_or_else(|| SubscriptionError::NotFound(name.clone()))
    }

    /// Those after a name, by name, that are wanted; at most so many.
    pub fn list(
        &self,
        after: Option<&SubscriptionName>,
        most: usize,
        wanted: impl Fn(&Subscription) -> bool,
    ) -> Vec<Arc<Subscription>> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let by_name = self.by_name.read();
        let following = by_name.range::<SubscriptionName, _>((after, Bound::Unbounded));
        let wanted = following.map(|(_, one)| one).filter(|one| wanted(one));
        wanted.take(most).cloned().collect()
    }

    /// Every subscription.
    pub fn all(&self) -> Vec<Arc<Subscription>> {
        self.by_name.read().values().cloned().collect()
    }

    /// Changes the terms of one. Whoever holds its events keeps them under the terms they were handed out under.
    pub async fn update<E: From<SubscriptionError>>(
        &self,
        name: &SubscriptionName,
        change: impl FnOnce(&Settings) -> Result<Settings, E>,
    ) -> Result<Arc<Subscription>, E> {
        let subscription = self.get(name)?;
        let one_at_a_time = subscription.changing.lock().await;
        let settings = Arc::new(change(&subscription.settings())?);
        let (id, to_store) = (subscription.id, Arc::clone(&settings));
        self.in_store(move |store| store.update(id, &to_store)).await?;
        subscription.apply(|dispatch| dispatch.update(settings));
        drop(one_at_a_time);
        Ok(subscription)
    }

    /// Removes one; its streams end.
    pub async fn delete(&self, name: &SubscriptionName) -> Result<(), SubscriptionError> {
        let _one_at_a_time = self.managing.lock().await;
        let subscription = self.get(name)?;
        let id = subscription.id;
        self.in_store(move |store| store.delete(id)).await?;
        self.by_name.write().remove(name);
        subscription.apply(|dispatch| dispatch.close(Closed::Deleted));
        Ok(())
    }

    /// Moves one to another place.
    pub async fn seek(
        &self,
        name: &SubscriptionName,
        position: Sequence,
    ) -> Result<Arc<Subscription>, SubscriptionError> {
        let subscription = self.get(name)?;
        let one_at_a_time = subscription.changing.lock().await;
        subscription.change(|dispatch| dispatch.seek(position)).await?;
        drop(one_at_a_time);
        Ok(subscription)
    }

    /// Opens a stream of one.
    pub fn open(
        &self,
        subscription: &Arc<Subscription>,
        part: Part,
    ) -> Result<SubscriptionStream, TooManyStreams> {
        let place = Arc::clone(&self.streams).try_acquire_owned();
        Ok(subscription.open(part, place.map_err(|_| TooManyStreams)?))
    }

    /// Dead letters of one in a range, at most so many.
    pub async fn dead_letters(
        &self,
        subscription: &Subscription,
        range: Range,
        direction: Direction,
        most: usize,
    ) -> Result<Vec<DeadLetter>, SubscriptionError> {
        let id = subscription.id;
        self.in_store(move |store| store.dead_letters(id, range, direction, most))
            .await
    }

    /// Hands out dead letters again, as far as there is room. How many are, and how many stay.
    pub async fn replay(
        &self,
        subscription: &Arc<Subscription>,
        which: Which,
    ) -> Result<(u64, u64), SubscriptionError> {
        let _one_at_a_time = subscription.changing.lock().await;
        let room = subscription.settings().max_unacknowledged;
        let mut events = Vec::new();
        for sequence in self.select(subscription, which, room).await? {
            events.push((sequence, subscription.event(sequence).await?));
        }
        let replayed = subscription.change(|dispatch| dispatch.replay(events)).await?;
        Ok((replayed, subscription.standing().dead_letters))
    }

    /// Forgets dead letters. How many, and how many stay.
    pub async fn discard(
        &self,
        subscription: &Arc<Subscription>,
        which: Which,
    ) -> Result<(u64, u64), SubscriptionError> {
        let _one_at_a_time = subscription.changing.lock().await;
        let mut discarded = 0;
        loop {
            let selected = self
                .select(subscription, which.clone(), limits::DEAD_LETTERS_PER_CALL_MAX)
                .await?;
            if selected.is_empty() {
                return Ok((discarded, subscription.standing().dead_letters));
            }
            discarded += selected.len() as u64;
            let forget = |dispatch: &mut dispatch::Dispatch| {
                selected
                    .iter()
                    .for_each(|&sequence| dispatch.forget_dead_letter(sequence));
            };
            subscription.change(forget).await?;
        }
    }

    /// The dead letters that are meant, oldest first, at most so many.
    async fn select(
        &self,
        subscription: &Subscription,
        which: Which,
        most: usize,
    ) -> Result<Vec<Sequence>, SubscriptionError> {
        let letters_in = |range| self.dead_letters(subscription, range, Direction::Forward, most);
        let mut selected = Vec::new();
        match which {
            Which::All => {
                let everything = Range {
                    after: Sequence::ZERO,
                    through: self.hub.log().bounds().tail,
                };
                selected = letters_in(everything).await?;
            }
            Which::Events(ids) => {
                for id in ids {
                    let Some(event) = self.hub.log().find(id).await? else {
                        continue;
                    };
                    let only = Range {
                        after: event.sequence.previous(),
                        through: event.sequence,
                    };
                    selected.extend(letters_in(only).await?);
                }
                selected.sort_unstable_by_key(|letter| letter.sequence);
                selected.dedup_by_key(|letter| letter.sequence);
                selected.truncate(most);
            }
        }
        Ok(selected.iter().map(|letter| letter.sequence).collect())
    }

    /// Looks after the subscriptions until told to stop: counts backlogs, forgets dead letters whose events are gone, and
    /// removes what nobody has used for as long as it is kept.
    pub async fn watch(&self, audit: Audit, stop: CancellationToken) {
        let mut pause = tokio::time::interval(limits::SUBSCRIPTIONS_SURVEY_INTERVAL);
        while stop.run_until_cancelled(pause.tick()).await.is_some() {
            for subscription in self.all() {
                if stop.is_cancelled() {
                    return;
                }
                if let Err(error) = self.look_after(&subscription, &audit).await {
                    tracing::warn!(subscription = %subscription.name, %error, "the subscription cannot be looked after");
                }
            }
        }
    }

    async fn look_after(
        &self,
        subscription: &Arc<Subscription>,
        audit: &Audit,
    ) -> Result<(), SubscriptionError> {
        let retention = subscription.settings().inactive_retention;
        if retention.is_some_and(|retention| subscription.unused_for() > retention) {
            self.delete(&subscription.name).await?;
            tracing::info!(subscription = %subscription.name, "nobody used the subscription for as long as it is kept");
            let action = Action {
                actor: access::SERVICE.to_owned(),
                address: String::new(),
                action: "ManageSubscription.delete".to_owned(),
                target: subscription.name.to_string(),
                outcome: "OK".to_owned(),
            };
            audit.record(action).await;
            return Ok(());
        }
        if subscription.standing().dead_letters > 0 {
            let (id, trimmed) = (subscription.id, self.hub.log().bounds().trimmed);
            let gone = self
                .in_store(move |store| store.trim_dead_letters(id, trimmed))
                .await?;
            subscription.apply(|dispatch| dispatch.dead_letters_trimmed(gone));
        }
        subscription.survey.look(subscription).await?;
        Ok(())
    }

    /// Tells every stream that the service is shutting down.
    pub fn drain(&self) {
        for subscription in self.all() {
            subscription.apply(|dispatch| dispatch.close(Closed::Draining));
        }
    }

    /// Stores what is not stored yet. Later acknowledgements fail.
    pub async fn close(&self) {
        self.commits.close().await;
    }

    async fn in_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn SubscriptionStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, SubscriptionError> {
        let store = Arc::clone(&self.store);
        let done = tasks::blocking(move || work(&*store)).await;
        let done = done.unwrap_or_else(|error| Err(error.into()));
        done.map_err(SubscriptionError::Store)
    }
}

/// Leases are counted from here, so that no two processes give out the same.
fn first_lease() -> u64 {
    rand::random::<u64>() >> 1
}

#[cfg(test)]
mod storage_tests;
#[cfg(test)]
mod tests;
