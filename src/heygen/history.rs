//! HeyGen's event history. Owns its form; refuses to know what the events are for.

use bytes::Bytes;
use jiff::Timestamp;

use super::answer::Page;
use crate::decode::Envelope;

/// Some of HeyGen's event history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryPage {
    /// The events in HeyGen's order.
    pub events: Vec<HistoryEvent>,
    /// Where the next page begins; `None` after the last one.
    pub next_token: Option<String>,
}

/// An event of HeyGen's history. Whether it was delivered, and in this shape, HeyGen does not say.
#[derive(Clone, PartialEq, Eq)]
pub struct HistoryEvent {
    /// The element of HeyGen's list, byte for byte.
    pub body: Bytes,
    /// HeyGen's id of it; empty if it has none.
    pub event_id: String,
    /// Its type; empty if it has none.
    pub event_type: String,
    /// When it happened.
    pub created_at: Option<Timestamp>,
}

impl HistoryPage {
    pub(super) fn of(page: Page<'_>) -> Self {
        let event = |text: &str| {
            let envelope = Envelope::of(text.as_bytes());
            HistoryEvent {
                // A copy, so that one event that is kept does not keep its whole page.
                body: Bytes::copy_from_slice(text.as_bytes()),
                event_id: envelope.provider_event_id,
                event_type: envelope.event_type,
                created_at: envelope.created_at,
            }
        };
        Self {
            events: page.elements.iter().map(|element| event(element.get())).collect(),
            next_token: page.next_token,
        }
    }
}

/// Bodies are not shown: they hold personal data and signed links.
impl std::fmt::Debug for HistoryEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HistoryEvent")
            .field("body_bytes", &self.body.len())
            .field("event_id", &self.event_id)
            .field("event_type", &self.event_type)
            .field("created_at", &self.created_at)
            .finish()
    }
}
