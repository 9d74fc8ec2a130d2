//! Events that were put aside. Owns what is remembered of them; the events themselves stay in the log.

use jiff::Timestamp;

use crate::event::Sequence;

/// An event that was put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The event.
    pub sequence: Sequence,
    /// How often it was handed out.
    pub attempts: u32,
    /// Why it was put aside.
    pub reason: Reason,
    /// When.
    pub at: Timestamp,
}

/// Why an event was put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its last attempt failed.
    MaxAttempts,
    /// A consumer rejected it.
    Rejected,
}
