//! HeyGen in a run: deliveries, repeated until they are answered with success, and those of somebody who is not HeyGen.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use data_encoding::HEXLOWER;
use hookstream::{secret::Secret, signature};
use http_body_util::{BodyExt, Full};
use serde_json::json;
use tokio::time::timeout;

use super::{one_in, pause};
use crate::{
    network::{self, INGRESS_PORT},
    service::{ENDPOINT, secret},
    world::Shared,
};

/// HeyGen's own.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);
const TYPES: [&str; 4] = [
    "avatar_video.success",
    "avatar_video.fail",
    "video_translate.success",
    "something.new",
];

/// Where the id of the resource stands.
pub fn id_field(event_type: &str) -> &'static str {
    if event_type.starts_with("video_translate.") {
        "video_translate_id"
    } else {
        "video_id"
    }
}

/// What the outcome of an event is asked for by.
pub fn callback_id(sender: usize, number: usize) -> String {
    format!("callback-{sender}-{number}")
}

/// HeyGen: delivers events one after the other, each until it is answered with success. Now and then once more, and now and
/// then somebody else's.
pub async fn send(shared: Arc<Shared>, sender: usize) -> turmoil::Result {
    let events = rand::random_range(3..25);
    for number in 0..events {
        let event_type = TYPES[rand::random_range(0..TYPES.len())];
        let entity = format!("v{}", rand::random_range(0..3));
        let mut data = json!({"callback_id": callback_id(sender, number)});
        data[id_field(event_type)] = entity.into();
        let mut body = json!({"event_type": event_type, "event_data": data});
        if one_in(2) {
            body["event_id"] = format!("evt_{sender}_{number}").into();
        }
        let body = body.to_string().into_bytes();
        if one_in(8) {
            let forged = Secret::new("whsec_of_somebody_else".to_owned()).unwrap();
            let forgery = [&body[..], b" "].concat();
            shared.forged.lock().insert(forgery.clone());
            if deliver(&forged, forgery).await == Some(200) {
                shared.breach("I2: a forged delivery was answered with 200".to_owned());
            }
        }
        let mut repeats = u32::from(one_in(6));
        loop {
            match deliver(&secret(), body.clone()).await {
                Some(200) => {
                    shared.saw(&format!("delivered {sender}-{number}"));
                    shared.history.lock().acknowledged.insert(body.clone());
                    if repeats == 0 {
                        break;
                    }
                    repeats -= 1;
                }
                Some(503) | None => pause(200..3_000).await,
                Some(status) => {
                    shared.breach(format!("a good delivery is answered with {status}"));
                    return Ok(());
                }
            }
        }
        pause(0..1_500).await;
    }
    shared.sending.fetch_sub(1, Ordering::SeqCst);
    shared.all_sent.notify_waiters();
    Ok(())
}

/// The status of the answer, if there was one in time.
async fn deliver(secret: &Secret, body: Vec<u8>) -> Option<u16> {
    let exchange = async {
        let connection = network::connect(INGRESS_PORT).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(connection).await.ok()?;
        let request = http::Request::post(format!("/webhooks/{ENDPOINT}"))
            .header("host", "server")
            .header("signature", HEXLOWER.encode(&signature::sign(secret, &body)))
            .body(Full::<bytes::Bytes>::from(body))
            .unwrap();
        let answered = async {
            let response = sender.send_request(request).await.ok()?;
            let status = response.status().as_u16();
            response.into_body().collect().await.ok()?;
            Some(status)
        };
        tokio::select! {
            biased;
            status = answered => status,
            _ = connection => None,
        }
    };
    timeout(DELIVERY_TIMEOUT, exchange).await.ok().flatten()
}
