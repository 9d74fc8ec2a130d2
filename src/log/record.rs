//! The stored form of an event. Owns the codec and its checksum; refuses to know in which table or stream records lie.
//!
//! A record is a version byte, the CRC-32 of the rest (little-endian), and the rest: a protobuf message, so that fields can
//! be added and old records stay readable. The sequence is the record's key and not part of it.

use bytes::Bytes;
use bytestring::ByteString;
use jiff::Timestamp;
use prost::Message;

use crate::event::{EventId, Keys, NewEvent, Sequence, StoredEvent, Verification};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 5;

/// Texts are bytes here, so that reading one is a look into the record and not a copy.
#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(bytes = "bytes", tag = "1")]
    id: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    event_type: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    entity_id: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    callback_id: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    endpoint: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    provider_event_id: Bytes,
    #[prost(sfixed64, optional, tag = "7")]
    created_at_us: Option<i64>,
    #[prost(sfixed64, tag = "8")]
    received_at_us: i64,
    #[prost(uint32, tag = "9")]
    origin: u32,
    #[prost(bytes = "bytes", tag = "10")]
    header_name: Bytes,
    #[prost(bytes = "bytes", tag = "11")]
    signature: Bytes,
    #[prost(uint32, tag = "12")]
    secret_version: u32,
    #[prost(bytes = "bytes", tag = "13")]
    body: Bytes,
}

const ORIGIN_WEBHOOK: u32 = 1;
const ORIGIN_CALLBACK: u32 = 2;
const ORIGIN_HISTORY: u32 = 3;

/// A record that is not what was written.
#[derive(Debug, PartialEq, Eq)]
pub struct Damaged;

/// The record of an event.
pub fn encode(event: &NewEvent) -> Vec<u8> {
    let mut record = Record {
        id: Bytes::copy_from_slice(event.id.as_bytes()),
        event_type: event.keys.event_type.as_bytes().clone(),
        entity_id: event.keys.entity_id.as_bytes().clone(),
        callback_id: event.keys.callback_id.as_bytes().clone(),
        endpoint: event.keys.endpoint.as_bytes().clone(),
        provider_event_id: event.provider_event_id.as_bytes().clone(),
        created_at_us: event.created_at.map(Timestamp::as_microsecond),
        received_at_us: event.received_at.as_microsecond(),
        body: event.body.clone(),
        ..Record::default()
    };
    match &event.verification {
        Verification::Signature {
            header_name,
            signature,
            secret_version,
        } => {
            record.origin = ORIGIN_WEBHOOK;
            record.header_name = header_name.as_bytes().clone();
            record.signature = Bytes::copy_from_slice(signature);
            record.secret_version = *secret_version;
        }
        Verification::CallbackToken => record.origin = ORIGIN_CALLBACK,
        Verification::History => record.origin = ORIGIN_HISTORY,
    }
    let mut bytes = Vec::with_capacity(HEADER_BYTES + record.encoded_len());
    bytes.extend([VERSION, 0, 0, 0, 0]);
    record.encode_raw(&mut bytes);
    if let Some((header, content)) = bytes.split_first_chunk_mut::<HEADER_BYTES>() {
        let [_, check @ ..] = header;
        *check = crc32fast::hash(content).to_le_bytes();
    }
    bytes
}

/// The event that a record holds.
pub fn decode(sequence: Sequence, record: Bytes) -> Result<StoredEvent, Damaged> {
    let (&version, rest) = record.split_first().ok_or(Damaged)?;
    let (check, content) = rest.split_first_chunk::<4>().ok_or(Damaged)?;
    if version != VERSION || crc32fast::hash(content).to_le_bytes() != *check {
        return Err(Damaged);
    }
    let record = Record::decode(record.slice(HEADER_BYTES..)).map_err(|_| Damaged)?;
    let time = |us| Timestamp::from_microsecond(us).map_err(|_| Damaged);
    let text = |bytes| ByteString::try_from(bytes).map_err(|_| Damaged);
    let event = NewEvent {
        id: EventId::from_bytes(&record.id).ok_or(Damaged)?,
        keys: Keys {
            event_type: text(record.event_type)?,
            entity_id: text(record.entity_id)?,
            callback_id: text(record.callback_id)?,
            endpoint: text(record.endpoint)?.try_into().map_err(|_| Damaged)?,
        },
        provider_event_id: text(record.provider_event_id)?,
        created_at: record.created_at_us.map(time).transpose()?,
        received_at: time(record.received_at_us)?,
        verification: match record.origin {
            ORIGIN_WEBHOOK => Verification::Signature {
                header_name: text(record.header_name)?,
                signature: record.signature.as_ref().try_into().map_err(|_| Damaged)?,
                secret_version: record.secret_version,
            },
            ORIGIN_CALLBACK => Verification::CallbackToken,
            ORIGIN_HISTORY => Verification::History,
            _ => return Err(Damaged),
        },
        body: record.body,
    };
    Ok(StoredEvent { sequence, event })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn verification(text: &str, body: &[u8]) -> Verification {
        match body.len() % 3 {
            0 => Verification::CallbackToken,
            1 => Verification::History,
            _ => Verification::Signature {
                header_name: text.into(),
                signature: [9; 32],
                secret_version: 3,
            },
        }
    }

    fn event(text: String, body: Vec<u8>, created_at: Option<i64>) -> NewEvent {
        NewEvent {
            id: EventId::from_bytes(&[7; 16]).unwrap(),
            keys: Keys {
                event_type: text.as_str().into(),
                entity_id: text.as_str().into(),
                callback_id: text.as_str().into(),
                endpoint: "dev".parse().unwrap(),
            },
            provider_event_id: text.as_str().into(),
            created_at: created_at.map(|second| Timestamp::from_second(second).unwrap()),
            received_at: Timestamp::from_microsecond(1_770_000_000_123_456).unwrap(),
            verification: verification(&text, &body),
            body: body.into(),
        }
    }

    proptest! {
        #[test]
        fn an_event_survives_being_written_and_read(
            text in ".{0,20}",
            body in proptest::collection::vec(any::<u8>(), 0..100),
            created_at in proptest::option::of(0_i64..4_000_000_000),
            sequence: u64,
        ) {
            let event = event(text, body, created_at);
            let sequence = Sequence::new(sequence);
            prop_assert_eq!(decode(sequence, encode(&event).into()), Ok(StoredEvent { sequence, event }));
        }

        #[test]
        fn a_record_with_one_bit_flipped_is_damaged(body in proptest::collection::vec(any::<u8>(), 0..50), at: prop::sample::Index, bit in 0..8) {
            let mut record = encode(&event("x".into(), body, None));
            let at = at.index(record.len());
            record[at] ^= 1_u8 << bit;
            prop_assert_eq!(decode(Sequence::new(1), record.into()), Err(Damaged));
        }

        #[test]
        fn any_bytes_are_read_without_panicking(record in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(Sequence::new(1), record.into());
        }
    }
}
