//! What is refused, and how that is said.

use super::*;

#[tokio::test]
async fn an_acknowledgement_that_cannot_be_is_refused_with_the_field() {
    let run = Run::start(Subscription::default()).await;
    let mut client = run.client.clone();
    let request = |outcome, ids| AcknowledgeEventsRequest {
        subscription: NAME.into(),
        ack_ids: vec!["made-up".into(); ids],
        outcome,
    };
    let cases = [
        (request(None, 1), "outcome"),
        (request(Some(done()), 0), "ack_ids"),
        (request(Some(done()), 4097), "ack_ids"),
        (request(Some(retry(millis(-1))), 1), "after"),
        (request(Some(retry(millis(24 * HOUR + 1))), 1), "after"),
        (request(Some(extend(millis(500))), 1), "by"),
        (request(Some(extend(millis(0))), 1), "by"),
        (request(Some(extend(millis(-1000))), 1), "by"),
        (request(Some(extend(millis(2 * HOUR))), 1), "by"),
    ];
    for (request, blamed) in cases {
        let status = client.acknowledge_events(request.clone()).await.unwrap_err();
        assert_eq!(
            refused(&status),
            (Code::InvalidArgument, "INVALID_FIELD".to_owned())
        );
        assert_eq!(field(&status), blamed, "{:?}", request.outcome);
    }
    let most = client.acknowledge_events(request(Some(done()), 4096)).await;
    assert_eq!(most.unwrap().into_inner().results.len(), 4096);
    let nobody = AcknowledgeEventsRequest {
        subscription: "nobody".into(),
        ..request(Some(done()), 1)
    };
    let status = client.acknowledge_events(nobody).await.unwrap_err();
    assert_eq!(refused(&status), not_found());
}

#[tokio::test]
async fn terms_that_cannot_be_are_refused_with_the_field() {
    let run = Run::start(Subscription::default()).await;
    let new = || Subscription {
        name: "new".into(),
        ..Subscription::default()
    };
    let named = |name: &str| Subscription {
        name: name.into(),
        ..Subscription::default()
    };
    let deadline = |deadline| Subscription {
        ack_deadline: millis(deadline),
        ..new()
    };
    let attempts = |max_attempts| Subscription {
        max_attempts,
        ..new()
    };
    let after = |after_max_attempts| Subscription {
        after_max_attempts,
        ..new()
    };
    let delays = |min, max| Subscription {
        min_retry_delay: min,
        max_retry_delay: max,
        ..new()
    };
    let per_stream = |max_unacknowledged_per_stream| Subscription {
        max_unacknowledged_per_stream,
        ..new()
    };
    let in_all = |max_unacknowledged| Subscription {
        max_unacknowledged,
        ..new()
    };
    let ordered = |ordering| Subscription { ordering, ..new() };
    let retained = |time| Subscription {
        inactive_retention: millis(time),
        ..new()
    };
    let cases = [
        (named(""), "name"),
        (named("Work"), "name"),
        (named("-work"), "name"),
        (named("a/b"), "name"),
        (named(&"a".repeat(64)), "name"),
        (
            Subscription {
                filter: types(&["*bad"]),
                ..new()
            },
            "filter.event_types[0]",
        ),
        (
            Subscription {
                filter: types(&["batch.finished", "*bad"]),
                ..new()
            },
            "filter.event_types[1]",
        ),
        (deadline(500), "ack_deadline"),
        (deadline(0), "ack_deadline"),
        (deadline(-1000), "ack_deadline"),
        (deadline(2 * HOUR), "ack_deadline"),
        (attempts(-1), "max_attempts"),
        (attempts(1001), "max_attempts"),
        (after(9), "after_max_attempts"),
        (after(-1), "after_max_attempts"),
        (delays(millis(-1), None), "min_retry_delay"),
        (delays(millis(HOUR + 1), None), "min_retry_delay"),
        (delays(None, millis(-1)), "max_retry_delay"),
        (delays(None, millis(24 * HOUR + 1)), "max_retry_delay"),
        (delays(millis(2000), millis(1999)), "max_retry_delay"),
        (delays(None, millis(999)), "max_retry_delay"),
        (per_stream(-1), "max_unacknowledged_per_stream"),
        (per_stream(10_001), "max_unacknowledged_per_stream"),
        (in_all(-1), "max_unacknowledged"),
        (in_all(20_001), "max_unacknowledged"),
        (ordered(9), "ordering"),
        (ordered(-1), "ordering"),
        (retained(59_999), "inactive_retention"),
        (retained(11 * 366 * 24 * HOUR), "inactive_retention"),
    ];
    for (subscription, blamed) in cases {
        let create = Create {
            subscription: Some(subscription.clone()),
            start: None,
        };
        let status = run.manage(Operation::Create(create)).await.unwrap_err();
        assert_eq!(
            refused(&status),
            (Code::InvalidArgument, "INVALID_FIELD".to_owned()),
            "{subscription:?}"
        );
        assert_eq!(
            field(&status),
            format!("subscription.{blamed}"),
            "{subscription:?}"
        );
    }
    let many = (0..65).map(|number| (number.to_string(), String::new()));
    for labels in [
        many.collect::<HashMap<_, _>>(),
        HashMap::from([("k".repeat(64), String::new())]),
        HashMap::from([("k".to_owned(), "v".repeat(257))]),
    ] {
        let create = Create {
            subscription: Some(Subscription { labels, ..new() }),
            start: None,
        };
        let status = run.manage(Operation::Create(create)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(
            field(&status).starts_with("subscription.labels"),
            "{}",
            field(&status)
        );
    }
    let nothing = Create {
        subscription: None,
        start: None,
    };
    let status = run.manage(Operation::Create(nothing)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(field(&status).starts_with("subscription"), "{}", field(&status));
    let Answer::List(page) = run.manage(Operation::List(List::default())).await.unwrap() else {
        panic!()
    };
    assert_eq!(page.subscriptions.len(), 1, "nothing was made");
}

#[tokio::test]
async fn a_place_that_cannot_be_is_refused_with_the_reason() {
    let run = Run::start(Subscription::default()).await;
    let other = Hookstream::start();
    let elsewhere = other.endpoint("dev").await;
    elsewhere.deliver(about("a", 0)).await;
    let foreign = other.stored().await[0].cursor.clone();
    let never = prost_types::Timestamp {
        seconds: i64::MAX,
        nanos: 0,
    };
    let starts = [
        (create::Start::AfterCursor("nonsense".into()), "after_cursor"),
        (create::Start::AfterCursor(String::new()), "after_cursor"),
        (create::Start::Since(never), "since"),
        (create::Start::Position(9), "position"),
    ];
    let new = || Subscription {
        name: "new".into(),
        ..Subscription::default()
    };
    for (start, blamed) in starts {
        let create = Create {
            subscription: Some(new()),
            start: Some(start),
        };
        let status = run.manage(Operation::Create(create)).await.unwrap_err();
        assert_eq!(
            (status.code(), field(&status).as_str()),
            (Code::InvalidArgument, blamed)
        );
    }
    let targets = [
        (None, "target"),
        (Some(seek::Target::AfterCursor("nonsense".into())), "after_cursor"),
        (Some(seek::Target::Since(never)), "since"),
        (Some(seek::Target::Position(9)), "position"),
    ];
    for (target, blamed) in targets {
        let status = run.manage(Operation::Seek(seek_to(target))).await.unwrap_err();
        assert_eq!(
            (status.code(), field(&status).as_str()),
            (Code::InvalidArgument, blamed)
        );
    }
    let create = Create {
        subscription: Some(new()),
        start: Some(create::Start::AfterCursor(foreign.clone())),
    };
    let seek = seek_to(Some(seek::Target::AfterCursor(foreign)));
    for operation in [Operation::Create(create), Operation::Seek(seek)] {
        let status = run.manage(operation).await.unwrap_err();
        assert_eq!(
            refused(&status),
            (Code::FailedPrecondition, "CURSOR_OF_ANOTHER_LOG".to_owned())
        );
    }
}

#[tokio::test]
async fn a_change_that_cannot_be_is_refused_with_the_field() {
    let run = Run::start(Subscription::default()).await;
    let unmasked = Update {
        update_mask: None,
        ..update(Subscription::default(), &[])
    };
    let attempts = Subscription {
        max_attempts: 1001,
        ..Subscription::default()
    };
    let cases = [
        (unmasked, "update_mask"),
        (update(Subscription::default(), &[]), "update_mask"),
        (update(Subscription::default(), &["name"]), "update_mask"),
        (update(Subscription::default(), &["ordering"]), "update_mask"),
        (update(Subscription::default(), &["created_at"]), "update_mask"),
        (update(Subscription::default(), &["status"]), "update_mask"),
        (
            update(Subscription::default(), &["labels", "nonsense"]),
            "update_mask",
        ),
        (update(attempts, &["max_attempts"]), "subscription.max_attempts"),
    ];
    for (update, blamed) in cases {
        let status = run.manage(Operation::Update(update.clone())).await.unwrap_err();
        assert_eq!(
            (status.code(), field(&status).as_str()),
            (Code::InvalidArgument, blamed),
            "{update:?}"
        );
    }
}

#[tokio::test]
async fn other_operations_that_cannot_be_are_refused_with_the_field() {
    let run = Run::start(Subscription::default()).await;
    let list = |page_size, page_token: &str| {
        Operation::List(List {
            page_size,
            page_token: page_token.into(),
        })
    };
    let event_ids = vec!["evt_00000000000000000000000000000000".to_owned(); 1001];
    let replay = ReplayDeadLetters {
        name: NAME.into(),
        event_ids: event_ids.clone(),
    };
    let discard = DiscardDeadLetters {
        name: NAME.into(),
        event_ids,
    };
    let cases = [
        (list(1001, ""), "page_size"),
        (list(-1, ""), "page_size"),
        (list(1, "?"), "page_token"),
        (Operation::ReplayDeadLetters(replay), "event_ids"),
        (Operation::DiscardDeadLetters(discard), "event_ids"),
    ];
    for (operation, blamed) in cases {
        let status = run.manage(operation).await.unwrap_err();
        assert_eq!(
            (status.code(), field(&status).as_str()),
            (Code::InvalidArgument, blamed)
        );
    }
    let nothing = ManageSubscriptionRequest { operation: None };
    let status = run.client.clone().manage_subscription(nothing).await.unwrap_err();
    assert_eq!(field(&status), "operation");
}

#[tokio::test]
async fn a_name_is_taken_once_and_a_missing_one_is_not_found() {
    let run = Run::start(Subscription::default()).await;
    let create = Create {
        subscription: Some(Subscription {
            name: NAME.into(),
            ..Subscription::default()
        }),
        start: None,
    };
    let taken = run.manage(Operation::Create(create)).await.unwrap_err();
    assert_eq!(
        refused(&taken),
        (Code::AlreadyExists, "SUBSCRIPTION_EXISTS".to_owned())
    );
    let name = || "nobody".to_owned();
    let subscription = Subscription {
        name: name(),
        ..Subscription::default()
    };
    let operations = [
        Operation::Get(Get { name: name() }),
        Operation::Delete(Delete { name: name() }),
        Operation::Seek(Seek {
            name: name(),
            target: Some(seek::Target::Position(Position::Earliest.into())),
        }),
        Operation::ReplayDeadLetters(ReplayDeadLetters {
            name: name(),
            event_ids: vec![],
        }),
        Operation::DiscardDeadLetters(DiscardDeadLetters {
            name: name(),
            event_ids: vec![],
        }),
        Operation::Update(Update {
            subscription: Some(subscription),
            ..update(Subscription::default(), &["labels"])
        }),
    ];
    for operation in operations {
        let status = run.manage(operation.clone()).await.unwrap_err();
        assert_eq!(refused(&status), not_found(), "{operation:?}");
    }
    let mut client = run.client.clone();
    let status = client.subscribe_events(part_in("nobody")).await.unwrap_err();
    assert_eq!(refused(&status), not_found());
    let listing = ListEventsRequest {
        dead_letters_of: name(),
        ..ListEventsRequest::default()
    };
    let status = client.list_events(listing).await.unwrap_err();
    assert_eq!(refused(&status), not_found());
}

#[tokio::test]
async fn a_stream_of_a_subscription_has_no_place_and_filter_of_its_own() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..1).await;
    let cursor = run.service.stored().await[0].cursor.clone();
    let plain = SubscribeEventsRequest::default;
    let cases = [
        (
            SubscribeEventsRequest {
                filter: types(&["*.fail"]),
                ..part()
            },
            "filter",
        ),
        (
            SubscribeEventsRequest {
                start: Some(Start::AfterCursor(cursor)),
                ..part()
            },
            "start",
        ),
        (
            SubscribeEventsRequest {
                start: Some(Start::Position(Position::New.into())),
                ..part()
            },
            "start",
        ),
        (
            SubscribeEventsRequest {
                stop_at_tail: true,
                ..part()
            },
            "stop_at_tail",
        ),
        (
            SubscribeEventsRequest {
                continue_after_gap: true,
                ..part()
            },
            "continue_after_gap",
        ),
        (
            SubscribeEventsRequest {
                max_unacknowledged: -1,
                ..part()
            },
            "max_unacknowledged",
        ),
        (
            SubscribeEventsRequest {
                max_unacknowledged: 10_001,
                ..part()
            },
            "max_unacknowledged",
        ),
        (
            SubscribeEventsRequest {
                heartbeat_interval: millis(0),
                ..part()
            },
            "heartbeat_interval",
        ),
        (
            SubscribeEventsRequest {
                max_unacknowledged: 1,
                ..plain()
            },
            "max_unacknowledged",
        ),
        (
            SubscribeEventsRequest {
                auto_acknowledge: true,
                ..plain()
            },
            "auto_acknowledge",
        ),
    ];
    let mut client = run.client.clone();
    for (request, blamed) in cases {
        let status = client.subscribe_events(request.clone()).await.unwrap_err();
        assert_eq!(
            (status.code(), field(&status).as_str()),
            (Code::InvalidArgument, blamed),
            "{request:?}"
        );
    }
    let status = run.status().await;
    assert_eq!((status.connected_streams, status.in_flight), (0, 0));
}
