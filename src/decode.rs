//! What HeyGen's JSON says. Owns the tolerant reading of a body; refuses to reject one: a signed body is kept whatever
//! it holds, so every field but the type is optional and every JSON type is taken.

use std::{borrow::Cow, fmt};

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{clock::to_microsecond, event_type, limits};

/// What the outermost object of a body says, as far as it says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// `event_type`; empty if the body is no JSON object with one (of at most 256 bytes).
    pub event_type: String,
    /// The id of the resource, from the field that belongs to the type; empty if there is none.
    pub entity_id: String,
    /// `callback_id`, from `event_data` or from the top level; empty if there is none.
    pub callback_id: String,
    /// `event_id`; empty if there is none.
    pub provider_event_id: String,
    /// `created_at`, if it is a time that protobuf can say.
    pub created_at: Option<Timestamp>,
}

/// The beginning of the year 1: clients fail on a `google.protobuf.Timestamp` before it. Its end, that of the year 9999, is
/// beyond what `Timestamp` can say.
const PROTOBUF_TIME_MIN: Timestamp = Timestamp::constant(-62_135_596_800, 0);

impl Envelope {
    /// The envelope of a body. Nesting costs nothing here: values are skipped, not built.
    pub fn of(body: &[u8]) -> Self {
        let Ok(fields) = Fields::of_body(body) else {
            return Self::default();
        };
        let event_type = fields.event_type();
        if event_type.is_empty() {
            return Self {
                provider_event_id: fields.identifier("event_id"),
                ..Self::default()
            };
        }
        let data = fields.object("event_data");
        let entity_id = event_type::entity_fields(&event_type)
            .iter()
            .map(|field| data.identifier(field))
            .find(|id| !id.is_empty())
            .unwrap_or_default();
        let mut callback_id = data.identifier("callback_id");
        if callback_id.is_empty() {
            callback_id = fields.identifier("callback_id");
        }
        Self {
            entity_id,
            callback_id,
            provider_event_id: fields.identifier("event_id"),
            created_at: fields
                .text("created_at")
                .and_then(|time| time.parse().ok())
                .filter(|time| *time >= PROTOBUF_TIME_MIN)
                .map(to_microsecond),
            event_type,
        }
    }
}

/// Why a body has no `event_data` to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEventData {
    /// The body is not JSON.
    NotJson,
    /// The body is JSON, but no object with a string `event_type`.
    NoEventType,
    /// `event_data` is absent, null or not an object.
    NotAnObject,
}

/// The fields of a body's `event_data`.
pub fn event_data(body: &[u8]) -> Result<Fields<'_>, NoEventData> {
    let text = str::from_utf8(body).map_err(|_| NoEventData::NotJson)?;
    if let Ok(Body(data)) = serde_json::from_str(text) {
        return Ok(data);
    }
    let body = Fields::of_body(body)?;
    if body.event_type().is_empty() {
        return Err(NoEventData::NoEventType);
    }
    body.get("event_data")
        .and_then(Fields::of)
        .ok_or(NoEventData::NotAnObject)
}

/// The fields of a JSON object in their order, values unread, so that nesting costs nothing. Of repeated names the last
/// counts.
#[derive(Debug, Default)]
pub struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// The fields of a value, if it is an object.
    pub fn of(value: &'a RawValue) -> Option<Self> {
        serde_json::from_str(value.get()).ok()
    }

    /// All fields.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), *value))
    }

    fn of_body(body: &'a [u8]) -> Result<Self, NoEventData> {
        serde_json::from_slice(body).map_err(|_| match serde_json::from_slice::<&RawValue>(body) {
            Ok(_) => NoEventData::NoEventType,
            Err(_) => NoEventData::NotJson,
        })
    }

    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0
            .iter()
            .rev()
            .find(|(found, _)| found == name)
            .map(|(_, value)| *value)
    }

    fn object(&self, name: &str) -> Fields<'a> {
        self.get(name).and_then(Fields::of).unwrap_or_default()
    }

    /// The text of a field, if it is a string.
    pub fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        text(self.get(name)?)
    }

    /// The type; empty if there is none, or none of a length that a type may have.
    fn event_type(&self) -> String {
        let name = self
            .text("event_type")
            .filter(|name| name.len() <= limits::IDENTIFIER_BYTES_MAX);
        name.unwrap_or_default().into_owned()
    }

    /// A string, or an integer in decimal, short enough to be an identifier; else empty.
    pub fn identifier(&self, name: &str) -> String {
        let Some(value) = self.get(name) else {
            return String::new();
        };
        let text = self
            .text(name)
            .unwrap_or_else(|| Cow::Borrowed(integer(value).unwrap_or_default()));
        if text.len() > limits::IDENTIFIER_BYTES_MAX {
            String::new()
        } else {
            text.into_owned()
        }
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// The `event_data` of an orderly body, found in one pass: an object with a type and, in it, an object. What is not
/// orderly is an error here and looked at more closely by others.
struct Body<'a>(Fields<'a>);

impl<'de> Deserialize<'de> for Body<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(BodyVisitor)
    }
}

struct BodyVisitor;

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = Body<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a body with event_type and event_data")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Body<'de>, M::Error> {
        let (mut event_type, mut data) = (Text::default(), None);
        while let Some(Text(name)) = map.next_key()? {
            match name.as_ref() {
                "event_type" => event_type = map.next_value()?,
                "event_data" => data = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let typed = (1..=limits::IDENTIFIER_BYTES_MAX).contains(&event_type.0.len());
        data.filter(|_| typed)
            .map(Body)
            .ok_or_else(|| M::Error::custom("not orderly"))
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields<'de>, M::Error> {
        let mut fields = Vec::with_capacity(8);
        while let Some((Text(name), value)) = map.next_entry()? {
            fields.push((name, value));
        }
        Ok(Fields(fields))
    }
}

/// The text of a string.
pub fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    if let Some(text) = plain_text(value) {
        return Some(Cow::Borrowed(text));
    }
    serde_json::from_str(value.get()).ok().map(|Text(text)| text)
}

/// The text of a string without escapes, which is what most are: a value has been checked already, so that this one is
/// what stands between its quotes.
pub fn plain_text(value: &RawValue) -> Option<&str> {
    let text = value.get().strip_prefix('"')?.strip_suffix('"')?;
    (!text.as_bytes().contains(&b'\\')).then_some(text)
}

/// The digits of an integer.
pub fn integer(value: &RawValue) -> Option<&str> {
    let digits = value.get();
    let all_digits = digits
        .strip_prefix('-')
        .unwrap_or(digits)
        .bytes()
        .all(|byte| byte.is_ascii_digit());
    all_digits.then_some(digits)
}

#[derive(Default, Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn envelope(body: &str) -> Envelope {
        Envelope::of(body.as_bytes())
    }

    #[test]
    fn reads_every_documented_field() {
        let read = envelope(
            r#"{"event_id":"evt_1","event_type":"avatar_video.fail","event_data":{"video_id":"v","callback_id":"c"},
                "created_at":"2026-03-25T12:05:00Z"}"#,
        );
        assert_eq!(
            read,
            Envelope {
                event_type: "avatar_video.fail".into(),
                entity_id: "v".into(),
                callback_id: "c".into(),
                provider_event_id: "evt_1".into(),
                created_at: Some("2026-03-25T12:05:00Z".parse().unwrap()),
            }
        );
    }

    #[test]
    fn takes_the_callback_id_from_the_top_level_when_the_data_has_none() {
        let read = envelope(
            r#"{"event_type":"avatar_video.fail","callback_id":"top","event_data":{"callback_id":null}}"#,
        );
        assert_eq!(read.callback_id, "top");
    }

    #[test]
    fn keeps_an_integer_id_beyond_2_to_the_53_exact() {
        let read = envelope(r#"{"event_type":"ai_clipping.success","event_data":{"id":9007199254740993}}"#);
        assert_eq!(read.entity_id, "9007199254740993");
    }

    #[test]
    fn takes_the_id_of_an_event_without_a_type_too() {
        let read = envelope(r#"{"event_id":"evt_1","event_data":{"video_id":"v"}}"#);
        let expected = Envelope {
            provider_event_id: "evt_1".into(),
            ..Envelope::default()
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn an_identifier_has_256_bytes_and_no_more() {
        for (length, taken) in [(256, 256), (257, 0)] {
            let id = "x".repeat(length);
            let read = envelope(&format!(
                r#"{{"event_type":"avatar_video.fail","event_id":"{id}"}}"#
            ));
            assert_eq!(read.provider_event_id.len(), taken);
        }
    }

    #[test]
    fn takes_any_json_type_for_any_field() {
        for odd in ["null", "7.5", "true", "[]", "{}", "\"\""] {
            let read = envelope(&format!(
                r#"{{"event_type":"avatar_video.fail","event_data":{odd},"event_id":{odd},"created_at":{odd}}}"#
            ));
            assert_eq!(
                read,
                Envelope {
                    event_type: "avatar_video.fail".into(),
                    ..Envelope::default()
                },
                "{odd}"
            );
        }
    }

    #[test]
    fn takes_no_time_that_protobuf_cannot_say() {
        let created_at = |time: &str| {
            envelope(&format!(
                r#"{{"event_type":"avatar_video.fail","created_at":"{time}"}}"#
            ))
            .created_at
        };
        assert_eq!(created_at("-000001-07-01T00:00:00Z"), None);
        assert_eq!(created_at("0000-12-31T23:59:59.999999999Z"), None);
        assert_eq!(created_at("0001-01-01T00:00:00Z"), Some(PROTOBUF_TIME_MIN));
        assert!(created_at("9999-12-30T21:59:59Z").is_some());
    }

    #[test]
    fn tells_why_there_is_no_event_data() {
        let cases = [
            ("", NoEventData::NotJson),
            ("\u{1}", NoEventData::NotJson),
            ("[1]", NoEventData::NoEventType),
            ("{}", NoEventData::NoEventType),
            (r#"{"event_type":7}"#, NoEventData::NoEventType),
            (r#"{"event_type":"a"}"#, NoEventData::NotAnObject),
            (
                r#"{"event_type":"a","event_data":null}"#,
                NoEventData::NotAnObject,
            ),
            (
                r#"{"event_type":"a","event_data":"{}"}"#,
                NoEventData::NotAnObject,
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(event_data(body.as_bytes()).map(drop), Err(expected), "{body:?}");
        }
        assert_eq!(
            event_data(b"{\"event_type\":\"\xff\"}").map(drop),
            Err(NoEventData::NotJson)
        );
    }

    #[test]
    fn reads_the_envelope_around_ten_thousand_levels() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let body =
            format!(r#"{{"event_type":"avatar_video.fail","event_data":{{"video_id":"v","deep":{deep}}}}}"#);
        assert_eq!(envelope(&body).entity_id, "v");
        let data = event_data(body.as_bytes()).unwrap();
        assert_eq!(
            data.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            ["video_id", "deep"]
        );
    }

    proptest! {
        #[test]
        fn reads_any_bytes_without_panicking(body in proptest::collection::vec(any::<u8>(), 0..256)) {
            Envelope::of(&body);
            let _ = event_data(&body);
        }
    }
}
