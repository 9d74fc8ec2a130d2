//! A disk that fails once, at each call in turn. Claims that whichever write or sync it is, nothing that was answered is lost and
//! the next start finds everything in order.
//!
//! `HOOKSTREAM_SWEEP_STEP` says how many calls are passed over from one run to the next (11 if unset, 1 for all of them),
//! `HOOKSTREAM_SEED` where it begins; the seed is printed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::Arc,
    time::Duration,
};

use hookstream::grpc::proto::{
    AcknowledgementResult::Accepted,
    Subscription,
    manage_endpoint_request::{Create, Get, Operation},
    manage_subscription_request as subscription,
};
use tonic::{Code, Status};

use crate::{
    faults::library,
    fleet::Addresses,
    harness::{
        Client, Hookstream, Stream, about, acknowledge, done, from_environment, manage, manage_subscription,
        millis, number, part_in,
    },
};

const SECRET: &str = "whsec_the_same_after_a_restart";
const ENDPOINT: &str = "dev";
const SUBSCRIPTION: &str = "work";
const EVENTS: u64 = 6;
/// How long a stream may say nothing before it has nothing to say.
const SILENCE: Duration = Duration::from_millis(500);

/// What the service answered for.
#[derive(Debug, Default)]
struct Answered {
    endpoint: bool,
    subscription: bool,
    delivered: BTreeSet<u64>,
    done: BTreeSet<u64>,
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_write_or_sync_fails_or_is_torn_nothing_that_was_answered_is_lost() {
    let step = from_environment("HOOKSTREAM_SWEEP_STEP").unwrap_or(11);
    let seed = from_environment("HOOKSTREAM_SEED").unwrap_or_else(rand::random);
    println!("HOOKSTREAM_SEED={seed}");
    let directory = tempfile::tempdir().unwrap();
    let library = library(directory.path());
    for kind in ["sync", "write", "full", "torn"] {
        let mut call = 1 + seed % step;
        let mut runs = 0;
        while fails_once(&library, kind, call).await {
            runs += 1;
            call += step;
        }
        println!("{kind}: {runs} runs; there is no call {call}");
        assert!(runs > 0, "no {kind} was made to fail");
    }
}

/// Runs a service until it has done what there is to do, with this one call failing, and looks at what is there afterwards.
/// Whether there was such a call.
async fn fails_once(library: &Path, kind: &str, call: u64) -> bool {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let happened = directory.path().join("happened");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let variables = HashMap::from([
        ("LD_PRELOAD", text(library)),
        ("FAULT_AT", format!("{kind} {call}")),
        ("FAULT_HAPPENED", text(&happened)),
    ]);
    let mut answered = Answered::default();
    match Hookstream::try_start_in(Arc::clone(&directory), &[], &variables) {
        Ok(service) => {
            work(&service, &mut answered).await;
            service.kill();
        }
        Err(said) => assert!(happened.exists(), "it does not start: {said}"),
    }
    if !happened.exists() {
        return false;
    }
    let service = Hookstream::try_start_in(directory, &[], &HashMap::new());
    let service = service.unwrap_or_else(|said| panic!("{kind} {call}: it does not start again: {said}"));
    check(&service, &answered, &format!("{kind} {call}")).await;
    true
}

async fn create_endpoint(client: &mut Client) -> Result<(), Status> {
    let create = Create {
        name: ENDPOINT.into(),
        secret: SECRET.into(),
        ..Create::default()
    };
    manage(client, Operation::Create(create)).await?;
    Ok(())
}

/// Notes what was answered. What was not may have happened or not.
async fn work(service: &Hookstream, answered: &mut Answered) {
    // The process may be gone as soon as it has started.
    let Some(mut client) = Addresses::of(service).client().await else {
        return;
    };
    answered.endpoint = create_endpoint(&mut client).await.is_ok();
    let create = subscription::Create {
        subscription: Some(Subscription {
            name: SUBSCRIPTION.into(),
            // What was handed out and not acknowledged comes again at once.
            min_retry_delay: millis(0),
            ..Subscription::default()
        }),
        start: None,
    };
    let create = subscription::Operation::Create(create);
    answered.subscription = manage_subscription(&mut client, create).await.is_ok();
    let sender = service.sender(ENDPOINT, SECRET);
    for number in 0..EVENTS {
        match sender.try_deliver(about("video", number)).await {
            Ok(200) => {
                answered.delivered.insert(number);
            }
            // The process may be gone, the endpoint not made.
            Ok(503 | 404) | Err(_) => {}
            Ok(status) => panic!("a good delivery is answered with {status}"),
        }
    }
    let Ok(stream) = client.subscribe_events(part_in(SUBSCRIPTION)).await else {
        return;
    };
    let mut stream = Stream::from(stream.into_inner());
    for _ in 0..EVENTS / 2 {
        let Ok(Ok(Some(delivery))) = tokio::time::timeout(SILENCE, stream.next_delivery()).await else {
            return;
        };
        let results = acknowledge(&mut client, SUBSCRIPTION, vec![delivery.ack_id], done()).await;
        if results.is_ok_and(|results| results == [Accepted]) {
            answered.done.insert(number(&delivery.event));
        }
    }
}

async fn check(service: &Hookstream, answered: &Answered, what: &str) {
    let mut client = service.client().await;
    let get = Operation::Get(Get {
        name: ENDPOINT.into(),
    });
    match manage(&mut client, get).await {
        Ok(_) => {}
        Err(status) => {
            assert_eq!(status.code(), Code::NotFound, "{what}: {status}");
            assert!(!answered.endpoint, "{what}: the endpoint is lost");
            create_endpoint(&mut client).await.unwrap();
        }
    }
    let mut times = BTreeMap::new();
    for event in service.stored().await {
        *times.entry(number(&event)).or_insert(0) += 1;
    }
    assert!(
        times.values().all(|times| *times == 1),
        "{what}: twice: {times:?}"
    );
    let lost: Vec<_> = answered
        .delivered
        .iter()
        .filter(|number| !times.contains_key(number))
        .collect();
    assert!(lost.is_empty(), "{what}: lost: {lost:?}");
    // HeyGen repeats what was not answered with 200: all of it is there once in the end.
    let sender = service.sender(ENDPOINT, SECRET);
    for number in 0..EVENTS {
        assert_eq!(sender.deliver(about("video", number)).await, 200, "{what}");
    }
    assert_eq!(service.stored().await.len() as u64, EVENTS, "{what}");

    let get = subscription::Operation::Get(subscription::Get {
        name: SUBSCRIPTION.into(),
    });
    if let Err(status) = manage_subscription(&mut client, get).await {
        assert_eq!(status.code(), Code::NotFound, "{what}: {status}");
        assert!(!answered.subscription, "{what}: the subscription is lost");
        return;
    }
    let mut stream = service.subscribe(part_in(SUBSCRIPTION)).await;
    let come = stream.until_caught_up().await;
    let come: BTreeSet<_> = come.iter().map(|delivery| number(&delivery.event)).collect();
    let again: Vec<_> = come.intersection(&answered.done).collect();
    assert!(again.is_empty(), "{what}: done, and comes again: {again:?}");
    let forgotten = (EVENTS - come.len() as u64) as usize;
    // The answer to the last acknowledgement may be what was lost.
    assert!(
        (answered.done.len()..=answered.done.len() + 1).contains(&forgotten),
        "{what}: {come:?} come, {answered:?}"
    );
}
