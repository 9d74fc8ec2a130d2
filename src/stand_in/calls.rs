//! The calls of the v3 webhook API. Owns what each takes, does and answers; refuses to know HTTP's headers, keys and
//! faults.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use reqwest::{Client, Url};
use serde_json::{Value, json};

use super::{
    Settings,
    account::{Account, Happened, NewRegistration, Registration},
    answer::Refusal,
    api::Call,
    deliver,
    page::{self, Page},
    parameters::Parameters,
};
use crate::{event_type::EVENT_TYPES, secret::Secret};

/// How long a link in the history works.
const LINK_LIFETIME: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The calls, on one account.
pub struct Calls {
    settings: Settings,
    client: Client,
    account: Arc<Account>,
}

impl Calls {
    pub fn new(settings: Settings, client: Client, account: Arc<Account>) -> Self {
        Self {
            settings,
            client,
            account,
        }
    }

    /// Makes a call.
    pub async fn run(&self, call: Call, endpoint_id: &str, url: &Url, body: &[u8]) -> Result<Value, Refusal> {
        match call {
            Call::ListEventTypes => Ok(event_types()),
            Call::ListEndpoints => self.list_endpoints(url),
            Call::CreateEndpoint => self.create_endpoint(body).await,
            Call::UpdateEndpoint => self.update_endpoint(endpoint_id, body),
            Call::DeleteEndpoint => self.delete_endpoint(endpoint_id),
            Call::RotateSecret => self.rotate_secret(endpoint_id),
            Call::ListEvents => self.list_events(url),
        }
    }

    fn list_endpoints(&self, url: &Url) -> Result<Value, Refusal> {
        let page = Page::of(url)?;
        let found = self
            .account
            .registrations_after(page.after.unwrap_or(0), page.look_for());
        let found = found.iter().map(|one| (one.number, shown(one, None))).collect();
        Ok(page.show(found))
    }

    async fn create_endpoint(&self, body: &[u8]) -> Result<Value, Refusal> {
        let parameters = Parameters::read(body, &["url", "events", "entity_id"])?;
        let url = parameters.url(self.settings.require_https)?;
        let url = url.ok_or_else(|| Refusal::invalid("url", "url is required"))?;
        let events = parameters.event_types(self.settings.refuse_undocumented)?;
        let entity_id = parameters.text("entity_id")?;
        let probe_status = deliver::probe(&self.client, &url).await;
        let is_reachable = probe_status.is_some_and(|status| (200..300).contains(&status));
        if self.settings.probe_must_answer && !is_reachable {
            return Err(Refusal::invalid("url", "url does not answer"));
        }
        let new = NewRegistration {
            url,
            events,
            entity_id,
            probe_status,
        };
        let registration = self.account.register(new, self.settings.clock.now());
        let registration =
            registration.ok_or_else(|| Refusal::invalid("url", "the account has too many endpoints"))?;
        Ok(json!({"data": shown(&registration, Some(&registration.secret))}))
    }

    fn update_endpoint(&self, endpoint_id: &str, body: &[u8]) -> Result<Value, Refusal> {
        let parameters = Parameters::read(body, &["url", "events"])?;
        let url = parameters.url(self.settings.require_https)?;
        let events = parameters.event_types(self.settings.refuse_undocumented)?;
        let changes_events = parameters.has("events");
        if changes_events && events.is_none() && self.settings.refuse_undocumented {
            let reason = "events is null, which is not documented for an update";
            return Err(Refusal::invalid("events", reason));
        }
        if url.is_none() && !changes_events {
            return Err(Refusal::invalid("url", "url or events is required"));
        }
        let changed = self.account.change(endpoint_id, |registration| {
            if let Some(url) = url {
                registration.url = url;
            }
            if changes_events {
                registration.events = events;
            }
        });
        let changed = changed.ok_or_else(Refusal::no_such_endpoint)?;
        Ok(json!({"data": shown(&changed, None)}))
    }

    fn delete_endpoint(&self, endpoint_id: &str) -> Result<Value, Refusal> {
        if self.account.delete(endpoint_id) {
            Ok(json!({"error": null, "data": {}}))
        } else {
            Err(Refusal::no_such_endpoint())
        }
    }

    fn rotate_secret(&self, endpoint_id: &str) -> Result<Value, Refusal> {
        let rotated = self.account.change(endpoint_id, |registration| {
            registration.secret = Secret::generate();
        });
        let rotated = rotated.ok_or_else(Refusal::no_such_endpoint)?;
        Ok(json!({"data": {"endpoint_id": rotated.endpoint_id, "secret": rotated.secret.expose()}}))
    }

    fn list_events(&self, url: &Url) -> Result<Value, Refusal> {
        let page = Page::of(url)?;
        let event_type = page::parameter(url, "event_type");
        let entity_id = page::parameter(url, "entity_id");
        let matches = |event: &Happened| {
            event_type.as_ref().is_none_or(|name| *name == event.event_type)
                && entity_id
                    .as_ref()
                    .is_none_or(|id| event.entity_id().as_ref() == Some(id))
        };
        let before = page.after.unwrap_or(u64::MAX);
        let found = self.account.events_before(before, page.look_for(), matches);
        let found = found.iter().map(|event| (event.number, self.told(event)));
        Ok(page.show(found.collect()))
    }

    /// An event as the history tells it.
    fn told(&self, event: &Happened) -> Value {
        let mut event_data = event.event_data.clone();
        if self.settings.history_shape_differs {
            reshape(&mut event_data, self.settings.clock.now());
        }
        json!({
            "event_id": event.event_id,
            "event_type": event.event_type,
            "event_data": event_data,
            "created_at": event.created_at.to_string(),
        })
    }
}

/// An endpoint as the API shows it.
fn shown(registration: &Registration, secret: Option<&Secret>) -> Value {
    json!({
        "endpoint_id": registration.endpoint_id,
        "url": registration.url,
        "events": registration.events,
        "status": if registration.is_enabled { "enabled" } else { "disabled" },
        "created_at": registration.created_at.to_string(),
        "secret": secret.map(Secret::expose),
    })
}

fn event_types() -> Value {
    let types = EVENT_TYPES.iter();
    let types = types.map(|known| json!({"event_type": known.name, "description": known.description}));
    json!({"data": types.collect::<Vec<_>>(), "has_more": false, "next_token": null})
}

/// Another shape of the same payload: a field more, a field under another name, and fresh links. Ids stay.
fn reshape(event_data: &mut Value, now: Timestamp) {
    if let Some(fields) = event_data.as_object_mut() {
        if let Some(reason) = fields.remove("msg") {
            fields.insert("message".to_owned(), reason);
        }
        fields.insert("listed_at".to_owned(), Value::String(now.to_string()));
    }
    let expires_at = now.saturating_add(LINK_LIFETIME).unwrap_or(now).as_second();
    sign_links(event_data, expires_at);
}

/// Signs the links in a value anew. No deeper than JSON that was read can be.
fn sign_links(value: &mut Value, expires_at: i64) {
    match value {
        Value::String(text) => {
            if let Some((link, query)) = text.split_once('?')
                && link.starts_with("https://")
                && query.contains("Signature=")
            {
                *text = format!("{link}?Expires={expires_at}&Signature=listed");
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| sign_links(value, expires_at)),
        Value::Object(fields) => fields
            .values_mut()
            .for_each(|value| sign_links(value, expires_at)),
        _ => {}
    }
}
