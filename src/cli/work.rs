//! `hookstream tail --subscription`. Owns working off a subscription from a shell: printing or running a command, and
//! acknowledging what came of it.

use std::{
    io::{self, Write},
    pin::pin,
    process::{ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context;
use backon::Retryable;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{io::AsyncWriteExt, process::Command, time::MissedTickBehavior};

use super::{
    client::{self, Client, Server},
    follow,
    output::{self, Form},
    serve::Signals,
};
use crate::grpc::proto::{
    AcknowledgeEventsRequest, AcknowledgementResult, Event, ManageSubscriptionRequest,
    SubscribeEventsRequest,
    acknowledge_events_request::{Done, Extend, Outcome, Reject, Retry},
    manage_subscription_request::{Get, Operation},
    manage_subscription_response::Result as Answer,
    subscribe_events_response::Frame,
};

/// Events that are held while they are printed, if the subscription allows as many.
const EVENTS_HELD_MAX: usize = 1000;
/// `EX_DATAERR`: the event cannot be handled, now or ever.
const NEVER: i32 = 65;
/// What a shell says of a process that an interrupt ended.
const INTERRUPTED: u8 = 130;

/// Events of a subscription, worked off here.
pub struct Work {
    /// Where it is.
    pub server: Server,
    /// Its name.
    pub subscription: String,
    /// What runs for each event; without it, each is printed.
    pub command: Option<String>,
    /// Commands that run at once.
    pub parallel: usize,
    /// Events after which to end.
    pub count: u64,
    /// How events are printed.
    pub form: Form,
}

/// Who acknowledges.
#[derive(Clone)]
struct Acknowledger {
    client: Client,
    subscription: String,
}

/// A command for one event.
struct Job {
    command: String,
    acknowledger: Acknowledger,
    /// How often the deadline is moved while the command runs.
    extend_every: Duration,
    event: Event,
    ack_id: String,
    attempt: i32,
}

type Pending = BoxFuture<'static, anyhow::Result<()>>;

impl Work {
    /// Works until the count is reached or somebody ends it.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let mut signals = Signals::new()?;
        tokio::select! {
            done = self.work() => done.map(|()| ExitCode::SUCCESS),
            // What is under way is given up; commands that still run are killed.
            () = signals.next() => Ok(ExitCode::from(INTERRUPTED)),
        }
    }

    async fn work(mut self) -> anyhow::Result<()> {
        let client = self.server.connect().await?;
        let acknowledger = Acknowledger {
            client: client.clone(),
            subscription: self.subscription.clone(),
        };
        let extend_every = acknowledger.ack_deadline().await? / 3;
        let at_once = self.command.as_ref().map_or(EVENTS_HELD_MAX, |_| self.parallel);
        // No more than are worked off: what is held at the end counts as a failed attempt.
        let most = self.count.clamp(1, at_once as u64);
        let request = SubscribeEventsRequest {
            subscription: self.subscription.clone(),
            max_unacknowledged: i32::try_from(most).unwrap_or(i32::MAX),
            ..SubscribeEventsRequest::default()
        };
        let mut frames = pin!(follow::frames(self.server.clone(), client, request));
        let mut pending: FuturesUnordered<Pending> = FuturesUnordered::new();
        // Printed, and not acknowledged because another acknowledgement is under way.
        let mut printed = Vec::new();
        if self.form == Form::Text && self.command.is_none() {
            writeln!(anstream::stdout(), "{}", output::header())?;
        }
        loop {
            if self.command.is_none() && pending.is_empty() && !printed.is_empty() {
                let ids = std::mem::take(&mut printed);
                let acknowledger = acknowledger.clone();
                pending.push(async move { acknowledger.say(ids, Outcome::Done(Done {})).await }.boxed());
            }
            let wants = self.count > 0 && (self.command.is_none() || pending.len() < self.parallel);
            let response = tokio::select! {
                biased;
                Some(done) = pending.next() => {
                    done?;
                    continue;
                }
                response = frames.next(), if wants => response,
                else => return Ok(()),
            };
            let Some(response) = response else { return Ok(()) };
            let response = response?;
            let event = match response.frame {
                Some(Frame::Event(event)) => event,
                Some(Frame::Gap(_)) => {
                    anstream::eprintln!("events were removed by retention before they were handed out");
                    continue;
                }
                _ => continue,
            };
            self.count -= 1;
            match &self.command {
                None => {
                    output::print_event(&event, self.form)?;
                    printed.push(response.ack_id);
                }
                Some(command) => {
                    let job = Job {
                        command: command.clone(),
                        acknowledger: acknowledger.clone(),
                        extend_every,
                        event,
                        ack_id: response.ack_id,
                        attempt: response.delivery_attempt,
                    };
                    pending.push(job.run().boxed());
                }
            }
        }
    }
}

impl Job {
    async fn run(self) -> anyhow::Result<()> {
        let status = self.run_command().await?;
        let outcome = match status.code() {
            Some(0) => Outcome::Done(Done {}),
            Some(NEVER) => Outcome::Reject(Reject {}),
            _ => Outcome::Retry(Retry { after: None }),
        };
        if !matches!(outcome, Outcome::Done(_)) && output::is_unread() {
            // `… | head` has what it wanted, and a command cannot write any more: the next would fail as this one did.
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        let follows = match outcome {
            Outcome::Reject(_) => Some("it is put aside"),
            Outcome::Retry(_) => Some("it is tried again, unless this was the last attempt"),
            _ => None,
        };
        if let Some(follows) = follows {
            let (id, attempt) = (&self.event.id, self.attempt);
            anstream::eprintln!("{id}, attempt {attempt}: the command ended with {status}; {follows}");
        }
        self.acknowledger.say(vec![self.ack_id], outcome).await
    }

    /// Runs the command, with the event on its standard input; the deadline moves for as long as it runs.
    async fn run_command(&self) -> anyhow::Result<ExitStatus> {
        let event = &self.event;
        let attempt = self.attempt.to_string();
        let variables = [
            ("HOOKSTREAM_EVENT_ID", event.id.as_str()),
            ("HOOKSTREAM_EVENT_TYPE", &event.type_name),
            ("HOOKSTREAM_ENTITY_ID", &event.entity_id),
            ("HOOKSTREAM_CALLBACK_ID", &event.callback_id),
            ("HOOKSTREAM_ENDPOINT", &event.endpoint),
            ("HOOKSTREAM_DELIVERY_ATTEMPT", &attempt),
        ];
        // JSON may hold what a variable cannot; standard input has it.
        let can_be = |(_, value): &(&str, &str)| !value.contains('\0');
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(&self.command)
            .envs(variables.into_iter().filter(can_be))
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("`sh` cannot be started")?;
        let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        let input = output::json(event)? + "\n";
        let stdin = child.stdin.take();
        let fed_and_ended = async {
            if let Some(mut stdin) = stdin {
                // A command need not read what it is told.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
            child.wait().await
        };
        let mut fed_and_ended = pin!(fed_and_ended);
        let mut ticks = tokio::time::interval(self.extend_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            tokio::select! {
                ended = &mut fed_and_ended => {
                    // What it left running in the background is its own affair.
                    std::mem::forget(group);
                    return ended.context("the command is lost");
                }
                _ = ticks.tick() => {
                    let extend = Outcome::Extend(Extend { by: None });
                    self.acknowledger.say(vec![self.ack_id.clone()], extend).await?;
                }
            }
        }
    }
}

/// A command with all that it started. Dropping it ends them.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // It may have ended meanwhile.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Acknowledger {
    /// Says what became of events, however often the connection breaks meanwhile.
    async fn say(&self, ack_ids: Vec<String>, outcome: Outcome) -> anyhow::Result<()> {
        let request = AcknowledgeEventsRequest {
            subscription: self.subscription.clone(),
            ack_ids,
            outcome: Some(outcome),
        };
        let call = || {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.acknowledge_events(request).await }
        };
        let answer = call
            .retry(follow::delays())
            .sleep(tokio::time::sleep)
            .when(client::is_passing)
            .await;
        let results = answer
            .map_err(|status| client::explain(&status))?
            .into_inner()
            .results;
        let accepted = i32::from(AcknowledgementResult::Accepted);
        let late = results.iter().filter(|&&result| result != accepted).count();
        if late > 0 {
            anstream::eprintln!(
                "{late} of {} acknowledgements came too late: another stream has, or had, the event",
                results.len()
            );
        }
        Ok(())
    }

    async fn ack_deadline(&self) -> anyhow::Result<Duration> {
        let get = Get {
            name: self.subscription.clone(),
        };
        let request = ManageSubscriptionRequest {
            operation: Some(Operation::Get(get)),
        };
        let answer = self.client.clone().manage_subscription(request).await;
        let answer = answer.map_err(|status| client::explain(&status))?.into_inner();
        let Some(Answer::Get(found)) = answer.result else {
            anyhow::bail!("the answer is empty")
        };
        let deadline = found.subscription.and_then(|found| found.ack_deadline);
        let deadline = deadline.and_then(|deadline| Duration::try_from(deadline).ok());
        deadline.context("the subscription has no deadline")
    }
}
