//! Durable ingest: signed deliveries over HTTP, each answered when its event is durable, beside verified bodies appended
//! to a plain file.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    Effort,
    deliveries::{self, Connection},
    floor,
    meter::{Meter, Round, Rounds},
    stage,
    table::{Row, Target},
};

const CONNECTIONS: [usize; 3] = [1, 16, 64];
pub const ROUND: Duration = Duration::from_millis(1200);
/// More than can be delivered in a round.
const DELIVERIES_PER_ROUND: usize = 120_000;
/// Lets the disk and the index come to rest, so that one side does not pay for the other.
const REST: Duration = Duration::from_millis(500);

/// Measures it.
pub async fn measure(effort: Effort) -> Vec<Row> {
    let (directory, floor_directory) = (stage::directory(), stage::directory());
    let service = stage::service_with_endpoint(directory.path()).await;
    let floor = floor::Ingress::start(floor_directory.path()).await;
    let mut rows = Vec::new();
    let mut number = 0;
    for connections in CONNECTIONS {
        let mut rounds = Rounds::default();
        for _ in 0..effort.rounds {
            let measured = round(service.ingress_address, connections, &mut number).await;
            rounds.service.push(measured);
            rounds
                .floor
                .push(round(floor.address, connections, &mut number).await);
        }
        let target = match connections {
            64 => Target::AtLeast(0.7),
            _ => Target::None,
        };
        rows.push(rounds.row(format!("durable ingest, {connections} connections"), target));
        println!("{}", commits(service.admin_address).await);
    }
    service.drain().await;
    floor.end().await;
    rows
}

/// Deliveries answered per second. `number` is where unused bodies begin.
pub async fn round(address: SocketAddr, connections: usize, number: &mut usize) -> Round {
    let each = DELIVERIES_PER_ROUND / connections.max(4);
    let mut posting = Vec::new();
    for _ in 0..connections {
        let requests: Vec<Bytes> = (*number..*number + each)
            .map(|number| deliveries::request(&deliveries::body(number)))
            .collect();
        *number += each;
        posting.push((Connection::open(address).await, requests));
    }
    tokio::time::sleep(REST).await;
    let meter = Meter::start();
    let deadline = Instant::now() + ROUND;
    let posting: Vec<_> = posting
        .into_iter()
        .map(|(connection, requests)| tokio::spawn(post_until(deadline, connection, requests)))
        .collect();
    let mut answered = 0;
    for connection in posting {
        answered += connection.await.unwrap();
    }
    meter.end(answered)
}

async fn post_until(deadline: Instant, mut connection: Connection, requests: Vec<Bytes>) -> usize {
    let mut answered = 0;
    for request in requests {
        if Instant::now() >= deadline {
            break;
        }
        connection.post(&request).await;
        answered += 1;
    }
    answered
}

/// What the service's metrics say of its commits so far.
async fn commits(admin: SocketAddr) -> String {
    let metrics = deliveries::fetch(admin, "/metrics").await;
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse().unwrap()
    };
    let commits = value("hookstream_log_commit_seconds_count ");
    let (seconds, events) = (
        value("hookstream_log_commit_seconds_sum "),
        value("hookstream_log_commit_events_sum "),
    );
    format!(
        "commits so far: {commits}, {:.3} ms and {:.1} events each",
        seconds / commits * 1e3,
        events / commits
    )
}
