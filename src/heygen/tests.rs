//! What the client sends, and what it makes of every kind of answer, over real sockets. Every request is held against the
//! schemas of HeyGen's API.

#[path = "../../tests/schemas/requests.rs"]
mod schemas;

use std::{
    collections::VecDeque,
    error::Error as _,
    io,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, Uri};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::tasks;

const API_KEY: &str = "hg_key_visible";
const SECRET: &str = "whsec_visible-_8==";

/// How the peer answers one request.
enum Reply {
    Answer(StatusCode, Vec<(&'static str, String)>, String),
    /// Not at all.
    Silence,
    /// With a body that breaks off.
    Broken,
}

fn ok(body: Value) -> Reply {
    Reply::Answer(StatusCode::OK, vec![], body.to_string())
}

fn status(code: u16, body: impl ToString) -> Reply {
    Reply::Answer(StatusCode::from_u16(code).unwrap(), vec![], body.to_string())
}

fn error(code: u16, name: &str) -> Reply {
    status(
        code,
        json!({"error": {"code": name, "message": "No.", "param": null, "doc_url": ""}}),
    )
}

impl Reply {
    fn with(self, name: &'static str, value: impl ToString) -> Self {
        let Self::Answer(status, mut headers, body) = self else {
            panic!("no answer has no headers");
        };
        headers.push((name, value.to_string()));
        Self::Answer(status, headers, body)
    }

    async fn send(self) -> Response {
        match self {
            Self::Answer(status, headers, body) => {
                let mut response = (status, body).into_response();
                for (name, value) in headers {
                    response.headers_mut().append(name, value.parse().unwrap());
                }
                response
            }
            Self::Silence => std::future::pending().await,
            Self::Broken => {
                let chunks = [Ok(Bytes::from(r#"{"data":"#)), Err(io::Error::other("broken"))];
                Body::from_stream(futures_util::stream::iter(chunks)).into_response()
            }
        }
    }
}

/// A request as it arrived.
#[derive(Clone)]
struct Received {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Received {
    fn line(&self) -> String {
        format!("{} {}", self.method, self.uri)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn call(&self) -> String {
        schemas::call_of(&self.method, &self.uri, &self.headers, &self.body).unwrap()
    }
}

#[derive(Default)]
struct Script {
    replies: VecDeque<Reply>,
    received: Vec<Received>,
}

type Shared = Arc<Mutex<Script>>;

/// Plays HeyGen by a script; in the end, every request must have been one that HeyGen knows.
struct Peer {
    url: String,
    script: Shared,
    _serving: AbortOnDropHandle<()>,
}

impl Peer {
    async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let script = Shared::default();
        script.lock().unwrap().replies.extend(replies);
        let router = Router::new().fallback(reply).with_state(Arc::clone(&script));
        Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            script,
            _serving: tasks::owned(async { axum::serve(listener, router).await.unwrap() }),
        }
    }

    fn received(&self) -> Vec<Received> {
        self.script.lock().unwrap().received.clone()
    }

    /// The only request.
    fn request(&self) -> Received {
        let [request] = self
            .received()
            .try_into()
            .unwrap_or_else(|_| panic!("not one request"));
        request
    }

    fn keys(&self) -> Vec<String> {
        let keys = self.received().into_iter();
        keys.map(|request| request.header("idempotency-key").unwrap().to_owned())
            .collect()
    }

    fn client(&self) -> Heygen {
        self.client_with(quick())
    }

    fn client_with(&self, patience: Patience) -> Heygen {
        Heygen::with_patience(&self.url, api_key(), patience).unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.received().iter().for_each(|request| drop(request.call()));
        }
    }
}

async fn reply(State(script): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let reply = {
        let mut script = script.lock().unwrap();
        script.received.push(Received {
            method: parts.method,
            uri: parts.uri,
            headers: parts.headers,
            body,
        });
        script.replies.pop_front()
    };
    reply
        .unwrap_or_else(|| status(418, "the script is over"))
        .send()
        .await
}

/// Repeats at once, and otherwise waits as long as a busy machine needs.
fn quick() -> Patience {
    Patience {
        connect: Duration::from_secs(10),
        attempt: Duration::from_secs(10),
        call: Duration::from_secs(20),
        delay_min: Duration::from_millis(1),
        delay_max: Duration::from_millis(1),
    }
}

/// Gives up soon.
fn short() -> Patience {
    Patience {
        attempt: Duration::from_millis(100),
        call: Duration::from_millis(350),
        ..quick()
    }
}

fn api_key() -> Credentials {
    Credentials::ApiKey(Secret::new(API_KEY.to_owned()).unwrap())
}

fn key() -> IdempotencyKey {
    "key-1".parse().unwrap()
}

fn new_registration() -> NewRegistration {
    NewRegistration {
        url: "https://hooks.example.com/webhooks/prod".to_owned(),
        event_types: vec!["avatar_video.success".to_owned(), "batch.finished".to_owned()],
        entity_id: "project-1".to_owned(),
    }
}

fn endpoint(id: &str) -> Value {
    json!({
        "endpoint_id": id, "url": "https://hooks.example.com/webhooks/prod", "events": ["avatar_video.success"],
        "status": "enabled", "created_at": "2026-03-25T12:05:00Z", "secret": null,
    })
}

fn created() -> Value {
    let mut endpoint = endpoint("ep_1");
    endpoint["secret"] = json!(SECRET);
    json!({"data": endpoint})
}

fn ids(registrations: &[Registration]) -> Vec<&str> {
    registrations
        .iter()
        .map(|registration| registration.id.as_str())
        .collect()
}

// What is sent, and what comes back.

#[tokio::test]
async fn lists_event_types() {
    let types = json!([{"event_type": "video_agent.fail", "description": "An agent failed."}]);
    let peer = Peer::start([ok(json!({"data": types, "has_more": false, "next_token": null}))]).await;
    let types = peer.client().event_types().await.unwrap();
    assert_eq!(types[0].event_type, "video_agent.fail");
    assert_eq!(types[0].description, "An agent failed.");
    let request = peer.request();
    assert_eq!(request.line(), "GET /v3/webhooks/event-types");
    assert_eq!(request.header("x-api-key"), Some(API_KEY));
    assert_eq!(request.call(), "list_event_types");
}

#[tokio::test]
async fn lists_registrations_of_all_pages() {
    let pages = [
        json!({"data": [endpoint("ep_1"), endpoint("ep_2")], "has_more": true, "next_token": "a+b&c="}),
        json!({"data": [endpoint("ep_3")], "has_more": false, "next_token": null}),
    ];
    let peer = Peer::start(pages.map(ok)).await;
    let registrations = peer.client().registrations().await.unwrap();
    assert_eq!(ids(&registrations), ["ep_1", "ep_2", "ep_3"]);
    assert_eq!(
        registrations[0],
        Registration {
            id: "ep_1".to_owned(),
            url: "https://hooks.example.com/webhooks/prod".to_owned(),
            event_types: vec!["avatar_video.success".to_owned()],
            status: RegistrationStatus::Enabled,
            created_at: Some("2026-03-25T12:05:00Z".parse().unwrap()),
        }
    );
    let lines: Vec<_> = peer.received().iter().map(Received::line).collect();
    assert_eq!(
        lines,
        [
            "GET /v3/webhooks/endpoints?limit=100",
            "GET /v3/webhooks/endpoints?limit=100&token=a%2Bb%26c%3D",
        ]
    );
}

#[tokio::test]
async fn registers_with_types_and_entity() {
    let peer = Peer::start([ok(created())]).await;
    let (registration, secret) = peer.client().register(&key(), &new_registration()).await.unwrap();
    assert_eq!((registration.id.as_str(), secret.expose()), ("ep_1", SECRET));
    let request = peer.request();
    assert_eq!(request.line(), "POST /v3/webhooks/endpoints");
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("idempotency-key"), Some("key-1"));
    assert_eq!(
        request.json(),
        json!({
            "url": "https://hooks.example.com/webhooks/prod",
            "events": ["avatar_video.success", "batch.finished"], "entity_id": "project-1",
        })
    );
    assert_eq!(request.call(), "create_endpoint");
}

#[tokio::test]
async fn registers_for_everything_by_leaving_types_and_entity_out() {
    let peer = Peer::start([ok(created())]).await;
    let new = NewRegistration {
        event_types: vec![],
        entity_id: String::new(),
        ..new_registration()
    };
    peer.client().register(&key(), &new).await.unwrap();
    assert_eq!(
        peer.request().json(),
        json!({"url": "https://hooks.example.com/webhooks/prod"})
    );
}

#[tokio::test]
async fn changes_only_what_is_named() {
    let answers = [(); 3].map(|()| ok(json!({"data": endpoint("ep_1")})));
    let peer = Peer::start(answers).await;
    let change = |url: Option<&str>, event_types: Option<&[&str]>| RegistrationChange {
        url: url.map(str::to_owned),
        event_types: event_types.map(|types| types.iter().map(|name| (*name).to_owned()).collect()),
    };
    let changes = [
        change(Some("https://new.example.com/x"), None),
        change(None, Some(&["video_agent.fail"])),
        change(None, Some(&[])),
    ];
    for change in &changes {
        let registration = peer.client().change(&key(), "ep_1", change).await.unwrap();
        assert_eq!(registration.id, "ep_1");
    }
    let received = peer.received();
    let bodies: Vec<_> = received.iter().map(Received::json).collect();
    assert_eq!(
        bodies,
        [
            json!({"url": "https://new.example.com/x"}),
            json!({"events": ["video_agent.fail"]}),
            json!({"events": null}),
        ]
    );
    assert_eq!(received[0].line(), "PATCH /v3/webhooks/endpoints/ep_1");
    assert_eq!(received[0].call(), "update_endpoint");
}

#[tokio::test]
async fn tells_whether_an_answer_shows_a_change() {
    let peer = Peer::start([ok(json!({"data": endpoint("ep_1")}))]).await;
    let all = RegistrationChange {
        event_types: Some(vec![]),
        url: None,
    };
    let unchanged = peer.client().change(&key(), "ep_1", &all).await.unwrap();
    assert!(!all.is_shown_by(&unchanged));
    let changed = Registration {
        event_types: vec![],
        ..unchanged
    };
    assert!(all.is_shown_by(&changed));
}

#[tokio::test]
async fn removes() {
    let answers = [ok(json!({"error": null, "data": {}})), status(204, "")];
    let peer = Peer::start(answers).await;
    peer.client().remove(&key(), "ep_1").await.unwrap();
    peer.client().remove(&key(), "ep_2").await.unwrap();
    let [first, _] = peer.received().try_into().ok().unwrap();
    assert_eq!(first.line(), "DELETE /v3/webhooks/endpoints/ep_1");
    assert_eq!(first.header("idempotency-key"), Some("key-1"));
    assert!(first.body.is_empty());
    assert_eq!(first.call(), "delete_endpoint");
}

#[tokio::test]
async fn rotates_a_secret() {
    let peer = Peer::start([ok(json!({"data": {"endpoint_id": "ep_1", "secret": SECRET}}))]).await;
    let secret = peer.client().rotate_secret(&key(), "ep_1").await.unwrap();
    assert_eq!(secret.expose(), SECRET);
    let request = peer.request();
    assert_eq!(request.line(), "POST /v3/webhooks/endpoints/ep_1/rotate-secret");
    assert!(request.body.is_empty());
    assert_eq!(request.call(), "rotate_secret");
}

#[tokio::test]
async fn hands_over_history_byte_for_byte() {
    let first = r#"{ "event_id":"evt_1","event_type" : "avatar_video.fail","event_data":{"n":12345678901234567890.10,"é":"\u00e9"},"created_at":"2026-03-25T12:05:00Z"}"#;
    let body = format!(r#"{{"data": [ {first} , "odd", {{}} ],"has_more":true,"next_token":"t2"}}"#);
    let last = ok(json!({"data": [], "has_more": false}));
    let peer = Peer::start([status(200, body), last]).await;
    let page = peer.client().history_page(None).await.unwrap();
    let bodies: Vec<_> = page.events.iter().map(|event| event.body.as_ref()).collect();
    assert_eq!(bodies, [first.as_bytes(), br#""odd""#, b"{}"]);
    assert_eq!(page.events[0].event_id, "evt_1");
    assert_eq!(page.events[0].event_type, "avatar_video.fail");
    assert_eq!(
        page.events[0].created_at,
        Some("2026-03-25T12:05:00Z".parse().unwrap())
    );
    assert_eq!(page.next_token.as_deref(), Some("t2"));
    let page = peer.client().history_page(Some("t2")).await.unwrap();
    assert_eq!(page.next_token, None);
    let lines: Vec<_> = peer.received().iter().map(Received::line).collect();
    let events = "GET /v3/webhooks/events?limit=100";
    assert_eq!(lines, [events.to_owned(), format!("{events}&token=t2")]);
}

#[tokio::test]
async fn sends_a_token_as_bearer() {
    let peer = Peer::start([ok(json!({"data": []}))]).await;
    let credentials = Credentials::Bearer(Secret::new("tok".to_owned()).unwrap());
    let client = Heygen::with_patience(&peer.url, credentials, quick()).unwrap();
    client.event_types().await.unwrap();
    assert_eq!(peer.request().header("authorization"), Some("Bearer tok"));
    assert_eq!(peer.request().header("x-api-key"), None);
}

#[tokio::test]
async fn an_id_stays_one_segment_of_the_path() {
    let peer = Peer::start([ok(json!({"data": {}}))]).await;
    peer.client().remove(&key(), "a/b?c#d%2e").await.unwrap();
    assert_eq!(
        peer.request().line(),
        "DELETE /v3/webhooks/endpoints/a%2Fb%3Fc%23d%252e"
    );
    for id in ["", ".", "..", &"x".repeat(300)] {
        let error = peer.client().remove(&key(), id).await.unwrap_err();
        assert!(matches!(error.failure(), Failure::InvalidId), "{id}");
        assert!(!error.may_have_happened());
    }
    assert_eq!(peer.received().len(), 1);
}

#[tokio::test]
async fn tolerates_what_it_does_not_know() {
    let odd =
        json!({"endpoint_id": 7, "url": 1, "events": "all", "status": "paused", "created_at": 5, "new": []});
    let mixed = json!({"endpoint_id": "ep_2", "events": ["a.b", 3, null], "status": "disabled"});
    let list = json!([odd, mixed, "no object", {"url": "without an id"}]);
    let peer = Peer::start([ok(json!({"data": list, "extra": 1}))]).await;
    let registrations = peer.client().registrations().await.unwrap();
    assert_eq!(ids(&registrations), ["7", "ep_2"]);
    assert_eq!(registrations[0].status, RegistrationStatus::Unknown);
    assert_eq!(registrations[1].status, RegistrationStatus::Disabled);
    assert_eq!(registrations[1].event_types, ["a.b"]);
}

#[test]
fn calls_may_move_between_threads() {
    fn sent<T: Send>(_: T) {}
    let client = Heygen::new(BASE_URL, api_key()).unwrap();
    let (key, new, change) = (key(), new_registration(), RegistrationChange::default());
    sent(client.event_types());
    sent(client.registrations());
    sent(client.register(&key, &new));
    sent(client.change(&key, "ep_1", &change));
    sent(client.remove(&key, "ep_1"));
    sent(client.rotate_secret(&key, "ep_1"));
    sent(client.history_page(None));
}

// Lists without an end.

#[tokio::test]
async fn a_list_that_repeats_a_token_ends_as_an_error() {
    let page = |token: &str| ok(json!({"data": [endpoint("ep_1")], "has_more": true, "next_token": token}));
    let peer = Peer::start(["a", "b", "a"].map(page)).await;
    let error = peer.client().registrations().await.unwrap_err();
    assert!(matches!(error.failure(), Failure::EndlessList));
    assert_eq!(peer.received().len(), 3);
}

#[tokio::test]
async fn a_list_of_too_many_pages_ends_as_an_error() {
    let page = |number| ok(json!({"data": [], "has_more": true, "next_token": number}));
    let peer = Peer::start((0..limits::HEYGEN_PAGES_MAX + 1).map(page)).await;
    let error = peer.client().registrations().await.unwrap_err();
    assert!(matches!(error.failure(), Failure::EndlessList));
    assert_eq!(peer.received().len(), limits::HEYGEN_PAGES_MAX);
}

#[tokio::test]
async fn a_page_that_leads_to_itself_is_an_error() {
    let peer = Peer::start([ok(json!({"data": [], "has_more": true, "next_token": "t"}))]).await;
    let error = peer.client().history_page(Some("t")).await.unwrap_err();
    assert!(matches!(error.failure(), Failure::EndlessList));
}

#[tokio::test]
async fn a_page_that_promises_more_without_a_token_is_not_the_last_one() {
    let peer = Peer::start([ok(json!({"data": [], "has_more": true, "next_token": null}))]).await;
    let error = peer.client().registrations().await.unwrap_err();
    assert!(error.to_string().contains("promises more"), "{error}");
}

// Repetition.

#[tokio::test]
async fn waits_as_long_as_heygen_says() {
    let busy = error(429, "rate_limit_exceeded").with("retry-after", 1);
    let peer = Peer::start([busy, ok(created())]).await;
    let start = Instant::now();
    peer.client().register(&key(), &new_registration()).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(peer.keys(), ["key-1", "key-1"]);
}

#[tokio::test]
async fn does_not_wait_for_what_lies_beyond_its_patience() {
    let busy = error(429, "rate_limit_exceeded")
        .with("retry-after", 3600)
        .with("x-request-id", "req_1");
    let peer = Peer::start([busy]).await;
    let error = peer
        .client()
        .register(&key(), &new_registration())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "HeyGen takes no more requests for now: try again in 3600 s [request id req_1]"
    );
    let hour = Duration::from_secs(3600);
    assert!(
        matches!(error.failure(), Failure::RateLimited { retry_after: Some(after), .. } if *after == hour)
    );
    assert!(error.is_transient() && !error.may_have_happened());
    assert_eq!(peer.received().len(), 1);
}

#[tokio::test]
async fn repeats_what_may_pass_with_the_same_key() {
    let replies = [
        error(500, "internal_error"),
        status(503, "<html>busy</html>"),
        error(429, "rate_limit_exceeded"),
        error(409, "request_in_progress"),
        Reply::Broken,
        ok(created()),
    ];
    let peer = Peer::start(replies).await;
    peer.client().register(&key(), &new_registration()).await.unwrap();
    assert_eq!(peer.keys(), ["key-1"; 6]);
    let bodies: HashSet<_> = peer.received().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies.len(), 1);
}

#[tokio::test]
async fn repeats_a_read() {
    let peer = Peer::start([
        error(500, "internal_error"),
        ok(json!({"data": [endpoint("ep_1")]})),
    ])
    .await;
    assert_eq!(ids(&peer.client().registrations().await.unwrap()), ["ep_1"]);
}

#[tokio::test]
async fn takes_every_other_refusal_as_final() {
    for code in [400, 401, 402, 403, 404, 409, 413, 422] {
        let peer = Peer::start([error(code, "some_code")]).await;
        let error = peer.client().remove(&key(), "ep_1").await.unwrap_err();
        assert!(!error.is_transient() && !error.may_have_happened(), "{code}");
        assert_eq!(error.is_not_found(), code == 404);
        assert_eq!(peer.received().len(), 1, "{code}");
    }
}

#[tokio::test]
async fn follows_no_redirect() {
    let elsewhere = Peer::start([]).await;
    let redirect = status(307, "").with("location", format!("{}/v3/webhooks/events", elsewhere.url));
    let peer = Peer::start([redirect]).await;
    let error = peer.client().history_page(None).await.unwrap_err();
    assert!(
        error.to_string().contains("redirects are not followed"),
        "{error}"
    );
    assert!(elsewhere.received().is_empty());
}

#[tokio::test]
async fn gives_up_on_one_that_does_not_answer() {
    let silence = || (0..100).map(|_| Reply::Silence);
    let peer = Peer::start(silence()).await;
    let client = peer.client_with(short());
    let error = client.remove(&key(), "ep_1").await.unwrap_err();
    assert!(matches!(error.failure(), Failure::TimedOut { .. }), "{error}");
    assert!(error.is_transient() && error.may_have_happened());
    assert!(
        peer.received().len() > 1,
        "one attempt must not use up all the time"
    );
    let error = client.history_page(None).await.unwrap_err();
    assert!(!error.may_have_happened(), "reading changes nothing");
}

#[tokio::test]
async fn a_doubt_of_one_attempt_outlives_the_next() {
    let peer = Peer::start([Reply::Silence, error(404, "not_found")]).await;
    let patience = Patience {
        attempt: Duration::from_secs(1),
        ..quick()
    };
    let error = peer
        .client_with(patience)
        .remove(&key(), "ep_1")
        .await
        .unwrap_err();
    assert!(error.is_not_found() && error.may_have_happened());
}

#[tokio::test]
async fn tells_that_nobody_is_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = Heygen::with_patience(&url, api_key(), short()).unwrap();
    let error = client.remove(&key(), "ep_1").await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("HeyGen's API at {url} cannot be reached"))
    );
    assert!(error.source().is_some());
    assert!(error.is_transient() && !error.may_have_happened());
}

// Answers that are of no use.

#[tokio::test]
async fn a_new_registration_without_a_secret_is_an_error() {
    let bodies = [
        json!({"data": endpoint("ep_1")}),
        json!({"data": {"endpoint_id": "ep_1", "secret": ""}}),
        json!({"data": {"endpoint_id": "ep_1", "secret": "s".repeat(10_000)}}),
    ];
    for body in bodies {
        let peer = Peer::start([ok(body).with("x-request-id", "req_9")]).await;
        let error = peer
            .client()
            .register(&key(), &new_registration())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("no `secret`"), "{error}");
        assert_eq!(error.request_id(), Some("req_9"));
        assert!(error.may_have_happened() && !error.is_transient());
        assert_eq!(peer.received().len(), 1);
    }
}

#[tokio::test]
async fn a_success_that_is_not_heygens_is_an_error() {
    let bodies = ["<html>Sign in</html>", "[]", "\"ok\"", "{\"data\": "];
    for body in bodies {
        let peer = Peer::start([status(200, body), status(200, body)]).await;
        for error in [
            peer.client().remove(&key(), "ep_1").await.unwrap_err(),
            peer.client().registrations().await.unwrap_err(),
        ] {
            assert!(
                matches!(error.failure(), Failure::Unreadable { .. }),
                "{body}: {error}"
            );
        }
    }
}

#[tokio::test]
async fn an_error_under_a_success_is_an_error() {
    let body = json!({"error": {"code": "not_allowed", "message": "No."}, "data": null});
    let peer = Peer::start([ok(body)]).await;
    let error = peer.client().remove(&key(), "ep_1").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "HeyGen refuses the request (200 not_allowed): No."
    );
    assert!(error.may_have_happened());
}

#[tokio::test]
async fn reads_no_answer_beyond_its_bound() {
    let huge = " ".repeat(limits::HEYGEN_ANSWER_BYTES_MAX + 1);
    let peer = Peer::start([status(200, huge)]).await;
    let error = peer.client().registrations().await.unwrap_err();
    assert!(error.to_string().contains("larger than any may be"), "{error}");
}

// What a person reads.

#[tokio::test]
async fn a_wrong_key_names_the_setting() {
    let body =
        json!({"error": {"code": "authentication_failed", "message": format!("Unknown key {API_KEY}!")}});
    let peer = Peer::start([status(401, body)]).await;
    let error = peer.client().registrations().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "HeyGen does not take the API key: check --heygen-api-key-file or HOOKSTREAM_HEYGEN_API_KEY \
         (401 authentication_failed): Unknown key …!"
    );
}

#[tokio::test]
async fn an_error_of_any_shape_becomes_one_clear_line() {
    let refused = "HeyGen refuses the request (400";
    let cases = [
        (
            r#"{"error":{"code":"invalid_parameter","message":"Must be public.","param":"url","doc_url":"x"}}"#,
            " invalid_parameter, parameter `url`): Must be public.",
        ),
        (
            r#"{"code":400123,"message":"Old style","data":null}"#,
            " 400123): Old style",
        ),
        (r#"{"error":"Only text"}"#, "): Only text"),
        (
            r#"{"detail":"Not\u0000 so\n\u001b[31m fast"}"#,
            "): Not so [31m fast",
        ),
        (r#"{"error":{"code":["odd"],"message":{"odd":1}}}"#, ")"),
        (r#"["odd"]"#, ")"),
        (r#"{"error":"#, ")"),
        ("Bad\r\nRequest", "): Bad Request"),
        ("<!doctype html><h1>Bad</h1>", ")"),
        ("", ")"),
    ];
    for (body, shown) in cases {
        let peer = Peer::start([status(400, body)]).await;
        let error = peer.client().registrations().await.unwrap_err();
        assert_eq!(error.to_string(), format!("{refused}{shown}"), "{body}");
    }
}

#[tokio::test]
async fn a_proxys_page_is_not_shown_and_no_lack_of_time_hides_it() {
    let page = || status(502, "<html><body>nginx</body></html>").with("x-request-id", "req_2");
    let peer = Peer::start((0..1000).map(|_| page())).await;
    let error = peer.client_with(short()).registrations().await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("HeyGen's API is out of order (502) [request id req_2] (tried "),
        "{text}"
    );
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_long_message_is_cut() {
    let peer = Peer::start([status(400, json!({"message": "é".repeat(5000)}))]).await;
    let error = peer.client().registrations().await.unwrap_err();
    let shown = error.to_string().chars().filter(|c| *c == 'é').count();
    assert_eq!(shown, limits::HEYGEN_MESSAGE_CHARACTERS_MAX);
}

#[tokio::test]
async fn no_credential_and_no_secret_is_ever_shown() {
    let told =
        json!({"error": {"code": API_KEY, "message": format!("{SECRET} by {API_KEY}"), "param": SECRET}});
    let answers = [
        ok(created()),
        status(400, &told).with("x-request-id", API_KEY),
        status(200, &told),
        status(400, format!("{SECRET} {API_KEY}")),
        status(200, format!("{SECRET} {API_KEY}")),
    ];
    let count = answers.len();
    let peer = Peer::start(answers).await;
    let client = peer.client();
    let mut shown = format!("{client:?} {:?} {:?}", api_key(), peer.client());
    for _ in 0..count {
        match client.register(&key(), &new_registration()).await {
            Ok(created) => shown += &format!("{created:?}"),
            Err(error) => shown += &format!("{error} {error:?} {:?}", error.request_id()),
        }
    }
    assert!(!shown.contains("visible"), "{shown}");
    assert!(shown.contains("ep_1"));
}

#[test]
fn a_body_of_the_history_is_not_shown() {
    let event = HistoryEvent {
        body: Bytes::from_static(b"visible"),
        event_id: "evt_1".to_owned(),
        event_type: String::new(),
        created_at: None,
    };
    assert!(!format!("{event:?}").contains("visible"));
}

// Settings.

#[test]
fn takes_only_addresses_that_keep_credentials_safe() {
    let base = |url: &str| Heygen::new(url, api_key()).map(|client| client.base_url().to_owned());
    assert_eq!(base(BASE_URL).unwrap(), BASE_URL);
    assert_eq!(base("https://api.heygen.com/").unwrap(), BASE_URL);
    assert_eq!(
        base("https://gate.example.com/heygen/").unwrap(),
        "https://gate.example.com/heygen"
    );
    for local in ["http://127.0.0.1:8090", "http://localhost:1", "http://[::1]:1"] {
        assert_eq!(base(local).unwrap(), local);
    }
    let refused = [
        "",
        "api.heygen.com",
        "ftp://api.heygen.com",
        "http://api.heygen.com",
        "http://127.0.0.1.example.com",
        "https://user:visible@api.heygen.com",
        "https://api.heygen.com?x=1",
        "https://api.heygen.com#x",
    ];
    for url in refused {
        let error = base(url).unwrap_err();
        assert!(matches!(error, InvalidApi::Url), "{url}");
        assert!(!format!("{error} {error:?}").contains("visible"));
    }
}

#[test]
fn takes_only_credentials_that_fit_a_header() {
    for text in ["a\nb", " a", "a ", "é", "a\0"] {
        let secret = Secret::new(text.to_owned()).unwrap();
        for credentials in [Credentials::ApiKey(secret.clone()), Credentials::Bearer(secret)] {
            assert!(
                matches!(Heygen::new(BASE_URL, credentials), Err(InvalidApi::Credentials)),
                "{text:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_address_may_have_a_path() {
    let peer = Peer::start([ok(json!({"data": []}))]).await;
    let client = Heygen::with_patience(&format!("{}/gate/", peer.url), api_key(), quick()).unwrap();
    client.event_types().await.unwrap();
    let line = peer.request().line();
    // This one is no request to HeyGen itself.
    peer.script.lock().unwrap().received.clear();
    assert_eq!(line, "GET /gate/v3/webhooks/event-types");
}

#[test]
fn an_idempotency_key_survives_being_stored() {
    let key = IdempotencyKey::generate();
    assert_ne!(key, IdempotencyKey::generate());
    assert_eq!(key.to_string().parse(), Ok(key));
    for text in ["", "a b", "é", "a/b", &"a".repeat(256)] {
        assert_eq!(
            text.parse::<IdempotencyKey>(),
            Err(InvalidIdempotencyKey),
            "{text}"
        );
    }
}

#[test]
fn the_schemas_refuse_what_heygen_refuses() {
    let headers = |pairs: &[(&'static str, &str)]| {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        pairs.collect::<HeaderMap>()
    };
    let all = [
        ("x-api-key", "k"),
        ("idempotency-key", "i"),
        ("content-type", "application/json"),
    ];
    let call = |method: Method, uri: &str, headers: &HeaderMap, body: &str| {
        schemas::call_of(&method, &uri.parse().unwrap(), headers, body.as_bytes())
    };
    let (create, one) = ("/v3/webhooks/endpoints", "/v3/webhooks/endpoints/ep_1");
    let good = r#"{"url":"https://a.example"}"#;
    assert_eq!(
        call(Method::POST, create, &headers(&all), good).as_deref(),
        Ok("create_endpoint")
    );
    let refused = [
        call(Method::POST, create, &headers(&all), "{}"),
        call(
            Method::POST,
            create,
            &headers(&all),
            r#"{"url":"https://a.example","status":"enabled"}"#,
        ),
        call(
            Method::POST,
            create,
            &headers(&all),
            r#"{"url":"http://a.example"}"#,
        ),
        call(Method::POST, create, &headers(&all[1..]), good),
        call(Method::POST, create, &headers(&all[..1]), good),
        call(Method::POST, create, &headers(&[all[0], all[2]]), good),
        call(Method::PUT, one, &headers(&all), good),
        call(Method::PATCH, one, &headers(&all), "{}"),
        call(Method::PATCH, one, &headers(&all), r#"{"entity_id":"e"}"#),
        call(Method::DELETE, one, &headers(&all), "{}"),
        call(
            Method::GET,
            "/v3/webhooks/endpoints?limit=101",
            &headers(&all[..1]),
            "",
        ),
        call(
            Method::GET,
            "/v3/webhooks/events?since=1",
            &headers(&all[..1]),
            "",
        ),
        call(Method::GET, "/v2/webhooks/events", &headers(&all[..1]), ""),
    ];
    for answer in refused {
        answer.unwrap_err();
    }
}
