//! One subscription at work. Owns feeding its dispatch from the log while somebody listens, its streams, and the count of
//! what is still to come; what is handed out to whom is decided in `dispatch`.

use std::{future::pending, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit},
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    commits::{Commits, NotStored, Ticket},
    dispatch::{
        Acknowledged, Closed, Dispatch, Gap, Lease, Moment, Outcome, Place, Plan, Standing, StreamId,
    },
    settings::{Settings, SubscriptionName},
    store::{Changes, Stored},
    survey::{Backlog, Survey},
};
use crate::{
    clock::Clock,
    cursor::AckId,
    event::{Sequence, StoredEvent},
    filter::Filter,
    hub::Hub,
    limits,
    log::{Direction, Limit, Range, ReadError},
    stream::{EncodedEvent, EventStream, Frame, Options},
    tasks,
};

/// A subscription.
pub struct Subscription {
    /// What it is stored under.
    pub id: u64,
    /// Its name.
    pub name: SubscriptionName,
    /// When it was created.
    pub created_at: Timestamp,
    /// One change of its terms or place at a time.
    pub(super) changing: tokio::sync::Mutex<()>,
    pub(super) survey: Survey,
    pub(super) hub: Arc<Hub>,
    dispatch: Mutex<Dispatch>,
    clock: Clock,
    commits: Arc<Commits>,
    /// What is stored of it.
    saved: Mutex<Place>,
    /// Runs while there are streams.
    feeding: Mutex<Option<AbortOnDropHandle<()>>>,
    last_used: Mutex<Instant>,
}

/// An event for a stream.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The event.
    pub event: EncodedEvent,
    /// What it is acknowledged by.
    pub ack_id: AckId,
    /// Which attempt it is, from 1.
    pub attempt: u32,
}

/// What a stream of a subscription says.
#[derive(Clone, Debug)]
pub enum Said {
    /// An event to handle.
    Delivery(Delivery),
    /// What other streams say, too; no events among it.
    Frame(Frame),
}

/// A stream of a subscription ends because the subscription was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted;

/// One stream's part in a subscription. Dropping it gives back what it holds.
pub struct SubscriptionStream {
    subscription: Arc<Subscription>,
    id: StreamId,
    notify: Arc<Notify>,
    heartbeat_interval: Duration,
    last_said: Instant,
    caught_up: bool,
    gaps: u64,
    /// Others were woken too: let them look first.
    gives_way: bool,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

/// How a stream takes part.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Events it holds at most.
    pub max_unacknowledged: usize,
    /// It acknowledges an event by asking for the next.
    pub auto_acknowledge: bool,
    /// How long it may be silent.
    pub heartbeat_interval: Duration,
}

type Frames = Pin<Box<dyn Stream<Item = Vec<Result<Frame, ReadError>>> + Send>>;

impl Subscription {
    pub(super) fn new(
        stored: Stored,
        first_lease: u64,
        hub: Arc<Hub>,
        clock: Clock,
        commits: Arc<Commits>,
    ) -> Arc<Self> {
        let now = moment(&clock);
        let saved = stored.place.clone();
        let dispatch = Dispatch::restore(
            stored.id,
            stored.settings,
            stored.place,
            stored.dead_letters,
            first_lease,
            now,
        );
        Arc::new(Self {
            id: stored.id,
            name: stored.name,
            created_at: stored.created_at,
            changing: tokio::sync::Mutex::default(),
            survey: Survey::default(),
            hub,
            dispatch: Mutex::new(dispatch),
            clock,
            commits,
            saved: Mutex::new(saved),
            feeding: Mutex::default(),
            last_used: Mutex::new(now.instant),
        })
    }

    /// Its terms.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(self.dispatch.lock().settings())
    }

    /// How it stands, as far as that is known without looking at the log.
    pub fn standing(&self) -> Standing {
        self.dispatch.lock().standing()
    }

    /// Says what became of events. An answer for each, all of it durable.
    pub async fn acknowledge(
        self: &Arc<Self>,
        ids: &[Option<AckId>],
        outcome: Outcome,
    ) -> Result<Vec<Acknowledged>, NotStored> {
        let now = self.now();
        let answers: Vec<_> = {
            let mut dispatch = self.dispatch.lock();
            let answer = |id: &Option<AckId>| match id {
                Some(id) => dispatch.acknowledge(*id, outcome, now),
                None => Acknowledged::Unknown,
            };
            ids.iter().map(answer).collect()
        };
        let is_stored = !matches!(outcome, Outcome::Extend(_));
        // What is late may be the repetition of a call whose commit failed, and has to be as true.
        if is_stored && answers.iter().any(|answer| *answer != Acknowledged::Unknown) {
            self.commits.wait(self.ask()).await?;
        }
        Ok(answers)
    }

    /// Opens a stream.
    pub(super) fn open(self: &Arc<Self>, part: Part, place: OwnedSemaphorePermit) -> SubscriptionStream {
        let (id, notify, gaps) = {
            let mut dispatch = self.dispatch.lock();
            let (id, notify) = dispatch.open_stream(part.max_unacknowledged, part.auto_acknowledge);
            let mut feeding = self.feeding.lock();
            if feeding.is_none() {
                *feeding = Some(tasks::owned(Arc::clone(self).feed(dispatch.feeder())));
            }
            (id, notify, dispatch.gap().0)
        };
        SubscriptionStream {
            subscription: Arc::clone(self),
            id,
            notify,
            heartbeat_interval: part.heartbeat_interval,
            last_said: Instant::now(),
            caught_up: false,
            gaps,
            gives_way: false,
            ended: false,
            _place: place,
        }
    }

    /// Changes the dispatch and waits until that is durable.
    pub(super) async fn change<T>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Dispatch) -> T,
    ) -> Result<T, NotStored> {
        let result = change(&mut self.dispatch.lock());
        self.commits.wait(self.ask()).await?;
        Ok(result)
    }

    /// Changes what need not be durable, or is already.
    pub(super) fn apply<T>(&self, change: impl FnOnce(&mut Dispatch) -> T) -> T {
        change(&mut self.dispatch.lock())
    }

    /// How long nobody has used it.
    pub(super) fn unused_for(&self) -> Duration {
        if self.dispatch.lock().standing().streams > 0 {
            return Duration::ZERO;
        }
        self.last_used.lock().elapsed()
    }

    /// What is not stored yet; `None` if all is.
    pub(super) fn unsaved(&self) -> Option<Changes> {
        let now = self.now();
        let (place, dead_letters) = {
            let dispatch = self.dispatch.lock();
            (dispatch.place(now), dispatch.dead_letter_changes())
        };
        let nothing = dead_letters.is_empty() && self.saved.lock().is_still(&place);
        (!nothing).then_some(Changes {
            id: self.id,
            place,
            dead_letters,
        })
    }

    /// These changes are durable, and there are so many dead letters now, if that changed.
    pub(super) fn saved(&self, changes: Changes, dead_letters: Option<u64>) {
        self.dispatch
            .lock()
            .dead_letters_stored(&changes.dead_letters, dead_letters);
        *self.saved.lock() = changes.place;
    }

    fn ask(self: &Arc<Self>) -> Ticket {
        self.commits.ask(self)
    }

    fn now(&self) -> Moment {
        moment(&self.clock)
    }

    /// Feeds the dispatch from the log and wakes it when something is due, for as long as there are streams.
    async fn feed(self: Arc<Self>, told: Arc<Notify>) {
        let mut current: Option<(u64, Frames)> = None;
        loop {
            let plan = self.dispatch.lock().plan(self.now());
            if plan.changed {
                self.ask();
            }
            if current.as_ref().is_none_or(|(feed, _)| *feed != plan.feed) {
                current = self.open_feed(&plan).map(|frames| (plan.feed, frames));
            }
            let next = async {
                match &mut current {
                    Some((_, frames)) if plan.wants => frames.next().await,
                    Some(_) => pending().await,
                    // As many streams are open as may be: one will end.
                    None => {
                        sleep(limits::READ_AGAIN_DELAY).await;
                        Some(Vec::new())
                    }
                }
            };
            let due = async {
                match plan.due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                frames = next => match frames {
                    Some(frames) => {
                        if self.take_in(plan.feed, frames).await.is_err() {
                            current = None;
                        }
                    }
                    // The service is shutting down.
                    None => return,
                },
                () = due => {}
                () = told.notified() => {}
            }
        }
    }

    fn open_feed(&self, plan: &Plan) -> Option<Frames> {
        let options = Options {
            start: plan.after,
            stop_at_tail: false,
            heartbeat_interval: limits::HEARTBEAT_INTERVAL_DEFAULT,
            continue_after_gap: true,
        };
        let filter = plan.settings.filter.clone();
        match EventStream::open(&self.hub, filter, options) {
            Ok(events) => Some(Box::pin(
                events.into_frames().ready_chunks(limits::FEED_EVENTS_MAX),
            )),
            Err(error) => {
                tracing::warn!(subscription = %self.name, %error, "the subscription waits");
                None
            }
        }
    }

    /// Takes in what was read. After an error the log has to be opened anew.
    async fn take_in(
        self: &Arc<Self>,
        feed: u64,
        frames: Vec<Result<Frame, ReadError>>,
    ) -> Result<(), Unreadable> {
        let mut unreadable = Ok(());
        {
            let now = self.now();
            let mut dispatch = self.dispatch.lock();
            for frame in frames {
                match frame {
                    Ok(Frame::Event(event)) => dispatch.feed(feed, event),
                    Ok(Frame::CaughtUp(position)) => dispatch.caught_up(feed, position),
                    Ok(Frame::Heartbeat(position)) => {
                        dispatch.skip(feed, position);
                        self.ask();
                    }
                    Ok(Frame::Gap { after, trimmed }) => dispatch.missed(feed, Gap { after, trimmed }, now),
                    Ok(Frame::FellBehind(_) | Frame::Draining(_)) => {}
                    Err(ReadError::Damaged { sequence }) => {
                        tracing::error!(subscription = %self.name, %sequence, "a stored record is damaged; going on");
                        let gap = Gap {
                            after: sequence.previous(),
                            trimmed: sequence,
                        };
                        dispatch.missed(feed, gap, now);
                        unreadable = Err(Unreadable::Once);
                    }
                    Err(error) => {
                        tracing::error!(subscription = %self.name, %error, "the log cannot be read; trying again");
                        unreadable = Err(Unreadable::AtTheMoment);
                    }
                }
            }
            dispatch.wake();
        }
        if unreadable == Err(Unreadable::AtTheMoment) {
            sleep(limits::READ_AGAIN_DELAY).await;
        }
        unreadable
    }

    /// How far behind it is.
    pub async fn backlog(&self) -> Result<Backlog, ReadError> {
        self.survey.look(self).await
    }

    /// Reads one event of the log; `None` if it is gone.
    pub async fn event(&self, sequence: Sequence) -> Result<Option<Arc<StoredEvent>>, ReadError> {
        let range = Range {
            after: sequence.previous(),
            through: sequence,
        };
        let one = Limit {
            events: 1,
            bytes: usize::MAX,
        };
        let log = self.hub.log();
        match log.read(range, Direction::Forward, &Filter::default(), one).await {
            Ok(mut chunk) => Ok(chunk.events.pop()),
            Err(ReadError::Trimmed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The event of a lease; `None` if it is not to be had, which the dispatch then knows.
    async fn delivery(self: &Arc<Self>, lease: Lease) -> Option<Delivery> {
        let Lease {
            ack_id,
            attempt,
            event,
        } = lease;
        let encoded = |event| EncodedEvent::of(event, &self.hub);
        let read = match event {
            Some(event) => Ok(Some(event)),
            None => self.event(ack_id.sequence).await.map(|event| event.map(encoded)),
        };
        let event = match read {
            Ok(event) => event,
            Err(ReadError::Damaged { sequence }) => {
                tracing::error!(subscription = %self.name, %sequence, "a stored record is damaged; going on");
                None
            }
            Err(error) => {
                tracing::error!(subscription = %self.name, %error, "the log cannot be read; trying again");
                self.dispatch.lock().give_back(ack_id, self.now());
                return None;
            }
        };
        if event.is_none() {
            self.dispatch.lock().lost(ack_id, self.now());
            self.ask();
        }
        event.map(|event| Delivery {
            event,
            ack_id,
            attempt,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unreadable {
    /// Something of it; what follows may be read.
    Once,
    /// Perhaps later.
    AtTheMoment,
}

/// What a stream finds when it looks.
enum Found {
    Lease(Lease),
    Frame(Frame),
    Nothing(Sequence),
    Closed(Closed, Sequence),
}

impl SubscriptionStream {
    /// The next thing to say; `None` at the end. After an error there is no more.
    pub async fn next(&mut self) -> Result<Option<Said>, Deleted> {
        if self.ended {
            return Ok(None);
        }
        if std::mem::take(&mut self.gives_way) {
            tokio::task::yield_now().await;
        }
        loop {
            let frame = match self.look() {
                Found::Lease(lease) => match self.subscription.delivery(lease).await {
                    Some(delivery) => {
                        self.last_said = Instant::now();
                        return Ok(Some(Said::Delivery(delivery)));
                    }
                    None => continue,
                },
                Found::Frame(frame) => frame,
                Found::Closed(Closed::Deleted, _) => {
                    self.ended = true;
                    return Err(Deleted);
                }
                Found::Closed(Closed::Draining, position) => {
                    self.ended = true;
                    Frame::Draining(position)
                }
                Found::Nothing(position) => {
                    let heartbeat = self.last_said + self.heartbeat_interval;
                    if Instant::now() < heartbeat {
                        let _ = timeout_at(heartbeat, self.notify.notified()).await;
                        continue;
                    }
                    Frame::Heartbeat(position)
                }
            };
            self.last_said = Instant::now();
            return Ok(Some(Said::Frame(frame)));
        }
    }

    fn look(&mut self) -> Found {
        let subscription = &self.subscription;
        let mut dispatch = subscription.dispatch.lock();
        let acknowledged = dispatch.acknowledge_taken(self.id);
        let position = dispatch.position();
        let found = if let Some(why) = dispatch.closed() {
            Found::Closed(why, position)
        } else if let (gaps, Some(Gap { after, trimmed })) = dispatch.gap()
            && gaps != self.gaps
        {
            self.gaps = gaps;
            Found::Frame(Frame::Gap { after, trimmed })
        } else if let Some(lease) = dispatch.take(self.id, subscription.now()) {
            self.gives_way = dispatch.others_look();
            Found::Lease(lease)
        } else if !self.caught_up && dispatch.is_caught_up() {
            self.caught_up = true;
            Found::Frame(Frame::CaughtUp(dispatch.position()))
        } else {
            Found::Nothing(position)
        };
        drop(dispatch);
        if acknowledged {
            subscription.ask();
        }
        found
    }
}

impl Drop for SubscriptionStream {
    fn drop(&mut self) {
        let subscription = &self.subscription;
        let mut dispatch = subscription.dispatch.lock();
        if dispatch.close_stream(self.id, subscription.now()) {
            drop(subscription.feeding.lock().take());
            *subscription.last_used.lock() = Instant::now();
        }
        drop(dispatch);
        subscription.ask();
    }
}

fn moment(clock: &Clock) -> Moment {
    Moment {
        instant: Instant::now(),
        time: clock.now(),
    }
}
