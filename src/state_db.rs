//! `state.db`: the file of what is configured over the interface. Owns how it is opened: mode, pragmas and format, the same
//! for every store that keeps tables in it; refuses to know the tables.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt, path::Path};

use rusqlite::Connection;

use crate::{data_dir, limits};

/// A failure of a store.
pub type StoreError = Box<dyn std::error::Error + Send + Sync>;

/// What was to be changed is no longer as it was when it was read: another replica was faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it was changed at another replica at the same moment")]
pub struct Conflict;

/// The layout of the file that this version reads and writes, all tables together.
const FORMAT: i64 = 3;

/// Opens `state.db` at `path`, or makes it there, readable by its owner alone. Every commit is synced, and what is deleted
/// is overwritten. A store makes its own tables with `CREATE TABLE IF NOT EXISTS`. Blocks.
pub fn open(path: &Path) -> Result<Connection, StoreError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)?;
    data_dir::keep_to_owner(path)?;
    let connection = Connection::open(path)?;
    connection.busy_timeout(limits::STATE_BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "secure_delete", "ON")?;
    // Nothing of it is written anywhere else.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    let format: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match format {
        0 => connection.pragma_update(None, "user_version", FORMAT)?,
        FORMAT => {}
        found => return Err(format!("it has format {found}; this version reads format {FORMAT}").into()),
    }
    Ok(connection)
}

/// Writes the file anew and empties the write-ahead log, so that no trace is left of what was deleted or replaced. Blocks.
pub fn leave_no_trace(connection: &Connection) -> Result<(), StoreError> {
    // Overwriting what is deleted is not enough: where SQLite moves a row, its old place in the page keeps a copy.
    connection.execute_batch("VACUUM")?;
    let busy: bool = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy {
        return Err("another program has it open: traces of replaced secrets stay until it is closed".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt,
    };

    use super::*;
    use crate::data_dir::beside;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_file_and_those_beside_it_are_readable_by_their_owner_alone_also_when_restored_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        let files = [beside(&path, ""), beside(&path, "-wal"), beside(&path, "-shm")];
        let first = open(&path).unwrap();
        first.execute_batch("CREATE TABLE a (b)").unwrap();
        assert_eq!(files.each_ref().map(|file| mode(file)), [0o600; 3]);
        drop(first);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let second = open(&path).unwrap();
        second.execute_batch("INSERT INTO a VALUES (1)").unwrap();
        assert_eq!(files.each_ref().map(|file| mode(file)), [0o600; 3]);
    }

    #[test]
    fn two_stores_share_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        let (one, other) = (open(&path).unwrap(), open(&path).unwrap());
        one.execute_batch("CREATE TABLE IF NOT EXISTS a (b); INSERT INTO a VALUES (1)")
            .unwrap();
        other
            .execute_batch("CREATE TABLE IF NOT EXISTS c (d); INSERT INTO c VALUES (2)")
            .unwrap();
        let found: i64 = one.query_row("SELECT d FROM c", [], |row| row.get(0)).unwrap();
        assert_eq!(found, 2);
    }

    #[test]
    fn a_file_of_another_format_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        open(&path)
            .unwrap()
            .pragma_update(None, "user_version", FORMAT + 1)
            .unwrap();
        let refused = open(&path).unwrap_err().to_string();
        assert!(refused.contains("format 3"), "{refused}");
    }
}
