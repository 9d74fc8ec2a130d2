//! What every part stands on: a runtime, a directory on the real disk, a running service, a filled log, clients. Owns no
//! measure.

use std::{net::SocketAddr, path::Path, sync::Arc};

use futures_util::StreamExt;
use hookstream::{
    clock::Clock,
    config::{Config, LogEngine},
    event::LogId,
    grpc::proto::{
        self, ManageEndpointRequest, SubscribeEventsResponse,
        hookstream_service_client::HookstreamServiceClient, manage_endpoint_request as ask,
        subscribe_events_response::Frame,
    },
    log::{EventLog, metrics::LogMetrics, sqlite::SqliteLog},
    service::Service,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

use crate::deliveries;

/// A client of the interface.
pub type Client = HookstreamServiceClient<Channel>;

/// Streams on one connection.
pub const STREAMS_PER_CONNECTION: usize = 100;

/// Runs one part, on a runtime of its own so that nothing of it goes on behind the next.
pub fn run<T>(part: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().build().unwrap().block_on(part)
}

/// Runs a client on a thread and a runtime of its own, so that the service's tasks do not wait behind it, nor it behind them:
/// it stands for another process.
pub fn aside<T: Send + 'static>(client: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap().block_on(client)
    })
}

/// A directory that goes with its owner, beside the build and so on a real disk.
pub fn directory() -> TempDir {
    let mut builder = tempfile::Builder::new();
    builder
        .prefix("bench-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .unwrap()
}

/// The service as it is run, on free ports and this directory.
pub async fn service(directory: &Path) -> Service {
    service_on(directory, LogEngine::Sqlite).await
}

/// The same with its log elsewhere.
pub async fn service_on(directory: &Path, log: LogEngine) -> Service {
    let any = "127.0.0.1:0";
    let changes = [
        ("ingress-listen", any),
        ("grpc-listen", any),
        ("admin-listen", any),
        ("data-dir", directory.to_str().unwrap()),
        ("retention-age", "none"),
        ("retention-size", "none"),
        ("drain-deadline", "1s"),
    ];
    let config = Config {
        log,
        ..Config::with(&changes).unwrap()
    };
    Service::start(&config, Clock::system()).await.unwrap()
}

/// A service with the endpoint that the deliveries go to.
pub async fn service_with_endpoint(directory: &Path) -> Service {
    let service = service(directory).await;
    create_endpoint(service.grpc_address).await;
    service
}

/// Makes the endpoint that the deliveries go to.
pub async fn create_endpoint(grpc: SocketAddr) {
    let create = ask::Create {
        name: deliveries::ENDPOINT.to_owned(),
        secret: deliveries::SECRET.to_owned(),
        ..ask::Create::default()
    };
    let request = ManageEndpointRequest {
        operation: Some(ask::Operation::Create(create)),
    };
    let mut client = client(grpc).await;
    client.manage_endpoint(request).await.unwrap();
}

/// A client on a connection of its own.
pub async fn client(address: SocketAddr) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    Client::new(endpoint.connect().await.unwrap())
}

/// As many open streams, each past its first frame.
pub async fn streams(
    address: SocketAddr,
    count: usize,
    request: &proto::SubscribeEventsRequest,
) -> Vec<Streaming<SubscribeEventsResponse>> {
    streams_of(address, count, |_| request.clone()).await
}

/// The same, each as its number asks for it.
pub async fn streams_of(
    address: SocketAddr,
    count: usize,
    request: impl Fn(usize) -> proto::SubscribeEventsRequest,
) -> Vec<Streaming<SubscribeEventsResponse>> {
    let mut streams = Vec::with_capacity(count);
    while streams.len() < count {
        let mut client = client(address).await;
        for _ in 0..STREAMS_PER_CONNECTION.min(count - streams.len()) {
            let opened = client.subscribe_events(request(streams.len())).await.unwrap();
            let mut stream = opened.into_inner();
            stream.message().await.unwrap().unwrap();
            streams.push(stream);
        }
    }
    streams
}

/// Reads until this many events have come.
pub async fn receive(stream: &mut Streaming<SubscribeEventsResponse>, events: usize) {
    let mut received = 0;
    while received < events {
        let frame = stream.message().await.unwrap().expect("the stream goes on").frame;
        if let Some(Frame::Event(event)) = frame {
            std::hint::black_box(event);
            received += 1;
        }
    }
}

/// Fills a log in this directory with the events of these bodies, as fast as commits of full size go.
pub async fn fill(directory: &Path, bodies: impl Iterator<Item = String>) -> SqliteLog {
    const APPENDS_AT_ONCE: usize = 1024;
    let path = directory.to_owned();
    let open = move || SqliteLog::open(&path, || LogId::new(7), LogMetrics::default(), |_, _| {});
    let log = Arc::new(tokio::task::spawn_blocking(open).await.unwrap().unwrap());
    let verifier = deliveries::Verifier::new();
    let appends = bodies.map(|body| {
        let (log, event) = (Arc::clone(&log), verifier.event(body));
        async move { log.append(event).await.unwrap() }
    });
    let mut appends = futures_util::stream::iter(appends).buffer_unordered(APPENDS_AT_ONCE);
    while appends.next().await.is_some() {}
    drop(appends);
    Arc::into_inner(log).unwrap()
}
