//! How cost grows: with the streams that want none of it, with what their filters look at, with the subscriptions that nobody
//! uses, and with the events that are kept. The floor of each is the same with the least of them.

use std::{sync::Arc, time::Instant};

use hookstream::{
    grpc::proto::{EventFilter, SubscribeEventsRequest},
    log::EventLog,
};

use crate::{
    Effort, deliveries,
    fan_out::Parts,
    ingest, listing,
    meter::{Meter, Round, Rounds},
    replay, stage,
    table::{Row, Target},
};

const STREAMS: [usize; 3] = [100, 1_000, 10_000];
/// Fewer than the hub holds, so that nobody falls behind.
const EVENTS: usize = 12_000;
const EVENTS_KEPT: [usize; 3] = [10_000, 100_000, 1_000_000];
/// With `--large`: takes ten minutes and as many gigabytes.
const EVENTS_KEPT_LARGE: usize = 10_000_000;
const REPLAYED: usize = 100_000;
const CONNECTIONS: usize = 64;

/// Measures it.
pub async fn measure(effort: Effort, large: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for streams in STREAMS {
        let streams = effort.of(streams).max(2);
        for (what, filter) in [
            ("resource", by_entity as fn(usize) -> EventFilter),
            ("type", by_type),
        ] {
            rows.push(beside_streams(effort, streams, what, filter).await);
        }
    }
    let large = large.then_some(EVENTS_KEPT_LARGE);
    for kept in EVENTS_KEPT.into_iter().chain(large) {
        rows.extend(with_events_kept(effort.of(kept)).await);
    }
    rows
}

fn by_entity(number: usize) -> EventFilter {
    EventFilter {
        entity_ids: vec![format!("vid_of_nobody_{number}")],
        ..EventFilter::default()
    }
}

fn by_type(number: usize) -> EventFilter {
    EventFilter {
        event_types: vec![format!("of_nobody.n{number}")],
        ..EventFilter::default()
    }
}

/// Events to one stream that wants them, beside others that want something else each.
async fn beside_streams(effort: Effort, streams: usize, what: &str, filter: fn(usize) -> EventFilter) -> Row {
    let mut rounds = Rounds::default();
    for _ in 0..effort.rounds {
        rounds.service.push(round(effort, streams - 1, filter).await);
        rounds.floor.push(round(effort, 0, filter).await);
    }
    let measure = format!(
        "events to 1 stream, beside {} that want another {what} each",
        streams - 1
    );
    // One event may cost 1.2 times as much.
    rounds.row(measure, Target::AtLeast(0.83))
}

async fn round(effort: Effort, others: usize, filter: fn(usize) -> EventFilter) -> Round {
    let parts = Parts::start().await;
    let verifier = deliveries::Verifier::new();
    let events = effort.of(EVENTS);
    let new: Vec<_> = (0..events)
        .map(|number| verifier.event(deliveries::body(number)))
        .collect();
    let idle = stage::streams_of(parts.address, others, |number| SubscribeEventsRequest {
        filter: Some(filter(number)),
        ..SubscribeEventsRequest::default()
    });
    let idle = idle.await;
    let mut wanting = stage::streams(parts.address, 1, &SubscribeEventsRequest::default()).await;
    let log = Arc::clone(&parts.log);
    let meter = Meter::start();
    let append = async {
        for event in new {
            log.append(event).await.unwrap();
        }
    };
    tokio::join!(append, stage::receive(&mut wanting[0], events));
    let measured = meter.end(events);
    drop((idle, wanting));
    parts.end().await;
    measured
}

/// What a service on so many events does.
async fn with_events_kept(kept: usize) -> Vec<Row> {
    let directory = stage::directory();
    let keys = (kept / listing::EVENTS_PER_KEY).max(1);
    let started = Instant::now();
    let bodies = (0..kept).map(|number| listing::body(number, keys));
    let log = stage::fill(directory.path(), bodies).await;
    log.close().await;
    let files = std::fs::read_dir(directory.path()).unwrap();
    let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    println!(
        "scale: {kept} events stored in {:.1?}, {} bytes each on disk",
        started.elapsed(),
        bytes / kept as u64
    );
    let started = Instant::now();
    let service = stage::service(directory.path()).await;
    let start = Row::duration(
        format!("start on {kept} events"),
        started.elapsed(),
        None,
        Target::None,
    );
    stage::create_endpoint(service.grpc_address).await;
    let mut rows = vec![start];

    let mut client = stage::client(service.grpc_address).await;
    rows.extend(listing::list_by_entity(&mut client, kept, keys).await);
    let events = REPLAYED.min(kept);
    let replayed = replay::round(service.grpc_address, events).await;
    rows.push(replayed.row(format!("replay of the first {events} of {kept} events")));
    let mut number = kept;
    let ingested = ingest::round(service.ingress_address, CONNECTIONS, &mut number).await;
    rows.push(ingested.row(format!(
        "durable ingest beside {kept} events, {CONNECTIONS} connections"
    )));
    service.drain().await;
    rows
}
