//! Several replicas on one stream of NATS servers. Claims that they are one service: whichever of them, and whichever server,
//! dies. Needs nats-server, so `tests/run` runs it and a plain `cargo test` does not.
//!
//! `HOOKSTREAM_FAULTS` sets the number of faults (12 if unset), `HOOKSTREAM_SEED` the seed, which is printed.

use std::{
    collections::HashMap,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hookstream::{
    grpc::proto::{
        manage_endpoint_request::{Create, Operation},
        subscribe_events_response::Frame,
    },
    secret::Secret,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use crate::{
    crash::seen,
    fleet::{Addresses, Fleet},
    harness::{
        FREE_PORTS, Hookstream, SEALING_KEY, Sender, after, binary, body, from_environment, from_start, http,
        manage, reason, until,
    },
    history::{History, violations},
    link::Link,
    nats::Nats,
};

pub const SECRET: &str = "whsec_the_same_at_every_replica";

/// A replica in this directory.
pub fn replica(nats: &Nats, directory: Arc<TempDir>) -> Hookstream {
    replica_with(nats, directory, &[], &[])
}

/// A replica that reaches its servers through links.
pub fn replica_through(links: &[Link], directory: Arc<TempDir>) -> Hookstream {
    let urls: Vec<_> = links
        .iter()
        .map(|link| format!("nats://{}", link.address))
        .collect();
    replica_at(&urls.join(","), directory, &[], &[])
}

/// The same with more flags and variables.
pub fn replica_with(
    nats: &Nats,
    directory: Arc<TempDir>,
    flags: &[&str],
    variables: &[(&'static str, &str)],
) -> Hookstream {
    replica_at(&nats.url(), directory, flags, variables)
}

pub fn replica_at(
    url: &str,
    directory: Arc<TempDir>,
    flags: &[&str],
    variables: &[(&'static str, &str)],
) -> Hookstream {
    let mut all_flags = vec!["--log", "jetstream", "--jetstream-url", url];
    all_flags.extend(flags);
    let mut all_variables = HashMap::from([("HOOKSTREAM_SEALING_KEY", SEALING_KEY.to_owned())]);
    all_variables.extend(variables.iter().map(|&(name, value)| (name, value.to_owned())));
    Hookstream::start_in(directory, &all_flags, &all_variables)
}

/// A new replica, and the endpoint that all of them have.
async fn new_replica(nats: &Nats) -> Hookstream {
    let service = replica(nats, Arc::new(tempfile::tempdir().unwrap()));
    with_endpoint(&service).await;
    service
}

/// Makes the endpoint, unless it is there.
pub async fn with_endpoint(service: &Hookstream) {
    let create = Create {
        name: "dev".to_owned(),
        secret: SECRET.to_owned(),
        ..Create::default()
    };
    match manage(&mut service.client().await, Operation::Create(create)).await {
        Ok(_) => {}
        Err(status) => assert_eq!(reason(&status), "ENDPOINT_EXISTS"),
    }
}

/// What the commands say that a service cannot start for.
pub fn refusal(flags: &[&str]) -> String {
    refusal_with(flags, &[("HOOKSTREAM_SEALING_KEY", SEALING_KEY)])
}

/// The same with these variables.
pub fn refusal_with(flags: &[&str], variables: &[(&str, &str)]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(binary())
        .arg("serve")
        .args(FREE_PORTS)
        .args(["--log", "jetstream", "--data-dir"])
        .arg(directory.path().join("data"))
        .envs(variables.iter().copied())
        .args(flags)
        .output()
        .unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
#[ignore = "needs nats-server: see tests/run"]
async fn a_cursor_goes_on_at_another_replica_with_nothing_missed_and_nothing_repeated() {
    let nats = Nats::start(1, "", "");
    let (one, other) = (new_replica(&nats).await, new_replica(&nats).await);
    for number in 0..40 {
        let service = if number % 2 == 0 { &one } else { &other };
        let body = body("avatar_video.success", number);
        assert_eq!(service.sender("dev", SECRET).deliver(body.clone()).await, 200);
        // The same at the other one is the same event.
        let elsewhere = if number % 2 == 0 { &other } else { &one };
        assert_eq!(elsewhere.sender("dev", SECRET).deliver(body).await, 200);
    }
    let mut stream = one.subscribe(from_start()).await;
    let mut received = Vec::new();
    let mut cursor = String::new();
    for _ in 0..25 {
        let event = stream.event().await;
        cursor.clone_from(&event.cursor);
        received.push(seen(event));
    }
    drop(one.kill());
    let mut stream = other.subscribe(after(&cursor)).await;
    for _ in 0..15 {
        received.push(seen(stream.event().await));
    }
    let stored: Vec<_> = other.stored().await.into_iter().map(seen).collect();
    assert_eq!(received, stored);
    assert_eq!(stored.len(), 40);
}

#[tokio::test]
#[ignore = "needs nats-server: see tests/run"]
async fn a_lost_copy_is_made_anew_with_the_same_events_under_the_same_sequences() {
    let nats = Nats::start(1, "", "");
    let service = new_replica(&nats).await;
    let sender = service.sender("dev", SECRET);
    for number in 0..30 {
        assert_eq!(sender.deliver(body("avatar_video.fail", number)).await, 200);
    }
    let before: Vec<_> = service.stored().await.into_iter().map(seen).collect();
    let directory = service.drain();
    std::fs::remove_dir_all(directory.path().join("data/jetstream")).unwrap();
    let service = replica(&nats, directory);
    let after: Vec<_> = service.stored().await.into_iter().map(seen).collect();
    assert_eq!(after, before);
    service.drain();
}

#[tokio::test]
#[ignore = "needs nats-server: see tests/run"]
async fn without_its_servers_a_replica_refuses_deliveries_and_serves_what_it_has() {
    let mut nats = Nats::start(1, "", "");
    let service = new_replica(&nats).await;
    let sender = service.sender("dev", SECRET);
    assert_eq!(sender.deliver(body("avatar_video.fail", 1)).await, 200);
    nats.kill_server(0);
    let not_ready = async || service.admin("/readyz").await.0 == 503;
    until("the replica is not ready", not_ready).await;
    assert_eq!(sender.deliver(body("avatar_video.fail", 2)).await, 503);
    assert_eq!(service.stored().await.len(), 1);
    nats.start_server(0);
    let ready = async || service.admin("/readyz").await.0 == 200;
    until("the replica is ready again", ready).await;
    let stored = async || sender.deliver(body("avatar_video.fail", 2)).await == 200;
    until("the delivery is stored", stored).await;
    until("it is taken in", async || service.stored().await.len() == 2).await;
}

#[tokio::test]
#[ignore = "needs nats-server: see tests/run"]
async fn without_a_majority_of_its_servers_a_replica_is_not_ready_until_it_is_back() {
    let mut nats = Nats::start(3, "", "");
    let service = new_replica(&nats).await;
    let in_step = "hookstream_log_servers_in_step";
    until("all servers are in step", async || {
        service.metric(in_step).await == 3.0
    })
    .await;
    let (_, text) = service.admin("/readyz").await;
    assert!(
        text.contains("acknowledged by 2 of 3 NATS servers (3 are in step)"),
        "{text}"
    );
    nats.kill_server(0);
    nats.kill_server(1);
    until("the replica is not ready", async || {
        service.admin("/readyz").await.0 == 503
    })
    .await;
    assert_eq!(service.metric("hookstream_ready").await, 0.0);
    nats.start_server(0);
    nats.start_server(1);
    until("the replica is ready again", async || {
        service.admin("/readyz").await.0 == 200
    })
    .await;
    let stored = async || {
        service
            .sender("dev", SECRET)
            .deliver(body("avatar_video.fail", 2))
            .await
            == 200
    };
    until("a delivery is stored", stored).await;
}

#[test]
#[ignore = "needs nats-server: see tests/run"]
fn replicas_that_start_at_once_on_new_servers_all_come_up() {
    let nats = Nats::start(3, "", "");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| drop(replica(&nats, Arc::new(tempfile::tempdir().unwrap()))));
        }
    });
}

#[test]
#[ignore = "needs nats-server: see tests/run"]
fn what_cannot_be_the_log_is_refused_and_left_as_it_is() {
    let nobody = refusal(&["--jetstream-url", "nats://127.0.0.1:1"]);
    assert!(
        nobody.contains("no NATS server of nats://127.0.0.1:1 can be used"),
        "{nobody}"
    );

    let locked = Nats::start(1, "", "authorization { user: somebody, password: something }");
    let stranger = refusal(&["--jetstream-url", &locked.url()]);
    assert!(stranger.contains("authorization violation"), "{stranger}");

    let with_password = refusal(&["--jetstream-url", "nats://user:hunter2@127.0.0.1:1"]);
    assert!(
        with_password.contains("--jetstream-credentials-file"),
        "{with_password}"
    );
    assert!(!with_password.contains("hunter2"), "{with_password}");

    let nats = Nats::start(1, "", "");
    let too_many = refusal(&["--jetstream-url", &nats.url(), "--jetstream-replicas", "3"]);
    assert!(too_many.contains("replicas > 1 not supported"), "{too_many}");
}

/// What the load saw.
struct Seen {
    history: Mutex<History>,
    /// How long the slowest delivery took to be answered with 200.
    slowest: Mutex<Duration>,
    next: AtomicU64,
    stop: AtomicBool,
}

/// Delivers new events, each again and again until it is answered with 200, as HeyGen does.
async fn deliver(addresses: Arc<Addresses>, seen: Arc<Seen>) {
    let http = http();
    while !seen.stop.load(Ordering::SeqCst) {
        let body = body("avatar_video.success", seen.next.fetch_add(1, Ordering::SeqCst)).into_bytes();
        let started = Instant::now();
        loop {
            let Some(ingress) = addresses.ingress() else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            let sender = Sender {
                http: http.clone(),
                url: format!("http://{ingress}/webhooks/dev"),
                secret: Secret::new(SECRET.to_owned()).unwrap(),
            };
            match sender.try_deliver(body.clone()).await {
                Ok(200) => break,
                Ok(503) | Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                Ok(status) => panic!("a good delivery is answered with {status}"),
            }
        }
        let mut slowest = seen.slowest.lock().unwrap();
        *slowest = started.elapsed().max(*slowest);
        drop(slowest);
        seen.history.lock().unwrap().acknowledged.insert(body);
    }
}

/// Follows from wherever it got to, at whichever replica there is, until it has seen the sequence `end` says.
async fn follow(addresses: Arc<Addresses>, seen_by_all: Arc<Seen>, end: Arc<Mutex<Option<u64>>>) {
    let mut cursor: Option<String> = None;
    let at_end = |cursor: &Option<String>| {
        let end = *end.lock().unwrap();
        let received = &seen_by_all.history.lock().unwrap().received;
        cursor.is_some() && end.is_some() && received.last().map(|(sequence, _)| *sequence) == end
    };
    while !at_end(&cursor) {
        let Some(mut client) = addresses.client().await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let request = cursor.as_deref().map_or_else(from_start, after);
        let Ok(frames) = client.subscribe_events(request).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut frames = frames.into_inner();
        while !at_end(&cursor) {
            let frame = tokio::time::timeout(Duration::from_secs(2), frames.message()).await;
            match frame {
                Ok(Ok(Some(response))) => {
                    if let Some(Frame::Event(event)) = response.frame {
                        cursor = Some(event.cursor.clone());
                        seen_by_all.history.lock().unwrap().received.push(seen(event));
                    }
                }
                // Nothing for a while: perhaps the other replica has more.
                _ => break,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: see tests/run"]
async fn i1_i3_i4_i6_hold_whichever_replica_or_server_is_killed_restarted_or_cut_off() {
    let faults = from_environment("HOOKSTREAM_FAULTS").unwrap_or(12);
    let seed = from_environment("HOOKSTREAM_SEED").unwrap_or_else(rand::random);
    println!("HOOKSTREAM_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut fleet = Fleet::start().await;
    let (addresses, end) = (Arc::clone(&fleet.addresses), Arc::new(Mutex::new(None)));
    let seen_by_all = Arc::new(Seen {
        history: Mutex::default(),
        slowest: Mutex::default(),
        next: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let senders: Vec<_> = (0..6)
        .map(|_| tokio::spawn(deliver(Arc::clone(&addresses), Arc::clone(&seen_by_all))))
        .collect();
    let follower = tokio::spawn(follow(addresses, Arc::clone(&seen_by_all), Arc::clone(&end)));
    for _ in 0..faults {
        tokio::time::sleep(Duration::from_millis(random.random_range(100..1500))).await;
        println!("{}", fleet.fault(&mut random).await);
    }
    fleet.restart_in_turn().await;
    println!("everything is restarted in turn");
    seen_by_all.stop.store(true, Ordering::SeqCst);
    for sender in senders {
        sender.await.unwrap();
    }
    // Whatever is still on its way arrives: both replicas have the same, and it stays so.
    let mut stored: Vec<Vec<_>> = Vec::new();
    let settled = async || {
        stored.clear();
        for replica in fleet.replicas() {
            stored.push(replica.stored().await.into_iter().map(seen).collect());
        }
        let acknowledged = seen_by_all.history.lock().unwrap().acknowledged.len();
        stored[0] == stored[1] && stored[0].len() >= acknowledged
    };
    until("all replicas have the same", settled).await;
    *end.lock().unwrap() = stored[0].last().map(|(sequence, _)| *sequence);
    tokio::time::timeout(Duration::from_secs(60), follower)
        .await
        .unwrap()
        .unwrap();
    let mut history = seen_by_all.history.lock().unwrap();
    history.stored = stored;
    let slowest = *seen_by_all.slowest.lock().unwrap();
    println!(
        "{faults} faults, {} acknowledged, {} stored, slowest delivery {slowest:?}",
        history.acknowledged.len(),
        history.received.len()
    );
    assert!(
        history.acknowledged.len() as u64 > 10 * faults,
        "the load is too small to prove anything"
    );
    assert_eq!(violations(&history), Vec::<String>::new());
    assert_eq!(fleet.said_too_often(), Vec::<String>::new());
    // NATS takes 4 to 9 s to elect a stream's new leader when the old one was killed; we add a second at the most.
    assert!(slowest < Duration::from_secs(20), "a delivery waited {slowest:?}");
}
