//! What a log makes of pushes and entries of the history in any order. Owns the model of the contract's part on twins (I6) and
//! the schedules it is compared on.

use std::{collections::HashMap, time::Duration};

use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    Engine, at, bodies, event,
    twins::{HOUR, NOON, SKEW, WINDOW, entry_of, found, push_of},
};
use crate::{
    event::{EventId, NewEvent, Sequence, Verification},
    log::{Outcome, Retention},
};

/// The rule in its plainest form.
#[derive(Default)]
struct Model {
    events: Vec<ModelEvent>,
    tail: u64,
    last_received_at: i64,
}

struct ModelEvent {
    sequence: u64,
    ids: Vec<EventId>,
    kind: Kind,
    subject: (usize, usize),
    /// When a push was received, when an entry was created.
    time: i64,
    received_at: i64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Push,
    PushWithId,
    Callback,
    Entry,
}

/// One append: `(kind, endpoint, thing, number, time)`.
type Spec = (Kind, usize, usize, i64, i64);

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Spec>),
    Reopen,
    ReopenWithoutIndex,
    Trim(i64),
}

fn event_of(&(kind, endpoint, thing, number, time): &Spec) -> NewEvent {
    let endpoint = ["one", "two"][endpoint];
    let (event_type, data) = [
        ("avatar_video.fail", r#"{"video_id":"v","callback_id":"c"}"#),
        ("avatar_video.fail", r#"{"callback_id":"c"}"#),
        ("other.type", r#"{"a":1}"#),
    ][thing];
    let with_id = || entry_of(endpoint, event_type, data, &format!("e{number}"), time);
    let push = push_of(endpoint, event_type, data, number, time);
    match kind {
        Kind::Push => push,
        Kind::PushWithId => event(endpoint, str::from_utf8(&with_id().body).unwrap(), time),
        Kind::Callback => NewEvent::new(
            push.keys.endpoint,
            Verification::CallbackToken,
            push.body,
            push.received_at,
        ),
        Kind::Entry => with_id(),
    }
}

impl Model {
    /// Where the event is afterwards, and whether it is new. A new one may be anywhere behind the others: at `answered`.
    fn append(&mut self, spec: &Spec, event: &NewEvent, answered: Sequence) -> (Sequence, bool) {
        let &(kind, endpoint, thing, _, time) = spec;
        let received_at = event.received_at.as_second().max(self.last_received_at);
        let time = if kind == Kind::Entry { time } else { received_at };
        if let Some(known) = self.events.iter().find(|stored| stored.ids.contains(&event.id)) {
            return (Sequence::new(known.sequence), false);
        }
        let twin = self
            .events
            .iter_mut()
            .filter(|stored| {
                let late = match (kind, stored.kind) {
                    (Kind::Entry, Kind::Push) => stored.time - time,
                    (Kind::Push, Kind::Entry) => time - stored.time,
                    _ => return false,
                };
                stored.ids.len() == 1
                    && stored.subject == (endpoint, thing)
                    && (-SKEW..=WINDOW).contains(&late)
            })
            .min_by_key(|stored| (stored.time, stored.sequence));
        if let Some(twin) = twin {
            twin.ids.push(event.id);
            return (Sequence::new(twin.sequence), false);
        }
        self.tail = answered.get().max(self.tail + 1);
        self.last_received_at = received_at;
        self.events.push(ModelEvent {
            sequence: self.tail,
            ids: vec![event.id],
            kind,
            subject: (endpoint, thing),
            time,
            received_at,
        });
        (Sequence::new(self.tail), true)
    }

    fn trim(&mut self, before: i64) {
        let kept = self.events.iter().position(|event| event.received_at >= before);
        self.events.drain(..kept.unwrap_or(self.events.len()));
    }
}

fn schedules() -> impl Strategy<Value = Vec<Step>> {
    let kinds = vec![
        Kind::Push,
        Kind::Push,
        Kind::Push,
        Kind::PushWithId,
        Kind::Callback,
        Kind::Entry,
        Kind::Entry,
        Kind::Entry,
    ];
    let time = prop_oneof![
        (0..60_i64).prop_map(|minute| NOON + 60 * minute),
        (0..60_i64).prop_map(|hour| NOON + HOUR * hour),
    ];
    let spec = (select(kinds), 0..2_usize, 0..3_usize, 0..12_i64, time);
    let step = prop_oneof![
        8 => vec(spec, 1..12).prop_map(Step::Append),
        1 => Just(Step::Reopen),
        1 => Just(Step::ReopenWithoutIndex),
        1 => (0..60_i64).prop_map(|hour| Step::Trim(NOON + HOUR * hour)),
    ];
    vec(step, 1..14)
}

async fn run(engine: Engine, schedule: Vec<Step>) {
    let (mut log, mut model) = (engine.open().await, Model::default());
    let mut seen: HashMap<EventId, NewEvent> = HashMap::new();
    for step in schedule {
        match step {
            Step::Append(specs) => {
                let events: Vec<_> = specs.iter().map(event_of).collect();
                seen.extend(events.iter().map(|event| (event.id, event.clone())));
                let answers = engine.append_all(&*log, events.clone()).await;
                for ((spec, event), answer) in specs.iter().zip(&events).zip(answers) {
                    let answer = (answer.sequence, answer.outcome == Outcome::New);
                    assert_eq!(answer, model.append(spec, event, answer.0), "{spec:?}");
                }
            }
            Step::Reopen => log = engine.reopen(log).await,
            Step::ReopenWithoutIndex => log = engine.reopen_without_index(log).await,
            Step::Trim(before) => {
                // The newest event stays: an empty log may or may not remember when its last one was received.
                let before = before.min(model.last_received_at);
                let older = Retention {
                    age: Some(Duration::from_secs(100 * HOUR as u64)),
                    size_bytes: None,
                };
                log.trim(older, at(before + 100 * HOUR)).await.unwrap();
                model.trim(before);
            }
        }
        assert_eq!(bodies(&*log).await.len(), model.events.len());
    }
    for &id in seen.keys() {
        let expected = model.events.iter().find(|event| event.ids.contains(&id));
        let expected = expected.map(|event| Sequence::new(event.sequence));
        assert_eq!(found(&*log, id).await, expected);
    }
    log.close().await;
}

/// Whatever is appended in whatever order, together or apart, with restarts and retention in between, has the twins that the
/// model says.
fn any_schedule_has_the_twins_of_the_model(make: fn() -> Engine) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = ProptestConfig::with_cases(48);
    // What the engines share is started once for all of them.
    let _shared = make();
    proptest!(config, |(schedule in schedules())| runtime.block_on(run(make(), schedule)));
}

conformance! {
    ;
    any_schedule_has_the_twins_of_the_model
}
