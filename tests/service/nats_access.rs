//! Whom NATS servers let in. Claims that a replica gets to servers which ask for an nkey, for credentials or for a certificate,
//! and that one without is told so. Needs nats-server, so `tests/run` runs it and a plain `cargo test` does not.

use std::{fs, path::PathBuf, sync::Arc};

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    authority::Authority,
    cluster::{SECRET, refusal, replica_at, with_endpoint},
    harness::body,
    nats::Nats,
};

/// A file that only its owner reads.
fn written(directory: &TempDir, name: &str, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// That a replica with these flags stores what is delivered.
async fn assert_let_in(url: &str, flags: &[&str]) {
    let service = replica_at(url, Arc::new(tempfile::tempdir().unwrap()), flags, &[]);
    with_endpoint(&service).await;
    let sender = service.sender("dev", SECRET);
    assert_eq!(sender.deliver(body("avatar_video.success", 1)).await, 200);
    assert_eq!(service.stored().await.len(), 1);
}

#[tokio::test]
#[ignore = "needs nats-server: see tests/run"]
async fn servers_that_ask_for_an_nkey_let_in_who_has_its_seed() {
    let directory = tempfile::tempdir().unwrap();
    let (user, stranger) = (KeyPair::new_user(), KeyPair::new_user());
    let users = format!("authorization {{ users: [ {{ nkey: {} }} ] }}", user.public_key());
    let nats = Nats::start(1, "", &users);
    let seed = written(&directory, "seed", &user.seed().unwrap());
    assert_let_in(&nats.url(), &["--jetstream-nkey-file", seed.to_str().unwrap()]).await;

    let seed = written(&directory, "stranger", &stranger.seed().unwrap());
    let refused = refusal(&[
        "--jetstream-url",
        &nats.url(),
        "--jetstream-nkey-file",
        seed.to_str().unwrap(),
    ]);
    assert!(refused.contains("authorization violation"), "{refused}");
    assert!(!refused.contains(&stranger.seed().unwrap()), "{refused}");
}

/// What `issuer` says of `subject`, as NATS takes it: a JWT, signed with its nkey.
fn claim(issuer: &KeyPair, subject: &KeyPair, about: Value) -> String {
    let part = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let claims = json!({
        "iss": issuer.public_key(), "sub": subject.public_key(), "name": "test", "jti": "test", "iat": 1_700_000_000, "nats": about,
    });
    let signed = format!(
        "{}.{}",
        part(json!({"typ": "JWT", "alg": "ed25519-nkey"})),
        part(claims)
    );
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

/// A user's JWT and seed in the form of a credentials file.
fn credentials(account: &KeyPair, user: &KeyPair) -> String {
    let about =
        json!({"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2});
    format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        claim(account, user, about),
        user.seed().unwrap()
    )
}

#[tokio::test]
#[ignore = "needs nats-server: see tests/run"]
async fn servers_of_an_operator_let_in_who_has_credentials_of_their_account() {
    let directory = tempfile::tempdir().unwrap();
    let (operator, account, user) = (
        KeyPair::new_operator(),
        KeyPair::new_account(),
        KeyPair::new_user(),
    );
    let system = KeyPair::new_account();
    let account_of = |subject: &KeyPair, storage: i64| {
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
            "mem_storage": storage, "disk_storage": storage, "streams": storage, "consumer": storage,
        });
        let about = json!({"limits": limits, "type": "account", "version": 2});
        format!("{}: {}", subject.public_key(), claim(&operator, subject, about))
    };
    let settings = format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n{}\n{}\n}}\n",
        claim(&operator, &operator, json!({"type": "operator", "version": 2})),
        system.public_key(),
        account_of(&account, -1),
        account_of(&system, 0)
    );
    let nats = Nats::start(1, "", &settings);
    let file = written(&directory, "creds", &credentials(&account, &user));
    assert_let_in(
        &nats.url(),
        &["--jetstream-credentials-file", file.to_str().unwrap()],
    )
    .await;

    // An account that the servers do not know.
    let file = written(
        &directory,
        "foreign",
        &credentials(&KeyPair::new_account(), &user),
    );
    let refused = refusal(&[
        "--jetstream-url",
        &nats.url(),
        "--jetstream-credentials-file",
        file.to_str().unwrap(),
    ]);
    assert!(refused.contains("authorization violation"), "{refused}");
    assert!(!refused.contains(&user.seed().unwrap()), "{refused}");
    // A file that holds none.
    let file = written(&directory, "empty", "");
    let refused = refusal(&[
        "--jetstream-url",
        &nats.url(),
        "--jetstream-credentials-file",
        file.to_str().unwrap(),
    ]);
    assert!(
        refused.contains("the credentials in") && refused.contains("cannot be read"),
        "{refused}"
    );
}

#[tokio::test]
#[ignore = "needs nats-server: see tests/run"]
async fn servers_that_ask_for_a_certificate_let_in_who_has_one_of_their_authority() {
    let directory = tempfile::tempdir().unwrap();
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let authority = written(&directory, "authority.pem", &ours.pem());
    let (certificate, key) = ours
        .server("nats.example.com", 2100)
        .write(directory.path(), "server");
    let tls = format!(
        "tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {authority:?}, verify: true }}"
    );
    let nats = Nats::start(1, "", &tls);
    let url = nats.url().replace("nats://", "tls://");
    let flags = |certificate: &PathBuf, key: &PathBuf, authority: &PathBuf| {
        let files = [
            ("--jetstream-client-certificate-file", certificate),
            ("--jetstream-client-key-file", key),
            ("--jetstream-ca-file", authority),
        ];
        files
            .iter()
            .flat_map(|(flag, path)| [(*flag).to_owned(), path.display().to_string()])
            .collect::<Vec<_>>()
    };
    let (certificate, key) = ours
        .client("spiffe://example.com/replica", 2100)
        .write(directory.path(), "replica");
    let good = flags(&certificate, &key, &authority);
    assert_let_in(&url, &good.iter().map(String::as_str).collect::<Vec<_>>()).await;

    // Servers of another authority are not believed, and clients of another are not let in.
    let another = written(&directory, "other.pem", &other.pem());
    let (foreign, foreign_key) = other
        .client("spiffe://example.com/replica", 2100)
        .write(directory.path(), "foreign");
    for (flags, expected) in [
        (flags(&certificate, &key, &another), "invalid peer certificate"),
        (
            flags(&foreign, &foreign_key, &authority),
            "can be used: check --jetstream-url, the credentials",
        ),
    ] {
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        let refused = refusal(&[&["--jetstream-url", &url], &flags[..]].concat());
        assert!(refused.contains(expected), "{refused}");
    }
}
