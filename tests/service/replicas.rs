//! Subscriptions that replicas share. Claims that a stream and a call may be at any of them, and that another serves when the one
//! that did is gone. Needs nats-server, so `tests/run` runs it and a plain `cargo test` does not.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hookstream::grpc::proto::{
    AcknowledgementResult, EventFilter, ListAuditRecordsRequest, ListEventsRequest,
    ManageSubscriptionRequest, ManageTokenRequest, Subscription,
    access_service_client::AccessServiceClient,
    manage_subscription_request::{Create, Delete, Get, List, Operation, ReplayDeadLetters},
    manage_subscription_response::Result as Answer,
    manage_token_request::{Create as CreateToken, Operation as TokenOperation},
    manage_token_response::Result as TokenAnswer,
};
use tonic::{Code, Request, Status, metadata::MetadataValue};

use crate::{
    cluster::{replica, replica_with},
    harness::{
        Delivery, Hookstream, Stream, about, acknowledge, done, manage_subscription, millis, number, part_in,
        reason, reject, standing, subscription_in, until,
    },
    nats::Nats,
    shared::with_token,
};

const NAME: &str = "work";

/// How long another replica may take to serve what one served that was killed: the lease lasts 6 s, and is asked for every 2 s.
const TAKE_OVER: Duration = Duration::from_secs(10);

fn new_replica(nats: &Nats) -> Hookstream {
    replica(nats, Arc::new(tempfile::tempdir().unwrap()))
}

async fn get(service: &Hookstream) -> Result<Subscription, Status> {
    let get = Operation::Get(Get { name: NAME.into() });
    Ok(subscription_in(
        manage_subscription(&mut service.client().await, get).await?,
    ))
}

async fn next(stream: &mut Stream) -> Delivery {
    stream.next_delivery().await.unwrap().unwrap()
}

async fn say_done(service: &Hookstream, delivery: &Delivery) -> Result<Vec<AcknowledgementResult>, Status> {
    let ids = vec![delivery.ack_id.clone()];
    acknowledge(&mut service.client().await, NAME, ids, done()).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: see tests/run"]
async fn a_subscription_is_the_same_at_every_replica() {
    let nats = Nats::start(1, "", "");
    let (one, other) = (new_replica(&nats), new_replica(&nats));
    let sender = one.endpoint("dev").await;
    // One of the two serves it, and both do as if they did.
    one.subscription(
        NAME,
        Subscription {
            min_retry_delay: millis(0),
            ..Subscription::default()
        },
    )
    .await;
    assert_eq!(get(&one).await.unwrap().name, NAME);
    assert_eq!(get(&other).await.unwrap(), get(&one).await.unwrap());
    let mut streams = [
        one.subscribe(part_in(NAME)).await,
        other.subscribe(part_in(NAME)).await,
    ];
    for stream in &mut streams {
        stream.until_caught_up().await;
    }
    for number in 1..=20 {
        assert_eq!(sender.deliver(about("video", number)).await, 200);
    }
    let mut got = Vec::new();
    let [first, second] = &mut streams;
    for _ in 1..=20 {
        // Acknowledged at the other one than it came from.
        let (delivery, service) = tokio::select! {
            delivery = next(first) => (delivery, &other),
            delivery = next(second) => (delivery, &one),
        };
        got.push(number(&delivery.event));
        let result = match got.len() {
            3 => {
                let ids = vec![delivery.ack_id];
                acknowledge(&mut service.client().await, NAME, ids, reject()).await
            }
            _ => say_done(service, &delivery).await,
        };
        assert_eq!(result.unwrap(), [AcknowledgementResult::Accepted]);
    }
    got.sort_unstable();
    assert_eq!(got, (1..=20).collect::<Vec<_>>());
    for service in [&one, &other] {
        let status = standing(&service.client().await, NAME).await;
        assert_eq!(
            (status.backlog, status.dead_letters, status.connected_streams),
            (0, 1, 2)
        );
        assert_eq!(service.dead_letters(NAME).await.len(), 1);
    }
    for service in [&one, &other] {
        let replay = Operation::ReplayDeadLetters(ReplayDeadLetters {
            name: NAME.into(),
            event_ids: Vec::new(),
        });
        let answer = manage_subscription(&mut service.client().await, replay)
            .await
            .unwrap();
        let Answer::ReplayDeadLetters(counts) = answer else {
            panic!("another answer: {answer:?}")
        };
        assert_eq!((counts.replayed, counts.remaining), (1, 0));
        let [first, second] = &mut streams;
        let again = tokio::select! {
            delivery = next(first) => delivery,
            delivery = next(second) => delivery,
        };
        let ids = vec![again.ack_id];
        acknowledge(&mut service.client().await, NAME, ids, reject())
            .await
            .unwrap();
    }
    let delete = Operation::Delete(Delete { name: NAME.into() });
    manage_subscription(&mut other.client().await, delete)
        .await
        .unwrap();
    for (stream, service) in streams.iter_mut().zip([&one, &other]) {
        let ended = stream.next_delivery().await.unwrap_err();
        assert_eq!(
            (ended.code(), &*reason(&ended)),
            (Code::NotFound, "SUBSCRIPTION_NOT_FOUND")
        );
        assert_eq!(reason(&get(service).await.unwrap_err()), "SUBSCRIPTION_NOT_FOUND");
        let Answer::List(list) =
            manage_subscription(&mut service.client().await, Operation::List(List::default()))
                .await
                .unwrap()
        else {
            panic!("another answer")
        };
        assert!(list.subscriptions.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: see tests/run"]
async fn another_replica_serves_subscriptions_within_ten_seconds_of_a_kill_and_at_once_after_a_drain() {
    let nats = Nats::start(1, "", "");
    let mut replicas = vec![new_replica(&nats), new_replica(&nats)];
    let sender = replicas[0].endpoint("dev").await;
    let secret = sender.secret.expose().to_owned();
    replicas[0]
        .subscription(
            NAME,
            Subscription {
                min_retry_delay: millis(0),
                ..Subscription::default()
            },
        )
        .await;
    let mut delivered = 0;
    for is_killed in [true, false, true] {
        // Whichever serves them: the first to have started.
        let gone = replicas.remove(0);
        let stays = &replicas[0];
        let sender = stays.sender("dev", &secret);
        let mut stream = gone.subscribe(part_in(NAME)).await;
        let mut elsewhere = stays.subscribe(part_in(NAME)).await;
        let mut held = Vec::new();
        for _ in 0..4 {
            delivered += 1;
            assert_eq!(sender.deliver(about("", delivered)).await, 200);
            held.push(tokio::select! {
                delivery = next(&mut stream) => delivery,
                delivery = next(&mut elsewhere) => delivery,
            });
        }
        let (unsettled, settled) = held.split_at(2);
        for delivery in settled {
            say_done(&gone, delivery).await.unwrap();
        }
        let directory = tokio::task::block_in_place(|| if is_killed { gone.kill() } else { gone.drain() });
        let ended = tokio::time::timeout(TAKE_OVER, elsewhere.next_delivery())
            .await
            .expect("a stream whose server is gone ends");
        if let Err(status) = ended {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        }
        let since = Instant::now();
        // The first call waits for it.
        let mut again = stays.subscribe(part_in(NAME)).await;
        let limit = if is_killed {
            TAKE_OVER
        } else {
            Duration::from_secs(2)
        };
        assert!(since.elapsed() < limit, "{:?}", since.elapsed());
        let mut numbers = Vec::new();
        for _ in unsettled {
            let delivery = next(&mut again).await;
            numbers.push(number(&delivery.event));
            assert_eq!(
                say_done(stays, &delivery).await.unwrap(),
                [AcknowledgementResult::Accepted]
            );
        }
        numbers.sort_unstable();
        let expected: Vec<_> = unsettled.iter().map(|delivery| number(&delivery.event)).collect();
        assert_eq!(
            numbers, expected,
            "what was not settled comes again, and nothing else"
        );
        assert_eq!(standing(&stays.client().await, NAME).await.backlog, 0);
        replicas.push(tokio::task::block_in_place(|| replica(&nats, directory)));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: see tests/run"]
async fn a_caller_is_who_it_is_at_whichever_replica_serves_and_is_recorded_once() {
    let nats = Nats::start(1, "", "");
    let operator = "operator-token-of-at-least-32-characters";
    let start = || {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        replica_with(&nats, directory, &[], &[("HOOKSTREAM_ADMIN_TOKEN", operator)])
    };
    let replicas = [start(), start()];
    let create = CreateToken {
        name: "reader".into(),
        scopes: vec!["events:read".into(), "events:acknowledge".into()],
        filter: Some(EventFilter {
            endpoints: vec!["theirs".into()],
            ..EventFilter::default()
        }),
        ..CreateToken::default()
    };
    let request = with_token(
        operator,
        ManageTokenRequest {
            operation: Some(TokenOperation::Create(create)),
        },
    );
    let created = AccessServiceClient::new(replicas[0].channel().await)
        .manage_token(request)
        .await
        .unwrap();
    let Some(TokenAnswer::Create(created)) = created.into_inner().result else {
        panic!("another answer")
    };
    for (number, service) in replicas.iter().enumerate() {
        let mut client = service.client().await;
        let name = format!("theirs-{number}");
        let mut ask = async |token: &str, operation: Operation| {
            let request = ManageSubscriptionRequest {
                operation: Some(operation),
            };
            client
                .manage_subscription(with_token(token, request))
                .await
                .map(tonic::Response::into_inner)
        };
        let create = |name: &str, endpoint: &str| {
            Operation::Create(Create {
                subscription: Some(Subscription {
                    name: name.into(),
                    filter: Some(EventFilter {
                        endpoints: vec![endpoint.into()],
                        ..EventFilter::default()
                    }),
                    ..Subscription::default()
                }),
                start: None,
            })
        };
        until("the token is known", async || {
            ask(&created.secret, Operation::List(List::default()))
                .await
                .is_ok()
        })
        .await;
        ask(&created.secret, create(&name, "theirs")).await.unwrap();
        let refused = ask(&created.secret, create("too-much", "others"))
            .await
            .unwrap_err();
        assert_eq!(reason(&refused), "NOT_VISIBLE");
        ask(operator, create(&format!("others-{number}"), "others"))
            .await
            .unwrap();
        let hidden = Operation::Get(Get {
            name: format!("others-{number}"),
        });
        assert_eq!(
            reason(&ask(&created.secret, hidden).await.unwrap_err()),
            "NOT_VISIBLE"
        );
        let stranger = ask("not-a-token", Operation::List(List::default()))
            .await
            .unwrap_err();
        assert_eq!(stranger.code(), Code::Unauthenticated);
    }
    let trail = AccessServiceClient::new(replicas[1].channel().await)
        .list_audit_records(with_token(operator, ListAuditRecordsRequest::default()))
        .await
        .unwrap();
    let mut trail: Vec<_> = trail
        .into_inner()
        .records
        .into_iter()
        .filter(|record| record.action.starts_with("ManageSubscription."))
        .map(|record| (record.actor, record.target, record.outcome))
        .collect();
    trail.sort();
    let told =
        |actor: &str, target: &str, outcome: &str| (actor.to_owned(), target.to_owned(), outcome.to_owned());
    assert_eq!(
        trail,
        [
            told("operator", "others-0", "OK"),
            told("operator", "others-1", "OK"),
            told("reader", "theirs-0", "OK"),
            told("reader", "theirs-1", "OK"),
            told("reader", "too-much", "NOT_VISIBLE"),
            told("reader", "too-much", "NOT_VISIBLE"),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: see tests/run"]
async fn who_only_claims_to_be_a_replica_is_refused() {
    let nats = Nats::start(1, "", "");
    let shared = new_replica(&nats);
    let alone = Hookstream::start();
    for service in [&shared, &alone] {
        for voucher in ["", "AAAA", "not base64!"] {
            let mut request = Request::new(ListEventsRequest::default());
            request
                .metadata_mut()
                .insert("hookstream-voucher", MetadataValue::from_static(voucher));
            let refused = service.client().await.list_events(request).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated);
            assert_eq!(reason(&refused), "CREDENTIALS_UNKNOWN");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: see tests/run"]
async fn where_the_serving_replica_cannot_be_reached_callers_are_told_to_come_again() {
    let nats = Nats::start(1, "", "");
    let serves = new_replica(&nats);
    serves.subscription(NAME, Subscription::default()).await;
    // What it advertises is not where it is.
    let directory = serves.drain();
    let _serves = replica_with(
        &nats,
        directory,
        &[
            "--grpc-listen",
            "127.0.0.1:0",
            "--advertise-url",
            "http://127.0.0.1:1",
        ],
        &[],
    );
    let other = new_replica(&nats);
    let refused = get(&other).await.unwrap_err();
    assert_eq!(
        (refused.code(), &*reason(&refused)),
        (Code::Unavailable, "SUBSCRIPTIONS_MOVING")
    );
    assert!(
        other
            .output()
            .contains("the replica that serves the subscriptions cannot be reached"),
        "{}",
        other.output()
    );
}
