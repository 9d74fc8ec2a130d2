//! The embedded log on SQLite. Owns opening, reading and closing it; leaves writing to one thread and the index to another.
//!
//! Two files. `log.db` is the truth: one append-only table and, beside it, the aliases of events that came twice under
//! different ids (`twins`), synced on every commit. `index.db` is derived and disposable: which events have which id, type,
//! resource and endpoint, kept behind the log by a thread of its own, and rebuilt from the log when it is missing or
//! foreign. Events that the index does not have yet are in memory (`recent`), so that a read looks there for what is newer
//! than the index and on disk for the rest.

mod batch;
mod checkpoint;
mod database;
mod ids;
mod index;
mod projection;
mod reader;
mod recent;
mod replies;
mod segment;
mod twins;
mod writer;

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use self::{
    batch::Recorded,
    database::{Beginning, Durability, LogDatabase, Sight},
    index::Indexed,
    reader::Readers,
    recent::Recent,
    replies::Replies,
    twins::Twins,
    writer::{Append, Command},
};
pub use self::{
    database::OpenError,
    projection::{Applied, Change, Entry, Projection, Start},
};
use super::{
    AppendError, Appended, Bounds, Chunk, Direction, EventLog, Limit, Range, ReadError, Retention, Trimmed,
    metrics::LogMetrics,
};
use crate::{
    event::{EventId, LogId, NewEvent, Sequence, StoredEvent},
    filter::Filter,
    limits,
    tasks::{self, Tasks},
};

/// The embedded log.
#[derive(Debug)]
pub struct SqliteLog {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    readers: Readers,
    trimming: tokio::sync::Mutex<()>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    tasks: Tasks,
}

/// What the threads and the readers of one log share.
#[derive(Debug)]
struct Shared {
    log_id: LogId,
    /// Set before the rows go, so that a reader that missed some finds out by looking here afterwards.
    trimmed: AtomicU64,
    tail: watch::Sender<Sequence>,
    recent: Recent,
    indexed: Indexed,
    writable: watch::Sender<Result<(), AppendError>>,
    event_types: Mutex<BTreeSet<String>>,
    size_bytes: AtomicU64,
    metrics: LogMetrics,
}

impl Shared {
    /// Of a log of which all events are on disk and in the index.
    fn of(sight: Sight, writable: Result<(), AppendError>, metrics: LogMetrics) -> Self {
        Self {
            log_id: sight.log_id,
            trimmed: AtomicU64::new(sight.trimmed.get()),
            tail: watch::Sender::new(sight.tail),
            recent: Recent::new(sight.tail),
            indexed: Indexed::default(),
            writable: watch::Sender::new(writable),
            event_types: Mutex::default(),
            size_bytes: AtomicU64::default(),
            metrics,
        }
    }

    fn trimmed(&self) -> Sequence {
        Sequence::new(self.trimmed.load(Ordering::SeqCst))
    }

    fn bounds(&self) -> Bounds {
        let tail = *self.tail.borrow();
        Bounds {
            trimmed: self.trimmed(),
            tail,
        }
    }
}

impl SqliteLog {
    /// Opens the log in `directory`, or makes one there under the id that `new_log_id` gives. Brings the index up to date,
    /// telling `progress` of a long rebuild. The caller holds the directory's lock. Blocks.
    pub fn open(
        directory: &Path,
        new_log_id: impl FnOnce() -> LogId,
        metrics: LogMetrics,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self, OpenError> {
        let beginning = || Beginning {
            log_id: new_log_id(),
            trimmed: Sequence::ZERO,
            received_at_us: i64::MIN,
        };
        let log = LogDatabase::open(&directory.join("log.db"), Durability::Synced, beginning)?;
        Self::start(directory, log, metrics, progress)
    }

    /// Opens the log in `directory` that another process writes, to read and find what is in it by now. What that process
    /// adds or removes later may be missing. Blocks.
    pub fn open_beside_writer(directory: &Path) -> Result<Self, OpenError> {
        let (log_path, index_path) = (directory.join("log.db"), directory.join("index.db"));
        let closed = AppendError::Closed("another process writes it".into());
        let sight = database::look_at(&log_path)?;
        let shared = Shared {
            indexed: index::look_at(&index_path, &database::open_for_reading(&log_path)?, sight)?,
            ..Shared::of(sight, Err(closed), LogMetrics::default())
        };
        Ok(Self {
            shared: Arc::new(shared),
            commands: mpsc::channel(1).0,
            readers: Readers::open(&log_path, &index_path)?,
            trimming: tokio::sync::Mutex::default(),
            threads: Mutex::default(),
            tasks: Tasks::new(),
        })
    }

    /// Brings the index of an open log up to date and starts its threads.
    fn start(
        directory: &Path,
        mut log: LogDatabase,
        metrics: LogMetrics,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self, OpenError> {
        let index_path = directory.join("index.db");
        let (index, indexed) = index::open_up_to_date(&index_path, &log, progress)?;
        let sight = Sight {
            log_id: log.log_id(),
            trimmed: log.trimmed(),
            tail: log.tail(),
        };
        let shared = Arc::new(Shared {
            event_types: Mutex::new(index.event_types(&indexed)?),
            indexed,
            size_bytes: AtomicU64::new(log.size_bytes()?),
            ..Shared::of(sight, Ok(()), metrics)
        });
        let readers = Readers::open(&log.path, &index_path)?;
        let identity = database::open_for_reading(&index_path)?;
        let twins = Twins::open(&log.connection)?;
        let (commands, inbox) = mpsc::channel(limits::APPEND_QUEUE_MAX);
        let checkpoint = checkpoint::Checkpoint::new(&mut log)?;
        let tasks = Tasks::new();
        let replies = Replies::start(&tasks);
        let threads = vec![
            tasks::thread("log-aliases", {
                let (log_path, shared) = (log.path.clone(), Arc::clone(&shared));
                move || {
                    let is_closing = || shared.recent.is_closing();
                    shared.indexed.ids.read_aliases(&log_path, is_closing);
                }
            }),
            tasks::thread("log-index", {
                let shared = Arc::clone(&shared);
                move || index::follow(index, &shared)
            }),
            tasks::thread("log-checkpoint", {
                let (path, shared) = (log.path.clone(), Arc::clone(&shared));
                let (checkpoint, commands) = (Arc::clone(&checkpoint), commands.downgrade());
                move || checkpoint.run(&path, &commands, &shared)
            }),
            tasks::thread("log-writer", {
                let shared = Arc::clone(&shared);
                move || writer::Writer::new(log, identity, twins, shared, checkpoint, replies).run(inbox)
            }),
        ];
        tasks.spawn_until_stop(probe(shared.writable.subscribe(), commands.downgrade()));
        Ok(Self {
            shared,
            commands,
            readers,
            trimming: tokio::sync::Mutex::default(),
            threads: Mutex::new(threads),
            tasks,
        })
    }

    /// Up to where retention removes events: all that are too old, or any of them as long as the log is too large.
    async fn due(&self, retention: Retention, now: Timestamp) -> Result<Option<Sequence>, ReadError> {
        let size = self.readers.with(|reader| reader.size_bytes()).await?;
        self.shared.size_bytes.store(size, Ordering::Relaxed);
        let Bounds { trimmed, tail } = self.bounds();
        let through = match retention {
            Retention {
                size_bytes: Some(most),
                ..
            } if size > most => tail,
            Retention { age: Some(age), .. } => {
                let oldest_kept = now.checked_sub(age).unwrap_or(Timestamp::MIN);
                self.before_time(oldest_kept).await?
            }
            Retention { .. } => Sequence::ZERO,
        };
        Ok(Some(through).filter(|through| *through > trimmed))
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, AppendError>>) -> Command,
    ) -> Result<T, AppendError> {
        self.send(command).await?.await.map_err(|_| shutting_down())?
    }

    /// Puts a question to the writer; the answer comes when there is one.
    async fn send<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<oneshot::Receiver<T>, AppendError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(command(reply)).await;
        sent.map(|()| answer).map_err(|_| shutting_down())
    }
}

/// Has the writer try whether a log that could not store events can again: where readiness says that it cannot, no
/// delivery comes to find out.
async fn probe(mut writable: watch::Receiver<Result<(), AppendError>>, commands: mpsc::WeakSender<Command>) {
    loop {
        let passes = writable.wait_for(|writable| matches!(writable, Err(error) if error.passes()));
        if passes.await.is_err() {
            return;
        }
        tokio::time::sleep(limits::LOG_PROBE_INTERVAL).await;
        let Some(commands) = commands.upgrade() else {
            return;
        };
        if commands.send(Command::Probe).await.is_err() {
            return;
        }
    }
}

fn shutting_down() -> AppendError {
    AppendError::Closed("the service is shutting down".into())
}

#[async_trait]
impl EventLog for SqliteLog {
    fn log_id(&self) -> LogId {
        self.shared.log_id
    }

    fn bounds(&self) -> Bounds {
        self.shared.bounds()
    }

    fn tail(&self) -> watch::Receiver<Sequence> {
        self.shared.tail.subscribe()
    }

    fn writable(&self) -> watch::Receiver<Result<(), AppendError>> {
        self.shared.writable.subscribe()
    }

    async fn append(&self, event: NewEvent) -> Result<Appended, AppendError> {
        let event = Recorded::of(event);
        self.ask(|reply| Command::Append(Append { event, reply })).await
    }

    async fn append_in_order(&self, events: Vec<NewEvent>) -> Result<Vec<Appended>, AppendError> {
        let mut answers = Vec::with_capacity(events.len());
        for event in events {
            let event = Recorded::of(event);
            answers.push(
                self.send(|reply| Command::Append(Append { event, reply }))
                    .await?,
            );
        }
        let mut appended = Vec::with_capacity(answers.len());
        for answer in answers {
            appended.push(answer.await.map_err(|_| shutting_down())??);
        }
        Ok(appended)
    }

    async fn read(
        &self,
        range: Range,
        direction: Direction,
        filter: &Filter,
        limit: Limit,
    ) -> Result<Chunk, ReadError> {
        let trimmed = || {
            let trimmed = self.shared.trimmed();
            let missing = direction == Direction::Forward && range.after < trimmed;
            if missing {
                Err(ReadError::Trimmed { trimmed })
            } else {
                Ok(())
            }
        };
        trimmed()?;
        if let Some(chunk) = self.shared.recent.read(range, direction, filter, limit) {
            return Ok(chunk);
        }
        let through = range.through.min(self.shared.recent.floor());
        let range = Range { through, ..range };
        let (filter, shared) = (filter.clone(), Arc::clone(&self.shared));
        let chunk = self
            .readers
            .with(move |reader| reader.read(range, direction, &filter, limit, &shared))
            .await?;
        // Whoever removed rows that this read should have seen had raised the trim point before.
        trimmed()?;
        Ok(chunk)
    }

    async fn count(&self, range: Range, filter: &Filter) -> Result<u64, ReadError> {
        let range = Range {
            after: range.after.max(self.shared.trimmed()),
            ..range
        };
        // Whatever the index takes in meanwhile is counted here and is above this floor.
        let (floor, newest) = self.shared.recent.count(range, filter);
        if range.after >= floor {
            return Ok(newest);
        }
        let range = Range {
            through: range.through.min(floor),
            ..range
        };
        let (filter, shared) = (filter.clone(), Arc::clone(&self.shared));
        let indexed = self
            .readers
            .with(move |reader| reader.count(range, &filter, &shared))
            .await?;
        Ok(newest + indexed)
    }

    async fn find(&self, id: EventId) -> Result<Option<Arc<StoredEvent>>, ReadError> {
        if let Some(event) = self.shared.recent.find(id) {
            return Ok(Some(event));
        }
        let shared = Arc::clone(&self.shared);
        let found = self.readers.with(move |reader| reader.find(id, &shared)).await?;
        Ok(found.filter(|event| event.sequence > self.shared.trimmed()))
    }

    async fn before_time(&self, time: Timestamp) -> Result<Sequence, ReadError> {
        let bounds = self.bounds();
        self.readers
            .with(move |reader| reader.before_time(bounds, time))
            .await
    }

    fn event_types(&self) -> Vec<String> {
        self.shared.event_types.lock().iter().cloned().collect()
    }

    async fn trim(&self, retention: Retention, now: Timestamp) -> Result<Trimmed, AppendError> {
        let _one_at_a_time = self.trimming.lock().await;
        let unavailable = |error: ReadError| AppendError::Closed(error.to_string().into());
        let mut removed = Trimmed::default();
        while let Some(through) = self.due(retention, now).await.map_err(unavailable)? {
            removed.events += self.ask(|reply| Command::Trim { through, reply }).await?;
        }
        Ok(removed)
    }

    fn size_bytes(&self) -> u64 {
        self.shared.size_bytes.load(Ordering::Relaxed)
    }

    fn durability(&self) -> String {
        "synced to this machine's disk before it is answered".to_owned()
    }

    async fn close(&self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::Close { reply }).await.is_ok() {
            let _ = done.await;
        }
        let threads = std::mem::take(&mut *self.threads.lock());
        let joined = tasks::blocking(move || threads.into_iter().all(|thread| thread.join().is_ok())).await;
        if !joined.unwrap_or(false) {
            tracing::error!("a thread of the log ended in a panic");
        }
        self.tasks.end().await;
    }
}
