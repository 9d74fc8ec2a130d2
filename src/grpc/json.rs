//! The interface as JSON, for shells and for languages without gRPC. Owns the translation; what is called is decided behind it.
//!
//! A call that has one answer is one of the [Connect protocol](https://connectrpc.com/docs/protocol#unary-request): its message
//! is posted as JSON to the method's path, and the answer is JSON. A stream is answered with one line of JSON for each of its
//! messages, or with server-sent events where those are accepted. JSON is that of Protocol Buffers, as reflection has it.

use std::{convert::Infallible, sync::LazyLock, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::{
        IntoResponse, Response,
        sse::{self, Sse},
    },
};
use data_encoding::BASE64_NOPAD;
use futures_util::StreamExt;
use http::{
    HeaderMap, StatusCode,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE},
    uri::PathAndQuery,
};
use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, MethodDescriptor,
};
use serde_json::{Value, json};
use tonic::{
    Code, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
};

use super::{proto, status::Refusal};
use crate::limits;

const JSON: &str = "application/json";
/// How long a client waits, in milliseconds, as Connect has it.
const TIMEOUT: &str = "connect-timeout-ms";

/// Whether a request is a call in JSON.
pub(super) fn is_call(request: &Request) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(JSON.as_bytes()))
        && method(request.uri().path()).is_some()
}

/// Carries out calls in JSON with the router behind it; all others do not notice.
pub(super) async fn translate(State(router): State<Router>, request: Request, next: Next) -> Response {
    match method(request.uri().path()) {
        Some(method) if is_call(&request) => {
            let answer = call(method, router, request).await;
            answer.unwrap_or_else(|status| refused(&status))
        }
        _ => next.run(request).await,
    }
}

fn method(path: &str) -> Option<MethodDescriptor> {
    static POOL: LazyLock<Option<DescriptorPool>> =
        LazyLock::new(|| DescriptorPool::decode(proto::DESCRIPTORS).ok());
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let service = POOL.as_ref()?.get_service_by_name(service)?;
    service.methods().find(|known| known.name() == method)
}

async fn call(method: MethodDescriptor, router: Router, request: Request) -> Result<Response, Status> {
    let (mut parts, body) = request.into_parts();
    let as_events = accepts_events(&parts.headers);
    let timeout = parts.headers.remove(TIMEOUT);
    // That of the JSON.
    parts.headers.remove(CONTENT_LENGTH);
    let read = axum::body::to_bytes(body, limits::REQUEST_BYTES_MAX);
    let read = tokio::time::timeout(limits::REQUEST_READ_TIMEOUT, read).await;
    let text = read
        .map_err(|_| Status::from(Refusal::CallTooSlow))?
        .map_err(|_| {
            Status::out_of_range(format!(
                "the message is larger than {} bytes",
                limits::REQUEST_BYTES_MAX
            ))
        })?;
    let message = message(method.input(), &text)?;
    let headers = MetadataMap::from_headers(parts.headers);
    let mut asked = tonic::Request::from_parts(headers, parts.extensions, message);
    if let Some(timeout) = timeout {
        let ms = timeout.to_str().ok().and_then(|ms| ms.parse().ok());
        let ms = ms.ok_or_else(|| Status::invalid_argument(format!("{TIMEOUT} is not a number")))?;
        asked.set_timeout(Duration::from_millis(ms));
    }
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let path = PathAndQuery::try_from(path).map_err(|error| Status::internal(error.to_string()))?;
    // Its answers are bounded where they are made.
    let mut client = Grpc::new(router).max_decoding_message_size(usize::MAX);
    let codec = Reflected(method.output());
    if !method.is_server_streaming() {
        let answer = client.unary(asked, path, codec).await?;
        return Ok(([(CONTENT_TYPE, JSON)], line(answer.get_ref())).into_response());
    }
    let answers = client.server_streaming(asked, path, codec).await?.into_inner();
    Ok(if as_events {
        events(answers)
    } else {
        lines(answers)
    })
}

fn accepts_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|accepted| accepted.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("text/event-stream"))
}

/// A message, of which a call without a body has the defaults.
fn message(descriptor: MessageDescriptor, text: &[u8]) -> Result<DynamicMessage, Status> {
    if text.is_empty() {
        return Ok(DynamicMessage::new(descriptor));
    }
    let name = descriptor.name().to_owned();
    let mut reader = serde_json::Deserializer::from_slice(text);
    DynamicMessage::deserialize_with_options(descriptor, &mut reader, &DeserializeOptions::new())
        .and_then(|message| reader.end().map(|()| message))
        .map_err(|error| Status::invalid_argument(format!("the body is not a {name} in JSON: {error}")))
}

fn line(message: &DynamicMessage) -> String {
    // It was read as what it is, so there is nothing that JSON could not say.
    serde_json::to_string(message).unwrap_or_default()
}

type Answers = tonic::Streaming<DynamicMessage>;

fn lines(answers: Answers) -> Response {
    let lines = answers.map(|answer| {
        let mut line = answer.map_or_else(
            |status| json!({ "error": error(&status) }).to_string(),
            |message| line(&message),
        );
        line.push('\n');
        Ok::<_, Infallible>(line)
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

fn events(answers: Answers) -> Response {
    let events = answers.map(|answer| {
        Ok::<_, Infallible>(match answer {
            Ok(message) => sse::Event::default().data(line(&message)),
            Err(status) => sse::Event::default()
                .event("error")
                .data(error(&status).to_string()),
        })
    });
    Sse::new(events).into_response()
}

fn refused(status: &Status) -> Response {
    let body = error(status).to_string();
    (row(status.code()).1, [(CONTENT_TYPE, JSON)], body).into_response()
}

/// An error as [Connect](https://connectrpc.com/docs/protocol#error-end-stream) has it.
fn error(status: &Status) -> Value {
    static POOL: LazyLock<Option<DescriptorPool>> =
        LazyLock::new(|| DescriptorPool::decode(tonic_types::pb::FILE_DESCRIPTOR_SET).ok());
    let rpc = tonic_types::Status::decode(status.details()).unwrap_or_default();
    let details = rpc.details.iter().map(|detail| {
        let name = detail.type_url.rsplit('/').next().unwrap_or_default();
        let known = POOL.as_ref().and_then(|pool| pool.get_message_by_name(name));
        let debug = known.and_then(|known| DynamicMessage::decode(known, &*detail.value).ok());
        json!({ "type": name, "value": BASE64_NOPAD.encode(&detail.value), "debug": debug })
    });
    let details: Vec<_> = details.collect();
    json!({ "code": row(status.code()).0, "message": status.message(), "details": details })
}

/// What Connect calls a code, and [its HTTP status](https://connectrpc.com/docs/protocol#error-codes).
fn row(code: Code) -> (&'static str, StatusCode) {
    match code {
        Code::Ok => ("ok", StatusCode::OK),
        Code::Cancelled => (
            "canceled",
            StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        ),
        Code::Unknown => ("unknown", StatusCode::INTERNAL_SERVER_ERROR),
        Code::InvalidArgument => ("invalid_argument", StatusCode::BAD_REQUEST),
        Code::DeadlineExceeded => ("deadline_exceeded", StatusCode::GATEWAY_TIMEOUT),
        Code::NotFound => ("not_found", StatusCode::NOT_FOUND),
        Code::AlreadyExists => ("already_exists", StatusCode::CONFLICT),
        Code::PermissionDenied => ("permission_denied", StatusCode::FORBIDDEN),
        Code::ResourceExhausted => ("resource_exhausted", StatusCode::TOO_MANY_REQUESTS),
        Code::FailedPrecondition => ("failed_precondition", StatusCode::BAD_REQUEST),
        Code::Aborted => ("aborted", StatusCode::CONFLICT),
        Code::OutOfRange => ("out_of_range", StatusCode::BAD_REQUEST),
        Code::Unimplemented => ("unimplemented", StatusCode::NOT_IMPLEMENTED),
        Code::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR),
        Code::Unavailable => ("unavailable", StatusCode::SERVICE_UNAVAILABLE),
        Code::DataLoss => ("data_loss", StatusCode::INTERNAL_SERVER_ERROR),
        Code::Unauthenticated => ("unauthenticated", StatusCode::UNAUTHORIZED),
    }
}

/// Messages of which only the descriptor is known: that of the answers.
#[derive(Clone, Debug)]
struct Reflected(MessageDescriptor);

impl Codec for Reflected {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Reflected {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let encoded = message.encode(buffer);
        encoded.map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Reflected {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let decoded = DynamicMessage::decode(self.0.clone(), buffer);
        decoded
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}
