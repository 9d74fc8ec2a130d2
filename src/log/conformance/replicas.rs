//! Replicas of a log in JetStream as one log: what is written at one is read at another. Owns the servers, which the tests
//! share, and the claim that all replicas have the same.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::sync::watch;

use super::{ALL, read_all, whole};
use crate::{
    event::{EventId, LogId, NewEvent, Sequence, StoredEvent},
    filter::Filter,
    log::{
        AppendError, Appended, Bounds, Chunk, Direction, EventLog, Limit, Range, ReadError, Retention,
        Trimmed, jetstream::JetStreamLog, metrics::LogMetrics,
    },
    nats::Settings,
    nats_server::Nats,
};

/// A stream of its own on servers that are shared, and the copies of its replicas.
pub(super) struct Cluster {
    nats: Arc<Nats>,
    stream: String,
    copies: Vec<TempDir>,
}

impl Cluster {
    pub(super) fn new(servers: usize, replicas: usize) -> Self {
        static STREAMS: AtomicUsize = AtomicUsize::new(0);
        let number = STREAMS.fetch_add(1, Ordering::Relaxed);
        Self {
            nats: shared(servers),
            stream: format!("stream{number}"),
            copies: (0..replicas).map(|_| tempfile::tempdir().unwrap()).collect(),
        }
    }

    pub(super) async fn open(&self) -> Replicas {
        let mut logs = Vec::new();
        for copy in &self.copies {
            logs.push(self.open_one(copy.path()).await);
        }
        Replicas {
            logs,
            turn: AtomicUsize::new(0),
        }
    }

    async fn open_one(&self, copy: &Path) -> JetStreamLog {
        let settings = Settings::open(self.nats.url(), self.stream.clone());
        let nats = crate::nats::Nats::connect(&settings).await.unwrap();
        let log = JetStreamLog::open(&nats, copy, LogMetrics::default());
        log.await.unwrap()
    }

    /// One replica has to copy the stream anew.
    pub(super) fn lose_a_copy(&self) {
        let copy = self.copies.last().unwrap();
        for file in fs::read_dir(copy.path()).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
    }
}

/// Servers for as long as any test needs some.
fn shared(servers: usize) -> Arc<Nats> {
    static SHARED: [Mutex<Weak<Nats>>; 4] = [const { Mutex::new(Weak::new()) }; 4];
    let mut shared = SHARED[servers].lock().unwrap();
    shared.upgrade().unwrap_or_else(|| {
        let nats = Arc::new(Nats::start(servers, "", ""));
        *shared = Arc::downgrade(&nats);
        nats
    })
}

/// The replicas, in turn.
pub(super) struct Replicas {
    logs: Vec<JetStreamLog>,
    turn: AtomicUsize,
}

impl Replicas {
    fn next(&self) -> &JetStreamLog {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        &self.logs[turn % self.logs.len()]
    }

    /// Waits until all replicas have what one has. More than its bounds: an event that is a twin moves none.
    async fn settle(&self, one: &JetStreamLog) {
        let (position, trimmed) = (one.position(), one.bounds().trimmed);
        for log in &self.logs {
            while log.position() < position || log.bounds().trimmed < trimmed {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
    }
}

#[async_trait]
impl EventLog for Replicas {
    fn log_id(&self) -> LogId {
        self.next().log_id()
    }

    fn bounds(&self) -> Bounds {
        self.next().bounds()
    }

    fn tail(&self) -> watch::Receiver<Sequence> {
        self.logs[0].tail()
    }

    fn writable(&self) -> watch::Receiver<Result<(), AppendError>> {
        self.next().writable()
    }

    async fn append(&self, event: NewEvent) -> Result<Appended, AppendError> {
        let log = self.next();
        let appended = log.append(event).await;
        self.settle(log).await;
        appended
    }

    async fn read(
        &self,
        range: Range,
        direction: Direction,
        filter: &Filter,
        limit: Limit,
    ) -> Result<Chunk, ReadError> {
        // The one whose tail is announced.
        self.logs[0].read(range, direction, filter, limit).await
    }

    async fn count(&self, range: Range, filter: &Filter) -> Result<u64, ReadError> {
        self.next().count(range, filter).await
    }

    async fn find(&self, id: EventId) -> Result<Option<Arc<StoredEvent>>, ReadError> {
        self.next().find(id).await
    }

    async fn before_time(&self, time: Timestamp) -> Result<Sequence, ReadError> {
        self.next().before_time(time).await
    }

    fn event_types(&self) -> Vec<String> {
        self.next().event_types()
    }

    async fn trim(&self, retention: Retention, now: Timestamp) -> Result<Trimmed, AppendError> {
        let log = self.next();
        let trimmed = log.trim(retention, now).await;
        self.settle(log).await;
        trimmed
    }

    fn size_bytes(&self) -> u64 {
        self.next().size_bytes()
    }

    fn durability(&self) -> String {
        self.next().durability()
    }

    async fn close(&self) {
        let mut all = Vec::new();
        for log in &self.logs {
            self.settle(log).await;
            let filter = Filter::default();
            all.push(
                read_all(log, whole(log), Direction::Forward, &filter, ALL)
                    .await
                    .unwrap(),
            );
        }
        assert!(
            all.iter().all(|events| *events == all[0]),
            "all replicas have the same"
        );
        for log in &self.logs {
            log.close().await;
        }
    }
}
