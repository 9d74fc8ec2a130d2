//! `hookstream subscription`. Owns managing subscriptions from a shell.

use std::{collections::HashMap, io::Write, process::ExitCode};

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};

use super::{
    client::{self, FilterFlags, Server},
    output,
};
use crate::grpc::proto::{
    self, DeadLetter, Event, EventFilter, ListEventsRequest, ManageSubscriptionRequest,
    ManageSubscriptionResponse, Position, Subscription,
    manage_subscription_request::{
        Create, Delete, DiscardDeadLetters, Get, List, Operation, ReplayDeadLetters, Seek, Update,
        create::Start, seek::Target,
    },
    manage_subscription_response::Result as Answer,
};

/// Manages subscriptions: places that the service keeps, and work that several streams share.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes a subscription. It starts with the events stored from now on, unless told otherwise.
    #[command(after_help = "Examples:
  hookstream subscription create billing --type 'avatar_video.*'
  hookstream subscription create billing --from-start --ordering per-entity --ack-deadline 5min
Then:
  hookstream tail --subscription billing --exec './handle-event'")]
    Create(CreateArgs),
    /// Lists the subscriptions, with how they stand.
    List(ListArgs),
    /// Shows one subscription, with how it stands.
    Get(Named),
    /// Changes a subscription; streams that are open go on under the new terms.
    #[command(after_help = "Examples:
  hookstream subscription update billing --max-attempts 20 --ack-deadline 2min
  hookstream subscription update billing --all-events")]
    Update(UpdateArgs),
    /// Moves a subscription to another place in the log.
    #[command(after_help = "Examples:
  hookstream subscription seek billing --since 2h
  hookstream subscription seek billing --to-end")]
    Seek(SeekArgs),
    /// Removes a subscription; its streams end, the events stay.
    Delete(Named),
    /// Looks after what a subscription has put aside.
    #[command(subcommand)]
    DeadLetters(DeadLetters),
}

/// Looks after what a subscription has put aside.
#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// Lists events that were put aside, newest first, and why.
    #[command(after_help = "Examples:
  hookstream subscription dead-letters list billing
  hookstream subscription dead-letters list billing --json | jq -r .event.entityId")]
    List(ListDeadLetters),
    /// Hands events out again, with all their attempts before them.
    #[command(after_help = "Examples:
  hookstream subscription dead-letters replay billing evt_0123456789abcdef0123456789abcdef
  hookstream subscription dead-letters replay billing --all")]
    Replay(SomeDeadLetters),
    /// Forgets that events were put aside; they stay in the log.
    #[command(after_help = "Example:\n  hookstream subscription dead-letters discard billing --all")]
    Discard(SomeDeadLetters),
}

/// One subscription.
#[derive(Args, Debug)]
pub struct Named {
    #[command(flatten)]
    server: Server,
    /// Its name.
    name: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A new subscription.
#[derive(Args, Debug)]
pub struct CreateArgs {
    #[command(flatten)]
    subscription: Named,
    #[command(flatten)]
    settings: Settings,
    /// In which order events are handed out.
    #[arg(long, value_enum, default_value = "none")]
    ordering: Ordering,
    /// Start after this cursor (the `cursor` of an event).
    #[arg(long, value_name = "CURSOR", group = "start")]
    after: Option<String>,
    /// Start at this time, such as 2026-03-25T12:05:00Z, or this long ago, such as 15m.
    #[arg(long, value_name = "TIME", group = "start", value_parser = client::parse_time)]
    since: Option<prost_types::Timestamp>,
    /// Start at the oldest event that is kept.
    #[arg(long, group = "start")]
    from_start: bool,
}

/// A change.
#[derive(Args, Debug)]
pub struct UpdateArgs {
    #[command(flatten)]
    subscription: Named,
    #[command(flatten)]
    settings: Settings,
    /// Hand out every event from now on.
    #[arg(long, conflicts_with_all = ["event_types", "entity_ids", "callback_ids", "endpoints"])]
    all_events: bool,
    /// Keep it for ever, however long nobody uses it.
    #[arg(long, conflicts_with = "inactive_retention")]
    no_inactive_retention: bool,
}

/// Another place.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("target").required(true)))]
pub struct SeekArgs {
    #[command(flatten)]
    subscription: Named,
    /// After this cursor (the `cursor` of an event).
    #[arg(long, value_name = "CURSOR", group = "target")]
    after: Option<String>,
    /// At this time, such as 2026-03-25T12:05:00Z, or this long ago, such as 15m.
    #[arg(long, value_name = "TIME", group = "target", value_parser = client::parse_time)]
    since: Option<prost_types::Timestamp>,
    /// At the oldest event that is kept.
    #[arg(long, group = "target")]
    from_start: bool,
    /// After the newest event: everything stored so far is skipped.
    #[arg(long, group = "target")]
    to_end: bool,
}

/// A listing.
#[derive(Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    server: Server,
    /// Print JSON, one subscription a line.
    #[arg(long)]
    json: bool,
}

/// A listing of what was put aside.
#[derive(Args, Debug)]
pub struct ListDeadLetters {
    #[command(flatten)]
    server: Server,
    /// The subscription's name.
    name: String,
    /// How many to list.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
    /// Print JSON, one object with `event` and `deadLetter` a line.
    #[arg(long)]
    json: bool,
}

/// Some of what was put aside.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["event_ids", "all"])))]
pub struct SomeDeadLetters {
    #[command(flatten)]
    subscription: Named,
    /// The `id` of each event.
    #[arg(value_name = "EVENT_ID")]
    event_ids: Vec<String>,
    /// All of them.
    #[arg(long)]
    all: bool,
}

/// What a subscription is told to do.
#[derive(Args, Debug)]
struct Settings {
    #[command(flatten)]
    filter: FilterFlags,
    /// How long a stream has to acknowledge an event: 1s to 1h, 30s if not given.
    #[arg(long, value_name = "DURATION", value_parser = client::parse_duration)]
    ack_deadline: Option<prost_types::Duration>,
    /// How often an event is handed out at most, 10 if not given.
    #[arg(long, value_name = "N")]
    max_attempts: Option<i32>,
    /// What becomes of an event whose last attempt failed; it is put aside if not given.
    #[arg(long, value_enum)]
    after_max_attempts: Option<AfterMaxAttempts>,
    /// How long an event waits after its first failed attempt, 1s if not given; it doubles with each attempt.
    #[arg(long, value_name = "DURATION", value_parser = client::parse_duration)]
    min_retry_delay: Option<prost_types::Duration>,
    /// The longest that this becomes, 5min if not given.
    #[arg(long, value_name = "DURATION", value_parser = client::parse_duration)]
    max_retry_delay: Option<prost_types::Duration>,
    /// How many unacknowledged events one stream holds, 20 if not given.
    #[arg(long, value_name = "N")]
    max_unacknowledged_per_stream: Option<i32>,
    /// How many events are under way in all, 1000 if not given.
    #[arg(long, value_name = "N")]
    max_unacknowledged: Option<i32>,
    /// How long it is kept while nobody uses it; for ever if not given.
    #[arg(long, value_name = "DURATION", value_parser = client::parse_duration)]
    inactive_retention: Option<prost_types::Duration>,
    /// A note. May be repeated; an update replaces all of them.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AfterMaxAttempts {
    /// Put it aside.
    DeadLetter,
    /// Go on for ever.
    Retry,
    /// Forget it.
    Discard,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Ordering {
    /// The order of the log, but an event that failed does not hold up others.
    None,
    /// Of each entity one unacknowledged event at a time, in order.
    PerEntity,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not of the form KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Command {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Create(args) => args.run().await?,
            Self::List(args) => args.run().await?,
            Self::Get(named) => {
                let name = named.name.clone();
                named.manage(Operation::Get(Get { name })).await?;
            }
            Self::Update(args) => args.run().await?,
            Self::Seek(args) => args.run().await?,
            Self::Delete(named) => {
                let name = named.name.clone();
                named.manage(Operation::Delete(Delete { name })).await?;
            }
            Self::DeadLetters(DeadLetters::List(args)) => args.run().await?,
            Self::DeadLetters(DeadLetters::Replay(args)) => {
                let (name, event_ids) = (args.subscription.name.clone(), args.event_ids);
                let replay = ReplayDeadLetters { name, event_ids };
                args.subscription
                    .manage(Operation::ReplayDeadLetters(replay))
                    .await?;
            }
            Self::DeadLetters(DeadLetters::Discard(args)) => {
                let (name, event_ids) = (args.subscription.name.clone(), args.event_ids);
                let discard = DiscardDeadLetters { name, event_ids };
                args.subscription
                    .manage(Operation::DiscardDeadLetters(discard))
                    .await?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl CreateArgs {
    async fn run(self) -> anyhow::Result<()> {
        let (mut subscription, _) = self.settings.message(&self.subscription.name);
        let ordering = match self.ordering {
            Ordering::None => proto::Ordering::None,
            Ordering::PerEntity => proto::Ordering::PerEntity,
        };
        subscription.ordering = ordering.into();
        let after = self.after.map(Start::AfterCursor);
        let earliest = self
            .from_start
            .then_some(Start::Position(Position::Earliest.into()));
        let create = Create {
            subscription: Some(subscription),
            start: after.or(self.since.map(Start::Since)).or(earliest),
        };
        self.subscription.manage(Operation::Create(create)).await
    }
}

impl UpdateArgs {
    async fn run(self) -> anyhow::Result<()> {
        let (subscription, mut paths) = self.settings.message(&self.subscription.name);
        paths.extend(self.all_events.then(|| "filter".to_owned()));
        paths.extend(
            self.no_inactive_retention
                .then(|| "inactive_retention".to_owned()),
        );
        if paths.is_empty() {
            bail!("nothing is to be changed: `hookstream subscription update --help` shows what can be");
        }
        let update = Update {
            subscription: Some(subscription),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        self.subscription.manage(Operation::Update(update)).await
    }
}

impl SeekArgs {
    async fn run(self) -> anyhow::Result<()> {
        let position = if self.from_start {
            Position::Earliest
        } else {
            Position::New
        };
        let after = self.after.map(Target::AfterCursor);
        let target = after.or(self.since.map(Target::Since));
        let seek = Seek {
            name: self.subscription.name.clone(),
            target: Some(target.unwrap_or(Target::Position(position.into()))),
        };
        self.subscription.manage(Operation::Seek(seek)).await
    }
}

impl Settings {
    /// The settings as they are sent, and which of them were given.
    fn message(self, name: &str) -> (Subscription, Vec<String>) {
        let filter = self.filter.filter();
        let given = [
            ("filter", filter != EventFilter::default()),
            ("ack_deadline", self.ack_deadline.is_some()),
            ("max_attempts", self.max_attempts.is_some()),
            ("after_max_attempts", self.after_max_attempts.is_some()),
            ("min_retry_delay", self.min_retry_delay.is_some()),
            ("max_retry_delay", self.max_retry_delay.is_some()),
            (
                "max_unacknowledged_per_stream",
                self.max_unacknowledged_per_stream.is_some(),
            ),
            ("max_unacknowledged", self.max_unacknowledged.is_some()),
            ("inactive_retention", self.inactive_retention.is_some()),
            ("labels", !self.labels.is_empty()),
        ];
        let given = given.into_iter().filter(|(_, is_given)| *is_given);
        let after_max_attempts = self.after_max_attempts.map(|then| match then {
            AfterMaxAttempts::DeadLetter => proto::AfterMaxAttempts::DeadLetter.into(),
            AfterMaxAttempts::Retry => proto::AfterMaxAttempts::Retry.into(),
            AfterMaxAttempts::Discard => proto::AfterMaxAttempts::Discard.into(),
        });
        let subscription = Subscription {
            name: name.to_owned(),
            filter: Some(filter),
            ack_deadline: self.ack_deadline,
            max_attempts: self.max_attempts.unwrap_or_default(),
            after_max_attempts: after_max_attempts.unwrap_or_default(),
            min_retry_delay: self.min_retry_delay,
            max_retry_delay: self.max_retry_delay,
            max_unacknowledged_per_stream: self.max_unacknowledged_per_stream.unwrap_or_default(),
            max_unacknowledged: self.max_unacknowledged.unwrap_or_default(),
            inactive_retention: self.inactive_retention,
            labels: self.labels.into_iter().collect(),
            ..Subscription::default()
        };
        (subscription, given.map(|(path, _)| path.to_owned()).collect())
    }
}

impl ListArgs {
    async fn run(self) -> anyhow::Result<()> {
        let subscriptions = client::all_pages(async |page_token| {
            let operation = Operation::List(List {
                page_size: 1000,
                page_token,
            });
            let Some(Answer::List(page)) = manage(&self.server, operation).await?.result else {
                bail!("the answer is empty")
            };
            Ok((page.subscriptions, page.next_page_token))
        })
        .await?;
        if self.json {
            return subscriptions.iter().try_for_each(output::print_json);
        }
        let row = |subscription: Subscription| {
            let status = subscription.status.unwrap_or_default();
            [
                subscription.name,
                status.backlog.to_string(),
                status.in_flight.to_string(),
                output::duration(status.oldest_unacknowledged_age),
                status.dead_letters.to_string(),
                status.connected_streams.to_string(),
            ]
        };
        output::print_table(
            &[
                "NAME",
                "BACKLOG",
                "IN FLIGHT",
                "OLDEST",
                "DEAD LETTERS",
                "STREAMS",
            ],
            subscriptions.into_iter().map(row),
        )
    }
}

impl ListDeadLetters {
    async fn run(self) -> anyhow::Result<()> {
        let mut client = self.server.connect().await?;
        let mut request = ListEventsRequest {
            dead_letters_of: self.name,
            ..ListEventsRequest::default()
        };
        let mut found: Vec<(Event, DeadLetter)> = Vec::new();
        let limit = self.limit as usize;
        while found.len() < limit {
            request.page_size = (limit - found.len()).min(1000) as i32;
            let page = client.list_events(request.clone()).await;
            let page = page.map_err(|status| client::explain(&status))?.into_inner();
            found.extend(page.events.into_iter().zip(page.dead_letters));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        if self.json {
            let mut out = std::io::stdout();
            for (event, letter) in &found {
                let (event, letter) = (output::json(event)?, output::json(letter)?);
                writeln!(out, r#"{{"event":{event},"deadLetter":{letter}}}"#)?;
            }
            return Ok(());
        }
        let row = |(event, letter): (Event, DeadLetter)| {
            [
                output::time(letter.dead_lettered_at),
                output::word(letter.reason().as_str_name(), "DEAD_LETTER_REASON_"),
                letter.attempts.to_string(),
                event.type_name,
                output::or_dash(&event.entity_id).to_owned(),
                event.id,
            ]
        };
        output::print_table(
            &["PUT ASIDE", "REASON", "ATTEMPTS", "TYPE", "ENTITY", "EVENT ID"],
            found.into_iter().map(row),
        )
    }
}

async fn manage(server: &Server, operation: Operation) -> anyhow::Result<ManageSubscriptionResponse> {
    let request = ManageSubscriptionRequest {
        operation: Some(operation),
    };
    let answer = server.connect().await?.manage_subscription(request).await;
    Ok(answer.map_err(|status| client::explain(&status))?.into_inner())
}

impl Named {
    async fn manage(&self, operation: Operation) -> anyhow::Result<()> {
        let answer = manage(&self.server, operation).await?;
        if self.json {
            return output::print_json(&answer);
        }
        let mut out = anstream::stdout();
        match answer.result.context("the answer is empty")? {
            Answer::Create(created) => show(&mut out, created.subscription)?,
            Answer::Get(found) => show(&mut out, found.subscription)?,
            Answer::Update(updated) => show(&mut out, updated.subscription)?,
            Answer::Seek(moved) => show(&mut out, moved.subscription)?,
            Answer::Delete(_) => writeln!(out, "{} is deleted", self.name)?,
            Answer::ReplayDeadLetters(done) => writeln!(
                out,
                "{} are handed out again, {} stay put aside",
                done.replayed, done.remaining
            )?,
            Answer::DiscardDeadLetters(done) => {
                writeln!(
                    out,
                    "{} are forgotten, {} stay put aside",
                    done.discarded, done.remaining
                )?;
            }
            Answer::List(_) => {}
        }
        Ok(())
    }
}

fn show(out: &mut impl Write, subscription: Option<Subscription>) -> anyhow::Result<()> {
    let subscription = subscription.context("the answer is empty")?;
    let status = subscription.status.clone().unwrap_or_default();
    let then = output::word(
        subscription.after_max_attempts().as_str_name(),
        "AFTER_MAX_ATTEMPTS_",
    );
    let retention = match subscription.inactive_retention {
        None => "for ever".to_owned(),
        retention => output::duration(retention),
    };
    let lines = [
        ("name", subscription.name.clone()),
        ("events", output::filter(subscription.filter.as_ref())),
        ("ack deadline", output::duration(subscription.ack_deadline)),
        ("attempts", format!("{}, then {then}", subscription.max_attempts)),
        (
            "retry delay",
            format!(
                "{} to {}",
                output::duration(subscription.min_retry_delay),
                output::duration(subscription.max_retry_delay)
            ),
        ),
        (
            "unacknowledged",
            format!(
                "at most {} a stream, {} in all",
                subscription.max_unacknowledged_per_stream, subscription.max_unacknowledged
            ),
        ),
        (
            "ordering",
            output::word(subscription.ordering().as_str_name(), "ORDERING_"),
        ),
        ("kept unused", retention),
        ("labels", labels(&subscription.labels)),
        ("created", output::time(subscription.created_at)),
        ("cursor", status.cursor),
        (
            "backlog",
            format!("{}, of these {} in flight", status.backlog, status.in_flight),
        ),
        ("oldest", output::duration(status.oldest_unacknowledged_age)),
        ("dead letters", status.dead_letters.to_string()),
        ("streams", status.connected_streams.to_string()),
        ("last gap", output::time(status.last_gap_at)),
    ];
    for (name, value) in lines {
        writeln!(out, "{name:<16}{value}")?;
    }
    Ok(())
}

fn labels(labels: &HashMap<String, String>) -> String {
    let mut labels: Vec<_> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    labels.sort_unstable();
    output::or_dash(&labels.join(", ")).to_owned()
}
