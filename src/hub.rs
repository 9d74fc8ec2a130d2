//! The newest events in memory, and who waits for which. Owns the ring of encoded events and the index from keys to
//! waiting streams; refuses to know what an encoded event looks like, and holds no queue for anybody.
//!
//! The hub follows the log: it is told of a new tail, reads what is new, has it encoded once, and wakes the streams that
//! want it. A stream that is not woken has cost nothing. What the hub holds is a copy; what it does not hold, a stream
//! reads from the log.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    event::{Keys, Sequence, StoredEvent},
    filter::{Filter, TypePattern},
    limits,
    log::{Direction, EventLog, Limit, Range, ReadError},
};

/// Turns an event into the bytes that every stream sends.
pub trait Encode: Send + Sync + 'static {
    /// The finished bytes.
    fn encode(&self, event: &StoredEvent) -> Bytes;
}

/// An event as streams send it: encoded when the first of them does, once for all.
#[derive(Debug)]
pub struct SharedEvent {
    event: Arc<StoredEvent>,
    bytes: OnceLock<Bytes>,
}

impl SharedEvent {
    /// One that nobody has encoded yet.
    pub fn new(event: Arc<StoredEvent>) -> Arc<Self> {
        Arc::new(Self {
            event,
            bytes: OnceLock::new(),
        })
    }

    /// The event.
    pub fn event(&self) -> &Arc<StoredEvent> {
        &self.event
    }

    fn size(&self) -> usize {
        // The encoded form holds the body, its fields as a Struct, and most of them once more as typed fields.
        4 * self.event.event.body.len()
    }
}

/// What a stream finds when it looks.
#[derive(Debug)]
pub enum Found {
    /// Matching events, perhaps none yet, and how far was looked: look again from there.
    Events(Vec<Arc<SharedEvent>>, Sequence),
    /// Nothing more up to here, which is past everything the hub has. The waiter is woken when there is.
    Nothing(Sequence),
    /// The hub no longer has what follows this position: read it from the log.
    Behind(Sequence),
    /// The service is shutting down.
    Draining,
}

/// The hub.
pub struct Hub {
    log: Arc<dyn EventLog>,
    encode: Arc<dyn Encode>,
    state: Mutex<State>,
    streams: Gauge,
}

#[derive(Debug)]
struct State {
    ring: VecDeque<Arc<SharedEvent>>,
    ring_bytes: usize,
    /// Everything at or below it is not in the ring.
    floor: Sequence,
    tail: Sequence,
    waiters: HashMap<WaiterId, Waiting>,
    routes: Routes,
    next_waiter: u64,
    draining: bool,
    ring_events_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct WaiterId(u64);

#[derive(Debug)]
struct Waiting {
    filter: Arc<Filter>,
    notify: Arc<Notify>,
    idle: Option<Idle>,
}

/// A stream that has seen everything up to a position and sleeps.
#[derive(Clone, Copy, Debug)]
struct Idle {
    position: Sequence,
    /// The first event after the position that it wants; whatever lies between, it does not.
    wanted: Option<Sequence>,
}

/// A place among the waiting streams; dropping it gives it up.
pub struct Waiter {
    hub: Arc<Hub>,
    id: WaiterId,
    filter: Arc<Filter>,
    notify: Arc<Notify>,
}

impl Hub {
    /// A hub on this log, which holds this many events at the most, and none until [`Hub::follow`] runs.
    pub fn new(
        log: Arc<dyn EventLog>,
        encode: Arc<dyn Encode>,
        registry: &mut Registry,
        ring_events_max: usize,
    ) -> Arc<Self> {
        let streams = Gauge::default();
        registry.register("streams", "Streams open", streams.clone());
        let tail = log.bounds().tail;
        let state = State {
            ring: VecDeque::new(),
            ring_bytes: 0,
            floor: tail,
            tail,
            waiters: HashMap::new(),
            routes: Routes::default(),
            next_waiter: 0,
            draining: false,
            ring_events_max,
        };
        Arc::new(Self {
            log,
            encode,
            state: Mutex::new(state),
            streams,
        })
    }

    /// The log that the hub follows.
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.log
    }

    /// The finished bytes of an event.
    pub fn encoded(&self, shared: &SharedEvent) -> Bytes {
        shared.bytes.get_or_init(|| self.encode(&shared.event)).clone()
    }

    /// The finished bytes of an event that was read from the log.
    pub fn encode(&self, event: &StoredEvent) -> Bytes {
        self.encode.encode(event)
    }

    /// The hub has everything that follows this position.
    pub fn floor(&self) -> Sequence {
        self.state.lock().floor
    }

    /// Whether the service is shutting down.
    pub fn is_draining(&self) -> bool {
        self.state.lock().draining
    }

    /// Follows the log until told to stop.
    pub async fn follow(&self, stop: CancellationToken) {
        let mut announced = self.log.tail();
        // What came between the making of this hub and now was announced to nobody.
        announced.mark_changed();
        while stop
            .run_until_cancelled(announced.changed())
            .await
            .is_some_and(|changed| changed.is_ok())
        {
            let tail = *announced.borrow_and_update();
            while let Err(error) = self.read_up_to(tail).await {
                tracing::error!(%error, "the newest events cannot be read; trying again");
                if stop
                    .run_until_cancelled(tokio::time::sleep(Duration::from_secs(1)))
                    .await
                    .is_none()
                {
                    return;
                }
            }
        }
    }

    async fn read_up_to(&self, tail: Sequence) -> Result<(), ReadError> {
        loop {
            let after = self.state.lock().tail;
            if after >= tail {
                return Ok(());
            }
            let range = Range { after, through: tail };
            let limit = Limit {
                events: limits::COMMIT_EVENTS_MAX,
                bytes: limits::COMMIT_BYTES_MAX,
            };
            match self
                .log
                .read(range, Direction::Forward, &Filter::default(), limit)
                .await
            {
                Ok(chunk) => {
                    let events = chunk.events.into_iter().map(SharedEvent::new).collect();
                    self.state.lock().publish(events, chunk.scanned);
                }
                // Streams that wanted those events find out from the log.
                Err(ReadError::Trimmed { trimmed }) => self.state.lock().publish(Vec::new(), trimmed),
                Err(ReadError::Damaged { sequence }) => {
                    tracing::error!(%sequence, "a record is damaged");
                    self.state.lock().skip(sequence);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A place among the waiting streams; `None` if there are as many as there may be.
    pub fn register(self: &Arc<Self>, filter: Filter) -> Option<Waiter> {
        let mut state = self.state.lock();
        if state.waiters.len() >= limits::STREAMS_MAX {
            return None;
        }
        let (filter, notify) = (Arc::new(filter), Arc::new(Notify::new()));
        let id = WaiterId(state.next_waiter);
        state.next_waiter += 1;
        state.routes.add(&filter, id);
        let waiting = Waiting {
            filter: Arc::clone(&filter),
            notify: Arc::clone(&notify),
            idle: None,
        };
        state.waiters.insert(id, waiting);
        self.streams.set(state.waiters.len() as i64);
        drop(state);
        Some(Waiter {
            hub: Arc::clone(self),
            id,
            filter,
            notify,
        })
    }

    /// Tells every stream, now and later, that the service is shutting down.
    pub fn drain(&self) {
        let mut state = self.state.lock();
        state.draining = true;
        state
            .waiters
            .values()
            .for_each(|waiting| waiting.notify.notify_one());
    }
}

impl Waiter {
    /// The filter it waits with.
    pub fn filter(&self) -> &Arc<Filter> {
        &self.filter
    }

    /// The hub it waits at.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Looks for events after a position.
    pub fn look(&self, position: Sequence) -> Found {
        self.hub.state.lock().look(self.id, position)
    }

    /// Waits until there is a reason to look again.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut state = self.hub.state.lock();
        state.waiters.remove(&self.id);
        state.routes.remove(&self.filter, self.id);
        self.hub.streams.set(state.waiters.len() as i64);
    }
}

impl State {
    /// Takes in new events, in order, and wakes the streams that want one.
    fn publish(&mut self, events: Vec<Arc<SharedEvent>>, tail: Sequence) {
        for held in &events {
            let (sequence, keys) = (held.event.sequence, &held.event.event.keys);
            let waiters = &mut self.waiters;
            self.routes.each(keys, |id| {
                let Some(waiting) = waiters.get_mut(&id) else {
                    return;
                };
                // One that is awake looks through the ring by itself.
                let Some(idle @ Idle { wanted: None, .. }) = &mut waiting.idle else {
                    return;
                };
                if sequence > idle.position && waiting.filter.matches(keys) {
                    idle.wanted = Some(sequence);
                    waiting.notify.notify_one();
                }
            });
        }
        for held in events {
            self.ring_bytes += held.size();
            self.ring.push_back(held);
        }
        self.tail = self.tail.max(tail);
        while self.ring.len() > self.ring_events_max || self.ring_bytes > limits::RING_BYTES_MAX {
            let Some(oldest) = self.ring.pop_front() else {
                break;
            };
            self.ring_bytes -= oldest.size();
            self.floor = oldest.event.sequence;
        }
    }

    /// Gives up on one position: streams that get there read it from the log, and learn from there what is wrong with it.
    fn skip(&mut self, sequence: Sequence) {
        self.ring.clear();
        self.ring_bytes = 0;
        (self.floor, self.tail) = (sequence, sequence);
        self.waiters.values_mut().for_each(|waiting| {
            waiting.idle = None;
            waiting.notify.notify_one();
        });
    }

    fn look(&mut self, id: WaiterId, position: Sequence) -> Found {
        if self.draining {
            return Found::Draining;
        }
        let Some(waiting) = self.waiters.get_mut(&id) else {
            return Found::Nothing(position);
        };
        // What was skipped in its sleep needs no second look.
        let position = match waiting.idle.take() {
            Some(Idle {
                wanted: Some(wanted), ..
            }) => position.max(wanted.previous()),
            Some(Idle { wanted: None, .. }) => position.max(self.tail),
            None => position,
        };
        if position < self.floor {
            return Found::Behind(position);
        }
        let start = self.ring.partition_point(|held| held.event.sequence <= position);
        let mut found = Vec::new();
        let (mut bytes, mut looked) = (0, position);
        for held in self.ring.range(start..).take(limits::STREAM_SCAN_EVENTS_MAX) {
            if waiting.filter.matches(&held.event.event.keys) {
                bytes += held.event.event.body.len();
                let full = found.len() == limits::STREAM_CHUNK_EVENTS_MAX
                    || (bytes > limits::STREAM_CHUNK_BYTES_MAX && !found.is_empty());
                if full {
                    return Found::Events(found, looked);
                }
                found.push(Arc::clone(held));
            }
            looked = held.event.sequence;
        }
        let at_tail = self
            .ring
            .back()
            .is_none_or(|newest| looked >= newest.event.sequence);
        if found.is_empty() && at_tail {
            let position = position.max(self.tail);
            waiting.idle = Some(Idle {
                position,
                wanted: None,
            });
            return Found::Nothing(position);
        }
        Found::Events(found, looked)
    }
}

/// From the keys of an event to the streams that may want it. A stream stands under the values of one field of its filter,
/// the most selective that it names.
#[derive(Debug, Default)]
struct Routes {
    everything: HashSet<WaiterId>,
    by_callback_id: HashMap<String, HashSet<WaiterId>>,
    by_entity_id: HashMap<String, HashSet<WaiterId>>,
    by_event_type: HashMap<TypePattern, HashSet<WaiterId>>,
    by_endpoint: HashMap<String, HashSet<WaiterId>>,
}

impl Routes {
    fn add(&mut self, filter: &Filter, id: WaiterId) {
        fn add<K: Clone + Eq + Hash>(routes: &mut HashMap<K, HashSet<WaiterId>>, values: &[K], id: WaiterId) {
            for value in values {
                routes.entry(value.clone()).or_default().insert(id);
            }
        }
        if !filter.callback_ids.is_empty() {
            add(&mut self.by_callback_id, &filter.callback_ids, id);
        } else if !filter.entity_ids.is_empty() {
            add(&mut self.by_entity_id, &filter.entity_ids, id);
        } else if !filter.event_types.is_empty() {
            add(&mut self.by_event_type, &filter.event_types, id);
        } else if !filter.endpoints.is_empty() {
            add(&mut self.by_endpoint, &filter.endpoints, id);
        } else {
            self.everything.insert(id);
        }
    }

    fn remove(&mut self, filter: &Filter, id: WaiterId) {
        fn remove<K: Eq + Hash>(routes: &mut HashMap<K, HashSet<WaiterId>>, values: &[K], id: WaiterId) {
            for value in values {
                if let Some(ids) = routes.get_mut(value) {
                    ids.remove(&id);
                    if ids.is_empty() {
                        routes.remove(value);
                    }
                }
            }
        }
        self.everything.remove(&id);
        remove(&mut self.by_callback_id, &filter.callback_ids, id);
        remove(&mut self.by_entity_id, &filter.entity_ids, id);
        remove(&mut self.by_event_type, &filter.event_types, id);
        remove(&mut self.by_endpoint, &filter.endpoints, id);
    }

    /// Calls `visit` for every stream that may want an event with these keys; for some perhaps twice.
    fn each(&self, keys: &Keys, mut visit: impl FnMut(WaiterId)) {
        self.everything.iter().copied().for_each(&mut visit);
        let by_value = [
            self.by_callback_id.get(&*keys.callback_id),
            self.by_entity_id.get(&*keys.entity_id),
            self.by_endpoint.get(keys.endpoint.as_str()),
        ];
        by_value
            .into_iter()
            .flatten()
            .flatten()
            .copied()
            .for_each(&mut visit);
        if !self.by_event_type.is_empty() {
            for pattern in patterns_of(&keys.event_type) {
                self.by_event_type
                    .get(&pattern)
                    .into_iter()
                    .flatten()
                    .copied()
                    .for_each(&mut visit);
            }
        }
    }
}

/// Every pattern that matches this name.
fn patterns_of(name: &str) -> impl Iterator<Item = TypePattern> {
    let dots = || name.match_indices('.').map(|(at, _)| at);
    let prefixes = dots()
        .filter_map(|at| name.get(..=at))
        .map(|prefix| TypePattern::Prefix(prefix.to_owned()));
    let suffixes = dots()
        .filter_map(|at| name.get(at..))
        .map(|suffix| TypePattern::Suffix(suffix.to_owned()));
    std::iter::once(TypePattern::Exact(name.to_owned()))
        .chain(prefixes)
        .chain(suffixes)
}
