//! The secrets of endpoints as they are stored. Owns what a sealed one is bound to, wherever it is stored, and what is said of
//! one that does not open.

use std::borrow::Cow;

use crate::{
    sealing::{SealingError, SealingKeys},
    secret::Secret,
};

/// What a secret is for: to verify signatures, or to stand in the URL for callbacks.
pub(super) const SIGNATURE: &str = "signature";
pub(super) const CALLBACK: &str = "callback";

/// A stored secret that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("endpoint {endpoint}: its {purpose} secret {version} cannot be read")]
pub(super) struct Unreadable {
    endpoint: String,
    purpose: String,
    version: u32,
    source: SealingError,
}

/// Where a secret is stored. A sealed one opens nowhere else.
pub(super) struct Place<'a> {
    pub(super) endpoint: Cow<'a, str>,
    pub(super) purpose: Cow<'a, str>,
    pub(super) version: u32,
}

impl Place<'_> {
    pub(super) fn of(endpoint: String, purpose: String, version: u32) -> Self {
        Self {
            endpoint: endpoint.into(),
            purpose: purpose.into(),
            version,
        }
    }

    pub(super) fn context(&self) -> String {
        format!("endpoint/{}/{}/{}", self.endpoint, self.purpose, self.version)
    }

    pub(super) fn open(&self, stored: &[u8], keys: &SealingKeys) -> Result<Secret, Unreadable> {
        keys.open(stored, &self.context()).map_err(|source| Unreadable {
            endpoint: self.endpoint.to_string(),
            purpose: self.purpose.to_string(),
            version: self.version,
            source,
        })
    }
}
