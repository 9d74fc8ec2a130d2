//! Kills under load. Claims that I1, I3, I4 and I6 hold whenever the process dies, by a checker that is itself checked.
//!
//! `HOOKSTREAM_CRASHES` sets the number of kills (50 if unset), `HOOKSTREAM_SEED` the seed, which is printed.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hookstream::grpc::proto::Event;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    harness::{Hookstream, Sender, after, body, from_environment, from_start},
    history::{History, violations},
};

pub fn seen(event: Event) -> (u64, Vec<u8>) {
    (event.sequence, event.raw_body.to_vec())
}

/// Delivers new events until told to stop; now and then one a second time.
async fn deliver(sender: Sender, next: Arc<AtomicU64>, stop: Arc<AtomicBool>, history: Arc<Mutex<History>>) {
    while !stop.load(Ordering::SeqCst) {
        let body = body("avatar_video.success", next.fetch_add(1, Ordering::SeqCst)).into_bytes();
        let copies = if body[body.len() / 2].is_multiple_of(4) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            match sender.try_deliver(body.clone()).await {
                Ok(200) => drop(history.lock().unwrap().acknowledged.insert(body.clone())),
                Ok(status) => panic!("a good delivery is answered with {status}"),
                // Killed: the answer is lost, and HeyGen would deliver again; some of these do.
                Err(_) => return,
            }
        }
    }
}

/// Follows the log from where the last connection stopped, until the connection breaks or it has `until`.
async fn follow(
    service: &Hookstream,
    cursor: &Mutex<Option<String>>,
    history: &Mutex<History>,
    until: Option<u64>,
) {
    let last = cursor.lock().unwrap().clone();
    let request = last.map_or_else(from_start, |cursor| after(&cursor));
    let Ok(frames) = service.client().await.subscribe_events(request).await else {
        return;
    };
    let mut frames = frames.into_inner();
    while history
        .lock()
        .unwrap()
        .received
        .last()
        .map(|(sequence, _)| *sequence)
        != until
        || until.is_none()
    {
        let Ok(Some(response)) = frames.message().await else {
            return;
        };
        if let Some(hookstream::grpc::proto::subscribe_events_response::Frame::Event(event)) = response.frame
        {
            *cursor.lock().unwrap() = Some(event.cursor.clone());
            history.lock().unwrap().received.push(seen(event));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_i3_i4_i6_hold_whenever_the_process_is_killed() {
    let crashes = from_environment("HOOKSTREAM_CRASHES").unwrap_or(50);
    let seed = from_environment("HOOKSTREAM_SEED").unwrap_or_else(rand::random);
    println!("HOOKSTREAM_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let history = Arc::new(Mutex::new(History::default()));
    let (next, cursor) = (Arc::new(AtomicU64::new(0)), Mutex::new(None));
    let mut service = Hookstream::start();
    let secret = service.endpoint("dev").await.secret.expose().to_owned();
    for _ in 0..crashes {
        let stop = Arc::new(AtomicBool::new(false));
        let senders: Vec<_> = (0..8)
            .map(|_| {
                let sender = service.sender("dev", &secret);
                tokio::spawn(deliver(
                    sender,
                    Arc::clone(&next),
                    Arc::clone(&stop),
                    Arc::clone(&history),
                ))
            })
            .collect();
        let alive = Duration::from_micros(random.random_range(1_000..250_000));
        let _ = tokio::time::timeout(alive, follow(&service, &cursor, &history, None)).await;
        let directory = service.kill();
        stop.store(true, Ordering::SeqCst);
        for sender in senders {
            sender.await.unwrap();
        }
        service = Hookstream::start_in(directory, &[], &HashMap::new());
        let stored = service.stored().await.into_iter().map(seen).collect();
        history.lock().unwrap().stored.push(stored);
    }
    let last = history
        .lock()
        .unwrap()
        .stored
        .last()
        .unwrap()
        .last()
        .map(|(sequence, _)| *sequence);
    follow(&service, &cursor, &history, last).await;
    let history = history.lock().unwrap();
    println!(
        "{crashes} kills, {} acknowledged, {} stored",
        history.acknowledged.len(),
        history.received.len()
    );
    assert!(
        history.acknowledged.len() as u64 > crashes,
        "the load is too small to prove anything"
    );
    assert_eq!(violations(&history), Vec::<String>::new());
}

#[tokio::test]
async fn the_checker_finds_a_writer_that_acknowledges_what_it_did_not_write() {
    let disk = crate::faults::Disk::start();
    let sender = disk.service.endpoint("dev").await;
    let mut history = History::default();
    for number in 0..20 {
        if number == 10 {
            disk.fail("lie");
        }
        let body = body("avatar_video.success", number).into_bytes();
        assert_eq!(sender.deliver(body.clone()).await, 200);
        history.acknowledged.insert(body);
    }
    let service = disk.kill_and_restart();
    history
        .stored
        .push(service.stored().await.into_iter().map(seen).collect());
    history.received = history.stored[0].clone();
    assert_eq!(
        violations(&history),
        ["I1: 10 acknowledged events are not stored"]
    );
}
