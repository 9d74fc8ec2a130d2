//! `hookstream tail`. Owns following events from a shell.

use std::{io::Write, pin::pin, process::ExitCode};

use clap::Args;
use futures_util::StreamExt;

use super::{
    client::{self, FilterFlags, Server},
    follow,
    output::{self, EventForm, Form},
    work::Work,
};
use crate::grpc::proto::{
    Position, SubscribeEventsRequest, subscribe_events_request::Start, subscribe_events_response::Frame,
};

/// Follows events as they arrive: aligned on a terminal, else one JSON object a line. Reconnects by itself where it stopped.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hookstream tail
  hookstream tail --from-start --type '*.fail'
  hookstream tail --since 15m --json | jq -r .entityId
  hookstream tail --after \"$CURSOR\" --stop-at-tail --json
  hookstream tail --from-start --stop-at-tail --output cloudevents
  hookstream tail --subscription billing
  hookstream tail --subscription billing --exec './handle-event' --parallel 4")]
pub struct Tail {
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    filter: FilterFlags,
    /// Start after this cursor (the `cursor` of an event).
    #[arg(long, value_name = "CURSOR", group = "start")]
    after: Option<String>,
    /// Start at this time, such as 2026-03-25T12:05:00Z, or this long ago, such as 15m.
    #[arg(long, value_name = "TIME", group = "start", value_parser = client::parse_time)]
    since: Option<prost_types::Timestamp>,
    /// Start at the oldest event that is kept.
    #[arg(long, group = "start")]
    from_start: bool,
    /// End when everything stored has been printed.
    #[arg(long)]
    stop_at_tail: bool,
    /// End after this many events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Where retention removed events, say so and go on.
    #[arg(long)]
    continue_after_gap: bool,
    /// Take part in this subscription, which has its own filter and place; each event is acknowledged when it is printed.
    #[arg(long, value_name = "NAME", conflicts_with_all = ELSEWHERE)]
    subscription: Option<String>,
    /// Run this shell command for each event instead of printing it: the event is JSON on its standard input and in
    /// HOOKSTREAM_EVENT_ID, _EVENT_TYPE, _ENTITY_ID, _CALLBACK_ID, _ENDPOINT and _DELIVERY_ATTEMPT. Its exit status is the
    /// acknowledgement: 0 done, 65 never again, anything else try again. While it runs the deadline is extended.
    #[arg(long, value_name = "COMMAND", requires = "subscription")]
    exec: Option<String>,
    /// How many commands run at once.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "exec", value_parser = clap::value_parser!(u16).range(1..=1000))]
    parallel: u16,
    #[command(flatten)]
    form: EventForm,
}

/// What a subscription has of its own.
const ELSEWHERE: [&str; 9] = [
    "event_types",
    "entity_ids",
    "callback_ids",
    "endpoints",
    "after",
    "since",
    "from_start",
    "stop_at_tail",
    "continue_after_gap",
];

impl Tail {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let form = self.form.chosen();
        let mut remaining = self.count.unwrap_or(u64::MAX);
        if let Some(subscription) = self.subscription {
            let work = Work {
                server: self.server,
                subscription,
                command: self.exec,
                parallel: usize::from(self.parallel),
                count: remaining,
                form,
            };
            return work.run().await;
        }
        let request = SubscribeEventsRequest {
            start: self.start(),
            filter: Some(self.filter.filter()),
            stop_at_tail: self.stop_at_tail,
            continue_after_gap: self.continue_after_gap,
            ..SubscribeEventsRequest::default()
        };
        let client = self.server.connect().await?;
        let mut frames = pin!(follow::frames(self.server, client, request));
        if form == Form::Text {
            writeln!(anstream::stdout(), "{}", output::header())?;
        }
        while remaining > 0
            && let Some(response) = frames.next().await
        {
            match response?.frame {
                Some(Frame::Event(event)) => {
                    output::print_event(&event, form)?;
                    remaining -= 1;
                }
                Some(Frame::Gap(_)) => {
                    anstream::eprintln!("events were removed by retention before they could be printed");
                }
                _ => {}
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn start(&self) -> Option<Start> {
        let after = self.after.clone().map(Start::AfterCursor);
        let earliest = self
            .from_start
            .then_some(Start::Position(Position::Earliest.into()));
        after.or(self.since.map(Start::Since)).or(earliest)
    }
}
