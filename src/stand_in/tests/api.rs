//! The calls of the API.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;

use super::*;
use crate::{event_type::EVENT_TYPES, limits, tasks};

const URL: &str = "http://127.0.0.1:9/hook";

#[tokio::test]
async fn a_call_needs_the_key_in_either_header() {
    let stage = stage(|_| {}).await;
    let url = format!("{}/v3/webhooks/event-types", stage.caller.base_url);
    let with = |name: &'static str, value: String| answered(http().get(&url).header(name, value));
    assert_eq!(with("x-api-key", API_KEY.to_owned()).await.unwrap().status, 200);
    assert_eq!(
        with("authorization", format!("Bearer {API_KEY}"))
            .await
            .unwrap()
            .status,
        200
    );
    for (name, value) in [
        ("x-api-key", "wrong"),
        ("authorization", API_KEY),
        ("accept", "*/*"),
    ] {
        let answer = with(name, value.to_owned()).await.unwrap();
        assert_eq!(answer.refusal(), (401, "authentication_failed", None));
    }
}

#[tokio::test]
async fn event_types_are_told_all_at_once() {
    let answer = stage(|_| {}).await.caller.get("event-types").await.body;
    let names: Vec<_> = answer["data"].as_array().unwrap().iter().collect();
    assert_eq!(names.len(), EVENT_TYPES.len());
    assert_eq!(names[0]["event_type"], "avatar_video.success");
    assert!(names[0]["description"].is_string());
    assert_eq!(
        (&answer["has_more"], &answer["next_token"]),
        (&json!(false), &Value::Null)
    );
}

#[tokio::test]
async fn a_secret_is_shown_when_it_is_made_and_never_again() {
    let stage = stage(|_| {}).await;
    let made = stage
        .caller
        .create(json!({"url": URL, "entity_id": "vid_1"}))
        .await;
    let made = &made.body["data"];
    let secret = made["secret"].as_str().unwrap();
    let encoded = secret.strip_prefix("whsec_").unwrap();
    assert!(data_encoding::BASE64URL.decode(encoded.as_bytes()).is_ok() && encoded.ends_with('='));
    assert_eq!(
        (&made["url"], &made["events"], &made["status"]),
        (&json!(URL), &Value::Null, &json!("enabled"))
    );
    assert!(made["created_at"].as_str().unwrap().parse::<Timestamp>().is_ok());
    assert!(made.get("entity_id").is_none());

    let listed = stage.caller.get("endpoints").await.body;
    assert_eq!(listed["data"][0]["secret"], Value::Null);
    assert_eq!(listed["data"][0]["endpoint_id"], made["endpoint_id"]);
    let id = made["endpoint_id"].as_str().unwrap();
    let changed = stage
        .caller
        .update(id, json!({"events": ["batch.finished"]}))
        .await;
    assert_eq!(changed.body["data"]["secret"], Value::Null);

    let rotated = stage.caller.rotate(id).await;
    assert_eq!(rotated.body["data"]["endpoint_id"], id);
    assert_ne!(rotated.body["data"]["secret"], secret);
    assert_eq!(
        rotated.body["data"]["secret"],
        stage.heygen.registrations()[0].secret.expose()
    );
}

#[tokio::test]
async fn a_parameter_that_is_not_documented_is_refused_by_name() {
    let stage = stage(|_| {}).await;
    let refused = [
        (json!({}), Some("url")),
        (json!({"url": 7}), Some("url")),
        (json!({"url": "ftp://example.com"}), Some("url")),
        (json!({"url": URL, "name": "x"}), Some("name")),
        (json!({"url": URL, "events": "batch.finished"}), Some("events")),
        (
            json!({"url": URL, "events": ["batch.finished", "batch.begun"]}),
            Some("events"),
        ),
        (json!({"url": URL, "events": []}), Some("events")),
        (json!({"url": URL, "entity_id": 7}), Some("entity_id")),
        (json!([]), None),
    ];
    for (body, param) in refused {
        let answer = stage.caller.create(body.clone()).await;
        assert_eq!(answer.refusal(), (400, "invalid_parameter", param), "{body}");
    }
    let id = stage.register().await.endpoint_id;
    let refused = [
        (json!({}), "url"),
        (json!({"url": URL, "entity_id": "x"}), "entity_id"),
        (json!({"status": "enabled"}), "status"),
        (json!({"url": URL, "events": null}), "events"),
    ];
    for (body, param) in refused {
        let answer = stage.caller.update(&id, body.clone()).await;
        assert_eq!(
            answer.refusal(),
            (400, "invalid_parameter", Some(param)),
            "{body}"
        );
    }
    assert_eq!(stage.heygen.registrations()[0].url, stage.receiver.url);
}

#[tokio::test]
async fn what_is_not_documented_is_taken_on_request() {
    let stage = stage(|settings| settings.refuse_undocumented = false).await;
    let made = stage.caller.create(json!({"url": URL, "events": []})).await.body;
    assert_eq!(made["data"]["events"], json!([]));
    let id = made["data"]["endpoint_id"].as_str().unwrap();
    let changed = stage.caller.update(id, json!({"events": null})).await.body;
    assert_eq!(changed["data"]["events"], Value::Null);
}

#[tokio::test]
async fn only_https_is_taken_where_it_is_required() {
    let stage = stage(|settings| settings.require_https = true).await;
    let answer = stage.caller.create(json!({"url": URL})).await;
    assert_eq!(answer.refusal(), (400, "invalid_parameter", Some("url")));
    let secure = json!({"url": "https://127.0.0.1:9/hook"});
    assert_eq!(stage.caller.create(secure).await.status, 200);
}

#[tokio::test]
async fn a_url_is_probed_before_it_is_registered() {
    let stage = stage(|_| {}).await;
    stage.receiver.reply(Method::OPTIONS, Reply::Status(204));
    assert_eq!(stage.register().await.probe_status, Some(204));
    assert_eq!(stage.receiver.received(&Method::OPTIONS).len(), 1);
}

#[tokio::test]
async fn a_url_that_does_not_answer_in_a_second_is_refused_where_it_must() {
    let strict = stage(|settings| settings.probe_must_answer = true).await;
    let _held = strict.receiver.hold(Method::OPTIONS, 200);
    let url = strict.receiver.url.as_str();
    let answer = strict.caller.create(json!({"url": url})).await;
    assert_eq!(answer.refusal(), (400, "invalid_parameter", Some("url")));
    assert!(strict.heygen.registrations().is_empty());
    assert_eq!(strict.caller.create(json!({"url": url})).await.status, 200);
}

#[tokio::test]
async fn an_update_replaces_what_it_names_and_nothing_else() {
    let stage = stage(|_| {}).await;
    let made = stage
        .register_for(json!({"events": ["batch.finished", "personalized_video"]}))
        .await;
    let answer = stage
        .caller
        .update(&made.endpoint_id, json!({"events": ["ai_clipping.fail"]}))
        .await;
    assert_eq!(answer.body["data"]["events"], json!(["ai_clipping.fail"]));
    assert_eq!(answer.body["data"]["url"], stage.receiver.url);
    let answer = stage.caller.update(&made.endpoint_id, json!({"url": URL})).await;
    assert_eq!(answer.body["data"]["events"], json!(["ai_clipping.fail"]));
    assert_eq!(answer.body["data"]["url"], URL);
}

#[tokio::test]
async fn a_deleted_endpoint_is_not_found() {
    let stage = stage(|_| {}).await;
    let id = stage.register().await.endpoint_id;
    let answer = stage.caller.delete(&id).await;
    assert_eq!(
        (answer.status, answer.body),
        (200, json!({"error": null, "data": {}}))
    );
    let again = [
        stage.caller.delete(&id).await,
        stage.caller.rotate(&id).await,
        stage.caller.update(&id, json!({"url": URL})).await,
        stage.caller.get("endpoints/of/nowhere").await,
    ];
    for answer in again {
        assert_eq!(answer.refusal(), (404, "not_found", None));
    }
}

/// Every page of a list, entries of a page together, and the answer's last page checked.
async fn pages(caller: &Caller, path: &str) -> Vec<Vec<Value>> {
    let (mut pages, mut token) = (Vec::new(), String::new());
    loop {
        let page = caller.get(&format!("{path}{token}")).await.body;
        pages.push(page["data"].as_array().unwrap().clone());
        assert_eq!(page["has_more"] == true, page["next_token"].is_string());
        match page["next_token"].as_str() {
            Some(next) => token = format!("&token={next}"),
            None => return pages,
        }
    }
}

#[tokio::test]
async fn a_list_is_told_in_pages() {
    let stage = stage(|_| {}).await;
    for number in 0..12 {
        let url = format!("{URL}/{number}");
        assert_eq!(stage.caller.create(json!({"url": url})).await.status, 200);
    }
    let pages = pages(&stage.caller, "endpoints?limit=6").await;
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [6, 6]);
    let urls: Vec<_> = pages
        .concat()
        .iter()
        .map(|one| one["url"].as_str().unwrap().to_owned())
        .collect();
    let registered: Vec<_> = stage
        .heygen
        .registrations()
        .into_iter()
        .map(|one| one.url)
        .collect();
    assert_eq!(urls, registered);
    let first = stage.caller.get("endpoints").await.body;
    assert_eq!(first["data"].as_array().unwrap().len(), 10);
    for (query, param) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("token=x", "token"),
    ] {
        let answer = stage.caller.get(&format!("endpoints?{query}")).await;
        assert_eq!(answer.refusal(), (400, "invalid_parameter", Some(param)));
    }
}

#[tokio::test]
async fn the_history_is_told_newest_first_even_while_it_grows() {
    let stage = stage(|_| {}).await;
    let first = stage.heygen.emit("avatar_video.success", 1);
    let second = stage.heygen.emit("avatar_video.fail", 2);
    let page = stage.caller.get("events?limit=1").await.body;
    assert_eq!(page["data"][0]["event_id"], second);
    stage.heygen.emit("avatar_video.fail", 3);
    let token = page["next_token"].as_str().unwrap();
    let page = stage
        .caller
        .get(&format!("events?limit=1&token={token}"))
        .await
        .body;
    assert_eq!(page["data"][0]["event_id"], first);
    assert_eq!(page["data"][0]["event_type"], "avatar_video.success");
    let told = page["data"][0]["created_at"].as_str().unwrap();
    let happened = &stage.heygen.history()[0];
    assert_eq!(told.parse::<Timestamp>().unwrap(), happened.created_at);
    assert_eq!(page["data"][0]["event_data"], happened.event_data);
    assert_eq!(page["has_more"], false);
}

#[tokio::test]
async fn the_history_is_narrowed_by_type_and_by_entity() {
    let stage = stage(|_| {}).await;
    let wanted = stage.heygen.emit("avatar_video.fail", 1);
    stage.heygen.emit("avatar_video.fail", 2);
    stage.heygen.emit("avatar_video.success", 1);
    stage.heygen.emit("batch.finished", 1);
    let query = "events?event_type=avatar_video.fail&entity_id=vid_0000000000000001";
    let page = stage.caller.get(query).await.body;
    let found: Vec<_> = page["data"].as_array().unwrap().iter().collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["event_id"], wanted);
}

#[tokio::test]
async fn the_history_may_tell_a_payload_in_another_shape_with_the_same_ids() {
    let stage = stage(|settings| settings.history_shape_differs = true).await;
    stage.heygen.emit("avatar_video.success", 1);
    stage.heygen.emit("avatar_video.fail", 1);
    let page = stage.caller.get("events").await.body;
    let (fail, success) = (&page["data"][0]["event_data"], &page["data"][1]["event_data"]);
    assert_eq!(fail["message"], "rendering timed out");
    assert!(fail.get("msg").is_none());
    let delivered = &stage.heygen.history()[0].event_data;
    assert_ne!(success["url"], delivered["url"]);
    for id in ["video_id", "callback_id"] {
        assert_eq!(success[id], delivered[id]);
    }
}

#[tokio::test]
async fn a_request_id_comes_back_and_is_made_if_there_is_none() {
    let stage = stage(|_| {}).await;
    let request = stage.caller.request(Method::GET, "events", None);
    let answer = answered(request.header("x-request-id", "mine")).await.unwrap();
    assert_eq!(answer.header("x-request-id"), Some("mine"));
    let answer = stage.caller.get("nowhere").await;
    assert!(answer.header("x-request-id").unwrap().starts_with("req_"));
}

#[tokio::test]
async fn requests_are_remembered_without_their_key() {
    let stage = stage(|_| {}).await;
    stage.caller.create_once("k", URL).await.unwrap();
    stage.caller.get("events?limit=3").await;
    let requests = stage.heygen.requests();
    assert_eq!(requests[0].call, Some(Call::CreateEndpoint));
    assert_eq!(requests[0].body, json!({"url": URL}).to_string());
    assert!(
        requests[0]
            .headers
            .contains(&("idempotency-key".into(), "k".into()))
    );
    assert_eq!(requests[1].path, "/v3/webhooks/events?limit=3");
    assert!(!format!("{requests:?}").contains(API_KEY));
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let body = json!({"url": "x".repeat(limits::STAND_IN_CALL_BYTES_MAX)});
    assert_eq!(stage(|_| {}).await.caller.create(body).await.status, 413);
}

#[tokio::test]
async fn a_repeated_key_gets_the_first_answer_for_a_day() {
    let now = Arc::new(AtomicI64::new(1_790_000_000));
    let told = Arc::clone(&now);
    let clock = Clock::new(move || Timestamp::from_second(told.load(Ordering::Relaxed)).unwrap());
    let stage = stage(|settings| settings.clock = clock).await;
    let create = || async { stage.caller.create_once("key-1", URL).await.unwrap() };
    let first = create().await;
    now.fetch_add(24 * 3600 - 1, Ordering::Relaxed);
    let second = create().await;
    assert_eq!((second.status, &second.text), (200, &first.text));
    assert_eq!(stage.heygen.registrations().len(), 1);
    now.fetch_add(1, Ordering::Relaxed);
    assert_ne!(create().await.text, first.text);
    assert_eq!(stage.heygen.registrations().len(), 2);
}

#[tokio::test]
async fn a_repeated_key_gets_a_refusal_again_too() {
    let stage = stage(|_| {}).await;
    for _ in 0..2 {
        let answer = stage.caller.create_once("k", "ftp://nowhere").await.unwrap();
        assert_eq!(answer.refusal(), (400, "invalid_parameter", Some("url")));
    }
    assert!(stage.caller.create_once("k", URL).await.unwrap().status == 400);
}

#[tokio::test]
async fn a_key_of_another_request_and_a_malformed_one_are_refused() {
    let stage = stage(|_| {}).await;
    stage.caller.create_once("k", URL).await.unwrap();
    let other = format!("{URL}/other");
    for (key, url) in [("k", other.as_str()), ("not a key", URL), (&"k".repeat(256), URL)] {
        let answer = stage.caller.create_once(key, url).await.unwrap();
        let refusal = (400, "invalid_parameter", Some("Idempotency-Key"));
        assert_eq!(answer.refusal(), refusal, "{key}");
    }
    assert_eq!(stage.heygen.registrations().len(), 1);
}

#[tokio::test]
async fn a_key_in_use_is_a_conflict_until_the_first_call_is_answered() {
    let stage = stage(|_| {}).await;
    let held = stage.receiver.hold(Method::OPTIONS, 200);
    let (caller, url) = (stage.caller.clone(), stage.receiver.url.clone());
    let first = tasks::owned(async move { caller.create_once("k", &url).await.unwrap() });
    stage.receiver.nth(Method::OPTIONS, 1).await;
    let again = || stage.caller.create_once("k", &stage.receiver.url);
    assert_eq!(
        again().await.unwrap().refusal(),
        (409, "request_in_progress", None)
    );
    held.notify_one();
    let first = in_time(first).await.unwrap();
    assert_eq!(first.status, 200);
    assert_eq!(again().await.unwrap().text, first.text);
}

#[tokio::test]
async fn a_call_runs_to_its_end_though_its_caller_is_gone() {
    let stage = stage(|_| {}).await;
    let held = stage.receiver.hold(Method::OPTIONS, 200);
    let (caller, url) = (stage.caller.clone(), stage.receiver.url.clone());
    let first = tasks::owned(async move { caller.create_once("k", &url).await });
    stage.receiver.nth(Method::OPTIONS, 1).await;
    drop(first);
    held.notify_one();
    until(|| stage.heygen.registrations().len() == 1).await;
    let again = stage.caller.create_once("k", &stage.receiver.url).await.unwrap();
    assert_eq!(again.status, 200);
    assert_eq!(stage.heygen.registrations().len(), 1);
}
