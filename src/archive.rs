//! Events in a file: for backups, and for moving a log. Owns the frames of the file and their checks; refuses to know what
//! the frames say.
//!
//! ```text
//! "hookstream events 1\n"
//! every event:  length of the content in bytes (4, little-endian, never 0), its CRC-32 (4, little-endian), the content
//! at the end:   0 (4), number of events (8, little-endian)
//! ```
//!
//! The content is a message `hookstream.v1.Event`, so whoever has the interface can read the file. It is read and written as
//! a stream. One without its end was cut; all that stands before the cut is good.

use std::io::{self, Read, Write};

use bytes::Bytes;

use crate::limits;

const HEAD: &[u8] = b"hookstream events 1\n";

/// Writes a file.
#[derive(Debug)]
pub struct Writer<W> {
    file: W,
    events: u64,
}

/// Reads a file.
#[derive(Debug)]
pub struct Reader<R> {
    file: R,
    events: u64,
    ended: bool,
}

/// Why a file cannot be read any further.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is something else.
    #[error(
        "it is no file of events that this version knows: it does not begin as `hookstream log export` writes it"
    )]
    Foreign,
    /// It ends too soon.
    #[error("it was cut after {events} events: what comes after them is missing")]
    Cut {
        /// Events before the cut.
        events: u64,
    },
    /// Something in it is not as it was written.
    #[error("it is damaged after {events} events")]
    Damaged {
        /// Events before the damage.
        events: u64,
    },
    /// The system.
    #[error("it cannot be read")]
    Io(#[from] io::Error),
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    pub fn begin(mut file: W) -> io::Result<Self> {
        file.write_all(HEAD)?;
        Ok(Self { file, events: 0 })
    }

    /// Adds an event.
    pub fn write(&mut self, content: &[u8]) -> io::Result<()> {
        let length = u32::try_from(content.len()).ok().filter(|&length| length > 0);
        let length = length.ok_or(io::ErrorKind::InvalidInput)?;
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(&crc32fast::hash(content).to_le_bytes())?;
        self.file.write_all(content)?;
        self.events += 1;
        Ok(())
    }

    /// Ends the file, and gives back what it was written to.
    pub fn end(mut self) -> io::Result<W> {
        self.file.write_all(&0_u32.to_le_bytes())?;
        self.file.write_all(&self.events.to_le_bytes())?;
        self.file.flush()?;
        Ok(self.file)
    }
}

impl<R: Read> Reader<R> {
    /// Begins to read a file.
    pub fn begin(mut file: R) -> Result<Self, ArchiveError> {
        let mut head = [0; HEAD.len()];
        match file.read_exact(&mut head) {
            Ok(()) if head == HEAD => {}
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
            _ => return Err(ArchiveError::Foreign),
        }
        Ok(Self {
            file,
            events: 0,
            ended: false,
        })
    }

    /// The next event; `None` at the end.
    pub fn next_event(&mut self) -> Result<Option<Bytes>, ArchiveError> {
        if self.ended {
            return Ok(None);
        }
        let length = u32::from_le_bytes(self.read()?);
        if length == 0 {
            let events = u64::from_le_bytes(self.read()?);
            self.ended = true;
            return if events == self.events {
                Ok(None)
            } else {
                Err(self.damaged())
            };
        }
        let check: [u8; 4] = self.read()?;
        if length > limits::ARCHIVE_EVENT_BYTES_MAX {
            return Err(self.damaged());
        }
        // Grows with what there is, whatever the length says.
        let mut content = Vec::new();
        let found = (&mut self.file).take(length.into()).read_to_end(&mut content)?;
        if found as u64 != u64::from(length) {
            return Err(ArchiveError::Cut { events: self.events });
        }
        if crc32fast::hash(&content).to_le_bytes() != check {
            return Err(self.damaged());
        }
        self.events += 1;
        Ok(Some(content.into()))
    }

    fn damaged(&self) -> ArchiveError {
        ArchiveError::Damaged { events: self.events }
    }

    fn read<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], ArchiveError> {
        let mut bytes = [0; LENGTH];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ArchiveError> {
        self.file.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ArchiveError::Cut { events: self.events },
            _ => error.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(events: &[Vec<u8>]) -> Vec<u8> {
        let mut writer = Writer::begin(Vec::new()).unwrap();
        events.iter().for_each(|event| writer.write(event).unwrap());
        writer.end().unwrap()
    }

    /// What is read before the end, or before what is wrong.
    fn read(file: &[u8]) -> (Vec<Vec<u8>>, Result<(), ArchiveError>) {
        let mut events = Vec::new();
        let mut reader = match Reader::begin(file) {
            Ok(reader) => reader,
            Err(error) => return (events, Err(error)),
        };
        loop {
            match reader.next_event() {
                Ok(Some(event)) => events.push(event.to_vec()),
                Ok(None) => return (events, Ok(())),
                Err(error) => return (events, Err(error)),
            }
        }
    }

    fn events() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let event = proptest::collection::vec(any::<u8>(), 1..40);
        proptest::collection::vec(event, 0..8)
    }

    #[test]
    fn something_else_is_known_for_it() {
        for other in [
            &b""[..],
            b"hookstream",
            b"hookstream events 2\nx",
            b"{\"id\":\"evt\"}\n{}\n{}\n",
        ] {
            assert!(matches!(read(other), (_, Err(ArchiveError::Foreign))));
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(events in events()) {
            let (found, end) = read(&written(&events));
            prop_assert_eq!(found, events);
            prop_assert!(end.is_ok());
        }

        #[test]
        fn of_a_file_that_was_cut_all_before_the_cut_is_read_and_the_cut_is_told(events in events(), cut: prop::sample::Index) {
            let file = written(&events);
            let (found, end) = read(&file[..cut.index(file.len())]);
            prop_assert!(events.starts_with(&found));
            match end {
                Err(ArchiveError::Foreign) => prop_assert!(found.is_empty()),
                Err(ArchiveError::Cut { events }) => prop_assert_eq!(events as usize, found.len()),
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn a_changed_byte_never_makes_another_event(events in events(), at: prop::sample::Index, change in 1_u8..) {
            let mut file = written(&events);
            let at = at.index(file.len());
            file[at] ^= change;
            let (found, end) = read(&file);
            prop_assert!(events.starts_with(&found));
            prop_assert!(end.is_err());
        }
    }
}
