//! What HeyGen documents, held against the stand-in over real sockets. Owns the vocabulary of these tests: a receiver of
//! deliveries and a caller of the API.

mod api;
mod deliveries;
mod faults;

use std::{
    collections::VecDeque,
    sync::{Arc, LazyLock},
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};

use super::*;
use crate::transport::Server;

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(20);
const API_KEY: &str = "key_of_the_tests";

/// A stand-in, somebody who gets its deliveries, and somebody who calls its API.
struct Stage {
    heygen: StandIn,
    receiver: Receiver,
    caller: Caller,
}

/// Sets a stage: retries come quickly, the rest is as documented unless `change` says otherwise.
async fn stage(change: impl FnOnce(&mut Settings)) -> Stage {
    let mut settings = Settings {
        api_key: API_KEY.to_owned(),
        retry_first: Duration::from_millis(10),
        ..Settings::default()
    };
    change(&mut settings);
    let heygen = StandIn::start(settings).await.unwrap();
    let caller = Caller {
        base_url: heygen.base_url(),
    };
    Stage {
        heygen,
        receiver: Receiver::start().await,
        caller,
    }
}

impl Stage {
    /// Registers the receiver for everything.
    async fn register(&self) -> Registration {
        self.register_for(json!({})).await
    }

    /// Registers the receiver with these parameters beside its URL.
    async fn register_for(&self, mut parameters: Value) -> Registration {
        parameters["url"] = self.receiver.url.as_str().into();
        let answer = self.caller.create(parameters).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        self.heygen.registrations().pop().unwrap()
    }
}

/// Something that was received.
#[derive(Clone, Debug)]
struct Received {
    headers: HeaderMap,
    body: Bytes,
}

impl Received {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What the receiver does with a request.
enum Reply {
    Status(u16),
    /// This status, but only once it is let go.
    Held(Arc<Notify>, u16),
}

/// Gets probes and deliveries, and answers 200 unless told otherwise.
struct Receiver {
    url: String,
    state: Arc<ReceiverState>,
    _server: Server,
}

struct ReceiverState {
    replies: Mutex<VecDeque<(Method, Reply)>>,
    received: watch::Sender<Vec<(Method, Received)>>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let state = Arc::new(ReceiverState {
            replies: Mutex::default(),
            received: watch::Sender::default(),
        });
        let router = Router::new().fallback(receive).with_state(Arc::clone(&state));
        Self {
            url,
            state,
            _server: Server::start(listener, router),
        }
    }

    /// The next request with this method gets this reply.
    fn reply(&self, method: Method, reply: Reply) {
        self.state.replies.lock().push_back((method, reply));
    }

    /// The next request with this method is answered with this status once it is let go.
    fn hold(&self, method: Method, status: u16) -> Arc<Notify> {
        let held = Arc::new(Notify::new());
        self.reply(method, Reply::Held(Arc::clone(&held), status));
        held
    }

    /// Requests with this method so far.
    fn received(&self, method: &Method) -> Vec<Received> {
        let received = self.state.received.borrow();
        let matching = received.iter().filter(|(found, _)| found == method);
        matching.map(|(_, received)| received.clone()).collect()
    }

    fn deliveries(&self) -> Vec<Received> {
        self.received(&Method::POST)
    }

    /// The `n`th request with this method, counted from 1, once it has come.
    async fn nth(&self, method: Method, n: usize) -> Received {
        let mut changes = self.state.received.subscribe();
        let come = changes.wait_for(|all| all.iter().filter(|(found, _)| *found == method).count() >= n);
        drop(tokio::time::timeout(PATIENCE, come).await.unwrap().unwrap());
        self.received(&method)[n - 1].clone()
    }

    async fn delivery(&self, n: usize) -> Received {
        self.nth(Method::POST, n).await
    }
}

/// A redirect leads to where 200 is answered.
async fn receive(
    State(state): State<Arc<ReceiverState>>,
    request: Request,
) -> (StatusCode, [(&'static str, &'static str); 1]) {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let method = head.method;
    let reply = {
        let mut replies = state.replies.lock();
        let at = replies.iter().position(|(name, _)| *name == method);
        at.and_then(|at| replies.remove(at))
    };
    let received = Received {
        headers: head.headers,
        body,
    };
    state.received.send_modify(|all| all.push((method, received)));
    let status = match reply {
        None => 200,
        Some((_, Reply::Status(status))) => status,
        Some((_, Reply::Held(held, status))) => {
            held.notified().await;
            status
        }
    };
    (
        StatusCode::from_u16(status).unwrap(),
        [("location", "/elsewhere")],
    )
}

/// Calls the API.
#[derive(Clone)]
struct Caller {
    base_url: String,
}

/// What a call was answered with.
#[derive(Debug)]
struct Answered {
    status: u16,
    headers: HeaderMap,
    text: String,
    /// Null if the body is not JSON.
    body: Value,
}

impl Answered {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Status, code and parameter of a refusal.
    fn refusal(&self) -> (u16, &str, Option<&str>) {
        let error = &self.body["error"];
        (
            self.status,
            error["code"].as_str().unwrap(),
            error["param"].as_str(),
        )
    }
}

/// Trusts nobody: nothing here is https, and reading the certificates of the machine takes its time.
static TLS: LazyLock<rustls::ClientConfig> = LazyLock::new(|| {
    let _ = rustls::crypto::ring::default_provider().install_default();
    rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
});

fn http() -> reqwest::Client {
    reqwest::Client::builder()
        .tls_backend_preconfigured(TLS.clone())
        .build()
        .unwrap()
}

impl Caller {
    fn request(&self, method: Method, path: &str, body: Option<&Value>) -> reqwest::RequestBuilder {
        let request = http().request(method, format!("{}/v3/webhooks/{path}", self.base_url));
        let request = request.header("x-api-key", API_KEY).timeout(PATIENCE);
        match body {
            Some(body) => request.body(body.to_string()),
            None => request,
        }
    }

    async fn get(&self, path: &str) -> Answered {
        answered(self.request(Method::GET, path, None)).await.unwrap()
    }

    async fn create(&self, body: Value) -> Answered {
        let request = self.request(Method::POST, "endpoints", Some(&body));
        answered(request).await.unwrap()
    }

    async fn update(&self, endpoint_id: &str, body: Value) -> Answered {
        let path = format!("endpoints/{endpoint_id}");
        answered(self.request(Method::PATCH, &path, Some(&body)))
            .await
            .unwrap()
    }

    async fn delete(&self, endpoint_id: &str) -> Answered {
        let path = format!("endpoints/{endpoint_id}");
        answered(self.request(Method::DELETE, &path, None)).await.unwrap()
    }

    async fn rotate(&self, endpoint_id: &str) -> Answered {
        let path = format!("endpoints/{endpoint_id}/rotate-secret");
        answered(self.request(Method::POST, &path, None)).await.unwrap()
    }

    /// A creation with an idempotency key.
    async fn create_once(&self, key: &str, url: &str) -> reqwest::Result<Answered> {
        let body = json!({"url": url});
        let request = self.request(Method::POST, "endpoints", Some(&body));
        answered(request.header("idempotency-key", key)).await
    }
}

async fn answered(request: reqwest::RequestBuilder) -> reqwest::Result<Answered> {
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await?;
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    Ok(Answered {
        status,
        headers,
        text,
        body,
    })
}

/// Waits until something is so.
async fn until(is_so: impl Fn() -> bool) {
    let come = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, come).await.unwrap();
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap()
}
