//! What makes a repeated request one request. Owns the key's form; refuses to know what it is sent with.

use std::{fmt, str::FromStr};

/// An `Idempotency-Key`: one for each thing that is to happen once, however often it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

/// A text that cannot be an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key is 1 to 255 letters, digits and `_`, `-`, `:`, `.`")]
pub struct InvalidIdempotencyKey;

impl IdempotencyKey {
    /// A key that nobody has used.
    pub fn generate() -> Self {
        Self(format!("hookstream-{:032x}", rand::random::<u128>()))
    }

    /// The key as it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = InvalidIdempotencyKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_-:.".contains(&byte);
        let valid = (1..=255).contains(&text.len()) && text.bytes().all(legal);
        valid.then(|| Self(text.to_owned())).ok_or(InvalidIdempotencyKey)
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
