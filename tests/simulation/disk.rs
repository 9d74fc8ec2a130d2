//! A log on a simulated disk. Owns what survives a crash: the events that were written, in order, up to wherever the crash
//! came. What is visible and answered is a part of that, as the contract of the log demands.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use hookstream::{
    event::{EventId, LogId, NewEvent, Sequence, StoredEvent},
    filter::Filter,
    log::{
        AppendError, Appended, Bounds, Chunk, Direction, EventLog, Limit, Range, ReadError, Retention,
        Trimmed, memory::MemoryLog,
    },
};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

pub const LOG_ID: LogId = LogId::new(0x5eed);

/// What the disk does with the next batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    #[default]
    Good,
    /// Nothing can be written.
    Full,
    /// The next sync fails: nobody knows what was written, and the log closes.
    Failing,
}

/// What outlives every crash.
#[derive(Debug, Default)]
pub struct Disk {
    written: Mutex<Vec<NewEvent>>,
    health: Mutex<Health>,
    /// Answers before it writes: what the checker must notice.
    lies: bool,
}

impl Disk {
    pub fn new(lies: bool) -> Self {
        Self {
            lies,
            ..Self::default()
        }
    }

    pub fn set_health(&self, health: Health) {
        *self.health.lock() = health;
    }

    /// The log as it is found on the disk.
    pub async fn found(&self) -> MemoryLog {
        let memory = MemoryLog::new(LOG_ID);
        let written = self.written.lock().clone();
        for event in written {
            memory.append(event).await.unwrap();
        }
        memory
    }
}

/// Every event of a log, in order, with its body.
pub async fn contents(log: &dyn EventLog) -> Vec<(u64, Vec<u8>)> {
    let range = Range {
        after: log.bounds().trimmed,
        through: log.bounds().tail,
    };
    let all = Limit {
        events: usize::MAX,
        bytes: usize::MAX,
    };
    let chunk = log.read(range, Direction::Forward, &Filter::default(), all).await;
    let events = chunk.unwrap().events;
    let seen = |event: &Arc<StoredEvent>| (event.sequence.get(), event.event.body.to_vec());
    events.iter().map(seen).collect()
}

type Write = (NewEvent, oneshot::Sender<Result<Appended, AppendError>>);

/// The log of one life of the service.
pub struct SimulatedLog {
    memory: Arc<MemoryLog>,
    writes: mpsc::Sender<Write>,
}

impl SimulatedLog {
    /// Opens what is on the disk. The writer has to be run for as long as the process lives.
    pub async fn open(disk: Arc<Disk>) -> (Arc<Self>, impl Future<Output = ()> + Send) {
        let memory = Arc::new(disk.found().await);
        let (writes, queue) = mpsc::channel(1024);
        let log = Arc::new(Self {
            memory: Arc::clone(&memory),
            writes,
        });
        (log, write(disk, memory, queue))
    }
}

async fn pause(most_ms: u64) {
    tokio::time::sleep(Duration::from_millis(rand::random_range(0..=most_ms))).await;
}

async fn write(disk: Arc<Disk>, memory: Arc<MemoryLog>, mut queue: mpsc::Receiver<Write>) {
    while let Some(first) = queue.recv().await {
        let mut batch = vec![first];
        while let Ok(next) = queue.try_recv() {
            batch.push(next);
        }
        let health = *disk.health.lock();
        if health == Health::Full {
            batch
                .into_iter()
                .for_each(|(_, answer)| drop(answer.send(Err(AppendError::DiskFull))));
            continue;
        }
        if !disk.lies {
            // A crash leaves any beginning of it.
            for (event, _) in &batch {
                pause(2).await;
                disk.written.lock().push(event.clone());
            }
            pause(30).await;
        }
        if health == Health::Failing {
            memory.close().await;
            let closed: AppendError = AppendError::Closed("a sync failed".into());
            batch
                .into_iter()
                .for_each(|(_, answer)| drop(answer.send(Err(closed.clone()))));
            return;
        }
        for (event, answer) in batch {
            let appended = memory.append(event.clone()).await;
            let _ = answer.send(appended);
            if disk.lies {
                pause(1_000).await;
                disk.written.lock().push(event);
            }
        }
    }
}

#[async_trait]
impl EventLog for SimulatedLog {
    fn log_id(&self) -> LogId {
        self.memory.log_id()
    }

    fn bounds(&self) -> Bounds {
        self.memory.bounds()
    }

    fn tail(&self) -> watch::Receiver<Sequence> {
        self.memory.tail()
    }

    fn writable(&self) -> watch::Receiver<Result<(), AppendError>> {
        self.memory.writable()
    }

    async fn append(&self, event: NewEvent) -> Result<Appended, AppendError> {
        let closed = || AppendError::Closed("the writer has ended".into());
        let (answer, answered) = oneshot::channel();
        self.writes.send((event, answer)).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    async fn read(
        &self,
        range: Range,
        direction: Direction,
        filter: &Filter,
        limit: Limit,
    ) -> Result<Chunk, ReadError> {
        pause(2).await;
        self.memory.read(range, direction, filter, limit).await
    }

    async fn count(&self, range: Range, filter: &Filter) -> Result<u64, ReadError> {
        self.memory.count(range, filter).await
    }

    async fn find(&self, id: EventId) -> Result<Option<Arc<StoredEvent>>, ReadError> {
        self.memory.find(id).await
    }

    async fn before_time(&self, time: Timestamp) -> Result<Sequence, ReadError> {
        self.memory.before_time(time).await
    }

    fn event_types(&self) -> Vec<String> {
        self.memory.event_types()
    }

    async fn trim(&self, retention: Retention, now: Timestamp) -> Result<Trimmed, AppendError> {
        self.memory.trim(retention, now).await
    }

    fn size_bytes(&self) -> u64 {
        self.memory.size_bytes()
    }

    fn durability(&self) -> String {
        "kept on a simulated disk".to_owned()
    }

    async fn close(&self) {
        self.memory.close().await;
    }
}
