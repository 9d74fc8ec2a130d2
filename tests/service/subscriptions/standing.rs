//! What operators are told of subscriptions.

use super::*;

#[tokio::test]
async fn a_subscription_tells_how_it_stands() {
    let run = Run::start(Subscription::default()).await;
    let behind = async |status: &SubscriptionStatus| {
        let request = SubscribeEventsRequest {
            stop_at_tail: true,
            ..after(&status.cursor)
        };
        let rest = run.service.subscribe(request).await.rest().await.unwrap();
        rest.iter().map(number).collect::<Vec<_>>()
    };
    let status = run.status().await;
    assert_eq!((status.backlog, status.oldest_unacknowledged_age), (0, None));
    run.deliver(0..5).await;
    let status = run.status().await;
    assert_eq!(
        (status.backlog, status.in_flight, status.connected_streams),
        (5, 0, 0)
    );
    assert!(status.oldest_unacknowledged_age.is_some());
    assert_eq!((status.dead_letters, status.last_gap_at), (0, None));
    assert_eq!(behind(&status).await, [0, 1, 2, 3, 4]);

    let mut stream = run.small_stream(3).await;
    let held = stream.deliveries(3).await;
    let status = run.status().await;
    assert_eq!(
        (status.backlog, status.in_flight, status.connected_streams),
        (5, 3, 1)
    );
    assert_eq!(behind(&status).await, [3, 4]);
    assert_eq!(run.say(done(), [&held[0]]).await, [Accepted]);
    assert_eq!(run.say(reject(), [&held[1]]).await, [Accepted]);
    let last = stream.deliveries(2).await;
    let status = run.status().await;
    assert_eq!((status.backlog, status.in_flight, status.dead_letters), (3, 3, 1));
    assert_eq!(behind(&status).await, [0; 0]);
    assert_eq!(
        run.say(done(), [&held[2], &last[0], &last[1]]).await,
        [Accepted; 3]
    );
    let status = run.status().await;
    assert_eq!(
        (status.backlog, status.in_flight, status.oldest_unacknowledged_age),
        (0, 0, None)
    );
    drop(stream);
    until("the stream has ended", async || {
        run.status().await.connected_streams == 0
    })
    .await;
}

#[tokio::test]
async fn the_age_is_that_of_the_oldest_event_and_no_younger() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..1).await;
    let age = async || {
        let age = run.status().await.oldest_unacknowledged_age.unwrap();
        (age.seconds, age.nanos)
    };
    until("the event is a second old", async || age().await >= (1, 0)).await;
    let mut stream = run.stream().await;
    let first = stream.delivery().await;
    run.deliver(1..2).await;
    assert!(age().await >= (1, 0), "the second does not make it younger");
    let second = stream.delivery().await;
    assert_eq!(run.say(done(), [&second]).await, [Accepted]);
    assert!(age().await >= (1, 0), "nor does that it is settled");
    assert_eq!(run.say(done(), [&first]).await, [Accepted]);
    assert_eq!(run.status().await.oldest_unacknowledged_age, None);
}

#[tokio::test]
async fn subscriptions_are_listed_in_pages_by_name_with_their_labels() {
    let service = Hookstream::start();
    let mut client = service.client().await;
    for name in ["s3", "s0", "s4", "s1", "s2"] {
        let labels = HashMap::from([("called".to_owned(), name.to_owned())]);
        let terms = Subscription {
            labels: labels.clone(),
            ..Subscription::default()
        };
        assert_eq!(service.subscription(name, terms).await.labels, labels);
    }
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let list = List {
            page_size: 2,
            page_token,
        };
        let answer = manage_subscription(&mut client, Operation::List(list)).await;
        let Answer::List(page) = answer.unwrap() else {
            panic!()
        };
        assert!(page.subscriptions.len() <= 2);
        for subscription in page.subscriptions {
            assert_eq!(subscription.labels["called"], subscription.name);
            names.push(subscription.name);
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["s0", "s1", "s2", "s3", "s4"]);
}

#[tokio::test]
async fn the_metrics_tell_how_each_subscription_stands_while_there_is_one() {
    let terms = Subscription {
        max_attempts: 2,
        ..hasty()
    };
    let run = Run::start(terms).await;
    run.deliver(0..5).await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(5).await;
    assert_eq!(run.say(done(), &held[..2]).await, [Accepted; 2]);
    assert_eq!(run.say(retry(None), [&held[2]]).await, [Accepted]);
    let again = stream.delivery().await;
    assert_eq!(run.say(retry(None), [&again]).await, [Accepted]);
    let expected = [
        ("backlog", 2.0),
        ("in_flight", 2.0),
        ("redeliveries_total", 1.0),
        ("dead_letters", 1.0),
        ("streams", 1.0),
        ("acknowledged_total", 2.0),
    ];
    for (name, value) in expected {
        until(name, async || run.metric(name).await == Some(value)).await;
    }
    until("the age is told", async || {
        let age = run.metric("oldest_unacknowledged_age_seconds").await;
        age.is_some_and(|age| age > 0.0)
    })
    .await;
    assert_eq!(run.say(done(), &held[3..]).await, [Accepted; 2]);
    until("nothing is left", async || {
        let age = run.metric("oldest_unacknowledged_age_seconds").await;
        run.metric("backlog").await == Some(0.0) && age.is_none_or(|age| age == 0.0)
    })
    .await;
    run.manage(Operation::Delete(Delete { name: NAME.into() }))
        .await
        .unwrap();
    until("no metric names it any more", async || {
        let (_, metrics) = run.service.admin("/metrics").await;
        !metrics.contains(&format!("subscription=\"{NAME}\""))
    })
    .await;
}
