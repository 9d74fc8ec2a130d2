//! The process: start, readiness, damaged and foreign directories, end. Claims about what an operator meets.

use std::{collections::HashMap, fs, process::Stdio, sync::Arc, time::Duration};

use tempfile::TempDir;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::harness::{FREE_PORTS, Hookstream, PATIENCE, body, run, until};

/// Starts a service that must not start; what it says.
fn fail_to_start(args: &[&str]) -> String {
    let (status, _, error) = run(&[&["serve"], args, &FREE_PORTS].concat());
    assert!(!status.success());
    assert!(error.starts_with("error: "), "{error}");
    error
}

async fn filled() -> (Arc<TempDir>, String) {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    for number in 0..20 {
        assert_eq!(sender.deliver(body("avatar_video.success", number)).await, 200);
    }
    let secret = sender.secret.expose().to_owned();
    (service.drain(), secret)
}

#[tokio::test]
async fn is_ready_healthy_and_measured_once_it_says_so() {
    let service = Hookstream::start();
    assert_eq!(service.admin("/livez").await.0, 200);
    let ready = "ready\nan event is synced to this machine's disk before it is answered\n";
    assert_eq!(service.admin("/readyz").await, (200, ready.to_owned()));
    let sender = service.endpoint("dev").await;
    sender.deliver(body("avatar_video.success", 1)).await;
    assert_eq!(
        service
            .metric(r#"hookstream_deliveries_total{outcome="stored"}"#)
            .await,
        1.0
    );
    assert_eq!(service.metric("hookstream_log_commit_events_count").await, 1.0);
    let mut health = HealthClient::new(service.channel().await);
    let request = HealthCheckRequest {
        service: "hookstream.v1.HookstreamService".into(),
    };
    let answer = health.check(request.clone()).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    let mut watch = health.watch(request).await.unwrap().into_inner();
    assert_eq!(
        watch.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    // A delivery whose body does not come keeps the drain from ending at once.
    let _slow = service.begin_delivery().await;
    service.until_in_flight(1.0).await;
    service.signal("TERM");
    let falls = async {
        while let Ok(Some(answer)) = watch.message().await {
            if answer.status() == ServingStatus::NotServing {
                return true;
            }
        }
        false
    };
    assert!(
        tokio::time::timeout(PATIENCE, falls).await.unwrap(),
        "NOT_SERVING is told while draining"
    );
    let (status, text) = service.admin("/readyz").await;
    assert_eq!((status, text.as_str()), (503, "not ready: draining\n"));
}

#[test]
fn two_processes_do_not_share_a_directory() {
    let service = Hookstream::start();
    let data_dir = service.data_dir();
    let error = fail_to_start(&["--data-dir", data_dir.to_str().unwrap()]);
    assert!(error.contains("is in use by another hookstream"), "{error}");
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let below_a_file = file.path().join("data");
    let error = fail_to_start(&["--data-dir", below_a_file.to_str().unwrap()]);
    assert!(
        error.contains("cannot be written") && error.contains("--data-dir"),
        "{error}"
    );
    // A file system that refuses writes also to root.
    let error = fail_to_start(&["--data-dir", "/proc/hookstream"]);
    assert!(error.contains("cannot be written"), "{error}");
}

#[test]
fn a_taken_port_is_named_with_its_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (status, _, error) = run(&[
        "serve",
        "--grpc-listen",
        &address,
        "--ingress-listen",
        "127.0.0.1:0",
    ]);
    assert!(!status.success());
    assert!(
        error.contains(&address) && error.contains("--grpc-listen"),
        "{error}"
    );
}

#[tokio::test]
async fn a_damaged_log_is_refused_and_left_as_it_is() {
    let (directory, _) = filled().await;
    let log = directory.path().join("data/log.db");
    fs::write(&log, vec![0x55; 64 * 1024]).unwrap();
    let error = fail_to_start(&["--data-dir", directory.path().join("data").to_str().unwrap()]);
    assert!(
        error.contains("log.db is damaged") && error.contains("backup"),
        "{error}"
    );
    assert_eq!(fs::read(&log).unwrap(), vec![0x55; 64 * 1024]);
}

#[tokio::test]
async fn a_missing_or_damaged_index_is_rebuilt_and_duplicates_are_still_known() {
    for damage in [None, Some(vec![0x55; 64 * 1024]), Some(Vec::new())] {
        let (directory, secret) = filled().await;
        let index = directory.path().join("data/index.db");
        match &damage {
            None => fs::remove_file(&index).unwrap(),
            Some(bytes) => fs::write(&index, bytes).unwrap(),
        }
        let service = Hookstream::start_in(directory, &[], &HashMap::new());
        let sender = service.sender("dev", &secret);
        for number in 0..20 {
            assert_eq!(sender.deliver(body("avatar_video.success", number)).await, 200);
        }
        assert_eq!(service.stored().await.len(), 20);
    }
}

#[tokio::test]
async fn a_damaged_record_is_data_loss_for_those_who_read_it_and_nobody_else() {
    let (directory, _) = filled().await;
    let log = directory.path().join("data/log.db");
    let mut bytes = fs::read(&log).unwrap();
    let wanted = b"vid_0000000000000005";
    let at: Vec<_> = bytes
        .windows(wanted.len())
        .enumerate()
        .filter(|(_, part)| part == wanted)
        .collect();
    let places: Vec<_> = at.into_iter().map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    for place in places {
        bytes[place] ^= 0x20;
    }
    fs::write(&log, bytes).unwrap();
    let service = Hookstream::start_in(directory, &[], &HashMap::new());
    let status = service
        .subscribe(crate::harness::from_start())
        .await
        .rest()
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::DataLoss);
    assert_eq!(crate::harness::metadata(&status, "sequence"), "6");
    let request = hookstream::grpc::proto::ListEventsRequest::default();
    assert_eq!(
        service
            .client()
            .await
            .list_events(request)
            .await
            .unwrap()
            .into_inner()
            .events
            .len(),
        10
    );
    let sender = service.endpoint("other").await;
    assert_eq!(sender.deliver(body("avatar_video.success", 99)).await, 200);
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let mut service = Hookstream::start();
    service.endpoint("dev").await;
    let _slow = service.begin_delivery().await;
    service.until_in_flight(1.0).await;
    service.signal("TERM");
    until("it says that it drains", async || {
        service.output().contains("draining")
    })
    .await;
    service.signal("INT");
    assert_eq!(service.wait(Duration::from_secs(2)).code(), Some(1));
}

#[test]
fn commands_that_reach_nobody_say_what_to_do() {
    let child = std::process::Command::new(crate::harness::binary())
        .args(["tail", "--server", "http://127.0.0.1:1"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let error = String::from_utf8(child.stderr).unwrap();
    assert!(!child.status.success());
    assert!(error.contains("is `hookstream serve` running there?"), "{error}");
}
