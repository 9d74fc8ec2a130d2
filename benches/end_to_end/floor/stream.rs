//! Streaming at its plainest: a tonic service that sends finished bytes from memory, under the path of SubscribeEvents, so
//! that the same client reads it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::State, http, routing::post};
use bytes::{Buf, BufMut, Bytes};
use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture, stream, stream::BoxStream};
use hookstream::{
    grpc::proto::{CaughtUp, SubscribeEventsResponse, subscribe_events_response::Frame},
    transport::{self, Server},
};
use prost::Message;
use tokio::sync::watch;
use tonic::{
    Request, Response, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, ServerStreamingService},
};

/// Sends the same events to every stream.
pub struct Streams {
    /// Where it listens.
    pub address: SocketAddr,
    server: Server,
    released: watch::Sender<bool>,
}

#[derive(Clone)]
struct Subscribe {
    events: Arc<Vec<Bytes>>,
    released: watch::Receiver<bool>,
}

impl Streams {
    /// Serves these events on a free port: a first frame at once, the events when released.
    pub async fn start(events: Arc<Vec<Bytes>>) -> Self {
        let (released, waiting) = watch::channel(false);
        let subscribe = Subscribe {
            events,
            released: waiting,
        };
        let router = Router::new()
            .route("/hookstream.v1.HookstreamService/SubscribeEvents", post(serve))
            .with_state(subscribe);
        let listener = transport::bind("127.0.0.1:0", "floor").await.unwrap();
        Self {
            address: listener.local_addr().unwrap(),
            server: Server::start(listener, router),
            released,
        }
    }

    /// Lets every stream go on to the events.
    pub fn release(&self) {
        self.released.send_replace(true);
    }

    /// Ends it.
    pub async fn end(self) {
        self.server.end(Duration::from_secs(1)).await;
    }
}

/// The first frame of a stream.
fn caught_up() -> Bytes {
    let frame = Frame::CaughtUp(CaughtUp {
        cursor: "AAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(),
    });
    let response = SubscribeEventsResponse {
        frame: Some(frame),
        ..SubscribeEventsResponse::default()
    };
    response.encode_to_vec().into()
}

async fn serve(
    State(subscribe): State<Subscribe>,
    request: http::Request<axum::body::Body>,
) -> http::Response<tonic::body::Body> {
    Grpc::new(Finished).server_streaming(subscribe, request).await
}

impl Subscribe {
    fn frames(self) -> impl Stream<Item = Result<Bytes, Status>> + Send {
        let Self { events, mut released } = self;
        let wait = async move {
            let _ = released.wait_for(|released| *released).await;
        };
        let events = (0..events.len()).map(move |at| Ok(events[at].clone()));
        let after = wait.map(move |()| stream::iter(events)).flatten_stream();
        stream::once(async { Ok(caught_up()) }).chain(after)
    }
}

impl ServerStreamingService<Bytes> for Subscribe {
    type Response = Bytes;
    type ResponseStream = BoxStream<'static, Result<Bytes, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        let frames = self.clone().frames();
        async move { Ok(Response::new(frames.boxed())) }.boxed()
    }
}

/// A codec for what is bytes already.
#[derive(Clone, Copy, Debug)]
struct Finished;

impl Codec for Finished {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Finished {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, bytes: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&bytes);
        Ok(())
    }
}

impl Decoder for Finished {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
