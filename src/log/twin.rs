//! What makes a pushed event and an entry of the event history one event although their identities differ. Owns the rule
//! of the contract in [`super::EventLog`]; refuses to know where events are stored and which of them have a twin already.

use std::{cmp::Ordering, ops::RangeInclusive};

use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    event::{Keys, NewEvent, StoredEvent, Verification},
    limits,
};

/// What an event is looked for as: the stored events that it may be the twin of.
#[derive(Clone, Debug)]
pub struct Search {
    /// What both are about.
    pub subject: Subject,
    /// Which of the two is looked for, and of what time.
    pub side: Side,
}

/// One side of a pair of twins, and when it has to have happened.
#[derive(Clone, Debug)]
pub enum Side {
    /// Pushed events received within this time.
    Pushes(RangeInclusive<Timestamp>),
    /// Entries of the history created within this time.
    Entries(RangeInclusive<Timestamp>),
}

impl Search {
    /// The search for the twin of an event that is about to be stored; `None` if it can have none.
    pub fn of(event: &NewEvent) -> Option<Self> {
        let side = match event.verification {
            Verification::History => Side::Pushes(times_of_pushes(event.created_at?)),
            Verification::Signature { .. } if is_push(event) => {
                Side::Entries(times_of_entries(event.received_at))
            }
            _ => return None,
        };
        let subject = Subject::of(event)?;
        Some(Self { subject, side })
    }

    /// Whether a stored event is what is looked for.
    pub fn matches(&self, stored: &NewEvent) -> bool {
        let of_the_side = match &self.side {
            Side::Pushes(times) => is_push(stored) && times.contains(&stored.received_at),
            Side::Entries(times) => {
                stored.verification == Verification::History
                    && stored.created_at.is_some_and(|time| times.contains(&time))
            }
        };
        of_the_side && Subject::of(stored) == Some(self.subject)
    }
}

/// Whether an event was pushed in a body without an event id, and so may be the twin of an entry of the history.
pub fn is_push(event: &NewEvent) -> bool {
    matches!(event.verification, Verification::Signature { .. }) && event.provider_event_id.is_empty()
}

/// When the pushes were received that an entry created at this time may be the twin of.
pub fn times_of_pushes(created_at: Timestamp) -> RangeInclusive<Timestamp> {
    let first = created_at.checked_sub(limits::TWIN_CLOCK_SKEW);
    let last = created_at.checked_add(limits::TWIN_WINDOW);
    first.unwrap_or(Timestamp::MIN)..=last.unwrap_or(Timestamp::MAX)
}

/// When the entries were created that a push received at this time may be the twin of.
pub fn times_of_entries(received_at: Timestamp) -> RangeInclusive<Timestamp> {
    let first = received_at.checked_sub(limits::TWIN_WINDOW);
    let last = received_at.checked_add(limits::TWIN_CLOCK_SKEW);
    first.unwrap_or(Timestamp::MIN)..=last.unwrap_or(Timestamp::MAX)
}

/// Which of two events on one side is taken first: the push received earliest, the entry created earliest.
pub fn precedence(one: &StoredEvent, other: &StoredEvent) -> Ordering {
    let created_at = |stored: &StoredEvent| {
        (stored.event.verification == Verification::History).then_some(stored.event.created_at)
    };
    created_at(one)
        .cmp(&created_at(other))
        .then(one.sequence.cmp(&other.sequence))
}

/// What names the thing that an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Named<'a> {
    /// Its entity id.
    Entity(&'a str),
    /// Its callback id, as it has no entity id.
    Callback(&'a str),
    /// Nothing but the whole of its `event_data`.
    Data,
}

impl<'a> Named<'a> {
    /// What names the thing that an event with these keys is about.
    pub fn of(keys: &'a Keys) -> Self {
        match (&*keys.entity_id, &*keys.callback_id) {
            ("", "") => Self::Data,
            ("", callback_id) => Self::Callback(callback_id),
            (entity_id, _) => Self::Entity(entity_id),
        }
    }
}

/// What an event is about, as a digest: two events of one subject have the same endpoint, type, and name of the thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subject([u8; Self::BYTES]);

impl Subject {
    const BYTES: usize = 16;

    /// The subject of an event; `None` if the body does not say enough.
    pub fn of(event: &NewEvent) -> Option<Self> {
        let keys = &event.keys;
        if keys.event_type.is_empty() {
            return None;
        }
        let (kind, name) = match Named::of(keys) {
            Named::Entity(id) => ("entity", id.to_owned()),
            Named::Callback(id) => ("callback", id.to_owned()),
            Named::Data => ("data", canonical_event_data(&event.body)?),
        };
        let mut digest = Sha256::new();
        for part in [keys.endpoint.as_str(), &keys.event_type, kind, &name] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let mut bytes = [0; Self::BYTES];
        bytes
            .iter_mut()
            .zip(digest.finalize())
            .for_each(|(to, from)| *to = from);
        Some(Self(bytes))
    }

    /// The digest.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// `event_data` in the one form that equal values have; `None` if it is no object or nested beyond all reason.
fn canonical_event_data(body: &[u8]) -> Option<String> {
    let mut body: Value = serde_json::from_slice(body).ok()?;
    let mut data = body.get_mut("event_data").filter(|data| data.is_object())?.take();
    data.sort_all_objects();
    Some(data.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(created_at: i64, body: &str) -> NewEvent {
        let created_at = Timestamp::from_second(created_at).unwrap();
        let body = format!(r#"{{"event_id":"e","created_at":"{created_at}",{body}}}"#);
        let endpoint = "one".parse().unwrap();
        NewEvent::new(endpoint, Verification::History, body.into(), Timestamp::MAX)
    }

    fn push(received_at: i64, body: &str) -> NewEvent {
        let signature = Verification::Signature {
            header_name: "signature".into(),
            signature: [1; 32],
            secret_version: 1,
        };
        let received_at = Timestamp::from_second(received_at).unwrap();
        NewEvent::new(
            "one".parse().unwrap(),
            signature,
            format!("{{{body}}}").into(),
            received_at,
        )
    }

    const VIDEO: &str = r#""event_type":"avatar_video.fail","event_data":{"video_id":"v"}"#;

    #[test]
    fn both_sides_see_the_same_window() {
        let window = limits::TWIN_WINDOW.as_secs() as i64;
        let skew = limits::TWIN_CLOCK_SKEW.as_secs() as i64;
        for (received_after, twins) in [
            (-skew - 1, false),
            (-skew, true),
            (0, true),
            (window, true),
            (window + 1, false),
        ] {
            let (entry, push) = (entry(1_000_000, VIDEO), push(1_000_000 + received_after, VIDEO));
            assert_eq!(
                Search::of(&entry).unwrap().matches(&push),
                twins,
                "{received_after}"
            );
            assert_eq!(
                Search::of(&push).unwrap().matches(&entry),
                twins,
                "{received_after}"
            );
        }
    }

    #[test]
    fn the_ends_of_time_are_times_too() {
        for time in [Timestamp::MIN, Timestamp::MAX] {
            assert!(times_of_pushes(time).contains(&time));
            assert!(times_of_entries(time).contains(&time));
        }
    }

    #[test]
    fn event_data_is_compared_as_a_json_value() {
        let subject =
            |data: &str| Subject::of(&push(1, &format!(r#""event_type":"a.b","event_data":{data}"#)));
        let first = subject(r#"{"a":1,"b":{"c":"é","d":[1,2]}}"#);
        assert!(first.is_some());
        assert_eq!(first, subject(r#" { "b": {"d":[1,2], "c":"\u00e9"}, "a":1 }"#));
        assert_ne!(first, subject(r#"{"a":1,"b":{"c":"é","d":[2,1]}}"#));
        assert_ne!(first, subject(r#"{"a":2,"b":{"c":"é","d":[1,2]}}"#));
    }

    #[test]
    fn what_says_too_little_has_no_subject() {
        let deep = format!(r#"{{"deep":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        for data in ["null", "[]", r#""text""#, &deep] {
            let body = format!(r#""event_type":"a.b","event_data":{data}"#);
            assert_eq!(Subject::of(&push(1, &body)), None);
        }
        assert_eq!(Subject::of(&push(1, r#""event_data":{"video_id":"v"}"#)), None);
    }
}
