//! Claims about certificates: which files are served with, when they are replaced, and who gets through the handshake.

#[path = "../../tests/service/authority.rs"]
mod authority;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::{encoding::text, registry::Registry};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsConnector, client};

use self::authority::{Authority, Issued};
use super::*;
use crate::{clock::Clock, limits, tasks};

/// A listener's files, and what is served with them.
struct Listener {
    directory: TempDir,
    authority: Authority,
    files: TlsFiles,
    reloader: Reloader,
    registry: Registry,
    now: Arc<Mutex<Timestamp>>,
}

impl Listener {
    fn new() -> Self {
        let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new("ours"));
        let issued = authority.server("first.example.com", 2099);
        let (certificate, key) = issued.write(directory.path(), "server");
        let now = Arc::new(Mutex::new("2026-01-01T00:00:00Z".parse().unwrap()));
        let clock = Clock::new({
            let now = Arc::clone(&now);
            move || *now.lock()
        });
        let mut registry = Registry::with_prefix("hookstream");
        let reloader = Reloader::new(clock, &mut registry);
        let files = TlsFiles {
            certificate,
            key,
            client_ca: None,
        };
        Self {
            directory,
            authority,
            files,
            reloader,
            registry,
            now,
        }
    }

    /// One that asks for client certificates.
    fn mutual() -> Self {
        let mut listener = Self::new();
        let authorities = listener.write("clients.pem", &listener.authority.pem());
        listener.files.client_ca = Some(authorities);
        listener
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn replace(&self, issued: &Issued) {
        issued.write(self.directory.path(), "server");
    }

    fn load(&mut self) -> Tls {
        self.reloader.load("grpc", &self.files).unwrap()
    }

    /// Why it cannot serve; the error and its sources.
    fn refusal(&mut self) -> String {
        let error = self.reloader.load("grpc", &self.files).err().unwrap();
        format!("{:#}", anyhow::Error::new(error))
    }

    fn metrics(&self) -> String {
        let mut metrics = String::new();
        text::encode(&mut metrics, &self.registry).unwrap();
        metrics
    }

    fn client(&self, identity: Option<&Issued>, protocols: &[&str]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).unwrap();
        roots.add(root).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }

    /// Connects both ends in memory.
    async fn meet(
        &self,
        tls: &Tls,
        identity: Option<&Issued>,
    ) -> Result<(client::TlsStream<DuplexStream>, Option<Arc<ClientCertificate>>), HandshakeError> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let connector = self.client(identity, &["h2"]);
        let name = "localhost".try_into().unwrap();
        let (accepted, connected) = tokio::join!(tls.accept(ours), connector.connect(name, theirs));
        let (_, certificate) = accepted?;
        Ok((connected.unwrap(), certificate))
    }

    /// The names of the certificate that a new connection gets.
    async fn served(&self, tls: &Tls) -> Vec<String> {
        let (connection, _) = self.meet(tls, None).await.unwrap();
        let chain = connection.get_ref().1.peer_certificates().unwrap();
        certificate::read(&chain[0]).unwrap().names
    }
}

fn names(own: &str) -> Vec<String> {
    vec![
        "dns:localhost".into(),
        "ip:127.0.0.1".into(),
        format!("dns:{own}"),
    ]
}

#[tokio::test]
async fn serves_with_the_files_and_tells_when_the_certificate_ends() {
    let mut listener = Listener::new();
    let tls = listener.load();
    assert_eq!(listener.served(&tls).await, names("first.example.com"));
    let end: Timestamp = "2099-01-01T00:00:00Z".parse().unwrap();
    let gauge = format!(
        "hookstream_tls_certificate_expiry_timestamp_seconds{{listener=\"grpc\"}} {}\n",
        end.as_second()
    );
    let metrics = listener.metrics();
    assert!(metrics.contains(&gauge), "{metrics}");
}

#[test]
fn says_which_file_is_of_no_use_and_why() {
    let mut listener = Listener::new();
    let good = listener.files.clone();
    let other = listener.authority.server("other.example.com", 2099);
    let (_, other_key) = other.write(listener.directory.path(), "other");
    let (missing, empty) = (
        listener.directory.path().join("missing"),
        listener.write("empty", ""),
    );
    let damaged = listener.write("damaged", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    let nonsense = listener.write(
        "nonsense",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let encrypted = listener.write(
        "encrypted",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let bad_key = listener.write(
        "bad_key",
        "-----BEGIN PRIVATE KEY-----\nQUFB\n-----END PRIVATE KEY-----\n",
    );
    let large = listener.write("large", &"x".repeat(limits::TLS_FILE_BYTES_MAX as usize + 1));
    let certificate = |path: &Path| TlsFiles {
        certificate: path.into(),
        ..good.clone()
    };
    let key = |path: &Path| TlsFiles {
        key: path.into(),
        ..good.clone()
    };
    let client_ca = |path: &Path| TlsFiles {
        client_ca: Some(path.into()),
        ..good.clone()
    };
    let cases = [
        (certificate(&missing), "missing", "cannot be read"),
        (certificate(&empty), "empty", "holds no certificate"),
        (certificate(&good.key), "server.key", "holds no certificate"),
        (certificate(&damaged), "damaged", "is damaged"),
        (
            certificate(&nonsense),
            "nonsense",
            "cannot be read: give an X.509",
        ),
        (certificate(&large), "large", "is larger than"),
        (key(&missing), "missing", "No such file"),
        (key(&good.certificate), "server.pem", "holds no private key"),
        (key(&encrypted), "encrypted", "give it unencrypted"),
        (key(&bad_key), "bad_key", "cannot be used"),
        (key(&other_key), "other.key", "does not belong"),
        (client_ca(&missing), "missing", "cannot be read"),
        (client_ca(&empty), "empty", "holds no certificate"),
        (client_ca(&nonsense), "nonsense", "an authority in"),
    ];
    for (files, file, problem) in cases {
        listener.files = files;
        let refusal = listener.refusal();
        assert!(refusal.contains(file) && refusal.contains(problem), "{refusal}");
        assert!(!refusal.contains("QUFB"), "{refusal}");
    }
}

#[tokio::test]
async fn a_changed_certificate_serves_new_connections_and_leaves_open_ones_alone() {
    let mut listener = Listener::new();
    let tls = listener.load();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let connector = listener.client(None, &[]);
    let name = "localhost".try_into().unwrap();
    let (accepted, connected) = tokio::join!(tls.accept(ours), connector.connect(name, theirs));
    let ((mut ours, _), mut theirs) = (accepted.unwrap(), connected.unwrap());
    listener.replace(&listener.authority.server("second.example.com", 2098));
    assert_eq!(listener.served(&tls).await, names("first.example.com"));
    listener.reloader.read_again().await;
    assert_eq!(listener.served(&tls).await, names("second.example.com"));
    assert!(
        listener.metrics().contains(" 4039372800\n"),
        "{}",
        listener.metrics()
    );
    ours.write_all(b"still here").await.unwrap();
    ours.flush().await.unwrap();
    let mut read = [0; 10];
    theirs.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"still here");
}

#[tokio::test]
async fn a_changed_certificate_of_no_use_is_not_served() {
    let mut listener = Listener::new();
    let tls = listener.load();
    let second = listener.authority.server("second.example.com", 2099);
    let expired = listener.authority.server("expired.example.com", 2025);
    fs::write(&listener.files.certificate, &second.certificate).unwrap();
    listener.reloader.read_again().await;
    assert_eq!(
        listener.served(&tls).await,
        names("first.example.com"),
        "not with another's key"
    );
    fs::remove_file(&listener.files.key).unwrap();
    listener.reloader.read_again().await;
    assert_eq!(
        listener.served(&tls).await,
        names("first.example.com"),
        "not without one"
    );
    listener.replace(&expired);
    listener.reloader.read_again().await;
    assert_eq!(
        listener.served(&tls).await,
        names("first.example.com"),
        "not expired"
    );
    listener.replace(&second);
    listener.reloader.read_again().await;
    assert_eq!(listener.served(&tls).await, names("second.example.com"));
}

#[tokio::test(start_paused = true)]
async fn files_are_read_again_at_the_interval_and_when_asked() {
    let mut listener = Listener::new();
    let tls = listener.load();
    let mut serving = tls.serving.clone();
    let reloader = Reloader::new(Clock::system(), &mut Registry::default());
    let running = std::mem::replace(&mut listener.reloader, reloader);
    let asked = Arc::new(tokio::sync::Notify::new());
    let start = tokio::time::Instant::now();
    let _task = tasks::owned(running.run(Arc::clone(&asked)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    listener.replace(&listener.authority.server("second.example.com", 2099));
    serving.changed().await.unwrap();
    assert!(start.elapsed() >= limits::TLS_RELOAD_INTERVAL);
    assert_eq!(listener.served(&tls).await, names("second.example.com"));
    let before = tokio::time::Instant::now();
    listener.replace(&listener.authority.server("third.example.com", 2099));
    asked.notify_one();
    serving.changed().await.unwrap();
    assert!(before.elapsed() < limits::TLS_RELOAD_INTERVAL / 2);
    assert_eq!(listener.served(&tls).await, names("third.example.com"));
}

#[tokio::test]
async fn a_client_with_a_certificate_of_ours_is_known_by_its_names() {
    let mut listener = Listener::mutual();
    let tls = listener.load();
    let client = listener.authority.client("spiffe://example.com/backend", 2099);
    let (_, certificate) = listener.meet(&tls, Some(&client)).await.unwrap();
    let expected = ClientCertificate {
        names: [
            "uri:spiffe://example.com/backend",
            "dns:backend.example.com",
            "email:backend@example.com",
            "ip:10.0.0.1",
            "ip:2001:db8::1",
        ]
        .map(str::to_owned)
        .to_vec(),
        not_after: "2099-01-01T00:00:00Z".parse().unwrap(),
    };
    assert_eq!(*certificate.unwrap(), expected);
}

#[tokio::test]
async fn a_client_without_a_certificate_is_let_through_as_nobody() {
    let mut listener = Listener::mutual();
    let tls = listener.load();
    let (_, certificate) = listener.meet(&tls, None).await.unwrap();
    assert_eq!(certificate, None);
}

#[tokio::test]
async fn a_client_with_a_wrong_or_expired_certificate_is_refused_and_counted() {
    let mut listener = Listener::mutual();
    let tls = listener.load();
    let foreign = Authority::new("theirs").client("spiffe://example.com/backend", 2099);
    let expired = listener.authority.client("spiffe://example.com/backend", 2025);
    let a_servers = listener.authority.server("backend.example.com", 2099);
    for refused in [foreign, expired, a_servers] {
        assert!(matches!(
            listener.meet(&tls, Some(&refused)).await,
            Err(HandshakeError::Failed(_))
        ));
    }
    let counter = "hookstream_tls_handshake_failures_total{listener=\"grpc\"} 3\n";
    assert!(listener.metrics().contains(counter), "{}", listener.metrics());
}

#[tokio::test]
async fn a_client_that_proved_its_certificate_proves_it_again_every_time() {
    let mut listener = Listener::mutual();
    let tls = listener.load();
    let client = listener.authority.client("spiffe://example.com/backend", 2099);
    let connector = listener.client(Some(&client), &["h2"]);
    for _ in 0..2 {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let name = "localhost".try_into().unwrap();
        let (accepted, connected) = tokio::join!(tls.accept(ours), connector.connect(name, theirs));
        let ((mut ours, _), mut theirs) = (accepted.unwrap(), connected.unwrap());
        // A ticket, if there were one, would come before this.
        ours.write_all(b"x").await.unwrap();
        ours.flush().await.unwrap();
        theirs.read_u8().await.unwrap();
        let kind = ours.get_ref().1.handshake_kind();
        assert_eq!(kind, Some(rustls::HandshakeKind::Full));
    }
}

#[tokio::test]
async fn http_2_is_agreed_upon_before_http_1() {
    let mut listener = Listener::new();
    let tls = listener.load();
    for (offered, agreed) in [
        (&["http/1.1", "h2"][..], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let connector = listener.client(None, offered);
        let name = "localhost".try_into().unwrap();
        let (accepted, connected) = tokio::join!(tls.accept(ours), connector.connect(name, theirs));
        let (_accepted, connected) = (accepted.unwrap(), connected.unwrap());
        assert_eq!(connected.get_ref().1.alpn_protocol(), agreed.map(str::as_bytes));
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_come_is_given_up() {
    let mut listener = Listener::new();
    let tls = listener.load();
    let (ours, mut theirs) = tokio::io::duplex(1024);
    theirs.write_all(b"\x16\x03\x01").await.unwrap();
    let before = tokio::time::Instant::now();
    let result = tls.accept(ours).await;
    assert!(matches!(result, Err(HandshakeError::TimedOut)));
    assert_eq!(before.elapsed(), limits::TLS_HANDSHAKE_TIMEOUT);
}

#[tokio::test]
async fn what_is_no_tls_or_too_old_is_refused() {
    let mut listener = Listener::new();
    let tls = listener.load();
    // A client hello that knows nothing newer than TLS 1.1.
    let mut old = b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x02".to_vec();
    old.extend([7; 32]);
    old.extend(b"\x00\x00\x04\xc0\x13\x00\x2f\x01\x00");
    let http = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    for (bytes, why) in [
        (old, "peer is incompatible"),
        (http, "corrupt message"),
        (vec![0; 64], "corrupt message"),
    ] {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        theirs.write_all(&bytes).await.unwrap();
        let refused = tls.accept(ours).await.err().unwrap().to_string();
        assert!(refused.contains(why), "{refused}");
        let mut answer = Vec::new();
        theirs.read_to_end(&mut answer).await.unwrap();
        assert!(answer.len() <= 7, "an alert, if anything: {answer:?}");
    }
}

#[test]
fn a_certificate_without_an_end_can_be_read() {
    let mut params = rcgen::CertificateParams::default();
    params.not_after = rcgen::date_time_ymd(9999, 12, 31) + Duration::from_secs(24 * 3600 - 1);
    let issued = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    let read = certificate::read(issued.der()).unwrap();
    assert_eq!(read.not_after, Timestamp::MAX);
    assert_eq!(read.names, [""; 0]);
}

#[tokio::test]
async fn a_certificate_is_warned_about_once_a_day_before_its_end() {
    let mut listener = Listener::new();
    listener.replace(&listener.authority.server("first.example.com", 2027));
    let _tls = listener.load();
    let mut warned = Vec::new();
    for now in [
        "2026-12-17T00:00:00Z",
        "2026-12-18T00:00:00Z",
        "2026-12-18T23:59:59Z",
        "2026-12-19T00:00:00Z",
    ] {
        *listener.now.lock() = now.parse().unwrap();
        let before = listener.reloader.watched[0].warn_at;
        listener.reloader.read_again().await;
        warned.push(listener.reloader.watched[0].warn_at != before);
    }
    assert_eq!(warned, [false, true, false, true]);
}
