//! Addresses that fail too often. Owns who is refused for how long; refuses to know what a failure is.

use std::time::Duration;

use governor::{
    NotUntil, Quota, RateLimiter,
    clock::{Clock, DefaultClock, Reference},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use lru::LruCache;
use parking_lot::Mutex;

use super::RETRY_AFTER;
use crate::{limits, source::Source};

type Bucket<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// The sources that failed lately, and those that need not be refused for it.
pub(super) struct Failures<C: Clock = DefaultClock> {
    clock: C,
    known: Mutex<Known<C>>,
}

struct Known<C: Clock> {
    failing: LruCache<Source, Failing<C>>,
    /// Apart from the above, so that no number of failing sources can push out the good ones.
    proven_at: LruCache<Source, C::Instant>,
    warned_at: Option<C::Instant>,
}

struct Failing<C: Clock> {
    bucket: Bucket<C>,
    refused_until: Option<C::Instant>,
    told: bool,
}

impl<C: Clock + Clone> Failures<C> {
    /// Nobody has failed yet.
    pub(super) fn new(clock: C) -> Self {
        let known = Known {
            failing: LruCache::new(limits::ADDRESSES_REMEMBERED_MAX),
            proven_at: LruCache::new(limits::ADDRESSES_REMEMBERED_MAX),
            warned_at: None,
        };
        Self {
            clock,
            known: Mutex::new(known),
        }
    }

    /// Whether a source is refused at the moment.
    pub(super) fn refuse(&self, source: Source) -> bool {
        let now = self.clock.now();
        let mut known = self.known.lock();
        if known.has_proven(source, now) {
            return false;
        }
        let Some(failing) = known.failing.get_mut(&source) else {
            return false;
        };
        if !failing.is_refused(now) {
            return false;
        }
        let is_first = !std::mem::replace(&mut failing.told, true);
        if is_first && known.may_warn(now) {
            drop(known);
            tracing::warn!(
                address = %source,
                "an address fails too often and is refused for a while; if it is your reverse proxy, name it with \
                 --trusted-proxies, so that one client's failures are not another's"
            );
        }
        true
    }

    /// Notes that a source failed.
    pub(super) fn failed(&self, source: Source) {
        let now = self.clock.now();
        let mut known = self.known.lock();
        let failing = known
            .failing
            .get_or_insert_mut(source, || Failing::new(self.clock.clone()));
        let checked: Result<(), NotUntil<C::Instant>> = failing.bucket.check();
        if checked.is_err() {
            failing.refused_until = Some(now + Nanos::from(RETRY_AFTER));
        }
    }

    /// Notes that a source delivered something verified.
    pub(super) fn verified(&self, source: Source) {
        let now = self.clock.now();
        self.known.lock().proven_at.put(source, now);
    }

    /// Whether a source delivered something verified lately.
    pub(super) fn has_proven(&self, source: Source) -> bool {
        self.known.lock().has_proven(source, self.clock.now())
    }

    /// How many sources are refused at the moment.
    pub(super) fn refused_now(&self) -> usize {
        let now = self.clock.now();
        let known = self.known.lock();
        let refused = known.failing.iter().filter(|(source, failing)| {
            failing.is_refused(now)
                && !known
                    .proven_at
                    .peek(source)
                    .is_some_and(|&at| is_within(now, at, limits::ADDRESS_PROVEN_FOR))
        });
        refused.count()
    }
}

impl<C: Clock> Known<C> {
    fn has_proven(&mut self, source: Source, now: C::Instant) -> bool {
        let proven_at = self.proven_at.get(&source);
        proven_at.is_some_and(|&at| is_within(now, at, limits::ADDRESS_PROVEN_FOR))
    }

    fn may_warn(&mut self, now: C::Instant) -> bool {
        let is_too_soon = self
            .warned_at
            .is_some_and(|at| is_within(now, at, limits::FAILURES_WARNING_INTERVAL));
        if !is_too_soon {
            self.warned_at = Some(now);
        }
        !is_too_soon
    }
}

impl<C: Clock> Failing<C> {
    fn new(clock: C) -> Self {
        let quota = Quota::per_second(limits::FAILURES_PER_SECOND).allow_burst(limits::FAILURES_BURST);
        Self {
            bucket: RateLimiter::direct_with_clock(quota, clock),
            refused_until: None,
            told: false,
        }
    }

    fn is_refused(&self, now: C::Instant) -> bool {
        self.refused_until.is_some_and(|until| now < until)
    }
}

fn is_within<I: Reference>(now: I, then: I, time: Duration) -> bool {
    Duration::from(now.duration_since(then)) < time
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;
    use std::net::Ipv4Addr;

    use super::*;

    const BURST: u32 = limits::FAILURES_BURST.get();

    fn source(number: u32) -> Source {
        Source::of(Ipv4Addr::from_bits(0xC633_6400 + number).into())
    }

    fn failures() -> (Failures<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Failures::new(clock.clone()), clock)
    }

    fn fail(failures: &Failures<FakeRelativeClock>, source: Source, times: u32) {
        (0..times).for_each(|_| failures.failed(source));
    }

    #[test]
    fn a_source_is_refused_after_a_burst_of_failures_and_no_other_is() {
        let (failures, _) = failures();
        fail(&failures, source(1), BURST);
        assert!(!failures.refuse(source(1)));
        fail(&failures, source(1), 1);
        assert!(failures.refuse(source(1)));
        assert!(!failures.refuse(source(2)));
        assert_eq!(failures.refused_now(), 1);
    }

    #[test]
    fn a_refused_source_is_taken_again_after_the_time_it_was_told_and_refused_again_sooner() {
        let (failures, clock) = failures();
        fail(&failures, source(1), BURST + 1);
        clock.advance(RETRY_AFTER - Duration::from_millis(1));
        assert!(failures.refuse(source(1)));
        clock.advance(Duration::from_millis(1));
        assert!(!failures.refuse(source(1)));
        assert_eq!(failures.refused_now(), 0);
        fail(&failures, source(1), 51);
        assert!(failures.refuse(source(1)));
    }

    #[test]
    fn failures_that_come_slowly_are_never_refused() {
        let (failures, clock) = failures();
        for _ in 0..10_000 {
            fail(&failures, source(1), 1);
            assert!(!failures.refuse(source(1)));
            clock.advance(Duration::from_millis(100));
        }
    }

    #[test]
    fn a_source_that_verified_lately_is_never_refused_and_is_again_when_that_is_long_ago() {
        let (failures, clock) = failures();
        fail(&failures, source(1), BURST + 1);
        failures.verified(source(1));
        assert!(!failures.refuse(source(1)));
        assert_eq!(failures.refused_now(), 0);
        clock.advance(limits::ADDRESS_PROVEN_FOR - Duration::from_secs(1));
        fail(&failures, source(1), 10 * BURST);
        assert!(!failures.refuse(source(1)));
        clock.advance(Duration::from_secs(1));
        assert!(failures.refuse(source(1)));
    }

    #[test]
    fn no_number_of_failing_sources_pushes_out_one_that_verified() {
        let (failures, _) = failures();
        failures.verified(source(0));
        let many = u32::try_from(limits::ADDRESSES_REMEMBERED_MAX.get()).unwrap();
        for number in 1..=many + 10 {
            fail(&failures, source(number), 1);
        }
        fail(&failures, source(0), BURST + 1);
        assert!(!failures.refuse(source(0)));
        assert_eq!(
            failures.known.lock().failing.len(),
            limits::ADDRESSES_REMEMBERED_MAX.get()
        );
    }

    #[test]
    fn a_warning_is_due_at_most_once_in_its_interval() {
        let (failures, clock) = failures();
        let may_warn = || failures.known.lock().may_warn(clock.now());
        assert!(may_warn());
        assert!(!may_warn());
        clock.advance(limits::FAILURES_WARNING_INTERVAL);
        assert!(may_warn());
    }
}
