//! Sockets and HTTP. Owns accepting, connection limits and the orderly end of connections, the same for every listener;
//! refuses to know what is served.

mod activity;
pub mod connections;
mod opening;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::rt::Executor;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{either::Either, sync::CancellationToken};

use tower::ServiceExt;

use self::{
    activity::Activity,
    connections::{ConnectionMetrics, Connections},
};
use crate::{forwarded::TrustedProxies, limits, peer::Peer, tasks::Tasks, tls::Tls};

/// Where connections come from: the system, or a simulated network.
pub trait Listener: Send + Sync + 'static {
    /// A connection.
    type Socket: Socket;

    /// Waits for the next connection, and says from where it is.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Socket, SocketAddr)>> + Send;
}

/// The bytes of one connection.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Waits until there is something to read, or the end.
    fn readable(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

impl Listener for TcpListener {
    type Socket = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (socket, address) = TcpListener::accept(self).await?;
        // A small answer that waits for a larger one is late; if it cannot be set, it is.
        let _ = socket.set_nodelay(true);
        Ok((socket, address))
    }
}

impl Socket for TcpStream {
    async fn readable(&mut self) -> io::Result<()> {
        TcpStream::readable(self).await
    }
}

/// The terms on which a listener serves.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Its connections.
    pub connections: Connections,
    /// What it proves itself with; `None` for connections that are not encrypted.
    pub tls: Option<Tls>,
    /// How long a connection may go without a request that is open; `None` for as long as it answers pings.
    pub idle_max: Option<Duration>,
    /// HTTP/2 streams that a connection may have open.
    pub streams_max: u32,
}

impl Default for Terms {
    fn default() -> Self {
        let metrics = ConnectionMetrics::default();
        Self {
            connections: Connections::new("", TrustedProxies::default(), &metrics),
            tls: None,
            idle_max: None,
            streams_max: limits::HTTP2_STREAMS_PER_CONNECTION_MAX,
        }
    }
}

/// The connections of one listener.
#[derive(Clone, Debug)]
pub struct Server {
    tasks: Tasks,
    /// Ends what the orderly end has not ended.
    kill: CancellationToken,
}

/// Runs hyper's own tasks, one for each HTTP/2 stream, under the listener's owner.
#[derive(Clone, Debug)]
struct Owned(Server);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Owned {
    fn execute(&self, task: F) {
        let kill = self.0.kill.clone();
        self.0.tasks.spawn(async move {
            kill.run_until_cancelled_owned(task).await;
        });
    }
}

/// Binds a listener; the error names the address and what to do.
pub async fn bind(address: &str, flag: &str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError {
        address: address.to_owned(),
        flag: flag.to_owned(),
        source,
    })
}

/// A listener that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: choose another address with --{flag} (port 0 takes any free port)")]
pub struct BindError {
    address: String,
    flag: String,
    source: io::Error,
}

impl Server {
    /// Serves `router` on what `listener` accepts, until ended, on the usual terms.
    pub fn start(listener: impl Listener, router: Router) -> Self {
        Self::start_on(Terms::default(), listener, router)
    }

    /// Serves `router` on what `listener` accepts, until ended, on these terms.
    pub fn start_on(terms: Terms, listener: impl Listener, router: Router) -> Self {
        let server = Self {
            tasks: Tasks::new(),
            kill: CancellationToken::new(),
        };
        server
            .tasks
            .spawn(server.clone().accept(listener, router, Arc::new(terms)));
        server
    }

    async fn accept(self, listener: impl Listener, router: Router, terms: Arc<Terms>) {
        let connections = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
        let stop = self.tasks.stop().clone();
        let serve = async {
            loop {
                let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
                    return;
                };
                match listener.accept().await {
                    Ok((socket, address)) => {
                        let Some(admitted) = terms.connections.admit(address.ip()) else {
                            tracing::debug!(peer = %address, "too many connections of one address: closed");
                            continue;
                        };
                        let (server, router, terms) = (self.clone(), router.clone(), Arc::clone(&terms));
                        self.tasks.spawn(async move {
                            server.serve(socket, address, router, &terms).await;
                            drop((admitted, permit));
                        });
                    }
                    Err(error) => {
                        // Out of file descriptors, most likely: accepting again at once would spin.
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        };
        stop.run_until_cancelled(serve).await;
    }

    async fn serve(&self, mut socket: impl Socket, address: SocketAddr, router: Router, terms: &Terms) {
        let opening = async {
            // Until something comes, a connection costs no buffer.
            socket.readable().await?;
            let opened = match &terms.tls {
                None => (Either::Left(opening::open(socket).await?), None),
                Some(tls) => {
                    let (stream, certificate) = Box::pin(tls.accept(socket)).await?;
                    (Either::Right(Box::new(opening::open(stream).await?)), certificate)
                }
            };
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(opened)
        };
        let in_time = tokio::time::timeout(limits::HEAD_READ_TIMEOUT, opening);
        let (io, certificate) = match self.tasks.stop().run_until_cancelled(in_time).await {
            Some(Ok(Ok(opened))) => opened,
            Some(Err(_)) => return terms.connections.ended_silent(),
            Some(Ok(Err(error))) => {
                return tracing::debug!(peer = %address, %error, "a connection ended before its first request");
            }
            None => return,
        };
        let peer = Peer { address, certificate };
        // In a box of its own, so that a connection which says nothing does not take the memory of one that does.
        let exchange = Box::pin(self.exchange(io, peer, router, terms));
        if let Some(Err(error)) = self.kill.run_until_cancelled(exchange).await {
            tracing::debug!(peer = %address, error, "a connection ended early");
        }
    }

    /// Everything that is said on a connection.
    async fn exchange(
        &self,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Peer,
        router: Router,
        terms: &Terms,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let activity = Activity::begin();
        let (requests, is_watched) = (activity.clone(), terms.idle_max.is_some());
        let service = tower::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(peer.clone());
            let open = is_watched.then(|| requests.open());
            let answer = router.clone().oneshot(request);
            async {
                let response = answer.await?;
                Ok::<_, Infallible>(match open {
                    Some(open) => response.map(|body| Body::new(activity::Watched::new(body, open))),
                    None => response,
                })
            }
        });
        let builder = self.builder(terms);
        let service = TowerToHyperService::new(service);
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service));
        tokio::select! {
            result = connection.as_mut() => return result,
            () = self.tasks.stop().cancelled() => connection.as_mut().graceful_shutdown(),
            () = activity.idle(terms.idle_max) => {
                connection.as_mut().graceful_shutdown();
                let end = tokio::time::timeout(limits::CONNECTION_END_TIMEOUT, connection);
                return end.await.unwrap_or(Ok(()));
            }
        }
        connection.await
    }

    fn builder(&self, terms: &Terms) -> auto::Builder<Owned> {
        let mut builder = auto::Builder::new(Owned(self.clone()));
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits::HEAD_READ_TIMEOUT)
            .max_buf_size(limits::HEAD_BYTES_MAX)
            .max_headers(limits::HEADERS_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(terms.streams_max)
            .max_header_list_size(limits::HTTP2_HEADER_LIST_BYTES_MAX)
            .max_frame_size(limits::HTTP2_FRAME_BYTES_MAX)
            .max_send_buf_size(limits::HTTP2_SEND_BUFFER_BYTES_MAX)
            .initial_connection_window_size(limits::HTTP2_RECEIVE_WINDOW_BYTES)
            .initial_stream_window_size(limits::HTTP2_RECEIVE_WINDOW_BYTES)
            .max_pending_accept_reset_streams(limits::HTTP2_PENDING_RESETS_MAX)
            .max_local_error_reset_streams(limits::HTTP2_ERROR_RESETS_MAX)
            .keep_alive_interval(limits::HTTP2_KEEPALIVE_INTERVAL)
            .keep_alive_timeout(limits::HTTP2_KEEPALIVE_TIMEOUT);
        builder
    }

    /// Stops accepting, lets what is open end by itself until the deadline, then cuts it off. Whether it had to.
    pub async fn end(&self, deadline: Duration) -> bool {
        let cut_off = tokio::time::timeout(deadline, self.tasks.end()).await.is_err();
        self.kill.cancel();
        self.tasks.end().await;
        cut_off
    }
}
