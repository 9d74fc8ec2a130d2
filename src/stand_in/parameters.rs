//! The body of a call. Owns reading its fields and refusing what is not documented; refuses to know what they are for.

use http::StatusCode;
use reqwest::Url;
use serde_json::{Map, Value};

use super::answer::Refusal;
use crate::event_type::EVENT_TYPES;

/// The fields of a body.
#[derive(Debug)]
pub struct Parameters(Map<String, Value>);

impl Parameters {
    /// Reads a body that may have these fields and no other.
    pub fn read(body: &[u8], known: &[&str]) -> Result<Self, Refusal> {
        let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(body) else {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "the body must be a JSON object",
            ));
        };
        let unknown = fields.keys().find(|name| !known.contains(&name.as_str()));
        match unknown {
            Some(name) => Err(Refusal::invalid(name, format!("{name} is not a parameter"))),
            None => Ok(Self(fields)),
        }
    }

    /// Whether a field is there, whatever its value.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A text; absent and null are the same.
    pub fn text(&self, name: &str) -> Result<Option<String>, Refusal> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Refusal::invalid(name, format!("{name} must be a string"))),
        }
    }

    /// A URL that deliveries can go to.
    pub fn url(&self, require_https: bool) -> Result<Option<String>, Refusal> {
        let Some(text) = self.text("url")? else {
            return Ok(None);
        };
        let scheme = Url::parse(&text).ok().map(|url| url.scheme().to_owned());
        match scheme.as_deref() {
            Some("https") => Ok(Some(text)),
            Some("http") if !require_https => Ok(Some(text)),
            _ => Err(Refusal::invalid("url", "url must be a public HTTPS URL")),
        }
    }

    /// Event types that are known; absent and null are the same.
    pub fn event_types(&self, refuse_empty: bool) -> Result<Option<Vec<String>>, Refusal> {
        let refused = |reason: String| Err(Refusal::invalid("events", reason));
        let names = match self.0.get("events") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(names)) => names,
            Some(_) => return refused("events must be an array of event types".to_owned()),
        };
        if names.is_empty() && refuse_empty {
            return refused("events is empty, which is not documented".to_owned());
        }
        let mut types = Vec::with_capacity(names.len());
        for name in names {
            match name.as_str() {
                Some(text) if EVENT_TYPES.iter().any(|known| known.name == text) => {
                    types.push(text.to_owned());
                }
                _ => return refused(format!("{name} is not an event type")),
            }
        }
        Ok(Some(types))
    }
}
