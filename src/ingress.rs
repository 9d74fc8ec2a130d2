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
            .route("/webhooks/{endpoint}", reachable.post(deliver))
            .fallback(async || Answer::NoSuchPath)
            .method_not_allowed_fallback(async || Answer::MethodNotAllowed)
            .with_state(self)
    }

    async fn handle(&self, endpoint: &str, headers: &HeaderMap, body: Body) -> Answer {
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
        let presented: Vec<_> = SIGNATURE_HEADERS
            .iter()
            .flat_map(|&header_name| {
                headers
                    .get_all(header_name)
                    .into_iter()
                    .map(move |value| (header_name, value))
            })
            .map(|(header_name, value)| Presented {
                header_name,
                value: value.as_bytes(),
            })
            .take(limits::SIGNATURES_PER_DELIVERY_MAX)
            .collect();
        let now = self.clock.now();
        let Ok(delivery) = endpoint.keyring.verify(&presented, body, now) else {
            return Answer::Unverified;
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

async fn deliver(
    State(ingress): State<Ingress>,
    Path(endpoint): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    ingress.metrics.in_flight.inc();
    let answer = ingress.handle(&endpoint, &headers, body).await;
    ingress.metrics.in_flight.dec();
    ingress
        .metrics
        .deliveries
        .get_or_create(&AnswerLabel {
            outcome: answer.name(),
        })
        .inc();
    answer
}

/// How long a sender is asked to wait after a refusal that passes by itself.
const RETRY_AFTER: Duration = Duration::from_secs(5);
