//! Listing: a page of a large log, unfiltered and by each key, over gRPC.

use std::time::Instant;

use hookstream::{
    event_type::{self, EVENT_TYPES},
    grpc::proto::{EventFilter, ListEventsRequest},
    log::EventLog,
};

use crate::{
    Effort,
    stage::{self, Client},
    table::{Row, Target, quantile},
};

const EVENTS: usize = 1_000_000;
const CALLS: usize = 200;
const PAGE: usize = 100;
/// Makes a hundred and more events share a key, spread over the whole log.
pub const EVENTS_PER_KEY: usize = 125;

/// Measures it.
pub async fn measure(effort: Effort) -> Vec<Row> {
    let events = effort.of(EVENTS);
    let keys = events / EVENTS_PER_KEY;
    let directory = stage::directory();
    let started = Instant::now();
    let log = stage::fill(directory.path(), (0..events).map(|number| body(number, keys))).await;
    log.close().await;
    println!("listing: {events} events stored in {:.1?}", started.elapsed());

    let started = Instant::now();
    let service = stage::service(directory.path()).await;
    println!("listing: started on them in {:.1?}", started.elapsed());
    let mut client = stage::client(service.grpc_address).await;
    let kinds: [(&str, Target, Filter); 4] = [
        ("type", Target::AtMost(5.0), |number, _| EventFilter {
            event_types: vec![EVENT_TYPES[number % EVENT_TYPES.len()].name.to_owned()],
            ..EventFilter::default()
        }),
        ("entity", Target::AtMost(5.0), of_entity),
        ("callback id", Target::None, |number, keys| EventFilter {
            callback_ids: vec![callback_id(number * 7 % keys)],
            ..EventFilter::default()
        }),
        ("nothing", Target::None, |_, _| EventFilter::default()),
    ];
    let mut rows = Vec::new();
    for (kind, target, filter) in kinds {
        rows.extend(list(&mut client, kind, target, events, |number| filter(number, keys)).await);
    }
    service.drain().await;
    rows
}

type Filter = fn(usize, usize) -> EventFilter;

fn of_entity(number: usize, keys: usize) -> EventFilter {
    EventFilter {
        entity_ids: vec![entity_id(number * 7 % keys)],
        ..EventFilter::default()
    }
}

/// Pages of one entity's events each.
pub async fn list_by_entity(client: &mut Client, events: usize, keys: usize) -> [Row; 2] {
    list(client, "entity", Target::None, events, |number| {
        of_entity(number, keys)
    })
    .await
}

async fn list(
    client: &mut Client,
    kind: &str,
    target: Target,
    events: usize,
    filter: impl Fn(usize) -> EventFilter,
) -> [Row; 2] {
    let mut durations = Vec::new();
    for number in 0..CALLS {
        let request = ListEventsRequest {
            filter: Some(filter(number)),
            page_size: PAGE as i32,
            ..ListEventsRequest::default()
        };
        let started = Instant::now();
        let page = client.list_events(request).await.unwrap().into_inner();
        durations.push(started.elapsed());
        assert_eq!(page.events.len(), PAGE, "by {kind}");
    }
    let row = |share: f64, target| {
        let measure = format!("page of {PAGE} of {events} by {kind}, p{}", share * 100.0);
        Row::duration(measure, quantile(&durations, share), None, target)
    };
    [row(0.5, target), row(0.99, Target::None)]
}

/// Types, entities and callback ids each come again and again, at different steps.
pub fn body(number: usize, keys: usize) -> String {
    let event_type = EVENT_TYPES[number % EVENT_TYPES.len()].name;
    let (entity_id, callback_id) = (entity_id(number % keys), callback_id(number * 7 % keys));
    let entity_field = event_type::entity_fields(event_type)[0];
    format!(
        r#"{{"event_id":"{number}","event_type":"{event_type}","event_data":{{"{entity_field}":"{entity_id}","url":"https://files.heygen.ai/video/{number:010}.mp4?Expires=1790000000","callback_id":"{callback_id}"}},"created_at":"2026-03-25T12:05:00Z"}}"#
    )
}

fn entity_id(number: usize) -> String {
    format!("vid_{number:010}")
}

fn callback_id(number: usize) -> String {
    format!("order_{number:010}")
}
