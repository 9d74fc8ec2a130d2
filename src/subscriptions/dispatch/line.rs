//! The streams of a subscription, and whose turn it is. Owns who holds how many events and who waits; refuses to know the
//! events.
//!
//! A stream that asks in vain waits. If it has room it stands in line: those that hold the fewest events first, and of these
//! the one that took one least recently. For each event that can be handed out, one stream is woken, and looks by itself.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use tokio::{sync::Notify, time::Instant};

use crate::{event::Sequence, limits};

/// One stream of the subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u64);

/// The streams.
#[derive(Debug, Default)]
pub(super) struct Line {
    streams: HashMap<StreamId, Stream>,
    /// Who stands in line: how many events they hold, under which lease they took the last one, who they are.
    waiting: BTreeSet<(usize, u64, StreamId)>,
    /// Who was woken and has not looked yet, and since when that is so, as far as anybody watched.
    woken: HashMap<StreamId, Option<Instant>>,
    next_stream: u64,
    /// Events that one stream may hold.
    most: usize,
}

#[derive(Debug)]
struct Stream {
    max_unacknowledged: usize,
    auto_acknowledge: bool,
    held: usize,
    last_lease: u64,
    /// What it took last, if it acknowledges that by asking for more.
    taken: Option<Sequence>,
    /// It asked in vain and has not asked again.
    waits: bool,
    notify: Arc<Notify>,
}

impl Stream {
    fn place(&self, id: StreamId) -> (usize, u64, StreamId) {
        (self.held, self.last_lease, id)
    }
}

impl Line {
    /// Lets a stream take part. It holds at most so many events, or as many as all may if that is fewer.
    pub(super) fn open(
        &mut self,
        max_unacknowledged: usize,
        auto_acknowledge: bool,
    ) -> (StreamId, Arc<Notify>) {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        let stream = Stream {
            max_unacknowledged,
            auto_acknowledge,
            held: 0,
            last_lease: 0,
            taken: None,
            waits: false,
            notify: Arc::default(),
        };
        let notify = Arc::clone(&stream.notify);
        self.streams.insert(id, stream);
        (id, notify)
    }

    /// Ends a stream's part.
    pub(super) fn close(&mut self, id: StreamId) {
        self.looks(id);
        self.streams.remove(&id);
    }

    /// How many streams there are.
    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }

    /// How many events they hold.
    pub(super) fn held(&self) -> usize {
        self.streams.values().map(|stream| stream.held).sum()
    }

    /// How many were woken and have not looked yet.
    pub(super) fn woken(&self) -> usize {
        self.woken.len()
    }

    /// A stream looks by itself and waits no more. Whether it may take an event.
    pub(super) fn looks(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else {
            return false;
        };
        self.waiting.remove(&stream.place(id));
        self.woken.remove(&id);
        stream.waits = false;
        stream.held < self.most.min(stream.max_unacknowledged)
    }

    /// A stream looked in vain.
    pub(super) fn waits(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.waits = true;
            self.line_up(id);
        }
    }

    /// A stream takes an event. Whether it has to acknowledge it; `None` if it is gone.
    pub(super) fn takes(&mut self, id: StreamId, sequence: Sequence, lease: u64) -> Option<bool> {
        let stream = self.streams.get_mut(&id)?;
        stream.held += 1;
        stream.last_lease = lease;
        stream.taken = stream.auto_acknowledge.then_some(sequence);
        Some(!stream.auto_acknowledge)
    }

    /// What a stream took last, if it acknowledges that by asking for more; told once.
    pub(super) fn taken(&mut self, id: StreamId) -> Option<Sequence> {
        self.streams.get_mut(&id)?.taken.take()
    }

    /// A stream holds one event less.
    pub(super) fn returns(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            self.waiting.remove(&stream.place(id));
            stream.held -= 1;
            self.line_up(id);
        }
    }

    /// No stream holds anything.
    pub(super) fn empty_hands(&mut self) {
        self.streams.values_mut().for_each(|stream| stream.held = 0);
        self.line_up_anew();
    }

    /// How many events one stream may hold from now on.
    pub(super) fn set_most(&mut self, most: usize) {
        self.most = most;
        self.line_up_anew();
    }

    fn line_up(&mut self, id: StreamId) {
        let most = self.most;
        let lines_up = |stream: &&Stream| {
            let has_room = stream.held < most.min(stream.max_unacknowledged);
            stream.waits && has_room
        };
        if self.woken.contains_key(&id) {
            return;
        }
        if let Some(stream) = self.streams.get(&id).filter(lines_up) {
            self.waiting.insert(stream.place(id));
        }
    }

    fn line_up_anew(&mut self) {
        self.waiting.clear();
        for id in self.streams.keys().copied().collect::<Vec<_>>() {
            self.line_up(id);
        }
    }

    /// Wakes a stream for each of so many events. Nobody is woken for what another was woken for, or the one whose turn it
    /// is would have to race for it. Whether somebody was woken.
    pub(super) fn wake(&mut self, events: usize) -> bool {
        let before = self.woken.len();
        while self.woken.len() < events
            && let Some((.., id)) = self.waiting.pop_first()
        {
            if let Some(stream) = self.streams.get(&id) {
                stream.notify.notify_one();
                self.woken.insert(id, None);
            }
        }
        self.woken.len() > before
    }

    /// A stream whose connection is clogged does not look when it is woken. After a while it is no longer waited for, and
    /// another is woken in its place. When to watch again, if somebody is woken.
    pub(super) fn watch(&mut self, events: usize, now: Instant) -> Option<Instant> {
        let streams = &mut self.streams;
        self.woken.retain(|id, since| {
            let is_waited_for = now < *since.get_or_insert(now) + limits::WOKEN_STREAM_PATIENCE;
            if let Some(stream) = streams.get_mut(id).filter(|_| !is_waited_for) {
                // It was told, and looks by itself when it can.
                stream.waits = false;
            }
            is_waited_for
        });
        self.wake(events);
        let since = self.woken.values_mut().map(|since| *since.get_or_insert(now));
        since.min().map(|since| since + limits::WOKEN_STREAM_PATIENCE)
    }

    /// Tells every stream to look.
    pub(super) fn tell_all(&self) {
        self.streams
            .values()
            .for_each(|stream| stream.notify.notify_one());
    }

    /// Fails if the parts do not say the same, or streams hold something else than this.
    #[cfg(test)]
    pub(super) fn check(&self, mut held: HashMap<StreamId, usize>) {
        for (id, stream) in &self.streams {
            assert_eq!(held.remove(id).unwrap_or_default(), stream.held);
            let has_room = stream.held < self.most.min(stream.max_unacknowledged);
            let lines_up = stream.waits && !self.woken.contains_key(id) && has_room;
            assert_eq!(self.waiting.contains(&stream.place(*id)), lines_up);
        }
        assert!(held.is_empty(), "a stream that is gone holds something");
        assert!(self.waiting.len() <= self.streams.len());
        assert!(self.woken.keys().all(|id| self.streams.contains_key(id)));
    }

    #[cfg(test)]
    pub(super) fn is_woken(&self, id: StreamId) -> bool {
        self.woken.contains_key(&id)
    }
}
