//! Idempotency keys. Owns the first answer to each; refuses to know what the calls do.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use super::answer::{Answer, Refusal};
use crate::limits;

const KEPT_FOR: SignedDuration = SignedDuration::from_hours(24);
const KEY_BYTES_MAX: usize = 255;

/// What makes two calls the same: method, path and body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub String, pub String, pub Bytes);

/// What is to be done about a call with a key.
#[derive(Debug)]
pub enum Begun {
    /// It is the first; its answer has to be kept.
    First,
    /// This was answered already.
    Answered(Answer),
}

/// The answers to calls with a key.
#[derive(Default)]
pub struct Ledger(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    by_key: HashMap<String, Entry>,
    oldest_first: VecDeque<(Timestamp, String)>,
}

struct Entry {
    fingerprint: Fingerprint,
    answer: Option<Answer>,
}

impl Ledger {
    /// Begins a call.
    pub fn begin(&self, key: &str, fingerprint: Fingerprint, now: Timestamp) -> Result<Begun, Refusal> {
        if !is_key(key) {
            return Err(Refusal::invalid(
                "Idempotency-Key",
                "Idempotency-Key must be 1 to 255 of A-Z, a-z, 0-9, _, -, : and .",
            ));
        }
        let mut entries = self.0.lock();
        entries.forget(now);
        if let Some(entry) = entries.by_key.get(key) {
            return entry.again(&fingerprint);
        }
        entries.oldest_first.push_back((now, key.to_owned()));
        let entry = Entry {
            fingerprint,
            answer: None,
        };
        entries.by_key.insert(key.to_owned(), entry);
        Ok(Begun::First)
    }

    /// Keeps the answer to the first call.
    pub fn finish(&self, key: &str, answer: &Answer) {
        if let Some(entry) = self.0.lock().by_key.get_mut(key) {
            entry.answer = Some(answer.clone());
        }
    }
}

impl Entry {
    fn again(&self, fingerprint: &Fingerprint) -> Result<Begun, Refusal> {
        if self.fingerprint != *fingerprint {
            return Err(Refusal::invalid(
                "Idempotency-Key",
                "Idempotency-Key was used for another request",
            ));
        }
        match &self.answer {
            Some(answer) => Ok(Begun::Answered(answer.clone())),
            None => Err(Refusal::new(
                StatusCode::CONFLICT,
                "a request with this Idempotency-Key is in progress",
            )),
        }
    }
}

impl Entries {
    /// Forgets keys that are too old or too many.
    fn forget(&mut self, now: Timestamp) {
        while let Some((begun_at, _)) = self.oldest_first.front() {
            let too_many = self.oldest_first.len() >= limits::STAND_IN_IDEMPOTENCY_KEYS_MAX;
            if !too_many && now.duration_since(*begun_at) < KEPT_FOR {
                return;
            }
            if let Some((_, key)) = self.oldest_first.pop_front() {
                self.by_key.remove(&key);
            }
        }
    }
}

fn is_key(key: &str) -> bool {
    (1..=KEY_BYTES_MAX).contains(&key.len())
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-:.".contains(&byte))
}
