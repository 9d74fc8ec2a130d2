//! Work that consumers of every kind share while the process is killed. Claims that what was settled stays so
//! and that the rest comes, in order where that was asked for, by a checker that is itself checked; and that
//! it holds at size.
//!
//! `HOOKSTREAM_WORK_CRASHES` sets the number of kills (10 if unset), `HOOKSTREAM_SEED` the seed, which is
//! printed.

mod checker;
mod story;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt};
use hookstream::grpc::proto::{
    self, AcknowledgementResult, Position, Subscription,
    manage_subscription_request::{DiscardDeadLetters, Operation, Seek, seek::Target},
    manage_subscription_response::Result as Answer,
};
use hookstream::secret::Secret;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::Status;

use self::checker::{Entry, History, Known, Verdict, promises, violations};
use crate::{
    cluster::{SECRET, replica},
    fleet::{Addresses, Fleet},
    harness::{
        Client, Delivery, Hookstream, Sender, Stream, about, acknowledge, done, files, from_environment,
        http, manage_subscription, millis, part_in, standing, until,
    },
};

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
    assert_eq!(handle_three(&work, directory).await, [""; 0]);
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
