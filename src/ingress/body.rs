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
pub(super) async fn read(body: Body, headers: &HeaderMap) -> Result<Bytes, Refusal> {
    let announced: usize = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok())
        .unwrap_or(0);
    if announced > limits::BODY_DISCARD_BYTES_MAX {
        return Err(Refusal::TooLarge);
    }
    tokio::time::timeout(limits::BODY_READ_TIMEOUT, collect(body, announced))
        .await
        .map_err(|_| Refusal::TooSlow)?
}

/// Copied out of the connection's buffer, which it would otherwise keep alive as long as the event is in memory. A body
/// that is too large is read a little further and thrown away, because an answer is lost when the connection is closed on
/// a sender that is still sending.
async fn collect(mut body: Body, announced: usize) -> Result<Bytes, Refusal> {
    let mut whole = BytesMut::with_capacity(announced.min(limits::BODY_BYTES_MAX));
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        let Ok(part) = frame.map_err(|_| Refusal::Broken)?.into_data() else {
            continue;
        };
        total += part.len();
        if total > limits::BODY_DISCARD_BYTES_MAX {
            return Err(Refusal::TooLarge);
        }
        if total <= limits::BODY_BYTES_MAX {
            whole.extend_from_slice(&part);
        }
    }
    if total > limits::BODY_BYTES_MAX {
        Err(Refusal::TooLarge)
    } else {
        Ok(whole.freeze())
    }
}
