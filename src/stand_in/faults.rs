//! Faults on demand. Owns what goes wrong and when; refuses to know how it is carried out.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use http::StatusCode;
use parking_lot::Mutex;

use super::{
    api::Call,
    chance::{Chance, Purpose},
};

/// A type that HeyGen has not made yet: no list of types has it.
pub const UNKNOWN_TYPE: &str = "hologram_video.success";

/// Within this time a delivery is late or comes again.
const LATE_WITHIN: Duration = Duration::from_millis(100);
/// What a caller over the rate limit is told to wait.
const RETRY_AFTER_SECONDS: u32 = 1;

/// How likely each fault is: 0.0 is never, 1.0 always.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Chances {
    /// A delivery comes twice, though it was answered with 2xx.
    pub duplicate: f64,
    /// A delivery is late by up to 100 ms, so that later ones come before it.
    pub reorder: f64,
    /// An attempt counts as failed though it was answered with 2xx: the answer came after the timeout.
    pub slow: f64,
    /// An event is never delivered to an endpoint; the history has it.
    pub lose: f64,
    /// With an event happens another one of [`UNKNOWN_TYPE`].
    pub unknown_type: f64,
    /// A call is answered with 429 and `Retry-After`.
    pub api_429: f64,
    /// A call is answered with 500, without effect.
    pub api_500: f64,
    /// A call is answered by a proxy, with 502 and HTML, without effect.
    pub api_html_502: f64,
    /// A call is never answered, without effect.
    pub api_hang: f64,
    /// A call has its effect, and then the connection is cut or 500 answered.
    pub api_lost_answer: f64,
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiFault {
    /// This status and a JSON error, without effect.
    Status(u16),
    /// 502 and HTML, without effect.
    Html502,
    /// 429 and `Retry-After` with these seconds, without effect.
    RateLimited(u32),
    /// No answer, without effect.
    Hang,
    /// The effect, and then the connection is cut.
    LoseAnswer,
    /// The effect, and then 500.
    EffectThen500,
}

/// What goes wrong with a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryFault {
    /// It comes twice.
    Duplicate,
    /// It is sent only after this time.
    Late(Duration),
    /// Its first attempt counts as failed whatever it is answered with.
    Slow,
    /// It never comes.
    Lose,
}

/// What is to be done with one event for one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub is_lost: bool,
    pub delay: Duration,
    pub is_first_attempt_slow: bool,
    /// How long after the delivery a copy of it follows.
    pub copy_after: Option<Duration>,
}

/// What goes wrong: by chance, decided by the seed, and by a script.
pub struct Faults {
    chance: Chance,
    chances: Mutex<Chances>,
    calls: Mutex<VecDeque<(Call, ApiFault)>>,
    deliveries: Mutex<VecDeque<DeliveryFault>>,
    calls_seen: AtomicU64,
}

impl Faults {
    pub(super) fn new(chance: Chance) -> Self {
        Self {
            chance,
            chances: Mutex::default(),
            calls: Mutex::default(),
            deliveries: Mutex::default(),
            calls_seen: AtomicU64::new(0),
        }
    }

    /// How likely each fault is now.
    pub fn chances(&self) -> Chances {
        *self.chances.lock()
    }

    /// Sets how likely each fault is.
    pub fn set(&self, chances: Chances) {
        *self.chances.lock() = chances;
    }

    /// The next call of this kind goes wrong; several are used up in their order.
    pub fn fail_next(&self, call: Call, fault: ApiFault) {
        self.calls.lock().push_back((call, fault));
    }

    /// The next delivery of a new event to an endpoint goes wrong; several are used up in their order.
    pub fn spoil_next(&self, fault: DeliveryFault) {
        self.deliveries.lock().push_back(fault);
    }

    pub(super) fn of_call(&self, call: Call) -> Option<ApiFault> {
        let mut scripted = self.calls.lock();
        if let Some(at) = scripted.iter().position(|(name, _)| *name == call) {
            return scripted.remove(at).map(|(_, fault)| fault);
        }
        drop(scripted);
        let seen = self.calls_seen.fetch_add(1, Ordering::Relaxed);
        let chances = self.chances();
        let lost = if self.chance.fraction(Purpose::AnswerLost, &[seen]) < 0.5 {
            ApiFault::LoseAnswer
        } else {
            ApiFault::EffectThen500
        };
        let faults = [
            (chances.api_429, ApiFault::RateLimited(RETRY_AFTER_SECONDS)),
            (
                chances.api_500,
                ApiFault::Status(StatusCode::INTERNAL_SERVER_ERROR.as_u16()),
            ),
            (chances.api_html_502, ApiFault::Html502),
            (chances.api_hang, ApiFault::Hang),
            (chances.api_lost_answer, lost),
        ];
        let mut left = self.chance.fraction(Purpose::ApiFault, &[seen]);
        for (likely, fault) in faults {
            if left < likely {
                return Some(fault);
            }
            left -= likely;
        }
        None
    }

    pub(super) fn of_delivery(&self, event: u64, endpoint: u64) -> Plan {
        if let Some(fault) = self.deliveries.lock().pop_front() {
            return Plan::of(fault);
        }
        let chances = self.chances();
        let key = [event, endpoint];
        let happens = |purpose, likely| self.chance.fraction(purpose, &key) < likely;
        let soon = |n| LATE_WITHIN.mul_f64(self.chance.fraction(Purpose::Delay, &[event, endpoint, n]));
        Plan {
            is_lost: happens(Purpose::Lose, chances.lose),
            delay: if happens(Purpose::Reorder, chances.reorder) {
                soon(0)
            } else {
                Duration::ZERO
            },
            is_first_attempt_slow: false,
            copy_after: happens(Purpose::Duplicate, chances.duplicate).then(|| soon(1)),
        }
    }

    pub(super) fn is_slow(&self, event: u64, endpoint: u64, attempt: u64) -> bool {
        let occasion = [event, endpoint, attempt];
        self.chance.fraction(Purpose::Slow, &occasion) < self.chances().slow
    }

    pub(super) fn unknown_type_happens(&self, event: u64) -> bool {
        self.chance.fraction(Purpose::UnknownType, &[event]) < self.chances().unknown_type
    }
}

impl Plan {
    fn of(fault: DeliveryFault) -> Self {
        let plan = Self::default();
        match fault {
            DeliveryFault::Duplicate => Self {
                copy_after: Some(Duration::ZERO),
                ..plan
            },
            DeliveryFault::Late(delay) => Self { delay, ..plan },
            DeliveryFault::Slow => Self {
                is_first_attempt_slow: true,
                ..plan
            },
            DeliveryFault::Lose => Self {
                is_lost: true,
                ..plan
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: Chances = Chances {
        duplicate: 0.3,
        reorder: 0.3,
        slow: 0.3,
        lose: 0.3,
        unknown_type: 0.3,
        api_429: 0.1,
        api_500: 0.1,
        api_html_502: 0.1,
        api_hang: 0.1,
        api_lost_answer: 0.2,
    };

    /// The faults of a hundred occasions.
    fn drawn(seed: u64) -> Vec<String> {
        let faults = Faults::new(Chance::new(seed));
        faults.set(EVERYTHING);
        let occasion = |n| {
            let plan = faults.of_delivery(n, 1);
            let call = faults.of_call(Call::ListEvents);
            format!(
                "{plan:?} {} {} {call:?}",
                faults.is_slow(n, 1, 0),
                faults.unknown_type_happens(n)
            )
        };
        (0..100).map(occasion).collect()
    }

    #[test]
    fn a_seed_decides_which_faults_happen() {
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
    }

    #[test]
    fn every_fault_of_calls_has_its_chance_and_none_happens_unasked() {
        let faults = Faults::new(Chance::new(3));
        assert!((0..100).all(|_| faults.of_call(Call::ListEvents).is_none()));
        assert_eq!(faults.of_delivery(1, 1), Plan::default());
        faults.set(EVERYTHING);
        let drawn: Vec<_> = (0..1000).map(|_| faults.of_call(Call::ListEvents)).collect();
        let wanted = [
            ApiFault::RateLimited(1),
            ApiFault::Status(500),
            ApiFault::Html502,
            ApiFault::Hang,
            ApiFault::LoseAnswer,
            ApiFault::EffectThen500,
        ];
        for fault in wanted {
            let count = drawn.iter().filter(|drawn| **drawn == Some(fault)).count();
            assert!((60..140).contains(&count), "{fault:?}: {count}");
        }
    }
}
