//! What every storage of subscriptions promises, held against all of them.

use std::sync::Arc;

use jiff::Timestamp;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{
    Changes, DeadLetter, Place, Reason, Settings, Stored, SubscriptionStore,
    dispatch::{DeadLetterChanges, SavedEvent},
    shared::SharedSubscriptionStore,
    sqlite::SqliteSubscriptionStore,
};
use crate::{
    event::{LogId, Sequence},
    filter::Filter,
    log::{Direction, Range},
    nats::{self, bucket::Bucket},
    nats_server::Nats,
};

/// Where what was stored stays.
enum Kept {
    File(TempDir),
    Bucket(Nats, Runtime),
}

impl Kept {
    fn in_a_file() -> Self {
        Self::File(tempfile::tempdir().unwrap())
    }

    fn in_a_bucket() -> Self {
        Self::Bucket(Nats::start(1, "", ""), Runtime::new().unwrap())
    }

    /// What is there, and the storage it is in.
    fn open(&self) -> (Vec<Stored>, Arc<dyn SubscriptionStore>) {
        let store: Arc<dyn SubscriptionStore> = match self {
            Self::File(directory) => {
                Arc::new(SqliteSubscriptionStore::open(&directory.path().join("subscriptions.db")).unwrap())
            }
            Self::Bucket(servers, runtime) => Arc::new(runtime.block_on(shared(servers))),
        };
        (store.load().unwrap(), store)
    }
}

async fn bucket(servers: &Nats) -> Arc<Bucket> {
    let settings = nats::Settings::open(servers.url(), "hookstream".to_owned());
    let nats = nats::Nats::connect(&settings).await.unwrap();
    Bucket::open(&nats, "SUBSCRIPTIONS").await.unwrap()
}

async fn shared(servers: &Nats) -> SharedSubscriptionStore {
    SharedSubscriptionStore::new(bucket(servers).await)
}

/// Runs each claim on each storage.
macro_rules! contract {
    ($($claim:ident),+ $(,)?) => {
        mod file {
            $(
                #[test]
                fn $claim() { super::$claim(&super::Kept::in_a_file()); }
            )*
        }
        mod bucket {
            $(
                #[test]
                #[ignore = "needs nats-server: see tests/run"]
                fn $claim() { super::$claim(&super::Kept::in_a_bucket()); }
            )*
        }
    };
}

fn stored(id: u64, name: &str) -> Stored {
    Stored {
        id,
        name: name.parse().unwrap(),
        settings: Arc::default(),
        created_at: Timestamp::from_second(1_000).unwrap(),
        log_id: LogId::new(u64::MAX),
        place: Place {
            position: Sequence::new(41),
            ..Place::default()
        },
        dead_letters: 0,
    }
}

fn letter(sequence: u64) -> DeadLetter {
    DeadLetter {
        sequence: Sequence::new(sequence),
        attempts: 3,
        reason: Reason::Rejected,
        at: Timestamp::from_second(2_000).unwrap(),
    }
}

fn changes(id: u64, place: Place, removed: &[u64], added: &[u64]) -> Changes {
    Changes {
        id,
        place,
        dead_letters: DeadLetterChanges {
            removed: removed.iter().copied().map(Sequence::new).collect(),
            added: added.iter().copied().map(letter).collect(),
        },
    }
}

fn all() -> Range {
    Range {
        after: Sequence::ZERO,
        through: Sequence::new(u64::MAX >> 1),
    }
}

fn what_was_stored_is_there_when_it_is_opened_again(kept: &Kept) {
    let (one, mut other) = (stored(u64::MAX, "one"), stored(2, "other"));
    let (_, store) = kept.open();
    store.create(&one).unwrap();
    store.create(&other).unwrap();
    other.settings = Arc::new(Settings {
        filter: Filter::parse(&["*.fail".to_owned()], vec![], vec![], vec![]).unwrap(),
        max_attempts: 7,
        ..Settings::default()
    });
    store.update(2, &other.settings).unwrap();
    other.place.generation = 3;
    other.place.saved_at = Timestamp::from_second(4_000).unwrap();
    other.place.under_way = vec![SavedEvent {
        sequence: Sequence::new(40),
        attempts: 2,
        retry_at: Some(Timestamp::from_second(5_000).unwrap()),
        entity_id: "v1".into(),
    }];
    let changes = changes(2, other.place.clone(), &[], &[1, 5]);
    store.commit(&[changes]).unwrap();
    other.dead_letters = 2;
    drop(store);
    let (mut loaded, _) = kept.open();
    loaded.sort_by(|one, other| one.name.cmp(&other.name));
    assert_eq!(loaded, [one, other]);
}

fn dead_letters_are_read_in_either_direction_and_go_one_by_one_or_up_to_a_place(kept: &Kept) {
    let (_, store) = kept.open();
    store.create(&stored(1, "one")).unwrap();
    let commit = |removed: &[u64], added: &[u64]| {
        let changes = changes(1, Place::default(), removed, added);
        store.commit(&[changes]).unwrap();
    };
    let read = |direction, most| {
        let letters = store.dead_letters(1, all(), direction, most).unwrap();
        letters
            .iter()
            .map(|letter| letter.sequence.get())
            .collect::<Vec<_>>()
    };
    commit(&[], &[3, 1, 9, 5]);
    assert_eq!(read(Direction::Forward, 3), [1, 3, 5]);
    assert_eq!(read(Direction::Backward, 9), [9, 5, 3, 1]);
    // Put aside again in the same commit: what comes wins.
    commit(&[3, 5], &[5]);
    assert_eq!(read(Direction::Forward, 9), [1, 5, 9]);
    assert_eq!(store.trim_dead_letters(1, Sequence::new(5)).unwrap(), 2);
    assert_eq!(read(Direction::Forward, 9), [9]);
}

fn nothing_is_left_of_one_that_was_deleted_also_by_a_commit_that_came_too_late(kept: &Kept) {
    let (_, store) = kept.open();
    store.create(&stored(1, "one")).unwrap();
    let changes = changes(1, Place::default(), &[], &[1]);
    store.commit(std::slice::from_ref(&changes)).unwrap();
    store.delete(1).unwrap();
    store.commit(&[changes]).unwrap();
    assert!(store.load().unwrap().is_empty());
    assert!(
        store
            .dead_letters(1, all(), Direction::Forward, 9)
            .unwrap()
            .is_empty()
    );
    assert!(kept.open().0.is_empty());
}

fn one_moved_to_another_log_has_no_dead_letters(kept: &Kept) {
    let (_, store) = kept.open();
    store.create(&stored(1, "one")).unwrap();
    let changes = changes(1, Place::default(), &[], &[7]);
    store.commit(&[changes]).unwrap();
    let place = Place {
        generation: 1,
        position: Sequence::new(9),
        ..Place::default()
    };
    store.relocate(1, LogId::new(5), &place).unwrap();
    drop(store);
    let (loaded, store) = kept.open();
    assert_eq!(
        (loaded[0].log_id, &loaded[0].place, loaded[0].dead_letters),
        (LogId::new(5), &place, 0)
    );
    assert!(
        store
            .dead_letters(1, all(), Direction::Forward, 9)
            .unwrap()
            .is_empty()
    );
}

contract! {
    what_was_stored_is_there_when_it_is_opened_again,
    dead_letters_are_read_in_either_direction_and_go_one_by_one_or_up_to_a_place,
    nothing_is_left_of_one_that_was_deleted_also_by_a_commit_that_came_too_late,
    one_moved_to_another_log_has_no_dead_letters,
}

/// Of two replicas that both take themselves for the one that serves, the later keeps what it stores, and the earlier learns
/// that it is not.
#[test]
#[ignore = "needs nats-server: see tests/run"]
fn who_loads_takes_the_places_from_whoever_loaded_before() {
    let servers = Nats::start(1, "", "");
    let runtime = Runtime::new().unwrap();
    let earlier = runtime.block_on(shared(&servers));
    earlier.load().unwrap();
    let superseded = earlier.superseded();
    for (id, name) in [(1, "one"), (2, "two")] {
        earlier.create(&stored(id, name)).unwrap();
    }
    let at = |id, position| {
        let place = Place {
            position: Sequence::new(position),
            ..Place::default()
        };
        changes(id, place, &[], &[position])
    };
    earlier.commit(&[at(1, 50), at(2, 50)]).unwrap();
    let later = runtime.block_on(shared(&servers));
    later.load().unwrap();
    later.commit(&[at(1, 60)]).unwrap();
    assert!(!*superseded.borrow());
    assert!(earlier.commit(&[at(1, 70)]).is_err());
    // Also where nothing was stored since.
    assert!(earlier.commit(&[at(2, 70)]).is_err());
    assert!(*superseded.borrow());
    let places = || {
        let mut all = runtime.block_on(shared(&servers)).load().unwrap();
        all.sort_by_key(|one| one.id);
        all.iter()
            .map(|one| (one.place.position.get(), one.dead_letters))
            .collect::<Vec<_>>()
    };
    assert_eq!(places(), [(60, 2), (50, 1)]);
}

/// A replica that died between storing a place and doing what it says about dead letters has said it to the next.
#[test]
#[ignore = "needs nats-server: see tests/run"]
fn what_a_place_says_about_dead_letters_is_done_by_who_loads_it() {
    let servers = Nats::start(1, "", "");
    let runtime = Runtime::new().unwrap();
    let store = runtime.block_on(shared(&servers));
    store.load().unwrap();
    store.create(&stored(1, "one")).unwrap();
    let place = Place::default;
    store.commit(&[changes(1, place(), &[], &[1, 2])]).unwrap();
    store.commit(&[changes(1, place(), &[1], &[3])]).unwrap();
    // As if it had died before it did so.
    let bucket = runtime.block_on(bucket(&servers));
    runtime.block_on(async {
        bucket.purge("dead.1.3").await.unwrap();
        bucket
            .overwrite(
                "dead.1.1",
                bucket.entry("dead.1.2").await.unwrap().unwrap().value.unwrap(),
            )
            .await
            .unwrap();
    });
    let next = runtime.block_on(shared(&servers));
    assert_eq!(next.load().unwrap()[0].dead_letters, 2);
    let left = next.dead_letters(1, all(), Direction::Forward, 9).unwrap();
    assert_eq!(left, [letter(2), letter(3)]);
}
