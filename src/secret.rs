//! Secrets that cannot be printed by accident. Owns their form, generation and comparison-free handling; refuses to know
//! what they sign or where they are kept.

use data_encoding::{BASE64URL, BASE64URL_NOPAD, Encoding};
use rand::Rng;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::limits;

/// An endpoint's signing secret: the whole string as HeyGen showed it, `whsec_` included, opaque.
/// `Debug` shows nothing of it, there is no `Display`, and its memory is wiped when it goes.
#[derive(Clone, Debug)]
pub struct Secret(SecretString);

/// A text that cannot be a secret.
#[derive(Debug, thiserror::Error)]
#[error("a secret is 1 to {} bytes", limits::SECRET_BYTES_MAX)]
pub struct InvalidSecret;

impl Secret {
    /// Takes a secret as it is: never trimmed, never decoded. The text that is handed over is wiped.
    pub fn new(secret: impl Into<Zeroizing<String>>) -> Result<Self, InvalidSecret> {
        let secret = secret.into();
        (1..=limits::SECRET_BYTES_MAX)
            .contains(&secret.len())
            // Copied, because to give a text its final size may move it and leave the first copy behind.
            .then(|| Self(SecretString::from(secret.as_str())))
            .ok_or(InvalidSecret)
    }

    /// A new random secret in the form HeyGen gives them: `whsec_` and URL-safe base64.
    pub fn generate() -> Self {
        Self::random("whsec_", &BASE64URL)
    }

    /// A new random token for a URL: as hard to guess as a secret.
    pub fn generate_token() -> Self {
        Self::random("", &BASE64URL_NOPAD)
    }

    fn random(prefix: &str, encoding: &Encoding) -> Self {
        let mut random = Zeroizing::new([0; limits::SECRET_RANDOM_BYTES]);
        rand::rng().fill_bytes(&mut *random);
        let bytes = prefix.len() + encoding.encode_len(random.len());
        let mut text = Zeroizing::new(String::with_capacity(bytes));
        text.push_str(prefix);
        encoding.encode_append(&*random, &mut text);
        Self(SecretString::from(text.as_str()))
    }

    /// A new random token, as hard to guess as a secret, that begins with `prefix` so that scanners know it for what it is.
    pub fn generate_with_prefix(prefix: &str) -> Self {
        Self::random(prefix, &BASE64URL_NOPAD)
    }

    /// The secret itself. Each call is a place where it could leak.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_nothing_when_printed() {
        let secret = Secret::new("whsec_visible".to_owned()).unwrap();
        assert!(!format!("{secret:?}").contains("visible"));
    }

    #[test]
    fn takes_a_secret_as_it_is_and_refuses_an_empty_one() {
        assert_eq!(Secret::new(" a\n".to_owned()).unwrap().expose(), " a\n");
        assert!(Secret::new(String::new()).is_err());
    }
}
