//! `hookstream tail`. Owns following a stream from a shell: reconnecting with the last cursor, printing.

use std::{io::Write, process::ExitCode, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use clap::Args;
use tonic::Status;

use super::{
    client::{self, Client, FilterFlags, Server},
    output,
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
  hookstream tail --after \"$CURSOR\" --stop-at-tail --json")]
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
    /// Print JSON also on a terminal.
    #[arg(long)]
    json: bool,
}

/// How a connection's part of the tail ended.
enum End {
    Done,
    Again { after: Duration },
}

impl Tail {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let for_people = output::for_people(self.json);
        let mut request = SubscribeEventsRequest {
            filter: Some(self.filter.clone().into()),
            start: self.start(),
            stop_at_tail: self.stop_at_tail,
            continue_after_gap: self.continue_after_gap,
            ..SubscribeEventsRequest::default()
        };
        let mut remaining = self.count.unwrap_or(u64::MAX);
        // A first failure is a mistake in the address; a later one passes.
        let mut client = Some(self.server.connect().await?);
        if for_people {
            writeln!(anstream::stdout(), "{}", output::header())?;
        }
        let backoff = || {
            ExponentialBuilder::new()
                .with_min_delay(Duration::from_millis(200))
                .with_max_delay(Duration::from_secs(5))
                .with_jitter()
                .without_max_times()
                .build()
        };
        let mut delays = backoff();
        loop {
            let connected = match client.take() {
                Some(client) => Some(client),
                None => self.server.connect().await.ok(),
            };
            let mut wait = delays.next().unwrap_or_default();
            if let Some(connected) = connected {
                let before = request.start.clone();
                match self
                    .follow(connected, &mut request, &mut remaining, for_people)
                    .await?
                {
                    End::Done => return Ok(ExitCode::SUCCESS),
                    End::Again { after } => {
                        if request.start != before {
                            delays = backoff();
                        }
                        wait = wait.max(after);
                    }
                }
            }
            tokio::time::sleep(wait).await;
        }
    }

    fn start(&self) -> Option<Start> {
        let after = self.after.clone().map(Start::AfterCursor);
        let earliest = self
            .from_start
            .then_some(Start::Position(Position::Earliest.into()));
        after.or(self.since.map(Start::Since)).or(earliest)
    }

    /// Follows one connection to its end. `request` moves on with every cursor.
    async fn follow(
        &self,
        mut client: Client,
        request: &mut SubscribeEventsRequest,
        remaining: &mut u64,
        for_people: bool,
    ) -> anyhow::Result<End> {
        let mut wait = Duration::ZERO;
        let again = |status: Status, after| {
            if !client::is_passing(&status) {
                return Err(client::explain(&status));
            }
            anstream::eprintln!(
                "connection lost ({}); reconnecting where it stopped",
                status.message()
            );
            Ok(End::Again { after })
        };
        let mut frames = match client.subscribe_events(request.clone()).await {
            Ok(frames) => frames.into_inner(),
            Err(status) => return again(status, wait),
        };
        loop {
            let frame = match frames.message().await {
                Ok(Some(response)) => response.frame,
                Ok(None) => return Ok(End::Done),
                Err(status) => return again(status, wait),
            };
            let cursor = match frame {
                Some(Frame::Event(event)) => {
                    output::print_event(&event, for_people)?;
                    *remaining -= 1;
                    if *remaining == 0 {
                        return Ok(End::Done);
                    }
                    event.cursor
                }
                Some(Frame::CaughtUp(at)) => at.cursor,
                Some(Frame::Heartbeat(at)) => at.cursor,
                Some(Frame::FellBehind(at)) => at.cursor,
                Some(Frame::Gap(gap)) => {
                    anstream::eprintln!("events were removed by retention before they could be printed");
                    gap.earliest_cursor
                }
                Some(Frame::Draining(draining)) => {
                    let after = draining
                        .reconnect_after
                        .and_then(|after| Duration::try_from(after).ok());
                    wait = after.unwrap_or_default();
                    draining.cursor
                }
                None => continue,
            };
            request.start = Some(Start::AfterCursor(cursor));
        }
    }
}
