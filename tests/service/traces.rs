//! Traces over OTLP, as a collector receives them. Owns a collector that keeps every span.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use hookstream::{
    grpc::proto::{ListEventsRequest, Subscription},
    transport,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{ResourceSpans, Span, span::SpanKind, status::StatusCode},
};
use tonic::{Request, Response, Status, service::Routes};

use crate::{
    harness::{Hookstream, body, from_start, part_in, until},
    port::Port,
};

/// A client's own trace.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

type Received = Arc<Mutex<Vec<ResourceSpans>>>;

struct Collector {
    url: String,
    received: Received,
    _server: transport::Server,
}

struct Receiver(Received);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().extend(request.into_inner().resource_spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> Self {
        let listener = transport::bind("127.0.0.1:0", "collector").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let received = Received::default();
        let service = TraceServiceServer::new(Receiver(Arc::clone(&received)));
        Self {
            url,
            received,
            _server: transport::Server::start(listener, Routes::new(service).into_axum_router()),
        }
    }

    fn hookstream(&self, flags: &[&str]) -> Hookstream {
        let flags = [&["--otlp-endpoint", &self.url], flags].concat();
        Hookstream::start_in(Arc::new(tempfile::tempdir().unwrap()), &flags, &HashMap::new())
    }

    /// The spans so far that are called this.
    fn called(&self, name: &str) -> Vec<Span> {
        let received = self.received.lock().unwrap();
        let scopes = received.iter().flat_map(|resource| &resource.scope_spans);
        let spans = scopes.flat_map(|scope| &scope.spans);
        spans.filter(|span| span.name == name).cloned().collect()
    }

    async fn until_called(&self, name: &str, count: usize) -> Vec<Span> {
        until(&format!("{count} spans `{name}`"), async || {
            self.called(name).len() >= count
        })
        .await;
        self.called(name)
    }
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let attribute = attributes.iter().find(|attribute| attribute.key == key);
    match attribute.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{key} is {other:?} in {attributes:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn in_trace<T>(message: T, sampled: &str) -> Request<T> {
    let mut request = Request::new(message);
    let context = format!("00-{TRACE}-{PARENT}-{sampled}");
    request
        .metadata_mut()
        .insert("traceparent", context.parse().unwrap());
    request
}

#[tokio::test]
async fn the_trace_of_an_event_is_its_id_from_delivery_to_every_send() {
    let collector = Collector::start().await;
    let hookstream = collector.hookstream(&[]);
    let sender = hookstream.endpoint("prod").await;
    hookstream.subscription("renders", Subscription::default()).await;
    let mut part = hookstream.subscribe(part_in("renders")).await;
    let sent = body("avatar_video.success", 1);
    assert_eq!(sender.deliver(sent.clone()).await, 200);
    assert_eq!(sender.deliver(sent).await, 200);
    let event = part.delivery().await.event;
    let opened = in_trace(from_start(), "01");
    let stream = hookstream.client().await.subscribe_events(opened).await;
    let mut stream = crate::harness::Stream::from(stream.unwrap().into_inner());
    assert_eq!(stream.event().await.id, event.id);

    let trace = event.id.strip_prefix("evt_").unwrap();
    let root = &trace[..16];
    let deliveries = collector.until_called("deliver", 2).await;
    let outcomes = ["stored", "duplicate"].map(|outcome| {
        let is_it = |span: &&Span| text(&span.attributes, "hookstream.outcome") == outcome;
        deliveries.iter().find(is_it).unwrap()
    });
    let [first, second] = outcomes;
    assert_eq!(first.kind(), SpanKind::Server);
    assert_eq!(
        (hex(&first.trace_id), hex(&first.span_id)),
        (trace.into(), root.into())
    );
    assert!(first.parent_span_id.is_empty());
    assert_eq!(text(&first.attributes, "hookstream.event.id"), event.id);
    assert_eq!(
        text(&first.attributes, "hookstream.event.type"),
        "avatar_video.success"
    );
    assert_eq!(text(&first.attributes, "hookstream.endpoint"), "prod");
    assert_eq!(
        (hex(&second.trace_id), hex(&second.parent_span_id)),
        (trace.into(), root.into())
    );
    let appends = collector.until_called("append", 2).await;
    assert!(appends.iter().any(|span| span.parent_span_id == first.span_id));
    assert!(appends.iter().all(|span| hex(&span.trace_id) == trace));

    let sends = collector.until_called("send", 2).await;
    for send in &sends {
        assert_eq!(send.kind(), SpanKind::Producer);
        assert_eq!(
            (hex(&send.trace_id), hex(&send.parent_span_id)),
            (trace.into(), root.into())
        );
        assert!(send.start_time_unix_nano >= first.start_time_unix_nano);
    }
    let is_linked = |span: &&Span| span.links.iter().any(|link| hex(&link.trace_id) == TRACE);
    let [part, stream] = [false, true].map(|linked| sends.iter().find(|span| is_linked(span) == linked));
    assert_eq!(
        text(&part.unwrap().attributes, "hookstream.subscription"),
        "renders"
    );
    assert_eq!(text(&part.unwrap().attributes, "hookstream.attempt"), "1");
    assert!(
        stream
            .unwrap()
            .attributes
            .iter()
            .all(|one| one.key != "hookstream.subscription")
    );

    let resource = collector.received.lock().unwrap()[0].resource.clone().unwrap();
    assert_eq!(text(&resource.attributes, "service.name"), "hookstream");

    // Nothing of the trace is kept: a process that never saw the delivery goes on with it.
    let directory = hookstream.kill();
    let hookstream = Hookstream::start_in(directory, &["--otlp-endpoint", &collector.url], &HashMap::new());
    assert_eq!(
        hookstream.subscribe(from_start()).await.event().await.id,
        event.id
    );
    let sends = collector.until_called("send", 3).await;
    assert!(sends.iter().all(|span| hex(&span.trace_id) == trace));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_part_of_its_clients_trace_and_says_how_it_ended() {
    let collector = Collector::start().await;
    let hookstream = collector.hookstream(&[]);
    let mut client = hookstream.client().await;
    client
        .list_events(in_trace(ListEventsRequest::default(), "01"))
        .await
        .unwrap();
    let bad = ListEventsRequest {
        page_size: -1,
        ..ListEventsRequest::default()
    };
    client.list_events(in_trace(bad, "01")).await.unwrap_err();
    // A client that does not trace is not traced.
    client
        .list_events(in_trace(ListEventsRequest::default(), "00"))
        .await
        .unwrap();
    // What was not sent yet is sent when the service ends.
    tokio::task::block_in_place(|| hookstream.drain());
    let calls = collector.called("ListEvents");
    assert_eq!(calls.len(), 2, "{calls:?}");
    for call in &calls {
        assert_eq!(call.kind(), SpanKind::Server);
        assert_eq!(
            (hex(&call.trace_id), hex(&call.parent_span_id)),
            (TRACE.into(), PARENT.into())
        );
    }
    let codes = calls
        .iter()
        .map(|call| text(&call.attributes, "rpc.response.status_code"));
    assert_eq!(codes.collect::<Vec<_>>(), ["Ok", "InvalidArgument"]);
    assert_eq!(calls[1].status.as_ref().unwrap().code(), StatusCode::Error);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_ratio_0_only_what_clients_trace_is_traced() {
    let collector = Collector::start().await;
    let hookstream = collector.hookstream(&["--trace-ratio", "0"]);
    let sender = hookstream.endpoint("prod").await;
    sender.deliver(body("avatar_video.success", 1)).await;
    hookstream.subscribe(from_start()).await.event().await;
    let mut client = hookstream.client().await;
    client
        .list_events(in_trace(ListEventsRequest::default(), "01"))
        .await
        .unwrap();
    tokio::task::block_in_place(|| hookstream.drain());
    let received = collector.received.lock().unwrap();
    let scopes = received.iter().flat_map(|resource| &resource.scope_spans);
    let names: Vec<_> = scopes
        .flat_map(|scope| scope.spans.iter().map(|span| &span.name))
        .collect();
    assert_eq!(names, ["ListEvents"]);
}

#[tokio::test]
async fn a_collector_that_is_gone_disturbs_nothing_and_is_reported_once() {
    let nobody = Port::reserve();
    let url = format!("http://{}", nobody.address());
    let flags = ["--otlp-endpoint", &url];
    let hookstream = Hookstream::start_in(Arc::new(tempfile::tempdir().unwrap()), &flags, &HashMap::new());
    let sender = hookstream.endpoint("prod").await;
    // Several batches fail meanwhile.
    for number in 0..35 {
        assert_eq!(sender.deliver(body("avatar_video.success", number)).await, 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (_, output) = hookstream.drain_and_read();
    assert_eq!(output.matches("traces cannot be sent").count(), 1, "{output}");
}
