//! Taking a log into a file, out of one, and into another storage: what moves with it, what does not, and what is said of what
//! is of no use.

use std::{fs, path::Path, sync::Arc};

use hookstream::{
    event_type::EVENT_TYPES,
    grpc::proto::{
        AcknowledgementResult::Accepted, DeadLetterReason, Event, Subscription,
        subscribe_events_response::Frame,
    },
    secret::Secret,
};
use tempfile::TempDir;
use tonic::Code;

use crate::{
    harness::{
        Hookstream, SEALING_KEY, Sender, about, acknowledge, after, body, done, number, part_in, reason,
        reject, run,
    },
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

/// A service whose subscription has settled some of its events, put one aside and has others under way; and who delivers.
async fn at_work() -> (Hookstream, Sender) {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    let terms = Subscription {
        labels: [("team".to_owned(), "video".to_owned())].into(),
        ..Subscription::default()
    };
    service.subscription("work", terms).await;
    let server = format!("http://{}", service.grpc);
    let create = [
        "token",
        "create",
        "reader",
        "--scope",
        "events:read",
        "--server",
        &server,
    ];
    let (status, _, error) = run(&create);
    assert!(status.success(), "{error}");
    for number in 0..10 {
        assert_eq!(sender.deliver(about("video", number)).await, 200);
    }
    let mut stream = service.subscribe(part_in("work")).await;
    let deliveries = stream.deliveries(10).await;
    let mut client = service.client().await;
    for (numbers, outcome) in [(&[0, 1, 2, 3, 6][..], done()), (&[4], reject())] {
        let ack_ids = numbers.iter().map(|&number| deliveries[number].ack_id.clone());
        let results = acknowledge(&mut client, "work", ack_ids.collect(), outcome).await;
        assert!(results.unwrap().iter().all(|result| *result == Accepted));
    }
    (service, sender)
}

/// Flags for a log in these servers, with the sealing key in a file of this directory.
fn in_jetstream(nats: &Nats, directory: &Path) -> [String; 6] {
    let key = directory.join("key");
    fs::write(&key, SEALING_KEY).unwrap();
    let key = key.to_str().unwrap();
    [
        "--log",
        "jetstream",
        "--jetstream-url",
        &nats.url(),
        "--sealing-key-file",
        key,
    ]
    .map(str::to_owned)
}

/// Copies what a service stored, with these flags; the exit code, and what was said.
fn copy(service: &Path, directory: &Path, flags: &[&str]) -> (Option<i32>, String) {
    let from = directory.join("from.toml");
    fs::write(&from, format!("data-dir = {service:?}\n")).unwrap();
    let data = directory.join("data");
    let paths = [
        "--from",
        from.to_str().unwrap(),
        "--data-dir",
        data.to_str().unwrap(),
    ];
    let (status, _, error) = run(&[&["log", "copy"], &paths[..], flags].concat());
    (status.code(), error)
}

/// That a service took over what `at_work` left, with an event 10, and goes on.
async fn assert_goes_on(moved: &Hookstream, secret: &Secret) {
    let sender = moved.sender("dev", secret.expose());
    // What was there is there, also as a duplicate, and what comes comes.
    assert_eq!(sender.deliver(about("video", 3)).await, 200);
    assert_eq!(sender.deliver(about("video", 11)).await, 200);
    let stored: Vec<_> = moved.stored().await.iter().map(number).collect();
    assert_eq!(stored, (0..12).collect::<Vec<_>>());
    let mut stream = moved.subscribe(part_in("work")).await;
    let mut handed_out: Vec<_> = stream
        .deliveries(6)
        .await
        .iter()
        .map(|delivery| number(&delivery.event))
        .collect();
    handed_out.sort_unstable();
    assert_eq!(handed_out, [5, 7, 8, 9, 10, 11]);
    stream.silence().await;
    let put_aside = moved.dead_letters("work").await;
    let put_aside: Vec<_> = put_aside
        .iter()
        .map(|(event, letter)| (number(event), letter.attempts, letter.reason()))
        .collect();
    assert_eq!(put_aside, [(4, 1, DeadLetterReason::Rejected)]);
    let server = format!("http://{}", moved.grpc);
    for (command, expected) in [
        (&["subscription", "get", "work"][..], "team"),
        (&["token", "list"], "reader"),
        (&["audit"], "ManageSubscription.create"),
    ] {
        let (status, said, error) = run(&[command, &["--server", &server]].concat());
        assert!(status.success() && said.contains(expected), "{said}{error}");
    }
}

async fn assert_refused_of_another_log(service: &Hookstream, cursor: &str) {
    let refused = service.client().await.subscribe_events(after(cursor)).await;
    let status = match refused {
        Err(status) => status,
        Ok(frames) => frames.into_inner().message().await.unwrap_err(),
    };
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::FailedPrecondition, "CURSOR_OF_ANOTHER_LOG".into())
    );
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
    assert_refused_of_another_log(&restored, &cursor).await;
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
    let engine = in_jetstream(&nats, directory.path());
    let engine = engine.each_ref().map(String::as_str);
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

#[tokio::test]
async fn a_copy_takes_events_while_the_service_runs_and_the_rest_when_it_has_stopped() {
    let (service, sender) = at_work().await;
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let data = service.data_dir();
    let (code, said) = copy(&data, directory.path(), &[]);
    assert_eq!(code, Some(3), "{said}");
    assert!(
        said.contains("events: 10 copied") && said.contains("Stop it and repeat this command"),
        "{said}"
    );
    assert_eq!(sender.deliver(about("video", 10)).await, 200);
    let cursor = service.stored().await[4].cursor.clone();
    let _kept = service.drain();

    let (code, said) = copy(&data, directory.path(), &[]);
    assert_eq!(code, Some(0), "{said}");
    for expected in [
        "events: 1 copied",
        "endpoints: 1 copied",
        "tokens: 1 copied",
        "subscriptions: 1 copied",
    ] {
        assert!(said.contains(expected), "{said}");
    }
    // Again it copies nothing, and changes nothing.
    let (code, said) = copy(&data, directory.path(), &[]);
    assert_eq!(code, Some(0), "{said}");
    for expected in [
        "events: 0 copied",
        "endpoints: 0 copied, 1 were there",
        "tokens: 0 copied, 1 were there",
    ] {
        assert!(said.contains(expected), "{said}");
    }
    let moved = Hookstream::start_in(directory, &[], &Default::default());
    assert_goes_on(&moved, &sender.secret).await;
    assert_refused_of_another_log(&moved, &cursor).await;
}

#[tokio::test]
#[ignore = "needs nats-server: see tests/run"]
async fn a_copy_goes_into_jetstream_and_back() {
    let (service, sender) = at_work().await;
    assert_eq!(sender.deliver(about("video", 10)).await, 200);
    let data = service.data_dir();
    let _kept = service.drain();
    let nats = Nats::start(3, "", "");
    let (there, back) = (
        Arc::new(TempDir::new().unwrap()),
        Arc::new(TempDir::new().unwrap()),
    );
    let engine = in_jetstream(&nats, there.path());
    let [.., url, _, key] = &engine;
    let engine = engine.each_ref().map(String::as_str);
    let (code, said) = copy(&data, there.path(), &engine);
    assert_eq!(code, Some(0), "{said}");
    let replica = crate::cluster::replica(&nats, Arc::clone(&there));
    assert_goes_on(&replica, &sender.secret).await;

    // As long as a replica runs, only events come.
    let from = back.path().join("from.toml");
    let aside = back.path().join("aside");
    let settings = format!(
        "data-dir = {aside:?}\nlog = \"jetstream\"\njetstream-url = {url:?}\nsealing-key-file = {key:?}\n"
    );
    fs::write(&from, settings).unwrap();
    let into = back.path().join("data");
    let copy_back = [
        "log",
        "copy",
        "--from",
        from.to_str().unwrap(),
        "--data-dir",
        into.to_str().unwrap(),
    ];
    let (status, _, said) = run(&copy_back);
    assert_eq!(status.code(), Some(3), "{said}");
    replica.drain();
    let (status, _, said) = run(&copy_back);
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(
        said.contains("events: 0 copied") && said.contains("subscriptions: 1 copied"),
        "{said}"
    );
    let moved = Hookstream::start_in(back, &[], &Default::default());
    let stored: Vec<_> = moved.stored().await.iter().map(number).collect();
    assert_eq!(stored, (0..12).collect::<Vec<_>>());
    // Nothing was acknowledged there, so all of it comes again.
    let mut stream = moved.subscribe(part_in("work")).await;
    assert_eq!(stream.deliveries(6).await.len(), 6);
    assert_eq!(moved.dead_letters("work").await.len(), 1);
}

#[tokio::test]
async fn what_cannot_be_copied_is_said_and_nothing_is_made_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = directory.path().join("nowhere");
    let (code, said) = copy(&nowhere, directory.path(), &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("there is no log in") && !nowhere.exists(), "{said}");
    let (code, said) = copy(&directory.path().join("data"), directory.path(), &[]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("both where it is copied from and where it goes"),
        "{said}"
    );

    // A log with newer events of its own is no place for a copy.
    let service = filled().await;
    let data = service.data_dir();
    let other = Hookstream::start();
    let sender = other.endpoint("dev").await;
    assert_eq!(sender.deliver(body("avatar_video.success", 1)).await, 200);
    let (code, said) = copy(&data, other.data_dir().parent().unwrap(), &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("in use by another hookstream"), "{said}");
    let kept = other.drain();
    let (code, said) = copy(&data, kept.path(), &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("the log has events newer than"), "{said}");
}
