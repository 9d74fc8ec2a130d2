//! The one thread that writes `log.db`. Owns group commit, retention's part of it, and what a failed write means; refuses to
//! know who appends and who reads.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};

use super::{
    Shared,
    batch::{Batch, Recorded},
    checkpoint::Checkpoint,
    database::{LogDatabase, to_sql},
    projection::{Applied, Change, Entry},
    reader,
    replies::Replies,
    twins::Twins,
};
use crate::{
    event::{Sequence, StoredEvent},
    limits,
    log::{AppendError, Appended},
};

/// What the writer can be asked.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly every command is an append")]
pub(super) enum Command {
    /// Store an event.
    Append(Append),
    /// Take in entries of a log that is elsewhere.
    Apply {
        entries: Vec<Entry>,
        reply: oneshot::Sender<Result<Vec<Applied>, AppendError>>,
    },
    /// Forget duplicates that are no longer in the log elsewhere.
    Forget {
        duplicates: Vec<Sequence>,
        reply: oneshot::Sender<Result<(), AppendError>>,
    },
    /// Remove the oldest events up to a sequence, a bounded number of them; answers how many.
    Trim {
        through: Sequence,
        reply: oneshot::Sender<Result<u64, AppendError>>,
    },
    /// Try whether commits succeed again.
    Probe,
    /// Let the write-ahead log start from its beginning again.
    Checkpoint,
    /// End.
    Close { reply: oneshot::Sender<()> },
}

/// An event to store, and who waits for that.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) event: Recorded,
    pub(super) reply: Reply,
}

pub(super) type Reply = oneshot::Sender<Result<Appended, AppendError>>;

/// The writer and what only it touches.
pub(super) struct Writer {
    connection: Connection,
    /// The index, for identities that are no longer in memory.
    identity: Connection,
    twins: Twins,
    shared: Arc<Shared>,
    checkpoint: Arc<Checkpoint>,
    replies: Replies,
    tail: Sequence,
    /// Of a log whose entries are elsewhere: how far they were taken in.
    position: Sequence,
    last_received_at: Timestamp,
}

impl Writer {
    pub(super) fn new(
        log: LogDatabase,
        identity: Connection,
        twins: Twins,
        shared: Arc<Shared>,
        checkpoint: Arc<Checkpoint>,
        replies: Replies,
    ) -> Self {
        let tail = log.tail();
        let (position, last_received_at) = (log.position(), log.last_received_at());
        Self {
            connection: log.connection,
            identity,
            twins,
            shared,
            checkpoint,
            replies,
            tail,
            position,
            last_received_at,
        }
    }

    /// Serves until told to close or until nobody is left to ask.
    pub(super) fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let mut closed = None;
        let mut pending = None;
        while closed.is_none() {
            let Some(command) = pending.take().or_else(|| inbox.blocking_recv()) else {
                break;
            };
            match command {
                Command::Append(append) => {
                    let mut batch = vec![append];
                    pending = fill(&mut batch, &mut inbox);
                    self.append(batch);
                }
                Command::Apply { entries, reply } => {
                    let _ = reply.send(self.apply(entries));
                }
                Command::Forget { duplicates, reply } => {
                    let _ = reply.send(self.forget(&duplicates));
                }
                Command::Trim { through, reply } => {
                    let _ = reply.send(self.trim(through));
                }
                Command::Probe => self.probe(),
                Command::Checkpoint => self.checkpoint.restart(&self.connection),
                Command::Close { reply } => closed = Some(reply),
            }
        }
        inbox.close();
        let shutting_down = Err(AppendError::Closed("the service is shutting down".into()));
        drop(self.shared.writable.send_replace(shutting_down));
        self.shared.recent.close();
        self.checkpoint.close();
        if let Err(error) = self.connection.pragma_update(None, "wal_checkpoint", "TRUNCATE") {
            tracing::warn!(%error, "the write-ahead log could not be folded into the log; the next start does it");
        }
        if let Some(reply) = closed {
            let _ = reply.send(());
        }
    }

    fn append(&mut self, batch: Vec<Append>) {
        self.shared.recent.wait_for_room();
        let started = Instant::now();
        let (events, replies): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|Append { event, reply }| (event, reply))
            .unzip();
        let count = events.len();
        let result = self.usable().and_then(|()| self.commit(events, None));
        match &result {
            Ok(_) => self.shared.metrics.committed(count, started.elapsed()),
            Err(_) => self.shared.metrics.failed(count),
        }
        self.replies.send(replies, result);
    }

    /// A commit that changes nothing, unless the log is writable or closed for good.
    fn probe(&self) {
        if !matches!(&*self.shared.writable.borrow(), Err(error) if error.passes()) {
            return;
        }
        let committed = self.connection.execute("UPDATE log SET trimmed = trimmed", []);
        match committed {
            Ok(_) => {
                tracing::info!("the log can store events again");
                drop(self.shared.writable.send_replace(Ok(())));
            }
            Err(error) => drop(self.failed(&error)),
        }
    }

    fn usable(&self) -> Result<(), AppendError> {
        match &*self.shared.writable.borrow() {
            Err(closed @ AppendError::Closed(_)) => Err(closed.clone()),
            _ => Ok(()),
        }
    }

    /// Makes a batch durable, then visible, then announces it.
    fn commit(
        &mut self,
        events: Vec<Recorded>,
        position: Option<Sequence>,
    ) -> Result<Vec<Appended>, AppendError> {
        let (outcomes, new) = self
            .store(events, position)
            .map_err(|error| self.failed(&error))?;
        self.shared
            .writable
            .send_if_modified(|writable| std::mem::replace(writable, Ok(())).is_err());
        if let Some(last) = new.last() {
            self.tail = last.sequence;
            self.last_received_at = last.event.received_at;
            let mut event_types = self.shared.event_types.lock();
            for event in &new {
                let event_type = &*event.event.keys.event_type;
                if !event_types.contains(event_type) {
                    event_types.insert(event_type.to_owned());
                }
            }
            drop(event_types);
            let lag = self.shared.recent.extend(new);
            self.shared.metrics.index_lag_events.set(lag as i64);
            self.shared.tail.send_replace(self.tail);
        }
        Ok(outcomes)
    }

    fn store(
        &self,
        events: Vec<Recorded>,
        position: Option<Sequence>,
    ) -> Result<(Vec<Appended>, Vec<Arc<StoredEvent>>), rusqlite::Error> {
        let transaction = self.begin()?;
        let last = (self.tail, self.last_received_at);
        let batch = Batch::new(&transaction, &self.identity, &self.shared, &self.twins, last)?;
        let stored = batch.store(events)?;
        if let Some(position) = position {
            set_position(&transaction, position)?;
        }
        // Where nothing was written there is nothing to sync: what the duplicates repeat is durable.
        transaction.commit()?;
        Ok(stored)
    }

    /// Takes the write lock before anything is read, so that nobody can write in between.
    fn begin(&self) -> Result<Transaction<'_>, rusqlite::Error> {
        Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)
    }

    /// Takes in entries that are decided elsewhere, in their order. Those that were taken in already are passed over.
    fn apply(&mut self, entries: Vec<Entry>) -> Result<Vec<Applied>, AppendError> {
        self.usable()?;
        self.shared.recent.wait_for_room();
        let mut applied = Vec::with_capacity(entries.len());
        let mut entries = entries.into_iter().peekable();
        while let Some(Entry { sequence, change }) = entries.next() {
            if sequence <= self.position {
                applied.push(Applied::Nothing);
                continue;
            }
            match change {
                Change::Append(event) => {
                    let (mut events, mut position) = (vec![Recorded::at(sequence, event)], sequence);
                    // A trim decides what is a duplicate after it, so it is taken in by itself.
                    while let Some(Entry {
                        sequence,
                        change: Change::Append(event),
                    }) = entries.next_if(|next| matches!(next.change, Change::Append(_)))
                    {
                        events.push(Recorded::at(sequence, event));
                        position = sequence;
                    }
                    let started = Instant::now();
                    let count = events.len();
                    let outcomes = self.commit(events, Some(position))?;
                    self.position = position;
                    self.shared.metrics.committed(count, started.elapsed());
                    applied.extend(outcomes.into_iter().map(Applied::Appended));
                }
                Change::Trim { through } => {
                    let removed = self
                        .remove_through(through, Some(sequence))
                        .map_err(|error| self.failed(&error))?;
                    self.position = sequence;
                    self.shared.metrics.trimmed_events.inc_by(removed);
                    // A copy that lags may be told to remove what it never had.
                    if through > self.tail {
                        self.tail = through;
                        self.shared.tail.send_replace(through);
                    }
                    applied.push(Applied::Trimmed(removed));
                }
                Change::Nothing => {
                    set_position(&self.connection, sequence).map_err(|error| self.failed(&error))?;
                    self.position = sequence;
                    applied.push(Applied::Nothing);
                }
            }
        }
        Ok(applied)
    }

    fn forget(&mut self, duplicates: &[Sequence]) -> Result<(), AppendError> {
        let forget = || {
            let transaction = self.begin()?;
            for &sequence in duplicates {
                transaction
                    .prepare_cached("DELETE FROM duplicates WHERE sequence = ?1")?
                    .execute([to_sql(sequence)])?;
            }
            transaction.commit()
        };
        forget().map_err(|error| self.failed(&error))
    }

    fn trim(&mut self, through: Sequence) -> Result<u64, AppendError> {
        self.usable()?;
        let removed = self.remove_oldest(through).map_err(|error| self.failed(&error))?;
        self.shared.metrics.trimmed_events.inc_by(removed);
        Ok(removed)
    }

    fn remove_oldest(&mut self, through: Sequence) -> Result<u64, rusqlite::Error> {
        let last = reader::oldest(&self.connection, through, limits::TRIM_EVENTS_MAX)?;
        self.remove_through(last.unwrap_or(through), None)
    }

    fn remove_through(&mut self, last: Sequence, position: Option<Sequence>) -> Result<u64, rusqlite::Error> {
        let last = last.max(self.shared.trimmed());
        let received_at = reader::received_at(&self.connection, last)?;
        // Before the rows go: see `Shared::trimmed`.
        self.shared.trimmed.store(last.get(), Ordering::SeqCst);
        let transaction = self.begin()?;
        let removed = transaction.execute("DELETE FROM events WHERE sequence <= ?1", [to_sql(last)])?;
        transaction.execute(
            "UPDATE log SET trimmed = ?1, received_at_us = max(received_at_us, ?2)",
            params![
                to_sql(last),
                received_at.map_or(i64::MIN, Timestamp::as_microsecond)
            ],
        )?;
        if let Some(position) = position {
            set_position(&transaction, position)?;
        }
        self.twins.trim(&transaction, last)?;
        transaction.commit()?;
        self.twins = Twins::open(&self.connection)?;
        self.connection.execute_batch("PRAGMA incremental_vacuum(1024)")?;
        self.shared.recent.forget_through(last);
        self.shared.indexed.ids.forget_through(last);
        Ok(removed as u64)
    }

    /// Decides what a failed write means. A full disk and a lock that somebody else holds leave no doubt about what was
    /// written: nothing. Anything else does.
    fn failed(&self, error: &rusqlite::Error) -> AppendError {
        let failure = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => AppendError::DiskFull,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => AppendError::Locked,
            _ => AppendError::Closed(error.to_string().into()),
        };
        self.shared.writable.send_if_modified(|writable| {
            let news = *writable != Err(failure.clone());
            if news {
                tracing::error!(%error, "the log cannot store events: {failure}");
                *writable = Err(failure.clone());
            }
            news
        });
        failure
    }
}

fn set_position(log: &Connection, position: Sequence) -> Result<(), rusqlite::Error> {
    log.prepare_cached("UPDATE log SET position = ?1")?
        .execute([to_sql(position)])
        .map(drop)
}

/// Adds the appends that are waiting, up to the size of a commit. Returns a command of another kind if one came up.
fn fill(batch: &mut Vec<Append>, inbox: &mut mpsc::Receiver<Command>) -> Option<Command> {
    let mut bytes: usize = batch.iter().map(|append| append.event.bytes()).sum();
    while batch.len() < limits::COMMIT_EVENTS_MAX && bytes < limits::COMMIT_BYTES_MAX {
        match inbox.try_recv().ok()? {
            Command::Append(append) => {
                bytes += append.event.bytes();
                batch.push(append);
            }
            other => return Some(other),
        }
    }
    None
}
