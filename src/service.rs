//! The composition root. Owns the sockets of one process, its start and its drain; `engines` names the concrete engines,
//! `composition` wires what is the same with all of them, `copy` takes what one stores into another.

pub mod composition;
pub mod copy;
pub mod engines;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use tokio::{sync::Notify, time::Instant};

use crate::{
    admin,
    clock::Clock,
    config::Config,
    console,
    data_dir::{DataDir, DataDirError},
    limits,
    log::{jetstream::JetStreamError, sqlite::OpenError},
    state_db::StoreError,
    tasks::Tasks,
    tls::{Reloader, Tls, TlsError, TlsFiles},
    traces::Traces,
    transport::{
        self, BindError, Server, Terms,
        connections::{ConnectionMetrics, Connections},
    },
};
use composition::Composition;

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
    composition: Composition,
    reload: Arc<Notify>,
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
    /// There is none where one is to be read.
    #[error("there is no log in {0}")]
    NoLog(String),
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
    /// The collector of traces.
    #[error("--otlp-endpoint cannot be used")]
    Traces(#[from] opentelemetry_otlp::ExporterBuildError),
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
        let scheme = if ingress_tls.is_some() { "https" } else { "http" };
        let local_url = format!("{scheme}://{ingress_address}");

        let traces = match &config.traces {
            Some(settings) => Traces::to(settings, clock.clone())?,
            None => Traces::default(),
        };
        let tasks = Tasks::new();
        let (foundation, data_dir) =
            engines::open(config, clock, grpc_address, tasks.clone(), &mut registry).await?;
        let composition = Composition::start(config, foundation, &local_url, traces, &mut registry)
            .await
            .map_err(|error| StartError::Interface(error.into()))?;

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
        let operators = admin::router(
            composition.readiness.clone(),
            Arc::new(registry),
            Arc::clone(&composition.access),
        );
        let operators = operators
            .merge(console::router())
            .merge(composition.grpc.beside_pages.clone());
        let reload = Arc::new(Notify::new());
        tasks.spawn_until_stop(certificates.run(Arc::clone(&reload)));
        Ok(Self {
            ingress_address,
            grpc_address,
            admin_address,
            ingress: Server::start_on(ingress_terms, ingress_listener, composition.ingress.clone()),
            grpc: Server::start_on(
                terms("grpc", grpc_tls),
                grpc_listener,
                composition.grpc.all.clone(),
            ),
            admin: Server::start_on(admin_terms, admin_listener, operators),
            composition,
            reload,
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
        let connections = async {
            let (ingress, grpc) = tokio::join!(self.ingress.end(remaining()), self.grpc.end(remaining()));
            if ingress || grpc {
                tracing::warn!("some connections did not end within the drain deadline and were cut off");
            }
            self.admin.end(Duration::from_millis(100)).await;
        };
        self.composition.drain(connections).await;
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
