//! What a subscription promises to the streams that share it. Claims about ManageSubscription,
//! AcknowledgeEvents and the streams that name a subscription, one promise at a time.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use hookstream::grpc::proto::{
    self, AcknowledgeEventsRequest,
    AcknowledgementResult::{self, Accepted, Late, Unknown},
    AfterMaxAttempts, DeadLetterReason, Event, EventFilter, ListEventsRequest, ManageSubscriptionRequest,
    Position, SubscribeEventsRequest, Subscription, SubscriptionStatus,
    acknowledge_events_request::Outcome,
    manage_subscription_request::{
        Create, Delete, DiscardDeadLetters, Get, List, Operation, ReplayDeadLetters, Seek, Update, create,
        seek,
    },
    manage_subscription_response::Result as Answer,
    subscribe_events_request::Start,
    subscribe_events_response::Frame,
};
use tonic::{Code, Status};

use crate::harness::{
    Client, Delivery, Hookstream, PATIENCE, Sender, Stream, about, acknowledge, after, body, done, extend,
    field, manage_subscription, millis, number, part_in, reason, reject, retry, standing, subscription_in,
    types, until,
};

const NAME: &str = "work";
const HOUR: i64 = 3_600_000;

/// A service with an endpoint and a subscription.
struct Run {
    service: Hookstream,
    sender: Sender,
    client: Client,
}

impl Run {
    /// The subscription starts at the oldest event.
    async fn start(terms: Subscription) -> Self {
        let service = Hookstream::start();
        let sender = service.endpoint("dev").await;
        service.subscription(NAME, terms).await;
        let client = service.client().await;
        Self {
            service,
            sender,
            client,
        }
    }

    async fn kill_and_restart(self) -> Self {
        let service = self.service.kill_and_restart();
        let sender = service.sender("dev", self.sender.secret.expose());
        let client = service.client().await;
        Self {
            service,
            sender,
            client,
        }
    }

    /// Delivers events with these numbers, each about a video of its own.
    async fn deliver(&self, numbers: Range<u64>) {
        for number in numbers {
            self.deliver_about(&format!("video-{number}"), number).await;
        }
    }

    async fn deliver_about(&self, entity: &str, number: u64) {
        assert_eq!(self.sender.deliver(about(entity, number)).await, 200);
    }

    async fn stream(&self) -> Stream {
        self.service.subscribe(part()).await
    }

    /// One that holds at most so many events.
    async fn small_stream(&self, max_unacknowledged: i32) -> Stream {
        let request = SubscribeEventsRequest {
            max_unacknowledged,
            ..part()
        };
        self.service.subscribe(request).await
    }

    async fn say<'a>(
        &self,
        outcome: Outcome,
        deliveries: impl IntoIterator<Item = &'a Delivery>,
    ) -> Vec<AcknowledgementResult> {
        let ack_ids: Vec<_> = deliveries
            .into_iter()
            .map(|delivery| delivery.ack_id.clone())
            .collect();
        acknowledge(&mut self.client.clone(), NAME, ack_ids, outcome)
            .await
            .unwrap()
    }

    async fn manage(&self, operation: Operation) -> Result<Answer, Status> {
        manage_subscription(&mut self.client.clone(), operation).await
    }

    async fn status(&self) -> SubscriptionStatus {
        standing(&self.client, NAME).await
    }

    async fn move_to(&self, target: seek::Target) {
        let answer = self.manage(Operation::Seek(seek_to(Some(target)))).await.unwrap();
        assert_eq!(subscription_in(answer).name, NAME);
    }

    async fn update(&self, terms: Subscription, fields: &[&str]) -> Subscription {
        let answer = self.manage(Operation::Update(update(terms, fields))).await;
        subscription_in(answer.unwrap())
    }

    /// How many it hands out again, and how many stay.
    async fn replay(&self, event_ids: &[&str]) -> (u64, u64) {
        let replay = ReplayDeadLetters {
            name: NAME.into(),
            event_ids: event_ids.iter().map(|&id| id.into()).collect(),
        };
        let answer = self.manage(Operation::ReplayDeadLetters(replay)).await.unwrap();
        let Answer::ReplayDeadLetters(counts) = answer else {
            panic!("another answer: {answer:?}")
        };
        (counts.replayed, counts.remaining)
    }

    /// How many it forgets, and how many stay.
    async fn discard(&self, event_ids: &[&str]) -> (u64, u64) {
        let discard = DiscardDeadLetters {
            name: NAME.into(),
            event_ids: event_ids.iter().map(|&id| id.into()).collect(),
        };
        let answer = self.manage(Operation::DiscardDeadLetters(discard)).await.unwrap();
        let Answer::DiscardDeadLetters(counts) = answer else {
            panic!("another answer: {answer:?}")
        };
        (counts.discarded, counts.remaining)
    }

    /// What the subscription has put aside: numbers, attempts and reasons.
    async fn put_aside(&self) -> Vec<(u64, i32, DeadLetterReason)> {
        let dead_letters = self.service.dead_letters(NAME).await;
        let told = |(event, dead_letter): &(Event, proto::DeadLetter)| {
            assert_eq!(event.id, dead_letter.event_id);
            assert!(dead_letter.dead_lettered_at.is_some());
            (number(event), dead_letter.attempts, dead_letter.reason())
        };
        dead_letters.iter().map(told).collect()
    }

    /// A metric of the subscription, if there is one.
    async fn metric(&self, name: &str) -> Option<f64> {
        let start = format!("hookstream_subscription_{name}{{subscription=\"{NAME}\"}} ");
        let (_, text) = self.service.admin("/metrics").await;
        let value = text.lines().find_map(|line| line.strip_prefix(start.as_str()));
        value.map(|value| value.parse().unwrap())
    }
}

/// A part in the subscription; it tells soon that nothing comes.
fn part() -> SubscribeEventsRequest {
    SubscribeEventsRequest {
        heartbeat_interval: millis(1000),
        ..part_in(NAME)
    }
}

fn seek_to(target: Option<seek::Target>) -> Seek {
    Seek {
        name: NAME.into(),
        target,
    }
}

fn update(terms: Subscription, fields: &[&str]) -> Update {
    let subscription = Subscription {
        name: NAME.into(),
        ..terms
    };
    let paths = fields.iter().map(|&field| field.into()).collect();
    Update {
        subscription: Some(subscription),
        update_mask: Some(prost_types::FieldMask { paths }),
    }
}

/// What failed comes again at once.
fn hasty() -> Subscription {
    Subscription {
        min_retry_delay: millis(0),
        ..Subscription::default()
    }
}

/// What failed does not come again while a test runs.
fn patient() -> Subscription {
    Subscription {
        min_retry_delay: millis(HOUR),
        ..Subscription::default()
    }
}

fn per_entity() -> Subscription {
    Subscription {
        ordering: proto::Ordering::PerEntity.into(),
        ..hasty()
    }
}

fn numbers(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries
        .iter()
        .map(|delivery| number(&delivery.event))
        .collect()
}

/// The number of an event and which attempt it is.
fn told(delivery: &Delivery) -> (u64, i32) {
    (number(&delivery.event), delivery.attempt)
}

/// The next frame that is not just a sign of life.
async fn frame(stream: &mut Stream) -> Frame {
    loop {
        match stream.frame().await.unwrap().expect("the stream ends") {
            Frame::Heartbeat(_) => continue,
            frame => return frame,
        }
    }
}

fn refused(status: &Status) -> (Code, String) {
    (status.code(), reason(status))
}

fn not_found() -> (Code, String) {
    (Code::NotFound, "SUBSCRIPTION_NOT_FOUND".to_owned())
}

/// Handles every event of a stream at once.
async fn handle(mut stream: Stream, mut client: Client, handled: Arc<Mutex<Vec<u64>>>) {
    while let Ok(Some(delivery)) = stream.next_delivery().await {
        let ack_ids = vec![delivery.ack_id.clone()];
        let results = acknowledge(&mut client, NAME, ack_ids, done()).await.unwrap();
        assert_eq!(results, [Accepted]);
        handled.lock().unwrap().push(number(&delivery.event));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_goes_to_one_of_three_streams_and_all_come() {
    let run = Run::start(Subscription::default()).await;
    let handled = Arc::new(Mutex::new(Vec::new()));
    for _ in 0..3 {
        let stream = run.stream().await;
        let client = run.service.client().await;
        tokio::spawn(handle(stream, client, Arc::clone(&handled)));
    }
    run.deliver(0..200).await;
    until("everything is settled", async || run.status().await.backlog == 0).await;
    until("every answer has come", async || {
        handled.lock().unwrap().len() >= 200
    })
    .await;
    let mut all = handled.lock().unwrap().clone();
    all.sort_unstable();
    assert_eq!(all, (0..200).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_event_goes_to_the_stream_that_holds_the_fewest() {
    let run = Run::start(Subscription::default()).await;
    let mut streams = [run.stream().await, run.stream().await, run.stream().await];
    for stream in &mut streams {
        assert_eq!(numbers(&stream.until_caught_up().await), [0; 0]);
    }
    for number in 0..6 {
        run.deliver(number..number + 1).await;
        let held = number + 1;
        until("it is handed out", async || run.status().await.in_flight == held).await;
    }
    let mut all = BTreeSet::new();
    for stream in &mut streams {
        all.extend(numbers(&stream.deliveries(2).await));
        stream.silence().await;
    }
    assert_eq!(all, (0..6).collect::<BTreeSet<_>>());
}

#[tokio::test]
async fn what_was_acknowledged_does_not_come_again_after_a_crash_and_the_rest_does() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..4).await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(4).await;
    assert_eq!(numbers(&held), [0, 1, 2, 3]);
    assert_eq!(run.say(done(), [&held[0], &held[2]]).await, [Accepted; 2]);
    let run = run.kill_and_restart().await;
    let again = run.stream().await.until_caught_up().await;
    // Attempts that a crash ended do not count.
    assert_eq!(again.iter().map(told).collect::<Vec<_>>(), [(1, 1), (3, 1)]);
    assert!(
        again
            .iter()
            .all(|new| held.iter().all(|old| old.ack_id != new.ack_id))
    );
    assert_eq!(run.say(done(), &again).await, [Accepted; 2]);
    let run = run.kill_and_restart().await;
    assert_eq!(numbers(&run.stream().await.until_caught_up().await), [0; 0]);
    assert_eq!(run.status().await.backlog, 0);
}

#[tokio::test]
async fn every_attempt_has_its_number_and_its_ack_id() {
    let run = Run::start(hasty()).await;
    run.deliver(0..1).await;
    let mut stream = run.stream().await;
    let mut ack_ids = BTreeSet::new();
    for attempt in 1..=4 {
        let delivery = stream.delivery().await;
        assert_eq!(told(&delivery), (0, attempt));
        assert!(delivery.ack_id.len() <= 64 && delivery.ack_id.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(run.say(retry(None), [&delivery]).await, [Accepted]);
        ack_ids.insert(delivery.ack_id);
    }
    assert_eq!(ack_ids.len(), 4);
}

#[tokio::test]
async fn an_event_whose_deadline_has_passed_comes_again() {
    let terms = Subscription {
        ack_deadline: millis(1000),
        ..hasty()
    };
    let run = Run::start(terms).await;
    run.deliver(0..1).await;
    let mut stream = run.stream().await;
    let first = stream.delivery().await;
    let second = stream.delivery().await;
    assert_eq!((told(&first), told(&second)), ((0, 1), (0, 2)));
    assert_ne!(first.ack_id, second.ack_id);
}

#[tokio::test]
async fn an_event_whose_deadline_has_passed_goes_to_another_stream_that_holds_fewer() {
    let run = Run::start(hasty()).await;
    run.deliver(0..2).await;
    let mut slow = run.stream().await;
    let held = slow.deliveries(2).await;
    let mut other = run.stream().await;
    assert_eq!(numbers(&other.until_caught_up().await), [0; 0]);
    assert_eq!(run.say(extend(millis(1000)), [&held[0]]).await, [Accepted]);
    let moved = other.delivery().await;
    assert_eq!(told(&moved), (0, 2));
    // It belongs to another now, whatever the first says of it.
    for outcome in [done(), reject(), retry(None), extend(None)] {
        assert_eq!(run.say(outcome, [&held[0]]).await, [Late]);
    }
    assert_eq!(run.say(done(), [&held[1], &moved]).await, [Accepted; 2]);
    assert_eq!(run.status().await.backlog, 0);
}

#[tokio::test]
async fn what_a_stream_holds_when_it_ends_goes_to_another() {
    let run = Run::start(hasty()).await;
    run.deliver(0..3).await;
    let mut ends = run.stream().await;
    let held = ends.deliveries(3).await;
    assert_eq!(run.say(done(), [&held[1]]).await, [Accepted]);
    let mut stays = run.stream().await;
    assert_eq!(numbers(&stays.until_caught_up().await), [0; 0]);
    drop(ends);
    let moved = stays.deliveries(2).await;
    assert_eq!(moved.iter().map(told).collect::<Vec<_>>(), [(0, 2), (2, 2)]);
    assert_eq!(run.say(done(), &held).await, [Late; 3]);
    assert_eq!(run.say(done(), &moved).await, [Accepted; 2]);
}

#[tokio::test]
async fn what_is_to_be_tried_again_waits_as_long_as_it_was_told() {
    // At once, although what failed waits for an hour.
    let run = Run::start(patient()).await;
    run.deliver(0..1).await;
    let mut stream = run.stream().await;
    let first = stream.delivery().await;
    assert_eq!(run.say(retry(millis(0)), [&first]).await, [Accepted]);
    let second = stream.delivery().await;
    assert_eq!(told(&second), (0, 2));
    // And now as what failed.
    assert_eq!(run.say(retry(None), [&second]).await, [Accepted]);
    stream.silence().await;
    let status = run.status().await;
    assert_eq!((status.backlog, status.in_flight), (1, 0));

    // An hour, although what failed comes at once.
    let run = Run::start(hasty()).await;
    run.deliver(0..2).await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(2).await;
    assert_eq!(run.say(retry(millis(HOUR)), [&held[0]]).await, [Accepted]);
    stream.silence().await;
    assert_eq!(run.say(retry(None), [&held[1]]).await, [Accepted]);
    assert_eq!(told(&stream.delivery().await), (1, 2));
    stream.silence().await;

    // A crash does not make it shorter.
    let run = run.kill_and_restart().await;
    let mut stream = run.stream().await;
    assert_eq!(numbers(&stream.until_caught_up().await), [1]);
    stream.silence().await;
    assert_eq!(run.status().await.backlog, 2);
}

#[tokio::test]
async fn what_is_rejected_is_put_aside_at_once_and_for_good() {
    let run = Run::start(hasty()).await;
    run.deliver(0..2).await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(2).await;
    assert_eq!(run.say(reject(), [&held[0]]).await, [Accepted]);
    let status = run.status().await;
    assert_eq!((status.dead_letters, status.backlog, status.in_flight), (1, 1, 1));
    let rejected = [(0, 1, DeadLetterReason::Rejected)];
    assert_eq!(run.put_aside().await, rejected);
    let run = run.kill_and_restart().await;
    assert_eq!(run.put_aside().await, rejected);
    assert_eq!(run.status().await.dead_letters, 1);
    assert_eq!(numbers(&run.stream().await.until_caught_up().await), [1]);
}

#[tokio::test]
async fn each_way_to_fail_is_an_attempt_and_the_last_puts_the_event_aside() {
    let terms = Subscription {
        max_attempts: 3,
        ..hasty()
    };
    let run = Run::start(terms).await;
    run.deliver(0..1).await;
    let mut stream = run.stream().await;
    let first = stream.delivery().await;
    assert_eq!(told(&first), (0, 1));
    assert_eq!(run.say(extend(millis(1000)), [&first]).await, [Accepted]);
    assert_eq!(told(&stream.delivery().await), (0, 2), "its deadline has passed");
    drop(stream);
    let mut stream = run.stream().await;
    let last = stream.delivery().await;
    assert_eq!(told(&last), (0, 3), "its stream has ended");
    assert_eq!(run.say(retry(None), [&last]).await, [Accepted]);
    assert_eq!(run.put_aside().await, [(0, 3, DeadLetterReason::MaxAttempts)]);
    assert_eq!(run.status().await.backlog, 0);
    assert_eq!(run.say(done(), [&last]).await, [Late]);
    stream.silence().await;
}

/// An event that has failed as often as it may.
async fn after_the_last_attempt(after_max_attempts: AfterMaxAttempts) -> (Run, Stream) {
    let terms = Subscription {
        max_attempts: 2,
        after_max_attempts: after_max_attempts.into(),
        ..hasty()
    };
    let run = Run::start(terms).await;
    run.deliver(0..1).await;
    let mut stream = run.stream().await;
    for attempt in 1..=2 {
        let delivery = stream.delivery().await;
        assert_eq!(told(&delivery), (0, attempt));
        assert_eq!(run.say(retry(None), [&delivery]).await, [Accepted]);
    }
    (run, stream)
}

#[tokio::test]
async fn after_its_last_attempt_an_event_is_put_aside_or_forgotten_or_goes_on() {
    for unless_told in [AfterMaxAttempts::DeadLetter, AfterMaxAttempts::Unspecified] {
        let (run, mut stream) = after_the_last_attempt(unless_told).await;
        assert_eq!(run.put_aside().await, [(0, 2, DeadLetterReason::MaxAttempts)]);
        assert_eq!(run.status().await.backlog, 0);
        stream.silence().await;
    }

    let (run, mut stream) = after_the_last_attempt(AfterMaxAttempts::Discard).await;
    let status = run.status().await;
    assert_eq!((status.backlog, status.dead_letters), (0, 0));
    assert!(run.put_aside().await.is_empty());
    stream.silence().await;
    assert_eq!(run.service.stored().await.len(), 1, "the log keeps it");

    let (run, mut stream) = after_the_last_attempt(AfterMaxAttempts::Retry).await;
    for attempt in 3..=5 {
        let delivery = stream.delivery().await;
        assert_eq!(told(&delivery), (0, attempt));
        assert_eq!(run.say(retry(None), [&delivery]).await, [Accepted]);
    }
    assert_eq!(run.status().await.dead_letters, 0);
}

#[tokio::test]
async fn what_was_put_aside_is_listed_handed_out_again_and_forgotten() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..4).await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(4).await;
    assert_eq!(run.say(done(), [&held[3]]).await, [Accepted]);
    assert_eq!(run.say(reject(), &held[..3]).await, [Accepted; 3]);
    let stored = run.service.stored().await;
    let listed = run.service.dead_letters(NAME).await;
    let events: Vec<_> = listed.iter().map(|(event, _)| event.clone()).collect();
    assert_eq!(events, stored[..3]);

    // As any listing: narrowed, newest first, in pages.
    let mut client = run.client.clone();
    let request = ListEventsRequest {
        filter: Some(EventFilter {
            entity_ids: vec!["video-1".into(), "video-3".into()],
            ..EventFilter::default()
        }),
        dead_letters_of: NAME.into(),
        ..ListEventsRequest::default()
    };
    let page = client.list_events(request).await.unwrap().into_inner();
    assert_eq!(page.events, stored[1..2]);
    assert_eq!(page.dead_letters[0].event_id, stored[1].id);
    assert_eq!(page.dead_letters.len(), 1);
    let mut request = ListEventsRequest {
        page_size: 2,
        dead_letters_of: NAME.into(),
        ..ListEventsRequest::default()
    };
    let first = client.list_events(request.clone()).await.unwrap().into_inner();
    request.page_token = first.next_page_token.clone();
    let second = client.list_events(request).await.unwrap().into_inner();
    assert_eq!([first.events.len(), second.events.len()], [2, 1]);
    assert_eq!((&first.events[0], &second.events[0]), (&stored[2], &stored[0]));
    assert_eq!(second.dead_letters[0].event_id, stored[0].id);

    assert_eq!(run.replay(&[&stored[0].id]).await, (1, 2));
    let again = stream.delivery().await;
    assert_eq!(told(&again), (0, 1), "it has all its attempts before it");
    assert_eq!(run.say(done(), [&again]).await, [Accepted]);
    assert_eq!(run.discard(&[&stored[1].id]).await, (1, 1));
    assert_eq!(run.put_aside().await, [(2, 1, DeadLetterReason::Rejected)]);
    assert_eq!(run.replay(&[]).await, (1, 0));
    let again = stream.delivery().await;
    assert_eq!(number(&again.event), 2);
    assert_eq!(run.say(reject(), [&again]).await, [Accepted]);
    assert_eq!(run.discard(&[]).await, (1, 0));
    assert_eq!((run.replay(&[]).await, run.discard(&[]).await), ((0, 0), (0, 0)));
    let status = run.status().await;
    assert_eq!((status.backlog, status.dead_letters), (0, 0));
    assert_eq!(run.service.stored().await, stored, "the log keeps them all");
    let run = run.kill_and_restart().await;
    assert!(run.put_aside().await.is_empty());
    assert_eq!(numbers(&run.stream().await.until_caught_up().await), [0; 0]);
}

#[tokio::test]
async fn dead_letters_are_handed_out_again_as_far_as_there_is_room() {
    let terms = Subscription {
        max_unacknowledged: 2,
        ..Subscription::default()
    };
    let run = Run::start(terms).await;
    run.deliver(0..3).await;
    let mut stream = run.stream().await;
    for _ in 0..3 {
        let delivery = stream.delivery().await;
        assert_eq!(run.say(reject(), [&delivery]).await, [Accepted]);
    }
    assert_eq!(run.replay(&[]).await, (2, 1));
    assert_eq!(numbers(&stream.deliveries(2).await), [0, 1], "the oldest first");
    assert_eq!(run.replay(&[]).await, (0, 1));
    assert_eq!(run.put_aside().await, [(2, 1, DeadLetterReason::Rejected)]);
}

#[tokio::test]
async fn an_event_that_is_put_aside_twice_is_one_dead_letter() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..1).await;
    let mut stream = run.stream().await;
    for _ in 0..2 {
        let delivery = stream.delivery().await;
        assert_eq!(run.say(reject(), [&delivery]).await, [Accepted]);
        run.move_to(seek::Target::Position(Position::Earliest.into()))
            .await;
    }
    assert_eq!(run.put_aside().await.len(), 1);
    assert_eq!(run.status().await.dead_letters, 1);
    assert_eq!(run.discard(&[]).await, (1, 0));
}

#[tokio::test]
async fn an_extended_event_outlives_its_deadline() {
    let terms = Subscription {
        ack_deadline: millis(3000),
        ..hasty()
    };
    let run = Run::start(terms).await;
    run.deliver(0..2).await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(2).await;
    assert_eq!(run.say(extend(millis(HOUR)), [&held[0]]).await, [Accepted]);
    // The other one was handed out later, so the first deadline passes before the second.
    let again = stream.delivery().await;
    assert_eq!(told(&again), (1, 2));
    assert_eq!(run.say(done(), [&again]).await, [Accepted]);
    assert_eq!(run.status().await.in_flight, 1);
    // By the subscription's own deadline it is brought forward again.
    assert_eq!(run.say(extend(None), [&held[0]]).await, [Accepted]);
    assert_eq!(told(&stream.delivery().await), (0, 2));
}

#[tokio::test]
async fn what_was_handled_too_late_is_settled_all_the_same_while_nobody_else_has_it() {
    let terms = Subscription {
        ack_deadline: millis(1000),
        ..patient()
    };
    let run = Run::start(terms).await;
    run.deliver(0..4).await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(4).await;
    until("the deadlines have passed", async || {
        run.status().await.in_flight == 0
    })
    .await;
    assert_eq!(run.say(extend(None), [&held[0]]).await, [Late]);
    assert_eq!(run.say(retry(millis(0)), [&held[0]]).await, [Late]);
    assert_eq!(run.say(done(), [&held[0]]).await, [Accepted]);
    assert_eq!(run.say(reject(), [&held[1]]).await, [Accepted]);
    drop(stream);
    until("the stream has ended", async || {
        run.status().await.connected_streams == 0
    })
    .await;
    assert_eq!(run.say(done(), [&held[2]]).await, [Accepted]);
    assert_eq!(run.say(reject(), [&held[3]]).await, [Accepted]);
    assert_eq!(run.say(done(), &held).await, [Late; 4], "all are settled");
    let status = run.status().await;
    assert_eq!((status.backlog, status.dead_letters), (0, 2));
}

#[tokio::test]
async fn after_a_crash_what_is_too_late_comes_again_and_nothing_else() {
    let run = Run::start(hasty()).await;
    run.deliver(0..3).await;
    let held = run.stream().await.deliveries(3).await;
    assert_eq!(run.say(done(), [&held[0]]).await, [Accepted]);
    let run = run.kill_and_restart().await;
    let answers = run.say(done(), &held).await;
    assert_eq!(answers[0], Late, "it is settled");
    assert!(!answers.contains(&Unknown), "they were given out: {answers:?}");
    let late: Vec<_> = (1..3_u64).filter(|&at| answers[at as usize] == Late).collect();
    assert_eq!(numbers(&run.stream().await.until_caught_up().await), late);
}

#[tokio::test]
async fn a_stream_holds_no_more_than_the_subscription_and_it_itself_allow() {
    let terms = Subscription {
        max_unacknowledged_per_stream: 3,
        ..Subscription::default()
    };
    let run = Run::start(terms).await;
    run.deliver(0..12).await;
    let mut first = run.stream().await;
    let held = first.deliveries(3).await;
    first.silence().await;
    assert_eq!(run.say(done(), [&held[1]]).await, [Accepted]);
    assert_eq!(numbers(&first.deliveries(1).await), [3]);
    first.silence().await;
    let mut second = run.small_stream(2).await;
    assert_eq!(numbers(&second.deliveries(2).await), [4, 5]);
    second.silence().await;
    let mut third = run.small_stream(100).await;
    assert_eq!(numbers(&third.deliveries(3).await), [6, 7, 8]);
    third.silence().await;
    let status = run.status().await;
    assert_eq!(
        (status.in_flight, status.backlog, status.connected_streams),
        (8, 11, 3)
    );
}

#[tokio::test]
async fn no_more_events_are_under_way_than_the_subscription_allows() {
    let terms = Subscription {
        max_unacknowledged_per_stream: 3,
        max_unacknowledged: 4,
        ..patient()
    };
    let run = Run::start(terms).await;
    run.deliver(0..10).await;
    let mut first = run.stream().await;
    let held = first.deliveries(3).await;
    let mut second = run.small_stream(1).await;
    assert_eq!(numbers(&second.deliveries(1).await), [3]);
    first.silence().await;
    second.silence().await;
    assert_eq!(run.status().await.in_flight, 4);
    // What waits for another attempt is still under way.
    assert_eq!(run.say(retry(None), [&held[0]]).await, [Accepted]);
    first.silence().await;
    second.silence().await;
    assert_eq!(run.status().await.in_flight, 3);
    assert_eq!(run.say(done(), [&held[1], &held[2]]).await, [Accepted; 2]);
    assert_eq!(numbers(&first.deliveries(2).await), [4, 5]);
    first.silence().await;
    second.silence().await;
}

#[tokio::test]
async fn events_of_one_entity_come_one_at_a_time_and_hold_up_no_other() {
    let run = Run::start(per_entity()).await;
    let entities = ["a", "a", "a", "b", "", ""];
    for (number, entity) in entities.into_iter().enumerate() {
        run.deliver_about(entity, number as u64).await;
    }
    let mut stream = run.stream().await;
    let held = stream.deliveries(4).await;
    assert_eq!(numbers(&held), [0, 3, 4, 5]);
    stream.silence().await;
    // Nor does another stream get what is held back.
    let mut other = run.stream().await;
    other.silence().await;
    assert_eq!(run.say(done(), [&held[0]]).await, [Accepted]);
    let next = other.delivery().await;
    assert_eq!(told(&next), (1, 1));
    // What failed holds up what follows it until it is settled.
    assert_eq!(run.say(retry(millis(HOUR)), [&next]).await, [Accepted]);
    stream.silence().await;
    other.silence().await;
    assert_eq!(run.say(reject(), [&next]).await, [Accepted]);
    assert_eq!(told(&other.delivery().await), (2, 1));
    run.deliver_about("b", 6).await;
    run.deliver_about("c", 7).await;
    let next = tokio::select! {
        delivery = stream.delivery() => delivery,
        delivery = other.delivery() => delivery,
    };
    assert_eq!(told(&next), (7, 1), "the second of b waits for the first");
    stream.silence().await;
    other.silence().await;
}

#[tokio::test]
async fn the_order_of_an_entity_survives_a_crash() {
    let run = Run::start(per_entity()).await;
    for number in 0..4 {
        run.deliver_about(["a", "b"][number as usize % 2], number).await;
    }
    let held = run.stream().await.deliveries(2).await;
    assert_eq!(numbers(&held), [0, 1]);
    assert_eq!(run.say(done(), [&held[1]]).await, [Accepted]);
    let run = run.kill_and_restart().await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(2).await;
    assert_eq!(numbers(&held), [0, 3]);
    stream.silence().await;
    assert_eq!(run.say(done(), [&held[0]]).await, [Accepted]);
    assert_eq!(numbers(&stream.deliveries(1).await), [2]);
}

#[tokio::test]
async fn a_subscription_goes_on_from_wherever_it_is_moved() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..5).await;
    let stored = run.service.stored().await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(5).await;
    assert_eq!(run.say(done(), &held[..4]).await, [Accepted; 4]);

    run.move_to(seek::Target::AfterCursor(stored[1].cursor.clone()))
        .await;
    let again = stream.deliveries(3).await;
    assert_eq!(numbers(&again), [2, 3, 4], "settled or not");
    assert_eq!(
        run.say(done(), [&held[4]]).await,
        [Late],
        "it was handed out before the move"
    );
    assert_eq!(run.say(done(), &again).await, [Accepted; 3]);
    assert_eq!(run.status().await.backlog, 0);

    let received = |event: &Event| event.received_at.map(|at| (at.seconds, at.nanos));
    run.move_to(seek::Target::Since(stored[3].received_at.unwrap()))
        .await;
    let since: Vec<_> = stored
        .iter()
        .filter(|event| received(event) >= received(&stored[3]))
        .map(number)
        .collect();
    assert_eq!(numbers(&stream.deliveries(since.len()).await), since);

    run.move_to(seek::Target::Position(Position::Earliest.into()))
        .await;
    let all = stream.deliveries(5).await;
    assert_eq!(numbers(&all), [0, 1, 2, 3, 4]);

    run.move_to(seek::Target::Position(Position::New.into())).await;
    let status = run.status().await;
    assert_eq!((status.backlog, status.in_flight), (0, 0));
    assert_eq!(run.say(done(), &all).await, [Late; 5]);
    stream.silence().await;
    run.deliver(5..6).await;
    assert_eq!(numbers(&stream.deliveries(1).await), [5]);

    let run = run.kill_and_restart().await;
    assert_eq!(numbers(&run.stream().await.until_caught_up().await), [5]);
}

#[tokio::test]
async fn a_move_that_was_answered_survives_a_crash() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..3).await;
    let held = run.stream().await.deliveries(3).await;
    assert_eq!(run.say(done(), &held).await, [Accepted; 3]);
    run.move_to(seek::Target::AfterCursor(held[0].event.cursor.clone()))
        .await;
    let run = run.kill_and_restart().await;
    assert_eq!(numbers(&run.stream().await.until_caught_up().await), [1, 2]);
    assert_eq!(run.say(done(), [&held[2]]).await, [Late]);
}

#[tokio::test]
async fn a_subscription_starts_where_it_is_told() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..3).await;
    let stored = run.service.stored().await;
    let since = stored[1].received_at.unwrap();
    let received = |event: &&Event| {
        let at = event.received_at.unwrap();
        (at.seconds, at.nanos) >= (since.seconds, since.nanos)
    };
    let after_or_at: Vec<_> = stored.iter().filter(received).map(number).chain([3]).collect();
    let starts = [
        ("unset", None, vec![3]),
        (
            "new",
            Some(create::Start::Position(Position::New.into())),
            vec![3],
        ),
        (
            "earliest",
            Some(create::Start::Position(Position::Earliest.into())),
            vec![0, 1, 2, 3],
        ),
        (
            "after",
            Some(create::Start::AfterCursor(stored[1].cursor.clone())),
            vec![2, 3],
        ),
        ("since", Some(create::Start::Since(since)), after_or_at),
    ];
    for (name, start, _) in &starts {
        let create = Create {
            subscription: Some(Subscription {
                name: (*name).into(),
                ..Subscription::default()
            }),
            start: start.clone(),
        };
        run.manage(Operation::Create(create)).await.unwrap();
    }
    run.deliver(3..4).await;
    for (name, _, expected) in starts {
        let mut stream = run.service.subscribe(part_in(name)).await;
        assert_eq!(
            numbers(&stream.deliveries(expected.len()).await),
            expected,
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_change_is_in_force_for_streams_that_are_open() {
    let terms = Subscription {
        filter: types(&["avatar_video.*"]),
        max_unacknowledged_per_stream: 1,
        ..Subscription::default()
    };
    let run = Run::start(terms).await;
    run.deliver(0..2).await;
    let mut stream = run.stream().await;
    let first = stream.delivery().await;
    stream.silence().await;
    let more = Subscription {
        max_unacknowledged_per_stream: 3,
        max_attempts: 3,
        ..Subscription::default()
    };
    let updated = run.update(more, &["max_unacknowledged_per_stream"]).await;
    assert_eq!(
        (updated.max_unacknowledged_per_stream, updated.max_attempts),
        (3, 10),
        "what the mask does not name stays"
    );
    assert_eq!(updated.filter, types(&["avatar_video.*"]));
    let second = stream.delivery().await;
    assert_eq!(told(&second), (1, 1));

    // Another filter: what is in flight stays acknowledgeable, what follows is chosen anew.
    let filter = Subscription {
        filter: types(&["video_agent.*"]),
        ..Subscription::default()
    };
    run.update(filter, &["filter"]).await;
    run.deliver(2..3).await;
    let agent = body("video_agent.success", 3);
    assert_eq!(run.sender.deliver(agent.clone()).await, 200);
    assert_eq!(stream.delivery().await.event.raw_body, agent);
    assert_eq!(run.say(done(), [&first]).await, [Accepted]);
    assert_eq!(run.say(retry(millis(0)), [&second]).await, [Accepted]);
    assert_eq!(
        told(&stream.delivery().await),
        (1, 2),
        "it was let in when it was handed out first"
    );
    stream.silence().await;
}

#[tokio::test]
async fn a_changed_deadline_concerns_what_is_handed_out_after_it() {
    let run = Run::start(hasty()).await;
    run.deliver(0..1).await;
    let mut stream = run.stream().await;
    let first = stream.delivery().await;
    let short = Subscription {
        ack_deadline: millis(1000),
        ..Subscription::default()
    };
    run.update(short, &["ack_deadline"]).await;
    run.deliver(1..2).await;
    for attempt in 1..=3 {
        assert_eq!(told(&stream.delivery().await), (1, attempt));
    }
    assert_eq!(
        run.say(extend(None), [&first]).await,
        [Accepted],
        "it is still held"
    );
}

#[tokio::test]
async fn a_change_survives_a_crash() {
    let run = Run::start(Subscription::default()).await;
    let terms = Subscription {
        filter: types(&["*.fail"]),
        ack_deadline: millis(1500),
        max_attempts: 7,
        after_max_attempts: AfterMaxAttempts::Discard.into(),
        min_retry_delay: millis(2500),
        max_retry_delay: millis(HOUR),
        max_unacknowledged_per_stream: 8,
        max_unacknowledged: 9,
        inactive_retention: millis(24 * HOUR),
        labels: HashMap::from([("team".into(), "video".into())]),
        ..Subscription::default()
    };
    let fields = [
        "filter",
        "ack_deadline",
        "max_attempts",
        "after_max_attempts",
        "min_retry_delay",
        "max_retry_delay",
        "max_unacknowledged_per_stream",
        "max_unacknowledged",
        "inactive_retention",
        "labels",
    ];
    let updated = run.update(terms.clone(), &fields).await;
    let expected = Subscription {
        name: NAME.into(),
        ordering: proto::Ordering::None.into(),
        created_at: updated.created_at,
        status: updated.status.clone(),
        ..terms
    };
    assert!(updated.created_at.is_some());
    assert_eq!(updated, expected);
    let run = run.kill_and_restart().await;
    let found = run.manage(Operation::Get(Get { name: NAME.into() })).await;
    let found = subscription_in(found.unwrap());
    assert_eq!(found.status.as_ref().unwrap().backlog, 0);
    let found = Subscription {
        status: expected.status.clone(),
        ..found
    };
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_stream_that_acknowledges_by_itself_leaves_at_most_its_last_event() {
    let run = Run::start(hasty()).await;
    run.deliver(0..5).await;
    let request = SubscribeEventsRequest {
        auto_acknowledge: true,
        ..part()
    };
    let mut stream = run.service.subscribe(request).await;
    assert_eq!(numbers(&stream.deliveries(5).await), [0, 1, 2, 3, 4]);
    until("all but the last are settled", async || {
        run.status().await.backlog <= 1
    })
    .await;
    drop(stream);
    until("the stream has ended", async || {
        run.status().await.connected_streams == 0
    })
    .await;
    let left = numbers(&run.stream().await.until_caught_up().await);
    assert!(left.is_empty() || left == [4], "{left:?}");
}

#[tokio::test]
async fn a_subscription_tells_how_it_stands() {
    let run = Run::start(Subscription::default()).await;
    let behind = async |status: &SubscriptionStatus| {
        let request = SubscribeEventsRequest {
            stop_at_tail: true,
            ..after(&status.cursor)
        };
        let rest = run.service.subscribe(request).await.rest().await.unwrap();
        rest.iter().map(number).collect::<Vec<_>>()
    };
    let status = run.status().await;
    assert_eq!((status.backlog, status.oldest_unacknowledged_age), (0, None));
    run.deliver(0..5).await;
    let status = run.status().await;
    assert_eq!(
        (status.backlog, status.in_flight, status.connected_streams),
        (5, 0, 0)
    );
    assert!(status.oldest_unacknowledged_age.is_some());
    assert_eq!((status.dead_letters, status.last_gap_at), (0, None));
    assert_eq!(behind(&status).await, [0, 1, 2, 3, 4]);

    let mut stream = run.small_stream(3).await;
    let held = stream.deliveries(3).await;
    let status = run.status().await;
    assert_eq!(
        (status.backlog, status.in_flight, status.connected_streams),
        (5, 3, 1)
    );
    assert_eq!(behind(&status).await, [3, 4]);
    assert_eq!(run.say(done(), [&held[0]]).await, [Accepted]);
    assert_eq!(run.say(reject(), [&held[1]]).await, [Accepted]);
    let last = stream.deliveries(2).await;
    let status = run.status().await;
    assert_eq!((status.backlog, status.in_flight, status.dead_letters), (3, 3, 1));
    assert_eq!(behind(&status).await, [0; 0]);
    assert_eq!(
        run.say(done(), [&held[2], &last[0], &last[1]]).await,
        [Accepted; 3]
    );
    let status = run.status().await;
    assert_eq!(
        (status.backlog, status.in_flight, status.oldest_unacknowledged_age),
        (0, 0, None)
    );
    drop(stream);
    until("the stream has ended", async || {
        run.status().await.connected_streams == 0
    })
    .await;
}

#[tokio::test]
async fn the_age_is_that_of_the_oldest_event_and_no_younger() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..1).await;
    let age = async || {
        let age = run.status().await.oldest_unacknowledged_age.unwrap();
        (age.seconds, age.nanos)
    };
    until("the event is a second old", async || age().await >= (1, 0)).await;
    let mut stream = run.stream().await;
    let first = stream.delivery().await;
    run.deliver(1..2).await;
    assert!(age().await >= (1, 0), "the second does not make it younger");
    let second = stream.delivery().await;
    assert_eq!(run.say(done(), [&second]).await, [Accepted]);
    assert!(age().await >= (1, 0), "nor does that it is settled");
    assert_eq!(run.say(done(), [&first]).await, [Accepted]);
    assert_eq!(run.status().await.oldest_unacknowledged_age, None);
}

#[tokio::test]
async fn subscriptions_are_listed_in_pages_by_name_with_their_labels() {
    let service = Hookstream::start();
    let mut client = service.client().await;
    for name in ["s3", "s0", "s4", "s1", "s2"] {
        let labels = HashMap::from([("called".to_owned(), name.to_owned())]);
        let terms = Subscription {
            labels: labels.clone(),
            ..Subscription::default()
        };
        assert_eq!(service.subscription(name, terms).await.labels, labels);
    }
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let list = List {
            page_size: 2,
            page_token,
        };
        let answer = manage_subscription(&mut client, Operation::List(list)).await;
        let Answer::List(page) = answer.unwrap() else {
            panic!()
        };
        assert!(page.subscriptions.len() <= 2);
        for subscription in page.subscriptions {
            assert_eq!(subscription.labels["called"], subscription.name);
            names.push(subscription.name);
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["s0", "s1", "s2", "s3", "s4"]);
}

#[tokio::test]
async fn a_subscription_says_its_terms_where_it_was_told_none() {
    let service = Hookstream::start();
    let made = service.subscription(NAME, Subscription::default()).await;
    assert_eq!((made.ack_deadline, made.max_attempts), (millis(30_000), 10));
    assert_eq!(
        (made.min_retry_delay, made.max_retry_delay),
        (millis(1000), millis(300_000))
    );
    assert_eq!(
        (made.max_unacknowledged_per_stream, made.max_unacknowledged),
        (20, 1000)
    );
    assert_eq!(
        (made.ordering(), made.after_max_attempts()),
        (proto::Ordering::None, AfterMaxAttempts::DeadLetter)
    );
    assert_eq!(made.inactive_retention, None);
    // A longer shortest delay takes the longest one with it.
    let terms = Subscription {
        min_retry_delay: millis(HOUR),
        ..Subscription::default()
    };
    let made = service.subscription("slow", terms).await;
    assert_eq!(made.max_retry_delay, millis(HOUR));
}

#[tokio::test]
async fn caught_up_comes_once_everything_was_handed_out() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..3).await;
    let mut stream = run.small_stream(2).await;
    let held = stream.deliveries(2).await;
    let silent = stream.frame().await.unwrap();
    assert!(matches!(silent, Some(Frame::Heartbeat(_))), "{silent:?}");
    assert_eq!(run.say(done(), &held).await, [Accepted; 2]);
    assert!(matches!(frame(&mut stream).await, Frame::Event(_)));
    assert!(matches!(frame(&mut stream).await, Frame::CaughtUp(_)));
    // To another stream counts as well, and no stream says it twice.
    let mut other = run.stream().await;
    assert!(matches!(frame(&mut other).await, Frame::CaughtUp(_)));
    run.deliver(3..4).await;
    assert!(matches!(frame(&mut other).await, Frame::Event(_)));
    let silent = other.frame().await.unwrap();
    assert!(matches!(silent, Some(Frame::Heartbeat(_))), "{silent:?}");
}

#[tokio::test]
async fn a_service_that_drains_ends_the_streams_and_hands_out_the_rest_when_it_is_back() {
    let mut run = Run::start(hasty()).await;
    run.deliver(0..2).await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(2).await;
    assert_eq!(run.say(done(), [&held[0]]).await, [Accepted]);
    run.service.signal("TERM");
    let draining = loop {
        match frame(&mut stream).await {
            Frame::Draining(draining) => break draining,
            Frame::CaughtUp(_) => continue,
            other => panic!("{other:?}"),
        }
    };
    assert!(draining.reconnect_after.is_some());
    let status = stream.frame().await.unwrap_err();
    assert_eq!(refused(&status), (Code::Unavailable, "DRAINING".to_owned()));
    assert!(run.service.wait(PATIENCE).success());
    let run = run.kill_and_restart().await;
    assert_eq!(numbers(&run.stream().await.until_caught_up().await), [1]);
}

#[tokio::test]
async fn what_retention_removes_is_a_gap_and_hinders_nothing() {
    let run = Run::start(per_entity()).await;
    for number in 0..3 {
        run.deliver_about("a", number).await;
    }
    let held = run.stream().await.delivery().await;
    let secret = run.sender.secret.expose().to_owned();
    // Past the age below.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let directory = run.service.drain();
    let service = Hookstream::start_in(directory, &["--retention-age", "1s"], &HashMap::new());
    until("3 events are trimmed", async || {
        service.metric("hookstream_log_trimmed_events_total").await >= 3.0
    })
    .await;
    let sender = service.sender("dev", &secret);
    let client = service.client().await;
    let run = Run {
        service,
        sender,
        client,
    };
    let mut stream = run.stream().await;
    run.deliver_about("a", 3).await;
    let next = stream.delivery().await;
    assert_eq!(told(&next), (3, 1));
    assert_eq!(run.say(done(), [&held]).await, [Late]);
    assert_eq!(run.say(done(), [&next]).await, [Accepted]);
    let status = run.status().await;
    assert_eq!(status.backlog, 0);
    assert!(status.last_gap_at.is_some());
}

#[tokio::test]
async fn a_stream_is_told_of_a_gap() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..3).await;
    // Past the age below.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let directory = run.service.drain();
    let service = Hookstream::start_in(directory, &["--retention-age", "1s"], &HashMap::new());
    until("3 events are trimmed", async || {
        service.metric("hookstream_log_trimmed_events_total").await >= 3.0
    })
    .await;
    let mut stream = service.subscribe(part()).await;
    let Frame::Gap(gap) = frame(&mut stream).await else {
        panic!("no gap is told of")
    };
    assert_ne!(gap.after_cursor, gap.earliest_cursor);
    assert!(matches!(frame(&mut stream).await, Frame::CaughtUp(_)));
    let status = standing(&service.client().await, NAME).await;
    assert_eq!(status.backlog, 0);
    assert!(status.last_gap_at.is_some());
}

#[tokio::test]
async fn a_deleted_subscription_ends_its_streams_and_its_name_is_free() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..1).await;
    let mut stream = run.stream().await;
    let mut other = run.stream().await;
    let held = stream.delivery().await;
    let delete = Operation::Delete(Delete { name: NAME.into() });
    let deleted = run.manage(delete.clone()).await.unwrap();
    assert!(matches!(deleted, Answer::Delete(_)));
    for stream in [&mut stream, &mut other] {
        let ended = loop {
            match stream.frame().await {
                Ok(Some(Frame::Heartbeat(_) | Frame::CaughtUp(_))) => continue,
                Ok(frame) => panic!("{frame:?}"),
                Err(status) => break status,
            }
        };
        assert_eq!(refused(&ended), not_found());
    }
    assert_eq!(refused(&run.manage(delete).await.unwrap_err()), not_found());

    // What was given out before is unknown to another of the same name.
    run.service.subscription(NAME, Subscription::default()).await;
    assert_eq!(run.say(done(), [&held]).await, [Unknown]);
    let run = run.kill_and_restart().await;
    let again = run.stream().await.delivery().await;
    assert_eq!(told(&again), (0, 1));
    assert_eq!(run.say(done(), [&held, &again]).await, [Unknown, Accepted]);
}

#[tokio::test]
async fn an_acknowledgement_is_answered_by_what_it_changed() {
    let run = Run::start(Subscription::default()).await;
    run.service.subscription("other", Subscription::default()).await;
    run.deliver(0..3).await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(3).await;
    let foreign = run.service.subscribe(part_in("other")).await.delivery().await;
    let mut edited = held[2].ack_id.clone();
    let end = edited.len() / 2;
    let changed = if &edited[end - 1..end] == "A" { "B" } else { "A" };
    edited.replace_range(end - 1..end, changed);
    let ack_ids = vec![
        held[0].ack_id.clone(),
        foreign.ack_id,
        "made-up".into(),
        edited,
        held[0].ack_id.clone(),
        held[1].ack_id.clone(),
    ];
    let answers = acknowledge(&mut run.client.clone(), NAME, ack_ids, done()).await;
    assert_eq!(
        answers.unwrap(),
        [Accepted, Unknown, Unknown, Unknown, Late, Accepted]
    );
    for outcome in [done(), reject(), retry(None), extend(None)] {
        assert_eq!(run.say(outcome, [&held[0]]).await, [Late], "it is settled");
    }
    assert_eq!(run.say(done(), [&held[2]]).await, [Accepted]);
    assert_eq!(run.status().await.backlog, 0);
    assert_eq!(
        standing(&run.client, "other").await.backlog,
        3,
        "nothing happens to another"
    );
}

#[tokio::test]
async fn an_acknowledgement_that_cannot_be_is_refused_with_the_field() {
    let run = Run::start(Subscription::default()).await;
    let mut client = run.client.clone();
    let request = |outcome, ids| AcknowledgeEventsRequest {
        subscription: NAME.into(),
        ack_ids: vec!["made-up".into(); ids],
        outcome,
    };
    let cases = [
        (request(None, 1), "outcome"),
        (request(Some(done()), 0), "ack_ids"),
        (request(Some(done()), 4097), "ack_ids"),
        (request(Some(retry(millis(-1))), 1), "after"),
        (request(Some(retry(millis(24 * HOUR + 1))), 1), "after"),
        (request(Some(extend(millis(500))), 1), "by"),
        (request(Some(extend(millis(0))), 1), "by"),
        (request(Some(extend(millis(-1000))), 1), "by"),
        (request(Some(extend(millis(2 * HOUR))), 1), "by"),
    ];
    for (request, blamed) in cases {
        let status = client.acknowledge_events(request.clone()).await.unwrap_err();
        assert_eq!(
            refused(&status),
            (Code::InvalidArgument, "INVALID_FIELD".to_owned())
        );
        assert_eq!(field(&status), blamed, "{:?}", request.outcome);
    }
    let most = client.acknowledge_events(request(Some(done()), 4096)).await;
    assert_eq!(most.unwrap().into_inner().results.len(), 4096);
    let nobody = AcknowledgeEventsRequest {
        subscription: "nobody".into(),
        ..request(Some(done()), 1)
    };
    let status = client.acknowledge_events(nobody).await.unwrap_err();
    assert_eq!(refused(&status), not_found());
}

#[tokio::test]
async fn terms_that_cannot_be_are_refused_with_the_field() {
    let run = Run::start(Subscription::default()).await;
    let new = || Subscription {
        name: "new".into(),
        ..Subscription::default()
    };
    let named = |name: &str| Subscription {
        name: name.into(),
        ..Subscription::default()
    };
    let deadline = |deadline| Subscription {
        ack_deadline: millis(deadline),
        ..new()
    };
    let attempts = |max_attempts| Subscription {
        max_attempts,
        ..new()
    };
    let after = |after_max_attempts| Subscription {
        after_max_attempts,
        ..new()
    };
    let delays = |min, max| Subscription {
        min_retry_delay: min,
        max_retry_delay: max,
        ..new()
    };
    let per_stream = |max_unacknowledged_per_stream| Subscription {
        max_unacknowledged_per_stream,
        ..new()
    };
    let in_all = |max_unacknowledged| Subscription {
        max_unacknowledged,
        ..new()
    };
    let ordered = |ordering| Subscription { ordering, ..new() };
    let retained = |time| Subscription {
        inactive_retention: millis(time),
        ..new()
    };
    let cases = [
        (named(""), "name"),
        (named("Work"), "name"),
        (named("-work"), "name"),
        (named("a/b"), "name"),
        (named(&"a".repeat(64)), "name"),
        (
            Subscription {
                filter: types(&["*bad"]),
                ..new()
            },
            "filter.event_types[0]",
        ),
        (
            Subscription {
                filter: types(&["batch.finished", "*bad"]),
                ..new()
            },
            "filter.event_types[1]",
        ),
        (deadline(500), "ack_deadline"),
        (deadline(0), "ack_deadline"),
        (deadline(-1000), "ack_deadline"),
        (deadline(2 * HOUR), "ack_deadline"),
        (attempts(-1), "max_attempts"),
        (attempts(1001), "max_attempts"),
        (after(9), "after_max_attempts"),
        (after(-1), "after_max_attempts"),
        (delays(millis(-1), None), "min_retry_delay"),
        (delays(millis(HOUR + 1), None), "min_retry_delay"),
        (delays(None, millis(-1)), "max_retry_delay"),
        (delays(None, millis(24 * HOUR + 1)), "max_retry_delay"),
        (delays(millis(2000), millis(1999)), "max_retry_delay"),
        (delays(None, millis(999)), "max_retry_delay"),
        (per_stream(-1), "max_unacknowledged_per_stream"),
        (per_stream(10_001), "max_unacknowledged_per_stream"),
        (in_all(-1), "max_unacknowledged"),
        (in_all(20_001), "max_unacknowledged"),
        (ordered(9), "ordering"),
        (ordered(-1), "ordering"),
        (retained(59_999), "inactive_retention"),
        (retained(11 * 366 * 24 * HOUR), "inactive_retention"),
    ];
    for (subscription, blamed) in cases {
        let create = Create {
            subscription: Some(subscription.clone()),
            start: None,
        };
        let status = run.manage(Operation::Create(create)).await.unwrap_err();
        assert_eq!(
            refused(&status),
            (Code::InvalidArgument, "INVALID_FIELD".to_owned()),
            "{subscription:?}"
        );
        assert_eq!(
            field(&status),
            format!("subscription.{blamed}"),
            "{subscription:?}"
        );
    }
    let many = (0..65).map(|number| (number.to_string(), String::new()));
    for labels in [
        many.collect::<HashMap<_, _>>(),
        HashMap::from([("k".repeat(64), String::new())]),
        HashMap::from([("k".to_owned(), "v".repeat(257))]),
    ] {
        let create = Create {
            subscription: Some(Subscription { labels, ..new() }),
            start: None,
        };
        let status = run.manage(Operation::Create(create)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(
            field(&status).starts_with("subscription.labels"),
            "{}",
            field(&status)
        );
    }
    let nothing = Create {
        subscription: None,
        start: None,
    };
    let status = run.manage(Operation::Create(nothing)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(field(&status).starts_with("subscription"), "{}", field(&status));
    let Answer::List(page) = run.manage(Operation::List(List::default())).await.unwrap() else {
        panic!()
    };
    assert_eq!(page.subscriptions.len(), 1, "nothing was made");
}

#[tokio::test]
async fn terms_at_their_bounds_are_taken() {
    let service = Hookstream::start();
    let least = Subscription {
        ack_deadline: millis(1000),
        max_attempts: 1,
        min_retry_delay: millis(0),
        max_retry_delay: millis(0),
        max_unacknowledged_per_stream: 1,
        max_unacknowledged: 1,
        inactive_retention: millis(60_000),
        ..Subscription::default()
    };
    let label = |number: usize| (format!("{number:0>63}"), "v".repeat(256));
    let most = Subscription {
        ack_deadline: millis(HOUR),
        max_attempts: 1000,
        min_retry_delay: millis(HOUR),
        max_retry_delay: millis(24 * HOUR),
        max_unacknowledged_per_stream: 10_000,
        max_unacknowledged: 20_000,
        inactive_retention: millis(10 * 365 * 24 * HOUR),
        labels: (0..64).map(label).collect(),
        ..Subscription::default()
    };
    let long = "z".repeat(63);
    for (name, terms) in [("a", least), (long.as_str(), most)] {
        let made = service.subscription(name, terms.clone()).await;
        let expected = Subscription {
            name: name.into(),
            filter: made.filter.clone(),
            after_max_attempts: made.after_max_attempts,
            ordering: made.ordering,
            created_at: made.created_at,
            status: made.status.clone(),
            ..terms
        };
        assert_eq!(made, expected);
    }
}

#[tokio::test]
async fn a_place_that_cannot_be_is_refused_with_the_reason() {
    let run = Run::start(Subscription::default()).await;
    let other = Hookstream::start();
    let elsewhere = other.endpoint("dev").await;
    elsewhere.deliver(about("a", 0)).await;
    let foreign = other.stored().await[0].cursor.clone();
    let never = prost_types::Timestamp {
        seconds: i64::MAX,
        nanos: 0,
    };
    let starts = [
        (create::Start::AfterCursor("nonsense".into()), "after_cursor"),
        (create::Start::AfterCursor(String::new()), "after_cursor"),
        (create::Start::Since(never), "since"),
        (create::Start::Position(9), "position"),
    ];
    let new = || Subscription {
        name: "new".into(),
        ..Subscription::default()
    };
    for (start, blamed) in starts {
        let create = Create {
            subscription: Some(new()),
            start: Some(start),
        };
        let status = run.manage(Operation::Create(create)).await.unwrap_err();
        assert_eq!(
            (status.code(), field(&status).as_str()),
            (Code::InvalidArgument, blamed)
        );
    }
    let targets = [
        (None, "target"),
        (Some(seek::Target::AfterCursor("nonsense".into())), "after_cursor"),
        (Some(seek::Target::Since(never)), "since"),
        (Some(seek::Target::Position(9)), "position"),
    ];
    for (target, blamed) in targets {
        let status = run.manage(Operation::Seek(seek_to(target))).await.unwrap_err();
        assert_eq!(
            (status.code(), field(&status).as_str()),
            (Code::InvalidArgument, blamed)
        );
    }
    let create = Create {
        subscription: Some(new()),
        start: Some(create::Start::AfterCursor(foreign.clone())),
    };
    let seek = seek_to(Some(seek::Target::AfterCursor(foreign)));
    for operation in [Operation::Create(create), Operation::Seek(seek)] {
        let status = run.manage(operation).await.unwrap_err();
        assert_eq!(
            refused(&status),
            (Code::FailedPrecondition, "CURSOR_OF_ANOTHER_LOG".to_owned())
        );
    }
}

#[tokio::test]
async fn a_change_that_cannot_be_is_refused_with_the_field() {
    let run = Run::start(Subscription::default()).await;
    let unmasked = Update {
        update_mask: None,
        ..update(Subscription::default(), &[])
    };
    let attempts = Subscription {
        max_attempts: 1001,
        ..Subscription::default()
    };
    let cases = [
        (unmasked, "update_mask"),
        (update(Subscription::default(), &[]), "update_mask"),
        (update(Subscription::default(), &["name"]), "update_mask"),
        (update(Subscription::default(), &["ordering"]), "update_mask"),
        (update(Subscription::default(), &["created_at"]), "update_mask"),
        (update(Subscription::default(), &["status"]), "update_mask"),
        (
            update(Subscription::default(), &["labels", "nonsense"]),
            "update_mask",
        ),
        (update(attempts, &["max_attempts"]), "subscription.max_attempts"),
    ];
    for (update, blamed) in cases {
        let status = run.manage(Operation::Update(update.clone())).await.unwrap_err();
        assert_eq!(
            (status.code(), field(&status).as_str()),
            (Code::InvalidArgument, blamed),
            "{update:?}"
        );
    }
}

#[tokio::test]
async fn other_operations_that_cannot_be_are_refused_with_the_field() {
    let run = Run::start(Subscription::default()).await;
    let list = |page_size, page_token: &str| {
        Operation::List(List {
            page_size,
            page_token: page_token.into(),
        })
    };
    let event_ids = vec!["evt_00000000000000000000000000000000".to_owned(); 1001];
    let replay = ReplayDeadLetters {
        name: NAME.into(),
        event_ids: event_ids.clone(),
    };
    let discard = DiscardDeadLetters {
        name: NAME.into(),
        event_ids,
    };
    let cases = [
        (list(1001, ""), "page_size"),
        (list(-1, ""), "page_size"),
        (list(1, "?"), "page_token"),
        (Operation::ReplayDeadLetters(replay), "event_ids"),
        (Operation::DiscardDeadLetters(discard), "event_ids"),
    ];
    for (operation, blamed) in cases {
        let status = run.manage(operation).await.unwrap_err();
        assert_eq!(
            (status.code(), field(&status).as_str()),
            (Code::InvalidArgument, blamed)
        );
    }
    let nothing = ManageSubscriptionRequest { operation: None };
    let status = run.client.clone().manage_subscription(nothing).await.unwrap_err();
    assert_eq!(field(&status), "operation");
}

#[tokio::test]
async fn a_name_is_taken_once_and_a_missing_one_is_not_found() {
    let run = Run::start(Subscription::default()).await;
    let create = Create {
        subscription: Some(Subscription {
            name: NAME.into(),
            ..Subscription::default()
        }),
        start: None,
    };
    let taken = run.manage(Operation::Create(create)).await.unwrap_err();
    assert_eq!(
        refused(&taken),
        (Code::AlreadyExists, "SUBSCRIPTION_EXISTS".to_owned())
    );
    let name = || "nobody".to_owned();
    let subscription = Subscription {
        name: name(),
        ..Subscription::default()
    };
    let operations = [
        Operation::Get(Get { name: name() }),
        Operation::Delete(Delete { name: name() }),
        Operation::Seek(Seek {
            name: name(),
            target: Some(seek::Target::Position(Position::Earliest.into())),
        }),
        Operation::ReplayDeadLetters(ReplayDeadLetters {
            name: name(),
            event_ids: vec![],
        }),
        Operation::DiscardDeadLetters(DiscardDeadLetters {
            name: name(),
            event_ids: vec![],
        }),
        Operation::Update(Update {
            subscription: Some(subscription),
            ..update(Subscription::default(), &["labels"])
        }),
    ];
    for operation in operations {
        let status = run.manage(operation.clone()).await.unwrap_err();
        assert_eq!(refused(&status), not_found(), "{operation:?}");
    }
    let mut client = run.client.clone();
    let status = client.subscribe_events(part_in("nobody")).await.unwrap_err();
    assert_eq!(refused(&status), not_found());
    let listing = ListEventsRequest {
        dead_letters_of: name(),
        ..ListEventsRequest::default()
    };
    let status = client.list_events(listing).await.unwrap_err();
    assert_eq!(refused(&status), not_found());
}

#[tokio::test]
async fn a_stream_of_a_subscription_has_no_place_and_filter_of_its_own() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..1).await;
    let cursor = run.service.stored().await[0].cursor.clone();
    let plain = SubscribeEventsRequest::default;
    let cases = [
        (
            SubscribeEventsRequest {
                filter: types(&["*.fail"]),
                ..part()
            },
            "filter",
        ),
        (
            SubscribeEventsRequest {
                start: Some(Start::AfterCursor(cursor)),
                ..part()
            },
            "start",
        ),
        (
            SubscribeEventsRequest {
                start: Some(Start::Position(Position::New.into())),
                ..part()
            },
            "start",
        ),
        (
            SubscribeEventsRequest {
                stop_at_tail: true,
                ..part()
            },
            "stop_at_tail",
        ),
        (
            SubscribeEventsRequest {
                continue_after_gap: true,
                ..part()
            },
            "continue_after_gap",
        ),
        (
            SubscribeEventsRequest {
                max_unacknowledged: -1,
                ..part()
            },
            "max_unacknowledged",
        ),
        (
            SubscribeEventsRequest {
                max_unacknowledged: 10_001,
                ..part()
            },
            "max_unacknowledged",
        ),
        (
            SubscribeEventsRequest {
                heartbeat_interval: millis(0),
                ..part()
            },
            "heartbeat_interval",
        ),
        (
            SubscribeEventsRequest {
                max_unacknowledged: 1,
                ..plain()
            },
            "max_unacknowledged",
        ),
        (
            SubscribeEventsRequest {
                auto_acknowledge: true,
                ..plain()
            },
            "auto_acknowledge",
        ),
    ];
    let mut client = run.client.clone();
    for (request, blamed) in cases {
        let status = client.subscribe_events(request.clone()).await.unwrap_err();
        assert_eq!(
            (status.code(), field(&status).as_str()),
            (Code::InvalidArgument, blamed),
            "{request:?}"
        );
    }
    let status = run.status().await;
    assert_eq!((status.connected_streams, status.in_flight), (0, 0));
}

#[tokio::test]
async fn the_metrics_tell_how_each_subscription_stands_while_there_is_one() {
    let terms = Subscription {
        max_attempts: 2,
        ..hasty()
    };
    let run = Run::start(terms).await;
    run.deliver(0..5).await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(5).await;
    assert_eq!(run.say(done(), &held[..2]).await, [Accepted; 2]);
    assert_eq!(run.say(retry(None), [&held[2]]).await, [Accepted]);
    let again = stream.delivery().await;
    assert_eq!(run.say(retry(None), [&again]).await, [Accepted]);
    let expected = [
        ("backlog", 2.0),
        ("in_flight", 2.0),
        ("redeliveries_total", 1.0),
        ("dead_letters", 1.0),
        ("streams", 1.0),
        ("acknowledged_total", 2.0),
    ];
    for (name, value) in expected {
        until(name, async || run.metric(name).await == Some(value)).await;
    }
    until("the age is told", async || {
        let age = run.metric("oldest_unacknowledged_age_seconds").await;
        age.is_some_and(|age| age > 0.0)
    })
    .await;
    assert_eq!(run.say(done(), &held[3..]).await, [Accepted; 2]);
    until("nothing is left", async || {
        let age = run.metric("oldest_unacknowledged_age_seconds").await;
        run.metric("backlog").await == Some(0.0) && age.is_none_or(|age| age == 0.0)
    })
    .await;
    run.manage(Operation::Delete(Delete { name: NAME.into() }))
        .await
        .unwrap();
    until("no metric names it any more", async || {
        let (_, metrics) = run.service.admin("/metrics").await;
        !metrics.contains(&format!("subscription=\"{NAME}\""))
    })
    .await;
}
