//! What a call is answered with. Owns the shape of successes and errors and the table of error codes; refuses to know the
//! calls.

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

/// An answer to a call.
#[derive(Clone, Debug)]
pub struct Answer {
    status: StatusCode,
    content_type: &'static str,
    retry_after_seconds: Option<u32>,
    body: Bytes,
}

/// A call that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The status of the answer.
    pub status: StatusCode,
    /// What is wrong.
    pub message: String,
    /// The parameter that is at fault.
    pub param: Option<String>,
}

impl Refusal {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            param: None,
        }
    }

    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            message: message.into(),
            param: Some(param.to_owned()),
        }
    }

    pub fn no_such_endpoint() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is no such webhook endpoint")
    }
}

impl Answer {
    pub fn success(body: &Value) -> Self {
        Self::json(StatusCode::OK, body)
    }

    /// A failure of the server, with this status.
    pub fn failure(status: StatusCode) -> Self {
        Refusal::new(status, status.canonical_reason().unwrap_or("failed")).into()
    }

    pub fn rate_limited(retry_after_seconds: u32) -> Self {
        Self {
            retry_after_seconds: Some(retry_after_seconds),
            ..Self::failure(StatusCode::TOO_MANY_REQUESTS)
        }
    }

    /// What a proxy says when it does not reach the API.
    pub fn bad_gateway() -> Self {
        Self {
            status: StatusCode::BAD_GATEWAY,
            content_type: "text/html",
            retry_after_seconds: None,
            body: Bytes::from_static(b"<html><body><h1>502 Bad Gateway</h1></body></html>"),
        }
    }

    fn json(status: StatusCode, body: &Value) -> Self {
        Self {
            status,
            content_type: "application/json",
            retry_after_seconds: None,
            body: body.to_string().into(),
        }
    }

    /// The answer as HTTP has it.
    pub fn into_response(self, request_id: &str) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static(self.content_type),
        );
        if let Ok(request_id) = request_id.parse() {
            headers.insert("x-request-id", request_id);
        }
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let error = json!({
            "code": code(refusal.status), "message": refusal.message, "param": refusal.param, "doc_url": null,
        });
        Self::json(refusal.status, &json!({"error": error}))
    }
}

impl From<Result<Value, Refusal>> for Answer {
    fn from(result: Result<Value, Refusal>) -> Self {
        match result {
            Ok(body) => Self::success(&body),
            Err(refusal) => refusal.into(),
        }
    }
}

/// The code of a status. HeyGen publishes none for the statuses that are not listed.
fn code(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "invalid_parameter",
        401 => "authentication_failed",
        404 => "not_found",
        409 => "request_in_progress",
        429 => "rate_limit_exceeded",
        500 => "internal_error",
        _ => "undocumented",
    }
}
