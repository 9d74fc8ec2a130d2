//! A stream over as many connections as it takes. Owns reconnecting: when, how soon, and from where.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::{Stream, stream};
use tonic::{Status, Streaming};

use super::client::{self, Client, Server};
use crate::grpc::proto::{
    SubscribeEventsRequest, SubscribeEventsResponse, subscribe_events_request::Start,
    subscribe_events_response::Frame,
};

/// The frames of a stream. After a disconnect it goes on where it stopped, or takes part in its subscription again; it ends
/// in an error only if trying again is no use.
pub fn frames(
    server: Server,
    connected: Client,
    request: SubscribeEventsRequest,
) -> impl Stream<Item = anyhow::Result<SubscribeEventsResponse>> {
    let follower = Follower {
        server,
        request,
        connected: Some(connected),
        open: None,
        delays: delays().build(),
        wait: Duration::ZERO,
    };
    stream::unfold(Some(follower), async |follower| {
        let mut follower = follower?;
        match follower.next().await {
            Ok(Some(response)) => Some((Ok(response), Some(follower))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
}

/// How long to wait before each attempt to reach the service again.
pub fn delays() -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
}

struct Follower {
    server: Server,
    /// Moves on with every cursor.
    request: SubscribeEventsRequest,
    /// The first connection: a failure to make it is a mistake in the address, a later one passes.
    connected: Option<Client>,
    open: Option<Streaming<SubscribeEventsResponse>>,
    delays: ExponentialBackoff,
    /// What the service asked for before it ended.
    wait: Duration,
}

impl Follower {
    async fn next(&mut self) -> anyhow::Result<Option<SubscribeEventsResponse>> {
        loop {
            let Some(frames) = &mut self.open else {
                self.open().await?;
                continue;
            };
            match frames.message().await {
                Ok(Some(response)) => {
                    self.note(&response);
                    return Ok(Some(response));
                }
                Ok(None) => return Ok(None),
                Err(status) => {
                    self.open = None;
                    self.lost(&status)?;
                }
            }
        }
    }

    async fn open(&mut self) -> anyhow::Result<()> {
        let client = match self.connected.take() {
            Some(client) => Some(client),
            None => {
                let delay = self.delays.next().unwrap_or_default();
                tokio::time::sleep(delay.max(std::mem::take(&mut self.wait))).await;
                self.server.connect().await.ok()
            }
        };
        if let Some(mut client) = client {
            match client.subscribe_events(self.request.clone()).await {
                Ok(frames) => self.open = Some(frames.into_inner()),
                Err(status) => self.lost(&status)?,
            }
        }
        Ok(())
    }

    fn lost(&self, status: &Status) -> anyhow::Result<()> {
        if !client::is_passing(status) {
            return Err(client::explain(status));
        }
        anstream::eprintln!(
            "connection lost ({}); reconnecting where it stopped",
            status.message()
        );
        Ok(())
    }

    fn note(&mut self, response: &SubscribeEventsResponse) {
        self.delays = delays().build();
        let cursor = match &response.frame {
            Some(Frame::Event(event)) => &event.cursor,
            Some(Frame::CaughtUp(at)) => &at.cursor,
            Some(Frame::Heartbeat(at)) => &at.cursor,
            Some(Frame::FellBehind(at)) => &at.cursor,
            Some(Frame::Gap(gap)) => &gap.earliest_cursor,
            Some(Frame::Draining(draining)) => {
                let asked = draining.reconnect_after;
                self.wait = asked
                    .and_then(|asked| Duration::try_from(asked).ok())
                    .unwrap_or_default();
                &draining.cursor
            }
            None => return,
        };
        if self.request.subscription.is_empty() {
            self.request.start = Some(Start::AfterCursor(cursor.clone()));
        }
    }
}
