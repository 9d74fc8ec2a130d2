//! A backend that reads streams, and pages.

use std::{sync::Arc, time::Duration};

use hookstream::grpc::proto::{
    EventFilter, ListEventsRequest, Order, Position, SubscribeEventsRequest, subscribe_events_request::Start,
    subscribe_events_response::Frame,
};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::{check, connect, heygen::id_field, one_in, pause};
use crate::world::Shared;

/// Which events a reader wants.
#[derive(Clone, Debug)]
pub enum Wants {
    All,
    Types(&'static str),
    Entity(&'static str),
}

impl Wants {
    fn filter(&self) -> EventFilter {
        let (mut event_types, mut entity_ids) = (Vec::new(), Vec::new());
        match self {
            Self::All => {}
            Self::Types(pattern) => event_types.push((*pattern).to_owned()),
            Self::Entity(entity) => entity_ids.push((*entity).to_owned()),
        }
        EventFilter {
            event_types,
            entity_ids,
            ..EventFilter::default()
        }
    }

    /// Whether an event with this body is among them, judged without the service.
    pub fn includes(&self, body: &[u8]) -> bool {
        let body: serde_json::Value = serde_json::from_slice(body).unwrap();
        let event_type = body["event_type"].as_str().unwrap();
        match self {
            Self::All => true,
            Self::Types("avatar_video.*") => event_type.starts_with("avatar_video."),
            Self::Types("*.success") => event_type.ends_with(".success"),
            Self::Types(other) => event_type == *other,
            Self::Entity(entity) => {
                // Of a family that is not known, nothing says where the id stands.
                event_type != "something.new" && body["event_data"][id_field(event_type)] == *entity
            }
        }
    }
}

type Received = Arc<Mutex<Vec<(u64, Vec<u8>)>>>;

/// A backend that reads a stream, over as many connections as it takes.
pub struct Reader {
    name: String,
    shared: Arc<Shared>,
    wants: Wants,
    received: Received,
    cursor: Option<String>,
}

impl Reader {
    pub fn new(number: usize, shared: Arc<Shared>) -> Self {
        let all = [
            Wants::All,
            Wants::Types("avatar_video.*"),
            Wants::Types("*.success"),
            Wants::Types("something.new"),
            Wants::Entity("v1"),
        ];
        Self {
            name: format!("reader {number}"),
            shared,
            wants: all[rand::random_range(0..all.len())].clone(),
            received: Received::default(),
            cursor: None,
        }
    }

    pub fn wants(&self) -> Wants {
        self.wants.clone()
    }

    pub fn received(&self) -> Received {
        Arc::clone(&self.received)
    }

    /// Follows until nothing more is sent, then reads what is left, and then all of it again in pages.
    pub async fn read(mut self) -> turmoil::Result {
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            () = async {
                loop {
                    self.follow(false).await;
                    pause(0..1_000).await;
                }
            } => {}
            () = shared.until_all_sent() => {}
        }
        while !self.follow(true).await {
            pause(200..1_000).await;
        }
        shared.saw(&format!("{} has everything", self.name));
        self.list().await;
        Ok(())
    }

    /// One stream, as long as it holds. Whether it came to the end of what is stored.
    async fn follow(&mut self, stop_at_tail: bool) -> bool {
        let Some(mut client) = connect().await else {
            return false;
        };
        let start = match &self.cursor {
            Some(cursor) => Start::AfterCursor(cursor.clone()),
            None => Start::Position(Position::Earliest.into()),
        };
        let request = SubscribeEventsRequest {
            start: Some(start),
            filter: Some(self.wants.filter()),
            stop_at_tail,
            ..SubscribeEventsRequest::default()
        };
        let opened = timeout(Duration::from_secs(10), client.subscribe_events(request)).await;
        let mut frames = match opened {
            Ok(Ok(frames)) => frames.into_inner(),
            Ok(Err(status)) => {
                check(&self.shared, &self.name, &status);
                return false;
            }
            Err(_) => return false,
        };
        let is_slow = one_in(3);
        loop {
            match frames.message().await {
                Ok(Some(response)) => match response.frame {
                    Some(Frame::Event(event)) => {
                        self.shared.saw(&format!("{} has {}", self.name, event.sequence));
                        self.cursor = Some(event.cursor.clone());
                        self.received
                            .lock()
                            .push((event.sequence, event.raw_body.to_vec()));
                        if is_slow {
                            pause(0..2_000).await;
                        }
                        if one_in(20) {
                            return false;
                        }
                    }
                    Some(Frame::CaughtUp(at)) => self.cursor = Some(at.cursor),
                    Some(Frame::Heartbeat(at)) => self.cursor = Some(at.cursor),
                    Some(Frame::FellBehind(at)) => self.cursor = Some(at.cursor),
                    Some(Frame::Draining(draining)) => self.cursor = Some(draining.cursor),
                    Some(Frame::Gap(_)) => self
                        .shared
                        .breach("I4: a gap where nothing was removed".to_owned()),
                    None => {}
                },
                Ok(None) if stop_at_tail => return true,
                Ok(None) => return false,
                Err(status) => {
                    check(&self.shared, &self.name, &status);
                    return false;
                }
            }
        }
    }

    /// Everything once more, in pages.
    async fn list(&self) {
        'anew: loop {
            pause(0..500).await;
            let Some(mut client) = connect().await else {
                continue;
            };
            let mut request = ListEventsRequest {
                filter: Some(self.wants.filter()),
                order: Order::OldestFirst.into(),
                page_size: 7,
                ..ListEventsRequest::default()
            };
            let mut listed = Vec::new();
            loop {
                let page = timeout(Duration::from_secs(10), client.list_events(request.clone())).await;
                let page = match page {
                    Ok(Ok(page)) => page.into_inner(),
                    Ok(Err(status)) => {
                        check(&self.shared, &self.name, &status);
                        continue 'anew;
                    }
                    Err(_) => continue 'anew,
                };
                listed.extend(
                    page.events
                        .into_iter()
                        .map(|event| (event.sequence, event.raw_body.to_vec())),
                );
                if page.next_page_token.is_empty() {
                    break;
                }
                request.page_token = page.next_page_token;
            }
            if listed != *self.received.lock() {
                self.shared.breach(format!(
                    "{}: pages hold something else than the stream",
                    self.name
                ));
            }
            return;
        }
    }
}
