//! The composition root. Owns the wiring of one process, its start and its drain; the one place that names concrete
//! engines.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    access::{Access, TokenStore, Vouchers, shared::SharedTokenStore, sqlite::SqliteTokenStore},
    admin::{self, Readiness},
    audit::{Audit, AuditStore, shared::SharedAuditStore, sqlite::SqliteAuditStore},
    clock::Clock,
    config::{Config, LogEngine, values::is_loopback_url},
    console,
    data_dir::{DataDir, DataDirError},
    endpoints::{EndpointStore, Endpoints, shared::SharedEndpointStore, sqlite::SqliteEndpointStore},
    event::LogId,
    filter::Filter,
    grpc::{self, EventEncoder, Grpc, Replicas},
    hub::Hub,
    ingress::Ingress,
    limits,
    log::{
        Direction, EventLog, Limit, Range, Retention,
        jetstream::{JetStreamError, JetStreamLog},
        metrics::LogMetrics,
        sqlite::{OpenError, SqliteLog},
    },
    nats::{
        Nats,
        bucket::Bucket,
        lease::{Lease, Replica},
    },
    reconcile::Reconciler,
    registrar::Registrar,
    state_db::StoreError,
    subscriptions::{Parts, ServingReplica, Subscriptions, sqlite::SqliteSubscriptionStore},
    tasks::{self, Tasks},
    tls::{Reloader, Tls, TlsError, TlsFiles},
    transport::{
        self, BindError, Server, Terms,
        connections::{ConnectionMetrics, Connections},
    },
};

/// A running service.
pub struct Service {
    /// Where deliveries arrive.
    pub ingress_address: SocketAddr,
    /// Where backends connect.
    pub grpc_address: SocketAddr,
    /// Where operators look.
    pub admin_address: SocketAddr,
    ingress: Server,
    grpc: Server,
    admin: Server,
    hub: Arc<Hub>,
    subscriptions: ServingReplica,
    log: Arc<dyn EventLog>,
    draining: CancellationToken,
    reload: Arc<Notify>,
    tasks: Tasks,
    drain_deadline: Duration,
    _data_dir: DataDir,
}

/// Why a service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The log.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The log, where it is kept by NATS.
    #[error(transparent)]
    JetStream(#[from] JetStreamError),
    /// A file beside the log.
    #[error("{path} cannot be read")]
    State {
        /// The file.
        path: String,
        /// Why.
        source: StoreError,
    },
    /// What is kept where replicas share it.
    #[error("the endpoints and tokens in NATS cannot be read")]
    SharedState(#[source] StoreError),
    /// Where other replicas reach this one.
    #[error(
        "nothing says where other replicas reach this one: it listens on every address, and none is known that leads to {servers}. \
         Give --advertise-url"
    )]
    NoAddress {
        /// The NATS servers.
        servers: String,
    },
    /// A file of the configuration.
    #[error("{path} cannot be read")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A listener.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A listener's certificate.
    #[error("the {listener} listener cannot serve over TLS")]
    Tls {
        /// The listener.
        listener: &'static str,
        /// Why.
        source: TlsError,
    },
    /// The interface that was compiled in.
    #[error(transparent)]
    Interface(Box<dyn std::error::Error + Send + Sync>),
    /// The system.
    #[error("the system failed")]
    Io(#[from] std::io::Error),
}

impl Service {
    /// Starts everything: sockets first, so that a taken port is reported before the log is opened.
    pub async fn start(config: &Config, clock: Clock) -> Result<Self, StartError> {
        let ingress_listener = transport::bind(&config.ingress_listen, "ingress-listen").await?;
        let grpc_listener = transport::bind(&config.grpc_listen, "grpc-listen").await?;
        let admin_listener = transport::bind(&config.admin_listen, "admin-listen").await?;
        let ingress_address = ingress_listener.local_addr()?;
        let (grpc_address, admin_address) = (grpc_listener.local_addr()?, admin_listener.local_addr()?);

        let mut registry = Registry::with_prefix("hookstream");
        let mut certificates = Reloader::new(clock.clone(), &mut registry);
        let ingress_tls = load_tls(&mut certificates, "ingress", config.ingress_tls.as_ref())?;
        let grpc_tls = load_tls(&mut certificates, "grpc", config.grpc_tls.as_ref())?;
        let admin_tls = load_tls(&mut certificates, "admin", config.admin_tls.as_ref())?;
        let metrics = LogMetrics::registered(&mut registry);
        let (draining, tasks) = (CancellationToken::new(), Tasks::new());
        let path = config.data_dir.clone();
        let data_dir = tasks::blocking(move || DataDir::open(&path)).await??;
        let (log, nats) = open_engine(config, &data_dir, metrics).await?;
        let Stores {
            endpoints,
            tokens,
            audit,
        } = open_stores(config, &data_dir, nats.as_ref(), &tasks).await?;
        let replica = match &nats {
            Some(nats) => Some(replica(config, nats, &data_dir, grpc_address).await?),
            None => None,
        };
        let replicas = replica
            .as_ref()
            .map(|replica| replicas(config, replica, &clock))
            .transpose()?;
        let (endpoints, access) = {
            let (operator_token, clock) = (config.operator_token.clone(), clock.clone());
            let load = move || {
                let endpoints = Endpoints::load(endpoints, clock.clone())?;
                Ok((endpoints, Access::load(tokens, operator_token.as_ref(), clock)?))
            };
            let loaded = tasks::blocking(load).await?;
            let (endpoints, access) = loaded.map_err(|error| unreadable(&data_dir, nats.as_ref(), error))?;
            let access = match &replicas {
                Some(replicas) => access.with_vouchers(replicas.vouchers.clone()),
                None => access,
            };
            (Arc::new(endpoints), Arc::new(access))
        };
        let audit = Audit::new(audit, clock.clone());
        restore_last_deliveries(&endpoints, &*log).await;

        let encoder = EventEncoder::new(log.log_id()).map_err(|error| StartError::Interface(error.into()))?;
        let hub = Hub::new(Arc::clone(&log), Arc::new(encoder), &mut registry);
        let parts = Parts {
            hub: Arc::clone(&hub),
            audit: audit.clone(),
            clock: clock.clone(),
        };
        let shared = nats.as_ref().zip(replica.as_ref());
        let subscriptions = open_subscriptions(&data_dir, shared, parts, &tasks, &mut registry).await?;
        let ingress = Ingress::new(
            Arc::clone(&endpoints),
            Arc::clone(&log),
            clock.clone(),
            draining.clone(),
            config.trusted_proxies.clone(),
            &mut registry,
        );
        let reconciler = config.heygen.clone().map(|heygen| {
            let (endpoints, log, grace) = (Arc::clone(&endpoints), Arc::clone(&log), config.reconcile_grace);
            Arc::new(Reconciler::new(
                heygen,
                endpoints,
                log,
                clock.clone(),
                grace,
                config.retention.age,
                &mut registry,
            ))
        });
        let scheme = if ingress_tls.is_some() { "https" } else { "http" };
        let local_url = format!("{scheme}://{ingress_address}");
        let public_url = config.public_url.as_deref().unwrap_or(&local_url);
        let registrar = Arc::new(Registrar::new(
            endpoints,
            config.heygen.clone(),
            // A stand-in for HeyGen on this machine reaches the ingress as it is.
            config
                .public_url
                .as_deref()
                .or(config.heygen_is_local().then_some(&*local_url)),
            clock.clone(),
            reconciler.clone(),
            &mut registry,
        ));
        let service = Grpc::new(
            Arc::clone(&hub),
            subscriptions.clone(),
            replicas,
            Arc::clone(&registrar),
            Arc::clone(&access),
            audit.clone(),
            clock.clone(),
            public_url,
            &mut registry,
        );
        let (grpc_routes, health) = service
            .routes(config.allowed_origins.clone())
            .await
            .map_err(|error| StartError::Interface(error.into()))?;
        let ready = Gauge::default();
        registry.register(
            "ready",
            "1 while deliveries are taken and streams served, else 0",
            ready.clone(),
        );
        let size = Gauge::default();
        registry.register("log_size_bytes", "Size of the stored events", size.clone());
        let connections = ConnectionMetrics::registered(&mut registry);
        let terms = |listener, tls| Terms {
            connections: Connections::new(listener, config.trusted_proxies.clone(), &connections),
            tls,
            ..Terms::default()
        };
        let ingress_terms = Terms {
            idle_max: Some(limits::CONNECTION_IDLE_MAX),
            streams_max: limits::HTTP2_INGRESS_STREAMS_PER_CONNECTION_MAX,
            ..terms("ingress", ingress_tls)
        };
        let admin_terms = Terms {
            idle_max: Some(limits::CONNECTION_IDLE_MAX),
            ..terms("admin", admin_tls)
        };
        let readiness = Readiness::new(Arc::clone(&log), draining.clone());

        tasks.spawn({
            let (hub, stop) = (Arc::clone(&hub), tasks.stop().clone());
            async move { hub.follow(stop).await }
        });
        tasks.spawn({
            let stop = tasks.stop().clone();
            let retain = retain(Arc::clone(&log), config.retention, clock, size);
            async move {
                stop.run_until_cancelled(retain).await;
            }
        });
        if let Some(reconciler) = reconciler {
            let lease = match nats.as_ref().zip(replica) {
                Some((nats, replica)) => {
                    let lease = Lease::contend(nats, "heygen", replica, &tasks, tasks.stop().clone());
                    lease.await.map_err(JetStreamError::from)?
                }
                None => Lease::alone(),
            };
            let (stop, interval, held) = (tasks.stop().clone(), config.reconcile_interval, lease.clone());
            tasks.spawn(async move { reconciler.run(held, interval, stop).await });
            let (stop, interval) = (tasks.stop().clone(), config.heygen_check_interval);
            let secret_age_max = config.rotate_secrets_after;
            tasks.spawn(async move {
                registrar
                    .watch(lease, interval, secret_age_max, audit, stop)
                    .await
            });
        }
        tasks.spawn({
            let (stop, readiness) = (tasks.stop().clone(), readiness.clone());
            async move {
                stop.run_until_cancelled(report_health(readiness, health, ready))
                    .await;
            }
        });
        let reload = Arc::new(Notify::new());
        tasks.spawn({
            let (stop, run) = (tasks.stop().clone(), certificates.run(Arc::clone(&reload)));
            async move {
                stop.run_until_cancelled(run).await;
            }
        });
        Ok(Self {
            ingress_address,
            grpc_address,
            admin_address,
            ingress: Server::start_on(ingress_terms, ingress_listener, ingress.router()),
            grpc: Server::start_on(terms("grpc", grpc_tls), grpc_listener, grpc_routes.all),
            admin: Server::start_on(
                admin_terms,
                admin_listener,
                admin::router(readiness, Arc::new(registry), access)
                    .merge(console::router())
                    .merge(grpc_routes.beside_pages),
            ),
            hub,
            subscriptions,
            log,
            draining,
            reload,
            tasks,
            drain_deadline: config.drain_deadline,
            _data_dir: data_dir,
        })
    }

    /// Reads at once what is otherwise read again after a while: the files of certificates.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// Ends everything in order: no new deliveries, streams told to come back, calls ended, log closed. What has not ended
    /// by the deadline is cut off.
    pub async fn drain(self) {
        let deadline = Instant::now() + self.drain_deadline;
        let remaining = || deadline.saturating_duration_since(Instant::now());
        tracing::info!("draining: no new deliveries, streams are asked to reconnect");
        self.draining.cancel();
        self.hub.drain();
        self.subscriptions.drain();
        let (ingress, grpc) = tokio::join!(self.ingress.end(remaining()), self.grpc.end(remaining()));
        if ingress || grpc {
            tracing::warn!("some connections did not end within the drain deadline and were cut off");
        }
        self.admin.end(Duration::from_millis(100)).await;
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
        tracing::info!("drained");
    }
}

fn load_tls(
    certificates: &mut Reloader,
    listener: &'static str,
    files: Option<&TlsFiles>,
) -> Result<Option<Tls>, StartError> {
    files
        .map(|files| certificates.load(listener, files))
        .transpose()
        .map_err(|source| StartError::Tls { listener, source })
}

/// Where endpoints, tokens and the audit trail are kept.
const STATE_FILE: &str = "state.db";
/// Where the copy of a log is that is kept elsewhere. Never where a log is kept that is not.
const COPY_DIRECTORY: &str = "jetstream";
/// Where subscriptions are kept.
const SUBSCRIPTIONS_FILE: &str = "subscriptions.db";
/// What tells replicas apart.
const REPLICA_FILE: &str = "replica";

/// What is kept beside the log.
struct Stores {
    endpoints: Arc<dyn EndpointStore>,
    tokens: Arc<dyn TokenStore>,
    audit: Arc<dyn AuditStore>,
}

/// Opens the log alone, for as long as its data directory is held. The metrics of it are nobody's.
pub async fn open_log(config: &Config) -> Result<(Arc<dyn EventLog>, DataDir), StartError> {
    let path = config.data_dir.clone();
    let data_dir = tasks::blocking(move || DataDir::open(&path)).await??;
    let (log, _) = open_engine(config, &data_dir, LogMetrics::default()).await?;
    Ok((log, data_dir))
}

async fn open_engine(
    config: &Config,
    data_dir: &DataDir,
    metrics: LogMetrics,
) -> Result<(Arc<dyn EventLog>, Option<Nats>), StartError> {
    match &config.log {
        LogEngine::Sqlite => {
            let path = data_dir.path().to_owned();
            let mut last_report = std::time::Instant::now();
            let progress = move |done: u64, total: u64| {
                if last_report.elapsed() >= Duration::from_secs(1) {
                    last_report = std::time::Instant::now();
                    tracing::info!(done, total, "bringing the index up to date");
                }
            };
            let open = move || SqliteLog::open(&path, || LogId::new(rand::random()), metrics, progress);
            Ok((Arc::new(tasks::blocking(open).await??), None))
        }
        LogEngine::JetStream(settings) => {
            let copy = data_dir.directory(COPY_DIRECTORY)?;
            let nats = Nats::connect(settings).await.map_err(JetStreamError::from)?;
            let log = JetStreamLog::open(&nats, &copy, metrics).await?;
            Ok((Arc::new(log), Some(nats)))
        }
    }
}

/// Opens what is kept beside the log: in the data directory, or where all replicas share it.
async fn open_stores(
    config: &Config,
    data_dir: &DataDir,
    nats: Option<&Nats>,
    tasks: &Tasks,
) -> Result<Stores, StartError> {
    let (state, keys) = (data_dir.file(STATE_FILE), config.sealing_keys.clone());
    if let Some(nats) = nats {
        if state.exists() {
            tracing::warn!(
                file = %state.display(),
                "endpoints and tokens that were made with --log sqlite are not used with --log jetstream: make them anew"
            );
        }
        let failed = JetStreamError::from;
        let [endpoints, tokens] = ["ENDPOINTS", "TOKENS"].map(|part| Bucket::open(nats, part));
        let (endpoints, tokens) = (endpoints.await.map_err(failed)?, tokens.await.map_err(failed)?);
        return Ok(Stores {
            endpoints: Arc::new(SharedEndpointStore::new(endpoints, keys, tasks.clone())),
            tokens: Arc::new(SharedTokenStore::new(tokens, tasks.clone())),
            audit: Arc::new(SharedAuditStore::open(nats).await.map_err(failed)?),
        });
    }
    let open = move || {
        Ok(Stores {
            endpoints: Arc::new(SqliteEndpointStore::open(&state, keys)?),
            tokens: Arc::new(SqliteTokenStore::open(&state)?),
            audit: Arc::new(SqliteAuditStore::open(&state)?),
        })
    };
    let opened = tasks::blocking(open).await?;
    opened.map_err(|error| unreadable_file(data_dir, STATE_FILE, error))
}

/// The subscriptions: in the data directory, or where all replicas share them, served by one of these.
async fn open_subscriptions(
    data_dir: &DataDir,
    shared: Option<(&Nats, &Replica)>,
    parts: Parts,
    tasks: &Tasks,
    registry: &mut Registry,
) -> Result<ServingReplica, StartError> {
    let file = data_dir.file(SUBSCRIPTIONS_FILE);
    let Some((nats, replica)) = shared else {
        let failed = |error| unreadable_file(data_dir, SUBSCRIPTIONS_FILE, error);
        let opened = tasks::blocking(move || SqliteSubscriptionStore::open(&file)).await?;
        let store = Arc::new(opened.map_err(failed)?);
        let Parts { hub, audit, clock } = parts;
        let subscriptions = Subscriptions::load(store, hub, clock).await.map_err(failed)?;
        return Ok(ServingReplica::alone(subscriptions, audit, tasks, registry));
    };
    if file.exists() {
        tracing::warn!(
            file = %file.display(),
            "subscriptions that were made with --log sqlite are not used with --log jetstream: make them anew"
        );
    }
    let bucket = Bucket::open(nats, "SUBSCRIPTIONS")
        .await
        .map_err(JetStreamError::from)?;
    let end = CancellationToken::new();
    let lease = Lease::contend(nats, "subscriptions", replica.clone(), tasks, end.clone()).await;
    let lease = lease.map_err(JetStreamError::from)?;
    Ok(ServingReplica::shared(lease, end, bucket, parts, tasks, registry))
}

/// This replica, as the others are to know it.
async fn replica(
    config: &Config,
    nats: &Nats,
    data_dir: &DataDir,
    grpc_address: SocketAddr,
) -> Result<Replica, StartError> {
    let url = match &config.advertise_url {
        Some(url) => url.clone(),
        None => {
            let mut address = grpc_address;
            if address.ip().is_unspecified() {
                let servers = nats.settings.servers.clone();
                let towards_nats = nats.local_address().await;
                address.set_ip(towards_nats.ok_or(StartError::NoAddress { servers })?);
            }
            let scheme = if config.grpc_tls.is_some() {
                "https"
            } else {
                "http"
            };
            format!("{scheme}://{address}")
        }
    };
    if is_loopback_url(&url)
        && nats
            .local_address()
            .await
            .is_some_and(|address| !address.is_loopback())
    {
        tracing::warn!(
            url,
            "other replicas cannot reach this one, so subscriptions work only here while it serves them: let gRPC listen on an \
             address that they reach, or give --advertise-url"
        );
    }
    let path = data_dir.file(REPLICA_FILE);
    let unreadable = |source| StartError::File {
        path: data_dir.file(REPLICA_FILE).display().to_string(),
        source,
    };
    let id = tasks::blocking(move || replica_id(&path))
        .await?
        .map_err(unreadable)?;
    Ok(Replica { id, url })
}

/// What the replica of a data directory is called, however often it starts.
fn replica_id(path: &Path) -> std::io::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(id) if id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(id),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => {
            let id = format!("{:016x}", rand::random::<u64>());
            std::fs::write(path, &id)?;
            Ok(id)
        }
    }
}

/// How other replicas are asked, and believed.
fn replicas(config: &Config, replica: &Replica, clock: &Clock) -> Result<Replicas, StartError> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|source| StartError::File {
            path: path.display().to_string(),
            source,
        })
    };
    Ok(Replicas {
        vouchers: Vouchers::new(config.sealing_keys.clone(), replica.url.clone(), clock.clone()),
        authorities: config.advertise_ca_file.as_ref().map(read).transpose()?,
    })
}

/// Endpoints or tokens.
fn unreadable(data_dir: &DataDir, nats: Option<&Nats>, source: StoreError) -> StartError {
    match nats {
        None => unreadable_file(data_dir, STATE_FILE, source),
        Some(_) => StartError::SharedState(source),
    }
}

fn unreadable_file(data_dir: &DataDir, file: &str, source: StoreError) -> StartError {
    StartError::State {
        path: data_dir.file(file).display().to_string(),
        source,
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
