//! A log that is longer than a segment of its index. Claims that events are found, filtered and known again wherever they are.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use hookstream::grpc::proto::{EventFilter, ListEventsRequest, SubscribeEventsRequest};

use crate::harness::{Hookstream, Sender, body, from_start, types};

/// A segment has 65,536.
const EVENTS: u64 = 66_000;
const SENDERS: usize = 64;
const DUPLICATES: &str = r#"hookstream_deliveries_total{outcome="duplicate"}"#;

fn body_of(number: u64) -> String {
    let outcome = if number.is_multiple_of(2) {
        "success"
    } else {
        "fail"
    };
    body(&format!("avatar_video.{outcome}"), number)
}

async fn fill(sender: &Sender) {
    let next = Arc::new(AtomicU64::new(0));
    let senders = (0..SENDERS).map(|_| {
        let (sender, next) = (sender.clone(), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= EVENTS {
                    break;
                }
                assert_eq!(sender.deliver(body_of(number)).await, 200);
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
}

async fn is_all_found(service: &Hookstream, sender: &Sender) {
    let mut client = service.client().await;
    let some: Vec<_> = (0..EVENTS).step_by(3_001).collect();
    for &number in &some {
        let filter = EventFilter {
            entity_ids: vec![format!("vid_{number:016x}")],
            ..EventFilter::default()
        };
        let request = ListEventsRequest {
            filter: Some(filter),
            ..ListEventsRequest::default()
        };
        let found = client.list_events(request).await.unwrap().into_inner().events;
        let bodies: Vec<_> = found.iter().map(|event| event.raw_body.to_vec()).collect();
        assert_eq!(bodies, [body_of(number).into_bytes()], "{number}");
    }
    let failures = SubscribeEventsRequest {
        filter: types(&["*.fail"]),
        stop_at_tail: true,
        ..from_start()
    };
    let failures = service.subscribe(failures).await.rest().await.unwrap();
    assert_eq!(failures.len() as u64, EVENTS / 2);
    for &number in &some {
        assert_eq!(sender.deliver(body_of(number)).await, 200);
    }
    assert_eq!(service.metric(DUPLICATES).await, some.len() as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_found_and_known_in_every_segment_before_and_after_a_kill() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    fill(&sender).await;
    is_all_found(&service, &sender).await;
    let service = service.kill_and_restart();
    let sender = service.sender("dev", sender.secret.expose());
    is_all_found(&service, &sender).await;
}
