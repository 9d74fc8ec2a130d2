//! The newest events, in memory until the index has them. Owns the bound on how far the index may lag; refuses to know
//! SQLite.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use parking_lot::{Condvar, Mutex};

use super::super::{Chunk, Direction, Limit, Range};
use crate::{
    event::{EventId, Sequence, StoredEvent},
    filter::Filter,
    limits,
};

/// Every event above the floor; the index has what is at or below it.
#[derive(Debug)]
pub(super) struct Recent {
    state: Mutex<State>,
    work: Condvar,
    room: Condvar,
}

#[derive(Debug)]
struct State {
    events: VecDeque<Arc<StoredEvent>>,
    sequences: HashMap<EventId, Sequence>,
    bytes: usize,
    floor: Sequence,
    closing: bool,
}

impl State {
    fn is_full(&self) -> bool {
        self.events.len() >= limits::INDEX_LAG_EVENTS_MAX || self.bytes >= limits::INDEX_LAG_BYTES_MAX
    }

    fn is_worth_indexing(&self) -> bool {
        self.events.len() >= limits::INDEX_BATCH_EVENTS_MIN || self.bytes >= limits::INDEX_LAG_BYTES_MAX / 2
    }

    fn position(&self, sequence: Sequence) -> usize {
        self.events.partition_point(|event| event.sequence <= sequence)
    }

    fn find(&self, id: EventId) -> Option<Arc<StoredEvent>> {
        let &sequence = self.sequences.get(&id)?;
        self.events.get(self.position(sequence.previous())).cloned()
    }

    fn forget_through(&mut self, sequence: Sequence) {
        while let Some(event) = self.events.pop_front_if(|event| event.sequence <= sequence) {
            self.bytes -= event.event.body.len();
            if self.sequences.get(&event.event.id) == Some(&event.sequence) {
                self.sequences.remove(&event.event.id);
            }
        }
        self.floor = self.floor.max(sequence);
    }
}

impl Recent {
    /// Nothing above `floor`.
    pub(super) fn new(floor: Sequence) -> Self {
        let state = State {
            events: VecDeque::new(),
            sequences: HashMap::new(),
            bytes: 0,
            floor,
            closing: false,
        };
        Self {
            state: Mutex::new(state),
            work: Condvar::new(),
            room: Condvar::new(),
        }
    }

    /// The index has everything up to here.
    pub(super) fn floor(&self) -> Sequence {
        self.state.lock().floor
    }

    /// Waits until the index lags less than its bound.
    pub(super) fn wait_for_room(&self) {
        let mut state = self.state.lock();
        while state.is_full() {
            self.room.wait(&mut state);
        }
    }

    /// Takes in what was made durable.
    pub(super) fn extend(&self, events: Vec<Arc<StoredEvent>>) -> usize {
        let mut state = self.state.lock();
        for event in events {
            state.bytes += event.event.body.len();
            state.sequences.insert(event.event.id, event.sequence);
            state.events.push_back(event);
        }
        if state.is_worth_indexing() {
            self.work.notify_one();
        }
        state.events.len()
    }

    /// The event with this id.
    pub(super) fn find(&self, id: EventId) -> Option<Arc<StoredEvent>> {
        self.state.lock().find(id)
    }

    /// The event with each of these ids.
    pub(super) fn find_each(&self, ids: impl Iterator<Item = EventId>) -> Vec<Option<Arc<StoredEvent>>> {
        let state = self.state.lock();
        ids.map(|id| state.find(id)).collect()
    }

    /// Shows every event, oldest first.
    pub(super) fn for_each(&self, mut see: impl FnMut(&StoredEvent)) {
        let state = self.state.lock();
        state.events.iter().for_each(|event| see(event));
    }

    /// Reads the part of a range that is above the floor, if the read has got there.
    pub(super) fn read(
        &self,
        range: Range,
        direction: Direction,
        filter: &Filter,
        limit: Limit,
    ) -> Option<Chunk> {
        let state = self.state.lock();
        let above = match direction {
            Direction::Forward => range.after >= state.floor,
            Direction::Backward => range.through > state.floor,
        };
        if !above {
            return None;
        }
        let start = state.position(range.after);
        let end = state.position(range.through).max(start);
        let candidates = state.events.range(start..end);
        Some(match direction {
            Direction::Forward => take(candidates, filter, limit, range.through, |sequence| sequence),
            Direction::Backward => {
                let end = range.after.max(state.floor);
                take(candidates.rev(), filter, limit, end, Sequence::previous)
            }
        })
    }

    /// The floor, and how many events of a range that are above it match.
    pub(super) fn count(&self, range: Range, filter: &Filter) -> (Sequence, u64) {
        let state = self.state.lock();
        let start = state.position(range.after);
        let end = state.position(range.through).max(start);
        let matching = |event: &&Arc<StoredEvent>| filter.matches(&event.event.keys);
        let count = state.events.range(start..end).filter(matching).count();
        (state.floor, count as u64)
    }

    /// Waits for events to index, oldest first; empty when the log closes and all is indexed.
    pub(super) fn next_batch(&self) -> Vec<Arc<StoredEvent>> {
        let mut state = self.state.lock();
        // No clock is read while there is nothing to do.
        while state.events.is_empty() && !state.closing {
            self.work.wait_for(&mut state, limits::INDEX_INTERVAL);
        }
        let deadline = Instant::now() + limits::INDEX_INTERVAL;
        while !state.is_worth_indexing() && !state.closing {
            if self.work.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state
            .events
            .iter()
            .take(limits::INDEX_BATCH_EVENTS_MAX)
            .cloned()
            .collect()
    }

    /// Forgets what the index has, or what retention removed.
    pub(super) fn forget_through(&self, sequence: Sequence) -> usize {
        let mut state = self.state.lock();
        state.forget_through(sequence);
        self.room.notify_all();
        state.events.len()
    }

    /// Tells the index to take what there is and end.
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.work.notify_all();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.state.lock().closing
    }
}

fn take<'a>(
    candidates: impl Iterator<Item = &'a Arc<StoredEvent>>,
    filter: &Filter,
    limit: Limit,
    end: Sequence,
    scanned_after: impl Fn(Sequence) -> Sequence,
) -> Chunk {
    let mut chunk = Chunk {
        events: Vec::new(),
        scanned: end,
    };
    let mut bytes = 0;
    for event in candidates.filter(|event| filter.matches(&event.event.keys)) {
        bytes += event.event.body.len();
        if chunk.events.len() == limit.events || (bytes > limit.bytes && !chunk.events.is_empty()) {
            chunk.scanned = chunk
                .events
                .last()
                .map_or(end, |last| scanned_after(last.sequence));
            break;
        }
        chunk.events.push(Arc::clone(event));
    }
    chunk
}
