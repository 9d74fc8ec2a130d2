//! Subscriptions from a shell. Claims about `hookstream subscription` and `hookstream tail --subscription`.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::harness::{Hookstream, Sender, binary, body, finish, run, until};

/// A service with an endpoint, and commands that talk to it.
struct Shell {
    service: Hookstream,
    sender: Sender,
    server: String,
}

impl Shell {
    async fn start() -> Self {
        let service = Hookstream::start();
        let sender = service.endpoint("dev").await;
        let server = format!("http://{}", service.grpc);
        Self {
            service,
            sender,
            server,
        }
    }

    async fn deliver(&self, event_type: &str, number: u64) {
        assert_eq!(self.sender.deliver(body(event_type, number)).await, 200);
    }

    /// Runs a command that has to succeed; its output.
    fn ok(&self, args: &[&str]) -> String {
        let (status, output, error) = run(&[args, &["--server", &self.server]].concat());
        assert!(status.success(), "{args:?}: {error}");
        output
    }

    /// Runs a command that has to fail; what it complains of.
    fn fails(&self, args: &[&str]) -> String {
        let (status, _, error) = run(&[args, &["--server", &self.server]].concat());
        assert!(!status.success(), "{args:?}");
        error
    }

    fn get(&self) -> Value {
        let got = self.ok(&["subscription", "get", "billing", "--json"]);
        let got: Value = serde_json::from_str(&got).unwrap();
        got["get"]["subscription"].clone()
    }

    /// Runs `tail --subscription billing`.
    fn tail(&self, args: &[&str]) -> (String, String) {
        let mut command = Command::new(binary());
        command.args(["tail", "--subscription", "billing", "--server", &self.server]);
        let output = finish(command.args(args));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (output, error) = (text(output.stdout), text(output.stderr));
        (output, error)
    }
}

/// The entity of the `number`th sample, which tells it from others.
fn entity(number: u64) -> String {
    format!("{number:016x}")
}

#[tokio::test]
async fn a_subscription_is_made_shown_changed_moved_and_removed() {
    let shell = Shell::start().await;
    shell.deliver("avatar_video.success", 1).await;
    let created = shell.ok(&[
        "subscription",
        "create",
        "billing",
        "--type",
        "avatar_video.*",
        "--from-start",
        "--ack-deadline",
        "1min",
        "--ordering",
        "per-entity",
        "--label",
        "team=money",
    ]);
    for line in [
        "name            billing",
        "events          type avatar_video.*",
        "ack deadline    1m",
        "attempts        10, then dead-letter",
        "ordering        per-entity",
        "labels          team=money",
        "backlog         1, of these 0 in flight",
    ] {
        assert!(created.lines().any(|one| one == line), "{line} in\n{created}");
    }
    assert!(
        shell
            .fails(&["subscription", "create", "billing"])
            .contains("SUBSCRIPTION_EXISTS")
    );
    let listed = shell.ok(&["subscription", "list", "--json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["name"], "billing");
    assert_eq!(listed["status"]["backlog"], "1");

    shell.ok(&[
        "subscription",
        "update",
        "billing",
        "--all-events",
        "--max-attempts",
        "3",
    ]);
    let changed = shell.get();
    assert_eq!(
        (&changed["maxAttempts"], &changed["ackDeadline"]),
        (&3.into(), &"60s".into())
    );
    assert_eq!(changed["filter"], serde_json::json!({}));
    assert!(
        shell
            .fails(&["subscription", "update", "billing"])
            .contains("nothing is to be changed")
    );

    shell.ok(&["subscription", "seek", "billing", "--to-end"]);
    assert!(shell.get()["status"].get("backlog").is_none());
    shell.ok(&["subscription", "seek", "billing", "--since", "1h"]);
    assert_eq!(shell.get()["status"]["backlog"], "1");
    assert!(
        shell
            .fails(&["subscription", "seek", "billing"])
            .contains("--to-end")
    );

    shell.ok(&["subscription", "delete", "billing"]);
    assert!(
        shell
            .fails(&["subscription", "get", "billing"])
            .contains("SUBSCRIPTION_NOT_FOUND")
    );
}

#[tokio::test]
async fn tail_acknowledges_what_it_printed_and_nothing_else() {
    let shell = Shell::start().await;
    shell.ok(&["subscription", "create", "billing", "--min-retry-delay", "0s"]);
    for number in 0..3 {
        shell.deliver("avatar_video.success", number).await;
    }
    let mut entities = Vec::new();
    for count in [1, 2] {
        let (output, error) = shell.tail(&["--count", &count.to_string()]);
        assert_eq!(output.lines().count(), count, "{error}");
        for line in output.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            entities.push(event["entityId"].as_str().unwrap().to_owned());
        }
    }
    for (number, entity_id) in (0..).zip(&entities) {
        assert!(entity_id.ends_with(&entity(number)), "{entities:?}");
    }
    assert!(shell.get()["status"].get("backlog").is_none());
}

#[tokio::test]
async fn a_commands_exit_status_is_the_acknowledgement() {
    let shell = Shell::start().await;
    shell.ok(&["subscription", "create", "billing", "--min-retry-delay", "0s"]);
    shell.deliver("avatar_video.success", 0).await;
    shell.deliver("avatar_video.fail", 1).await;
    shell.deliver("batch.finished", 2).await;
    // Done; never; the first attempt fails, the second is done.
    let command = r#"read -r event
        case "$HOOKSTREAM_EVENT_TYPE $HOOKSTREAM_DELIVERY_ATTEMPT" in
            "avatar_video.fail "*) exit 65 ;;
            "batch.finished 1") exit 3 ;;
        esac
        echo "$HOOKSTREAM_EVENT_ID $event""#;
    let (output, error) = shell.tail(&["--count", "4", "--exec", command]);
    let handled: Vec<_> = output
        .lines()
        .map(|line| {
            let (id, event) = line.split_once(' ').unwrap();
            let event: Value = serde_json::from_str(event).unwrap();
            assert_eq!(event["id"], id);
            event["typeName"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(handled, ["avatar_video.success", "batch.finished"], "{error}");
    assert!(
        error.contains("attempt 1: the command ended with exit status: 65; it is put aside"),
        "{error}"
    );
    assert!(
        error.contains("attempt 1: the command ended with exit status: 3; it is tried again"),
        "{error}"
    );

    let letters = shell.ok(&["subscription", "dead-letters", "list", "billing", "--json"]);
    let letter: Value = serde_json::from_str(&letters).unwrap();
    assert_eq!(letter["event"]["typeName"], "avatar_video.fail");
    assert_eq!(letter["deadLetter"]["reason"], "DEAD_LETTER_REASON_REJECTED");
    let id = letter["event"]["id"].as_str().unwrap();
    let replayed = shell.ok(&["subscription", "dead-letters", "replay", "billing", id]);
    assert_eq!(replayed, "1 are handed out again, 0 stay put aside\n");
    let (_, error) = shell.tail(&["--count", "1", "--exec", "exit 65"]);
    assert!(error.contains(id), "{error}");
    let refused = shell.fails(&["subscription", "dead-letters", "discard", "billing"]);
    assert!(refused.contains("--all"), "{refused}");
    let discarded = shell.ok(&["subscription", "dead-letters", "discard", "billing", "--all"]);
    assert_eq!(discarded, "1 are forgotten, 0 stay put aside\n");
}

#[tokio::test]
async fn an_event_that_no_variable_can_hold_is_handled_like_any_other() {
    let shell = Shell::start().await;
    shell.ok(&["subscription", "create", "billing"]);
    let body = r#"{"event_type":"avatar_video.success","event_data":{"video_id":"a\u0000b"}}"#;
    assert_eq!(shell.sender.deliver(body).await, 200);
    let (output, error) = shell.tail(&["--count", "1", "--exec", "cat"]);
    let event: Value = serde_json::from_str(&output).unwrap_or_else(|_| panic!("{error}"));
    assert_eq!(event["eventData"]["video_id"], "a\0b");
    assert!(shell.get()["status"].get("backlog").is_none());
}

#[tokio::test]
async fn a_command_may_take_longer_than_the_deadline() {
    let shell = Shell::start().await;
    shell.ok(&["subscription", "create", "billing", "--ack-deadline", "1s"]);
    shell.deliver("avatar_video.success", 0).await;
    let (output, error) = shell.tail(&["--count", "1", "--exec", "sleep 2.5; echo done"]);
    assert_eq!((output.as_str(), error.as_str()), ("done\n", ""));
    let metric = "hookstream_subscription_redeliveries_total{subscription=\"billing\"}";
    assert_eq!(shell.service.metric(metric).await, 0.0);
    assert!(shell.get()["status"].get("backlog").is_none());
}

#[tokio::test]
async fn a_tail_that_is_ended_ends_its_commands_and_gives_back_what_it_holds() {
    let shell = Shell::start().await;
    shell.ok(&["subscription", "create", "billing"]);
    shell.deliver("avatar_video.success", 0).await;
    let mut tail = Command::new(binary())
        .args(["tail", "--subscription", "billing", "--server", &shell.server])
        .args(["--exec", "sleep 600 & echo $!; wait"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(tail.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    let command = format!("/proc/{}/stat", line.trim_end());
    let status = Command::new("kill").arg(tail.id().to_string()).status();
    assert!(status.unwrap().success());
    assert_eq!(tail.wait().unwrap().code(), Some(130));
    until("the command has ended", async || {
        let stat = std::fs::read_to_string(&command);
        stat.map_or(true, |stat| stat.contains(") Z "))
    })
    .await;
    until("the event is given back", async || {
        let status = shell.get()["status"].clone();
        status["backlog"] == "1" && status.get("inFlight").is_none()
    })
    .await;
}

#[tokio::test]
async fn a_subscription_has_a_filter_and_a_place_of_its_own() {
    let shell = Shell::start().await;
    for other in [
        &["--type", "*.fail"][..],
        &["--from-start"],
        &["--stop-at-tail"],
        &["--after", "x"],
    ] {
        let args = [&["tail", "--subscription", "billing"], other].concat();
        assert!(shell.fails(&args).contains("cannot be used with"), "{other:?}");
    }
    let alone = shell.fails(&["tail", "--exec", "true"]);
    assert!(alone.contains("--subscription"), "{alone}");
    let missing = shell.fails(&["tail", "--subscription", "nobody"]);
    assert!(missing.contains("SUBSCRIPTION_NOT_FOUND"), "{missing}");
}
