//! The vocabulary of the tests: a running service, signed deliveries, streams, subscriptions. Owns processes
//! and their end; makes no claims.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use data_encoding::HEXLOWER;
use hookstream::{
    grpc::proto::{
        AcknowledgeEventsRequest, AcknowledgementResult, DeadLetter, Event, EventFilter, ListEventsRequest,
        ManageEndpointRequest, ManageSubscriptionRequest, Order, Position, SubscribeEventsRequest,
        SubscribeEventsResponse, Subscription, SubscriptionStatus,
        acknowledge_events_request::{Done, Extend, Outcome, Reject, Retry},
        hookstream_service_client::HookstreamServiceClient,
        manage_endpoint_request::{Create, Operation},
        manage_endpoint_response::Result as Answer,
        manage_subscription_request as subscription_request,
        manage_subscription_response::Result as SubscriptionAnswer,
        subscribe_events_request::Start,
        subscribe_events_response::Frame,
    },
    samples,
    secret::Secret,
    signature,
};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tonic::{Status, Streaming, transport::Channel};
use tonic_types::StatusExt;

pub type Client = HookstreamServiceClient<Channel>;

/// A key that all replicas seal with.
pub const SEALING_KEY: &str = "aG9va3N0cmVhbSBzZWFsaW5nIGtleSBvZiB0ZXN0cyE=";

/// How long anything may take that is expected to happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for what is expected to happen.
pub async fn until(what: &str, mut happened: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A number that the environment sets.
pub fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().expect("a number"))
}

/// The binary under test: `HOOKSTREAM_BINARY`, or what cargo built beside the tests.
pub fn binary() -> PathBuf {
    let chosen = std::env::var("HOOKSTREAM_BINARY");
    chosen.map_or_else(|_| env!("CARGO_BIN_EXE_hookstream").into(), PathBuf::from)
}

/// Flags that let a command listen where it disturbs nobody.
pub const FREE_PORTS: [&str; 6] = [
    "--ingress-listen",
    "127.0.0.1:0",
    "--grpc-listen",
    "127.0.0.1:0",
    "--admin-listen",
    "127.0.0.1:0",
];

/// A running `hookstream serve`.
pub struct Hookstream {
    pub ingress: SocketAddr,
    pub grpc: SocketAddr,
    pub admin: SocketAddr,
    directory: Arc<TempDir>,
    output: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    child: Child,
}

impl Hookstream {
    /// Starts one in a new directory.
    pub fn start() -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), &[], &HashMap::new())
    }

    /// Starts one in this directory, with these flags and variables.
    pub fn start_in(directory: Arc<TempDir>, flags: &[&str], variables: &HashMap<&str, String>) -> Self {
        Self::try_start_in(directory, flags, variables).expect("the service ends before it is ready")
    }

    /// The same; what it said, if it ends before it is ready.
    pub fn try_start_in(
        directory: Arc<TempDir>,
        flags: &[&str],
        variables: &HashMap<&str, String>,
    ) -> Result<Self, String> {
        let mut command = Command::new(binary());
        command
            .arg("serve")
            .arg("--data-dir")
            .arg(directory.path().join("data"));
        for listener in ["--ingress-listen", "--grpc-listen", "--admin-listen"] {
            if !flags.contains(&listener) {
                command.args([listener, "127.0.0.1:0"]);
            }
        }
        // What holds for one engine has to hold for the other: HOOKSTREAM_TEST_NATS names servers for it.
        if let Ok(servers) = std::env::var("HOOKSTREAM_TEST_NATS")
            && !flags.contains(&"--log")
        {
            let name = directory.path().file_name().unwrap().to_str().unwrap();
            command
                .args(["--log", "jetstream", "--jetstream-url", &servers])
                .args(["--jetstream-stream", &name.replace('.', "t")])
                .env("HOOKSTREAM_SEALING_KEY", SEALING_KEY);
        }
        command.args(["--log-format", "json"]).args(flags).envs(variables);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let output = Arc::new(Mutex::new(String::new()));
        let errors = BufReader::new(child.stderr.take().unwrap()).lines();
        let collected = Arc::clone(&output);
        let errors = std::thread::spawn(move || {
            for line in errors.map_while(Result::ok) {
                eprintln!("{line}");
                let mut output = collected.lock().unwrap();
                output.push_str(&line);
                output.push('\n');
            }
        });
        let mut ready = None;
        while ready.is_none() {
            let Some(line) = lines.next() else {
                child.wait().unwrap();
                return Err(output.lock().unwrap().clone());
            };
            let line = line.unwrap();
            output.lock().unwrap().push_str(&format!("{line}\n"));
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            ready = (line["message"] == "ready").then_some(line);
        }
        let ready = ready.unwrap();
        let address = |name: &str| ready[name].as_str().unwrap().parse().unwrap();
        let collected = Arc::clone(&output);
        let lines = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut output = collected.lock().unwrap();
                output.push_str(&line);
                output.push('\n');
            }
        });
        Ok(Self {
            ingress: address("ingress"),
            grpc: address("grpc"),
            admin: address("admin"),
            directory,
            output,
            readers: vec![lines, errors],
            child,
        })
    }

    /// Kills it with SIGKILL and starts it again on what it left.
    pub fn kill_and_restart(self) -> Self {
        let directory = self.kill();
        Self::start_in(directory, &[], &HashMap::new())
    }

    /// Kills it with SIGKILL.
    pub fn kill(mut self) -> Arc<TempDir> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Arc::clone(&self.directory)
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.child.id().to_string())
            .status();
        assert!(status.unwrap().success());
    }

    /// Waits for its end.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the service does not end within {patience:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it in order.
    pub fn drain(mut self) -> Arc<TempDir> {
        self.signal("TERM");
        assert!(self.wait(PATIENCE).success());
        Arc::clone(&self.directory)
    }

    /// Ends it in order; its directory and everything it logged up to its end.
    pub fn drain_and_read(mut self) -> (Arc<TempDir>, String) {
        self.signal("TERM");
        assert!(self.wait(PATIENCE).success());
        for reader in std::mem::take(&mut self.readers) {
            reader.join().unwrap();
        }
        (Arc::clone(&self.directory), self.output())
    }

    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Everything it logged so far.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Its resident memory.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub async fn channel(&self) -> Channel {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", self.grpc)).unwrap();
        endpoint.connect().await.unwrap()
    }

    pub async fn client(&self) -> Client {
        Client::new(self.channel().await)
    }

    /// Begins a delivery whose body does not come.
    pub async fn begin_delivery(&self) -> TcpStream {
        begin_delivery(self.ingress).await
    }

    /// The service after a restart, once retention has removed these events, which are all that it had.
    pub async fn restart_without_its_events(self, events: u32) -> Self {
        // Past the age below.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let service = Self::start_in(self.drain(), &["--retention-age", "1s"], &HashMap::new());
        until(&format!("{events} events are trimmed"), async || {
            service.metric("hookstream_log_trimmed_events_total").await >= f64::from(events)
        })
        .await;
        service
    }

    /// Waits until so many deliveries are being handled.
    pub async fn until_in_flight(&self, deliveries: f64) {
        let in_flight = async || self.metric("hookstream_deliveries_in_flight").await == deliveries;
        until(&format!("{deliveries} deliveries in flight"), in_flight).await;
    }

    /// Makes an endpoint with a generated secret.
    pub async fn endpoint(&self, name: &str) -> Sender {
        let create = Create {
            name: name.to_owned(),
            ..Create::default()
        };
        let answer = manage(&mut self.client().await, Operation::Create(create))
            .await
            .unwrap();
        let Answer::Create(created) = answer else {
            panic!("another answer: {answer:?}")
        };
        self.sender(name, &created.secret)
    }

    /// Delivers to an endpoint whose secret is known.
    pub fn sender(&self, name: &str, secret: &str) -> Sender {
        let secret = Secret::new(secret.to_owned()).unwrap();
        Sender {
            http: http(),
            url: format!("http://{}/webhooks/{name}", self.ingress),
            secret,
        }
    }

    /// Makes a subscription on these terms that starts at the oldest event.
    pub async fn subscription(&self, name: &str, terms: Subscription) -> Subscription {
        let subscription = Subscription {
            name: name.to_owned(),
            ..terms
        };
        let start = subscription_request::create::Start::Position(Position::Earliest.into());
        let create = subscription_request::Create {
            subscription: Some(subscription),
            start: Some(start),
        };
        let operation = subscription_request::Operation::Create(create);
        let answer = manage_subscription(&mut self.client().await, operation)
            .await
            .unwrap();
        subscription_in(answer)
    }

    /// What a subscription has put aside, oldest first.
    pub async fn dead_letters(&self, name: &str) -> Vec<(Event, DeadLetter)> {
        let mut client = self.client().await;
        let mut dead_letters = Vec::new();
        let mut request = ListEventsRequest {
            order: Order::OldestFirst.into(),
            page_size: 1000,
            dead_letters_of: name.to_owned(),
            ..ListEventsRequest::default()
        };
        loop {
            let page = client.list_events(request.clone()).await.unwrap().into_inner();
            assert_eq!(page.events.len(), page.dead_letters.len());
            dead_letters.extend(page.events.into_iter().zip(page.dead_letters));
            if page.next_page_token.is_empty() {
                return dead_letters;
            }
            request.page_token = page.next_page_token;
        }
    }

    pub async fn subscribe(&self, request: SubscribeEventsRequest) -> Stream {
        self.client()
            .await
            .subscribe_events(request)
            .await
            .unwrap()
            .into_inner()
            .into()
    }

    /// Everything that is stored, read from the start.
    pub async fn stored(&self) -> Vec<Event> {
        let request = SubscribeEventsRequest {
            stop_at_tail: true,
            ..from_start()
        };
        self.subscribe(request).await.rest().await.unwrap()
    }

    /// The answer of an admin path: status and body.
    pub async fn admin(&self, path: &str) -> (u16, String) {
        self.ask_admin(http().get(format!("http://{}{path}", self.admin)))
            .await
    }

    /// The same with a token.
    pub async fn admin_as(&self, token: &str, path: &str) -> (u16, String) {
        let request = http().get(format!("http://{}{path}", self.admin));
        self.ask_admin(request.bearer_auth(token)).await
    }

    async fn ask_admin(&self, request: reqwest::RequestBuilder) -> (u16, String) {
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// One metric's value.
    pub async fn metric(&self, line_start: &str) -> f64 {
        Self::value(&self.admin("/metrics").await.1, line_start)
    }

    /// The same with a token.
    pub async fn metric_as(&self, token: &str, line_start: &str) -> f64 {
        Self::value(&self.admin_as(token, "/metrics").await.1, line_start)
    }

    fn value(text: &str, line_start: &str) -> f64 {
        let line = text.lines().find(|line| line.starts_with(line_start));
        let line = line.unwrap_or_else(|| panic!("no metric {line_start} in\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

impl Drop for Hookstream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that waits no longer than anybody should.
pub fn http() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(PATIENCE).build().unwrap()
}

/// Begins a delivery to the endpoint `dev` whose body does not come.
pub async fn begin_delivery(ingress: SocketAddr) -> TcpStream {
    let mut connection = TcpStream::connect(ingress).await.unwrap();
    let head = b"POST /webhooks/dev HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{";
    connection.write_all(head).await.unwrap();
    connection
}

/// Signs and posts, as HeyGen does.
#[derive(Clone)]
pub struct Sender {
    pub http: reqwest::Client,
    pub url: String,
    pub secret: Secret,
}

impl Sender {
    pub fn sign(&self, body: &[u8]) -> String {
        HEXLOWER.encode(&signature::sign(&self.secret, body))
    }

    /// Delivers; the status of the answer.
    pub async fn deliver(&self, body: impl Into<Vec<u8>>) -> u16 {
        self.try_deliver(body).await.unwrap()
    }

    /// Delivers; an error if no answer comes.
    pub async fn try_deliver(&self, body: impl Into<Vec<u8>>) -> Result<u16, reqwest::Error> {
        let body = body.into();
        let signature = self.sign(&body);
        self.post(body, &[("Signature", &signature)]).await
    }

    /// Posts with these headers and no others that matter.
    pub async fn post(
        &self,
        body: impl Into<reqwest::Body>,
        headers: &[(&str, &str)],
    ) -> Result<u16, reqwest::Error> {
        let mut request = self.http.post(&self.url).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Ok(request.send().await?.status().as_u16())
    }
}

/// The body of the `number`th of a family of different events.
pub fn body(event_type: &str, number: u64) -> String {
    samples::body(event_type, number)
}

/// The body of an event about this entity, or about none if that is empty. Another number is another event.
pub fn about(entity: &str, number: u64) -> String {
    let mut event_data = serde_json::json!({"n": number});
    if !entity.is_empty() {
        event_data["video_id"] = entity.into();
    }
    samples::body_of("avatar_video.success", &event_data)
}

/// The number of an event that has such a body.
pub fn number(event: &Event) -> u64 {
    let body: serde_json::Value = serde_json::from_slice(&event.raw_body).unwrap();
    body["event_data"]["n"].as_u64().unwrap()
}

/// The frames of a stream.
pub struct Stream(Streaming<SubscribeEventsResponse>);

/// An event that a subscription handed to a stream.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub event: Event,
    pub ack_id: String,
    pub attempt: i32,
}

impl From<Streaming<SubscribeEventsResponse>> for Stream {
    fn from(frames: Streaming<SubscribeEventsResponse>) -> Self {
        Self(frames)
    }
}

impl Stream {
    async fn response(&mut self) -> Result<Option<SubscribeEventsResponse>, Status> {
        tokio::time::timeout(PATIENCE, self.0.message())
            .await
            .expect("no frame comes")
    }

    /// The next frame; `None` at the end.
    pub async fn frame(&mut self) -> Result<Option<Frame>, Status> {
        let response = self.response().await?;
        Ok(response.map(|response| response.frame.unwrap()))
    }

    /// The next event of a subscription, whatever frames come before it; `None` at the end.
    pub async fn next_delivery(&mut self) -> Result<Option<Delivery>, Status> {
        while let Some(response) = self.response().await? {
            if let Some(Frame::Event(event)) = response.frame {
                return Ok(Some(Delivery {
                    event,
                    ack_id: response.ack_id,
                    attempt: response.delivery_attempt,
                }));
            }
        }
        Ok(None)
    }

    /// The same where one has to come.
    pub async fn delivery(&mut self) -> Delivery {
        let next = self.next_delivery().await.unwrap();
        next.expect("the stream ends")
    }

    /// So many of them.
    pub async fn deliveries(&mut self, count: usize) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        while deliveries.len() < count {
            deliveries.push(self.delivery().await);
        }
        deliveries
    }

    /// The events of a subscription until everything kept was handed out.
    pub async fn until_caught_up(&mut self) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        loop {
            let response = self.response().await.unwrap().expect("the stream ends");
            match response.frame.unwrap() {
                Frame::Event(event) => deliveries.push(Delivery {
                    event,
                    ack_id: response.ack_id,
                    attempt: response.delivery_attempt,
                }),
                Frame::CaughtUp(_) => return deliveries,
                _ => continue,
            }
        }
    }

    /// Waits for the next heartbeat, before which no event may come.
    pub async fn silence(&mut self) {
        loop {
            match self.frame().await.unwrap().expect("the stream ends") {
                Frame::Heartbeat(_) => return,
                Frame::Event(event) => panic!("an event comes: {event:?}"),
                _ => continue,
            }
        }
    }

    /// The next event, whatever frames come before it.
    pub async fn event(&mut self) -> Event {
        loop {
            match self.frame().await.unwrap().expect("the stream ends") {
                Frame::Event(event) => return event,
                _ => continue,
            }
        }
    }

    /// The events up to the end.
    pub async fn rest(mut self) -> Result<Vec<Event>, Status> {
        let mut events = Vec::new();
        while let Some(frame) = self.frame().await? {
            if let Frame::Event(event) = frame {
                events.push(event);
            }
        }
        Ok(events)
    }
}

/// From the oldest event on.
pub fn from_start() -> SubscribeEventsRequest {
    let start = Some(Start::Position(Position::Earliest.into()));
    SubscribeEventsRequest {
        start,
        ..SubscribeEventsRequest::default()
    }
}

/// A part in a subscription.
pub fn part_in(subscription: &str) -> SubscribeEventsRequest {
    SubscribeEventsRequest {
        subscription: subscription.to_owned(),
        ..SubscribeEventsRequest::default()
    }
}

/// After a cursor.
pub fn after(cursor: &str) -> SubscribeEventsRequest {
    let start = Some(Start::AfterCursor(cursor.to_owned()));
    SubscribeEventsRequest {
        start,
        ..SubscribeEventsRequest::default()
    }
}

/// A filter by types.
pub fn types(patterns: &[&str]) -> Option<EventFilter> {
    let event_types = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
    Some(EventFilter {
        event_types,
        ..EventFilter::default()
    })
}

pub async fn manage(client: &mut Client, operation: Operation) -> Result<Answer, Status> {
    let request = ManageEndpointRequest {
        operation: Some(operation),
    };
    Ok(client
        .manage_endpoint(request)
        .await?
        .into_inner()
        .result
        .unwrap())
}

pub async fn manage_subscription(
    client: &mut Client,
    operation: subscription_request::Operation,
) -> Result<SubscriptionAnswer, Status> {
    let request = ManageSubscriptionRequest {
        operation: Some(operation),
    };
    Ok(client
        .manage_subscription(request)
        .await?
        .into_inner()
        .result
        .unwrap())
}

/// The subscription in an answer that has one.
pub fn subscription_in(answer: SubscriptionAnswer) -> Subscription {
    let subscription = match answer {
        SubscriptionAnswer::Create(created) => created.subscription,
        SubscriptionAnswer::Get(found) => found.subscription,
        SubscriptionAnswer::Update(updated) => updated.subscription,
        SubscriptionAnswer::Seek(moved) => moved.subscription,
        other => panic!("no subscription in {other:?}"),
    };
    subscription.unwrap()
}

/// How a subscription stands.
pub async fn standing(client: &Client, name: &str) -> SubscriptionStatus {
    let get = subscription_request::Get {
        name: name.to_owned(),
    };
    let operation = subscription_request::Operation::Get(get);
    let answer = manage_subscription(&mut client.clone(), operation).await.unwrap();
    subscription_in(answer).status.unwrap()
}

/// Says what became of events; an answer for each.
pub async fn acknowledge(
    client: &mut Client,
    subscription: &str,
    ack_ids: Vec<String>,
    outcome: Outcome,
) -> Result<Vec<AcknowledgementResult>, Status> {
    let request = AcknowledgeEventsRequest {
        subscription: subscription.to_owned(),
        ack_ids,
        outcome: Some(outcome),
    };
    let answer = client.acknowledge_events(request).await?.into_inner();
    let results = answer.results.into_iter();
    Ok(results
        .map(|result| AcknowledgementResult::try_from(result).unwrap())
        .collect())
}

pub fn done() -> Outcome {
    Outcome::Done(Done {})
}

pub fn reject() -> Outcome {
    Outcome::Reject(Reject {})
}

/// As after any failed attempt, unless a time is given.
pub fn retry(after: Option<prost_types::Duration>) -> Outcome {
    Outcome::Retry(Retry { after })
}

/// By the subscription's deadline, unless a time is given.
pub fn extend(by: Option<prost_types::Duration>) -> Outcome {
    Outcome::Extend(Extend { by })
}

/// A duration in a message.
pub fn millis(millis: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration {
        seconds: millis / 1000,
        nanos: (millis % 1000) as i32 * 1_000_000,
    })
}

/// The reason in a refusal's details.
pub fn reason(status: &Status) -> String {
    status
        .get_error_details()
        .error_info()
        .map(|info| info.reason.clone())
        .unwrap_or_default()
}

/// One thing in a refusal's metadata.
pub fn metadata(status: &Status, name: &str) -> String {
    status.get_error_details().error_info().unwrap().metadata[name].clone()
}

/// The field that a refusal blames.
pub fn field(status: &Status) -> String {
    status.get_error_details().bad_request().unwrap().field_violations[0]
        .field
        .clone()
}

/// Runs a command of the binary to its end; status, standard output, standard error.
pub fn run(args: &[&str]) -> (ExitStatus, String, String) {
    let output = finish(Command::new(binary()).args(args));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status, text(output.stdout), text(output.stderr))
}

/// Runs a command to its end, which has to come.
pub fn finish(command: &mut Command) -> Output {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let id = child.id().to_string();
    let output = std::thread::spawn(move || child.wait_with_output().unwrap());
    let deadline = Instant::now() + 3 * PATIENCE;
    while !output.is_finished() {
        if Instant::now() > deadline {
            let _ = Command::new("kill").args(["-KILL", &id]).status();
            panic!("the command does not end: {command:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    output.join().unwrap()
}

/// Every file below a directory.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}
