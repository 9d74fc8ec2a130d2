//! The service in a simulated world: network, disk, clock and chance all follow from a seed, so that whatever a seed breaks it
//! breaks again. Claims that I1 to I4, I6, I8 and I9 hold for any seed.
//!
//! `HOOKSTREAM_SEED` runs one seed and prints its history; `HOOKSTREAM_SIMULATION_SEEDS` sets how many are run (200 if unset),
//! `HOOKSTREAM_SIMULATION_FIRST` from which on.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test stops at what it does not expect"
)]

mod clients;
mod disk;
#[path = "../support/history.rs"]
mod history;
mod network;
mod service;
mod world;

use std::{
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use libtest_mimic::{Arguments, Trial};
use parking_lot::Mutex;
use world::Run;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

const SEED: &str = "HOOKSTREAM_SIMULATED_SEED";
const LIES: &str = "HOOKSTREAM_SIMULATED_DISK_LIES";

/// Runs one seed and nothing beside it if that is asked for, else the tests, as any test program does: theirs would draw on
/// chance while a simulation runs.
fn main() {
    if let Some(seed) = from_environment(SEED) {
        let lies = from_environment(LIES) == Some(1);
        // Its name is drawn until it is free, which depends on who else runs.
        let directory = world::directory();
        let path = directory.path().to_owned();
        // The keys of a thread's maps are drawn when it first has one, so it has to begin within the simulation.
        let run = thread::spawn(move || world::simulate(seed, lies, &path))
            .join()
            .unwrap();
        return println!("{}", serde_json::to_string(&run).unwrap());
    }
    let tests: [(&str, fn()); 3] = [
        ("a_seed_has_one_history", a_seed_has_one_history),
        (
            "i1_to_i4_i6_i8_and_i9_hold_for_every_seed",
            i1_to_i4_i6_i8_and_i9_hold_for_every_seed,
        ),
        (
            "a_disk_that_answers_before_it_writes_is_found_out",
            a_disk_that_answers_before_it_writes_is_found_out,
        ),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}

/// What a process of its own says of a seed.
fn run(seed: u64, lies: bool) -> Run {
    let output = Command::new(std::env::current_exe().unwrap())
        .env(SEED, seed.to_string())
        .env(LIES, u64::from(lies).to_string())
        .output()
        .unwrap();
    let run = serde_json::from_slice(&output.stdout);
    run.unwrap_or_else(|_| panic!("seed {seed} panics: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Judges many seeds, as many at once as there are processors.
fn judge(seeds: std::ops::Range<u64>, lies: bool, judge: impl Fn(u64, Run) + Sync) {
    let next = AtomicU64::new(seeds.start);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds.end {
                        return;
                    }
                    judge(seed, run(seed, lies));
                }
            });
        }
    });
}

fn a_seed_has_one_history() {
    judge(0..20, false, |seed, once| {
        let again = run(seed, false);
        let differing = once
            .trace
            .lines()
            .zip(again.trace.lines())
            .find(|(one, other)| one != other);
        assert!(once == again, "seed {seed}: {differing:?}");
    });
}

fn i1_to_i4_i6_i8_and_i9_hold_for_every_seed() {
    if let Some(seed) = from_environment("HOOKSTREAM_SEED") {
        let run = run(seed, false);
        println!("{}", run.trace);
        assert_eq!(run.violations, Vec::<String>::new(), "HOOKSTREAM_SEED={seed}");
        return;
    }
    let first = from_environment("HOOKSTREAM_SIMULATION_FIRST").unwrap_or(0);
    let seeds = from_environment("HOOKSTREAM_SIMULATION_SEEDS").unwrap_or(200);
    let (stored, broken) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    judge(first..first + seeds, false, |seed, run| {
        stored.fetch_add(run.stored as u64, Ordering::SeqCst);
        if !run.violations.is_empty() {
            broken.lock().push((seed, run.violations));
        }
    });
    let stored = stored.into_inner();
    println!("{seeds} seeds, {stored} events stored");
    assert_eq!(broken.into_inner(), [], "HOOKSTREAM_SEED runs one of them");
    assert!(stored > 10 * seeds, "too little happens to prove anything");
}

fn a_disk_that_answers_before_it_writes_is_found_out() {
    let found_out = AtomicU64::new(0);
    judge(0..30, true, |_, run| {
        found_out.fetch_add(u64::from(!run.violations.is_empty()), Ordering::SeqCst);
    });
    let found_out = found_out.into_inner();
    assert!(found_out > 3, "{found_out} of 30 seeds");
}
