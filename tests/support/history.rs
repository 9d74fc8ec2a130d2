//! Judging a run by what was seen of it from outside. Owns which histories break which invariant; refuses to know how the
//! history came about: by kills, by faults of a cluster, or in a simulation.

use std::collections::BTreeSet;

/// What a run was seen to do, from outside.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Bodies answered with 200.
    pub acknowledged: BTreeSet<Vec<u8>>,
    /// What one subscriber received, over all its connections.
    pub received: Vec<(u64, Vec<u8>)>,
    /// What the log held after each start, in order.
    pub stored: Vec<Vec<(u64, Vec<u8>)>>,
}

/// The invariants that a history breaks.
pub fn violations(history: &History) -> Vec<String> {
    let mut violations = Vec::new();
    let mut before: &[(u64, Vec<u8>)] = &[];
    for (start, stored) in history.stored.iter().enumerate() {
        if !stored.windows(2).all(|pair| pair[0].0 < pair[1].0) {
            violations.push(format!("I3: sequences do not rise strictly after start {start}"));
        }
        if !stored.starts_with(before) {
            violations.push(format!("I3: what was stored before start {start} changed"));
        }
        let distinct: BTreeSet<_> = stored.iter().map(|(_, body)| body).collect();
        if distinct.len() != stored.len() {
            violations.push(format!("I6: an event is stored twice after start {start}"));
        }
        before = stored;
    }
    let last: BTreeSet<_> = before.iter().map(|(_, body)| body).collect();
    let lost = history
        .acknowledged
        .iter()
        .filter(|body| !last.contains(body))
        .count();
    if lost > 0 {
        violations.push(format!("I1: {lost} acknowledged events are not stored"));
    }
    if history.received != before {
        violations.push("I4: the subscriber received something else than what is stored".to_owned());
    }
    violations
}

#[test]
fn the_checker_finds_every_kind_of_broken_writer() {
    let event = |number: u64| (number, vec![number as u8]);
    let good = History {
        acknowledged: [1, 2, 3].map(|number| vec![number]).into(),
        received: vec![event(1), event(2), event(3)],
        stored: vec![vec![event(1)], vec![event(1), event(2), event(3)]],
    };
    assert_eq!(violations(&good), Vec::<String>::new());
    let broken = |change: fn(&mut History)| {
        let mut history = good.clone();
        change(&mut history);
        violations(&history)
            .iter()
            .map(|violation| violation[..2].to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        broken(|history| assert!(history.acknowledged.insert(vec![4]))),
        ["I1"],
        "acknowledged, not stored"
    );
    assert_eq!(
        broken(|history| history.stored[1][0].0 = 2),
        ["I3", "I3", "I4"],
        "a sequence is used twice"
    );
    assert_eq!(
        broken(|history| drop(history.stored[1].remove(0))),
        ["I3", "I1", "I4"],
        "a stored event vanishes"
    );
    assert_eq!(
        broken(|history| {
            history.stored[1].push((4, vec![3]));
            history.received.push((4, vec![3]));
        }),
        ["I6"],
        "a duplicate is stored"
    );
    assert_eq!(
        broken(|history| drop(history.received.remove(1))),
        ["I4"],
        "a subscriber misses one"
    );
    assert_eq!(
        broken(|history| history.received.swap(1, 2)),
        ["I4"],
        "a subscriber gets them out of order"
    );
}
