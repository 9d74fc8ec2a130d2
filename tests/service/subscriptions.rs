//! What a subscription promises to the streams that share it. Claims about ManageSubscription,
//! AcknowledgeEvents and the streams that name a subscription, one promise at a time.

mod ends;
mod failures;
mod order;
mod place;
mod refusals;
mod sharing;
mod standing;
mod terms;

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    sync::{Arc, Mutex},
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
