//! HeyGen's side: registrations, rotation, history and callbacks, against a stand-in that plays HeyGen to the letter of
//! what is known of it. Every request that it gets is checked against the schemas of its API.

mod week;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use hookstream::{
    grpc::proto::{
        Endpoint, EndpointState, Event, Origin, Registration, VerificationMethod,
        manage_endpoint_request::{
            Create, Delete, Get, Operation, Reconcile, Recreate, RotateCallbackToken, RotateSecret,
        },
        manage_endpoint_response::Result as Answer,
    },
    samples,
    stand_in::{ApiFault, Call, Chances, DeliveryFault, Settings, StandIn},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::{
    fleet::Addresses,
    harness::{Hookstream, PATIENCE, SEALING_KEY, Sender, binary, manage, reason, until},
    link::Balancer,
    nats::Nats,
    port::Port,
    schemas,
};

const API_KEY: &str = "sk_test_4f9a";
const NAME: &str = "prod";

/// A stand-in for HeyGen, and what one of our processes needs to work with it.
struct World {
    heygen: StandIn,
    directory: Arc<TempDir>,
    ingress: Arc<Port>,
    flags: Vec<&'static str>,
    api_key: &'static str,
    /// Where there are replicas.
    replicas: Option<Replicas>,
}

/// Replicas on three NATS servers, which HeyGen reaches through a balancer.
struct Replicas {
    nats: Nats,
    directories: [Arc<TempDir>; 2],
    addresses: Arc<Addresses>,
    balancer: Balancer,
}

impl Replicas {
    async fn start() -> Self {
        let addresses = Arc::<Addresses>::default();
        Self {
            nats: Nats::start(3, "", ""),
            directories: [(); 2].map(|()| Arc::new(tempfile::tempdir().unwrap())),
            balancer: Balancer::before(Arc::clone(&addresses)).await,
            addresses,
        }
    }
}

impl World {
    async fn start(settings: Settings) -> Self {
        let settings = Settings {
            api_key: API_KEY.to_owned(),
            retry_first: Duration::from_millis(5),
            ..settings
        };
        // HeyGen keeps the URL, so every process has to come back to one port.
        Self {
            heygen: StandIn::start(settings).await.unwrap(),
            directory: Arc::new(tempfile::tempdir().unwrap()),
            ingress: Arc::new(Port::reserve()),
            // A grace that is long enough for a delivery that is neither lost nor late.
            flags: vec![
                "--heygen-check-interval",
                "100ms",
                "--reconcile-interval",
                "none",
                "--reconcile-grace",
                "1s",
            ],
            api_key: API_KEY,
            replicas: None,
        }
    }

    fn serve(&self) -> Hookstream {
        self.serve_as(0)
    }

    /// One of our processes; with replicas, the one of this number.
    fn serve_as(&self, number: usize) -> Hookstream {
        let base = self.heygen.base_url();
        let mut flags = vec!["--heygen-api-base", &base];
        flags.extend(&self.flags);
        let mut variables = HashMap::from([("HOOKSTREAM_HEYGEN_API_KEY", self.api_key.to_owned())]);
        let Some(replicas) = &self.replicas else {
            let ingress = self.ingress.address().to_string();
            flags.extend(["--ingress-listen", &ingress]);
            return Hookstream::start_in(Arc::clone(&self.directory), &flags, &variables);
        };
        let (servers, public_url) = (
            replicas.nats.url(),
            format!("http://{}", replicas.balancer.address),
        );
        flags.extend(["--public-url", &public_url]);
        flags.extend(["--log", "jetstream", "--jetstream-url", &servers]);
        variables.insert("HOOKSTREAM_SEALING_KEY", SEALING_KEY.to_owned());
        let service = Hookstream::start_in(Arc::clone(&replicas.directories[number]), &flags, &variables);
        replicas.addresses.set(number, Some(&service));
        service
    }

    /// Kills one.
    fn kill(&self, number: usize, service: Hookstream) {
        if let Some(replicas) = &self.replicas {
            replicas.addresses.set(number, None);
        }
        drop(service.kill());
    }

    /// Ends the stand-in, after a look at everything it was asked.
    async fn end(self) {
        for request in self.heygen.requests() {
            // The stand-in keeps no credentials; it has let the request pass, or answered 401.
            let mut headers = HeaderMap::from_iter([(
                HeaderName::from_static("x-api-key"),
                HeaderValue::from_static("-"),
            )]);
            headers.extend(request.headers.iter().map(|(name, value)| {
                let name = HeaderName::try_from(name).unwrap();
                (name, HeaderValue::try_from(value).unwrap())
            }));
            let (method, uri) = (request.method.parse().unwrap(), request.path.parse().unwrap());
            // It takes http too, so that it reaches this machine.
            let body = String::from_utf8(request.body.to_vec()).unwrap();
            let body = body.replace("http://127.0.0.1", "https://127.0.0.1");
            let checked = schemas::call_of(&method, &uri, &headers, body.as_bytes());
            assert!(checked.is_ok(), "{method} {uri}: {checked:?}");
        }
        self.heygen.end().await;
    }
}

async fn ask(service: &Hookstream, operation: Operation) -> Result<Answer, Status> {
    manage(&mut service.client().await, operation).await
}

fn create(event_types: &[&str]) -> Operation {
    Operation::Create(Create {
        name: NAME.into(),
        event_types: event_types.iter().map(|&text| text.to_owned()).collect(),
        registration: Registration::Heygen.into(),
        ..Create::default()
    })
}

async fn created(service: &Hookstream) -> (Endpoint, String) {
    match ask(service, create(&[])).await.unwrap() {
        Answer::Create(created) => (created.endpoint.unwrap(), created.secret),
        other => panic!("{other:?}"),
    }
}

fn rotate() -> Operation {
    Operation::RotateSecret(RotateSecret {
        name: NAME.into(),
        ..RotateSecret::default()
    })
}

async fn endpoint(service: &Hookstream) -> Endpoint {
    match ask(service, Operation::Get(Get { name: NAME.into() }))
        .await
        .unwrap()
    {
        Answer::Get(found) => found.endpoint.unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn until_state(service: &Hookstream, state: EndpointState) -> Endpoint {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let endpoint = endpoint(service).await;
        if endpoint.state() == state {
            return endpoint;
        }
        assert!(Instant::now() < deadline, "{endpoint:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn reconcile(service: &Hookstream) -> u64 {
    match ask(service, Operation::Reconcile(Reconcile {})).await.unwrap() {
        Answer::Reconcile(walked) => walked.found,
        other => panic!("{other:?}"),
    }
}

async fn reconciled_events(service: &Hookstream) -> f64 {
    service
        .metric("hookstream_reconciliation_found_events_total")
        .await
}

async fn until_stored(service: &Hookstream, count: usize) -> Vec<Event> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stored = service.stored().await;
        if stored.len() >= count {
            return stored;
        }
        assert!(Instant::now() < deadline, "{} of {count} events", stored.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Every event that HeyGen holds is stored exactly once, and nothing else is.
fn compare(heygen: &StandIn, stored: &[Event]) {
    let mut by_id: HashMap<&str, u32> = HashMap::new();
    let mut by_subject: HashMap<String, u32> = HashMap::new();
    for event in stored {
        if event.provider_event_id.is_empty() {
            *by_subject.entry(event.correlation_id.clone()).or_default() += 1;
        } else {
            *by_id.entry(&event.provider_event_id).or_default() += 1;
        }
    }
    let history = heygen.history();
    for happened in &history {
        let body = samples::body_of(&happened.event_type, &happened.event_data);
        let entity_id = hookstream::decode::Envelope::of(body.as_bytes()).entity_id;
        let subject = format!("{}/{entity_id}", happened.event_type);
        let times =
            by_id.get(happened.event_id.as_str()).unwrap_or(&0) + by_subject.get(&subject).unwrap_or(&0);
        assert_eq!(times, 1, "{} {subject}", happened.event_id);
    }
    assert_eq!(stored.len(), history.len());
    let found = stored
        .iter()
        .filter(|event| event.origin() == Origin::History)
        .count();
    println!("{} events, {found} of them found in the history", stored.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_registers_an_endpoint_with_its_patterns_spelled_out() {
    let world = World::start(Settings::default()).await;
    let service = world.serve();
    let output = tokio::process::Command::new(binary())
        .args([
            "endpoint",
            "create",
            NAME,
            "--events",
            "avatar_video.*,video_translate.*",
        ])
        .args(["--server", &format!("http://{}", service.grpc)])
        .output()
        .await
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(shown.contains("active") && shown.contains("whsec_"), "{shown}");
    let registrations = world.heygen.registrations();
    assert_eq!(registrations.len(), 1);
    assert_eq!(
        registrations[0].url,
        format!("http://{}/webhooks/{NAME}", world.ingress.address())
    );
    let mut events = registrations[0].events.clone().unwrap();
    events.sort_unstable();
    let expected = [
        "avatar_video.fail",
        "avatar_video.success",
        "video_translate.fail",
        "video_translate.preflight.download_failed",
        "video_translate.preflight.validation_failed",
        "video_translate.success",
    ];
    assert_eq!(events, expected);

    world.heygen.emit("avatar_video.success", 1);
    assert_eq!(until_stored(&service, 1).await[0].origin(), Origin::Webhook);
    drop(service);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_is_found_once_and_a_late_delivery_of_it_is_no_second_event() {
    let world = World::start(Settings::default()).await;
    let service = world.serve();
    created(&service).await;
    world.heygen.emit("avatar_video.success", 1);
    world.heygen.faults().spoil_next(DeliveryFault::Lose);
    world.heygen.emit("avatar_video.fail", 2);
    world
        .heygen
        .faults()
        .spoil_next(DeliveryFault::Late(Duration::from_secs(4)));
    world.heygen.emit("video_agent.success", 3);
    until_stored(&service, 1).await;
    while reconciled_events(&service).await < 2.0 {
        reconcile(&service).await;
    }
    world.heygen.settled().await;
    let stored = service.stored().await;
    assert_eq!(stored.len(), 3);
    let found: Vec<_> = stored
        .iter()
        .filter(|event| event.origin() == Origin::History)
        .collect();
    assert_eq!(found.len(), 2);
    for event in found {
        assert_eq!(
            event.verification.as_ref().unwrap().method(),
            VerificationMethod::History
        );
        assert!(!event.provider_event_id.is_empty());
    }
    assert_eq!(reconciled_events(&service).await, 2.0);
    drop(service);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_and_a_webhook_of_one_outcome_are_two_events_with_one_correlation_id() {
    let world = World::start(Settings::default()).await;
    let service = world.serve();
    created(&service).await;
    let operation = Operation::RotateCallbackToken(RotateCallbackToken {
        name: NAME.into(),
        overlap: None,
    });
    let Answer::RotateCallbackToken(rotated) = ask(&service, operation).await.unwrap() else {
        panic!()
    };
    world.heygen.emit("avatar_video.success", 7);
    let webhook = until_stored(&service, 1).await.remove(0);
    let secret = hookstream::secret::Secret::generate();
    let at = |url: String| Sender {
        http: reqwest::Client::new(),
        url,
        secret: secret.clone(),
    };
    let caller = at(rotated.callback_url.clone());
    assert_eq!(caller.post(webhook.raw_body.clone(), &[]).await.unwrap(), 200);
    assert_eq!(caller.post(webhook.raw_body.clone(), &[]).await.unwrap(), 200);
    let wrong = at(format!("{}x", rotated.callback_url));
    assert_eq!(wrong.post(webhook.raw_body.clone(), &[]).await.unwrap(), 401);

    let stored = service.stored().await;
    assert_eq!(stored.len(), 2);
    assert_eq!(stored[1].origin(), Origin::Callback);
    assert_eq!(
        stored[1].verification.as_ref().unwrap().method(),
        VerificationMethod::CallbackToken
    );
    assert_eq!(stored[1].correlation_id, webhook.correlation_id);
    assert!(!webhook.correlation_id.is_empty());
    let token = rotated.callback_url.rsplit('/').next().unwrap().to_owned();
    assert!(!service.output().contains(&token));
    drop(service);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_heygen_disabled_is_noticed_and_registered_anew_by_one_operation() {
    let world = World::start(Settings::default()).await;
    let service = world.serve();
    let (first, _) = created(&service).await;
    world.heygen.disable(&first.provider_endpoint_id);
    let disabled = until_state(&service, EndpointState::Disabled).await;
    assert!(
        disabled.state_reason.contains("recreate"),
        "{}",
        disabled.state_reason
    );
    assert_eq!(
        service.metric("hookstream_endpoints{state=\"disabled\"}").await,
        1.0
    );
    world.heygen.emit("avatar_video.success", 1);

    let recreated = ask(&service, Operation::Recreate(Recreate { name: NAME.into() }))
        .await
        .unwrap();
    let Answer::Recreate(recreated) = recreated else {
        panic!()
    };
    assert_ne!(
        recreated.endpoint.unwrap().provider_endpoint_id,
        first.provider_endpoint_id
    );
    assert_eq!(world.heygen.registrations().len(), 1);
    world.heygen.emit("avatar_video.fail", 2);
    let stored = until_stored(&service, 2).await;
    assert_eq!(stored.len(), 2);
    drop(service);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_deleted_behind_our_back_is_noticed() {
    let world = World::start(Settings::default()).await;
    let service = world.serve();
    let (first, _) = created(&service).await;
    world.heygen.delete_behind_our_back(&first.provider_endpoint_id);
    let failed = until_state(&service, EndpointState::Failed).await;
    assert!(
        failed.state_reason.contains("no longer has"),
        "{}",
        failed.state_reason
    );
    let status = ask(&service, rotate()).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "HEYGEN_REFUSED")
    );
    ask(&service, Operation::Delete(Delete { name: NAME.into() }))
        .await
        .unwrap();
    drop(service);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_registration_is_adopted_by_rotating_its_secret() {
    let world = World::start(Settings::default()).await;
    let service = world.serve();
    let (first, _) = created(&service).await;
    let directory = service.kill();
    std::fs::remove_dir_all(directory.path().join("data")).unwrap();

    let service = world.serve();
    let status = ask(&service, create(&[])).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(
        status.message().contains(&first.provider_endpoint_id),
        "{}",
        status.message()
    );
    let adopt = Operation::Create(Create {
        name: NAME.into(),
        registration: Registration::Heygen.into(),
        provider_endpoint_id: first.provider_endpoint_id.clone(),
        ..Create::default()
    });
    ask(&service, adopt).await.unwrap();
    assert_eq!(world.heygen.registrations().len(), 1);
    world.heygen.emit("avatar_video.success", 1);
    assert_eq!(until_stored(&service, 1).await.len(), 1);
    drop(service);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_that_heygen_signs_before_we_know_the_secret_come_again() {
    let world = World::start(Settings::default()).await;
    let service = world.serve();
    created(&service).await;
    // HeyGen rotates, and its answer does not arrive; the next attempt hangs for a while.
    world
        .heygen
        .faults()
        .fail_next(Call::RotateSecret, ApiFault::EffectThen500);
    world
        .heygen
        .faults()
        .fail_next(Call::RotateSecret, ApiFault::Hang);
    let mut client = service.client().await;
    let rotating = tokio::spawn(async move { manage(&mut client, rotate()).await });
    until_state(&service, EndpointState::Rotating).await;
    let attempts = || {
        let requests = world.heygen.requests();
        let rotations = requests
            .iter()
            .filter(|request| request.call == Some(Call::RotateSecret));
        rotations.count()
    };
    until("the second attempt hangs", async || attempts() >= 2).await;
    world.heygen.emit("avatar_video.success", 1);
    let early = async || {
        let outcome = "hookstream_deliveries_total{outcome=\"secret_under_way\"}";
        service.metric(outcome).await > 0.0
    };
    until("a delivery is signed with the secret to come", early).await;
    rotating.await.unwrap().unwrap();
    let stored = until_stored(&service, 1).await;
    assert_eq!(stored.len(), 1);
    drop(service);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_stored_while_heygens_api_hangs() {
    let world = World::start(Settings::default()).await;
    let service = world.serve();
    created(&service).await;
    world.heygen.faults().set(Chances {
        api_hang: 1.0,
        ..Chances::default()
    });
    let mut client = service.client().await;
    let hanging = tokio::spawn(async move { manage(&mut client, Operation::Reconcile(Reconcile {})).await });
    for number in 0..200 {
        world.heygen.emit("avatar_video.success", number);
    }
    world.heygen.settled().await;
    assert_eq!(service.stored().await.len(), 200);
    assert!(!hanging.is_finished());
    drop(service);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_has_one_answer_that_says_what_to_do() {
    let mut world = World::start(Settings::default()).await;
    world.api_key = "sk_wrong";
    let service = world.serve();
    let status = ask(&service, create(&[])).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(
        status.message().contains("--heygen-api-key-file"),
        "{}",
        status.message()
    );
    let directory = service.kill();

    world.api_key = API_KEY;
    let service = world.serve();
    let status = ask(&service, create(&["avatar_vide.*"])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("avatar_vide.*"), "{}", status.message());
    world
        .heygen
        .faults()
        .fail_next(Call::CreateEndpoint, ApiFault::Status(402));
    let status = ask(&service, create(&[])).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "HEYGEN_REFUSED")
    );
    // What HeyGen refuses for good leaves nothing behind.
    assert_eq!(
        ask(&service, Operation::Get(Get { name: NAME.into() }))
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
    created(&service).await;
    assert_eq!(
        ask(&service, create(&[])).await.unwrap_err().code(),
        Code::AlreadyExists
    );
    drop(service);

    let service = Hookstream::start_in(directory, &[], &HashMap::new());
    let status = ask(&service, rotate()).await.unwrap_err();
    assert_eq!(reason(&status), "HEYGEN_CREDENTIALS_MISSING");
    drop(service);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_url_that_is_not_https_is_refused_at_start() {
    let output = tokio::process::Command::new(binary())
        .args(["config", "check", "--public-url", "http://hooks.example.com"])
        .env("HOOKSTREAM_HEYGEN_API_KEY", API_KEY)
        .output()
        .await
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && error.contains("must be https"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn heygen_out_of_reach_leaves_an_endpoint_pending_and_it_is_registered_when_heygen_is_back() {
    let world = World::start(Settings::default()).await;
    let service = world.serve();
    world
        .heygen
        .faults()
        .fail_next(Call::CreateEndpoint, ApiFault::RateLimited(3600));
    let status = ask(&service, create(&[])).await.unwrap_err();
    assert_eq!(reason(&status), "HEYGEN_RATE_LIMITED", "{}", status.message());
    assert!(status.message().contains("tried again"), "{}", status.message());
    until_state(&service, EndpointState::Active).await;
    assert_eq!(world.heygen.registrations().len(), 1);
    drop(service);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_register_one_name_at_once_do_not_both_keep_it() {
    let world = World::start(Settings::default()).await;
    let base = world.heygen.base_url();
    let url = format!("http://{}", world.ingress.address());
    let flags = ["--heygen-api-base", &base, "--public-url", &url];
    let variables = HashMap::from([("HOOKSTREAM_HEYGEN_API_KEY", API_KEY.to_owned())]);
    let start = || Hookstream::start_in(Arc::new(tempfile::tempdir().unwrap()), &flags, &variables);
    for _ in 0..5 {
        let (one, other) = (start(), start());
        let (first, second) = tokio::join!(ask(&one, create(&[])), ask(&other, create(&[])));
        let kept = [&first, &second].iter().filter(|result| result.is_ok()).count();
        assert!(kept <= 1, "{first:?} {second:?}");
        assert_eq!(world.heygen.registrations().len(), kept);
        for (service, result) in [(&one, &first), (&other, &second)] {
            match result {
                Ok(_) => drop(
                    ask(service, Operation::Delete(Delete { name: NAME.into() }))
                        .await
                        .unwrap(),
                ),
                Err(status) => assert_eq!(status.code(), Code::AlreadyExists, "{status:?}"),
            }
        }
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_rotated_by_age_and_deliveries_go_on() {
    let mut world = World::start(Settings::default()).await;
    world.flags.extend(["--rotate-secrets-after", "500ms"]);
    let service = world.serve();
    created(&service).await;
    let deadline = Instant::now() + PATIENCE;
    let mut number = 0;
    while endpoint(&service).await.secret_version < 4 {
        assert!(Instant::now() < deadline);
        world.heygen.emit("avatar_video.success", number);
        number += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.heygen.settled().await;
    reconcile(&service).await;
    compare(&world.heygen, &service.stored().await);
    let (_, trail, error) =
        crate::harness::run(&["audit", "--json", "--server", &format!("http://{}", service.grpc)]);
    let is_rotation =
        |line: &&str| line.contains(r#""hookstream""#) && line.contains("ManageEndpoint.rotate_secret");
    let rotations = trail.lines().filter(is_rotation).count();
    assert!(
        rotations >= 3,
        "the service tells what it did by itself: {trail} {error}"
    );
    drop(service);
    world.end().await;
}
