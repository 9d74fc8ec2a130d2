//! Traces: what happened to an event from its delivery to every send, told to an OpenTelemetry collector. Owns the spans,
//! which of them are told, and how; nothing depends on whether they arrive.
//!
//! An event's trace is its id, and its first span the first half of that. So every replica, also after a restart, and every
//! consumer that knows the id goes on with the same trace, and nothing is stored or sent for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use http::HeaderMap;
use jiff::Timestamp;
use opentelemetry::{
    InstrumentationScope, KeyValue, Value,
    propagation::{Extractor, TextMapPropagator},
    trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanExporter, SpanLinks, SpanProcessor,
    },
};
use tonic::Code;

use crate::{
    clock::Clock,
    event::{EventId, NewEvent, StoredEvent},
    limits,
    subscriptions::SubscriptionName,
    tasks,
};

/// Where traces go, and how many.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceSettings {
    /// The collector's URL: OTLP over gRPC.
    pub endpoint: String,
    /// The share of events and calls that are traced, 0 to 1.
    pub ratio: f64,
}

/// Tells a collector what happens, or nobody.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Arc<Collector>>);

#[derive(Debug)]
struct Collector {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    ratio: f64,
    clock: Clock,
}

impl Traces {
    /// Tells the collector of these settings.
    pub fn to(settings: &TraceSettings, clock: Clock) -> Result<Self, ExporterBuildError> {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&settings.endpoint)
            .with_timeout(limits::TRACE_EXPORT_TIMEOUT)
            .build()?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(limits::TRACE_SPANS_WAITING_MAX)
            .with_max_export_batch_size(limits::TRACE_BATCH_SPANS_MAX)
            .with_scheduled_delay(limits::TRACE_EXPORT_INTERVAL)
            .build();
        let exporter = Reporting {
            exporter,
            endpoint: settings.endpoint.clone(),
            fails: AtomicBool::new(false),
        };
        let mut processor = BatchSpanProcessor::builder(exporter)
            .with_batch_config(batches)
            .build();
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        processor.set_resource(
            &Resource::builder()
                .with_service_name(env!("CARGO_PKG_NAME"))
                .with_attribute(version)
                .build(),
        );
        Ok(Self(Some(Arc::new(Collector {
            processor,
            scope: InstrumentationScope::builder(env!("CARGO_PKG_NAME")).build(),
            ratio: settings.ratio,
            clock,
        }))))
    }

    /// The delivery of an event, from its verification on: the first span of its trace.
    pub fn delivery(&self, event: &NewEvent) -> Span {
        let Some(collector) = self.of_event(event.id) else {
            return Span::default();
        };
        let mut span = Span::begin(
            collector,
            root(event.id),
            SpanId::INVALID,
            "deliver",
            SpanKind::Server,
        );
        span.describe(event);
        span
    }

    /// A call, as part of its client's trace if that has one.
    pub fn call(&self, name: &'static str, headers: &HeaderMap) -> Span {
        let Some(collector) = &self.0 else {
            return Span::default();
        };
        let parent = context(headers);
        let is_told = match &parent {
            Some(parent) => parent.is_sampled(),
            None => rand::random::<f64>() < collector.ratio,
        };
        if !is_told {
            return Span::default();
        }
        let (trace, parent) = match parent {
            Some(parent) => (parent.trace_id(), parent.span_id()),
            None => (TraceId::from_bytes(rand::random()), SpanId::INVALID),
        };
        let mut span = Span::begin(collector, told(trace, new_id()), parent, name, SpanKind::Server);
        span.set("rpc.system.name", "grpc");
        span
    }

    /// Who gets the events of a stream that is opened with these headers.
    pub fn recipient(&self, headers: &HeaderMap) -> Recipient {
        Recipient(self.0.is_some().then(|| {
            Arc::new(Addressee {
                traces: self.clone(),
                caller: String::new(),
                subscription: None,
                opened_for: context(headers),
            })
        }))
    }

    /// Tells what is left to tell.
    pub async fn close(&self) {
        let Some(collector) = self.0.clone() else { return };
        let close = move || {
            collector
                .processor
                .shutdown_with_timeout(limits::TRACE_CLOSE_DEADLINE)
        };
        if !matches!(tasks::blocking(close).await, Ok(Ok(()))) {
            tracing::warn!("the last traces could not be sent");
        }
    }

    fn of_event(&self, id: EventId) -> Option<&Arc<Collector>> {
        self.0.as_ref().filter(|collector| collector.tells(id))
    }
}

impl Collector {
    fn now(&self) -> SystemTime {
        let since_epoch = self.clock.now().duration_since(Timestamp::UNIX_EPOCH);
        SystemTime::UNIX_EPOCH + since_epoch.unsigned_abs()
    }

    /// The same at every replica: an event's trace is told whole or not at all. Its id is a digest, so any part of it is as
    /// good as chance.
    fn tells(&self, id: EventId) -> bool {
        let [.., a, b, c, d] = *id.as_bytes();
        f64::from(u32::from_be_bytes([a, b, c, d])) < self.ratio * 2_f64.powi(32)
    }
}

/// Who gets the events of a stream.
#[derive(Clone, Debug, Default)]
pub struct Recipient(Option<Arc<Addressee>>);

#[derive(Clone, Debug)]
struct Addressee {
    traces: Traces,
    caller: String,
    subscription: Option<String>,
    /// What the client opened the stream for.
    opened_for: Option<SpanContext>,
}

impl Recipient {
    /// It is this caller, as part of a subscription if of one.
    pub fn named(mut self, caller: &str, subscription: Option<&SubscriptionName>) -> Self {
        if let Some(to) = &mut self.0 {
            let to = Arc::make_mut(to);
            to.caller = caller.to_owned();
            to.subscription = subscription.map(ToString::to_string);
        }
        self
    }

    /// An event is handed to the stream's connection; of a subscription's, for the how manieth time.
    pub fn sent(&self, event: &StoredEvent, attempt: u32) {
        let Some(to) = &self.0 else { return };
        let Some(collector) = to.traces.of_event(event.event.id) else {
            return;
        };
        let root = root(event.event.id);
        let own = told(root.trace_id(), new_id());
        let mut span = Span::begin(collector, own, root.span_id(), "send", SpanKind::Producer);
        span.describe(&event.event);
        span.set("hookstream.sequence", event.sequence.get().cast_signed());
        span.set("hookstream.recipient", to.caller.clone());
        if let Some(subscription) = &to.subscription {
            span.set("hookstream.subscription", subscription.clone());
            span.set("hookstream.attempt", i64::from(attempt));
        }
        span.link(to.opened_for.clone());
    }
}

/// Something that takes time. It is told when this is dropped.
#[derive(Debug, Default)]
pub struct Span(Option<Box<Open>>);

#[derive(Debug)]
struct Open {
    collector: Arc<Collector>,
    data: SpanData,
}

impl Span {
    fn begin(
        collector: &Arc<Collector>,
        span_context: SpanContext,
        parent_span_id: SpanId,
        name: &'static str,
        span_kind: SpanKind,
    ) -> Self {
        let begin = collector.now();
        let data = SpanData {
            span_context,
            parent_span_id,
            parent_span_is_remote: false,
            span_kind,
            name: name.into(),
            start_time: begin,
            end_time: begin,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: collector.scope.clone(),
        };
        Self(Some(Box::new(Open {
            collector: Arc::clone(collector),
            data,
        })))
    }

    /// A part of it.
    pub fn child(&self, name: &'static str) -> Self {
        let Some(open) = &self.0 else {
            return Self::default();
        };
        let context = &open.data.span_context;
        let own = told(context.trace_id(), new_id());
        Self::begin(&open.collector, own, context.span_id(), name, SpanKind::Internal)
    }

    /// The event was stored before, or is stored when it comes again: this is not the first span of its trace.
    pub fn is_not_the_first(&mut self) {
        if let Some(Open { data, .. }) = self.0.as_deref_mut() {
            data.parent_span_id = data.span_context.span_id();
            data.span_context = told(data.span_context.trace_id(), new_id());
        }
    }

    /// How a call was answered.
    pub fn answered(&mut self, code: Code) {
        if self.0.is_none() {
            return;
        }
        self.set("rpc.response.status_code", format!("{code:?}"));
        if code != Code::Ok {
            self.failed(code.description());
        }
    }

    /// It failed, and why.
    pub fn failed(&mut self, why: &str) {
        if let Some(open) = self.0.as_deref_mut() {
            open.data.status = Status::error(why.to_owned());
        }
    }

    /// Says more of it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(open) = self.0.as_deref_mut() {
            open.data.attributes.push(KeyValue::new(key, value));
        }
    }

    fn describe(&mut self, event: &NewEvent) {
        self.set("hookstream.event.id", event.id.to_string());
        self.set("hookstream.event.type", event.keys.event_type.to_string());
        self.set("hookstream.endpoint", event.keys.endpoint.to_string());
    }

    fn link(&mut self, context: Option<SpanContext>) {
        if let (Some(open), Some(context)) = (self.0.as_deref_mut(), context) {
            open.data.links.links.push(Link::with_context(context));
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(open) = self.0.take() else { return };
        let Open { collector, mut data } = *open;
        // What the clock did meanwhile must not make it end before it began.
        data.end_time = collector.now().max(data.start_time);
        collector.processor.on_end(data);
    }
}

/// The first span of an event's trace.
fn root(id: EventId) -> SpanContext {
    let bytes = *id.as_bytes();
    let [first, ..] = bytes.as_chunks::<8>().0 else {
        unreachable!()
    };
    told(TraceId::from_bytes(bytes), SpanId::from_bytes(*first))
}

fn told(trace: TraceId, span: SpanId) -> SpanContext {
    SpanContext::new(trace, span, TraceFlags::SAMPLED, false, TraceState::NONE)
}

fn new_id() -> SpanId {
    SpanId::from_bytes(rand::random())
}

/// What the sender of these headers does, as W3C Trace Context has it.
fn context(headers: &HeaderMap) -> Option<SpanContext> {
    struct Headers<'a>(&'a HeaderMap);
    impl Extractor for Headers<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            self.0.get(key)?.to_str().ok()
        }
        fn keys(&self) -> Vec<&str> {
            self.0.keys().map(|key| key.as_str()).collect()
        }
    }
    let context =
        TraceContextPropagator::new().extract_with_context(&opentelemetry::Context::new(), &Headers(headers));
    let context = context.span().span_context().clone();
    context.is_valid().then_some(context)
}

/// Sends spans, and says when that begins to fail and when it works again.
#[derive(Debug)]
struct Reporting {
    exporter: opentelemetry_otlp::SpanExporter,
    endpoint: String,
    fails: AtomicBool,
}

impl SpanExporter for Reporting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let (spans, endpoint) = (batch.len(), &self.endpoint);
        let result = self.exporter.export(batch).await;
        let failed_before = self.fails.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(error) if !failed_before => {
                tracing::warn!(endpoint, spans, %error, "traces cannot be sent, and are dropped until they can");
            }
            Ok(()) if failed_before => tracing::info!(endpoint, "traces are sent again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: std::time::Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
