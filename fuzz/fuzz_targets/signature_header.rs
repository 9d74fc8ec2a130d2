//! A signature from anybody: the first line of the input is a header's value, the rest the body. Owns the claims that a
//! delivery is verified if its signature is the HMAC of its body under an accepted secret, and only then.

#![no_main]

use std::time::Duration;

use bytes::Bytes;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use hookstream::{
    event::Verification,
    signature::{self, Key, Keyring, Presented},
};
use hookstream_fuzz::{NOW, secret};
use libfuzzer_sys::fuzz_target;

const CURRENT: &str = "whsec_test_only_k7x9m2";
const EARLIER: &str = "whsec_-_--AAECAwQFBgcICQoLDA==";
const EXPIRED: &str = "whsec_expired";

fuzz_target!(|input: &[u8]| {
    let line_end = input.iter().position(|&byte| byte == b'\n');
    let (value, body) = line_end.map_or((input, &[][..]), |at| (&input[..at], &input[at + 1..]));
    let signatures = [CURRENT, EARLIER, EXPIRED].map(|text| signature::sign(&secret(text), body));
    let accepted = &signatures[..2];

    let spelled = HEXLOWER_PERMISSIVE.decode(value.strip_prefix(b"sha256=").unwrap_or(value));
    let genuine = spelled.is_ok_and(|spelled| accepted.iter().any(|signature| spelled == signature));
    assert_eq!(verify(&[value], body).is_some(), genuine);

    for (version, signature) in [2, 1].into_iter().zip(accepted) {
        let decorated = decorated(signature, value);
        assert_eq!(verify(&[&decorated], body), Some((version, *signature)));
        if !genuine {
            assert_eq!(verify(&[value, &decorated], body), Some((version, *signature)));
        }
        assert_eq!(verify(&[&with_one_digit_changed(decorated, value)], body), None);
    }
    assert_eq!(verify(&[&decorated(&signatures[2], value)], body), None);
});

/// The version of the secret and the signature that verified a body, if one did.
fn verify(values: &[&[u8]], body: &[u8]) -> Option<(u32, [u8; 32])> {
    let key = |version, text, expires_at| Key {
        version,
        secret: secret(text),
        since: NOW,
        expires_at,
    };
    let keyring = Keyring::new(vec![
        key(2, CURRENT, None),
        key(1, EARLIER, Some(NOW + Duration::from_secs(1))),
        key(0, EXPIRED, Some(NOW)),
    ]);
    let presented: Vec<_> = values
        .iter()
        .map(|value| Presented {
            header_name: "signature",
            value,
        })
        .collect();
    let verified = keyring
        .verify(&presented, Bytes::copy_from_slice(body), NOW)
        .ok()?;
    let (kept, verification) = verified.into_parts();
    assert_eq!(kept, body);
    let Verification::Signature {
        signature,
        secret_version,
        ..
    } = verification
    else {
        panic!("{verification:?}")
    };
    Some((secret_version, signature))
}

/// A signature in one of the forms that are taken: `bits` tell which digits are in upper case, and whether a prefix is there.
fn decorated(signature: &[u8; 32], bits: &[u8]) -> Vec<u8> {
    let is_set = |at: usize| bits.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1);
    let mut digits = HEXLOWER.encode(signature).into_bytes();
    for (at, digit) in (1..).zip(&mut digits) {
        if is_set(at) {
            digit.make_ascii_uppercase();
        }
    }
    let prefix: &[u8] = if is_set(0) { b"sha256=" } else { b"" };
    [prefix, &digits].concat()
}

fn with_one_digit_changed(mut value: Vec<u8>, bits: &[u8]) -> Vec<u8> {
    let at = value.len() - 1 - usize::from(bits.last().copied().unwrap_or_default() % 64);
    value[at] = if value[at] == b'0' { b'1' } else { b'0' };
    value
}
