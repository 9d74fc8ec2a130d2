//! An event as a CloudEvent 1.0 in JSON. Owns the mapping of attributes, which `docs/cloudevents.md` tells its readers.

use anyhow::Context;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::grpc::proto::Event;

/// The attributes. What is empty is left out, as the specification wants.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: String,
    #[serde(rename = "type")]
    event_type: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    sequence: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    partitionkey: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

/// The part of a body that is data, as HeyGen wrote it: numbers beyond 2^53 stay what they are.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    event_data: Option<&'a RawValue>,
}

/// One line of JSON.
pub fn json(event: &Event) -> anyhow::Result<String> {
    let time = event.created_at.or(event.received_at).unwrap_or_default();
    let time = Timestamp::new(time.seconds, time.nanos).context("the event's time is none")?;
    let body: Option<Body<'_>> = serde_json::from_slice(&event.raw_body).ok();
    let name = if event.type_name.is_empty() {
        "unknown"
    } else {
        &event.type_name
    };
    let cloud_event = CloudEvent {
        specversion: "1.0",
        id: &event.id,
        source: format!("/hookstream/{}", event.endpoint),
        event_type: format!("com.heygen.{name}"),
        subject: &event.entity_id,
        time: time.to_string(),
        datacontenttype: "application/json",
        sequence: event.sequence.to_string(),
        partitionkey: &event.entity_id,
        data: body.and_then(|body| body.event_data),
    };
    Ok(serde_json::to_string(&cloud_event)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(body: &str) -> Event {
        Event {
            id: "evt_1".into(),
            sequence: 7,
            type_name: "avatar_video.fail".into(),
            entity_id: "vid_1".into(),
            endpoint: "prod".into(),
            received_at: Some(prost_types::Timestamp {
                seconds: 0,
                nanos: 500_000_000,
            }),
            raw_body: body.as_bytes().to_vec().into(),
            ..Event::default()
        }
    }

    #[test]
    fn every_attribute_has_its_place() {
        let event = event(r#"{"event_type":"avatar_video.fail","event_data":{"video_id":"vid_1"}}"#);
        let printed: serde_json::Value = serde_json::from_str(&json(&event).unwrap()).unwrap();
        assert_eq!(
            printed,
            json!({
                "specversion": "1.0", "id": "evt_1", "source": "/hookstream/prod",
                "type": "com.heygen.avatar_video.fail", "subject": "vid_1", "time": "1970-01-01T00:00:00.5Z",
                "datacontenttype": "application/json", "sequence": "7", "partitionkey": "vid_1",
                "data": {"video_id": "vid_1"},
            })
        );
    }

    #[test]
    fn numbers_are_as_heygen_wrote_them_and_what_is_missing_is_left_out() {
        let exact = json(&event(r#"{"event_data":{"n":9007199254740993}}"#)).unwrap();
        assert!(exact.contains(r#""data":{"n":9007199254740993}"#), "{exact}");
        let bare = json(&Event {
            entity_id: String::new(),
            type_name: String::new(),
            ..event("no JSON")
        });
        let bare = bare.unwrap();
        assert!(bare.contains("com.heygen.unknown"), "{bare}");
        assert!(!bare.contains("subject") && !bare.contains("\"data\""), "{bare}");
    }
}
