//! Where a subscription stands: where it starts, moves, and what retention does to it.

use super::*;

#[tokio::test]
async fn a_subscription_goes_on_from_wherever_it_is_moved() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..5).await;
    let stored = run.service.stored().await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(5).await;
    assert_eq!(run.say(done(), &held[..4]).await, [Accepted; 4]);

    run.move_to(seek::Target::AfterCursor(stored[1].cursor.clone()))
        .await;
    let again = stream.deliveries(3).await;
    assert_eq!(numbers(&again), [2, 3, 4], "settled or not");
    assert_eq!(
        run.say(done(), [&held[4]]).await,
        [Late],
        "it was handed out before the move"
    );
    assert_eq!(run.say(done(), &again).await, [Accepted; 3]);
    assert_eq!(run.status().await.backlog, 0);

    let received = |event: &Event| event.received_at.map(|at| (at.seconds, at.nanos));
    run.move_to(seek::Target::Since(stored[3].received_at.unwrap()))
        .await;
    let since: Vec<_> = stored
        .iter()
        .filter(|event| received(event) >= received(&stored[3]))
        .map(number)
        .collect();
    assert_eq!(numbers(&stream.deliveries(since.len()).await), since);

    run.move_to(seek::Target::Position(Position::Earliest.into()))
        .await;
    let all = stream.deliveries(5).await;
    assert_eq!(numbers(&all), [0, 1, 2, 3, 4]);

    run.move_to(seek::Target::Position(Position::New.into())).await;
    let status = run.status().await;
    assert_eq!((status.backlog, status.in_flight), (0, 0));
    assert_eq!(run.say(done(), &all).await, [Late; 5]);
    stream.silence().await;
    run.deliver(5..6).await;
    assert_eq!(numbers(&stream.deliveries(1).await), [5]);

    let run = run.kill_and_restart().await;
    assert_eq!(numbers(&run.stream().await.until_caught_up().await), [5]);
}

#[tokio::test]
async fn a_move_that_was_answered_survives_a_crash() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..3).await;
    let held = run.stream().await.deliveries(3).await;
    assert_eq!(run.say(done(), &held).await, [Accepted; 3]);
    run.move_to(seek::Target::AfterCursor(held[0].event.cursor.clone()))
        .await;
    let run = run.kill_and_restart().await;
    assert_eq!(numbers(&run.stream().await.until_caught_up().await), [1, 2]);
    assert_eq!(run.say(done(), [&held[2]]).await, [Late]);
}

#[tokio::test]
async fn a_subscription_starts_where_it_is_told() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..3).await;
    let stored = run.service.stored().await;
    let since = stored[1].received_at.unwrap();
    let received = |event: &&Event| {
        let at = event.received_at.unwrap();
        (at.seconds, at.nanos) >= (since.seconds, since.nanos)
    };
    let after_or_at: Vec<_> = stored.iter().filter(received).map(number).chain([3]).collect();
    let starts = [
        ("unset", None, vec![3]),
        (
            "new",
            Some(create::Start::Position(Position::New.into())),
            vec![3],
        ),
        (
            "earliest",
            Some(create::Start::Position(Position::Earliest.into())),
            vec![0, 1, 2, 3],
        ),
        (
            "after",
            Some(create::Start::AfterCursor(stored[1].cursor.clone())),
            vec![2, 3],
        ),
        ("since", Some(create::Start::Since(since)), after_or_at),
    ];
    for (name, start, _) in &starts {
        let create = Create {
            subscription: Some(Subscription {
                name: (*name).into(),
                ..Subscription::default()
            }),
            start: start.clone(),
        };
        run.manage(Operation::Create(create)).await.unwrap();
    }
    run.deliver(3..4).await;
    for (name, _, expected) in starts {
        let mut stream = run.service.subscribe(part_in(name)).await;
        assert_eq!(
            numbers(&stream.deliveries(expected.len()).await),
            expected,
            "{name}"
        );
    }
}

#[tokio::test]
async fn what_retention_removes_is_a_gap_and_hinders_nothing() {
    let run = Run::start(per_entity()).await;
    for number in 0..3 {
        run.deliver_about("a", number).await;
    }
    let held = run.stream().await.delivery().await;
    let secret = run.sender.secret.expose().to_owned();
    let service = run.service.restart_without_its_events(3).await;
    let sender = service.sender("dev", &secret);
    let client = service.client().await;
    let run = Run {
        service,
        sender,
        client,
    };
    let mut stream = run.stream().await;
    run.deliver_about("a", 3).await;
    let next = stream.delivery().await;
    assert_eq!(told(&next), (3, 1));
    assert_eq!(run.say(done(), [&held]).await, [Late]);
    assert_eq!(run.say(done(), [&next]).await, [Accepted]);
    let status = run.status().await;
    assert_eq!(status.backlog, 0);
    assert!(status.last_gap_at.is_some());
}

#[tokio::test]
async fn a_stream_is_told_of_a_gap() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..3).await;
    let service = run.service.restart_without_its_events(3).await;
    let mut stream = service.subscribe(part()).await;
    let Frame::Gap(gap) = frame(&mut stream).await else {
        panic!("no gap is told of")
    };
    assert_ne!(gap.after_cursor, gap.earliest_cursor);
    assert!(matches!(frame(&mut stream).await, Frame::CaughtUp(_)));
    let status = standing(&service.client().await, NAME).await;
    assert_eq!(status.backlog, 0);
    assert!(status.last_gap_at.is_some());
}
