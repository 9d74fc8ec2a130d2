//! What one replica says to another of a caller. Owns the form of that word and how it is believed: it is sealed with the key
//! that all replicas have, for one of them, and good for a minute.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;

use crate::{
    clock::Clock,
    limits,
    sealing::{self, SealingKeys},
    secret::Secret,
};

/// The header that a replica says it in.
pub const HEADER: &str = "hookstream-voucher";

/// How a replica vouches for callers, and believes others.
#[derive(Clone, Debug)]
pub struct Vouchers {
    keys: SealingKeys,
    /// This replica's own URL.
    url: String,
    clock: Clock,
}

/// Why another replica is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotVouched {
    /// No other replica is to be expected.
    #[error("this service has no other replicas")]
    Alone,
    /// It was not sealed for this replica with a key that it has.
    #[error("it is not sealed with this replica's key for this replica's URL")]
    NotAuthentic,
    /// It was said too long ago, or will be said only later.
    #[error("the clocks of the two replicas differ by {differ_seconds} s")]
    ClocksDiffer {
        /// By how much, or how old it is.
        differ_seconds: u64,
    },
}

impl Vouchers {
    /// A replica's that has this URL.
    pub fn new(keys: SealingKeys, url: String, clock: Clock) -> Self {
        Self { keys, url, clock }
    }

    /// What to say of a caller to the replica of this URL, as the value of [`HEADER`]. `None` for a name that no caller has.
    pub fn seal(&self, name: &str, url: &str) -> Option<String> {
        let word = Secret::new(format!("{} {name}", self.clock.now().as_second())).ok()?;
        Some(BASE64URL_NOPAD.encode(&self.keys.seal(&word, &context(url))))
    }

    /// The caller that another replica says is calling.
    pub fn open(&self, voucher: &[u8]) -> Result<String, NotVouched> {
        let word = BASE64URL_NOPAD
            .decode(voucher)
            .ok()
            // What is readable was sealed by nobody.
            .filter(|sealed| sealing::is_sealed(sealed))
            .and_then(|sealed| self.keys.open(&sealed, &context(&self.url)).ok());
        let word = word.ok_or(NotVouched::NotAuthentic)?;
        let (said_at, name) = word.expose().split_once(' ').ok_or(NotVouched::NotAuthentic)?;
        let said_at: i64 = said_at.parse().map_err(|_| NotVouched::NotAuthentic)?;
        let differ_seconds = self.clock.now().as_second().abs_diff(said_at);
        if Duration::from_secs(differ_seconds) > limits::VOUCHER_AGE_MAX {
            return Err(NotVouched::ClocksDiffer { differ_seconds });
        }
        Ok(name.to_owned())
    }
}

fn context(url: &str) -> String {
    format!("hookstream: a caller vouched for, to {url}")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::sealing::SealingKey;

    const HERE: &str = "http://10.0.0.7:50051";
    const THERE: &str = "http://10.0.0.8:50051";

    fn at(second: i64) -> Clock {
        Clock::new(move || Timestamp::from_second(second).unwrap())
    }

    fn keys(key: &SealingKey) -> SealingKeys {
        SealingKeys {
            current: Some(key.clone()),
            previous: Vec::new(),
        }
    }

    fn vouchers(key: &SealingKey, url: &str, second: i64) -> Vouchers {
        Vouchers::new(keys(key), url.to_owned(), at(second))
    }

    #[test]
    fn a_caller_is_known_to_the_replica_it_was_sealed_for_and_to_no_other() {
        let key = SealingKey::generate();
        let here = vouchers(&key, HERE, 1_000);
        let sealed = here.seal("billing", THERE).unwrap();
        assert_eq!(
            vouchers(&key, THERE, 1_010).open(sealed.as_bytes()).unwrap(),
            "billing"
        );
        assert_eq!(here.open(sealed.as_bytes()), Err(NotVouched::NotAuthentic));
        let stranger = vouchers(&SealingKey::generate(), THERE, 1_000);
        assert_eq!(stranger.open(sealed.as_bytes()), Err(NotVouched::NotAuthentic));
    }

    #[test]
    fn the_key_before_is_believed_while_keys_change() {
        let (old, new) = (SealingKey::generate(), SealingKey::generate());
        let sealed = vouchers(&old, HERE, 1_000).seal("billing", THERE).unwrap();
        let both = SealingKeys {
            current: Some(new),
            previous: vec![old],
        };
        let there = Vouchers::new(both, THERE.to_owned(), at(1_000));
        assert_eq!(there.open(sealed.as_bytes()).unwrap(), "billing");
    }

    #[test]
    fn what_was_said_more_than_a_minute_ago_or_later_is_not_believed() {
        let key = SealingKey::generate();
        let sealed = vouchers(&key, HERE, 1_000).seal("billing", THERE).unwrap();
        let open = |second| vouchers(&key, THERE, second).open(sealed.as_bytes());
        for second in [940, 1_060] {
            assert!(open(second).is_ok());
        }
        for second in [939, 1_061] {
            assert_eq!(open(second), Err(NotVouched::ClocksDiffer { differ_seconds: 61 }));
        }
    }

    #[test]
    fn what_nobody_sealed_is_not_believed_also_without_a_key() {
        let readable = SealingKeys::default();
        let there = Vouchers::new(readable.clone(), THERE.to_owned(), at(1_000));
        let said = Vouchers::new(readable, HERE.to_owned(), at(1_000))
            .seal("operator", THERE)
            .unwrap();
        assert_eq!(there.open(said.as_bytes()), Err(NotVouched::NotAuthentic));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_panicking(bytes in vec(any::<u8>(), 0..200)) {
            let there = vouchers(&SealingKey::generate(), THERE, 1_000);
            let encoded = BASE64URL_NOPAD.encode(&bytes);
            for voucher in [bytes.as_slice(), encoded.as_bytes()] {
                prop_assert_eq!(there.open(voucher), Err(NotVouched::NotAuthentic));
            }
        }
    }
}
