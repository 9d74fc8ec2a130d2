//! The open connections of one listener. Owns how many one address may have, and their count; refuses to know what is said
//! on them.

use std::net::IpAddr;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{
    forwarded::TrustedProxies,
    limits,
    source::{Place, Places},
};

/// The counts of all listeners' connections.
#[derive(Clone, Debug, Default)]
pub struct ConnectionMetrics {
    open: Family<ListenerLabel, Gauge>,
    refused: Family<RefusalLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabel {
    listener: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    listener: &'static str,
    reason: &'static str,
}

impl ConnectionMetrics {
    /// Counts that are part of what operators see.
    pub fn registered(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "connections",
            "Connections open, by listener",
            metrics.open.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections closed before a request, by listener and reason",
            metrics.refused.clone(),
        );
        metrics
    }
}

/// The connections of one listener.
#[derive(Clone, Debug)]
pub struct Connections {
    trusted: TrustedProxies,
    places: Places,
    open: Gauge,
    too_many: Counter,
    silent: Counter,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub struct Admitted {
    _place: Option<Place>,
    open: Gauge,
}

impl Connections {
    /// The connections of the listener of this name. Trusted proxies may have as many as they like.
    pub fn new(listener: &'static str, trusted: TrustedProxies, metrics: &ConnectionMetrics) -> Self {
        let refused = |reason| {
            let labels = RefusalLabels { listener, reason };
            metrics.refused.get_or_create(&labels).clone()
        };
        Self {
            trusted,
            places: Places::new(limits::CONNECTIONS_PER_ADDRESS_MAX),
            open: metrics.open.get_or_create(&ListenerLabel { listener }).clone(),
            too_many: refused("too_many_of_address"),
            silent: refused("silent"),
        }
    }

    /// Counts a new connection; `None` if its address has as many as it may.
    pub fn admit(&self, address: IpAddr) -> Option<Admitted> {
        let place = match self.trusted.limited(address) {
            None => None,
            Some(source) => {
                let place = self.places.take(source);
                if place.is_none() {
                    self.too_many.inc();
                    return None;
                }
                place
            }
        };
        self.open.inc();
        Some(Admitted {
            _place: place,
            open: self.open.clone(),
        })
    }

    /// Counts a connection that was closed because nothing came.
    pub fn ended_silent(&self) {
        self.silent.inc();
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.open.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = limits::CONNECTIONS_PER_ADDRESS_MAX;

    fn connections() -> Connections {
        let trusted = "203.0.113.0/24".parse().unwrap();
        Connections::new("ingress", trusted, &ConnectionMetrics::default())
    }

    fn admit(connections: &Connections, address: &str, number: usize) -> Vec<Admitted> {
        let address = address.parse().unwrap();
        (0..number).filter_map(|_| connections.admit(address)).collect()
    }

    #[test]
    fn an_address_has_no_more_connections_than_it_may_and_others_have_theirs() {
        let connections = connections();
        let open = admit(&connections, "198.51.100.1", MOST + 3);
        assert_eq!(open.len(), MOST);
        assert_eq!(admit(&connections, "::ffff:198.51.100.1", 1).len(), 0);
        assert_eq!(admit(&connections, "198.51.100.2", MOST).len(), MOST);
        assert_eq!(connections.too_many.get(), 4);
        drop(open);
        assert_eq!(admit(&connections, "198.51.100.1", 1).len(), 1);
        assert_eq!(connections.open.get(), 0);
    }

    #[test]
    fn the_addresses_of_a_64_share_their_connections() {
        let connections = connections();
        let _open = admit(&connections, "2001:db8::1", MOST);
        assert!(admit(&connections, "2001:db8::2", 1).is_empty());
        assert_eq!(admit(&connections, "2001:db8:0:1::1", 1).len(), 1);
    }

    #[test]
    fn loopback_and_trusted_proxies_are_not_bounded() {
        let connections = connections();
        for address in ["127.0.0.1", "::1", "203.0.113.7"] {
            assert_eq!(
                admit(&connections, address, MOST + 1).len(),
                MOST + 1,
                "{address}"
            );
        }
    }
}
