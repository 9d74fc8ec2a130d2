//! The connection to the NATS servers. Owns how it is made and what its loss means; refuses to know what is sent on it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use async_nats::{Client, ConnectOptions, Event, jetstream};
use tokio::{net::UdpSocket, sync::watch};

use super::{Nats, NatsError};
use crate::{limits, secret::Secret};

/// Where the log is, and as whom it is read and written.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The servers, separated by commas, such as `nats://10.0.0.1:4222,nats://10.0.0.2:4222`.
    pub servers: String,
    /// The name of the stream, and the first token of its subjects.
    pub stream: String,
    /// On how many servers the stream is to be kept; `None` for as many as there are, at most three.
    pub replicas: Option<usize>,
    /// A file with a user's JWT and seed.
    pub credentials_file: Option<PathBuf>,
    /// The seed of an nkey.
    pub nkey_seed: Option<Secret>,
    /// Authorities for the certificates of servers.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

impl Settings {
    /// Servers that ask nobody who he is, and a stream on as many of them as may be.
    pub fn open(servers: String, stream: String) -> Self {
        Self {
            servers,
            stream,
            replicas: None,
            credentials_file: None,
            nkey_seed: None,
            ca_file: None,
            client_certificate: None,
        }
    }
}

/// Connects, and goes on connecting for as long as the client lives. `connected` tells whether it is at the moment.
pub(super) async fn connect(settings: &Settings) -> Result<(Client, watch::Receiver<bool>), NatsError> {
    let (connected, is_connected) = watch::channel(true);
    let mut options = ConnectOptions::new()
        .name("hookstream")
        .connection_timeout(limits::NATS_CONNECT_TIMEOUT)
        .ping_interval(limits::NATS_PING_INTERVAL)
        .request_timeout(Some(limits::NATS_REQUEST_TIMEOUT))
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| {
            let delay = limits::NATS_RECONNECT_DELAY_MIN * u32::try_from(attempts.min(16)).unwrap_or(16);
            delay.min(limits::NATS_RECONNECT_DELAY_MAX)
        })
        .event_callback(move |event| {
            note(&event, &connected);
            std::future::ready(())
        });
    if let Some(path) = &settings.credentials_file {
        let unreadable = |source| NatsError::Credentials {
            path: path.clone(),
            source,
        };
        options = options.credentials_file(path).await.map_err(unreadable)?;
    }
    if let Some(seed) = &settings.nkey_seed {
        options = options.nkey(seed.expose().to_owned());
    }
    if let Some(path) = &settings.ca_file {
        options = options.add_root_certificates(path.clone()).require_tls(true);
    }
    if let Some((certificate, key)) = &settings.client_certificate {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    let client = options.connect(servers(settings)?).await;
    let client = client.map_err(|source| NatsError::Unreachable {
        servers: settings.servers.clone(),
        source,
    })?;
    Ok((client, is_connected))
}

/// JetStream over a connection.
pub(super) fn jetstream(client: Client) -> jetstream::Context {
    jetstream::ContextBuilder::new()
        .timeout(limits::NATS_REQUEST_TIMEOUT)
        .ack_timeout(limits::NATS_ACK_TIMEOUT)
        .max_ack_inflight(limits::APPEND_QUEUE_MAX)
        .backpressure_on_inflight(true)
        .build(client)
}

impl Nats {
    /// The address of this machine that packets to the servers leave from; `None` if none of them has an address.
    pub async fn local_address(&self) -> Option<IpAddr> {
        for server in servers(&self.settings).ok()? {
            let Ok(addresses) = tokio::net::lookup_host((server.host(), server.port())).await else {
                continue;
            };
            for address in addresses {
                let any = match address {
                    SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                    SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
                };
                // To connect a datagram socket sends nothing: it looks up the way.
                let Ok(socket) = UdpSocket::bind(any).await else {
                    continue;
                };
                if socket.connect(address).await.is_ok()
                    && let Ok(local) = socket.local_addr()
                {
                    return Some(local.ip());
                }
            }
        }
        None
    }
}

fn servers(settings: &Settings) -> Result<Vec<async_nats::ServerAddr>, NatsError> {
    let servers = settings.servers.split(',').map(|server| server.trim().parse());
    servers
        .collect::<Result<_, _>>()
        .map_err(|source| NatsError::Address {
            servers: settings.servers.clone(),
            source,
        })
}

fn note(event: &Event, connected: &watch::Sender<bool>) {
    match event {
        Event::Connected => {
            if !connected.send_replace(true) {
                tracing::info!("connected to NATS again");
            }
        }
        Event::Closed => {
            connected.send_replace(false);
        }
        Event::Disconnected => {
            if connected.send_replace(false) {
                tracing::warn!("the connection to NATS is lost; connecting again");
            }
        }
        // Said by what they lead to, if to anything.
        other => tracing::debug!(event = %other, "NATS"),
    }
}
