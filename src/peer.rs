//! Who is at the other end of a connection. Owns the words for it; refuses to know how it was found out and what it allows.

use std::{net::SocketAddr, sync::Arc};

use jiff::Timestamp;

/// The other end of a connection. Every request carries it as an extension.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where the connection comes from.
    pub address: SocketAddr,
    /// The certificate it proved to hold; `None` without TLS, or where none was asked for.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// A client certificate that chains to an authority we trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject's alternative names, each with its kind: `uri:spiffe://…`, `dns:…`, `email:…`, `ip:…`.
    pub names: Vec<String>,
    /// When it ends.
    pub not_after: Timestamp,
}
