//! A file of events as anybody may have made it. Owns the claims that any bytes are read to an end or an error without more
//! memory than they have, and that what is read of them, written again, is read the same.

#![no_main]

use hookstream::archive::{Reader, Writer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let file = [b"hookstream events 1\n", input].concat();
    let (events, _) = read(&file);
    let mut writer = Writer::begin(Vec::new()).unwrap();
    events.iter().for_each(|event| writer.write(event).unwrap());
    let (again, is_whole) = read(&writer.end().unwrap());
    assert_eq!((again, is_whole), (events, true));
});

/// The events before the end or the first error, and whether it was the end.
fn read(file: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let mut reader = Reader::begin(file).unwrap();
    let mut events = Vec::new();
    loop {
        match reader.next_event() {
            Ok(Some(event)) => events.push(event.to_vec()),
            Ok(None) => return (events, true),
            Err(_) => return (events, false),
        }
    }
}
