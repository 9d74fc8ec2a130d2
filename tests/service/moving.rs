//! Taking a log into a file and out of one: what moves with it, what does not, and what is said of a file that is of no use.

use std::{fs, path::Path, sync::Arc};

use hookstream::{
    event_type::EVENT_TYPES,
    grpc::proto::{Event, subscribe_events_response::Frame},
};
use tempfile::TempDir;
use tonic::Code;

use crate::{
    harness::{Hookstream, SEALING_KEY, after, body, reason, run},
    nats::Nats,
};

/// A service with an event of every type, and more of one.
async fn filled() -> Hookstream {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    for (number, known) in EVENT_TYPES.iter().enumerate() {
        assert_eq!(sender.deliver(body(known.name, number as u64)).await, 200);
    }
    for number in 100..200 {
        assert_eq!(sender.deliver(body("avatar_video.fail", number)).await, 200);
    }
    service
}

fn export(service: &Hookstream, file: &Path) -> String {
    let server = format!("http://{}", service.grpc);
    let (status, _, error) = run(&["log", "export", file.to_str().unwrap(), "--server", &server]);
    assert!(status.success(), "{error}");
    error
}

fn import(file: &Path, directory: &Path, flags: &[&str]) -> (bool, String) {
    let data = directory.join("data");
    let paths = [file.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
    let (status, _, error) = run(&[&["log", "import"], &paths[..], flags].concat());
    (status.success(), error)
}

/// The same events, but for what belongs to the log that they are in.
fn assert_same(found: Vec<Event>, expected: Vec<Event>) {
    assert_eq!(found.len(), expected.len());
    let bare = |event: Event| Event {
        cursor: String::new(),
        sequence: 0,
        ..event
    };
    for (found, expected) in found.into_iter().zip(expected) {
        assert_eq!(bare(found), bare(expected));
    }
}

#[tokio::test]
async fn a_log_goes_into_a_file_and_out_of_it_with_every_event_as_it_was() {
    let service = filled().await;
    let stored = service.stored().await;
    let cursor = stored[10].cursor.clone();
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let file = directory.path().join("events.hookstream");
    assert!(export(&service, &file).contains("exported 130 events"));
    // Nothing that is there is written over.
    let server = format!("http://{}", service.grpc);
    let (status, _, error) = run(&["log", "export", file.to_str().unwrap(), "--server", &server]);
    assert!(!status.success() && error.contains("is there already"), "{error}");

    let (done, said) = import(&file, directory.path(), &[]);
    assert!(
        done && said.contains("imported 130 events; 0 were there already"),
        "{said}"
    );
    // Again it adds nothing.
    let (done, said) = import(&file, directory.path(), &[]);
    assert!(
        done && said.contains("imported 0 events; 130 were there already"),
        "{said}"
    );
    let restored = Hookstream::start_in(directory, &[], &Default::default());
    assert_same(restored.stored().await, stored);
    // It is another log.
    let refused = restored.client().await.subscribe_events(after(&cursor)).await;
    let status = match refused {
        Err(status) => status,
        Ok(frames) => frames.into_inner().message().await.unwrap_err(),
    };
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::FailedPrecondition, "CURSOR_OF_ANOTHER_LOG".into())
    );
}

#[tokio::test]
async fn what_cannot_be_imported_is_said_and_what_was_good_of_it_stays() {
    let service = filled().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("events.hookstream");
    export(&service, &file);
    let whole = fs::read(&file).unwrap();
    let changed = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let place = |name: &str| directory.path().join(name);

    let foreign = changed("foreign", b"{\"id\": \"evt_1\"}\n");
    let (done, said) = import(&foreign, &place("a"), &[]);
    assert!(!done && said.contains("no file of events"), "{said}");

    let cut = changed("cut", &whole[..whole.len() / 2]);
    let (done, said) = import(&cut, &place("b"), &[]);
    assert!(!done && said.contains("it was cut after"), "{said}");
    // The whole file goes on from there.
    let (done, said) = import(&file, &place("b"), &[]);
    assert!(
        done && !said.contains("imported 130") && !said.contains("; 0 were"),
        "{said}"
    );

    let mut damaged = whole.clone();
    // Inside an event: a length that is damaged may look like a cut.
    let half = damaged.len() / 2;
    let word = b"event_type";
    let within = damaged[half..]
        .windows(word.len())
        .position(|bytes| bytes == word)
        .unwrap();
    damaged[half + within] ^= 1;
    let damaged = changed("damaged", &damaged);
    let (done, said) = import(&damaged, &place("c"), &[]);
    assert!(!done && said.contains("it is damaged after"), "{said}");

    // A log with newer events of its own is no place for older ones.
    let other = Hookstream::start();
    let sender = other.endpoint("dev").await;
    assert_eq!(sender.deliver(body("avatar_video.success", 1)).await, 200);
    // One whose service runs is not touched at all.
    let (done, said) = import(&file, other.data_dir().parent().unwrap(), &[]);
    assert!(!done && said.contains("in use by another hookstream"), "{said}");
    let kept = other.drain();
    let (done, said) = import(&file, kept.path(), &[]);
    assert!(!done && said.contains("the log has events newer than"), "{said}");
}

#[tokio::test]
#[ignore = "needs nats-server: see tests/run"]
async fn a_log_moves_into_jetstream_and_back() {
    let service = filled().await;
    let stored = service.stored().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("events.hookstream");
    export(&service, &file);
    let nats = Nats::start(1, "", "");
    let key = directory.path().join("key");
    fs::write(&key, SEALING_KEY).unwrap();
    let url = nats.url();
    let engine = [
        "--log",
        "jetstream",
        "--jetstream-url",
        &url,
        "--sealing-key-file",
        key.to_str().unwrap(),
    ];
    let (done, said) = import(&file, &directory.path().join("copy"), &engine);
    assert!(done && said.contains("imported 130 events"), "{said}");
    let replica = crate::cluster::replica(&nats, Arc::new(TempDir::new().unwrap()));
    assert_same(replica.stored().await, stored);
    let back = directory.path().join("back.hookstream");
    export(&replica, &back);
    let (done, said) = import(&back, &directory.path().join("back"), &[]);
    assert!(done && said.contains("imported 130 events"), "{said}");
}

#[tokio::test]
async fn an_export_is_read_by_whoever_has_the_interface() {
    use prost::Message;
    let service = filled().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("events.hookstream");
    export(&service, &file);
    let bytes = fs::read(&file).unwrap();
    let mut rest = bytes.strip_prefix(b"hookstream events 1\n").unwrap();
    let mut events = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>()
        && *length != [0; 4]
    {
        let (content, after) = after[4..].split_at(u32::from_le_bytes(*length) as usize);
        events.push(Event::decode(content).unwrap());
        rest = after;
    }
    assert_eq!(events, service.stored().await);
    let mut stream = service.subscribe(after(&events[128].cursor)).await;
    let Some(Frame::Event(next)) = stream.frame().await.unwrap() else {
        panic!("no event")
    };
    assert_eq!(next, events[129]);
}
