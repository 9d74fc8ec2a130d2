//! Claims about the coming and going of subscriptions, with paused time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prometheus_client::registry::Registry;
use tokio::time::sleep;

use super::{sqlite::SqliteSubscriptionStore, *};
use crate::{
    audit::{Question, sqlite::SqliteAuditStore},
    cursor::AckId,
    event::{LogId, StoredEvent},
    hub::Encode,
    log::{EventLog, memory::MemoryLog},
    tasks::Tasks,
};

struct Nothing;

impl Encode for Nothing {
    fn encode(&self, _: &StoredEvent) -> Bytes {
        Bytes::new()
    }
}

async fn load(directory: &tempfile::TempDir, log_id: u64) -> Arc<Subscriptions> {
    let log = Arc::new(MemoryLog::new(LogId::new(log_id))) as Arc<dyn EventLog>;
    let hub = Hub::new(
        log,
        Arc::new(Nothing),
        &mut Registry::default(),
        limits::RING_EVENTS_MAX,
    );
    let store = SqliteSubscriptionStore::open(&directory.path().join("subscriptions.db")).unwrap();
    Subscriptions::load(Arc::new(store), hub, Clock::system())
        .await
        .unwrap()
}

fn name(name: &str) -> SubscriptionName {
    name.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn one_that_nobody_uses_goes_when_its_time_is_over_and_the_trail_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let subscriptions = load(&directory, 7).await;
    let brief = Settings {
        inactive_retention: Some(Duration::from_secs(60)),
        ..Settings::default()
    };
    for (name, settings) in [
        ("unused", brief.clone()),
        ("used", brief),
        ("kept", Settings::default()),
    ] {
        let created = subscriptions.create(name.parse().unwrap(), settings, Sequence::ZERO);
        created.await.unwrap();
    }
    let part = Part {
        max_unacknowledged: 1,
        auto_acknowledge: false,
        heartbeat_interval: Duration::from_secs(15),
    };
    let used = subscriptions.get(&name("used")).unwrap();
    let stream = subscriptions.open(&used, part).unwrap();
    let trail = SqliteAuditStore::open(&directory.path().join("state.db")).unwrap();
    let audit = Audit::new(Arc::new(trail), Clock::system());
    let tasks = Tasks::new();
    tasks.spawn({
        let (subscriptions, audit, stop) = (Arc::clone(&subscriptions), audit.clone(), tasks.stop().clone());
        async move { subscriptions.watch(audit, stop).await }
    });
    let names = || {
        let all = subscriptions.all();
        all.iter().map(|one| one.name.to_string()).collect::<Vec<_>>()
    };
    sleep(Duration::from_secs(50)).await;
    assert_eq!(names(), ["kept", "unused", "used"]);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(names(), ["kept", "used"]);
    drop(stream);
    sleep(Duration::from_secs(50)).await;
    assert_eq!(names(), ["kept", "used"]);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(names(), ["kept"]);
    tasks.end().await;
    let question = Question {
        most: 10,
        ..Question::default()
    };
    let records = audit.list(question).await.unwrap();
    let told: Vec<_> = records
        .iter()
        .map(|record| (record.action.actor.as_str(), record.action.target.as_str()))
        .collect();
    assert_eq!(told, [("hookstream", "used"), ("hookstream", "unused")]);
    subscriptions.close().await;
    let left = load(&directory, 7).await;
    assert_eq!(left.all().len(), 1);
    left.close().await;
}

#[tokio::test]
async fn a_place_in_another_log_is_the_beginning_of_this_one_once_and_for_all() {
    let directory = tempfile::tempdir().unwrap();
    let subscriptions = load(&directory, 7).await;
    let created = subscriptions.create(name("one"), Settings::default(), Sequence::new(5));
    created.await.unwrap();
    subscriptions.close().await;
    for _ in 0..2 {
        let moved = load(&directory, 8).await;
        let one = moved.get(&name("one")).unwrap();
        let position = one.apply(|dispatch| dispatch.position());
        assert_eq!(position, Sequence::ZERO);
        // What was handed out of the other log is no longer to be acknowledged; of the log after this one nothing was.
        let of_generation = async |generation| {
            let id = AckId {
                subscription: one.id,
                generation,
                sequence: Sequence::new(1),
                lease: 1,
            };
            one.acknowledge(&[Some(id)], Outcome::Done).await.unwrap()[0]
        };
        assert_eq!(of_generation(0).await, Acknowledged::Late);
        assert_eq!(of_generation(2).await, Acknowledged::Unknown);
        moved.close().await;
    }
}

#[tokio::test]
async fn a_place_past_the_end_of_the_log_goes_on_at_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let subscriptions = load(&directory, 7).await;
    let created = subscriptions.create(name("one"), Settings::default(), Sequence::new(5));
    created.await.unwrap();
    subscriptions.close().await;
    let restored = load(&directory, 7).await;
    let place = restored
        .get(&name("one"))
        .unwrap()
        .apply(|dispatch| dispatch.position());
    assert_eq!(place, Sequence::ZERO);
    restored.close().await;
}
