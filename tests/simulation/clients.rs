//! Whoever talks to the service in a run. Owns what they share: chance, a connection, and what is worth another attempt. Each
//! reports what it saw, and what it must not see.

pub mod heygen;
pub mod reader;
pub mod waiter;
pub mod worker;

use std::time::Duration;

use hookstream::grpc::proto::hookstream_service_client::HookstreamServiceClient;
use tokio::time::{sleep, timeout};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{network, world::Shared};

/// Lets some milliseconds pass.
pub async fn pause(range: std::ops::Range<u64>) {
    sleep(Duration::from_millis(rand::random_range(range))).await;
}

/// Whether what happens once in so many times happens.
pub fn one_in(number: u32) -> bool {
    rand::random_ratio(1, number)
}

/// A client of the interface.
pub type Client = HookstreamServiceClient<Channel>;

/// A connection that notices when the other side is gone.
pub async fn connect() -> Option<Client> {
    let endpoint = Endpoint::from_static("http://server:50051")
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true);
    let connected = timeout(Duration::from_secs(3), network::channel(endpoint)).await;
    Some(HookstreamServiceClient::new(connected.ok()?.ok()?))
}

/// Whether trying again may help: what breaks under a call has no details.
pub fn passes(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => true,
        Code::Unknown | Code::Internal | Code::Cancelled => status.details().is_empty(),
        _ => false,
    }
}

/// Takes a failure that passes by itself as it comes; any other is a breach.
pub fn check(shared: &Shared, name: &str, status: &Status) {
    if !passes(status) {
        shared.breach(format!("{name}: {status}"));
    }
}
