//! The events of a subscription that are neither settled nor still to come. Owns the state of each and the order among those
//! of an entity; refuses to know what the states mean to streams and to time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    mem,
    sync::Arc,
};

use tokio::time::Instant;

use super::StreamId;
use crate::event::Sequence;

/// The events under way, found by what happens to them next.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    events: BTreeMap<Sequence, Event>,
    ready: BTreeSet<Sequence>,
    timers: BTreeSet<(Instant, Sequence)>,
    entities: HashMap<Arc<str>, Entity>,
}

/// An event under way.
#[derive(Debug)]
pub(super) struct Event {
    /// How often it was handed out.
    pub(super) attempts: u32,
    /// Under what it was handed out last; `None` if this process has not yet.
    pub(super) lease: Option<u64>,
    /// What it is about, if that matters for the order; else empty.
    pub(super) entity_id: Arc<str>,
    /// What happens to it.
    pub(super) state: State,
}

/// What happens to an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// A stream has it.
    Leased {
        /// Which one.
        stream: StreamId,
        /// Until when; `None` for a stream that acknowledges by asking for more.
        deadline: Option<Instant>,
    },
    /// An attempt failed; it is handed out again after a while.
    Waiting {
        /// When.
        until: Instant,
    },
    /// It can be handed out.
    Ready,
    /// Another of its entity is before it.
    HeldBack,
}

/// The events of one entity.
#[derive(Debug)]
struct Entity {
    /// The one that may be handed out.
    current: Sequence,
    held_back: BTreeSet<Sequence>,
}

impl UnderWay {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// How many can be handed out.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// The oldest one.
    pub(super) fn oldest(&self) -> Option<Sequence> {
        self.events.keys().next().copied()
    }

    /// One of them.
    pub(super) fn get(&self, sequence: Sequence) -> Option<&Event> {
        self.events.get(&sequence)
    }

    /// All of them, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Sequence, &Event)> {
        self.events.iter().map(|(&sequence, event)| (sequence, event))
    }

    /// What a stream has.
    pub(super) fn held_by(&self, id: StreamId) -> Vec<Sequence> {
        let held = |(sequence, event): (Sequence, &Event)| match event.state {
            State::Leased { stream, .. } if stream == id => Some(sequence),
            _ => None,
        };
        self.iter().filter_map(held).collect()
    }

    /// The next moment at which something is due, and for which event.
    pub(super) fn next_timer(&self) -> Option<(Instant, Sequence)> {
        self.timers.first().copied()
    }

    /// The oldest that can be handed out.
    pub(super) fn next_ready(&self) -> Option<Sequence> {
        self.ready.first().copied()
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes in an event, held back if another of its entity is under way. Whether it is not.
    pub(super) fn begin(
        &mut self,
        sequence: Sequence,
        attempts: u32,
        entity_id: Arc<str>,
        state: State,
    ) -> bool {
        let mut state = state;
        if !entity_id.is_empty() {
            match self.entities.entry(Arc::clone(&entity_id)) {
                Entry::Vacant(vacant) => {
                    vacant.insert(Entity {
                        current: sequence,
                        held_back: BTreeSet::new(),
                    });
                }
                Entry::Occupied(mut entity) => {
                    entity.get_mut().held_back.insert(sequence);
                    state = State::HeldBack;
                }
            }
        }
        let event = Event {
            attempts,
            lease: None,
            entity_id,
            state: State::HeldBack,
        };
        self.events.insert(sequence, event);
        self.enter(sequence, state);
        state != State::HeldBack
    }

    /// Moves an event to another state. The stream that had it, if one had.
    pub(super) fn enter(&mut self, sequence: Sequence, state: State) -> Option<StreamId> {
        let had = self.leave(sequence);
        match state {
            State::Ready => drop(self.ready.insert(sequence)),
            State::Waiting { until: due }
            | State::Leased {
                deadline: Some(due), ..
            } => drop(self.timers.insert((due, sequence))),
            State::Leased { deadline: None, .. } | State::HeldBack => {}
        }
        if let Some(event) = self.events.get_mut(&sequence) {
            event.state = state;
        }
        had
    }

    /// Hands an event to a stream. Which attempt it is.
    pub(super) fn lease(
        &mut self,
        sequence: Sequence,
        stream: StreamId,
        deadline: Option<Instant>,
        lease: u64,
    ) -> u32 {
        self.enter(sequence, State::Leased { stream, deadline });
        self.events.get_mut(&sequence).map_or(0, |event| {
            event.lease = Some(lease);
            event.attempts += 1;
            event.attempts
        })
    }

    /// Takes back that an event was handed out.
    pub(super) fn forget_attempt(&mut self, sequence: Sequence) {
        if let Some(event) = self.events.get_mut(&sequence) {
            event.attempts = event.attempts.saturating_sub(1);
        }
    }

    /// Moves the deadline of an event that is handed out.
    pub(super) fn extend(&mut self, sequence: Sequence, until: Instant) {
        if let Some(event) = self.events.get_mut(&sequence)
            && let State::Leased {
                deadline: Some(deadline),
                ..
            } = &mut event.state
        {
            let before = mem::replace(deadline, until);
            self.timers.remove(&(before, sequence));
            self.timers.insert((until, sequence));
        }
    }

    /// Nothing more happens to an event; the next of its entity may go. The stream that had it, if one had.
    pub(super) fn settle(&mut self, sequence: Sequence) -> Option<StreamId> {
        let had = self.leave(sequence);
        if let Some(event) = self.events.remove(&sequence) {
            self.advance(&event.entity_id, sequence);
        }
        had
    }

    /// An event of an entity is settled.
    fn advance(&mut self, entity_id: &Arc<str>, settled: Sequence) {
        let Some(entity) = self.entities.get_mut(entity_id) else {
            return;
        };
        if entity.current != settled {
            entity.held_back.remove(&settled);
            return;
        }
        match entity.held_back.pop_first() {
            Some(next) => {
                entity.current = next;
                self.enter(next, State::Ready);
            }
            None => drop(self.entities.remove(entity_id)),
        }
    }

    /// Undoes what the state of an event is found by. The stream that had it, if one had.
    fn leave(&mut self, sequence: Sequence) -> Option<StreamId> {
        match self.events.get(&sequence)?.state {
            State::Leased { stream, deadline } => {
                if let Some(deadline) = deadline {
                    self.timers.remove(&(deadline, sequence));
                }
                return Some(stream);
            }
            State::Waiting { until } => drop(self.timers.remove(&(until, sequence))),
            State::Ready => drop(self.ready.remove(&sequence)),
            State::HeldBack => {}
        }
        None
    }

    /// Fails if the parts do not say the same. How many events each stream has.
    #[cfg(test)]
    pub(super) fn check(&self) -> HashMap<StreamId, usize> {
        let mut held: HashMap<StreamId, usize> = HashMap::new();
        let (mut ready, mut timers) = (BTreeSet::new(), BTreeSet::new());
        for (&sequence, event) in &self.events {
            match event.state {
                State::Leased { stream, deadline } => {
                    *held.entry(stream).or_default() += 1;
                    timers.extend(deadline.map(|deadline| (deadline, sequence)));
                }
                State::Waiting { until } => drop(timers.insert((until, sequence))),
                State::Ready => drop(ready.insert(sequence)),
                State::HeldBack => {
                    let entity = &self.entities[&event.entity_id];
                    assert!(entity.held_back.contains(&sequence) && entity.current != sequence);
                }
            }
        }
        assert_eq!((&ready, &timers), (&self.ready, &self.timers));
        for (entity_id, entity) in &self.entities {
            assert!(!entity_id.is_empty() && self.events.contains_key(&entity.current));
        }
        held
    }
}
