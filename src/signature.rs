//! HeyGen's signature. Owns the verification of a body under the secrets of an endpoint; knows no HTTP and no JSON.
//!
//! HeyGen signs the raw body and nothing else with HMAC-SHA256; the key is the whole secret as UTF-8, `whsec_` included;
//! the signature is 64 hexadecimal digits (docs.heygen.com, "Webhooks"). No timestamp or id is covered, so none is
//! trusted.

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use data_encoding::HEXLOWER_PERMISSIVE;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::{event::Verification, limits, secret::Secret};

type HmacSha256 = Hmac<Sha256>;

/// The HMAC-SHA256 of `body` under `secret`.
pub fn sign(secret: &Secret, body: &[u8]) -> [u8; 32] {
    keyed(secret).chain_update(body).finalize().into_bytes().into()
}

#[allow(clippy::expect_used, reason = "HMAC takes a key of any length")]
fn keyed(secret: &Secret) -> HmacSha256 {
    HmacSha256::new_from_slice(secret.expose().as_bytes()).expect("HMAC takes a key of any length")
}

/// One signature as it was presented: where it stood and what stood there.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// The lower-case name of the header.
    pub header_name: &'static str,
    /// Its value.
    pub value: &'a [u8],
}

impl Presented<'_> {
    /// The 32 bytes that the value spells. Upper case and a `sha256=` in front are taken too.
    fn digest(&self) -> Option<[u8; 32]> {
        let value = self.value.strip_prefix(b"sha256=").unwrap_or(self.value);
        HEXLOWER_PERMISSIVE.decode(value).ok()?.try_into().ok()
    }
}

/// One secret an endpoint accepts.
#[derive(Clone, Debug)]
pub struct Key {
    /// Which of the endpoint's secrets it is, counted from 1.
    pub version: u32,
    /// The secret.
    pub secret: Secret,
    /// When it was taken.
    pub since: Timestamp,
    /// When it stops being accepted; `None` for the current one.
    pub expires_at: Option<Timestamp>,
}

/// The secrets an endpoint accepts, the current one first.
#[derive(Clone, Debug)]
pub struct Keyring(Vec<Key>);

/// No presented signature is this body's under any secret accepted now. Deliberately silent about which part failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the delivery is not signed with a secret of this endpoint")]
pub struct Unverified;

impl Keyring {
    /// A keyring of these secrets, the current one first.
    pub fn new(keys: Vec<Key>) -> Self {
        Self(keys)
    }

    /// The secrets, the current one first.
    pub fn keys(&self) -> &[Key] {
        &self.0
    }

    /// This keyring with a new current secret; those before stay until `now + overlap` or their own time, a few of them.
    pub fn rotated(&self, secret: Secret, now: Timestamp, overlap: Duration) -> Self {
        let expiry = now.checked_add(overlap).unwrap_or(Timestamp::MAX);
        let current = Key {
            version: self.0.first().map_or(0, |key| key.version) + 1,
            secret,
            since: now,
            expires_at: None,
        };
        let earlier = self.0.iter().map(|key| Key {
            expires_at: Some(key.expires_at.map_or(expiry, |own| own.min(expiry))),
            ..key.clone()
        });
        let kept = earlier.filter(|key| key.expires_at.is_some_and(|expiry| now < expiry));
        let keys = std::iter::once(current).chain(kept);
        Self(keys.take(limits::SECRETS_PER_ENDPOINT_MAX).collect())
    }

    /// Verifies a body that came to a URL with this token in it. Compared in constant time by `subtle`.
    pub fn verify_token(&self, token: &str, body: Bytes, now: Timestamp) -> Result<Verified, Unverified> {
        let verification = Verification::CallbackToken;
        self.accepted(now)
            .any(|key| bool::from(key.secret.expose().as_bytes().ct_eq(token.as_bytes())))
            .then_some(Verified { body, verification })
            .ok_or(Unverified)
    }

    fn accepted(&self, now: Timestamp) -> impl Iterator<Item = &Key> {
        self.0
            .iter()
            .filter(move |key| key.expires_at.is_none_or(|expiry| now < expiry))
    }

    /// Verifies a body: one presented signature that matches under one accepted secret is enough.
    ///
    /// Whether a digest matches is decided by the `hmac` crate in constant time (`verify_slice`, on top of `subtle`);
    /// what varies with the input, decoding hexadecimal, depends on the presented value alone and not on the secret.
    pub fn verify(
        &self,
        presented: &[Presented<'_>],
        body: Bytes,
        now: Timestamp,
    ) -> Result<Verified, Unverified> {
        for key in self.accepted(now) {
            let mac = keyed(&key.secret).chain_update(&body);
            for candidate in presented {
                let Some(signature) = candidate.digest() else {
                    continue;
                };
                if mac.clone().verify_slice(&signature).is_ok() {
                    let verification = Verification::Signature {
                        header_name: ByteString::from_static(candidate.header_name),
                        signature,
                        secret_version: key.version,
                    };
                    return Ok(Verified { body, verification });
                }
            }
        }
        Err(Unverified)
    }
}

/// A body that is HeyGen's. Only a [`Keyring`] makes one.
#[derive(Debug)]
pub struct Verified {
    body: Bytes,
    verification: Verification,
}

impl Verified {
    /// The bytes and why they are believed.
    pub fn into_parts(self) -> (Bytes, Verification) {
        (self.body, self.verification)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_test_only_k7x9m2";
    const A: &str = r#"{"event_type":"avatar_video.success","event_data":{"video_id":"vid_xyz789","url":"https://files.heygen.ai/video/vid_xyz789.mp4","gif_download_url":null,"video_page_url":"https://app.heygen.com/videos/vid_xyz789","video_share_page_url":null,"folder_id":"","callback_id":"order_12345","callback_url":null}}"#;
    const SIGNATURE_OF_A: &str = "57059ecdd1eb1ad61306363dffcae0e0817f9139d8b267528d47cfbeb796d86f";

    fn keyring(secret: &str) -> Keyring {
        let secret = Secret::new(secret.to_owned()).unwrap();
        Keyring::new(vec![Key {
            version: 1,
            secret,
            since: Timestamp::UNIX_EPOCH,
            expires_at: None,
        }])
    }

    fn verify(secret: &str, body: &str, signature: &str) -> Result<Verified, Unverified> {
        let presented = [Presented {
            header_name: "signature",
            value: signature.as_bytes(),
        }];
        keyring(secret).verify(&presented, Bytes::from(body.to_owned()), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn verifies_every_known_vector() {
        let c = r#"{"event_id":"evt_abc123","event_type":"avatar_video.fail","event_data":{"video_id":"vid_xyz789","msg":"rendering timed out","callback_id":null},"created_at":"2026-03-25T12:05:00Z"}"#;
        let e = r#"{"event_type":"avatar_video.fail","event_data":{"video_id":"v1","msg":"Échec — 失敗","callback_id":null}}"#;
        assert_eq!((A.len(), c.len(), e.len()), (304, 180, 110));
        let vectors = [
            (SECRET, A.to_owned(), SIGNATURE_OF_A),
            (
                SECRET,
                format!("{A}\n"),
                "defb6a37f058a1a00c3c043b7aad9937921e429fc70fdfe581b25417f9c0b567",
            ),
            (
                "whsec_-_--AAECAwQFBgcICQoLDA==",
                A.to_owned(),
                "1a6f42b472de53e4da58f651b3e6752db712dd8f860b0ffecacd2fd2e2a22aa2",
            ),
            (
                SECRET,
                c.to_owned(),
                "83eb32476c823c04a2daaa4df4e452a67032155c7b0adcf0b7ba96b14c53893f",
            ),
            (
                SECRET,
                String::new(),
                "0101819b52441eeea3226b86940fb3424d049098eb61c435adf9e4b01cc22c14",
            ),
            (
                SECRET,
                e.to_owned(),
                "d55e7bea6d13f61443b4c6c5d77d477d37d7223c52fc2ab0c49f13638a722a01",
            ),
        ];
        for (secret, body, signature) in vectors {
            assert!(verify(secret, &body, signature).is_ok(), "{body:?}");
            assert!(
                verify(secret, &body, &signature.to_uppercase()).is_ok(),
                "{body:?} in upper case"
            );
            assert!(
                verify(secret, &body, &format!("sha256={signature}")).is_ok(),
                "{body:?} with a prefix"
            );
            assert!(
                verify("whsec_another", &body, signature).is_err(),
                "{body:?} under another secret"
            );
        }
    }

    #[test]
    fn refuses_every_forbidden_signature() {
        let forbidden = [
            (
                "a timestamp in front",
                "b3f43366907c3bbe8e3acd3b68f3636a90acc80081e6e546ebeed8cb522d12f8",
            ),
            (
                "the key without whsec_",
                "ae5bb24d4b3a140b1b41bfe521f439f8140fe47482a771ce3c3d4d21ff1c1ba3",
            ),
            (
                "the key with a newline",
                "247186c754509ced06e9998ee5e9988904c5d65d6ab831e333f2a56e1e70172d",
            ),
            ("HMAC-SHA1", "7a8e51b95e91983240d7223f1443dcfc9632b861"),
            (
                "sha256(secret + body)",
                "8bdd220e469f6999e1a1900a64725e3b0de3f8f3813b69115ae916bbaa270f36",
            ),
            ("base64", "VwWezdHrGtYTBjY9/8rg4IF/kTnYsmdSjUfPvreW2G8="),
            ("nothing", ""),
            (
                "one digit less",
                "57059ecdd1eb1ad61306363dffcae0e0817f9139d8b267528d47cfbeb796d86",
            ),
            (
                "one byte less",
                "57059ecdd1eb1ad61306363dffcae0e0817f9139d8b267528d47cfbeb796d8",
            ),
            (
                "twice",
                "57059ecdd1eb1ad61306363dffcae0e0817f9139d8b267528d47cfbeb796d86f57059ecd",
            ),
            (
                "two in one value",
                "57059ecdd1eb1ad61306363dffcae0e0817f9139d8b267528d47cfbeb796d86f,0",
            ),
            (
                "white space",
                " 57059ecdd1eb1ad61306363dffcae0e0817f9139d8b267528d47cfbeb796d86f",
            ),
        ];
        for (what, signature) in forbidden {
            assert!(verify(SECRET, A, signature).is_err(), "{what}");
        }
        assert!(
            verify(SECRET, &A.replace(":", ": "), SIGNATURE_OF_A).is_err(),
            "re-serialised JSON"
        );
    }

    #[test]
    fn one_signature_that_verifies_among_several_is_enough() {
        let presented = [
            Presented {
                header_name: "signature",
                value: b"garbage",
            },
            Presented {
                header_name: "heygen-signature",
                value: SIGNATURE_OF_A.as_bytes(),
            },
        ];
        let verified = keyring(SECRET)
            .verify(&presented, Bytes::from(A), Timestamp::UNIX_EPOCH)
            .unwrap();
        let verification = verified.into_parts().1;
        assert!(
            matches!(verification, Verification::Signature { header_name, .. } if header_name == "heygen-signature")
        );
    }

    #[test]
    fn secrets_of_before_are_accepted_for_the_overlap_or_their_own_time_and_then_forgotten() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let rotate = |keyring: &Keyring, second, overlap| {
            let secret = Secret::new(format!("whsec_of_second_{second}")).unwrap();
            keyring.rotated(secret, at(second), Duration::from_secs(overlap))
        };
        let told = |keyring: &Keyring| -> Vec<_> {
            let keys = keyring.keys().iter();
            keys.map(|key| (key.version, key.since, key.expires_at)).collect()
        };
        let first = rotate(&Keyring::new(Vec::new()), 10, 100);
        assert_eq!(told(&first), [(1, at(10), None)]);
        let second = rotate(&first, 20, 100);
        assert_eq!(told(&second), [(2, at(20), None), (1, at(10), Some(at(120)))]);
        // Its own time is the earlier one, and is kept.
        let third = rotate(&second, 50, 300);
        let of_second = (2, at(20), Some(at(350)));
        assert_eq!(
            told(&third),
            [(3, at(50), None), of_second, (1, at(10), Some(at(120)))]
        );
        // What expires at this moment is no longer accepted, and so not kept.
        let fourth = rotate(&third, 120, 1000);
        assert_eq!(
            told(&fourth),
            [(4, at(120), None), (3, at(50), Some(at(1120))), of_second]
        );
        assert_eq!(told(&rotate(&fourth, 130, 0)), [(5, at(130), None)]);
        let many = (0..20).fold(first, |keyring, second| rotate(&keyring, 10 + second, 1000));
        assert_eq!(many.keys().len(), limits::SECRETS_PER_ENDPOINT_MAX);
    }

    #[test]
    fn a_rotated_secret_verifies_until_it_expires() {
        let expires_at = Some(Timestamp::from_second(100).unwrap());
        let key = |version, secret: &str, expires_at| Key {
            version,
            secret: Secret::new(secret.to_owned()).unwrap(),
            since: Timestamp::UNIX_EPOCH,
            expires_at,
        };
        let keyring = Keyring::new(vec![key(2, "whsec_new", None), key(1, SECRET, expires_at)]);
        let presented = [Presented {
            header_name: "signature",
            value: SIGNATURE_OF_A.as_bytes(),
        }];
        let at = |second| {
            let now = Timestamp::from_second(second).unwrap();
            keyring
                .verify(&presented, Bytes::from(A), now)
                .map(|verified| match verified.into_parts().1 {
                    Verification::Signature { secret_version, .. } => secret_version,
                    other => panic!("{other:?}"),
                })
        };
        assert_eq!(at(99), Ok(1));
        assert_eq!(at(100), Err(Unverified));
    }

    #[test]
    fn signs_as_heygen_does() {
        let secret = Secret::new(SECRET.to_owned()).unwrap();
        assert_eq!(
            data_encoding::HEXLOWER.encode(&sign(&secret, A.as_bytes())),
            SIGNATURE_OF_A
        );
    }
}
