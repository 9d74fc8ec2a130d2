//! What HeyGen gets to hear. Claims about the table of answers and about bad deliveries.

use std::time::{Duration, Instant};

use hookstream::grpc::proto::DecodeStatus;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::harness::{Hookstream, begin_delivery, body, until};

const SECRET: &str = "whsec_test_only_k7x9m2";
const A: &str = r#"{"event_type":"avatar_video.success","event_data":{"video_id":"vid_xyz789","url":"https://files.heygen.ai/video/vid_xyz789.mp4","gif_download_url":null,"video_page_url":"https://app.heygen.com/videos/vid_xyz789","video_share_page_url":null,"folder_id":"","callback_id":"order_12345","callback_url":null}}"#;
const SIGNATURE_OF_A: &str = "57059ecdd1eb1ad61306363dffcae0e0817f9139d8b267528d47cfbeb796d86f";

async fn with_known_secret(service: &Hookstream, name: &str, secret: &str) -> crate::harness::Sender {
    use hookstream::grpc::proto::manage_endpoint_request::{Create, Operation};
    let create = Create {
        name: name.into(),
        secret: secret.into(),
        ..Create::default()
    };
    crate::harness::manage(&mut service.client().await, Operation::Create(create))
        .await
        .unwrap();
    service.sender(name, secret)
}

#[tokio::test]
async fn takes_every_known_vector_in_every_form_of_header() {
    let service = Hookstream::start();
    let sender = with_known_secret(&service, "a", SECRET).await;
    let c = r#"{"event_id":"evt_abc123","event_type":"avatar_video.fail","event_data":{"video_id":"vid_xyz789","msg":"rendering timed out","callback_id":null},"created_at":"2026-03-25T12:05:00Z"}"#;
    let e = r#"{"event_type":"avatar_video.fail","event_data":{"video_id":"v1","msg":"Échec — 失敗","callback_id":null}}"#;
    let vectors = [
        (A.to_owned(), SIGNATURE_OF_A),
        (
            format!("{A}\n"),
            "defb6a37f058a1a00c3c043b7aad9937921e429fc70fdfe581b25417f9c0b567",
        ),
        (
            c.to_owned(),
            "83eb32476c823c04a2daaa4df4e452a67032155c7b0adcf0b7ba96b14c53893f",
        ),
        (
            String::new(),
            "0101819b52441eeea3226b86940fb3424d049098eb61c435adf9e4b01cc22c14",
        ),
        (
            e.to_owned(),
            "d55e7bea6d13f61443b4c6c5d77d477d37d7223c52fc2ab0c49f13638a722a01",
        ),
    ];
    for (body, signature) in &vectors {
        let (upper, prefixed) = (signature.to_uppercase(), format!("sha256={signature}"));
        for headers in [
            vec![("Signature", *signature)],
            vec![("heygen-signature", signature)],
            vec![("HEYGEN-SIGNATURE", &upper)],
            vec![("signature", &prefixed)],
            vec![("Signature", "garbage"), ("Heygen-Signature", signature)],
            vec![("Signature", "garbage"), ("Signature", signature)],
        ] {
            assert_eq!(
                sender.post(body.clone(), &headers).await.unwrap(),
                200,
                "{headers:?} {body}"
            );
        }
    }
    assert_eq!(service.stored().await.len(), vectors.len());
    let other = with_known_secret(&service, "b", "whsec_-_--AAECAwQFBgcICQoLDA==").await;
    let signature = "1a6f42b472de53e4da58f651b3e6752db712dd8f860b0ffecacd2fd2e2a22aa2";
    assert_eq!(other.post(A, &[("Signature", signature)]).await.unwrap(), 200);
}

#[tokio::test]
async fn i2_refuses_every_forbidden_signature_with_one_text_and_stores_nothing() {
    let service = Hookstream::start();
    let sender = with_known_secret(&service, "a", SECRET).await;
    let forbidden = [
        "b3f43366907c3bbe8e3acd3b68f3636a90acc80081e6e546ebeed8cb522d12f8",
        "ae5bb24d4b3a140b1b41bfe521f439f8140fe47482a771ce3c3d4d21ff1c1ba3",
        "247186c754509ced06e9998ee5e9988904c5d65d6ab831e333f2a56e1e70172d",
        "7a8e51b95e91983240d7223f1443dcfc9632b861",
        "8bdd220e469f6999e1a1900a64725e3b0de3f8f3813b69115ae916bbaa270f36",
        "VwWezdHrGtYTBjY9/8rg4IF/kTnYsmdSjUfPvreW2G8=",
        "",
        "57059ecdd1eb1ad61306363dffcae0e0817f9139d8b267528d47cfbeb796d86",
        "57059ecdd1eb1ad61306363dffcae0e0817f9139d8b267528d47cfbeb796d86f57059ecdd1eb1ad61306363dffcae0e0",
    ];
    let mut answers = Vec::new();
    let mut refuse = async |body: String, headers: Vec<(&str, &str)>| {
        let mut request = sender.http.post(&sender.url).body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 401);
        answers.push(response.text().await.unwrap());
    };
    refuse(A.to_owned(), vec![]).await;
    refuse(A.replace(":", ": "), vec![("Signature", SIGNATURE_OF_A)]).await;
    refuse(A.to_owned(), vec![("X-HeyGen-Signature", SIGNATURE_OF_A)]).await;
    for signature in forbidden {
        refuse(A.to_owned(), vec![("Signature", signature)]).await;
        refuse(A.to_owned(), vec![("Heygen-Signature", signature)]).await;
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(service.stored().await.is_empty());
    assert!(
        service
            .metric(r#"hookstream_deliveries_total{outcome="unverified"}"#)
            .await
            > 20.0
    );
}

#[tokio::test]
async fn answers_a_reachability_probe_at_once_also_for_a_name_it_does_not_know() {
    let service = Hookstream::start();
    let http = service.sender("not-yet", "x").http;
    for path in ["/webhooks/not-yet", "/webhooks/also-not"] {
        for method in ["OPTIONS", "GET", "HEAD"] {
            let url = format!("http://{}{path}", service.ingress);
            let started = Instant::now();
            let response = http.request(method.parse().unwrap(), url).send().await.unwrap();
            assert_eq!(response.status(), 200, "{method}");
            assert!(started.elapsed() < Duration::from_secs(1), "{method}");
        }
    }
}

#[tokio::test]
async fn names_what_it_does_not_serve() {
    let service = Hookstream::start();
    let sender = service.sender("nobody", "x");
    assert_eq!(sender.deliver("{}").await, 404);
    for name in ["Nobody", "-x", "a_b", "a%2Fb", &"a".repeat(64)] {
        assert_eq!(service.sender(name, "x").deliver("{}").await, 404, "{name}");
    }
    let put = sender.http.put(&sender.url).send().await.unwrap();
    assert_eq!(put.status(), 405);
    let elsewhere = sender
        .http
        .post(format!("http://{}/", service.ingress))
        .send()
        .await
        .unwrap();
    assert_eq!(elsewhere.status(), 404);
}

#[tokio::test]
async fn keeps_whatever_is_signed_and_says_what_it_could_read() {
    use DecodeStatus::*;
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let data =
        |data: &str| format!(r#"{{"event_type":"avatar_video.fail","event_data":{data}}}"#).into_bytes();
    let cases: Vec<(Vec<u8>, DecodeStatus)> = vec![
        (vec![], NotJson),
        ((0..=255).collect(), NotJson),
        (b"{\"event_type\":\"\xff\xfe\"}".to_vec(), NotJson),
        (b"[1,2]".to_vec(), NoEventType),
        (b"\"text\"".to_vec(), NoEventType),
        (br#"{"event_type":7}"#.to_vec(), NoEventType),
        (br#"{"event_type":"avatar_video.fail"}"#.to_vec(), NoEventData),
        (data("null"), NoEventData),
        (data(r#""text""#), NoEventData),
        (data(r#"{"video_id":9007199254740993}"#), Complete),
        (data(r#"{"video_id":[]}"#), Partial),
        (data(&format!(r#"{{"deep":{deep}}}"#)), TooDeep),
        (deep.clone().into_bytes(), NoEventType),
        (
            br#"{"event_type":"heygen.invents.this","event_data":{"x":1}}"#.to_vec(),
            UnknownType,
        ),
        (body("avatar_video.success", 1).into_bytes(), Complete),
    ];
    for (body, _) in &cases {
        assert_eq!(
            sender.deliver(body.clone()).await,
            200,
            "{:.60}",
            String::from_utf8_lossy(body)
        );
    }
    let stored = service.stored().await;
    assert_eq!(stored.len(), cases.len());
    for (event, (body, status)) in stored.iter().zip(&cases) {
        assert_eq!(event.raw_body, *body, "the exact bytes are kept");
        assert_eq!(
            event.decode_status(),
            *status,
            "{:.60}",
            String::from_utf8_lossy(body)
        );
    }
    assert_eq!(stored[9].entity_id, "9007199254740993");
    assert_eq!(stored[13].type_name, "heygen.invents.this");
}

#[tokio::test]
async fn takes_a_body_of_one_mebibyte_and_refuses_one_byte_more() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    let sized = |bytes: usize| {
        let frame = r#"{"event_type":"avatar_video.fail","event_data":{"msg":""}}"#.len();
        format!(
            r#"{{"event_type":"avatar_video.fail","event_data":{{"msg":"{}"}}}}"#,
            "x".repeat(bytes - frame)
        )
    };
    assert_eq!(sender.deliver(sized(1024 * 1024)).await, 200);
    assert_eq!(sender.deliver(sized(1024 * 1024 + 1)).await, 413);
    assert_eq!(sender.deliver(vec![b'x'; 16 * 1024 * 1024]).await, 413);
    let events = service.stored().await;
    assert_eq!(events.len(), 1);
    assert!(
        events[0].payload.is_some(),
        "the largest event arrives under gRPC's usual limit"
    );
}

#[tokio::test]
async fn ends_a_body_and_a_head_that_do_not_come() {
    let service = Hookstream::start();
    service.endpoint("dev").await;
    let mut slow_body = service.begin_delivery().await;
    let mut slow_head = TcpStream::connect(service.ingress).await.unwrap();
    slow_head
        .write_all(b"POST /webhooks/dev HTTP/1.1\r\nHo")
        .await
        .unwrap();
    let mut answer = String::new();
    slow_body.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(15), slow_head.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    let mut large_head = TcpStream::connect(service.ingress).await.unwrap();
    let head = format!(
        "POST /webhooks/dev HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "x".repeat(64 * 1024)
    );
    let _ = large_head.write_all(head.as_bytes()).await;
    let mut answer = String::new();
    let _ = large_head.read_to_string(&mut answer).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
}

#[tokio::test]
async fn refuses_more_deliveries_at_once_than_it_may_hold() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    // Each is begun again when its body's time is over: on a slow machine, the first may end before the last begins.
    let mut held = JoinSet::new();
    for _ in 0..1024 {
        let ingress = service.ingress;
        held.spawn(async move {
            loop {
                let mut delivery = begin_delivery(ingress).await;
                let _ = delivery.read_to_end(&mut Vec::new()).await;
            }
        });
    }
    let refused = async || {
        service.until_in_flight(1024.0).await;
        sender.deliver(body("avatar_video.success", 1)).await == 429
    };
    until("one more is refused", refused).await;
    held.shutdown().await;
    service.until_in_flight(0.0).await;
    assert_eq!(sender.deliver(body("avatar_video.success", 1)).await, 200);
}

/// gRPC answers with 200 whatever it says: to HeyGen that would be delivered.
#[tokio::test]
async fn a_delivery_that_comes_to_another_port_is_never_answered_with_2xx() {
    let service = Hookstream::start();
    let sender = with_known_secret(&service, "a", SECRET).await;
    for address in [service.grpc, service.admin] {
        for path in ["/webhooks/a", "/", "/hookstream.v1.HookstreamService/ListEvents"] {
            let elsewhere = crate::harness::Sender {
                url: format!("http://{address}{path}"),
                ..sender.clone()
            };
            let answer = elsewhere.deliver(A).await;
            assert!((400..500).contains(&answer), "{address}{path}: {answer}");
        }
    }
    assert!(service.stored().await.is_empty());
}
