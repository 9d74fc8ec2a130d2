//! Where subscriptions are kept. Owns the contract of the storage; refuses to know any engine.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    dead_letters::DeadLetter,
    dispatch::{DeadLetterChanges, Place},
    settings::{Settings, SubscriptionName},
};
use crate::{
    event::{LogId, Sequence},
    log::{Direction, Range},
    state_db::StoreError,
};

/// A subscription as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Never used for another subscription, also not for one of the same name.
    pub id: u64,
    /// The name.
    pub name: SubscriptionName,
    /// The terms.
    pub settings: Arc<Settings>,
    /// When it was created.
    pub created_at: Timestamp,
    /// The log that the place is in.
    pub log_id: LogId,
    /// The place.
    pub place: Place,
    /// How many events are put aside.
    pub dead_letters: u64,
}

/// What is new of one subscription.
#[derive(Clone, Debug)]
pub struct Changes {
    /// Which subscription. One that was deleted is passed over.
    pub id: u64,
    /// Its place.
    pub place: Place,
    /// What became of its dead letters.
    pub dead_letters: DeadLetterChanges,
}

/// A storage of subscriptions. A change is durable when the call returns, or did not happen. Calls block.
pub trait SubscriptionStore: Send + Sync + 'static {
    /// Every subscription.
    fn load(&self) -> Result<Vec<Stored>, StoreError>;
    /// Stores a new one.
    fn create(&self, subscription: &Stored) -> Result<(), StoreError>;
    /// Replaces the terms of one.
    fn update(&self, id: u64, settings: &Settings) -> Result<(), StoreError>;
    /// Puts one at a place in another log; its dead letters, which were in the log before, go.
    fn relocate(&self, id: u64, log_id: LogId, place: &Place) -> Result<(), StoreError>;
    /// Removes one and all of its dead letters.
    fn delete(&self, id: u64) -> Result<(), StoreError>;
    /// Stores what is new of several. How many dead letters each has then, if that may have changed. After an error some of
    /// them may be stored, each whole: the same again, or what is newer, makes up for it.
    fn commit(&self, changes: &[Changes]) -> Result<Vec<Option<u64>>, StoreError>;
    /// Dead letters of one in a range, in a direction, at most so many.
    fn dead_letters(
        &self,
        id: u64,
        range: Range,
        direction: Direction,
        most: usize,
    ) -> Result<Vec<DeadLetter>, StoreError>;
    /// Removes the dead letters of one up to here. How many.
    fn trim_dead_letters(&self, id: u64, through: Sequence) -> Result<u64, StoreError>;
}
