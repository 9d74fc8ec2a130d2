//! Browsers: the interface over gRPC-Web, and which pages may use it.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use data_encoding::BASE64_NOPAD;
use hookstream::grpc::proto::{
    ListEventTypesResponse, SubscribeEventsRequest, SubscribeEventsResponse, subscribe_events_response::Frame,
};
use prost::Message;
use reqwest::{Method, RequestBuilder, Response};

use crate::harness::{Hookstream, body, from_start, http};

const PAGE: &str = "https://app.example.com";

/// What a browser sends for a call.
fn call(address: SocketAddr, name: &str, message: &impl Message) -> RequestBuilder {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap();
    let framed = [&[0], &length.to_be_bytes()[..], &message].concat();
    http()
        .post(format!("http://{address}/hookstream.v1.HookstreamService/{name}"))
        .header("content-type", "application/grpc-web+proto")
        .header("x-grpc-web", "1")
        .body(framed)
}

/// The frames of an answer as they come: messages, and trailers as text.
struct Answer {
    response: Response,
    received: Vec<u8>,
}

impl Answer {
    async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/grpc-web+proto");
        Self {
            response,
            received: Vec::new(),
        }
    }

    async fn next(&mut self) -> (u8, Vec<u8>) {
        loop {
            if let Some((head, rest)) = self.received.split_first_chunk::<5>() {
                let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
                if rest.len() >= length {
                    let frame = (head[0], rest[..length].to_vec());
                    self.received.drain(..5 + length);
                    return frame;
                }
            }
            let chunk = self.response.chunk().await.unwrap().expect("another frame");
            self.received.extend_from_slice(&chunk);
        }
    }

    async fn message<M: Message + Default>(&mut self) -> M {
        let (flag, bytes) = self.next().await;
        assert_eq!(flag, 0, "no message: {}", String::from_utf8_lossy(&bytes));
        M::decode(&*bytes).unwrap()
    }

    async fn trailers(&mut self) -> String {
        let (flag, bytes) = self.next().await;
        assert_eq!(flag, 0x80);
        String::from_utf8(bytes).unwrap()
    }
}

#[tokio::test]
async fn a_page_calls_on_the_grpc_listener_and_on_the_admin_listener() {
    let service = Hookstream::start();
    for address in [service.grpc, service.admin] {
        let mut answer = Answer::of(call(address, "ListEventTypes", &())).await;
        let types: ListEventTypesResponse = answer.message().await;
        assert_eq!(types.event_types.len(), 30);
        assert!(answer.trailers().await.contains("grpc-status:0"));
    }
}

#[tokio::test]
async fn a_page_receives_events_as_they_come() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    for address in [service.grpc, service.admin] {
        let request = SubscribeEventsRequest {
            start: None,
            ..from_start()
        };
        let mut stream = Answer::of(call(address, "SubscribeEvents", &request)).await;
        let said: SubscribeEventsResponse = stream.message().await;
        assert!(matches!(said.frame, Some(Frame::CaughtUp(_))), "{said:?}");
        let sent = body("avatar_video.success", address.port().into());
        assert_eq!(sender.deliver(sent.clone()).await, 200);
        let said: SubscribeEventsResponse = stream.message().await;
        let Some(Frame::Event(event)) = said.frame else {
            panic!("no event: {said:?}")
        };
        assert_eq!(event.raw_body, sent.as_bytes());
    }
}

#[tokio::test]
async fn a_refusal_reaches_a_page_with_its_reason() {
    let service = Hookstream::start();
    let request = SubscribeEventsRequest {
        subscription: "none".into(),
        ..SubscribeEventsRequest::default()
    };
    let answer = call(service.admin, "SubscribeEvents", &request)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["grpc-status"], "5");
    let details = &answer.headers()["grpc-status-details-bin"];
    let details = BASE64_NOPAD.decode(details.as_bytes()).unwrap();
    let details = String::from_utf8_lossy(&details);
    assert!(details.contains("SUBSCRIPTION_NOT_FOUND"), "{details}");
}

#[tokio::test]
async fn a_page_of_another_origin_calls_only_if_it_is_allowed() {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let service = Hookstream::start_in(directory, &["--allowed-origins", PAGE], &HashMap::new());
    let preflight = |origin: &str| {
        let url = format!(
            "http://{}/hookstream.v1.HookstreamService/ListEventTypes",
            service.grpc
        );
        http()
            .request(Method::OPTIONS, url)
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "content-type,x-grpc-web,authorization",
            )
            .send()
    };
    let allowed = preflight(PAGE).await.unwrap();
    assert_eq!(allowed.headers()["access-control-allow-origin"], PAGE);
    let other = preflight("https://other.example.com").await.unwrap();
    assert!(!other.headers().contains_key("access-control-allow-origin"));

    let called = |origin| {
        call(service.grpc, "ListEventTypes", &())
            .header("origin", origin)
            .send()
    };
    let answer = called(PAGE).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["access-control-allow-origin"], PAGE);
    let exposed = answer.headers()["access-control-expose-headers"]
        .to_str()
        .unwrap();
    assert!(exposed.contains("grpc-status-details-bin"), "{exposed}");
    let refused = called("https://other.example.com").await.unwrap();
    assert_eq!(refused.status(), 403);
    assert!(refused.text().await.unwrap().contains("--allowed-origins"));
    let unaware = service
        .client()
        .await
        .list_event_types(hookstream::grpc::proto::ListEventTypesRequest {})
        .await;
    assert_eq!(unaware.unwrap().into_inner().event_types.len(), 30);
}

#[tokio::test]
async fn the_console_is_served_beside_the_interface_and_may_load_nothing_from_elsewhere() {
    let service = Hookstream::start();
    let ask = |path: &str, known: &str| {
        let url = format!("http://{}{path}", service.admin);
        http().get(url).header("if-none-match", known).send()
    };
    let page = ask("/", "").await.unwrap();
    assert_eq!(page.status(), 200);
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(
        policy.contains("default-src 'self'") && policy.contains("frame-ancestors 'none'"),
        "{policy}"
    );
    let tag = page.headers()["etag"].to_str().unwrap().to_owned();
    let text = page.text().await.unwrap();
    for path in ["/console.js", "/console.css", "/icon.svg"] {
        assert!(text.contains(path), "the page does not name {path}");
        assert_eq!(ask(path, "").await.unwrap().status(), 200);
    }
    assert_eq!(ask("/", &tag).await.unwrap().status(), 304);
    assert_eq!(ask("/nothing", "").await.unwrap().status(), 404);
}
