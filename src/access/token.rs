//! What stands for an identity: a token or a certificate's name, with what it permits. Owns their form; refuses to know
//! where they are kept and who presents them.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::Scopes;
use crate::{event::is_label, filter::Filter, secret::Secret};

/// Names that mean something else in the audit trail.
const RESERVED: [&str; 3] = [super::OPERATOR, super::ANONYMOUS, super::SERVICE];

/// A token's name: as an endpoint's, and not one that means something else in the audit trail.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenName(String);

/// A name that no token can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be 1 to 63 characters of a-z, 0-9 and -, start with a letter or digit, and not be operator, anonymous or hookstream"
)]
pub struct InvalidTokenName;

impl TokenName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TokenName {
    type Err = InvalidTokenName;

    fn from_str(name: &str) -> Result<Self, InvalidTokenName> {
        let valid = is_label(name) && !RESERVED.contains(&name);
        valid.then(|| Self(name.to_owned())).ok_or(InvalidTokenName)
    }
}

/// The SHA-256 of a token, which is all that is kept of it. A token is 256 random bits, so a plain digest cannot be
/// reversed by guessing, and looking one up tells nothing about another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// The digest of a token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// A stored digest.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// How an identity is proved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Credential {
    /// By a token of this digest.
    Token(TokenDigest),
    /// By a client certificate with this name: `uri:spiffe://…`, `dns:…`, `email:…`, `ip:…`.
    Certificate(String),
}

/// A credential with what it permits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Whose it is, in the audit trail and in listings.
    pub name: TokenName,
    /// How that is proved.
    pub credential: Credential,
    /// What it permits.
    pub scopes: Scopes,
    /// The events and endpoints it may see; empty for all.
    pub sees: Filter,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops being accepted; `None` for never.
    pub expires_at: Option<Timestamp>,
    /// Which version of it the store has; 0 before it is stored.
    pub revision: u64,
}

/// A new random token.
pub(super) fn generate() -> Secret {
    Secret::generate_with_prefix("hookstream_")
}
