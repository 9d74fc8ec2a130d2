//! HeyGen's answers of success. Owns their envelope, `{"data": …}`, and the pages of lists; refuses to know how they were
//! fetched.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{error::Failure, registration::Registration};
use crate::{
    decode::{self, Fields},
    secret::Secret,
};

/// A success, unread.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) request_id: Option<String>,
    pub(super) body: Bytes,
}

/// A page of a list: its elements as they stand there, and where the next one begins.
pub(super) struct Page<'a> {
    pub(super) elements: Vec<&'a RawValue>,
    pub(super) next_token: Option<String>,
}

impl Answer {
    /// The page of a list.
    pub(super) fn page(&self) -> Result<Page<'_>, Failure> {
        let envelope = self.envelope()?;
        let data = envelope.get("data");
        let elements = data.and_then(|data| serde_json::from_str(data.get()).ok());
        let elements = elements.ok_or_else(|| self.unreadable("it has no list `data`"))?;
        let token = envelope
            .get("next_token")
            .and_then(|token| decode::text(token).or_else(|| decode::integer(token).map(Cow::Borrowed)));
        let token = token.filter(|token| !token.is_empty()).map(Cow::into_owned);
        let next_token = match envelope.get("has_more").map(RawValue::get) {
            Some("false") => None,
            // To take such a page for the last one would hide the rest.
            Some("true") if token.is_none() => {
                return Err(self.unreadable("it promises more but has no `next_token`"));
            }
            _ => token,
        };
        Ok(Page { elements, next_token })
    }

    /// The registration that was made or changed.
    pub(super) fn registration(&self) -> Result<Registration, Failure> {
        Registration::of(&self.data()?).ok_or_else(|| self.unreadable("it has no `endpoint_id`"))
    }

    /// The secret that was made.
    pub(super) fn secret(&self) -> Result<Secret, Failure> {
        let text = self.data()?.text("secret").map(Cow::into_owned);
        text.and_then(|text| Secret::new(text).ok())
            .ok_or_else(|| self.unreadable("it has no `secret`, or none of a usable length"))
    }

    /// Nothing but that it is HeyGen's answer.
    pub(super) fn done(&self) -> Result<(), Failure> {
        if self.body.is_empty() {
            return Ok(());
        }
        self.envelope().map(drop)
    }

    fn data(&self) -> Result<Fields<'_>, Failure> {
        let data = self.envelope()?.get("data").and_then(Fields::of);
        data.ok_or_else(|| self.unreadable("it has no object `data`"))
    }

    fn envelope(&self) -> Result<Fields<'_>, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|_| self.unreadable("it is no JSON object (is this the address of HeyGen's API?)"))
    }

    fn unreadable(&self, what: &'static str) -> Failure {
        Failure::Unreadable {
            status: self.status,
            request_id: self.request_id.clone(),
            what,
        }
    }
}
