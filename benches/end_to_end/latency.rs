//! From delivery to subscriber: one connection posts at a steady rate, one stream receives, beside the bare sync that
//! durability costs.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hookstream::grpc::proto::{
    SubscribeEventsRequest, SubscribeEventsResponse, subscribe_events_response::Frame,
};
use tokio::{sync::oneshot, time::MissedTickBehavior};
use tonic::Streaming;

use crate::{
    Effort,
    deliveries::{self, Connection},
    floor, stage,
    table::{Row, Target, quantile},
};

/// Deliveries per second.
pub const RATE: usize = 200;
const SECONDS: usize = 20;

/// Measures it.
pub async fn measure(effort: Effort) -> Vec<Row> {
    let directory = stage::directory();
    let service = stage::service_with_endpoint(directory.path()).await;
    let count = effort.of(RATE * SECONDS);
    let mut syncs = paced_syncs(count / 4).await;

    let (ways, answers) = through(service.ingress_address, service.grpc_address, count).await;
    service.drain().await;

    syncs.extend(paced_syncs(count / 4).await);
    let sync = quantile(&syncs, 0.5);
    for (what, durations) in [("way", &ways), ("answer", &answers), ("sync", &syncs)] {
        let at = |share| quantile(durations, share);
        println!(
            "latency, {what}: p50 {:?}, p90 {:?}, p99 {:?}, p99.9 {:?}, max {:?}",
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            at(1.0)
        );
    }
    let (tail, tail_of_sync) = (quantile(&ways, 0.99), quantile(&syncs, 0.99));
    let tails = format!("delivery to subscriber at {RATE}/s, p99 (floor: p99 of a sync)");
    let row = |measure: &str, durations: &[Duration], share, target| {
        let measure = format!("{measure} at {RATE}/s, p{} (floor: p50 of a sync)", share * 100.0);
        Row::duration(measure, quantile(durations, share), Some(sync), target)
    };
    vec![
        row("delivery to subscriber", &ways, 0.5, Target::None),
        row("delivery to subscriber", &ways, 0.99, Target::AtMost(3.0)),
        Row::duration(tails, tail, Some(tail_of_sync), Target::None),
        row("delivery to subscriber", &ways, 0.999, Target::None),
        row("delivery to answer", &answers, 0.5, Target::None),
        row("delivery to answer", &answers, 0.99, Target::None),
    ]
}

/// How long this many deliveries take to the subscriber, and how long their answers; the service has no event yet.
pub async fn through(ingress: SocketAddr, grpc: SocketAddr, count: usize) -> (Vec<Duration>, Vec<Duration>) {
    let (opened, is_open) = oneshot::channel();
    let receiving = stage::aside(async move {
        let mut streams = stage::streams(grpc, 1, &SubscribeEventsRequest::default()).await;
        opened.send(()).unwrap();
        receive(streams.remove(0), count).await
    });
    is_open.await.unwrap();
    let posting = stage::aside(async move { post(Connection::open(ingress).await, count).await });
    let (posted, answers) = posting.await.unwrap();
    let received = receiving.await.unwrap();
    let ways = received
        .iter()
        .zip(&posted)
        .map(|(received, posted)| received.duration_since(*posted));
    (ways.collect(), answers)
}

/// Posts the bodies 0.. at the rate. When each was posted, and how long its answer took.
async fn post(mut connection: Connection, count: usize) -> (Vec<Instant>, Vec<Duration>) {
    let requests: Vec<Bytes> = (0..count)
        .map(|number| deliveries::request(&deliveries::body(number)))
        .collect();
    let mut ticks = tokio::time::interval(interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut posted, mut answers) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for request in requests {
        ticks.tick().await;
        let started = Instant::now();
        connection.post(&request).await;
        posted.push(started);
        answers.push(started.elapsed());
    }
    (posted, answers)
}

/// When each event came; they come in the order they were posted in.
async fn receive(mut stream: Streaming<SubscribeEventsResponse>, count: usize) -> Vec<Instant> {
    let mut received = Vec::with_capacity(count);
    while received.len() < count {
        let frame = stream.message().await.unwrap().unwrap().frame;
        if let Some(Frame::Event(event)) = frame {
            let now = Instant::now();
            assert_eq!(event.provider_event_id, received.len().to_string());
            received.push(now);
        }
    }
    received
}

async fn paced_syncs(count: usize) -> Vec<Duration> {
    let directory = stage::directory();
    let syncs = move || floor::sync_durations(directory.path(), count, interval());
    tokio::task::spawn_blocking(syncs).await.unwrap()
}

pub fn interval() -> Duration {
    Duration::from_secs(1) / RATE as u32
}
