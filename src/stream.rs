//! One reader of the log: catch up, go live, fall back. Owns the state machine behind every stream and every await; knows
//! no gRPC, and holds no queue but the few shared events it took last.

use std::{sync::Arc, vec};

use tokio::time::{Duration, Instant};

use crate::{
    event::Sequence,
    filter::Filter,
    hub::{EncodedEvent, Found, Hub, Waiter},
    limits,
    log::{Direction, Limit, Range, ReadError},
};

/// How a stream behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The position after which it starts.
    pub start: Sequence,
    /// End once the tail is reached.
    pub stop_at_tail: bool,
    /// How long it may be silent.
    pub heartbeat_interval: Duration,
    /// Where retention removed events, say so and go on.
    pub continue_after_gap: bool,
}

/// What a stream says.
#[derive(Clone, Debug)]
pub enum Frame {
    /// A matching event.
    Event(EncodedEvent),
    /// Everything up to here was sent; what follows is live.
    CaughtUp(Sequence),
    /// Still here, and everything up to here was sent or skipped.
    Heartbeat(Sequence),
    /// Slower than the events, and reading from the log again.
    FellBehind(Sequence),
    /// Retention removed events that were not sent.
    Gap {
        /// Where the stream stood.
        after: Sequence,
        /// Where it goes on: the trim point.
        trimmed: Sequence,
    },
    /// The service is shutting down. The stream ends with this.
    Draining(Sequence),
}

/// A stream of frames. Events come in order, each once; the position never runs ahead of an event that was not sent.
pub struct EventStream {
    waiter: Waiter,
    options: Options,
    /// Everything up to here was sent, skipped, or is in `chunk`.
    position: Sequence,
    chunk: vec::IntoIter<EncodedEvent>,
    source: Source,
    /// The tail when a stream that stops there was opened.
    stop_at: Option<Sequence>,
    caught_up: bool,
    ended: bool,
    last_sent: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Hub,
    Log,
}

/// As many streams are open as there may be.
#[derive(Debug, thiserror::Error)]
#[error("{} streams are open; no more are allowed", limits::STREAMS_MAX)]
pub struct TooManyStreams;

impl EventStream {
    /// Opens a stream.
    pub fn open(hub: &Arc<Hub>, filter: Filter, options: Options) -> Result<Self, TooManyStreams> {
        let waiter = hub.register(filter).ok_or(TooManyStreams)?;
        // What ends at the tail needs nothing live, and the log knows the tail exactly.
        let stop_at = options.stop_at_tail.then(|| hub.log().bounds().tail);
        let source = if stop_at.is_some() {
            Source::Log
        } else {
            Source::Hub
        };
        Ok(Self {
            waiter,
            options,
            position: options.start,
            chunk: Vec::new().into_iter(),
            source,
            stop_at,
            caught_up: false,
            ended: false,
            last_sent: Instant::now(),
        })
    }

    /// Everything up to here was sent or skipped.
    pub fn position(&self) -> Sequence {
        self.position
    }

    /// The next frame; `None` at the end. After an error there is no more.
    pub async fn next(&mut self) -> Result<Option<Frame>, ReadError> {
        if let Some(event) = self.chunk.next() {
            return Ok(Some(Frame::Event(event)));
        }
        if self.ended {
            return Ok(None);
        }
        let frame = self.next_from_source().await;
        self.last_sent = Instant::now();
        self.ended = !matches!(&frame, Ok(Some(frame)) if !matches!(frame, Frame::Draining(_)));
        frame
    }

    async fn next_from_source(&mut self) -> Result<Option<Frame>, ReadError> {
        loop {
            if let Some(event) = self.chunk.next() {
                return Ok(Some(Frame::Event(event)));
            }
            if self.waiter.hub().is_draining() {
                return Ok(Some(Frame::Draining(self.position)));
            }
            if self.stop_at.is_some_and(|stop_at| self.position >= stop_at) {
                let before = std::mem::replace(&mut self.caught_up, true);
                return Ok((!before).then_some(Frame::CaughtUp(self.position)));
            }
            if self.last_sent.elapsed() >= self.options.heartbeat_interval {
                return Ok(Some(Frame::Heartbeat(self.position)));
            }
            let frame = match self.source {
                Source::Hub => self.look().await,
                Source::Log => self.read().await?,
            };
            if frame.is_some() {
                return Ok(frame);
            }
        }
    }

    /// One look at the hub; waits there if it has nothing.
    async fn look(&mut self) -> Option<Frame> {
        match self.waiter.look(self.position) {
            Found::Events(events, position) => {
                (self.chunk, self.position) = (events.into_iter(), position);
                // A long way through events that are not wanted must not keep others from running.
                tokio::task::consume_budget().await;
                None
            }
            Found::Behind(position) => {
                (self.source, self.position) = (Source::Log, position);
                self.caught_up.then_some(Frame::FellBehind(position))
            }
            Found::Nothing(position) => {
                self.position = position;
                if !self.caught_up {
                    self.caught_up = true;
                    return Some(Frame::CaughtUp(position));
                }
                let heartbeat = self.last_sent + self.options.heartbeat_interval;
                let _ = tokio::time::timeout_at(heartbeat, self.waiter.woken()).await;
                // Not woken means nothing was wanted: the next look moves on past what was skipped.
                if Instant::now() >= heartbeat
                    && let Found::Nothing(position) = self.waiter.look(self.position)
                {
                    self.position = position;
                }
                None
            }
            Found::Draining => Some(Frame::Draining(self.position)),
        }
    }

    /// One read of the log.
    async fn read(&mut self) -> Result<Option<Frame>, ReadError> {
        let hub = self.waiter.hub();
        let through = self.stop_at.unwrap_or_else(|| hub.log().bounds().tail);
        let range = Range {
            after: self.position,
            through,
        };
        let limit = Limit {
            events: limits::STREAM_CHUNK_EVENTS_MAX,
            bytes: limits::STREAM_CHUNK_BYTES_MAX,
        };
        match hub
            .log()
            .read(range, Direction::Forward, self.waiter.filter(), limit)
            .await
        {
            Ok(chunk) => {
                let encoded: Vec<_> = chunk.events.iter().map(|event| hub.encode(event)).collect();
                self.chunk = encoded.into_iter();
                self.position = self.position.max(chunk.scanned);
                // The hub may have what follows; if not, it says so.
                if self.stop_at.is_none() && self.position >= hub.floor() {
                    self.source = Source::Hub;
                }
                Ok(None)
            }
            Err(ReadError::Trimmed { trimmed }) if self.options.continue_after_gap => {
                let after = std::mem::replace(&mut self.position, trimmed);
                Ok(Some(Frame::Gap { after, trimmed }))
            }
            Err(error) => Err(error),
        }
    }
}
