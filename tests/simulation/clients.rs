//! Whoever talks to the service in a run: HeyGen, readers, workers of a subscription, one that waits for one event. Owns what
//! each does when a connection breaks or an answer is late; reports what it saw, and what it must not see.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use data_encoding::HEXLOWER;
use hookstream::{
    grpc::proto::{
        AcknowledgeEventsRequest, AcknowledgementResult, AwaitEventRequest, EventFilter, ListEventsRequest,
        ManageSubscriptionRequest, Order, Position, SubscribeEventsRequest, Subscription,
        acknowledge_events_request::{Done, Outcome, Retry},
        await_event_request,
        hookstream_service_client::HookstreamServiceClient,
        manage_subscription_request::{Create, Operation},
        subscribe_events_request::Start,
        subscribe_events_response::Frame,
    },
    secret::Secret,
    signature,
};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    network::{self, INGRESS_PORT},
    service::{ENDPOINT, secret},
    world::Shared,
};

/// HeyGen's own.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);
const TYPES: [&str; 4] = [
    "avatar_video.success",
    "avatar_video.fail",
    "video_translate.success",
    "something.new",
];
/// The event that somebody waits for: the third of the first sender.
const AWAITED: &str = "callback-0-2";
const SUBSCRIPTION: &str = "work";

/// Where the id of the resource stands.
fn id_field(event_type: &str) -> &'static str {
    if event_type.starts_with("video_translate.") {
        "video_translate_id"
    } else {
        "video_id"
    }
}

async fn pause(range: std::ops::Range<u64>) {
    sleep(Duration::from_millis(rand::random_range(range))).await;
}

fn one_in(number: u32) -> bool {
    rand::random_ratio(1, number)
}

/// HeyGen: delivers events one after the other, each until it is answered with success. Now and then once more, and now and
/// then somebody else's.
pub async fn send(shared: Arc<Shared>, sender: usize) -> turmoil::Result {
    let events = rand::random_range(3..25);
    for number in 0..events {
        let event_type = TYPES[rand::random_range(0..TYPES.len())];
        let entity = format!("v{}", rand::random_range(0..3));
        let mut data = json!({"callback_id": format!("callback-{sender}-{number}")});
        data[id_field(event_type)] = entity.into();
        let mut body = json!({"event_type": event_type, "event_data": data});
        if one_in(2) {
            body["event_id"] = format!("evt_{sender}_{number}").into();
        }
        let body = body.to_string().into_bytes();
        if one_in(8) {
            let forged = Secret::new("whsec_of_somebody_else".to_owned()).unwrap();
            let forgery = [&body[..], b" "].concat();
            if let Some(status) = deliver(&forged, forgery).await
                && status == 200
            {
                shared.breach("I2: a forged delivery was answered with 200".to_owned());
            }
        }
        let mut repeats = u32::from(one_in(6));
        loop {
            match deliver(&secret(), body.clone()).await {
                Some(200) => {
                    shared.saw(&format!("delivered {sender}-{number}"));
                    shared.history.lock().acknowledged.insert(body.clone());
                    if repeats == 0 {
                        break;
                    }
                    repeats -= 1;
                }
                Some(503) | None => pause(200..3_000).await,
                Some(status) => {
                    shared.breach(format!("a good delivery is answered with {status}"));
                    return Ok(());
                }
            }
        }
        pause(0..1_500).await;
    }
    shared.sending.fetch_sub(1, Ordering::SeqCst);
    shared.all_sent.notify_waiters();
    Ok(())
}

/// The status of the answer, if there was one in time.
async fn deliver(secret: &Secret, body: Vec<u8>) -> Option<u16> {
    let exchange = async {
        let connection = network::connect(INGRESS_PORT).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(connection).await.ok()?;
        let request = http::Request::post(format!("/webhooks/{ENDPOINT}"))
            .header("host", "server")
            .header("signature", HEXLOWER.encode(&signature::sign(secret, &body)))
            .body(Full::<bytes::Bytes>::from(body))
            .unwrap();
        let answered = async {
            let response = sender.send_request(request).await.ok()?;
            let status = response.status().as_u16();
            response.into_body().collect().await.ok()?;
            Some(status)
        };
        tokio::select! {
            biased;
            status = answered => status,
            _ = connection => None,
        }
    };
    timeout(DELIVERY_TIMEOUT, exchange).await.ok().flatten()
}

type Client = HookstreamServiceClient<Channel>;

/// A connection that notices when the other side is gone.
async fn connect() -> Option<Client> {
    let endpoint = Endpoint::from_static("http://server:50051")
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true);
    let connected = timeout(Duration::from_secs(3), network::channel(endpoint)).await;
    Some(HookstreamServiceClient::new(connected.ok()?.ok()?))
}

/// Whether trying again may help: what breaks under a call has no details.
fn passes(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => true,
        Code::Unknown | Code::Internal | Code::Cancelled => status.details().is_empty(),
        _ => false,
    }
}

/// Which events a reader wants.
#[derive(Clone, Debug)]
pub enum Wants {
    All,
    Types(&'static str),
    Entity(&'static str),
}

impl Wants {
    fn filter(&self) -> EventFilter {
        let (mut event_types, mut entity_ids) = (Vec::new(), Vec::new());
        match self {
            Self::All => {}
            Self::Types(pattern) => event_types.push((*pattern).to_owned()),
            Self::Entity(entity) => entity_ids.push((*entity).to_owned()),
        }
        EventFilter {
            event_types,
            entity_ids,
            ..EventFilter::default()
        }
    }

    /// Whether an event with this body is among them, judged without the service.
    pub fn includes(&self, body: &[u8]) -> bool {
        let body: serde_json::Value = serde_json::from_slice(body).unwrap();
        let event_type = body["event_type"].as_str().unwrap();
        match self {
            Self::All => true,
            Self::Types("avatar_video.*") => event_type.starts_with("avatar_video."),
            Self::Types("*.success") => event_type.ends_with(".success"),
            Self::Types(other) => event_type == *other,
            Self::Entity(entity) => {
                // Of a family that is not known, nothing says where the id stands.
                event_type != "something.new" && body["event_data"][id_field(event_type)] == *entity
            }
        }
    }
}

type Received = Arc<Mutex<Vec<(u64, Vec<u8>)>>>;

/// A backend that reads a stream, over as many connections as it takes.
pub struct Reader {
    name: String,
    shared: Arc<Shared>,
    wants: Wants,
    received: Received,
    cursor: Option<String>,
}

impl Reader {
    pub fn new(number: usize, shared: Arc<Shared>) -> Self {
        let all = [
            Wants::All,
            Wants::Types("avatar_video.*"),
            Wants::Types("*.success"),
            Wants::Types("something.new"),
            Wants::Entity("v1"),
        ];
        Self {
            name: format!("reader {number}"),
            shared,
            wants: all[rand::random_range(0..all.len())].clone(),
            received: Received::default(),
            cursor: None,
        }
    }

    pub fn wants(&self) -> Wants {
        self.wants.clone()
    }

    pub fn received(&self) -> Received {
        Arc::clone(&self.received)
    }

    /// Follows until nothing more is sent, then reads what is left, and then all of it again in pages.
    pub async fn read(mut self) -> turmoil::Result {
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            () = async {
                loop {
                    self.follow(false).await;
                    pause(0..1_000).await;
                }
            } => {}
            () = shared.until_all_sent() => {}
        }
        while !self.follow(true).await {
            pause(200..1_000).await;
        }
        shared.saw(&format!("{} has everything", self.name));
        self.list().await;
        Ok(())
    }

    /// One stream, as long as it holds. Whether it came to the end of what is stored.
    async fn follow(&mut self, stop_at_tail: bool) -> bool {
        let Some(mut client) = connect().await else {
            return false;
        };
        let start = match &self.cursor {
            Some(cursor) => Start::AfterCursor(cursor.clone()),
            None => Start::Position(Position::Earliest.into()),
        };
        let request = SubscribeEventsRequest {
            start: Some(start),
            filter: Some(self.wants.filter()),
            stop_at_tail,
            ..SubscribeEventsRequest::default()
        };
        let opened = timeout(Duration::from_secs(10), client.subscribe_events(request)).await;
        let mut frames = match opened {
            Ok(Ok(frames)) => frames.into_inner(),
            Ok(Err(status)) => {
                self.check(&status);
                return false;
            }
            Err(_) => return false,
        };
        let is_slow = one_in(3);
        loop {
            match frames.message().await {
                Ok(Some(response)) => match response.frame {
                    Some(Frame::Event(event)) => {
                        self.shared.saw(&format!("{} has {}", self.name, event.sequence));
                        self.cursor = Some(event.cursor.clone());
                        self.received
                            .lock()
                            .push((event.sequence, event.raw_body.to_vec()));
                        if is_slow {
                            pause(0..2_000).await;
                        }
                        if one_in(20) {
                            return false;
                        }
                    }
                    Some(Frame::CaughtUp(at)) => self.cursor = Some(at.cursor),
                    Some(Frame::Heartbeat(at)) => self.cursor = Some(at.cursor),
                    Some(Frame::FellBehind(at)) => self.cursor = Some(at.cursor),
                    Some(Frame::Draining(draining)) => self.cursor = Some(draining.cursor),
                    Some(Frame::Gap(_)) => self
                        .shared
                        .breach("I4: a gap where nothing was removed".to_owned()),
                    None => {}
                },
                Ok(None) if stop_at_tail => return true,
                Ok(None) => return false,
                Err(status) => {
                    self.check(&status);
                    return false;
                }
            }
        }
    }

    fn check(&self, status: &Status) {
        if !passes(status) {
            self.shared.breach(format!("{}: {status}", self.name));
        }
    }

    /// Everything once more, in pages.
    async fn list(&self) {
        'anew: loop {
            pause(0..500).await;
            let Some(mut client) = connect().await else {
                continue;
            };
            let mut request = ListEventsRequest {
                filter: Some(self.wants.filter()),
                order: Order::OldestFirst.into(),
                page_size: 7,
                ..ListEventsRequest::default()
            };
            let mut listed = Vec::new();
            loop {
                let page = timeout(Duration::from_secs(10), client.list_events(request.clone())).await;
                let page = match page {
                    Ok(Ok(page)) => page.into_inner(),
                    Ok(Err(status)) => {
                        self.check(&status);
                        continue 'anew;
                    }
                    Err(_) => continue 'anew,
                };
                listed.extend(
                    page.events
                        .into_iter()
                        .map(|event| (event.sequence, event.raw_body.to_vec())),
                );
                if page.next_page_token.is_empty() {
                    break;
                }
                request.page_token = page.next_page_token;
            }
            if listed != *self.received.lock() {
                self.shared.breach(format!(
                    "{}: pages hold something else than the stream",
                    self.name
                ));
            }
            return;
        }
    }
}

/// Waits for one event that is known before it is delivered.
pub async fn wait(shared: Arc<Shared>) -> turmoil::Result {
    let begin = shared.clock().now();
    loop {
        pause(0..2_000).await;
        let Some(mut client) = connect().await else {
            continue;
        };
        let filter = EventFilter {
            callback_ids: vec![AWAITED.to_owned()],
            ..EventFilter::default()
        };
        // The wall clock jumps by up to an hour.
        let since = prost_types::Timestamp {
            seconds: begin.as_second() - 7200,
            nanos: 0,
        };
        let request = AwaitEventRequest {
            filter: Some(filter),
            start: Some(await_event_request::Start::Since(since)),
            timeout: Some(prost_types::Duration {
                seconds: 20,
                nanos: 0,
            }),
        };
        match timeout(Duration::from_secs(30), client.await_event(request)).await {
            Ok(Ok(found)) => {
                let event = found.into_inner().event.unwrap();
                shared.saw(&format!("the awaited event is {}", event.sequence));
                if event.callback_id != AWAITED {
                    shared.breach(format!("AwaitEvent gave {}", event.callback_id));
                }
                return Ok(());
            }
            Ok(Err(status)) if status.code() == Code::DeadlineExceeded || passes(&status) => {}
            Ok(Err(status)) => {
                shared.breach(format!("AwaitEvent: {status}"));
                return Ok(());
            }
            Err(_) => {}
        }
    }
}

/// Events that were acknowledged, with the attempt that the service says was the one; without it where no answer came, so
/// that it may have been too late.
pub type Settled = Arc<Mutex<BTreeMap<u64, Option<i32>>>>;

/// Works off a subscription with others: does, fails, forgets, leaves, until everything is settled.
pub async fn work(shared: Arc<Shared>, number: usize, settled: Settled) -> turmoil::Result {
    let worker = Worker {
        name: format!("worker {number}"),
        shared: Arc::clone(&shared),
        settled,
    };
    worker.create().await;
    while !worker.is_finished() {
        // When nobody is left to deliver, a look now and then tells whether the others have settled the rest.
        let _ = timeout(Duration::from_secs(20), worker.take_part()).await;
        pause(0..1_000).await;
    }
    Ok(())
}

struct Worker {
    name: String,
    shared: Arc<Shared>,
    settled: Settled,
}

impl Worker {
    /// Whether all that was acknowledged to HeyGen is settled here. What was stored without an answer to HeyGen has been
    /// answered by the time that everything is sent.
    fn is_finished(&self) -> bool {
        let sent = self.shared.sending.load(Ordering::SeqCst) == 0;
        sent && self.settled.lock().len() >= self.shared.history.lock().acknowledged.len()
    }

    fn check(&self, status: &Status) {
        if !passes(status) {
            self.shared.breach(format!("{}: {status}", self.name));
        }
    }

    async fn create(&self) {
        loop {
            pause(0..500).await;
            let Some(mut client) = connect().await else {
                continue;
            };
            let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
            let subscription = Subscription {
                name: SUBSCRIPTION.to_owned(),
                ack_deadline: seconds(3),
                max_attempts: 1000,
                max_retry_delay: seconds(2),
                ..Subscription::default()
            };
            let operation = Operation::Create(Create {
                subscription: Some(subscription),
                start: Some(
                    hookstream::grpc::proto::manage_subscription_request::create::Start::Position(
                        Position::Earliest.into(),
                    ),
                ),
            });
            let request = ManageSubscriptionRequest {
                operation: Some(operation),
            };
            match timeout(Duration::from_secs(10), client.manage_subscription(request)).await {
                Ok(Ok(_)) => return,
                Ok(Err(status)) if status.code() == Code::AlreadyExists => return,
                Ok(Err(status)) => self.check(&status),
                Err(_) => {}
            }
        }
    }

    /// One stream, as long as it holds.
    async fn take_part(&self) {
        let Some(mut client) = connect().await else { return };
        let life = self.shared.lives.load(Ordering::SeqCst);
        let settled_before = self.settled.lock().clone();
        let request = SubscribeEventsRequest {
            subscription: SUBSCRIPTION.to_owned(),
            max_unacknowledged: rand::random_range(1..6),
            ..SubscribeEventsRequest::default()
        };
        let mut frames = match client.subscribe_events(request).await {
            Ok(frames) => frames.into_inner(),
            Err(status) => return self.check(&status),
        };
        loop {
            let response = match frames.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return,
                Err(status) => return self.check(&status),
            };
            let Some(Frame::Event(event)) = response.frame else {
                continue;
            };
            let (sequence, attempt) = (event.sequence, response.delivery_attempt);
            self.shared
                .saw(&format!("{} is handed {sequence}, attempt {attempt}", self.name));
            let was_settled = matches!(settled_before.get(&sequence), Some(Some(_)));
            // An earlier attempt may have been under way to here when a later one was settled elsewhere; and a service that
            // was restarted does not know of attempts that were under way.
            let settled_at = self.settled.lock().get(&sequence).copied().flatten();
            let is_later = settled_at.is_some_and(|settled_at| settled_at < attempt);
            let is_same_life = self.shared.lives.load(Ordering::SeqCst) == life;
            if was_settled || (is_later && is_same_life) {
                self.shared
                    .breach(format!("I9: {sequence} was settled, and is handed out again"));
            }
            pause(0..1_500).await;
            let is_done = match rand::random_range(0..10) {
                // Forgotten: the deadline passes.
                0 => continue,
                // Left with it in hand.
                1 => return,
                2 => false,
                _ => true,
            };
            self.acknowledge(&mut client, (sequence, attempt), response.ack_id, is_done)
                .await;
        }
    }

    async fn acknowledge(
        &self,
        client: &mut Client,
        (sequence, attempt): (u64, i32),
        ack_id: String,
        is_done: bool,
    ) {
        let outcome = if is_done {
            Outcome::Done(Done {})
        } else {
            Outcome::Retry(Retry { after: None })
        };
        let request = AcknowledgeEventsRequest {
            subscription: SUBSCRIPTION.to_owned(),
            ack_ids: vec![ack_id],
            outcome: Some(outcome),
        };
        // Should no answer come, it may have gone through all the same.
        let is_first = is_done && !self.settled.lock().contains_key(&sequence);
        if is_first {
            self.settled.lock().insert(sequence, None);
        }
        match timeout(Duration::from_secs(10), client.acknowledge_events(request)).await {
            Ok(Ok(answer)) if is_done => {
                let result = answer.into_inner().results[0];
                if result == i32::from(AcknowledgementResult::Accepted) {
                    self.shared.saw(&format!("{} settled {sequence}", self.name));
                    self.settled.lock().insert(sequence, Some(attempt));
                } else if is_first && self.settled.lock().get(&sequence) == Some(&None) {
                    self.settled.lock().remove(&sequence);
                }
            }
            Ok(Err(status)) => self.check(&status),
            _ => {}
        }
    }
}
