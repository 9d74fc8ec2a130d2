//! Credentials from outside: who may make which call. Owns the table of all calls; each new one needs a row.

use std::{collections::HashMap, io::Write, sync::Arc};

use hookstream::grpc::proto::{
    self, AcknowledgeEventsRequest, AwaitEventRequest, EventFilter, GetEventRequest, ListAuditRecordsRequest,
    ListEventTypesRequest, ListEventsRequest, ManageEndpointRequest, ManageSubscriptionRequest,
    ManageTokenRequest, SubscribeEventsRequest, Subscription,
    access_service_client::AccessServiceClient,
    hookstream_service_client::HookstreamServiceClient,
    manage_endpoint_request::{self as endpoint, Operation as EndpointOperation},
    manage_subscription_request::{self as subscription, Operation as SubscriptionOperation},
    manage_token_request::{self as token, Operation as TokenOperation},
    manage_token_response::Result as TokenAnswer,
};
use prost_reflect::DescriptorPool;
use tonic::{
    Code, Request, Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use crate::harness::{Hookstream, PATIENCE, Stream, body, from_start, metadata, reason, run, types, until};

const OPERATOR_TOKEN: &str = "the-operators-token-which-nobody-guesses";

/// Every call of the interface with the scope it needs.
const CALLS: [(&str, &str); 30] = [
    ("HookstreamService.SubscribeEvents", "events:read"),
    ("HookstreamService.ListEvents", "events:read"),
    ("HookstreamService.GetEvent", "events:read"),
    ("HookstreamService.AwaitEvent", "events:read"),
    ("HookstreamService.ListEventTypes", "events:read"),
    ("HookstreamService.ManageEndpoint.get", "endpoints:read"),
    ("HookstreamService.ManageEndpoint.list", "endpoints:read"),
    ("HookstreamService.ManageEndpoint.create", "endpoints:manage"),
    ("HookstreamService.ManageEndpoint.update", "endpoints:manage"),
    ("HookstreamService.ManageEndpoint.delete", "endpoints:manage"),
    (
        "HookstreamService.ManageEndpoint.rotate_secret",
        "endpoints:manage",
    ),
    ("HookstreamService.ManageEndpoint.recreate", "endpoints:manage"),
    ("HookstreamService.ManageEndpoint.reconcile", "endpoints:manage"),
    (
        "HookstreamService.ManageEndpoint.rotate_callback_token",
        "endpoints:manage",
    ),
    ("HookstreamService.ManageSubscription", "events:read"),
    ("HookstreamService.ManageSubscription.get", "events:read"),
    ("HookstreamService.ManageSubscription.list", "events:read"),
    (
        "HookstreamService.ManageSubscription.create",
        "events:acknowledge",
    ),
    (
        "HookstreamService.ManageSubscription.update",
        "events:acknowledge",
    ),
    (
        "HookstreamService.ManageSubscription.delete",
        "events:acknowledge",
    ),
    ("HookstreamService.ManageSubscription.seek", "events:acknowledge"),
    (
        "HookstreamService.ManageSubscription.replay_dead_letters",
        "events:acknowledge",
    ),
    (
        "HookstreamService.ManageSubscription.discard_dead_letters",
        "events:acknowledge",
    ),
    ("HookstreamService.AcknowledgeEvents", "events:acknowledge"),
    ("AccessService.ManageToken.create", "admin"),
    ("AccessService.ManageToken.list", "admin"),
    ("AccessService.ManageToken.revoke", "admin"),
    ("AccessService.ListAuditRecords", "admin"),
    ("HookstreamService.ManageEndpoint", "endpoints:read"),
    ("AccessService.ManageToken", "admin"),
];

const SCOPES: [&str; 6] = [
    "events:read",
    "events:acknowledge",
    "endpoints:read",
    "endpoints:manage",
    "metrics:read",
    "admin",
];

#[derive(Clone)]
struct Bearer(Option<String>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

type Connection = InterceptedService<Channel, Bearer>;

/// A service that asks for credentials.
struct Guarded(Hookstream);

impl Guarded {
    fn start() -> Self {
        let variables = HashMap::from([("HOOKSTREAM_ADMIN_TOKEN", OPERATOR_TOKEN.to_owned())]);
        Self(Hookstream::start_in(
            Arc::new(tempfile::tempdir().unwrap()),
            &[],
            &variables,
        ))
    }

    async fn with(&self, token: Option<&str>) -> Caller {
        let connection = InterceptedService::new(self.0.channel().await, Bearer(token.map(str::to_owned)));
        Caller {
            events: HookstreamServiceClient::new(connection.clone()),
            access: AccessServiceClient::new(connection),
        }
    }

    async fn operator(&self) -> Caller {
        self.with(Some(OPERATOR_TOKEN)).await
    }

    /// Makes a token and becomes its holder.
    async fn holder(&self, create: token::Create) -> Caller {
        let secret = self.operator().await.create_token(create).await.unwrap();
        self.with(Some(&secret)).await
    }
}

fn scoped(name: &str, scope: &str) -> token::Create {
    token::Create {
        name: name.to_owned(),
        scopes: vec![scope.to_owned()],
        ..token::Create::default()
    }
}

struct Caller {
    events: HookstreamServiceClient<Connection>,
    access: AccessServiceClient<Connection>,
}

impl Caller {
    async fn create_token(&mut self, create: token::Create) -> Result<String, Status> {
        match self.token(TokenOperation::Create(create)).await? {
            TokenAnswer::Create(created) => Ok(created.secret),
            other => panic!("another answer: {other:?}"),
        }
    }

    async fn token(&mut self, operation: TokenOperation) -> Result<TokenAnswer, Status> {
        let operation = Some(operation);
        let answer = self.access.manage_token(ManageTokenRequest { operation }).await?;
        Ok(answer.into_inner().result.unwrap())
    }

    async fn endpoint(&mut self, operation: Option<EndpointOperation>) -> Result<(), Status> {
        let request = ManageEndpointRequest { operation };
        self.events.manage_endpoint(request).await.map(drop)
    }

    async fn subscription(&mut self, operation: Option<SubscriptionOperation>) -> Result<(), Status> {
        let request = ManageSubscriptionRequest { operation };
        self.events.manage_subscription(request).await.map(drop)
    }

    /// Makes a subscription of these events.
    async fn create_subscription(&mut self, name: &str, filter: EventFilter) -> Result<(), Status> {
        let create = subscription::Create {
            subscription: Some(Subscription {
                name: name.to_owned(),
                filter: Some(filter),
                ..Subscription::default()
            }),
            ..subscription::Create::default()
        };
        self.subscription(Some(SubscriptionOperation::Create(create)))
            .await
    }

    async fn subscribe(&mut self, filter: Option<EventFilter>) -> Result<Stream, Status> {
        let request = SubscribeEventsRequest {
            filter,
            ..from_start()
        };
        Ok(self.events.subscribe_events(request).await?.into_inner().into())
    }

    /// Makes a call about the endpoint and the filter given; what came of it.
    async fn make(&mut self, call: &str, filter: &EventFilter) -> Result<(), Status> {
        let name = filter
            .endpoints
            .first()
            .cloned()
            .unwrap_or_else(|| "mine".to_owned());
        let (asked, filter) = (filter.clone(), Some(filter.clone()));
        let (_, call) = call.split_once('.').unwrap();
        match call {
            "SubscribeEvents" => self.subscribe(filter).await.map(drop),
            "ListEvents" => {
                let request = ListEventsRequest {
                    filter,
                    ..ListEventsRequest::default()
                };
                self.events.list_events(request).await.map(drop)
            }
            "GetEvent" => {
                let id = format!("evt_{}", "0".repeat(32));
                self.events.get_event(GetEventRequest { id }).await.map(drop)
            }
            "AwaitEvent" => {
                let timeout = Some(prost_types::Duration::default());
                let request = AwaitEventRequest {
                    filter,
                    timeout,
                    ..AwaitEventRequest::default()
                };
                self.events.await_event(request).await.map(drop)
            }
            "ListEventTypes" => self
                .events
                .list_event_types(ListEventTypesRequest {})
                .await
                .map(drop),
            "ManageEndpoint" => self.endpoint(None).await,
            "ManageEndpoint.get" => {
                self.endpoint(Some(EndpointOperation::Get(endpoint::Get { name })))
                    .await
            }
            "ManageEndpoint.list" => {
                self.endpoint(Some(EndpointOperation::List(endpoint::List::default())))
                    .await
            }
            "ManageEndpoint.create" => {
                let create = endpoint::Create {
                    name,
                    ..endpoint::Create::default()
                };
                self.endpoint(Some(EndpointOperation::Create(create))).await
            }
            "ManageEndpoint.update" => {
                let update = endpoint::Update {
                    name,
                    ..endpoint::Update::default()
                };
                self.endpoint(Some(EndpointOperation::Update(update))).await
            }
            "ManageEndpoint.delete" => {
                self.endpoint(Some(EndpointOperation::Delete(endpoint::Delete { name })))
                    .await
            }
            "ManageEndpoint.rotate_secret" => {
                let rotate = endpoint::RotateSecret {
                    name,
                    ..endpoint::RotateSecret::default()
                };
                self.endpoint(Some(EndpointOperation::RotateSecret(rotate))).await
            }
            "ManageEndpoint.recreate" => {
                self.endpoint(Some(EndpointOperation::Recreate(endpoint::Recreate { name })))
                    .await
            }
            "ManageEndpoint.reconcile" => {
                self.endpoint(Some(EndpointOperation::Reconcile(endpoint::Reconcile {})))
                    .await
            }
            "ManageEndpoint.rotate_callback_token" => {
                let rotate = endpoint::RotateCallbackToken {
                    name,
                    ..endpoint::RotateCallbackToken::default()
                };
                self.endpoint(Some(EndpointOperation::RotateCallbackToken(rotate)))
                    .await
            }
            "ManageSubscription" => self.subscription(None).await,
            "ManageSubscription.get" => {
                let get = subscription::Get { name };
                self.subscription(Some(SubscriptionOperation::Get(get))).await
            }
            "ManageSubscription.list" => {
                let list = subscription::List::default();
                self.subscription(Some(SubscriptionOperation::List(list))).await
            }
            "ManageSubscription.create" => self.create_subscription(&name, asked).await,
            "ManageSubscription.update" => {
                let update = subscription::Update {
                    subscription: Some(Subscription {
                        name,
                        ..Subscription::default()
                    }),
                    ..subscription::Update::default()
                };
                self.subscription(Some(SubscriptionOperation::Update(update)))
                    .await
            }
            "ManageSubscription.delete" => {
                let delete = subscription::Delete { name };
                self.subscription(Some(SubscriptionOperation::Delete(delete)))
                    .await
            }
            "ManageSubscription.seek" => {
                let seek = subscription::Seek { name, target: None };
                self.subscription(Some(SubscriptionOperation::Seek(seek))).await
            }
            "ManageSubscription.replay_dead_letters" => {
                let replay = subscription::ReplayDeadLetters {
                    name,
                    ..subscription::ReplayDeadLetters::default()
                };
                self.subscription(Some(SubscriptionOperation::ReplayDeadLetters(replay)))
                    .await
            }
            "ManageSubscription.discard_dead_letters" => {
                let discard = subscription::DiscardDeadLetters {
                    name,
                    ..subscription::DiscardDeadLetters::default()
                };
                self.subscription(Some(SubscriptionOperation::DiscardDeadLetters(discard)))
                    .await
            }
            "AcknowledgeEvents" => {
                let request = AcknowledgeEventsRequest {
                    subscription: name,
                    ..AcknowledgeEventsRequest::default()
                };
                self.events.acknowledge_events(request).await.map(drop)
            }
            "ManageToken" => {
                let request = ManageTokenRequest { operation: None };
                self.access.manage_token(request).await.map(drop)
            }
            "ManageToken.create" => self.create_token(scoped("", "events:read")).await.map(drop),
            "ManageToken.list" => self
                .token(TokenOperation::List(token::List::default()))
                .await
                .map(drop),
            "ManageToken.revoke" => self
                .token(TokenOperation::Revoke(token::Revoke {
                    name: "nobody".into(),
                }))
                .await
                .map(drop),
            "ListAuditRecords" => {
                let request = ListAuditRecordsRequest::default();
                self.access.list_audit_records(request).await.map(drop)
            }
            other => panic!("no call is made for {other}"),
        }
    }
}

fn code(result: Result<(), Status>) -> Code {
    result.err().map_or(Code::Ok, |status| status.code())
}

fn let_through(code: Code) -> bool {
    ![Code::Unauthenticated, Code::PermissionDenied].contains(&code)
}

#[test]
fn every_call_of_the_interface_has_a_row() {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
    let mut calls = Vec::new();
    for service in pool
        .services()
        .filter(|service| service.full_name().starts_with("hookstream."))
    {
        for method in service.methods() {
            let name = format!("{}.{}", service.name(), method.name());
            let operations = method.input().oneofs().find(|oneof| oneof.name() == "operation");
            let operations = operations
                .iter()
                .flat_map(|oneof| oneof.fields().collect::<Vec<_>>());
            calls.extend(operations.map(|operation| format!("{name}.{}", operation.name())));
            calls.push(name);
        }
    }
    calls.sort();
    let mut rows: Vec<_> = CALLS.iter().map(|(call, _)| (*call).to_owned()).collect();
    rows.sort();
    assert_eq!(rows, calls);
}

#[tokio::test]
async fn every_call_is_answered_to_every_identity_as_the_table_says() {
    let service = Guarded::start();
    let everything = EventFilter::default();
    let mut operator = service.operator().await;
    let revoked = operator.create_token(scoped("revoked", "admin")).await.unwrap();
    let name = "revoked".to_owned();
    operator
        .token(TokenOperation::Revoke(token::Revoke { name }))
        .await
        .unwrap();
    let brief = token::Create {
        expires_in: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..scoped("expired", "admin")
    };
    let expired = operator.create_token(brief).await.unwrap();
    let mut holder = service.with(Some(&expired)).await;
    until("the token has expired", async || {
        code(holder.make("AccessService.ListAuditRecords", &everything).await) == Code::Unauthenticated
    })
    .await;

    for (identity, token) in [
        ("none", None),
        ("wrong", Some("wrong")),
        ("revoked", Some(revoked.as_str())),
        ("expired", Some(expired.as_str())),
    ] {
        let mut caller = service.with(token).await;
        for (call, _) in CALLS {
            let code = code(caller.make(call, &everything).await);
            assert_eq!(code, Code::Unauthenticated, "{call} of {identity}");
        }
    }
    for scope in SCOPES {
        let mut caller = service.holder(scoped(&scope.replace(':', "-"), scope)).await;
        for (call, needed) in CALLS {
            let code = code(caller.make(call, &everything).await);
            let includes = scope == "endpoints:manage" && needed == "endpoints:read";
            if scope == needed || scope == "admin" || includes {
                assert!(let_through(code), "{call} with {scope}: {code:?}");
            } else {
                assert_eq!(code, Code::PermissionDenied, "{call} with {scope}");
            }
        }
    }
    for (call, _) in CALLS {
        let code = code(operator.make(call, &everything).await);
        assert!(let_through(code), "{call} of the operator: {code:?}");
    }
}

#[tokio::test]
async fn a_confined_token_is_let_through_for_what_it_may_see_and_refused_everything_else() {
    let service = Guarded::start();
    let only = |endpoints: &[&str], event_types: &[&str]| EventFilter {
        endpoints: endpoints.iter().map(|&name| name.to_owned()).collect(),
        event_types: event_types.iter().map(|&name| name.to_owned()).collect(),
        ..EventFilter::default()
    };
    let create = token::Create {
        scopes: ["events:read", "events:acknowledge", "endpoints:manage"]
            .map(str::to_owned)
            .to_vec(),
        filter: Some(only(&["mine"], &["avatar_video.*"])),
        ..scoped("confined", "")
    };
    let mut operator = service.operator().await;
    for name in ["mine", "other"] {
        let filter = only(&[name], &["avatar_video.*"]);
        operator.create_subscription(name, filter).await.unwrap();
    }
    let mut caller = service.holder(create).await;
    let by_name = |call: &str| {
        let (call, operation) = call.rsplit_once('.').unwrap();
        let manages = call.ends_with(".ManageEndpoint") || call.ends_with(".ManageSubscription");
        operation == "AcknowledgeEvents" || (manages && !["list", "reconcile"].contains(&operation))
    };
    let filtered = [
        "SubscribeEvents",
        "ListEvents",
        "AwaitEvent",
        "ManageSubscription.create",
    ];
    for (call, needed) in CALLS.into_iter().filter(|(_, needed)| *needed != "admin") {
        let is_filtered = filtered.iter().any(|name| call.ends_with(name));
        let mine = code(
            caller
                .make(call, &only(&["mine"], &["avatar_video.success"]))
                .await,
        );
        let sees_all = call.ends_with("reconcile");
        assert_eq!(
            let_through(mine),
            !sees_all,
            "{call} ({needed}) of mine: {mine:?}"
        );
        for beyond in [
            only(&["other"], &["avatar_video.success"]),
            only(&["other", "mine"], &["avatar_video.success"]),
            only(&["mine"], &["*.success"]),
            only(&["mine"], &[]),
            EventFilter::default(),
        ] {
            let refused = (is_filtered
                || (by_name(call) && beyond.endpoints.first().is_some_and(|name| name == "other")))
                || sees_all;
            let code = code(caller.make(call, &beyond).await);
            assert_eq!(let_through(code), !refused, "{call} with {beyond:?}: {code:?}");
        }
    }
}

#[tokio::test]
async fn taking_part_in_a_subscription_needs_both_scopes_and_sight_of_all_its_events() {
    let service = Guarded::start();
    let confinement = EventFilter {
        endpoints: vec!["mine".into()],
        ..EventFilter::default()
    };
    let mut operator = service.operator().await;
    operator
        .create_subscription("mine", confinement.clone())
        .await
        .unwrap();
    operator
        .create_subscription("all", EventFilter::default())
        .await
        .unwrap();
    let join = async |caller: &mut Caller, subscription: &str| {
        let request = SubscribeEventsRequest {
            subscription: subscription.to_owned(),
            ..SubscribeEventsRequest::default()
        };
        caller.events.subscribe_events(request).await.map(drop)
    };
    let mut reader = service.holder(scoped("reader", "events:read")).await;
    let refused = join(&mut reader, "all").await.unwrap_err();
    assert_eq!(reason(&refused), "SCOPE_MISSING");
    assert_eq!(metadata(&refused, "scope"), "events:acknowledge");
    let create = token::Create {
        scopes: vec!["events:read".into(), "events:acknowledge".into()],
        filter: Some(confinement),
        ..scoped("confined", "")
    };
    let mut confined = service.holder(create).await;
    join(&mut confined, "mine").await.unwrap();
    let refused = join(&mut confined, "all").await.unwrap_err();
    assert_eq!(reason(&refused), "NOT_VISIBLE");
    let list = ListEventsRequest {
        filter: Some(EventFilter {
            endpoints: vec!["mine".into()],
            ..EventFilter::default()
        }),
        dead_letters_of: "all".into(),
        ..ListEventsRequest::default()
    };
    let refused = confined.events.list_events(list).await.unwrap_err();
    assert_eq!(metadata(&refused, "field"), "dead_letters_of");
}

#[tokio::test]
async fn a_confined_token_receives_and_gets_only_what_it_may_see() {
    let service = Guarded::start();
    let mut operator = service.operator().await;
    let mut senders = Vec::new();
    for name in ["mine", "other"] {
        let create = endpoint::Create {
            name: name.to_owned(),
            secret: format!("whsec_{name}"),
            ..endpoint::Create::default()
        };
        operator
            .endpoint(Some(EndpointOperation::Create(create)))
            .await
            .unwrap();
        senders.push(service.0.sender(name, &format!("whsec_{name}")));
    }
    for sender in &senders {
        assert_eq!(sender.deliver(body("avatar_video.success", 1)).await, 200);
        assert_eq!(sender.deliver(body("avatar_video.fail", 2)).await, 200);
    }
    let confinement = EventFilter {
        endpoints: vec!["mine".into()],
        ..EventFilter::default()
    };
    let create = token::Create {
        scopes: vec!["events:read".into(), "endpoints:read".into()],
        filter: Some(confinement.clone()),
        ..scoped("confined", "")
    };
    let mut caller = service.holder(create).await;
    let unfiltered = caller.subscribe(None).await.err().unwrap();
    assert_eq!(reason(&unfiltered), "NOT_VISIBLE");
    assert_eq!(metadata(&unfiltered, "field"), "filter.endpoints");
    let mut stream = caller.subscribe(Some(confinement)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(stream.event().await.endpoint, "mine");
    }
    let mut all = operator.subscribe(types(&["*.fail"])).await.unwrap();
    for _ in 0..2 {
        let event = all.event().await;
        let found = caller.events.get_event(GetEventRequest { id: event.id }).await;
        match event.endpoint.as_str() {
            "mine" => assert!(found.is_ok()),
            _ => assert_eq!(reason(&found.unwrap_err()), "NOT_VISIBLE"),
        }
    }
    let list = EndpointOperation::List(endpoint::List::default());
    let request = ManageEndpointRequest {
        operation: Some(list),
    };
    let listed = caller.events.manage_endpoint(request).await.unwrap().into_inner();
    let Some(proto::manage_endpoint_response::Result::List(listed)) = listed.result else {
        panic!("another answer: {listed:?}")
    };
    let names: Vec<_> = listed
        .endpoints
        .iter()
        .map(|endpoint| endpoint.name.as_str())
        .collect();
    assert_eq!(names, ["mine"]);
}

#[tokio::test]
async fn revoking_a_token_ends_the_streams_and_waits_that_it_opened() {
    let service = Guarded::start();
    let mut operator = service.operator().await;
    let mut caller = service.holder(scoped("brief", "events:read")).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut stream = caller.subscribe(None).await.unwrap();
        stream.frame().await.unwrap().unwrap();
        streams.push(stream);
    }
    let mut waiting = caller.events.clone();
    let wait = tokio::spawn(async move { waiting.await_event(AwaitEventRequest::default()).await });
    let mut unaffected = operator.subscribe(None).await.unwrap();
    let open = async || service.0.metric_as(OPERATOR_TOKEN, "hookstream_streams").await;
    until("12 streams", async || open().await >= 12.0).await;
    let name = "brief".to_owned();
    operator
        .token(TokenOperation::Revoke(token::Revoke { name }))
        .await
        .unwrap();
    for stream in streams {
        let ended = stream.rest().await.unwrap_err();
        assert_eq!(
            (ended.code(), reason(&ended).as_str()),
            (Code::Unauthenticated, "CREDENTIALS_ENDED")
        );
    }
    let ended = tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert_eq!(reason(&ended), "CREDENTIALS_ENDED");
    unaffected.frame().await.unwrap().unwrap();
}

#[tokio::test]
async fn metrics_need_their_scope_and_probes_need_nothing() {
    let service = Guarded::start();
    for path in ["/livez", "/readyz"] {
        assert_eq!(service.0.admin(path).await.0, 200);
    }
    assert_eq!(service.0.admin("/metrics").await.0, 401);
    let mut operator = service.operator().await;
    for (scope, status) in [("metrics:read", 200), ("events:read", 403)] {
        let token = operator
            .create_token(scoped(&scope.replace(':', "-"), scope))
            .await
            .unwrap();
        assert_eq!(service.0.admin_as(&token, "/metrics").await.0, status, "{scope}");
    }
    assert_eq!(service.0.admin_as("wrong", "/metrics").await.0, 401);
}

#[tokio::test]
async fn health_is_open_and_reflection_is_not() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    };
    let service = Guarded::start();
    let channel = service.0.channel().await;
    let health = HealthClient::new(channel.clone())
        .check(HealthCheckRequest::default())
        .await;
    assert!(health.is_ok());
    let questions = futures_util::stream::iter([ServerReflectionRequest::default()]);
    let reflection = ServerReflectionClient::new(channel)
        .server_reflection_info(questions)
        .await;
    assert_eq!(reflection.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn tokens_and_the_audit_trail_are_managed_from_a_shell_and_survive_a_kill() {
    let service = Guarded::start();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{OPERATOR_TOKEN}").unwrap();
    let path = file.path().to_str().unwrap();
    let command = |service: &Guarded, args: &[&str]| {
        let server = format!("http://{}", service.0.grpc);
        run(&[args, &["--server", &server, "--token-file", path]].concat())
    };
    let create = [
        "token",
        "create",
        "billing",
        "--scope",
        "events:read",
        "--endpoint",
        "dev",
        "--expires-in",
        "90days",
    ];
    let (status, output, errors) = command(&service, &create);
    assert!(status.success(), "{errors}");
    assert!(output.contains("token        hookstream_"), "{output}");
    let (status, _, errors) = command(&service, &create);
    assert!(!status.success() && errors.contains("TOKEN_EXISTS"), "{errors}");
    let (_, output, _) = command(&service, &["token", "list"]);
    assert!(
        output.contains("billing") && output.contains("endpoint dev"),
        "{output}"
    );

    let directory = service.0.kill();
    let variables = HashMap::from([("HOOKSTREAM_ADMIN_TOKEN", OPERATOR_TOKEN.to_owned())]);
    let service = Guarded(Hookstream::start_in(directory, &[], &variables));
    let (status, _, errors) = command(&service, &["token", "revoke", "billing"]);
    assert!(status.success(), "{errors}");
    let (status, _, errors) = run(&["token", "list", "--server", &format!("http://{}", service.0.grpc)]);
    assert!(
        !status.success() && errors.contains("CREDENTIALS_MISSING"),
        "{errors}"
    );
    let (_, output, _) = command(&service, &["audit", "--json"]);
    let records: Vec<serde_json::Value> = output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told = |record: &serde_json::Value| {
        ["actor", "action", "target", "outcome"].map(|field| record[field].as_str().unwrap().to_owned())
    };
    assert_eq!(
        records.iter().map(told).collect::<Vec<_>>(),
        [
            ["operator", "ManageToken.revoke", "billing", "OK"],
            ["operator", "ManageToken.create", "billing", "TOKEN_EXISTS"],
            ["operator", "ManageToken.create", "billing", "OK"],
        ]
    );
    assert_eq!(records[0]["address"], "127.0.0.1");
}

#[test]
fn listening_beyond_loopback_without_credentials_or_tls_is_refused_with_what_to_do() {
    let (status, _, errors) = run(&["config", "check", "--grpc-listen", "0.0.0.0:50051"]);
    assert!(
        !status.success() && errors.contains("--admin-token-file"),
        "{errors}"
    );
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{OPERATOR_TOKEN}").unwrap();
    let path = file.path().to_str().unwrap();
    let guarded = [
        "config",
        "check",
        "--grpc-listen",
        "0.0.0.0:50051",
        "--admin-token-file",
        path,
    ];
    let (status, _, errors) = run(&guarded);
    assert!(!status.success() && errors.contains("unencrypted"), "{errors}");
    assert!(run(&[guarded.as_slice(), &["--insecure"]].concat()).0.success());
    let mut short = tempfile::NamedTempFile::new().unwrap();
    writeln!(short, "short").unwrap();
    let (status, _, errors) = run(&[
        "config",
        "check",
        "--admin-token-file",
        short.path().to_str().unwrap(),
    ]);
    assert!(!status.success() && errors.contains("at least 32"), "{errors}");
}
