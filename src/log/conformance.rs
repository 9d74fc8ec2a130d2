//! What every event log must do, run over every engine. Owns the claims of the contract in [`super::EventLog`]; knows no
//! engine beyond how to open it.

/// Makes tests of claims, which take an engine, and of properties, which make as many as they like.
macro_rules! conformance {
    ($($claim:ident)*; $($property:ident)*) => {
        mod memory {
            $(#[tokio::test] async fn $claim() { super::$claim(super::Engine::memory()).await; })*
            $(#[test] fn $property() { super::$property(super::Engine::memory); })*
        }
        mod sqlite {
            $(#[tokio::test] async fn $claim() { super::$claim(super::Engine::sqlite()).await; })*
            $(#[test] fn $property() { super::$property(super::Engine::sqlite); })*
        }
        mod jetstream {
            $(
                #[tokio::test]
                #[ignore = "needs nats-server: see tests/run"]
                async fn $claim() { super::$claim(super::Engine::jetstream(1, 1)).await; }
            )*
            $(
                #[test]
                #[ignore = "needs nats-server: see tests/run"]
                fn $property() { super::$property(|| super::Engine::jetstream(1, 1)); }
            )*
        }
        mod jetstream_of_three_servers_at_two_replicas {
            $(
                #[tokio::test]
                #[ignore = "needs nats-server: see tests/run"]
                async fn $claim() { super::$claim(super::Engine::jetstream(3, 2)).await; }
            )*
            $(
                #[test]
                #[ignore = "needs nats-server: see tests/run"]
                fn $property() { super::$property(|| super::Engine::jetstream(3, 2)); }
            )*
        }
    };
}

mod replicas;
mod twin_schedules;
mod twins;

use std::{fs, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use proptest::prelude::*;
use tempfile::TempDir;

use self::replicas::Cluster;

use super::{
    Appended, Direction, EventLog, Limit, Outcome, Range, ReadError, Retention, memory::MemoryLog,
    metrics::LogMetrics, sqlite::SqliteLog,
};
use crate::{
    event::{LogId, NewEvent, Sequence, StoredEvent, Verification},
    filter::Filter,
};

const ALL: Limit = Limit {
    events: usize::MAX,
    bytes: usize::MAX,
};

/// An engine under test: what it stores outlives a log that was opened on it.
enum Engine {
    Memory(Arc<MemoryLog>),
    Sqlite(TempDir),
    JetStream(Cluster),
}

impl Engine {
    fn memory() -> Self {
        Self::Memory(Arc::new(MemoryLog::new(LogId::new(7))))
    }

    fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    fn jetstream(servers: usize, replicas: usize) -> Self {
        Self::JetStream(Cluster::new(servers, replicas))
    }

    /// Appends events at once; one after the other where those that are made at once may be stored in any order, which
    /// is nobody's fault.
    async fn append_all(&self, log: &dyn EventLog, events: Vec<NewEvent>) -> Vec<Appended> {
        let at_once = match self {
            Self::Memory(_) | Self::Sqlite(_) => events.len().max(1),
            Self::JetStream(_) => 1,
        };
        let appends = events
            .into_iter()
            .map(|event| async move { log.append(event).await.unwrap() });
        stream::iter(appends).buffered(at_once).collect().await
    }

    async fn open(&self) -> Arc<dyn EventLog> {
        match self {
            Self::Memory(log) => Arc::clone(log) as Arc<dyn EventLog>,
            Self::Sqlite(directory) => {
                let log = SqliteLog::open(
                    directory.path(),
                    || LogId::new(7),
                    LogMetrics::default(),
                    |_, _| {},
                );
                Arc::new(log.unwrap())
            }
            Self::JetStream(cluster) => Arc::new(cluster.open().await),
        }
    }

    /// Opens it again, as after a restart. What is in memory only has nothing to open.
    async fn reopen(&self, log: Arc<dyn EventLog>) -> Arc<dyn EventLog> {
        if !matches!(self, Self::Memory(_)) {
            log.close().await;
        }
        drop(log);
        self.open().await
    }

    /// Opens it again after all that can be derived was lost.
    async fn reopen_without_index(&self, log: Arc<dyn EventLog>) -> Arc<dyn EventLog> {
        if let Self::Sqlite(directory) = self {
            log.close().await;
            fs::remove_file(directory.path().join("index.db")).unwrap();
        }
        if let Self::JetStream(cluster) = self {
            log.close().await;
            cluster.lose_a_copy();
        }
        drop(log);
        self.open().await
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn event(endpoint: &str, body: &str, received_at: i64) -> NewEvent {
    let verification = Verification::Signature {
        header_name: "signature".into(),
        signature: [1; 32],
        secret_version: 1,
    };
    let body = Bytes::from(body.to_owned());
    NewEvent::new(endpoint.parse().unwrap(), verification, body, at(received_at))
}

/// The `number`th of a family of different events, one a second.
fn numbered(number: i64) -> NewEvent {
    let family = if number % 2 == 0 {
        "avatar_video"
    } else {
        "video_agent"
    };
    let outcome = if number % 3 == 0 { "fail" } else { "success" };
    let entity = number % 5;
    let body = format!(
        r#"{{"event_type":"{family}.{outcome}","event_data":{{"n":{number},"video_id":"v{entity}","session_id":"v{entity}","callback_id":"c{}"}}}}"#,
        number % 7,
    );
    event(if number % 4 == 0 { "one" } else { "two" }, &body, number)
}

async fn fill(log: &dyn EventLog, numbers: std::ops::Range<i64>) {
    for number in numbers {
        log.append(numbered(number)).await.unwrap();
    }
}

/// Everything in a range, chunk after chunk.
async fn read_all(
    log: &dyn EventLog,
    mut range: Range,
    direction: Direction,
    filter: &Filter,
    limit: Limit,
) -> Result<Vec<Arc<StoredEvent>>, ReadError> {
    let mut events = Vec::new();
    while range.after < range.through {
        let chunk = log.read(range, direction, filter, limit).await?;
        assert!(chunk.events.len() <= limit.events);
        events.extend(chunk.events);
        match direction {
            Direction::Forward => range.after = chunk.scanned,
            Direction::Backward => range.through = chunk.scanned,
        }
    }
    Ok(events)
}

fn whole(log: &dyn EventLog) -> Range {
    let bounds = log.bounds();
    Range {
        after: bounds.trimmed,
        through: bounds.tail,
    }
}

async fn bodies(log: &dyn EventLog) -> Vec<Bytes> {
    let events = read_all(log, whole(log), Direction::Forward, &Filter::default(), ALL)
        .await
        .unwrap();
    events.iter().map(|event| event.event.body.clone()).collect()
}

async fn an_empty_log_has_nothing_and_says_so(engine: Engine) {
    let log = engine.open().await;
    assert_eq!(
        (log.bounds().trimmed, log.bounds().tail),
        (Sequence::ZERO, Sequence::ZERO)
    );
    assert!(bodies(&*log).await.is_empty());
    assert_eq!(log.before_time(at(0)).await.unwrap(), Sequence::ZERO);
    assert!(log.find(numbered(1).id).await.unwrap().is_none());
    assert!(log.event_types().is_empty());
    log.close().await;
}

async fn what_was_appended_is_read_in_order_before_and_after_a_restart(engine: Engine) {
    let log = engine.open().await;
    fill(&*log, 0..50).await;
    let expected: Vec<_> = (0..50).map(|number| numbered(number).body).collect();
    assert_eq!(bodies(&*log).await, expected);
    let log_id = log.log_id();
    let log = engine.reopen(log).await;
    assert_eq!(bodies(&*log).await, expected);
    assert_eq!(log.log_id(), log_id);
    log.close().await;
}

async fn i3_sequences_rise_strictly_across_restarts(engine: Engine) {
    let mut log = engine.open().await;
    let mut last = Sequence::ZERO;
    for round in 0..4 {
        for number in 0..10 {
            let appended = log.append(numbered(round * 10 + number)).await.unwrap();
            assert!(appended.sequence > last);
            last = appended.sequence;
        }
        assert_eq!(log.bounds().tail, last);
        log = engine.reopen(log).await;
        assert_eq!(log.bounds().tail, last);
    }
    log.close().await;
}

async fn i3_sequences_go_on_after_everything_was_trimmed(engine: Engine) {
    let log = engine.open().await;
    fill(&*log, 0..10).await;
    let last = log.bounds().tail;
    let nothing = Retention {
        age: Some(Duration::from_secs(1)),
        size_bytes: None,
    };
    assert_eq!(log.trim(nothing, at(1000)).await.unwrap().events, 10);
    let log = engine.reopen(log).await;
    assert_eq!((log.bounds().trimmed, log.bounds().tail), (last, last));
    assert!(log.append(numbered(10)).await.unwrap().sequence > last);
    log.close().await;
}

async fn i6_a_duplicate_is_the_first_event_also_after_a_restart(engine: Engine) {
    let log = engine.open().await;
    let first = log.append(numbered(1)).await.unwrap();
    assert_eq!(first.outcome, Outcome::New);
    let duplicate = Appended {
        sequence: first.sequence,
        outcome: Outcome::Duplicate,
    };
    assert_eq!(log.append(numbered(1)).await.unwrap(), duplicate);
    let log = engine.reopen(log).await;
    assert_eq!(log.append(numbered(1)).await.unwrap(), duplicate);
    assert_eq!(bodies(&*log).await.len(), 1);
    log.close().await;
}

async fn i6_concurrent_duplicates_are_one_event(engine: Engine) {
    let log = engine.open().await;
    let appends = (0..64).map(|_| log.append(numbered(1)));
    let answers = futures_util::future::join_all(appends).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(
        answers
            .iter()
            .filter(|answer| answer.outcome == Outcome::New)
            .count(),
        1
    );
    assert!(
        answers
            .iter()
            .all(|answer| answer.sequence == answers[0].sequence)
    );
    assert_eq!(bodies(&*log).await.len(), 1);
    log.close().await;
}

async fn i6_another_body_under_the_same_event_id_is_a_duplicate_that_is_told_apart(engine: Engine) {
    let log = engine.open().await;
    let body = |url: &str| {
        format!(
            r#"{{"event_id":"evt_1","event_type":"avatar_video.success","event_data":{{"url":"{url}"}}}}"#
        )
    };
    log.append(event("one", &body("a"), 1)).await.unwrap();
    let again = log.append(event("one", &body("b"), 2)).await.unwrap();
    assert_eq!(again.outcome, Outcome::DuplicateWithOtherBody);
    let elsewhere = log.append(event("two", &body("a"), 3)).await.unwrap();
    assert_eq!(elsewhere.outcome, Outcome::New, "identity is per endpoint");
    assert_eq!(bodies(&*log).await[0], body("a"), "the first is kept");
    log.close().await;
}

async fn i6_an_event_that_was_trimmed_can_come_again(engine: Engine) {
    let log = engine.open().await;
    let first = log.append(numbered(1)).await.unwrap();
    log.trim(
        Retention {
            age: Some(Duration::from_secs(1)),
            size_bytes: None,
        },
        at(100),
    )
    .await
    .unwrap();
    let again = log.append(numbered(1)).await.unwrap();
    assert_eq!(again.outcome, Outcome::New);
    assert!(again.sequence > first.sequence);
    assert_eq!(
        log.find(numbered(1).id).await.unwrap().unwrap().sequence,
        again.sequence
    );
    log.close().await;
}

async fn an_event_is_found_by_its_id(engine: Engine) {
    let log = engine.open().await;
    fill(&*log, 0..20).await;
    assert_eq!(
        log.find(numbered(7).id).await.unwrap().unwrap().event.body,
        numbered(7).body
    );
    let log = engine.reopen(log).await;
    assert_eq!(
        log.find(numbered(7).id).await.unwrap().unwrap().event.body,
        numbered(7).body
    );
    assert!(log.find(numbered(99).id).await.unwrap().is_none());
    log.close().await;
}

async fn the_tail_is_announced_after_it_can_be_read(engine: Engine) {
    let log = engine.open().await;
    let mut tail = log.tail();
    let writer = Arc::clone(&log);
    let writing = async move { fill(&*writer, 0..100).await };
    let reading = async {
        while *tail.borrow_and_update() < Sequence::new(100) {
            let announced = *tail.borrow();
            let range = Range {
                after: Sequence::ZERO,
                through: announced,
            };
            let events = read_all(&*log, range, Direction::Forward, &Filter::default(), ALL)
                .await
                .unwrap();
            assert_eq!(
                events.last().map_or(Sequence::ZERO, |event| event.sequence),
                announced
            );
            if announced < Sequence::new(100) {
                tail.changed().await.unwrap();
            }
        }
    };
    tokio::join!(writing, reading);
    log.close().await;
}

async fn events_that_are_appended_in_order_stand_in_that_order(engine: Engine) {
    let log = engine.open().await;
    let events: Vec<_> = (0..500).map(numbered).collect();
    let appended = log.append_in_order(events.clone()).await.unwrap();
    let order: Vec<_> = appended.iter().map(|appended| appended.sequence).collect();
    assert!(order.is_sorted_by(|one, next| one < next), "{order:?}");
    let again = log.append_in_order(events).await.unwrap();
    assert!(again.iter().all(|appended| appended.outcome != Outcome::New));
    assert_eq!(
        again.iter().map(|appended| appended.sequence).collect::<Vec<_>>(),
        order
    );
    log.close().await;
}

async fn received_at_never_goes_backwards(engine: Engine) {
    let log = engine.open().await;
    for (number, second) in [(1, 100), (2, 50), (3, 120)] {
        log.append(NewEvent {
            received_at: at(second),
            ..numbered(number)
        })
        .await
        .unwrap();
    }
    let log = engine.reopen(log).await;
    log.append(NewEvent {
        received_at: at(10),
        ..numbered(4)
    })
    .await
    .unwrap();
    let events = read_all(&*log, whole(&*log), Direction::Forward, &Filter::default(), ALL)
        .await
        .unwrap();
    let times: Vec<_> = events
        .iter()
        .map(|event| event.event.received_at.as_second())
        .collect();
    assert_eq!(times, [100, 100, 120, 120]);
    log.close().await;
}

async fn a_time_names_one_place_in_the_log(engine: Engine) {
    let log = engine.open().await;
    fill(&*log, 0..40).await;
    log.trim(
        Retention {
            age: Some(Duration::from_secs(30)),
            size_bytes: None,
        },
        at(40),
    )
    .await
    .unwrap();
    assert_eq!(log.bounds().trimmed, Sequence::new(10));
    for (time, before) in [
        (0, 10),
        (10, 10),
        (11, 11),
        (25, 25),
        (39, 39),
        (40, 40),
        (1000, 40),
    ] {
        assert_eq!(
            log.before_time(at(time)).await.unwrap(),
            Sequence::new(before),
            "{time}"
        );
    }
    log.close().await;
}

async fn reading_forward_from_before_the_trim_point_is_an_error_and_backward_ends_there(engine: Engine) {
    let log = engine.open().await;
    fill(&*log, 0..20).await;
    log.trim(
        Retention {
            age: Some(Duration::from_secs(10)),
            size_bytes: None,
        },
        at(20),
    )
    .await
    .unwrap();
    let range = Range {
        after: Sequence::ZERO,
        through: log.bounds().tail,
    };
    let forward = read_all(&*log, range, Direction::Forward, &Filter::default(), ALL).await;
    assert!(matches!(forward, Err(ReadError::Trimmed { trimmed }) if trimmed == Sequence::new(10)));
    let backward = read_all(&*log, range, Direction::Backward, &Filter::default(), ALL)
        .await
        .unwrap();
    assert_eq!(backward.len(), 10);
    log.close().await;
}

async fn retention_by_size_removes_the_oldest_until_the_rest_fits(engine: Engine) {
    let log = engine.open().await;
    let large = |number: i64| event("one", &format!("{number}{}", "x".repeat(8 * 1024)), number);
    for number in 0..600 {
        log.append(large(number)).await.unwrap();
    }
    let most = 1024 * 1024;
    let removed = log
        .trim(
            Retention {
                age: None,
                size_bytes: Some(most),
            },
            at(0),
        )
        .await
        .unwrap();
    assert!(removed.events > 0);
    let kept = bodies(&*log).await;
    assert_eq!(kept.len() as u64, 600 - removed.events);
    assert_eq!(kept.last(), Some(&large(599).body), "the newest is kept");
    assert!(kept.iter().map(Bytes::len).sum::<usize>() as u64 <= most);
    assert_eq!(log.trim(Retention::default(), at(0)).await.unwrap().events, 0);
    log.close().await;
}

async fn after_closing_nothing_is_taken(engine: Engine) {
    let log = engine.open().await;
    log.append(numbered(1)).await.unwrap();
    log.close().await;
    assert!(log.append(numbered(2)).await.is_err());
    assert!(log.writable().borrow().is_err());
}

async fn event_types_are_known_across_restarts(engine: Engine) {
    let log = engine.open().await;
    fill(&*log, 0..12).await;
    let expected = [
        "avatar_video.fail",
        "avatar_video.success",
        "video_agent.fail",
        "video_agent.success",
    ];
    assert_eq!(log.event_types(), expected);
    let log = engine.reopen(log).await;
    assert_eq!(log.event_types(), expected);
    log.close().await;
}

fn filters() -> impl Strategy<Value = Filter> {
    use proptest::{collection::vec, sample::select};
    let owned = |values: Vec<&str>| values.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let types = select(vec![
        "avatar_video.*",
        "*.fail",
        "video_agent.success",
        "no.such",
        "avatar_video.fail",
    ]);
    (
        vec(types, 0..3),
        vec(select(vec!["v0", "v1", "v4", "none"]), 0..3),
        vec(select(vec!["c0", "c3", "none"]), 0..3),
        vec(select(vec!["one", "two", "none"]), 0..2),
    )
        .prop_map(move |(types, entities, callbacks, endpoints)| {
            Filter::parse(&owned(types), owned(entities), owned(callbacks), owned(endpoints)).unwrap()
        })
}

/// Every filter, range, direction and limit reads what going through all events by hand would.
fn any_read_is_what_going_through_by_hand_gives(make: fn() -> Engine) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let engine = make();
    let log = runtime.block_on(async {
        let log = engine.open().await;
        fill(&*log, 0..150).await;
        log.trim(
            Retention {
                age: Some(Duration::from_secs(140)),
                size_bytes: None,
            },
            at(150),
        )
        .await
        .unwrap();
        // What came before is in the index now, what comes after is in memory.
        let log = engine.reopen(log).await;
        fill(&*log, 150..200).await;
        log
    });
    let model: Vec<_> = runtime
        .block_on(read_all(
            &*log,
            whole(&*log),
            Direction::Forward,
            &Filter::default(),
            ALL,
        ))
        .unwrap();
    assert_eq!(model.len(), 190);
    let case = (
        filters(),
        10_u64..=200,
        10_u64..=200,
        any::<bool>(),
        1_usize..20,
        50_usize..2000,
    );
    proptest!(|((filter, after, through, forward, events, bytes) in case)| {
        let range = Range { after: Sequence::new(after), through: Sequence::new(through) };
        let direction = if forward { Direction::Forward } else { Direction::Backward };
        let read = read_all(&*log, range, direction, &filter, Limit { events, bytes });
        let read = runtime.block_on(read).unwrap();
        let mut expected: Vec<_> = model
            .iter()
            .filter(|event| event.sequence > range.after && event.sequence <= range.through)
            .filter(|event| filter.matches(&event.event.keys))
            .cloned()
            .collect();
        if !forward {
            expected.reverse();
        }
        prop_assert_eq!(read, expected.as_slice());
        let count = runtime.block_on(log.count(range, &filter)).unwrap();
        prop_assert_eq!(count, expected.len() as u64);
    });
    runtime.block_on(log.close());
}

conformance! {
    an_empty_log_has_nothing_and_says_so
    what_was_appended_is_read_in_order_before_and_after_a_restart
    i3_sequences_rise_strictly_across_restarts
    i3_sequences_go_on_after_everything_was_trimmed
    i6_a_duplicate_is_the_first_event_also_after_a_restart
    i6_concurrent_duplicates_are_one_event
    i6_another_body_under_the_same_event_id_is_a_duplicate_that_is_told_apart
    i6_an_event_that_was_trimmed_can_come_again
    an_event_is_found_by_its_id
    the_tail_is_announced_after_it_can_be_read
    events_that_are_appended_in_order_stand_in_that_order
    received_at_never_goes_backwards
    a_time_names_one_place_in_the_log
    reading_forward_from_before_the_trim_point_is_an_error_and_backward_ends_there
    retention_by_size_removes_the_oldest_until_the_rest_fits
    after_closing_nothing_is_taken
    event_types_are_known_across_restarts
    ;
    any_read_is_what_going_through_by_hand_gives
}
