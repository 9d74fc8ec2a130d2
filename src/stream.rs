//! One reader of the log: catch up, go live, fall back. Owns the state machine behind every stream and every await; knows
//! no gRPC, and holds no queue but the few shared events it took last.

use std::{fmt, sync::Arc, vec};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::time::{Duration, Instant};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    event::{Sequence, StoredEvent},
    filter::Filter,
    hub::{Found, Hub, SharedEvent, Waiter},
    limits,
    log::{Direction, Limit, Range, ReadError},
    tasks,
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

/// An event as it is sent.
#[derive(Clone, Debug)]
pub struct EncodedEvent {
    /// The event.
    pub event: Arc<StoredEvent>,
    /// The finished bytes.
    pub bytes: Bytes,
}

impl EncodedEvent {
    /// An event that was read from the log.
    pub fn of(event: Arc<StoredEvent>, hub: &Hub) -> Self {
        let bytes = hub.encode(&event);
        Self { event, bytes }
    }

    /// Its place.
    pub fn sequence(&self) -> Sequence {
        self.event.sequence
    }
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

/// What a stream says at once.
#[derive(Debug)]
pub enum Run {
    /// One event or more.
    Events(Events),
    /// Anything else.
    Frame(Frame),
}

/// Events that a stream has at hand, in order; each is encoded when it is taken, unless it is already.
pub struct Events {
    hub: Arc<Hub>,
    events: vec::IntoIter<Arc<SharedEvent>>,
}

impl Iterator for Events {
    type Item = EncodedEvent;

    fn next(&mut self) -> Option<EncodedEvent> {
        let event = self.events.next()?;
        let bytes = self.hub.encoded(&event);
        Some(EncodedEvent {
            event: Arc::clone(event.event()),
            bytes,
        })
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.events.as_slice()).finish()
    }
}

/// A stream of frames. Events come in order, each once; the position never runs ahead of an event that was not sent.
pub struct EventStream {
    waiter: Waiter,
    options: Options,
    /// Everything up to here was sent, skipped, or is in `events`.
    position: Sequence,
    events: Events,
    /// The read of the log that follows `position`, under way while `events` are sent.
    ahead: Option<AbortOnDropHandle<Replay>>,
    source: Source,
    /// The log's tail when the stream was opened. The hub may not have got there yet.
    opened_at: Sequence,
    caught_up: bool,
    ended: bool,
    last_sent: Instant,
}

/// Events read from the log, and how far they settle it.
type Replay = Result<(Vec<Arc<SharedEvent>>, Sequence), ReadError>;

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
        // What ends at the tail needs nothing live.
        let source = if options.stop_at_tail {
            Source::Log
        } else {
            Source::Hub
        };
        Ok(Self {
            waiter,
            options,
            position: options.start,
            events: Events {
                hub: Arc::clone(hub),
                events: Vec::new().into_iter(),
            },
            ahead: None,
            source,
            opened_at: hub.log().bounds().tail,
            caught_up: false,
            ended: false,
            last_sent: Instant::now(),
        })
    }

    /// Where a stream ends that stops at the tail.
    fn stop_at(&self) -> Option<Sequence> {
        self.options.stop_at_tail.then_some(self.opened_at)
    }

    /// Everything up to here was sent or skipped.
    pub fn position(&self) -> Sequence {
        self.position
    }

    /// The next frame; `None` at the end. After an error there is no more.
    pub async fn next(&mut self) -> Result<Option<Frame>, ReadError> {
        loop {
            if let Some(event) = self.events.next() {
                return Ok(Some(Frame::Event(event)));
            }
            match self.next_run().await? {
                Some(Run::Events(events)) => self.events = events,
                Some(Run::Frame(frame)) => return Ok(Some(frame)),
                None => return Ok(None),
            }
        }
    }

    /// What comes next, as much of it as is at hand; `None` at the end. After an error there is no more.
    pub async fn next_run(&mut self) -> Result<Option<Run>, ReadError> {
        if self.ended {
            return Ok(None);
        }
        let run = self.next_from_source().await;
        self.last_sent = Instant::now();
        self.ended = !matches!(&run, Ok(Some(run)) if !matches!(run, Run::Frame(Frame::Draining(_))));
        run
    }

    /// The same as a stream, which keeps its place when the wait for the next frame is given up.
    pub fn into_frames(self) -> impl Stream<Item = Result<Frame, ReadError>> + Send {
        stream::unfold(self, async |mut events| {
            let frame = events.next().await.transpose()?;
            Some((frame, events))
        })
    }

    async fn next_from_source(&mut self) -> Result<Option<Run>, ReadError> {
        loop {
            if !self.events.events.as_slice().is_empty() {
                let none = Events {
                    hub: Arc::clone(&self.events.hub),
                    events: Vec::new().into_iter(),
                };
                return Ok(Some(Run::Events(std::mem::replace(&mut self.events, none))));
            }
            let said = |frame| Ok(Some(Run::Frame(frame)));
            if self.waiter.hub().is_draining() {
                return said(Frame::Draining(self.position));
            }
            if self.stop_at().is_some_and(|stop_at| self.position >= stop_at) {
                if std::mem::replace(&mut self.caught_up, true) {
                    return Ok(None);
                }
                return said(Frame::CaughtUp(self.position));
            }
            if self.last_sent.elapsed() >= self.options.heartbeat_interval {
                return said(Frame::Heartbeat(self.position));
            }
            let frame = match self.source {
                Source::Hub => self.look().await,
                Source::Log => self.read().await?,
            };
            if let Some(frame) = frame {
                return said(frame);
            }
        }
    }

    /// One look at the hub; waits there if it has nothing.
    async fn look(&mut self) -> Option<Frame> {
        match self.waiter.look(self.position) {
            Found::Events(events, position) => {
                (self.events.events, self.position) = (events.into_iter(), position);
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
                if position < self.opened_at {
                    self.source = Source::Log;
                    return None;
                }
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

    /// One read of the log, which may be under way already; starts the one after it.
    async fn read(&mut self) -> Result<Option<Frame>, ReadError> {
        let read = match self.ahead.take() {
            Some(ahead) => ahead
                .await
                .unwrap_or_else(|error| Err(ReadError::Unavailable(error.into()))),
            None => self.replay().await,
        };
        match read {
            Ok((events, scanned)) => {
                self.events.events = events.into_iter();
                self.position = self.position.max(scanned);
                // The hub may have what follows; if not, it says so.
                if !self.options.stop_at_tail && self.position >= self.waiter.hub().floor() {
                    self.source = Source::Hub;
                } else if self.stop_at().is_none_or(|stop_at| self.position < stop_at) {
                    self.ahead = Some(tasks::owned(self.replay()));
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

    /// Reads the events that follow `position` from the log.
    fn replay(&self) -> impl Future<Output = Replay> + Send + use<> {
        let (hub, filter) = (Arc::clone(self.waiter.hub()), Arc::clone(self.waiter.filter()));
        let (after, stop_at) = (self.position, self.stop_at());
        async move {
            let range = Range {
                after,
                through: stop_at.unwrap_or_else(|| hub.log().bounds().tail),
            };
            let limit = Limit {
                events: limits::REPLAY_CHUNK_EVENTS_MAX,
                bytes: limits::REPLAY_CHUNK_BYTES_MAX,
            };
            let chunk = hub.log().read(range, Direction::Forward, &filter, limit).await?;
            let events = chunk.events.into_iter().map(SharedEvent::new).collect();
            Ok((events, chunk.scanned))
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prometheus_client::registry::Registry;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        event::{LogId, NewEvent, StoredEvent, Verification},
        hub::Encode,
        log::{EventLog, Retention, memory::MemoryLog},
        tasks::Tasks,
    };

    /// Encodes an event as its entity id, which is all that a model needs.
    struct EntityId;

    impl Encode for EntityId {
        fn encode(&self, event: &StoredEvent) -> Bytes {
            event.event.keys.entity_id.clone().into_bytes()
        }
    }

    struct Setting {
        log: Arc<MemoryLog>,
        hub: Arc<Hub>,
        tasks: Tasks,
        appended: u64,
    }

    impl Setting {
        fn with_ring(ring_events_max: usize) -> Self {
            let log = Arc::new(MemoryLog::new(LogId::new(1)));
            let held = Arc::clone(&log) as Arc<dyn EventLog>;
            let hub = Hub::new(
                held,
                Arc::new(EntityId),
                &mut Registry::default(),
                ring_events_max,
            );
            let tasks = Tasks::new();
            let (follower, stop) = (Arc::clone(&hub), tasks.stop().clone());
            tasks.spawn(async move { follower.follow(stop).await });
            Self {
                log,
                hub,
                tasks,
                appended: 0,
            }
        }

        /// Appends an event of type `avatar_video.success` or `.fail` whose entity id is its number.
        async fn append(&mut self, fail: bool) {
            self.appended += 1;
            let outcome = if fail { "fail" } else { "success" };
            let body = format!(
                r#"{{"event_type":"avatar_video.{outcome}","event_data":{{"video_id":"{}"}}}}"#,
                self.appended
            );
            let verification = Verification::CallbackToken;
            let now = jiff::Timestamp::UNIX_EPOCH;
            let event = NewEvent::new("dev".parse().unwrap(), verification, body.into(), now);
            self.log.append(event).await.unwrap();
        }

        /// Lets the hub take in what was appended.
        async fn settle(&self) {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }

        fn open(&self, filter: Filter, options: Options) -> EventStream {
            EventStream::open(&self.hub, filter, options).unwrap()
        }
    }

    fn from_start() -> Options {
        Options {
            start: Sequence::ZERO,
            stop_at_tail: false,
            heartbeat_interval: Duration::from_secs(15),
            continue_after_gap: false,
        }
    }

    fn failures() -> Filter {
        Filter::parse(&["*.fail".to_owned()], vec![], vec![], vec![]).unwrap()
    }

    /// A frame in a word.
    fn word(frame: Option<Frame>) -> String {
        match frame {
            Some(Frame::Event(event)) => String::from_utf8(event.bytes.to_vec()).unwrap(),
            Some(Frame::CaughtUp(at)) => format!("caught up at {at}"),
            Some(Frame::Heartbeat(at)) => format!("heartbeat at {at}"),
            Some(Frame::FellBehind(at)) => format!("fell behind at {at}"),
            Some(Frame::Gap { after, trimmed }) => format!("gap {after} to {trimmed}"),
            Some(Frame::Draining(at)) => format!("draining at {at}"),
            None => "end".to_owned(),
        }
    }

    async fn words(stream: &mut EventStream, count: usize) -> Vec<String> {
        let mut words = Vec::new();
        for _ in 0..count {
            words.push(word(stream.next().await.unwrap()));
        }
        words
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_log_is_caught_up_at_once_and_then_beats() {
        let setting = Setting::with_ring(8);
        let mut stream = setting.open(Filter::default(), from_start());
        assert_eq!(
            words(&mut stream, 3).await,
            ["caught up at 0", "heartbeat at 0", "heartbeat at 0"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn history_comes_first_then_caught_up_then_what_is_live() {
        let mut setting = Setting::with_ring(2);
        for _ in 0..5 {
            setting.append(false).await;
        }
        setting.settle().await;
        let mut stream = setting.open(Filter::default(), from_start());
        assert_eq!(
            words(&mut stream, 6).await,
            ["1", "2", "3", "4", "5", "caught up at 5"]
        );
        setting.append(false).await;
        assert_eq!(words(&mut stream, 2).await, ["6", "heartbeat at 6"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_hub_has_not_read_yet_comes_before_caught_up() {
        let mut setting = Setting::with_ring(8);
        setting.append(false).await;
        setting.settle().await;
        setting.append(false).await;
        setting.append(true).await;
        setting.append(false).await;
        let mut stream = setting.open(failures(), from_start());
        assert_eq!(words(&mut stream, 2).await, ["3", "caught up at 4"]);
        setting.append(true).await;
        assert_eq!(words(&mut stream, 2).await, ["5", "heartbeat at 5"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_moves_past_what_the_filter_skipped() {
        let mut setting = Setting::with_ring(8);
        let mut stream = setting.open(failures(), from_start());
        assert_eq!(words(&mut stream, 1).await, ["caught up at 0"]);
        setting.append(false).await;
        setting.append(false).await;
        assert_eq!(words(&mut stream, 1).await, ["heartbeat at 2"]);
        setting.append(true).await;
        assert_eq!(words(&mut stream, 1).await, ["3"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_selective_stream_does_not_fall_behind_by_what_it_skips() {
        let mut setting = Setting::with_ring(4);
        let mut stream = setting.open(failures(), from_start());
        assert_eq!(words(&mut stream, 1).await, ["caught up at 0"]);
        for number in 1..=100 {
            setting.append(number == 99).await;
            setting.settle().await;
        }
        assert_eq!(words(&mut stream, 2).await, ["99", "heartbeat at 100"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_falls_behind_and_misses_nothing() {
        let mut setting = Setting::with_ring(4);
        let mut stream = setting.open(Filter::default(), from_start());
        assert_eq!(words(&mut stream, 1).await, ["caught up at 0"]);
        for _ in 0..10 {
            setting.append(false).await;
            setting.settle().await;
        }
        let mut expected = vec!["fell behind at 0".to_owned()];
        expected.extend((1..=10).map(|number| number.to_string()));
        expected.push("heartbeat at 10".to_owned());
        assert_eq!(words(&mut stream, 12).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_stops_at_the_tail_ends_there_whatever_comes_later() {
        // More than one read of the log, all of it in the hub too.
        let kept = limits::REPLAY_CHUNK_EVENTS_MAX + 2;
        let mut setting = Setting::with_ring(2 * kept);
        for _ in 0..kept {
            setting.append(false).await;
        }
        let options = Options {
            stop_at_tail: true,
            ..from_start()
        };
        let mut stream = setting.open(Filter::default(), options);
        setting.append(false).await;
        setting.settle().await;
        let mut expected: Vec<_> = (1..=kept).map(|number| number.to_string()).collect();
        expected.extend([format!("caught up at {kept}"), "end".to_owned(), "end".to_owned()]);
        assert_eq!(words(&mut stream, kept + 3).await, expected);
        let mut nothing = setting.open(failures(), options);
        let caught_up = format!("caught up at {}", kept + 1);
        assert_eq!(words(&mut nothing, 2).await, [caught_up, "end".to_owned()]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gap_is_told_only_to_those_who_asked() {
        let mut setting = Setting::with_ring(1);
        for _ in 0..5 {
            setting.append(false).await;
        }
        setting.settle().await;
        let nothing = Retention {
            age: None,
            size_bytes: Some(0),
        };
        setting
            .log
            .trim(nothing, jiff::Timestamp::UNIX_EPOCH)
            .await
            .unwrap();
        setting.append(false).await;
        setting.settle().await;
        let mut strict = setting.open(Filter::default(), from_start());
        assert!(matches!(strict.next().await, Err(ReadError::Trimmed { .. })));
        let options = Options {
            continue_after_gap: true,
            ..from_start()
        };
        let mut lenient = setting.open(Filter::default(), options);
        assert_eq!(
            words(&mut lenient, 3).await,
            ["gap 0 to 5", "6", "caught up at 6"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn i8_a_drain_ends_every_stream_where_it_stands() {
        let mut setting = Setting::with_ring(4);
        setting.append(false).await;
        setting.settle().await;
        let mut live = setting.open(
            Filter::default(),
            Options {
                start: Sequence::new(1),
                ..from_start()
            },
        );
        let mut replaying = setting.open(Filter::default(), from_start());
        assert_eq!(words(&mut live, 1).await, ["caught up at 1"]);
        let drain = async {
            setting.settle().await;
            setting.hub.drain();
        };
        let (told, ()) = tokio::join!(words(&mut live, 2), drain);
        assert_eq!(told, ["draining at 1", "end"]);
        assert_eq!(words(&mut replaying, 2).await, ["draining at 0", "end"]);
        setting.tasks.end().await;
    }

    /// What a schedule does next.
    #[derive(Clone, Debug)]
    enum Step {
        Append { fail: bool },
        Settle,
        Read,
        Reconnect,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => any::<bool>().prop_map(|fail| Step::Append { fail }),
            2 => Just(Step::Settle),
            4 => Just(Step::Read),
            1 => Just(Step::Reconnect),
        ];
        proptest::collection::vec(step, 0..120)
    }

    proptest! {
        /// The model of a stream is a list: the numbers of the matching events, in order.
        #[test]
        fn i4_any_schedule_gives_every_matching_event_once_and_in_order(
            steps in steps(), ring in 1_usize..6, filtered: bool,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.unwrap().block_on(async {
                let mut setting = Setting::with_ring(ring);
                let filter = if filtered { failures() } else { Filter::default() };
                let mut stream = setting.open(filter.clone(), from_start());
                let mut opened_at = 0;
                let (mut expected, mut received) = (Vec::new(), Vec::new());
                let mut last = Sequence::ZERO;
                let reads = steps.len() * 3 + 10;
                for step in steps.into_iter().chain(std::iter::repeat_n(Step::Read, reads)) {
                    match step {
                        Step::Append { fail } => {
                            setting.append(fail).await;
                            if fail || !filtered {
                                expected.push(setting.appended.to_string());
                            }
                        }
                        Step::Settle => setting.settle().await,
                        // With the position of a frame a client goes on after any frame.
                        Step::Reconnect => {
                            stream = setting.open(filter.clone(), Options { start: last, ..from_start() });
                            opened_at = setting.appended;
                        }
                        Step::Read => match stream.next().await.unwrap().unwrap() {
                            Frame::Event(event) => {
                                last = event.sequence();
                                received.push(String::from_utf8(event.bytes.to_vec()).unwrap());
                            }
                            frame @ (Frame::CaughtUp(at) | Frame::Heartbeat(at) | Frame::FellBehind(at)) => {
                                let is_early = matches!(frame, Frame::CaughtUp(_)) && at.get() < opened_at;
                                assert!(!is_early, "caught up at {at} of {opened_at}");
                                assert!(at >= last, "a position goes back from {last} to {at}");
                                last = at;
                            }
                            frame => panic!("unexpected {frame:?}"),
                        },
                    }
                }
                assert_eq!(received, expected);
            });
        }
    }
}
