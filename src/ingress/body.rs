//! Reads a delivery's body within its limits of size and time. Owns nothing else.

use axum::{
    body::Body,
    http::{HeaderMap, header::CONTENT_LENGTH},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::limits;

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is larger than allowed.
    TooLarge,
    /// It did not arrive in time.
    TooSlow,
    /// Its connection broke.
    Broken,
}

/// The whole body, exactly as it was sent.
pub(super) async fn read(mut body: Body, headers: &HeaderMap) -> Result<Bytes, Refusal> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let capacity = announced.unwrap_or_default().min(limits::BODY_BYTES_MAX);
    let mut read = Read {
        whole: BytesMut::with_capacity(capacity),
        bytes: 0,
    };
    let in_time = tokio::time::timeout(limits::BODY_READ_TIMEOUT, read.all(&mut body)).await;
    match in_time {
        _ if read.bytes > limits::BODY_BYTES_MAX => Err(Refusal::TooLarge),
        Ok(Ok(())) => Ok(read.whole.freeze()),
        Ok(Err(_)) => Err(Refusal::Broken),
        Err(_) => Err(Refusal::TooSlow),
    }
}

struct Read {
    whole: BytesMut,
    bytes: usize,
}

impl Read {
    /// Copies the body out of the connection's buffer, which it would otherwise keep alive as long as the event is in
    /// memory. The rest of one that is too large is read and thrown away, because an answer is lost when the connection is
    /// closed on a sender that is still sending.
    async fn all(&mut self, body: &mut Body) -> Result<(), axum::Error> {
        while let Some(frame) = body.frame().await {
            let Ok(part) = frame?.into_data() else { continue };
            self.bytes += part.len();
            if self.bytes <= limits::BODY_BYTES_MAX {
                self.whole.extend_from_slice(&part);
            }
        }
        Ok(())
    }
}
