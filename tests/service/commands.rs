//! The commands from a shell. Claims about what they print and how they end.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::harness::{FREE_PORTS, Hookstream, binary, body, finish, run, standing};

fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn dev_shows_every_sample_as_it_was_received_and_ends_well() {
    let (status, output, error) = run(&[&["dev", "--exit"], &FREE_PORTS[..]].concat());
    assert!(status.success(), "{error}");
    for known in &hookstream::event_type::EVENT_TYPES {
        assert_eq!(
            output.matches(&format!("  {} ", known.name)).count(),
            1,
            "{}",
            known.name
        );
    }
    assert!(output.contains("30 of 30 arrived, in order, once."));
}

#[tokio::test]
async fn the_commands_work_together() {
    let service = Hookstream::start();
    let server = format!("http://{}", service.grpc);
    let url = format!("http://{}/webhooks/prod", service.ingress);
    let at = ["--server", server.as_str()];
    let ok = |args: &[&str]| {
        let (status, output, error) = run(args);
        assert!(status.success(), "{args:?}: {error}");
        output
    };
    let created = ok(&[
        &[
            "endpoint",
            "create",
            "prod",
            "--events",
            "avatar_video.*,*.fail",
            "--json",
        ],
        &at[..],
    ]
    .concat());
    let created: Value = serde_json::from_str(&created).unwrap();
    let secret = created["create"]["secret"].as_str().unwrap();
    assert_eq!(
        created["create"]["endpoint"]["eventTypes"],
        serde_json::json!(["avatar_video.*", "*.fail"])
    );
    let mut secret_file = tempfile::NamedTempFile::new().unwrap();
    writeln!(secret_file, "{secret}").unwrap();
    let secret_path = secret_file.path().to_str().unwrap();

    let deliver = ["deliver", "--url", &url, "--secret-file", secret_path];
    ok(&[&deliver[..], &["avatar_video.success", "--count", "3"]].concat());
    let data = r#"{"video_id":"v1","msg":"no","callback_id":"order_1"}"#;
    ok(&[&deliver[..], &["avatar_video.fail", "--data", data]].concat());

    let listed = json_lines(&ok(&[&["events", "list", "--json"], &at[..]].concat()));
    assert_eq!(listed.len(), 4);
    assert_eq!(listed[0]["typeName"], "avatar_video.fail");
    assert_eq!(listed[0]["type"], "EVENT_TYPE_AVATAR_VIDEO_FAIL");
    assert_eq!(listed[0]["avatarVideoFail"]["msg"], "no");
    assert_eq!(listed[0]["eventData"]["video_id"], "v1");
    let id = listed[0]["id"].as_str().unwrap();
    let got = json_lines(&ok(&[&["events", "get", id], &at[..]].concat()));
    assert_eq!(got[0], listed[0]);

    let tail = json_lines(&ok(
        &[&["tail", "--from-start", "--stop-at-tail"], &at[..]].concat()
    ));
    assert_eq!(
        tail.iter().rev().collect::<Vec<_>>(),
        listed.iter().collect::<Vec<_>>()
    );
    let cursor = tail[2]["cursor"].as_str().unwrap();
    let rest = json_lines(&ok(
        &[&["tail", "--after", cursor, "--stop-at-tail"], &at[..]].concat()
    ));
    assert_eq!(rest, tail[3..]);
    let failures = ok(&[
        &["tail", "--since", "1h", "--type", "*.fail", "--count", "1"],
        &at[..],
    ]
    .concat());
    assert_eq!(json_lines(&failures), tail[3..]);
    let awaited = ok(&[&["await", "--callback-id", "order_1", "--since", "1h"], &at[..]].concat());
    assert_eq!(json_lines(&awaited), tail[3..]);
    let (status, _, error) =
        run(&[&["await", "--callback-id", "other", "--timeout", "1s"], &at[..]].concat());
    assert_eq!(status.code(), Some(2));
    assert!(error.contains("NO_EVENT_IN_TIME"), "{error}");

    let rotated = ok(&[&["endpoint", "rotate-secret", "prod", "--overlap", "0s"], &at[..]].concat());
    assert!(rotated.contains("whsec_"));
    let (status, output, _) = run(&[&deliver[..], &["avatar_video.fail"]].concat());
    assert!(
        !status.success() && output.starts_with("401 "),
        "the old secret is refused: {output}"
    );
    assert!(ok(&[&["endpoint", "list"], &at[..]].concat()).contains("prod"));
    assert!(!ok(&[&["endpoint", "get", "prod"], &at[..]].concat()).contains("whsec_"));
    ok(&[&["endpoint", "update", "prod", "--events", ""], &at[..]].concat());
    ok(&[&["endpoint", "delete", "prod"], &at[..]].concat());
    let (status, _, error) = run(&[&["endpoint", "get", "prod"], &at[..]].concat());
    assert!(
        !status.success() && error.contains("ENDPOINT_NOT_FOUND"),
        "{error}"
    );
    assert_eq!(
        json_lines(&ok(&[&["events", "types"], &at[..]].concat())).len(),
        30
    );
}

#[tokio::test]
async fn a_secret_goes_to_the_file_that_is_asked_for_and_nowhere_else() {
    let service = Hookstream::start();
    // HOST:PORT will do.
    let server = service.grpc.to_string();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let save = |name: &str, path: &str, more: &[&str]| {
        let create = [
            "endpoint",
            "create",
            name,
            "--server",
            &server,
            "--save-secret",
            path,
        ];
        run(&[&create, more].concat())
    };
    let saved = path("prod.secret");
    for (name, more) in [("prod", &[][..]), ("test", &["--json"][..])] {
        let (status, output, error) = save(name, &saved, more);
        let secret = std::fs::read_to_string(&saved).unwrap();
        assert!(
            status.success() && !output.contains(secret.trim_end()),
            "{output}{error}"
        );
        let mode = std::fs::metadata(&saved).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let url = format!("http://{}/webhooks/{name}", service.ingress);
        let deliver = [
            "deliver",
            "avatar_video.fail",
            "--url",
            &url,
            "--secret-file",
            &saved,
        ];
        assert!(run(&deliver).0.success());
        // A file that is there is left alone, and nothing is made that nobody would know the secret of.
        let (status, _, error) = save("other", &saved, &[]);
        assert!(!status.success() && error.contains(&saved), "{error}");
        assert_eq!(std::fs::read_to_string(&saved).unwrap(), secret);
        std::fs::remove_file(&saved).unwrap();
    }
    let (status, _, error) = save("prod", &saved, &[]);
    assert!(!status.success() && error.contains("rotate-secret"), "{error}");
    assert!(!std::path::Path::new(&saved).exists());
    let (_, listed, _) = run(&["endpoint", "list", "--server", &server]);
    assert!(!listed.contains("other"), "{listed}");

    let (token, scope) = (path("token"), "events:read");
    let create = [
        "token",
        "create",
        "t",
        "--scope",
        scope,
        "--server",
        &server,
        "--save-token",
        &token,
    ];
    let (status, output, error) = run(&create);
    let token = std::fs::read_to_string(&token).unwrap();
    assert!(
        status.success() && !output.contains(token.trim_end()),
        "{output}{error}"
    );
    assert!(token.len() > 32);
}

#[tokio::test]
async fn a_slip_is_answered_with_what_to_do() {
    let service = Hookstream::start();
    service.endpoint("prod").await;
    let mut wrong = tempfile::NamedTempFile::new().unwrap();
    writeln!(wrong, "whsec_wrong").unwrap();
    let wrong = wrong.path().to_str().unwrap();
    let (grpc, ingress) = (service.grpc.to_string(), service.ingress.to_string());
    let url = |path: &str| format!("http://{ingress}{path}");
    let (here, elsewhere) = (url("/webhooks/prod"), url("/webhooks/prd"));
    let deliver = |event_type, url| ["deliver", event_type, "--url", url, "--secret-file", wrong];
    let cases: [(&[&str], &str); 4] = [
        (
            &deliver("avatar_video.sucess", &here),
            "did you mean `avatar_video.success`?",
        ),
        (&deliver("avatar_video.success", &here), "rotate-secret"),
        (
            &deliver("avatar_video.success", &elsewhere),
            "hookstream endpoint list",
        ),
        (&["tail", "--server", &ingress], "port 50051"),
    ];
    for (args, advice) in cases {
        let (status, output, error) = run(args);
        assert!(!status.success(), "{args:?}");
        assert!((output + &error).contains(advice), "{args:?}: {error}");
    }
    let (status, _, error) = run(&["events", "list", "--server", &grpc, "--type", "invoice.paid"]);
    assert!(
        status.success() && error.contains("hookstream events types"),
        "{error}"
    );
}

#[tokio::test]
async fn a_command_for_each_event_ends_when_nobody_reads_what_it_says() {
    let service = Hookstream::start();
    let sender = service.endpoint("prod").await;
    for number in 0..20 {
        assert_eq!(sender.deliver(body("avatar_video.success", number)).await, 200);
    }
    let start = Command::new(binary())
        .args([
            "subscription",
            "create",
            "work",
            "--from-start",
            "--server",
            &service.grpc.to_string(),
        ])
        .output();
    assert!(start.unwrap().status.success());
    let pipeline = format!(
        "'{}' tail --server {} --subscription work --exec 'echo $HOOKSTREAM_EVENT_ID' | head -n 3",
        binary().display(),
        service.grpc
    );
    let output = finish(Command::new("sh").args(["-c", &pipeline]));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 3);
    let standing = standing(&service.client().await, "work").await;
    // Three were done; what the pipe broke under was one attempt of one event, not all of many.
    assert!(
        standing.backlog >= 15 && standing.dead_letters == 0,
        "{standing:?}"
    );
}

#[tokio::test]
async fn tail_goes_on_where_it_stopped_when_the_service_comes_back() {
    let first = Hookstream::start();
    let sender = first.endpoint("dev").await;
    let secret = sender.secret.expose().to_owned();
    let (grpc, ingress) = (first.grpc.to_string(), first.ingress.to_string());
    sender.deliver(body("avatar_video.success", 1)).await;
    let mut tail = Command::new(binary())
        .args([
            "tail",
            "--from-start",
            "--count",
            "3",
            "--server",
            &format!("http://{grpc}"),
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let mut next =
        || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap()["sequence"].clone();
    assert_eq!(next(), "1");
    let listeners = ["--grpc-listen", &grpc, "--ingress-listen", &ingress];
    let second = Hookstream::start_in(first.kill(), &listeners, &Default::default());
    let sender = second.sender("dev", &secret);
    for number in [2, 3] {
        sender.deliver(body("avatar_video.success", number)).await;
    }
    assert_eq!((next(), next()), ("2".into(), "3".into()));
    assert!(tail.wait().unwrap().success());
}

#[test]
fn config_is_checked_and_printed() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(
        file,
        "retention-age = \"7days\"\ngrpc-listen = \"0.0.0.0:1\"\nretention = 1"
    )
    .unwrap();
    let path = file.path().to_str().unwrap();
    let (status, _, error) = run(&["config", "check", "--config", path]);
    assert!(
        !status.success() && error.contains("`retention` is not a setting"),
        "{error}"
    );
    let (status, output, _) = run(&["config", "print", "--retention-size", "1GiB"]);
    assert!(status.success());
    assert!(
        output.contains(r#"retention-size = "1GiB""#) && output.contains("# --retention-size"),
        "{output}"
    );
    let table: toml::Table = output.parse().expect("what is printed can be read again");
    assert_eq!(table["grpc-listen"].as_str(), Some("127.0.0.1:50051"));
}

#[test]
fn every_command_explains_itself() {
    for command in [
        &["dev"][..],
        &["serve"],
        &["deliver"],
        &["tail"],
        &["events", "list"],
        &["events", "get"],
        &["await"],
        &["endpoint", "create"],
        &["endpoint", "rotate-secret"],
        &["config", "check"],
        &["config", "print"],
    ] {
        let (status, output, _) = run(&[command, &["--help"]].concat());
        assert!(status.success());
        assert!(output.contains("Example"), "{command:?} has no example");
    }
}

#[test]
fn shells_and_man_are_told_of_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let (status, script, _) = run(&["completions", shell]);
        assert!(status.success());
        assert!(script.contains("dead-letters"), "{shell}");
    }
    let directory = tempfile::tempdir().unwrap();
    let (status, _, error) = run(&["man", directory.path().join("man1").to_str().unwrap()]);
    assert!(status.success(), "{error}");
    let page = std::fs::read_to_string(directory.path().join("man1/hookstream-log-export.1")).unwrap();
    assert!(page.contains("hookstream log export"), "{page}");
}

#[tokio::test]
async fn events_are_printed_as_cloud_events_too() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    assert_eq!(sender.deliver(body("avatar_video.fail", 1)).await, 200);
    let server = format!("http://{}", service.grpc);
    let at = ["--server", server.as_str(), "--output", "cloudevents"];
    let tail = ["tail", "--from-start", "--stop-at-tail"];
    for command in [&tail[..], &["events", "list"], &["await", "--since", "1h"]] {
        let (status, output, error) = run(&[command, &at[..]].concat());
        assert!(status.success(), "{error}");
        let printed = json_lines(&output);
        assert_eq!(printed.len(), 1);
        assert_eq!(printed[0]["specversion"], "1.0");
        assert_eq!(printed[0]["type"], "com.heygen.avatar_video.fail");
        assert_eq!(printed[0]["data"]["video_id"], printed[0]["subject"]);
    }
}
