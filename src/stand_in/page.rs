//! Pages of a list. Owns `limit`, the opaque token and the shape of a page; refuses to know what is listed.

use data_encoding::BASE64URL_NOPAD;
use reqwest::Url;
use serde_json::{Value, json};

use super::answer::Refusal;

const LIMIT_DEFAULT: usize = 10;
const LIMIT_MAX: usize = 100;

/// The part of a list that a call asks for.
#[derive(Debug)]
pub struct Page {
    limit: usize,
    /// The number of the last entry before this page.
    pub after: Option<u64>,
}

impl Page {
    /// Reads `limit` and `token`.
    pub fn of(url: &Url) -> Result<Self, Refusal> {
        let limit = match parameter(url, "limit") {
            None => LIMIT_DEFAULT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=LIMIT_MAX).contains(limit))
                .ok_or_else(|| Refusal::invalid("limit", "limit must be a number from 1 to 100"))?,
        };
        let after = parameter(url, "token").map(|text| {
            number(&text).ok_or_else(|| Refusal::invalid("token", "token is not one that was handed out"))
        });
        Ok(Self {
            limit,
            after: after.transpose()?,
        })
    }

    /// How many entries to look for: one more than are shown tells whether there are more.
    pub fn look_for(&self) -> usize {
        self.limit.saturating_add(1)
    }

    /// The page, from the entries found, each with its number.
    pub fn show(&self, found: Vec<(u64, Value)>) -> Value {
        let has_more = found.len() > self.limit;
        let (numbers, entries): (Vec<_>, Vec<_>) = found.into_iter().take(self.limit).unzip();
        let next_token = numbers.last().filter(|_| has_more).map(|&number| token(number));
        json!({"data": entries, "has_more": has_more, "next_token": next_token})
    }
}

/// The value of a parameter in the query.
pub fn parameter(url: &Url, name: &str) -> Option<String> {
    let mut pairs = url.query_pairs();
    pairs
        .find(|(found, _)| found == name)
        .map(|(_, value)| value.into_owned())
}

fn token(number: u64) -> String {
    BASE64URL_NOPAD.encode(&number.to_be_bytes())
}

fn number(token: &str) -> Option<u64> {
    let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).ok()?;
    bytes.try_into().ok().map(u64::from_be_bytes)
}
