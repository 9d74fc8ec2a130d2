//! The interface as JSON, for shells and for languages without gRPC. Owns the translation; what is called is decided behind it.
//!
//! Calls are those of the [Connect protocol](https://connectrpc.com/docs/protocol) in its JSON form: a message is posted to the
//! method's path. A stream can be asked for in the same simple way, and is then a line of JSON for each of its messages, or
//! server-sent events where those are accepted. JSON is that of Protocol Buffers, as reflection has it.

use std::{convert::Infallible, sync::LazyLock};

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
use bytes::{BufMut, Bytes, BytesMut};
use data_encoding::BASE64_NOPAD;
use futures_util::{StreamExt, stream};
use http::{
    HeaderMap, StatusCode,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE},
    uri::PathAndQuery,
};
use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions,
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
const LINES: &str = "application/x-ndjson";
/// A stream of Connect's: each message has an envelope of a byte of flags and four of its length.
const ENVELOPED: &str = "application/connect+json";
const ENVELOPE_BYTES: usize = 5;
const END_OF_STREAM: u8 = 2;
/// What only clients of Connect's send.
const VERSION: &str = "connect-protocol-version";

/// Whether a request is a call in JSON.
pub(super) fn is_call(request: &Request) -> bool {
    called(request).is_some()
}

/// The method that a request in JSON calls; `None` for every other request.
fn called(request: &Request) -> Option<MethodDescriptor> {
    let content_type = request.headers().get(CONTENT_TYPE)?.as_bytes();
    let is = |json: &str| content_type.starts_with(json.as_bytes());
    if !is(JSON) && !is(ENVELOPED) {
        return None;
    }
    method(request.uri().path()).filter(|method| is(JSON) || method.is_server_streaming())
}

/// How a stream is answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Lines,
    Events,
    Enveloped,
}

impl Form {
    fn asked(headers: &HeaderMap) -> Self {
        let has = |name, part: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.is_some_and(|value| value.contains(part))
        };
        if has(CONTENT_TYPE, ENVELOPED) {
            Self::Enveloped
        } else if has(ACCEPT, "text/event-stream") {
            Self::Events
        } else {
            Self::Lines
        }
    }
}

/// Carries out calls in JSON with the router behind it; all others do not notice.
pub(super) async fn translate(State(router): State<Router>, request: Request, next: Next) -> Response {
    let Some(method) = called(&request) else {
        return next.run(request).await;
    };
    let form = Form::asked(request.headers());
    let answer = call(method, form, router, request).await;
    answer.unwrap_or_else(|status| refused(&status, form))
}

fn method(path: &str) -> Option<MethodDescriptor> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let service = proto::pool()?.get_service_by_name(service)?;
    service.methods().find(|known| known.name() == method)
}

async fn call(
    method: MethodDescriptor,
    form: Form,
    router: Router,
    request: Request,
) -> Result<Response, Status> {
    let (mut parts, body) = request.into_parts();
    let reader = if parts.headers.contains_key(VERSION) {
        Reader::Stubs
    } else {
        Reader::Any
    };
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
    let text = match form {
        Form::Enveloped => unwrapped(&text)?,
        Form::Lines | Form::Events => &text,
    };
    let message = message(method.input(), text)?;
    let headers = MetadataMap::from_headers(parts.headers);
    let asked = tonic::Request::from_parts(headers, parts.extensions, message);
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let path = PathAndQuery::try_from(path).map_err(|error| Status::internal(error.to_string()))?;
    // Its answers are bounded where they are made.
    let mut client = Grpc::new(router).max_decoding_message_size(usize::MAX);
    let codec = Reflected(method.output());
    if !method.is_server_streaming() {
        let answer = client.unary(asked, path, codec).await?;
        return Ok(([(CONTENT_TYPE, JSON)], line(answer.get_ref(), reader)?).into_response());
    }
    let answers = client.server_streaming(asked, path, codec).await?.into_inner();
    Ok(match form {
        Form::Lines => lines(answers),
        Form::Events => events(answers),
        Form::Enveloped => enveloped(answers),
    })
}

/// The one message of a request.
fn unwrapped(text: &[u8]) -> Result<&[u8], Status> {
    let bad = || Status::invalid_argument("the body is not one enveloped message without compression");
    let (head, message) = text.split_first_chunk::<ENVELOPE_BYTES>().ok_or_else(bad)?;
    let [flags, length @ ..] = *head;
    let is_whole = flags == 0 && usize::try_from(u32::from_be_bytes(length)) == Ok(message.len());
    is_whole.then_some(message).ok_or_else(bad)
}

fn wrapped(flags: u8, text: &str) -> Bytes {
    let mut message = BytesMut::with_capacity(ENVELOPE_BYTES + text.len());
    message.put_u8(flags);
    // Answers are far shorter than 4 GiB.
    message.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    message.put_slice(text.as_bytes());
    message.freeze()
}

fn last_envelope(status: Option<&Status>) -> Bytes {
    let end = status.map_or_else(|| json!({}), |status| json!({ "error": error(status) }));
    wrapped(END_OF_STREAM, &end.to_string())
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

/// Who reads an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// A person, or a program that looks at fields: values of enums have their names.
    Any,
    /// A client of Connect's, with stubs that may be older than a value and so not know its name.
    Stubs,
}

fn line(message: &DynamicMessage, reader: Reader) -> Result<String, Status> {
    let options = SerializeOptions::new().use_enum_numbers(reader == Reader::Stubs);
    let mut text = Vec::new();
    message
        .serialize_with_options(&mut serde_json::Serializer::new(&mut text), &options)
        .map_err(|error| Status::internal(format!("the answer cannot be said in JSON: {error}")))?;
    String::from_utf8(text).map_err(|error| Status::internal(error.to_string()))
}

type Answers = tonic::Streaming<DynamicMessage>;

fn lines(answers: Answers) -> Response {
    let lines = answers.map(|answer| {
        let line = answer.and_then(|message| line(&message, Reader::Any));
        let mut line = line.unwrap_or_else(|status| json!({ "error": error(&status) }).to_string());
        line.push('\n');
        Ok::<_, Infallible>(line)
    });
    ([(CONTENT_TYPE, LINES)], Body::from_stream(lines)).into_response()
}

fn events(answers: Answers) -> Response {
    let events = answers.map(|answer| {
        let event = sse::Event::default();
        Ok::<_, Infallible>(match answer.and_then(|message| line(&message, Reader::Any)) {
            Ok(line) => event.data(line),
            Err(status) => event.event("error").data(error(&status).to_string()),
        })
    });
    Sse::new(events).into_response()
}

fn enveloped(answers: Answers) -> Response {
    let envelopes = stream::unfold(Some(answers), async |answers| {
        let mut answers = answers?;
        let answer = answers.message().await;
        let line =
            answer.and_then(|message| message.map(|message| line(&message, Reader::Stubs)).transpose());
        Some(match line {
            Ok(Some(line)) => (wrapped(0, &line), Some(answers)),
            Ok(None) => (last_envelope(None), None),
            Err(status) => (last_envelope(Some(&status)), None),
        })
    });
    let envelopes = envelopes.map(Ok::<_, Infallible>);
    ([(CONTENT_TYPE, ENVELOPED)], Body::from_stream(envelopes)).into_response()
}

fn refused(status: &Status, form: Form) -> Response {
    if form == Form::Enveloped {
        return ([(CONTENT_TYPE, ENVELOPED)], last_envelope(Some(status))).into_response();
    }
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
