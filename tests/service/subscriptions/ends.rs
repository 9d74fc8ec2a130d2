//! How streams of a subscription end, or come to rest.

use super::*;

#[tokio::test]
async fn caught_up_comes_once_everything_was_handed_out() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..3).await;
    let mut stream = run.small_stream(2).await;
    let held = stream.deliveries(2).await;
    let silent = stream.frame().await.unwrap();
    assert!(matches!(silent, Some(Frame::Heartbeat(_))), "{silent:?}");
    assert_eq!(run.say(done(), &held).await, [Accepted; 2]);
    assert!(matches!(frame(&mut stream).await, Frame::Event(_)));
    assert!(matches!(frame(&mut stream).await, Frame::CaughtUp(_)));
    // To another stream counts as well, and no stream says it twice.
    let mut other = run.stream().await;
    assert!(matches!(frame(&mut other).await, Frame::CaughtUp(_)));
    run.deliver(3..4).await;
    assert!(matches!(frame(&mut other).await, Frame::Event(_)));
    let silent = other.frame().await.unwrap();
    assert!(matches!(silent, Some(Frame::Heartbeat(_))), "{silent:?}");
}

#[tokio::test]
async fn a_service_that_drains_ends_the_streams_and_hands_out_the_rest_when_it_is_back() {
    let mut run = Run::start(hasty()).await;
    run.deliver(0..2).await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(2).await;
    assert_eq!(run.say(done(), [&held[0]]).await, [Accepted]);
    run.service.signal("TERM");
    let draining = loop {
        match frame(&mut stream).await {
            Frame::Draining(draining) => break draining,
            Frame::CaughtUp(_) => continue,
            other => panic!("{other:?}"),
        }
    };
    assert!(draining.reconnect_after.is_some());
    let status = stream.frame().await.unwrap_err();
    assert_eq!(refused(&status), (Code::Unavailable, "DRAINING".to_owned()));
    assert!(run.service.wait(PATIENCE).success());
    let run = run.kill_and_restart().await;
    assert_eq!(numbers(&run.stream().await.until_caught_up().await), [1]);
}

#[tokio::test]
async fn a_deleted_subscription_ends_its_streams_and_its_name_is_free() {
    let run = Run::start(Subscription::default()).await;
    run.deliver(0..1).await;
    let mut stream = run.stream().await;
    let mut other = run.stream().await;
    let held = stream.delivery().await;
    let delete = Operation::Delete(Delete { name: NAME.into() });
    let deleted = run.manage(delete.clone()).await.unwrap();
    assert!(matches!(deleted, Answer::Delete(_)));
    for stream in [&mut stream, &mut other] {
        let ended = loop {
            match stream.frame().await {
                Ok(Some(Frame::Heartbeat(_) | Frame::CaughtUp(_))) => continue,
                Ok(frame) => panic!("{frame:?}"),
                Err(status) => break status,
            }
        };
        assert_eq!(refused(&ended), not_found());
    }
    assert_eq!(refused(&run.manage(delete).await.unwrap_err()), not_found());

    // What was given out before is unknown to another of the same name.
    run.service.subscription(NAME, Subscription::default()).await;
    assert_eq!(run.say(done(), [&held]).await, [Unknown]);
    let run = run.kill_and_restart().await;
    let again = run.stream().await.delivery().await;
    assert_eq!(told(&again), (0, 1));
    assert_eq!(run.say(done(), [&held, &again]).await, [Unknown, Accepted]);
}
