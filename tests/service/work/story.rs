//! Histories told by hand. Claims that the checker finds each kind of broken service, and nothing where nothing is broken.

use hookstream::grpc::proto::{self, AcknowledgementResult, DeadLetterReason, Subscription};

use super::checker::{Entry, History, Known, Verdict, promises};

/// A history told by hand: of three events, the first two about one entity, each with its number as its
/// sequence.
struct Story(History);

impl Story {
    fn new() -> Self {
        let event = |number, entity: &str| Known {
            sequence: number,
            number,
            entity: entity.to_owned(),
        };
        let terms = Subscription {
            max_attempts: 5,
            ordering: proto::Ordering::PerEntity.into(),
            ..Subscription::default()
        };
        Self(History {
            terms,
            stored: vec![event(1, "a"), event(2, "a"), event(3, "b")],
            ..History::default()
        })
    }

    fn note(&mut self, entry: Entry) -> usize {
        self.0.entries.push(entry);
        self.0.entries.len() - 1
    }

    fn opens(&mut self) -> usize {
        self.note(Entry::Opened)
    }

    fn receives(&mut self, stream: usize, number: usize, ack_id: &str) {
        self.receives_attempt(stream, number, ack_id, 1);
    }

    fn receives_attempt(&mut self, stream: usize, number: usize, ack_id: &str, attempt: i32) {
        let event = self.0.stored[number - 1].clone();
        self.note(Entry::Received {
            stream,
            event,
            ack_id: ack_id.to_owned(),
            attempt,
        });
    }

    fn says(&mut self, verdict: Verdict, ack_id: &str, result: Option<AcknowledgementResult>) {
        let ack_ids = vec![ack_id.to_owned()];
        let asked = self.note(Entry::Asked { verdict, ack_ids });
        if let Some(result) = result {
            let results = vec![result];
            self.note(Entry::Answered { asked, results });
        }
    }

    fn is_done(&mut self, ack_id: &str) {
        self.says(Verdict::Done, ack_id, Some(AcknowledgementResult::Accepted));
    }

    fn handles(&mut self, stream: usize, number: usize, ack_id: &str) {
        self.receives(stream, number, ack_id);
        self.is_done(ack_id);
    }

    fn moves(&mut self, after: u64) {
        self.note(Entry::Moved { after });
    }
}

fn told(tell: fn(&mut Story)) -> Vec<String> {
    let mut story = Story::new();
    tell(&mut story);
    promises(&story.0)
}

const ACCEPTED: Option<AcknowledgementResult> = Some(AcknowledgementResult::Accepted);
const LATE: Option<AcknowledgementResult> = Some(AcknowledgementResult::Late);
const UNKNOWN: Option<AcknowledgementResult> = Some(AcknowledgementResult::Unknown);
const NOTHING: [&str; 0] = [];

#[test]
fn the_checker_finds_nothing_where_nothing_is_broken() {
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            story.receives(stream, 2, "2a");
            story.says(Verdict::Retry, "2a", ACCEPTED);
            story.receives_attempt(stream, 2, "2b", 2);
            story.says(Verdict::Done, "2b", LATE);
            story.receives_attempt(stream, 2, "2c", 3);
            story.is_done("2c");
            story.says(Verdict::Done, "2c", LATE);
            story.handles(stream, 3, "3a");
        }),
        NOTHING
    );
    assert_eq!(
        told(|story| {
            let slow = story.opens();
            let stream = story.opens();
            story.handles(stream, 3, "3b");
            story.receives(slow, 3, "3a");
            story.handles(stream, 1, "1a");
            story.handles(stream, 2, "2a");
        }),
        NOTHING,
        "what was in the buffers of a stream is received after the answer"
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.receives(stream, 1, "1a");
            story.says(Verdict::Done, "1a", None);
            story.receives(stream, 2, "2a");
            let stream = story.opens();
            story.handles(stream, 1, "1b");
            story.says(Verdict::Done, "2a", ACCEPTED);
            story.handles(stream, 3, "3a");
        }),
        NOTHING,
        "a crash swallows an answer, and perhaps what was asked"
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.receives(stream, 1, "1a");
            story.says(Verdict::Reject, "1a", ACCEPTED);
            story.handles(stream, 2, "2a");
            story.0.put_aside.insert(1, (DeadLetterReason::Rejected, 1));
            story.0.put_aside.insert(3, (DeadLetterReason::MaxAttempts, 5));
        }),
        NOTHING,
        "what is put aside is settled"
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            story.handles(stream, 2, "2a");
            story.receives(stream, 3, "3a");
            story.moves(1);
            story.says(Verdict::Done, "3a", LATE);
            let stream = story.opens();
            story.handles(stream, 2, "2b");
            story.handles(stream, 3, "3b");
        }),
        NOTHING,
        "after a move all that follows comes again, and what lies before need not come"
    );
}

#[test]
fn the_checker_finds_what_is_lost_or_comes_again() {
    assert_eq!(told(|_| {}), ["lost", "lost", "lost"]);
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            story.handles(stream, 2, "2a");
            story.receives(stream, 3, "3a");
            story.says(Verdict::Done, "3a", LATE);
            story.says(Verdict::Extend, "3a", ACCEPTED);
            story.says(Verdict::Retry, "3a", ACCEPTED);
        }),
        ["lost"],
        "nothing that was said of the last one settles it"
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            let another = story.opens();
            story.receives(another, 1, "1b");
            story.handles(another, 2, "2a");
            story.handles(another, 3, "3a");
        }),
        ["again"],
        "to a stream that was opened after the answer"
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            let another = story.opens();
            story.handles(stream, 1, "1a");
            story.note(Entry::Produced { number: 3 });
            story.handles(another, 3, "3a");
            story.receives(another, 1, "1b");
            story.handles(another, 2, "2a");
        }),
        ["again"],
        "behind an event that was produced after the answer"
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            story.is_done("1a");
            story.handles(stream, 2, "2a");
            story.handles(stream, 3, "3a");
        }),
        ["twice"]
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            story.handles(stream, 2, "2a");
            story.receives(stream, 3, "3a");
            story.says(Verdict::Reject, "3a", ACCEPTED);
        }),
        ["lost"],
        "rejected and not put aside"
    );
}

#[test]
fn the_checker_finds_what_is_out_of_order() {
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.receives(stream, 1, "1a");
            story.receives(stream, 2, "2a");
            story.is_done("1a");
            story.is_done("2a");
            story.handles(stream, 3, "3a");
        }),
        ["order"],
        "two of an entity at a time"
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 2, "2a");
            story.handles(stream, 1, "1a");
            story.handles(stream, 3, "3a");
        }),
        ["order"],
        "the second first"
    );
    for not_settled in [LATE, UNKNOWN] {
        let mut story = Story::new();
        let stream = story.opens();
        story.receives(stream, 1, "1a");
        story.says(Verdict::Done, "1a", not_settled);
        story.receives(stream, 2, "2a");
        story.handles(stream, 1, "1b");
        story.is_done("2a");
        story.handles(stream, 3, "3a");
        let mut found = promises(&story.0);
        found.retain(|promise| promise != "unknown");
        assert_eq!(found, ["order"], "the first was asked for in vain");
    }
    assert_eq!(
        told(|story| {
            story.0.terms.ordering = proto::Ordering::None.into();
            let stream = story.opens();
            story.handles(stream, 2, "2a");
            story.handles(stream, 1, "1a");
            story.handles(stream, 3, "3a");
        }),
        NOTHING,
        "where no order was asked for, there is none"
    );
}

#[test]
fn the_checker_finds_ids_attempts_and_dead_letters_that_cannot_be() {
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            story.handles(stream, 2, "2a");
            story.receives(stream, 3, "3a");
            story.says(Verdict::Retry, "3a", UNKNOWN);
            story.receives_attempt(stream, 3, "3a", 6);
            story.is_done("3a");
        }),
        ["unknown", "lease", "attempt"]
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            story.handles(stream, 2, "2a");
            story.handles(stream, 3, "3a");
            story.0.stored.pop();
        }),
        ["stored"]
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            story.receives(stream, 2, "2a");
            story.says(Verdict::Retry, "2a", ACCEPTED);
            story.0.put_aside.insert(1, (DeadLetterReason::MaxAttempts, 5));
            story.0.put_aside.insert(2, (DeadLetterReason::Rejected, 1));
            story.0.put_aside.insert(3, (DeadLetterReason::MaxAttempts, 4));
        }),
        ["aside", "aside", "aside"],
        "it was done, it was never rejected, it had an attempt left"
    );
}

#[test]
fn the_checker_finds_moves_that_were_forgotten() {
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            story.handles(stream, 2, "2a");
            story.receives(stream, 3, "3a");
            story.moves(2);
            story.is_done("3a");
            let stream = story.opens();
            story.receives(stream, 2, "2b");
            story.handles(stream, 3, "3b");
        }),
        ["moved", "moved"],
        "what was handed out before is accepted, and what lies before comes"
    );
    assert_eq!(
        told(|story| {
            let stream = story.opens();
            story.handles(stream, 1, "1a");
            story.handles(stream, 2, "2a");
            story.handles(stream, 3, "3a");
            story.moves(1);
        }),
        ["lost", "lost"],
        "what follows does not come again"
    );
}
