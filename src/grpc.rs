//! The gRPC side: the interface of `proto/`, served. Owns all contact with generated types on the server; decides nothing
//! about events or endpoints.

mod encode;
mod encoded;
mod endpoints;
mod events;
pub mod proto;
mod status;

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tonic::{Code, Request, Response, Status, service::Routes};
use tonic_health::server::HealthReporter;

pub use self::encode::{BadDescriptors, EventEncoder};
use self::{
    encoded::Encoded,
    endpoints::EndpointManager,
    events::EventReader,
    server::hookstream_service_server::{HookstreamService, HookstreamServiceServer},
    status::Refusal,
};
use crate::{clock::Clock, hub::Hub, registrar::Registrar};

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
    calls: Family<CallLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    call: &'static str,
    code: String,
}

impl Grpc {
    /// A service that reads from `hub` and manages endpoints, which HeyGen reaches under `public_url`, with `registrar`.
    pub fn new(
        hub: Arc<Hub>,
        registrar: Arc<Registrar>,
        clock: Clock,
        public_url: &str,
        registry: &mut Registry,
    ) -> Self {
        let calls = Family::default();
        registry.register(
            "calls",
            "gRPC calls by how they were answered; a stream when it opens",
            calls.clone(),
        );
        Self {
            events: EventReader::new(hub),
            endpoints: EndpointManager::new(registrar, clock, public_url),
            calls,
        }
    }

    /// Everything that the gRPC listener serves.
    pub async fn routes(self) -> Result<(axum::Router, HealthReporter), tonic_reflection::server::Error> {
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
        let routes = Routes::new(HookstreamServiceServer::new(self))
            .add_service(health)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?);
        Ok((routes.into_axum_router(), reporter))
    }

    fn answer<T>(&self, call: &'static str, result: Result<T, Refusal>) -> Result<Response<T>, Status> {
        let result = result.map(Response::new).map_err(Status::from);
        let code = result.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.calls
            .get_or_create(&CallLabels {
                call,
                code: format!("{code:?}"),
            })
            .inc();
        result
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
        let frames = self.events.subscribe(request.into_inner()).await;
        self.answer(
            "SubscribeEvents",
            frames.map(|frames| Box::pin(frames) as EncodedStream),
        )
    }

    async fn list_events(
        &self,
        request: Request<proto::ListEventsRequest>,
    ) -> Result<Response<Encoded>, Status> {
        self.answer("ListEvents", self.events.list(request.into_inner()).await)
    }

    async fn get_event(&self, request: Request<proto::GetEventRequest>) -> Result<Response<Encoded>, Status> {
        self.answer("GetEvent", self.events.get(&request.get_ref().id).await)
    }

    async fn await_event(
        &self,
        request: Request<proto::AwaitEventRequest>,
    ) -> Result<Response<Encoded>, Status> {
        self.answer("AwaitEvent", self.events.await_event(request.into_inner()).await)
    }

    async fn list_event_types(
        &self,
        _: Request<proto::ListEventTypesRequest>,
    ) -> Result<Response<proto::ListEventTypesResponse>, Status> {
        self.answer("ListEventTypes", Ok(self.events.event_types()))
    }

    async fn manage_endpoint(
        &self,
        request: Request<proto::ManageEndpointRequest>,
    ) -> Result<Response<proto::ManageEndpointResponse>, Status> {
        use proto::manage_endpoint_request::Operation::{
            Create, Delete, Get, List, Reconcile, Recreate, RotateCallbackToken, RotateSecret, Update,
        };
        let call = match &request.get_ref().operation {
            Some(Create(_)) => "ManageEndpoint.create",
            Some(Get(_)) => "ManageEndpoint.get",
            Some(List(_)) => "ManageEndpoint.list",
            Some(Update(_)) => "ManageEndpoint.update",
            Some(Delete(_)) => "ManageEndpoint.delete",
            Some(RotateSecret(_)) => "ManageEndpoint.rotate_secret",
            Some(Recreate(_)) => "ManageEndpoint.recreate",
            Some(Reconcile(_)) => "ManageEndpoint.reconcile",
            Some(RotateCallbackToken(_)) => "ManageEndpoint.rotate_callback_token",
            None => "ManageEndpoint",
        };
        self.answer(call, self.endpoints.manage(request.into_inner()).await)
    }
}
