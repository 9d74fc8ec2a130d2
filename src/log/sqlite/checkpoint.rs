//! Moves the write-ahead log of `log.db` into the file. Owns when that happens; refuses to make an append wait for it as
//! long as there is another way.
//!
//! A checkpoint syncs the file, and its syncs delay the commits beside them. So it is rare (tens of MiB apart), runs on a
//! connection of its own, and waits for a pause in the traffic; in a pause it gets to the end of the log, and the next
//! commit starts the log from its beginning. Traffic without pauses reaches a hard bound: then the bulk is moved beside the
//! writer, and the writer itself moves the small rest between two commits, which lets the log start over.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;
use tokio::sync::mpsc;

use super::{Shared, database, database::LogDatabase, writer::Command};
use crate::limits;

const PAGE_BYTES: u64 = 4096;

#[derive(Debug)]
pub(super) struct Checkpoint {
    wal_bytes: AtomicU64,
    state: Mutex<State>,
    due: Condvar,
}

#[derive(Debug)]
struct State {
    due: bool,
    last_commit: Instant,
    closing: bool,
}

impl Checkpoint {
    /// Watches the commits of the log's writer.
    pub(super) fn new(log: &mut LogDatabase) -> Result<Arc<Self>, rusqlite::Error> {
        let state = State {
            due: false,
            last_commit: Instant::now(),
            closing: false,
        };
        let checkpoint = Arc::new(Self {
            wal_bytes: AtomicU64::new(0),
            state: Mutex::new(state),
            due: Condvar::new(),
        });
        let watcher = Arc::clone(&checkpoint);
        log.connection.wal_hook(Some(
            move |_: &mut rusqlite::hooks::Wal, pages: std::ffi::c_int| {
                watcher.committed(u64::try_from(pages).unwrap_or(0) * PAGE_BYTES);
                Ok(())
            },
        ))?;
        Ok(checkpoint)
    }

    fn committed(&self, wal_bytes: u64) {
        self.wal_bytes.store(wal_bytes, Ordering::Relaxed);
        if wal_bytes >= limits::WAL_CHECKPOINT_BYTES {
            let mut state = self.state.lock();
            state.last_commit = Instant::now();
            if !state.due {
                state.due = true;
                self.due.notify_one();
            }
        }
    }

    /// Serves until the log closes.
    pub(super) fn run(&self, path: &Path, writer: &mpsc::WeakSender<Command>, shared: &Shared) {
        let connection = match database::open_for_writing(path, "FULL") {
            Ok(connection) => connection,
            Err(error) => return tracing::error!(%error, "no checkpoints: the write-ahead log will grow"),
        };
        while self.wait() {
            shared
                .metrics
                .wal_bytes
                .set(self.wal_bytes.load(Ordering::Relaxed).cast_signed());
            match checkpoint(&connection, "PASSIVE") {
                Ok(true) => {}
                Ok(false) => {
                    // Commits went on meanwhile: the writer has to close the gap.
                    if let Some(writer) = writer.upgrade() {
                        let _ = writer.blocking_send(Command::Checkpoint);
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "a checkpoint failed; the write-ahead log goes on growing")
                }
            }
        }
    }

    /// Waits for a checkpoint to be due, and then for a pause or the hard bound. `false` when the log closes.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while !state.due && !state.closing {
            self.due.wait(&mut state);
        }
        loop {
            if state.closing {
                return false;
            }
            let paused = state.last_commit.elapsed() >= limits::WAL_PAUSE;
            if paused || self.wal_bytes.load(Ordering::Relaxed) >= limits::WAL_BYTES_MAX {
                state.due = false;
                return true;
            }
            self.due.wait_for(&mut state, limits::WAL_PAUSE / 4);
        }
    }

    /// The writer's part: moves the rest and lets the write-ahead log start over.
    pub(super) fn restart(&self, writer: &Connection) {
        if let Err(error) = checkpoint(writer, "RESTART") {
            tracing::error!(%error, "a checkpoint failed; the write-ahead log goes on growing");
        }
    }

    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.due.notify_all();
    }
}

/// Whether everything in the write-ahead log was moved.
fn checkpoint(connection: &Connection, mode: &str) -> Result<bool, rusqlite::Error> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        let (busy, total, moved): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(busy == 0 && total == moved)
    })
}
