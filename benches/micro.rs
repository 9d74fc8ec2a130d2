//! What one step of a delivery's way costs by itself. Owns the measures of pure functions; anything with a socket or a
//! disk in it is measured in `end_to_end`.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark stops at what it does not expect"
)]

use bytes::Bytes;
use data_encoding::HEXLOWER;
use divan::{Bencher, black_box, counter::ItemsCount};
use hookstream::{
    cursor::Cursor,
    decode::Envelope,
    event::{Keys, LogId, NewEvent, Sequence, StoredEvent},
    filter::Filter,
    grpc::EventEncoder,
    hub::Encode,
    samples,
    secret::Secret,
    signature::{self, Key, Keyring, Presented},
};
use jiff::Timestamp;

/// The delivery that HeyGen documents: 304 bytes.
const BODY: &str = r#"{"event_type":"avatar_video.success","event_data":{"video_id":"vid_xyz789","url":"https://files.heygen.ai/video/vid_xyz789.mp4","gif_download_url":null,"video_page_url":"https://app.heygen.com/videos/vid_xyz789","video_share_page_url":null,"folder_id":"","callback_id":"order_12345","callback_url":null}}"#;

/// Types whose samples are small, typical, and large with nested parts.
const TYPES: [&str; 3] = ["avatar_video.fail", "avatar_video.success", "ai_clipping.success"];

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

#[divan::bench]
fn verify_signature(bencher: Bencher) {
    let (secret, body) = (secret(), Bytes::from_static(BODY.as_bytes()));
    let signature = HEXLOWER.encode(&signature::sign(&secret, &body));
    let keyring = keyring(secret);
    let presented = [Presented {
        header_name: "signature",
        value: signature.as_bytes(),
    }];
    bencher.bench(|| {
        keyring
            .verify(black_box(&presented), body.clone(), Timestamp::UNIX_EPOCH)
            .unwrap()
    });
}

#[divan::bench]
fn read_envelope(bencher: Bencher) {
    bencher.bench(|| Envelope::of(black_box(BODY.as_bytes())));
}

#[divan::bench(args = TYPES)]
fn encode_event(bencher: Bencher, event_type: &str) {
    let encoder = EventEncoder::new(LogId::new(7)).unwrap();
    let event = stored(samples::body(event_type, 1));
    bencher
        .counter(ItemsCount::new(1_usize))
        .bench(|| encoder.encode(black_box(&event)));
}

/// By type, by family, by one of a hundred entities, and by one that does not match.
#[divan::bench(args = ["type", "family", "entities", "other"])]
fn match_filter(bencher: Bencher, kind: &str) {
    let keys: Keys = stored(BODY.to_owned()).event.keys;
    let filter = match kind {
        "type" => filter(&["avatar_video.success"], vec![]),
        "family" => filter(&["avatar_video.*"], vec![]),
        "entities" => {
            let others = (1..100).map(|number| format!("vid_{number}"));
            filter(&[], others.chain([keys.entity_id.to_string()]).collect())
        }
        _ => filter(&["video_agent.success"], vec![]),
    };
    bencher.bench(|| black_box(&filter).matches(black_box(&keys)));
}

#[divan::bench]
fn write_cursor(bencher: Bencher) {
    let cursor = cursor();
    bencher.bench(|| black_box(&cursor).to_string());
}

#[divan::bench]
fn read_cursor(bencher: Bencher) {
    let text = cursor().to_string();
    bencher.bench(|| black_box(&text).parse::<Cursor>().unwrap());
}

fn cursor() -> Cursor {
    Cursor {
        log_id: LogId::new(0x0123_4567_89ab_cdef),
        sequence: Sequence::new(1_234_567),
    }
}

fn filter(event_types: &[&str], entity_ids: Vec<String>) -> Filter {
    let event_types: Vec<_> = event_types.iter().map(|&name| name.to_owned()).collect();
    Filter::parse(&event_types, entity_ids, vec![], vec![]).unwrap()
}

fn secret() -> Secret {
    Secret::new("whsec_test_only_k7x9m2".to_owned()).unwrap()
}

fn keyring(secret: Secret) -> Keyring {
    Keyring::new(vec![Key {
        version: 1,
        secret,
        since: Timestamp::UNIX_EPOCH,
        expires_at: None,
    }])
}

fn stored(body: String) -> StoredEvent {
    let (secret, body) = (secret(), Bytes::from(body));
    let signature = HEXLOWER.encode(&signature::sign(&secret, &body));
    let presented = [Presented {
        header_name: "signature",
        value: signature.as_bytes(),
    }];
    let delivery = keyring(secret)
        .verify(&presented, body, Timestamp::UNIX_EPOCH)
        .unwrap();
    StoredEvent {
        sequence: Sequence::new(1),
        event: NewEvent::from_delivery("dev".parse().unwrap(), delivery, Timestamp::UNIX_EPOCH),
    }
}
