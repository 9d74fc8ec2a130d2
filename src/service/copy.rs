//! Taking what one service stored over into the storage of another. Owns what is taken over, and where a place in the one log is
//! in the other; refuses to know engines, and that nobody changes either meanwhile, which is its caller's business.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::composition::Stores;
use crate::{
    access::Token,
    audit::{AuditStore, Question, Record},
    endpoints::Endpoint,
    event::{EventId, NewEvent, Sequence, StoredEvent},
    filter::Filter,
    limits,
    log::{AppendError, Bounds, Direction, EventLog, Limit, Outcome, Range, ReadError},
    state_db::StoreError,
    subscriptions::{Changes, DeadLetter, DeadLetterChanges, Place, SavedEvent, Stored, SubscriptionStore},
    tasks,
};

/// Why something was not taken over. What was taken over before stays, and is not taken over again.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// There are newer events, which the other log does not have.
    #[error(
        "the log has events newer than {0}, which is not among them: events can be added to a log that is empty, or that has \
         only what was added in this way before"
    )]
    OutOfPlace(EventId),
    /// The log that is read.
    #[error("the log cannot be read")]
    Read(#[from] ReadError),
    /// The log that is written.
    #[error("an event cannot be stored")]
    Append(#[from] AppendError),
    /// One of the stores beside the logs.
    #[error("{0} cannot be copied")]
    Store(&'static str, #[source] StoreError),
    /// The system.
    #[error("the system failed")]
    Io(#[from] std::io::Error),
}

/// How many of something were taken over, and how many were there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Taken over.
    pub new: u64,
    /// There already, and left as they are.
    pub known: u64,
}

/// Events of elsewhere on their way into a log.
pub struct Intake<'a> {
    log: &'a dyn EventLog,
    /// The newest event that was there before.
    newest: Option<Arc<StoredEvent>>,
    /// What came of them so far.
    pub added: Added,
}

impl<'a> Intake<'a> {
    /// Into this log.
    pub async fn begin(log: &'a dyn EventLog) -> Result<Self, ReadError> {
        let newest = last_up_to(log, log.bounds().tail).await?;
        Ok(Self {
            log,
            newest,
            added: Added::default(),
        })
    }

    /// Adds events in their order. After an error the first of them may be stored.
    pub async fn add(&mut self, events: Vec<NewEvent>) -> Result<(), CopyError> {
        let mut missing = Vec::with_capacity(events.len());
        for event in events {
            let older = |newest: &Arc<StoredEvent>| event.received_at < newest.event.received_at;
            if !self.newest.as_ref().is_some_and(older) {
                missing.push(event);
            } else if self.log.find(event.id).await?.is_some() {
                self.added.known += 1;
            } else {
                // What is older than what is there could only be added out of its place.
                return Err(CopyError::OutOfPlace(event.id));
            }
        }
        for appended in self.log.append_in_order(missing).await? {
            match appended.outcome {
                Outcome::New => self.added.new += 1,
                _ => self.added.known += 1,
            }
        }
        Ok(())
    }
}

/// Adds the events of one log to another, in their order, from where an earlier copy ended. Tells `progress` how many came.
pub async fn events(
    from: &dyn EventLog,
    into: &dyn EventLog,
    mut progress: impl FnMut(u64),
) -> Result<Added, CopyError> {
    let mut intake = Intake::begin(into).await?;
    let mut after = Sequence::ZERO;
    if let Some(newest) = &intake.newest
        && let Some(known) = from.find(newest.event.id).await?
    {
        after = known.sequence;
    }
    let limit = Limit {
        events: limits::IMPORT_APPENDS_MAX,
        bytes: limits::IMPORT_BYTES_MAX,
    };
    loop {
        let Bounds { trimmed, tail } = from.bounds();
        after = after.max(trimmed);
        if after >= tail {
            return Ok(intake.added);
        }
        let range = Range { after, through: tail };
        let chunk = match from
            .read(range, Direction::Forward, &Filter::default(), limit)
            .await
        {
            // Retention was faster.
            Err(ReadError::Trimmed { .. }) => continue,
            chunk => chunk?,
        };
        after = chunk.scanned;
        progress(chunk.events.len() as u64);
        let events = chunk.events.into_iter().map(|stored| stored.event.clone());
        intake.add(events.collect()).await?;
    }
}

/// What was configured over the interface of one service, and what it remembers beside events.
#[derive(Clone)]
pub struct Kept {
    /// Endpoints, tokens and the audit trail.
    pub stores: Stores,
    /// Subscriptions.
    pub subscriptions: Arc<dyn SubscriptionStore>,
}

/// One side of a copy.
pub struct Side {
    /// The events.
    pub log: Arc<dyn EventLog>,
    /// What is kept beside them.
    pub kept: Kept,
}

/// What of it was taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptAdded {
    /// Endpoints, with their secrets.
    pub endpoints: Added,
    /// Tokens.
    pub tokens: Added,
    /// Records of the audit trail.
    pub audit_records: Added,
    /// Subscriptions, with their places and dead letters.
    pub subscriptions: Added,
}

/// Takes over what is kept beside the events of two logs, of which the second has all events of the first. What has the name of
/// something that is there is left out.
pub async fn kept(from: Side, into: Side) -> Result<KeptAdded, CopyError> {
    let runtime = Handle::current();
    tasks::blocking(move || {
        let failed = |what| move |error| CopyError::Store(what, error);
        let (stores, into_stores) = (&from.kept.stores, &into.kept.stores);
        let translation = Translation {
            from: &*from.log,
            into: &*into.log,
            runtime,
        };
        Ok(KeptAdded {
            endpoints: endpoints(stores, into_stores).map_err(failed("the endpoints"))?,
            tokens: tokens(stores, into_stores).map_err(failed("the tokens"))?,
            audit_records: audit_records(&*stores.audit, &*into_stores.audit)
                .map_err(failed("the audit trail"))?,
            subscriptions: subscriptions(&*from.kept.subscriptions, &*into.kept.subscriptions, &translation)?,
        })
    })
    .await?
}

fn endpoints(from: &Stores, into: &Stores) -> Result<Added, StoreError> {
    let all = |stores: &Stores| told::<_, Endpoint>(|listener| stores.endpoints.follow(listener));
    let (known, mut added) = (all(into)?, Added::default());
    for mut endpoint in all(from)? {
        if known.iter().any(|known| known.name == endpoint.name) {
            added.known += 1;
            continue;
        }
        endpoint.revision = 0;
        into.endpoints.save(&endpoint)?;
        added.new += 1;
    }
    Ok(added)
}

fn tokens(from: &Stores, into: &Stores) -> Result<Added, StoreError> {
    let all = |stores: &Stores| told::<_, Token>(|listener| stores.tokens.follow(listener));
    let (known, mut added) = (all(into)?, Added::default());
    for mut token in all(from)? {
        let taken = |known: &Token| known.name == token.name || known.credential == token.credential;
        if known.iter().any(taken) {
            added.known += 1;
            continue;
        }
        token.revision = 0;
        into.tokens.save(&token)?;
        added.new += 1;
    }
    Ok(added)
}

/// Everything that a store tells of before it follows.
fn told<N, T: Send + 'static>(
    follow: impl FnOnce(Box<dyn Fn(N, Option<T>) + Send + Sync>) -> Result<(), StoreError>,
) -> Result<Vec<T>, StoreError> {
    let all = Arc::<Mutex<Vec<T>>>::default();
    let told = Arc::clone(&all);
    follow(Box::new(move |_, one| told.lock().extend(one)))?;
    Ok(std::mem::take(&mut *all.lock()))
}

/// Takes over what ended after the newest record that is there.
fn audit_records(from: &dyn AuditStore, into: &dyn AuditStore) -> Result<Added, StoreError> {
    let newest = into.list(Question {
        most: 1,
        ..Question::default()
    })?;
    let newest = newest.first().map(|record| record.at);
    let (mut added, mut newer, mut before_id) = (Added::default(), Vec::<Record>::new(), None);
    loop {
        let page = from.list(Question {
            before_id,
            since: None,
            most: limits::AUDIT_COPY_RECORDS_MAX,
        })?;
        let Some(last) = page.last() else { break };
        before_id = Some(last.id);
        for record in page {
            if newest.is_some_and(|newest| record.at <= newest) {
                added.known += 1;
            } else {
                newer.push(record);
            }
        }
    }
    for record in newer.into_iter().rev() {
        into.append(record.at, &record.action)?;
        added.new += 1;
    }
    Ok(added)
}

fn subscriptions(
    from: &dyn SubscriptionStore,
    into: &dyn SubscriptionStore,
    translation: &Translation<'_>,
) -> Result<Added, CopyError> {
    let failed = |error| CopyError::Store("the subscriptions", error);
    let known = into.load().map_err(failed)?;
    let mut added = Added::default();
    for stored in from.load().map_err(failed)? {
        let letters = all_dead_letters(from, stored.id, translation.from.bounds().tail).map_err(failed)?;
        let (stored, letters) = translation
            .runtime
            .block_on(translation.subscription(stored, letters))?;
        match known.iter().find(|known| known.name == stored.name) {
            None => into.create(&stored).map_err(failed)?,
            // A copy that was cut off between a subscription and its dead letters goes on here.
            Some(known) if known.id == stored.id && known.place == stored.place => {}
            Some(_) => {
                added.known += 1;
                continue;
            }
        }
        added.new += 1;
        if !letters.is_empty() {
            let changes = Changes {
                id: stored.id,
                place: stored.place,
                dead_letters: DeadLetterChanges {
                    removed: Vec::new(),
                    added: letters,
                },
            };
            into.commit(&[changes]).map_err(failed)?;
        }
    }
    Ok(added)
}

fn all_dead_letters(
    store: &dyn SubscriptionStore,
    id: u64,
    through: Sequence,
) -> Result<Vec<DeadLetter>, StoreError> {
    let mut letters = Vec::<DeadLetter>::new();
    loop {
        let after = letters.last().map_or(Sequence::ZERO, |letter| letter.sequence);
        let range = Range { after, through };
        let page = store.dead_letters(id, range, Direction::Forward, limits::DEAD_LETTERS_PER_CALL_MAX)?;
        if page.is_empty() {
            return Ok(letters);
        }
        letters.extend(page);
    }
}

/// Where something in one log is in another that has all its events, in the same order.
struct Translation<'a> {
    from: &'a dyn EventLog,
    into: &'a dyn EventLog,
    /// Runs what the logs are asked, where it may block.
    runtime: Handle,
}

impl Translation<'_> {
    /// A subscription with what is to be known of it. A place that was not in the log stays what it is.
    async fn subscription(
        &self,
        mut stored: Stored,
        letters: Vec<DeadLetter>,
    ) -> Result<(Stored, Vec<DeadLetter>), ReadError> {
        if stored.log_id != self.from.log_id() {
            return Ok((stored, letters));
        }
        stored.log_id = self.into.log_id();
        stored.place = self.place(&stored.place).await?;
        let mut translated = Vec::with_capacity(letters.len());
        for letter in letters {
            if let Some(sequence) = self.event(letter.sequence).await? {
                translated.push(DeadLetter { sequence, ..letter });
            }
        }
        stored.dead_letters = translated.len() as u64;
        Ok((stored, translated))
    }

    async fn place(&self, place: &Place) -> Result<Place, ReadError> {
        let mut under_way = Vec::with_capacity(place.under_way.len());
        for event in &place.under_way {
            if let Some(sequence) = self.event(event.sequence).await? {
                under_way.push(SavedEvent {
                    sequence,
                    ..event.clone()
                });
            }
        }
        under_way.dedup_by_key(|event| event.sequence);
        Ok(Place {
            position: self.position(place.position).await?,
            under_way,
            ..place.clone()
        })
    }

    /// The position up to which the same events are settled. Events that retention took in the meantime are, too.
    async fn position(&self, position: Sequence) -> Result<Sequence, ReadError> {
        let translated = match last_up_to(self.from, position).await? {
            Some(last) => self.into.find(last.event.id).await?.map(|same| same.sequence),
            None => None,
        };
        Ok(translated.unwrap_or(self.into.bounds().trimmed))
    }

    /// The same event, unless retention took it.
    async fn event(&self, sequence: Sequence) -> Result<Option<Sequence>, ReadError> {
        let Some(event) = last_up_to(self.from, sequence)
            .await?
            .filter(|last| last.sequence == sequence)
        else {
            return Ok(None);
        };
        let same = self.into.find(event.event.id).await?;
        Ok(same.map(|same| same.sequence))
    }
}

/// The newest kept event up to a position.
async fn last_up_to(log: &dyn EventLog, position: Sequence) -> Result<Option<Arc<StoredEvent>>, ReadError> {
    let range = Range {
        after: log.bounds().trimmed,
        through: position,
    };
    if range.after >= range.through {
        return Ok(None);
    }
    let limit = Limit {
        events: 1,
        bytes: usize::MAX,
    };
    let chunk = log
        .read(range, Direction::Backward, &Filter::default(), limit)
        .await?;
    Ok(chunk.events.into_iter().next())
}
