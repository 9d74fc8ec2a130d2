//! The concrete engines: which log, which stores beside it, and which replica this is, as the configuration says. Owns where
//! each has its file; refuses to know what is built on them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::{
    StartError,
    composition::{Foundation, State, Stores},
    copy::{Kept, Side},
};
use crate::{
    access::{Vouchers, shared::SharedTokenStore, sqlite::SqliteTokenStore},
    audit::{shared::SharedAuditStore, sqlite::SqliteAuditStore},
    clock::Clock,
    config::{Config, LogEngine, values::is_loopback_url},
    data_dir::{DataDir, DataDirError},
    endpoints::{shared::SharedEndpointStore, sqlite::SqliteEndpointStore},
    event::LogId,
    grpc::{EventEncoder, Replicas},
    hub::Hub,
    limits,
    log::{
        EventLog,
        jetstream::{JetStreamError, JetStreamLog},
        metrics::LogMetrics,
        sqlite::SqliteLog,
    },
    nats::{
        Nats,
        bucket::Bucket,
        lease::{Lease, Replica},
    },
    sealing::SealingKeys,
    state_db::StoreError,
    subscriptions::{
        Parts, ServingReplica, Subscriptions, shared::SharedSubscriptionStore,
        sqlite::SqliteSubscriptionStore,
    },
    tasks::{self, Tasks},
};

/// Where the events are, unless they are kept elsewhere.
const LOG_FILE: &str = "log.db";
/// Where endpoints, tokens and the audit trail are kept.
const STATE_FILE: &str = "state.db";
/// Where the copy of a log is that is kept elsewhere. Never where a log is kept that is not.
const COPY_DIRECTORY: &str = "jetstream";
/// Where subscriptions are kept.
const SUBSCRIPTIONS_FILE: &str = "subscriptions.db";
/// Held by the replica that serves the subscriptions.
const SUBSCRIPTIONS_LEASE: &str = "subscriptions";
/// What tells replicas apart.
const REPLICA_FILE: &str = "replica";

/// Opens everything that the configuration names, in its data directory, which is held from now on, or in NATS.
pub async fn open(
    config: &Config,
    clock: Clock,
    grpc_address: SocketAddr,
    tasks: Tasks,
    registry: &mut Registry,
) -> Result<(Foundation, DataDir), StartError> {
    let metrics = LogMetrics::registered(registry);
    let data_dir = open_data_dir(config).await?;
    let (log, nats) = open_engine(config, &data_dir, metrics).await?;
    let ground = Ground::new(log, limits::RING_EVENTS_MAX, clock, tasks, registry)?;
    let foundation = match nats {
        None => ground.alone(config, registry).await?,
        Some(nats) => {
            let replica = replica(config, &nats, &data_dir, grpc_address).await?;
            ground.shared(config, &nats, replica, registry).await?
        }
    };
    Ok((foundation, data_dir))
}

/// What a service stores, without the service. The metrics of it are nobody's.
pub struct Storage {
    /// The events.
    pub log: Arc<dyn EventLog>,
    /// What is kept beside them; `None` while a service runs, which may change it at any moment.
    kept: Option<Kept>,
    tasks: Tasks,
    _data_dir: Option<DataDir>,
}

impl Storage {
    /// The log alone, to be written, in a data directory that no service uses.
    pub async fn of_log(config: &Config) -> Result<Self, StartError> {
        Self::open_log(config).await.map(|(storage, _)| storage)
    }

    /// All of it, to be written. What there is not is made.
    pub async fn open(config: &Config) -> Result<Self, StartError> {
        let (mut storage, nats) = Self::open_log(config).await?;
        storage.kept = match nats {
            None => Some(kept_in(config).await?),
            Some(nats) => kept_by(config, &nats, &storage.tasks).await?,
        };
        Ok(storage)
    }

    /// What there is, to be read.
    pub async fn open_to_read(config: &Config) -> Result<Self, StartError> {
        let directory = config.data_dir.clone();
        match &config.log {
            LogEngine::Sqlite => {
                if !directory.join(LOG_FILE).exists() {
                    return Err(StartError::NoLog(directory.display().to_string()));
                }
                match Self::open(config).await {
                    Err(StartError::DataDir(DataDirError::InUse(_))) => {}
                    opened => return opened,
                }
                let open = move || SqliteLog::open_beside_writer(&directory);
                Ok(Self::new(Arc::new(tasks::blocking(open).await??), None))
            }
            LogEngine::JetStream(settings) => {
                let nats = Nats::connect(settings).await.map_err(JetStreamError::from)?;
                if nats.lacks_stream().await {
                    let (stream, servers) = (&settings.stream, &settings.servers);
                    return Err(StartError::NoLog(format!("a stream {stream} of {servers}")));
                }
                Self::open(config).await
            }
        }
    }

    async fn open_log(config: &Config) -> Result<(Self, Option<Nats>), StartError> {
        let data_dir = open_data_dir(config).await?;
        let (log, nats) = open_engine(config, &data_dir, LogMetrics::default()).await?;
        Ok((Self::new(log, Some(data_dir)), nats))
    }

    fn new(log: Arc<dyn EventLog>, data_dir: Option<DataDir>) -> Self {
        Self {
            log,
            kept: None,
            tasks: Tasks::new(),
            _data_dir: data_dir,
        }
    }

    /// All of it, as one side of a copy.
    pub fn side(&self) -> Option<Side> {
        let kept = self.kept.clone()?;
        let log = Arc::clone(&self.log);
        Some(Side { log, kept })
    }

    /// Completes what was accepted and lets go of it.
    pub async fn close(self) {
        self.log.close().await;
        self.tasks.end().await;
    }
}

/// What is kept beside the log in a data directory, which is held.
async fn kept_in(config: &Config) -> Result<Kept, StartError> {
    let (state, keys) = (config.data_dir.join(STATE_FILE), config.sealing_keys.clone());
    let subscriptions = config.data_dir.join(SUBSCRIPTIONS_FILE);
    let open = move || {
        Ok(Kept {
            stores: stores_in(&state, keys).map_err(|error| unreadable(&state, error))?,
            subscriptions: Arc::new(
                SqliteSubscriptionStore::open(&subscriptions)
                    .map_err(|error| unreadable(&subscriptions, error))?,
            ),
        })
    };
    tasks::blocking(open).await?
}

/// What is kept in NATS, if no replica serves from it: whoever holds the lease of the subscriptions may change them.
async fn kept_by(config: &Config, nats: &Nats, tasks: &Tasks) -> Result<Option<Kept>, StartError> {
    let failed = JetStreamError::from;
    let copier = Replica {
        id: format!("{:016x}", rand::random::<u64>()),
        url: "copy".to_owned(),
    };
    let end = tasks.stop().clone();
    let mut lease = Lease::contend(nats, SUBSCRIPTIONS_LEASE, copier, tasks, end)
        .await
        .map_err(failed)?;
    // That of a replica which was killed lapses.
    let patience = limits::LEASE_DURATION + 2 * limits::LEASE_INTERVAL;
    if !lease.is_held() && tokio::time::timeout(patience, lease.taken()).await.is_err() {
        return Ok(None);
    }
    let subscriptions = Bucket::open(nats, "SUBSCRIPTIONS").await.map_err(failed)?;
    Ok(Some(Kept {
        stores: shared_stores(nats, config.sealing_keys.clone(), tasks).await?,
        subscriptions: Arc::new(SharedSubscriptionStore::new(subscriptions)),
    }))
}

/// What is configured over the interface, where replicas share it.
async fn shared_stores(nats: &Nats, keys: SealingKeys, tasks: &Tasks) -> Result<Stores, StartError> {
    let failed = JetStreamError::from;
    let [endpoints, tokens] = ["ENDPOINTS", "TOKENS"].map(|part| Bucket::open(nats, part));
    Ok(Stores {
        endpoints: Arc::new(SharedEndpointStore::new(
            endpoints.await.map_err(failed)?,
            keys,
            tasks.clone(),
        )),
        tokens: Arc::new(SharedTokenStore::new(
            tokens.await.map_err(failed)?,
            tasks.clone(),
        )),
        audit: Arc::new(SharedAuditStore::open(nats).await.map_err(failed)?),
    })
}

async fn open_data_dir(config: &Config) -> Result<DataDir, StartError> {
    let path = config.data_dir.clone();
    Ok(tasks::blocking(move || DataDir::open(&path)).await??)
}

/// The log, and the connection to NATS where that keeps it.
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

/// A log, on which the rest is opened.
pub struct Ground {
    log: Arc<dyn EventLog>,
    hub: Arc<Hub>,
    clock: Clock,
    tasks: Tasks,
}

impl Ground {
    /// This log, of which the newest `ring_events_max` events are kept in memory.
    pub fn new(
        log: Arc<dyn EventLog>,
        ring_events_max: usize,
        clock: Clock,
        tasks: Tasks,
        registry: &mut Registry,
    ) -> Result<Self, StartError> {
        let encoder = EventEncoder::new(log.log_id()).map_err(|error| StartError::Interface(error.into()))?;
        let hub = Hub::new(Arc::clone(&log), Arc::new(encoder), registry, ring_events_max);
        Ok(Self {
            log,
            hub,
            clock,
            tasks,
        })
    }

    /// Opens what is beside the log in the data directory, for a service without other replicas.
    pub async fn alone(self, config: &Config, registry: &mut Registry) -> Result<Foundation, StartError> {
        let path = config.data_dir.join(STATE_FILE);
        let failed = |source| unreadable(&path, source);
        let load = {
            let (path, keys) = (path.clone(), config.sealing_keys.clone());
            let (operator_token, clock) = (config.operator_token.clone(), self.clock.clone());
            move || stores_in(&path, keys)?.load(operator_token.as_ref(), clock)
        };
        let state = tasks::blocking(load).await?.map_err(failed)?;
        let path = config.data_dir.join(SUBSCRIPTIONS_FILE);
        let failed = |source| unreadable(&path, source);
        let open = {
            let path = path.clone();
            move || SqliteSubscriptionStore::open(&path)
        };
        let store = Arc::new(tasks::blocking(open).await?.map_err(failed)?);
        let subscriptions = Subscriptions::load(store, Arc::clone(&self.hub), self.clock.clone())
            .await
            .map_err(failed)?;
        let subscriptions = ServingReplica::alone(subscriptions, state.audit.clone(), &self.tasks, registry);
        Ok(self.with(state, subscriptions, None, Lease::alone()))
    }

    /// Opens what replicas share in NATS.
    async fn shared(
        self,
        config: &Config,
        nats: &Nats,
        replica: Replica,
        registry: &mut Registry,
    ) -> Result<Foundation, StartError> {
        for file in [STATE_FILE, SUBSCRIPTIONS_FILE] {
            let file = config.data_dir.join(file);
            if file.exists() {
                tracing::warn!(
                    file = %file.display(),
                    "what was made with --log sqlite is not used with --log jetstream: `hookstream log copy` takes it over"
                );
            }
        }
        let failed = JetStreamError::from;
        let stores = shared_stores(nats, config.sealing_keys.clone(), &self.tasks).await?;
        let (operator_token, clock) = (config.operator_token.clone(), self.clock.clone());
        let loaded = tasks::blocking(move || stores.load(operator_token.as_ref(), clock)).await?;
        let state = loaded.map_err(StartError::SharedState)?;
        let parts = Parts {
            hub: Arc::clone(&self.hub),
            audit: state.audit.clone(),
            clock: self.clock.clone(),
        };
        let bucket = Bucket::open(nats, "SUBSCRIPTIONS").await.map_err(failed)?;
        let contend = |name, end| Lease::contend(nats, name, replica.clone(), &self.tasks, end);
        let end = CancellationToken::new();
        let lease = contend(SUBSCRIPTIONS_LEASE, end.clone()).await.map_err(failed)?;
        let subscriptions = ServingReplica::shared(lease, end, bucket, parts, &self.tasks, registry);
        let heygen_lease = if config.heygen.is_some() {
            let end = self.tasks.stop().clone();
            contend("heygen", end).await.map_err(failed)?
        } else {
            Lease::alone()
        };
        let replicas = replicas(config, &replica, &self.clock)?;
        Ok(self.with(state, subscriptions, Some(replicas), heygen_lease))
    }

    fn with(
        self,
        state: State,
        subscriptions: ServingReplica,
        replicas: Option<Replicas>,
        heygen_lease: Lease,
    ) -> Foundation {
        Foundation {
            log: self.log,
            hub: self.hub,
            state,
            subscriptions,
            replicas,
            heygen_lease,
            clock: self.clock,
            tasks: self.tasks,
        }
    }
}

/// What is configured over the interface, in the file at `path`, which is made if there is none. Blocks.
fn stores_in(path: &Path, keys: SealingKeys) -> Result<Stores, StoreError> {
    Ok(Stores {
        endpoints: Arc::new(SqliteEndpointStore::open(path, keys)?),
        tokens: Arc::new(SqliteTokenStore::open(path)?),
        audit: Arc::new(SqliteAuditStore::open(path)?),
    })
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

fn unreadable(path: &Path, source: StoreError) -> StartError {
    StartError::State {
        path: path.display().to_string(),
        source,
    }
}
