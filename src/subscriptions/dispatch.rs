//! Who has which event. Owns the state machine of one subscription: what is handed out to whom, until when, and what
//! happens next; refuses to know the log, the storage and any wire. Time is what it is told.
//!
//! ```text
//!  log ─feed→ fresh ─take→ leased ─done, rejected, attempts used up→ settled
//!                │            │ deadline, stream's end, retry
//!                │            ▼
//!                │         waiting ─delay over→ ready ─take→ leased
//!                └─entity busy→ held back ─entity free→ ready
//! ```
//!
//! Every matching event up to the *position* is either settled or *under way*: leased, waiting, ready or held back. So the
//! position and the events under way are all there is to remember, and both are bounded whatever the backlog is.

mod line;
mod under_way;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{sync::Notify, time::Instant};

pub use self::line::StreamId;
use self::{
    line::Line,
    under_way::{Event, State, UnderWay},
};
use super::{
    dead_letters::{DeadLetter, Reason},
    settings::{AfterMaxAttempts, Ordering, Settings},
};
use crate::{
    cursor::AckId,
    event::{Sequence, StoredEvent},
    limits,
    stream::EncodedEvent,
};

/// A moment, as deadlines count it and as people do.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// For deadlines: it never jumps.
    pub instant: Instant,
    /// For what outlives the process.
    pub time: Timestamp,
}

impl Moment {
    fn time_of(self, instant: Instant) -> Timestamp {
        let ahead = instant.saturating_duration_since(self.instant);
        self.time.checked_add(ahead).unwrap_or(Timestamp::MAX)
    }

    fn instant_of(self, time: Timestamp) -> Instant {
        let ahead = Duration::try_from(time.duration_since(self.time)).unwrap_or_default();
        self.instant + ahead
    }
}

/// What outlives the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// How often the subscription was moved.
    pub generation: u64,
    /// Everything that matches up to here is settled or under way.
    pub position: Sequence,
    /// Events under way, in order.
    pub under_way: Vec<SavedEvent>,
    /// When it was so. Should the clock be behind this later, nothing waits any longer for that.
    pub saved_at: Timestamp,
}

impl Place {
    /// Whether it says the same, whenever it was so.
    pub fn is_still(&self, other: &Self) -> bool {
        (self.generation, self.position, &self.under_way)
            == (other.generation, other.position, &other.under_way)
    }
}

/// An event under way, as it outlives the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedEvent {
    /// The event.
    pub sequence: Sequence,
    /// Failed attempts.
    pub attempts: u32,
    /// When it is handed out again.
    pub retry_at: Option<Timestamp>,
    /// Its entity, where that matters for the order.
    pub entity_id: Arc<str>,
}

/// What changed among the dead letters and is not stored yet, in this order: what goes, then what comes.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterChanges {
    /// No longer put aside.
    pub removed: Vec<Sequence>,
    /// Put aside.
    pub added: Vec<DeadLetter>,
}

impl DeadLetterChanges {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }
}

/// An event handed out to a stream.
#[derive(Clone, Debug)]
pub struct Lease {
    /// What it is acknowledged by.
    pub ack_id: AckId,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// The event, if it is at hand; else it has to be read from the log.
    pub event: Option<EncodedEvent>,
}

/// What a consumer says of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was handled.
    Done,
    /// It was not: again, after this long or as after any failure.
    Retry(Option<Duration>),
    /// It never will be.
    Reject,
    /// It is being handled: this much more time, or as much as at first.
    Extend(Option<Duration>),
}

/// What became of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// It holds.
    Accepted,
    /// It changed nothing.
    Late,
    /// There is no such id.
    Unknown,
}

/// Retention removed events before they were handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where the subscription stood.
    pub after: Sequence,
    /// Where it went on.
    pub trimmed: Sequence,
}

/// Why a subscription hands out nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It was deleted.
    Deleted,
    /// The service is shutting down.
    Draining,
}

/// What to do next for whoever feeds the dispatch.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which feed is wanted; another number is another filter or place.
    pub feed: u64,
    /// Where that one goes on.
    pub after: Sequence,
    /// The filter it reads with.
    pub settings: Arc<Settings>,
    /// Whether there is room for more events.
    pub wants: bool,
    /// When something is due.
    pub due: Option<Instant>,
    /// Whether something changed that has to be stored.
    pub changed: bool,
}

/// The state machine.
#[derive(Debug)]
pub struct Dispatch {
    id: u64,
    settings: Arc<Settings>,
    generation: u64,
    feed: u64,
    /// Everything up to here is settled, under way or in `fresh`.
    read_through: Sequence,
    /// Read and never handed out, in order.
    fresh: VecDeque<EncodedEvent>,
    fresh_bytes: usize,
    /// Whether the feeder was told to stop.
    fed_up: bool,
    /// The feed has reached the end of the log.
    live: bool,
    under_way: UnderWay,
    /// Until when the feeder sleeps.
    next_due: Option<Instant>,
    line: Line,
    next_lease: u64,
    dead_letters: u64,
    dead_letter_changes: DeadLetterChanges,
    gap: Option<Gap>,
    gaps: u64,
    last_gap_at: Option<Timestamp>,
    closed: Option<Closed>,
    counts: Counts,
    feeder: Arc<Notify>,
}

/// What was counted since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Fresh events that were taken.
    pub taken: u64,
    /// Events acknowledged as done.
    pub acknowledged: u64,
    /// Attempts beyond the first.
    pub redeliveries: u64,
}

/// How a subscription stands, as far as the dispatch knows.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The terms.
    pub settings: Arc<Settings>,
    /// Which feed.
    pub feed: u64,
    /// See [`Place::position`].
    pub position: Sequence,
    /// Events under way.
    pub under_way: usize,
    /// The oldest of them.
    pub oldest_under_way: Option<Sequence>,
    /// Of these, leased.
    pub in_flight: usize,
    /// Put aside, and stored.
    pub dead_letters: u64,
    /// Streams.
    pub streams: usize,
    /// How often events were lost before they were handed out.
    pub gaps: u64,
    /// When retention last removed events that were not settled.
    pub last_gap_at: Option<Timestamp>,
    /// What was counted.
    pub counts: Counts,
}

impl Dispatch {
    /// A dispatch that goes on at a place. `first_lease` has to be another one in every process, far from the largest number.
    pub fn restore(
        id: u64,
        settings: Arc<Settings>,
        place: Place,
        dead_letters: u64,
        first_lease: u64,
        now: Moment,
    ) -> Self {
        let mut dispatch = Self {
            id,
            settings,
            generation: place.generation,
            feed: 0,
            read_through: place.position,
            fresh: VecDeque::new(),
            fresh_bytes: 0,
            fed_up: false,
            live: false,
            under_way: UnderWay::default(),
            next_due: None,
            line: Line::default(),
            next_lease: first_lease,
            dead_letters,
            dead_letter_changes: DeadLetterChanges::default(),
            gap: None,
            gaps: 0,
            last_gap_at: None,
            closed: None,
            counts: Counts::default(),
            feeder: Arc::default(),
        };
        let saved = Moment {
            time: now.time.max(place.saved_at),
            ..now
        };
        for event in place.under_way {
            let until = event.retry_at.map(|at| saved.instant_of(at));
            let state = match until.filter(|&until| until > now.instant) {
                Some(until) => State::Waiting { until },
                None => State::Ready,
            };
            dispatch
                .under_way
                .begin(event.sequence, event.attempts, event.entity_id, state);
        }
        dispatch
            .line
            .set_most(dispatch.settings.max_unacknowledged_per_stream);
        dispatch
    }

    /// Told when the plan changes.
    pub fn feeder(&self) -> Arc<Notify> {
        Arc::clone(&self.feeder)
    }

    /// The terms.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Everything that matches up to here is settled or under way.
    pub fn position(&self) -> Sequence {
        let before_fresh = self.fresh.front().map(|event| event.sequence().previous());
        before_fresh.unwrap_or(self.read_through)
    }

    /// What to remember.
    pub fn place(&self, now: Moment) -> Place {
        let saved = |(sequence, event): (Sequence, &Event)| {
            let (attempts_now, retry_at) = match event.state {
                State::Leased { .. } => (1, None),
                State::Waiting { until } => (0, Some(now.time_of(until))),
                State::Ready | State::HeldBack => (0, None),
            };
            SavedEvent {
                sequence,
                attempts: event.attempts - attempts_now,
                retry_at,
                entity_id: Arc::clone(&event.entity_id),
            }
        };
        Place {
            generation: self.generation,
            position: self.position(),
            under_way: self.under_way.iter().map(saved).collect(),
            saved_at: now.time,
        }
    }

    /// What changed among the dead letters since it was last stored.
    pub fn dead_letter_changes(&self) -> DeadLetterChanges {
        self.dead_letter_changes.clone()
    }

    /// These changes are stored, and there are so many dead letters now, if that changed.
    pub fn dead_letters_stored(&mut self, changes: &DeadLetterChanges, count: Option<u64>) {
        self.dead_letters = count.unwrap_or(self.dead_letters);
        let pending = &mut self.dead_letter_changes;
        pending.removed.drain(..changes.removed.len());
        pending.added.drain(..changes.added.len());
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        Standing {
            settings: Arc::clone(&self.settings),
            feed: self.feed,
            position: self.position(),
            under_way: self.under_way.len(),
            oldest_under_way: self.under_way.oldest(),
            in_flight: self.line.held(),
            dead_letters: self.dead_letters,
            streams: self.line.len(),
            gaps: self.gaps,
            last_gap_at: self.last_gap_at,
            counts: self.counts,
        }
    }

    /// Lets a stream take part. It holds at most so many events, or as many as the terms allow if that is fewer.
    pub fn open_stream(
        &mut self,
        max_unacknowledged: usize,
        auto_acknowledge: bool,
    ) -> (StreamId, Arc<Notify>) {
        self.line.open(max_unacknowledged, auto_acknowledge)
    }

    /// Ends a stream's part; what it holds failed. Whether it was the last.
    pub fn close_stream(&mut self, id: StreamId, now: Moment) -> bool {
        for sequence in self.under_way.held_by(id) {
            self.fail(sequence, None, now);
        }
        self.line.close(id);
        let last = self.line.len() == 0;
        if last {
            // Nobody feeds it any more; the next feed starts where this one got.
            self.restart_feed(self.position());
        }
        self.wake();
        last
    }

    /// Hands the next event to a stream that has room. If there is none, the stream is woken when there is.
    pub fn take(&mut self, id: StreamId, now: Moment) -> Option<Lease> {
        let has_room = self.line.looks(id);
        let found = if self.closed.is_some() || !has_room {
            None
        } else if let Some(sequence) = self.under_way.next_ready() {
            Some((sequence, None))
        } else {
            self.take_fresh().map(|event| (event.sequence(), Some(event)))
        };
        let Some((sequence, event)) = found else {
            self.line.waits(id);
            return None;
        };
        let lease = self.next_lease;
        self.next_lease += 1;
        let must_acknowledge = self.line.takes(id, sequence, lease)?;
        let deadline = must_acknowledge.then(|| now.instant + self.settings.ack_deadline);
        let attempt = self.under_way.lease(sequence, id, deadline, lease);
        self.counts.redeliveries += u64::from(attempt > 1);
        self.timers_changed();
        self.wake();
        let ack_id = AckId {
            subscription: self.id,
            generation: self.generation,
            sequence,
            lease,
        };
        Some(Lease {
            ack_id,
            attempt,
            event,
        })
    }

    /// Whether streams were woken that would find nothing if another took more before they look.
    pub fn others_look(&self) -> bool {
        self.line.woken() > 0 && self.deliverable() <= self.line.woken()
    }

    /// The next event that was never handed out and that nothing holds back.
    fn take_fresh(&mut self) -> Option<EncodedEvent> {
        while self.under_way.len() < self.settings.max_unacknowledged {
            let event = self.fresh.pop_front()?;
            self.fresh_bytes -= event.bytes.len();
            self.counts.taken += 1;
            if self.fed_up && self.has_room() {
                self.fed_up = false;
                self.feeder.notify_one();
            }
            let entity_id = entity_id(&event.event, self.settings.ordering);
            if self.under_way.begin(event.sequence(), 0, entity_id, State::Ready) {
                return Some(event);
            }
        }
        None
    }

    /// What a consumer says of an event.
    pub fn acknowledge(&mut self, id: AckId, outcome: Outcome, now: Moment) -> Acknowledged {
        if id.subscription != self.id || id.generation > self.generation {
            return Acknowledged::Unknown;
        }
        let event = self.under_way.get(id.sequence);
        let Some(event) = event.filter(|_| id.generation == self.generation) else {
            return Acknowledged::Late;
        };
        if event.lease.is_some_and(|lease| lease != id.lease) {
            return Acknowledged::Late;
        }
        let held = match event.state {
            State::Leased { .. } => true,
            State::Waiting { .. } | State::Ready => false,
            State::HeldBack => return Acknowledged::Late,
        };
        match outcome {
            Outcome::Done => {
                self.counts.acknowledged += 1;
                self.settle(id.sequence);
            }
            Outcome::Reject => self.put_aside(id.sequence, Reason::Rejected, now),
            Outcome::Retry(_) | Outcome::Extend(_) if !held => return Acknowledged::Late,
            Outcome::Retry(after) => self.fail(id.sequence, after, now),
            Outcome::Extend(by) => {
                let by = by.unwrap_or(self.settings.ack_deadline);
                self.under_way.extend(id.sequence, now.instant + by);
                self.timers_changed();
            }
        }
        self.wake();
        Acknowledged::Accepted
    }

    /// For a stream that acknowledges by asking for more: what it holds is done. Whether it held something.
    pub fn acknowledge_taken(&mut self, id: StreamId) -> bool {
        let is_held = |sequence: &Sequence| {
            let state = self.under_way.get(*sequence).map(|event| event.state);
            matches!(state, Some(State::Leased { stream, .. }) if stream == id)
        };
        let taken = self.line.taken(id);
        let Some(sequence) = taken.filter(is_held) else {
            return false;
        };
        self.counts.acknowledged += 1;
        self.settle(sequence);
        self.wake();
        true
    }

    /// An event that was handed out is no longer in the log.
    pub fn lost(&mut self, id: AckId, now: Moment) {
        self.last_gap_at = Some(now.time);
        if id.generation == self.generation {
            self.settle(id.sequence);
            self.wake();
        }
    }

    /// An event that was handed out could not be read: it goes back as if it had not been handed out.
    pub fn give_back(&mut self, id: AckId, now: Moment) {
        let is_held =
            |event: &&Event| matches!(event.state, State::Leased { .. }) && event.lease == Some(id.lease);
        if self.under_way.get(id.sequence).filter(is_held).is_some() {
            self.under_way.forget_attempt(id.sequence);
            let until = now.instant + limits::READ_AGAIN_DELAY;
            self.enter(id.sequence, State::Waiting { until });
        }
    }

    /// Takes events out of the dead letters and hands them out again, as far as there is room. How many.
    pub fn replay(&mut self, events: impl IntoIterator<Item = (Sequence, Option<Arc<StoredEvent>>)>) -> u64 {
        let mut replayed = 0;
        for (sequence, event) in events {
            match event {
                // Retention was faster.
                None => self.forget_dead_letter(sequence),
                Some(event) => {
                    if self.under_way.len() >= self.settings.max_unacknowledged {
                        break;
                    }
                    self.forget_dead_letter(sequence);
                    let entity_id = entity_id(&event, self.settings.ordering);
                    // A seek back may have brought it under way, or to where it will come by itself.
                    if sequence <= self.position() && self.under_way.get(sequence).is_none() {
                        self.under_way.begin(sequence, 0, entity_id, State::Ready);
                    }
                    replayed += 1;
                }
            }
        }
        self.wake();
        replayed
    }

    /// Forgets a dead letter.
    pub fn forget_dead_letter(&mut self, sequence: Sequence) {
        self.dead_letter_changes.removed.push(sequence);
    }

    /// The storage has removed so many dead letters.
    pub fn dead_letters_trimmed(&mut self, count: u64) {
        self.dead_letters = self.dead_letters.saturating_sub(count);
    }

    /// Sets new terms.
    pub fn update(&mut self, settings: Arc<Settings>) {
        let filter_changed = settings.filter != self.settings.filter;
        self.settings = settings;
        if filter_changed {
            self.restart_feed(self.position());
            self.feeder.notify_one();
        }
        self.line.set_most(self.settings.max_unacknowledged_per_stream);
        self.wake();
    }

    /// Goes on at another place. What is handed out belongs to nobody any more.
    pub fn seek(&mut self, position: Sequence) {
        self.generation += 1;
        self.under_way.clear();
        self.line.empty_hands();
        self.restart_feed(position);
        self.feeder.notify_one();
    }

    /// Hands out nothing more, and tells every stream.
    pub fn close(&mut self, why: Closed) {
        self.closed.get_or_insert(why);
        self.tell_all();
    }

    /// Why it hands out nothing more.
    pub fn closed(&self) -> Option<Closed> {
        self.closed
    }

    /// The newest gap, counted.
    pub fn gap(&self) -> (u64, Option<Gap>) {
        (self.gaps, self.gap)
    }

    /// Whether everything in the log was handed out.
    pub fn is_caught_up(&self) -> bool {
        self.live && self.fresh.is_empty() && self.under_way.ready() == 0
    }

    /// Does what is due, and says what to feed it and when to ask again.
    pub fn plan(&mut self, now: Moment) -> Plan {
        let mut changed = false;
        while let Some((due, sequence)) = self.under_way.next_timer()
            && due <= now.instant
        {
            match self.under_way.get(sequence).map(|event| event.state) {
                Some(State::Leased { .. }) => self.fail(sequence, None, now),
                _ => self.enter(sequence, State::Ready),
            }
            changed = true;
        }
        self.wake();
        self.fed_up = !self.has_room();
        let lookout = self.line.watch(self.deliverable(), now.instant);
        let timer = self.under_way.next_timer().map(|(due, _)| due);
        self.next_due = timer.into_iter().chain(lookout).min();
        Plan {
            feed: self.feed,
            after: self.read_through,
            settings: Arc::clone(&self.settings),
            wants: !self.fed_up,
            due: self.next_due,
            changed,
        }
    }

    /// Takes in the next event of a feed.
    pub fn feed(&mut self, feed: u64, event: EncodedEvent) {
        if feed == self.feed {
            self.read_through = event.sequence();
            self.fresh_bytes += event.bytes.len();
            self.fresh.push_back(event);
        }
    }

    /// There is nothing more to feed up to here.
    pub fn skip(&mut self, feed: u64, through: Sequence) {
        if feed == self.feed {
            self.read_through = self.read_through.max(through);
        }
    }

    /// The feed has reached the end of the log.
    pub fn caught_up(&mut self, feed: u64, through: Sequence) {
        self.skip(feed, through);
        if feed == self.feed && !std::mem::replace(&mut self.live, true) {
            self.tell_all();
        }
    }

    /// Retention was faster than the feed.
    pub fn missed(&mut self, feed: u64, gap: Gap, now: Moment) {
        if feed != self.feed {
            return;
        }
        self.read_through = self.read_through.max(gap.trimmed);
        self.gap = Some(gap);
        self.gaps += 1;
        self.last_gap_at = Some(now.time);
        self.tell_all();
    }

    /// Wakes streams for what can be handed out.
    pub fn wake(&mut self) {
        if self.line.wake(self.deliverable()) {
            // It watches whether they look.
            self.feeder.notify_one();
        }
    }

    /// How many events can be handed out, held-back ones among the fresh aside.
    fn deliverable(&self) -> usize {
        let fresh = if self.under_way.len() < self.settings.max_unacknowledged {
            self.fresh.len()
        } else {
            0
        };
        self.under_way.ready() + fresh
    }

    fn tell_all(&self) {
        self.line.tell_all();
        self.feeder.notify_one();
    }

    fn has_room(&self) -> bool {
        self.fresh.len() <= limits::READ_AHEAD_EVENTS_MAX / 2
            && self.fresh_bytes <= limits::READ_AHEAD_BYTES_MAX / 2
    }

    fn restart_feed(&mut self, after: Sequence) {
        self.fresh.clear();
        self.fresh_bytes = 0;
        self.read_through = after;
        self.live = false;
        self.feed += 1;
    }

    /// Moves an event under way to another state.
    fn enter(&mut self, sequence: Sequence, state: State) {
        if let Some(stream) = self.under_way.enter(sequence, state) {
            self.line.returns(stream);
        }
        self.timers_changed();
    }

    /// Nothing more is to be done with an event.
    fn settle(&mut self, sequence: Sequence) {
        if let Some(stream) = self.under_way.settle(sequence) {
            self.line.returns(stream);
        }
    }

    /// Wakes the feeder if something is due before it would look by itself.
    fn timers_changed(&mut self) {
        let Some((due, _)) = self.under_way.next_timer() else {
            return;
        };
        if self.next_due.is_none_or(|next_due| due < next_due) {
            self.next_due = Some(due);
            self.feeder.notify_one();
        }
    }

    /// An attempt failed.
    fn fail(&mut self, sequence: Sequence, after: Option<Duration>, now: Moment) {
        let Some(attempts) = self.under_way.get(sequence).map(|event| event.attempts) else {
            return;
        };
        if attempts >= self.settings.max_attempts {
            match self.settings.after_max_attempts {
                AfterMaxAttempts::DeadLetter => return self.put_aside(sequence, Reason::MaxAttempts, now),
                AfterMaxAttempts::Discard => return self.settle(sequence),
                AfterMaxAttempts::Retry => {}
            }
        }
        let delay = after.unwrap_or_else(|| self.settings.retry_delay(attempts));
        let state = if delay.is_zero() {
            State::Ready
        } else {
            let until = now.instant + delay;
            State::Waiting { until }
        };
        self.enter(sequence, state);
    }

    fn put_aside(&mut self, sequence: Sequence, reason: Reason, now: Moment) {
        let Some(attempts) = self.under_way.get(sequence).map(|event| event.attempts) else {
            return;
        };
        self.dead_letter_changes.added.push(DeadLetter {
            sequence,
            attempts,
            reason,
            at: now.time,
        });
        self.settle(sequence);
    }
}

/// The entity that an event holds up; empty if none.
fn entity_id(event: &StoredEvent, ordering: Ordering) -> Arc<str> {
    match ordering {
        Ordering::None => Arc::default(),
        Ordering::PerEntity => (&*event.event.keys.entity_id).into(),
    }
}

#[cfg(test)]
mod tests;
