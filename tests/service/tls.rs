//! TLS on every listener. Claims about certificates that serve, that change, and that are refused.

use std::{
    collections::HashMap,
    error::Error,
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use hookstream::grpc::proto::{
    ManageEndpointRequest,
    manage_endpoint_request::{Get, Operation},
    manage_endpoint_response::Result as Answer,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Status,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};

use crate::{
    authority::{Authority, Issued},
    harness::{Client, FREE_PORTS, Hookstream, PATIENCE, Sender, Stream, body, from_start, run},
};

/// A service whose listeners all serve over TLS, two of them asking for client certificates.
struct Secured {
    service: Hookstream,
    authority: Authority,
    directory: TempDir,
}

impl Secured {
    fn start() -> Self {
        Self::start_with(&HashMap::new())
    }

    fn start_with(variables: &HashMap<&'static str, String>) -> Self {
        let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new("ours"));
        authority
            .server("first.example.com", 2099)
            .write(directory.path(), "server");
        fs::write(directory.path().join("ca.pem"), authority.pem()).unwrap();
        let flags = flags(&directory);
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        let data = Arc::new(tempfile::tempdir().unwrap());
        let service = Hookstream::start_in(data, &flags, variables);
        Self {
            service,
            authority,
            directory,
        }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn replace(&self, issued: &Issued) {
        issued.write(self.directory.path(), "server");
    }

    async fn client(&self, identity: Option<&Issued>) -> Result<Client, tonic::transport::Error> {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.authority.pem()));
        if let Some(issued) = identity {
            tls = tls.identity(Identity::from_pem(&issued.certificate, &issued.key));
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", self.service.grpc)).unwrap();
        let channel = endpoint.tls_config(tls).unwrap().connect().await?;
        Ok(Client::new(channel))
    }

    /// Calls as a client with this certificate, or with none.
    async fn call(&self, identity: Option<&Issued>) -> Result<(), Status> {
        let refused = |error: tonic::transport::Error| Status::from_error(error.into());
        let mut client = self.client(identity).await.map_err(refused)?;
        client.subscribe_events(from_start()).await.map(|_| ())
    }

    fn http(&self, builder: reqwest::ClientBuilder) -> reqwest::Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authority = reqwest::Certificate::from_pem(self.authority.pem().as_bytes()).unwrap();
        let builder = builder.tls_certs_only([authority]).timeout(PATIENCE);
        builder.build().unwrap()
    }

    async fn is_alive(&self) -> bool {
        let url = format!("https://{}/livez", self.service.admin);
        let http = self.http(reqwest::Client::builder());
        http.get(url)
            .send()
            .await
            .is_ok_and(|answer| answer.status() == 200)
    }

    /// Makes the endpoint `dev` by a command, and something that delivers to it.
    fn endpoint(&self) -> Sender {
        let server = format!("https://{}", self.service.grpc);
        let ca = self.path("ca.pem");
        let (status, output, error) = run(&[
            "endpoint",
            "create",
            "dev",
            "--json",
            "--server",
            &server,
            "--ca-file",
            &ca,
        ]);
        assert!(status.success(), "{error}");
        let created: serde_json::Value = serde_json::from_str(&output).unwrap();
        let sender = self
            .service
            .sender("dev", created["create"]["secret"].as_str().unwrap());
        Sender {
            http: self.http(reqwest::Client::builder()),
            url: format!("https://{}/webhooks/dev", self.service.ingress),
            secret: sender.secret,
        }
    }

    /// The certificate that a new connection to the gRPC listener gets (DER).
    async fn served(&self) -> Vec<u8> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let socket = TcpStream::connect(self.service.grpc).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let connection = TlsConnector::from(Arc::new(config)).connect(name, socket);
        let connection = connection.await.unwrap();
        connection.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    /// Waits until new connections get this certificate.
    async fn until_served(&self, issued: &Issued) {
        let expected = der(issued);
        let deadline = Instant::now() + PATIENCE;
        while self.served().await != expected {
            assert!(Instant::now() < deadline, "the certificate is not served");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until this was logged.
    async fn until_logged(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.service.output();
            if output.contains(text) {
                return output;
            }
            assert!(Instant::now() < deadline, "{text:?} is not in {output}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn flags(directory: &TempDir) -> Vec<String> {
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let mut flags = Vec::new();
    for listener in ["ingress", "grpc", "admin"] {
        let mut give = |what: &str, name: &str| {
            flags.extend([format!("--{listener}-tls-{what}-file"), file(name)]);
        };
        give("certificate", "server.pem");
        give("key", "server.key");
        if listener != "ingress" {
            give("client-ca", "ca.pem");
        }
    }
    flags
}

fn der(issued: &Issued) -> Vec<u8> {
    CertificateDer::from_pem_slice(issued.certificate.as_bytes())
        .unwrap()
        .to_vec()
}

#[tokio::test]
async fn every_listener_serves_over_tls() {
    let secured = Secured::start();
    assert!(secured.is_alive().await);
    let sender = secured.endpoint();
    assert_eq!(sender.deliver(body("avatar_video.success", 1)).await, 200);
    let stream = secured
        .client(None)
        .await
        .unwrap()
        .subscribe_events(from_start())
        .await;
    let event = Stream::from(stream.unwrap().into_inner()).event().await;
    assert_eq!(event.type_name, "avatar_video.success");
    let operation = Some(Operation::Get(Get { name: "dev".into() }));
    let answer = secured
        .client(None)
        .await
        .unwrap()
        .manage_endpoint(ManageEndpointRequest { operation })
        .await;
    let Some(Answer::Get(got)) = answer.unwrap().into_inner().result else {
        panic!("another answer")
    };
    assert_eq!(got.endpoint.unwrap().url, sender.url);
}

#[tokio::test]
async fn the_commands_reach_a_service_whose_authority_they_are_given() {
    let secured = Secured::start();
    let sender = secured.endpoint();
    let secret: PathBuf = secured.path("dev.secret").into();
    fs::write(&secret, sender.secret.expose()).unwrap();
    let (server, ca) = (
        format!("https://{}", secured.service.grpc),
        secured.path("ca.pem"),
    );
    let deliver = [
        "deliver",
        "avatar_video.fail",
        "--url",
        &sender.url,
        "--secret-file",
        secret.to_str().unwrap(),
    ];
    let (status, _, error) = run(&[&deliver[..], &["--ca-file", &ca]].concat());
    assert!(status.success(), "{error}");
    let tail = [
        "tail",
        "--from-start",
        "--stop-at-tail",
        "--json",
        "--server",
        &server,
    ];
    let issued = secured.authority.client("spiffe://example.com/backend", 2099);
    issued.write(secured.directory.path(), "client");
    let (certificate, key) = (secured.path("client.pem"), secured.path("client.key"));
    let identity = [
        "--client-certificate-file",
        certificate.as_str(),
        "--client-key-file",
        &key,
    ];
    for identity in [&[][..], &identity] {
        let (status, output, error) = run(&[&tail[..], &["--ca-file", &ca], identity].concat());
        assert!(status.success(), "{error}");
        assert!(output.contains("avatar_video.fail"), "{output}");
    }
    for distrusting in [&tail[..], &deliver] {
        let (status, _, error) = run(distrusting);
        assert!(!status.success());
        assert!(error.contains("is not trusted: give --ca-file"), "{error}");
    }
    let plain = format!("http://{}", secured.service.grpc);
    let (status, ..) = run(&["events", "list", "--server", &plain]);
    assert!(!status.success());
}

#[tokio::test]
async fn the_commands_say_why_tls_does_not_come_about() {
    let plain = Hookstream::start();
    let secured = Secured::start();
    let (server, ca) = (
        format!("https://{}", secured.service.grpc),
        secured.path("ca.pem"),
    );
    let to_plain = format!("https://{}", plain.grpc);
    let foreign = Authority::new("theirs").client("spiffe://example.com/backend", 2099);
    foreign.write(secured.directory.path(), "foreign");
    let (certificate, key) = (secured.path("foreign.pem"), secured.path("foreign.key"));
    let identity = [
        "--client-certificate-file",
        certificate.as_str(),
        "--client-key-file",
        &key,
    ];
    let as_foreigner = [&["--server", server.as_str(), "--ca-file", &ca][..], &identity].concat();
    for (flags, advice) in [
        (
            &["--server", to_plain.as_str(), "--ca-file", &ca][..],
            "it does not speak TLS",
        ),
        (&["--server", &server, "--ca-file", &key], "holds no certificate"),
        (&as_foreigner, "--client-certificate-file"),
        (&["--client-key-file", &key], "--client-certificate-file"),
    ] {
        for command in [&["events", "list"][..], &["tail", "--stop-at-tail"]] {
            let (status, _, error) = run(&[command, flags].concat());
            assert!(!status.success());
            assert!(error.contains(advice), "{flags:?}: {error}");
        }
    }
}

#[tokio::test]
async fn who_does_not_speak_tls_is_refused_and_disturbs_nobody() {
    let secured = Secured::start();
    let stream = secured
        .client(None)
        .await
        .unwrap()
        .subscribe_events(from_start())
        .await;
    let mut stream = Stream::from(stream.unwrap().into_inner());
    for address in [
        secured.service.ingress,
        secured.service.grpc,
        secured.service.admin,
    ] {
        for bytes in [
            &b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &[0; 64],
        ] {
            let mut connection = TcpStream::connect(address).await.unwrap();
            connection.write_all(bytes).await.unwrap();
            let mut answer = Vec::new();
            let end = connection.read_to_end(&mut answer);
            // An alert or a reset, but an end.
            let _ = tokio::time::timeout(PATIENCE, end).await.unwrap();
            assert!(answer.len() <= 7, "{answer:?}");
        }
    }
    let sender = secured.endpoint();
    assert_eq!(sender.deliver(body("avatar_video.success", 1)).await, 200);
    assert_eq!(stream.event().await.type_name, "avatar_video.success");
}

#[tokio::test]
async fn a_replaced_certificate_serves_new_connections_and_breaks_no_stream() {
    let secured = Secured::start();
    let sender = secured.endpoint();
    let stream = secured
        .client(None)
        .await
        .unwrap()
        .subscribe_events(from_start())
        .await;
    let mut stream = Stream::from(stream.unwrap().into_inner());
    let second = secured.authority.server("second.example.com", 2098);
    secured.replace(&second);
    secured.service.signal("HUP");
    secured.until_served(&second).await;
    assert_eq!(sender.deliver(body("avatar_video.success", 1)).await, 200);
    assert_eq!(stream.event().await.type_name, "avatar_video.success");
    let output = secured.until_logged("new connections are served").await;
    assert!(
        output.contains("dns:second.example.com") && output.contains("2098-01-01"),
        "{output}"
    );
}

#[tokio::test]
async fn a_replaced_certificate_of_no_use_is_told_once_and_not_served() {
    let secured = Secured::start();
    let before = secured.served().await;
    // At once: a file that is read while it is written is another one of no use.
    fs::write(secured.path("new.key"), "no key").unwrap();
    fs::rename(secured.path("new.key"), secured.path("server.key")).unwrap();
    for _ in 0..2 {
        secured.service.signal("HUP");
    }
    secured
        .until_logged("cannot be used; what was in use stays in use")
        .await;
    assert_eq!(secured.served().await, before);
    let second = secured.authority.server("second.example.com", 2099);
    secured.replace(&second);
    secured.service.signal("HUP");
    secured.until_served(&second).await;
    let output = secured.service.output();
    let told = output.matches("server.key holds no private key").count();
    assert_eq!(told, 3, "once for each listener: {output}");
}

#[tokio::test]
async fn a_client_passes_with_a_right_certificate_or_none() {
    let secured = Secured::start();
    let client = secured.authority.client("spiffe://example.com/backend", 2099);
    secured.call(None).await.unwrap();
    secured.call(Some(&client)).await.unwrap();
    let identity = reqwest::Identity::from_pem(format!("{}{}", client.certificate, client.key).as_bytes());
    let http = secured.http(reqwest::Client::builder().identity(identity.unwrap()));
    let answer = http
        .get(format!("https://{}/livez", secured.service.admin))
        .send()
        .await;
    assert_eq!(answer.unwrap().status(), 200);
}

#[tokio::test]
async fn a_client_with_a_wrong_or_expired_certificate_does_not_pass() {
    let secured = Secured::start();
    let foreign = Authority::new("theirs").client("spiffe://example.com/backend", 2099);
    let expired = secured.authority.client("spiffe://example.com/backend", 2025);
    for refused in [foreign, expired] {
        let status = secured.call(Some(&refused)).await.unwrap_err();
        assert!(
            status.source().is_some(),
            "no answer of the service's: {status:?}"
        );
        let pem = format!("{}{}", refused.certificate, refused.key);
        let identity = reqwest::Identity::from_pem(pem.as_bytes()).unwrap();
        let http = secured.http(reqwest::Client::builder().identity(identity));
        let answer = http
            .get(format!("https://{}/livez", secured.service.admin))
            .send()
            .await;
        assert!(answer.is_err());
    }
    secured.call(None).await.unwrap();
}

#[tokio::test]
async fn a_handshake_that_does_not_come_does_not_hold_the_drain() {
    let secured = Secured::start();
    let mut silent = TcpStream::connect(secured.service.grpc).await.unwrap();
    assert!(secured.is_alive().await);
    let before = Instant::now();
    secured.service.drain();
    assert!(before.elapsed() < Duration::from_secs(5));
    let mut answer = Vec::new();
    let _ = silent.read_to_end(&mut answer).await;
    assert_eq!(answer, [0; 0]);
}

#[test]
fn does_not_start_with_a_key_of_another_certificate() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new("ours"));
    let (first, second) = (
        authority.server("a.example.com", 2099),
        authority.server("b.example.com", 2099),
    );
    first.write(directory.path(), "server");
    fs::write(directory.path().join("server.key"), second.key).unwrap();
    fs::write(directory.path().join("ca.pem"), authority.pem()).unwrap();
    let (flags, data) = (flags(&directory), tempfile::tempdir().unwrap());
    let mut args = vec!["serve", "--data-dir", data.path().to_str().unwrap()];
    args.extend(flags.iter().map(String::as_str));
    args.extend(FREE_PORTS);
    let (status, _, error) = run(&args);
    assert!(!status.success());
    for part in ["the ingress listener", "server.key does not belong", "server.pem"] {
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn a_hangup_ends_no_service_without_tls() {
    let service = Hookstream::start();
    service.signal("HUP");
    let sender = service.endpoint("dev").await;
    assert_eq!(sender.deliver(body("avatar_video.success", 1)).await, 200);
    service.drain();
}

#[tokio::test]
async fn a_certificate_stands_for_the_token_that_was_made_for_its_name() {
    let operator_token = "the-operators-token-which-nobody-guesses";
    let secured = Secured::start_with(&HashMap::from([(
        "HOOKSTREAM_ADMIN_TOKEN",
        operator_token.to_owned(),
    )]));
    let client = secured.authority.client("spiffe://example.com/backend", 2099);
    let code = async |identity| secured.call(identity).await.err().map(|status| status.code());
    assert_eq!(code(None).await, Some(Code::Unauthenticated));
    assert_eq!(code(Some(&client)).await, Some(Code::Unauthenticated));

    let token_file = secured.path("operator.token");
    fs::write(&token_file, operator_token).unwrap();
    let (server, ca) = (
        format!("https://{}", secured.service.grpc),
        secured.path("ca.pem"),
    );
    let as_operator = |words: &[&str]| {
        let flags = ["--server", &server, "--ca-file", &ca, "--token-file", &token_file];
        let (status, _, error) = run(&[words, &flags].concat());
        assert!(status.success(), "{error}");
    };
    let name = "uri:spiffe://example.com/backend";
    as_operator(&[
        "token",
        "create",
        "backend",
        "--scope",
        "events:read",
        "--certificate-name",
        name,
    ]);
    let (mut subscriber, mut manager) = (
        secured.client(Some(&client)).await.unwrap(),
        secured.client(Some(&client)).await.unwrap(),
    );
    let mut stream = subscriber
        .subscribe_events(from_start())
        .await
        .unwrap()
        .into_inner();
    let operation = Some(Operation::Get(Get { name: "dev".into() }));
    let refused = manager.manage_endpoint(ManageEndpointRequest { operation }).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);

    as_operator(&["token", "revoke", "backend"]);
    let ended = loop {
        match tokio::time::timeout(PATIENCE, stream.message()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ends without a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unauthenticated);
    assert_eq!(code(Some(&client)).await, Some(Code::Unauthenticated));
}

#[test]
fn listens_beyond_loopback_with_credentials_and_a_certificate_and_not_without() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new("ours"));
    let (certificate, key) = authority
        .server("a.example.com", 2099)
        .write(directory.path(), "server");
    let token_file = directory.path().join("operator.token");
    fs::write(&token_file, "the-operators-token-which-nobody-guesses").unwrap();
    let listen = ["config", "check", "--grpc-listen", "0.0.0.0:50051"];
    let tls = [
        "--grpc-tls-certificate-file",
        certificate.to_str().unwrap(),
        "--grpc-tls-key-file",
        key.to_str().unwrap(),
    ];
    let token = ["--admin-token-file", token_file.to_str().unwrap()];
    for (flags, missing) in [
        (&[][..], "--admin-token-file"),
        (&tls[..], "--admin-token-file"),
        (&token[..], "-tls-certificate-file"),
    ] {
        let (status, _, error) = run(&[&listen[..], flags].concat());
        assert!(!status.success() && error.contains(missing), "{flags:?}: {error}");
    }
    for flags in [[&tls[..], &token].concat(), vec!["--insecure"]] {
        let (status, _, error) = run(&[&listen[..], &flags].concat());
        assert!(status.success(), "{flags:?}: {error}");
    }
}
