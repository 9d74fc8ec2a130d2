//! Subscriptions over gRPC. Owns the translation of `ManageSubscription`, `AcknowledgeEvents` and the streams that name a
//! subscription; what a subscription is and does is decided in `subscriptions`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, stream};
use prost::Message;
use tonic::Status;

use super::{
    caller::check_visible,
    encode::timestamp,
    encoded::Encoded,
    events::{self, EventReader, Page, Ready, Start},
    proto::{
        self, AcknowledgeEventsRequest, ListEventsRequest, ManageSubscriptionRequest, SubscribeEventsRequest,
        acknowledge_events_request as said, manage_subscription_request as ask,
        manage_subscription_response as answer,
    },
    status::{self, Refusal},
};
use crate::{
    access::{Caller, Scope},
    clock::Clock,
    cursor::Cursor,
    event::{EventId, LogId},
    filter::TypePattern,
    hub::Hub,
    limits,
    log::Direction,
    stream::{EncodedEvent, Frame},
    subscriptions::{
        Acknowledged, AfterMaxAttempts, DeadLetter, Deleted, Delivery, Ordering, Outcome, Part, Reason, Said,
        Settings, Subscription, SubscriptionError, SubscriptionName, SubscriptionStream, Subscriptions,
        Which,
    },
    traces::Recipient,
};

/// Manages subscriptions for gRPC callers.
#[derive(Clone)]
pub struct SubscriptionManager {
    subscriptions: Arc<Subscriptions>,
    hub: Arc<Hub>,
    events: EventReader,
    clock: Clock,
}

/// The fields of a subscription that can change.
const CHANGEABLE: [&str; 10] = [
    "filter",
    "ack_deadline",
    "max_attempts",
    "after_max_attempts",
    "min_retry_delay",
    "max_retry_delay",
    "max_unacknowledged_per_stream",
    "max_unacknowledged",
    "inactive_retention",
    "labels",
];

impl SubscriptionManager {
    /// A manager of these subscriptions, whose events `events` reads.
    pub fn new(subscriptions: Arc<Subscriptions>, hub: Arc<Hub>, events: EventReader, clock: Clock) -> Self {
        Self {
            subscriptions,
            hub,
            events,
            clock,
        }
    }

    fn log_id(&self) -> LogId {
        self.hub.log().log_id()
    }

    /// One operation.
    pub async fn manage(
        &self,
        caller: Caller,
        request: ManageSubscriptionRequest,
    ) -> Result<proto::ManageSubscriptionResponse, Refusal> {
        use ask::Operation::{
            Create, Delete, DiscardDeadLetters, Get, List, ReplayDeadLetters, Seek, Update,
        };
        let operation = request
            .operation
            .ok_or_else(|| Refusal::field("operation", "must name what to do"))?;
        let result = match operation {
            Create(create) => answer::Result::Create(self.create(&caller, create).await?),
            Get(get) => {
                let subscription = self.visible("name", &get.name, &caller)?;
                answer::Result::Get(answer::Get {
                    subscription: Some(self.message(&subscription).await?),
                })
            }
            List(list) => answer::Result::List(self.list(&caller, &list).await?),
            Update(update) => answer::Result::Update(self.update(&caller, update).await?),
            Delete(delete) => {
                let subscription = self.visible("name", &delete.name, &caller)?;
                self.subscriptions.delete(&subscription.name).await?;
                answer::Result::Delete(answer::Delete {})
            }
            Seek(seek) => answer::Result::Seek(self.seek(&caller, seek).await?),
            ReplayDeadLetters(replay) => {
                let subscription = self.visible("name", &replay.name, &caller)?;
                let which = which(replay.event_ids)?;
                let (replayed, remaining) = self.subscriptions.replay(&subscription, which).await?;
                answer::Result::ReplayDeadLetters(answer::ReplayDeadLetters { replayed, remaining })
            }
            DiscardDeadLetters(discard) => {
                let subscription = self.visible("name", &discard.name, &caller)?;
                let which = which(discard.event_ids)?;
                let (discarded, remaining) = self.subscriptions.discard(&subscription, which).await?;
                answer::Result::DiscardDeadLetters(answer::DiscardDeadLetters { discarded, remaining })
            }
        };
        Ok(proto::ManageSubscriptionResponse { result: Some(result) })
    }

    async fn create(&self, caller: &Caller, create: ask::Create) -> Result<answer::Create, Refusal> {
        use ask::create::Start::{AfterCursor, Position, Since};
        let asked = create.subscription.unwrap_or_default();
        let name = name("subscription.name", &asked.name)?;
        let ordering = match proto::Ordering::try_from(asked.ordering) {
            Ok(proto::Ordering::Unspecified | proto::Ordering::None) => Ordering::None,
            Ok(proto::Ordering::PerEntity) => Ordering::PerEntity,
            Err(_) => return Err(Refusal::field("subscription.ordering", "is not a known ordering")),
        };
        let defaults = Settings {
            ordering,
            ..Settings::default()
        };
        let settings = changed(&defaults, &asked, &CHANGEABLE)?;
        check_visible(&settings.filter, caller)?;
        let start = match create.start {
            None => Start::New,
            Some(AfterCursor(cursor)) => Start::After(cursor),
            Some(Since(time)) => Start::Since(time),
            Some(Position(position)) => Start::at(position)?,
        };
        let start = self.events.start(start, false).await?;
        let subscription = self.subscriptions.create(name, settings, start).await?;
        Ok(answer::Create {
            subscription: Some(self.message(&subscription).await?),
        })
    }

    /// A page's token is the last name on it: names are no secret, and the order of names needs no snapshot.
    async fn list(&self, caller: &Caller, list: &ask::List) -> Result<answer::List, Refusal> {
        let size = status::page_size(list.page_size, limits::SUBSCRIPTIONS_PAGE_DEFAULT)?;
        let after = status::name_page_token::<SubscriptionName>(&list.page_token)?;
        let visible = |one: &Subscription| check_visible(&one.settings().filter, caller).is_ok();
        let mut found = self.subscriptions.list(after.as_ref(), size + 1, visible);
        let more = found.len() > size;
        found.truncate(size);
        let last = found.last().filter(|_| more);
        let next_page_token = last.map(|one| one.name.to_string()).unwrap_or_default();
        let mut subscriptions = Vec::new();
        for subscription in &found {
            subscriptions.push(self.message(subscription).await?);
        }
        Ok(answer::List {
            subscriptions,
            next_page_token,
        })
    }

    async fn update(&self, caller: &Caller, update: ask::Update) -> Result<answer::Update, Refusal> {
        let asked = update.subscription.unwrap_or_default();
        let subscription = self.visible("subscription.name", &asked.name, caller)?;
        let paths = update.update_mask.unwrap_or_default().paths;
        let all = CHANGEABLE.join(", ");
        if paths.is_empty() {
            return Err(Refusal::field(
                "update_mask",
                format!("must name what to replace: {all}"),
            ));
        }
        if let Some(other) = paths.iter().find(|path| !CHANGEABLE.contains(&path.as_str())) {
            let reason = format!("names `{other}`; only these can be replaced: {all}");
            return Err(Refusal::field("update_mask", reason));
        }
        let change = |settings: &Settings| {
            let settings = changed(settings, &asked, &paths)?;
            check_visible(&settings.filter, caller)?;
            Ok::<_, Refusal>(settings)
        };
        let subscription = self.subscriptions.update(&subscription.name, change).await?;
        Ok(answer::Update {
            subscription: Some(self.message(&subscription).await?),
        })
    }

    async fn seek(&self, caller: &Caller, seek: ask::Seek) -> Result<answer::Seek, Refusal> {
        use ask::seek::Target::{AfterCursor, Position, Since};
        let subscription = self.visible("name", &seek.name, caller)?;
        let target = match seek.target {
            None => return Err(Refusal::field("target", "must say where to go")),
            Some(AfterCursor(cursor)) => Start::After(cursor),
            Some(Since(time)) => Start::Since(time),
            Some(Position(position)) => Start::at(position)?,
        };
        let position = self.events.start(target, false).await?;
        let subscription = self.subscriptions.seek(&subscription.name, position).await?;
        Ok(answer::Seek {
            subscription: Some(self.message(&subscription).await?),
        })
    }

    /// Takes part in a subscription.
    pub async fn subscribe(
        &self,
        caller: Caller,
        request: SubscribeEventsRequest,
        recipient: Recipient,
    ) -> Result<impl Stream<Item = Result<Encoded, Status>> + Send + use<>, Refusal> {
        if !caller.may(Scope::EventsAcknowledge) {
            return Err(Refusal::ScopeMissing(Scope::EventsAcknowledge));
        }
        let has_filter = request
            .filter
            .is_some_and(|filter| filter != proto::EventFilter::default());
        for (field, is_set) in [
            ("filter", has_filter),
            ("start", request.start.is_some()),
            ("stop_at_tail", request.stop_at_tail),
            ("continue_after_gap", request.continue_after_gap),
        ] {
            if is_set {
                return Err(Refusal::field(
                    field,
                    "must not be set with `subscription`, which has its own",
                ));
            }
        }
        let most = number(
            "max_unacknowledged",
            request.max_unacknowledged,
            usize::MAX,
            limits::UNACKNOWLEDGED_PER_STREAM_MAX,
        )?;
        let part = Part {
            max_unacknowledged: most,
            auto_acknowledge: request.auto_acknowledge,
            heartbeat_interval: events::heartbeat_interval(request.heartbeat_interval)?,
        };
        let subscription = self.visible("subscription", &request.subscription, &caller)?;
        let permit = caller.take_stream()?;
        let stream = self.subscriptions.open(&subscription, part)?;
        let recipient = recipient.named(&caller.identity().name, Some(&subscription.name));
        let frames = frames(stream, subscription, self.log_id(), recipient);
        Ok(events::while_credentials_last(frames, caller, permit))
    }

    /// Says what became of events.
    pub async fn acknowledge(
        &self,
        caller: Caller,
        request: AcknowledgeEventsRequest,
    ) -> Result<proto::AcknowledgeEventsResponse, Refusal> {
        use said::Outcome::{Done, Extend, Reject, Retry};
        let subscription = self.visible("subscription", &request.subscription, &caller)?;
        if !(1..=limits::ACK_IDS_MAX).contains(&request.ack_ids.len()) {
            let reason = format!("must be 1 to {} ids", limits::ACK_IDS_MAX);
            return Err(Refusal::field("ack_ids", reason));
        }
        let bounded = |field, asked: Option<prost_types::Duration>, least, most| {
            let bounded = |asked| events::duration(field, Some(asked), Duration::ZERO, least..=most);
            asked.map(bounded).transpose()
        };
        let outcome = match request.outcome {
            None => return Err(Refusal::field("outcome", "must say what became of the events")),
            Some(Done(said::Done {})) => Outcome::Done,
            Some(Reject(said::Reject {})) => Outcome::Reject,
            Some(Retry(said::Retry { after })) => {
                let most = limits::MAX_RETRY_DELAY_MAX;
                Outcome::Retry(bounded("after", after, Duration::ZERO, most)?)
            }
            Some(Extend(said::Extend { by })) => {
                let (least, most) = (limits::ACK_DEADLINE_MIN, limits::ACK_DEADLINE_MAX);
                Outcome::Extend(bounded("by", by, least, most)?)
            }
        };
        let ids: Vec<_> = request.ack_ids.iter().map(|id| id.parse().ok()).collect();
        let answers = subscription.acknowledge(&ids, outcome).await;
        let answers = answers.map_err(SubscriptionError::from)?;
        let result = |answer| match answer {
            Acknowledged::Accepted => proto::AcknowledgementResult::Accepted.into(),
            Acknowledged::Late => proto::AcknowledgementResult::Late.into(),
            Acknowledged::Unknown => proto::AcknowledgementResult::Unknown.into(),
        };
        Ok(proto::AcknowledgeEventsResponse {
            results: answers.into_iter().map(result).collect(),
        })
    }

    /// One page of dead letters.
    pub async fn list_dead_letters(
        &self,
        caller: Caller,
        request: ListEventsRequest,
    ) -> Result<Encoded, Refusal> {
        let subscription = self.visible("dead_letters_of", &request.dead_letters_of, &caller)?;
        let listing = self.events.listing(&caller, request).await?;
        let (mut range, direction) = (listing.range, listing.direction);
        let (mut page, mut letters) = (Page::default(), Vec::new());
        while range.after < range.through {
            let most = listing.size + 1;
            let found = self
                .subscriptions
                .dead_letters(&subscription, range, direction, most)
                .await?;
            for letter in &found {
                let event = subscription.event(letter.sequence).await;
                let event = event.map_err(|error| Refusal::of_read(error, self.log_id()))?;
                let Some(event) = event.filter(|event| listing.filter.matches(&event.event.keys)) else {
                    continue;
                };
                let id = event.event.id;
                if let Some(end) = page.push(EncodedEvent::of(event, &self.hub), &listing) {
                    return Ok(self.events.answer(&listing, &page, Some(end), letters));
                }
                letters.push(dead_letter(letter, id));
            }
            let Some(last) = found.last().filter(|_| found.len() == most) else {
                break;
            };
            match direction {
                Direction::Forward => range.after = last.sequence,
                Direction::Backward => range.through = last.sequence.previous(),
            }
        }
        Ok(self.events.answer(&listing, &page, None, letters))
    }

    /// A subscription that the caller may see.
    fn visible(
        &self,
        field: &'static str,
        asked: &str,
        caller: &Caller,
    ) -> Result<Arc<Subscription>, Refusal> {
        let subscription = self.subscriptions.get(&name(field, asked)?)?;
        if subscription
            .settings()
            .filter
            .exceeds(&caller.identity().sees)
            .is_some()
        {
            return Err(Refusal::NotVisible {
                field: field.to_owned(),
                allowed: Vec::new(),
            });
        }
        Ok(subscription)
    }

    async fn message(&self, subscription: &Subscription) -> Result<proto::Subscription, Refusal> {
        let backlog = subscription.backlog().await;
        let backlog = backlog.map_err(|error| Refusal::of_read(error, self.log_id()))?;
        let standing = subscription.standing();
        let settings = &standing.settings;
        let cursor = Cursor {
            log_id: self.log_id(),
            sequence: standing.position,
        };
        let after_max_attempts = match settings.after_max_attempts {
            AfterMaxAttempts::DeadLetter => proto::AfterMaxAttempts::DeadLetter,
            AfterMaxAttempts::Retry => proto::AfterMaxAttempts::Retry,
            AfterMaxAttempts::Discard => proto::AfterMaxAttempts::Discard,
        };
        let ordering = match settings.ordering {
            Ordering::None => proto::Ordering::None,
            Ordering::PerEntity => proto::Ordering::PerEntity,
        };
        let filter = &settings.filter;
        Ok(proto::Subscription {
            name: subscription.name.to_string(),
            filter: Some(proto::EventFilter {
                event_types: filter.event_types.iter().map(TypePattern::to_string).collect(),
                entity_ids: filter.entity_ids.clone(),
                callback_ids: filter.callback_ids.clone(),
                endpoints: filter.endpoints.clone(),
            }),
            ack_deadline: seconds(settings.ack_deadline),
            max_attempts: settings.max_attempts.cast_signed(),
            after_max_attempts: after_max_attempts.into(),
            min_retry_delay: seconds(settings.min_retry_delay),
            max_retry_delay: seconds(settings.max_retry_delay),
            max_unacknowledged_per_stream: bounded(settings.max_unacknowledged_per_stream),
            max_unacknowledged: bounded(settings.max_unacknowledged),
            ordering: ordering.into(),
            inactive_retention: settings.inactive_retention.and_then(seconds),
            labels: settings.labels.clone().into_iter().collect(),
            created_at: Some(timestamp(subscription.created_at)),
            status: Some(proto::SubscriptionStatus {
                cursor: cursor.to_string(),
                backlog: backlog.events,
                in_flight: standing.in_flight as u64,
                oldest_unacknowledged_age: backlog.age(self.clock.now()).and_then(seconds),
                dead_letters: standing.dead_letters,
                connected_streams: u32::try_from(standing.streams).unwrap_or(u32::MAX),
                last_gap_at: standing.last_gap_at.map(timestamp),
            }),
        })
    }
}

/// The frames of a subscription's stream as they are sent.
fn frames(
    stream: SubscriptionStream,
    subscription: Arc<Subscription>,
    log_id: LogId,
    recipient: Recipient,
) -> impl Stream<Item = Result<Ready, Refusal>> + Send + use<> {
    let state = (stream, subscription, recipient, false);
    stream::unfold(Some(state), move |state| async move {
        let (mut stream, subscription, recipient, drained) = state?;
        if drained {
            return Some((Err(Refusal::Draining), None));
        }
        match stream.next().await {
            Ok(said) => {
                let (encoded, drained) = match said? {
                    Said::Delivery(delivery) => {
                        recipient.sent(&delivery.event.event, delivery.attempt);
                        (delivered(delivery), false)
                    }
                    Said::Frame(frame) => {
                        let drained = matches!(frame, Frame::Draining(_));
                        (events::encoded(frame, log_id), drained)
                    }
                };
                Some((
                    Ok(encoded.into()),
                    Some((stream, subscription, recipient, drained)),
                ))
            }
            Err(Deleted) => {
                let text = format!("the subscription `{}` was deleted", subscription.name);
                Some((Err(Refusal::SubscriptionNotFound(text)), None))
            }
        }
    })
}

fn delivered(delivery: Delivery) -> Encoded {
    let own = proto::SubscribeEventsResponse {
        frame: None,
        ack_id: delivery.ack_id.to_string(),
        delivery_attempt: delivery.attempt.cast_signed(),
    };
    Encoded::new(delivery.event.bytes, Bytes::from(own.encode_to_vec()))
}

fn dead_letter(letter: &DeadLetter, id: EventId) -> proto::DeadLetter {
    let reason = match letter.reason {
        Reason::MaxAttempts => proto::DeadLetterReason::MaxAttempts,
        Reason::Rejected => proto::DeadLetterReason::Rejected,
    };
    proto::DeadLetter {
        event_id: id.to_string(),
        attempts: letter.attempts.cast_signed(),
        reason: reason.into(),
        dead_lettered_at: Some(timestamp(letter.at)),
    }
}

/// Terms with some fields replaced by what was asked for.
fn changed<P: AsRef<str>>(
    settings: &Settings,
    asked: &proto::Subscription,
    fields: &[P],
) -> Result<Settings, Refusal> {
    let mut settings = settings.clone();
    let replaces = |field: &str| fields.iter().any(|one| one.as_ref() == field);
    for field in CHANGEABLE.into_iter().filter(|field| replaces(field)) {
        let path = format!("subscription.{field}");
        let path = path.as_str();
        match field {
            "filter" => settings.filter = filter(asked)?,
            "ack_deadline" => {
                let (least, most) = (limits::ACK_DEADLINE_MIN, limits::ACK_DEADLINE_MAX);
                let default = limits::ACK_DEADLINE_DEFAULT;
                settings.ack_deadline = events::duration(path, asked.ack_deadline, default, least..=most)?;
            }
            "max_attempts" => {
                let default = limits::ATTEMPTS_DEFAULT as usize;
                let attempts = number(path, asked.max_attempts, default, limits::ATTEMPTS_MAX as usize)?;
                settings.max_attempts = u32::try_from(attempts).unwrap_or(limits::ATTEMPTS_MAX);
            }
            "after_max_attempts" => settings.after_max_attempts = after_max_attempts(path, asked)?,
            "min_retry_delay" => {
                let (least, most) = (Duration::ZERO, limits::MIN_RETRY_DELAY_MAX);
                let default = limits::MIN_RETRY_DELAY_DEFAULT;
                settings.min_retry_delay =
                    events::duration(path, asked.min_retry_delay, default, least..=most)?;
            }
            "max_retry_delay" => {
                let (least, most) = (Duration::ZERO, limits::MAX_RETRY_DELAY_MAX);
                let default = limits::MAX_RETRY_DELAY_DEFAULT.max(settings.min_retry_delay);
                settings.max_retry_delay =
                    events::duration(path, asked.max_retry_delay, default, least..=most)?;
            }
            "max_unacknowledged_per_stream" => {
                settings.max_unacknowledged_per_stream = number(
                    path,
                    asked.max_unacknowledged_per_stream,
                    limits::UNACKNOWLEDGED_PER_STREAM_DEFAULT,
                    limits::UNACKNOWLEDGED_PER_STREAM_MAX,
                )?;
            }
            "max_unacknowledged" => {
                let default = limits::UNACKNOWLEDGED_DEFAULT;
                let most = limits::UNACKNOWLEDGED_MAX;
                settings.max_unacknowledged = number(path, asked.max_unacknowledged, default, most)?;
            }
            "inactive_retention" => {
                let (least, most) = (limits::INACTIVE_RETENTION_MIN, limits::INACTIVE_RETENTION_MAX);
                let bounded = |asked| events::duration(path, Some(asked), least, least..=most);
                settings.inactive_retention = asked.inactive_retention.map(bounded).transpose()?;
            }
            _ => settings.labels = labels(path, &asked.labels)?,
        }
    }
    if settings.max_retry_delay < settings.min_retry_delay {
        let reason = "must not be shorter than min_retry_delay";
        return Err(Refusal::field("subscription.max_retry_delay", reason));
    }
    Ok(settings)
}

fn filter(asked: &proto::Subscription) -> Result<crate::filter::Filter, Refusal> {
    events::filter(asked.filter.clone()).map_err(|refusal| match refusal {
        Refusal::InvalidField { field, reason } => Refusal::field(format!("subscription.{field}"), reason),
        other => other,
    })
}

fn after_max_attempts(path: &str, asked: &proto::Subscription) -> Result<AfterMaxAttempts, Refusal> {
    match proto::AfterMaxAttempts::try_from(asked.after_max_attempts) {
        Ok(proto::AfterMaxAttempts::Unspecified | proto::AfterMaxAttempts::DeadLetter) => {
            Ok(AfterMaxAttempts::DeadLetter)
        }
        Ok(proto::AfterMaxAttempts::Retry) => Ok(AfterMaxAttempts::Retry),
        Ok(proto::AfterMaxAttempts::Discard) => Ok(AfterMaxAttempts::Discard),
        Err(_) => Err(Refusal::field(path, "is not a known action")),
    }
}

fn labels(
    path: &str,
    asked: &HashMap<String, String>,
) -> Result<std::collections::BTreeMap<String, String>, Refusal> {
    if asked.len() > limits::LABELS_MAX {
        let reason = format!("must be at most {} labels", limits::LABELS_MAX);
        return Err(Refusal::field(path, reason));
    }
    for (key, value) in asked {
        let key_fits = (1..=limits::LABEL_KEY_BYTES_MAX).contains(&key.len());
        if !key_fits || value.len() > limits::LABEL_VALUE_BYTES_MAX {
            let reason = format!(
                "must have keys of 1 to {} bytes and values of at most {}",
                limits::LABEL_KEY_BYTES_MAX,
                limits::LABEL_VALUE_BYTES_MAX
            );
            return Err(Refusal::field(path, reason));
        }
    }
    Ok(asked.clone().into_iter().collect())
}

fn which(event_ids: Vec<String>) -> Result<Which, Refusal> {
    if event_ids.is_empty() {
        return Ok(Which::All);
    }
    if event_ids.len() > limits::DEAD_LETTERS_PER_CALL_MAX {
        let reason = format!("must be at most {} ids", limits::DEAD_LETTERS_PER_CALL_MAX);
        return Err(Refusal::field("event_ids", reason));
    }
    let id = |(at, id): (usize, &String)| {
        let invalid = |_| Refusal::field(format!("event_ids[{at}]"), "is not an event id");
        id.parse::<EventId>().map_err(invalid)
    };
    let ids = event_ids.iter().enumerate().map(id);
    Ok(Which::Events(ids.collect::<Result<_, _>>()?))
}

fn name(field: &str, name: &str) -> Result<SubscriptionName, Refusal> {
    name.parse().map_err(|_| {
        Refusal::field(
            field,
            "must be 1 to 63 characters of a-z, 0-9 and -, and start with a letter or digit",
        )
    })
}

/// A number from 1 to `most`, or the default for 0.
fn number(field: &str, asked: i32, default: usize, most: usize) -> Result<usize, Refusal> {
    match usize::try_from(asked) {
        Ok(0) => Ok(default),
        Ok(number) if number <= most => Ok(number),
        _ => Err(Refusal::field(
            field,
            format!("must be 1 to {most}, or 0 for the default"),
        )),
    }
}

fn bounded(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn seconds(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}
