//! A page token from anybody. Owns the claim that what is read as one is exactly what the service would have written.

#![no_main]

use hookstream::{
    cursor::{Cursor, PageToken},
    event::{LogId, Sequence},
};
use hookstream_fuzz::token;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = str::from_utf8(input) {
        read(text);
    }
    let content = &input[..input.len().min(64)];
    assert_eq!(read(&token(content)), content.len() == 25 && content[0] == 2);
    if let ([log_id, position, question, ..], _) = input.as_chunks::<8>() {
        let token = PageToken {
            log_id: LogId::new(u64::from_be_bytes(*log_id)),
            position: Sequence::new(u64::from_be_bytes(*position)),
            question: u64::from_be_bytes(*question),
        };
        assert_eq!(token.to_string().parse(), Ok(token));
    }
});

/// Whether a text is a page token.
fn read(text: &str) -> bool {
    let Ok(token) = text.parse::<PageToken>() else {
        return false;
    };
    assert_eq!(token.to_string(), text);
    assert!(text.parse::<Cursor>().is_err());
    true
}
