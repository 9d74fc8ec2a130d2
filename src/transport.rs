//! Sockets and HTTP. Owns accepting, connection limits and the orderly end of connections, the same for every listener;
//! refuses to know what is served.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::rt::Executor;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{either::Either, sync::CancellationToken};

use tower::ServiceExt;

use crate::{limits, peer::Peer, tasks::Tasks, tls::Tls};

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
    /// Serves `router` on what `listener` accepts, over TLS if there is one, until ended.
    pub fn start(listener: TcpListener, tls: Option<Tls>, router: Router) -> Self {
        let server = Self {
            tasks: Tasks::new(),
            kill: CancellationToken::new(),
        };
        server.tasks.spawn(server.clone().accept(listener, tls, router));
        server
    }

    async fn accept(self, listener: TcpListener, tls: Option<Tls>, router: Router) {
        let connections = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
        let stop = self.tasks.stop().clone();
        let serve = async {
            loop {
                let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
                    return;
                };
                match listener.accept().await {
                    Ok((socket, peer)) => {
                        let (server, tls, router) = (self.clone(), tls.clone(), router.clone());
                        self.tasks.spawn(async move {
                            server.serve(socket, peer, tls, router).await;
                            drop(permit);
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

    async fn serve(&self, socket: TcpStream, address: SocketAddr, tls: Option<Tls>, router: Router) {
        let _ = socket.set_nodelay(true);
        let (socket, certificate) = match tls {
            None => (Either::Left(socket), None),
            Some(tls) => {
                // In boxes, so that a connection without TLS does not take their room.
                let handshake = Box::pin(tls.accept(socket));
                match self.tasks.stop().run_until_cancelled(handshake).await {
                    Some(Ok((stream, certificate))) => (Either::Right(Box::new(stream)), certificate),
                    Some(Err(error)) => {
                        return tracing::debug!(peer = %address, %error, "a TLS handshake failed");
                    }
                    None => return,
                }
            }
        };
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
            .max_concurrent_streams(limits::HTTP2_STREAMS_PER_CONNECTION_MAX)
            .max_header_list_size(limits::HTTP2_HEADER_LIST_BYTES_MAX)
            .keep_alive_interval(limits::HTTP2_KEEPALIVE_INTERVAL)
            .keep_alive_timeout(limits::HTTP2_KEEPALIVE_TIMEOUT);
        let peer = Peer { address, certificate };
        let service = router.map_request(move |mut request: http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(peer.clone());
            request
        });
        let service = TowerToHyperService::new(service);
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(socket), service));
        let orderly = async {
            tokio::select! {
                result = connection.as_mut() => return result,
                () = self.tasks.stop().cancelled() => connection.as_mut().graceful_shutdown(),
            }
            connection.await
        };
        if let Some(Err(error)) = self.kill.run_until_cancelled(orderly).await {
            tracing::debug!(peer = %address, error, "a connection ended early");
        }
    }

    /// Stops accepting, lets what is open end by itself until the deadline, then cuts it off. Whether it had to.
    pub async fn end(&self, deadline: Duration) -> bool {
        let cut_off = tokio::time::timeout(deadline, self.tasks.end()).await.is_err();
        self.kill.cancel();
        self.tasks.end().await;
        cut_off
    }
}
