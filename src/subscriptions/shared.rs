//! Subscriptions in a bucket of NATS, for the one replica that serves them. Owns their form there, and that who is no longer
//! that replica stores nothing; refuses to know who it is.
//!
//! | key | value |
//! |---|---|
//! | `terms.NAME` | id, terms, time of creation |
//! | `place.ID` | the place, and what is to be done about dead letters |
//! | `dead.ID.SEQUENCE` | a dead letter |
//!
//! A place is only replaced by who wrote it last, and to load is to write every place once: a replica that has lost its
//! lease without knowing can store nothing from then on. A change is the replacement of one place: what it does to dead
//! letters is written into the place first and then carried out, if need be by the next who loads.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream};
use jiff::Timestamp;
use parking_lot::Mutex;
use prost::Message;
use serde::{Deserialize, Serialize};
use tokio::{runtime::Handle, sync::watch};

use super::{
    columns::UnderWay,
    dead_letters::DeadLetter,
    dispatch::Place,
    settings::{Settings, SubscriptionName},
    store::{Changes, Stored, SubscriptionStore},
};
use crate::{
    event::{LogId, Sequence},
    limits,
    log::{Direction, Range},
    nats::bucket::{Bucket, Change},
    state_db::{Conflict, StoreError},
};

/// The store of one replica, for as long as it serves the subscriptions. To be made where there is a runtime.
pub struct SharedSubscriptionStore {
    bucket: Arc<Bucket>,
    runtime: Handle,
    /// Who writes: another with every store.
    writer: u64,
    known: Mutex<HashMap<u64, Arc<Slot>>>,
    superseded: watch::Sender<bool>,
}

/// A subscription, until it is deleted. Held over whatever is done with it.
type Slot = tokio::sync::Mutex<Option<Known>>;

/// What is stored of one subscription.
struct Known {
    name: SubscriptionName,
    terms: Terms,
    terms_revision: u64,
    place: StoredPlace,
    place_revision: u64,
    dead_letters: BTreeMap<Sequence, DeadLetter>,
}

#[derive(Clone, Deserialize, Serialize)]
struct Terms {
    id: u64,
    settings: Settings,
    created_at: Timestamp,
}

#[derive(Clone, PartialEq, Message)]
struct StoredPlace {
    #[prost(fixed64, tag = "1")]
    writer: u64,
    #[prost(fixed64, tag = "2")]
    log_id: u64,
    #[prost(uint64, tag = "3")]
    generation: u64,
    #[prost(uint64, tag = "4")]
    position: u64,
    #[prost(message, optional, tag = "5")]
    under_way: Option<UnderWay>,
    /// Dead letters that go.
    #[prost(uint64, repeated, tag = "6")]
    removed: Vec<u64>,
    /// Dead letters that come, after that.
    #[prost(message, repeated, tag = "7")]
    added: Vec<StoredDeadLetter>,
    /// All dead letters go, before that.
    #[prost(bool, tag = "8")]
    all_removed: bool,
}

#[derive(Clone, PartialEq, Message)]
struct StoredDeadLetter {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(uint32, tag = "2")]
    attempts: u32,
    #[prost(string, tag = "3")]
    reason: String,
    #[prost(int64, tag = "4")]
    at_us: i64,
}

/// Another replica serves the subscriptions by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another replica serves the subscriptions by now")]
struct Superseded;

impl SharedSubscriptionStore {
    /// The subscriptions in this bucket.
    pub fn new(bucket: Arc<Bucket>) -> Self {
        Self {
            bucket,
            runtime: Handle::current(),
            writer: rand::random(),
            known: Mutex::default(),
            superseded: watch::Sender::new(false),
        }
    }

    /// Becomes true when another replica turns out to serve the subscriptions.
    pub fn superseded(&self) -> watch::Receiver<bool> {
        self.superseded.subscribe()
    }

    async fn read_all(&self) -> Result<Vec<Stored>, StoreError> {
        let mut terms: Vec<(SubscriptionName, Terms, u64)> = Vec::new();
        let (mut places, mut letters) = (HashMap::new(), HashMap::<u64, BTreeMap<_, _>>::new());
        for Change { key, revision, value } in self.bucket.entries().await? {
            let value = value.unwrap_or_default();
            match key.split('.').collect::<Vec<_>>()[..] {
                ["terms", name] => {
                    terms.push((name.parse()?, serde_json::from_slice(&value)?, revision));
                }
                ["place", id] => {
                    places.insert(number(id)?, (StoredPlace::decode(value)?, revision));
                }
                ["dead", id, _] => {
                    let letter = StoredDeadLetter::decode(value)?.read()?;
                    letters
                        .entry(number(id)?)
                        .or_default()
                        .insert(letter.sequence, letter);
                }
                _ => return Err(format!("the key `{key}` is none that this version knows").into()),
            }
        }
        let mut found = Vec::new();
        for (name, terms, terms_revision) in terms {
            let Some((place, place_revision)) = places.remove(&terms.id) else {
                return Err(format!("the subscription {name} has no place").into());
            };
            found.push(Known {
                dead_letters: letters.remove(&terms.id).unwrap_or_default(),
                name,
                terms,
                terms_revision,
                place,
                place_revision,
            });
        }
        let claimed = found.into_iter().map(async |mut known| {
            let place = known.place.clone();
            self.write(known.terms.id, &mut known, place).await?;
            Ok::<_, StoreError>(known)
        });
        let claimed: Vec<_> = stream::iter(claimed)
            .buffer_unordered(limits::BUCKET_REQUESTS_MAX)
            .try_collect()
            .await?;
        let stored = claimed.iter().map(Known::stored).collect::<Result<_, _>>()?;
        let known = claimed.into_iter().map(|known| (known.terms.id, slot(known)));
        *self.known.lock() = known.collect();
        // What is left of subscriptions whose making or deletion was cut short.
        for id in places.into_keys() {
            self.purge(id).await?;
        }
        Ok(stored)
    }

    /// Replaces a place, and does about dead letters what it says.
    async fn write(&self, id: u64, known: &mut Known, place: StoredPlace) -> Result<(), StoreError> {
        let place = StoredPlace {
            writer: self.writer,
            ..place
        };
        let (key, value) = (place_key(id), Bytes::from(place.encode_to_vec()));
        let replaced = self
            .bucket
            .replace(&key, value.clone(), known.place_revision)
            .await;
        known.place_revision = match replaced {
            Ok(revision) => revision,
            Err(error) if error.is::<Conflict>() => {
                // Perhaps ours, and what is missing is the answer to an earlier attempt.
                let found = self.bucket.entry(&key).await?;
                let ours = found.filter(|found| {
                    let place = found.value.clone().map(StoredPlace::decode);
                    matches!(place, Some(Ok(place)) if place.writer == self.writer)
                });
                let Some(ours) = ours else {
                    self.superseded.send_replace(true);
                    return Err(Superseded.into());
                };
                self.bucket.replace(&key, value, ours.revision).await?
            }
            Err(error) => return Err(error),
        };
        if place.all_removed {
            self.bucket.purge(&letter_key(id, ">")).await?;
            known.dead_letters.clear();
        }
        self.remove_letters(id, &place.removed).await?;
        let added = place.added.iter().map(async |letter| {
            let key = letter_key(id, letter.sequence);
            self.bucket.overwrite(&key, letter.encode_to_vec().into()).await
        });
        stream::iter(added)
            .buffer_unordered(limits::BUCKET_REQUESTS_MAX)
            .try_collect::<()>()
            .await?;
        for sequence in &place.removed {
            known.dead_letters.remove(&Sequence::new(*sequence));
        }
        for letter in &place.added {
            let letter = letter.read()?;
            known.dead_letters.insert(letter.sequence, letter);
        }
        known.place = place;
        Ok(())
    }

    async fn remove_letters(&self, id: u64, sequences: &[u64]) -> Result<(), StoreError> {
        let removed = sequences
            .iter()
            .map(async |sequence| self.bucket.purge(&letter_key(id, sequence)).await);
        stream::iter(removed)
            .buffer_unordered(limits::BUCKET_REQUESTS_MAX)
            .try_collect()
            .await
    }

    /// Removes all there is of one but its terms.
    async fn purge(&self, id: u64) -> Result<(), StoreError> {
        self.bucket.purge(&letter_key(id, ">")).await?;
        self.bucket.purge(&place_key(id)).await
    }

    /// Does something with one, if it is there.
    async fn with<T>(
        &self,
        id: u64,
        work: impl AsyncFnOnce(&mut Known) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let slot = self.known.lock().get(&id).cloned();
        let Some(slot) = slot else { return Ok(None) };
        match &mut *slot.lock().await {
            Some(known) => work(known).await.map(Some),
            None => Ok(None),
        }
    }

    async fn commit_one(&self, changes: &Changes) -> Result<Option<u64>, StoreError> {
        let letters = &changes.dead_letters;
        let count = self.with(changes.id, async |known| {
            let place = StoredPlace {
                removed: letters.removed.iter().map(|sequence| sequence.get()).collect(),
                added: letters.added.iter().map(StoredDeadLetter::of).collect(),
                ..StoredPlace::of(LogId::new(known.place.log_id), &changes.place)
            };
            self.write(changes.id, known, place).await?;
            Ok(known.dead_letters.len() as u64)
        });
        Ok(count.await?.filter(|_| !letters.is_empty()))
    }
}

impl SubscriptionStore for SharedSubscriptionStore {
    fn load(&self) -> Result<Vec<Stored>, StoreError> {
        self.runtime.block_on(self.read_all())
    }

    fn create(&self, subscription: &Stored) -> Result<(), StoreError> {
        let terms = Terms {
            id: subscription.id,
            settings: Settings::clone(&subscription.settings),
            created_at: subscription.created_at,
        };
        let place = StoredPlace {
            writer: self.writer,
            ..StoredPlace::of(subscription.log_id, &subscription.place)
        };
        self.runtime.block_on(async {
            // A place without terms is none.
            let value = place.encode_to_vec().into();
            let place_revision = self.bucket.replace(&place_key(terms.id), value, 0).await?;
            let value = serde_json::to_vec(&terms)?.into();
            let key = terms_key(&subscription.name);
            let terms_revision = self.bucket.replace(&key, value, 0).await?;
            let known = Known {
                name: subscription.name.clone(),
                terms,
                terms_revision,
                place,
                place_revision,
                dead_letters: BTreeMap::new(),
            };
            self.known.lock().insert(subscription.id, slot(known));
            Ok(())
        })
    }

    fn update(&self, id: u64, settings: &Settings) -> Result<(), StoreError> {
        let updated = self.with(id, async |known| {
            let terms = Terms {
                settings: settings.clone(),
                ..known.terms.clone()
            };
            let (key, value) = (terms_key(&known.name), serde_json::to_vec(&terms)?.into());
            known.terms_revision = self.bucket.replace(&key, value, known.terms_revision).await?;
            known.terms = terms;
            Ok(())
        });
        self.runtime.block_on(updated)?;
        Ok(())
    }

    fn relocate(&self, id: u64, log_id: LogId, place: &Place) -> Result<(), StoreError> {
        let relocated = self.with(id, async |known| {
            let place = StoredPlace {
                all_removed: true,
                ..StoredPlace::of(log_id, place)
            };
            self.write(id, known, place).await
        });
        self.runtime.block_on(relocated)?;
        Ok(())
    }

    fn delete(&self, id: u64) -> Result<(), StoreError> {
        let Some(slot) = self.known.lock().get(&id).cloned() else {
            return Ok(());
        };
        self.runtime.block_on(async {
            let mut known = slot.lock().await;
            if let Some(found) = &*known {
                self.bucket.purge(&terms_key(&found.name)).await?;
                *known = None;
                self.known.lock().remove(&id);
                // It is gone; what is left is cleared away by the next who loads, if not here.
                if let Err(error) = self.purge(id).await {
                    tracing::warn!(%error, "traces of a deleted subscription stay until the subscriptions are loaded again");
                }
            }
            Ok(())
        })
    }

    fn commit(&self, changes: &[Changes]) -> Result<Vec<Option<u64>>, StoreError> {
        let commits = changes.iter().map(|changes| self.commit_one(changes));
        self.runtime.block_on(try_join_all(commits))
    }

    fn dead_letters(
        &self,
        id: u64,
        Range { after, through }: Range,
        direction: Direction,
        most: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let found = self.with(id, async |known| {
            if after >= through {
                return Ok(Vec::new());
            }
            let letters = known
                .dead_letters
                .range((Bound::Excluded(after), Bound::Included(through)))
                .map(|(_, letter)| *letter);
            Ok(match direction {
                Direction::Forward => letters.take(most).collect(),
                Direction::Backward => letters.rev().take(most).collect(),
            })
        });
        Ok(self.runtime.block_on(found)?.unwrap_or_default())
    }

    fn trim_dead_letters(&self, id: u64, through: Sequence) -> Result<u64, StoreError> {
        let trimmed = self.with(id, async |known| {
            let gone: Vec<_> = known
                .dead_letters
                .range(..=through)
                .map(|(sequence, _)| sequence.get())
                .collect();
            self.remove_letters(id, &gone).await?;
            known.dead_letters = known.dead_letters.split_off(&through.next());
            Ok(gone.len() as u64)
        });
        Ok(self.runtime.block_on(trimmed)?.unwrap_or_default())
    }
}

impl Known {
    fn stored(&self) -> Result<Stored, StoreError> {
        let under_way = self.place.under_way.clone().unwrap_or_default();
        Ok(Stored {
            id: self.terms.id,
            name: self.name.clone(),
            settings: Arc::new(self.terms.settings.clone()),
            created_at: self.terms.created_at,
            log_id: LogId::new(self.place.log_id),
            place: under_way.place(self.place.generation, Sequence::new(self.place.position))?,
            dead_letters: self.dead_letters.len() as u64,
        })
    }
}

impl StoredPlace {
    fn of(log_id: LogId, place: &Place) -> Self {
        Self {
            log_id: log_id.get(),
            generation: place.generation,
            position: place.position.get(),
            under_way: Some(UnderWay::of(place)),
            ..Self::default()
        }
    }
}

impl StoredDeadLetter {
    fn of(letter: &DeadLetter) -> Self {
        Self {
            sequence: letter.sequence.get(),
            attempts: letter.attempts,
            reason: letter.reason.as_str().to_owned(),
            at_us: letter.at.as_microsecond(),
        }
    }

    fn read(&self) -> Result<DeadLetter, StoreError> {
        Ok(DeadLetter {
            sequence: Sequence::new(self.sequence),
            attempts: self.attempts,
            reason: self.reason.parse()?,
            at: Timestamp::from_microsecond(self.at_us)?,
        })
    }
}

fn slot(known: Known) -> Arc<Slot> {
    Arc::new(tokio::sync::Mutex::new(Some(known)))
}

fn terms_key(name: &SubscriptionName) -> String {
    format!("terms.{name}")
}

fn place_key(id: u64) -> String {
    format!("place.{id}")
}

fn letter_key(id: u64, sequence: impl Display) -> String {
    format!("dead.{id}.{sequence}")
}

fn number(text: &str) -> Result<u64, StoreError> {
    Ok(text.parse()?)
}
