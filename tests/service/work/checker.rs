//! What consumers may rely on, judged by what was seen of them. Owns which history breaks which promise; refuses to know how it
//! came about.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hookstream::grpc::proto::{
    self, AcknowledgementResult, DeadLetterReason, Event, Subscription, acknowledge_events_request::Outcome,
};

use crate::harness::{done, extend, millis, number, reject, retry};

/// What was seen of one subscription, from outside.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub terms: Subscription,
    /// In the order in which it was seen: the place of an entry is its time.
    pub entries: Vec<Entry>,
    /// What the log held at the end.
    pub stored: Vec<Known>,
    /// What had been put aside at the end, since the last move: why, and after how many attempts.
    pub put_aside: BTreeMap<u64, (DeadLetterReason, i32)>,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub sequence: u64,
    /// What its producer calls it.
    pub number: u64,
    pub entity: String,
}

/// Calls are named by their time. What a test does is noted before it does it, what happens to it afterwards.
#[derive(Clone, Debug)]
pub enum Entry {
    /// An event is about to be delivered to the service.
    Produced { number: u64 },
    /// A stream is about to be opened.
    Opened,
    /// A stream gave an event.
    Received {
        stream: usize,
        event: Known,
        ack_id: String,
        attempt: i32,
    },
    /// Something is about to be said of events.
    Asked { verdict: Verdict, ack_ids: Vec<String> },
    /// That was answered.
    Answered {
        asked: usize,
        results: Vec<AcknowledgementResult>,
    },
    /// The subscription was moved to after this sequence, and its dead letters were forgotten, while nobody
    /// used it.
    Moved { after: u64 },
}

/// What a consumer says of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Done,
    Reject,
    Retry,
    Extend,
}

impl Verdict {
    /// As a call says it.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Done => done(),
            Self::Reject => reject(),
            Self::Retry => retry(None),
            Self::Extend => extend(millis(3000)),
        }
    }

    /// Whether nothing is to come of the event afterwards.
    pub fn settles(self) -> bool {
        matches!(self, Self::Done | Self::Reject)
    }
}

/// The promises that a history breaks. Each begins with the promise:
///
/// - `lost`: at the end every event is done or put aside.
/// - `again`: no event is handed out after the answer that it was settled. It may be *received* after it: it
///   was in the consumer's buffers, from an attempt whose deadline had passed. What is certain is that a
///   stream gives events in the order in which they were handed to it. So an event was handed out again if
///   its stream was opened after the answer, or if the stream gave an event before it that was only produced
///   after the answer.
/// - `order`: with PER_ENTITY no event comes while an earlier one of its entity was not settled. Settled
///   means that somebody asked for it before, and that the answer was not that it is too late. An ask whose
///   answer a crash swallowed counts.
/// - `twice`: no event is settled twice.
/// - `lease`: no attempt is handed out twice.
/// - `attempt`: attempts count from 1 to as many as there may be.
/// - `unknown`: what was given out is known, also after a crash.
/// - `moved`: what was handed out before a move is not accepted after it, and what lies before its target
///   does not come.
/// - `aside`: what is put aside was rejected or failed as often as it may, and was not done.
/// - `stored`: only what the log holds comes.
pub fn violations(history: &History) -> Vec<String> {
    let mut checker = Checker::new(history);
    for (time, entry) in history.entries.iter().enumerate() {
        match entry {
            Entry::Produced { .. } | Entry::Opened => {}
            Entry::Received {
                stream,
                event,
                ack_id,
                attempt,
            } => checker.received(*stream, event, ack_id, *attempt),
            Entry::Asked { verdict, ack_ids } => checker.asked(time, *verdict, ack_ids),
            Entry::Answered { asked, results } => checker.answered(time, *asked, results),
            Entry::Moved { after } => checker.moved(*after),
        }
    }
    checker.end();
    checker.violations
}

/// What is known at one time of a history.
struct Checker<'a> {
    history: &'a History,
    /// When events were produced, by their numbers.
    produced: HashMap<u64, usize>,
    /// The answers of all calls, also of those that are yet to come.
    results: HashMap<usize, &'a [AcknowledgementResult]>,
    stored: HashMap<u64, &'a Known>,
    /// For each stream: what it gives from now on was handed out after this time.
    handed_out_after: HashMap<usize, usize>,
    /// The event of each ack id, and how many moves there had been.
    leases: HashMap<&'a str, (&'a Known, usize)>,
    moves: usize,
    /// What lies up to here is not to come.
    skipped: u64,
    /// Events that may be settled since the last move, and how.
    settling: BTreeMap<u64, BTreeSet<Verdict>>,
    /// Events that are settled since the last move, when that was known, and how.
    settled: BTreeMap<u64, (usize, Verdict)>,
    violations: Vec<String>,
}

impl<'a> Checker<'a> {
    fn new(history: &'a History) -> Self {
        let mut produced = HashMap::new();
        let mut results = HashMap::new();
        for (time, entry) in history.entries.iter().enumerate() {
            match entry {
                Entry::Produced { number } => {
                    produced.insert(*number, time);
                }
                Entry::Answered { asked, results: all } => {
                    results.insert(*asked, all.as_slice());
                }
                _ => {}
            }
        }
        let stored = history.stored.iter().map(|event| (event.sequence, event));
        Self {
            history,
            produced,
            results,
            stored: stored.collect(),
            handed_out_after: HashMap::new(),
            leases: HashMap::new(),
            moves: 0,
            skipped: 0,
            settling: BTreeMap::new(),
            settled: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    fn violated(&mut self, promise: &str, what: String) {
        self.violations.push(format!("{promise}: {what}"));
    }

    fn received(&mut self, stream: usize, event: &'a Known, ack_id: &'a str, attempt: i32) {
        let sequence = event.sequence;
        if self.stored.get(&sequence) != Some(&event) {
            self.violated("stored", format!("{event:?} is not what the log holds"));
        }
        if self.leases.insert(ack_id, (event, self.moves)).is_some() {
            self.violated("lease", format!("{ack_id} of {sequence} was handed out twice"));
        }
        if !(1..=self.history.terms.max_attempts).contains(&attempt) {
            self.violated("attempt", format!("attempt {attempt} of {sequence}"));
        }
        if sequence <= self.skipped {
            self.violated(
                "moved",
                format!("{sequence} came although it lies before the target"),
            );
        }
        let produced = self.produced.get(&event.number).copied().unwrap_or(stream);
        let after = self.handed_out_after.entry(stream).or_insert(stream);
        *after = (*after).max(produced);
        let after = *after;
        if let Some(&(answered, verdict)) = self.settled.get(&sequence)
            && answered < after
        {
            let what = format!(
                "{sequence} was handed out after {after}, and {verdict:?} was accepted at {answered}"
            );
            self.violated("again", what);
        }
        if self.history.terms.ordering() == proto::Ordering::PerEntity && !event.entity.is_empty() {
            let history = self.history;
            for earlier in &history.stored {
                let comes_before = earlier.entity == event.entity
                    && earlier.sequence > self.skipped
                    && earlier.sequence < sequence;
                if comes_before && !self.settling.contains_key(&earlier.sequence) {
                    self.violated(
                        "order",
                        format!("{sequence} came before {} was settled", earlier.sequence),
                    );
                }
            }
        }
    }

    fn asked(&mut self, time: usize, verdict: Verdict, ack_ids: &[String]) {
        let results = self.results.get(&time).copied();
        for (at, ack_id) in ack_ids.iter().enumerate() {
            let (event, moves) = self.leases[ack_id.as_str()];
            let accepted = |results: &[AcknowledgementResult]| results[at] == AcknowledgementResult::Accepted;
            let may_hold = moves == self.moves && results.is_none_or(accepted);
            if verdict.settles() && may_hold {
                self.settling.entry(event.sequence).or_default().insert(verdict);
            }
        }
    }

    fn answered(&mut self, time: usize, asked: usize, results: &[AcknowledgementResult]) {
        let history = self.history;
        let Entry::Asked { verdict, ack_ids } = &history.entries[asked] else {
            panic!("an answer to nothing")
        };
        assert_eq!(results.len(), ack_ids.len(), "an answer for each");
        for (ack_id, result) in ack_ids.iter().zip(results) {
            let (event, moves) = self.leases[ack_id.as_str()];
            let sequence = event.sequence;
            match result {
                AcknowledgementResult::Late => {}
                AcknowledgementResult::Accepted if moves != self.moves => {
                    self.violated(
                        "moved",
                        format!("{ack_id} of {sequence} was accepted after a move"),
                    );
                }
                AcknowledgementResult::Accepted => {
                    if verdict.settles() && self.settled.insert(sequence, (time, *verdict)).is_some() {
                        self.violated("twice", format!("{sequence} was settled twice"));
                    }
                }
                AcknowledgementResult::Unknown | AcknowledgementResult::Unspecified => {
                    self.violated("unknown", format!("{ack_id} of {sequence} is {result:?}"));
                }
            }
        }
    }

    fn moved(&mut self, after: u64) {
        self.moves += 1;
        self.skipped = after;
        self.settling.clear();
        self.settled.clear();
    }

    fn end(&mut self) {
        let history = self.history;
        let sequences = history.stored.iter().map(|event| event.sequence);
        let skipped = self.skipped;
        for sequence in sequences.filter(|&sequence| sequence > skipped) {
            let is_put_aside = history.put_aside.contains_key(&sequence);
            if !is_put_aside && !self.settling.contains_key(&sequence) {
                self.violated("lost", format!("{sequence} was neither done nor put aside"));
            }
            let settled = self.settled.get(&sequence).map(|&(_, verdict)| verdict);
            if !is_put_aside && settled == Some(Verdict::Reject) {
                self.violated("lost", format!("{sequence} was rejected and is not put aside"));
            }
            if is_put_aside && settled == Some(Verdict::Done) {
                self.violated("aside", format!("{sequence} was done and is put aside"));
            }
        }
        for (&sequence, &(reason, attempts)) in &history.put_aside {
            let verdicts = self.settling.get(&sequence);
            let is_due = match reason {
                DeadLetterReason::Unspecified => false,
                DeadLetterReason::MaxAttempts => attempts == history.terms.max_attempts,
                DeadLetterReason::Rejected => {
                    verdicts.is_some_and(|verdicts| verdicts.contains(&Verdict::Reject))
                }
            };
            if !is_due {
                self.violated(
                    "aside",
                    format!("{sequence}: {reason:?} after {attempts} attempts"),
                );
            }
        }
    }
}

impl From<&Event> for Known {
    fn from(event: &Event) -> Self {
        Self {
            sequence: event.sequence,
            number: number(event),
            entity: event.entity_id.clone(),
        }
    }
}

/// The promises that a history breaks, without what it says of them.
pub fn promises(history: &History) -> Vec<String> {
    let violations = violations(history);
    let promise = |violation: &String| violation.split(':').next().unwrap().to_owned();
    violations.iter().map(promise).collect()
}
