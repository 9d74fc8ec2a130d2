//! The interface as JSON, as curl and programs without gRPC use it.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};

use crate::harness::{Hookstream, body, http, until};

fn call(address: SocketAddr, name: &str, message: &str) -> RequestBuilder {
    let request = post(address, name).header("content-type", "application/json");
    request.body(message.to_owned())
}

fn post(address: SocketAddr, name: &str) -> RequestBuilder {
    http().post(format!("http://{address}/hookstream.v1.HookstreamService/{name}"))
}

async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    let status = response.status().as_u16();
    (
        status,
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap(),
    )
}

/// The reason that a refusal gives.
fn reason(error: &Value) -> Option<&str> {
    let mut details = error["details"].as_array()?.iter();
    let info = details.find(|detail| detail["type"] == "google.rpc.ErrorInfo")?;
    info["debug"]["reason"].as_str()
}

/// The next line of a stream that is not empty.
async fn line(response: &mut Response, received: &mut String) -> String {
    loop {
        if let Some((line, rest)) = received.split_once('\n') {
            let (line, rest) = (line.to_owned(), rest.to_owned());
            *received = rest;
            if !line.is_empty() {
                return line;
            }
            continue;
        }
        let chunk = response.chunk().await.unwrap().expect("another line");
        received.push_str(std::str::from_utf8(&chunk).unwrap());
    }
}

#[tokio::test]
async fn a_call_in_json_does_what_it_does_over_grpc() {
    let service = Hookstream::start();
    for address in [service.grpc, service.admin] {
        let name = format!("at-{}", address.port());
        let create = json!({ "create": { "name": name, "secret": "whsec_of_a_shell" } });
        let (status, created) = answer(call(address, "ManageEndpoint", &create.to_string())).await;
        assert_eq!(
            (status, &created["create"]["endpoint"]["name"]),
            (200, &json!(name)),
            "{created}"
        );
        let sender = service.sender(&name, "whsec_of_a_shell");
        assert_eq!(sender.deliver(body("avatar_video.success", 1)).await, 200);
        let list = json!({ "filter": { "endpoints": [name] } });
        let (status, page) = answer(call(address, "ListEvents", &list.to_string())).await;
        assert_eq!(status, 200);
        let [event] = page["events"].as_array().unwrap().as_slice() else {
            panic!("not one event: {page}")
        };
        assert_eq!(event["typeName"], "avatar_video.success");
        // Without a body it has its defaults.
        let (status, types) = answer(call(address, "ListEventTypes", "")).await;
        assert_eq!((status, types["eventTypes"].as_array().unwrap().len()), (200, 30));
    }
}

#[tokio::test]
async fn a_stream_in_json_has_a_line_or_a_server_sent_event_for_each_message() {
    let service = Hookstream::start();
    let sender = service.endpoint("prod").await;
    sender.deliver(body("avatar_video.success", 1)).await;
    let from_start = json!({ "position": "POSITION_EARLIEST" }).to_string();
    let accepts_events =
        call(service.grpc, "SubscribeEvents", &from_start).header("accept", "text/event-stream");
    for (request, content_type, prefix) in [
        (
            call(service.grpc, "SubscribeEvents", &from_start),
            "application/x-ndjson",
            "",
        ),
        (accepts_events, "text/event-stream", "data: "),
    ] {
        let mut response = request.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], content_type);
        let mut received = String::new();
        let mut next = async || {
            let line = line(&mut response, &mut received).await;
            serde_json::from_str::<Value>(line.strip_prefix(prefix).unwrap()).unwrap()
        };
        assert_eq!(next().await["event"]["typeName"], "avatar_video.success");
        while !next().await["caughtUp"]["cursor"].is_string() {}
        // What comes later comes when it comes.
        sender
            .deliver(body("avatar_video.fail", content_type.len() as u64))
            .await;
        assert_eq!(next().await["event"]["typeName"], "avatar_video.fail");
    }
}

#[tokio::test]
async fn a_stream_of_connects_has_an_envelope_around_each_message_and_an_end() {
    let service = Hookstream::start();
    let sender = service.endpoint("prod").await;
    sender.deliver(body("avatar_video.success", 1)).await;
    let enveloped = |message: &str| {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0], &length[..], message.as_bytes()].concat()
    };
    let received = async |envelope: Vec<u8>| {
        let request =
            post(service.grpc, "SubscribeEvents").header("content-type", "application/connect+json");
        let response = request.body(envelope).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/connect+json");
        let bytes = response.bytes().await.unwrap();
        let (mut rest, mut messages) = (&bytes[..], Vec::new());
        while let Some((head, after)) = rest.split_first_chunk::<5>() {
            let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
            let message: Value = serde_json::from_slice(&after[..length]).unwrap();
            messages.push((head[0], message));
            rest = &after[length..];
        }
        messages
    };
    let everything = r#"{"position": "POSITION_EARLIEST", "stopAtTail": true}"#;
    let messages = received(enveloped(everything)).await;
    let [(0, event), (0, caught_up), (2, end)] = messages.as_slice() else {
        panic!("{messages:?}")
    };
    assert_eq!(event["event"]["typeName"], "avatar_video.success");
    assert!(caught_up["caughtUp"].is_object());
    assert_eq!(end, &json!({}));
    let mut compressed = enveloped(everything);
    compressed[0] = 1;
    for bad in [enveloped("nonsense"), compressed, everything.into(), Vec::new()] {
        let messages = received(bad).await;
        assert_eq!(
            (messages[0].0, &messages[0].1["error"]["code"]),
            (2, &json!("invalid_argument"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_json_that_ends_early_says_why() {
    let service = Hookstream::start();
    let mut response = call(service.grpc, "SubscribeEvents", "{}").send().await.unwrap();
    let mut received = String::new();
    line(&mut response, &mut received).await;
    tokio::task::block_in_place(|| service.drain());
    let mut last = String::new();
    while !last.contains("\"error\"") {
        last = line(&mut response, &mut received).await;
    }
    let last: Value = serde_json::from_str(&last).unwrap();
    assert_eq!(last["error"]["code"], "unavailable");
}

#[tokio::test]
async fn no_stream_opens_while_the_service_drains() {
    let service = Hookstream::start();
    service.endpoint("dev").await;
    let create = json!({ "create": { "subscription": { "name": "mailer" } } }).to_string();
    let (status, _) = answer(call(service.grpc, "ManageSubscription", &create)).await;
    assert_eq!(status, 200);
    // A delivery whose body does not come keeps the drain from ending at once, and with it the listener for operators.
    let _slow = service.begin_delivery().await;
    service.until_in_flight(1.0).await;
    service.signal("TERM");
    until("it drains", async || service.admin("/readyz").await.0 == 503).await;
    for message in ["{}", r#"{"subscription": "mailer"}"#] {
        let (status, error) = answer(call(service.admin, "SubscribeEvents", message)).await;
        assert_eq!(
            (status, reason(&error)),
            (503, Some("DRAINING")),
            "{message}: {error}"
        );
    }
}

#[tokio::test]
async fn what_is_wrong_is_said_in_json_with_its_status_and_details() {
    let service = Hookstream::start();
    let no_such_event = json!({ "id": format!("evt_{}", "0".repeat(32)) }).to_string();
    for (name, message, status, code, expected) in [
        (
            "GetEvent",
            no_such_event.as_str(),
            404,
            "not_found",
            "EVENT_NOT_FOUND",
        ),
        ("ListEvents", r#"{"pageSize": -1}"#, 400, "invalid_argument", ""),
        (
            "ListEvents",
            r#"{"pagesize": "many"}"#,
            400,
            "invalid_argument",
            "",
        ),
        ("ListEvents", r#"{"pageSize": 1} {}"#, 400, "invalid_argument", ""),
        ("ListEvents", "nonsense", 400, "invalid_argument", ""),
        (
            "SubscribeEvents",
            r#"{"afterCursor": "nonsense"}"#,
            400,
            "invalid_argument",
            "",
        ),
    ] {
        let (got, error) = answer(call(service.grpc, name, message)).await;
        assert_eq!(
            (got, error["code"].as_str().unwrap()),
            (status, code),
            "{name} {message}: {error}"
        );
        assert!(error["details"].is_array(), "{error}");
        if !expected.is_empty() {
            assert_eq!(reason(&error), Some(expected));
        }
    }
    let too_large = format!(r#"{{"pageToken": "{}"}}"#, "x".repeat(300 * 1024));
    let (status, error) = answer(call(service.grpc, "ListEvents", &too_large)).await;
    assert_eq!((status, &error["code"]), (400, &json!("out_of_range")));
    let nested = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(answer(call(service.grpc, "ListEvents", &nested)).await.0, 400);
    // Nothing is called at another path, whatever it is posted as: a delivery that went wrong must not count as taken.
    for path in [
        "webhooks/prod",
        "hookstream.v1.HookstreamService/Nothing",
        "hookstream.v1.Nothing/ListEvents",
    ] {
        let request = http().post(format!("http://{}/{path}", service.grpc));
        let request = request.header("content-type", "application/json").body("{}");
        assert_eq!(request.send().await.unwrap().status(), 415, "{path}");
    }
}

#[tokio::test]
async fn calls_in_json_need_the_same_credentials_and_pages_the_same_leave() {
    let token = "an-operators-token-of-enough-characters";
    let variables = HashMap::from([("HOOKSTREAM_ADMIN_TOKEN", token.to_owned())]);
    let service = Hookstream::start_in(Arc::new(tempfile::tempdir().unwrap()), &[], &variables);
    let list = || call(service.grpc, "ListEvents", "{}");
    let (status, error) = answer(list()).await;
    assert_eq!((status, &error["code"]), (401, &json!("unauthenticated")));
    assert_eq!(answer(list().bearer_auth(token)).await.0, 200);
    let open_to_all = Hookstream::start();
    let from_a_page =
        call(open_to_all.grpc, "ListEvents", "{}").header("origin", "https://elsewhere.example.com");
    assert_eq!(from_a_page.send().await.unwrap().status(), 403);
}
