//! The service on a simulated network and disk: everything between the sockets and the log, wired as the composition root
//! wires it. Owns one life of the process, up to its drain or its crash.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt;
use hookstream::{
    access::{Access, sqlite::SqliteTokenStore},
    audit::{Audit, sqlite::SqliteAuditStore},
    clock::Clock,
    endpoints::{Endpoints, NewEndpoint, sqlite::SqliteEndpointStore},
    forwarded::TrustedProxies,
    grpc::{EventEncoder, Grpc},
    hub::Hub,
    ingress::Ingress,
    log::EventLog,
    origin::AllowedOrigins,
    registrar::Registrar,
    sealing::SealingKeys,
    secret::Secret,
    subscriptions::{ServingReplica, Subscriptions, sqlite::SqliteSubscriptionStore},
    tasks::Tasks,
    transport::Server,
};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::{
    disk::{Disk, LOG_ID, SimulatedLog, contents},
    network::{self, GRPC_PORT, INGRESS_PORT},
    world::Shared,
};

/// The name of the one endpoint.
pub const ENDPOINT: &str = "prod";
/// Longest a drain may take.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// Small enough that streams fall behind it.
const RING_EVENTS_MAX: usize = 8;

/// The secret that the endpoint's deliveries are signed with.
pub fn secret() -> Secret {
    Secret::new("whsec_of_the_simulation".to_owned()).unwrap()
}

/// Makes the files that outlive every crash.
pub async fn prepare(directory: &Path, clock: Clock) {
    let store = SqliteEndpointStore::open(&directory.join("state.db"), SealingKeys::default()).unwrap();
    let endpoints = Endpoints::load(Arc::new(store), clock).unwrap();
    let new = NewEndpoint {
        secret: Some(secret()),
        ..NewEndpoint::default()
    };
    endpoints.create(ENDPOINT.parse().unwrap(), new).await.unwrap();
}

/// Runs the service until it is told to drain, and through that.
pub async fn live(shared: Arc<Shared>, disk: Arc<Disk>, directory: &Path) {
    // What the life before was told is not for this one.
    let _ = shared.drain.notified().now_or_never();
    shared.lives.fetch_add(1, Ordering::SeqCst);
    let clock = shared.clock();
    let (tasks, draining) = (Tasks::new(), CancellationToken::new());
    let mut registry = Registry::default();
    let state = directory.join("state.db");
    let endpoints = SqliteEndpointStore::open(&state, SealingKeys::default()).unwrap();
    let endpoints = Arc::new(Endpoints::load(Arc::new(endpoints), clock.clone()).unwrap());
    let tokens = Arc::new(SqliteTokenStore::open(&state).unwrap());
    let access = Arc::new(Access::load(tokens, None, clock.clone()).unwrap());
    let audit = Audit::new(Arc::new(SqliteAuditStore::open(&state).unwrap()), clock.clone());
    let (log, writer) = SimulatedLog::open(disk).await;
    let stop = tasks.stop().clone();
    tasks.spawn(async move {
        stop.run_until_cancelled(writer).await;
    });
    let found = contents(&*log).await;
    shared.history.lock().stored.push(found);
    let log: Arc<dyn EventLog> = log;

    let encoder = Arc::new(EventEncoder::new(LOG_ID).unwrap());
    let hub = Hub::with_ring(Arc::clone(&log), encoder, &mut registry, RING_EVENTS_MAX);
    let places = SqliteSubscriptionStore::open(&directory.join("subscriptions.db")).unwrap();
    let subscriptions = Subscriptions::load(Arc::new(places), Arc::clone(&hub), clock.clone());
    let subscriptions =
        ServingReplica::alone(subscriptions.await.unwrap(), audit.clone(), &tasks, &mut registry);
    let ingress = Ingress::new(
        Arc::clone(&endpoints),
        Arc::clone(&log),
        clock.clone(),
        draining.clone(),
        TrustedProxies::default(),
        &mut registry,
    );
    let registrar = Arc::new(Registrar::new(
        endpoints,
        None,
        None,
        clock.clone(),
        None,
        &mut registry,
    ));
    let grpc = Grpc::new(
        Arc::clone(&hub),
        subscriptions.clone(),
        None,
        registrar,
        access,
        audit,
        clock,
        "",
        &mut registry,
    );
    let (routes, _health) = grpc.routes(AllowedOrigins::default()).await.unwrap();
    let (stop, follower) = (tasks.stop().clone(), Arc::clone(&hub));
    tasks.spawn(async move { follower.follow(stop).await });
    let ingress = Server::start(network::listen(INGRESS_PORT).await.unwrap(), ingress.router());
    let grpc = Server::start(network::listen(GRPC_PORT).await.unwrap(), routes.all);

    shared.drain.notified().await;
    draining.cancel();
    hub.drain();
    subscriptions.drain();
    tokio::join!(ingress.end(DRAIN_DEADLINE), grpc.end(DRAIN_DEADLINE));
    subscriptions.close().await;
    log.close().await;
    tasks.end().await;
}
