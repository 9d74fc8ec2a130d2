//! Reading events over gRPC: streams, awaits, pages, look-ups. Owns the reading of requests and the writing of frames;
//! what a stream does is decided in `stream`.

use std::{sync::Arc, task::Poll, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use jiff::Timestamp;
use prost::Message;
use rand::RngExt;
use tonic::Status;

use super::{
    caller::check_visible,
    encode,
    encoded::Encoded,
    proto::{
        self, AwaitEventRequest, EventFilter, ListEventsRequest, SubscribeEventsRequest,
        subscribe_events_response as response,
    },
    status::{self, Refusal},
};
use crate::{
    access::Caller,
    cursor::{Cursor, PageToken},
    event::{EventId, LogId, Sequence},
    event_type::EVENT_TYPES,
    filter::Filter,
    hub::Hub,
    limits,
    log::{Direction, EventLog, Limit, Range},
    stream::{EncodedEvent, EventStream, Events, Frame, Options, Run},
    traces::Recipient,
};

/// Reads events for gRPC callers.
#[derive(Clone)]
pub struct EventReader {
    hub: Arc<Hub>,
}

/// Where to start.
pub(super) enum Start {
    New,
    Earliest,
    After(String),
    Since(prost_types::Timestamp),
}

impl Start {
    /// At one end of the log.
    pub(super) fn at(position: i32) -> Result<Self, Refusal> {
        match proto::Position::try_from(position) {
            Ok(proto::Position::Unspecified | proto::Position::New) => Ok(Self::New),
            Ok(proto::Position::Earliest) => Ok(Self::Earliest),
            Err(_) => Err(Refusal::field("position", "is not a known position")),
        }
    }
}

/// What a listing asks for.
pub(super) struct Listing {
    pub(super) size: usize,
    pub(super) direction: Direction,
    pub(super) filter: Filter,
    pub(super) range: Range,
    question: u64,
}

/// The events of a page so far.
#[derive(Default)]
pub(super) struct Page {
    pub(super) events: Vec<EncodedEvent>,
    bytes: usize,
}

impl Page {
    /// Takes in the next event if there is room for it; else where the next page starts.
    pub(super) fn push(&mut self, event: EncodedEvent, listing: &Listing) -> Option<Sequence> {
        self.bytes += event.bytes.len();
        if let Some(last) = self.events.last()
            && (self.events.len() == listing.size || self.bytes > limits::PAGE_BYTES_MAX)
        {
            return Some(match listing.direction {
                Direction::Forward => last.sequence(),
                Direction::Backward => last.sequence().previous(),
            });
        }
        self.events.push(event);
        None
    }
}

impl EventReader {
    /// A reader of what this hub follows.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    fn log(&self) -> &Arc<dyn EventLog> {
        self.hub.log()
    }

    /// Whether streams are being told to come back.
    pub fn is_draining(&self) -> bool {
        self.hub.is_draining()
    }

    /// A cursor of this log.
    fn cursor(&self, sequence: Sequence) -> Cursor {
        Cursor {
            log_id: self.log().log_id(),
            sequence,
        }
    }

    /// Follows events.
    pub async fn subscribe(
        &self,
        caller: Caller,
        request: SubscribeEventsRequest,
        recipient: Recipient,
    ) -> Result<impl Stream<Item = Result<Encoded, Status>> + Send + use<>, Refusal> {
        use proto::subscribe_events_request::Start::{AfterCursor, Position, Since};
        let filter = visible(request.filter, &caller)?;
        let start = match request.start {
            None => Start::New,
            Some(AfterCursor(cursor)) => Start::After(cursor),
            Some(Since(time)) => Start::Since(time),
            Some(Position(position)) => Start::at(position)?,
        };
        for (field, is_set) in [
            ("max_unacknowledged", request.max_unacknowledged != 0),
            ("auto_acknowledge", request.auto_acknowledge),
        ] {
            if is_set {
                return Err(Refusal::field(field, "needs `subscription`"));
            }
        }
        let options = Options {
            start: self.start(start, request.continue_after_gap).await?,
            stop_at_tail: request.stop_at_tail,
            heartbeat_interval: heartbeat_interval(request.heartbeat_interval)?,
            continue_after_gap: request.continue_after_gap,
        };
        let permit = caller.take_stream()?;
        let events = EventStream::open(&self.hub, filter, options)?;
        let recipient = recipient.named(&caller.identity().name, None);
        let frames = frames(events, self.log().log_id(), recipient);
        Ok(while_credentials_last(frames, caller, permit))
    }

    /// Waits for one event.
    pub async fn await_event(&self, caller: Caller, request: AwaitEventRequest) -> Result<Encoded, Refusal> {
        use proto::await_event_request::Start::{AfterCursor, Since};
        let filter = visible(request.filter, &caller)?;
        let timeout = duration(
            "timeout",
            request.timeout,
            limits::AWAIT_TIMEOUT_DEFAULT,
            Duration::ZERO..=limits::AWAIT_TIMEOUT_MAX,
        )?;
        let start = match request.start {
            None => Start::New,
            Some(AfterCursor(cursor)) => Start::After(cursor),
            Some(Since(time)) => Start::Since(time),
        };
        let options = Options {
            start: self.start(start, false).await?,
            stop_at_tail: false,
            heartbeat_interval: limits::AWAIT_TIMEOUT_MAX,
            continue_after_gap: false,
        };
        let _permit = caller.take_stream()?;
        let events = EventStream::open(&self.hub, filter, options)?;
        tokio::select! {
            first = self.first(events, timeout) => first,
            () = caller.ended() => Err(ended()),
        }
    }

    async fn first(&self, mut events: EventStream, timeout: Duration) -> Result<Encoded, Refusal> {
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let Ok(frame) = tokio::time::timeout_at(deadline, events.next()).await else {
                return Err(Refusal::NoEventInTime {
                    cursor: self.cursor(events.position()),
                });
            };
            match frame.map_err(|error| Refusal::of_read(error, self.log().log_id()))? {
                Some(Frame::Event(event)) => return Ok(event.bytes.into()),
                Some(Frame::Draining(_)) | None => return Err(Refusal::Draining),
                Some(_) => {}
            }
        }
    }

    /// One page.
    pub async fn list(&self, caller: Caller, request: ListEventsRequest) -> Result<Encoded, Refusal> {
        let listing = self.listing(&caller, request).await?;
        let (page, end) = self.page(&listing).await?;
        Ok(self.answer(&listing, &page, end, Vec::new()))
    }

    /// What a listing asks for.
    pub(super) async fn listing(
        &self,
        caller: &Caller,
        request: ListEventsRequest,
    ) -> Result<Listing, Refusal> {
        let size = status::page_size(request.page_size, limits::EVENTS_PAGE_DEFAULT)?;
        let direction = match proto::Order::try_from(request.order) {
            Ok(proto::Order::Unspecified | proto::Order::NewestFirst) => Direction::Backward,
            Ok(proto::Order::OldestFirst) => Direction::Forward,
            Err(_) => return Err(Refusal::field("order", "is not a known order")),
        };
        let question = question(&request);
        let (since, until) = (time("since", request.since)?, time("until", request.until)?);
        let filter = visible(request.filter, caller)?;
        let unavailable = |error| Refusal::of_read(error, self.log().log_id());

        let bounds = self.log().bounds();
        let mut range = Range {
            after: bounds.trimmed,
            through: bounds.tail,
        };
        if let Some(since) = since {
            range.after = range
                .after
                .max(self.log().before_time(since).await.map_err(unavailable)?);
        }
        if let Some(until) = until {
            range.through = range
                .through
                .min(self.log().before_time(until).await.map_err(unavailable)?);
        }
        if !request.page_token.is_empty() {
            let position = self.page_position(&request.page_token, question)?;
            match direction {
                Direction::Forward => range.after = position,
                Direction::Backward => range.through = range.through.min(position),
            }
        }
        Ok(Listing {
            size,
            direction,
            filter,
            range,
            question,
        })
    }

    /// A page as it is sent.
    pub(super) fn answer(
        &self,
        listing: &Listing,
        page: &Page,
        end: Option<Sequence>,
        dead_letters: Vec<proto::DeadLetter>,
    ) -> Encoded {
        let mut body = BytesMut::new();
        page.events
            .iter()
            .for_each(|event| body.extend_from_slice(&event.bytes));
        let token = end.map(|position| PageToken {
            log_id: self.log().log_id(),
            position,
            question: listing.question,
        });
        let rest = proto::ListEventsResponse {
            events: Vec::new(),
            next_page_token: token.map(|token| token.to_string()).unwrap_or_default(),
            dead_letters,
        };
        body.extend_from_slice(&rest.encode_to_vec());
        body.freeze().into()
    }

    /// The events of a page, and where the next one starts if there is one.
    async fn page(&self, listing: &Listing) -> Result<(Page, Option<Sequence>), Refusal> {
        let Listing {
            size,
            direction,
            ref filter,
            mut range,
            ..
        } = *listing;
        let mut page = Page::default();
        while range.after < range.through {
            // One more than asked for tells whether there is a next page.
            let limit = Limit {
                events: size + 1 - page.events.len(),
                bytes: limits::PAGE_BYTES_MAX,
            };
            let chunk = self.log().read(range, direction, filter, limit).await;
            let chunk = chunk.map_err(|error| Refusal::of_read(error, self.log().log_id()))?;
            for event in chunk.events {
                if let Some(end) = page.push(EncodedEvent::of(event, &self.hub), listing) {
                    return Ok((page, Some(end)));
                }
            }
            match direction {
                Direction::Forward => range.after = chunk.scanned,
                Direction::Backward => range.through = chunk.scanned,
            }
        }
        Ok((page, None))
    }

    fn page_position(&self, token: &str, question: u64) -> Result<Sequence, Refusal> {
        let token: PageToken = token
            .parse()
            .map_err(|error| Refusal::field("page_token", error))?;
        if token.log_id != self.log().log_id() {
            return Err(Refusal::CursorOfAnotherLog);
        }
        if token.question != question {
            let reason = "belongs to another filter, order or time range: repeat the first request's";
            return Err(Refusal::field("page_token", reason));
        }
        Ok(token.position)
    }

    /// One event.
    pub async fn get(&self, caller: Caller, id: String) -> Result<Encoded, Refusal> {
        let id: EventId = id.parse().map_err(|_| {
            Refusal::field(
                "id",
                "is not an event id: `evt_` and 32 lower-case hexadecimal digits",
            )
        })?;
        let found = self.log().find(id).await;
        let found = found.map_err(|error| Refusal::of_read(error, self.log().log_id()))?;
        let event = found.ok_or(Refusal::EventNotFound)?;
        if !caller.identity().sees.matches(&event.event.keys) {
            return Err(Refusal::NotVisible {
                field: "id".to_owned(),
                allowed: Vec::new(),
            });
        }
        Ok(self.hub.encode(&event).into())
    }

    /// The known types, then those that were received without being known.
    pub fn event_types(&self, caller: &Caller) -> proto::ListEventTypesResponse {
        let known = EVENT_TYPES
            .iter()
            .zip(1..)
            .map(|(known, r#type)| proto::EventTypeDescription {
                r#type,
                name: known.name.to_owned(),
                description: known.description.to_owned(),
                payload_field: encode::payload_field(known.name),
            });
        let is_unknown =
            |name: &String| !name.is_empty() && EVENT_TYPES.iter().all(|known| known.name != name);
        let unknown = self.log().event_types().into_iter().filter(is_unknown);
        let unknown = unknown.map(|name| proto::EventTypeDescription {
            name,
            ..proto::EventTypeDescription::default()
        });
        let patterns = &caller.identity().sees.event_types;
        let visible = |described: &proto::EventTypeDescription| {
            patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(&described.name))
        };
        proto::ListEventTypesResponse {
            event_types: known.chain(unknown).filter(visible).collect(),
        }
    }

    /// The position of a start.
    pub(super) async fn start(&self, start: Start, continue_after_gap: bool) -> Result<Sequence, Refusal> {
        let bounds = self.log().bounds();
        match start {
            Start::New => Ok(bounds.tail),
            Start::Earliest => Ok(bounds.trimmed),
            Start::Since(since) => {
                let since = time("since", Some(since))?.unwrap_or(Timestamp::MIN);
                let before = self.log().before_time(since).await;
                before.map_err(|error| Refusal::of_read(error, self.log().log_id()))
            }
            Start::After(cursor) => {
                let cursor: Cursor = cursor
                    .parse()
                    .map_err(|error| Refusal::field("after_cursor", error))?;
                if cursor.log_id != self.log().log_id() {
                    return Err(Refusal::CursorOfAnotherLog);
                }
                if cursor.sequence > bounds.tail {
                    return Err(Refusal::CursorAheadOfLog);
                }
                if cursor.sequence < bounds.trimmed && !continue_after_gap {
                    return Err(Refusal::CursorTrimmed {
                        earliest: self.cursor(bounds.trimmed),
                    });
                }
                Ok(cursor.sequence)
            }
        }
    }
}

/// The frames of a stream as they are sent.
fn frames(
    events: EventStream,
    log_id: LogId,
    recipient: Recipient,
) -> impl Stream<Item = Result<Ready, Refusal>> + Send + use<> {
    stream::unfold(Some((events, recipient, false)), move |state| async move {
        let (mut events, recipient, drained) = state?;
        if drained {
            return Some((Err(Refusal::Draining), None));
        }
        match events.next_run().await {
            Ok(run) => {
                let (ready, drained) = match run? {
                    Run::Events(events) => (Ready::Events(events, recipient.clone()), false),
                    Run::Frame(frame) => {
                        let drained = matches!(frame, Frame::Draining(_));
                        (encoded(frame, log_id).into(), drained)
                    }
                };
                Some((Ok(ready), Some((events, recipient, drained))))
            }
            Err(error) => Some((Err(Refusal::of_read(error, log_id)), None)),
        }
    })
}

/// Frames that are ready to be sent, in order.
pub(super) enum Ready {
    /// Events, and who gets them.
    Events(Events, Recipient),
    /// One frame, until it is taken.
    Frame(Option<Encoded>),
}

impl From<Encoded> for Ready {
    fn from(frame: Encoded) -> Self {
        Self::Frame(Some(frame))
    }
}

impl Iterator for Ready {
    type Item = Encoded;

    fn next(&mut self) -> Option<Encoded> {
        match self {
            Self::Events(events, recipient) => events.next().map(|event| {
                recipient.sent(&event.event, 1);
                event.bytes.into()
            }),
            Self::Frame(frame) => frame.take(),
        }
    }
}

/// The frames of a stream, for as long as the caller's credentials are good. `held` is held as long.
pub(super) fn while_credentials_last(
    frames: impl Stream<Item = Result<Ready, Refusal>> + Send + 'static,
    caller: Caller,
    held: impl Send + Unpin + 'static,
) -> impl Stream<Item = Result<Encoded, Status>> + Send {
    let (mut frames, mut end) = (Box::pin(frames), Box::pin(caller.clone().ended()));
    let mut ready = Ready::Frame(None);
    let mut is_over = false;
    stream::poll_fn(move |context| {
        let _held = &held;
        if is_over {
            return Poll::Ready(None);
        }
        let refusal = loop {
            // A stream that never waits is asked, too.
            if caller.is_revoked() {
                break ended();
            }
            if let Some(frame) = ready.next() {
                return Poll::Ready(Some(Ok(frame)));
            }
            match frames.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(more))) => ready = more,
                Poll::Ready(Some(Err(refusal))) => break refusal,
                Poll::Ready(None) => {
                    is_over = true;
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    std::task::ready!(end.as_mut().poll(context));
                    break ended();
                }
            }
        };
        is_over = true;
        Poll::Ready(Some(Err(refusal.into())))
    })
}

/// How long a stream may be silent.
pub(super) fn heartbeat_interval(asked: Option<prost_types::Duration>) -> Result<Duration, Refusal> {
    let interval = duration(
        "heartbeat_interval",
        asked,
        limits::HEARTBEAT_INTERVAL_DEFAULT,
        limits::HEARTBEAT_INTERVAL_MIN..=limits::HEARTBEAT_INTERVAL_MAX,
    )?;
    Ok(interval.mul_f64(rand::rng().random_range(0.9..=1.0)))
}

fn ended() -> Refusal {
    Refusal::CredentialsEnded("the token was revoked or has expired".to_owned())
}

/// A filter that asks for no more than the caller may see.
fn visible(asked: Option<EventFilter>, caller: &Caller) -> Result<Filter, Refusal> {
    let asked = filter(asked)?;
    check_visible(&asked, caller)?;
    Ok(asked)
}

/// A frame as it is sent.
pub(super) fn encoded(frame: Frame, log_id: LogId) -> Encoded {
    let cursor = |sequence| Cursor { log_id, sequence }.to_string();
    let frame = match frame {
        Frame::Event(event) => return event.bytes.into(),
        Frame::CaughtUp(at) => response::Frame::CaughtUp(proto::CaughtUp { cursor: cursor(at) }),
        Frame::Heartbeat(at) => response::Frame::Heartbeat(proto::Heartbeat { cursor: cursor(at) }),
        Frame::FellBehind(at) => response::Frame::FellBehind(proto::FellBehind { cursor: cursor(at) }),
        Frame::Gap { after, trimmed } => response::Frame::Gap(proto::Gap {
            after_cursor: cursor(after),
            earliest_cursor: cursor(trimmed),
        }),
        Frame::Draining(at) => {
            let wait = limits::RECONNECT_SPREAD.mul_f64(rand::rng().random_range(0.1..=1.0));
            response::Frame::Draining(proto::Draining {
                reconnect_after: Some(prost_types::Duration {
                    seconds: wait.as_secs().cast_signed(),
                    nanos: wait.subsec_nanos().cast_signed(),
                }),
                cursor: cursor(at),
            })
        }
    };
    let response = proto::SubscribeEventsResponse {
        frame: Some(frame),
        ..proto::SubscribeEventsResponse::default()
    };
    Bytes::from(response.encode_to_vec()).into()
}

/// A filter, or the refusal of one that cannot be.
pub(super) fn filter(filter: Option<EventFilter>) -> Result<Filter, Refusal> {
    let filter = filter.unwrap_or_default();
    Ok(Filter::parse(
        &filter.event_types,
        filter.entity_ids,
        filter.callback_ids,
        filter.endpoints,
    )?)
}

/// A digest of what a listing asks for, page size and token apart.
fn question(request: &ListEventsRequest) -> u64 {
    let asked = ListEventsRequest {
        page_size: 0,
        page_token: String::new(),
        ..request.clone()
    };
    u64::from(crc32fast::hash(&asked.encode_to_vec()))
}

/// A time, or the refusal of one that cannot be.
pub(super) fn time(field: &str, time: Option<prost_types::Timestamp>) -> Result<Option<Timestamp>, Refusal> {
    let parse = |time: prost_types::Timestamp| {
        let valid = (0..1_000_000_000).contains(&time.nanos);
        let parsed = Timestamp::new(time.seconds, time.nanos).ok().filter(|_| valid);
        parsed.ok_or_else(|| Refusal::field(field, "is not a time between the years 1 and 9999"))
    };
    time.map(parse).transpose()
}

/// A duration within its bounds, or the default if there is none.
pub(super) fn duration(
    field: &str,
    asked: Option<prost_types::Duration>,
    default: Duration,
    bounds: std::ops::RangeInclusive<Duration>,
) -> Result<Duration, Refusal> {
    let Some(asked) = asked else { return Ok(default) };
    let asked = Duration::try_from(asked)
        .ok()
        .filter(|asked| bounds.contains(asked));
    asked.ok_or_else(|| {
        let (least, most) = (
            humantime::format_duration(*bounds.start()),
            humantime::format_duration(*bounds.end()),
        );
        Refusal::field(field, format!("must be {least} to {most}"))
    })
}
