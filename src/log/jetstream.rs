//! The log as a NATS JetStream stream, so that several replicas share it and outlive each other. Owns appending, following
//! and trimming; leaves replication to NATS, and reading to the embedded engine.
//!
//! The stream is the log: its messages are events and trims, its sequence is the log's, and an append is answered when
//! JetStream has acknowledged it. Every replica follows the stream in order and takes it into a copy in its embedded engine
//! ([`Projection`]), from which it serves all reads exactly as on one machine. The copy is disposable. It decides what is a
//! duplicate, and because every replica decides from the same entries in the same order, all decide alike.
//!
//! **Trimming.** That retention removed events has a place among the events, for what was removed can come again as new.
//! Only when all replicas can know of it are messages removed from the stream: first the duplicates of what was trimmed,
//! because a replica that begins behind their firsts would take them for new; then a mark says that the stream can be
//! copied from there; then the trimmed messages go. Each step can be repeated, by any replica.

mod durability;
mod entry;
mod follow;
mod pending;
mod stream;

use std::{path::Path, sync::Arc};

use async_nats::jetstream::{
    Context,
    context::PublishErrorKind,
    message::PublishMessage,
    stream::{RawMessageErrorKind, Stream},
};
use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use prost::Message;
use tokio::{sync::watch, time::Instant};

use self::{
    durability::Durability,
    entry::{Mark, Subjects, Trim},
    follow::Follower,
    pending::Pending,
};
use super::{
    AppendError, Appended, Bounds, Chunk, Direction, EventLog, Limit, Range, ReadError, Retention, Trimmed,
    metrics::LogMetrics,
    sqlite::{Applied, OpenError, Projection, SqliteLog, Start},
};
use crate::{
    event::{EventId, LogId, NewEvent, Sequence, StoredEvent},
    filter::Filter,
    limits,
    nats::{self, Nats, NatsError},
    tasks::{self, Tasks},
};

/// The log in JetStream, and this replica's copy of it.
pub struct JetStreamLog {
    context: Context,
    stream: Stream,
    subjects: Subjects,
    projection: Arc<Projection>,
    pending: Arc<Pending>,
    writable: watch::Sender<Result<(), AppendError>>,
    trimming: tokio::sync::Mutex<()>,
    durability: Arc<Mutex<Durability>>,
    #[cfg(test)]
    position: tokio::sync::watch::Receiver<Sequence>,
    tasks: Tasks,
}

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JetStreamError {
    /// NATS.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The stream ends before what this replica has of it.
    #[error(
        "the stream {name} ends at sequence {last}, but this replica has it up to {position}: NATS lost acknowledged events \
         (its servers need `sync_interval: always` to survive a power cut), or the stream was restored from a backup. {} holds \
         what was lost: keep it, and go on with a new stream (--jetstream-stream, and another data directory)",
        directory.display()
    )]
    Lost {
        /// The stream.
        name: String,
        /// Its end.
        last: u64,
        /// The copy's end.
        position: Sequence,
        /// Where the copy is.
        directory: std::path::PathBuf,
    },
    /// The copy.
    #[error(transparent)]
    Projection(#[from] OpenError),
    /// The system.
    #[error("the system failed")]
    Io(#[from] std::io::Error),
}

impl JetStreamLog {
    /// Makes or checks the stream, and takes it into the copy in `directory` up to its present end.
    pub async fn open(nats: &Nats, directory: &Path, metrics: LogMetrics) -> Result<Self, JetStreamError> {
        let name = &nats.settings.stream;
        let stream = stream::declaration(name).open(nats).await?;
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| NatsError::Stream {
            name: name.clone(),
            source,
        };
        let subjects = Subjects::of(name);
        let mark = first_mark(&stream, &subjects).await.map_err(failed)?;
        // After the mark: what is trimmed later begins later.
        let info = stream.get_info().await.map_err(|error| failed(error.into()))?;
        // Behind a mark the first messages may be missing, because they were duplicates.
        let marked = mark.as_ref().map(|mark| Sequence::new(mark.trimmed));
        let begins_after = marked.unwrap_or(Sequence::new(info.state.first_sequence).previous());
        if marked.is_none() && begins_after > Sequence::ZERO {
            tracing::warn!(
                sequence = %begins_after,
                "the stream does not begin where retention left it: somebody removed messages, and they are lost"
            );
        }
        tracing::info!(
            stream = name,
            servers = info.config.num_replicas,
            events_up_to = info.state.last_sequence,
            "the log is a stream of NATS"
        );
        let start = Start {
            log_id: stream::log_id(&info),
            trimmed: begins_after,
            received_at: mark.and_then(|mark| mark.received_at()),
        };
        let of_servers = metrics.clone();
        let projection = {
            let directory = directory.to_owned();
            let progress = |done, total| tracing::debug!(done, total, "bringing the index up to date");
            tasks::blocking(move || Projection::open(&directory, start, metrics, progress)).await??
        };
        let (projection, last) = (Arc::new(projection), info.state.last_sequence);
        if projection.position().get() > last {
            projection.log().close().await;
            return Err(JetStreamError::Lost {
                name: name.clone(),
                last,
                position: projection.position(),
                directory: directory.to_owned(),
            });
        }
        let (pending, tasks) = (Arc::new(Pending::new()), Tasks::new());
        let follower = Follower::new(
            stream.clone(),
            subjects.clone(),
            Arc::clone(&projection),
            Arc::clone(&pending),
        );
        let mut position = follower.position();
        tasks.spawn_until_stop(follower.run());
        let log = Self {
            context: nats.context.clone(),
            stream,
            subjects,
            writable: watch::Sender::new(Ok(())),
            projection,
            pending,
            trimming: tokio::sync::Mutex::default(),
            durability: Arc::new(Mutex::new(Durability::of(&info))),
            #[cfg(test)]
            position: position.clone(),
            tasks,
        };
        let (leads, has_leader) = watch::channel(true);
        log.tasks.spawn_until_stop(check(
            log.stream.clone(),
            leads,
            Arc::clone(&log.durability),
            of_servers,
        ));
        log.tasks.spawn_until_stop(watch_over(
            nats.is_connected.clone(),
            has_leader,
            log.projection.log().writable(),
            log.writable.clone(),
        ));
        let mut told = Instant::now();
        while position.borrow_and_update().get() < last {
            if told.elapsed() >= limits::PROGRESS_INTERVAL {
                told = Instant::now();
                tracing::info!(
                    done = position.borrow().get(),
                    total = last,
                    "taking in the stream"
                );
            }
            let _ = tokio::time::timeout(limits::PROGRESS_INTERVAL, position.changed()).await;
        }
        Ok(log)
    }

    /// How far the stream was taken in.
    #[cfg(test)]
    pub(super) fn position(&self) -> Sequence {
        *self.position.borrow()
    }

    /// Publishes until it is acknowledged, and waits until this replica has taken it in: what became of it.
    async fn publish(&self, subject: &str, payload: Bytes) -> Result<Applied, AppendError> {
        let deadline = Instant::now() + limits::PUBLISH_TIMEOUT;
        let mut outcome = self.pending.register();
        let unreachable = |reason: String| AppendError::Unreachable(reason.into());
        loop {
            // With its id, so that a repetition is one message.
            let message = PublishMessage::build()
                .payload(payload.clone())
                .message_id(outcome.id());
            let sent = async {
                let acknowledged = self.context.send_publish(subject.to_owned(), message).await?;
                acknowledged.await
            };
            match tokio::time::timeout_at(deadline, sent).await {
                Ok(Ok(_)) => break,
                Ok(Err(error)) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                    return Err(AppendError::TooLarge);
                }
                Ok(Err(error)) if Instant::now() + limits::PUBLISH_RETRY_DELAY < deadline => {
                    tracing::debug!(%error, "JetStream did not acknowledge; trying again");
                    tokio::time::sleep(limits::PUBLISH_RETRY_DELAY).await;
                }
                Ok(Err(error)) => return Err(unreachable(error.to_string())),
                Err(_) => return Err(unreachable("no acknowledgement in time".to_owned())),
            }
        }
        let applied = tokio::time::timeout_at(deadline + limits::APPLY_TIMEOUT, outcome.applied()).await;
        match applied {
            Ok(Some(applied)) => applied,
            Ok(None) => Err(AppendError::Closed("the service is shutting down".into())),
            Err(_) => Err(unreachable(
                "it is stored, but this replica lags behind".to_owned(),
            )),
        }
    }

    /// This replica's copy.
    fn copy(&self) -> &SqliteLog {
        self.projection.log()
    }

    /// Publishes a trim; how many events it removed.
    async fn trim_through(&self, through: Sequence) -> Result<u64, AppendError> {
        let trim = Trim {
            through: through.get(),
        };
        match self
            .publish(&self.subjects.trim, trim.encode_to_vec().into())
            .await?
        {
            Applied::Trimmed(events) => Ok(events),
            _ => Ok(0),
        }
    }

    /// Removes from the stream what was trimmed, if it is not gone.
    async fn purge(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        // First: of what another replica trims meanwhile, the duplicates may still be there.
        let trimmed = self.bounds().trimmed;
        loop {
            let duplicates = self.projection.duplicates_of_trimmed().await?;
            if duplicates.is_empty() {
                break;
            }
            for &sequence in &duplicates {
                self.delete(sequence).await?;
            }
            self.projection.forget(duplicates).await?;
        }
        let marked = last_mark(&self.stream, &self.subjects).await?;
        if marked.is_none_or(|mark| mark.trimmed < trimmed.get()) {
            let received_at = self.projection.trimmed_received_at().await?;
            let mark = Mark::new(trimmed, received_at).encode_to_vec();
            self.publish(&self.subjects.mark, mark.into()).await?;
        }
        self.stream.purge().sequence(trimmed.next().get()).await?;
        Ok(())
    }

    /// Removes one message, if it is not gone.
    async fn delete(&self, sequence: Sequence) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Err(error) = self.stream.delete_message(sequence.get()).await else {
            return Ok(());
        };
        match self.stream.get_raw_message(sequence.get()).await {
            Err(gone) if gone.kind() == RawMessageErrorKind::NoMessageFound => Ok(()),
            _ => Err(error.into()),
        }
    }
}

/// The last mark of a stream that was just opened; one that was just made may have no leader yet.
async fn first_mark(
    stream: &Stream,
    subjects: &Subjects,
) -> Result<Option<Mark>, Box<dyn std::error::Error + Send + Sync>> {
    let deadline = Instant::now() + limits::NATS_START_TIMEOUT;
    nats::retry_until(deadline, || last_mark(stream, subjects)).await
}

/// The last mark of a stream: from where it can be copied.
async fn last_mark(
    stream: &Stream,
    subjects: &Subjects,
) -> Result<Option<Mark>, Box<dyn std::error::Error + Send + Sync>> {
    match stream.get_last_raw_message_by_subject(&subjects.mark).await {
        Ok(message) => Ok(Some(Mark::decode(message.payload)?)),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Asks the stream again and again whether it has a leader, and who keeps it.
async fn check(
    mut stream: Stream,
    leads: watch::Sender<bool>,
    durability: Arc<Mutex<Durability>>,
    metrics: LogMetrics,
) {
    loop {
        let info = tokio::time::timeout(limits::NATS_REQUEST_TIMEOUT, stream.info()).await;
        let found = info.ok().and_then(Result::ok).map(Durability::of);
        let has_leader = found.is_some_and(|found| found.has_leader);
        leads.send_if_modified(|leads| std::mem::replace(leads, has_leader) != has_leader);
        metrics
            .servers_in_step
            .set(found.map_or(0, |found| found.in_step) as i64);
        if let Some(found) = found {
            metrics.servers.set(found.servers as i64);
            *durability.lock() = found;
        }
        tokio::time::sleep(limits::STREAM_CHECK_INTERVAL).await;
    }
}

/// Tells whether appends can succeed: the connection and the stream's leader have to be there and the copy to take entries.
async fn watch_over(
    mut is_connected: watch::Receiver<bool>,
    mut has_leader: watch::Receiver<bool>,
    mut copy: watch::Receiver<Result<(), AppendError>>,
    writable: watch::Sender<Result<(), AppendError>>,
) {
    loop {
        let unreachable = |why: &str| Err(AppendError::Unreachable(why.into()));
        let state = match (
            *is_connected.borrow_and_update(),
            *has_leader.borrow_and_update(),
            copy.borrow_and_update().clone(),
        ) {
            (false, ..) => unreachable("there is no connection to NATS"),
            (true, false, _) => unreachable("the stream has no leader: too few of its servers are there"),
            (true, true, copy) => copy,
        };
        writable.send_if_modified(|writable| {
            let news = *writable != state;
            *writable = state;
            news
        });
        let changed = tokio::select! {
            changed = is_connected.changed() => changed,
            changed = has_leader.changed() => changed,
            changed = copy.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

#[async_trait]
impl EventLog for JetStreamLog {
    fn log_id(&self) -> LogId {
        self.copy().log_id()
    }

    fn bounds(&self) -> Bounds {
        self.copy().bounds()
    }

    fn tail(&self) -> watch::Receiver<Sequence> {
        self.copy().tail()
    }

    fn writable(&self) -> watch::Receiver<Result<(), AppendError>> {
        self.writable.subscribe()
    }

    async fn append(&self, event: NewEvent) -> Result<Appended, AppendError> {
        // A copy that is known needs no place in the stream.
        if let Some(first) = self.projection.known(event.id).await {
            return Ok(Appended::duplicate(&first, &event));
        }
        match self
            .publish(&self.subjects.event, entry::of_event(&event))
            .await?
        {
            Applied::Appended(appended) => Ok(appended),
            _ => Err(AppendError::Closed(
                "the stream holds what was not published".into(),
            )),
        }
    }

    async fn read(
        &self,
        range: Range,
        direction: Direction,
        filter: &Filter,
        limit: Limit,
    ) -> Result<Chunk, ReadError> {
        self.copy().read(range, direction, filter, limit).await
    }

    async fn count(&self, range: Range, filter: &Filter) -> Result<u64, ReadError> {
        self.copy().count(range, filter).await
    }

    async fn find(&self, id: EventId) -> Result<Option<Arc<StoredEvent>>, ReadError> {
        self.copy().find(id).await
    }

    async fn before_time(&self, time: Timestamp) -> Result<Sequence, ReadError> {
        self.copy().before_time(time).await
    }

    fn event_types(&self) -> Vec<String> {
        self.copy().event_types()
    }

    async fn trim(&self, retention: Retention, now: Timestamp) -> Result<Trimmed, AppendError> {
        let _one_at_a_time = self.trimming.lock().await;
        let unavailable = |error: ReadError| AppendError::Unreachable(error.to_string().into());
        let mut removed = Trimmed::default();
        loop {
            let due = self.projection.due(retention, now, limits::TRIM_EVENTS_MAX).await;
            let Some(through) = due.map_err(unavailable)? else {
                break;
            };
            removed.events += self.trim_through(through).await?;
        }
        // What is not removed now is removed the next time.
        if self.bounds().trimmed > Sequence::ZERO
            && let Err(error) = self.purge().await
        {
            tracing::warn!(
                error,
                "the stream still holds events that retention removed; trying again later"
            );
        }
        Ok(removed)
    }

    fn size_bytes(&self) -> u64 {
        self.copy().size_bytes()
    }

    fn durability(&self) -> String {
        self.durability.lock().to_string()
    }

    async fn close(&self) {
        self.tasks.end().await;
        let shutting_down = Err(AppendError::Closed("the service is shutting down".into()));
        drop(self.writable.send_replace(shutting_down));
        self.copy().close().await;
        let _ = self.context.client().flush().await;
    }
}
