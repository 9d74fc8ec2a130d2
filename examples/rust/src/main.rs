// Handles HeyGen's videos as they are done, and comes back whatever happens. In the directory of Cargo.toml:
//   cargo build --release
//   ./target/release/worker
use std::time::Duration;

use pb::acknowledge_events_request::{Done, Outcome, Retry};
use pb::event::Payload;
use pb::manage_subscription_request::{Create, Operation, create::Start};
use pb::subscribe_events_response::Frame;
use tonic::{Code, Status, transport::Channel};

mod pb {
    tonic::include_proto!("hookstream.v1");
}

type Hooks = pb::hookstream_service_client::HookstreamServiceClient<Channel>;
const SUBSCRIPTION: &str = "videos";

/// What your backend does. An event can come twice, if rarely: `event.id` says that it is the same.
fn handle(event: &pb::Event) -> Result<(), String> {
    match &event.payload {
        Some(Payload::AvatarVideoSuccess(video)) => println!("ready {} {}", event.entity_id, video.url),
        Some(Payload::AvatarVideoFail(video)) => println!("failed {} {}", event.entity_id, video.msg),
        _ => {}
    }
    Ok(())
}

async fn create_subscription(hooks: &mut Hooks) -> Result<(), Status> {
    let filter = Some(pb::EventFilter {
        event_types: vec!["avatar_video.*".into()],
        ..Default::default()
    });
    let subscription = Some(pb::Subscription {
        name: SUBSCRIPTION.into(),
        filter,
        ..Default::default()
    });
    let start = Some(Start::Position(pb::Position::Earliest.into()));
    let operation = Some(Operation::Create(Create { subscription, start }));
    match hooks
        .manage_subscription(pb::ManageSubscriptionRequest { operation })
        .await
    {
        Err(status) if status.code() != Code::AlreadyExists => Err(status),
        _ => Ok(()),
    }
}

/// Works until the connection is lost, and resets the delay at every sign of life.
async fn work(hooks: &mut Hooks, delay: &mut Duration) -> Result<(), Status> {
    create_subscription(hooks).await?;
    let request = pb::SubscribeEventsRequest {
        subscription: SUBSCRIPTION.into(),
        ..Default::default()
    };
    let mut frames = hooks.subscribe_events(request).await?.into_inner();
    while let Some(received) = frames.message().await? {
        *delay = Duration::from_secs(1);
        let Some(Frame::Event(event)) = received.frame else {
            continue;
        };
        let outcome = Some(handle(&event).map_or_else(
            |error| {
                eprintln!("{} has to come again: {error}", event.id);
                Outcome::Retry(Retry::default())
            },
            |()| Outcome::Done(Done {}),
        ));
        let (subscription, ack_ids) = (SUBSCRIPTION.into(), vec![received.ack_id]);
        hooks
            .acknowledge_events(pb::AcknowledgeEventsRequest {
                subscription,
                ack_ids,
                outcome,
            })
            .await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() {
    let address = std::env::var("HOOKSTREAM_ADDRESS").unwrap_or_else(|_| "127.0.0.1:50051".into());
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
    // A connection can die without a word.
    let endpoint = endpoint.http2_keep_alive_interval(Duration::from_secs(30));
    let mut hooks = Hooks::new(endpoint.connect_lazy());
    let mut delay = Duration::from_secs(1);
    loop {
        if let Err(status) = work(&mut hooks, &mut delay).await {
            eprintln!("reconnecting: {}", status.message());
        }
        tokio::time::sleep(delay.mul_f64(rand::random())).await;
        delay = (delay * 2).min(Duration::from_secs(30));
    }
}
