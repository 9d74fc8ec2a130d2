//! Appends that are on their way through the stream and back. Owns who waits for which message; refuses to know what is in
//! it.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::log::{AppendError, sqlite::Applied};

type Outcome = Result<Applied, AppendError>;

/// Who waits for what this replica published.
#[derive(Debug)]
pub(super) struct Pending {
    /// Tells this replica's messages from those of others and from its own before a restart.
    prefix: String,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    by_number: HashMap<u64, oneshot::Sender<Outcome>>,
}

impl Pending {
    /// Nobody waits yet.
    pub(super) fn new() -> Self {
        Self {
            prefix: format!("{:016x}-", rand::random::<u64>()),
            waiting: Mutex::default(),
        }
    }

    /// A place for one that is about to publish.
    pub(super) fn register(self: &Arc<Self>) -> Place {
        let (outcome, applied) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        waiting.last += 1;
        let number = waiting.last;
        waiting.by_number.insert(number, outcome);
        Place {
            pending: Arc::clone(self),
            number,
            applied,
        }
    }

    /// Tells whoever waits for the message with this id what became of it.
    pub(super) fn applied(&self, id: &str, outcome: Outcome) {
        let number = id
            .strip_prefix(&self.prefix)
            .and_then(|number| number.parse().ok());
        let Some(number) = number else { return };
        if let Some(waiting) = self.waiting.lock().by_number.remove(&number) {
            let _ = waiting.send(outcome);
        }
    }
}

/// The place of one that waits; dropping it gives it up.
#[derive(Debug)]
pub(super) struct Place {
    pending: Arc<Pending>,
    number: u64,
    applied: oneshot::Receiver<Outcome>,
}

impl Place {
    /// The id that its message carries.
    pub(super) fn id(&self) -> String {
        format!("{}{}", self.pending.prefix, self.number)
    }

    /// What became of the message; `None` if nobody is left to say.
    pub(super) async fn applied(&mut self) -> Option<Outcome> {
        (&mut self.applied).await.ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pending.waiting.lock().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_published_a_message_is_told_what_became_of_it_and_nobody_else() {
        let pending = Arc::new(Pending::new());
        let (mut one, mut other) = (pending.register(), pending.register());
        let elsewhere = Arc::new(Pending::new()).register();
        pending.applied(&elsewhere.id(), Ok(Applied::Nothing));
        pending.applied(&other.id(), Ok(Applied::Trimmed(3)));
        pending.applied(&one.id(), Ok(Applied::Nothing));
        assert_eq!(one.applied().await, Some(Ok(Applied::Nothing)));
        assert_eq!(other.applied().await, Some(Ok(Applied::Trimmed(3))));
    }

    #[tokio::test]
    async fn who_gave_up_leaves_nothing_behind() {
        let pending = Arc::new(Pending::new());
        drop(pending.register());
        assert!(pending.waiting.lock().by_number.is_empty());
    }
}
