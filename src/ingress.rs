//! The HTTP side: HeyGen's deliveries in, answers out. Owns the way of a delivery up to the log; knows no gRPC and no
//! streams.

mod answer;
mod body;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::{MethodFilter, on},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::answer::Answer;
use crate::{
    clock::Clock,
    endpoints::Endpoints,
    event::{EndpointName, NewEvent},
    limits,
    log::{AppendError, Appended, EventLog, Outcome},
    signature::Presented,
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
    permits: Arc<Semaphore>,
    metrics: IngressMetrics,
}

#[derive(Clone, Debug, Default)]
struct IngressMetrics {
    deliveries: Family<AnswerLabel, Counter>,
    in_flight: Gauge,
    differing_duplicates: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabel {
    outcome: &'static str,
}

impl Ingress {
    /// An ingress that stores into `log` what `endpoints` verify, until it is draining.
    pub fn new(
        endpoints: Arc<Endpoints>,
        log: Arc<dyn EventLog>,
        clock: Clock,
        draining: CancellationToken,
        registry: &mut Registry,
    ) -> Self {
        let metrics = IngressMetrics::default();
        registry.register(
            "deliveries",
            "Deliveries by what became of them",
            metrics.deliveries.clone(),
        );
        registry.register(
            "deliveries_in_flight",
            "Deliveries being handled",
            metrics.in_flight.clone(),
        );
        registry.register(
            "deliveries_differing_duplicates",
            "Duplicates whose body differs from the first one's; the first is kept",
            metrics.differing_duplicates.clone(),
        );
        let permits = Arc::new(Semaphore::new(limits::DELIVERIES_IN_FLIGHT_MAX));
        Self {
            endpoints,
            log,
            clock,
            draining,
            permits,
            metrics,
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

    async fn answer(&self, endpoint: &str, headers: &HeaderMap, body: Body, proof: Proof<'_>) -> Answer {
        self.metrics.in_flight.inc();
        let answer = self.handle(endpoint, headers, body, proof).await;
        self.metrics.in_flight.dec();
        let outcome = answer.name();
        self.metrics
            .deliveries
            .get_or_create(&AnswerLabel { outcome })
            .inc();
        answer
    }

    async fn handle(&self, endpoint: &str, headers: &HeaderMap, body: Body, proof: Proof<'_>) -> Answer {
        if self.draining.is_cancelled() {
            return Answer::Draining;
        }
        let Ok(_permit) = self.permits.try_acquire() else {
            return Answer::TooManyInFlight;
        };
        let endpoint = endpoint
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
        let Ok(delivery) = verified else {
            let may_be_genuine = matches!(proof, Proof::Signature) && endpoint.may_miss_a_secret();
            return if may_be_genuine {
                Answer::SecretUnderWay
            } else {
                Answer::Unverified
            };
        };
        endpoint.delivered(now);
        let event = NewEvent::from_delivery(endpoint.name.clone(), delivery, now);
        match tokio::time::timeout(limits::APPEND_TIMEOUT, self.log.append(event)).await {
            Ok(Ok(appended)) => self.stored(appended),
            Ok(Err(AppendError::DiskFull)) => Answer::DiskFull,
            Ok(Err(AppendError::Closed(_))) => Answer::LogClosed,
            Ok(Err(AppendError::Locked)) => Answer::LogLocked,
            Err(_) => Answer::LogTooSlow,
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

async fn deliver(
    State(ingress): State<Ingress>,
    Path(endpoint): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    ingress.answer(&endpoint, &headers, body, Proof::Signature).await
}

async fn call_back(
    State(ingress): State<Ingress>,
    Path((endpoint, token)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    ingress
        .answer(&endpoint, &headers, body, Proof::Token(&token))
        .await
}

/// How long a sender is asked to wait after a refusal that passes by itself.
const RETRY_AFTER: Duration = Duration::from_secs(5);
