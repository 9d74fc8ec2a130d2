//! Subscriptions: a backlog that several consumers work off and acknowledge, beside one stream of the same events that
//! acknowledges nothing; how long an acknowledgement takes; and what subscriptions cost that nobody uses.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hookstream::grpc::proto::{
    AcknowledgeEventsRequest, AcknowledgementResult, ManageSubscriptionRequest, Position,
    SubscribeEventsRequest, Subscription, acknowledge_events_request as said,
    manage_subscription_request as ask,
};
use hookstream::log::EventLog;

use crate::{
    Effort, deliveries, latency, memory,
    meter::{Meter, Round, Rounds},
    replay,
    stage::{self, Client},
    table::{Row, Target, quantile},
};

const EVENTS: usize = 100_000;
const CONSUMERS: [usize; 3] = [1, 4, 16];
/// Events acknowledged in one call.
const BATCH: usize = 100;
/// Calls that one consumer has under way.
const CALLS: usize = 4;
const IDLE: usize = 1000;

/// Measures it.
pub async fn measure(effort: Effort) -> Vec<Row> {
    // First, while the process is still small: what others allocated and freed would hide the growth.
    let mut rows = idle(effort).await;
    rows.extend(worked_off(effort).await);
    rows.extend(acknowledged(effort).await);
    rows
}

async fn worked_off(effort: Effort) -> Vec<Row> {
    let events = effort.of(EVENTS);
    let directory = stage::directory();
    let log = stage::fill(directory.path(), (0..events).map(deliveries::body)).await;
    log.close().await;
    drop(log);
    let service = stage::service(directory.path()).await;
    let mut rows = Vec::new();
    for consumers in CONSUMERS {
        let mut rounds = Rounds::default();
        for round in 0..effort.rounds {
            let name = format!("bench-{consumers}-{round}");
            rounds
                .service
                .push(work_off(service.grpc_address, &name, consumers, events).await);
            rounds
                .floor
                .push(replay::round(service.grpc_address, events).await);
        }
        let measure = format!("acknowledged events over {consumers} consumers (floor: one stream without)");
        rows.push(rounds.row(measure, Target::AtLeast(0.5)));
    }
    service.drain().await;
    rows
}

/// Events acknowledged per second.
async fn work_off(address: SocketAddr, name: &str, consumers: usize, events: usize) -> Round {
    let subscription = Subscription {
        max_unacknowledged_per_stream: 1000,
        max_unacknowledged: 20_000,
        ..named(name)
    };
    create(address, subscription, Position::Earliest).await;
    let mut clients = Vec::new();
    for _ in 0..consumers {
        clients.push(stage::client(address).await);
    }
    let left = Arc::new(AtomicUsize::new(events));
    let meter = Meter::start();
    let consuming: Vec<_> = clients
        .into_iter()
        .map(|client| tokio::spawn(consume(client, name.to_owned(), Arc::clone(&left))))
        .collect();
    for consumer in consuming {
        consumer.await.unwrap();
    }
    meter.end(events)
}

/// Takes events and acknowledges them until none is left.
async fn consume(mut client: Client, subscription: String, left: Arc<AtomicUsize>) {
    let request = SubscribeEventsRequest {
        subscription: subscription.clone(),
        ..SubscribeEventsRequest::default()
    };
    let mut stream = client.subscribe_events(request).await.unwrap().into_inner();
    let (mut ids, mut calls) = (Vec::new(), FuturesUnordered::new());
    while left.load(Ordering::SeqCst) > 0 {
        let idle = tokio::time::sleep(Duration::from_millis(2));
        tokio::select! {
            biased;
            Some(count) = calls.next() => drop(left.fetch_sub(count, Ordering::SeqCst)),
            response = stream.message(), if calls.len() < CALLS => {
                let response = response.unwrap().unwrap();
                if !response.ack_id.is_empty() {
                    assert_eq!(response.delivery_attempt, 1);
                    ids.push(response.ack_id);
                }
                if ids.len() < BATCH {
                    continue;
                }
                calls.push(done(client.clone(), &subscription, std::mem::take(&mut ids)));
            }
            () = idle => if !ids.is_empty() {
                calls.push(done(client.clone(), &subscription, std::mem::take(&mut ids)));
            }
        }
    }
}

/// Acknowledges; how many.
async fn done(mut client: Client, subscription: &str, ack_ids: Vec<String>) -> usize {
    let count = ack_ids.len();
    let request = AcknowledgeEventsRequest {
        subscription: subscription.to_owned(),
        ack_ids,
        outcome: Some(said::Outcome::Done(said::Done {})),
    };
    let results = client
        .acknowledge_events(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    let accepted = AcknowledgementResult::Accepted as i32;
    assert!(results.len() == count && results.iter().all(|&result| result == accepted));
    count
}

/// How long one acknowledgement takes that nobody shares a sync with.
async fn acknowledged(effort: Effort) -> Vec<Row> {
    let count = effort.of(4000);
    let directory = stage::directory();
    let log = stage::fill(directory.path(), (0..count).map(deliveries::body)).await;
    log.close().await;
    drop(log);
    let service = stage::service(directory.path()).await;
    create(service.grpc_address, named("bench"), Position::Earliest).await;
    let mut client = stage::client(service.grpc_address).await;
    let request = SubscribeEventsRequest {
        subscription: "bench".to_owned(),
        ..SubscribeEventsRequest::default()
    };
    let mut stream = client.subscribe_events(request).await.unwrap().into_inner();
    let mut took = Vec::new();
    while took.len() < count {
        let response = stream.message().await.unwrap().unwrap();
        if !response.ack_id.is_empty() {
            let started = Instant::now();
            done(client.clone(), "bench", vec![response.ack_id]).await;
            took.push(started.elapsed());
        }
    }
    drop(stream);
    service.drain().await;
    let row = |share: f64| {
        let measure = format!("one acknowledgement, p{}", share * 100.0);
        Row::duration(measure, quantile(&took, share), None, Target::None)
    };
    vec![row(0.5), row(0.99)]
}

/// What subscriptions cost that nobody uses.
async fn idle(effort: Effort) -> Vec<Row> {
    let directory = stage::directory();
    let service = stage::service_with_endpoint(directory.path()).await;
    let (subscriptions, count) = (effort.of(IDLE), effort.of(latency::RATE * 5));
    // What the first ones allocate once and for all is no part of one.
    let mut client = stage::client(service.grpc_address).await;
    for number in 0..subscriptions / 10 {
        create_with(&mut client, named(&format!("first-{number}")), Position::New).await;
    }
    let before = memory::resident_bytes();
    for number in 0..subscriptions {
        create_with(&mut client, named(&format!("idle-{number}")), Position::New).await;
    }
    let grown = memory::resident_bytes().saturating_sub(before) as f64 / 1024.0;
    let (ways, _) = latency::through(service.ingress_address, service.grpc_address, count).await;
    service.drain().await;

    let directory = stage::directory();
    let service = stage::service_with_endpoint(directory.path()).await;
    let (ways_alone, _) = latency::through(service.ingress_address, service.grpc_address, count).await;
    service.drain().await;
    let alone = quantile(&ways_alone, 0.5);
    let each = grown / subscriptions as f64;
    let measure =
        format!("delivery to subscriber beside {subscriptions} idle subscriptions, p50 (floor: none)");
    vec![
        Row {
            measure: format!("memory of one of {subscriptions} idle subscriptions"),
            service: format!("{each:.1} KiB"),
            floor: String::new(),
            compared: each,
            target: Target::None,
        },
        Row::duration(measure, quantile(&ways, 0.5), Some(alone), Target::None),
    ]
}

fn named(name: &str) -> Subscription {
    Subscription {
        name: name.to_owned(),
        ..Subscription::default()
    }
}

async fn create(address: SocketAddr, subscription: Subscription, position: Position) {
    create_with(&mut stage::client(address).await, subscription, position).await;
}

async fn create_with(client: &mut Client, subscription: Subscription, position: Position) {
    let create = ask::Create {
        subscription: Some(subscription),
        start: Some(ask::create::Start::Position(position.into())),
    };
    let request = ManageSubscriptionRequest {
        operation: Some(ask::Operation::Create(create)),
    };
    client.manage_subscription(request).await.unwrap();
}
