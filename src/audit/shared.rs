//! The audit trail in a stream that all replicas share. Owns the form of its messages; a record's id is its place there.

use async_nats::jetstream::{
    Context,
    consumer::{AckPolicy, DeliverPolicy, pull},
    stream::{Config, DiscardPolicy, StorageType, Stream},
};
use futures_util::StreamExt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::{Action, AuditStore, Question, Record};
use crate::{
    limits,
    nats::{Declaration, Nats, NatsError},
    state_db::StoreError,
};

/// The store. To be made where there is a runtime.
pub struct SharedAuditStore {
    context: Context,
    stream: Stream,
    subject: String,
    runtime: Handle,
}

#[derive(Deserialize, Serialize)]
struct Document {
    at: Timestamp,
    #[serde(flatten)]
    action: Action,
}

impl SharedAuditStore {
    /// Makes or checks the stream.
    pub async fn open(nats: &Nats) -> Result<Self, NatsError> {
        let subject = format!("{}.audit", nats.settings.stream);
        let config = Config {
            name: nats.name_of("AUDIT"),
            description: Some("hookstream's audit trail".to_owned()),
            subjects: vec![subject.clone()],
            storage: StorageType::File,
            discard: DiscardPolicy::Old,
            max_messages: limits::AUDIT_RECORDS_MAX,
            allow_direct: true,
            ..Config::default()
        };
        let what = "the audit trail";
        Ok(Self {
            stream: Declaration { what, config }.open(nats).await?,
            context: nats.context.clone(),
            subject,
            runtime: Handle::current(),
        })
    }

    async fn read(&self, question: Question) -> Result<Vec<Record>, StoreError> {
        let state = self.stream.get_info().await?.state;
        let before = question.before_id.map_or(Ok(u64::MAX), u64::try_from)?;
        let end = before.min(state.last_sequence + 1);
        let first = end.saturating_sub(question.most as u64).max(state.first_sequence);
        if state.messages == 0 || first >= end {
            return Ok(Vec::new());
        }
        let consumer = self
            .stream
            .create_consumer(pull::Config {
                deliver_policy: DeliverPolicy::ByStartSequence {
                    start_sequence: first,
                },
                ack_policy: AckPolicy::None,
                num_replicas: 1,
                memory_storage: true,
                inactive_threshold: limits::CONSUMER_INACTIVE_MAX,
                ..pull::Config::default()
            })
            .await?;
        let most = usize::try_from(end - first)?;
        let mut messages = consumer
            .fetch()
            .max_messages(most)
            .expires(limits::NATS_REQUEST_TIMEOUT)
            .messages()
            .await?;
        let mut records = Vec::new();
        while let Some(message) = messages.next().await {
            let message = message?;
            let sequence = message.info()?.stream_sequence;
            let Document { at, action } = serde_json::from_slice(&message.payload)?;
            if sequence < end && question.since.is_none_or(|since| at >= since) {
                records.push(Record {
                    id: i64::try_from(sequence)?,
                    at,
                    action,
                });
            }
        }
        records.reverse();
        Ok(records)
    }
}

impl AuditStore for SharedAuditStore {
    fn append(&self, at: Timestamp, action: &Action) -> Result<(), StoreError> {
        let action = action.clone();
        let record = serde_json::to_vec(&Document { at, action })?;
        self.runtime.block_on(async {
            let published = self.context.publish(self.subject.clone(), record.into()).await?;
            published.await?;
            Ok(())
        })
    }

    fn list(&self, question: Question) -> Result<Vec<Record>, StoreError> {
        self.runtime.block_on(self.read(question))
    }
}
