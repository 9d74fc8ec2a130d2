//! Registrations, HeyGen's webhook endpoints, and the event types they are for. Owns their form in HeyGen's JSON;
//! refuses to know how they are asked for.

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::answer::Page;
use crate::decode::{self, Fields};

/// One of HeyGen's event types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventTypeDescription {
    /// Its name, such as `avatar_video.success`.
    pub event_type: String,
    /// What HeyGen says of it; empty if nothing.
    pub description: String,
}

impl EventTypeDescription {
    pub(super) fn all_of(page: &Page<'_>) -> Vec<Self> {
        let fields = page.elements.iter().filter_map(|element| Fields::of(element));
        fields
            .map(|fields| Self {
                event_type: fields.identifier("event_type"),
                description: fields.text("description").unwrap_or_default().into_owned(),
            })
            .filter(|described| !described.event_type.is_empty())
            .collect()
    }
}

/// What to register.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NewRegistration {
    /// Where HeyGen has to deliver: public HTTPS.
    pub url: String,
    /// The types to deliver; empty for all, those HeyGen adds later included.
    #[serde(rename = "events", skip_serializing_if = "Vec::is_empty")]
    pub event_types: Vec<String>,
    /// The one resource to tell of; empty for all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub entity_id: String,
}

/// What to change of a registration; HeyGen refuses a change of nothing.
///
/// All event types are asked for with `events: null`, as HeyGen documents it for a new registration. For a change it
/// is not documented: HeyGen may take it for no wish at all. So ask [`RegistrationChange::is_shown_by`] about the
/// answer; where it denies, name the types one by one, or register anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RegistrationChange {
    /// The new URL; `None` leaves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The new types, instead of all earlier ones; empty for all, `None` leaves them.
    #[serde(
        rename = "events",
        skip_serializing_if = "Option::is_none",
        serialize_with = "null_for_all"
    )]
    pub event_types: Option<Vec<String>>,
}

impl RegistrationChange {
    /// Whether a registration is as this change wants it. The order of types says nothing.
    pub fn is_shown_by(&self, registration: &Registration) -> bool {
        let sorted = |event_types: &[String]| {
            let mut sorted = event_types.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            sorted
        };
        let types = self.event_types.as_deref();
        self.url.as_ref().is_none_or(|url| *url == registration.url)
            && types.is_none_or(|types| sorted(types) == sorted(&registration.event_types))
    }
}

fn null_for_all<S: Serializer>(event_types: &Option<Vec<String>>, serializer: S) -> Result<S::Ok, S::Error> {
    let some = event_types.as_ref().filter(|event_types| !event_types.is_empty());
    some.serialize(serializer)
}

/// A registration as HeyGen shows it. Fields it does not show, or in a form never seen, are empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// HeyGen's id of it; never empty.
    pub id: String,
    /// Where HeyGen delivers.
    pub url: String,
    /// The types it delivers; empty for all.
    pub event_types: Vec<String>,
    /// Whether it delivers.
    pub status: RegistrationStatus,
    /// When it was registered.
    pub created_at: Option<Timestamp>,
}

/// Whether HeyGen delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationStatus {
    /// It does.
    Enabled,
    /// It does not. No call changes that: registering anew does.
    Disabled,
    /// HeyGen says something else.
    Unknown,
}

impl Registration {
    /// A registration; `None` if it has no id, without which nothing can be done to it.
    pub(super) fn of(fields: &Fields<'_>) -> Option<Self> {
        let id = fields.identifier("endpoint_id");
        (!id.is_empty()).then(|| Self {
            id,
            url: fields.text("url").unwrap_or_default().into_owned(),
            event_types: fields.get("events").map(texts).unwrap_or_default(),
            status: match fields.text("status").as_deref() {
                Some("enabled") => RegistrationStatus::Enabled,
                Some("disabled") => RegistrationStatus::Disabled,
                _ => RegistrationStatus::Unknown,
            },
            created_at: fields.text("created_at").and_then(|time| time.parse().ok()),
        })
    }

    pub(super) fn all_of(page: &Page<'_>) -> Vec<Self> {
        let read = |element: &&RawValue| {
            let registration = Fields::of(element).and_then(|fields| Self::of(&fields));
            if registration.is_none() {
                tracing::warn!("HeyGen lists a webhook endpoint without an id: it is left out");
            }
            registration
        };
        page.elements.iter().filter_map(read).collect()
    }
}

/// The strings of a list; nothing of anything else.
fn texts(list: &RawValue) -> Vec<String> {
    let values: Vec<&RawValue> = serde_json::from_str(list.get()).unwrap_or_default();
    let texts = values.into_iter().filter_map(decode::text);
    texts.map(|text| text.into_owned()).collect()
}
