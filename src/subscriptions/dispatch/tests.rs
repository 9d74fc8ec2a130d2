//! Claims about who gets which event: by hand where a number matters, and against a model for every order of things.

use std::collections::{BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::event::{NewEvent, Verification};

/// An event with this sequence about one of a few entities; every seventh is about none.
fn event(sequence: u64) -> EncodedEvent {
    let entity = match sequence % 7 {
        0 => String::new(),
        other => format!("entity-{}", other % 3),
    };
    let body = format!(
        r#"{{"event_type":"avatar_video.success","event_data":{{"video_id":"{entity}","n":{sequence}}}}}"#
    );
    let time = Timestamp::UNIX_EPOCH;
    let new = NewEvent::new(
        "dev".parse().unwrap(),
        Verification::CallbackToken,
        body.into(),
        time,
    );
    EncodedEvent {
        event: Arc::new(StoredEvent {
            sequence: Sequence::new(sequence),
            event: new,
        }),
        bytes: Bytes::from_static(b"0123456789"),
    }
}

fn settings() -> Settings {
    Settings {
        max_attempts: 3,
        max_unacknowledged_per_stream: 4,
        max_unacknowledged: 10,
        ..Settings::default()
    }
}

struct Bench {
    dispatch: Dispatch,
    now: Moment,
    fed: u64,
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let now = Moment {
            instant: Instant::now(),
            time: Timestamp::from_second(1_000_000).unwrap(),
        };
        let dispatch = Dispatch::restore(7, Arc::new(settings), Place::default(), 0, 1000, now);
        Self {
            dispatch,
            now,
            fed: 0,
        }
    }

    fn feed(&mut self, count: u64) {
        for _ in 0..count {
            self.fed += 1;
            self.dispatch.feed(self.dispatch.feed, event(self.fed));
        }
        self.dispatch.wake();
    }

    fn pass(&mut self, time: Duration) -> Plan {
        self.now.instant += time;
        self.now.time = self.now.time.checked_add(time).unwrap();
        self.dispatch.plan(self.now)
    }

    fn open(&mut self) -> StreamId {
        self.dispatch.open_stream(usize::MAX, false).0
    }

    fn take(&mut self, stream: StreamId) -> Option<(u64, u32, AckId)> {
        let lease = self.dispatch.take(stream, self.now)?;
        self.check();
        Some((lease.ack_id.sequence.get(), lease.attempt, lease.ack_id))
    }

    fn acknowledge(&mut self, id: AckId, outcome: Outcome) -> Acknowledged {
        let answer = self.dispatch.acknowledge(id, outcome, self.now);
        self.check();
        answer
    }

    /// What the parts of the state say of each other.
    fn check(&self) {
        let dispatch = &self.dispatch;
        dispatch.line.check(dispatch.under_way.check());
        let fresh_bytes: usize = dispatch.fresh.iter().map(|event| event.bytes.len()).sum();
        assert_eq!(dispatch.fresh_bytes, fresh_bytes);
    }
}

#[test]
fn events_are_taken_in_order_up_to_what_a_stream_may_hold_and_go_on_when_it_has_room() {
    let mut bench = Bench::new(settings());
    let stream = bench.open();
    bench.feed(6);
    let taken: Vec<_> = std::iter::from_fn(|| bench.take(stream)).collect();
    assert_eq!(
        taken
            .iter()
            .map(|&(sequence, attempt, _)| (sequence, attempt))
            .collect::<Vec<_>>(),
        [(1, 1), (2, 1), (3, 1), (4, 1)]
    );
    assert_eq!(
        bench.acknowledge(taken[2].2, Outcome::Done),
        Acknowledged::Accepted
    );
    assert_eq!(bench.take(stream).unwrap().0, 5);
    assert_eq!(bench.take(stream), None);
}

#[test]
fn no_more_is_under_way_in_all_than_the_terms_allow() {
    let mut bench = Bench::new(settings());
    let streams = [bench.open(), bench.open(), bench.open()];
    bench.feed(20);
    let taken: Vec<_> = streams
        .into_iter()
        .flat_map(|stream| std::iter::from_fn(|| bench.take(stream)).collect::<Vec<_>>())
        .collect();
    assert_eq!(taken.len(), 10);
    // What failed is still under way, and comes before anything new.
    bench.acknowledge(taken[0].2, Outcome::Retry(Some(Duration::ZERO)));
    assert_eq!(bench.take(streams[0]).unwrap().0, 1);
    bench.acknowledge(taken[9].2, Outcome::Done);
    assert_eq!(bench.take(streams[2]).unwrap().0, 11);
}

#[test]
fn whoever_holds_the_fewest_is_woken_first() {
    let mut bench = Bench::new(settings());
    let (busy, idle) = (bench.open(), bench.open());
    bench.feed(2);
    bench.take(busy).unwrap();
    bench.take(busy).unwrap();
    assert_eq!((bench.take(busy), bench.take(idle)), (None, None));
    bench.feed(1);
    let woken = |bench: &Bench, id| bench.dispatch.line.is_woken(id);
    assert_eq!((woken(&bench, busy), woken(&bench, idle)), (false, true));
}

#[test]
fn of_those_that_hold_as_many_the_one_that_took_one_least_recently_is_woken() {
    let mut bench = Bench::new(settings());
    let streams = [bench.open(), bench.open(), bench.open()];
    streams
        .iter()
        .for_each(|&stream| assert_eq!(bench.take(stream), None));
    let mut turns = Vec::new();
    for _ in 0..6 {
        bench.feed(1);
        let woken = streams
            .iter()
            .position(|id| bench.dispatch.line.is_woken(*id))
            .unwrap();
        let (_, _, id) = bench.take(streams[woken]).unwrap();
        bench.acknowledge(id, Outcome::Done);
        assert_eq!(bench.take(streams[woken]), None);
        turns.push(woken);
    }
    assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn one_event_wakes_one_stream_and_another_only_if_that_one_does_not_look() {
    let mut bench = Bench::new(settings());
    let streams = [bench.open(), bench.open(), bench.open()];
    streams
        .iter()
        .for_each(|&stream| assert_eq!(bench.take(stream), None));
    bench.feed(1);
    let woken = |bench: &Bench| streams.map(|id| bench.dispatch.line.is_woken(id));
    for _ in 0..3 {
        bench.pass(Duration::ZERO);
        assert_eq!(woken(&bench), [true, false, false]);
    }
    let plan = bench.pass(limits::WOKEN_STREAM_PATIENCE);
    assert_eq!(woken(&bench), [false, true, false]);
    bench.check();
    assert_eq!(plan.due, Some(bench.now.instant + limits::WOKEN_STREAM_PATIENCE));
    bench.take(streams[1]).unwrap();
    assert_eq!(bench.take(streams[0]), None);
    bench.check();
    // A timer of the lease is all that is left.
    assert_eq!(
        bench.pass(Duration::ZERO).due,
        Some(bench.now.instant + settings().ack_deadline)
    );
}

#[test]
fn a_stream_that_looks_whenever_it_is_woken_is_waited_for_each_time_anew() {
    let mut bench = Bench::new(settings());
    let streams = [bench.open(), bench.open()];
    streams
        .iter()
        .for_each(|&stream| assert_eq!(bench.take(stream), None));
    let woken = |bench: &Bench| streams.map(|id| bench.dispatch.line.is_woken(id));
    let settle = |bench: &mut Bench| {
        let turn = woken(bench).iter().position(|&is_woken| is_woken).unwrap();
        let (_, _, id) = bench.take(streams[turn]).unwrap();
        bench.acknowledge(id, Outcome::Done);
        assert_eq!(bench.take(streams[turn]), None);
    };
    for _ in 0..3 {
        bench.feed(1);
        bench.pass(Duration::ZERO);
        settle(&mut bench);
        // Another is woken, and that is seen just before the first wake would have been too long ago.
        bench.feed(1);
        let turn = woken(&bench);
        bench.pass(limits::WOKEN_STREAM_PATIENCE - Duration::from_millis(1));
        bench.pass(Duration::from_millis(1));
        assert_eq!(woken(&bench), turn);
        settle(&mut bench);
    }
    bench.check();
}

#[test]
fn a_deadline_that_passes_hands_the_event_on_and_makes_the_acknowledgement_late() {
    let mut bench = Bench::new(settings());
    let (slow, other) = (bench.open(), bench.open());
    bench.feed(1);
    let (_, _, first) = bench.take(slow).unwrap();
    bench.pass(Duration::from_secs(29));
    assert_eq!(bench.take(other), None);
    assert!(bench.pass(Duration::from_secs(1)).changed);
    assert_eq!(bench.take(other), None, "it waits before its next attempt");
    bench.pass(Duration::from_secs(1));
    let (sequence, attempt, second) = bench.take(other).unwrap();
    assert_eq!((sequence, attempt), (1, 2));
    assert_eq!(bench.acknowledge(first, Outcome::Done), Acknowledged::Late);
    assert_eq!(bench.acknowledge(second, Outcome::Done), Acknowledged::Accepted);
    assert_eq!(bench.acknowledge(second, Outcome::Done), Acknowledged::Late);
}

#[test]
fn done_is_accepted_after_the_deadline_while_nobody_else_has_the_event_and_nothing_else_is() {
    let mut bench = Bench::new(settings());
    let stream = bench.open();
    bench.feed(1);
    let (_, _, id) = bench.take(stream).unwrap();
    bench.pass(Duration::from_secs(30));
    assert_eq!(bench.acknowledge(id, Outcome::Extend(None)), Acknowledged::Late);
    assert_eq!(bench.acknowledge(id, Outcome::Retry(None)), Acknowledged::Late);
    assert_eq!(bench.acknowledge(id, Outcome::Done), Acknowledged::Accepted);
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.take(stream), None);
}

#[test]
fn done_is_late_once_somebody_else_was_handed_the_event_also_when_that_one_failed() {
    let mut bench = Bench::new(settings());
    let (one, other) = (bench.open(), bench.open());
    bench.feed(1);
    let (_, _, first) = bench.take(one).unwrap();
    bench.acknowledge(first, Outcome::Retry(Some(Duration::ZERO)));
    let (_, _, second) = bench.take(other).unwrap();
    bench.acknowledge(second, Outcome::Retry(None));
    assert_eq!(bench.acknowledge(first, Outcome::Done), Acknowledged::Late);
    assert_eq!(bench.acknowledge(second, Outcome::Done), Acknowledged::Accepted);
}

#[test]
fn an_extension_moves_the_deadline() {
    let mut bench = Bench::new(settings());
    let stream = bench.open();
    bench.feed(1);
    let (_, _, id) = bench.take(stream).unwrap();
    for _ in 0..5 {
        bench.pass(Duration::from_secs(29));
        assert_eq!(
            bench.acknowledge(id, Outcome::Extend(None)),
            Acknowledged::Accepted
        );
    }
    bench.acknowledge(id, Outcome::Extend(Some(Duration::from_secs(2))));
    assert!(!bench.pass(Duration::from_secs(1)).changed);
    assert!(bench.pass(Duration::from_secs(1)).changed);
}

#[test]
fn a_stream_that_ends_gives_back_what_it_holds() {
    let mut bench = Bench::new(settings());
    let (dying, other) = (bench.open(), bench.open());
    bench.feed(2);
    let (_, _, id) = bench.take(dying).unwrap();
    bench.take(dying).unwrap();
    assert!(!bench.dispatch.close_stream(dying, bench.now));
    bench.check();
    assert_eq!(bench.acknowledge(id, Outcome::Done), Acknowledged::Accepted);
    bench.pass(Duration::from_secs(1));
    let (sequence, attempt, _) = bench.take(other).unwrap();
    assert_eq!((sequence, attempt), (2, 2));
}

#[test]
fn the_last_attempt_that_fails_puts_aside_or_discards_or_goes_on() {
    for (then, left, dead) in [
        (AfterMaxAttempts::DeadLetter, false, 1),
        (AfterMaxAttempts::Discard, false, 0),
        (AfterMaxAttempts::Retry, true, 0),
    ] {
        let mut bench = Bench::new(Settings {
            after_max_attempts: then,
            ..settings()
        });
        let stream = bench.open();
        bench.feed(1);
        for attempt in 1..=3 {
            let (_, at, id) = bench.take(stream).unwrap();
            assert_eq!(at, attempt);
            bench.acknowledge(id, Outcome::Retry(Some(Duration::ZERO)));
        }
        assert_eq!(bench.take(stream).is_some(), left);
        let added = bench.dispatch.dead_letter_changes().added;
        assert_eq!(added.len() as u64, dead);
        assert!(
            added
                .iter()
                .all(|letter| (letter.attempts, letter.reason) == (3, Reason::MaxAttempts))
        );
    }
}

#[test]
fn a_dead_letter_comes_again_with_all_its_attempts() {
    let mut bench = Bench::new(settings());
    let stream = bench.open();
    bench.feed(1);
    let (_, _, id) = bench.take(stream).unwrap();
    assert_eq!(bench.acknowledge(id, Outcome::Reject), Acknowledged::Accepted);
    assert_eq!(bench.take(stream), None);
    let letter = (Sequence::new(1), Some(event(1).event));
    assert_eq!(bench.dispatch.replay([letter]), 1);
    assert_eq!(bench.dispatch.dead_letter_changes().removed, [Sequence::new(1)]);
    let (sequence, attempt, _) = bench.take(stream).unwrap();
    assert_eq!((sequence, attempt), (1, 1));
}

#[test]
fn a_seek_takes_everything_back_and_makes_what_was_handed_out_late() {
    let mut bench = Bench::new(settings());
    let stream = bench.open();
    bench.feed(3);
    let (_, _, id) = bench.take(stream).unwrap();
    bench.dispatch.seek(Sequence::ZERO);
    bench.check();
    assert_eq!(bench.acknowledge(id, Outcome::Done), Acknowledged::Late);
    bench.fed = 0;
    bench.feed(3);
    let (sequence, attempt, again) = bench.take(stream).unwrap();
    assert_eq!((sequence, attempt), (1, 1));
    assert_eq!(bench.acknowledge(id, Outcome::Done), Acknowledged::Late);
    assert_eq!(bench.acknowledge(again, Outcome::Done), Acknowledged::Accepted);
}

#[test]
fn another_subscriptions_id_is_unknown() {
    let mut bench = Bench::new(settings());
    let stream = bench.open();
    bench.feed(1);
    let (_, _, id) = bench.take(stream).unwrap();
    let other = AckId {
        subscription: 8,
        ..id
    };
    assert_eq!(bench.acknowledge(other, Outcome::Done), Acknowledged::Unknown);
    let future = AckId { generation: 1, ..id };
    assert_eq!(bench.acknowledge(future, Outcome::Done), Acknowledged::Unknown);
}

#[test]
fn nobody_waits_longer_because_the_clock_went_back_before_a_restart() {
    let mut bench = Bench::new(settings());
    let stream = bench.open();
    bench.feed(1);
    let (_, _, id) = bench.take(stream).unwrap();
    bench.acknowledge(id, Outcome::Retry(Some(Duration::from_secs(10))));
    let place = bench.dispatch.place(bench.now);
    let settings = Arc::clone(bench.dispatch.settings());
    bench.now.time = bench.now.time.checked_sub(Duration::from_secs(3600)).unwrap();
    bench.dispatch = Dispatch::restore(7, settings, place, 0, 2000, bench.now);
    let stream = bench.open();
    bench.pass(Duration::from_secs(9));
    assert_eq!(bench.take(stream), None);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.take(stream).unwrap().0, 1);
}

#[test]
fn a_stream_that_acknowledges_by_asking_needs_nothing_else() {
    let mut bench = Bench::new(settings());
    let (stream, _) = bench.dispatch.open_stream(usize::MAX, true);
    bench.feed(9);
    for expected in 1..=9 {
        assert_eq!(bench.dispatch.acknowledge_taken(stream), expected > 1);
        assert_eq!(bench.take(stream).unwrap().0, expected);
    }
    bench.pass(Duration::from_secs(3600));
    assert!(bench.dispatch.acknowledge_taken(stream));
    assert_eq!(bench.take(stream), None);
    assert_eq!(bench.dispatch.standing().counts.redeliveries, 0);
    assert!(bench.dispatch.place(bench.now).under_way.is_empty());
}

#[test]
fn the_feeder_stops_when_enough_is_read_ahead_and_is_told_when_half_of_it_is_gone() {
    let mut bench = Bench::new(Settings {
        max_unacknowledged_per_stream: 1000,
        max_unacknowledged: 1000,
        ..settings()
    });
    let stream = bench.open();
    bench.feed(limits::READ_AHEAD_EVENTS_MAX as u64);
    assert!(!bench.pass(Duration::ZERO).wants);
    while bench.dispatch.fed_up {
        bench.take(stream).unwrap();
    }
    assert_eq!(bench.dispatch.fresh.len(), limits::READ_AHEAD_EVENTS_MAX / 2);
    assert!(bench.pass(Duration::ZERO).wants);
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Feed(u64),
    Open,
    Close(usize),
    Take(usize),
    Done(usize),
    Retry(usize, u64),
    Reject(usize),
    Extend(usize),
    Pass(u64),
    Crash,
    Seek(u64),
    Replay,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1_u64..6).prop_map(Step::Feed),
        1 => Just(Step::Open),
        1 => (0_usize..4).prop_map(Step::Close),
        8 => (0_usize..4).prop_map(Step::Take),
        5 => (0_usize..30).prop_map(Step::Done),
        2 => ((0_usize..30), (0_u64..3)).prop_map(|(at, after)| Step::Retry(at, after)),
        1 => (0_usize..30).prop_map(Step::Reject),
        1 => (0_usize..30).prop_map(Step::Extend),
        2 => (0_u64..40).prop_map(Step::Pass),
        1 => Just(Step::Crash),
        1 => (0_u64..40).prop_map(Step::Seek),
        1 => Just(Step::Replay),
    ];
    vec(step, 1..120)
}

/// What an onlooker knows.
struct Model {
    bench: Bench,
    streams: Vec<StreamId>,
    /// Every id that was given out, newest last.
    given: Vec<AckId>,
    /// Who has which event now.
    holders: HashMap<u64, (StreamId, AckId)>,
    settled: HashSet<u64>,
    dead: HashSet<u64>,
    per_entity: bool,
}

impl Model {
    fn step(&mut self, step: Step) {
        let pick = |streams: &[StreamId], at: usize| streams.get(at % streams.len().max(1)).copied();
        match step {
            Step::Feed(count) => self.bench.feed(count),
            Step::Open => {
                if self.streams.len() < 4 {
                    let stream = self.bench.open();
                    self.streams.push(stream);
                }
            }
            Step::Close(at) => {
                if let Some(stream) = pick(&self.streams, at) {
                    self.streams.retain(|one| *one != stream);
                    self.holders.retain(|_, (holder, _)| *holder != stream);
                    if self.bench.dispatch.close_stream(stream, self.bench.now) {
                        self.feed_again();
                    }
                    self.note_dead_letters();
                }
            }
            Step::Take(at) => {
                if let Some(stream) = pick(&self.streams, at) {
                    self.take(stream);
                }
            }
            Step::Done(at) => self.say(at, Outcome::Done),
            Step::Retry(at, after) => self.say(at, Outcome::Retry(Some(Duration::from_secs(after)))),
            Step::Reject(at) => self.say(at, Outcome::Reject),
            Step::Extend(at) => self.say(at, Outcome::Extend(None)),
            Step::Pass(seconds) => {
                self.bench.pass(Duration::from_secs(seconds));
                let leased = self.leased();
                self.holders.retain(|sequence, _| leased.contains(sequence));
                self.note_dead_letters();
            }
            Step::Crash => {
                let place = self.bench.dispatch.place(self.bench.now);
                let settings = Arc::clone(&self.bench.dispatch.settings);
                let (dead, lease) = (self.dead.len() as u64, self.bench.dispatch.next_lease + 1000);
                self.bench.dispatch = Dispatch::restore(7, settings, place, dead, lease, self.bench.now);
                self.streams.clear();
                self.holders.clear();
                self.feed_again();
            }
            Step::Seek(to) => {
                let to = to.min(self.bench.fed);
                self.bench.dispatch.seek(Sequence::new(to));
                self.holders.clear();
                self.settled.retain(|&sequence| sequence <= to);
                self.settled.extend(1..=to);
                self.feed_again();
            }
            Step::Replay => {
                let letters = self.dead.iter().copied().collect::<BTreeSet<_>>();
                let events = letters
                    .iter()
                    .map(|&sequence| (Sequence::new(sequence), Some(event(sequence).event)));
                let replayed = self.bench.dispatch.replay(events) as usize;
                for &sequence in letters.iter().take(replayed) {
                    self.dead.remove(&sequence);
                    self.settled.remove(&sequence);
                }
            }
        }
        self.bench.check();
    }

    /// The feed begins anew where the dispatch says, as its feeder does.
    fn feed_again(&mut self) {
        let through = std::mem::replace(&mut self.bench.fed, self.bench.dispatch.read_through.get());
        self.bench.feed(through - self.bench.fed);
    }

    fn leased(&self) -> HashSet<u64> {
        let leased = |(sequence, event): (Sequence, &Event)| {
            matches!(event.state, State::Leased { .. }).then_some(sequence.get())
        };
        self.bench.dispatch.under_way.iter().filter_map(leased).collect()
    }

    /// Those whose attempts are used up are put aside without anybody saying so.
    fn note_dead_letters(&mut self) {
        let changes = self.bench.dispatch.dead_letter_changes();
        for letter in &changes.added {
            self.dead.insert(letter.sequence.get());
            self.settled.insert(letter.sequence.get());
        }
        let count = self.dead.len() as u64;
        self.bench.dispatch.dead_letters_stored(&changes, Some(count));
    }

    fn take(&mut self, stream: StreamId) {
        let Some((sequence, attempt, id)) = self.bench.take(stream) else {
            return;
        };
        assert!(attempt <= 3);
        assert!(
            !self.settled.contains(&sequence),
            "{sequence} is settled and comes again"
        );
        assert!(!self.holders.contains_key(&sequence), "two hold {sequence}");
        self.holders.insert(sequence, (stream, id));
        self.given.push(id);
        let held = self
            .holders
            .values()
            .filter(|(holder, _)| *holder == stream)
            .count();
        assert!(held <= 4 && self.holders.len() <= 10);
        if self.per_entity {
            let entity_of = |sequence: u64| event(sequence).event.event.keys.entity_id.clone();
            let entity = entity_of(sequence);
            let overlapping = self
                .holders
                .keys()
                .filter(|&&other| other != sequence && entity_of(other) == entity);
            assert!(entity.is_empty() || overlapping.count() == 0, "{entity} overlaps");
        }
    }

    fn say(&mut self, at: usize, outcome: Outcome) {
        let Some(&id) = self.given.iter().rev().nth(at) else {
            return;
        };
        let sequence = id.sequence.get();
        let is_held = self.holders.get(&sequence).is_some_and(|(_, held)| *held == id);
        let held_by_another = self.holders.contains_key(&sequence) && !is_held;
        let was_settled = self.settled.contains(&sequence);
        let answer = self.bench.acknowledge(id, outcome);
        if is_held {
            assert_eq!(answer, Acknowledged::Accepted);
        } else if held_by_another || was_settled {
            assert_eq!(answer, Acknowledged::Late);
        }
        if answer == Acknowledged::Accepted {
            match outcome {
                Outcome::Done => drop(self.settled.insert(sequence)),
                Outcome::Reject | Outcome::Retry(_) => self.note_dead_letters(),
                Outcome::Extend(_) => return,
            }
            self.holders.remove(&sequence);
        }
    }

    /// A healthy consumer works off what is left.
    fn finish(&mut self) {
        let stream = self.bench.open();
        self.streams.push(stream);
        for _ in 0..10_000 {
            self.bench.pass(Duration::from_secs(600));
            let leased = self.leased();
            self.holders.retain(|sequence, _| leased.contains(sequence));
            self.note_dead_letters();
            self.take(stream);
            if let Some(&id) = self.given.last() {
                let held = self.holders.get(&id.sequence.get());
                if held.is_some_and(|(_, held)| *held == id) {
                    self.say(0, Outcome::Done);
                }
            }
            if (1..=self.bench.fed).all(|sequence| self.settled.contains(&sequence)) {
                break;
            }
        }
        let missing: Vec<_> = (1..=self.bench.fed)
            .filter(|sequence| !self.settled.contains(sequence))
            .collect();
        assert!(missing.is_empty(), "never settled: {missing:?}");
    }
}

proptest! {
    #[test]
    fn i9_whatever_happens_each_event_is_held_by_one_and_in_the_end_settled(
        steps in steps(),
        per_entity: bool,
    ) {
        let ordering = if per_entity { Ordering::PerEntity } else { Ordering::None };
        let bench = Bench::new(Settings { ordering, ..settings() });
        let mut model = Model {
            bench,
            streams: Vec::new(),
            given: Vec::new(),
            holders: HashMap::new(),
            settled: HashSet::new(),
            dead: HashSet::new(),
            per_entity,
        };
        for step in steps {
            model.step(step);
        }
        model.finish();
    }
}
