//! Managing endpoints. Claims about ManageEndpoint and the secrets.

use hookstream::grpc::proto::{
    Endpoint, EndpointState,
    manage_endpoint_request::{Create, Delete, Get, List, Operation, RotateSecret, Update},
    manage_endpoint_response::Result as Answer,
};
use tonic::Code;

use crate::harness::{Hookstream, body, field, manage, reason};

fn endpoint(answer: Answer) -> (Endpoint, String) {
    match answer {
        Answer::Create(created) => (created.endpoint.unwrap(), created.secret),
        Answer::RotateSecret(rotated) => (rotated.endpoint.unwrap(), rotated.secret),
        Answer::Get(found) => (found.endpoint.unwrap(), String::new()),
        Answer::Update(updated) => (updated.endpoint.unwrap(), String::new()),
        other => panic!("no endpoint in {other:?}"),
    }
}

fn get() -> Operation {
    Operation::Get(Get { name: "dev".into() })
}

#[tokio::test]
async fn an_endpoint_lives_from_its_creation_to_its_deletion() {
    let service = Hookstream::start();
    let mut client = service.client().await;
    let create = Create {
        name: "dev".into(),
        event_types: vec!["avatar_video.*".into()],
        entity_id: "project".into(),
        ..Create::default()
    };
    let (created, secret) = endpoint(
        manage(&mut client, Operation::Create(create.clone()))
            .await
            .unwrap(),
    );
    assert_eq!(created.url, format!("http://{}/webhooks/dev", service.ingress));
    assert_eq!(created.state(), EndpointState::Active);
    assert!(secret.starts_with("whsec_") && secret.len() > 40);
    assert_eq!(created.last_delivery_at, None);

    let taken = manage(&mut client, Operation::Create(create)).await.unwrap_err();
    assert_eq!(
        (taken.code(), reason(&taken).as_str()),
        (Code::AlreadyExists, "ENDPOINT_EXISTS")
    );

    let sender = service.sender("dev", &secret);
    assert_eq!(
        sender.deliver(body("batch.finished", 1)).await,
        200,
        "a note on types is no filter"
    );
    let update = Update {
        name: "dev".into(),
        event_types: vec![],
        entity_id: "ignored".into(),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["event_types".into()],
        }),
    };
    let (updated, _) = endpoint(manage(&mut client, Operation::Update(update)).await.unwrap());
    assert!(updated.event_types.is_empty() && updated.entity_id == "project");
    assert!(updated.last_delivery_at.is_some());

    let service = service.kill_and_restart();
    let mut client = service.client().await;
    let (found, _) = endpoint(manage(&mut client, get()).await.unwrap());
    assert_eq!(
        (found.created_at, &found.entity_id),
        (updated.created_at, &updated.entity_id)
    );
    assert!(found.last_delivery_at.is_some());

    let sender = service.sender("dev", &secret);
    manage(&mut client, Operation::Delete(Delete { name: "dev".into() }))
        .await
        .unwrap();
    assert_eq!(sender.deliver(body("batch.finished", 2)).await, 404);
    assert_eq!(service.stored().await.len(), 1, "its events stay");
    let missing = manage(&mut client, get()).await.unwrap_err();
    assert_eq!(
        (missing.code(), reason(&missing).as_str()),
        (Code::NotFound, "ENDPOINT_NOT_FOUND")
    );
}

#[tokio::test]
async fn a_rotated_secret_verifies_for_the_overlap_and_no_longer() {
    let service = Hookstream::start();
    let old = service.endpoint("dev").await;
    let mut client = service.client().await;
    let mut rotate = async |secret: &str, seconds| {
        let overlap = Some(prost_types::Duration { seconds, nanos: 0 });
        let rotate = RotateSecret {
            name: "dev".into(),
            secret: secret.into(),
            overlap,
        };
        endpoint(
            manage(&mut client, Operation::RotateSecret(rotate))
                .await
                .unwrap(),
        )
    };
    let (rotating, secret) = rotate("", 3600).await;
    assert_eq!(
        (rotating.state(), rotating.secret_version),
        (EndpointState::Rotating, 2)
    );
    assert!(rotating.previous_secret_expires_at.is_some());
    let new = service.sender("dev", &secret);
    assert_eq!(old.deliver(body("batch.finished", 1)).await, 200);
    assert_eq!(new.deliver(body("batch.finished", 2)).await, 200);
    let versions: Vec<_> = service
        .stored()
        .await
        .iter()
        .map(|event| event.verification.clone().unwrap().secret_version)
        .collect();
    assert_eq!(versions, [1, 2]);

    let (active, given) = rotate("whsec_given", 0).await;
    let times = [active.created_at, rotating.secret_since, active.secret_since];
    let times = times.map(|time| time.map(|time| (time.seconds, time.nanos)).unwrap());
    assert!(times.is_sorted_by(|before, after| before < after), "{times:?}");
    assert_eq!(
        (active.state(), given.as_str()),
        (EndpointState::Active, "whsec_given")
    );
    for (sender, status) in [
        (&old, 401),
        (&new, 401),
        (&service.sender("dev", "whsec_given"), 200),
    ] {
        assert_eq!(sender.deliver(body("batch.finished", 3)).await, status);
    }
    let (found, _) = endpoint(manage(&mut service.client().await, get()).await.unwrap());
    assert_eq!(found.unverified_deliveries, 2);
}

#[tokio::test]
async fn endpoints_are_listed_in_pages_by_name_and_never_with_a_secret() {
    let service = Hookstream::start();
    let mut client = service.client().await;
    let mut secrets = Vec::new();
    for number in 0..5 {
        let create = Create {
            name: format!("e{number}"),
            ..Create::default()
        };
        secrets.push(endpoint(manage(&mut client, Operation::Create(create)).await.unwrap()).1);
    }
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let list = List {
            page_size: 2,
            page_token,
        };
        let answer = manage(&mut client, Operation::List(list)).await.unwrap();
        let shown = format!("{answer:?}");
        assert!(secrets.iter().all(|secret| !shown.contains(secret)));
        let Answer::List(page) = answer else { panic!() };
        names.extend(page.endpoints.into_iter().map(|endpoint| endpoint.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["e0", "e1", "e2", "e3", "e4"]);
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_the_field() {
    let service = Hookstream::start();
    service.endpoint("dev").await;
    let mut client = service.client().await;
    let create = |name: &str| Create {
        name: name.into(),
        ..Create::default()
    };
    let overlap = |seconds| RotateSecret {
        name: "dev".into(),
        overlap: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..RotateSecret::default()
    };
    let mask = |paths: &[&str]| Update {
        name: "dev".into(),
        update_mask: Some(prost_types::FieldMask {
            paths: paths.iter().map(|&path| path.into()).collect(),
        }),
        ..Update::default()
    };
    let cases = [
        (Operation::Create(create("")), "name"),
        (Operation::Create(create("Dev")), "name"),
        (Operation::Create(create("-dev")), "name"),
        (Operation::Create(create("a/b")), "name"),
        (Operation::Create(create(&"a".repeat(64))), "name"),
        (
            Operation::Create(Create {
                secret: "x".repeat(513),
                ..create("new")
            }),
            "secret",
        ),
        (
            Operation::Create(Create {
                event_types: vec!["*".into()],
                ..create("new")
            }),
            "event_types[0]",
        ),
        (
            Operation::Create(Create {
                registration: 7,
                ..create("new")
            }),
            "registration",
        ),
        (Operation::RotateSecret(overlap(-1)), "overlap"),
        (Operation::RotateSecret(overlap(8 * 24 * 3600)), "overlap"),
        (Operation::Update(mask(&[])), "update_mask"),
        (Operation::Update(mask(&["name"])), "update_mask"),
        (
            Operation::List(List {
                page_size: 1001,
                ..List::default()
            }),
            "page_size",
        ),
        (
            Operation::List(List {
                page_token: "?".into(),
                ..List::default()
            }),
            "page_token",
        ),
    ];
    for (operation, blamed) in cases {
        let status = manage(&mut client, operation.clone()).await.unwrap_err();
        assert_eq!(
            (status.code(), field(&status).as_str()),
            (Code::InvalidArgument, blamed),
            "{operation:?}"
        );
    }
    let nothing = hookstream::grpc::proto::ManageEndpointRequest { operation: None };
    assert_eq!(
        field(&client.manage_endpoint(nothing).await.unwrap_err()),
        "operation"
    );
}
