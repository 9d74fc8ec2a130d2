//! What nobody may be told, looked for wherever it could be told. Claims about I7 and about secrets at rest.

use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
    sync::Arc,
    time::Instant,
};

use data_encoding::{BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use hookstream::{
    grpc::proto::{
        AwaitEventRequest, Endpoint, GetEventRequest, ListEventsRequest, Registration,
        SubscribeEventsRequest,
        manage_endpoint_request::{
            Create, Delete, Get, List, Operation, Reconcile, Recreate, RotateCallbackToken, RotateSecret,
        },
        manage_endpoint_response::Result as Answer,
    },
    sealing::SealingKey,
    stand_in::{ApiFault, Call, DeliveryFault, Settings, StandIn},
};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    authority::Authority,
    harness::{FREE_PORTS, Hookstream, PATIENCE, binary, files, finish, manage, run},
    port::Port,
};

/// Texts that are in bodies, one of them in `contact_info`: they may be in the log's files and nowhere else.
const PRIVATE: [&str; 2] = ["private-contact-4d1c@example.com", "private-words-77ab12cd"];

fn private_data(number: u64) -> Value {
    json!({
        "video_id": format!("video_{number}"),
        "contact_info": {"email": PRIVATE[0], PRIVATE[1]: 1},
        "note": PRIVATE[1],
    })
}

fn private_body(number: u64) -> Vec<u8> {
    let event_id = format!("evt_{number}");
    json!({"event_id": event_id, "event_type": "personalized_video", "event_data": private_data(number)})
        .to_string()
        .into_bytes()
}

/// What must not be found, in every form it could be found in.
#[derive(Default)]
struct Hidden(Vec<(String, Vec<u8>)>);

/// Something that somebody is told, or a file.
struct Place {
    name: String,
    bytes: Vec<u8>,
}

impl Hidden {
    /// Hides bytes: as they are, in base64 and in hexadecimal, and as a list of numbers, as `Debug` shows them.
    fn hide(&mut self, what: &str, hidden: impl AsRef<[u8]>) {
        let bytes = hidden.as_ref();
        assert!(bytes.len() >= 16, "{what} could be found by accident");
        // In base64 the last letters depend on what follows.
        let whole = &bytes[..bytes.len() / 3 * 3];
        let numbers: Vec<_> = bytes.iter().map(u8::to_string).collect();
        let forms = [
            ("as it is", bytes.to_vec()),
            ("in base64", BASE64_NOPAD.encode(whole).into_bytes()),
            ("in base64 for URLs", BASE64URL_NOPAD.encode(whole).into_bytes()),
            ("in hexadecimal", HEXLOWER.encode(bytes).into_bytes()),
            ("in upper hexadecimal", HEXUPPER.encode(bytes).into_bytes()),
            ("as numbers", numbers.join(", ").into_bytes()),
        ];
        for (form, bytes) in forms {
            self.0.push((format!("{what}, {form}"), bytes));
        }
    }

    /// Hides a text that stands for bytes, and the bytes.
    fn hide_encoded(&mut self, what: &str, text: &str) {
        let letters = text.strip_prefix("whsec_").unwrap_or(text);
        self.hide(what, letters);
        let padded = format!("{:=<1$}", letters, letters.len().next_multiple_of(4));
        let bytes = BASE64URL.decode(padded.replace('+', "-").replace('/', "_").as_bytes());
        self.hide(&format!("the bytes of {what}"), bytes.unwrap());
    }

    /// What is found, and where.
    fn found_in<'a>(&self, places: impl IntoIterator<Item = &'a Place>) -> Vec<String> {
        let mut found = Vec::new();
        for place in places {
            let bytes = place.bytes.trim_ascii_end();
            // A write-ahead log that is not in use yet is zeros to its end.
            let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
            for (what, hidden) in &self.0 {
                if bytes[..end].windows(hidden.len()).any(|part| part == hidden) {
                    found.push(format!("{what}: in {}", place.name));
                }
            }
        }
        found
    }
}

fn files_below(directory: &Path) -> Vec<Place> {
    let place = |path: &Path| Place {
        name: path.file_name().unwrap().to_string_lossy().into_owned(),
        bytes: fs::read(path).unwrap(),
    };
    files(directory).iter().map(|path| place(path)).collect()
}

/// One run of everything that handles secrets and bodies, with what was told on the way.
struct Run {
    directory: Arc<TempDir>,
    heygen: StandIn,
    ingress: Port,
    http: reqwest::Client,
    secrets: Hidden,
    told: Vec<Place>,
    kept: Vec<Place>,
}

/// How a process is started.
struct Start {
    flags: Vec<String>,
    variables: HashMap<&'static str, String>,
}

impl Run {
    async fn new() -> Self {
        let mut secrets = Hidden::default();
        let api_key = "sk_heygen_api_key_5e1f0c".to_owned();
        secrets.hide("HeyGen's API key", &api_key);
        let settings = Settings {
            api_key,
            ..Settings::default()
        };
        Self {
            directory: Arc::new(tempfile::tempdir().unwrap()),
            heygen: StandIn::start(settings).await.unwrap(),
            // HeyGen keeps the URL, so the second process has to come back to it.
            ingress: Port::reserve(),
            http: reqwest::Client::builder().timeout(PATIENCE).build().unwrap(),
            secrets,
            told: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// Settings with the sealing key in a file and HeyGen's key in a variable.
    fn start(&self, key: &str, api_key: &str) -> Start {
        Start {
            flags: [
                ("--sealing-key-file", &*self.file("first.key", key)),
                ("--heygen-api-base", &self.heygen.base_url()),
                ("--ingress-listen", &self.ingress.address().to_string()),
                ("--reconcile-interval", "none"),
                ("--reconcile-grace", "0s"),
            ]
            .iter()
            .flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()])
            .collect(),
            variables: HashMap::from([
                ("HOOKSTREAM_LOG_LEVEL", "trace,h2::server=trace".to_owned()),
                ("HOOKSTREAM_HEYGEN_API_KEY", api_key.to_owned()),
            ]),
        }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        fs::write(&path, format!("{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn tell(&mut self, name: &str, text: impl Into<Vec<u8>>) {
        self.told.push(Place {
            name: name.to_owned(),
            bytes: text.into(),
        });
    }

    /// Runs a command with the settings of a process.
    fn command(&mut self, words: &[&str], start: &Start) -> Output {
        let data_dir = self.directory.path().join("data");
        let mut command = Command::new(binary());
        command.args(words).arg("--data-dir").arg(data_dir);
        let output = finish(command.args(&start.flags).envs(&start.variables));
        let text = [output.stdout.as_slice(), &output.stderr].concat();
        self.tell(&words.join(" "), text);
        output
    }

    async fn ask(&mut self, service: &Hookstream, operation: Operation) -> Option<Answer> {
        match manage(&mut service.client().await, operation).await {
            Ok(answer) => Some(answer),
            Err(status) => {
                self.tell("a gRPC error", format!("{status:?} {status}"));
                None
            }
        }
    }

    /// The endpoint and the secret of an answer that has one; the secret is hidden from now on.
    async fn secret(&mut self, service: &Hookstream, what: &str, operation: Operation) -> (Endpoint, String) {
        let (endpoint, secret) = match self.ask(service, operation).await.unwrap() {
            Answer::Create(created) => (created.endpoint, created.secret),
            Answer::RotateSecret(rotated) => (rotated.endpoint, rotated.secret),
            Answer::Recreate(recreated) => (recreated.endpoint, recreated.secret),
            Answer::RotateCallbackToken(rotated) => {
                let token = rotated.callback_url.rsplit('/').next().unwrap().to_owned();
                (rotated.endpoint, token)
            }
            other => panic!("{other:?}"),
        };
        self.secrets.hide_encoded(what, &secret);
        (endpoint.unwrap(), secret)
    }

    async fn post(&mut self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> u16 {
        let mut request = self
            .http
            .post(format!("http://{}{path}", self.ingress.address()))
            .body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let head = format!("{response:?}").replace(path, "");
        let answer = format!("{head} {}", response.text().await.unwrap());
        self.tell("an answer to a delivery", answer);
        status
    }

    async fn deliver(&mut self, service: &Hookstream, name: &str, secret: &str, body: Vec<u8>) -> u16 {
        let signature = service.sender(name, secret).sign(&body);
        self.post(&format!("/webhooks/{name}"), &[("Signature", &signature)], body)
            .await
    }

    async fn until_stored(&self, service: &Hookstream, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while service.stored().await.len() < count {
            assert!(Instant::now() < deadline, "{count} events do not come");
            tokio::task::yield_now().await;
        }
    }

    /// What is told and kept by a process that runs.
    async fn look_at(&mut self, service: &Hookstream) {
        let (_, metrics) = service.admin("/metrics").await;
        self.tell("/metrics", metrics);
        let (_, readiness) = service.admin("/readyz").await;
        self.tell("/readyz", readiness);
        let arguments = fs::read(format!("/proc/{}/cmdline", service.pid())).unwrap();
        self.tell("the process's arguments", arguments);
        self.kept.extend(files_below(&service.data_dir()));
    }

    fn end(&mut self, service: Hookstream) {
        let data_dir = service.data_dir();
        let (_directory, output) = service.drain_and_read();
        assert!(output.contains("TRACE"), "the level is in force");
        self.tell("the log lines", output);
        self.kept.extend(files_below(&data_dir));
    }

    /// A local endpoint: a given secret, rotated ones, deliveries of every kind, callbacks.
    async fn local_endpoint(&mut self, service: &Hookstream) -> (String, String) {
        let given = "whsec_Z2l2ZW4tc2VjcmV0LWZvci10aGUtbG9jYWwtZW5kcG9pbnQ=";
        let create = Create {
            name: "local".into(),
            secret: given.into(),
            registration: Registration::Local.into(),
            ..Create::default()
        };
        self.secret(service, "the given secret", Operation::Create(create.clone()))
            .await;
        assert!(
            self.ask(service, Operation::Create(create.clone()))
                .await
                .is_none()
        );
        let generated = Create {
            name: "other".into(),
            secret: String::new(),
            ..create
        };
        self.secret(service, "a generated secret", Operation::Create(generated))
            .await;
        assert_eq!(self.deliver(service, "local", given, private_body(1)).await, 200);
        assert_eq!(self.deliver(service, "local", given, private_body(1)).await, 200);
        let rotate = |secret: &str| {
            Operation::RotateSecret(RotateSecret {
                name: "local".into(),
                secret: secret.into(),
                ..RotateSecret::default()
            })
        };
        let second = "whsec_YW5vdGhlci1naXZlbi1zZWNyZXQtYWZ0ZXItdGhlLWZpcnN0";
        self.secret(service, "a secret given for rotation", rotate(second))
            .await;
        let (_, third) = self
            .secret(service, "a secret made by rotation", rotate(""))
            .await;
        for (number, secret) in [(2, second), (3, &third)] {
            assert_eq!(
                self.deliver(service, "local", secret, private_body(number)).await,
                200
            );
        }
        self.refused_deliveries(service, given).await;
        let token = self.callbacks(service).await;
        (third, token)
    }

    async fn refused_deliveries(&mut self, service: &Hookstream, secret: &str) {
        let other = "whsec_c2VjcmV0LW9mLXNvbWVib2R5LWVsc2UtZW50aXJlbHk=";
        self.secrets.hide_encoded("a secret of somebody else", other);
        assert_eq!(self.deliver(service, "local", other, private_body(4)).await, 401);
        assert_eq!(
            self.deliver(service, "nobody", secret, private_body(4)).await,
            404
        );
        let large = [private_body(4), vec![b' '; 1024 * 1024]].concat();
        assert_eq!(self.deliver(service, "local", secret, large).await, 413);
        // Somebody takes the secret for the signature.
        for (name, value) in [
            ("Signature", secret),
            ("Authorization", secret),
            ("X-Api-Key", secret),
        ] {
            assert_eq!(
                self.post("/webhooks/local", &[(name, value)], private_body(4))
                    .await,
                401
            );
        }
        for (number, body) in [PRIVATE[0].to_owned(), format!("{{\"{}\": 1", PRIVATE[1])]
            .iter()
            .enumerate()
        {
            let body = format!("{body}{number}").into_bytes();
            assert_eq!(
                self.deliver(service, "local", secret, body).await,
                200,
                "what is no event is kept"
            );
        }
    }

    async fn callbacks(&mut self, service: &Hookstream) -> String {
        let rotate = || {
            Operation::RotateCallbackToken(RotateCallbackToken {
                name: "local".into(),
                overlap: None,
            })
        };
        let (_, first) = self.secret(service, "a callback token", rotate()).await;
        let (_, token) = self.secret(service, "a rotated callback token", rotate()).await;
        for (number, token) in [(10, &first), (11, &token)] {
            let path = format!("/callbacks/local/{token}");
            assert_eq!(self.post(&path, &[], private_body(number)).await, 200);
        }
        for (path, status) in [
            (format!("/callbacks/local/{token}x"), 401),
            (format!("/callbacks/other/{token}"), 401),
            (format!("/callbacks/nobody/{token}"), 404),
            (format!("/callbacks/local/{token}%FF"), 400),
            (format!("/callbacks/local/{token}/more"), 404),
            (format!("/webhooks/local?token={token}"), 401),
        ] {
            assert_eq!(self.post(&path, &[], private_body(12)).await, status, "{path}");
        }
        malformed_over_http2(self.ingress.address(), &format!("/callbacks/local/{token} ")).await;
        token
    }

    /// An endpoint at HeyGen: registered, rotated, refused, disabled and made anew, with one event lost and found.
    async fn heygen_endpoint(&mut self, service: &Hookstream) {
        let name = || "prod".to_owned();
        let create = Operation::Create(Create {
            name: name(),
            registration: Registration::Heygen.into(),
            ..Create::default()
        });
        self.secret(service, "HeyGen's secret", create).await;
        let rotate = || {
            Operation::RotateSecret(RotateSecret {
                name: name(),
                ..RotateSecret::default()
            })
        };
        self.heygen
            .faults()
            .fail_next(Call::RotateSecret, ApiFault::EffectThen500);
        self.secret(service, "HeyGen's rotated secret", rotate()).await;
        let stored = service.stored().await.len();
        self.heygen.emit_event("personalized_video", private_data(20));
        self.heygen.faults().spoil_next(DeliveryFault::Lose);
        self.heygen.emit_event("personalized_video", private_data(21));
        self.heygen.settled().await;
        self.ask(service, Operation::Reconcile(Reconcile {}))
            .await
            .unwrap();
        self.until_stored(service, stored + 2).await;
        let (endpoint, _) = self
            .secret(service, "a secret of HeyGen's that is replaced", rotate())
            .await;
        self.heygen.disable(&endpoint.provider_endpoint_id);
        let recreate = Operation::Recreate(Recreate { name: name() });
        self.secret(service, "HeyGen's secret made anew", recreate).await;
        for fault in [
            ApiFault::Status(402),
            ApiFault::Status(403),
            ApiFault::RateLimited(60),
        ] {
            self.heygen.faults().fail_next(Call::RotateSecret, fault);
            assert!(self.ask(service, rotate()).await.is_none());
        }
    }

    /// Tokens made, used, refused and revoked, over TLS.
    fn tokens(&mut self, service: &Hookstream, operator: &str) {
        let ca = self.directory.path().join("ca.pem");
        let server = format!("https://{}", service.grpc);
        let ask = |words: &[&str], token: &str| {
            let mut command = Command::new(binary());
            command
                .args(words)
                .args(["--server", &server, "--ca-file"])
                .arg(&ca);
            finish(command.env("HOOKSTREAM_TOKEN", token))
        };
        let create = [
            "token",
            "create",
            "backend",
            "--scope",
            "endpoints:read",
            "--json",
        ];
        let created = ask(&create, operator);
        assert!(created.status.success(), "{created:?}");
        let created: Value = serde_json::from_slice(&created.stdout).unwrap();
        let made = created["create"]["secret"].as_str().unwrap();
        self.secrets.hide("an access token", made);
        let wrong = "hookstream_a-token-that-was-never-made";
        self.secrets.hide("a wrong access token", wrong);
        for (words, token, succeeds) in [
            (&["endpoint", "list"][..], made, true),
            (&["endpoint", "delete", "local"], made, false),
            (&["endpoint", "list"], wrong, false),
            (&["token", "list", "--json"], operator, true),
            (&["token", "revoke", "backend"], operator, true),
            (&["endpoint", "list"], made, false),
            (&["audit", "--json"], operator, true),
        ] {
            let output = ask(words, token);
            assert_eq!(output.status.success(), succeeds, "{words:?}: {output:?}");
            self.tell(&words.join(" "), [output.stdout, output.stderr].concat());
        }
    }

    /// Calls that read, and calls that are refused.
    async fn calls(&mut self, service: &Hookstream) {
        let mut client = service.client().await;
        let events = client.list_events(ListEventsRequest::default()).await.unwrap();
        let id = events.into_inner().events[0].id.clone();
        client.get_event(GetEventRequest { id }).await.unwrap();
        let errors = [
            client
                .get_event(GetEventRequest { id: "evt_no".into() })
                .await
                .unwrap_err(),
            client
                .subscribe_events(SubscribeEventsRequest {
                    start: Some(
                        hookstream::grpc::proto::subscribe_events_request::Start::AfterCursor("no".into()),
                    ),
                    ..SubscribeEventsRequest::default()
                })
                .await
                .unwrap_err(),
            client
                .await_event(AwaitEventRequest {
                    timeout: Some(prost_types::Duration::default()),
                    ..AwaitEventRequest::default()
                })
                .await
                .unwrap_err(),
        ];
        for error in errors {
            self.tell("a gRPC error", format!("{error:?} {error}"));
        }
        let too_long = "secret-that-is-too-long-".repeat(30);
        self.secrets.hide("a secret that is refused", &too_long[..48]);
        for (name, secret) in [("new", too_long.as_str()), ("No Name", &too_long[..48])] {
            let create = Operation::Create(Create {
                name: name.into(),
                secret: secret.into(),
                ..Create::default()
            });
            assert!(self.ask(service, create).await.is_none());
        }
        let rotate = Operation::RotateSecret(RotateSecret {
            name: "nobody".into(),
            secret: too_long[..48].into(),
            ..RotateSecret::default()
        });
        assert!(self.ask(service, rotate).await.is_none());
        for operation in [
            Operation::Get(Get { name: "local".into() }),
            Operation::List(List::default()),
        ] {
            let answer = self.ask(service, operation).await.unwrap();
            self.tell("what is shown of endpoints", format!("{answer:?}"));
        }
        let delete = Operation::Delete(Delete { name: "other".into() });
        self.ask(service, delete).await.unwrap();
    }
}

/// A request over HTTP/2 whose path no URL may have: a space at its end. Waits until it is refused.
async fn malformed_over_http2(ingress: SocketAddr, path: &str) {
    const END_OF_STREAM_AND_HEADERS: u8 = 5;
    let length = u8::try_from(path.len()).unwrap();
    assert!(length < 127, "the length is one byte");
    // :method POST, :scheme http, and :path as a literal.
    let fields = [&[0x83, 0x86, 0x04, length], path.as_bytes()].concat();
    let fields_length = u8::try_from(fields.len()).unwrap();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let headers = [0, 0, fields_length, 1, END_OF_STREAM_AND_HEADERS, 0, 0, 0, 1];
    let mut connection = TcpStream::connect(ingress).await.unwrap();
    let request = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(),
        &settings,
        &headers,
        &fields,
    ]
    .concat();
    connection.write_all(&request).await.unwrap();
    let reset = [0, 0, 4, 3, 0, 0, 0, 0, 1];
    let mut answer = Vec::new();
    while !answer.windows(reset.len()).any(|part| part == reset) {
        let read = tokio::time::timeout(PATIENCE, connection.read_buf(&mut answer)).await;
        assert_ne!(read.unwrap().unwrap(), 0, "the stream is reset");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_a_full_run_at_trace_level_tells_no_secret_and_no_body() {
    let mut run = Run::new().await;
    let (first, second, wrong) = (
        SealingKey::generate(),
        SealingKey::generate(),
        SealingKey::generate(),
    );
    for (what, key) in [
        ("the sealing key", &first),
        ("the next sealing key", &second),
        ("a wrong sealing key", &wrong),
    ] {
        run.secrets.hide_encoded(what, &key.to_base64());
    }
    let serve = |run: &Run, start: &Start| {
        let flags: Vec<_> = start.flags.iter().map(String::as_str).collect();
        Hookstream::start_in(Arc::clone(&run.directory), &flags, &start.variables)
    };

    let start = run.start(&first.to_base64(), "sk_heygen_api_key_5e1f0c");
    let service = serve(&run, &start);
    let (secret, token) = run.local_endpoint(&service).await;
    run.heygen_endpoint(&service).await;
    run.calls(&service).await;
    run.look_at(&service).await;
    run.end(service);
    assert!(run.command(&["config", "print"], &start).status.success());
    assert!(run.command(&["config", "check"], &start).status.success());

    // The next process has another sealing key, and one that HeyGen does not take.
    let wrong_api_key = "sk_that_heygen_does_not_take";
    run.secrets.hide("a wrong API key", wrong_api_key);
    let mut rotated = run.start(&first.to_base64(), wrong_api_key);
    rotated.flags[0] = "--previous-sealing-key-file".to_owned();
    rotated
        .variables
        .insert("HOOKSTREAM_SEALING_KEY", second.to_base64().to_string());
    let service = serve(&run, &rotated);
    assert_eq!(
        run.deliver(&service, "local", &secret, private_body(30)).await,
        200
    );
    let path = format!("/callbacks/local/{token}");
    assert_eq!(run.post(&path, &[], private_body(31)).await, 200);
    let rotate = Operation::RotateSecret(RotateSecret {
        name: "prod".into(),
        ..RotateSecret::default()
    });
    assert!(run.ask(&service, rotate).await.is_none());
    run.look_at(&service).await;
    run.end(service);
    assert!(run.command(&["config", "print"], &rotated).status.success());

    // The third asks for credentials, and serves backends over TLS.
    let operator = "the-operators-token-which-nobody-guesses";
    run.secrets.hide("the operator's token", operator);
    let authority = Authority::new("ours");
    let issued = authority.server("a.example.com", 2099);
    let private_key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    run.secrets
        .hide("the certificate's key", private_key.secret_der());
    let (certificate, key) = issued.write(run.directory.path(), "server");
    run.file("ca.pem", &authority.pem());
    let mut guarded = run.start(&second.to_base64(), wrong_api_key);
    for (flag, path) in [
        ("--grpc-tls-certificate-file", certificate),
        ("--grpc-tls-key-file", key),
    ] {
        guarded
            .flags
            .extend([flag.to_owned(), path.to_str().unwrap().to_owned()]);
    }
    guarded
        .variables
        .insert("HOOKSTREAM_ADMIN_TOKEN", operator.to_owned());
    let service = serve(&run, &guarded);
    run.tokens(&service, operator);
    let (status, metrics) = service.admin_as(operator, "/metrics").await;
    assert_eq!(status, 200);
    run.tell("/metrics", metrics);
    run.look_at(&service).await;
    run.end(service);
    assert!(run.command(&["config", "print"], &guarded).status.success());

    // What must not start.
    let other = run.start(&wrong.to_base64(), wrong_api_key);
    let words = [&["serve"], &FREE_PORTS[2..]].concat();
    assert!(!run.command(&words, &other).status.success());
    let no_key = run.start("sk_heygen_api_key_5e1f0c", wrong_api_key);
    assert!(!run.command(&words, &no_key).status.success());
    let mut no_file = run.start(&first.to_base64(), wrong_api_key);
    no_file.flags[1] = "sk_heygen_api_key_5e1f0c".to_owned();
    assert!(!run.command(&words, &no_file).status.success());

    let mut private = Hidden::default();
    for text in PRIVATE {
        private.hide("a body's text", text);
    }
    let mut found = run.secrets.found_in(run.told.iter().chain(&run.kept));
    found.extend(private.found_in(&run.told));
    assert_eq!(found, [""; 0]);
    assert!(!private.found_in(&run.kept).is_empty(), "bodies are stored");
    run.heygen.end().await;
}

#[test]
fn the_search_finds_a_secret_in_every_form() {
    let mut hidden = Hidden::default();
    let key = SealingKey::generate().to_base64();
    hidden.hide_encoded("the key", &key);
    let bytes = data_encoding::BASE64.decode(key.as_bytes()).unwrap();
    for told in [
        format!("key={} ", *key),
        format!("{bytes:?}"),
        format!("{:?}", key.as_bytes()),
        HEXLOWER.encode(&bytes),
        HEXUPPER.encode(key.as_bytes()),
        BASE64URL.encode(&bytes),
    ] {
        let place = Place {
            name: "a line".into(),
            bytes: format!("before {told} after\0\0\n").into_bytes(),
        };
        assert!(!hidden.found_in([&place]).is_empty(), "{told}");
    }
    let place = Place {
        name: "a line".into(),
        bytes: b"nothing".to_vec(),
    };
    assert!(hidden.found_in([&place]).is_empty());
}

#[tokio::test]
async fn without_a_key_secrets_are_readable_in_the_file_and_the_service_says_how_to_seal_them() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    let mut hidden = Hidden::default();
    hidden.hide_encoded("the secret", sender.secret.expose());
    assert!(service.output().contains("--sealing-key-file"));
    let data_dir = service.data_dir();
    let (directory, _) = service.drain_and_read();
    assert!(!hidden.found_in(&files_below(&data_dir)).is_empty());

    let key = directory.path().join("sealing.key");
    fs::write(&key, &*SealingKey::generate().to_base64()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let flags = ["--sealing-key-file", key.to_str().unwrap()];
    let service = Hookstream::start_in(directory, &flags, &HashMap::new());
    assert_eq!(hidden.found_in(&files_below(&data_dir)), [""; 0]);
    let sender = service.sender("dev", sender.secret.expose());
    assert_eq!(sender.deliver(private_body(1)).await, 200);
    let output = service.output();
    assert!(
        output.contains("chmod 600"),
        "a key that others can read is told: {output}"
    );
    assert!(!output.contains("stored readable"), "{output}");
}

#[tokio::test]
async fn a_service_without_the_key_it_needs_does_not_start_and_says_which_it_is() {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let key = SealingKey::generate();
    let variables = HashMap::from([("HOOKSTREAM_SEALING_KEY", key.to_base64().to_string())]);
    let service = Hookstream::start_in(directory, &[], &variables);
    service.endpoint("dev").await;
    let directory = service.drain();
    let data_dir = directory.path().join("data");
    let words = [
        &["serve", "--data-dir", data_dir.to_str().unwrap()],
        &FREE_PORTS[..],
    ]
    .concat();
    let (status, _, error) = run(&words);
    assert!(!status.success());
    for part in [
        "endpoint dev",
        &key.id().to_string(),
        "--sealing-key-file",
        "state.db",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_command_makes_a_new_key_each_time() {
    let make = || {
        let (status, key, error) = run(&["config", "generate-sealing-key"]);
        assert!(status.success() && error.is_empty(), "{error}");
        SealingKey::parse(key.strip_suffix('\n').unwrap()).unwrap().id()
    };
    assert_ne!(make(), make());
}

#[tokio::test]
async fn the_data_directory_and_every_file_in_it_is_the_owners_alone() {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let look = |data_dir: &Path| {
        assert_eq!(mode(data_dir), 0o700);
        let files = files(data_dir);
        for file in &files {
            assert_eq!(mode(file), 0o600, "{}", file.display());
        }
        files.len()
    };
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    assert_eq!(sender.deliver(private_body(1)).await, 200);
    let data_dir = service.data_dir();
    let names: Vec<_> = files(&data_dir)
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    for name in [
        "state.db",
        "state.db-wal",
        "state.db-shm",
        "log.db-wal",
        "log.db-shm",
    ] {
        assert!(names.iter().any(|found| found == name), "{name} in {names:?}");
    }
    look(&data_dir);
    let service = service.kill_and_restart();
    look(&data_dir);
    let _directory = service.drain();
    look(&data_dir);
}
