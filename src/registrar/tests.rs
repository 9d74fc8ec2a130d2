//! Crashes at every step. A crash is a store that stops taking changes: nothing that is done after it is remembered, and
//! the next process starts from what was.

use std::{
    path::Path,
    sync::atomic::{AtomicI64, AtomicUsize, Ordering},
};

use super::*;
use crate::{
    endpoints::{EndpointListener, EndpointStore, StoreError, sqlite::SqliteEndpointStore},
    heygen::Credentials,
    sealing::SealingKeys,
    stand_in::{ApiFault, Call, Settings, StandIn},
};

const API_KEY: &str = "key";

/// A store that takes a number of changes and then no more.
struct Crashing {
    store: SqliteEndpointStore,
    changes_left: AtomicUsize,
}

impl Crashing {
    fn change(&self, change: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        let left = |left: usize| left.checked_sub(1);
        match self
            .changes_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, left)
        {
            Ok(_) => change(),
            Err(_) => Err("the process was killed".into()),
        }
    }
}

impl EndpointStore for Crashing {
    fn follow(&self, listener: EndpointListener) -> Result<(), StoreError> {
        self.store.follow(listener)
    }

    fn save(&self, endpoint: &Endpoint) -> Result<(), StoreError> {
        self.change(|| self.store.save(endpoint))
    }

    fn delete(&self, endpoint: &Endpoint) -> Result<(), StoreError> {
        self.change(|| self.store.delete(endpoint))
    }
}

fn name() -> EndpointName {
    "prod".parse().unwrap()
}

async fn heygen(clock: &Clock) -> StandIn {
    let settings = Settings {
        clock: clock.clone(),
        api_key: API_KEY.to_owned(),
        probe_must_answer: false,
        ..Settings::default()
    };
    StandIn::start(settings).await.unwrap()
}

/// A process on this directory that is killed when it has made so many changes.
fn process(directory: &Path, heygen: &StandIn, changes: usize, clock: &Clock) -> Registrar {
    let store = Crashing {
        store: SqliteEndpointStore::open(&directory.join("state.db"), SealingKeys::default()).unwrap(),
        changes_left: AtomicUsize::new(changes),
    };
    let endpoints = Endpoints::load(Arc::new(store), clock.clone()).unwrap();
    let key = Credentials::ApiKey(Secret::new(API_KEY.to_owned()).unwrap());
    let heygen = Heygen::new(&heygen.base_url(), key).unwrap();
    let url = Some("http://127.0.0.1:9/");
    let mut registry = Registry::default();
    Registrar::new(
        Arc::new(endpoints),
        Some(heygen),
        url,
        clock.clone(),
        None,
        &mut registry,
    )
}

async fn until_at_rest(registrar: &Registrar) {
    while registrar
        .endpoints
        .get(&name())
        .is_some_and(|endpoint| endpoint.pending().is_some())
    {
        let _ = registrar.drive(&name()).await;
    }
}

/// HeyGen has one registration, ours, and we know the secret it signs with; or neither side has anything.
fn assert_in_step(registrar: &Registrar, heygen: &StandIn, what: &str) {
    let registrations = heygen.registrations();
    let Some(endpoint) = registrar.endpoints.get(&name()) else {
        return assert!(registrations.is_empty(), "{what}: an orphan at HeyGen");
    };
    assert_eq!(registrations.len(), 1, "{what}");
    assert_eq!(
        registrations[0].endpoint_id, endpoint.provider_endpoint_id,
        "{what}"
    );
    let current = endpoint.keyring.keys().first().expect(what);
    assert_eq!(
        current.secret.expose(),
        registrations[0].secret.expose(),
        "{what}"
    );
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Create,
    Rotate,
    Recreate,
    Change,
    Delete,
}

impl Step {
    async fn take(self, registrar: &Registrar) -> bool {
        let change = EndpointChange {
            event_types: Some(vec!["*.fail".to_owned()]),
            entity_id: None,
        };
        match self {
            Self::Create => registrar.register(name(), NewEndpoint::default()).await.is_ok(),
            Self::Rotate => registrar
                .rotate_secret(&name(), None, Duration::from_secs(60))
                .await
                .is_ok(),
            Self::Recreate => registrar.recreate(&name()).await.is_ok(),
            Self::Change => registrar.update(&name(), change).await.is_ok(),
            Self::Delete => registrar.delete(&name()).await.is_ok(),
        }
    }
}

/// Kills the process after each number of changes there can be, with the answer of HeyGen's call lost or not, and starts
/// another one `later`.
async fn survives(step: Step, later: Duration) {
    for lost in [
        None,
        Some(Call::CreateEndpoint),
        Some(Call::RotateSecret),
        Some(Call::DeleteEndpoint),
    ] {
        for changes in 0.. {
            let passed = Arc::new(AtomicI64::new(0));
            let clock = Clock::new({
                let passed = Arc::clone(&passed);
                move || Timestamp::from_second(1_780_000_000 + passed.load(Ordering::SeqCst)).unwrap()
            });
            let what = format!("{step:?} with {lost:?} lost, killed after {changes} changes");
            let (heygen, directory) = (heygen(&clock).await, tempfile::tempdir().unwrap());
            if !matches!(step, Step::Create) {
                assert!(
                    Step::Create
                        .take(&process(directory.path(), &heygen, usize::MAX, &clock))
                        .await
                );
            }
            if let Some(call) = lost {
                heygen.faults().fail_next(call, ApiFault::EffectThen500);
            }
            let first = process(directory.path(), &heygen, changes, &clock);
            let done = step.take(&first).await;
            drop(first);
            passed.store(later.as_secs().cast_signed(), Ordering::SeqCst);
            let second = process(directory.path(), &heygen, usize::MAX, &clock);
            until_at_rest(&second).await;
            assert_in_step(&second, &heygen, &what);
            heygen.end().await;
            if done {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_crash_at_any_step_of_create_leaves_no_orphan_and_loses_no_secret() {
    survives(Step::Create, Duration::ZERO).await;
}

#[tokio::test]
async fn a_crash_at_any_step_of_rotate_leaves_a_working_endpoint() {
    survives(Step::Rotate, Duration::ZERO).await;
}

#[tokio::test]
async fn a_crash_at_any_step_of_recreate_leaves_one_registration() {
    survives(Step::Recreate, Duration::ZERO).await;
}

#[tokio::test]
async fn a_crash_at_any_step_of_update_and_delete_leaves_both_sides_in_step() {
    survives(Step::Change, Duration::ZERO).await;
    survives(Step::Delete, Duration::ZERO).await;
}

#[tokio::test]
async fn a_restart_after_heygen_forgot_the_key_registers_nothing_twice() {
    for step in [Step::Create, Step::Rotate, Step::Recreate] {
        survives(step, Duration::from_secs(25 * 3600)).await;
    }
}
