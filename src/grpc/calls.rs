//! Calls under way. Owns how many there may be and how long one may take; refuses to know what they do. Streams and awaits
//! are bounded where they are opened.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::status::Refusal;
use crate::limits;

/// What keeps a call from taking too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// A place among the calls under way, for no longer than this.
    Time(Duration),
    /// A place, for as long as it takes: a walk through HeyGen's history takes as long as the history is.
    Place,
    /// What bounds streams: it waits for events.
    Streams,
}

/// The calls that are under way.
#[derive(Clone, Debug)]
pub(super) struct Calls(Arc<Semaphore>);

impl Calls {
    /// None is under way.
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(limits::CALLS_IN_FLIGHT_MAX)))
    }

    /// Runs a call if there is room for it, for as long as it may take.
    pub(super) async fn run<T>(
        &self,
        bound: Bound,
        call: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        if bound == Bound::Streams {
            return call.await;
        }
        let Ok(_permit) = self.0.try_acquire() else {
            let text = "as many calls are under way as may be; try again later";
            return Err(Refusal::TooManyCalls(text.to_owned()));
        };
        match bound {
            Bound::Time(time_max) => {
                let in_time = tokio::time::timeout(time_max, call).await;
                in_time.unwrap_or(Err(Refusal::CallTooSlow))
            }
            Bound::Place | Bound::Streams => call.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn a_call_too_many_is_refused_and_runs_when_there_is_room() {
        let calls = Calls::new();
        let permits = limits::CALLS_IN_FLIGHT_MAX.try_into().unwrap();
        let others = calls.0.try_acquire_many(permits).unwrap();
        let refused = calls.run(Bound::Place, ready(Ok(7))).await;
        assert!(matches!(refused, Err(Refusal::TooManyCalls(_))));
        drop(others);
        assert!(matches!(calls.run(Bound::Place, ready(Ok(7))).await, Ok(7)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_takes_too_long_ends_and_leaves_its_place() {
        let calls = Calls::new();
        let slow = calls.run(Bound::Time(Duration::from_secs(1)), pending::<Result<(), _>>());
        assert!(matches!(slow.await, Err(Refusal::CallTooSlow)));
        assert_eq!(calls.0.available_permits(), limits::CALLS_IN_FLIGHT_MAX);
    }
}
