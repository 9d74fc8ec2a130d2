//! Secrets that cannot be printed by accident. Owns their form, generation and comparison-free handling; refuses to know
//! what they sign or where they are kept.

use data_encoding::{BASE64URL, BASE64URL_NOPAD};
use rand::Rng;
use secrecy::{ExposeSecret, SecretString};

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
    /// Takes a secret as it is: never trimmed, never decoded.
    pub fn new(secret: impl Into<SecretString>) -> Result<Self, InvalidSecret> {
        let secret = secret.into();
        let bytes = secret.expose_secret().len();
        (1..=limits::SECRET_BYTES_MAX)
            .contains(&bytes)
            .then_some(Self(secret))
            .ok_or(InvalidSecret)
    }

    /// A new random secret in the form HeyGen gives them: `whsec_` and URL-safe base64.
    pub fn generate() -> Self {
        let mut random = [0; limits::SECRET_RANDOM_BYTES];
        rand::rng().fill_bytes(&mut random);
        Self(SecretString::from(format!("whsec_{}", BASE64URL.encode(&random))))
    }

    /// A new random token for a URL: as hard to guess as a secret.
    pub fn generate_token() -> Self {
        let mut random = [0; limits::SECRET_RANDOM_BYTES];
        rand::rng().fill_bytes(&mut random);
        Self(SecretString::from(BASE64URL_NOPAD.encode(&random)))
    }

    /// A new random token, as hard to guess as a secret, that begins with `prefix` so that scanners know it for what it is.
    pub fn generate_with_prefix(prefix: &str) -> Self {
        let token = Self::generate_token();
        Self(SecretString::from(format!("{prefix}{}", token.expose())))
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
