//! Backends that work off one subscription together.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hookstream::grpc::proto::{
    AcknowledgeEventsRequest, AcknowledgementResult, ManageSubscriptionRequest, Position,
    SubscribeEventsRequest, Subscription,
    acknowledge_events_request::{Done, Outcome, Retry},
    manage_subscription_request::{Create, Operation, create::Start},
    subscribe_events_response::Frame,
};
use parking_lot::Mutex;
use tokio::time::timeout;
use tonic::Code;

use super::{Client, check, connect, pause};
use crate::world::Shared;

const SUBSCRIPTION: &str = "work";

/// Events that were acknowledged, with the attempt that the service says was the one; without it where no answer came, so
/// that it may have been too late.
pub type Settled = Arc<Mutex<BTreeMap<u64, Option<i32>>>>;

/// Works off a subscription with others: does, fails, forgets, leaves, until everything is settled.
pub async fn work(shared: Arc<Shared>, number: usize, settled: Settled) -> turmoil::Result {
    let worker = Worker {
        name: format!("worker {number}"),
        shared: Arc::clone(&shared),
        settled,
    };
    worker.create().await;
    while !worker.is_finished() {
        // When nobody is left to deliver, a look now and then tells whether the others have settled the rest.
        let _ = timeout(Duration::from_secs(20), worker.take_part()).await;
        pause(0..1_000).await;
    }
    Ok(())
}

struct Worker {
    name: String,
    shared: Arc<Shared>,
    settled: Settled,
}

impl Worker {
    /// Whether all that was acknowledged to HeyGen is settled here. What was stored without an answer to HeyGen has been
    /// answered by the time that everything is sent.
    fn is_finished(&self) -> bool {
        let sent = self.shared.sending.load(Ordering::SeqCst) == 0;
        sent && self.settled.lock().len() >= self.shared.history.lock().acknowledged.len()
    }

    async fn create(&self) {
        loop {
            pause(0..500).await;
            let Some(mut client) = connect().await else {
                continue;
            };
            let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
            let subscription = Subscription {
                name: SUBSCRIPTION.to_owned(),
                ack_deadline: seconds(3),
                max_attempts: 1000,
                max_retry_delay: seconds(2),
                ..Subscription::default()
            };
            let operation = Operation::Create(Create {
                subscription: Some(subscription),
                start: Some(Start::Position(Position::Earliest.into())),
            });
            let request = ManageSubscriptionRequest {
                operation: Some(operation),
            };
            match timeout(Duration::from_secs(10), client.manage_subscription(request)).await {
                Ok(Ok(_)) => return,
                Ok(Err(status)) if status.code() == Code::AlreadyExists => return,
                Ok(Err(status)) => check(&self.shared, &self.name, &status),
                Err(_) => {}
            }
        }
    }

    /// One stream, as long as it holds.
    async fn take_part(&self) {
        let Some(mut client) = connect().await else { return };
        let life = self.shared.lives.load(Ordering::SeqCst);
        let settled_before = self.settled.lock().clone();
        let request = SubscribeEventsRequest {
            subscription: SUBSCRIPTION.to_owned(),
            max_unacknowledged: rand::random_range(1..6),
            ..SubscribeEventsRequest::default()
        };
        let mut frames = match client.subscribe_events(request).await {
            Ok(frames) => frames.into_inner(),
            Err(status) => return check(&self.shared, &self.name, &status),
        };
        loop {
            let response = match frames.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return,
                Err(status) => return check(&self.shared, &self.name, &status),
            };
            let Some(Frame::Event(event)) = response.frame else {
                continue;
            };
            let (sequence, attempt) = (event.sequence, response.delivery_attempt);
            self.shared
                .saw(&format!("{} is handed {sequence}, attempt {attempt}", self.name));
            let was_settled = matches!(settled_before.get(&sequence), Some(Some(_)));
            // An earlier attempt may have been under way to here when a later one was settled elsewhere; and a service that
            // was restarted does not know of attempts that were under way.
            let settled_at = self.settled.lock().get(&sequence).copied().flatten();
            let is_later = settled_at.is_some_and(|settled_at| settled_at < attempt);
            let is_same_life = self.shared.lives.load(Ordering::SeqCst) == life;
            if was_settled || (is_later && is_same_life) {
                self.shared
                    .breach(format!("I9: {sequence} was settled, and is handed out again"));
            }
            pause(0..1_500).await;
            let is_done = match rand::random_range(0..10) {
                // Forgotten: the deadline passes.
                0 => continue,
                // Left with it in hand.
                1 => return,
                2 => false,
                _ => true,
            };
            self.acknowledge(&mut client, (sequence, attempt), response.ack_id, is_done)
                .await;
        }
    }

    async fn acknowledge(
        &self,
        client: &mut Client,
        (sequence, attempt): (u64, i32),
        ack_id: String,
        is_done: bool,
    ) {
        let outcome = if is_done {
            Outcome::Done(Done {})
        } else {
            Outcome::Retry(Retry { after: None })
        };
        let request = AcknowledgeEventsRequest {
            subscription: SUBSCRIPTION.to_owned(),
            ack_ids: vec![ack_id],
            outcome: Some(outcome),
        };
        // Should no answer come, it may have gone through all the same.
        let is_first = is_done && !self.settled.lock().contains_key(&sequence);
        if is_first {
            self.settled.lock().insert(sequence, None);
        }
        match timeout(Duration::from_secs(10), client.acknowledge_events(request)).await {
            Ok(Ok(answer)) if is_done => {
                let result = answer.into_inner().results[0];
                if result == i32::from(AcknowledgementResult::Accepted) {
                    self.shared.saw(&format!("{} settled {sequence}", self.name));
                    self.settled.lock().insert(sequence, Some(attempt));
                } else if is_first && self.settled.lock().get(&sequence) == Some(&None) {
                    self.settled.lock().remove(&sequence);
                }
            }
            Ok(Err(status)) => check(&self.shared, &self.name, &status),
            _ => {}
        }
    }
}
