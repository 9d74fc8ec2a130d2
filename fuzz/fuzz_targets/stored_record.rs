//! A record as it may lie on a disk. Owns the claims that any bytes are an error or an event, that an event is read as it was
//! written, and that a record with one byte changed is an error, never another event.

#![no_main]

use bytes::Bytes;
use hookstream::{
    event::{NewEvent, Sequence, StoredEvent},
    log::fuzzing::{Damaged, decode, encode},
};
use hookstream_fuzz::{NOW, endpoint};
use libfuzzer_sys::fuzz_target;

const SEQUENCE: Sequence = Sequence::new(1);

fuzz_target!(|input: &[u8]| {
    let as_it_is = decode(SEQUENCE, Bytes::copy_from_slice(input));
    let as_content = decode(SEQUENCE, record(input));
    let as_body = NewEvent::from_history(endpoint(), Bytes::copy_from_slice(input), NOW);
    let read = [as_it_is, as_content].into_iter().flatten();
    for event in read.map(|stored| stored.event).chain([as_body]) {
        let record = encode(&event);
        let damaged = with_one_byte_changed(record.clone(), input);
        assert_eq!(decode(SEQUENCE, damaged.into()), Err(Damaged));
        let sequence = SEQUENCE;
        assert_eq!(
            decode(SEQUENCE, record.into()),
            Ok(StoredEvent { sequence, event })
        );
    }
});

/// A record with this content and the right check, for inputs cannot guess one.
fn record(content: &[u8]) -> Bytes {
    let check = crc32fast::hash(content).to_le_bytes();
    [&[1], check.as_slice(), content].concat().into()
}

/// The end of the input says which byte, and how it is changed.
fn with_one_byte_changed(mut record: Vec<u8>, input: &[u8]) -> Vec<u8> {
    let (at, change) = match input {
        [.., high, low, change] => (usize::from(u16::from_be_bytes([*high, *low])), *change),
        _ => (0, 1),
    };
    let at = at % record.len();
    record[at] ^= change.max(1);
    record
}
