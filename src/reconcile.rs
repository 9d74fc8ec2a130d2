//! Finds what HeyGen could not deliver. Owns walking HeyGen's event history, newest first, down to known ground; leaves it
//! to the log to decide whether an entry is an event it has.
//!
//! An entry belongs to every endpoint that HeyGen should have delivered it to. Whether the log has it is decided by the
//! entry's `event_id`, or, because a delivery need not carry one, by the log's rule for twins. Entries younger than the
//! grace period are left alone: their delivery may be on its way.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
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
    event::{EndpointName, NewEvent},
    heygen::{ApiError, Heygen, HistoryEvent},
    limits,
    log::{AppendError, EventLog, Outcome},
};

/// Looks for events that were never delivered.
pub struct Reconciler {
    heygen: Heygen,
    endpoints: Arc<Endpoints>,
    log: Arc<dyn EventLog>,
    clock: Clock,
    grace: Duration,
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
    /// A reconciler that leaves entries younger than `grace` alone. Until [`Reconciler::run`] runs it does nothing.
    pub fn new(
        heygen: Heygen,
        endpoints: Arc<Endpoints>,
        log: Arc<dyn EventLog>,
        clock: Clock,
        grace: Duration,
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
    /// more after the grace period, when the entries that were too young have come of age.
    pub async fn run(&self, interval: Option<Duration>, stop: CancellationToken) {
        let mut again_at = None;
        while !stop.is_cancelled() {
            stop.run_until_cancelled(self.answer_walk()).await;
            let regular = interval.map(|interval| Instant::now() + interval);
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
                }
            };
            if stop.run_until_cancelled(woken).await == Some(true) {
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
        let ground = known_ground(&receivers);
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
                .filter(|entry| entry.created_at.is_none_or(|created_at| created_at <= of_age));
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

    /// The endpoints that HeyGen delivers to.
    fn receivers(&self) -> Vec<Receiver> {
        let all = self.endpoints.list(None, limits::ENDPOINTS_MAX);
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
        let mut appends = stream::iter(events)
            .map(|event| self.log.append(event))
            .buffered(limits::RECONCILIATION_APPENDS_MAX);
        let mut found = 0;
        while let Some(appended) = appends.next().await {
            if appended?.outcome == Outcome::New {
                found += 1;
                self.metrics.found.inc();
            }
        }
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
    SignedDuration::try_from(duration)
        .ok()
        .and_then(|duration| time.checked_sub(duration).ok())
        .unwrap_or(Timestamp::MIN)
}
