//! Simulated sockets in the shape that the service and its clients take them. Owns the adapters; decides nothing.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use hookstream::transport::{Listener, Socket};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use turmoil::net::{TcpListener, TcpStream};

pub const SERVER: &str = "server";
pub const INGRESS_PORT: u16 = 8080;
pub const GRPC_PORT: u16 = 50051;

/// Listens on a port of the host that this runs on.
pub async fn listen(port: u16) -> io::Result<SimulatedListener> {
    Ok(SimulatedListener(TcpListener::bind(("0.0.0.0", port)).await?))
}

/// Connects to a port of the server.
pub async fn connect(port: u16) -> io::Result<TokioIo<TcpStream>> {
    Ok(TokioIo::new(TcpStream::connect((SERVER, port)).await?))
}

/// A gRPC connection to the server.
pub async fn channel(endpoint: Endpoint) -> Result<Channel, tonic::transport::Error> {
    let connector = service_fn(|_| connect(GRPC_PORT));
    endpoint.connect_with_connector(connector).await
}

pub struct SimulatedListener(TcpListener);

pub struct SimulatedSocket(TcpStream);

impl Listener for SimulatedListener {
    type Socket = SimulatedSocket;

    async fn accept(&self) -> io::Result<(SimulatedSocket, SocketAddr)> {
        let (socket, address) = self.0.accept().await?;
        Ok((SimulatedSocket(socket), address))
    }
}

impl Socket for SimulatedSocket {
    async fn readable(&mut self) -> io::Result<()> {
        self.0.peek(&mut [0]).await.map(drop)
    }
}

impl AsyncRead for SimulatedSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for SimulatedSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
