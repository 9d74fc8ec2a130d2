//! What came to one endpoint lately. Owns the counts and when they tell of a wrong secret; refuses to know what a delivery
//! is.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use jiff::Timestamp;

use crate::limits;

/// Deliveries to one endpoint since the process started.
#[derive(Debug)]
pub(super) struct Deliveries {
    last_verified_us: AtomicI64,
    unverified: AtomicU64,
    unverified_in_a_row: AtomicU32,
    told: AtomicBool,
}

impl Default for Deliveries {
    fn default() -> Self {
        Self {
            last_verified_us: AtomicI64::new(i64::MIN),
            unverified: AtomicU64::new(0),
            unverified_in_a_row: AtomicU32::new(0),
            told: AtomicBool::new(false),
        }
    }
}

impl Deliveries {
    /// When one last verified, if any is known of.
    pub(super) fn last_verified_at(&self) -> Option<Timestamp> {
        let us = self.last_verified_us.load(Ordering::Relaxed);
        if us == i64::MIN {
            None
        } else {
            Timestamp::from_microsecond(us).ok()
        }
    }

    /// Notes one that verified.
    pub(super) fn verified(&self, at: Timestamp) {
        self.last_verified_us
            .fetch_max(at.as_microsecond(), Ordering::Relaxed);
        self.unverified_in_a_row.store(0, Ordering::Relaxed);
        self.told.store(false, Ordering::Relaxed);
    }

    /// Notes one that did not verify. Whether it is the one at which the secret is probably wrong: others verified before,
    /// and none has for a while. Only one is, until the next success.
    pub(super) fn unverified(&self, at: Timestamp) -> bool {
        self.unverified.fetch_add(1, Ordering::Relaxed);
        let in_a_row = self
            .unverified_in_a_row
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        let is_silent = self.last_verified_at().is_some_and(|last| {
            at.duration_since(last).unsigned_abs() >= limits::ENDPOINT_FAILURES_SILENCE && at > last
        });
        in_a_row >= limits::ENDPOINT_FAILURES_IN_A_ROW
            && is_silent
            && !self.told.swap(true, Ordering::Relaxed)
    }

    /// How many did not verify.
    pub(super) fn unverified_total(&self) -> u64 {
        self.unverified.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn tells(deliveries: &Deliveries, second: i64, number: usize) -> Vec<usize> {
        (1..=number)
            .filter(|_| deliveries.unverified(at(second)))
            .collect()
    }

    #[test]
    fn a_row_of_failures_after_a_success_tells_of_a_wrong_secret_once_until_the_next_success() {
        let deliveries = Deliveries::default();
        deliveries.verified(at(1000));
        assert_eq!(tells(&deliveries, 2000, 100), [20]);
        assert_eq!(tells(&deliveries, 9000, 100), [0; 0]);
        deliveries.verified(at(10_000));
        assert_eq!(tells(&deliveries, 11_000, 100), [20]);
        assert_eq!(deliveries.unverified_total(), 300);
    }

    #[test]
    fn failures_of_an_endpoint_that_never_verified_tell_nothing() {
        assert_eq!(tells(&Deliveries::default(), 2000, 100), [0; 0]);
    }

    #[test]
    fn a_flood_between_two_good_deliveries_tells_nothing_and_one_that_goes_on_does() {
        let deliveries = Deliveries::default();
        deliveries.verified(at(1000));
        assert_eq!(tells(&deliveries, 1001, 100), [0; 0]);
        assert_eq!(tells(&deliveries, 1060, 1), [1]);
    }
}
