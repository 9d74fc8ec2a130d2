//! What every event log must do with what was pushed and is in the event history too. Owns the claims of the contract's part
//! on twins (I6).

use super::{Engine, at, bodies, event};
use crate::{
    event::{EventId, NewEvent, Sequence, Verification},
    limits,
    log::{Appended, EventLog, Outcome, Retention},
};

pub(super) const NOON: i64 = 1_000_000;
pub(super) const HOUR: i64 = 3600;
pub(super) const WINDOW: i64 = limits::TWIN_WINDOW.as_secs() as i64;
pub(super) const SKEW: i64 = limits::TWIN_CLOCK_SKEW.as_secs() as i64;

const VIDEO: &str = r#"{"video_id":"v"}"#;

/// A delivery without an event id. `n` is in the body and outside of what HeyGen tells.
pub(super) fn push_of(endpoint: &str, event_type: &str, data: &str, n: i64, received_at: i64) -> NewEvent {
    let body = format!(r#"{{"n":{n},"event_type":"{event_type}","event_data":{data}}}"#);
    event(endpoint, &body, received_at)
}

/// An entry of the event history.
pub(super) fn entry_of(endpoint: &str, event_type: &str, data: &str, id: &str, created_at: i64) -> NewEvent {
    let body = format!(
        r#"{{"event_id":"{id}","event_type":"{event_type}","event_data":{data},"created_at":"{}"}}"#,
        at(created_at)
    );
    from_history(&event(endpoint, &body, created_at + 60))
}

fn from_history(event: &NewEvent) -> NewEvent {
    NewEvent::new(
        event.keys.endpoint.clone(),
        Verification::History,
        event.body.clone(),
        event.received_at,
    )
}

fn push(data: &str, received_at: i64) -> NewEvent {
    push_of("one", "avatar_video.fail", data, 0, received_at)
}

fn entry(data: &str, id: &str, created_at: i64) -> NewEvent {
    entry_of("one", "avatar_video.fail", data, id, created_at)
}

async fn append(log: &dyn EventLog, event: &NewEvent) -> Appended {
    log.append(event.clone()).await.unwrap()
}

async fn append_new(log: &dyn EventLog, event: &NewEvent) -> Sequence {
    let appended = append(log, event).await;
    assert_eq!(appended.outcome, Outcome::New, "{:?}", event.body);
    appended.sequence
}

pub(super) async fn found(log: &dyn EventLog, id: EventId) -> Option<Sequence> {
    log.find(id).await.unwrap().map(|event| event.sequence)
}

const fn twin_of(sequence: Sequence) -> Appended {
    Appended {
        sequence,
        outcome: Outcome::DuplicateOfOtherOrigin,
    }
}

const fn same_as(sequence: Sequence) -> Appended {
    Appended {
        sequence,
        outcome: Outcome::Duplicate,
    }
}

async fn an_entry_is_the_push_that_came_before_it(engine: Engine) {
    let log = engine.open().await;
    let push = push(r#"{"video_id":"v","callback_id":"c"}"#, NOON + 5);
    let entry = entry(r#"{"video_id":"v","url":"u"}"#, "e", NOON);
    let first = append_new(&*log, &push).await;
    assert_eq!(append(&*log, &entry).await, twin_of(first));
    assert_eq!(append(&*log, &entry).await, twin_of(first));
    assert_eq!(append(&*log, &push).await, same_as(first));
    assert_eq!(bodies(&*log).await, [push.body], "the first is kept");
    log.close().await;
}

async fn a_push_is_the_entry_that_came_before_it(engine: Engine) {
    let log = engine.open().await;
    let entry = entry(VIDEO, "e", NOON);
    let push = push(r#"{"video_id":"v","url":"u"}"#, NOON + HOUR);
    let first = append_new(&*log, &entry).await;
    assert_eq!(append(&*log, &push).await, twin_of(first));
    assert_eq!(append(&*log, &push).await, twin_of(first));
    assert_eq!(append(&*log, &entry).await, same_as(first));
    assert_eq!(bodies(&*log).await, [entry.body], "the first is kept");
    log.close().await;
}

async fn twins_meet_across_a_restart(engine: Engine) {
    let log = engine.open().await;
    let (pushed, listed) = (r#"{"video_id":"pushed"}"#, r#"{"video_id":"listed"}"#);
    let by_push = append_new(&*log, &push(pushed, NOON)).await;
    let by_entry = append_new(&*log, &entry(listed, "listed", NOON)).await;
    let log = engine.reopen(log).await;
    let answers = [
        append(&*log, &entry(pushed, "pushed", NOON)).await,
        append(&*log, &push(listed, NOON + HOUR)).await,
    ];
    assert_eq!(answers, [twin_of(by_push), twin_of(by_entry)]);
    assert_eq!(bodies(&*log).await.len(), 2);
    log.close().await;
}

async fn an_alias_is_an_id_of_its_event_also_after_a_restart(engine: Engine) {
    let mut log = engine.open().await;
    let (pushed, listed) = (r#"{"video_id":"pushed"}"#, r#"{"video_id":"listed"}"#);
    let by_push = append_new(&*log, &push(pushed, NOON)).await;
    let by_entry = append_new(&*log, &entry(listed, "listed", NOON)).await;
    let aliases = [
        (entry(pushed, "pushed", NOON), by_push),
        (push(listed, NOON + HOUR), by_entry),
    ];
    for (event, first) in &aliases {
        assert_eq!(append(&*log, event).await, twin_of(*first));
    }
    for without_index in [false, true] {
        for (event, first) in &aliases {
            assert_eq!(found(&*log, event.id).await, Some(*first));
            assert_eq!(append(&*log, event).await, twin_of(*first));
        }
        log = if without_index {
            engine.reopen_without_index(log).await
        } else {
            engine.reopen(log).await
        };
    }
    for (event, first) in &aliases {
        assert_eq!(append(&*log, event).await, twin_of(*first));
        assert_eq!(found(&*log, event.id).await, Some(*first));
    }
    assert_eq!(bodies(&*log).await.len(), 2);
    log.close().await;
}

async fn an_alias_is_an_id_for_a_delivery_with_that_event_id(engine: Engine) {
    let log = engine.open().await;
    let first = append_new(&*log, &push(VIDEO, NOON)).await;
    let entry = entry(VIDEO, "e", NOON);
    assert_eq!(append(&*log, &entry).await, twin_of(first));
    let with_id = event("one", str::from_utf8(&entry.body).unwrap(), NOON + HOUR);
    assert_eq!(append(&*log, &with_id).await.sequence, first);
    assert_eq!(bodies(&*log).await.len(), 1);
    log.close().await;
}

async fn one_push_is_the_twin_of_one_entry(engine: Engine) {
    let log = engine.open().await;
    let first = append_new(&*log, &push(VIDEO, NOON)).await;
    assert_eq!(append(&*log, &entry(VIDEO, "e1", NOON)).await, twin_of(first));
    append_new(&*log, &entry(VIDEO, "e2", NOON)).await;
    let log = engine.reopen(log).await;
    append_new(&*log, &entry(VIDEO, "e3", NOON)).await;
    log.close().await;
}

async fn one_entry_is_the_twin_of_one_push(engine: Engine) {
    let log = engine.open().await;
    let push = |n| push_of("one", "avatar_video.fail", VIDEO, n, NOON + HOUR);
    let first = append_new(&*log, &entry(VIDEO, "e", NOON)).await;
    assert_eq!(append(&*log, &push(1)).await, twin_of(first));
    append_new(&*log, &push(2)).await;
    let log = engine.reopen(log).await;
    append_new(&*log, &push(3)).await;
    log.close().await;
}

async fn of_several_the_earliest_is_the_twin(engine: Engine) {
    let log = engine.open().await;
    let push = |n| push_of("one", "avatar_video.fail", VIDEO, n, NOON + HOUR + n);
    let (first, second) = (
        append_new(&*log, &push(1)).await,
        append_new(&*log, &push(2)).await,
    );
    let log = engine.reopen(log).await;
    let third = append_new(&*log, &push(3)).await;
    for (id, twin) in [("e1", first), ("e2", second), ("e3", third)] {
        assert_eq!(append(&*log, &entry(VIDEO, id, NOON)).await, twin_of(twin));
    }
    let late = append_new(&*log, &entry(VIDEO, "late", NOON + 2)).await;
    let early = append_new(&*log, &entry(VIDEO, "early", NOON + 1)).await;
    assert_eq!(append(&*log, &push(4)).await, twin_of(early));
    assert_eq!(append(&*log, &push(5)).await, twin_of(late));
    log.close().await;
}

async fn events_of_other_subjects_are_no_twins(engine: Engine) {
    let log = engine.open().await;
    let cases = [
        ("two", "avatar_video.fail", VIDEO),
        ("one", "avatar_video.success", VIDEO),
        ("one", "avatar_video.fail", r#"{"video_id":"w"}"#),
        ("one", "avatar_video.fail", r#"{"callback_id":"v"}"#),
        ("one", "avatar_video.fail", r#"{"callback_id":"w"}"#),
        ("one", "avatar_video.fail", r#"{}"#),
        ("one", "avatar_video.fail", r#"{"x":1}"#),
    ];
    append_new(&*log, &push(VIDEO, NOON)).await;
    for (number, (endpoint, event_type, data)) in cases.into_iter().enumerate() {
        let id = format!("e{number}");
        append_new(&*log, &entry_of(endpoint, event_type, data, &id, NOON)).await;
    }
    let last = r#"{"video_id":"x"}"#;
    append_new(&*log, &push(last, NOON)).await;
    log.close().await;
}

async fn the_callback_id_names_what_has_no_entity_id(engine: Engine) {
    let log = engine.open().await;
    let named = |callback_id: &str, n| format!(r#"{{"callback_id":"{callback_id}","n":{n}}}"#);
    let first = append_new(&*log, &push(&named("c", 1), NOON)).await;
    append_new(&*log, &entry(&named("d", 1), "d", NOON)).await;
    let log = engine.reopen(log).await;
    let same = append(&*log, &entry(&named("c", 2), "c", NOON)).await;
    assert_eq!(same, twin_of(first));
    log.close().await;
}

async fn the_data_names_what_has_no_id(engine: Engine) {
    let log = engine.open().await;
    let pushed = append_new(&*log, &push(r#"{"a":1,"b":[true,"é"]}"#, NOON)).await;
    let listed = append_new(&*log, &entry(r#"{"a":2}"#, "listed", NOON)).await;
    append_new(&*log, &entry(r#"{"a":1,"b":["é",true]}"#, "other", NOON)).await;
    let log = engine.reopen(log).await;
    let same = append(&*log, &entry(r#"{"b": [true,"\u00e9"], "a": 1}"#, "same", NOON)).await;
    assert_eq!(same, twin_of(pushed));
    assert_eq!(append(&*log, &push(r#"{ "a":2 }"#, NOON)).await, twin_of(listed));
    log.close().await;
}

async fn what_is_no_event_of_heygens_has_no_twin(engine: Engine) {
    let log = engine.open().await;
    for (number, body) in [
        "",
        "[]",
        r#"{"event_type":"a.b"}"#,
        r#"{"event_data":{"video_id":"v"}}"#,
    ]
    .into_iter()
    .enumerate()
    {
        append_new(&*log, &event("one", body, NOON)).await;
        let created_at = at(NOON);
        let listed = body.replace(
            '{',
            &format!(r#"{{"event_id":"e{number}","created_at":"{created_at}","#),
        );
        if listed != body {
            append_new(&*log, &from_history(&event("one", &listed, NOON))).await;
        }
    }
    log.close().await;
}

const WINDOW_ENDS: [(i64, bool); 4] = [
    (-SKEW - 1, false),
    (-SKEW, true),
    (WINDOW, true),
    (WINDOW + 1, false),
];

async fn an_entry_takes_only_a_push_of_its_time(engine: Engine) {
    let mut log = engine.open().await;
    for (number, (received_after, twins)) in (0..).zip(WINDOW_ENDS) {
        let data = format!(r#"{{"video_id":"v{number}"}}"#);
        let noon = NOON + number * 10 * WINDOW;
        append_new(&*log, &push(&data, noon + received_after)).await;
        log = engine.reopen(log).await;
        let listed = append(&*log, &entry(&data, &format!("e{number}"), noon)).await;
        assert_eq!(listed.outcome != Outcome::New, twins, "{received_after}");
    }
    log.close().await;
}

async fn a_push_takes_only_an_entry_of_its_time(engine: Engine) {
    let mut log = engine.open().await;
    for (number, (received_after, twins)) in (0..).zip(WINDOW_ENDS) {
        let data = format!(r#"{{"video_id":"v{number}"}}"#);
        let noon = NOON + number * 10 * WINDOW;
        let mut entry = entry(&data, &format!("e{number}"), noon);
        entry.received_at = at(noon - SKEW - 1);
        append_new(&*log, &entry).await;
        log = engine.reopen(log).await;
        let pushed = append(&*log, &push(&data, noon + received_after)).await;
        assert_eq!(pushed.outcome != Outcome::New, twins, "{received_after}");
    }
    log.close().await;
}

async fn an_entry_of_no_time_has_no_twin(engine: Engine) {
    let log = engine.open().await;
    let entry = |id: &str| {
        let body = format!(r#"{{"event_id":"{id}","event_type":"avatar_video.fail","event_data":{VIDEO}}}"#);
        from_history(&event("one", &body, NOON))
    };
    append_new(&*log, &entry("before")).await;
    append_new(&*log, &push(VIDEO, NOON)).await;
    append_new(&*log, &entry("after")).await;
    log.close().await;
}

async fn callbacks_and_pushes_with_an_event_id_have_no_twins(engine: Engine) {
    let log = engine.open().await;
    let with_id = |id: &str| {
        let body = format!(r#"{{"event_id":"{id}","event_type":"avatar_video.fail","event_data":{VIDEO}}}"#);
        event("one", &body, NOON)
    };
    let callback = |n| {
        let push = push_of("one", "avatar_video.fail", VIDEO, n, NOON);
        let endpoint = push.keys.endpoint;
        NewEvent::new(endpoint, Verification::CallbackToken, push.body, push.received_at)
    };
    append_new(&*log, &with_id("a")).await;
    append_new(&*log, &callback(1)).await;
    append_new(&*log, &entry(VIDEO, "e", NOON)).await;
    append_new(&*log, &with_id("b")).await;
    append_new(&*log, &callback(2)).await;
    log.close().await;
}

async fn another_body_from_the_history_is_no_differing_delivery(engine: Engine) {
    let log = engine.open().await;
    let entry = entry(VIDEO, "e", NOON);
    let body = r#"{"event_id":"e","event_type":"avatar_video.fail","event_data":{"video_id":"v"}}"#;
    let with_id = event("one", body, NOON);
    let first = append_new(&*log, &with_id).await;
    assert_eq!(append(&*log, &entry).await, twin_of(first));
    assert_eq!(append(&*log, &with_id).await, same_as(first));
    log.close().await;
}

async fn an_alias_is_trimmed_with_its_event(engine: Engine) {
    let log = engine.open().await;
    let (pushed, listed) = (r#"{"video_id":"pushed"}"#, r#"{"video_id":"listed"}"#);
    append_new(&*log, &push(pushed, NOON)).await;
    append_new(&*log, &entry(listed, "listed", NOON)).await;
    append_new(&*log, &entry(r#"{"video_id":"open"}"#, "open", NOON)).await;
    let aliases = [entry(pushed, "pushed", NOON), push(listed, NOON + 60)];
    for alias in &aliases {
        assert_ne!(append(&*log, alias).await.outcome, Outcome::New);
    }
    let nothing = Retention {
        age: Some(std::time::Duration::from_secs(1)),
        size_bytes: None,
    };
    assert_eq!(log.trim(nothing, at(NOON + HOUR)).await.unwrap().events, 3);
    for alias in &aliases {
        assert_eq!(found(&*log, alias.id).await, None);
    }
    let log = engine.reopen(log).await;
    for alias in &aliases {
        assert_eq!(found(&*log, alias.id).await, None);
        append_new(&*log, alias).await;
    }
    let late = push(r#"{"video_id":"open"}"#, NOON + 60);
    append_new(&*log, &late).await;
    log.close().await;
}

async fn twins_in_one_commit_are_one_event(engine: Engine) {
    let log = engine.open().await;
    // The first of them keep the writer busy, so that those behind are one batch.
    let busy = (0..20).map(|n| push_of("two", "a.b", &format!(r#"{{"n":{n}}}"#), n, NOON));
    let [a, b] = [r#"{"video_id":"a"}"#, r#"{"callback_id":"b"}"#];
    let twins = [
        entry(a, "a", NOON),
        push(a, NOON),
        push(a, NOON),
        push(b, NOON),
        entry(b, "b", NOON),
        entry(b, "b", NOON),
        push_of("one", "avatar_video.fail", b, 1, NOON),
        entry(a, "a2", NOON),
    ];
    let answers = engine.append_all(&*log, busy.chain(twins).collect()).await;
    let outcomes: Vec<_> = answers[20..].iter().map(|answer| answer.outcome).collect();
    use Outcome::{Duplicate, DuplicateOfOtherOrigin as Twin, New};
    assert_eq!(outcomes, [New, Twin, Twin, New, Twin, Twin, New, New]);
    assert_eq!(answers[21].sequence, answers[20].sequence);
    assert_eq!(answers[24].sequence, answers[23].sequence);
    assert_eq!(append(&*log, &push(b, NOON)).await.outcome, Duplicate);
    log.close().await;
}

conformance! {
    an_entry_is_the_push_that_came_before_it
    a_push_is_the_entry_that_came_before_it
    twins_meet_across_a_restart
    an_alias_is_an_id_of_its_event_also_after_a_restart
    an_alias_is_an_id_for_a_delivery_with_that_event_id
    one_push_is_the_twin_of_one_entry
    one_entry_is_the_twin_of_one_push
    of_several_the_earliest_is_the_twin
    events_of_other_subjects_are_no_twins
    the_callback_id_names_what_has_no_entity_id
    the_data_names_what_has_no_id
    what_is_no_event_of_heygens_has_no_twin
    an_entry_takes_only_a_push_of_its_time
    a_push_takes_only_an_entry_of_its_time
    an_entry_of_no_time_has_no_twin
    callbacks_and_pushes_with_an_event_id_have_no_twins
    another_body_from_the_history_is_no_differing_delivery
    an_alias_is_trimmed_with_its_event
    twins_in_one_commit_are_one_event
    ;
}
