//! The decoding of `event_data`: the first byte of the input selects the event type, the rest is the JSON. Owns the claims
//! that what is said to be decoded is all there, with the values that the JSON has, and that nothing is called undecodable
//! without reason.

#![no_main]

use bytes::Bytes;
use hookstream::{
    event::NewEvent,
    event_type::EVENT_TYPES,
    grpc::proto::DecodeStatus::{Complete, Partial, TooDeep, TooLarge, UnknownType},
    limits,
};
use hookstream_fuzz::{NOW, endpoint, published};
use libfuzzer_sys::fuzz_target;
use prost_reflect::{DynamicMessage, FieldDescriptor, ReflectMessage, Value as Typed};
use prost_types::{Struct, value::Kind};
use serde_json::{Map, Value};

fuzz_target!(|input: &[u8]| {
    let Some((&selector, data)) = input.split_first() else {
        return;
    };
    let Ok(data) = str::from_utf8(data) else { return };
    let known = EVENT_TYPES.get(usize::from(selector) % (EVENT_TYPES.len() + 1));
    let event_type = known.map_or("a_type.made_later", |known| known.name);
    let body = format!(r#"{{"event_type":"{event_type}","event_data":{data}}}"#);
    let event = NewEvent::from_history(endpoint(), Bytes::from(body.clone()), NOW);
    let (event, dynamic) = published(event);

    let status = event.decode_status();
    let payload = dynamic
        .fields()
        .find(|(field, _)| field.containing_oneof().is_some())
        .map(|(field, payload)| (field, payload.as_message().expect("it is a message")));
    let is_known = EVENT_TYPES.iter().any(|known| known.name == event.type_name);
    let has_payload = matches!(status, Complete | Partial) || status == TooDeep && is_known;
    assert_eq!(payload.is_some(), has_payload, "{status:?}");
    if let Some((field, _)) = &payload {
        assert_eq!(field.name(), event.type_name.replace('.', "_"));
    }

    // `serde_json::Value` gives an object with this field another meaning.
    if body.contains("serde_json::private") {
        return;
    }
    let Ok(Value::Object(body_read)) = serde_json::from_str(&body) else {
        return;
    };
    let Some(Value::Object(data)) = body_read.get("event_data") else {
        return;
    };
    let is_decoded = matches!(status, Complete | Partial | UnknownType);
    if nesting(&body) <= limits::EVENT_DATA_DEPTH_MAX + 1 && !event.type_name.is_empty() {
        assert!(is_decoded || status == TooLarge, "{status:?}");
    }
    if is_decoded {
        same_struct(event.event_data.as_ref().expect("it is decoded"), data);
    }
    if let Some((_, payload)) = payload {
        let complete = as_documented(payload, data);
        assert!(
            status == TooDeep || complete == (status == Complete),
            "{status:?}"
        );
    }
});

/// The deepest nesting of a JSON text.
fn nesting(json: &str) -> usize {
    let (mut open, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => open += 1,
            b']' | b'}' if !in_string => open -= 1,
            _ => {}
        }
        deepest = deepest.max(open);
    }
    deepest
}

fn same_struct(object: &Struct, json: &Map<String, Value>) {
    assert_eq!(object.fields.len(), json.len());
    for (name, value) in &object.fields {
        same(value, &json[name]);
    }
}

fn same(value: &prost_types::Value, json: &Value) {
    match (value.kind.as_ref().expect("it has a kind"), json) {
        (Kind::NullValue(_), Value::Null) => {}
        (Kind::NumberValue(number), Value::Number(expected)) => assert_eq!(Some(*number), expected.as_f64()),
        (Kind::StringValue(text), Value::String(expected)) => assert_eq!(text, expected),
        (Kind::BoolValue(truth), Value::Bool(expected)) => assert_eq!(truth, expected),
        (Kind::StructValue(object), Value::Object(expected)) => same_struct(object, expected),
        (Kind::ListValue(list), Value::Array(expected)) => {
            assert_eq!(list.values.len(), expected.len());
            list.values
                .iter()
                .zip(expected)
                .for_each(|(value, json)| same(value, json));
        }
        (kind, _) => panic!("{kind:?} for {json:?}"),
    }
}

/// Whether every field that the message has a counterpart for has the expected JSON type. Claims that those have the JSON's
/// values and the others none.
fn as_documented(message: &DynamicMessage, json: &Map<String, Value>) -> bool {
    message.descriptor().fields().fold(true, |complete, field| {
        complete & is_typed(message, &field, json.get(field.name()).unwrap_or(&Value::Null))
    })
}

fn is_typed(message: &DynamicMessage, field: &FieldDescriptor, json: &Value) -> bool {
    match (&*message.get_field(field), json) {
        (Typed::String(text), Value::String(expected)) => assert_eq!(text, expected),
        (Typed::String(text), Value::Number(number)) if message.has_field(field) => match number.as_i128() {
            Some(integer) => assert_eq!(*text, integer.to_string()),
            // Integers beyond 64 bits are doubles to `serde_json::Value`.
            None => assert_eq!(text.parse().ok(), number.as_f64()),
        },
        (Typed::F64(number), Value::Number(expected)) => assert_eq!(Some(*number), expected.as_f64()),
        (Typed::Message(object), Value::Object(expected)) if message.has_field(field) => {
            let object = object.transcode_to().expect("a message by itself is a Struct");
            same_struct(&object, expected);
        }
        (Typed::List(messages), Value::Array(expected)) => {
            let objects: Vec<_> = expected.iter().filter_map(Value::as_object).collect();
            assert_eq!(messages.len(), objects.len());
            return messages.iter().zip(&objects).fold(
                objects.len() == expected.len(),
                |complete, (message, object)| {
                    complete & as_documented(message.as_message().expect("lists are of messages"), object)
                },
            );
        }
        (_, json) => {
            assert!(!message.has_field(field), "{} for {json:?}", field.name());
            return json.is_null();
        }
    }
    true
}
