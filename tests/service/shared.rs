//! What replicas share besides events: endpoints, tokens, the audit trail, and who does what only one of them should. Needs
//! nats-server, so `tests/run` runs it and a plain `cargo test` does not.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use hookstream::{
    grpc::proto::{
        Endpoint, ListAuditRecordsRequest, ListEventTypesRequest, ManageTokenRequest, Registration,
        access_service_client::AccessServiceClient,
        manage_endpoint_request::{Create, Delete, Get, Operation, RotateSecret, Update},
        manage_endpoint_response::Result as Answer,
        manage_token_request::{Create as CreateToken, Operation as TokenOperation, Revoke},
        manage_token_response::Result as TokenAnswer,
    },
    stand_in::{self, StandIn},
};
use prost_types::FieldMask;
use tonic::{Code, Request, Status};

use crate::{
    cluster::{replica, replica_with},
    harness::{Hookstream, SEALING_KEY, body, from_start, manage, reason, until},
    nats::Nats,
};

/// How soon a change at one replica has to be in force at all.
const SOON: Duration = Duration::from_secs(1);

fn new_replica(nats: &Nats) -> Hookstream {
    replica(nats, Arc::new(tempfile::tempdir().unwrap()))
}

async fn ask(service: &Hookstream, operation: Operation) -> Result<Answer, Status> {
    manage(&mut service.client().await, operation).await
}

async fn get(service: &Hookstream, name: &str) -> Result<Endpoint, Status> {
    match ask(service, Operation::Get(Get { name: name.into() })).await? {
        Answer::Get(got) => Ok(got.endpoint.unwrap()),
        other => panic!("{other:?}"),
    }
}

async fn soon(what: &str, happened: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    until(what, happened).await;
    assert!(
        started.elapsed() < SOON,
        "{what}: only after {:?}",
        started.elapsed()
    );
}

#[tokio::test]
#[ignore = "needs nats-server: see tests/run"]
async fn an_endpoint_that_one_replica_makes_changes_and_removes_is_so_at_all_within_a_second() {
    let nats = Nats::start(1, "", "");
    let (one, other) = (new_replica(&nats), new_replica(&nats));
    let first = one.endpoint("dev").await.secret.expose().to_owned();
    soon("it is known", async || get(&other, "dev").await.is_ok()).await;
    assert_eq!(
        other
            .sender("dev", &first)
            .deliver(body("avatar_video.fail", 1))
            .await,
        200
    );

    let rotate = RotateSecret {
        name: "dev".into(),
        ..RotateSecret::default()
    };
    let Answer::RotateSecret(rotated) = ask(&other, Operation::RotateSecret(rotate)).await.unwrap() else {
        panic!("another answer")
    };
    let with_new = one.sender("dev", &rotated.secret);
    soon("the new secret verifies", async || {
        with_new.deliver(body("avatar_video.fail", 2)).await == 200
    })
    .await;
    // The one before goes on for a while, everywhere.
    assert_eq!(
        one.sender("dev", &first)
            .deliver(body("avatar_video.fail", 3))
            .await,
        200
    );

    let update = Update {
        name: "dev".into(),
        event_types: vec!["*.fail".into()],
        update_mask: Some(FieldMask {
            paths: vec!["event_types".into()],
        }),
        ..Update::default()
    };
    ask(&one, Operation::Update(update)).await.unwrap();
    soon("the change is known", async || {
        get(&other, "dev").await.unwrap().event_types == ["*.fail"]
    })
    .await;

    ask(&other, Operation::Delete(Delete { name: "dev".into() }))
        .await
        .unwrap();
    soon("it is gone", async || get(&one, "dev").await.is_err()).await;
    assert_eq!(with_new.deliver(body("avatar_video.fail", 4)).await, 404);
    // And may be made anew, wherever.
    one.endpoint("dev").await;
    soon("it is there again", async || get(&other, "dev").await.is_ok()).await;
}

#[tokio::test]
#[ignore = "needs nats-server: see tests/run"]
async fn of_two_replicas_that_make_one_name_at_once_one_makes_it() {
    let nats = Nats::start(1, "", "");
    let (one, other) = (new_replica(&nats), new_replica(&nats));
    for number in 0..10 {
        let create = || {
            Operation::Create(Create {
                name: format!("e{number}"),
                ..Create::default()
            })
        };
        let (here, there) = tokio::join!(ask(&one, create()), ask(&other, create()));
        let refused: Vec<_> = [&here, &there]
            .into_iter()
            .filter_map(|made| made.as_ref().err())
            .collect();
        assert_eq!(refused.len(), 1, "{here:?} {there:?}");
        assert_eq!(reason(refused[0]), "ENDPOINT_EXISTS");
    }
}

#[tokio::test]
#[ignore = "needs nats-server: see tests/run"]
async fn what_is_shared_survives_all_replicas_and_no_secret_is_readable_where_it_is_kept() {
    let mut nats = Nats::start(1, "", "");
    let service = new_replica(&nats);
    let secret = service.endpoint("dev").await.secret.expose().to_owned();
    service.drain();
    nats.kill_server(0);
    let shown = |text: &str| holds(nats.directory(), text.as_bytes());
    assert!(shown("created_at"), "nothing is found at all");
    assert!(!shown(&secret));
    nats.start_server(0);
    let service = new_replica(&nats);
    assert_eq!(
        service
            .sender("dev", &secret)
            .deliver(body("avatar_video.fail", 1))
            .await,
        200
    );
    let state = service.data_dir().join("state.db");
    assert!(!state.exists());
}

/// Whether a file below a directory holds these bytes.
fn holds(directory: &Path, bytes: &[u8]) -> bool {
    fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, bytes);
        }
        let content = fs::read(&path).unwrap();
        content.windows(bytes.len()).any(|part| part == bytes)
    })
}

async fn token(service: &Hookstream, operation: TokenOperation) -> TokenAnswer {
    let mut client = AccessServiceClient::new(service.channel().await);
    let operation = Some(operation);
    let answer = client.manage_token(ManageTokenRequest { operation }).await;
    answer.unwrap().into_inner().result.unwrap()
}

pub fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

#[tokio::test]
#[ignore = "needs nats-server: see tests/run"]
async fn a_token_that_one_replica_makes_and_revokes_is_so_at_all_and_all_of_it_is_in_one_trail() {
    let nats = Nats::start(1, "", "");
    let (one, other) = (new_replica(&nats), new_replica(&nats));
    let create = CreateToken {
        name: "reader".into(),
        scopes: vec!["events:read".into()],
        ..CreateToken::default()
    };
    let TokenAnswer::Create(created) = token(&one, TokenOperation::Create(create)).await else {
        panic!("another answer")
    };
    let secret = created.secret;
    soon("it is accepted", async || {
        let asked = with_token(&secret, ListEventTypesRequest {});
        other.client().await.list_event_types(asked).await.is_ok()
    })
    .await;
    let mut reader = other.client().await;
    let stream = reader.subscribe_events(with_token(&secret, from_start()));
    let mut stream = stream.await.unwrap().into_inner();
    token(
        &one,
        TokenOperation::Revoke(Revoke {
            name: "reader".into(),
        }),
    )
    .await;
    let revoked_at = Instant::now();
    let ended = loop {
        match stream.message().await {
            Ok(Some(_)) => continue,
            Ok(None) => panic!("it ends without a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unauthenticated);
    assert!(revoked_at.elapsed() < SOON);

    let list = ListAuditRecordsRequest {
        page_size: 1,
        ..ListAuditRecordsRequest::default()
    };
    let mut client = AccessServiceClient::new(other.channel().await);
    let newest = client
        .list_audit_records(list.clone())
        .await
        .unwrap()
        .into_inner();
    let rest = ListAuditRecordsRequest {
        page_size: 10,
        page_token: newest.next_page_token,
        ..list
    };
    let rest = client.list_audit_records(rest).await.unwrap().into_inner();
    assert_eq!(rest.next_page_token, "");
    let records = newest.records.iter().chain(&rest.records);
    let actions: Vec<_> = records.map(|record| record.action.as_str()).collect();
    assert_eq!(actions, ["ManageToken.revoke", "ManageToken.create"]);
}

const DUTY: &str = "this replica now does what one of them has to do";

#[tokio::test]
#[ignore = "needs nats-server: see tests/run"]
async fn one_replica_at_a_time_looks_after_heygens_side_and_another_takes_over_when_it_dies() {
    let nats = Nats::start(1, "", "");
    let heygen = StandIn::start(stand_in::Settings {
        api_key: "sk_test_4f9a".into(),
        ..stand_in::Settings::default()
    })
    .await
    .unwrap();
    let base = heygen.base_url();
    let start = || {
        let flags = [
            "--heygen-api-base",
            &base,
            "--heygen-check-interval",
            "100ms",
            "--reconcile-interval",
            "200ms",
        ];
        let key = [("HOOKSTREAM_HEYGEN_API_KEY", "sk_test_4f9a")];
        replica_with(&nats, Arc::new(tempfile::tempdir().unwrap()), &flags, &key)
    };
    let walked = "hookstream_reconciliation_last_success_timestamp_seconds";
    let mut replicas = vec![start(), start()];
    let on_duty = async || replicas.iter().any(|replica| replica.output().contains(DUTY));
    until("one has taken it", on_duty).await;
    let create = Create {
        name: "prod".into(),
        registration: Registration::Heygen.into(),
        ..Create::default()
    };
    ask(&replicas[0], Operation::Create(create)).await.unwrap();
    let holder = usize::from(replicas[1].output().contains(DUTY));
    until("it walks", async || replicas[holder].metric(walked).await > 0.0).await;
    assert!(!replicas[1 - holder].output().contains(DUTY));
    drop(replicas.remove(holder).kill());
    let survivor = &replicas[0];
    let died_at = Instant::now();
    until("the other has taken it", async || {
        survivor.output().contains(DUTY)
    })
    .await;
    assert!(
        died_at.elapsed() < Duration::from_secs(10),
        "{:?}",
        died_at.elapsed()
    );
    let since = died_at.elapsed().as_secs_f64();
    until("the other walks", async || survivor.metric(walked).await > since).await;
    heygen.end().await;
}

#[test]
#[ignore = "needs nats-server: see tests/run"]
fn a_replica_with_another_sealing_key_does_not_start_and_says_which_it_needs() {
    let nats = Nats::start(1, "", "");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let service = new_replica(&nats);
    runtime.block_on(service.endpoint("dev"));
    let other_key = "b3RoZXIgc2VhbGluZyBrZXkgb2YgdGhlc2UgdGVzdHM=";
    let refused = crate::cluster::refusal_with(
        &["--jetstream-url", &nats.url()],
        &[("HOOKSTREAM_SEALING_KEY", other_key)],
    );
    assert!(
        refused.contains("endpoint dev: its signature secret 1 cannot be read"),
        "{refused}"
    );
    assert!(refused.contains("--previous-sealing-key-file"), "{refused}");
    // With the key before beside it, it starts, and seals anew: from then on the new one is enough.
    let previous = ("HOOKSTREAM_PREVIOUS_SEALING_KEY", SEALING_KEY);
    let key = ("HOOKSTREAM_SEALING_KEY", other_key);
    let directory = || Arc::new(tempfile::tempdir().unwrap());
    let rotated = replica_with(&nats, directory(), &[], &[key, previous]);
    assert!(rotated.output().contains("sealed under the current key"));
    drop(replica_with(&nats, directory(), &[], &[key]));
}
