//! Web pages: of which origins they may call. Owns that decision; refuses to know what is called.
//!
//! A browser lets a page of one origin call another only if that one agrees, but it cannot tell apart two machines that
//! take turns at one name. So a page that calls without credentials must have been reached under an address, or under a
//! name that this machine gives itself.

use std::{net::IpAddr, str::FromStr};

use http::{
    HeaderMap, HeaderValue, Uri,
    header::{AUTHORIZATION, HOST, ORIGIN},
};

/// The pages of other origins that may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedOrigins(Vec<HeaderValue>);

impl FromStr for AllowedOrigins {
    type Err = String;

    /// Reads origins with commas between them; `none` is none.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::default());
        }
        let origins = text.split(',').map(str::trim).map(|origin| {
            let value = HeaderValue::from_str(origin).ok();
            let value = value.filter(|_| authority(origin).is_some_and(|rest| !rest.contains('/')));
            value.ok_or_else(|| {
                format!("names `{origin}`, which is no origin such as https://app.example.com")
            })
        });
        origins.collect::<Result<_, _>>().map(Self)
    }
}

impl AllowedOrigins {
    /// The origins themselves.
    pub fn values(&self) -> &[HeaderValue] {
        &self.0
    }

    /// Whether who sends such a request may call, as far as its origin goes.
    pub fn admit(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        let Some(origin) = headers.get(ORIGIN) else {
            // No browser, or a page that asks its own server.
            return true;
        };
        if self.0.contains(origin) || headers.contains_key(AUTHORIZATION) {
            return true;
        }
        let asked = headers.get(HOST).and_then(|host| host.to_str().ok());
        let asked = asked.or_else(|| uri.authority().map(http::uri::Authority::as_str));
        let origin = origin.to_str().ok().and_then(authority);
        origin.is_some() && origin == asked && origin.is_some_and(is_no_name)
    }
}

/// What follows the scheme of a web page's origin.
fn authority(origin: &str) -> Option<&str> {
    origin
        .strip_prefix("https://")
        .or_else(|| origin.strip_prefix("http://"))
        .filter(|authority| !authority.is_empty())
}

/// Whether a host, perhaps with a port, is an address or this machine.
fn is_no_name(authority: &str) -> bool {
    let host = authority.parse::<http::uri::Authority>();
    let host = host.as_ref().map_or("", http::uri::Authority::host);
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(allowed: &str, origin: &str, host: &str, credentials: bool) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, origin.parse().unwrap());
        headers.insert(HOST, host.parse().unwrap());
        if credentials {
            headers.insert(AUTHORIZATION, "Bearer it".parse().unwrap());
        }
        let allowed = allowed.parse::<AllowedOrigins>().unwrap();
        allowed.admit(&headers, &Uri::from_static("/a"))
    }

    #[test]
    fn a_page_that_comes_from_here_may_call() {
        for host in ["127.0.0.1:9090", "localhost:9090", "[::1]:9090", "10.0.0.7"] {
            assert!(admits("none", &format!("http://{host}"), host, false), "{host}");
        }
    }

    #[test]
    fn a_page_from_elsewhere_may_call_only_with_credentials_or_leave() {
        let origin = "https://app.example.com";
        assert!(!admits("none", origin, "127.0.0.1:9090", false));
        assert!(admits("none", origin, "127.0.0.1:9090", true));
        assert!(admits(
            "https://a.example,https://app.example.com",
            origin,
            "127.0.0.1:9090",
            false
        ));
        assert!(!admits("https://a.example", origin, "127.0.0.1:9090", false));
        assert!(!admits("none", "null", "127.0.0.1:9090", false));
    }

    #[test]
    fn a_name_that_was_turned_to_this_machine_is_no_leave() {
        let host = "rebound.example:9090";
        assert!(!admits("none", &format!("http://{host}"), host, false));
        assert!(admits("none", &format!("http://{host}"), host, true));
    }

    #[test]
    fn what_is_no_origin_is_refused_by_name() {
        for text in [
            "app.example.com",
            "https://",
            "https://a.example/path",
            "*",
            "https://a.example,",
        ] {
            let refused = text.parse::<AllowedOrigins>().unwrap_err();
            assert!(refused.contains("no origin"), "{refused}");
        }
    }
}
