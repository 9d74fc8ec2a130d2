//! Work that consumers of every kind share while the process is killed. Claims that what was settled stays so
//! and that the rest comes, in order where that was asked for, by a checker that is itself checked; and that
//! it holds at size.
//!
//! `HOOKSTREAM_WORK_CRASHES` sets the number of kills (10 if unset), `HOOKSTREAM_SEED` the seed, which is
//! printed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt};
use hookstream::grpc::proto::{
    self, AcknowledgementResult, DeadLetterReason, Event, Position, Subscription,
    acknowledge_events_request::Outcome,
    manage_subscription_request::{DiscardDeadLetters, Operation, Seek, seek::Target},
    manage_subscription_response::Result as Answer,
};
use hookstream::secret::Secret;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::Status;

use crate::{
    cluster::{SECRET, replica},
    fleet::{Addresses, Fleet},
    harness::{
        Client, Delivery, Hookstream, Sender, Stream, about, acknowledge, done, extend, files,
        from_environment, http, manage_subscription, millis, number, part_in, reject, retry, standing, until,
    },
};

/// What was seen of one subscription, from outside.
#[derive(Clone, Debug, Default)]
struct History {
    terms: Subscription,
    /// In the order in which it was seen: the place of an entry is its time.
    entries: Vec<Entry>,
    /// What the log held at the end.
    stored: Vec<Known>,
    /// What had been put aside at the end, since the last move: why, and after how many attempts.
    put_aside: BTreeMap<u64, (DeadLetterReason, i32)>,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    sequence: u64,
    /// What its producer calls it.
    number: u64,
    entity: String,
}

/// Calls are named by their time. What a test does is noted before it does it, what happens to it afterwards.
#[derive(Clone, Debug)]
enum Entry {
    /// An event is about to be delivered to the service.
    Produced { number: u64 },
    /// A stream is about to be opened.
    Opened,
    /// A stream gave an event.
    Received {
        stream: usize,
        event: Known,
        ack_id: String,
        attempt: i32,
    },
    /// Something is about to be said of events.
    Asked { verdict: Verdict, ack_ids: Vec<String> },
    /// That was answered.
    Answered {
        asked: usize,
        results: Vec<AcknowledgementResult>,
    },
    /// The subscription was moved to after this sequence, and its dead letters were forgotten, while nobody
    /// used it.
    Moved { after: u64 },
}

/// What a consumer says of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Done,
    Reject,
    Retry,
    Extend,
}

impl Verdict {
    fn outcome(self) -> Outcome {
        match self {
            Self::Done => done(),
            Self::Reject => reject(),
            Self::Retry => retry(None),
            Self::Extend => extend(millis(3000)),
        }
    }

    fn settles(self) -> bool {
        matches!(self, Self::Done | Self::Reject)
    }
}

/// The promises that a history breaks. Each begins with the promise:
///
/// - `lost`: at the end every event is done or put aside.
/// - `again`: no event is handed out after the answer that it was settled. It may be *received* after it: it
///   was in the consumer's buffers, from an attempt whose deadline had passed. What is certain is that a
///   stream gives events in the order in which they were handed to it. So an event was handed out again if
///   its stream was opened after the answer, or if the stream gave an event before it that was only produced
///   after the answer.
/// - `order`: with PER_ENTITY no event comes while an earlier one of its entity was not settled. Settled
///   means that somebody asked for it before, and that the answer was not that it is too late. An ask whose
///   answer a crash swallowed counts.
/// - `twice`: no event is settled twice.
/// - `lease`: no attempt is handed out twice.
/// - `attempt`: attempts count from 1 to as many as there may be.
/// - `unknown`: what was given out is known, also after a crash.
/// - `moved`: what was handed out before a move is not accepted after it, and what lies before its target
///   does not come.
/// - `aside`: what is put aside was rejected or failed as often as it may, and was not done.
/// - `stored`: only what the log holds comes.
fn violations(history: &History) -> Vec<String> {
    let mut checker = Checker::new(history);
    for (time, entry) in history.entries.iter().enumerate() {
        match entry {
            Entry::Produced { .. } | Entry::Opened => {}
            Entry::Received {
                stream,
                event,
                ack_id,
                attempt,
            } => checker.received(*stream, event, ack_id, *attempt),
            Entry::Asked { verdict, ack_ids } => checker.asked(time, *verdict, ack_ids),
            Entry::Answered { asked, results } => checker.answered(time, *asked, results),
            Entry::Moved { after } => checker.moved(*after),
        }
    }
    checker.end();
    checker.violations
}

/// What is known at one time of a history.
struct Checker<'a> {
    history: &'a History,
    /// When events were produced, by their numbers.
    produced: HashMap<u64, usize>,
    /// The answers of all calls, also of those that are yet to come.
    results: HashMap<usize, &'a [AcknowledgementResult]>,
    stored: HashMap<u64, &'a Known>,
    /// For each stream: what it gives from now on was handed out after this time.
    handed_out_after: HashMap<usize, usize>,
    /// The event of each ack id, and how many moves there had been.
    leases: HashMap<&'a str, (&'a Known, usize)>,
    moves: usize,
    /// What lies up to here is not to come.
    skipped: u64,
    /// Events that may be settled since the last move, and how.
    settling: BTreeMap<u64, BTreeSet<Verdict>>,
    /// Events that are settled since the last move, when that was known, and how.
    settled: BTreeMap<u64, (usize, Verdict)>,
    violations: Vec<String>,
}

impl<'a> Checker<'a> {
    fn new(history: &'a History) -> Self {
        let mut produced = HashMap::new();
        let mut results = HashMap::new();
        for (time, entry) in history.entries.iter().enumerate() {
            match entry {
                Entry::Produced { number } => {
                    produced.insert(*number, time);
                }
                Entry::Answered { asked, results: all } => {
                    results.insert(*asked, all.as_slice());
                }
                _ => {}
            }
        }
        let stored = history.stored.iter().map(|event| (event.sequence, event));
        Self {
            history,
            produced,
            results,
            stored: stored.collect(),
            handed_out_after: HashMap::new(),
            leases: HashMap::new(),
            moves: 0,
            skipped: 0,
            settling: BTreeMap::new(),
            settled: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    fn violated(&mut self, promise: &str, what: String) {
        self.violations.push(format!("{promise}: {what}"));
    }

    fn received(&mut self, stream: usize, event: &'a Known, ack_id: &'a str, attempt: i32) {
        let sequence = event.sequence;
        if self.stored.get(&sequence) != Some(&event) {
            self.violated("stored", format!("{event:?} is not what the log holds"));
        }
        if self.leases.insert(ack_id, (event, self.moves)).is_some() {
            self.violated("lease", format!("{ack_id} of {sequence} was handed out twice"));
        }
        if !(1..=self.history.terms.max_attempts).contains(&attempt) {
            self.violated("attempt", format!("attempt {attempt} of {sequence}"));
        }
        if sequence <= self.skipped {
            self.violated(
                "moved",
                format!("{sequence} came although it lies before the target"),
            );
        }
        let produced = self.produced.get(&event.number).copied().unwrap_or(stream);
        let after = self.handed_out_after.entry(stream).or_insert(stream);
        *after = (*after).max(produced);
        let after = *after;
        if let Some(&(answered, verdict)) = self.settled.get(&sequence)
            && answered < after
        {
            let what = format!(
                "{sequence} was handed out after {after}, and {verdict:?} was accepted at {answered}"
            );
            self.violated("again", what);
        }
        if self.history.terms.ordering() == proto::Ordering::PerEntity && !event.entity.is_empty() {
            let history = self.history;
            for earlier in &history.stored {
                let comes_before = earlier.entity == event.entity
                    && earlier.sequence > self.skipped
                    && earlier.sequence < sequence;
                if comes_before && !self.settling.contains_key(&earlier.sequence) {
                    self.violated(
                        "order",
                        format!("{sequence} came before {} was settled", earlier.sequence),
                    );
                }
            }
        }
    }

    fn asked(&mut self, time: usize, verdict: Verdict, ack_ids: &[String]) {
        let results = self.results.get(&time).copied();
        for (at, ack_id) in ack_ids.iter().enumerate() {
            let (event, moves) = self.leases[ack_id.as_str()];
            let accepted = |results: &[AcknowledgementResult]| results[at] == AcknowledgementResult::Accepted;
            let may_hold = moves == self.moves && results.is_none_or(accepted);
            if verdict.settles() && may_hold {
                self.settling.entry(event.sequence).or_default().insert(verdict);
            }
        }
    }

    fn answered(&mut self, time: usize, asked: usize, results: &[AcknowledgementResult]) {
        let history = self.history;
        let Entry::Asked { verdict, ack_ids } = &history.entries[asked] else {
            panic!("an answer to nothing")
        };
        assert_eq!(results.len(), ack_ids.len(), "an answer for each");
        for (ack_id, result) in ack_ids.iter().zip(results) {
            let (event, moves) = self.leases[ack_id.as_str()];
            let sequence = event.sequence;
            match result {
                AcknowledgementResult::Late => {}
                AcknowledgementResult::Accepted if moves != self.moves => {
                    self.violated(
                        "moved",
                        format!("{ack_id} of {sequence} was accepted after a move"),
                    );
                }
                AcknowledgementResult::Accepted => {
                    if verdict.settles() && self.settled.insert(sequence, (time, *verdict)).is_some() {
                        self.violated("twice", format!("{sequence} was settled twice"));
                    }
                }
                AcknowledgementResult::Unknown | AcknowledgementResult::Unspecified => {
                    self.violated("unknown", format!("{ack_id} of {sequence} is {result:?}"));
                }
            }
        }
    }

    fn moved(&mut self, after: u64) {
        self.moves += 1;
        self.skipped = after;
        self.settling.clear();
        self.settled.clear();
    }

    fn end(&mut self) {
        let history = self.history;
        let sequences = history.stored.iter().map(|event| event.sequence);
        let skipped = self.skipped;
        for sequence in sequences.filter(|&sequence| sequence > skipped) {
            let is_put_aside = history.put_aside.contains_key(&sequence);
            if !is_put_aside && !self.settling.contains_key(&sequence) {
                self.violated("lost", format!("{sequence} was neither done nor put aside"));
            }
            let settled = self.settled.get(&sequence).map(|&(_, verdict)| verdict);
            if !is_put_aside && settled == Some(Verdict::Reject) {
                self.violated("lost", format!("{sequence} was rejected and is not put aside"));
            }
            if is_put_aside && settled == Some(Verdict::Done) {
                self.violated("aside", format!("{sequence} was done and is put aside"));
            }
        }
        for (&sequence, &(reason, attempts)) in &history.put_aside {
            let verdicts = self.settling.get(&sequence);
            let is_due = match reason {
                DeadLetterReason::Unspecified => false,
                DeadLetterReason::MaxAttempts => attempts == history.terms.max_attempts,
                DeadLetterReason::Rejected => {
                    verdicts.is_some_and(|verdicts| verdicts.contains(&Verdict::Reject))
                }
            };
            if !is_due {
                self.violated(
                    "aside",
                    format!("{sequence}: {reason:?} after {attempts} attempts"),
                );
            }
        }
    }
}

impl From<&Event> for Known {
    fn from(event: &Event) -> Self {
        Self {
            sequence: event.sequence,
            number: number(event),
            entity: event.entity_id.clone(),
        }
    }
}

/// A subscription that is watched.
#[derive(Clone)]
struct Work {
    name: &'static str,
    history: Arc<Mutex<History>>,
    /// What consumers held when they went. Whoever knows of it may still acknowledge it.
    left: Arc<Mutex<Vec<String>>>,
}

impl Work {
    async fn start(service: &Hookstream, name: &'static str, terms: Subscription) -> Self {
        service.subscription(name, terms.clone()).await;
        let history = History {
            terms,
            ..History::default()
        };
        Self {
            name,
            history: Arc::new(Mutex::new(history)),
            left: Arc::default(),
        }
    }

    /// Notes what is seen; when that was.
    fn note(&self, entry: Entry) -> usize {
        let mut history = self.history.lock().unwrap();
        history.entries.push(entry);
        history.entries.len() - 1
    }

    fn now(&self) -> usize {
        self.history.lock().unwrap().entries.len()
    }

    fn leave(&self, ack_ids: Vec<String>) {
        self.left.lock().unwrap().extend(ack_ids);
    }

    async fn consumer(&self, seed: u64, life: &Arc<Life>) -> Consumer {
        Consumer {
            work: self.clone(),
            client: life.addresses.client().await.expect("a service that runs"),
            life: Arc::clone(life),
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// Moves the subscription to anywhere, while nobody uses it. What was put aside before is forgotten, so
    /// that what is there at the end was put aside after the last move.
    async fn move_anywhere(&self, service: &Hookstream, random: &mut StdRng) {
        let mut client = service.client().await;
        let discard = DiscardDeadLetters {
            name: self.name.to_owned(),
            event_ids: Vec::new(),
        };
        let answer = manage_subscription(&mut client, Operation::DiscardDeadLetters(discard)).await;
        let Answer::DiscardDeadLetters(counts) = answer.unwrap() else {
            panic!("another answer")
        };
        assert_eq!(counts.remaining, 0);
        let stored = service.stored().await;
        let (target, after) = match random.random_range(0..=stored.len()) {
            0 => (Target::Position(Position::Earliest.into()), 0),
            count => {
                let last = &stored[count - 1];
                (Target::AfterCursor(last.cursor.clone()), last.sequence)
            }
        };
        let seek = Seek {
            name: self.name.to_owned(),
            target: Some(target),
        };
        manage_subscription(&mut client, Operation::Seek(seek))
            .await
            .unwrap();
        self.note(Entry::Moved { after });
    }

    async fn until_settled(&self, service: &Hookstream) {
        let client = service.client().await;
        let settled = async || standing(&client, self.name).await.backlog == 0;
        until("everything is settled", settled).await;
    }

    /// What was seen, with what is there at the end.
    async fn history(&self, service: &Hookstream) -> History {
        let stored = service.stored().await.iter().map(Known::from).collect();
        let dead_letters = service.dead_letters(self.name).await;
        let put_aside = dead_letters
            .iter()
            .map(|(event, dead_letter)| (event.sequence, (dead_letter.reason(), dead_letter.attempts)));
        let history = self.history.lock().unwrap().clone();
        History {
            stored,
            put_aside: put_aside.collect(),
            ..history
        }
    }
}

/// How a consumer works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Acknowledges each event at once.
    Prompt,
    /// Takes its time for each.
    Slow,
    /// Ends its stream while it holds some, and opens another.
    Dying,
    /// Acknowledges each twice.
    Twice,
    /// Acknowledges when the deadline has passed.
    Late,
    /// Takes some and acknowledges the last first.
    Backwards,
    /// Takes some and acknowledges them together.
    Batches,
    /// Asks for some of them again.
    Retrying,
    /// Rejects some.
    Rejecting,
    /// Asks for more time, and needs it.
    Extending,
    /// Acknowledges what others held when they went, then as the prompt one.
    Heir,
}

const MANNERS: [Manner; 11] = [
    Manner::Prompt,
    Manner::Slow,
    Manner::Dying,
    Manner::Twice,
    Manner::Late,
    Manner::Backwards,
    Manner::Batches,
    Manner::Retrying,
    Manner::Rejecting,
    Manner::Extending,
    Manner::Heir,
];

/// A little longer than the deadline that consumers have.
const TOO_LONG: Duration = Duration::from_millis(1100);

/// What those who use a service know of it from outside.
#[derive(Default)]
struct Life {
    addresses: Arc<Addresses>,
    /// Somebody is killed now and then: a call may fail.
    is_dangerous: AtomicBool,
    is_over: AtomicBool,
}

impl Life {
    /// That of one process, which is safe until it ends.
    fn of(service: &Hookstream) -> Arc<Self> {
        Arc::new(Self {
            addresses: Arc::new(Addresses::of(service)),
            ..Self::default()
        })
    }

    /// From now on any call may fail, and nobody tries again.
    fn end(&self) {
        self.is_dangerous.store(true, Ordering::SeqCst);
        self.is_over.store(true, Ordering::SeqCst);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    fn is_dangerous(&self) -> bool {
        self.is_dangerous.load(Ordering::SeqCst)
    }
}

struct Consumer {
    work: Work,
    client: Client,
    life: Arc<Life>,
    random: StdRng,
}

impl Consumer {
    /// Works until the life is over, at one replica after another.
    async fn work(mut self, manner: Manner) {
        loop {
            self.work_here(manner).await;
            self.client = loop {
                if self.life.is_over() {
                    return;
                }
                if let Some(client) = self.life.addresses.client().await {
                    break client;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
        }
    }

    /// Works until a call fails.
    async fn work_here(&mut self, manner: Manner) {
        if manner == Manner::Heir {
            let left = std::mem::take(&mut *self.work.left.lock().unwrap());
            for ack_ids in left.chunks(1000) {
                if self.say(Verdict::Done, ack_ids.to_vec()).await.is_none() {
                    return;
                }
            }
        }
        while self.shift(manner).await.is_some() {}
    }

    /// Works until the consumer ends its stream; `None` if the service was killed.
    async fn shift(&mut self, manner: Manner) -> Option<()> {
        let (stream, mut frames) = self.open().await?;
        loop {
            let wanted = match manner {
                Manner::Dying | Manner::Late | Manner::Backwards | Manner::Batches => {
                    self.random.random_range(1..=8)
                }
                _ => 1,
            };
            let mut held = Vec::new();
            while held.len() < wanted {
                let Some(ack_id) = self.receive(stream, &mut frames).await else {
                    self.work.leave(held);
                    return None;
                };
                held.push(ack_id);
            }
            match manner {
                Manner::Prompt | Manner::Batches | Manner::Heir => self.say(Verdict::Done, held).await?,
                Manner::Slow => {
                    let pause = Duration::from_millis(self.random.random_range(0..300));
                    tokio::time::sleep(pause).await;
                    self.say(Verdict::Done, held).await?;
                }
                Manner::Dying => {
                    self.work.leave(held);
                    return Some(());
                }
                Manner::Twice => {
                    self.say(Verdict::Done, held.clone()).await?;
                    self.say(Verdict::Done, held).await?;
                }
                Manner::Late => {
                    tokio::time::sleep(TOO_LONG).await;
                    self.say(Verdict::Done, held).await?;
                }
                Manner::Backwards => {
                    while let Some(ack_id) = held.pop() {
                        self.say(Verdict::Done, vec![ack_id]).await?;
                    }
                }
                Manner::Retrying => {
                    let again = self.random.random_ratio(1, 2);
                    let verdict = if again { Verdict::Retry } else { Verdict::Done };
                    self.say(verdict, held).await?;
                }
                Manner::Rejecting => {
                    let rejects = self.random.random_ratio(1, 8);
                    let verdict = if rejects { Verdict::Reject } else { Verdict::Done };
                    self.say(verdict, held).await?;
                }
                Manner::Extending => {
                    self.say(Verdict::Extend, held.clone()).await?;
                    tokio::time::sleep(TOO_LONG).await;
                    self.say(Verdict::Done, held).await?;
                }
            }
        }
    }

    fn unless_killed<T>(&self, result: Result<T, Status>) -> Option<T> {
        if let Err(status) = &result {
            assert!(self.life.is_dangerous(), "{status:?}");
        }
        result.ok()
    }

    async fn open(&mut self) -> Option<(usize, Stream)> {
        let stream = self.work.note(Entry::Opened);
        let opened = self.client.subscribe_events(part_in(self.work.name)).await;
        let frames = self.unless_killed(opened)?.into_inner();
        Some((stream, frames.into()))
    }

    async fn receive(&mut self, stream: usize, frames: &mut Stream) -> Option<String> {
        let next = frames.next_delivery().await;
        let next = self.unless_killed(next)?;
        assert!(next.is_some() || self.life.is_dangerous(), "the stream ends");
        let delivery = next?;
        self.work.note(Entry::Received {
            stream,
            event: Known::from(&delivery.event),
            ack_id: delivery.ack_id.clone(),
            attempt: delivery.attempt,
        });
        Some(delivery.ack_id)
    }

    async fn say(&mut self, verdict: Verdict, ack_ids: Vec<String>) -> Option<()> {
        let asked = self.work.note(Entry::Asked {
            verdict,
            ack_ids: ack_ids.clone(),
        });
        let answer = acknowledge(&mut self.client, self.work.name, ack_ids, verdict.outcome()).await;
        let results = self.unless_killed(answer)?;
        self.work.note(Entry::Answered { asked, results });
        Some(())
    }
}

/// Delivers new events about a few entities, and about none, until the life is over; in a dangerous one again and again
/// until they are taken.
async fn produce(secret: String, works: Vec<Work>, next: Arc<AtomicU64>, seed: u64, life: Arc<Life>) {
    let (http, mut random) = (http(), StdRng::seed_from_u64(seed));
    while !life.is_over() {
        let number = next.fetch_add(1, Ordering::SeqCst);
        for work in &works {
            work.note(Entry::Produced { number });
        }
        let entity = match random.random_range(0..9) {
            0 => String::new(),
            entity => format!("video-{entity}"),
        };
        loop {
            let answer = match life.addresses.ingress() {
                Some(ingress) => {
                    let sender = Sender {
                        http: http.clone(),
                        url: format!("http://{ingress}/webhooks/dev"),
                        secret: Secret::new(secret.clone()).unwrap(),
                    };
                    sender.try_deliver(about(&entity, number)).await.ok()
                }
                None => None,
            };
            if answer == Some(200) || life.is_over() {
                break;
            }
            assert!(
                life.is_dangerous() && matches!(answer, None | Some(503)),
                "{answer:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // More than a few hundred a second would only be a longer wait at the end.
        let pause = Duration::from_millis(random.random_range(5..20));
        tokio::time::sleep(pause).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_stays_so_and_the_rest_comes_whenever_the_process_is_killed() {
    let crashes = from_environment("HOOKSTREAM_WORK_CRASHES").unwrap_or(10);
    let seed = from_environment("HOOKSTREAM_SEED").unwrap_or_else(rand::random);
    println!("HOOKSTREAM_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut service = Hookstream::start();
    let secret = service.endpoint("dev").await.secret.expose().to_owned();
    let mut works = Vec::new();
    for (name, terms) in terms() {
        works.push(Work::start(&service, name, terms).await);
    }
    let next = Arc::new(AtomicU64::new(0));
    for _ in 0..crashes {
        for work in &works {
            if random.random_ratio(1, 4) {
                work.move_anywhere(&service, &mut random).await;
            }
        }
        let life = Life::of(&service);
        let tasks = begin(&works, &secret, &next, &life, &mut random).await;
        let alive = Duration::from_millis(random.random_range(300..2000));
        tokio::time::sleep(alive).await;
        life.end();
        let directory = service.kill();
        // What the streams and calls of one life gave is noted before the next begins.
        for task in tasks {
            task.await.unwrap();
        }
        service = Hookstream::start_in(directory, &[], &HashMap::new());
    }

    finish(&works, service, crashes, &mut random).await;
}

/// The terms of two subscriptions that are worked.
fn terms() -> [(&'static str, Subscription); 2] {
    let terms = Subscription {
        ack_deadline: millis(1000),
        min_retry_delay: millis(0),
        max_attempts: 6,
        max_unacknowledged_per_stream: 10,
        ..Subscription::default()
    };
    // As many attempts as it takes: a crash may forget that the last one failed after the next event of the
    // entity was handed out, and then the two look out of order.
    let ordered = Subscription {
        max_attempts: 1000,
        ordering: proto::Ordering::PerEntity.into(),
        ..terms.clone()
    };
    [("unordered", terms), ("ordered", ordered)]
}

/// Begins to produce events and to work them, in all manners.
async fn begin(
    works: &[Work],
    secret: &str,
    next: &Arc<AtomicU64>,
    life: &Arc<Life>,
    random: &mut StdRng,
) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    for _ in 0..2 {
        tasks.push(tokio::spawn(produce(
            secret.to_owned(),
            works.to_vec(),
            Arc::clone(next),
            random.random(),
            Arc::clone(life),
        )));
    }
    for work in works {
        let any = (0..4).map(|_| MANNERS[random.random_range(0..MANNERS.len())]);
        let mut manners: Vec<_> = any.collect();
        // Without these a life may prove little.
        manners.extend([Manner::Prompt, Manner::Heir, Manner::Dying, Manner::Retrying]);
        for manner in manners {
            let consumer = work.consumer(random.random(), life).await;
            tasks.push(tokio::spawn(consumer.work(manner)));
        }
    }
    tasks
}

/// Works off what is left, and looks whether every promise was kept.
async fn finish(works: &[Work], service: Hookstream, faults: u64, random: &mut StdRng) {
    let life = Life::of(&service);
    let mut tasks = Vec::new();
    for work in works {
        for _ in 0..5 {
            let consumer = work.consumer(random.random(), &life).await;
            tasks.push(tokio::spawn(consumer.work(Manner::Prompt)));
        }
    }
    let mut histories = Vec::new();
    for work in works {
        work.until_settled(&service).await;
    }
    for work in works {
        histories.push(work.history(&service).await);
    }
    life.end();
    service.kill();
    for task in tasks {
        task.await.unwrap();
    }
    for (work, history) in works.iter().zip(&histories) {
        let counts = Counts::of(history);
        println!("{}: {faults} faults, {counts:?}", work.name);
        assert!(
            counts.accepted > faults && counts.redelivered > faults,
            "the load is too small to prove anything"
        );
        assert_eq!(violations(history), Vec::<String>::new(), "{}", work.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: see tests/run"]
async fn the_same_holds_for_replicas_whatever_happens_to_them_their_servers_and_the_network() {
    let faults = from_environment("HOOKSTREAM_WORK_CRASHES").unwrap_or(10);
    let seed = from_environment("HOOKSTREAM_SEED").unwrap_or_else(rand::random);
    println!("HOOKSTREAM_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut fleet = Fleet::start().await;
    let life = Arc::new(Life {
        addresses: Arc::clone(&fleet.addresses),
        is_dangerous: AtomicBool::new(true),
        is_over: AtomicBool::default(),
    });
    let mut works = Vec::new();
    for (name, terms) in terms() {
        works.push(Work::start(fleet.replicas().next().unwrap(), name, terms).await);
    }
    let next = Arc::new(AtomicU64::new(0));
    let tasks = begin(&works, SECRET, &next, &life, &mut random).await;
    for _ in 0..faults {
        // Now and then long enough for another to have taken over.
        let peace = Duration::from_millis(random.random_range(300..9000));
        tokio::time::sleep(peace).await;
        println!("{}", fleet.fault(&mut random).await);
    }
    life.end();
    let (nats, directory) = fleet.kill();
    for task in tasks {
        task.await.unwrap();
    }
    let last = tokio::task::block_in_place(|| replica(&nats, directory));
    finish(&works, last, faults, &mut random).await;
}

/// How much a history has to prove anything with. Read by people.
#[derive(Debug, Default)]
#[allow(dead_code, reason = "shown by Debug")]
struct Counts {
    stored: usize,
    put_aside: usize,
    received: u64,
    redelivered: u64,
    accepted: u64,
    late: u64,
    moves: u64,
}

impl Counts {
    fn of(history: &History) -> Self {
        let mut counts = Self {
            stored: history.stored.len(),
            put_aside: history.put_aside.len(),
            ..Self::default()
        };
        for entry in &history.entries {
            match entry {
                Entry::Received { attempt, .. } => {
                    counts.received += 1;
                    counts.redelivered += u64::from(*attempt > 1);
                }
                Entry::Answered { results, .. } => {
                    for result in results {
                        counts.accepted += u64::from(*result == AcknowledgementResult::Accepted);
                        counts.late += u64::from(*result == AcknowledgementResult::Late);
                    }
                }
                Entry::Moved { .. } => counts.moves += 1,
                _ => {}
            }
        }
        counts
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_five_consumers_loses_nothing_and_doubles_nothing_that_was_acknowledged() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    let terms = Subscription {
        min_retry_delay: millis(0),
        max_attempts: 1000,
        ..Subscription::default()
    };
    let work = Work::start(&service, "work", terms).await;
    let (production, life) = (Life::of(&service), Life::of(&service));
    let mut consumers = Vec::new();
    for seed in 0..5 {
        let consumer = work.consumer(seed, &life).await;
        consumers.push(tokio::spawn(consumer.work(Manner::Prompt)));
    }
    let producers: Vec<_> = (0..4)
        .map(|seed| {
            let next = Arc::new(AtomicU64::new(seed << 32));
            let works = vec![work.clone()];
            let secret = sender.secret.expose().to_owned();
            tokio::spawn(produce(secret, works, next, seed, Arc::clone(&production)))
        })
        .collect();
    for round in 0..3 {
        for consumer in &mut consumers {
            assert!(!consumer.is_finished(), "it has failed");
            // In the middle of whatever it does.
            consumer.abort();
            let restarted = work.now();
            let new = work.consumer(round, &life).await;
            *consumer = tokio::spawn(new.work(Manner::Prompt));
            let works = async || {
                let history = work.history.lock().unwrap();
                let since = &history.entries[restarted..];
                since
                    .iter()
                    .any(|entry| matches!(entry, Entry::Received { stream, .. } if *stream >= restarted))
            };
            until("the new one gets events", works).await;
        }
    }
    production.end();
    for producer in producers {
        producer.await.unwrap();
    }
    work.until_settled(&service).await;
    let history = work.history(&service).await;
    life.end();
    service.kill();
    for consumer in consumers {
        consumer.await.unwrap();
    }
    println!("{:?}", Counts::of(&history));
    assert!(history.put_aside.is_empty());
    assert_eq!(violations(&history), Vec::<String>::new());
}

/// Handles whatever is there, a batch at a time, and notes which attempts it was.
async fn handle(mut stream: Stream, mut client: Client, handled: Arc<Mutex<Vec<(u64, i32)>>>) {
    const BATCH: usize = 500;
    let mut held: Vec<Delivery> = Vec::new();
    loop {
        let mut next = None;
        if held.len() < BATCH {
            next = stream.next_delivery().now_or_never();
        }
        if next.is_none() && held.is_empty() {
            next = Some(stream.next_delivery().await);
        }
        if let Some(next) = next {
            held.push(next.unwrap().expect("the stream ends"));
            continue;
        }
        let ack_ids: Vec<_> = held.iter().map(|delivery| delivery.ack_id.clone()).collect();
        let results = acknowledge(&mut client, "work", ack_ids, done()).await.unwrap();
        assert!(
            results
                .iter()
                .all(|&result| result == AcknowledgementResult::Accepted)
        );
        let batch = held
            .drain(..)
            .map(|delivery| (delivery.event.sequence, delivery.attempt));
        handled.lock().unwrap().extend(batch);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_a_hundred_thousand_is_handed_out_without_one_redelivery() {
    const EVENTS: u64 = 100_000;
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    let terms = Subscription {
        max_unacknowledged_per_stream: 1000,
        max_unacknowledged: 4000,
        ..Subscription::default()
    };
    service.subscription("work", terms).await;
    let deliveries = (0..EVENTS).map(|number| {
        let (sender, body) = (sender.clone(), about(&format!("video-{number}"), number));
        async move { assert_eq!(sender.deliver(body).await, 200) }
    });
    futures_util::stream::iter(deliveries)
        .for_each_concurrent(64, |delivery| delivery)
        .await;
    let client = service.client().await;
    assert_eq!(standing(&client, "work").await.backlog, EVENTS);

    let handled = Arc::new(Mutex::new(Vec::new()));
    let mut consumers = Vec::new();
    for _ in 0..4 {
        let stream = service.subscribe(part_in("work")).await;
        let client = service.client().await;
        consumers.push(tokio::spawn(handle(stream, client, Arc::clone(&handled))));
    }
    until("all are handled", async || {
        assert!(consumers.iter().all(|consumer| !consumer.is_finished()));
        handled.lock().unwrap().len() as u64 >= EVENTS
    })
    .await;
    assert_eq!(standing(&client, "work").await.backlog, 0);
    let mut handled = handled.lock().unwrap().clone();
    handled.sort_unstable();
    let attempts = handled.iter().filter(|&&(_, attempt)| attempt != 1).count();
    assert_eq!(attempts, 0, "every attempt is the first");
    let sequences: BTreeSet<_> = handled.iter().map(|&(sequence, _)| sequence).collect();
    assert_eq!(
        (sequences.len(), handled.len()),
        (EVENTS as usize, EVENTS as usize),
        "each came once"
    );
    until("the metrics know", async || {
        let (_, metrics) = service.admin("/metrics").await;
        let line = format!("hookstream_subscription_acknowledged_total{{subscription=\"work\"}} {EVENTS}\n");
        metrics.contains(&line)
    })
    .await;
    let redeliveries = r#"hookstream_subscription_redeliveries_total{subscription="work"}"#;
    assert_eq!(service.metric(redeliveries).await, 0.0);
}

/// A service that was set back behind what it answered stands for one that answers before it is durable.
#[tokio::test]
async fn the_checker_finds_a_service_that_forgets_what_it_accepted() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    let terms = Subscription {
        max_attempts: 10,
        ..Subscription::default()
    };
    let work = Work::start(&service, "work", terms).await;
    for number in 0..3 {
        assert_eq!(sender.deliver(about("a", number)).await, 200);
    }
    let directory = service.drain();
    let before = tempfile::tempdir().unwrap();
    std::fs::create_dir(before.path().join("data")).unwrap();
    for file in files(&directory.path().join("data")) {
        std::fs::copy(&file, before.path().join("data").join(file.file_name().unwrap())).unwrap();
    }
    assert_eq!(handle_three(&work, directory).await, NOTHING);
    let found = handle_three(&work, Arc::new(before)).await;
    let again = found.iter().filter(|promise| *promise == "again").count();
    let twice = found.iter().filter(|promise| *promise == "twice").count();
    assert_eq!((again, twice), (3, 3), "{found:?}");
}

/// Handles three events and kills the service; the promises that are broken then.
async fn handle_three(work: &Work, directory: Arc<TempDir>) -> Vec<String> {
    let service = Hookstream::start_in(directory, &[], &HashMap::new());
    let mut consumer = work.consumer(0, &Life::of(&service)).await;
    let (stream, mut frames) = consumer.open().await.unwrap();
    for _ in 0..3 {
        let ack_id = consumer.receive(stream, &mut frames).await.unwrap();
        consumer.say(Verdict::Done, vec![ack_id]).await.unwrap();
    }
    let history = work.history(&service).await;
    service.kill();
    promises(&history)
}

/// The promises that a history breaks, without what it says of them.
fn promises(history: &History) -> Vec<String> {
    let violations = violations(history);
    let promise = |violation: &String| violation.split(':').next().unwrap().to_owned();
    violations.iter().map(promise).collect()
}

/// A history told by hand: of three events, the first two about one entity, each with its number as its
/// sequence.
struct Story(History);

impl Story {
    fn new() -> Self {
        let event = |number, entity: &str| Known {
            sequence: number,
            number,
            entity: entity.to_owned(),
        };
        let terms = Subscription {
            max_attempts: 5,
            ordering: proto::Ordering::PerEntity.into(),
            ..Subscription::default()
        };
        Self(History {
            terms,
            stored: vec![event(1, "a"), event(2, "a"), event(3, "b")],
            ..History::default()
        })
    }

    fn note(&mut self, entry: Entry) -> usize {
        self.0.entries.push(entry);
        self.0.entries.len() - 1
    }

    fn opens(&mut self) -> usize {
        self.note(Entry::Opened)
    }

    fn receives(&mut self, stream: usize, number: usize, ack_id: &str) {
        self.receives_attempt(stream, number, ack_id, 1);
    }

    fn receives_attempt(&mut self, stream: usize, number: usize, ack_id: &str, attempt: i32) {
        let event = self.0.stored[number - 1].clone();
        self.note(Entry::Received {
            stream,
            event,
            ack_id: ack_id.to_owned(),
            attempt,
        });
    }

    fn says(&mut self, verdict: Verdict, ack_id: &str, result: Option<AcknowledgementResult>) {
        let ack_ids = vec![ack_id.to_owned()];
        let asked = self.note(Entry::Asked { verdict, ack_ids });
        if let Some(result) = result {
            let results = vec![result];
            self.note(Entry::Answered { asked, results });
        }
    }

    fn is_done(&mut self, ack_id: &str) {
        self.says(Verdict::Done, ack_id, Some(AcknowledgementResult::Accepted));
    }

    fn handles(&mut self, stream: usize, number: usize, ack_id: &str) {
        self.receives(stream, number, ack_id);
        self.is_done(ack_id);
    }

    fn moves(&mut self, after: u64) {
        self.note(Entry::Moved { after });
    }
}

fn told(tell: fn(&mut Story)) -> Vec<String> {
    let mut story = Story::new();
    tell(&mut story);
    promises(&story.0)
}

const ACCEPTED: Option<AcknowledgementResult> = Some(AcknowledgementResult::Accepted);
const LATE: Option<AcknowledgementResult> = Some(AcknowledgementResult::Late);
const UNKNOWN: Option<AcknowledgementResult> = Some(AcknowledgementResult::Unknown);
const NOTHING: [&str; 0] = [];

#[test]
fn the_checker_finds_nothing_where_nothing_is_broken() {
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            story.receives(stream, 2, "2a");
            story.says(Verdict::Retry, "2a", ACCEPTED);
            story.receives_attempt(stream, 2, "2b", 2);
            story.says(Verdict::Done, "2b", LATE);
            story.receives_attempt(stream, 2, "2c", 3);
            story.is_done("2c");
            story.says(Verdict::Done, "2c", LATE);
            story.handles(stream, 3, "3a");
        }),
        NOTHING
    );
    assert_eq!(
        told(|story| {
            let slow = story.opens();
            let stream = story.opens();
            story.handles(stream, 3, "3b");
            story.receives(slow, 3, "3a");
            story.handles(stream, 1, "1a");
            story.handles(stream, 2, "2a");
        }),
        NOTHING,
        "what was in the buffers of a stream is received after the answer"
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.receives(stream, 1, "1a");
            story.says(Verdict::Done, "1a", None);
            story.receives(stream, 2, "2a");
            let stream = story.opens();
            story.handles(stream, 1, "1b");
            story.says(Verdict::Done, "2a", ACCEPTED);
            story.handles(stream, 3, "3a");
        }),
        NOTHING,
        "a crash swallows an answer, and perhaps what was asked"
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.receives(stream, 1, "1a");
            story.says(Verdict::Reject, "1a", ACCEPTED);
            story.handles(stream, 2, "2a");
            story.0.put_aside.insert(1, (DeadLetterReason::Rejected, 1));
            story.0.put_aside.insert(3, (DeadLetterReason::MaxAttempts, 5));
        }),
        NOTHING,
        "what is put aside is settled"
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            story.handles(stream, 2, "2a");
            story.receives(stream, 3, "3a");
            story.moves(1);
            story.says(Verdict::Done, "3a", LATE);
            let stream = story.opens();
            story.handles(stream, 2, "2b");
            story.handles(stream, 3, "3b");
        }),
        NOTHING,
        "after a move all that follows comes again, and what lies before need not come"
    );
}

#[test]
fn the_checker_finds_what_is_lost_or_comes_again() {
    assert_eq!(told(|_| {}), ["lost", "lost", "lost"]);
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            story.handles(stream, 2, "2a");
            story.receives(stream, 3, "3a");
            story.says(Verdict::Done, "3a", LATE);
            story.says(Verdict::Extend, "3a", ACCEPTED);
            story.says(Verdict::Retry, "3a", ACCEPTED);
        }),
        ["lost"],
        "nothing that was said of the last one settles it"
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            let another = story.opens();
            story.receives(another, 1, "1b");
            story.handles(another, 2, "2a");
            story.handles(another, 3, "3a");
        }),
        ["again"],
        "to a stream that was opened after the answer"
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            let another = story.opens();
            story.handles(stream, 1, "1a");
            story.note(Entry::Produced { number: 3 });
            story.handles(another, 3, "3a");
            story.receives(another, 1, "1b");
            story.handles(another, 2, "2a");
        }),
        ["again"],
        "behind an event that was produced after the answer"
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            story.is_done("1a");
            story.handles(stream, 2, "2a");
            story.handles(stream, 3, "3a");
        }),
        ["twice"]
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            story.handles(stream, 2, "2a");
            story.receives(stream, 3, "3a");
            story.says(Verdict::Reject, "3a", ACCEPTED);
        }),
        ["lost"],
        "rejected and not put aside"
    );
}

#[test]
fn the_checker_finds_what_is_out_of_order() {
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.receives(stream, 1, "1a");
            story.receives(stream, 2, "2a");
            story.is_done("1a");
            story.is_done("2a");
            story.handles(stream, 3, "3a");
        }),
        ["order"],
        "two of an entity at a time"
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 2, "2a");
            story.handles(stream, 1, "1a");
            story.handles(stream, 3, "3a");
        }),
        ["order"],
        "the second first"
    );
    for not_settled in [LATE, UNKNOWN] {
        let mut story = Story::new();
        let stream = story.opens();
        story.receives(stream, 1, "1a");
        story.says(Verdict::Done, "1a", not_settled);
        story.receives(stream, 2, "2a");
        story.handles(stream, 1, "1b");
        story.is_done("2a");
        story.handles(stream, 3, "3a");
        let mut found = promises(&story.0);
        found.retain(|promise| promise != "unknown");
        assert_eq!(found, ["order"], "the first was asked for in vain");
    }
    assert_eq!(
        told(|story| {
            story.0.terms.ordering = proto::Ordering::None.into();
            let stream = story.opens();
            story.handles(stream, 2, "2a");
            story.handles(stream, 1, "1a");
            story.handles(stream, 3, "3a");
        }),
        NOTHING,
        "where no order was asked for, there is none"
    );
}

#[test]
fn the_checker_finds_ids_attempts_and_dead_letters_that_cannot_be() {
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            story.handles(stream, 2, "2a");
            story.receives(stream, 3, "3a");
            story.says(Verdict::Retry, "3a", UNKNOWN);
            story.receives_attempt(stream, 3, "3a", 6);
            story.is_done("3a");
        }),
        ["unknown", "lease", "attempt"]
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            story.handles(stream, 2, "2a");
            story.handles(stream, 3, "3a");
            story.0.stored.pop();
        }),
        ["stored"]
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            story.receives(stream, 2, "2a");
            story.says(Verdict::Retry, "2a", ACCEPTED);
            story.0.put_aside.insert(1, (DeadLetterReason::MaxAttempts, 5));
            story.0.put_aside.insert(2, (DeadLetterReason::Rejected, 1));
            story.0.put_aside.insert(3, (DeadLetterReason::MaxAttempts, 4));
        }),
        ["aside", "aside", "aside"],
        "it was done, it was never rejected, it had an attempt left"
    );
}

#[test]
fn the_checker_finds_moves_that_were_forgotten() {
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            story.handles(stream, 2, "2a");
            story.receives(stream, 3, "3a");
            story.moves(2);
            story.is_done("3a");
            let stream = story.opens();
            story.receives(stream, 2, "2b");
            story.handles(stream, 3, "3b");
        }),
        ["moved", "moved"],
        "what was handed out before is accepted, and what lies before comes"
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            story.handles(stream, 2, "2a");
            story.handles(stream, 3, "3a");
            story.moves(1);
        }),
        ["lost", "lost"],
        "what follows does not come again"
    );
}
