//! A disk that fails. Claims about I1 when writes and syncs go wrong, with a small library in front of the C library that
//! makes them fail while a file exists.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hookstream::grpc::proto::{AcknowledgementResult::Late, Subscription};
use tonic::Code;

use crate::harness::{Hookstream, acknowledge, body, done, part_in, reason, until};

/// Builds the library; `cc` is there wherever this crate builds, because SQLite needs it.
pub fn library(directory: &Path) -> PathBuf {
    let library = directory.join("fault.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/service/faults/fault.c");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(source)
        .status();
    assert!(status.unwrap().success());
    library
}

/// A service on a disk that can be made to fail.
pub struct Disk {
    pub service: Hookstream,
    trigger: PathBuf,
    directory: Arc<tempfile::TempDir>,
}

impl Disk {
    pub fn start() -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let trigger = directory.path().join("trigger");
        let library = library(directory.path()).to_str().unwrap().to_owned();
        let variables = HashMap::from([
            ("LD_PRELOAD", library),
            ("FAULT_TRIGGER", trigger.to_str().unwrap().to_owned()),
        ]);
        let service = Hookstream::start_in(Arc::clone(&directory), &[], &variables);
        Self {
            service,
            trigger,
            directory,
        }
    }

    pub fn fail(&self, what: &str) {
        std::fs::write(&self.trigger, what).unwrap();
    }

    /// Kills the service and starts it again on the disk as it is, which no longer fails.
    pub fn kill_and_restart(self) -> Hookstream {
        self.service.kill();
        Hookstream::start_in(self.directory, &[], &HashMap::new())
    }

    fn heal(&self) {
        std::fs::remove_file(&self.trigger).unwrap();
    }
}

#[tokio::test]
async fn i1_a_failed_sync_closes_the_log_until_it_is_opened_again() {
    let disk = Disk::start();
    let sender = disk.service.endpoint("dev").await;
    assert_eq!(sender.deliver(body("avatar_video.success", 1)).await, 200);
    disk.fail("sync");
    assert_eq!(sender.deliver(body("avatar_video.success", 2)).await, 503);
    let (status, text) = disk.service.admin("/readyz").await;
    assert_eq!(status, 503);
    assert!(text.contains("closed for writing"), "{text}");
    disk.heal();
    assert_eq!(
        sender.deliver(body("avatar_video.success", 2)).await,
        503,
        "a second sync proves nothing"
    );
    let stored = disk.service.stored().await;
    assert_eq!(
        stored.len(),
        1,
        "reads go on, and show nothing that is not durable"
    );

    let secret = sender.secret.expose().to_owned();
    let service = disk.kill_and_restart();
    let sender = service.sender("dev", &secret);
    for number in 1..=3 {
        assert_eq!(sender.deliver(body("avatar_video.success", number)).await, 200);
    }
    let after = service.stored().await;
    assert_eq!(after.len(), 3);
    assert_eq!(after[0], stored[0]);
}

#[tokio::test]
async fn i1_a_full_disk_refuses_deliveries_until_there_is_room() {
    let disk = Disk::start();
    let sender = disk.service.endpoint("dev").await;
    assert_eq!(sender.deliver(body("avatar_video.success", 1)).await, 200);
    disk.fail("full");
    for number in 2..5 {
        assert_eq!(sender.deliver(body("avatar_video.success", number)).await, 503);
    }
    let (status, text) = disk.service.admin("/readyz").await;
    assert_eq!((status, text.as_str()), (503, "not ready: the disk is full\n"));
    disk.heal();
    // By itself: where a load balancer asks first, no delivery comes before it is ready.
    let ready = async || disk.service.admin("/readyz").await.0 == 200;
    until("the service is ready again", ready).await;
    for number in 2..5 {
        assert_eq!(sender.deliver(body("avatar_video.success", number)).await, 200);
    }
    assert_eq!(disk.service.stored().await.len(), 4);
    assert_eq!(
        disk.service
            .metric(r#"hookstream_deliveries_total{outcome="disk_full"}"#)
            .await,
        3.0
    );
}

#[tokio::test]
async fn i1_a_failing_write_is_never_answered_with_200() {
    let disk = Disk::start();
    let sender = disk.service.endpoint("dev").await;
    disk.fail("write");
    assert_eq!(sender.deliver(body("avatar_video.success", 1)).await, 503);
    disk.heal();
    let secret = sender.secret.expose().to_owned();
    let service = disk.kill_and_restart();
    assert_eq!(
        service
            .sender("dev", &secret)
            .deliver(body("avatar_video.success", 1))
            .await,
        200
    );
    assert_eq!(service.stored().await.len(), 1);
}

#[tokio::test]
async fn i1_a_lock_that_another_program_holds_passes_and_does_not_close_the_log() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    let other = rusqlite::Connection::open(service.data_dir().join("log.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(sender.deliver(body("avatar_video.success", 1)).await, 503);
    other.execute_batch("ROLLBACK").unwrap();
    let delivered = async || sender.deliver(body("avatar_video.success", 1)).await == 200;
    until("a delivery is stored", delivered).await;
    assert_eq!(service.stored().await.len(), 1);
    assert_eq!(service.admin("/readyz").await.0, 200);
}

/// A retry makes the writer read before it writes; what is written in between must not be a conflict.
#[tokio::test]
async fn i1_a_program_that_writes_beside_the_writer_does_not_close_the_log() {
    let service = Hookstream::start();
    let secret = service.endpoint("dev").await.secret.expose().to_owned();
    // The retries are known from the index only after a restart.
    for number in 0..16 {
        let sender = service.sender("dev", &secret);
        assert_eq!(sender.deliver(body("avatar_video.success", number)).await, 200);
    }
    let service = service.kill_and_restart();
    let sender = service.sender("dev", &secret);
    let (stop, path) = (
        Arc::new(AtomicBool::new(false)),
        service.data_dir().join("log.db"),
    );
    let other = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let other = rusqlite::Connection::open(path).unwrap();
            while !stop.load(Ordering::SeqCst) {
                other.execute_batch("UPDATE log SET trimmed = trimmed").unwrap();
            }
        }
    });
    for round in 1..=20 {
        let retries = (0..16).map(|number| sender.deliver(body("avatar_video.success", number)));
        let fresh = (0..16).map(|number| sender.deliver(body("avatar_video.fail", 100 * round + number)));
        let answers = futures_util::future::join_all(retries.chain(fresh)).await;
        assert_eq!(answers, [200; 32], "round {round}");
    }
    stop.store(true, Ordering::SeqCst);
    other.join().unwrap();
}

/// An acknowledgement on a disk that fails like this is refused, and holds once the disk is well.
async fn i9_an_acknowledgement_is_answered_when_it_is_on_disk_and_not_before(fault: &str) {
    let disk = Disk::start();
    let sender = disk.service.endpoint("dev").await;
    let terms = Subscription {
        min_retry_delay: Some(prost_types::Duration::default()),
        ..Subscription::default()
    };
    disk.service.subscription("work", terms).await;
    for number in 0..2 {
        assert_eq!(sender.deliver(body("avatar_video.success", number)).await, 200);
    }
    let mut stream = disk.service.subscribe(part_in("work")).await;
    let (first, second) = (stream.delivery().await, stream.delivery().await);
    let mut client = disk.service.client().await;
    disk.fail(fault);
    let refused = acknowledge(&mut client, "work", vec![first.ack_id.clone()], done()).await;
    let refused = refused.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unavailable, "LOG_UNAVAILABLE")
    );
    disk.heal();
    // It was taken note of, and is durable as soon as something can be.
    until("the repetition is answered", async || {
        let again = acknowledge(&mut client, "work", vec![first.ack_id.clone()], done()).await;
        again.is_ok_and(|results| results == [Late])
    })
    .await;
    let service = disk.kill_and_restart();
    let mut stream = service.subscribe(part_in("work")).await;
    let again = stream.delivery().await;
    assert_eq!(again.event, second.event);
    stream.silence().await;
}

#[tokio::test]
async fn i9_holds_on_a_full_disk() {
    i9_an_acknowledgement_is_answered_when_it_is_on_disk_and_not_before("full").await;
}

#[tokio::test]
async fn i9_holds_when_syncs_fail() {
    i9_an_acknowledgement_is_answered_when_it_is_on_disk_and_not_before("sync").await;
}
