//! Replay: everything that is stored, from the embedded log over one stream, beside a bare server that sends the same
//! bytes from memory.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use hookstream::{
    event::Sequence,
    filter::Filter,
    grpc::{
        EventEncoder,
        proto::{Position, SubscribeEventsRequest, subscribe_events_request::Start},
    },
    hub::Encode,
    log::{Direction, EventLog, Limit, Range, sqlite::SqliteLog},
};

use crate::{
    Effort, deliveries, floor,
    meter::{Meter, Round, Rounds},
    stage,
    table::{Row, Target},
};

const EVENTS: usize = 200_000;

/// Measures it.
pub async fn measure(effort: Effort) -> Vec<Row> {
    let events = effort.of(EVENTS);
    let directory = stage::directory();
    let log = stage::fill(directory.path(), (0..events).map(deliveries::body)).await;
    let finished = Arc::new(finished(&log).await);
    log.close().await;
    assert_eq!(finished.len(), events);

    let service = stage::service(directory.path()).await;
    let floor = floor::Streams::start(finished).await;
    floor.release();
    let mut rounds = Rounds::default();
    for _ in 0..effort.rounds {
        let aside = |address| stage::aside(round(address, events));
        rounds.service.push(aside(service.grpc_address).await.unwrap());
        rounds.floor.push(aside(floor.address).await.unwrap());
    }
    service.drain().await;
    floor.end().await;
    vec![rounds.row(format!("replay of {events} stored events"), Target::AtLeast(0.7))]
}

/// Events received per second by a stream from the start that acknowledges nothing.
pub async fn round(address: SocketAddr, events: usize) -> Round {
    let request = SubscribeEventsRequest {
        start: Some(Start::Position(Position::Earliest.into())),
        stop_at_tail: true,
        ..SubscribeEventsRequest::default()
    };
    let mut client = stage::client(address).await;
    let meter = Meter::start();
    let mut stream = client.subscribe_events(request).await.unwrap().into_inner();
    stage::receive(&mut stream, events).await;
    meter.end(events)
}

/// Every stored event as streams send it.
async fn finished(log: &SqliteLog) -> Vec<Bytes> {
    let encoder = EventEncoder::new(log.log_id()).unwrap();
    let limit = Limit {
        events: 1000,
        bytes: usize::MAX,
    };
    let mut range = Range {
        after: Sequence::ZERO,
        through: log.bounds().tail,
    };
    let (everything, mut finished) = (Filter::default(), Vec::new());
    while range.after < range.through {
        let read = log.read(range, Direction::Forward, &everything, limit);
        let chunk = read.await.unwrap();
        finished.extend(chunk.events.iter().map(|event| encoder.encode(event)));
        range.after = chunk.scanned;
    }
    finished
}
