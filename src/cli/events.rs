//! `hookstream events` and `hookstream await`. Owns looking at stored events from a shell.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use tonic::Code;

use super::{
    client::{self, FilterFlags, Server},
    output::{self, EventForm, Form},
};
use crate::grpc::proto::{
    AwaitEventRequest, GetEventRequest, ListEventTypesRequest, ListEventsRequest, Order,
    await_event_request::Start,
};

/// Looks at stored events.
#[derive(Debug, Subcommand)]
pub enum Events {
    /// Lists events, newest first.
    #[command(after_help = "Examples:
  hookstream events list
  hookstream events list --type 'avatar_video.*' --since 24h --limit 100
  hookstream events list --oldest-first --json | jq -r .id")]
    List(List),
    /// Shows one event whole, as JSON.
    #[command(after_help = "Example:\n  hookstream events get evt_0123456789abcdef0123456789abcdef")]
    Get(Get),
    /// Lists the event types.
    Types(Types),
}

/// Lists events.
#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    filter: FilterFlags,
    /// Only events received at or after this time, or this long ago.
    #[arg(long, value_name = "TIME", value_parser = client::parse_time)]
    since: Option<prost_types::Timestamp>,
    /// Only events received before this time.
    #[arg(long, value_name = "TIME", value_parser = client::parse_time)]
    until: Option<prost_types::Timestamp>,
    /// List the oldest first.
    #[arg(long)]
    oldest_first: bool,
    /// How many to list.
    #[arg(long, value_name = "N", default_value_t = 10)]
    limit: u32,
    #[command(flatten)]
    form: EventForm,
}

/// Shows one event.
#[derive(Args, Debug)]
pub struct Get {
    #[command(flatten)]
    server: Server,
    /// The `id` of the event.
    id: String,
    /// JSON is what is printed in any case.
    #[arg(long)]
    json: bool,
}

/// Lists event types.
#[derive(Args, Debug)]
pub struct Types {
    #[command(flatten)]
    server: Server,
    /// Print JSON also on a terminal.
    #[arg(long)]
    json: bool,
}

impl Events {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(list) => list.run().await?,
            Self::Get(get) => {
                let request = GetEventRequest { id: get.id };
                let found = get.server.connect().await?.get_event(request).await;
                let found = found.map_err(|status| client::explain(&status))?.into_inner();
                output::print_json(&found.event.context("the answer is empty")?)?;
            }
            Self::Types(types) => types.run().await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl List {
    async fn run(self) -> anyhow::Result<()> {
        let form = self.form.chosen();
        let mut client = self.server.connect().await?;
        let order = if self.oldest_first {
            Order::OldestFirst
        } else {
            Order::NewestFirst
        };
        let mut request = ListEventsRequest {
            filter: Some(self.filter.filter()),
            since: self.since,
            until: self.until,
            order: order.into(),
            page_size: 0,
            page_token: String::new(),
            dead_letters_of: String::new(),
        };
        let mut remaining = self.limit as usize;
        if form == Form::Text {
            anstream::println!("{}", output::header());
        }
        while remaining > 0 {
            request.page_size = remaining.min(1000) as i32;
            let page = client.list_events(request.clone()).await;
            let page = page.map_err(|status| client::explain(&status))?.into_inner();
            for event in &page.events {
                output::print_event(event, form)?;
            }
            remaining = remaining.saturating_sub(page.events.len());
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        Ok(())
    }
}

impl Types {
    async fn run(self) -> anyhow::Result<()> {
        let types = self
            .server
            .connect()
            .await?
            .list_event_types(ListEventTypesRequest {})
            .await;
        let types = types
            .map_err(|status| client::explain(&status))?
            .into_inner()
            .event_types;
        if output::for_people(self.json) {
            let row = |r#type: crate::grpc::proto::EventTypeDescription| [r#type.name, r#type.description];
            return output::print_table(&["TYPE", "TELLS"], types.into_iter().map(row));
        }
        types.iter().try_for_each(output::print_json)
    }
}

/// Waits for the first event that matches, prints it and ends. Ends with status 2 if none came in time.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hookstream await --callback-id order_12345 --since 10m --timeout 30m
  hookstream await --type 'video_translate.*' --entity \"$TRANSLATION\" --after \"$CURSOR\"")]
pub struct Await {
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    filter: FilterFlags,
    /// Look at events after this cursor, stored ones first.
    #[arg(long, value_name = "CURSOR", group = "start")]
    after: Option<String>,
    /// Look at events received at or after this time, or this long ago, stored ones first.
    #[arg(long, value_name = "TIME", group = "start", value_parser = client::parse_time)]
    since: Option<prost_types::Timestamp>,
    /// How long to wait, up to 1h.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = client::parse_duration)]
    timeout: prost_types::Duration,
    #[command(flatten)]
    form: EventForm,
}

impl Await {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let request = AwaitEventRequest {
            filter: Some(self.filter.filter()),
            start: self
                .after
                .map(Start::AfterCursor)
                .or(self.since.map(Start::Since)),
            timeout: Some(self.timeout),
        };
        match self.server.connect().await?.await_event(request).await {
            Ok(found) => {
                let event = found.into_inner().event.context("the answer is empty")?;
                output::print_event(&event, self.form.chosen())?;
                Ok(ExitCode::SUCCESS)
            }
            Err(status) if status.code() == Code::DeadlineExceeded => {
                anstream::eprintln!("{:#}", client::explain(&status));
                Ok(ExitCode::from(2))
            }
            Err(status) => Err(client::explain(&status)),
        }
    }
}
