//! One call of HeyGen's API, however many requests it takes. Owns sending, repeating, waiting and the bounds of all three;
//! refuses to know what is asked and what the answer means.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use reqwest::{Response, Url};
use serde::Serialize;

use super::{
    Patience,
    answer::Answer,
    error::{ApiError, Failure, Refusal, clean},
    idempotency_key::IdempotencyKey,
};
use crate::{decode::Fields, limits, secret::Secret};

/// HeyGen's API and what is needed to call it.
pub(super) struct Api {
    pub(super) http: reqwest::Client,
    pub(super) base: Url,
    pub(super) base_url: String,
    pub(super) credential: (HeaderName, HeaderValue),
    /// What must be shown nowhere, even if HeyGen says it.
    pub(super) secret: Secret,
    pub(super) patience: Patience,
}

/// A request, the same in every attempt.
pub(super) struct Call<'a> {
    method: Method,
    url: Url,
    key: Option<&'a IdempotencyKey>,
    body: Option<Vec<u8>>,
}

impl<'a> Call<'a> {
    /// One that changes nothing.
    pub(super) fn get(url: Url) -> Self {
        Self {
            method: Method::GET,
            url,
            key: None,
            body: None,
        }
    }

    /// One that changes something.
    pub(super) fn change(method: Method, url: Url, key: &'a IdempotencyKey) -> Self {
        Self {
            method,
            url,
            key: Some(key),
            body: None,
        }
    }

    pub(super) fn with_body(mut self, body: &impl Serialize) -> Self {
        self.body = serde_json::to_vec(body).ok();
        self
    }
}

/// The time a call has.
#[derive(Clone, Copy)]
pub(super) struct Span {
    start: Instant,
    length: Duration,
}

impl Span {
    pub(super) fn starting(start: Instant, length: Duration) -> Self {
        Self { start, length }
    }

    fn left(&self) -> Duration {
        self.length.saturating_sub(self.start.elapsed())
    }
}

impl Api {
    /// An address below the API's.
    pub(super) fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    /// Sends a request until it is answered for good or time is up.
    pub(super) async fn exchange<T>(
        &self,
        call: &Call<'_>,
        span: Span,
        read: impl Fn(&Answer) -> Result<T, Failure>,
    ) -> Result<T, ApiError> {
        let mut delays = self.delays();
        let (mut attempts, mut may_have_happened, mut earlier) = (0, false, None);
        loop {
            attempts += 1;
            let answer = self.attempt(call, span).await;
            let failure = match answer.and_then(|answer| read(&answer)) {
                Ok(read) => return Ok(read),
                Err(failure) => failure,
            };
            may_have_happened |= call.key.is_some() && failure.may_have_happened();
            let delay = delays.next().unwrap_or_default();
            let delay = delay.max(failure.retry_after().unwrap_or_default());
            if !failure.is_transient() || delay >= span.left() {
                let telling = more_telling(earlier, failure);
                return Err(ApiError::new(telling, attempts, may_have_happened));
            }
            tracing::debug!(%failure, ?delay, "a request to HeyGen is repeated");
            tokio::time::sleep(delay).await;
            earlier = Some(failure);
        }
    }

    fn delays(&self) -> impl Iterator<Item = Duration> + use<> {
        ExponentialBuilder::new()
            .with_min_delay(self.patience.delay_min)
            .with_max_delay(self.patience.delay_max)
            .with_jitter()
            .without_max_times()
            .build()
    }

    async fn attempt(&self, call: &Call<'_>, span: Span) -> Result<Answer, Failure> {
        let timeout = self.patience.attempt.min(span.left());
        let answer = tokio::time::timeout(timeout, self.send(call)).await;
        answer.unwrap_or_else(|_| {
            Err(Failure::TimedOut {
                base_url: self.base_url.clone(),
                waited: span.start.elapsed(),
            })
        })
    }

    async fn send(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let (name, value) = &self.credential;
        let mut request = self
            .http
            .request(call.method.clone(), call.url.clone())
            .header(header::ACCEPT, "application/json")
            .header(name, value);
        if let Some(key) = call.key {
            request = request.header("idempotency-key", key.as_str());
        }
        if let Some(body) = &call.body {
            request = request
                .header(header::CONTENT_TYPE, "application/json")
                .body(body.clone());
        }
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        self.answer(response).await
    }

    async fn answer(&self, mut response: Response) -> Result<Answer, Failure> {
        let status = response.status();
        let request_id = self.request_id(response.headers());
        if !status.is_success() {
            let retry_after = retry_after(response.headers());
            return Err(self.refusal(response, request_id, retry_after).await);
        }
        let body = read_body(&mut response, limits::HEYGEN_ANSWER_BYTES_MAX).await;
        let answer = Answer {
            status: status.as_u16(),
            request_id,
            body: match body {
                Ok(body) => body,
                Err(Unread::Broken(error)) => return Err(self.unreachable(error)),
                Err(Unread::TooLarge(_)) => {
                    return Err(Failure::Unreadable {
                        status: status.as_u16(),
                        request_id: self.request_id(response.headers()),
                        what: "it is larger than any may be",
                    });
                }
            },
        };
        if !has_error(&answer.body) {
            return Ok(answer);
        }
        Err(Failure::Refused(Box::new(Refusal {
            request_id: answer.request_id,
            ..Refusal::of(answer.status, &answer.body, self.secret.expose())
        })))
    }

    /// What a status other than success means. Its body is a hint: one that breaks off is taken as far as it came.
    async fn refusal(
        &self,
        mut response: Response,
        request_id: Option<String>,
        retry_after: Option<Duration>,
    ) -> Failure {
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            return Failure::RateLimited {
                retry_after,
                request_id,
            };
        }
        let body = match read_body(&mut response, limits::HEYGEN_REFUSAL_BYTES_MAX).await {
            Ok(body) | Err(Unread::TooLarge(body)) => body,
            Err(Unread::Broken(_)) => Bytes::new(),
        };
        Failure::Refused(Box::new(Refusal {
            request_id,
            retry_after,
            ..Refusal::of(response.status().as_u16(), &body, self.secret.expose())
        }))
    }

    fn unreachable(&self, error: reqwest::Error) -> Failure {
        Failure::Unreachable {
            base_url: self.base_url.clone(),
            source: error.without_url(),
        }
    }

    fn request_id(&self, headers: &HeaderMap) -> Option<String> {
        let id = headers.get("x-request-id")?.to_str().ok()?;
        Some(clean(id, self.secret.expose())).filter(|id| !id.is_empty())
    }
}

/// What to tell of the last two attempts: the last one may only have been cut off because the call's time was up.
fn more_telling(earlier: Option<Failure>, last: Failure) -> Failure {
    match (earlier, last) {
        (Some(earlier), Failure::TimedOut { .. }) if !matches!(earlier, Failure::TimedOut { .. }) => earlier,
        (_, last) => last,
    }
}

/// Whether a body under a status of success tells of an error.
fn has_error(body: &[u8]) -> bool {
    let envelope: Result<Fields<'_>, _> = serde_json::from_slice(body);
    let error = envelope
        .ok()
        .and_then(|envelope| Fields::of(envelope.get("error")?));
    error.is_some_and(|error| error.get("code").is_some() || error.get("message").is_some())
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

/// Why a body is not there as a whole.
enum Unread {
    /// The connection broke.
    Broken(reqwest::Error),
    /// It is larger than taken; this is what came before.
    TooLarge(Bytes),
}

async fn read_body(response: &mut Response, bytes_max: usize) -> Result<Bytes, Unread> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(Unread::Broken)? {
        let room = bytes_max.saturating_sub(body.len());
        body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if chunk.len() > room {
            return Err(Unread::TooLarge(body.freeze()));
        }
    }
    Ok(body.freeze())
}
