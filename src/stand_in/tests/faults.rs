//! Faults on demand.

use super::*;

async fn list_events(stage: &Stage) -> Answered {
    stage.caller.get("events").await
}

#[tokio::test]
async fn a_call_fails_as_scripted_and_only_once() {
    let stage = stage(|_| {}).await;
    let faults = stage.heygen.faults();
    faults.fail_next(Call::ListEvents, ApiFault::Status(403));
    faults.fail_next(Call::ListEvents, ApiFault::Html502);
    faults.fail_next(Call::ListEvents, ApiFault::RateLimited(7));
    assert_eq!(stage.caller.get("endpoints").await.status, 200);
    assert_eq!(list_events(&stage).await.refusal().0, 403);
    let proxy = list_events(&stage).await;
    assert_eq!((proxy.status, &proxy.body), (502, &Value::Null));
    assert_eq!(proxy.header("content-type"), Some("text/html"));
    let limited = list_events(&stage).await;
    assert_eq!(limited.refusal(), (429, "rate_limit_exceeded", None));
    assert_eq!(limited.header("retry-after"), Some("7"));
    assert_eq!(list_events(&stage).await.status, 200);
}

#[tokio::test]
async fn a_hung_call_gets_no_answer_and_has_no_effect() {
    let stage = stage(|_| {}).await;
    let id = stage.register().await.endpoint_id;
    stage
        .heygen
        .faults()
        .fail_next(Call::DeleteEndpoint, ApiFault::Hang);
    let path = format!("endpoints/{id}");
    let request = stage.caller.request(Method::DELETE, &path, None);
    let impatient = request.timeout(Duration::from_millis(100));
    assert!(answered(impatient).await.unwrap_err().is_timeout());
    assert_eq!(stage.heygen.registrations().len(), 1);
}

#[tokio::test]
async fn a_call_whose_answer_is_lost_has_its_effect_once_if_it_has_a_key() {
    let stage = stage(|_| {}).await;
    let create = || stage.caller.create_once("k", "http://127.0.0.1:9/hook");
    let faults = stage.heygen.faults();
    faults.fail_next(Call::CreateEndpoint, ApiFault::LoseAnswer);
    faults.fail_next(Call::CreateEndpoint, ApiFault::EffectThen500);
    assert!(!create().await.unwrap_err().is_timeout());
    assert_eq!(stage.heygen.registrations().len(), 1);
    assert_eq!(create().await.unwrap().refusal(), (500, "internal_error", None));
    let answer = create().await.unwrap();
    let registrations = stage.heygen.registrations();
    assert_eq!(registrations.len(), 1);
    assert_eq!(answer.body["data"]["secret"], registrations[0].secret.expose());
}

#[tokio::test]
async fn calls_fail_by_chance_too() {
    let stage = stage(|_| {}).await;
    stage.heygen.faults().set(Chances {
        api_500: 1.0,
        ..Chances::default()
    });
    assert_eq!(list_events(&stage).await.status, 500);
    stage.heygen.faults().set(Chances::default());
    assert_eq!(list_events(&stage).await.status, 200);
}

/// How often an event is delivered under this fault.
async fn deliveries_under(fault: DeliveryFault) -> usize {
    let stage = stage(|_| {}).await;
    stage.register().await;
    stage.heygen.faults().spoil_next(fault);
    let event_id = stage.heygen.emit("batch.finished", 1);
    in_time(stage.heygen.settled()).await;
    let history = stage.caller.get("events").await.body;
    assert_eq!(history["data"][0]["event_id"], event_id);
    let deliveries = stage.receiver.deliveries();
    assert!(deliveries.iter().all(|one| one.body == deliveries[0].body));
    deliveries.len()
}

#[tokio::test]
async fn a_delivery_comes_twice_or_never_as_scripted() {
    assert_eq!(deliveries_under(DeliveryFault::Duplicate).await, 2);
    assert_eq!(deliveries_under(DeliveryFault::Slow).await, 2);
    assert_eq!(deliveries_under(DeliveryFault::Lose).await, 0);
}

#[tokio::test]
async fn a_late_delivery_comes_after_the_next() {
    let stage = stage(|_| {}).await;
    stage.register().await;
    let late = DeliveryFault::Late(Duration::from_millis(500));
    stage.heygen.faults().spoil_next(late);
    stage.heygen.emit("batch.finished", 1);
    stage.heygen.emit("personalized_video", 2);
    assert_eq!(
        stage.receiver.delivery(1).await.json()["event_type"],
        "personalized_video"
    );
    assert_eq!(
        stage.receiver.delivery(2).await.json()["event_type"],
        "batch.finished"
    );
}

#[tokio::test]
async fn deliveries_are_spoilt_by_chance_and_none_is_lost_unless_that_is_asked_for() {
    let stage = stage(|settings| {
        settings.retry_first = Duration::from_millis(1);
        settings.bodies_carry_event_id = true;
    })
    .await;
    stage.register().await;
    stage.heygen.faults().set(Chances {
        duplicate: 0.5,
        reorder: 0.5,
        slow: 0.2,
        unknown_type: 0.5,
        ..Chances::default()
    });
    let emitted: Vec<_> = (0..50)
        .map(|number| stage.heygen.emit("batch.finished", number))
        .collect();
    in_time(stage.heygen.settled()).await;
    let received: Vec<_> = stage.receiver.deliveries().iter().map(Received::json).collect();
    let mut first_times = Vec::new();
    for body in &received {
        let id = body["event_id"].as_str().unwrap();
        if body["event_type"] == "batch.finished" && !first_times.contains(&id) {
            first_times.push(id);
        }
    }
    assert!(received.iter().any(|body| body["event_type"] == UNKNOWN_TYPE));
    assert!(received.len() > 100, "{}", received.len());
    assert_ne!(first_times, emitted, "in another order");
    first_times.sort_unstable();
    let mut emitted = emitted;
    emitted.sort_unstable();
    assert_eq!(first_times, emitted);
}
