//! Following the stream. Owns that every message is taken in, in order and once, whatever becomes of connections, servers
//! and consumers; refuses to know who waits for it.

use std::sync::Arc;

use async_nats::{
    header::NATS_MESSAGE_ID,
    jetstream::{
        Message,
        consumer::{
            AckPolicy, DeliverPolicy,
            pull::{Config, Stream as Messages},
        },
        stream::Stream,
    },
};
use futures_util::StreamExt;
use tokio::sync::watch;

use super::{entry::Subjects, last_mark, pending::Pending};
use crate::{
    event::Sequence,
    limits,
    log::sqlite::{Change, Entry, Projection},
};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What takes the stream into the copy.
pub(super) struct Follower {
    stream: Stream,
    subjects: Subjects,
    projection: Arc<Projection>,
    pending: Arc<Pending>,
    /// Everything up to here was taken in.
    position: watch::Sender<Sequence>,
}

impl Follower {
    pub(super) fn new(
        stream: Stream,
        subjects: Subjects,
        projection: Arc<Projection>,
        pending: Arc<Pending>,
    ) -> Self {
        let position = watch::Sender::new(projection.position());
        Self {
            stream,
            subjects,
            projection,
            pending,
            position,
        }
    }

    /// How far the stream was taken in.
    pub(super) fn position(&self) -> watch::Receiver<Sequence> {
        self.position.subscribe()
    }

    /// Follows for good.
    pub(super) async fn run(self) {
        loop {
            let Err(error) = self.follow().await;
            tracing::warn!(%error, "the stream is not followed at the moment; trying again");
            tokio::time::sleep(limits::NATS_RECONNECT_DELAY_MAX).await;
        }
    }

    /// Follows from the position until something breaks.
    async fn follow(&self) -> Result<std::convert::Infallible, Error> {
        self.skip_to_mark().await?;
        let mut batches = self.messages().await?.ready_chunks(limits::APPLY_ENTRIES_MAX);
        let mut consumed = 0;
        while let Some(batch) = batches.next().await {
            let (mut entries, mut ids) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
            let mut last = *self.position.borrow();
            let mut broken = None;
            for message in batch {
                match self.entry(message, &mut consumed) {
                    Ok((entry, id)) => {
                        if entry.sequence != last.next() {
                            // Duplicates are removed from the stream one by one, and trimmed events all at once.
                            self.apply(std::mem::take(&mut entries), std::mem::take(&mut ids))
                                .await?;
                            self.skip_to_mark().await?;
                        }
                        last = entry.sequence;
                        entries.push(entry);
                        ids.push(id);
                    }
                    Err(error) => {
                        broken = Some(error);
                        break;
                    }
                }
            }
            self.apply(entries, ids).await?;
            if let Some(error) = broken {
                return Err(error);
            }
        }
        Err("the consumer ended".into())
    }

    /// Messages from the position on.
    async fn messages(&self) -> Result<Messages, Error> {
        let start_sequence = self.position.borrow().next().get();
        let consumer = self
            .stream
            .create_consumer(Config {
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
                ack_policy: AckPolicy::None,
                max_deliver: 1,
                num_replicas: 1,
                memory_storage: true,
                inactive_threshold: limits::CONSUMER_INACTIVE_MAX,
                ..Config::default()
            })
            .await?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(limits::APPLY_ENTRIES_MAX)
            .expires(limits::CONSUMER_PULL_EXPIRY)
            .heartbeat(limits::CONSUMER_HEARTBEAT)
            .messages()
            .await?;
        Ok(messages)
    }

    /// The entry that a message is, and the id it was published with. `consumed` counts the messages of the consumer, of
    /// which none may be missing.
    fn entry(
        &self,
        message: Result<Message, impl std::error::Error + Send + Sync + 'static>,
        consumed: &mut u64,
    ) -> Result<(Entry, Option<String>), Error> {
        let message = message?;
        let (sequence, consumer_sequence) = {
            let info = message.info()?;
            (info.stream_sequence, info.consumer_sequence)
        };
        *consumed += 1;
        if consumer_sequence != *consumed {
            return Err("a message is missing".into());
        }
        let id = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get(NATS_MESSAGE_ID));
        let id = id.map(|id| id.as_str().to_owned());
        let (message, _) = message.split();
        let entry = self
            .subjects
            .entry(Sequence::new(sequence), &message.subject, message.payload);
        Ok((entry, id))
    }

    /// Takes in entries and tells whoever waits for them.
    async fn apply(&self, entries: Vec<Entry>, ids: Vec<Option<String>>) -> Result<(), Error> {
        let Some(last) = entries.last().map(|entry| entry.sequence) else {
            return Ok(());
        };
        let applied = self.projection.apply(entries).await?;
        self.position.send_replace(last);
        for (id, applied) in ids.iter().zip(applied) {
            if let Some(id) = id {
                self.pending.applied(id, Ok(applied));
            }
        }
        Ok(())
    }

    /// Where messages may be missing because retention removed them before this replica had them, says so in the copy.
    async fn skip_to_mark(&self) -> Result<(), Error> {
        let Some(mark) = last_mark(&self.stream, &self.subjects).await? else {
            return Ok(());
        };
        let through = Sequence::new(mark.trimmed);
        if through > *self.position.borrow() {
            let entry = Entry {
                sequence: through,
                change: Change::Trim { through },
            };
            self.apply(vec![entry], vec![None]).await?;
        }
        Ok(())
    }
}
