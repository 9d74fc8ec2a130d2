//! Weeks of HeyGen with every fault at once, at one process and at two replicas. Claims that at the end both sides hold the same.

use std::time::{Duration, Instant};

use hookstream::{
    event_type::EVENT_TYPES,
    grpc::proto::{
        EndpointState,
        manage_endpoint_request::{Operation, Recreate},
    },
    stand_in::{Chances, Settings, SignatureHeader},
};
use tonic::Code;

use super::{
    NAME, Replicas, World, ask, compare, created, endpoint, reconcile, rotate, until_state, until_stored,
};
use crate::harness::{Hookstream, PATIENCE};

/// Thousands of events with every fault; one of our processes killed again and again; the secret rotated five times; the
/// endpoint disabled and registered anew. At the end both sides hold the same.
async fn week(seed: u64, replicas: Option<Replicas>) {
    const EVENTS: u64 = 2500;
    let carries_id = seed.is_multiple_of(2);
    let mut world = World::start(Settings {
        seed,
        bodies_carry_event_id: carries_id,
        header_name: if carries_id {
            SignatureHeader::HeygenSignature
        } else {
            SignatureHeader::Signature
        },
        unsigned_headers: carries_id,
        history_shape_differs: true,
        delivery_timeout: Duration::from_secs(2),
        retry_for: Duration::from_secs(20),
        ..Settings::default()
    })
    .await;
    world.flags = vec![
        "--heygen-check-interval",
        "200ms",
        "--reconcile-interval",
        "2s",
        "--reconcile-grace",
        "1s",
    ];
    let count = replicas.as_ref().map_or(1, |replicas| replicas.directories.len());
    world.replicas = replicas;
    let mut services: Vec<_> = (0..count).map(|number| world.serve_as(number)).collect();
    created(&services[0]).await;
    world.heygen.faults().set(Chances {
        duplicate: 0.1,
        reorder: 0.2,
        slow: 0.02,
        lose: 0.03,
        unknown_type: if carries_id { 0.02 } else { 0.0 },
        api_429: 0.03,
        api_500: 0.05,
        api_html_502: 0.03,
        api_lost_answer: 0.05,
        ..Chances::default()
    });
    let mut rotations = 0;
    for number in 0..EVENTS {
        let known = &EVENT_TYPES[(number % 30) as usize];
        world.heygen.emit(known.name, seed * 1_000_000 + number);
        if number % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if number % 500 == 250 {
            let killed = (number / 500) as usize % count;
            world.kill(killed, services.remove(killed));
            for late in 0..20 {
                world.heygen.emit(
                    "avatar_video.success",
                    seed * 1_000_000 + EVENTS + number * 20 + late,
                );
            }
            services.insert(killed, world.serve_as(killed));
        }
        let service = &services[(number / 480) as usize % count];
        if number % 480 == 479 {
            until_settled(service, rotate()).await;
            rotations += 1;
        }
        if number == EVENTS / 2 {
            let id = endpoint(service).await.provider_endpoint_id;
            world.heygen.disable(&id);
            until_state(service, EndpointState::Disabled).await;
            until_settled(service, Operation::Recreate(Recreate { name: NAME.into() })).await;
        }
    }
    assert_eq!(rotations, 5);
    world.heygen.faults().set(Chances::default());
    until_at_rest(&services[0]).await;
    world.heygen.settled().await;
    // The youngest entries come of age.
    tokio::time::sleep(Duration::from_secs(2)).await;
    reconcile(&services[0]).await;
    let count = world.heygen.history().len();
    for service in &services {
        compare(&world.heygen, &until_stored(service, count).await);
    }
    drop(services);
    world.end().await;
}

/// Asks for an operation and waits until it is done, by this call or by the service's own perseverance.
async fn until_settled(service: &Hookstream, operation: Operation) {
    let answer = ask(service, operation).await;
    if let Err(status) = answer {
        let passes = matches!(status.code(), Code::Unavailable | Code::ResourceExhausted);
        assert!(passes, "{status:?}");
    }
    until_at_rest(service).await;
}

async fn until_at_rest(service: &Hookstream) {
    let deadline = Instant::now() + 3 * PATIENCE;
    loop {
        let endpoint = endpoint(service).await;
        let rests = matches!(endpoint.state(), EndpointState::Active | EndpointState::Rotating);
        if rests && endpoint.state_reason.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{endpoint:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_i6_a_week_of_faults_ends_with_every_event_stored_once_when_bodies_carry_ids() {
    for seed in [2, 4] {
        week(seed, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_i6_a_week_of_faults_ends_with_every_event_stored_once_when_bodies_carry_no_ids() {
    for seed in [3, 5] {
        week(seed, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: see tests/run"]
async fn i1_i6_a_week_of_faults_at_two_replicas_ends_with_every_event_stored_once() {
    week(6, Some(Replicas::start().await)).await;
    week(7, Some(Replicas::start().await)).await;
}
