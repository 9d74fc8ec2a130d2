//! Calls about subscriptions, carried out where these are served: here, or at another replica, which is asked over this same
//! interface. Owns finding that replica and passing on what it says, byte for byte; what a subscription is and does is
//! decided in `subscriptions`.

use std::{
    error::Error,
    marker::PhantomData,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::uri::{PathAndQuery, Scheme};
use prost::Message;
use tokio::time::Instant;
use tonic::{
    Code, ConnectError, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder},
    metadata::{MetadataMap, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tonic_prost::{ProstCodec, ProstEncoder};
use tonic_types::StatusExt;

use super::{
    encoded::Encoded,
    events::{self, EventReader},
    proto::{
        AcknowledgeEventsRequest, AcknowledgeEventsResponse, ListEventsRequest, ManageSubscriptionRequest,
        ManageSubscriptionResponse, SubscribeEventsRequest,
    },
    status::Refusal,
    subscriptions::SubscriptionManager,
};
use crate::{
    access::{Caller, VOUCHER_HEADER, Vouchers},
    clock::Clock,
    hub::Hub,
    limits,
    subscriptions::{Serving, ServingReplica, Subscriptions},
    traces::Recipient,
};

/// How another replica is asked.
#[derive(Clone, Debug)]
pub struct Replicas {
    /// What it believes of callers.
    pub vouchers: Vouchers,
    /// Authorities for the certificates of replicas (PEM), beside those of the system.
    pub authorities: Option<Vec<u8>>,
}

/// The subscriptions, wherever they are served.
#[derive(Clone)]
pub(super) struct SubscriptionCalls {
    serving: ServingReplica,
    replicas: Option<Replicas>,
    connections: Arc<tokio::sync::Mutex<Connections>>,
    next: Arc<AtomicUsize>,
    /// Every call meets the same trouble: one of them a second says so.
    complaints: Arc<DefaultDirectRateLimiter>,
    hub: Arc<Hub>,
    events: EventReader,
    clock: Clock,
}

/// Carries out a call wherever the subscriptions are served: again, as long as it cannot even be sent there. No function, because
/// no bound can say of its closures that what they return may change threads.
macro_rules! carry_out {
    ($calls:expr, $caller:expr, $request:expr, $here:expr, $there:expr) => {{
        let deadline = Instant::now() + limits::SUBSCRIPTIONS_SERVER_WAIT;
        loop {
            let replica = match $calls.place(&$caller, deadline).await? {
                Place::Here(manager) => break $here(manager, $caller.clone(), $request).await,
                Place::There(replica) => replica,
            };
            match $there(*replica, $request.clone()).await {
                Err(Refusal::ReplicaNotReached) => {
                    $calls.connections.lock().await.channels.clear();
                    $calls.pause(&mut $calls.serving.clone(), deadline).await?;
                }
                answer => break answer,
            }
        }
    }};
}

/// Connections to one replica.
#[derive(Default)]
struct Connections {
    url: String,
    channels: Vec<Channel>,
}

/// Where a call is carried out.
enum Place {
    Here(SubscriptionManager),
    There(Box<Replica>),
}

/// Another replica, asked for one caller.
struct Replica {
    client: Grpc<Channel>,
    metadata: MetadataMap,
    complaints: Arc<DefaultDirectRateLimiter>,
}

impl SubscriptionCalls {
    /// The subscriptions that are served by `serving`; other replicas than this are asked as `replicas` says.
    pub(super) fn new(
        serving: ServingReplica,
        replicas: Option<Replicas>,
        hub: Arc<Hub>,
        events: EventReader,
        clock: Clock,
    ) -> Self {
        Self {
            serving,
            replicas,
            connections: Arc::default(),
            next: Arc::default(),
            complaints: Arc::new(RateLimiter::direct(Quota::per_second(NonZeroU32::MIN))),
            hub,
            events,
            clock,
        }
    }

    /// One operation.
    pub(super) async fn manage(
        &self,
        caller: Caller,
        request: ManageSubscriptionRequest,
    ) -> Result<ManageSubscriptionResponse, Refusal> {
        let here =
            async |manager: SubscriptionManager, caller, request| manager.manage(caller, request).await;
        let there = async |replica: Replica, request| replica.answer("ManageSubscription", request).await;
        carry_out!(self, caller, request, here, there)
    }

    /// Says what became of events.
    pub(super) async fn acknowledge(
        &self,
        caller: Caller,
        request: AcknowledgeEventsRequest,
    ) -> Result<AcknowledgeEventsResponse, Refusal> {
        let here =
            async |manager: SubscriptionManager, caller, request| manager.acknowledge(caller, request).await;
        let there = async |replica: Replica, request| replica.answer("AcknowledgeEvents", request).await;
        carry_out!(self, caller, request, here, there)
    }

    /// One page of dead letters.
    pub(super) async fn list_dead_letters(
        &self,
        caller: Caller,
        request: ListEventsRequest,
    ) -> Result<Encoded, Refusal> {
        let here = async |manager: SubscriptionManager, caller, request| {
            manager.list_dead_letters(caller, request).await
        };
        let there = async |replica: Replica, request| Ok(replica.unary("ListEvents", request).await?.into());
        carry_out!(self, caller, request, here, there)
    }

    /// Takes part in a subscription.
    pub(super) async fn subscribe(
        &self,
        caller: Caller,
        request: SubscribeEventsRequest,
        recipient: Recipient,
    ) -> Result<impl Stream<Item = Result<Encoded, Status>> + Send + use<>, Refusal> {
        let here = async |manager: SubscriptionManager, caller, request| {
            Ok(manager
                .subscribe(caller, request, recipient.clone())
                .await?
                .left_stream())
        };
        let there = async |replica: Replica, request| {
            let permit = caller.take_stream()?;
            let frames = replica.stream("SubscribeEvents", request).await?;
            Ok(events::while_credentials_last(frames, caller.clone(), permit).right_stream())
        };
        carry_out!(self, caller, request, here, there)
    }

    /// Finds out who serves them. While that moves, a call waits.
    async fn place(&self, caller: &Caller, deadline: Instant) -> Result<Place, Refusal> {
        let mut serving = self.serving.clone();
        loop {
            match serving.now() {
                Serving::Here(subscriptions) => return Ok(Place::Here(self.manager(subscriptions))),
                // Who asks takes this replica for the one; it will learn better.
                Serving::At(_) | Serving::Nowhere if caller.is_vouched() => {
                    return Err(Refusal::SubscriptionsMoving);
                }
                Serving::At(url) => {
                    if let Some(replica) = self.replica(&url, caller).await {
                        return Ok(Place::There(Box::new(replica)));
                    }
                }
                Serving::Nowhere => {}
            }
            self.pause(&mut serving, deadline).await?;
        }
    }

    /// Until another has taken over, or the same may be reached again; not past the deadline.
    async fn pause(&self, serving: &mut ServingReplica, deadline: Instant) -> Result<(), Refusal> {
        if Instant::now() >= deadline {
            return Err(Refusal::SubscriptionsMoving);
        }
        let _ = tokio::time::timeout(limits::REPLICA_RETRY_DELAY, serving.changed()).await;
        Ok(())
    }

    fn manager(&self, subscriptions: Arc<Subscriptions>) -> SubscriptionManager {
        let (hub, events) = (Arc::clone(&self.hub), self.events.clone());
        SubscriptionManager::new(subscriptions, hub, events, self.clock.clone())
    }

    /// The replica of this URL; `None` if it cannot be reached.
    async fn replica(&self, url: &str, caller: &Caller) -> Option<Replica> {
        let replicas = self.replicas.as_ref()?;
        let voucher = replicas.vouchers.seal(&caller.identity().name, url)?;
        let mut voucher = MetadataValue::try_from(voucher).ok()?;
        voucher.set_sensitive(true);
        let mut metadata = MetadataMap::new();
        metadata.insert(VOUCHER_HEADER, voucher);
        let channel = match self.channel(replicas, url).await {
            Ok(channel) => channel,
            Err(error) => {
                if self.complaints.check().is_ok() {
                    let error = format!("{:#}", anyhow::Error::from(error));
                    tracing::warn!(
                        url,
                        error,
                        "the replica that serves the subscriptions cannot be reached"
                    );
                }
                return None;
            }
        };
        // What comes is what that replica would have sent to this caller itself.
        let client = Grpc::new(channel).max_decoding_message_size(usize::MAX);
        Some(Replica {
            client,
            metadata,
            complaints: Arc::clone(&self.complaints),
        })
    }

    /// A connection to the replica of this URL.
    async fn channel(&self, replicas: &Replicas, url: &str) -> Result<Channel, tonic::transport::Error> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % limits::REPLICA_CONNECTIONS;
        // Held while one connects: as many calls as come at once are not to make as many connections.
        let mut connections = self.connections.lock().await;
        if connections.url != url {
            *connections = Connections {
                url: url.to_owned(),
                channels: Vec::new(),
            };
        }
        if let Some(channel) = connections.channels.get(number) {
            return Ok(channel.clone());
        }
        let mut endpoint = Endpoint::from_shared(url.to_owned())?
            .connect_timeout(limits::REPLICA_CONNECT_TIMEOUT)
            .http2_keep_alive_interval(limits::REPLICA_KEEPALIVE_INTERVAL)
            .keep_alive_timeout(limits::REPLICA_KEEPALIVE_INTERVAL)
            .keep_alive_while_idle(true);
        if endpoint.uri().scheme() == Some(&Scheme::HTTPS) {
            let tls = ClientTlsConfig::new().with_native_roots();
            let authorities = replicas.authorities.iter().map(Certificate::from_pem);
            endpoint = endpoint.tls_config(tls.ca_certificates(authorities))?;
        }
        let channel = endpoint.connect().await?;
        connections.channels.push(channel.clone());
        Ok(channel)
    }
}

impl Replica {
    async fn answer<Q, A>(self, call: &str, request: Q) -> Result<A, Refusal>
    where
        Q: Message + Default + 'static,
        A: Message + Default,
    {
        let answer = self.unary(call, request).await?;
        A::decode(answer).map_err(|error| {
            tracing::error!(%error, "the replica that serves the subscriptions gave an answer that is none");
            Refusal::SubscriptionsMoving
        })
    }

    async fn unary<Q: Message + Default + 'static>(
        mut self,
        call: &str,
        request: Q,
    ) -> Result<Bytes, Refusal> {
        self.ready().await?;
        let request = self.request(request);
        let answer = self.client.unary(request, path(call), BytesCodec::default());
        let answer = answer.await;
        Ok(answer
            .map_err(|status| refused(status, &self.complaints))?
            .into_inner())
    }

    async fn stream<Q: Message + Default + 'static>(
        mut self,
        call: &str,
        request: Q,
    ) -> Result<impl Stream<Item = Result<events::Ready, Refusal>> + Send + use<Q>, Refusal> {
        self.ready().await?;
        let request = self.request(request);
        let answer = self
            .client
            .server_streaming(request, path(call), BytesCodec::default());
        let (answer, complaints) = (answer.await, self.complaints);
        let frames = answer.map_err(|status| refused(status, &complaints))?;
        Ok(frames.into_inner().map(move |frame| match frame {
            Ok(frame) => Ok(Encoded::from(frame).into()),
            Err(status) => Err(refused(status, &complaints)),
        }))
    }

    async fn ready(&mut self) -> Result<(), Refusal> {
        let ready = self.client.ready().await;
        ready.map_err(|error| refused(Status::from_error(error.into()), &self.complaints))
    }

    fn request<Q>(&self, request: Q) -> Request<Q> {
        Request::from_parts(self.metadata.clone(), http::Extensions::default(), request)
    }
}

fn path(call: &str) -> PathAndQuery {
    let path = format!("/{}/{call}", super::SERVICE_NAME);
    PathAndQuery::from_maybe_shared(path).unwrap_or_else(|_| PathAndQuery::from_static("/"))
}

/// What another replica refused, or that it did not answer.
fn refused(status: Status, complaints: &DefaultDirectRateLimiter) -> Refusal {
    match status.code() {
        // It is this replica that is not believed, not the caller.
        Code::Unauthenticated => {
            if complaints.check().is_ok() {
                tracing::error!(
                    error = status.message(),
                    "the replica that serves the subscriptions does not believe this one: do both have the same sealing key and \
                     the right time, and is its --advertise-url right?"
                );
            }
            Refusal::SubscriptionsMoving
        }
        _ if is_unsent(&status) => Refusal::ReplicaNotReached,
        // Every refusal of the service says why.
        _ if status.get_details_error_info().is_none() => {
            tracing::debug!(%status, "the replica that serves the subscriptions did not answer");
            Refusal::SubscriptionsMoving
        }
        _ => Refusal::OfReplica(Box::new(status)),
    }
}

/// Whether a call failed before it was sent.
fn is_unsent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Sends messages, and takes what comes as it is.
struct BytesCodec<Q>(PhantomData<Q>);

struct BytesDecoder;

impl<Q> Default for BytesCodec<Q> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Q: Message + Default + 'static> Codec for BytesCodec<Q> {
    type Encode = Q;
    type Decode = Bytes;
    type Encoder = ProstEncoder<Q>;
    type Decoder = BytesDecoder;

    fn encoder(&mut self) -> ProstEncoder<Q> {
        ProstCodec::<Q, ()>::default().encoder()
    }

    fn decoder(&mut self) -> BytesDecoder {
        BytesDecoder
    }
}

impl Decoder for BytesDecoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(source.copy_to_bytes(source.remaining())))
    }
}
