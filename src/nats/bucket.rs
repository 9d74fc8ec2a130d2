//! Small values under keys, shared by all replicas: a key-value bucket. Owns that every replica is told of every change in
//! order, and that nobody overwrites what he has not seen; refuses to know what the values say.

use std::sync::Arc;

use async_nats::{
    HeaderMap,
    header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
    jetstream::{
        Context,
        context::{PublishError, PublishErrorKind},
        kv::{CreateErrorKind, Operation, Store},
        stream::{Config, DiscardPolicy, StorageType},
    },
};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::{Declaration, Nats, NatsError, retry_until};
use crate::{
    limits,
    state_db::{Conflict, StoreError},
    tasks::Tasks,
};

/// A bucket.
#[derive(Debug)]
pub struct Bucket {
    store: Store,
    context: Context,
    /// Everything up to this revision was told.
    told: watch::Sender<u64>,
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// Rises with every change of any key.
    pub revision: u64,
    /// The new value; `None` if it is gone.
    pub value: Option<Bytes>,
}

impl Bucket {
    /// Makes or checks the bucket of the log that holds this `part` of what is shared.
    pub async fn open(nats: &Nats, part: &str) -> Result<Arc<Self>, NatsError> {
        let store = open(nats, part, Config::default()).await?;
        Ok(Arc::new(Self {
            store,
            context: nats.context.clone(),
            told: watch::Sender::new(0),
        }))
    }

    /// Tells `listener` of every key there is, before it returns, and of every change from then on, in order. What is
    /// there may be told again. One listener at a time: what it was told of is what changes wait for. What it cannot read is an
    /// error before all keys are known; later it is logged.
    pub async fn follow(
        self: &Arc<Self>,
        tasks: &Tasks,
        mut listener: impl FnMut(Change) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let (unreadable, mut first_unreadable) = oneshot::channel();
        let mut unreadable = Some(unreadable);
        let name = self.store.name.clone();
        let listener = move |change: Change| {
            let key = change.key.clone();
            let Err(error) = listener(change) else { return };
            let nobody_asks = match unreadable.take() {
                Some(unreadable) => unreadable.send(error).err(),
                None => Some(error),
            };
            if let Some(error) = nobody_asks {
                let error = format!("{:#}", anyhow::Error::from_boxed(error));
                tracing::error!(
                    bucket = name,
                    key,
                    error,
                    "what another replica stored cannot be read; it stays as it was here"
                );
            }
        };
        // Where a server was just lost, it takes the others seconds to answer, and to hand over what there is.
        let deadline = Instant::now() + limits::BUCKET_READ_TIMEOUT;
        let newest = retry_until(deadline, || self.newest()).await?;
        let bucket = Arc::clone(self);
        tasks.spawn_until_stop(async move { bucket.tell(listener).await });
        if !self.is_told(newest, deadline).await {
            let seconds = limits::BUCKET_READ_TIMEOUT.as_secs();
            return Err(format!("NATS did not hand over all that is there within {seconds} s").into());
        }
        first_unreadable.try_recv().map_or(Ok(()), Err)
    }

    /// The newest revision of all keys.
    async fn newest(&self) -> Result<u64, StoreError> {
        let state = self.store.stream.get_info().await?.state;
        Ok(if state.messages == 0 {
            0
        } else {
            state.last_sequence
        })
    }

    async fn tell(&self, mut listener: impl FnMut(Change)) {
        loop {
            let Err(error) = self.tell_until_broken(&mut listener).await;
            tracing::warn!(%error, bucket = self.store.name, "changes at other replicas are not seen at the moment; trying again");
            tokio::time::sleep(limits::NATS_RECONNECT_DELAY_MAX).await;
        }
    }

    async fn tell_until_broken(
        &self,
        listener: &mut impl FnMut(Change),
    ) -> Result<std::convert::Infallible, StoreError> {
        let mut changes = self.store.watch_with_history(">").await?;
        while let Some(entry) = changes.next().await {
            let entry = entry?;
            let gone = matches!(entry.operation, Operation::Delete | Operation::Purge);
            listener(Change {
                key: entry.key,
                revision: entry.revision,
                value: (!gone).then_some(entry.value),
            });
            self.told.send_if_modified(|told| {
                let news = *told < entry.revision;
                *told = entry.revision.max(*told);
                news
            });
        }
        Err("the bucket ended".into())
    }

    /// Whether the listener was told of a revision in time.
    async fn is_told(&self, revision: u64, deadline: Instant) -> bool {
        let mut told = self.told.subscribe();
        let seen = tokio::time::timeout_at(deadline, told.wait_for(|&told| told >= revision)).await;
        matches!(seen, Ok(Ok(_)))
    }

    async fn wait(&self, revision: u64) -> Result<(), StoreError> {
        if self
            .is_told(revision, Instant::now() + limits::APPLY_TIMEOUT)
            .await
        {
            return Ok(());
        }
        Err("NATS has it, but this replica has not seen it come back yet".into())
    }

    /// Sets a key that has this revision, or that is not there if that is 0. Every listener here was told when it returns;
    /// a [`Conflict`] if the key has another revision.
    pub async fn put(&self, key: &str, value: Bytes, revision: u64) -> Result<(), StoreError> {
        let stored = match revision {
            // Also where the key was there before.
            0 => self
                .store
                .create(key, value)
                .await
                .map_err(|error| match error.kind() {
                    CreateErrorKind::AlreadyExists => StoreError::from(Conflict),
                    _ => error.into(),
                })?,
            _ => self.publish(key, HeaderMap::new(), value, revision).await?,
        };
        self.wait(stored).await
    }

    /// Removes a key that has this revision; else as [`put`](Self::put).
    pub async fn delete(&self, key: &str, revision: u64) -> Result<(), StoreError> {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        let stored = self.publish(key, headers, Bytes::new(), revision).await?;
        self.wait(stored).await
    }

    /// Every key there is, with its value. For those who do not [`follow`](Self::follow).
    pub async fn entries(&self) -> Result<Vec<Change>, StoreError> {
        tokio::time::timeout(limits::BUCKET_READ_TIMEOUT, self.read()).await?
    }

    async fn read(&self) -> Result<Vec<Change>, StoreError> {
        let mut entries = Vec::new();
        if self.store.stream.get_info().await?.state.messages == 0 {
            return Ok(entries);
        }
        let mut changes = self.store.watch_with_history(">").await?;
        while let Some(entry) = changes.next().await {
            let entry = entry?;
            let (is_last, is_there) = (entry.delta == 0, entry.operation == Operation::Put);
            entries.extend(is_there.then_some(Change {
                key: entry.key,
                revision: entry.revision,
                value: Some(entry.value),
            }));
            if is_last {
                return Ok(entries);
            }
        }
        Err("the bucket ended".into())
    }

    /// One key, as the servers have it.
    pub async fn entry(&self, key: &str) -> Result<Option<Change>, StoreError> {
        let entry = self.store.entry(key).await?;
        let entry = entry.filter(|entry| entry.operation == Operation::Put);
        Ok(entry.map(|entry| Change {
            key: entry.key,
            revision: entry.revision,
            value: Some(entry.value),
        }))
    }

    /// Sets a key that has this revision, or that is not there and leaves no trace if that is 0, without waiting for anybody to
    /// be told. The new revision; a [`Conflict`] if the key has another one.
    pub async fn replace(&self, key: &str, value: Bytes, revision: u64) -> Result<u64, StoreError> {
        self.publish(key, HeaderMap::new(), value, revision).await
    }

    /// Sets a key, whatever it is now, without waiting for anybody to be told.
    pub async fn overwrite(&self, key: &str, value: Bytes) -> Result<(), StoreError> {
        self.store.put(key, value).await?;
        Ok(())
    }

    /// Removes the keys that match, such as `letters.7.>`, without a trace: nobody is told.
    pub async fn purge(&self, keys: &str) -> Result<(), StoreError> {
        let subject = format!("{}{keys}", self.store.prefix);
        self.store.stream.purge().filter(subject).await?;
        Ok(())
    }

    async fn publish(
        &self,
        key: &str,
        mut headers: HeaderMap,
        value: Bytes,
        revision: u64,
    ) -> Result<u64, StoreError> {
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, revision.to_string());
        let subject = format!("{}{key}", self.store.prefix);
        let sent = async {
            let acknowledged = self.context.publish_with_headers(subject, headers, value).await?;
            acknowledged.await
        };
        let stored = sent.await.map_err(|error: PublishError| match error.kind() {
            PublishErrorKind::WrongLastSequence => StoreError::from(Conflict),
            _ => error.into(),
        })?;
        Ok(stored.sequence)
    }
}

/// Makes or checks a bucket that differs from a usual one by what `config` says.
pub(super) async fn open(nats: &Nats, part: &str, config: Config) -> Result<Store, NatsError> {
    let bucket = nats.name_of(part);
    let name = format!("KV_{bucket}");
    let config = Config {
        description: Some("what the replicas of hookstream share".to_owned()),
        subjects: vec![format!("$KV.{bucket}.>")],
        max_messages_per_subject: 1,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        name: name.clone(),
        ..config
    };
    let what = "what replicas share";
    Declaration { what, config }.open(nats).await?;
    let store = nats.context.get_key_value(bucket).await;
    store.map_err(|error| NatsError::Stream {
        name,
        source: error.into(),
    })
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;
    use crate::{nats::Settings, nats_server};

    /// Where a server was just lost, that may be seconds; it is what keeps a replica from starting then.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs nats-server: see tests/run"]
    async fn a_start_waits_longer_for_all_there_is_than_a_change_for_itself() {
        let server = nats_server::Nats::start(1, "", "");
        let settings = Settings::open(server.url(), "hookstream".to_owned());
        let nats = Nats::connect(&settings).await.unwrap();
        let bucket = Bucket::open(&nats, "TESTS").await.unwrap();
        for number in 0..10 {
            bucket
                .overwrite(&format!("key{number}"), Bytes::new())
                .await
                .unwrap();
        }
        let (tasks, told) = (Tasks::new(), watch::Sender::new(0));
        let counted = told.clone();
        let slow_listener = move |_: Change| {
            // In place, so that timers go on meanwhile.
            let while_others_run = || thread::sleep(limits::APPLY_TIMEOUT / 10 + Duration::from_millis(10));
            tokio::task::block_in_place(while_others_run);
            counted.send_modify(|count| *count += 1);
            Ok(())
        };
        bucket.follow(&tasks, slow_listener).await.unwrap();
        assert_eq!(*told.borrow(), 10);
        tasks.end().await;
    }
}
