//! A backend that waits for the outcome of something it started.

use std::{sync::Arc, time::Duration};

use hookstream::grpc::proto::{AwaitEventRequest, EventFilter, await_event_request};
use tokio::time::timeout;
use tonic::Code;

use super::{connect, heygen::callback_id, passes, pause};
use crate::world::Shared;

/// Waits for one event that is known before it is delivered.
pub async fn wait(shared: Arc<Shared>) -> turmoil::Result {
    // The third event of the first sender, who has no fewer.
    let awaited = callback_id(0, 2);
    let begin = shared.clock().now();
    loop {
        pause(0..2_000).await;
        let Some(mut client) = connect().await else {
            continue;
        };
        let filter = EventFilter {
            callback_ids: vec![awaited.clone()],
            ..EventFilter::default()
        };
        // The wall clock jumps by up to an hour.
        let since = prost_types::Timestamp {
            seconds: begin.as_second() - 7200,
            nanos: 0,
        };
        let request = AwaitEventRequest {
            filter: Some(filter),
            start: Some(await_event_request::Start::Since(since)),
            timeout: Some(prost_types::Duration {
                seconds: 20,
                nanos: 0,
            }),
        };
        match timeout(Duration::from_secs(30), client.await_event(request)).await {
            Ok(Ok(found)) => {
                let event = found.into_inner().event.unwrap();
                shared.saw(&format!("the awaited event is {}", event.sequence));
                if event.callback_id != awaited {
                    shared.breach(format!("AwaitEvent gave {}", event.callback_id));
                }
                return Ok(());
            }
            Ok(Err(status)) if status.code() == Code::DeadlineExceeded || passes(&status) => {}
            Ok(Err(status)) => {
                shared.breach(format!("AwaitEvent: {status}"));
                return Ok(());
            }
            Err(_) => {}
        }
    }
}
