//! The terms of a subscription, and their changes.

use super::*;

#[tokio::test]
async fn a_change_is_in_force_for_streams_that_are_open() {
    let terms = Subscription {
        filter: types(&["avatar_video.*"]),
        max_unacknowledged_per_stream: 1,
        ..Subscription::default()
    };
    let run = Run::start(terms).await;
    run.deliver(0..2).await;
    let mut stream = run.stream().await;
    let first = stream.delivery().await;
    stream.silence().await;
    let more = Subscription {
        max_unacknowledged_per_stream: 3,
        max_attempts: 3,
        ..Subscription::default()
    };
    let updated = run.update(more, &["max_unacknowledged_per_stream"]).await;
    assert_eq!(
        (updated.max_unacknowledged_per_stream, updated.max_attempts),
        (3, 10),
        "what the mask does not name stays"
    );
    assert_eq!(updated.filter, types(&["avatar_video.*"]));
    let second = stream.delivery().await;
    assert_eq!(told(&second), (1, 1));

    // Another filter: what is in flight stays acknowledgeable, what follows is chosen anew.
    let filter = Subscription {
        filter: types(&["video_agent.*"]),
        ..Subscription::default()
    };
    run.update(filter, &["filter"]).await;
    run.deliver(2..3).await;
    let agent = body("video_agent.success", 3);
    assert_eq!(run.sender.deliver(agent.clone()).await, 200);
    assert_eq!(stream.delivery().await.event.raw_body, agent);
    assert_eq!(run.say(done(), [&first]).await, [Accepted]);
    assert_eq!(run.say(retry(millis(0)), [&second]).await, [Accepted]);
    assert_eq!(
        told(&stream.delivery().await),
        (1, 2),
        "it was let in when it was handed out first"
    );
    stream.silence().await;
}

#[tokio::test]
async fn a_changed_deadline_concerns_what_is_handed_out_after_it() {
    let run = Run::start(hasty()).await;
    run.deliver(0..1).await;
    let mut stream = run.stream().await;
    let first = stream.delivery().await;
    let short = Subscription {
        ack_deadline: millis(1000),
        ..Subscription::default()
    };
    run.update(short, &["ack_deadline"]).await;
    run.deliver(1..2).await;
    for attempt in 1..=3 {
        assert_eq!(told(&stream.delivery().await), (1, attempt));
    }
    assert_eq!(
        run.say(extend(None), [&first]).await,
        [Accepted],
        "it is still held"
    );
}

#[tokio::test]
async fn a_change_survives_a_crash() {
    let run = Run::start(Subscription::default()).await;
    let terms = Subscription {
        filter: types(&["*.fail"]),
        ack_deadline: millis(1500),
        max_attempts: 7,
        after_max_attempts: AfterMaxAttempts::Discard.into(),
        min_retry_delay: millis(2500),
        max_retry_delay: millis(HOUR),
        max_unacknowledged_per_stream: 8,
        max_unacknowledged: 9,
        inactive_retention: millis(24 * HOUR),
        labels: HashMap::from([("team".into(), "video".into())]),
        ..Subscription::default()
    };
    let fields = [
        "filter",
        "ack_deadline",
        "max_attempts",
        "after_max_attempts",
        "min_retry_delay",
        "max_retry_delay",
        "max_unacknowledged_per_stream",
        "max_unacknowledged",
        "inactive_retention",
        "labels",
    ];
    let updated = run.update(terms.clone(), &fields).await;
    let expected = Subscription {
        name: NAME.into(),
        ordering: proto::Ordering::None.into(),
        created_at: updated.created_at,
        status: updated.status.clone(),
        ..terms
    };
    assert!(updated.created_at.is_some());
    assert_eq!(updated, expected);
    let run = run.kill_and_restart().await;
    let found = run.manage(Operation::Get(Get { name: NAME.into() })).await;
    let found = subscription_in(found.unwrap());
    assert_eq!(found.status.as_ref().unwrap().backlog, 0);
    let found = Subscription {
        status: expected.status.clone(),
        ..found
    };
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_subscription_says_its_terms_where_it_was_told_none() {
    let service = Hookstream::start();
    let made = service.subscription(NAME, Subscription::default()).await;
    assert_eq!((made.ack_deadline, made.max_attempts), (millis(30_000), 10));
    assert_eq!(
        (made.min_retry_delay, made.max_retry_delay),
        (millis(1000), millis(300_000))
    );
    assert_eq!(
        (made.max_unacknowledged_per_stream, made.max_unacknowledged),
        (20, 1000)
    );
    assert_eq!(
        (made.ordering(), made.after_max_attempts()),
        (proto::Ordering::None, AfterMaxAttempts::DeadLetter)
    );
    assert_eq!(made.inactive_retention, None);
    // A longer shortest delay takes the longest one with it.
    let terms = Subscription {
        min_retry_delay: millis(HOUR),
        ..Subscription::default()
    };
    let made = service.subscription("slow", terms).await;
    assert_eq!(made.max_retry_delay, millis(HOUR));
}

#[tokio::test]
async fn terms_at_their_bounds_are_taken() {
    let service = Hookstream::start();
    let least = Subscription {
        ack_deadline: millis(1000),
        max_attempts: 1,
        min_retry_delay: millis(0),
        max_retry_delay: millis(0),
        max_unacknowledged_per_stream: 1,
        max_unacknowledged: 1,
        inactive_retention: millis(60_000),
        ..Subscription::default()
    };
    let label = |number: usize| (format!("{number:0>63}"), "v".repeat(256));
    let most = Subscription {
        ack_deadline: millis(HOUR),
        max_attempts: 1000,
        min_retry_delay: millis(HOUR),
        max_retry_delay: millis(24 * HOUR),
        max_unacknowledged_per_stream: 10_000,
        max_unacknowledged: 20_000,
        inactive_retention: millis(10 * 365 * 24 * HOUR),
        labels: (0..64).map(label).collect(),
        ..Subscription::default()
    };
    let long = "z".repeat(63);
    for (name, terms) in [("a", least), (long.as_str(), most)] {
        let made = service.subscription(name, terms.clone()).await;
        let expected = Subscription {
            name: name.into(),
            filter: made.filter.clone(),
            after_max_attempts: made.after_max_attempts,
            ordering: made.ordering,
            created_at: made.created_at,
            status: made.status.clone(),
            ..terms
        };
        assert_eq!(made, expected);
    }
}
