//! The reference log: the contract in its plainest form, in memory. Owns nothing durable; refuses to be fast.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::{
    AppendError, Appended, Bounds, Chunk, Direction, EventLog, Limit, Outcome, Range, ReadError, Retention,
    Trimmed,
    twin::{self, Search},
};
use crate::{
    event::{EventId, LogId, NewEvent, Sequence, StoredEvent},
    filter::Filter,
};

/// A log that forgets everything with the process.
#[derive(Debug)]
pub struct MemoryLog {
    log_id: LogId,
    state: RwLock<State>,
    tail: watch::Sender<Sequence>,
    writable: watch::Sender<Result<(), AppendError>>,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Arc<StoredEvent>>,
    /// By their own ids and by their aliases.
    ids: HashMap<EventId, Sequence>,
    /// The alias of each event that has one.
    aliases: HashMap<Sequence, EventId>,
    trimmed: Sequence,
}

impl State {
    fn tail(&self) -> Sequence {
        self.events.last().map_or(self.trimmed, |event| event.sequence)
    }

    fn size_bytes(&self) -> u64 {
        self.events
            .iter()
            .map(|event| event.event.body.len() as u64)
            .sum()
    }

    fn event(&self, sequence: Sequence) -> Option<&Arc<StoredEvent>> {
        let at = self
            .events
            .binary_search_by_key(&sequence, |event| event.sequence)
            .ok()?;
        self.events.get(at)
    }

    /// The matching events of a range, in order.
    fn matching(&self, range: Range, filter: &Filter) -> impl Iterator<Item = &Arc<StoredEvent>> {
        self.events.iter().filter(move |event| {
            let inside = event.sequence > range.after && event.sequence <= range.through;
            inside && filter.matches(&event.event.keys)
        })
    }

    /// The event that has the id of this one, as its own or as its alias.
    fn find(&self, id: EventId) -> Option<&Arc<StoredEvent>> {
        self.event(*self.ids.get(&id)?)
    }

    /// The event that is the same as this one without having its id.
    fn twin(&self, event: &NewEvent) -> Option<Arc<StoredEvent>> {
        let search = Search::of(event)?;
        self.events
            .iter()
            .filter(|stored| !self.aliases.contains_key(&stored.sequence) && search.matches(&stored.event))
            .min_by(|one, other| twin::precedence(one, other))
            .cloned()
    }
}

impl MemoryLog {
    /// An empty log.
    pub fn new(log_id: LogId) -> Self {
        Self {
            log_id,
            state: RwLock::default(),
            tail: watch::Sender::new(Sequence::ZERO),
            writable: watch::Sender::new(Ok(())),
        }
    }
}

#[async_trait]
impl EventLog for MemoryLog {
    fn log_id(&self) -> LogId {
        self.log_id
    }

    fn bounds(&self) -> Bounds {
        let state = self.state.read();
        Bounds {
            trimmed: state.trimmed,
            tail: state.tail(),
        }
    }

    fn tail(&self) -> watch::Receiver<Sequence> {
        self.tail.subscribe()
    }

    fn writable(&self) -> watch::Receiver<Result<(), AppendError>> {
        self.writable.subscribe()
    }

    async fn append(&self, mut event: NewEvent) -> Result<Appended, AppendError> {
        self.writable.borrow().clone()?;
        let mut state = self.state.write();
        if let Some(last) = state.events.last() {
            event.received_at = event.received_at.max(last.event.received_at);
        }
        if let Some(first) = state.find(event.id) {
            return Ok(Appended::duplicate(first, &event));
        }
        if let Some(first) = state.twin(&event) {
            state.ids.insert(event.id, first.sequence);
            state.aliases.insert(first.sequence, event.id);
            return Ok(Appended::duplicate(&first, &event));
        }
        let sequence = state.tail().next();
        state.ids.insert(event.id, sequence);
        state.events.push(Arc::new(StoredEvent { sequence, event }));
        drop(state);
        self.tail.send_replace(sequence);
        Ok(Appended {
            sequence,
            outcome: Outcome::New,
        })
    }

    async fn read(
        &self,
        range: Range,
        direction: Direction,
        filter: &Filter,
        limit: Limit,
    ) -> Result<Chunk, ReadError> {
        let state = self.state.read();
        if direction == Direction::Forward && range.after < state.trimmed {
            return Err(ReadError::Trimmed {
                trimmed: state.trimmed,
            });
        }
        let mut matching: Vec<_> = state.matching(range, filter).cloned().collect();
        if direction == Direction::Backward {
            matching.reverse();
        }
        let (mut bytes, mut events) = (0, Vec::new());
        for event in matching {
            bytes += event.event.body.len();
            if events.len() == limit.events || (bytes > limit.bytes && !events.is_empty()) {
                let scanned = match direction {
                    Direction::Forward => events.last().map(|last: &Arc<StoredEvent>| last.sequence),
                    Direction::Backward => events.last().map(|last| last.sequence.previous()),
                };
                return Ok(Chunk {
                    events,
                    scanned: scanned.unwrap_or(range.after),
                });
            }
            events.push(event);
        }
        let scanned = match direction {
            Direction::Forward => range.through,
            Direction::Backward => range.after,
        };
        Ok(Chunk { events, scanned })
    }

    async fn count(&self, range: Range, filter: &Filter) -> Result<u64, ReadError> {
        Ok(self.state.read().matching(range, filter).count() as u64)
    }

    async fn find(&self, id: EventId) -> Result<Option<Arc<StoredEvent>>, ReadError> {
        Ok(self.state.read().find(id).cloned())
    }

    async fn before_time(&self, time: Timestamp) -> Result<Sequence, ReadError> {
        let state = self.state.read();
        let first = state.events.iter().find(|event| event.event.received_at >= time);
        Ok(first.map_or(state.tail(), |event| event.sequence.previous()))
    }

    fn event_types(&self) -> Vec<String> {
        let state = self.state.read();
        let types: BTreeSet<_> = state
            .events
            .iter()
            .map(|event| event.event.keys.event_type.to_string())
            .collect();
        types.into_iter().collect()
    }

    async fn trim(&self, retention: Retention, now: Timestamp) -> Result<Trimmed, AppendError> {
        let mut state = self.state.write();
        let mut events = 0;
        while let Some(oldest) = state.events.first().cloned() {
            let too_old = retention.age.is_some_and(|age| {
                now.duration_since(oldest.event.received_at).unsigned_abs() > age
                    && oldest.event.received_at < now
            });
            let too_large = retention.size_bytes.is_some_and(|most| state.size_bytes() > most);
            if !too_old && !too_large {
                break;
            }
            state.trimmed = oldest.sequence;
            state.events.remove(0);
            state.ids.remove(&oldest.event.id);
            if let Some(alias) = state.aliases.remove(&oldest.sequence) {
                state.ids.remove(&alias);
            }
            events += 1;
        }
        Ok(Trimmed { events })
    }

    fn size_bytes(&self) -> u64 {
        self.state.read().size_bytes()
    }

    fn durability(&self) -> String {
        "kept in memory, and lost with the process".to_owned()
    }

    async fn close(&self) {
        let closed = Err(AppendError::Closed("the service is shutting down".into()));
        drop(self.writable.send_replace(closed));
    }
}
