//! The service on a simulated network and disk: its own composition between simulated sockets and a simulated log. Owns one
//! life of the process, up to its drain or its crash.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt;
use hookstream::{
    clock::Clock,
    config::Config,
    endpoints::{Endpoints, NewEndpoint, sqlite::SqliteEndpointStore},
    sealing::SealingKeys,
    secret::Secret,
    service::{composition::Composition, engines::Ground},
    tasks::Tasks,
    traces::Traces,
    transport::Server,
};
use prometheus_client::registry::Registry;

use crate::{
    disk::{Disk, SimulatedLog, contents},
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
    let (log, writer) = SimulatedLog::open(disk).await;
    let disk_tasks = Tasks::new();
    disk_tasks.spawn_until_stop(writer);
    let found = contents(&*log).await;
    shared.history.lock().stored.push(found);

    let settings = [
        ("data-dir", directory.to_str().unwrap()),
        ("retention-age", "none"),
        ("retention-size", "none"),
    ];
    let config = Config::with(&settings).unwrap();
    let mut registry = Registry::default();
    let ground = Ground::new(log, RING_EVENTS_MAX, shared.clock(), Tasks::new(), &mut registry);
    let foundation = ground.unwrap().alone(&config, &mut registry).await.unwrap();
    let composition = Composition::start(&config, foundation, "", Traces::default(), &mut registry).await;
    let composition = composition.unwrap();
    let ingress = Server::start(
        network::listen(INGRESS_PORT).await.unwrap(),
        composition.ingress.clone(),
    );
    let grpc = Server::start(
        network::listen(GRPC_PORT).await.unwrap(),
        composition.grpc.all.clone(),
    );

    shared.drain.notified().await;
    let connections = async {
        tokio::join!(ingress.end(DRAIN_DEADLINE), grpc.end(DRAIN_DEADLINE));
    };
    composition.drain(connections).await;
    disk_tasks.end().await;
}
