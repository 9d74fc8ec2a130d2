//! Looking at what is stored. Claims about ListEvents, GetEvent and ListEventTypes.

use hookstream::grpc::proto::{
    EventFilter, EventType, GetEventRequest, ListEventTypesRequest, ListEventsRequest, Order,
};
use tonic::Code;

use crate::harness::{Client, Hookstream, body, field, reason, types};

async fn pages(
    client: &mut Client,
    mut request: ListEventsRequest,
    between: impl AsyncFn(),
) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    loop {
        let page = client.list_events(request.clone()).await.unwrap().into_inner();
        pages.push(page.events.into_iter().map(|event| event.entity_id).collect());
        if page.next_page_token.is_empty() {
            return pages;
        }
        request.page_token = page.next_page_token;
        between().await;
    }
}

fn id(number: u64) -> String {
    format!("vid_{number:016x}")
}

#[tokio::test]
async fn pages_neither_repeat_nor_skip_while_events_arrive() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    for number in 0..25 {
        sender.deliver(body("avatar_video.success", number)).await;
    }
    let next = std::sync::atomic::AtomicU64::new(25);
    let arrive = async || {
        let number = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        sender.deliver(body("avatar_video.success", number)).await;
    };
    let mut client = service.client().await;
    let newest = pages(&mut client, ListEventsRequest::default(), arrive).await;
    assert_eq!(newest.iter().map(Vec::len).collect::<Vec<_>>(), [10, 10, 5]);
    assert_eq!(newest.concat(), (0..25).rev().map(id).collect::<Vec<_>>());
    let oldest_first = ListEventsRequest {
        order: Order::OldestFirst.into(),
        page_size: 9,
        ..ListEventsRequest::default()
    };
    let oldest = pages(&mut client, oldest_first, arrive).await.concat();
    let stored = next.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(oldest, (0..stored).map(id).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_listing_is_narrowed_by_filter_and_time() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    for number in 0..10 {
        let event_type = if number % 2 == 0 {
            "avatar_video.success"
        } else {
            "avatar_video.fail"
        };
        sender.deliver(body(event_type, number)).await;
    }
    let all = service.stored().await;
    let mut client = service.client().await;
    let mut list = async |request| client.list_events(request).await.unwrap().into_inner().events;
    let request = ListEventsRequest {
        filter: types(&["*.fail"]),
        ..ListEventsRequest::default()
    };
    assert_eq!(list(request).await.len(), 5);
    let filter = EventFilter {
        entity_ids: vec![id(3), id(4)],
        ..types(&["*.fail"]).unwrap()
    };
    let request = ListEventsRequest {
        filter: Some(filter),
        ..ListEventsRequest::default()
    };
    assert_eq!(list(request).await, all[3..4]);
    let request = ListEventsRequest {
        since: all[2].received_at,
        until: all[6].received_at,
        order: Order::OldestFirst.into(),
        ..ListEventsRequest::default()
    };
    assert_eq!(list(request).await, all[2..6]);
}

#[tokio::test]
async fn a_page_ends_before_it_is_too_large_for_a_client() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    for number in 0..12 {
        let text = "x".repeat(900 * 1024);
        let body = format!(
            r#"{{"event_type":"avatar_video.fail","event_data":{{"video_id":"{}","msg":"{text}"}}}}"#,
            id(number)
        );
        assert_eq!(sender.deliver(body).await, 200);
    }
    let request = ListEventsRequest {
        page_size: 1000,
        ..ListEventsRequest::default()
    };
    let pages = pages(&mut service.client().await, request, async || {}).await;
    assert!(pages.len() > 1);
    assert_eq!(pages.concat(), (0..12).rev().map(id).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_listing_that_cannot_be_is_refused_with_the_reason() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    for number in 0..3 {
        sender.deliver(body("avatar_video.success", number)).await;
    }
    let mut client = service.client().await;
    let first = ListEventsRequest {
        page_size: 1,
        ..ListEventsRequest::default()
    };
    let token = client
        .list_events(first.clone())
        .await
        .unwrap()
        .into_inner()
        .next_page_token;
    let other = Hookstream::start();
    let elsewhere = other.endpoint("dev").await;
    for number in 0..3 {
        elsewhere.deliver(body("avatar_video.success", number)).await;
    }
    let foreign = other
        .client()
        .await
        .list_events(first.clone())
        .await
        .unwrap()
        .into_inner()
        .next_page_token;
    let mut refuse = async |request| client.list_events(request).await.unwrap_err();
    for (request, blamed) in [
        (
            ListEventsRequest {
                page_size: 1001,
                ..first.clone()
            },
            "page_size",
        ),
        (
            ListEventsRequest {
                page_size: -1,
                ..first.clone()
            },
            "page_size",
        ),
        (
            ListEventsRequest {
                order: 9,
                ..first.clone()
            },
            "order",
        ),
        (
            ListEventsRequest {
                page_token: "nonsense".into(),
                ..first.clone()
            },
            "page_token",
        ),
        (
            ListEventsRequest {
                page_token: token[1..].into(),
                ..first.clone()
            },
            "page_token",
        ),
        (
            ListEventsRequest {
                page_token: token.clone(),
                order: Order::OldestFirst.into(),
                ..first.clone()
            },
            "page_token",
        ),
        (
            ListEventsRequest {
                page_token: token.clone(),
                filter: types(&["*.fail"]),
                ..first.clone()
            },
            "page_token",
        ),
        (
            ListEventsRequest {
                since: Some(prost_types::Timestamp {
                    seconds: i64::MAX,
                    nanos: 0,
                }),
                ..first.clone()
            },
            "since",
        ),
    ] {
        let status = refuse(request).await;
        assert_eq!(
            (status.code(), field(&status).as_str()),
            (Code::InvalidArgument, blamed)
        );
    }
    let status = refuse(ListEventsRequest {
        page_token: foreign,
        ..first
    })
    .await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "CURSOR_OF_ANOTHER_LOG")
    );
}

#[tokio::test]
async fn an_event_is_got_by_its_id() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    sender.deliver(body("avatar_video.success", 1)).await;
    let event = service.stored().await.remove(0);
    let mut client = service.client().await;
    let mut get = async |id: &str| client.get_event(GetEventRequest { id: id.to_owned() }).await;
    assert_eq!(get(&event.id).await.unwrap().into_inner().event, Some(event));
    let missing = get("evt_00000000000000000000000000000000").await.unwrap_err();
    assert_eq!(
        (missing.code(), reason(&missing).as_str()),
        (Code::NotFound, "EVENT_NOT_FOUND")
    );
    assert_eq!(field(&get("nonsense").await.unwrap_err()), "id");
}

#[tokio::test]
async fn the_types_are_the_known_ones_and_those_received_besides() {
    let service = Hookstream::start();
    let sender = service.endpoint("dev").await;
    sender.deliver(r#"{"event_type":"heygen.invents.this"}"#).await;
    let types = service
        .client()
        .await
        .list_event_types(ListEventTypesRequest {})
        .await
        .unwrap();
    let types = types.into_inner().event_types;
    assert_eq!(types.len(), 31);
    assert_eq!(types[0].r#type(), EventType::AvatarVideoSuccess);
    assert!(
        types[..30]
            .iter()
            .all(|known| !known.description.is_empty() && !known.payload_field.is_empty())
    );
    assert_eq!(
        (types[30].r#type(), types[30].name.as_str()),
        (EventType::Unspecified, "heygen.invents.this")
    );
}
