//! The table of answers: what can become of a delivery, and what HeyGen is told. The one place where HTTP statuses are
//! chosen.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{RETRY_AFTER, body::Refusal};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Verified and durable.
    Stored,
    /// Verified, and the event was durable before.
    Duplicate,
    /// No signature or token of the endpoint's.
    Unverified,
    /// Not verified, but HeyGen may be signing with a secret that is on its way here.
    SecretUnderWay,
    /// No endpoint has this name.
    UnknownEndpoint,
    /// Nothing is served at this path.
    NoSuchPath,
    /// Something is served at this path, but not with this method.
    MethodNotAllowed,
    /// The body is too large.
    BodyTooLarge,
    /// The body did not arrive in time.
    BodyTooSlow,
    /// The body broke off.
    BodyBroken,
    /// Too many deliveries at once.
    TooManyInFlight,
    /// Too many deliveries of this sender's have failed lately.
    TooManyFailures,
    /// The disk is full.
    DiskFull,
    /// The log no longer takes events.
    LogClosed,
    /// Another program holds the log's lock.
    LogLocked,
    /// The servers that keep the log do not answer.
    LogUnreachable,
    /// The log did not make the event durable in time.
    LogTooSlow,
    /// The service is shutting down.
    Draining,
}

impl Answer {
    /// The name in metrics.
    pub(super) fn name(self) -> &'static str {
        self.row().0
    }

    /// Whether it tells against the sender. A body that never comes does too: it takes the place of one that would.
    pub(super) fn is_a_failure(self) -> bool {
        matches!(
            self,
            Self::Unverified
                | Self::UnknownEndpoint
                | Self::BodyTooLarge
                | Self::BodyTooSlow
                | Self::BodyBroken
        )
    }

    /// Name, status, text. A wrong and a missing signature or token have one text, so that it tells an attacker
    /// nothing.
    fn row(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::Stored => ("stored", StatusCode::OK, "stored"),
            Self::Duplicate => ("duplicate", StatusCode::OK, "stored"),
            Self::Unverified => (
                "unverified",
                StatusCode::UNAUTHORIZED,
                "the delivery is not verified",
            ),
            Self::SecretUnderWay => (
                "secret_under_way",
                StatusCode::SERVICE_UNAVAILABLE,
                "the endpoint is being registered or its secret rotated",
            ),
            Self::UnknownEndpoint => ("unknown_endpoint", StatusCode::NOT_FOUND, "no such endpoint"),
            Self::NoSuchPath => (
                "no_such_path",
                StatusCode::NOT_FOUND,
                "deliveries go to /webhooks/{endpoint}, callbacks to /callbacks/{endpoint}/{token}",
            ),
            Self::MethodNotAllowed => (
                "method_not_allowed",
                StatusCode::METHOD_NOT_ALLOWED,
                "deliveries are POST requests",
            ),
            Self::BodyTooLarge => (
                "body_too_large",
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body is larger than 1 MiB",
            ),
            Self::BodyTooSlow => (
                "body_too_slow",
                StatusCode::REQUEST_TIMEOUT,
                "the body took longer than 4 s",
            ),
            Self::BodyBroken => ("body_broken", StatusCode::BAD_REQUEST, "the body broke off"),
            Self::TooManyInFlight => (
                "too_many_in_flight",
                StatusCode::TOO_MANY_REQUESTS,
                "too many deliveries at once",
            ),
            Self::TooManyFailures => (
                "too_many_failures",
                StatusCode::TOO_MANY_REQUESTS,
                "too many deliveries from this address have failed",
            ),
            Self::DiskFull => (
                "disk_full",
                StatusCode::SERVICE_UNAVAILABLE,
                "events cannot be stored",
            ),
            Self::LogClosed => (
                "log_closed",
                StatusCode::SERVICE_UNAVAILABLE,
                "events cannot be stored",
            ),
            Self::LogLocked => (
                "log_locked",
                StatusCode::SERVICE_UNAVAILABLE,
                "events cannot be stored",
            ),
            Self::LogUnreachable => (
                "log_unreachable",
                StatusCode::SERVICE_UNAVAILABLE,
                "events cannot be stored",
            ),
            Self::LogTooSlow => (
                "log_too_slow",
                StatusCode::SERVICE_UNAVAILABLE,
                "events cannot be stored in time",
            ),
            Self::Draining => ("draining", StatusCode::SERVICE_UNAVAILABLE, "shutting down"),
        }
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::TooLarge => Self::BodyTooLarge,
            Refusal::TooSlow => Self::BodyTooSlow,
            Refusal::Broken => Self::BodyBroken,
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let (_, status, text) = self.row();
        let mut response = (status, text).into_response();
        if matches!(
            status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        ) {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER.as_secs()));
        }
        response
    }
}
