//! The log in JetStream: ingest and the way to the subscriber, beside a bare client that publishes the same bodies to a stream
//! of the same server and waits for each acknowledgement.

use std::time::{Duration, Instant};

use async_nats::jetstream::{Context, stream};
use hookstream::{config::LogEngine, nats::Settings};
use tokio::time::MissedTickBehavior;

use crate::{
    Effort, deliveries,
    ingest::{self, ROUND},
    latency::{self, RATE, interval},
    meter::{Meter, Round, Rounds},
    nats::Nats,
    stage,
    table::{Row, Target, quantile},
};

const CONNECTIONS: usize = 64;
const SECONDS: usize = 10;

/// Measures it, with the server's own idea of when to sync and with a sync for every event.
pub async fn measure(effort: Effort) -> Vec<Row> {
    let mut rows = Vec::new();
    for (sync, jetstream) in [("every two minutes", ""), ("always", "sync_interval: always")] {
        let nats = Nats::start(1, jetstream, "");
        rows.extend(on(&nats, effort, sync).await);
    }
    rows
}

async fn on(nats: &Nats, effort: Effort, sync: &str) -> Vec<Row> {
    let directory = stage::directory();
    let settings = Settings::open(nats.url(), "hookstream".to_owned());
    let service = stage::service_on(directory.path(), LogEngine::JetStream(Box::new(settings))).await;
    stage::create_endpoint(service.grpc_address).await;
    let floor = async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let config = stream::Config {
        name: "floor".to_owned(),
        ..stream::Config::default()
    };
    floor.create_stream(config).await.unwrap();

    // First, because the receiver counts the events from 0.
    let count = effort.of(RATE * SECONDS);
    let acknowledgements = paced(&floor, count).await;
    let (ways, _) = latency::through(service.ingress_address, service.grpc_address, count).await;

    let (mut rounds, mut number) = (Rounds::default(), 1_000_000);
    for _ in 0..effort.rounds {
        let measured = ingest::round(service.ingress_address, CONNECTIONS, &mut number).await;
        rounds.service.push(measured);
        rounds.floor.push(publish(&floor, &mut number).await);
    }
    service.drain().await;
    let at = |durations: &[Duration], share| quantile(durations, share);
    let row = |share: f64| {
        let measure = format!(
            "jetstream, sync {sync}: delivery to subscriber at {RATE}/s, p{} (floor: an acknowledged publish)",
            share * 100.0
        );
        let (way, floor) = (at(&ways, share), at(&acknowledgements, share));
        println!("{measure}: {:?} more", way.saturating_sub(floor));
        Row::duration(measure, way, Some(floor), Target::None)
    };
    let ingest =
        format!("jetstream, sync {sync}: ingest, {CONNECTIONS} connections (floor: acknowledged publishes)");
    vec![rounds.row(ingest, Target::AtLeast(0.7)), row(0.5), row(0.99)]
}

/// Publishes acknowledged per second, as many at a time as there are connections. `number` is where unused bodies begin.
async fn publish(floor: &Context, number: &mut usize) -> Round {
    let meter = Meter::start();
    let deadline = Instant::now() + ROUND;
    let mut publishing = Vec::new();
    for _ in 0..CONNECTIONS {
        *number += 100_000;
        publishing.push(tokio::spawn(publish_until(deadline, floor.clone(), *number)));
    }
    let mut published = 0;
    for task in publishing {
        published += task.await.unwrap();
    }
    meter.end(published)
}

async fn publish_until(deadline: Instant, floor: Context, first: usize) -> usize {
    let mut published = 0;
    while Instant::now() < deadline {
        let body = deliveries::body(first + published);
        floor.publish("floor", body.into()).await.unwrap().await.unwrap();
        published += 1;
    }
    published
}

/// How long this many publishes take to be acknowledged, one each interval.
async fn paced(floor: &Context, count: usize) -> Vec<Duration> {
    let mut ticks = tokio::time::interval(interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut durations = Vec::with_capacity(count);
    for number in 0..count {
        ticks.tick().await;
        let started = Instant::now();
        let body = deliveries::body(number);
        floor.publish("floor", body.into()).await.unwrap().await.unwrap();
        durations.push(started.elapsed());
    }
    durations
}
