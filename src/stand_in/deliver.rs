//! Deliveries. Owns when an event is sent to an endpoint, how it is signed, and when that is given up; refuses to know the
//! API and who decides on faults.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use reqwest::{Client, Method, RequestBuilder, Response, redirect};
use serde::Serialize;
use serde_json::Value;
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use super::{Settings, SignatureHeader, account::Account, account::Happened, faults::Faults};
use crate::{limits, secret::Secret, signature, tasks::Tasks};

/// How long a URL may take to answer before it is registered.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A client for probes and deliveries: an answer is the answer, wherever it redirects to.
pub fn client() -> reqwest::Result<Client> {
    crate::http_client::builder()
        .user_agent("stand-in-for-heygen")
        .redirect(redirect::Policy::none())
        .build()
}

/// The status that a URL answers OPTIONS with, if it does in time.
pub async fn probe(client: &Client, url: &str) -> Option<u16> {
    let request = client.request(Method::OPTIONS, url).timeout(PROBE_TIMEOUT);
    let response = request.send().await.ok()?;
    Some(response.status().as_u16())
}

/// The deliveries under way and scheduled.
pub struct Deliveries {
    sender: Arc<Sender>,
    tasks: Tasks,
}

struct Sender {
    settings: Settings,
    client: Client,
    account: Arc<Account>,
    faults: Arc<Faults>,
    in_flight: Semaphore,
    pending: watch::Sender<usize>,
    given_up: AtomicU64,
}

/// One event on its way to one endpoint.
struct Delivery {
    event: Arc<Happened>,
    body: Bytes,
    endpoint: u64,
    /// 0, or 1 for what is sent once more.
    copy: u32,
    starts_at: Instant,
    /// When it is no longer tried again; never, if that is too far to tell.
    ends_at: Option<Instant>,
    is_first_attempt_slow: bool,
}

enum Attempt {
    Delivered,
    Failed,
    NobodyThere,
}

/// Counts as pending for as long as it lives.
struct Pending(Arc<Sender>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.send_modify(|pending| *pending -= 1);
    }
}

/// What is sent.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a str>,
    event_type: &'a str,
    event_data: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
}

impl Deliveries {
    pub fn new(
        settings: &Settings,
        client: Client,
        account: Arc<Account>,
        faults: Arc<Faults>,
        tasks: Tasks,
    ) -> Self {
        let sender = Sender {
            settings: settings.clone(),
            client,
            account,
            faults,
            in_flight: Semaphore::new(limits::STAND_IN_DELIVERIES_IN_FLIGHT_MAX),
            pending: watch::Sender::new(0),
            given_up: AtomicU64::new(0),
        };
        Self {
            sender: Arc::new(sender),
            tasks,
        }
    }

    /// Starts the deliveries of an event to these endpoints.
    pub fn start(&self, event: &Arc<Happened>, endpoints: &[u64]) {
        let body = self.sender.body(event);
        let now = Instant::now();
        let ends_at = now.checked_add(self.sender.settings.retry_for);
        for &endpoint in endpoints {
            let plan = self.sender.faults.of_delivery(event.number, endpoint);
            if plan.is_lost {
                continue;
            }
            let delivery = |copy, starts_at, is_first_attempt_slow| Delivery {
                event: Arc::clone(event),
                body: body.clone(),
                endpoint,
                copy,
                starts_at,
                ends_at,
                is_first_attempt_slow,
            };
            let starts_at = now + plan.delay;
            self.schedule(delivery(0, starts_at, plan.is_first_attempt_slow));
            if let Some(after) = plan.copy_after {
                self.schedule(delivery(1, starts_at + after, false));
            }
        }
    }

    fn schedule(&self, delivery: Delivery) {
        let has_room = self.sender.pending.send_if_modified(|pending| {
            let has_room = *pending < limits::STAND_IN_DELIVERIES_PENDING_MAX;
            *pending += usize::from(has_room);
            has_room
        });
        if !has_room {
            self.sender.give_up(&delivery, "too many deliveries are pending");
            return;
        }
        let (sender, stop) = (Arc::clone(&self.sender), self.tasks.stop().clone());
        let pending = Pending(Arc::clone(&sender));
        self.tasks.spawn(async move {
            stop.run_until_cancelled(sender.deliver(&delivery)).await;
            drop(pending);
        });
    }

    pub fn given_up(&self) -> u64 {
        self.sender.given_up.load(Ordering::Relaxed)
    }

    /// Waits until nothing is pending.
    pub async fn settled(&self) {
        let mut pending = self.sender.pending.subscribe();
        // It cannot fail: the sender lives as long as `self`.
        let _ = pending.wait_for(|pending| *pending == 0).await;
    }
}

impl Sender {
    async fn deliver(&self, delivery: &Delivery) {
        tokio::time::sleep_until(delivery.starts_at).await;
        let mut pauses = pauses(self.settings.retry_first);
        for attempt in 0.. {
            match self.attempt(delivery, attempt).await {
                Attempt::Delivered => return,
                Attempt::NobodyThere => return self.give_up(delivery, "the endpoint is gone or disabled"),
                Attempt::Failed => {}
            }
            let next_at = Instant::now() + pauses.next().unwrap_or(limits::STAND_IN_RETRY_DELAY_MAX);
            if delivery.ends_at.is_some_and(|ends_at| next_at > ends_at) {
                return self.give_up(delivery, "the time for retries is over");
            }
            tokio::time::sleep_until(next_at).await;
        }
    }

    async fn attempt(&self, delivery: &Delivery, attempt: u64) -> Attempt {
        // Never closed: an error is impossible, and would mean that nothing can be sent any more.
        let Ok(_permit) = self.in_flight.acquire().await else {
            return Attempt::NobodyThere;
        };
        // Looked up as late as this, because a rotation takes effect at once, for retries too.
        let Some((url, secret)) = self.account.target(delivery.endpoint) else {
            return Attempt::NobodyThere;
        };
        // On the heap, because thousands of deliveries wait and few are being sent.
        let is_success = Box::pin(self.send(&url, &secret, delivery)).await;
        let is_slow = (delivery.is_first_attempt_slow && attempt == 0) || {
            let occasion = u64::from(delivery.copy) << 32 | attempt;
            self.faults
                .is_slow(delivery.event.number, delivery.endpoint, occasion)
        };
        if is_success && !is_slow {
            Attempt::Delivered
        } else {
            Attempt::Failed
        }
    }

    async fn send(&self, url: &str, secret: &Secret, delivery: &Delivery) -> bool {
        let request = self.client.post(url).timeout(self.settings.delivery_timeout);
        let request = self.with_headers(request, secret, delivery);
        let Ok(response) = request.body(delivery.body.clone()).send().await else {
            return false;
        };
        let is_success = response.status().is_success();
        drain(response).await;
        is_success
    }

    fn with_headers(
        &self,
        mut request: RequestBuilder,
        secret: &Secret,
        delivery: &Delivery,
    ) -> RequestBuilder {
        let signature = HEXLOWER.encode(&signature::sign(secret, &delivery.body));
        let names: &[&str] = match self.settings.header_name {
            SignatureHeader::Signature => &["Signature"],
            SignatureHeader::HeygenSignature => &["Heygen-Signature"],
            SignatureHeader::Both => &["Signature", "Heygen-Signature"],
        };
        request = request.header("Content-Type", "application/json");
        for &name in names {
            request = request.header(name, &signature);
        }
        if self.settings.unsigned_headers {
            request = request
                .header("Heygen-Timestamp", self.settings.clock.now().as_second())
                .header("Heygen-Event-Id", &delivery.event.event_id);
        }
        request
    }

    fn body(&self, event: &Happened) -> Bytes {
        let is_identified = self.settings.bodies_carry_event_id;
        let body = Body {
            event_id: is_identified.then_some(event.event_id.as_str()),
            event_type: &event.event_type,
            event_data: &event.event_data,
            created_at: is_identified.then(|| event.created_at.to_string()),
        };
        // It cannot fail: no map in it has keys that are not text.
        serde_json::to_vec(&body).unwrap_or_default().into()
    }

    fn give_up(&self, delivery: &Delivery, reason: &str) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            event_id = delivery.event.event_id,
            reason,
            "a delivery is given up"
        );
    }
}

/// The pauses between attempts.
fn pauses(first: Duration) -> impl Iterator<Item = Duration> {
    ExponentialBuilder::new()
        .with_min_delay(first)
        .with_max_delay(limits::STAND_IN_RETRY_DELAY_MAX)
        .with_factor(2.0)
        .without_max_times()
        .build()
}

/// Reads an answer to its end, so that the connection can be used again; a long one is not worth it.
async fn drain(mut response: Response) {
    let mut left = limits::STAND_IN_ANSWER_BYTES_MAX;
    while let Ok(Some(chunk)) = response.chunk().await {
        match left.checked_sub(chunk.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pause_is_twice_the_one_before_and_an_hour_at_most() {
        let seconds: Vec<_> = pauses(Duration::from_secs(500))
            .take(5)
            .map(|pause| pause.as_secs())
            .collect();
        assert_eq!(seconds, [500, 1000, 2000, 3600, 3600]);
    }
}
