//! A delivery's way once HTTP is done: signed, verified, read, published. The input is the body. Owns the claims that every
//! signed body becomes an event, JSON or not, and that clients get exactly the bytes that came.

#![no_main]

use bytes::Bytes;
use data_encoding::HEXLOWER;
use hookstream::{
    event::NewEvent,
    grpc::proto::{DecodeStatus, Origin, VerificationMethod},
    log::fuzzing::Subject,
    signature::{self, Key, Keyring, Presented},
};
use hookstream_fuzz::{NOW, endpoint, published, secret};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

fuzz_target!(|body: &[u8]| {
    let key = Key {
        version: 3,
        secret: secret("whsec_test_only_k7x9m2"),
        since: NOW,
        expires_at: None,
    };
    let signature = HEXLOWER.encode(&signature::sign(&key.secret, body));
    let presented = Presented {
        header_name: "signature",
        value: signature.as_bytes(),
    };
    let delivery = Keyring::new(vec![key]).verify(&[presented], Bytes::copy_from_slice(body), NOW);
    let event = NewEvent::from_delivery(endpoint(), delivery.expect("it is signed"), NOW);

    let entry = NewEvent::from_history(endpoint(), event.body.clone(), NOW);
    assert_eq!((event.id, &event.keys), (entry.id, &entry.keys));
    assert_eq!(Subject::of(&event), Subject::of(&entry));

    let (event, _) = published(event);
    assert_eq!(event.raw_body, body);
    let is_json = serde_json::from_slice::<&RawValue>(body).is_ok();
    assert_eq!(event.decode_status() != DecodeStatus::NotJson, is_json);
    assert_eq!(event.origin(), Origin::Webhook);
    let verification = event.verification.expect("it says how it was verified");
    assert_eq!(verification.method(), VerificationMethod::Signature);
    assert_eq!(verification.signature, signature);
});
