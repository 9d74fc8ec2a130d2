//! The HTTP side: HeyGen's deliveries in, answers out. Owns the way of a delivery up to the log; knows no gRPC and no
//! streams.

mod answer;
mod body;
mod failures;
mod metrics;

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::{MethodFilter, on},
};
use governor::clock::MonotonicClock;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::{
    answer::Answer,
    failures::Failures,
    metrics::{IngressMetrics, Unverified},
};
use crate::{
    clock::Clock,
    endpoints::{Endpoint, Endpoints},
    event::{EndpointName, NewEvent},
    forwarded::{self, TrustedProxies},
    limits,
    log::{AppendError, Appended, EventLog, Outcome},
    peer::Peer,
    signature::Presented,
    source::{Place, Places, Source},
    traces::Traces,
};

/// The headers that HeyGen has been seen or documented to sign in. Header names are compared without regard to case.
const SIGNATURE_HEADERS: [&str; 2] = ["signature", "heygen-signature"];

/// What a delivery needs on its way to the log.
#[derive(Clone)]
pub struct Ingress {
    endpoints: Arc<Endpoints>,
    log: Arc<dyn EventLog>,
    clock: Clock,
    draining: CancellationToken,
    trusted: TrustedProxies,
    failures: Arc<Failures>,
    permits: Arc<Semaphore>,
    /// The places of sources that have not proven themselves.
    places: Places,
    traces: Traces,
    metrics: IngressMetrics,
}

impl Ingress {
    /// An ingress that stores into `log` what `endpoints` verify, until it is draining. `trusted` proxies say whom a
    /// delivery is from.
    pub fn new(
        endpoints: Arc<Endpoints>,
        log: Arc<dyn EventLog>,
        clock: Clock,
        draining: CancellationToken,
        trusted: TrustedProxies,
        traces: Traces,
        registry: &mut Registry,
    ) -> Self {
        let failures = Arc::new(Failures::new(MonotonicClock));
        registry.register_collector(Box::new(Unverified {
            endpoints: Arc::clone(&endpoints),
            failures: Arc::clone(&failures),
        }));
        let permits = Arc::new(Semaphore::new(limits::DELIVERIES_IN_FLIGHT_MAX));
        Self {
            endpoints,
            log,
            clock,
            draining,
            trusted,
            failures,
            permits,
            places: Places::new(limits::DELIVERIES_IN_FLIGHT_PER_ADDRESS_MAX),
            traces,
            metrics: IngressMetrics::registered(registry),
        }
    }

    /// The routes.
    pub fn router(self) -> Router {
        // HeyGen checks a URL when it is registered, before there is a secret, and gives up after a second.
        let reachable = on(
            MethodFilter::OPTIONS.or(MethodFilter::GET).or(MethodFilter::HEAD),
            async || StatusCode::OK,
        );
        Router::new()
            .route("/webhooks/{endpoint}", reachable.clone().post(deliver))
            .route("/callbacks/{endpoint}/{token}", reachable.post(call_back))
            .fallback(async || Answer::NoSuchPath)
            .method_not_allowed_fallback(async || Answer::MethodNotAllowed)
            .with_state(self)
    }

    fn source(&self, peer: &Peer, headers: &HeaderMap) -> Option<Source> {
        let client = forwarded::client(peer.address.ip(), headers, &self.trusted);
        self.trusted.limited(client)
    }

    async fn answer(&self, delivery: Delivery<'_>, body: Body) -> Answer {
        self.metrics.in_flight.inc();
        let answer = self.handle(&delivery, body).await;
        self.metrics.in_flight.dec();
        self.metrics.answered(answer);
        if let Some(source) = delivery.source.filter(|_| answer.is_a_failure()) {
            self.failures.failed(source);
        }
        answer
    }

    async fn handle(&self, delivery: &Delivery<'_>, body: Body) -> Answer {
        if self.draining.is_cancelled() {
            return Answer::Draining;
        }
        let Delivery { headers, proof, .. } = *delivery;
        if delivery.source.is_some_and(|source| self.failures.refuse(source)) {
            return Answer::TooManyFailures;
        }
        let (Ok(_permit), Ok(_place)) = (self.permits.try_acquire(), self.place(delivery.source)) else {
            return Answer::TooManyInFlight;
        };
        let endpoint = delivery
            .endpoint
            .parse::<EndpointName>()
            .ok()
            .and_then(|name| self.endpoints.get(&name));
        let Some(endpoint) = endpoint else {
            return Answer::UnknownEndpoint;
        };
        let body = match body::read(body, headers).await {
            Ok(body) => body,
            Err(refusal) => return refusal.into(),
        };
        let now = self.clock.now();
        let verified = match proof {
            Proof::Signature => endpoint.keyring.verify(&presented(headers), body, now),
            Proof::Token(token) => endpoint.callback_tokens.verify_token(token, body, now),
        };
        let Ok(verified) = verified else {
            let may_be_genuine = matches!(proof, Proof::Signature) && endpoint.may_miss_a_secret();
            if may_be_genuine {
                return Answer::SecretUnderWay;
            }
            note_unverified(&endpoint, now);
            return Answer::Unverified;
        };
        if let Some(source) = delivery.source {
            self.failures.verified(source);
        }
        endpoint.delivered(now);
        let event = NewEvent::from_delivery(endpoint.name.clone(), verified, now);
        let mut delivery = self.traces.delivery(&event);
        let append = delivery.child("append");
        let appended = tokio::time::timeout(limits::APPEND_TIMEOUT, self.log.append(event)).await;
        drop(append);
        let answer = match appended {
            Ok(Ok(appended)) => self.stored(appended),
            Ok(Err(AppendError::DiskFull)) => Answer::DiskFull,
            Ok(Err(AppendError::Closed(_))) => Answer::LogClosed,
            Ok(Err(AppendError::Locked)) => Answer::LogLocked,
            Ok(Err(AppendError::TooLarge)) => Answer::BodyTooLarge,
            Ok(Err(AppendError::Unreachable(_))) => Answer::LogUnreachable,
            Err(_) => Answer::LogTooSlow,
        };
        delivery.set("hookstream.outcome", answer.name());
        if answer != Answer::Stored {
            delivery.is_not_the_first();
        }
        if !matches!(answer, Answer::Stored | Answer::Duplicate) {
            delivery.failed(answer.name());
        }
        answer
    }

    /// A place of the source's; none is needed by one that is not limited, or that has proven itself.
    fn place(&self, source: Option<Source>) -> Result<Option<Place>, TooManyOfOneSource> {
        match source.filter(|&source| !self.failures.has_proven(source)) {
            None => Ok(None),
            Some(source) => self.places.take(source).map(Some).ok_or(TooManyOfOneSource),
        }
    }

    fn stored(&self, appended: Appended) -> Answer {
        match appended.outcome {
            Outcome::New => Answer::Stored,
            Outcome::Duplicate | Outcome::DuplicateOfOtherOrigin => Answer::Duplicate,
            Outcome::DuplicateWithOtherBody => {
                self.metrics.differing_duplicates.inc();
                Answer::Duplicate
            }
        }
    }
}

struct TooManyOfOneSource;

/// A delivery before its body is read.
struct Delivery<'a> {
    /// Whom it is from; `None` for whom is never limited.
    source: Option<Source>,
    endpoint: &'a str,
    headers: &'a HeaderMap,
    proof: Proof<'a>,
}

/// What a sender proves that it is HeyGen with.
#[derive(Clone, Copy)]
enum Proof<'a> {
    /// A signature in a header.
    Signature,
    /// The token in the URL.
    Token(&'a str),
}

/// What stands in the headers that may hold a signature.
fn presented(headers: &HeaderMap) -> Vec<Presented<'_>> {
    let values = SIGNATURE_HEADERS.iter().flat_map(|&header_name| {
        let values = headers.get_all(header_name).into_iter();
        values.map(move |value| Presented {
            header_name,
            value: value.as_bytes(),
        })
    });
    values.take(limits::SIGNATURES_PER_DELIVERY_MAX).collect()
}

/// HeyGen disables an endpoint that keeps failing, so somebody should look before it does.
fn note_unverified(endpoint: &Endpoint, now: jiff::Timestamp) {
    if endpoint.refused(now) {
        let endpoint = &endpoint.name;
        tracing::warn!(
            %endpoint,
            failures = limits::ENDPOINT_FAILURES_IN_A_ROW,
            "no delivery to this endpoint has verified for a while, and others before did: its secret was probably rotated or \
             replaced at HeyGen, which disables an endpoint that keeps failing; set the new one with `hookstream endpoint \
             rotate-secret`"
        );
    }
}

async fn deliver(
    State(ingress): State<Ingress>,
    Extension(peer): Extension<Peer>,
    Path(endpoint): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let delivery = Delivery {
        source: ingress.source(&peer, &headers),
        endpoint: &endpoint,
        headers: &headers,
        proof: Proof::Signature,
    };
    ingress.answer(delivery, body).await
}

async fn call_back(
    State(ingress): State<Ingress>,
    Extension(peer): Extension<Peer>,
    Path((endpoint, token)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let delivery = Delivery {
        source: ingress.source(&peer, &headers),
        endpoint: &endpoint,
        headers: &headers,
        proof: Proof::Token(&token),
    };
    ingress.answer(delivery, body).await
}

/// How long a sender is asked to wait after a refusal that passes by itself.
const RETRY_AFTER: Duration = Duration::from_secs(5);
