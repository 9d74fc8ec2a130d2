//! Which addresses count as one. Owns the grouping and a bound for each group; refuses to know what is bounded.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;

/// Addresses that count as one: an IPv4 address, or the /64 that one customer has in IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl Source {
    /// The source that an address belongs to.
    pub fn of(address: IpAddr) -> Self {
        // A dual-stack listener shows IPv4 addresses inside IPv6 ones, which would all be in one /64.
        Self(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
            address => address,
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => write!(f, "{address}"),
            IpAddr::V6(network) => write!(f, "{network}/64"),
        }
    }
}

/// Places, of which every source may take the same number at a time.
#[derive(Clone, Debug)]
pub struct Places {
    taken: Arc<Mutex<HashMap<Source, usize>>>,
    most: usize,
}

/// A place; free again when dropped.
#[derive(Debug)]
pub struct Place {
    taken: Arc<Mutex<HashMap<Source, usize>>>,
    source: Source,
}

impl Places {
    /// So many places for each source.
    pub fn new(most: usize) -> Self {
        Self {
            taken: Arc::default(),
            most,
        }
    }

    /// Takes a place; `None` if the source has them all.
    pub fn take(&self, source: Source) -> Option<Place> {
        let mut taken = self.taken.lock();
        let of_source = taken.entry(source).or_default();
        if *of_source >= self.most {
            return None;
        }
        *of_source += 1;
        let taken = Arc::clone(&self.taken);
        Some(Place { taken, source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut of_source) = self.taken.lock().entry(self.source) {
            *of_source.get_mut() -= 1;
            if *of_source.get() == 0 {
                of_source.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(address: &str) -> Source {
        Source::of(address.parse().unwrap())
    }

    #[test]
    fn an_ipv4_address_is_one_source_however_it_is_written() {
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_ne!(source("::ffff:192.0.2.1"), source("::ffff:192.0.2.2"));
    }

    #[test]
    fn a_64_of_ipv6_is_one_source() {
        assert_eq!(source("2001:db8:1:2::3"), source("2001:db8:1:2:ffff::4"));
        assert_ne!(source("2001:db8:1:2::3"), source("2001:db8:1:3::3"));
        assert_eq!(source("2001:db8:1:2::3").to_string(), "2001:db8:1:2::/64");
    }

    #[test]
    fn a_source_takes_its_places_and_no_others() {
        let places = Places::new(2);
        let first = places.take(source("192.0.2.1")).unwrap();
        let _second = places.take(source("192.0.2.1")).unwrap();
        assert!(places.take(source("192.0.2.1")).is_none());
        let _others = places.take(source("192.0.2.2")).unwrap();
        drop(first);
        assert!(places.take(source("192.0.2.1")).is_some());
    }

    #[test]
    fn nothing_is_kept_of_a_source_without_a_place() {
        let places = Places::new(1);
        drop(places.take(source("192.0.2.1")).unwrap());
        assert!(places.taken.lock().is_empty());
    }
}
