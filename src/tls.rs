//! TLS for the listeners. Owns certificates: reading and replacing ours, and reading a client's; refuses to know what is
//! served and what a client's certificate allows.

mod certificate;
mod files;
mod reload;
#[cfg(test)]
mod tests;

use std::{io, path::PathBuf, sync::Arc};

use prometheus_client::metrics::counter::Counter;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

pub use self::{files::TlsError, reload::Reloader};
use crate::{limits, peer::ClientCertificate};

/// What makes a listener serve over TLS: files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, then its intermediates.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// The authorities that client certificates must chain to; `None` asks for no client certificate.
    pub client_ca: Option<PathBuf>,
}

/// The TLS of one listener. Clones serve the same certificate and turn to a new one together.
#[derive(Clone, Debug)]
pub struct Tls {
    serving: watch::Receiver<Arc<ServerConfig>>,
    failures: Counter,
}

/// A connection that did not become a TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The client is too slow.
    #[error("the handshake took too long")]
    TimedOut,
    /// The client speaks no TLS, too old a TLS, or has the wrong certificate.
    #[error(transparent)]
    Failed(#[from] io::Error),
    /// Its certificate chains to an authority, but says things we cannot read.
    #[error("the client's certificate cannot be read")]
    Certificate,
}

impl Tls {
    /// Makes a TLS connection of a socket, and tells which certificate the client proved to hold.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: S,
    ) -> Result<(TlsStream<S>, Option<Arc<ClientCertificate>>), HandshakeError> {
        let accepted = self.handshake(socket).await;
        if accepted.is_err() {
            self.failures.inc();
        }
        accepted
    }

    async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: S,
    ) -> Result<(TlsStream<S>, Option<Arc<ClientCertificate>>), HandshakeError> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.serving.borrow()));
        let handshake = timeout(limits::TLS_HANDSHAKE_TIMEOUT, acceptor.accept(socket));
        let stream = handshake.await.map_err(|_| HandshakeError::TimedOut)??;
        let (_, session) = stream.get_ref();
        let verified = session.peer_certificates().and_then(|chain| chain.first());
        let certificate = verified.map(|verified| certificate::read(verified)).transpose();
        let certificate = certificate.map_err(|_| HandshakeError::Certificate)?;
        Ok((
            stream,
            certificate.map(|certificate| Arc::new(certificate.into())),
        ))
    }
}
