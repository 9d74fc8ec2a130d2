//! The imports that must never exist, held by reading the sources. Owns the rules; each names its reason.

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

use std::{fs, path::Path};

struct Source {
    path: String,
    text: String,
}

fn sources() -> Vec<Source> {
    fn collect(directory: &Path, sources: &mut Vec<Source>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, sources);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let below = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
                sources.push(Source {
                    path: below.to_str().unwrap().to_owned(),
                    text,
                });
            }
        }
    }
    let mut sources = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for directory in ["src", "tests", "benches", "fuzz/src", "fuzz/fuzz_targets"] {
        collect(&root.join(directory), &mut sources);
    }
    sources
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// The files under `places`, tests inside them left out, that mention one of `words`.
fn mentions(places: impl Fn(&str) -> bool, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources()
        .iter()
        .filter(|source| source.path.starts_with("src/") && !is_test(&source.path) && places(&source.path))
    {
        let code = source.text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let code = code.collect::<Vec<_>>().join("\n");
        found.extend(
            words
                .iter()
                .filter(|word| code.contains(*word))
                .map(|word| format!("{}: {word}", source.path)),
        );
    }
    found
}

#[test]
fn verification_knows_no_http_and_no_json() {
    let places = |path: &str| path == "src/signature.rs" || path == "src/secret.rs";
    assert_eq!(
        mentions(places, &["http::", "hyper", "axum", "serde_json", "tonic"]),
        [""; 0]
    );
}

#[test]
fn ingress_knows_no_grpc_no_hub_and_no_streams() {
    let places = |path: &str| path.starts_with("src/ingress");
    assert_eq!(
        mentions(places, &["grpc", "tonic::", "prost", "hub::", "stream::"]),
        [""; 0]
    );
}

#[test]
fn the_stream_knows_no_grpc() {
    let places = |path: &str| ["src/stream.rs", "src/hub.rs"].contains(&path) || path.starts_with("src/log");
    assert_eq!(mentions(places, &["tonic", "grpc::", "proto::", "axum"]), [""; 0]);
}

#[test]
fn generated_types_stop_at_the_grpc_edge_and_at_the_commands() {
    let places = |path: &str| !path.starts_with("src/grpc") && !path.starts_with("src/cli");
    assert_eq!(mentions(places, &["proto::"]), [""; 0]);
}

#[test]
fn the_stand_in_for_heygen_knows_nothing_of_the_service() {
    let places = |path: &str| path.starts_with("src/stand_in") && !path.starts_with("src/stand_in/tests");
    let words = [
        "ingress", "grpc", "log::", "hub::", "stream::", "decode::", "cursor::", "filter::",
    ];
    assert_eq!(mentions(places, &words), [""; 0]);
    assert_eq!(
        mentions(places, &["endpoints::", "event::", "Service::"]),
        [""; 0]
    );
}

#[test]
fn only_one_file_names_concrete_engines() {
    let engines = |path: &str| {
        let stores =
            path.ends_with("/sqlite.rs") || path.ends_with("/shared.rs") || path == "src/state_db.rs";
        let nats = path.starts_with("src/nats");
        path.starts_with("src/log/") || stores || nats || path == "src/service/engines.rs"
    };
    let words = [
        "SqliteLog",
        "MemoryLog",
        "JetStreamLog",
        "async_nats::",
        "SqliteEndpointStore",
        "SqliteTokenStore",
        "SqliteAuditStore",
        "SharedEndpointStore",
        "SharedTokenStore",
        "SharedAuditStore",
        "rusqlite",
    ];
    assert_eq!(mentions(|path| !engines(path), &words), [""; 0]);
}

#[test]
fn only_certificates_and_clients_know_the_tls_library() {
    let places = |path: &str| {
        !path.starts_with("src/tls") && !["src/http_client.rs", "src/cli/trust.rs"].contains(&path)
    };
    assert_eq!(mentions(places, &["rustls", "x509"]), [""; 0]);
}

#[test]
fn every_file_opens_by_saying_what_it_owns() {
    let silent: Vec<_> = sources()
        .into_iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.path)
        .collect();
    assert_eq!(silent, [""; 0]);
}

#[test]
fn registrar_and_reconciler_know_no_http_no_grpc_and_no_engine() {
    let places = |path: &str| path.starts_with("src/registrar") || path == "src/reconcile.rs";
    assert_eq!(
        mentions(places, &["reqwest", "axum", "hyper", "grpc::", "tonic", "sqlite"]),
        [""; 0]
    );
}

#[test]
fn the_client_of_heygens_api_knows_nothing_of_ours() {
    let places = |path: &str| path.starts_with("src/heygen");
    assert_eq!(
        mentions(places, &["endpoints::", "log::", "grpc::", "tonic", "sqlite"]),
        [""; 0]
    );
}
