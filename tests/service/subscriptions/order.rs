//! The order of an entity's events.

use super::*;

#[tokio::test]
async fn events_of_one_entity_come_one_at_a_time_and_hold_up_no_other() {
    let run = Run::start(per_entity()).await;
    let entities = ["a", "a", "a", "b", "", ""];
    for (number, entity) in entities.into_iter().enumerate() {
        run.deliver_about(entity, number as u64).await;
    }
    let mut stream = run.stream().await;
    let held = stream.deliveries(4).await;
    assert_eq!(numbers(&held), [0, 3, 4, 5]);
    stream.silence().await;
    // Nor does another stream get what is held back.
    let mut other = run.stream().await;
    other.silence().await;
    assert_eq!(run.say(done(), [&held[0]]).await, [Accepted]);
    let next = other.delivery().await;
    assert_eq!(told(&next), (1, 1));
    // What failed holds up what follows it until it is settled.
    assert_eq!(run.say(retry(millis(HOUR)), [&next]).await, [Accepted]);
    stream.silence().await;
    other.silence().await;
    assert_eq!(run.say(reject(), [&next]).await, [Accepted]);
    assert_eq!(told(&other.delivery().await), (2, 1));
    run.deliver_about("b", 6).await;
    run.deliver_about("c", 7).await;
    let next = tokio::select! {
        delivery = stream.delivery() => delivery,
        delivery = other.delivery() => delivery,
    };
    assert_eq!(told(&next), (7, 1), "the second of b waits for the first");
    stream.silence().await;
    other.silence().await;
}

#[tokio::test]
async fn the_order_of_an_entity_survives_a_crash() {
    let run = Run::start(per_entity()).await;
    for number in 0..4 {
        run.deliver_about(["a", "b"][number as usize % 2], number).await;
    }
    let held = run.stream().await.deliveries(2).await;
    assert_eq!(numbers(&held), [0, 1]);
    assert_eq!(run.say(done(), [&held[1]]).await, [Accepted]);
    let run = run.kill_and_restart().await;
    let mut stream = run.stream().await;
    let held = stream.deliveries(2).await;
    assert_eq!(numbers(&held), [0, 3]);
    stream.silence().await;
    assert_eq!(run.say(done(), [&held[0]]).await, [Accepted]);
    assert_eq!(numbers(&stream.deliveries(1).await), [2]);
}
