//! Durability at its plainest: a file, appended and synced. Owns the ingress that verifies and appends, and the sync by
//! itself.

use std::{
    fs::File,
    io::Write,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Path as UrlPath, State},
    http::{HeaderMap, StatusCode},
    routing::post,
};
use bytes::Bytes;
use hookstream::{
    limits,
    signature::{Keyring, Presented},
    transport::{self, Server},
};
use http_body_util::BodyExt;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use crate::deliveries::{ENDPOINT, Verifier};

type Append = (Bytes, oneshot::Sender<()>);

/// Verifies deliveries and appends them to a file: the same server, the same handler, no log.
pub struct Ingress {
    /// Where it listens.
    pub address: SocketAddr,
    server: Server,
}

#[derive(Clone)]
struct Delivering {
    keyring: Arc<Keyring>,
    writer: mpsc::Sender<Append>,
}

impl Ingress {
    /// Serves on a free port and writes to a file in this directory.
    pub async fn start(directory: &Path) -> Self {
        let file = File::create(directory.join("bodies")).unwrap();
        let (writer, inbox) = mpsc::channel(limits::APPEND_QUEUE_MAX);
        std::thread::spawn(move || write(file, inbox));
        let keyring = Arc::new(Verifier::new().keyring().clone());
        let router = Router::new()
            .route("/webhooks/{endpoint}", post(deliver))
            .with_state(Delivering { keyring, writer });
        let listener = transport::bind("127.0.0.1:0", "floor").await.unwrap();
        Self {
            address: listener.local_addr().unwrap(),
            server: Server::start(listener, router),
        }
    }

    /// Ends it.
    pub async fn end(self) {
        self.server.end(Duration::from_secs(1)).await;
    }
}

async fn deliver(
    State(delivering): State<Delivering>,
    UrlPath(endpoint): UrlPath<String>,
    headers: HeaderMap,
    body: Body,
) -> (StatusCode, &'static str) {
    if endpoint != ENDPOINT {
        return (StatusCode::NOT_FOUND, "no such endpoint");
    }
    let body = body.collect().await.unwrap().to_bytes();
    let presented = [Presented {
        header_name: "signature",
        value: headers.get("signature").map_or(&[], |value| value.as_bytes()),
    }];
    let Ok(verified) = delivering.keyring.verify(&presented, body, Timestamp::now()) else {
        return (StatusCode::UNAUTHORIZED, "not signed");
    };
    let (done, durable) = oneshot::channel();
    let (body, _) = verified.into_parts();
    delivering.writer.send((body, done)).await.unwrap();
    durable.await.unwrap();
    (StatusCode::OK, "stored")
}

/// Group commit: whatever is waiting is one write and one sync.
fn write(mut file: File, mut inbox: mpsc::Receiver<Append>) {
    let mut bytes = Vec::new();
    while let Some(first) = inbox.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < limits::COMMIT_EVENTS_MAX
            && let Ok(append) = inbox.try_recv()
        {
            batch.push(append);
        }
        bytes.clear();
        batch.iter().for_each(|(body, _)| bytes.extend_from_slice(body));
        file.write_all(&bytes).unwrap();
        file.sync_data().unwrap();
        for (_, done) in batch {
            let _ = done.send(());
        }
    }
}

/// How long a sync of 4 KiB just appended takes, so many times, one each `interval`. Blocks.
pub fn sync_durations(directory: &Path, count: usize, interval: Duration) -> Vec<Duration> {
    let mut file = File::create(directory.join("appends")).unwrap();
    let page = [7; 4096];
    let mut next = Instant::now();
    let sync = |_| {
        next += interval;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let started = Instant::now();
        file.write_all(&page).unwrap();
        file.sync_data().unwrap();
        started.elapsed()
    };
    (0..count).map(sync).collect()
}
