//! The arrival of a request. Owns how long its message may take; refuses to know what it says.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use http::Request;
use http_body::Frame;
use tokio::time::Sleep;
use tonic::Status;

use super::status::Refusal;
use crate::limits;

/// Where clients send messages for as long as they like.
const REFLECTION: &str = "/grpc.reflection.";

/// Gives a request the time that its message may take.
pub async fn timely(request: Request<Body>) -> Request<Body> {
    if request.uri().path().starts_with(REFLECTION) {
        return request;
    }
    request.map(|body| {
        let deadline = Box::pin(tokio::time::sleep(limits::REQUEST_READ_TIMEOUT));
        Body::new(Timely { body, deadline })
    })
}

struct Timely {
    body: Body,
    deadline: Pin<Box<Sleep>>,
}

impl http_body::Body for Timely {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(Some(Err(Status::from(Refusal::CallTooSlow).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
