//! How events are shared out among streams, and what acknowledging them does.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn each_event_goes_to_one_of_three_streams_and_all_come() {
    let run = Run::start(Subscription::default()).await;
    let handled = Arc::new(Mutex::new(Vec::new()));
    for _ in 0..3 {
        let stream = run.stream().await;
        let client = run.service.client().await;
        tokio::spawn(handle(stream, client, Arc::clone(&handled)));
    }
    run.deliver(0..200).await;
    until("everything is settled", async || run.status().await.backlog == 0).await;
    until("every answer has come", async || {
        handled.lock().unwrap().len() >= 200
    })
    .await;
    let mut all = handled.lock().unwrap().clone();
    all.sort_unstable();
    assert_eq!(all, (0..200).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_event_goes_to_the_stream_that_holds_the_fewest() {
    let run = Run::start(Subscription::default()).await;
    let mut streams = [run.stream().await, run.stream().await, run.stream().await];
    for stream in &mut streams {
        assert_eq!(numbers(&stream.until_caught_up().await), [0; 0]);
    }
    for number in 0..6 {
        run.deliver(number..number + 1).await;
        let held = number + 1;
        until("it is handed out", async || run.status().await.in_flight == held).await;
    }
    let mut all = BTreeSet::new();
    for stream in &mut streams {
        all.extend(numbers(&stream.deliveries(2).await));
        stream.silence().await;
    }
    assert_eq!(all, (0..6).collect::<BTreeSet<_>>());
}

#[tokio::test]
async fn what_was_acknowledged_does_not_come_again_after_a_crash_and_the_rest_does() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..4).await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(4).await;
    assert_eq!(numbers(&held), [0, 1, 2, 3]);
    assert_eq!(run.say(done(), [&held[0], &held[2]]).await, [Accepted; 2]);
    let run = run.kill_and_restart().await;
    let again = run.stream().await.until_caught_up().await;
    // Attempts that a crash ended do not count.
    assert_eq!(again.iter().map(told).collect::<Vec<_>>(), [(1, 1), (3, 1)]);
    assert!(
        again
            .iter()
            .all(|new| held.iter().all(|old| old.ack_id != new.ack_id))
    );
    assert_eq!(run.say(done(), &again).await, [Accepted; 2]);
    let run = run.kill_and_restart().await;
    assert_eq!(numbers(&run.stream().await.until_caught_up().await), [0; 0]);
    assert_eq!(run.status().await.backlog, 0);
}

#[tokio::test]
async fn every_attempt_has_its_number_and_its_ack_id() {
    let run = Run::start(hasty()).await;
    run.deliver(0..1).await;
    let mut stream = run.stream().await;
    let mut ack_ids = BTreeSet::new();
    for attempt in 1..=4 {
        let delivery = stream.delivery().await;
        assert_eq!(told(&delivery), (0, attempt));
        assert!(delivery.ack_id.len() <= 64 && delivery.ack_id.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(run.say(retry(None), [&delivery]).await, [Accepted]);
        ack_ids.insert(delivery.ack_id);
    }
    assert_eq!(ack_ids.len(), 4);
}

#[tokio::test]
async fn an_extended_event_outlives_its_deadline() {
    let terms = Subscription {
        ack_deadline: millis(3000),
        ..hasty()
    };
    let run = Run::start(terms).await;
    run.deliver(0..2).await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(2).await;
    assert_eq!(run.say(extend(millis(HOUR)), [&held[0]]).await, [Accepted]);
    // The other one was handed out later, so the first deadline passes before the second.
    let again = stream.delivery().await;
    assert_eq!(told(&again), (1, 2));
    assert_eq!(run.say(done(), [&again]).await, [Accepted]);
    assert_eq!(run.status().await.in_flight, 1);
    // By the subscription's own deadline it is brought forward again.
    assert_eq!(run.say(extend(None), [&held[0]]).await, [Accepted]);
    assert_eq!(told(&stream.delivery().await), (0, 2));
}

#[tokio::test]
async fn what_was_handled_too_late_is_settled_all_the_same_while_nobody_else_has_it() {
    let terms = Subscription {
        ack_deadline: millis(1000),
        ..patient()
    };
    let run = Run::start(terms).await;
    run.deliver(0..4).await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(4).await;
    until("the deadlines have passed", async || {
        run.status().await.in_flight == 0
    })
    .await;
    assert_eq!(run.say(extend(None), [&held[0]]).await, [Late]);
    assert_eq!(run.say(retry(millis(0)), [&held[0]]).await, [Late]);
    assert_eq!(run.say(done(), [&held[0]]).await, [Accepted]);
    assert_eq!(run.say(reject(), [&held[1]]).await, [Accepted]);
    drop(stream);
    until("the stream has ended", async || {
        run.status().await.connected_streams == 0
    })
    .await;
    assert_eq!(run.say(done(), [&held[2]]).await, [Accepted]);
    assert_eq!(run.say(reject(), [&held[3]]).await, [Accepted]);
    assert_eq!(run.say(done(), &held).await, [Late; 4], "all are settled");
    let status = run.status().await;
    assert_eq!((status.backlog, status.dead_letters), (0, 2));
}

#[tokio::test]
async fn after_a_crash_what_is_too_late_comes_again_and_nothing_else() {
    let run = Run::start(hasty()).await;
    run.deliver(0..3).await;
    let held = run.stream().await.deliveries(3).await;
    assert_eq!(run.say(done(), [&held[0]]).await, [Accepted]);
    let run = run.kill_and_restart().await;
    let answers = run.say(done(), &held).await;
    assert_eq!(answers[0], Late, "it is settled");
    assert!(!answers.contains(&Unknown), "they were given out: {answers:?}");
    let late: Vec<_> = (1..3_u64).filter(|&at| answers[at as usize] == Late).collect();
    assert_eq!(numbers(&run.stream().await.until_caught_up().await), late);
}

#[tokio::test]
async fn a_stream_holds_no_more_than_the_subscription_and_it_itself_allow() {
    let terms = Subscription {
        max_unacknowledged_per_stream: 3,
        ..Subscription::default()
    };
    let run = Run::start(terms).await;
    run.deliver(0..12).await;
    let mut first = run.stream().await;
    let held = first.deliveries(3).await;
    first.silence().await;
    assert_eq!(run.say(done(), [&held[1]]).await, [Accepted]);
    assert_eq!(numbers(&first.deliveries(1).await), [3]);
    first.silence().await;
    let mut second = run.small_stream(2).await;
    assert_eq!(numbers(&second.deliveries(2).await), [4, 5]);
    second.silence().await;
    let mut third = run.small_stream(100).await;
    assert_eq!(numbers(&third.deliveries(3).await), [6, 7, 8]);
    third.silence().await;
    let status = run.status().await;
    assert_eq!(
        (status.in_flight, status.backlog, status.connected_streams),
        (8, 11, 3)
    );
}

#[tokio::test]
async fn no_more_events_are_under_way_than_the_subscription_allows() {
    let terms = Subscription {
        max_unacknowledged_per_stream: 3,
        max_unacknowledged: 4,
        ..patient()
    };
    let run = Run::start(terms).await;
    run.deliver(0..10).await;
    let mut first = run.stream().await;
    let held = first.deliveries(3).await;
    let mut second = run.small_stream(1).await;
    assert_eq!(numbers(&second.deliveries(1).await), [3]);
    first.silence().await;
    second.silence().await;
    assert_eq!(run.status().await.in_flight, 4);
    // What waits for another attempt is still under way.
    assert_eq!(run.say(retry(None), [&held[0]]).await, [Accepted]);
    first.silence().await;
    second.silence().await;
    assert_eq!(run.status().await.in_flight, 3);
    assert_eq!(run.say(done(), [&held[1], &held[2]]).await, [Accepted; 2]);
    assert_eq!(numbers(&first.deliveries(2).await), [4, 5]);
    first.silence().await;
    second.silence().await;
}

#[tokio::test]
async fn a_stream_that_acknowledges_by_itself_leaves_at_most_its_last_event() {
    let run = Run::start(hasty()).await;
    run.deliver(0..5).await;
    let request = SubscribeEventsRequest {
        auto_acknowledge: true,
        ..part()
    };
    let mut stream = run.service.subscribe(request).await;
    assert_eq!(numbers(&stream.deliveries(5).await), [0, 1, 2, 3, 4]);
    until("all but the last are settled", async || {
        run.status().await.backlog <= 1
    })
    .await;
    drop(stream);
    until("the stream has ended", async || {
        run.status().await.connected_streams == 0
    })
    .await;
    let left = numbers(&run.stream().await.until_caught_up().await);
    assert!(left.is_empty() || left == [4], "{left:?}");
}

#[tokio::test]
async fn an_acknowledgement_is_answered_by_what_it_changed() {
    let run = Run::start(Subscription::default()).await;
    run.service.subscription("other", Subscription::default()).await;
    run.deliver(0..3).await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(3).await;
    let foreign = run.service.subscribe(part_in("other")).await.delivery().await;
    let mut edited = held[2].ack_id.clone();
    let end = edited.len() / 2;
    let changed = if &edited[end - 1..end] == "A" { "B" } else { "A" };
    edited.replace_range(end - 1..end, changed);
    let ack_ids = vec![
        held[0].ack_id.clone(),
        foreign.ack_id,
        "made-up".into(),
        edited,
        held[0].ack_id.clone(),
        held[1].ack_id.clone(),
    ];
    let answers = acknowledge(&mut run.client.clone(), NAME, ack_ids, done()).await;
    assert_eq!(
        answers.unwrap(),
        [Accepted, Unknown, Unknown, Unknown, Late, Accepted]
    );
    for outcome in [done(), reject(), retry(None), extend(None)] {
        assert_eq!(run.say(outcome, [&held[0]]).await, [Late], "it is settled");
    }
    assert_eq!(run.say(done(), [&held[2]]).await, [Accepted]);
    assert_eq!(run.status().await.backlog, 0);
    assert_eq!(
        standing(&run.client, "other").await.backlog,
        3,
        "nothing happens to another"
    );
}
