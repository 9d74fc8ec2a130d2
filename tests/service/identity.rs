//! One event however often it is delivered. Claims about I6.

use futures_util::future::join_all;

use crate::harness::{Hookstream, body};

#[tokio::test]
async fn i6_concurrent_copies_are_one_event_before_and_after_a_crash() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    let copy = body("avatar_video.success", 7);
    let answers = join_all((0..64).map(|_| sender.deliver(copy.clone()))).await;
    assert_eq!(answers, [200; 64]);
    assert_eq!(service.stored().await.len(), 1);
    let secret = sender.secret.expose().to_owned();
    let service = service.kill_and_restart();
    let sender = service.sender("dev", &secret);
    let answers = join_all((0..64).map(|_| sender.deliver(copy.clone()))).await;
    assert_eq!(answers, [200; 64]);
    assert_eq!(service.stored().await.len(), 1);
    let service = Hookstream::start_in(service.drain(), &[], &Default::default());
    assert_eq!(service.sender("dev", &secret).deliver(copy).await, 200);
    assert_eq!(
        service.stored().await.len(),
        1,
        "also when the index was written in order"
    );
}

#[tokio::test]
async fn i6_unsigned_headers_neither_make_a_duplicate_new_nor_swallow_an_event() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    let (first, second) = (body("avatar_video.success", 1), body("avatar_video.success", 2));
    for (body, id) in [(&first, "evt_1"), (&first, "evt_2"), (&second, "evt_1")] {
        let signature = sender.sign(body.as_bytes());
        let headers = [
            ("Signature", signature.as_str()),
            ("Heygen-Event-Id", id),
            ("Heygen-Timestamp", "1770000000"),
        ];
        assert_eq!(sender.post(body.clone(), &headers).await.unwrap(), 200);
    }
    let stored = service.stored().await;
    assert_eq!(
        stored.iter().map(|event| &event.raw_body[..]).collect::<Vec<_>>(),
        [first.as_bytes(), second.as_bytes()]
    );
}

#[tokio::test]
async fn i6_one_signed_event_id_is_one_event_whatever_else_the_body_says() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    let body = |url: &str| {
        format!(
            r#"{{"event_id":"evt_1","event_type":"avatar_video.success","event_data":{{"url":"{url}"}}}}"#
        )
    };
    assert_eq!(sender.deliver(body("first")).await, 200);
    assert_eq!(sender.deliver(body("signed anew")).await, 200);
    let stored = service.stored().await;
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].raw_body, body("first"));
    assert_eq!(stored[0].provider_event_id, "evt_1");
    assert_eq!(
        service
            .metric("hookstream_deliveries_differing_duplicates_total")
            .await,
        1.0
    );
    let other = service.endpoint("other").await;
    assert_eq!(other.deliver(body("first")).await, 200);
    assert_eq!(service.stored().await.len(), 2, "identity is per endpoint");
}
