//! The parts between the sockets and the stores, wired: the same on a disk, in NATS, in a benchmark and in a simulation.
//! Owns their start, what they do from time to time and the order in which they end; refuses to know engines and sockets.

use std::sync::Arc;

use axum::Router;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    access::{Access, TokenStore},
    admin::Readiness,
    audit::{Audit, AuditStore},
    clock::Clock,
    config::Config,
    endpoints::{EndpointStore, Endpoints},
    filter::Filter,
    grpc::{self, Grpc, GrpcRoutes, Replicas},
    hub::Hub,
    ingress::Ingress,
    limits,
    log::{Direction, EventLog, Limit, Range, Retention},
    nats::lease::Lease,
    reconcile::Reconciler,
    registrar::Registrar,
    secret::Secret,
    state_db::StoreError,
    subscriptions::ServingReplica,
    tasks::Tasks,
    traces::Traces,
};

/// Where what is configured over the interface is kept.
#[derive(Clone)]
pub struct Stores {
    /// Endpoints and their secrets.
    pub endpoints: Arc<dyn EndpointStore>,
    /// Access tokens.
    pub tokens: Arc<dyn TokenStore>,
    /// Who did what.
    pub audit: Arc<dyn AuditStore>,
}

impl Stores {
    /// Reads what they hold. Blocks.
    pub fn load(self, operator_token: Option<&Secret>, clock: Clock) -> Result<State, StoreError> {
        Ok(State {
            endpoints: Arc::new(Endpoints::load(self.endpoints, clock.clone())?),
            access: Access::load(self.tokens, operator_token, clock.clone())?,
            audit: Audit::new(self.audit, clock),
        })
    }
}

/// What is configured over the interface, read.
pub struct State {
    /// The endpoints.
    pub endpoints: Arc<Endpoints>,
    /// Who may do what.
    pub access: Access,
    /// Who did what.
    pub audit: Audit,
}

/// What the composition stands on.
pub struct Foundation {
    /// The events.
    pub log: Arc<dyn EventLog>,
    /// The newest of them.
    pub hub: Arc<Hub>,
    /// The endpoints, tokens and audit trail.
    pub state: State,
    /// The subscriptions, served here or by another replica.
    pub subscriptions: ServingReplica,
    /// How other replicas are asked; `None` without any.
    pub replicas: Option<Replicas>,
    /// Held by the replica that looks after what is registered at HeyGen.
    pub heygen_lease: Lease,
    /// The time.
    pub clock: Clock,
    /// What runs on until the end.
    pub tasks: Tasks,
}

/// A service without its sockets: what answers on each, and what runs beside that.
pub struct Composition {
    /// Answers deliveries.
    pub ingress: Router,
    /// Answers gRPC.
    pub grpc: GrpcRoutes,
    /// Whether it takes deliveries and serves streams.
    pub readiness: Readiness,
    /// Who may do what.
    pub access: Arc<Access>,
    log: Arc<dyn EventLog>,
    hub: Arc<Hub>,
    subscriptions: ServingReplica,
    draining: CancellationToken,
    tasks: Tasks,
    traces: Traces,
}

impl Composition {
    /// Wires everything and starts what runs by itself. From this machine the ingress is reached at `local_url`.
    pub async fn start(
        config: &Config,
        foundation: Foundation,
        local_url: &str,
        traces: Traces,
        registry: &mut Registry,
    ) -> Result<Self, tonic_reflection::server::Error> {
        let Foundation {
            log,
            hub,
            state:
                State {
                    endpoints,
                    access,
                    audit,
                },
            subscriptions,
            replicas,
            heygen_lease,
            clock,
            tasks,
        } = foundation;
        let draining = CancellationToken::new();
        restore_last_deliveries(&endpoints, &*log).await;
        let access = Arc::new(match &replicas {
            Some(replicas) => access.with_vouchers(replicas.vouchers.clone()),
            None => access,
        });
        let ingress = Ingress::new(
            Arc::clone(&endpoints),
            Arc::clone(&log),
            clock.clone(),
            draining.clone(),
            config.trusted_proxies.clone(),
            traces.clone(),
            registry,
        );
        let reconciler = config.heygen.clone().map(|heygen| {
            Arc::new(Reconciler::new(
                heygen,
                Arc::clone(&endpoints),
                Arc::clone(&log),
                clock.clone(),
                config.reconcile_grace,
                config.retention.age,
                registry,
            ))
        });
        // A stand-in for HeyGen on this machine reaches the ingress as it is.
        let reached_locally = config.heygen_is_local().then_some(local_url);
        let registrar = Arc::new(Registrar::new(
            endpoints,
            config.heygen.clone(),
            config.public_url.as_deref().or(reached_locally),
            clock.clone(),
            reconciler.clone(),
            registry,
        ));
        let service = Grpc::new(
            Arc::clone(&hub),
            subscriptions.clone(),
            replicas,
            Arc::clone(&registrar),
            Arc::clone(&access),
            audit.clone(),
            clock.clone(),
            config.public_url.as_deref().unwrap_or(local_url),
            traces.clone(),
            registry,
        );
        let (grpc, health) = service.routes(config.allowed_origins.clone()).await?;
        let ready = Gauge::default();
        registry.register(
            "ready",
            "1 while deliveries are taken and streams served, else 0",
            ready.clone(),
        );
        let size = Gauge::default();
        registry.register("log_size_bytes", "Size of the stored events", size.clone());
        let readiness = Readiness::new(Arc::clone(&log), draining.clone());

        tasks.spawn({
            let (hub, stop) = (Arc::clone(&hub), tasks.stop().clone());
            async move { hub.follow(stop).await }
        });
        tasks.spawn_until_stop(retain(Arc::clone(&log), config.retention, clock, size));
        tasks.spawn_until_stop(report_health(readiness.clone(), health, ready));
        if let Some(reconciler) = reconciler {
            let (stop, interval, held) = (
                tasks.stop().clone(),
                config.reconcile_interval,
                heygen_lease.clone(),
            );
            tasks.spawn(async move { reconciler.run(held, interval, stop).await });
            let (stop, interval) = (tasks.stop().clone(), config.heygen_check_interval);
            let secret_age_max = config.rotate_secrets_after;
            tasks.spawn(async move {
                registrar
                    .watch(heygen_lease, interval, secret_age_max, audit, stop)
                    .await
            });
        }
        Ok(Self {
            ingress: ingress.router(),
            grpc,
            readiness,
            access,
            log,
            hub,
            subscriptions,
            draining,
            tasks,
            traces,
        })
    }

    /// Ends everything in order: no new deliveries, streams told to come back, then what `connections` waits for or cuts
    /// off, and the log last.
    pub async fn drain(self, connections: impl Future<Output = ()>) {
        self.draining.cancel();
        self.hub.drain();
        self.subscriptions.drain();
        connections.await;
        self.subscriptions.close().await;
        self.tasks.end().await;
        if tokio::time::timeout(limits::LOG_CLOSE_DEADLINE, self.log.close())
            .await
            .is_err()
        {
            tracing::warn!(
                "the log did not close in time; nothing is lost, the next start finishes its work"
            );
        }
        self.traces.close().await;
    }
}

/// The log knows when each endpoint last received something; duplicates since then are forgotten.
async fn restore_last_deliveries(endpoints: &Endpoints, log: &dyn EventLog) {
    for endpoint in endpoints.all() {
        let filter = Filter {
            endpoints: vec![endpoint.name.to_string()],
            ..Filter::default()
        };
        let bounds = log.bounds();
        let mut range = Range {
            after: bounds.trimmed,
            through: bounds.tail,
        };
        while range.after < range.through {
            let limit = Limit {
                events: 1,
                bytes: usize::MAX,
            };
            let Ok(chunk) = log.read(range, Direction::Backward, &filter, limit).await else {
                break;
            };
            if let Some(event) = chunk.events.first() {
                endpoint.delivered(event.event.received_at);
                break;
            }
            range.through = chunk.scanned;
        }
    }
}

async fn retain(log: Arc<dyn EventLog>, retention: Retention, clock: Clock, size: Gauge) {
    loop {
        match log.trim(retention, clock.now()).await {
            Ok(trimmed) if trimmed.events > 0 => {
                tracing::info!(events = trimmed.events, "retention removed events");
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "retention failed; trying again later"),
        }
        size.set(log.size_bytes().cast_signed());
        tokio::time::sleep(limits::RETENTION_INTERVAL).await;
    }
}

async fn report_health(mut readiness: Readiness, reporter: HealthReporter, ready: Gauge) {
    loop {
        let is_ready = readiness.now().is_ok();
        ready.set(is_ready.into());
        let status = if is_ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        reporter.set_service_status(grpc::SERVICE_NAME, status).await;
        reporter.set_service_status("", status).await;
        if readiness.is_draining() {
            return;
        }
        readiness.changed().await;
    }
}
