//! The event and the identifiers around it. Owns their meaning and validity; refuses to know where they are stored, how
//! they are sent, or what HTTP and gRPC are.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use bytestring::ByteString;
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::{decode::Envelope, limits, signature::Verified};

/// A position in the log, from 1; 0 is before the first event. Gaps are allowed, repetition is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(u64);

impl Sequence {
    /// Before the first event of any log.
    pub const ZERO: Self = Self(0);

    /// The position with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position that follows.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The position before; `ZERO` stays.
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The incarnation of a log. Two logs never share one, so that a cursor cannot be read against the wrong log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogId(u64);

impl LogId {
    /// A log id from its number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The name of an endpoint: `[a-z0-9][a-z0-9-]{0,62}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointName(ByteString);

/// A name that is not of the form an endpoint's name has.
#[derive(Debug, thiserror::Error)]
#[error("an endpoint name is 1 to 63 characters of a-z, 0-9 and -, and starts with a letter or digit")]
pub struct InvalidEndpointName;

impl EndpointName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as bytes that are shared, not copied.
    pub fn as_bytes(&self) -> &Bytes {
        self.0.as_bytes()
    }
}

impl FromStr for EndpointName {
    type Err = InvalidEndpointName;

    fn from_str(name: &str) -> Result<Self, InvalidEndpointName> {
        ByteString::from(name).try_into()
    }
}

impl TryFrom<ByteString> for EndpointName {
    type Error = InvalidEndpointName;

    fn try_from(name: ByteString) -> Result<Self, InvalidEndpointName> {
        if is_label(&name) {
            Ok(Self(name))
        } else {
            Err(InvalidEndpointName)
        }
    }
}

/// Whether a text is of the form that names have here: `[a-z0-9][a-z0-9-]{0,62}`.
pub fn is_label(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=limits::NAME_BYTES_MAX).contains(&text.len()) && !text.starts_with('-') && text.bytes().all(legal)
}

impl fmt::Display for EndpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What makes two deliveries one event (invariant I6), and at the same time the event's public id.
///
/// It is a digest of signed content only: the endpoint's name with the `event_id` inside the body, or else with the whole
/// body. So the id is the idempotency key, looked up in one index, and the same on every replica and in every copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId([u8; Self::BYTES]);

/// A text that is no event id.
#[derive(Debug, thiserror::Error)]
#[error("an event id is `evt_` and 32 lower-case hexadecimal digits")]
pub struct InvalidEventId;

impl EventId {
    const BYTES: usize = 16;
    const PREFIX: &str = "evt_";
    const TEXT_BYTES: usize = Self::PREFIX.len() + 2 * Self::BYTES;

    /// The identity of what came to this endpoint with this body. A callback is never the same event as a webhook: whoever
    /// asked for both hears of an outcome twice.
    fn of(endpoint: &EndpointName, verification: &Verification, envelope: &Envelope, body: &[u8]) -> Self {
        let mut digest = Sha256::new();
        digest.update(endpoint.as_str());
        if *verification == Verification::CallbackToken {
            digest.update(b"\0callback");
        }
        if envelope.provider_event_id.is_empty() {
            digest.update(b"\0body\0");
            digest.update(body);
        } else {
            digest.update(b"\0event_id\0");
            digest.update(&envelope.provider_event_id);
        }
        let mut id = [0; Self::BYTES];
        id.iter_mut()
            .zip(digest.finalize())
            .for_each(|(to, from)| *to = from);
        Self(id)
    }

    /// The id from its bytes; `None` if there are not 16.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The id as text, in ASCII.
    pub fn to_text(&self) -> [u8; Self::TEXT_BYTES] {
        let mut text = [0; Self::TEXT_BYTES];
        let (prefix, digits) = text.split_at_mut(Self::PREFIX.len());
        prefix.copy_from_slice(Self::PREFIX.as_bytes());
        HEXLOWER.encode_mut(&self.0, digits);
        text
    }

    /// The bytes of the id.
    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        text.strip_prefix(Self::PREFIX)
            .and_then(|digits| HEXLOWER.decode(digits.as_bytes()).ok())
            .and_then(|bytes| Self::from_bytes(&bytes))
            .ok_or(InvalidEventId)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_text()))
    }
}

/// How an event came here, and so why it is believed to be HeyGen's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verification {
    /// A delivery to a registered endpoint, signed.
    Signature {
        /// The header that carried the signature, in lower case.
        header_name: ByteString,
        /// The HMAC-SHA256 of the body.
        signature: [u8; 32],
        /// Which of the endpoint's secrets verified it, counted from 1.
        secret_version: u32,
    },
    /// A callback of one request: unsigned, to a URL that holds a token nobody else knows.
    CallbackToken,
    /// Read from the event history in HeyGen's API.
    History,
}

/// What the filters look at. The texts of an event that was read from the log are parts of its record, not copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The type as HeyGen wrote it; empty if the body named none.
    pub event_type: ByteString,
    /// The resource the event is about; empty if none.
    pub entity_id: ByteString,
    /// What the caller passed as `callback_id`; empty if nothing.
    pub callback_id: ByteString,
    /// The endpoint that received it.
    pub endpoint: EndpointName,
}

/// An event that is not stored yet. Only a verified delivery can become one (invariant I2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// The identity.
    pub id: EventId,
    /// What the filters look at.
    pub keys: Keys,
    /// HeyGen's own id of the event; empty if the body carries none.
    pub provider_event_id: ByteString,
    /// When HeyGen says it happened.
    pub created_at: Option<Timestamp>,
    /// When it arrived here.
    pub received_at: Timestamp,
    /// How it came here and why it is believed.
    pub verification: Verification,
    /// The exact bytes that came.
    pub body: Bytes,
}

impl NewEvent {
    /// The event that a verified delivery to `endpoint` makes.
    pub fn from_delivery(endpoint: EndpointName, delivery: Verified, received_at: Timestamp) -> Self {
        let (body, verification) = delivery.into_parts();
        Self::new(endpoint, verification, body, received_at)
    }

    /// The event that an entry of HeyGen's event history makes, read from HeyGen's API.
    pub fn from_history(endpoint: EndpointName, entry: Bytes, read_at: Timestamp) -> Self {
        Self::new(endpoint, Verification::History, entry, read_at)
    }

    pub(crate) fn new(
        endpoint: EndpointName,
        verification: Verification,
        body: Bytes,
        received_at: Timestamp,
    ) -> Self {
        let envelope = Envelope::of(&body);
        let id = EventId::of(&endpoint, &verification, &envelope, &body);
        let Envelope {
            event_type,
            entity_id,
            callback_id,
            provider_event_id,
            created_at,
        } = envelope;
        Self {
            id,
            keys: Keys {
                event_type: event_type.into(),
                entity_id: entity_id.into(),
                callback_id: callback_id.into(),
                endpoint,
            },
            provider_event_id: provider_event_id.into(),
            created_at,
            received_at,
            verification,
            body,
        }
    }
}

/// An event with its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its place.
    pub sequence: Sequence,
    /// The rest of it. `received_at` never goes backwards from one sequence to the next.
    pub event: NewEvent,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(endpoint: &str, verification: Verification, body: &'static str) -> NewEvent {
        let (endpoint, body) = (endpoint.parse().unwrap(), Bytes::from_static(body.as_bytes()));
        NewEvent::new(endpoint, verification, body, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_name_is_a_label() {
        let longest = "a".repeat(63);
        for name in ["a", "7", "a-", "prod-2", &longest] {
            assert_eq!(name.parse::<EndpointName>().unwrap().to_string(), name);
        }
        let too_long = "a".repeat(64);
        for name in ["", "-a", "A", "a_b", "a.b", "a b", "\u{e4}", &too_long] {
            assert!(name.parse::<EndpointName>().is_err(), "{name}");
        }
    }

    #[test]
    fn an_id_is_its_prefix_and_32_hexadecimal_digits() {
        let id = EventId::from_bytes(&[0xa5; 16]).unwrap();
        assert_eq!(id.to_string(), format!("evt_{}", "a5".repeat(16)));
        assert_eq!(id.to_string().as_bytes(), id.to_text());
        assert_eq!(id.to_string().parse::<EventId>().unwrap(), id);
        for text in [
            "",
            "evt_",
            "a5a5",
            &"a5".repeat(16),
            &format!("evt_{}", "A5".repeat(16)),
        ] {
            assert!(text.parse::<EventId>().is_err(), "{text}");
        }
        assert_eq!(LogId::new(0xabc).to_string(), "0000000000000abc");
    }

    #[test]
    fn an_event_has_the_same_id_for_ever() {
        let id = |verification, body| event("a", verification, body).id.to_string();
        let by_its_id = r#"{"event_id":"1"}"#;
        assert_eq!(
            id(Verification::History, by_its_id),
            "evt_a55bcb37a565fa83b8ee710b62189518"
        );
        assert_eq!(
            id(Verification::CallbackToken, by_its_id),
            "evt_4a3f083e09c00d2331a24b5343d12074"
        );
        assert_eq!(
            id(Verification::History, r#"{"event":"1"}"#),
            "evt_2cd469ca8a857555a9ea5885a9cbcf65"
        );
    }

    #[test]
    fn an_event_is_what_is_signed_and_where_it_came_to() {
        let (with_id, another_body) = (r#"{"event_id":"1"}"#, r#"{"event_id":"1","more":2}"#);
        let first = event("a", Verification::History, with_id).id;
        assert_eq!(first, event("a", Verification::History, another_body).id);
        let others = [
            event("b", Verification::History, with_id).id,
            event("a", Verification::CallbackToken, with_id).id,
            event("a", Verification::History, r#"{"event_id":"2"}"#).id,
            event("a", Verification::History, r#"{"event":"1"}"#).id,
            event("a", Verification::History, r#"{"event":"2"}"#).id,
        ];
        for (number, other) in others.iter().enumerate() {
            assert!(*other != first && !others[..number].contains(other), "{number}");
        }
    }
}
