//! How far behind a subscription is. Owns the count of the events still to come, which goes on from the last count instead
//! of beginning again.

use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;

use super::{dispatch::Standing, subscription::Subscription};
use crate::{
    event::Sequence,
    filter::Filter,
    limits,
    log::{Direction, EventLog, Limit, Range, ReadError},
};

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Events not settled.
    pub events: u64,
    /// When the oldest of them was received.
    pub oldest_received_at: Option<Timestamp>,
}

impl Backlog {
    /// How long ago the oldest was received.
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        let age = |received_at| Duration::try_from(now.duration_since(received_at)).unwrap_or_default();
        self.oldest_received_at.map(age)
    }
}

/// The survey of one subscription.
#[derive(Debug, Default)]
pub struct Survey {
    count: tokio::sync::Mutex<Option<Count>>,
    last: Mutex<Backlog>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    feed: u64,
    gaps: u64,
    /// Nothing up to here was counted.
    after: Sequence,
    /// What the dispatch had taken when this was counted.
    taken: u64,
    /// How far was counted.
    through: Sequence,
    /// Events still to come up to there.
    to_come: u64,
    oldest: Option<(Sequence, Timestamp)>,
}

impl Survey {
    /// What was found last.
    pub fn last(&self) -> Backlog {
        *self.last.lock()
    }

    /// Looks at a subscription.
    pub async fn look(&self, subscription: &Subscription) -> Result<Backlog, ReadError> {
        let mut last = self.count.lock().await;
        let log = &**subscription.hub.log();
        let tail = log.bounds().tail;
        let standing = subscription.standing();
        let (taken, feed) = (standing.counts.taken, standing.feed);
        // Of another feed, overtaken by the streams or by retention: nothing of it helps.
        let same_feed = last.filter(|count| count.feed == feed);
        let trimmed = log.bounds().trimmed;
        let before = same_feed.filter(|count| {
            let all_kept = trimmed <= count.after && count.gaps == standing.gaps;
            all_kept && count.through >= standing.position
        });
        let (through, to_come) = match before {
            Some(count) => (count.through, count.to_come.saturating_sub(taken - count.taken)),
            None => (standing.position, 0),
        };
        let range = Range {
            after: through,
            through: tail.max(through),
        };
        let new = if range.after < range.through {
            log.count(range, &standing.settings.filter).await?
        } else {
            0
        };
        let to_come = to_come + new;
        let known = same_feed.and_then(|count| count.oldest);
        let oldest = oldest(log, &standing, to_come, range.through, known).await?;
        *last = Some(Count {
            feed,
            gaps: standing.gaps,
            after: standing.position.max(trimmed),
            taken,
            through: range.through,
            to_come,
            oldest,
        });
        let backlog = Backlog {
            events: to_come + standing.under_way as u64,
            oldest_received_at: oldest.map(|(_, received_at)| received_at),
        };
        *self.last.lock() = backlog;
        Ok(backlog)
    }
}

/// The oldest event that is not settled.
async fn oldest(
    log: &dyn EventLog,
    standing: &Standing,
    to_come: u64,
    through: Sequence,
    known: Option<(Sequence, Timestamp)>,
) -> Result<Option<(Sequence, Timestamp)>, ReadError> {
    let everything = Filter::default();
    let (mut range, filter) = match standing.oldest_under_way {
        Some(sequence) => (
            Range {
                after: sequence.previous(),
                through: sequence,
            },
            &everything,
        ),
        None if to_come == 0 => return Ok(None),
        None => (
            Range {
                after: standing.position.max(log.bounds().trimmed),
                through,
            },
            &standing.settings.filter,
        ),
    };
    let still = |&(sequence, _): &(Sequence, Timestamp)| match standing.oldest_under_way {
        Some(oldest) => sequence == oldest,
        None => sequence > range.after && sequence > log.bounds().trimmed,
    };
    if let Some(known) = known.filter(still) {
        return Ok(Some(known));
    }
    let one = Limit {
        events: 1,
        bytes: limits::BODY_BYTES_MAX,
    };
    while range.after < range.through {
        match log.read(range, Direction::Forward, filter, one).await {
            Ok(chunk) => {
                if let Some(event) = chunk.events.first() {
                    return Ok(Some((event.sequence, event.event.received_at)));
                }
                range.after = chunk.scanned;
            }
            Err(ReadError::Trimmed { trimmed }) => range.after = trimmed,
            Err(ReadError::Damaged { sequence }) => range.after = sequence,
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
