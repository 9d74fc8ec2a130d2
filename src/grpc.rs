//! The gRPC side: the interface of `proto/`, served. Owns all contact with generated types on the server; decides nothing
//! about events or endpoints.

mod access;
mod arrival;
mod caller;
mod calls;
mod codec;
mod encode;
mod encoded;
mod endpoints;
mod events;
mod json;
pub mod proto;
mod replicas;
mod status;
mod subscriptions;
mod web;

use std::{pin::Pin, sync::Arc};

use axum::middleware;
use futures_util::Stream;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tonic::{Code, Request, Response, Status, service::Routes};
use tonic_health::server::HealthReporter;

use self::{
    access::TokenManager,
    caller::Call,
    calls::Calls,
    encoded::Encoded,
    endpoints::EndpointManager,
    events::EventReader,
    replicas::SubscriptionCalls,
    server::{
        access_service_server::{AccessService, AccessServiceServer},
        hookstream_service_server::{HookstreamService, HookstreamServiceServer},
    },
    status::Refusal,
};
pub use self::{
    encode::{BadDescriptors, EventEncoder},
    replicas::Replicas,
};
use crate::{
    access::{Access, Caller, Scope, Unauthenticated},
    audit::{Action, Audit},
    clock::Clock,
    hub::Hub,
    limits,
    origin::AllowedOrigins,
    registrar::Registrar,
    subscriptions::ServingReplica,
    traces::Traces,
};

mod server {
    #![allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
    include!(concat!(env!("OUT_DIR"), "/server/hookstream.v1.rs"));
}

/// The full name of the service, as health checks ask for it.
pub const SERVICE_NAME: &str = "hookstream.v1.HookstreamService";

/// The service.
#[derive(Clone)]
pub struct Grpc {
    events: EventReader,
    endpoints: EndpointManager,
    subscriptions: SubscriptionCalls,
    tokens: TokenManager,
    access: Arc<Access>,
    audit: Audit,
    calls: Calls,
    traces: Traces,
    answers: Family<CallLabels, Counter>,
}

/// What listeners serve of it.
pub struct GrpcRoutes {
    /// Everything, for the gRPC listener.
    pub all: axum::Router,
    /// The services alone, for a listener that has pages of its own.
    pub beside_pages: axum::Router,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    call: &'static str,
    code: String,
}

impl Grpc {
    /// A service that reads from `hub`, leaves subscriptions to the replica that is `serving` them, which is asked as `replicas`
    /// says if it is another, and manages endpoints, which HeyGen reaches
    /// under `public_url`, with `registrar`.
    #[allow(
        clippy::too_many_arguments,
        reason = "one part each, named where they are wired"
    )]
    pub fn new(
        hub: Arc<Hub>,
        serving: ServingReplica,
        replicas: Option<Replicas>,
        registrar: Arc<Registrar>,
        access: Arc<Access>,
        audit: Audit,
        clock: Clock,
        public_url: &str,
        traces: Traces,
        registry: &mut Registry,
    ) -> Self {
        let answers = Family::default();
        registry.register(
            "calls",
            "gRPC calls by how they were answered; a stream when it opens",
            answers.clone(),
        );
        let events = EventReader::new(Arc::clone(&hub));
        Self {
            subscriptions: SubscriptionCalls::new(serving, replicas, hub, events.clone(), clock.clone()),
            events,
            endpoints: EndpointManager::new(registrar, clock, public_url),
            tokens: TokenManager::new(Arc::clone(&access), audit.clone()),
            access,
            audit,
            calls: Calls::new(),
            traces,
            answers,
        }
    }

    /// Everything that is served, for pages of these origins too.
    pub async fn routes(
        self,
        allowed_origins: AllowedOrigins,
    ) -> Result<(GrpcRoutes, HealthReporter), tonic_reflection::server::Error> {
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter
            .set_service_status(SERVICE_NAME, tonic_health::ServingStatus::NotServing)
            .await;
        reporter
            .set_service_status("", tonic_health::ServingStatus::NotServing)
            .await;
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let authenticate = middleware::from_fn_with_state(Arc::clone(&self.access), caller::authenticate);
        let most = limits::REQUEST_BYTES_MAX;
        let routes = Routes::new(HookstreamServiceServer::new(self.clone()).max_decoding_message_size(most))
            .add_service(AccessServiceServer::new(self).max_decoding_message_size(most))
            .add_service(health.max_decoding_message_size(most))
            .add_service(reflection().build_v1()?.max_decoding_message_size(most))
            .add_service(reflection().build_v1alpha()?.max_decoding_message_size(most));
        let router = routes.into_axum_router();
        let router = router
            .layer(middleware::map_request(arrival::timely))
            .layer(authenticate);
        let routes = GrpcRoutes {
            beside_pages: web::beside_pages(&router, allowed_origins.clone()),
            all: web::with_browsers(router, allowed_origins),
        };
        Ok((routes, reporter))
    }

    /// Carries out a call for a caller who may make it; counts it, and records it if it changes something.
    async fn call<Q, A, F>(
        &self,
        call: Call,
        request: Request<Q>,
        work: impl FnOnce(Caller, Q) -> F,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<A, Refusal>>,
    {
        let (metadata, extensions, request) = request.into_parts();
        let mut span = self.traces.call(call.name, metadata.as_ref());
        let caller = extensions.get::<Caller>();
        let result = match caller.map(|caller| call.admit(caller).map(|()| caller.clone())) {
            Some(Ok(caller)) => self.calls.run(call.bound, work(caller, request)).await,
            Some(Err(refusal)) => Err(refusal),
            None => Err(Unauthenticated::Missing.into()),
        };
        // The replica that it was called at records and counts it.
        if caller.is_some_and(Caller::is_vouched) {
            return result.map(Response::new).map_err(Status::from);
        }
        if let (Some(target), Some(caller)) = (&call.changes, caller) {
            self.record(&call, caller, target, result.as_ref().err()).await;
        }
        let result = result.map(Response::new).map_err(Status::from);
        let code = result.as_ref().map_or_else(Status::code, |_| Code::Ok);
        span.answered(code);
        let labels = CallLabels {
            call: call.name,
            code: format!("{code:?}"),
        };
        self.answers.get_or_create(&labels).inc();
        result
    }

    async fn record(&self, call: &Call, caller: &Caller, target: &str, refusal: Option<&Refusal>) {
        let action = Action {
            actor: caller.identity().name.clone(),
            address: caller
                .address()
                .map(|address| address.ip().to_string())
                .unwrap_or_default(),
            action: call.name.to_owned(),
            target: target.chars().take(limits::NAME_BYTES_MAX).collect(),
            outcome: refusal.map_or_else(|| "OK".to_owned(), Refusal::reason),
        };
        self.audit.record(action).await;
    }
}

type EncodedStream = Pin<Box<dyn Stream<Item = Result<Encoded, Status>> + Send>>;

#[tonic::async_trait]
impl HookstreamService for Grpc {
    type SubscribeEventsStream = EncodedStream;

    async fn subscribe_events(
        &self,
        request: Request<proto::SubscribeEventsRequest>,
    ) -> Result<Response<EncodedStream>, Status> {
        let call = Call::waiting("SubscribeEvents", Scope::EventsRead);
        let recipient = self.traces.recipient(request.metadata().as_ref());
        self.call(call, request, async |caller, request| {
            let frames: EncodedStream = if request.subscription.is_empty() {
                Box::pin(self.events.subscribe(caller, request, recipient).await?)
            } else {
                Box::pin(self.subscriptions.subscribe(caller, request, recipient).await?)
            };
            // A client may still call on a connection whose end it has not read. Asked once the stream is open, since a drain
            // tells every stream that was open when it began.
            if self.events.is_draining() {
                return Err(Refusal::Draining);
            }
            Ok(frames)
        })
        .await
    }

    async fn list_events(
        &self,
        request: Request<proto::ListEventsRequest>,
    ) -> Result<Response<Encoded>, Status> {
        let call = Call::reading("ListEvents", Scope::EventsRead);
        self.call(call, request, async |caller, request| {
            if request.dead_letters_of.is_empty() {
                return self.events.list(caller, request).await;
            }
            self.subscriptions.list_dead_letters(caller, request).await
        })
        .await
    }

    async fn get_event(&self, request: Request<proto::GetEventRequest>) -> Result<Response<Encoded>, Status> {
        let call = Call::reading("GetEvent", Scope::EventsRead);
        self.call(call, request, |caller, request| {
            self.events.get(caller, request.id)
        })
        .await
    }

    async fn await_event(
        &self,
        request: Request<proto::AwaitEventRequest>,
    ) -> Result<Response<Encoded>, Status> {
        let call = Call::waiting("AwaitEvent", Scope::EventsRead);
        self.call(call, request, |caller, request| {
            self.events.await_event(caller, request)
        })
        .await
    }

    async fn list_event_types(
        &self,
        request: Request<proto::ListEventTypesRequest>,
    ) -> Result<Response<proto::ListEventTypesResponse>, Status> {
        let call = Call::reading("ListEventTypes", Scope::EventsRead);
        self.call(call, request, async |caller, _| {
            Ok(self.events.event_types(&caller))
        })
        .await
    }

    async fn manage_endpoint(
        &self,
        request: Request<proto::ManageEndpointRequest>,
    ) -> Result<Response<proto::ManageEndpointResponse>, Status> {
        let call = Call::of_endpoint(request.get_ref());
        self.call(call, request, |caller, request| {
            self.endpoints.manage(caller, request)
        })
        .await
    }

    async fn manage_subscription(
        &self,
        request: Request<proto::ManageSubscriptionRequest>,
    ) -> Result<Response<proto::ManageSubscriptionResponse>, Status> {
        let call = Call::of_subscription(request.get_ref());
        self.call(call, request, |caller, request| {
            self.subscriptions.manage(caller, request)
        })
        .await
    }

    async fn acknowledge_events(
        &self,
        request: Request<proto::AcknowledgeEventsRequest>,
    ) -> Result<Response<proto::AcknowledgeEventsResponse>, Status> {
        self.call(Call::of_acknowledgement(), request, |caller, request| {
            self.subscriptions.acknowledge(caller, request)
        })
        .await
    }
}

#[tonic::async_trait]
impl AccessService for Grpc {
    async fn manage_token(
        &self,
        request: Request<proto::ManageTokenRequest>,
    ) -> Result<Response<proto::ManageTokenResponse>, Status> {
        let call = Call::of_token(request.get_ref());
        self.call(call, request, |_, request| self.tokens.manage(request))
            .await
    }

    async fn list_audit_records(
        &self,
        request: Request<proto::ListAuditRecordsRequest>,
    ) -> Result<Response<proto::ListAuditRecordsResponse>, Status> {
        let call = Call::reading("ListAuditRecords", Scope::Admin);
        self.call(call, request, |_, request| self.tokens.records(request))
            .await
    }
}
