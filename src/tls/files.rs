//! What the files hold. Owns reading them, and which of them a listener can serve with; refuses to know when they are read.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use jiff::Timestamp;
use rustls::{
    InconsistentKeys, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use sha2::{Digest, Sha256};

use super::{
    TlsFiles,
    certificate::{self, Certificate},
};
use crate::limits;

/// Why a listener cannot serve with its files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, or not ours to read.
    #[error("{path} cannot be read: give a file that exists and that this user may read")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// No certificate is that long.
    #[error(
        "{path} is larger than {} bytes: give a PEM file with nothing else in it",
        limits::TLS_FILE_BYTES_MAX
    )]
    TooLarge {
        /// The file.
        path: String,
    },
    /// Not PEM. What it holds is not shown: it may be a key.
    #[error("{path} is damaged: a PEM block in it has no end, or is not base64")]
    Damaged {
        /// The file.
        path: String,
    },
    /// No certificate.
    #[error(
        "{path} holds no certificate: give a PEM file, for a server its own certificate first, then intermediates"
    )]
    NoCertificate {
        /// The file.
        path: String,
    },
    /// The first certificate is not one.
    #[error("the first certificate in {path} cannot be read: give an X.509 certificate in PEM")]
    BadCertificate {
        /// The file.
        path: String,
    },
    /// No key.
    #[error("{path} holds no private key: give it unencrypted in PEM (PKCS#8, PKCS#1 or SEC1)")]
    NoKey {
        /// The file.
        path: String,
    },
    /// A key of a kind that is not known.
    #[error(
        "the key in {path} cannot be used: give an RSA key of 2048 bits or more, ECDSA P-256 or P-384, or Ed25519"
    )]
    BadKey {
        /// The file.
        path: String,
        /// Why.
        source: rustls::Error,
    },
    /// Key and certificate do not belong together.
    #[error(
        "the key in {key} does not belong to the first certificate in {certificate}: give the key it was issued for, and \
         the server's own certificate before its intermediates"
    )]
    Mismatch {
        /// The certificate's file.
        certificate: String,
        /// The key's file.
        key: String,
    },
    /// A certificate that has ended, in place of one that may not have.
    #[error("the certificate in {path} has expired at {not_after}: renew it")]
    Expired {
        /// The file.
        path: String,
        /// When it ended.
        not_after: Timestamp,
    },
    /// An authority that cannot be one.
    #[error("an authority in {path} cannot be used: give X.509 certificates in PEM")]
    BadAuthority {
        /// The file.
        path: String,
        /// Why.
        source: rustls::Error,
    },
    /// TLS itself.
    #[error("TLS cannot be set up")]
    Unsupported(#[from] rustls::Error),
}

/// What a listener can serve with.
pub(super) struct Loaded {
    pub(super) serving: Arc<ServerConfig>,
    pub(super) certificate: Certificate,
}

/// The bytes of a listener's files, or why there are none.
pub(super) struct Contents {
    certificate: Result<Vec<u8>, TlsError>,
    key: Result<Vec<u8>, TlsError>,
    client_ca: Option<Result<Vec<u8>, TlsError>>,
}

impl Contents {
    /// Reads the files. Blocks.
    pub(super) fn read(files: &TlsFiles) -> Self {
        Self {
            certificate: bytes(&files.certificate),
            key: bytes(&files.key),
            client_ca: files.client_ca.as_deref().map(bytes),
        }
    }

    /// Differs whenever the contents do, or the reason why there are none.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut all = Sha256::new();
        for content in [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()] {
            let one = match content {
                Some(Ok(bytes)) => Sha256::digest(bytes),
                Some(Err(error)) => Sha256::digest(format!("{error:?}")),
                None => Sha256::digest([]),
            };
            all.update(one);
        }
        all.finalize().into()
    }

    /// What can be served with them.
    pub(super) fn load(self, files: &TlsFiles) -> Result<Loaded, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates(&self.certificate?, &files.certificate)?;
        let leaf = chain.first().map(|leaf| certificate::read(leaf));
        let Some(Ok(certificate)) = leaf else {
            let path = named(&files.certificate);
            return Err(TlsError::BadCertificate { path });
        };
        let key = certified_key(chain, &self.key?, files, &provider)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions()?;
        let resolver = Arc::new(SingleCertAndKey::from(key));
        let mut serving = match (self.client_ca, &files.client_ca) {
            (Some(pem), Some(path)) => {
                let roots = Arc::new(authorities(&pem?, path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    // Who has no certificate may have a token.
                    .allow_unauthenticated()
                    .build()
                    .map_err(|_| TlsError::NoCertificate { path: named(path) })?;
                let mut serving = builder
                    .with_client_cert_verifier(verifier)
                    .with_cert_resolver(resolver);
                // A session that goes on is not verified again, and would outlive the client's certificate.
                serving.session_storage = Arc::new(NoServerSessionStorage {});
                serving.send_tls13_tickets = 0;
                serving
            }
            _ => builder.with_no_client_auth().with_cert_resolver(resolver),
        };
        serving.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Loaded {
            serving: Arc::new(serving),
            certificate,
        })
    }
}

fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    pem: &[u8],
    files: &TlsFiles,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let path = named(&files.key);
    let key = match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => key,
        Err(pem::Error::NoItemsFound) => return Err(TlsError::NoKey { path }),
        Err(_) => return Err(TlsError::Damaged { path }),
    };
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::Mismatch {
            certificate: named(&files.certificate),
            key: path,
        },
        rustls::Error::InvalidCertificate(_) => TlsError::BadCertificate {
            path: named(&files.certificate),
        },
        source => TlsError::BadKey { path, source },
    })
}

fn authorities(pem: &[u8], path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, path)? {
        roots.add(certificate).map_err(|source| TlsError::BadAuthority {
            path: named(path),
            source,
        })?;
    }
    Ok(roots)
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(certificates) if certificates.is_empty() => Err(TlsError::NoCertificate { path: named(path) }),
        Ok(certificates) => Ok(certificates),
        Err(_) => Err(TlsError::Damaged { path: named(path) }),
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(limits::TLS_FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 > limits::TLS_FILE_BYTES_MAX => {
            Err(TlsError::TooLarge { path: named(path) })
        }
        Ok(_) => Ok(bytes),
        Err(source) => Err(TlsError::Unreadable {
            path: named(path),
            source,
        }),
    }
}

fn named(path: &Path) -> String {
    path.display().to_string()
}
