//! Events that were put aside. Owns what is remembered of them; the events themselves stay in the log.

use std::str::FromStr;

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

/// A reason that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a dead letter has the reason `{0}`, which this version does not know")]
pub struct UnknownReason(String);

impl Reason {
    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxAttempts => "max_attempts",
            Self::Rejected => "rejected",
        }
    }
}

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(name: &str) -> Result<Self, UnknownReason> {
        match name {
            "max_attempts" => Ok(Self::MaxAttempts),
            "rejected" => Ok(Self::Rejected),
            other => Err(UnknownReason(other.to_owned())),
        }
    }
}
