//! Deliveries: bodies, their signatures, and a client that posts them at next to no cost, because it shares the cores with
//! what it measures.

use std::net::SocketAddr;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use hookstream::{
    event::NewEvent,
    secret::Secret,
    signature::{self, Key, Keyring, Presented},
};
use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Where deliveries go.
pub const ENDPOINT: &str = "bench";
/// What signs them.
pub const SECRET: &str = "whsec_test_only_k7x9m2";

/// The usual delivery, about 400 bytes; `number` makes it unlike every other. Receivers find the number in `event_id`.
pub fn body(number: usize) -> String {
    format!(
        r#"{{"event_id":"{number}","event_type":"avatar_video.success","event_data":{{"video_id":"vid_{number:010}","url":"https://files.heygen.ai/video/vid_{number:010}.mp4?Expires=1790000000","gif_download_url":null,"video_page_url":"https://app.heygen.com/videos/vid_{number:010}","video_share_page_url":null,"folder_id":"","callback_id":"order_{number:010}","callback_url":null}},"created_at":"2026-03-25T12:05:00Z"}}"#
    )
}

/// The HTTP request that delivers a body, signed.
pub fn request(body: &str) -> Bytes {
    let secret = Secret::new(SECRET.to_owned()).unwrap();
    let signature = HEXLOWER.encode(&signature::sign(&secret, body.as_bytes()));
    let length = body.len();
    let head = format!(
        "POST /webhooks/{ENDPOINT} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n\
         signature: {signature}\r\ncontent-length: {length}\r\n\r\n"
    );
    Bytes::from(head + body)
}

/// A kept-alive connection.
pub struct Connection {
    socket: TcpStream,
    answer: [u8; 1024],
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self {
            socket,
            answer: [0; 1024],
        }
    }

    /// Posts a request and reads its answer, which must be 200.
    pub async fn post(&mut self, request: &[u8]) {
        self.socket.write_all(request).await.unwrap();
        let mut length = 0;
        while !is_whole(&self.answer[..length]) {
            let read = self.socket.read(&mut self.answer[length..]).await.unwrap();
            assert_ne!(read, 0, "the connection was closed");
            length += read;
        }
        let answer = &self.answer[..length];
        assert!(
            answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(answer)
        );
    }
}

/// The answer to a GET.
pub async fn fetch(address: SocketAddr, path: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

fn is_whole(answer: &[u8]) -> bool {
    let text = std::str::from_utf8(answer).unwrap();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let (_, length) = head
        .split_once("content-length: ")
        .expect("an answer has a length");
    let digits = length.split("\r\n").next().unwrap_or(length);
    body.len() >= digits.parse::<usize>().unwrap()
}

/// Makes events of bodies without HTTP.
pub struct Verifier {
    secret: Secret,
    keyring: Keyring,
}

impl Verifier {
    /// One that accepts `SECRET`.
    pub fn new() -> Self {
        let secret = Secret::new(SECRET.to_owned()).unwrap();
        let key = Key {
            version: 1,
            secret: secret.clone(),
            since: Timestamp::UNIX_EPOCH,
            expires_at: None,
        };
        Self {
            secret,
            keyring: Keyring::new(vec![key]),
        }
    }

    /// The secrets.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// The event of a body that was signed and delivered.
    pub fn event(&self, body: String) -> NewEvent {
        let now = Timestamp::now();
        let body = Bytes::from(body);
        let signature = HEXLOWER.encode(&signature::sign(&self.secret, &body));
        let presented = [Presented {
            header_name: "signature",
            value: signature.as_bytes(),
        }];
        let delivery = self.keyring.verify(&presented, body, now).unwrap();
        NewEvent::from_delivery(ENDPOINT.parse().unwrap(), delivery, now)
    }
}
