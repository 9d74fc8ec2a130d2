//! What fails: deadlines, retries and dead letters.

use super::*;

#[tokio::test]
async fn an_event_whose_deadline_has_passed_comes_again() {
    let terms = Subscription {
        ack_deadline: millis(1000),
        ..hasty()
    };
    let run = Run::start(terms).await;
    run.deliver(0..1).await;
    let mut stream = run.stream().await;
    let first = stream.delivery().await;
    let second = stream.delivery().await;
    assert_eq!((told(&first), told(&second)), ((0, 1), (0, 2)));
    assert_ne!(first.ack_id, second.ack_id);
}

#[tokio::test]
async fn an_event_whose_deadline_has_passed_goes_to_another_stream_that_holds_fewer() {
    let run = Run::start(hasty()).await;
    run.deliver(0..2).await;
    let mut slow = run.stream().await;
    let held = slow.deliveries(2).await;
    let mut other = run.stream().await;
    assert_eq!(numbers(&other.until_caught_up().await), [0; 0]);
    assert_eq!(run.say(extend(millis(1000)), [&held[0]]).await, [Accepted]);
    let moved = other.delivery().await;
    assert_eq!(told(&moved), (0, 2));
    // It belongs to another now, whatever the first says of it.
    for outcome in [done(), reject(), retry(None), extend(None)] {
        assert_eq!(run.say(outcome, [&held[0]]).await, [Late]);
    }
    assert_eq!(run.say(done(), [&held[1], &moved]).await, [Accepted; 2]);
    assert_eq!(run.status().await.backlog, 0);
}

#[tokio::test]
async fn what_a_stream_holds_when_it_ends_goes_to_another() {
    let run = Run::start(hasty()).await;
    run.deliver(0..3).await;
    let mut ends = run.stream().await;
    let held = ends.deliveries(3).await;
    assert_eq!(run.say(done(), [&held[1]]).await, [Accepted]);
    let mut stays = run.stream().await;
    assert_eq!(numbers(&stays.until_caught_up().await), [0; 0]);
    drop(ends);
    let moved = stays.deliveries(2).await;
    assert_eq!(moved.iter().map(told).collect::<Vec<_>>(), [(0, 2), (2, 2)]);
    assert_eq!(run.say(done(), &held).await, [Late; 3]);
    assert_eq!(run.say(done(), &moved).await, [Accepted; 2]);
}

#[tokio::test]
async fn what_is_to_be_tried_again_waits_as_long_as_it_was_told() {
    // At once, although what failed waits for an hour.
    let run = Run::start(patient()).await;
    run.deliver(0..1).await;
    let mut stream = run.stream().await;
    let first = stream.delivery().await;
    assert_eq!(run.say(retry(millis(0)), [&first]).await, [Accepted]);
    let second = stream.delivery().await;
    assert_eq!(told(&second), (0, 2));
    // And now as what failed.
    assert_eq!(run.say(retry(None), [&second]).await, [Accepted]);
    stream.silence().await;
    let status = run.status().await;
    assert_eq!((status.backlog, status.in_flight), (1, 0));

    // An hour, although what failed comes at once.
    let run = Run::start(hasty()).await;
    run.deliver(0..2).await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(2).await;
    assert_eq!(run.say(retry(millis(HOUR)), [&held[0]]).await, [Accepted]);
    stream.silence().await;
    assert_eq!(run.say(retry(None), [&held[1]]).await, [Accepted]);
    assert_eq!(told(&stream.delivery().await), (1, 2));
    stream.silence().await;

    // A crash does not make it shorter.
    let run = run.kill_and_restart().await;
    let mut stream = run.stream().await;
    assert_eq!(numbers(&stream.until_caught_up().await), [1]);
    stream.silence().await;
    assert_eq!(run.status().await.backlog, 2);
}

#[tokio::test]
async fn what_is_rejected_is_put_aside_at_once_and_for_good() {
    let run = Run::start(hasty()).await;
    run.deliver(0..2).await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(2).await;
    assert_eq!(run.say(reject(), [&held[0]]).await, [Accepted]);
    let status = run.status().await;
    assert_eq!((status.dead_letters, status.backlog, status.in_flight), (1, 1, 1));
    let rejected = [(0, 1, DeadLetterReason::Rejected)];
    assert_eq!(run.put_aside().await, rejected);
    let run = run.kill_and_restart().await;
    assert_eq!(run.put_aside().await, rejected);
    assert_eq!(run.status().await.dead_letters, 1);
    assert_eq!(numbers(&run.stream().await.until_caught_up().await), [1]);
}

#[tokio::test]
async fn each_way_to_fail_is_an_attempt_and_the_last_puts_the_event_aside() {
    let terms = Subscription {
        max_attempts: 3,
        ..hasty()
    };
    let run = Run::start(terms).await;
    run.deliver(0..1).await;
    let mut stream = run.stream().await;
    let first = stream.delivery().await;
    assert_eq!(told(&first), (0, 1));
    assert_eq!(run.say(extend(millis(1000)), [&first]).await, [Accepted]);
    assert_eq!(told(&stream.delivery().await), (0, 2), "its deadline has passed");
    drop(stream);
    let mut stream = run.stream().await;
    let last = stream.delivery().await;
    assert_eq!(told(&last), (0, 3), "its stream has ended");
    assert_eq!(run.say(retry(None), [&last]).await, [Accepted]);
    assert_eq!(run.put_aside().await, [(0, 3, DeadLetterReason::MaxAttempts)]);
    assert_eq!(run.status().await.backlog, 0);
    assert_eq!(run.say(done(), [&last]).await, [Late]);
    stream.silence().await;
}

/// An event that has failed as often as it may.
async fn after_the_last_attempt(after_max_attempts: AfterMaxAttempts) -> (Run, Stream) {
    let terms = Subscription {
        max_attempts: 2,
        after_max_attempts: after_max_attempts.into(),
        ..hasty()
    };
    let run = Run::start(terms).await;
    run.deliver(0..1).await;
    let mut stream = run.stream().await;
    for attempt in 1..=2 {
        let delivery = stream.delivery().await;
        assert_eq!(told(&delivery), (0, attempt));
        assert_eq!(run.say(retry(None), [&delivery]).await, [Accepted]);
    }
    (run, stream)
}

#[tokio::test]
async fn after_its_last_attempt_an_event_is_put_aside_or_forgotten_or_goes_on() {
    for unless_told in [AfterMaxAttempts::DeadLetter, AfterMaxAttempts::Unspecified] {
        let (run, mut stream) = after_the_last_attempt(unless_told).await;
        assert_eq!(run.put_aside().await, [(0, 2, DeadLetterReason::MaxAttempts)]);
        assert_eq!(run.status().await.backlog, 0);
        stream.silence().await;
    }

    let (run, mut stream) = after_the_last_attempt(AfterMaxAttempts::Discard).await;
    let status = run.status().await;
    assert_eq!((status.backlog, status.dead_letters), (0, 0));
    assert!(run.put_aside().await.is_empty());
    stream.silence().await;
    assert_eq!(run.service.stored().await.len(), 1, "the log keeps it");

    let (run, mut stream) = after_the_last_attempt(AfterMaxAttempts::Retry).await;
    for attempt in 3..=5 {
        let delivery = stream.delivery().await;
        assert_eq!(told(&delivery), (0, attempt));
        assert_eq!(run.say(retry(None), [&delivery]).await, [Accepted]);
    }
    assert_eq!(run.status().await.dead_letters, 0);
}

#[tokio::test]
async fn what_was_put_aside_is_listed_handed_out_again_and_forgotten() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..4).await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(4).await;
    assert_eq!(run.say(done(), [&held[3]]).await, [Accepted]);
    assert_eq!(run.say(reject(), &held[..3]).await, [Accepted; 3]);
    let stored = run.service.stored().await;
    let listed = run.service.dead_letters(NAME).await;
    let events: Vec<_> = listed.iter().map(|(event, _)| event.clone()).collect();
    assert_eq!(events, stored[..3]);

    // As any listing: narrowed, newest first, in pages.
    let mut client = run.client.clone();
    let request = ListEventsRequest {
        filter: Some(EventFilter {
            entity_ids: vec!["video-1".into(), "video-3".into()],
            ..EventFilter::default()
        }),
        dead_letters_of: NAME.into(),
        ..ListEventsRequest::default()
    };
    let page = client.list_events(request).await.unwrap().into_inner();
    assert_eq!(page.events, stored[1..2]);
    assert_eq!(page.dead_letters[0].event_id, stored[1].id);
    assert_eq!(page.dead_letters.len(), 1);
    let mut request = ListEventsRequest {
        page_size: 2,
        dead_letters_of: NAME.into(),
        ..ListEventsRequest::default()
    };
    let first = client.list_events(request.clone()).await.unwrap().into_inner();
    request.page_token = first.next_page_token.clone();
    let second = client.list_events(request).await.unwrap().into_inner();
    assert_eq!([first.events.len(), second.events.len()], [2, 1]);
    assert_eq!((&first.events[0], &second.events[0]), (&stored[2], &stored[0]));
    assert_eq!(second.dead_letters[0].event_id, stored[0].id);

    assert_eq!(run.replay(&[&stored[0].id]).await, (1, 2));
    let again = stream.delivery().await;
    assert_eq!(told(&again), (0, 1), "it has all its attempts before it");
    assert_eq!(run.say(done(), [&again]).await, [Accepted]);
    assert_eq!(run.discard(&[&stored[1].id]).await, (1, 1));
    assert_eq!(run.put_aside().await, [(2, 1, DeadLetterReason::Rejected)]);
    assert_eq!(run.replay(&[]).await, (1, 0));
    let again = stream.delivery().await;
    assert_eq!(number(&again.event), 2);
    assert_eq!(run.say(reject(), [&again]).await, [Accepted]);
    assert_eq!(run.discard(&[]).await, (1, 0));
    assert_eq!((run.replay(&[]).await, run.discard(&[]).await), ((0, 0), (0, 0)));
    let status = run.status().await;
    assert_eq!((status.backlog, status.dead_letters), (0, 0));
    assert_eq!(run.service.stored().await, stored, "the log keeps them all");
    let run = run.kill_and_restart().await;
    assert!(run.put_aside().await.is_empty());
    assert_eq!(numbers(&run.stream().await.until_caught_up().await), [0; 0]);
}

#[tokio::test]
async fn dead_letters_are_handed_out_again_as_far_as_there_is_room() {
    let terms = Subscription {
        max_unacknowledged: 2,
        ..Subscription::default()
    };
    let run = Run::start(terms).await;
    run.deliver(0..3).await;
    let mut stream = run.stream().await;
    for _ in 0..3 {
        let delivery = stream.delivery().await;
        assert_eq!(run.say(reject(), [&delivery]).await, [Accepted]);
    }
    assert_eq!(run.replay(&[]).await, (2, 1));
    assert_eq!(numbers(&stream.deliveries(2).await), [0, 1], "the oldest first");
    assert_eq!(run.replay(&[]).await, (0, 1));
    assert_eq!(run.put_aside().await, [(2, 1, DeadLetterReason::Rejected)]);
}

#[tokio::test]
async fn an_event_that_is_put_aside_twice_is_one_dead_letter() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..1).await;
    let mut stream = run.stream().await;
    for _ in 0..2 {
        let delivery = stream.delivery().await;
        assert_eq!(run.say(reject(), [&delivery]).await, [Accepted]);
        run.move_to(seek::Target::Position(Position::Earliest.into()))
            .await;
    }
    assert_eq!(run.put_aside().await.len(), 1);
    assert_eq!(run.status().await.dead_letters, 1);
    assert_eq!(run.discard(&[]).await, (1, 0));
}
