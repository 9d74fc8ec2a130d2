//! From a stored event to the bytes of the interface's `Event`. Owns the typed view: it is driven by the descriptors of
//! `payload.proto`, so that a type or field is added there and nowhere else.

use std::{borrow::Cow, collections::HashMap, fmt};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use prost::encoding::{self, WireType, encode_key, encode_varint, encoded_len_varint};
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use serde::{
    Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::proto;
use crate::{
    cursor::Cursor,
    decode::{self, Fields, NoEventData},
    event::{Keys, LogId, StoredEvent, Verification},
    event_type::EVENT_TYPES,
    hub::Encode,
    limits,
};

/// `event` in every response that has one.
const EVENT_FIELD: u32 = 1;

/// Encodes the events of one log.
#[derive(Debug)]
pub struct EventEncoder {
    log_id: LogId,
    arms: HashMap<&'static str, Arm>,
}

/// What the interface knows of one event type.
#[derive(Debug)]
struct Arm {
    event_type: u64,
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
            let event_type = event_type.ok_or_else(|| bad(known.name))? as u64;
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
}

impl Encode for EventEncoder {
    /// A response with nothing but this event in it. Protobuf takes fields in any order, so they are written as they become
    /// known, and into one buffer.
    fn encode(&self, StoredEvent { sequence, event }: &StoredEvent) -> Bytes {
        let mut buffer = Vec::with_capacity(ROOM_BYTES + FIXED_BYTES + 3 * event.body.len());
        buffer.resize(ROOM_BYTES, 0);
        let arm = self.arms.get(&*event.keys.event_type);
        let decode_status = decoded(arm, &event.body, &mut buffer);
        let cursor = Cursor {
            log_id: self.log_id,
            sequence: *sequence,
        };
        put_bytes(field::ID, &event.id.to_text(), &mut buffer);
        put_text(field::CURSOR, &cursor.to_text(), &mut buffer);
        put_number(field::SEQUENCE, sequence.get(), &mut buffer);
        put_number(field::TYPE, arm.map_or(0, |arm| arm.event_type), &mut buffer);
        put_text(field::TYPE_NAME, &event.keys.event_type, &mut buffer);
        put_text(field::ENTITY_ID, &event.keys.entity_id, &mut buffer);
        put_text(field::CALLBACK_ID, &event.keys.callback_id, &mut buffer);
        put_text(field::ENDPOINT, event.keys.endpoint.as_str(), &mut buffer);
        put_text(field::PROVIDER_EVENT_ID, &event.provider_event_id, &mut buffer);
        if let Some(created_at) = event.created_at {
            put_time(field::CREATED_AT, created_at, &mut buffer);
        }
        put_time(field::RECEIVED_AT, event.received_at, &mut buffer);
        put_verification(&event.verification, &mut buffer);
        put_bytes(field::RAW_BODY, &event.body, &mut buffer);
        put_correlation(&event.keys, &mut buffer);
        put_number(field::DECODE_STATUS, decode_status as u64, &mut buffer);
        with_length_in_front(buffer)
    }
}

/// The decoded forms of a body, appended to `buffer` as fields of `Event`.
fn decoded(arm: Option<&Arm>, body: &[u8], buffer: &mut Vec<u8>) -> proto::DecodeStatus {
    let data = match decode::event_data(body) {
        Ok(data) => data,
        Err(NoEventData::NotJson) => return proto::DecodeStatus::NotJson,
        Err(NoEventData::NoEventType) => return proto::DecodeStatus::NoEventType,
        Err(NoEventData::NotAnObject) => return proto::DecodeStatus::NoEventData,
    };
    let start = buffer.len();
    let whole = nested(field::EVENT_DATA, buffer, |buffer| {
        put_struct(&data, limits::EVENT_DATA_DEPTH_MAX, buffer)
    });
    let too_deep = whole.is_err();
    let complete = arm.is_some_and(|arm| {
        let mut complete = true;
        let _ = nested(arm.field, buffer, |buffer| {
            complete = put_fields(&arm.fields, &data, buffer);
            Ok::<(), Unfit>(())
        });
        complete
    });
    if buffer.len() - start > limits::DECODED_BYTES_MAX {
        buffer.truncate(start);
        return proto::DecodeStatus::TooLarge;
    }
    match (too_deep, arm, complete) {
        (true, ..) => proto::DecodeStatus::TooDeep,
        (false, None, _) => proto::DecodeStatus::UnknownType,
        (false, Some(_), true) => proto::DecodeStatus::Complete,
        (false, Some(_), false) => proto::DecodeStatus::Partial,
    }
}

/// Bytes left free in front for the key and the length of the whole.
const ROOM_BYTES: usize = 8;
/// About what the fields take that do not grow with the body.
const FIXED_BYTES: usize = 512;

/// The fields of `Event`.
mod field {
    pub(super) const ID: u32 = 1;
    pub(super) const CURSOR: u32 = 2;
    pub(super) const SEQUENCE: u32 = 3;
    pub(super) const TYPE: u32 = 4;
    pub(super) const TYPE_NAME: u32 = 5;
    pub(super) const ENTITY_ID: u32 = 6;
    pub(super) const CALLBACK_ID: u32 = 7;
    pub(super) const ENDPOINT: u32 = 8;
    pub(super) const PROVIDER_EVENT_ID: u32 = 9;
    pub(super) const CREATED_AT: u32 = 10;
    pub(super) const RECEIVED_AT: u32 = 11;
    pub(super) const ORIGIN: u32 = 12;
    pub(super) const VERIFICATION: u32 = 13;
    pub(super) const EVENT_DATA: u32 = 14;
    pub(super) const RAW_BODY: u32 = 15;
    pub(super) const DECODE_STATUS: u32 = 16;
    pub(super) const CORRELATION_ID: u32 = 17;
}

/// The fields of `Verification`.
mod verification_field {
    pub(super) const METHOD: u32 = 1;
    pub(super) const HEADER_NAME: u32 = 2;
    pub(super) const SIGNATURE: u32 = 3;
    pub(super) const SECRET_VERSION: u32 = 4;
}

/// Makes what follows the room in front the field `event`.
fn with_length_in_front(mut buffer: Vec<u8>) -> Bytes {
    let mut front = Vec::with_capacity(ROOM_BYTES);
    encode_key(EVENT_FIELD, WireType::LengthDelimited, &mut front);
    put_varint((buffer.len() - ROOM_BYTES) as u64, &mut front);
    let start = ROOM_BYTES - front.len();
    if let Some(room) = buffer.get_mut(start..ROOM_BYTES) {
        room.copy_from_slice(&front);
    }
    Bytes::from(buffer).slice(start..)
}

/// `origin` and `verification`: two views of one fact.
fn put_verification(verification: &Verification, buffer: &mut Vec<u8>) {
    use proto::{Origin, VerificationMethod as Method};
    let (origin, method) = match verification {
        Verification::Signature { .. } => (Origin::Webhook, Method::Signature),
        Verification::CallbackToken => (Origin::Callback, Method::CallbackToken),
        Verification::History => (Origin::History, Method::History),
    };
    put_number(field::ORIGIN, origin as u64, buffer);
    let _ = nested(field::VERIFICATION, buffer, |buffer| {
        put_number(verification_field::METHOD, method as u64, buffer);
        if let Verification::Signature {
            header_name,
            signature,
            secret_version,
        } = verification
        {
            put_text(verification_field::HEADER_NAME, header_name, buffer);
            put_text(verification_field::SIGNATURE, &HEXLOWER.encode(signature), buffer);
            put_number(
                verification_field::SECRET_VERSION,
                (*secret_version).into(),
                buffer,
            );
        }
        Ok::<(), Unfit>(())
    });
}

/// `correlation_id`: what tells of one outcome has the same type and the same resource.
fn put_correlation(keys: &Keys, buffer: &mut Vec<u8>) {
    if !keys.entity_id.is_empty() {
        encode_key(field::CORRELATION_ID, WireType::LengthDelimited, buffer);
        put_varint((keys.event_type.len() + 1 + keys.entity_id.len()) as u64, buffer);
        buffer.extend_from_slice(keys.event_type.as_bytes());
        buffer.push(b'/');
        buffer.extend_from_slice(keys.entity_id.as_bytes());
    }
}

fn put_time(field: u32, time: Timestamp, buffer: &mut Vec<u8>) {
    encoding::message::encode(field, &timestamp(time), buffer);
}

fn put_text(field: u32, text: &str, buffer: &mut Vec<u8>) {
    if !text.is_empty() {
        put_bytes(field, text.as_bytes(), buffer);
    }
}

fn put_number(field: u32, number: u64, buffer: &mut Vec<u8>) {
    if number != 0 {
        encode_key(field, WireType::Varint, buffer);
        put_varint(number, buffer);
    }
}

fn put_bytes(field: u32, bytes: &[u8], buffer: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, buffer);
    put_varint(bytes.len() as u64, buffer);
    buffer.extend_from_slice(bytes);
}

/// Nearly every number here is below 128.
fn put_varint(number: u64, buffer: &mut Vec<u8>) {
    match u8::try_from(number) {
        Ok(byte) if byte < 0x80 => buffer.push(byte),
        _ => encode_varint(number, buffer),
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

/// Writes the typed fields that `data` has, each once: protobuf would put repeated ones together. Whether all of them had the
/// expected JSON type.
fn put_fields(fields: &[Field], data: &Fields<'_>, buffer: &mut Vec<u8>) -> bool {
    fields.iter().fold(true, |complete, field| {
        let fits = data
            .get(&field.name)
            .is_none_or(|value| put_field(field, value, buffer));
        complete && fits
    })
}

/// Writes one typed field. Whether its JSON type was the expected one.
fn put_field(field: &Field, value: &RawValue, buffer: &mut Vec<u8>) -> bool {
    if value.get() == "null" {
        return true;
    }
    match &field.kind {
        FieldKind::Text => {
            let text = decode::text(value).or_else(|| decode::integer(value).map(Cow::Borrowed));
            text.is_some_and(|text| {
                put_bytes(field.number, text.as_bytes(), buffer);
                true
            })
        }
        FieldKind::Number => serde_json::from_str(value.get()).is_ok_and(|number| {
            encoding::double::encode(field.number, &number, buffer);
            true
        }),
        FieldKind::Struct => Fields::of(value).is_some_and(|object| {
            let depth_max = limits::EVENT_DATA_DEPTH_MAX - 1;
            nested(field.number, buffer, |buffer| {
                put_struct(&object, depth_max, buffer)
            })
            .is_ok()
        }),
        FieldKind::Messages(fields) => {
            let items: Option<Vec<&RawValue>> = serde_json::from_str(value.get()).ok();
            items.is_some_and(|items| {
                items.into_iter().fold(true, |complete, item| {
                    let Some(item) = Fields::of(item) else {
                        return false;
                    };
                    let mut all = true;
                    let _ = nested(field.number, buffer, |buffer| {
                        all = put_fields(fields, &item, buffer);
                        Ok::<(), Unfit>(())
                    });
                    complete && all
                })
            })
        }
    }
}

/// A value that a Struct cannot hold: nested too deep, or a number beyond every double.
#[derive(Debug)]
struct Unfit;

/// The fields of a `google.protobuf.Struct`, with `levels` of nesting at the most.
fn put_struct(object: &Fields<'_>, levels: usize, buffer: &mut Vec<u8>) -> Result<(), Unfit> {
    object.iter().try_for_each(|(name, value)| {
        if let Some(text) = decode::plain_text(value) {
            put_text_entry(name, text, buffer);
            return Ok(());
        }
        if value.get() == "null" {
            put_null_entry(name, buffer);
            return Ok(());
        }
        let mut value = serde_json::Deserializer::from_str(value.get());
        put_entry(name, buffer, |buffer| {
            ValueWriter {
                buffer,
                levels: levels - 1,
            }
            .deserialize(&mut value)
        })
        .map_err(|_| Unfit)
    })
}

/// One entry of the map that a Struct is.
fn put_entry<E>(
    name: &str,
    buffer: &mut Vec<u8>,
    value: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    nested(1, buffer, |buffer| {
        put_bytes(1, name.as_bytes(), buffer);
        nested(2, buffer, value)
    })
}

/// One entry with a text, which is what most of them are: all its lengths are known beforehand.
fn put_text_entry(name: &str, text: &str, buffer: &mut Vec<u8>) {
    let value_length = field_length(text.len());
    encode_key(1, WireType::LengthDelimited, buffer);
    put_varint(
        (field_length(name.len()) + field_length(value_length)) as u64,
        buffer,
    );
    put_bytes(1, name.as_bytes(), buffer);
    encode_key(2, WireType::LengthDelimited, buffer);
    put_varint(value_length as u64, buffer);
    put_bytes(3, text.as_bytes(), buffer);
}

/// What a field with a small number and content of this length takes.
fn field_length(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

/// One entry with a null, of which HeyGen sends many.
fn put_null_entry(name: &str, buffer: &mut Vec<u8>) {
    const NULL: [u8; 4] = [0x12, 2, 0x08, 0];
    encode_key(1, WireType::LengthDelimited, buffer);
    put_varint((field_length(name.len()) + NULL.len()) as u64, buffer);
    put_bytes(1, name.as_bytes(), buffer);
    buffer.extend_from_slice(&NULL);
}

/// Writes the one field of a `google.protobuf.Value` while the JSON is read, so that no tree is built in between. The
/// field is written also where it is zero: its presence is the JSON type.
struct ValueWriter<'a> {
    buffer: &'a mut Vec<u8>,
    levels: usize,
}

impl ValueWriter<'_> {
    fn levels_inside<E: de::Error>(&self) -> Result<usize, E> {
        self.levels
            .checked_sub(1)
            .ok_or_else(|| E::custom("nested too deep"))
    }
}

impl<'de> DeserializeSeed<'de> for ValueWriter<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueWriter<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        encoding::int32::encode(1, &0, self.buffer);
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        encoding::double::encode(2, &number, self.buffer);
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<(), E> {
        self.visit_f64(number as f64)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<(), E> {
        self.visit_f64(number as f64)
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        put_bytes(3, text.as_bytes(), self.buffer);
        Ok(())
    }

    fn visit_bool<E>(self, truth: bool) -> Result<(), E> {
        encoding::bool::encode(4, &truth, self.buffer);
        Ok(())
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        let levels = self.levels_inside()?;
        nested(5, self.buffer, |buffer| {
            while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                put_entry(&name, buffer, |buffer| {
                    map.next_value_seed(ValueWriter { buffer, levels })
                })?;
            }
            Ok(())
        })
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<(), S::Error> {
        let levels = self.levels_inside()?;
        nested(6, self.buffer, |buffer| {
            loop {
                let mut more = false;
                let start = buffer.len();
                nested(1, buffer, |buffer| {
                    more = items.next_element_seed(ValueWriter { buffer, levels })?.is_some();
                    Ok(())
                })?;
                if !more {
                    buffer.truncate(start);
                    return Ok(());
                }
            }
        })
    }
}

/// A length-delimited field. The length goes in front once it is known. Nothing is written if `write` fails.
fn nested<E>(
    field: u32,
    buffer: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let before = buffer.len();
    encode_key(field, WireType::LengthDelimited, buffer);
    let start = buffer.len();
    let written = write(buffer);
    if written.is_err() {
        buffer.truncate(before);
        return written;
    }
    let end = buffer.len();
    put_varint((end - start) as u64, buffer);
    let length_bytes = buffer.len() - end;
    if let Some(written) = buffer.get_mut(start..) {
        written.rotate_right(length_bytes);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;
    use serde_json::Value;

    use super::*;
    use crate::{
        event::{NewEvent, Sequence},
        samples,
    };

    fn encode(body: &str) -> proto::Event {
        let verification = Verification::Signature {
            header_name: "signature".into(),
            signature: [2; 32],
            secret_version: 1,
        };
        let body = Bytes::from(body.to_owned());
        let event = NewEvent::new("dev".parse().unwrap(), verification, body, Timestamp::UNIX_EPOCH);
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
    fn of_repeated_names_the_last_counts_in_the_typed_payload_too() {
        use proto::event::Payload::*;
        let body =
            |event_type: &str, data: &str| format!(r#"{{"event_type":"{event_type}","event_data":{data}}}"#);
        let event = encode(&body("avatar_video.fail", r#"{"msg":"no","msg":null}"#));
        let Some(AvatarVideoFail(payload)) = event.payload else {
            panic!()
        };
        assert_eq!(payload.msg, "");
        let event = encode(&body(
            "ai_clipping.success",
            r#"{"clips":[{"title":"a"}],"clips":[{"title":"b"}]}"#,
        ));
        let Some(AiClippingSuccess(payload)) = event.payload else {
            panic!()
        };
        assert_eq!(payload.clips.len(), 1);
        assert_eq!(payload.clips[0].title, "b");
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
