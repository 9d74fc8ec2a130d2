//! What a subscriber gets. Claims about SubscribeEvents and AwaitEvent over real sockets.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt, future::join_all};
use hookstream::grpc::proto::{
    AwaitEventRequest, EventFilter, SubscribeEventsRequest, await_event_request,
    subscribe_events_request::Start, subscribe_events_response::Frame,
};
use tonic::Code;

use crate::harness::{Hookstream, PATIENCE, after, body, field, from_start, metadata, reason, types};

fn duration(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[tokio::test]
async fn a_new_stream_says_first_that_it_is_live_and_then_follows() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    sender.deliver(body("avatar_video.success", 1)).await;
    let mut stream = service.subscribe(SubscribeEventsRequest::default()).await;
    assert!(matches!(stream.frame().await.unwrap(), Some(Frame::CaughtUp(_))));
    sender.deliver(body("avatar_video.success", 2)).await;
    assert_eq!(stream.event().await.raw_body, body("avatar_video.success", 2));
}

#[tokio::test]
async fn i4_a_filter_gives_exactly_the_matching_events_stored_and_live() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    let deliver = async |numbers: std::ops::Range<u64>| {
        for number in numbers {
            let event_type =
                ["avatar_video.success", "video_agent.fail", "batch.finished"][number as usize % 3];
            assert_eq!(sender.deliver(body(event_type, number)).await, 200);
        }
    };
    deliver(0..30).await;
    let filter = EventFilter {
        event_types: vec!["avatar_video.*".into(), "*.fail".into()],
        ..EventFilter::default()
    };
    let mut stream = service
        .subscribe(SubscribeEventsRequest {
            filter: Some(filter),
            ..from_start()
        })
        .await;
    for number in (0..30).filter(|number| number % 3 != 2) {
        let event = stream.event().await;
        assert!(event.raw_body.len() > 2);
        assert!(event.entity_id.ends_with(&format!("{number:016x}")), "{number}");
    }
    assert!(matches!(stream.frame().await.unwrap(), Some(Frame::CaughtUp(_))));
    deliver(30..60).await;
    for number in (30..60).filter(|number| number % 3 != 2) {
        assert!(
            stream
                .event()
                .await
                .entity_id
                .ends_with(&format!("{number:016x}")),
            "{number}"
        );
    }
}

#[tokio::test]
async fn i4_every_cursor_of_a_stream_continues_it_after_a_crash() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    for number in 0..20 {
        sender.deliver(body("avatar_video.success", number)).await;
    }
    let all = service.stored().await;
    let service = service.kill_and_restart();
    for (at, event) in all.iter().enumerate() {
        let request = SubscribeEventsRequest {
            stop_at_tail: true,
            ..after(&event.cursor)
        };
        let rest = service.subscribe(request).await.rest().await.unwrap();
        assert_eq!(rest, all[at + 1..], "after {at}");
    }
}

#[tokio::test]
async fn a_heartbeat_carries_a_cursor_past_what_the_filter_skipped() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    let request = SubscribeEventsRequest {
        filter: types(&["*.fail"]),
        heartbeat_interval: duration(1),
        ..SubscribeEventsRequest::default()
    };
    let mut stream = service.subscribe(request).await;
    let Some(Frame::CaughtUp(start)) = stream.frame().await.unwrap() else {
        panic!()
    };
    sender.deliver(body("avatar_video.success", 1)).await;
    let heartbeat = loop {
        let Some(Frame::Heartbeat(heartbeat)) = stream.frame().await.unwrap() else {
            panic!()
        };
        if heartbeat.cursor != start.cursor {
            break heartbeat;
        }
    };
    assert_eq!(heartbeat.cursor, service.stored().await[0].cursor);
}

/// More events than memory keeps, so that the slow one falls back to the log.
#[tokio::test(flavor = "multi_thread")]
async fn i5_a_hundred_fast_readers_get_everything_beside_one_that_takes_an_event_a_second() {
    const EVENTS: u64 = 20_000;
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    let mut slow = service.subscribe(SubscribeEventsRequest::default()).await;
    assert!(matches!(slow.frame().await.unwrap(), Some(Frame::CaughtUp(_))));
    let mut fast = Vec::new();
    for _ in 0..10 {
        let mut client = service.client().await;
        for _ in 0..10 {
            let frames = client
                .subscribe_events(SubscribeEventsRequest::default())
                .await
                .unwrap();
            let mut stream = crate::harness::Stream::from(frames.into_inner());
            assert!(matches!(stream.frame().await.unwrap(), Some(Frame::CaughtUp(_))));
            fast.push(tokio::spawn(async move {
                for sequence in 1..=EVENTS {
                    assert_eq!(stream.event().await.sequence, sequence);
                }
            }));
        }
    }
    let taking_its_time = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        for sequence in 1..=EVENTS {
            if sequence <= 5 {
                ticks.tick().await;
            }
            assert_eq!(slow.event().await.sequence, sequence);
        }
    });
    let deliveries = (0..EVENTS).map(|number| {
        let (sender, body) = (sender.clone(), body("avatar_video.success", number));
        async move { assert_eq!(sender.deliver(body).await, 200) }
    });
    futures_util::stream::iter(deliveries)
        .for_each_concurrent(64, |delivery| delivery)
        .await;
    for joined in join_all(fast).await {
        joined.unwrap();
    }
    taking_its_time.await.unwrap();
    let resident = service.resident_bytes();
    assert!(resident < 300 * 1024 * 1024, "{} MiB", resident / 1024 / 1024);
}

/// The events are large, so that the slow stream's windows and the memory of the service cannot hold them.
#[tokio::test(flavor = "multi_thread")]
async fn i5_a_slow_reader_costs_bounded_memory_slows_nobody_and_misses_nothing() {
    const EVENTS: u64 = 1200;
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    let large = |number: u64| {
        let text = "x".repeat(48 * 1024);
        format!(
            r#"{{"event_type":"avatar_video.fail","event_data":{{"video_id":"{number}","msg":"{text}"}}}}"#
        )
    };
    let client = service.client().await;
    let open = async || {
        let frames = client
            .clone()
            .subscribe_events(SubscribeEventsRequest::default())
            .await
            .unwrap();
        crate::harness::Stream::from(frames.into_inner())
    };
    // A connection of its own, as a slow consumer has.
    let mut slow = service.subscribe(SubscribeEventsRequest::default()).await;
    assert!(matches!(slow.frame().await.unwrap(), Some(Frame::CaughtUp(_))));
    let mut fast = Vec::new();
    for _ in 0..10 {
        let mut stream = open().await;
        assert!(matches!(stream.frame().await.unwrap(), Some(Frame::CaughtUp(_))));
        fast.push(tokio::spawn(async move {
            for number in 0..EVENTS {
                assert_eq!(stream.event().await.entity_id, number.to_string());
            }
        }));
    }
    let filter = EventFilter {
        entity_ids: vec![(EVENTS - 1).to_string()],
        ..EventFilter::default()
    };
    let request = SubscribeEventsRequest {
        filter: Some(filter),
        ..SubscribeEventsRequest::default()
    };
    let others = join_all((0..90).map(async |_| {
        let frames = client.clone().subscribe_events(request.clone()).await.unwrap();
        let mut stream = crate::harness::Stream::from(frames.into_inner());
        assert!(matches!(stream.frame().await.unwrap(), Some(Frame::CaughtUp(_))));
        stream
    }));
    // Streams of one connection share its flow-control window: they are all read, or none gets on.
    let others: Vec<_> = others
        .await
        .into_iter()
        .map(|mut other| tokio::spawn(async move { other.event().await.entity_id }))
        .collect();
    assert_eq!(service.metric("hookstream_streams").await, 101.0);
    let one_a_second = tokio::spawn(async move {
        let mut received = 0;
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        while received < 5 {
            ticks.tick().await;
            assert_eq!(slow.event().await.entity_id, received.to_string());
            received += 1;
        }
        (slow, received)
    });
    for number in 0..EVENTS {
        assert_eq!(sender.deliver(large(number)).await, 200);
    }
    join_all(fast)
        .await
        .into_iter()
        .for_each(|joined| joined.unwrap());
    for other in others {
        assert_eq!(other.await.unwrap(), (EVENTS - 1).to_string());
    }
    let resident = service.resident_bytes();
    assert!(
        resident < 400 * 1024 * 1024,
        "{resident} bytes for {EVENTS} events of 48 KiB"
    );
    let (mut slow, received) = one_a_second.await.unwrap();
    let mut fell_behind = false;
    for number in received..EVENTS {
        loop {
            match slow.frame().await.unwrap().unwrap() {
                Frame::Event(event) => break assert_eq!(event.entity_id, number.to_string()),
                Frame::FellBehind(_) => fell_behind = true,
                _ => {}
            }
        }
    }
    assert!(
        fell_behind,
        "the test must make the reader slow enough to fall behind"
    );
}

#[tokio::test]
async fn a_start_that_cannot_be_is_refused_with_the_reason() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    sender.deliver(body("avatar_video.success", 1)).await;
    let cursor = service.stored().await[0].cursor.clone();
    let other = Hookstream::start();
    let foreign = other.endpoint("dev").await;
    foreign.deliver(body("avatar_video.success", 1)).await;
    let foreign = other.stored().await[0].cursor.clone();
    let mut edited = cursor.clone();
    edited.replace_range(20..21, if &edited[20..21] == "A" { "B" } else { "A" });

    let mut client = service.client().await;
    let mut refuse = async |request| client.subscribe_events(request).await.unwrap_err();
    for text in ["", "nonsense", &edited, &cursor[1..], &format!("{cursor}A")] {
        let status = refuse(after(text)).await;
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, "INVALID_FIELD")
        );
        assert_eq!(field(&status), "after_cursor");
    }
    let status = refuse(after(&foreign)).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "CURSOR_OF_ANOTHER_LOG")
    );
    for (request, blamed) in [
        (
            SubscribeEventsRequest {
                filter: types(&["ok", "*bad"]),
                ..from_start()
            },
            "filter.event_types[1]",
        ),
        (
            SubscribeEventsRequest {
                heartbeat_interval: duration(0),
                ..from_start()
            },
            "heartbeat_interval",
        ),
        (
            SubscribeEventsRequest {
                heartbeat_interval: duration(-1),
                ..from_start()
            },
            "heartbeat_interval",
        ),
        (
            SubscribeEventsRequest {
                start: Some(Start::Position(9)),
                ..from_start()
            },
            "position",
        ),
    ] {
        let status = refuse(request).await;
        assert_eq!(
            (status.code(), field(&status).as_str()),
            (Code::InvalidArgument, blamed)
        );
    }
}

#[tokio::test]
async fn a_cursor_that_retention_overtook_is_out_of_range_unless_a_gap_is_welcome() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    for number in 0..3 {
        sender.deliver(body("avatar_video.success", number)).await;
    }
    let first = service.stored().await[0].cursor.clone();
    let service = service.restart_without_its_events(3).await;
    let status = service
        .client()
        .await
        .subscribe_events(after(&first))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::OutOfRange, "CURSOR_TRIMMED")
    );
    let earliest = metadata(&status, "earliest_cursor");
    let mut stream = service.subscribe(after(&earliest)).await;
    assert!(matches!(stream.frame().await.unwrap(), Some(Frame::CaughtUp(_))));
    let mut stream = service
        .subscribe(SubscribeEventsRequest {
            continue_after_gap: true,
            ..after(&first)
        })
        .await;
    let Some(Frame::Gap(gap)) = stream.frame().await.unwrap() else {
        panic!()
    };
    assert_eq!((gap.after_cursor, gap.earliest_cursor), (first, earliest));
    assert!(matches!(stream.frame().await.unwrap(), Some(Frame::CaughtUp(_))));
}

#[tokio::test]
async fn a_cursor_ahead_of_a_log_that_was_set_back_is_refused() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    sender.deliver(body("avatar_video.success", 1)).await;
    let directory = service.drain();
    let backup = tempfile::tempdir().unwrap();
    std::fs::create_dir(backup.path().join("data")).unwrap();
    for file in crate::harness::files(&directory.path().join("data")) {
        std::fs::copy(&file, backup.path().join("data").join(file.file_name().unwrap())).unwrap();
    }
    let service = Hookstream::start_in(directory, &[], &HashMap::new());
    let sender = service.sender("dev", sender.secret.expose());
    sender.deliver(body("avatar_video.success", 2)).await;
    let cursor = service.stored().await[1].cursor.clone();
    let restored = Hookstream::start_in(std::sync::Arc::new(backup), &[], &HashMap::new());
    let status = restored
        .client()
        .await
        .subscribe_events(after(&cursor))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "CURSOR_AHEAD_OF_LOG")
    );
}

#[tokio::test]
async fn an_await_finds_what_is_stored_then_waits_for_what_comes() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    sender.deliver(body("avatar_video.success", 1)).await;
    let before = service.stored().await[0].cursor.clone();
    let mut client = service.client().await;
    let request = |entity: &str, seconds| AwaitEventRequest {
        filter: Some(EventFilter {
            entity_ids: vec![entity.into()],
            ..EventFilter::default()
        }),
        start: Some(await_event_request::Start::AfterCursor(before.clone())),
        timeout: duration(seconds),
    };
    let status = client
        .await_event(request("vid_0000000000000001", 1))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::DeadlineExceeded, "NO_EVENT_IN_TIME")
    );
    assert!(!metadata(&status, "cursor").is_empty());

    let mut waiting = client.clone();
    let wanted = request("vid_0000000000000002", 20);
    let live = tokio::spawn(async move { waiting.await_event(wanted).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    sender.deliver(body("avatar_video.success", 2)).await;
    let live = live.await.unwrap().unwrap().into_inner().event.unwrap();
    let stored = client
        .await_event(request("vid_0000000000000002", 20))
        .await
        .unwrap();
    assert_eq!(stored.into_inner().event.unwrap(), live);
}

#[tokio::test]
async fn i8_a_drain_tells_streams_to_come_back_and_ends_whatever_clients_do() {
    let mut service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    let mut stream = service.subscribe(SubscribeEventsRequest::default()).await;
    assert!(matches!(stream.frame().await.unwrap(), Some(Frame::CaughtUp(_))));
    for number in 0..3000 {
        sender
            .deliver(format!(
                "{}{}",
                body("avatar_video.success", number),
                " ".repeat(4096)
            ))
            .await;
    }
    // One that never reads, with more than its windows hold.
    let _stuck = service.subscribe(from_start()).await;
    let mut awaiting = service.client().await;
    let awaited = tokio::spawn(async move { awaiting.await_event(AwaitEventRequest::default()).await });
    for number in 0..3000 {
        let event = stream.event().await;
        assert!(event.entity_id.ends_with(&format!("{number:016x}")));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    service.signal("TERM");
    let Some(Frame::Draining(draining)) = stream.frame().await.unwrap() else {
        panic!()
    };
    assert!(draining.reconnect_after.is_some());
    let status = stream.frame().await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "DRAINING")
    );
    assert_eq!(awaited.await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert!(service.wait(PATIENCE).success());
}
