//! The two database files as such. Owns their pragmas, schema of `log.db`, and what may be wrong with them; refuses to
//! know threads.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, config::DbConfig, params};
use rustix::fs::fstatvfs;

use super::{super::record, twins};
use crate::{
    data_dir,
    event::{LogId, Sequence, StoredEvent},
    limits,
};

/// The layout of `log.db` that this version reads and writes.
const FORMAT: i64 = 3;

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file is there but is no log of ours.
    #[error(
        "{} is damaged or is not a hookstream log: restore it from a backup, or move it away to start an empty log",
        .0.display()
    )]
    NotALog(PathBuf),
    /// The file was written by another version.
    #[error("{} has format {found}; this version reads format {FORMAT}", path.display())]
    OtherFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// A record at the end of the log cannot be read.
    #[error("{} holds a damaged record at sequence {sequence}: restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The record's place.
        sequence: Sequence,
    },
    /// The file cannot be made or opened.
    #[error("{} cannot be opened", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// SQLite failed.
    #[error("the log's database failed")]
    Database(#[from] rusqlite::Error),
}

/// Whether SQLite says that a file's content is wrong, as opposed to a failed system call.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// What a commit survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// A power cut: every commit is synced.
    Synced,
    /// A kill. A power cut may take the last commits, and they are made again from elsewhere.
    Rebuildable,
}

impl Durability {
    fn synchronous(self) -> &'static str {
        match self {
            Self::Synced => "FULL",
            Self::Rebuildable => "NORMAL",
        }
    }
}

/// Where a new log begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beginning {
    /// Its id.
    pub(super) log_id: LogId,
    /// Everything up to here is not in it.
    pub(super) trimmed: Sequence,
    /// No event in it was received before (µs).
    pub(super) received_at_us: i64,
}

/// `log.db`, open for writing.
#[derive(Debug)]
pub(super) struct LogDatabase {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    log_id: LogId,
    last: Option<StoredEvent>,
    trimmed: Sequence,
    position: Sequence,
    received_at_us: i64,
}

impl LogDatabase {
    pub(super) fn open(
        path: &Path,
        durability: Durability,
        beginning: impl FnOnce() -> Beginning,
    ) -> Result<Self, OpenError> {
        Self::open_unchecked(path, durability, beginning).map_err(|error| match error {
            OpenError::Database(error) if is_damage(&error) => OpenError::NotALog(path.to_owned()),
            error => error,
        })
    }

    fn open_unchecked(
        path: &Path,
        durability: Durability,
        beginning: impl FnOnce() -> Beginning,
    ) -> Result<Self, OpenError> {
        Self::prepare(path, beginning)?;
        if let Err(error) = allocate_write_ahead_log(path) {
            tracing::warn!(%error, "the write-ahead log cannot be given its size; commits are slower until it has it");
        }
        let connection = open_for_writing(path, durability.synchronous())?;
        let (log_id, trimmed, position, received_at_us) = connection.query_row(
            "SELECT log_id, trimmed, position, received_at_us FROM log",
            [],
            |row| Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )?;
        let last = connection
            .query_row(
                "SELECT sequence, record FROM events ORDER BY sequence DESC LIMIT 1",
                [],
                |row| Ok((from_sql(row.get(0)?), row.get::<_, Vec<u8>>(1)?)),
            )
            .optional()?
            .map(|(sequence, bytes)| {
                record::decode(sequence, Bytes::from(bytes)).map_err(|_| OpenError::Damaged {
                    path: path.to_owned(),
                    sequence,
                })
            })
            .transpose()?;
        Ok(Self {
            connection,
            path: path.to_owned(),
            log_id: LogId::new(log_id.cast_unsigned()),
            last,
            trimmed: from_sql(trimmed),
            position: from_sql(position),
            received_at_us,
        })
    }

    /// Makes the file if it is missing, and closes it again: closing removes the write-ahead log.
    fn prepare(path: &Path, beginning: impl FnOnce() -> Beginning) -> Result<(), OpenError> {
        let connection = open_for_writing(path, Durability::Synced.synchronous())?;
        let format: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match format {
            0 => Ok(create(&connection, beginning())?),
            FORMAT => Ok(()),
            found => Err(OpenError::OtherFormat {
                path: path.to_owned(),
                found,
            }),
        }
    }

    pub(super) fn log_id(&self) -> LogId {
        self.log_id
    }

    /// When the newest event that the log ever had was received, when it was opened.
    pub(super) fn last_received_at(&self) -> Timestamp {
        let trimmed = Timestamp::from_microsecond(self.received_at_us).unwrap_or(Timestamp::MIN);
        let last = self.last.as_ref().map(|event| event.event.received_at);
        last.unwrap_or(trimmed).max(trimmed)
    }

    /// Of a log whose entries are elsewhere: how far they were applied, when it was opened.
    pub(super) fn position(&self) -> Sequence {
        self.position
    }

    pub(super) fn trimmed(&self) -> Sequence {
        self.trimmed
    }

    pub(super) fn tail(&self) -> Sequence {
        self.last.as_ref().map_or(self.trimmed, |event| event.sequence)
    }

    pub(super) fn size_bytes(&self) -> Result<u64, rusqlite::Error> {
        size_bytes(&self.connection)
    }
}

/// Bytes in use by rows, free pages left out.
pub(super) fn size_bytes(connection: &Connection) -> Result<u64, rusqlite::Error> {
    connection.query_row(
        "SELECT (page_count - freelist_count) * page_size
         FROM pragma_page_count, pragma_freelist_count, pragma_page_size",
        [],
        |row| row.get::<_, i64>(0).map(i64::cast_unsigned),
    )
}

/// `position` and `duplicates` are used where the entries of the log are elsewhere: how far they were applied, and which
/// of them were duplicates of what. `received_at_us` is of the newest event that retention removed.
fn create(connection: &Connection, beginning: Beginning) -> Result<(), rusqlite::Error> {
    let Beginning {
        log_id,
        trimmed,
        received_at_us,
    } = beginning;
    connection.execute_batch(
        "BEGIN IMMEDIATE;
         CREATE TABLE log (
           log_id INTEGER NOT NULL,
           trimmed INTEGER NOT NULL,
           position INTEGER NOT NULL,
           received_at_us INTEGER NOT NULL
         );
         CREATE TABLE events (sequence INTEGER PRIMARY KEY, record BLOB NOT NULL);
         CREATE TABLE duplicates (sequence INTEGER PRIMARY KEY, first INTEGER NOT NULL);
         CREATE INDEX duplicates_by_first ON duplicates (first);",
    )?;
    connection.execute_batch(twins::SCHEMA)?;
    connection.execute(
        "INSERT INTO log VALUES (?1, ?2, ?2, ?3)",
        params![log_id.get().cast_signed(), to_sql(trimmed), received_at_us],
    )?;
    connection.pragma_update(None, "user_version", FORMAT)?;
    connection.execute_batch("COMMIT")
}

/// A connection that writes, in WAL mode, with checkpoints left to us.
pub(super) fn open_for_writing(path: &Path, synchronous: &str) -> Result<Connection, OpenError> {
    // SQLite takes the file's mode for the files beside it, so none of them is readable by others.
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map(drop)
        .and_then(|()| data_dir::keep_to_owner(path))
        .map_err(|source| OpenError::File {
            path: path.to_owned(),
            source,
        })?;
    let connection = Connection::open_with_flags(path, flags(OpenFlags::SQLITE_OPEN_READ_WRITE))?;
    // Even where it changes nothing this writes, and a write beside the writer's is a conflict.
    if connection.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0))? == 0 {
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", -32 * 1024)?;
    keep_plans(&connection)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Which log it is and what it keeps, when it was looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    pub(super) log_id: LogId,
    pub(super) trimmed: Sequence,
    pub(super) tail: Sequence,
}

/// Looks at `log.db` without writing to it.
pub(super) fn look_at(path: &Path) -> Result<Sight, OpenError> {
    let connection = open_for_reading(path)?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found != FORMAT {
        return Err(OpenError::OtherFormat {
            path: path.to_owned(),
            found,
        });
    }
    let sight = connection.query_row(
        "SELECT log_id, trimmed, max(trimmed, coalesce((SELECT max(sequence) FROM events), 0)) FROM log",
        [],
        |row| {
            Ok(Sight {
                log_id: LogId::new(row.get::<_, i64>(0)?.cast_unsigned()),
                trimmed: from_sql(row.get(1)?),
                tail: from_sql(row.get(2)?),
            })
        },
    )?;
    Ok(sight)
}

/// A connection that only reads.
pub(super) fn open_for_reading(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open_with_flags(path, flags(OpenFlags::SQLITE_OPEN_READ_ONLY))?;
    connection.pragma_update(None, "cache_size", -8 * 1024)?;
    keep_plans(&connection)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// A plan must not depend on the values that are bound: SQLite would plan again for most of them.
fn keep_plans(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map(drop)
}

/// Removes a database and the files beside it.
pub(super) fn remove(path: &Path) -> Result<(), OpenError> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match fs::remove_file(&name) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(OpenError::File {
                    path: name.into(),
                    source,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Gives the write-ahead log its usual size before it is used, so that a commit's sync does not also have to record that
/// the file grew. SQLite takes a file without a valid header for an empty write-ahead log.
fn allocate_write_ahead_log(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(data_dir::beside(path, "-wal"))?;
    let room = fstatvfs(&file)?;
    if file.metadata()?.len() > 0
        || room.f_bavail.saturating_mul(room.f_frsize) < limits::WAL_ALLOCATION_ROOM_BYTES
    {
        return Ok(());
    }
    // What is written at once becomes one folio of the page cache. A later write of a page walks over all pages of its folio, so a
    // large one makes every commit slower.
    let zeros = [0; 64 * 1024];
    let mut offset = 0;
    while offset < limits::WAL_CHECKPOINT_BYTES {
        file.write_all_at(&zeros, offset)?;
        offset += zeros.len() as u64;
    }
    file.sync_all()
}

fn flags(access: OpenFlags) -> OpenFlags {
    access | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// SQLite's integers are signed; sequences use their positive half.
pub(super) fn to_sql(sequence: Sequence) -> i64 {
    i64::try_from(sequence.get()).unwrap_or(i64::MAX)
}

pub(super) fn from_sql(number: i64) -> Sequence {
    Sequence::new(number.max(0).cast_unsigned())
}
