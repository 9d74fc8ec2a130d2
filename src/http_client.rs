//! Calls to others over HTTP. Owns how a client is made; refuses to know who is called and what is said.

/// The beginning of every client: TLS by ring, and our name.
pub fn builder() -> reqwest::ClientBuilder {
    // One for the whole process: if there is one already, that one is used.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().user_agent(concat!("hookstream/", env!("CARGO_PKG_VERSION")))
}
