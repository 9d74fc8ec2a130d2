//! Events under way as every storage keeps them: in columns. Owns that form alone.

use jiff::Timestamp;
use prost::Message;

use super::dispatch::{Place, SavedEvent};
use crate::{event::Sequence, state_db::StoreError};

/// Events under way, as columns; one that says nothing is left out.
#[derive(Clone, PartialEq, Message)]
pub(super) struct UnderWay {
    /// Distances, from 0 and from one event to the next.
    #[prost(uint64, repeated, tag = "1")]
    distances: Vec<u64>,
    #[prost(uint32, repeated, tag = "2")]
    attempts: Vec<u32>,
    /// Microseconds; 0 for none.
    #[prost(int64, repeated, tag = "3")]
    retry_at_us: Vec<i64>,
    #[prost(string, repeated, tag = "4")]
    entity_ids: Vec<String>,
    /// Microseconds; of the place that they are part of.
    #[prost(int64, tag = "5")]
    saved_at_us: i64,
}

impl UnderWay {
    pub(super) fn of(place: &Place) -> Self {
        fn column<T: Default + PartialEq>(
            under_way: &[SavedEvent],
            value: impl Fn(&SavedEvent) -> T,
        ) -> Vec<T> {
            if under_way.iter().all(|event| value(event) == T::default()) {
                return Vec::new();
            }
            under_way.iter().map(value).collect()
        }
        let under_way = place.under_way.as_slice();
        let mut before = 0;
        let distance = |event: &SavedEvent| {
            let sequence = event.sequence.get();
            sequence - std::mem::replace(&mut before, sequence)
        };
        Self {
            distances: under_way.iter().map(distance).collect(),
            attempts: column(under_way, |event| event.attempts),
            retry_at_us: column(under_way, |event| {
                event.retry_at.map_or(0, Timestamp::as_microsecond)
            }),
            entity_ids: column(under_way, |event| event.entity_id.to_string()),
            saved_at_us: place.saved_at.as_microsecond(),
        }
    }

    /// The place that they are part of.
    pub(super) fn place(&self, generation: u64, position: Sequence) -> Result<Place, StoreError> {
        Ok(Place {
            generation,
            position,
            under_way: self.events()?,
            saved_at: Timestamp::from_microsecond(self.saved_at_us)?,
        })
    }

    fn events(&self) -> Result<Vec<SavedEvent>, StoreError> {
        let mut sequence = 0_u64;
        let event = |(at, distance): (usize, &u64)| {
            sequence = sequence
                .checked_add(*distance)
                .ok_or("the place of a subscription is damaged")?;
            let retry_at_us = self.retry_at_us.get(at).copied().filter(|&at| at != 0);
            Ok(SavedEvent {
                sequence: Sequence::new(sequence),
                attempts: self.attempts.get(at).copied().unwrap_or_default(),
                retry_at: retry_at_us.map(Timestamp::from_microsecond).transpose()?,
                entity_id: self
                    .entity_ids
                    .get(at)
                    .map(|id| id.as_str().into())
                    .unwrap_or_default(),
            })
        };
        self.distances.iter().enumerate().map(event).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn events_under_way_survive_being_written_and_read(
            events in vec((1_u64..1 << 40, 0_u32..9, option::of(1_i64..1 << 50), "[a-z]{0,3}"), 0..20),
            saved_at_us in 0_i64..1 << 50,
        ) {
            let mut sequence = 0;
            let saved = |(distance, attempts, retry_at_us, entity_id): (u64, u32, Option<i64>, String)| {
                sequence += distance;
                SavedEvent {
                    sequence: Sequence::new(sequence),
                    attempts,
                    retry_at: retry_at_us.map(|at| Timestamp::from_microsecond(at).unwrap()),
                    entity_id: entity_id.into(),
                }
            };
            let place = Place {
                generation: 3,
                position: Sequence::new(9),
                under_way: events.into_iter().map(saved).collect(),
                saved_at: Timestamp::from_microsecond(saved_at_us).unwrap(),
            };
            let bytes = UnderWay::of(&place).encode_to_vec();
            let read = UnderWay::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(read.place(3, Sequence::new(9)).unwrap(), place);
        }

        #[test]
        fn any_bytes_are_read_without_panicking(bytes in vec(any::<u8>(), 0..100)) {
            if let Ok(columns) = UnderWay::decode(bytes.as_slice()) {
                let _ = columns.place(0, Sequence::ZERO);
            }
        }
    }
}
