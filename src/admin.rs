//! The operator's side: liveness, readiness, metrics. Owns their paths; refuses to change anything.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{
        StatusCode,
        header::{CONTENT_TYPE, WWW_AUTHENTICATE},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    access::{Access, Presented, Scope},
    log::{AppendError, EventLog},
};

/// Whether deliveries can be taken and streams served, asked at the moment of the answer.
#[derive(Clone)]
pub struct Readiness {
    log: Arc<dyn EventLog>,
    writable: watch::Receiver<Result<(), AppendError>>,
    draining: CancellationToken,
}

impl Readiness {
    /// Ready while the log is writable and no drain has begun.
    pub fn new(log: Arc<dyn EventLog>, draining: CancellationToken) -> Self {
        let writable = log.writable();
        Self {
            log,
            writable,
            draining,
        }
    }

    /// What an event outlives once its delivery is answered.
    pub fn durability(&self) -> String {
        self.log.durability()
    }

    /// `Ok` if ready, else why not.
    pub fn now(&self) -> Result<(), String> {
        if self.draining.is_cancelled() {
            return Err("draining".to_owned());
        }
        self.writable.borrow().clone().map_err(|error| error.to_string())
    }

    /// Whether a drain has begun, after which nothing changes any more.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Waits for a change that could matter.
    pub async fn changed(&mut self) {
        tokio::select! {
            _ = self.writable.changed() => {}
            () = self.draining.cancelled() => {}
        }
    }
}

/// The routes.
///
/// Probes need no credentials: what they learn is in every deployment's own description. Metrics need `metrics:read`.
pub fn router(readiness: Readiness, registry: Arc<Registry>, access: Arc<Access>) -> Router {
    let metrics = get(async move || metrics(&registry));
    Router::new()
        .route(
            "/metrics",
            metrics.layer(middleware::from_fn_with_state(access, require_metrics_read)),
        )
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(async move || ready(&readiness)))
}

async fn require_metrics_read(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let caller = Presented::of_request(request.headers(), request.extensions().get())
        .and_then(|presented| access.authenticate(presented));
    match caller {
        Ok(caller) if caller.may(Scope::MetricsRead) => next.run(request).await,
        Ok(_) => (StatusCode::FORBIDDEN, "this needs the scope metrics:read\n").into_response(),
        Err(error) => {
            let ask = [(WWW_AUTHENTICATE, "Bearer")];
            (StatusCode::UNAUTHORIZED, ask, format!("{error}\n")).into_response()
        }
    }
}

fn ready(readiness: &Readiness) -> Response {
    match readiness.now() {
        Ok(()) => format!("ready\nan event is {}\n", readiness.durability()).into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

fn metrics(registry: &Registry) -> Response {
    let mut body = String::new();
    match text::encode(&mut body, registry) {
        Ok(()) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(CONTENT_TYPE, content_type)], body).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
