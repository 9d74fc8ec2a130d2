//! What a subscription is told to do. Owns the vocabulary of its terms; their bounds are in `limits` and are checked where
//! they come in.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{event, filter::Filter, limits};

/// The name of a subscription: `[a-z0-9][a-z0-9-]{0,62}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionName(String);

/// A name that is not of the form a subscription's name has.
#[derive(Debug, thiserror::Error)]
#[error("a subscription name is 1 to 63 characters of a-z, 0-9 and -, and starts with a letter or digit")]
pub struct InvalidSubscriptionName;

impl SubscriptionName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SubscriptionName {
    type Err = InvalidSubscriptionName;

    fn from_str(name: &str) -> Result<Self, InvalidSubscriptionName> {
        event::is_label(name)
            .then(|| Self(name.to_owned()))
            .ok_or(InvalidSubscriptionName)
    }
}

impl fmt::Display for SubscriptionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The terms of a subscription. All but the ordering can change while it is in use.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Settings {
    /// Which events.
    pub filter: Filter,
    /// How long a stream has to acknowledge an event.
    pub ack_deadline: Duration,
    /// How often an event is handed out at most.
    pub max_attempts: u32,
    /// What becomes of it then.
    pub after_max_attempts: AfterMaxAttempts,
    /// How long an event waits after its first failed attempt.
    pub min_retry_delay: Duration,
    /// The longest that this becomes.
    pub max_retry_delay: Duration,
    /// Unacknowledged events that one stream holds at most.
    pub max_unacknowledged_per_stream: usize,
    /// Events under way in all.
    pub max_unacknowledged: usize,
    /// In which order.
    pub ordering: Ordering,
    /// How long it is kept while nobody uses it; `None` for ever.
    pub inactive_retention: Option<Duration>,
    /// Notes.
    pub labels: BTreeMap<String, String>,
}

/// What becomes of an event whose last attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum AfterMaxAttempts {
    /// It is put aside.
    DeadLetter,
    /// It is handed out again, for ever.
    Retry,
    /// It is settled.
    Discard,
}

/// In which order events are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Ordering {
    /// First attempts in the order of the log.
    None,
    /// One unacknowledged event of an entity at a time, in the order of the log.
    PerEntity,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            filter: Filter::default(),
            ack_deadline: limits::ACK_DEADLINE_DEFAULT,
            max_attempts: limits::ATTEMPTS_DEFAULT,
            after_max_attempts: AfterMaxAttempts::DeadLetter,
            min_retry_delay: limits::MIN_RETRY_DELAY_DEFAULT,
            max_retry_delay: limits::MAX_RETRY_DELAY_DEFAULT,
            max_unacknowledged_per_stream: limits::UNACKNOWLEDGED_PER_STREAM_DEFAULT,
            max_unacknowledged: limits::UNACKNOWLEDGED_DEFAULT,
            ordering: Ordering::None,
            inactive_retention: None,
            labels: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// How long an event waits after this many failed attempts.
    pub fn retry_delay(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        let delay = self.min_retry_delay.saturating_mul(1 << doublings);
        delay.min(self.max_retry_delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_with_each_attempt_up_to_its_bound() {
        let settings = Settings::default();
        let seconds = |attempts| settings.retry_delay(attempts).as_secs();
        assert_eq!([1, 2, 3, 4].map(seconds), [1, 2, 4, 8]);
        assert_eq!([9, 10, 1000].map(seconds), [256, 300, 300]);
    }
}
