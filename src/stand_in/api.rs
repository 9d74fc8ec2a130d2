//! The v3 webhook API as HTTP has it. Owns which call a request is, who may make it, and what becomes of its answer;
//! refuses to know what the calls do.

use std::{collections::VecDeque, future, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use parking_lot::Mutex;
use reqwest::{Client, Url};
use tokio::sync::oneshot;

use super::{
    Settings,
    account::Account,
    answer::{Answer, Refusal},
    calls::Calls,
    chance::{Chance, Purpose},
    faults::{ApiFault, Faults},
    idempotency::{Begun, Fingerprint, Ledger},
};
use crate::{clock::Clock, limits, tasks::Tasks};

/// The headers that are remembered of a call. The API key is not one of them.
const HEADERS_KEPT: [&str; 5] = [
    "accept",
    "content-type",
    "idempotency-key",
    "user-agent",
    "x-request-id",
];

/// A call of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// `GET /v3/webhooks/event-types`
    ListEventTypes,
    /// `GET /v3/webhooks/endpoints`
    ListEndpoints,
    /// `POST /v3/webhooks/endpoints`
    CreateEndpoint,
    /// `PATCH /v3/webhooks/endpoints/{id}`
    UpdateEndpoint,
    /// `DELETE /v3/webhooks/endpoints/{id}`
    DeleteEndpoint,
    /// `POST /v3/webhooks/endpoints/{id}/rotate-secret`
    RotateSecret,
    /// `GET /v3/webhooks/events`
    ListEvents,
}

impl Call {
    /// The call that a request is, and the id of the endpoint that it names.
    fn of<'a>(method: &Method, path: &'a str) -> Option<(Self, &'a str)> {
        let path = path.strip_prefix("/v3/webhooks/")?;
        let mut parts = path.split('/');
        let parts = (parts.next()?, parts.next(), parts.next(), parts.next());
        match (method.as_str(), parts) {
            ("GET", ("event-types", None, None, None)) => Some((Self::ListEventTypes, "")),
            ("GET", ("events", None, None, None)) => Some((Self::ListEvents, "")),
            ("GET", ("endpoints", None, None, None)) => Some((Self::ListEndpoints, "")),
            ("POST", ("endpoints", None, None, None)) => Some((Self::CreateEndpoint, "")),
            ("PATCH", ("endpoints", Some(id), None, None)) => Some((Self::UpdateEndpoint, id)),
            ("DELETE", ("endpoints", Some(id), None, None)) => Some((Self::DeleteEndpoint, id)),
            ("POST", ("endpoints", Some(id), Some("rotate-secret"), None)) => Some((Self::RotateSecret, id)),
            _ => None,
        }
    }

    fn is_mutation(self) -> bool {
        !matches!(
            self,
            Self::ListEventTypes | Self::ListEndpoints | Self::ListEvents
        )
    }
}

/// A request that the API got.
#[derive(Clone, Debug)]
pub struct Request {
    /// The call it is, if it is one.
    pub call: Option<Call>,
    /// Its method.
    pub method: String,
    /// Its path, with the query.
    pub path: String,
    /// What it says of itself, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Bytes,
}

/// The connection is cut without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is cut")]
pub struct Cut;

/// The API.
pub struct Api {
    api_key: String,
    clock: Clock,
    chance: Chance,
    calls: Calls,
    faults: Arc<Faults>,
    ledger: Ledger,
    requests: Mutex<Requests>,
    tasks: Tasks,
}

#[derive(Default)]
struct Requests {
    count: u64,
    newest: VecDeque<Request>,
}

impl Api {
    pub fn new(
        settings: Settings,
        client: Client,
        account: Arc<Account>,
        faults: Arc<Faults>,
        tasks: Tasks,
    ) -> Self {
        Self {
            api_key: settings.api_key.clone(),
            clock: settings.clock.clone(),
            chance: Chance::new(settings.seed),
            calls: Calls::new(settings, client, account),
            faults,
            ledger: Ledger::default(),
            requests: Mutex::default(),
            tasks,
        }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().newest.iter().cloned().collect()
    }

    /// Answers a request.
    pub async fn handle(
        self: &Arc<Self>,
        request: http::Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Cut> {
        let (head, body) = request.into_parts();
        let body = Limited::new(body, limits::STAND_IN_CALL_BYTES_MAX)
            .collect()
            .await;
        let body = body.map(http_body_util::Collected::to_bytes);
        let number = self.remember(&head, body.as_ref().cloned().unwrap_or_default());
        let sent_id = head.headers.get("x-request-id").and_then(|id| id.to_str().ok());
        let request_id = sent_id.map_or_else(
            || format!("req_{:016x}", self.chance.number(Purpose::RequestId, &[number])),
            str::to_owned,
        );
        let answer = match body {
            Ok(body) => self.answer(&head, body).await?,
            Err(_) => Answer::failure(StatusCode::PAYLOAD_TOO_LARGE),
        };
        Ok(answer.into_response(&request_id))
    }

    async fn answer(self: &Arc<Self>, head: &Parts, body: Bytes) -> Result<Answer, Cut> {
        if !self.is_authorized(&head.headers) {
            let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "the API key is missing or wrong");
            return Ok(refusal.into());
        }
        let Some((call, endpoint_id)) = Call::of(&head.method, head.uri.path()) else {
            return Ok(Refusal::new(StatusCode::NOT_FOUND, "there is no such path").into());
        };
        let Some(fault) = self.faults.of_call(call) else {
            return self.perform(call, endpoint_id, head, body).await;
        };
        match fault {
            ApiFault::Status(status) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Ok(Answer::failure(status))
            }
            ApiFault::Html502 => Ok(Answer::bad_gateway()),
            ApiFault::RateLimited(seconds) => Ok(Answer::rate_limited(seconds)),
            ApiFault::Hang => future::pending().await,
            ApiFault::LoseAnswer => {
                self.perform(call, endpoint_id, head, body).await?;
                Err(Cut)
            }
            ApiFault::EffectThen500 => {
                self.perform(call, endpoint_id, head, body).await?;
                Ok(Answer::failure(StatusCode::INTERNAL_SERVER_ERROR))
            }
        }
    }

    /// Makes a call, or answers as when it was made before with the same idempotency key.
    async fn perform(
        self: &Arc<Self>,
        call: Call,
        endpoint_id: &str,
        head: &Parts,
        body: Bytes,
    ) -> Result<Answer, Cut> {
        let key = head.headers.get("idempotency-key").filter(|_| call.is_mutation());
        // What is not text is no key either.
        let key = key.map(|key| key.to_str().unwrap_or_default().to_owned());
        if let Some(key) = &key {
            let fingerprint = Fingerprint(head.method.to_string(), head.uri.path().to_owned(), body.clone());
            match self.ledger.begin(key, fingerprint, self.clock.now()) {
                Ok(Begun::First) => {}
                Ok(Begun::Answered(answer)) => return Ok(answer),
                Err(refusal) => return Ok(refusal.into()),
            }
        }
        let Ok(url) = Url::parse(&format!("http://stand-in{}", head.uri)) else {
            return Ok(Refusal::new(StatusCode::BAD_REQUEST, "the path is malformed").into());
        };
        let (sender, receiver) = oneshot::channel();
        let (api, endpoint_id) = (Arc::clone(self), endpoint_id.to_owned());
        // A call that has begun runs to its end, whether or not the caller is still there.
        self.tasks.spawn(async move {
            let run = api.calls.run(call, &endpoint_id, &url, &body);
            let Some(result) = api.tasks.stop().run_until_cancelled(run).await else {
                return;
            };
            let answer = Answer::from(result);
            if let Some(key) = key {
                api.ledger.finish(&key, &answer);
            }
            let _ = sender.send(answer);
        });
        receiver.await.map_err(|_| Cut)
    }

    fn is_authorized(&self, headers: &HeaderMap) -> bool {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = text(header::AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "));
        [text("x-api-key"), bearer].contains(&Some(&self.api_key))
    }

    fn remember(&self, head: &Parts, body: Bytes) -> u64 {
        let headers = HEADERS_KEPT.iter().filter_map(|&name| {
            let value = head.headers.get(name)?.to_str().ok()?;
            Some((name.to_owned(), value.to_owned()))
        });
        let request = Request {
            call: Call::of(&head.method, head.uri.path()).map(|(call, _)| call),
            method: head.method.to_string(),
            path: head.uri.to_string(),
            headers: headers.collect(),
            body,
        };
        let mut requests = self.requests.lock();
        if requests.newest.len() == limits::STAND_IN_CALLS_KEPT_MAX {
            requests.newest.pop_front();
        }
        requests.newest.push_back(request);
        requests.count += 1;
        requests.count
    }
}
