//! A cursor or an ack id from anybody. Owns the claim that what is read as one is exactly what the service would have
//! written.

#![no_main]

use hookstream::{
    cursor::{AckId, Cursor, PageToken},
    event::{LogId, Sequence},
};
use hookstream_fuzz::token;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = str::from_utf8(input) {
        read(text);
        read_ack_id(text);
    }
    let content = &input[..input.len().min(64)];
    assert_eq!(
        read_ack_id(&token(content)),
        content.len() == 33 && content[0] == 3
    );
    assert_eq!(read(&token(content)), content.len() == 17 && content[0] == 1);
    if let ([log_id, sequence, ..], _) = input.as_chunks::<8>() {
        let cursor = Cursor {
            log_id: LogId::new(u64::from_be_bytes(*log_id)),
            sequence: Sequence::new(u64::from_be_bytes(*sequence)),
        };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
    }
});

/// Whether a text is a cursor.
fn read(text: &str) -> bool {
    let Ok(cursor) = text.parse::<Cursor>() else {
        return false;
    };
    assert_eq!(cursor.to_string(), text);
    assert!(text.parse::<PageToken>().is_err() && text.parse::<AckId>().is_err());
    true
}

/// Whether a text is an ack id.
fn read_ack_id(text: &str) -> bool {
    let Ok(id) = text.parse::<AckId>() else {
        return false;
    };
    assert_eq!(id.to_string(), text);
    true
}
