//! Whose request it is. Owns the reading of what proxies say about it and which proxies are believed; refuses to know what
//! the answer is for.
//!
//! `Forwarded` (RFC 7239) is not read: its quoted strings cannot be taken apart from the right, where the proxies that we
//! know write, so that a client could hide behind half a quotation mark. Every proxy in use writes `X-Forwarded-For`.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use http::HeaderMap;
use ipnet::IpNet;

use crate::source::Source;

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The networks of the proxies that are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Arc<[IpNet]>);

impl FromStr for TrustedProxies {
    type Err = String;

    /// Reads networks and addresses with commas between them; `none` is none.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::default());
        }
        let networks = text.split(',').map(str::trim).map(|part| {
            let network = part
                .parse::<IpNet>()
                .or_else(|_| part.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| {
                format!("names `{part}`, which is neither an address nor a network such as 10.0.0.0/8")
            })
        });
        networks.collect::<Result<_, _>>().map(Self)
    }
}

impl TrustedProxies {
    /// Whether this is a proxy that is believed.
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// What an address counts as where sources are limited. `None` for what is never limited: a trusted proxy, and an address
    /// that nobody on the internet can have, which is this machine or a proxy that nobody told us about.
    pub fn limited(&self, address: IpAddr) -> Option<Source> {
        let exempt = self.contain(address) || is_local(address);
        (!exempt).then(|| Source::of(address))
    }
}

/// Where a request comes from: what the trusted proxies on its way say, or the peer itself if they say nothing readable.
pub fn client(peer: IpAddr, headers: &HeaderMap, trusted: &TrustedProxies) -> IpAddr {
    if !trusted.contain(peer) {
        return peer;
    }
    forwarded_for(headers, trusted).unwrap_or(peer)
}

/// The rightmost address that is no trusted proxy. What is left of it is hearsay and not looked at.
fn forwarded_for(headers: &HeaderMap, trusted: &TrustedProxies) -> Option<IpAddr> {
    for line in headers.get_all(X_FORWARDED_FOR).into_iter().rev() {
        for entry in line.to_str().ok()?.rsplit(',') {
            let address = address(entry.trim())?;
            if !trusted.contain(address) {
                return Some(address);
            }
        }
    }
    None
}

/// An address, as some proxies write it with its port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = bare.unwrap_or(text).parse::<IpAddr>().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address| address.to_canonical())
}

fn is_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            let is_shared = first == 100 && (64..128).contains(&second);
            address.is_loopback() || address.is_private() || address.is_link_local() || is_shared
        }
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn trusted() -> TrustedProxies {
        "10.0.0.0/8, 2001:db8:aaaa::/48,192.0.2.7".parse().unwrap()
    }

    fn seen_through(peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        client(peer.parse().unwrap(), &headers, &trusted()).to_string()
    }

    #[test]
    fn a_peer_that_is_no_trusted_proxy_is_the_client_whatever_it_says() {
        assert_eq!(seen_through("203.0.113.9", &["198.51.100.1"]), "203.0.113.9");
        assert_eq!(seen_through("127.0.0.1", &["198.51.100.1"]), "127.0.0.1");
    }

    #[test]
    fn the_client_is_the_rightmost_address_that_is_no_trusted_proxy() {
        for (lines, client) in [
            (&["198.51.100.1"][..], "198.51.100.1"),
            (&["203.0.113.5, 198.51.100.1"], "198.51.100.1"),
            (
                &["203.0.113.5, 198.51.100.1,10.9.9.9 , 192.0.2.7"],
                "198.51.100.1",
            ),
            (&["203.0.113.5", "198.51.100.1", "10.9.9.9"], "198.51.100.1"),
            (&["unknown, \"garbage, 198.51.100.1"], "198.51.100.1"),
            (&["198.51.100.1:4711"], "198.51.100.1"),
            (&["::ffff:198.51.100.1, ::ffff:10.1.1.1"], "198.51.100.1"),
            (&["2001:db8::1, 2001:db8:aaaa::2"], "2001:db8::1"),
            (&["[2001:db8::1]:4711"], "2001:db8::1"),
            (&["[2001:db8::1]"], "2001:db8::1"),
        ] {
            assert_eq!(seen_through(PROXY, lines), client, "{lines:?}");
            assert_eq!(seen_through("::ffff:10.0.0.1", lines), client, "{lines:?}");
        }
    }

    #[test]
    fn the_client_is_the_peer_where_nothing_readable_is_said() {
        for lines in [
            &[][..],
            &[""],
            &["10.2.2.2, 10.3.3.3"],
            &["198.51.100.1, unknown"],
            &["198.51.100.1, "],
            &["198.51.100.1, 10.1.1.1", "_hidden"],
            &["198.51.100.1, \u{e9}"],
            &["198.51.100.1, fe80::1%eth0"],
            &["198.51.100.256"],
        ] {
            assert_eq!(seen_through(PROXY, lines), PROXY, "{lines:?}");
        }
    }

    #[test]
    fn the_header_of_rfc_7239_is_not_read() {
        let mut headers = HeaderMap::new();
        headers.append("forwarded", HeaderValue::from_static("for=198.51.100.1"));
        assert_eq!(
            client(PROXY.parse().unwrap(), &headers, &trusted()).to_string(),
            PROXY
        );
    }

    #[test]
    fn what_the_internet_cannot_have_is_never_limited() {
        for address in [
            "127.0.0.1",
            "::1",
            "10.1.1.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "100.64.0.1",
            "fd00::1",
            "fe80::1",
            "::ffff:127.0.0.1",
            "192.0.2.7",
        ] {
            assert_eq!(trusted().limited(address.parse().unwrap()), None, "{address}");
        }
        for address in [
            "198.51.100.1",
            "100.63.0.1",
            "100.128.0.1",
            "2001:db8::1",
            "::ffff:198.51.100.1",
        ] {
            assert!(trusted().limited(address.parse().unwrap()).is_some(), "{address}");
        }
    }

    #[test]
    fn a_list_of_proxies_is_read_whole_or_not_at_all() {
        assert_eq!("none".parse(), Ok(TrustedProxies::default()));
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0.1,,10.0.0.2",
            "example.com",
            "10.0.0.1-10.0.0.9",
        ] {
            assert!(text.parse::<TrustedProxies>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_client_cannot_choose_its_address_behind_a_proxy_that_appends(
            claimed in proptest::collection::vec("[ -~\u{80}-\u{ff}]{0,40}", 0..4),
            client in any::<[u8; 4]>(),
        ) {
            let client = IpAddr::from(client);
            prop_assume!(!trusted().contain(client));
            let mut headers = HeaderMap::new();
            for line in &claimed {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(line.as_bytes()).unwrap());
            }
            // A proxy either writes a line of its own or adds to the last one; both read the same.
            headers.append(X_FORWARDED_FOR, client.to_string().parse().unwrap());
            let seen = super::client(PROXY.parse().unwrap(), &headers, &trusted());
            prop_assert_eq!(seen, client);

            let last = claimed.last().cloned().unwrap_or_default().replace(|c: char| !c.is_ascii(), "");
            let mut headers = HeaderMap::new();
            headers.append(X_FORWARDED_FOR, format!("{last}, {client}").parse().unwrap());
            let seen = super::client(PROXY.parse().unwrap(), &headers, &trusted());
            prop_assert_eq!(seen, client);
        }

        #[test]
        fn the_answer_is_the_peer_or_an_address_that_was_named(
            lines in proptest::collection::vec("([0-9a-f:.,\\[\\] ]{0,30}|198\\.51\\.100\\.[0-9]{1,3})", 0..4),
        ) {
            let mut headers = HeaderMap::new();
            for line in &lines {
                headers.append(X_FORWARDED_FOR, line.parse().unwrap());
            }
            let peer: IpAddr = PROXY.parse().unwrap();
            let seen = super::client(peer, &headers, &trusted());
            let named = lines.iter().flat_map(|line| line.split(',')).filter_map(|entry| address(entry.trim()));
            prop_assert!(seen == peer || (named.into_iter().any(|named| named == seen) && !trusted().contain(seen)));
        }
    }
}
