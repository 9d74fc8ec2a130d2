//! TLS of the client commands. Owns whom they trust, with which certificate they come, and what is said of a server that
//! is not trusted; refuses to know what is called.

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::Args;
use rustls::CertificateError;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::http_client;

/// Whose servers are trusted, where the URL is https.
#[derive(Args, Clone, Debug, Default)]
pub struct Trust {
    /// Trust https servers that these authorities vouch for (PEM), instead of the system's.
    #[arg(long, env = "HOOKSTREAM_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

impl Trust {
    /// What a command needs on its line to trust the same.
    pub fn flag(&self) -> String {
        flag("--ca-file", self.ca_file.as_deref())
    }

    /// Whether it is somebody else than whom the system trusts.
    pub fn is_given(&self) -> bool {
        self.ca_file.is_some()
    }

    /// An HTTP client that trusts so.
    pub fn http_client(&self) -> anyhow::Result<reqwest::ClientBuilder> {
        let builder = http_client::builder();
        Ok(match self.authorities()? {
            Some((_, authorities)) => builder.tls_certs_only(authorities),
            None => builder,
        })
    }

    fn authorities(&self) -> anyhow::Result<Option<(Vec<u8>, Vec<reqwest::Certificate>)>> {
        let Some(path) = &self.ca_file else {
            return Ok(None);
        };
        let pem = read(path)?;
        let found = reqwest::Certificate::from_pem_bundle(&pem).unwrap_or_default();
        if found.is_empty() {
            bail!(
                "{} holds no certificate: give the authority's, in PEM",
                path.display()
            );
        }
        Ok(Some((pem, found)))
    }
}

/// Who the command is, to a server that asks for a certificate.
#[derive(Args, Clone, Debug, Default)]
pub struct ClientIdentity {
    /// Come with this certificate (PEM) to an https server that asks for one.
    #[arg(
        long,
        env = "HOOKSTREAM_CLIENT_CERTIFICATE_FILE",
        value_name = "FILE",
        requires = "client_key_file"
    )]
    client_certificate_file: Option<PathBuf>,
    /// The private key of that certificate (PEM, unencrypted).
    #[arg(
        long,
        env = "HOOKSTREAM_CLIENT_KEY_FILE",
        value_name = "FILE",
        requires = "client_certificate_file"
    )]
    client_key_file: Option<PathBuf>,
}

impl ClientIdentity {
    /// What a command needs on its line to be the same.
    pub fn flag(&self) -> String {
        let certificate = flag(
            "--client-certificate-file",
            self.client_certificate_file.as_deref(),
        );
        certificate + &flag("--client-key-file", self.client_key_file.as_deref())
    }

    /// Whether there is a certificate.
    pub fn is_given(&self) -> bool {
        self.client_certificate_file.is_some()
    }

    /// What a gRPC channel over TLS needs.
    pub fn tls(&self, trust: &Trust) -> anyhow::Result<ClientTlsConfig> {
        let tls = match trust.authorities()? {
            Some((pem, _)) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        let (Some(certificate), Some(key)) = (&self.client_certificate_file, &self.client_key_file) else {
            return Ok(tls);
        };
        Ok(tls.identity(Identity::from_pem(read(certificate)?, read(key)?)))
    }
}

/// What to do about a TLS connection that did not come about; `None` if something else failed.
pub fn advice(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(of_rustls(error));
        }
        // What is wrapped in an I/O error is not among its sources.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

fn of_rustls(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate is not trusted: give --ca-file with the authority that issued it"
        }
        rustls::Error::InvalidCertificate(_) => "its certificate is not trusted",
        rustls::Error::InvalidMessage(_) => "it does not speak TLS: is its URL http:// rather than https://?",
        rustls::Error::AlertReceived(_) => {
            "it refused the TLS connection: is --client-certificate-file one that it trusts?"
        }
        _ => "the TLS connection failed",
    }
}

fn flag(name: &str, file: Option<&Path>) -> String {
    file.map(|file| format!(" {name} {}", file.display()))
        .unwrap_or_default()
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}
