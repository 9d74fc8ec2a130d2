//! Finds what HeyGen could not deliver. Owns walking HeyGen's event history, newest first, down to known ground; leaves it
//! to the log to decide whether an entry is an event it has.
//!
//! An entry belongs to every endpoint that HeyGen should have delivered it to. Whether the log has it is decided by the
//! entry's `event_id`, or, because a delivery need not carry one, by the log's rule for twins. Entries younger than the
//! grace period are left alone: their delivery may be on its way. So are those that retention would have removed: the log
//! no longer knows whether it had them.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    decode::Envelope,
    endpoints::{Endpoint, Endpoints, State},
    event::{EndpointName, NewEvent, Sequence},
    filter::Filter,
    heygen::{ApiError, Heygen, HistoryEvent},
    limits,
    log::{AppendError, Direction, EventLog, Limit, Outcome, Range, ReadError},
    nats::lease::Lease,
};

/// Looks for events that were never delivered.
pub struct Reconciler {
    heygen: Heygen,
    endpoints: Arc<Endpoints>,
    log: Arc<dyn EventLog>,
    clock: Clock,
    grace: Duration,
    retention_age: Option<Duration>,
    due: Notify,
    waiting: Mutex<Vec<oneshot::Sender<WalkResult>>>,
    metrics: ReconcileMetrics,
}

type WalkResult = Result<Walked, Arc<ReconcileError>>;

/// How a walk went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// Entries of the history looked at.
    pub examined: u64,
    /// Events stored that had never been delivered.
    pub found: u64,
}

/// Why a walk ended early. What it had found is stored; the next walk starts again at the newest entry.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// HeyGen's history cannot be read.
    #[error("HeyGen's event history cannot be read")]
    Heygen(#[from] ApiError),
    /// The log cannot be read.
    #[error("the log cannot be read")]
    Read(#[from] ReadError),
    /// The log does not take events.
    #[error("an event from HeyGen's history could not be stored")]
    Append(#[from] AppendError),
    /// The service is shutting down, or too many wait already.
    #[error("the reconciliation was not carried out: the service is shutting down, or too many wait for it")]
    Refused,
}

#[derive(Debug, Default)]
struct ReconcileMetrics {
    found: Counter,
    failures: Counter,
    last_success: Gauge,
    lag: Gauge,
}

impl ReconcileMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "reconciliation_found_events",
            "Events that were found only in HeyGen's history",
            self.found.clone(),
        );
        registry.register(
            "reconciliation_failures",
            "Walks through HeyGen's history that ended early",
            self.failures.clone(),
        );
        registry.register(
            "reconciliation_last_success_timestamp_seconds",
            "When the last whole walk ended; 0 before the first",
            self.last_success.clone(),
        );
        registry.register(
            "reconciliation_lag_seconds",
            "Age of the known ground of the endpoint that is furthest behind, at the end of the last walk",
            self.lag.clone(),
        );
    }
}

impl Reconciler {
    /// A reconciler that leaves entries younger than `grace` or older than `retention_age` alone. Until [`Reconciler::run`] runs it does nothing.
    pub fn new(
        heygen: Heygen,
        endpoints: Arc<Endpoints>,
        log: Arc<dyn EventLog>,
        clock: Clock,
        grace: Duration,
        retention_age: Option<Duration>,
        registry: &mut Registry,
    ) -> Self {
        let metrics = ReconcileMetrics::default();
        metrics.register(registry);
        Self {
            heygen,
            endpoints,
            log,
            clock,
            grace,
            retention_age,
            due: Notify::new(),
            waiting: Mutex::default(),
            metrics,
        }
    }

    /// Makes the next walk start now, or as soon as the present one has ended.
    pub fn wake(&self) {
        self.due.notify_one();
    }

    /// Waits for a walk that starts after this call. The walk goes on if nobody waits any longer.
    pub async fn walk_now(&self) -> WalkResult {
        let (answer, walked) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.len() >= limits::RECONCILIATIONS_WAITING_MAX {
                return Err(Arc::new(ReconcileError::Refused));
            }
            waiting.push(answer);
        }
        self.wake();
        walked
            .await
            .unwrap_or_else(|_| Err(Arc::new(ReconcileError::Refused)))
    }

    /// Walks at once, then every `interval` and whenever woken, until stopped. What was woken by a change is walked once
    /// more after the grace period, when the entries that were too young have come of age. Among several replicas only the
    /// one that holds `lease` walks unless it is asked to.
    pub async fn run(&self, mut lease: Lease, interval: Option<Duration>, stop: CancellationToken) {
        let (mut again_at, mut is_woken) = (None, false);
        while !stop.is_cancelled() {
            if is_woken || lease.is_held() {
                stop.run_until_cancelled(self.answer_walk()).await;
            }
            let regular = interval.map(|interval| Instant::now() + interval);
            // What this replica was woken for it also looks at again.
            is_woken = again_at.is_some();
            let next = [again_at.take(), regular].into_iter().flatten().min();
            let pause = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            let woken = async {
                tokio::select! {
                    () = self.due.notified() => true,
                    () = pause => false,
                    () = lease.taken() => false,
                }
            };
            if stop.run_until_cancelled(woken).await == Some(true) {
                is_woken = true;
                again_at = Some(Instant::now() + self.grace);
            }
        }
        self.waiting.lock().clear();
    }

    async fn answer_walk(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        let result = self.walk().await.map_err(Arc::new);
        match &result {
            Ok(walked) if walked.found > 0 => {
                tracing::info!(
                    found = walked.found,
                    examined = walked.examined,
                    "HeyGen's history had undelivered events"
                );
            }
            Ok(_) => {}
            Err(error) => {
                self.metrics.failures.inc();
                let cause = std::error::Error::source(&**error).map(ToString::to_string);
                tracing::warn!(%error, cause, "reconciliation ended early; the next one starts anew");
            }
        }
        for answer in waiting {
            let _ = answer.send(result.clone());
        }
    }

    async fn walk(&self) -> Result<Walked, ReconcileError> {
        let receivers = self.receivers();
        let mut walked = Walked::default();
        if receivers.is_empty() {
            return Ok(walked);
        }
        let of_age = before(self.clock.now(), self.grace);
        let kept_since = self.kept_since().await?;
        let ground = known_ground(&receivers).max(kept_since);
        let mut token = None;
        let mut reported = Instant::now();
        loop {
            let page = self.heygen.history_page(token.as_deref()).await?;
            let oldest = page.events.iter().filter_map(|entry| entry.created_at).min();
            walked.examined += page.events.len() as u64;
            let old_enough = page
                .events
                .into_iter()
                .rev()
                .filter(|entry| entry.created_at.is_none_or(|created_at| created_at <= of_age))
                .filter(|entry| {
                    entry
                        .created_at
                        .is_none_or(|at| kept_since.is_none_or(|since| at >= since))
                });
            walked.found += self.take_in(&receivers, old_enough.collect()).await?;
            if reported.elapsed() >= limits::PROGRESS_INTERVAL {
                reported = Instant::now();
                let Walked { examined, found } = walked;
                tracing::info!(
                    examined,
                    found,
                    reached = oldest.map(tracing::field::display),
                    "walking HeyGen's history"
                );
            }
            let on_known_ground = ground.is_some_and(|ground| oldest.is_some_and(|oldest| oldest < ground));
            token = page.next_token;
            if token.is_none() || on_known_ground {
                break;
            }
        }
        self.note_ground(&receivers, of_age).await;
        Ok(walked)
    }

    /// Since when the log has everything that it had; `None` if retention has removed nothing and never will.
    async fn kept_since(&self) -> Result<Option<Timestamp>, ReconcileError> {
        let by_age = self.retention_age.map(|age| before(self.clock.now(), age));
        let bounds = self.log.bounds();
        if bounds.trimmed == Sequence::ZERO {
            return Ok(by_age);
        }
        let range = Range {
            after: bounds.trimmed,
            through: bounds.tail,
        };
        let limit = Limit {
            events: 1,
            bytes: usize::MAX,
        };
        let read = self
            .log
            .read(range, Direction::Forward, &Filter::default(), limit)
            .await?;
        let oldest = read.events.first().map(|event| event.event.received_at);
        Ok(by_age.max(oldest))
    }

    /// The endpoints that HeyGen delivers to.
    fn receivers(&self) -> Vec<Receiver> {
        let all = self.endpoints.all();
        all.iter()
            .filter_map(|endpoint| Receiver::of(endpoint, self.clock.now()))
            .collect()
    }

    /// Appends what the receivers should have got, oldest first. How much of it was new.
    async fn take_in(
        &self,
        receivers: &[Receiver],
        entries: Vec<HistoryEvent>,
    ) -> Result<u64, ReconcileError> {
        let now = self.clock.now();
        let mut events = Vec::new();
        for entry in &entries {
            let entity_id = Envelope::of(&entry.body).entity_id;
            let wanted = receivers
                .iter()
                .filter(|receiver| receiver.gets(&entry.event_type, &entity_id));
            events.extend(
                wanted.map(|receiver| NewEvent::from_history(receiver.name.clone(), entry.body.clone(), now)),
            );
        }
        let appended = self.log.append_in_order(events).await?;
        let new = appended
            .iter()
            .filter(|appended| appended.outcome == Outcome::New);
        let found = new.count() as u64;
        self.metrics.found.inc_by(found);
        Ok(found)
    }

    /// Everything up to `of_age` is stored now.
    async fn note_ground(&self, receivers: &[Receiver], of_age: Timestamp) {
        for receiver in receivers {
            let note = |provider: &mut crate::endpoints::Provider| provider.reconciled_through = Some(of_age);
            if let Err(error) = self.endpoints.observe(&receiver.name, note).await {
                tracing::warn!(%error, "the known ground cannot be stored; the next walk is longer");
            }
        }
        let now = self.clock.now();
        self.metrics.last_success.set(now.as_second());
        self.metrics.lag.set(now.duration_since(of_age).as_secs());
    }
}

/// An endpoint as far as the history concerns it.
struct Receiver {
    name: EndpointName,
    event_types: Vec<String>,
    entity_id: String,
    reconciled_through: Option<Timestamp>,
}

impl Receiver {
    fn of(endpoint: &Endpoint, now: Timestamp) -> Option<Self> {
        let provider = endpoint.provider()?;
        let registered = !endpoint.keyring.keys().is_empty() && endpoint.state(now) != State::Deleting;
        registered.then(|| Self {
            name: endpoint.name.clone(),
            event_types: provider.event_types.clone(),
            entity_id: endpoint.entity_id.clone(),
            reconciled_through: provider.reconciled_through,
        })
    }

    fn gets(&self, event_type: &str, entity_id: &str) -> bool {
        (self.event_types.is_empty() || self.event_types.iter().any(|wanted| wanted == event_type))
            && (self.entity_id.is_empty() || self.entity_id == entity_id)
    }
}

/// Where every receiver has everything; `None` if one has never been reconciled. With a margin, because nothing says that
/// HeyGen lists entries the moment they are created.
fn known_ground(receivers: &[Receiver]) -> Option<Timestamp> {
    let grounds = receivers.iter().map(|receiver| receiver.reconciled_through);
    let oldest = grounds.min().flatten()?;
    Some(before(oldest, limits::RECONCILIATION_MARGIN))
}

fn before(time: Timestamp, duration: Duration) -> Timestamp {
    time.checked_sub(duration).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::{
        endpoints::{NewEndpoint, Provider, Registration, sqlite::SqliteEndpointStore},
        event::LogId,
        heygen::Credentials,
        log::{Retention, memory::MemoryLog},
        sealing::SealingKeys,
        secret::Secret,
        stand_in::{Settings, StandIn},
    };

    const DAY: i64 = 24 * 3600;

    struct World {
        heygen: StandIn,
        log: Arc<MemoryLog>,
        reconciler: Reconciler,
        now: Arc<AtomicI64>,
        _directory: tempfile::TempDir,
    }

    impl World {
        async fn start(retention_age: Option<Duration>) -> Self {
            let now = Arc::new(AtomicI64::new(1_780_000_000));
            let told = Arc::clone(&now);
            let clock = Clock::new(move || Timestamp::from_second(told.load(Ordering::SeqCst)).unwrap());
            let settings = Settings {
                api_key: "key".to_owned(),
                clock: clock.clone(),
                ..Settings::default()
            };
            let heygen = StandIn::start(settings).await.unwrap();
            let directory = tempfile::tempdir().unwrap();
            let store = SqliteEndpointStore::open(&directory.path().join("state.db"), SealingKeys::default())
                .unwrap();
            let endpoints = Arc::new(Endpoints::load(Arc::new(store), clock.clone()).unwrap());
            let new = NewEndpoint {
                secret: Some(Secret::generate()),
                registration: Registration::Heygen(Box::default()),
                ..NewEndpoint::default()
            };
            endpoints.create("prod".parse().unwrap(), new).await.unwrap();
            let log = Arc::new(MemoryLog::new(LogId::new(1)));
            let key = Credentials::ApiKey(Secret::new("key".to_owned()).unwrap());
            let client = Heygen::new(&heygen.base_url(), key).unwrap();
            let shared: Arc<dyn EventLog> = Arc::clone(&log) as _;
            let (grace, mut registry) = (Duration::from_secs(60), Registry::default());
            let reconciler = Reconciler::new(
                client,
                endpoints,
                shared,
                clock,
                grace,
                retention_age,
                &mut registry,
            );
            Self {
                heygen,
                log,
                reconciler,
                now,
                _directory: directory,
            }
        }

        fn happen(&self, number: u64) {
            self.heygen.emit("avatar_video.success", number);
        }

        fn pass(&self, seconds: i64) {
            self.now.fetch_add(seconds, Ordering::SeqCst);
        }

        async fn found(&self) -> u64 {
            self.reconciler.walk().await.unwrap().found
        }
    }

    #[tokio::test]
    async fn an_entry_younger_than_the_grace_period_is_left_alone() {
        let world = World::start(None).await;
        world.happen(1);
        world.pass(59);
        assert_eq!(world.found().await, 0);
        world.pass(1);
        assert_eq!(world.found().await, 1);
        assert_eq!(world.found().await, 0);
    }

    #[tokio::test]
    async fn a_walk_ends_on_known_ground() {
        let world = World::start(None).await;
        (0..500).for_each(|number| world.happen(number));
        world.pass(DAY);
        assert_eq!(
            world.reconciler.walk().await.unwrap(),
            Walked {
                examined: 500,
                found: 500
            }
        );
        world.pass(DAY);
        world.happen(1000);
        world.pass(DAY);
        let walked = world.reconciler.walk().await.unwrap();
        assert_eq!(
            walked,
            Walked {
                examined: 100,
                found: 1
            }
        );
    }

    #[tokio::test]
    async fn what_retention_removed_is_not_taken_for_undelivered() {
        let world = World::start(Some(Duration::from_secs(30 * 24 * 3600))).await;
        world.happen(1);
        world.pass(20 * DAY);
        world.happen(2);
        world.pass(DAY);
        assert_eq!(world.found().await, 2);
        world.pass(DAY);
        let retention = Retention {
            age: Some(Duration::from_secs(3600)),
            size_bytes: None,
        };
        world.happen(3);
        world.pass(3600);
        assert_eq!(world.found().await, 1);
        world
            .log
            .trim(retention, world.reconciler.clock.now())
            .await
            .unwrap();
        assert_eq!(world.log.bounds().trimmed, Sequence::new(2));
        let forget = |provider: &mut Provider| provider.reconciled_through = None;
        world
            .reconciler
            .endpoints
            .observe(&"prod".parse().unwrap(), forget)
            .await
            .unwrap();
        assert_eq!(world.found().await, 0);
        // By age: an entry that would be removed at once is not taken in.
        let world = World::start(Some(Duration::from_secs(30 * 24 * 3600))).await;
        world.happen(1);
        world.pass(31 * DAY);
        assert_eq!(world.found().await, 0);
    }
}
