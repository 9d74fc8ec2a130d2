//! Secrets at rest. Owns the keys that stored secrets are sealed with, and the form of what is stored; refuses to know
//! where it is stored and whose secrets these are.
//!
//! | stored | bytes |
//! |---|---|
//! | readable | `1`, the secret |
//! | sealed | `2`, the key's id (8), nonce (24), the secret under XChaCha20-Poly1305 with its tag (16) |
//!
//! A sealed value is bound to its context: at another place it does not open. Nonces are random, which at 24 bytes needs no
//! counting.

use std::{fmt, sync::Arc};

use chacha20poly1305::{AeadInOut, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use rand::Rng;
use secrecy::{ExposeSecret, SecretBox};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::secret::Secret;

const READABLE: u8 = 1;
const SEALED: u8 = 2;
const KEY_BYTES: usize = 32;
const ID_BYTES: usize = 8;
const HEAD_BYTES: usize = 1 + ID_BYTES;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// So that an id says nothing about the same key in another use.
const ID_LABEL: &[u8] = b"hookstream sealing key id\0";

/// Which key: enough to tell keys apart, too little to learn anything of one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyId([u8; ID_BYTES]);

/// A key that secrets are sealed with. `Debug` shows its id alone, and its memory is wiped when the last clone goes.
#[derive(Clone)]
pub struct SealingKey {
    id: KeyId,
    bytes: Arc<SecretBox<[u8; KEY_BYTES]>>,
}

/// The key to seal with, and those that values may still be sealed with.
#[derive(Clone, Debug, Default)]
pub struct SealingKeys {
    /// Seals; without it, secrets are stored readable.
    pub current: Option<SealingKey>,
    /// Only open.
    pub previous: Vec<SealingKey>,
}

/// A text that is no key.
#[derive(Debug, thiserror::Error)]
#[error(
    "is not {KEY_BYTES} bytes as base64 or hexadecimal digits; `hookstream config generate-sealing-key` makes a key"
)]
pub struct InvalidSealingKey;

/// Why a stored value does not open.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealingError {
    /// The key is not among those given.
    #[error(
        "it is sealed with the key {needed}, {}: give the key {needed} with --sealing-key-file, or, beside the one that \
         replaces it, with --previous-sealing-key-file",
        keys_given(.given)
    )]
    KeyMissing {
        /// The key it is sealed with.
        needed: KeyId,
        /// The keys at hand.
        given: Vec<KeyId>,
    },
    /// The key is there, but the value is not what was sealed with it for this place.
    #[error(
        "it is damaged, was changed, or belongs to another place: restore it from a backup, or make a new secret"
    )]
    NotAuthentic,
    /// It has no form that is known.
    #[error("it is damaged, or has a form that this version does not know")]
    Malformed,
}

fn keys_given(given: &[KeyId]) -> String {
    if given.is_empty() {
        return "but no key was given".to_owned();
    }
    let given: Vec<_> = given.iter().map(KeyId::to_string).collect();
    format!("but what was given is {}", given.join(" and "))
}

impl SealingKeys {
    /// What to store for a secret at the place that `context` names.
    pub fn seal(&self, plaintext: &Secret, context: &str) -> Vec<u8> {
        let plaintext = plaintext.expose().as_bytes();
        match &self.current {
            Some(key) => key.seal(plaintext, context),
            None => [&[READABLE], plaintext].concat(),
        }
    }

    /// The secret that was stored at the place that `context` names.
    pub fn open(&self, stored: &[u8], context: &str) -> Result<Secret, SealingError> {
        if let Some((&READABLE, text)) = stored.split_first() {
            return secret_of(text);
        }
        let sealed = Sealed::of(stored).ok_or(SealingError::Malformed)?;
        let key = self.all().find(|key| key.id == sealed.key_id);
        let key = key.ok_or_else(|| SealingError::KeyMissing {
            needed: sealed.key_id,
            given: self.all().map(SealingKey::id).collect(),
        })?;
        key.open(&sealed, context)
    }

    /// Whether a value is stored as [`seal`](Self::seal) would store it now: under the current key, or readable without one.
    pub fn is_current(&self, stored: &[u8]) -> bool {
        match &self.current {
            Some(key) => Sealed::of(stored).is_some_and(|sealed| sealed.key_id == key.id),
            None => stored.first() == Some(&READABLE),
        }
    }

    fn all(&self) -> impl Iterator<Item = &SealingKey> {
        self.current.iter().chain(&self.previous)
    }
}

impl SealingKey {
    /// The key that a text spells.
    pub fn parse(text: &str) -> Result<Self, InvalidSealingKey> {
        let encoding = match text.len() {
            // Hexadecimal digits are letters of base64 too, but a key in base64 is shorter.
            digits if digits == 2 * KEY_BYTES => HEXLOWER_PERMISSIVE,
            _ => BASE64,
        };
        let room = encoding.decode_len(text.len()).map_err(|_| InvalidSealingKey)?;
        let mut decoded = Zeroizing::new(vec![0; room]);
        let length = encoding.decode_mut(text.as_bytes(), &mut decoded);
        decoded.truncate(length.map_err(|_| InvalidSealingKey)?);
        if decoded.len() != KEY_BYTES {
            return Err(InvalidSealingKey);
        }
        Ok(Self::made_by(|bytes| bytes.copy_from_slice(&decoded)))
    }

    /// A new random key.
    pub fn generate() -> Self {
        Self::made_by(|bytes| rand::rng().fill_bytes(bytes))
    }

    fn made_by(fill: impl FnOnce(&mut [u8; KEY_BYTES])) -> Self {
        let bytes = SecretBox::init_with_mut(fill);
        let digest = Sha256::new()
            .chain_update(ID_LABEL)
            .chain_update(bytes.expose_secret())
            .finalize();
        let id = digest.first_chunk().copied().unwrap_or_default();
        Self {
            id: KeyId(id),
            bytes: Arc::new(bytes),
        }
    }

    /// Which key it is.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key itself, as [`parse`](Self::parse) takes it.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(self.bytes.expose_secret()))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(self.bytes.expose_secret().into())
    }

    #[allow(clippy::expect_used, reason = "the cipher takes up to 256 GiB")]
    fn seal(&self, plaintext: &[u8], context: &str) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        rand::rng().fill_bytes(&mut nonce);
        // Of its final size from the start: growing would leave a copy of the secret behind.
        let mut sealed = Vec::with_capacity(HEAD_BYTES + NONCE_BYTES + plaintext.len() + TAG_BYTES);
        sealed.push(SEALED);
        sealed.extend_from_slice(&self.id.0);
        let associated = [sealed.as_slice(), context.as_bytes()].concat();
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plaintext);
        let (_, body) = sealed.split_at_mut(HEAD_BYTES + NONCE_BYTES);
        let tag = self
            .cipher()
            .encrypt_inout_detached(&XNonce::from(nonce), &associated, body.into())
            .expect("the cipher takes up to 256 GiB");
        sealed.extend_from_slice(&tag);
        sealed
    }

    fn open(&self, sealed: &Sealed<'_>, context: &str) -> Result<Secret, SealingError> {
        let associated = [sealed.head, context.as_bytes()].concat();
        let mut text = Zeroizing::new(sealed.ciphertext.to_vec());
        let (nonce, tag) = (XNonce::from(*sealed.nonce), Tag::from(*sealed.tag));
        self.cipher()
            .decrypt_inout_detached(&nonce, &associated, text.as_mut_slice().into(), &tag)
            .map_err(|_| SealingError::NotAuthentic)?;
        secret_of(&text)
    }
}

/// Whether a stored value is sealed with any key.
pub fn is_sealed(stored: &[u8]) -> bool {
    Sealed::of(stored).is_some()
}

fn secret_of(text: &[u8]) -> Result<Secret, SealingError> {
    let text = std::str::from_utf8(text).map_err(|_| SealingError::Malformed)?;
    Secret::new(text.to_owned()).map_err(|_| SealingError::Malformed)
}

/// The parts of a sealed value.
struct Sealed<'a> {
    /// Format and key id: authenticated with the context.
    head: &'a [u8],
    key_id: KeyId,
    nonce: &'a [u8; NONCE_BYTES],
    ciphertext: &'a [u8],
    tag: &'a [u8; TAG_BYTES],
}

impl<'a> Sealed<'a> {
    fn of(stored: &'a [u8]) -> Option<Self> {
        let (head, rest) = stored.split_first_chunk::<HEAD_BYTES>()?;
        let (&[SEALED], id) = head.split_first_chunk()? else {
            return None;
        };
        let (nonce, rest) = rest.split_first_chunk()?;
        let (ciphertext, tag) = rest.split_last_chunk()?;
        Some(Self {
            head,
            key_id: KeyId(id.try_into().ok()?),
            nonce,
            ciphertext,
            tag,
        })
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(current: &SealingKey) -> SealingKeys {
        SealingKeys {
            current: Some(current.clone()),
            previous: Vec::new(),
        }
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned()).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_again_and_shows_nothing(text in "\\PC{1,120}", context in "\\PC{0,40}") {
            let text = format!("whsec_{text}");
            let keys = keys(&SealingKey::generate());
            let sealed = keys.seal(&secret(&text), &context);
            prop_assert!(!sealed.windows(6).any(|part| part == b"whsec_"));
            let opened = keys.open(&sealed, &context).unwrap();
            prop_assert_eq!(opened.expose(), text);
            prop_assert!(keys.is_current(&sealed));
        }

        #[test]
        fn a_value_with_a_changed_byte_does_not_open(
            text in "[a-z]{1,60}", at in any::<prop::sample::Index>(), change in 1_u8..,
        ) {
            let keys = keys(&SealingKey::generate());
            let mut sealed = keys.seal(&secret(&text), "here");
            let at = at.index(sealed.len());
            sealed[at] ^= change;
            prop_assert!(keys.open(&sealed, "here").is_err(), "byte {at}");
        }

        #[test]
        fn a_value_that_was_cut_or_is_noise_does_not_open(noise in prop::collection::vec(any::<u8>(), 0..120)) {
            let keys = keys(&SealingKey::generate());
            let sealed = keys.seal(&secret("whsec_x"), "here");
            for length in 0..sealed.len() {
                prop_assert!(keys.open(&sealed[..length], "here").is_err());
            }
            let noise = [&[SEALED], &noise[..]].concat();
            prop_assert!(keys.open(&noise, "here").is_err());
        }
    }

    #[test]
    fn a_value_opens_at_its_own_place_alone() {
        let keys = keys(&SealingKey::generate());
        let sealed = keys.seal(&secret("whsec_x"), "endpoint/a/signature/1");
        for other in [
            "endpoint/b/signature/1",
            "endpoint/a/callback/1",
            "endpoint/a/signature/2",
            "",
        ] {
            assert_eq!(
                keys.open(&sealed, other).unwrap_err(),
                SealingError::NotAuthentic,
                "{other}"
            );
        }
    }

    #[test]
    fn a_value_under_another_key_names_the_key_it_needs_and_those_given() {
        let (own, other, another) = (
            SealingKey::generate(),
            SealingKey::generate(),
            SealingKey::generate(),
        );
        let sealed = keys(&own).seal(&secret("whsec_x"), "here");
        let given = SealingKeys {
            current: Some(other.clone()),
            previous: vec![another.clone()],
        };
        let error = given.open(&sealed, "here").unwrap_err().to_string();
        for part in [
            own.id().to_string(),
            other.id().to_string(),
            another.id().to_string(),
            "--previous-sealing-key-file".to_owned(),
        ] {
            assert!(error.contains(&part), "{error}");
        }
        let error = SealingKeys::default()
            .open(&sealed, "here")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no key was given") && error.contains("--sealing-key-file"),
            "{error}"
        );
    }

    #[test]
    fn a_previous_key_opens_but_is_not_current() {
        let (old, new) = (SealingKey::generate(), SealingKey::generate());
        let sealed = keys(&old).seal(&secret("whsec_x"), "here");
        let rotated = SealingKeys {
            current: Some(new),
            previous: vec![old],
        };
        assert_eq!(rotated.open(&sealed, "here").unwrap().expose(), "whsec_x");
        assert!(!rotated.is_current(&sealed));
    }

    #[test]
    fn without_a_key_values_are_readable_and_are_not_current_once_there_is_one() {
        let none = SealingKeys::default();
        let stored = none.seal(&secret("whsec_x"), "here");
        assert_eq!(none.open(&stored, "here").unwrap().expose(), "whsec_x");
        assert!(none.is_current(&stored));
        let keys = keys(&SealingKey::generate());
        assert_eq!(keys.open(&stored, "here").unwrap().expose(), "whsec_x");
        assert!(!keys.is_current(&stored));
    }

    #[test]
    fn one_secret_is_never_sealed_to_the_same_bytes_twice() {
        let keys = keys(&SealingKey::generate());
        let seal = || keys.seal(&secret("whsec_x"), "here");
        assert_ne!(seal(), seal());
    }

    #[test]
    fn a_key_is_read_as_it_is_written_in_base64_and_in_hexadecimal() {
        let key = SealingKey::generate();
        let hex = HEXLOWER.encode(key.bytes.expose_secret());
        for text in [key.to_base64().to_string(), hex.clone(), hex.to_uppercase()] {
            assert_eq!(SealingKey::parse(&text).unwrap().id(), key.id());
        }
        let base64 = key.to_base64();
        for text in [
            "",
            "secret",
            &hex[2..],
            &base64[4..],
            &format!("{}\n", *base64),
            &"=".repeat(44),
            &"g".repeat(64),
        ] {
            assert!(SealingKey::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_key_shows_its_id_alone() {
        let key = SealingKey::parse(&"ab".repeat(32)).unwrap();
        let shown = format!("{:?} {:?}", keys(&key), key.id());
        assert!(
            shown.contains(&key.id().to_string()) && !shown.contains("abab"),
            "{shown}"
        );
    }
}
