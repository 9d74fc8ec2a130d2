//! Deliveries without faults, and what becomes of those that fail.

use data_encoding::HEXLOWER;

use super::*;
use crate::{event_type::EVENT_TYPES, secret::Secret, signature};

fn signature_of(received: &Received, secret: &Secret) -> String {
    HEXLOWER.encode(&signature::sign(secret, &received.body))
}

#[tokio::test]
async fn every_type_is_delivered_signed_over_the_raw_body() {
    let stage = stage(|_| {}).await;
    let secret = stage.register().await.secret;
    for (number, known) in EVENT_TYPES.iter().enumerate() {
        stage.heygen.emit(known.name, number as u64);
    }
    in_time(stage.heygen.settled()).await;
    let deliveries = stage.receiver.deliveries();
    assert_eq!(deliveries.len(), EVENT_TYPES.len());
    for received in deliveries {
        let signature = signature_of(&received, &secret);
        assert_eq!(received.header("signature"), Some(signature.as_str()));
        assert_eq!(received.header("content-type"), Some("application/json"));
        for absent in ["heygen-signature", "heygen-timestamp", "heygen-event-id"] {
            assert_eq!(received.header(absent), None);
        }
        let fields = received.json();
        let mut names: Vec<_> = fields.as_object().unwrap().keys().collect();
        names.sort();
        assert_eq!(names, ["event_data", "event_type"]);
    }
}

#[tokio::test]
async fn bodies_and_headers_carry_what_the_settings_say() {
    let stage = stage(|settings| {
        settings.bodies_carry_event_id = true;
        settings.header_name = SignatureHeader::Both;
        settings.unsigned_headers = true;
    })
    .await;
    let secret = stage.register().await.secret;
    let event_id = stage.heygen.emit("avatar_video.fail", 1);
    let received = stage.receiver.delivery(1).await;
    let signature = signature_of(&received, &secret);
    assert_eq!(received.header("signature"), Some(signature.as_str()));
    assert_eq!(received.header("heygen-signature"), Some(signature.as_str()));
    assert_eq!(received.header("heygen-event-id"), Some(event_id.as_str()));
    assert!(
        received
            .header("heygen-timestamp")
            .unwrap()
            .parse::<i64>()
            .is_ok()
    );
    let body = received.json();
    assert_eq!(body["event_id"], event_id);
    let happened = &stage.heygen.history()[0];
    assert_eq!(body["created_at"], happened.created_at.to_string());
    assert_eq!(body["event_data"], happened.event_data);
}

#[tokio::test]
async fn an_endpoint_gets_its_types_and_its_entity_only() {
    let stage = stage(|_| {}).await;
    let wanted =
        json!({"events": ["avatar_video.fail", "batch.finished"], "entity_id": "vid_0000000000000001"});
    stage.register_for(wanted).await;
    stage.heygen.emit("avatar_video.success", 1);
    stage.heygen.emit("avatar_video.fail", 2);
    stage.heygen.emit("batch.finished", 1);
    stage.heygen.emit("avatar_video.fail", 1);
    in_time(stage.heygen.settled()).await;
    let deliveries = stage.receiver.deliveries();
    assert_eq!(deliveries.len(), 1);
    assert_eq!(
        deliveries[0].json()["event_data"]["video_id"],
        "vid_0000000000000001"
    );
}

#[tokio::test]
async fn every_endpoint_gets_the_event_under_its_own_secret() {
    let stage = stage(|_| {}).await;
    let secrets = [stage.register().await.secret, stage.register().await.secret];
    stage.heygen.emit("batch.finished", 1);
    in_time(stage.heygen.settled()).await;
    let deliveries = stage.receiver.deliveries();
    let mut signatures: Vec<_> = deliveries
        .iter()
        .map(|one| one.header("signature").unwrap())
        .collect();
    let mut expected: Vec<_> = secrets
        .iter()
        .map(|one| signature_of(&deliveries[0], one))
        .collect();
    signatures.sort_unstable();
    expected.sort_unstable();
    assert_eq!(signatures, expected);
}

#[tokio::test]
async fn an_update_decides_on_the_events_that_follow() {
    let stage = stage(|_| {}).await;
    let id = stage.register().await.endpoint_id;
    let other = Receiver::start().await;
    let change = json!({"url": other.url, "events": ["batch.finished"]});
    stage.caller.update(&id, change).await;
    stage.heygen.emit("personalized_video", 1);
    stage.heygen.emit("batch.finished", 1);
    in_time(stage.heygen.settled()).await;
    assert_eq!(
        (stage.receiver.deliveries().len(), other.deliveries().len()),
        (0, 1)
    );
}

#[tokio::test]
async fn whatever_is_not_2xx_is_tried_again_with_the_same_bytes() {
    let stage = stage(|settings| settings.retry_first = Duration::from_millis(1)).await;
    stage.register().await;
    let failures = [500, 400, 404, 410, 302, 429];
    for status in failures {
        stage.receiver.reply(Method::POST, Reply::Status(status));
    }
    stage.receiver.reply(Method::POST, Reply::Status(204));
    stage.heygen.emit("avatar_video.success", 1);
    in_time(stage.heygen.settled()).await;
    let deliveries = stage.receiver.deliveries();
    assert_eq!(deliveries.len(), failures.len() + 1);
    assert!(deliveries.iter().all(|one| one.body == deliveries[0].body));
    assert_eq!(stage.heygen.given_up(), 0);
}

#[tokio::test]
async fn an_answer_after_the_timeout_is_a_failure() {
    let stage = stage(|settings| settings.delivery_timeout = Duration::from_millis(100)).await;
    stage.register().await;
    let _held = stage.receiver.hold(Method::POST, 200);
    let started = std::time::Instant::now();
    stage.heygen.emit("batch.finished", 1);
    in_time(stage.heygen.settled()).await;
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "it does not wait for the answer"
    );
    assert_eq!(stage.receiver.deliveries().len(), 2);
}

#[tokio::test]
async fn a_delivery_is_given_up_when_the_time_for_retries_is_over() {
    let stage = stage(|settings| settings.retry_for = Duration::from_millis(50)).await;
    stage
        .caller
        .create(json!({"url": "http://127.0.0.1:1/nobody"}))
        .await;
    let event_id = stage.heygen.emit("batch.finished", 1);
    in_time(stage.heygen.settled()).await;
    assert_eq!(stage.heygen.given_up(), 1);
    assert_eq!(stage.heygen.history()[0].event_id, event_id);
}

#[tokio::test]
async fn a_retry_is_signed_with_the_secret_of_its_moment() {
    let stage = stage(|_| {}).await;
    let made = stage.register().await;
    let held = stage.receiver.hold(Method::POST, 401);
    stage.heygen.emit("batch.finished", 1);
    let first = stage.receiver.delivery(1).await;
    let rotated = stage.caller.rotate(&made.endpoint_id).await;
    held.notify_one();
    let second = stage.receiver.delivery(2).await;
    let rotated = rotated.body["data"]["secret"].as_str().unwrap().to_owned();
    let rotated = Secret::new(rotated).unwrap();
    let signatures = [
        signature_of(&first, &made.secret),
        signature_of(&second, &rotated),
    ];
    assert_eq!(first.header("signature"), Some(signatures[0].as_str()));
    assert_eq!(second.header("signature"), Some(signatures[1].as_str()));
}

/// How many attempts and given-up deliveries there are if this happens during the first attempt, which fails.
async fn attempts_if(happens: impl AsyncFnOnce(&Stage, &str)) -> (usize, u64) {
    let stage = stage(|_| {}).await;
    let id = stage.register().await.endpoint_id;
    let held = stage.receiver.hold(Method::POST, 500);
    stage.heygen.emit("batch.finished", 1);
    stage.receiver.delivery(1).await;
    happens(&stage, &id).await;
    held.notify_one();
    in_time(stage.heygen.settled()).await;
    stage.heygen.emit("batch.finished", 2);
    in_time(stage.heygen.settled()).await;
    (stage.receiver.deliveries().len(), stage.heygen.given_up())
}

#[tokio::test]
async fn nothing_more_is_sent_to_an_endpoint_that_is_disabled_or_deleted() {
    let disabled = attempts_if(async |stage, id| {
        assert!(stage.heygen.disable(id));
        let listed = stage.caller.get("endpoints").await.body;
        assert_eq!(listed["data"][0]["status"], "disabled");
    });
    let deleted = attempts_if(async |stage, id| assert!(stage.heygen.delete_behind_our_back(id)));
    assert_eq!(disabled.await, (1, 1));
    assert_eq!(deleted.await, (1, 1));
}

#[tokio::test]
async fn ending_waits_for_no_delivery_and_no_call() {
    let Stage {
        heygen,
        receiver,
        caller,
    } = stage(|_| {}).await;
    let url = receiver.url.as_str();
    caller.create(json!({"url": url})).await;
    let _held = receiver.hold(Method::POST, 200);
    heygen.emit("batch.finished", 1);
    receiver.delivery(1).await;
    heygen.faults().fail_next(Call::ListEvents, ApiFault::Hang);
    let hung = answered(caller.request(Method::GET, "events", None));
    let end = async {
        until(|| heygen.requests().len() == 2).await;
        heygen.end().await;
    };
    let (hung, ()) = in_time(async { tokio::join!(hung, end) }).await;
    assert!(hung.is_err());
}
