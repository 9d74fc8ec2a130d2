//! From a stored event to the bytes of the interface's `Event`. Owns the typed view: it is driven by the descriptors of
//! `payload.proto`, so that a type or field is added there and nowhere else.

use std::collections::HashMap;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use prost::{
    Message,
    encoding::{self, WireType, encode_key, encode_varint},
};
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value};

use super::proto;
use crate::{
    cursor::Cursor,
    decode::{self, NoEventData},
    event::{LogId, Origin, StoredEvent},
    event_type::EVENT_TYPES,
    hub::Encode,
    limits,
};

/// `event` in every response that has one.
const EVENT_FIELD: u32 = 1;
/// `Event.event_data`.
const EVENT_DATA_FIELD: u32 = 14;

/// Encodes the events of one log.
#[derive(Debug)]
pub struct EventEncoder {
    log_id: LogId,
    arms: HashMap<&'static str, Arm>,
}

/// What the interface knows of one event type.
#[derive(Debug)]
struct Arm {
    event_type: i32,
    /// The field of `Event` that holds its payload.
    field: u32,
    fields: Vec<Field>,
}

#[derive(Debug)]
struct Field {
    name: String,
    number: u32,
    kind: FieldKind,
}

#[derive(Debug)]
enum FieldKind {
    Text,
    Number,
    Struct,
    Messages(Vec<Field>),
}

/// The descriptors that were compiled in do not have the shape that this version was written for.
#[derive(Debug, thiserror::Error)]
#[error("the interface's descriptors are not as expected: {0}")]
pub struct BadDescriptors(String);

impl EventEncoder {
    /// An encoder for the events of this log.
    pub fn new(log_id: LogId) -> Result<Self, BadDescriptors> {
        let bad = |what: &str| BadDescriptors(what.to_owned());
        let pool = DescriptorPool::decode(proto::DESCRIPTORS).map_err(|error| bad(&error.to_string()))?;
        let event = pool
            .get_message_by_name("hookstream.v1.Event")
            .ok_or_else(|| bad("no Event"))?;
        let mut arms = HashMap::new();
        for known in &EVENT_TYPES {
            let field = event
                .get_field_by_name(&payload_field(known.name))
                .ok_or_else(|| bad(known.name))?;
            let Kind::Message(payload) = field.kind() else {
                return Err(bad(known.name));
            };
            let event_type = proto::EventType::from_str_name(&enum_value(known.name));
            let event_type = event_type.ok_or_else(|| bad(known.name))? as i32;
            arms.insert(
                known.name,
                Arm {
                    event_type,
                    field: field.number(),
                    fields: fields(&payload)?,
                },
            );
        }
        Ok(Self { log_id, arms })
    }

    /// The decoded forms of a body, appended to `buffer` as fields of `Event`.
    fn decoded(&self, event_type: &str, body: &[u8], buffer: &mut Vec<u8>) -> proto::DecodeStatus {
        let data = match decode::event_data(body, limits::EVENT_DATA_DEPTH_MAX) {
            Ok(data) => data,
            Err(NoEventData::NotJson) => return proto::DecodeStatus::NotJson,
            Err(NoEventData::NoEventType) => return proto::DecodeStatus::NoEventType,
            Err(NoEventData::NotAnObject) => return proto::DecodeStatus::NoEventData,
        };
        if !data.too_deep {
            nested(EVENT_DATA_FIELD, buffer, |buffer| {
                put_struct(&data.fields, buffer)
            });
        }
        let arm = self.arms.get(event_type);
        let complete = arm.is_some_and(|arm| {
            let mut complete = true;
            nested(arm.field, buffer, |buffer| {
                complete = put_fields(&arm.fields, &data.fields, buffer)
            });
            complete
        });
        if buffer.len() > limits::DECODED_BYTES_MAX {
            buffer.clear();
            return proto::DecodeStatus::TooLarge;
        }
        match (data.too_deep, arm, complete) {
            (true, ..) => proto::DecodeStatus::TooDeep,
            (false, None, _) => proto::DecodeStatus::UnknownType,
            (false, Some(_), true) => proto::DecodeStatus::Complete,
            (false, Some(_), false) => proto::DecodeStatus::Partial,
        }
    }
}

impl Encode for EventEncoder {
    /// A response with nothing but this event in it.
    fn encode(&self, StoredEvent { sequence, event }: &StoredEvent) -> Bytes {
        let mut decoded = Vec::with_capacity(4 * event.body.len());
        let decode_status = self.decoded(&event.keys.event_type, &event.body, &mut decoded);
        let known = self.arms.get(event.keys.event_type.as_str());
        let fixed = proto::Event {
            id: event.id.to_string(),
            cursor: Cursor {
                log_id: self.log_id,
                sequence: *sequence,
            }
            .to_string(),
            sequence: sequence.get(),
            r#type: known.map_or(0, |arm| arm.event_type),
            type_name: event.keys.event_type.clone(),
            entity_id: event.keys.entity_id.clone(),
            callback_id: event.keys.callback_id.clone(),
            endpoint: event.keys.endpoint.as_str().to_owned(),
            provider_event_id: event.provider_event_id.clone(),
            created_at: event.created_at.map(timestamp),
            received_at: Some(timestamp(event.received_at)),
            origin: match event.origin {
                Origin::Webhook => proto::Origin::Webhook.into(),
            },
            verification: Some(proto::Verification {
                method: proto::VerificationMethod::Signature.into(),
                header_name: event.verification.header_name.clone(),
                signature: HEXLOWER.encode(&event.verification.signature),
                secret_version: event.verification.secret_version,
            }),
            raw_body: event.body.clone(),
            decode_status: decode_status.into(),
            event_data: None,
            payload: None,
        };
        // Protobuf takes fields in any order, so the decoded forms simply follow the fixed fields.
        let length = fixed.encoded_len() + decoded.len();
        let mut buffer = Vec::with_capacity(length + 8);
        encode_key(EVENT_FIELD, WireType::LengthDelimited, &mut buffer);
        encode_varint(length as u64, &mut buffer);
        fixed.encode_raw(&mut buffer);
        buffer.extend_from_slice(&decoded);
        buffer.into()
    }
}

/// The arm of `Event.payload` that belongs to a type.
pub fn payload_field(event_type: &str) -> String {
    event_type.replace('.', "_")
}

fn enum_value(event_type: &str) -> String {
    format!("EVENT_TYPE_{}", payload_field(event_type).to_uppercase())
}

/// A time as the interface has it.
pub fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    // Before 1970 jiff counts back from the second, protobuf forward from the one before.
    let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
    if nanos < 0 {
        (seconds, nanos) = (seconds - 1, nanos + 1_000_000_000);
    }
    prost_types::Timestamp { seconds, nanos }
}

fn fields(message: &MessageDescriptor) -> Result<Vec<Field>, BadDescriptors> {
    message.fields().map(|field| field_of(&field)).collect()
}

fn field_of(field: &FieldDescriptor) -> Result<Field, BadDescriptors> {
    let kind = match field.kind() {
        Kind::String => FieldKind::Text,
        Kind::Double => FieldKind::Number,
        Kind::Message(message) if message.full_name() == "google.protobuf.Struct" => FieldKind::Struct,
        Kind::Message(message) if field.is_list() => FieldKind::Messages(fields(&message)?),
        _ => return Err(BadDescriptors(field.full_name().to_owned())),
    };
    Ok(Field {
        name: field.name().to_owned(),
        number: field.number(),
        kind,
    })
}

/// Writes the typed fields that `data` has. Whether all of them had the expected JSON type.
fn put_fields(fields: &[Field], data: &Map<String, Value>, buffer: &mut Vec<u8>) -> bool {
    let mut complete = true;
    for field in fields {
        let value = data.get(&field.name).unwrap_or(&Value::Null);
        complete &= match (&field.kind, value) {
            (_, Value::Null) => true,
            (FieldKind::Text, Value::String(text)) => {
                encoding::string::encode(field.number, text, buffer);
                true
            }
            (FieldKind::Text, Value::Number(number)) if !number.is_f64() => {
                encoding::string::encode(field.number, &number.to_string(), buffer);
                true
            }
            (FieldKind::Number, Value::Number(number)) => {
                encoding::double::encode(field.number, &number.as_f64().unwrap_or_default(), buffer);
                true
            }
            (FieldKind::Struct, Value::Object(object)) => {
                nested(field.number, buffer, |buffer| put_struct(object, buffer));
                true
            }
            (FieldKind::Messages(fields), Value::Array(items)) => {
                let mut all = true;
                for item in items {
                    match item {
                        Value::Object(item) => {
                            nested(field.number, buffer, |buffer| {
                                all &= put_fields(fields, item, buffer)
                            });
                        }
                        _ => all = false,
                    }
                }
                all
            }
            _ => false,
        };
    }
    complete
}

/// The fields of a `google.protobuf.Struct`.
fn put_struct(object: &Map<String, Value>, buffer: &mut Vec<u8>) {
    for (name, value) in object {
        nested(1, buffer, |buffer| {
            encoding::string::encode(1, name, buffer);
            nested(2, buffer, |buffer| put_value(value, buffer));
        });
    }
}

/// The one field of a `google.protobuf.Value`, written also where it is zero: its presence is the JSON type.
fn put_value(value: &Value, buffer: &mut Vec<u8>) {
    match value {
        Value::Null => encoding::int32::encode(1, &0, buffer),
        Value::Number(number) => encoding::double::encode(2, &number.as_f64().unwrap_or_default(), buffer),
        Value::String(text) => encoding::string::encode(3, text, buffer),
        Value::Bool(truth) => encoding::bool::encode(4, truth, buffer),
        Value::Object(object) => nested(5, buffer, |buffer| put_struct(object, buffer)),
        Value::Array(items) => nested(6, buffer, |buffer| {
            items
                .iter()
                .for_each(|item| nested(1, buffer, |buffer| put_value(item, buffer)));
        }),
    }
}

/// A length-delimited field. The length goes in front once it is known.
fn nested(field: u32, buffer: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    encode_key(field, WireType::LengthDelimited, buffer);
    let start = buffer.len();
    write(buffer);
    let end = buffer.len();
    encode_varint((end - start) as u64, buffer);
    let length_bytes = buffer.len() - end;
    if let Some(written) = buffer.get_mut(start..) {
        written.rotate_right(length_bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        event::{EventId, Keys, NewEvent, Sequence, Verification},
        samples,
    };

    fn encode(body: &str) -> proto::Event {
        let envelope = decode::Envelope::of(body.as_bytes());
        let event = NewEvent {
            id: EventId::from_bytes(&[1; 16]).unwrap(),
            keys: Keys {
                event_type: envelope.event_type,
                entity_id: envelope.entity_id,
                callback_id: envelope.callback_id,
                endpoint: "dev".parse().unwrap(),
            },
            provider_event_id: envelope.provider_event_id,
            created_at: envelope.created_at,
            received_at: Timestamp::UNIX_EPOCH,
            origin: Origin::Webhook,
            verification: Verification {
                header_name: "signature".into(),
                signature: [2; 32],
                secret_version: 1,
            },
            body: body.to_owned().into(),
        };
        let encoder = EventEncoder::new(LogId::new(1)).unwrap();
        let bytes = encoder.encode(&StoredEvent {
            sequence: Sequence::new(5),
            event,
        });
        proto::GetEventResponse::decode(bytes).unwrap().event.unwrap()
    }

    fn to_json(value: &prost_types::Value) -> Value {
        use prost_types::value::Kind::*;
        match value.kind.as_ref().unwrap() {
            NullValue(_) => Value::Null,
            NumberValue(number) => serde_json::json!(number),
            StringValue(text) => Value::String(text.clone()),
            BoolValue(truth) => Value::Bool(*truth),
            StructValue(object) => struct_to_json(object),
            ListValue(list) => list.values.iter().map(to_json).collect(),
        }
    }

    fn struct_to_json(object: &prost_types::Struct) -> Value {
        object
            .fields
            .iter()
            .map(|(name, value)| (name.clone(), to_json(value)))
            .collect()
    }

    #[test]
    fn every_known_type_has_its_value_its_arm_and_a_complete_sample() {
        for (at, known) in EVENT_TYPES.iter().enumerate() {
            let event = encode(&samples::body(known.name, 1));
            assert_eq!(event.type_name, known.name);
            assert_eq!(event.r#type, at as i32 + 1, "{}", known.name);
            assert_eq!(
                event.decode_status(),
                proto::DecodeStatus::Complete,
                "{}",
                known.name
            );
            assert!(event.payload.is_some(), "{}", known.name);
            assert!(!event.entity_id.is_empty(), "{}", known.name);
        }
    }

    #[test]
    fn documented_fields_are_typed_and_all_fields_are_in_the_struct() {
        let event = encode(
            r#"{"event_type":"video_translate.fail","event_data":
               {"video_translate_id":9007199254740993,"message":"no","output_language":null,"new":[1,{"a":false}]}}"#,
        );
        let Some(proto::event::Payload::VideoTranslateFail(payload)) = event.payload else {
            panic!()
        };
        assert_eq!(
            (payload.video_translate_id.as_str(), payload.message.as_str()),
            ("9007199254740993", "no")
        );
        let data = struct_to_json(&event.event_data.unwrap());
        assert_eq!(data["new"], serde_json::json!([1.0, {"a": false}]));
        assert_eq!(data["output_language"], Value::Null);
    }

    #[test]
    fn says_what_it_could_not_read() {
        use proto::DecodeStatus::*;
        let deep = |levels| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        let with_data = |data: &str| format!(r#"{{"event_type":"avatar_video.fail","event_data":{data}}}"#);
        let cases = [
            ("{".to_owned(), NotJson),
            ("[]".to_owned(), NoEventType),
            (with_data("null"), NoEventData),
            (with_data(r#""text""#), NoEventData),
            (with_data(r#"{"video_id":true}"#), Partial),
            (with_data(&format!(r#"{{"deep":{}}}"#, deep(23))), Complete),
            (with_data(&format!(r#"{{"deep":{}}}"#, deep(24))), TooDeep),
            (with_data(&format!(r#"{{"deep":{}}}"#, deep(10_000))), TooDeep),
            (
                with_data(&format!(r#"{{"wide":[{}1]}}"#, "1,".repeat(300_000))),
                TooLarge,
            ),
            (
                r#"{"event_type":"new.type","event_data":{}}"#.to_owned(),
                UnknownType,
            ),
        ];
        for (body, expected) in cases {
            let event = encode(&body);
            assert_eq!(event.decode_status(), expected, "{:.80}", body);
            assert_eq!(event.raw_body, body.as_bytes());
        }
    }

    #[test]
    fn what_is_too_deep_for_a_struct_keeps_its_typed_payload() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let body =
            format!(r#"{{"event_type":"avatar_video.fail","event_data":{{"msg":"no","deep":{deep}}}}}"#);
        let Some(proto::event::Payload::AvatarVideoFail(payload)) = encode(&body).payload else {
            panic!()
        };
        assert_eq!(payload.msg, "no");
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<f64>().prop_filter_map("finite", |number| serde_json::Number::from_f64(number)
                .map(Value::Number)),
            ".{0,200}".prop_map(Value::String),
        ];
        leaf.prop_recursive(6, 60, 8, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
                proptest::collection::vec((".{0,8}", inner), 0..8)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_struct_says_what_the_json_says(data in proptest::collection::vec((".{0,8}", json()), 0..8)) {
            let data: Value = Value::Object(data.into_iter().collect());
            let body = serde_json::json!({"event_type": "new.type", "event_data": data}).to_string();
            prop_assert_eq!(struct_to_json(&encode(&body).event_data.unwrap()), data);
        }
    }
}
