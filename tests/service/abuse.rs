//! Those who would wear the service down. Claims about floods, slow senders and silent connections, and about everybody
//! else meanwhile.

use std::{collections::HashMap, convert::Infallible, sync::Arc};

use bytes::Bytes;
use futures_util::{future::join_all, stream};
use hookstream::grpc::proto::GetEventRequest;
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Status};
use tower::ServiceExt;

use crate::harness::{Hookstream, PATIENCE, Sender, body, until};

const ATTACKER: &str = "198.51.100.1";
const HEYGEN: &str = "203.0.113.7";
/// The failures that an address may send at once; from here on it may be refused.
const FAILURES_BURST: u64 = 100;

/// A service behind a reverse proxy, which these tests are.
fn behind_proxy() -> Hookstream {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    Hookstream::start_in(directory, &["--trusted-proxies", "127.0.0.1"], &HashMap::new())
}

async fn deliver_from(sender: &Sender, address: &str, signature: &str, number: u64) -> u16 {
    let headers = [("X-Forwarded-For", address), ("Signature", signature)];
    sender
        .post(body("avatar_video.success", number), &headers)
        .await
        .unwrap()
}

async fn deliver_signed_from(sender: &Sender, address: &str, number: u64) -> u16 {
    let signature = sender.sign(body("avatar_video.success", number).as_bytes());
    deliver_from(sender, address, &signature, number).await
}

#[tokio::test]
async fn an_address_that_fails_too_often_is_refused_and_no_other_is() {
    let service = behind_proxy();
    let sender = service.endpoint("dev").await;
    assert_eq!(deliver_signed_from(&sender, HEYGEN, 1).await, 200);
    for _ in 0..FAILURES_BURST {
        assert_eq!(deliver_from(&sender, ATTACKER, "00", 2).await, 401);
    }
    let refused = async || deliver_from(&sender, ATTACKER, "00", 2).await == 429;
    until("the attacker is refused", refused).await;
    let unverified = r#"hookstream_endpoint_unverified_deliveries_total{endpoint="dev"}"#;
    assert!(service.metric(unverified).await >= 100.0);
    assert_eq!(deliver_signed_from(&sender, HEYGEN, 3).await, 200);
    assert_eq!(deliver_signed_from(&sender, "203.0.113.8", 4).await, 200);
    // What comes through a proxy of the attacker's own is what the attacker says.
    let claimed = format!("{HEYGEN}, {ATTACKER}");
    let refused = async || deliver_from(&sender, &claimed, "00", 2).await == 429;
    until("the attacker is refused whatever it claims", refused).await;
}

#[tokio::test]
async fn an_address_that_delivered_what_verifies_is_not_refused_for_what_its_neighbours_send() {
    let service = behind_proxy();
    let sender = service.endpoint("dev").await;
    assert_eq!(deliver_signed_from(&sender, HEYGEN, 1).await, 200);
    for _ in 0..3 * FAILURES_BURST {
        assert_eq!(deliver_from(&sender, HEYGEN, "00", 2).await, 401);
    }
    assert_eq!(deliver_signed_from(&sender, HEYGEN, 3).await, 200);
}

#[tokio::test]
async fn a_forwarded_address_is_not_believed_of_anybody_who_is_no_trusted_proxy() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    for _ in 0..3 * FAILURES_BURST {
        assert_eq!(deliver_from(&sender, ATTACKER, "00", 1).await, 401);
    }
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_ended_by_every_listener_and_hinders_nobody() {
    const BEGINNINGS: [&str; 2] = ["", "PRI * HTTP/2.0"];
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    let listeners = [
        ("ingress", service.ingress),
        ("grpc", service.grpc),
        ("admin", service.admin),
    ];
    let connections = listeners
        .iter()
        .flat_map(|&(_, address)| BEGINNINGS.map(|beginning| (address, beginning)));
    let ends = connections.map(async |(address, beginning)| {
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(beginning.as_bytes()).await.unwrap();
        let mut byte = [0];
        // Ended in order, or reset because of what was not read.
        let end = tokio::time::timeout(PATIENCE, connection.read(&mut byte))
            .await
            .unwrap();
        assert!(matches!(end, Ok(0) | Err(_)), "{address} {beginning:?} {end:?}");
    });
    let (_, delivered) = tokio::join!(join_all(ends), sender.deliver(body("avatar_video.success", 1)));
    assert_eq!(delivered, 200);
    for (name, _) in listeners {
        let silent = format!(r#"hookstream_connections_refused_total{{listener="{name}",reason="silent"}}"#);
        until(&silent, async || service.metric(&silent).await == 2.0).await;
    }
}

#[tokio::test]
async fn a_request_message_that_does_not_come_ends_its_call() {
    let service = Hookstream::start();
    let nothing = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
    let url = format!("http://{}/hookstream.v1.HookstreamService/GetEvent", service.grpc);
    let request = http::Request::post(url)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(nothing))
        .unwrap();
    let answer = service.channel().await.oneshot(request);
    let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
    let status = Status::from_header_map(answer.headers()).unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
}

#[tokio::test]
async fn a_request_message_that_is_too_large_is_refused() {
    let service = Hookstream::start();
    let request = GetEventRequest {
        id: "x".repeat(300 * 1024),
    };
    let refused = service.client().await.get_event(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
}
