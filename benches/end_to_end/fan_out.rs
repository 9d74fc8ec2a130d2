//! Fan-out: every event to every stream, beside a bare server that sends the same bytes from memory. The log is the one in
//! memory, so that no disk is measured.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use hookstream::{
    clock::Clock,
    config::Config,
    event::{LogId, NewEvent, Sequence, StoredEvent},
    grpc::{EventEncoder, proto::SubscribeEventsRequest},
    hub::Encode,
    limits,
    log::{EventLog, memory::MemoryLog},
    service::{composition::Composition, engines::Ground},
    tasks::Tasks,
    traces::Traces,
    transport::{self, Server},
};
use prometheus_client::registry::Registry;
use tempfile::TempDir;

use crate::{
    Effort,
    deliveries::{self, Verifier},
    floor,
    meter::{Meter, Round, Rounds},
    stage,
    table::{Row, Target},
};

/// Streams, and events sent to each: fewer than the hub holds, so that nobody falls behind.
const SIZES: [(usize, usize); 4] = [(1, 12_000), (10, 8_000), (100, 2_000), (1000, 200)];
const LOG_ID: LogId = LogId::new(7);

/// Measures it.
pub async fn measure(effort: Effort) -> Vec<Row> {
    let mut rows = Vec::new();
    for (streams, events) in SIZES {
        let events = effort.of(events);
        let verifier = Verifier::new();
        let new: Vec<_> = (0..events)
            .map(|number| verifier.event(deliveries::body(number)))
            .collect();
        let finished = Arc::new(finished(&new));
        let mut rounds = Rounds::default();
        for _ in 0..effort.rounds {
            rounds.service.push(service_round(streams, new.clone()).await);
            rounds
                .floor
                .push(floor_round(streams, Arc::clone(&finished)).await);
        }
        let measure = format!("fan-out, {events} events to {streams} streams");
        rows.push(rounds.row(measure, Target::AtLeast(0.7)));
    }
    rows
}

/// The events as streams send them.
fn finished(events: &[NewEvent]) -> Vec<Bytes> {
    let encoder = EventEncoder::new(LOG_ID).unwrap();
    let encode = |(event, number): (&NewEvent, u64)| {
        encoder.encode(&StoredEvent {
            sequence: Sequence::new(number),
            event: event.clone(),
        })
    };
    events.iter().zip(1..).map(encode).collect()
}

async fn service_round(streams: usize, new: Vec<NewEvent>) -> Round {
    let parts = Parts::start().await;
    let (log, events) = (Arc::clone(&parts.log), new.len());
    let release = move || {
        tokio::spawn(async move {
            for event in new {
                log.append(event).await.unwrap();
            }
        });
    };
    let rate = deliver(parts.address, streams, events, release).await;
    parts.end().await;
    rate
}

async fn floor_round(streams: usize, finished: Arc<Vec<Bytes>>) -> Round {
    let events = finished.len();
    let floor = floor::Streams::start(finished).await;
    let rate = deliver(floor.address, streams, events, || floor.release()).await;
    floor.end().await;
    rate
}

/// Events received per second, all streams together, from their release to the last one's receipt.
async fn deliver(address: SocketAddr, streams: usize, events: usize, release: impl FnOnce()) -> Round {
    let open = stage::streams(address, streams, &SubscribeEventsRequest::default()).await;
    let receiving: Vec<_> = open
        .into_iter()
        .map(|mut stream| tokio::spawn(async move { stage::receive(&mut stream, events).await }))
        .collect();
    let meter = Meter::start();
    release();
    for stream in receiving {
        stream.await.unwrap();
    }
    meter.end(streams * events)
}

/// The service with its log in memory.
pub struct Parts {
    /// Where events come from.
    pub log: Arc<MemoryLog>,
    /// Where clients connect.
    pub address: SocketAddr,
    server: Server,
    composition: Composition,
    _directory: TempDir,
}

impl Parts {
    /// Starts them.
    pub async fn start() -> Self {
        let directory = stage::directory();
        let config = Config::with(&[("data-dir", directory.path().to_str().unwrap())]).unwrap();
        let mut registry = Registry::default();
        let log = Arc::new(MemoryLog::new(LOG_ID));
        let ground = Ground::new(
            Arc::clone(&log) as Arc<dyn EventLog>,
            limits::RING_EVENTS_MAX,
            Clock::system(),
            Tasks::new(),
            &mut registry,
        );
        let foundation = ground.unwrap().alone(&config, &mut registry).await.unwrap();
        let composition = Composition::start(&config, foundation, "", Traces::default(), &mut registry).await;
        let composition = composition.unwrap();
        let listener = transport::bind("127.0.0.1:0", "bench").await.unwrap();
        Self {
            log,
            address: listener.local_addr().unwrap(),
            server: Server::start(listener, composition.grpc.all.clone()),
            composition,
            _directory: directory,
        }
    }

    /// Ends them.
    pub async fn end(self) {
        let connections = async {
            self.server.end(Duration::from_secs(1)).await;
        };
        self.composition.drain(connections).await;
    }
}
