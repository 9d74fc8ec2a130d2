//! The web console: a page for people who would rather look than read. Owns serving its files, which are compiled in, and what
//! a browser may do with them; what the page shows it asks for over gRPC-Web, with its reader's credentials.

use axum::{
    Router,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
    routing::get,
};
use data_encoding::HEXLOWER;
use http::HeaderMap;
use sha2::{Digest, Sha256};

/// Path, type and content of each file. They are built from `console/`, and that they are is checked with it.
const FILES: [(&str, &str, &[u8]); 4] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_bytes!("../console/dist/index.html"),
    ),
    (
        "/console.js",
        "text/javascript; charset=utf-8",
        include_bytes!("../console/dist/console.js"),
    ),
    (
        "/console.css",
        "text/css; charset=utf-8",
        include_bytes!("../console/dist/console.css"),
    ),
    (
        "/icon.svg",
        "image/svg+xml",
        include_bytes!("../console/dist/icon.svg"),
    ),
];

/// The page may load and call what is beside it, and nothing else; no page may frame it.
const POLICY: &str = "default-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The files' routes. They hold nothing that is anybody's, so nobody is asked for credentials.
pub fn router() -> Router {
    FILES
        .into_iter()
        .fold(Router::new(), |routes, (path, content_type, content)| {
            let digest = HEXLOWER.encode(&Sha256::digest(content));
            let tag = format!("\"{digest}\"");
            let answer =
                move |headers: HeaderMap| std::future::ready(file(&headers, &tag, content_type, content));
            routes.route(path, get(answer))
        })
}

fn file(asked: &HeaderMap, tag: &str, content_type: &'static str, content: &'static [u8]) -> Response {
    let fixed: [(HeaderName, &'static str); 5] = [
        (CONTENT_TYPE, content_type),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // Kept, but asked for again each time, so that a new version of the service shows at once.
        (CACHE_CONTROL, "no-cache"),
    ];
    let is_known = asked
        .get(IF_NONE_MATCH)
        .is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        content.into_response()
    };
    let headers = response.headers_mut();
    headers.extend(fixed.map(|(name, value)| (name, HeaderValue::from_static(value))));
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(ETAG, tag);
    }
    response
}
