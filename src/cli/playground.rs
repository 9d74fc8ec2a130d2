//! `hookstream dev --heygen`. Owns a tour of the whole loop on one machine: a stand-in for HeyGen with its API, an endpoint
//! registered through it, deliveries, one that gets lost and is found again, a rotated secret.

use std::{collections::BTreeMap, io::Write, time::Duration};

use anstyle::Style;
use anyhow::{Context, bail};
use tonic::Streaming;

use super::{
    client::{self, Client, Server},
    output,
};
use crate::{
    clock::Clock,
    config::Config,
    event_type::EVENT_TYPES,
    grpc::proto::{
        Event, ManageEndpointRequest, Registration, SubscribeEventsRequest, SubscribeEventsResponse,
        manage_endpoint_request::{Create, Operation, Reconcile, Recreate, RotateSecret},
        manage_endpoint_response::Result as Answer,
        subscribe_events_response::Frame,
    },
    heygen::{Credentials, Heygen},
    secret::Secret,
    service::Service,
    stand_in::{DeliveryFault, Settings, StandIn},
};

const ENDPOINT: &str = "dev";
const API_KEY: &str = "dev-api-key";
/// How long an event may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often something happens in the account once the tour is over.
const PACE: Duration = Duration::from_secs(10);

/// A stand-in for HeyGen on this machine.
pub struct Playground {
    stand_in: StandIn,
    /// So that every run has entities of its own.
    number: u64,
}

impl Playground {
    /// Starts it and points the configuration at it.
    pub async fn start(config: &mut Config) -> anyhow::Result<Self> {
        let settings = Settings {
            api_key: API_KEY.to_owned(),
            clock: Clock::system(),
            seed: rand::random(),
            ..Settings::default()
        };
        let stand_in = StandIn::start(settings)
            .await
            .context("the stand-in for HeyGen does not start")?;
        let credentials = Credentials::ApiKey(Secret::new(API_KEY.to_owned())?);
        config.heygen = Some(Heygen::new(&stand_in.base_url(), credentials)?);
        // Here it is known when nothing is on its way.
        config.reconcile_grace = Duration::ZERO;
        let number = rand::random_range(0..u64::MAX / 2);
        Ok(Self { stand_in, number })
    }

    /// Shows the loop, and checks that every event arrived once.
    pub async fn tour(&mut self, service: &Service, exit: bool) -> anyhow::Result<()> {
        let bold = Style::new().bold();
        let mut out = anstream::stdout();
        let server = Server::at(service.grpc_address);
        let mut client = server.connect().await?;
        writeln!(
            out,
            "{bold}A stand-in for HeyGen{bold:#} serves its webhook API at {}\n",
            self.stand_in.base_url()
        )?;
        let id = register(&mut client).await?;
        writeln!(out, "Registered the endpoint `{ENDPOINT}` there: {id}.")?;
        writeln!(
            out,
            "Things happen in the account; one delivery gets lost:\n\n{}",
            output::header()
        )?;
        let mut frames = client
            .subscribe_events(SubscribeEventsRequest::default())
            .await?
            .into_inner();
        next(&mut frames).await?;
        let mut tally = Tally::default();
        for (at, known) in EVENT_TYPES.iter().enumerate() {
            let lost = at == EVENT_TYPES.len() / 2;
            if lost {
                self.stand_in.faults().spoil_next(DeliveryFault::Lose);
            }
            tally.expect(self.emit(known.name));
            if !lost {
                tally.take(&mut out, next(&mut frames).await?)?;
            }
        }
        self.stand_in.settled().await;
        let found = reconcile(&mut client).await?;
        writeln!(
            out,
            "\nLooked in HeyGen's event history: {found} event was never delivered.\n"
        )?;
        for _ in 0..found {
            tally.take(&mut out, next(&mut frames).await?)?;
        }
        manage(
            &mut client,
            Operation::RotateSecret(RotateSecret {
                name: ENDPOINT.into(),
                ..RotateSecret::default()
            }),
        )
        .await?;
        writeln!(
            out,
            "\nRotated the secret at HeyGen; what is delivered now is signed with the new one:\n"
        )?;
        tally.expect(self.emit("avatar_video.success"));
        tally.take(&mut out, next(&mut frames).await?)?;
        tally.check()?;
        writeln!(
            out,
            "\n{bold}{} events, each arrived once.{bold:#}\n",
            tally.count()
        )?;
        if !exit {
            next_steps(&mut out, &server)?;
        }
        Ok(())
    }

    /// Lets things happen in the account, for ever.
    pub async fn go_on(&mut self) {
        loop {
            for known in &EVENT_TYPES {
                tokio::time::sleep(PACE).await;
                self.emit(known.name);
            }
        }
    }

    /// Ends the stand-in.
    pub async fn end(self) {
        self.stand_in.end().await;
    }

    fn emit(&mut self, event_type: &str) -> String {
        self.number += 1;
        self.stand_in.emit(event_type, self.number);
        event_type.to_owned()
    }
}

/// How many events of each type were expected and received.
#[derive(Default)]
struct Tally(BTreeMap<String, (u32, u32)>);

impl Tally {
    fn expect(&mut self, event_type: String) {
        self.0.entry(event_type).or_default().0 += 1;
    }

    fn take(&mut self, out: &mut impl Write, event: Event) -> anyhow::Result<()> {
        writeln!(out, "{}", output::line(&event))?;
        self.0.entry(event.type_name).or_default().1 += 1;
        Ok(())
    }

    fn count(&self) -> u32 {
        self.0.values().map(|(_, received)| received).sum()
    }

    fn check(&self) -> anyhow::Result<()> {
        for (event_type, (expected, received)) in &self.0 {
            if expected != received {
                bail!("{expected} events of {event_type} happened, {received} arrived");
            }
        }
        Ok(())
    }
}

async fn next(frames: &mut Streaming<SubscribeEventsResponse>) -> anyhow::Result<Event> {
    loop {
        let response = tokio::time::timeout(PATIENCE, frames.message())
            .await
            .context("no event arrived in time")?;
        let response = response
            .map_err(|status| client::explain(&status))?
            .context("the stream ended early")?;
        match response.frame {
            Some(Frame::Event(event)) => return Ok(event),
            Some(Frame::CaughtUp(_)) => return Ok(Event::default()),
            _ => {}
        }
    }
}

async fn manage(client: &mut Client, operation: Operation) -> anyhow::Result<Answer> {
    let request = ManageEndpointRequest {
        operation: Some(operation),
    };
    let answer = client
        .manage_endpoint(request)
        .await
        .map_err(|status| client::explain(&status))?;
    answer.into_inner().result.context("the answer is empty")
}

/// Registers the endpoint; one left by an earlier run is registered anew, because that run's stand-in is gone.
async fn register(client: &mut Client) -> anyhow::Result<String> {
    let create = Create {
        name: ENDPOINT.to_owned(),
        registration: Registration::Heygen.into(),
        ..Create::default()
    };
    let answer = match manage(client, Operation::Create(create)).await {
        Ok(answer) => answer,
        Err(_) => {
            manage(
                client,
                Operation::Recreate(Recreate {
                    name: ENDPOINT.to_owned(),
                }),
            )
            .await?
        }
    };
    match answer {
        Answer::Create(created) => Ok(created.endpoint.unwrap_or_default().provider_endpoint_id),
        Answer::Recreate(recreated) => Ok(recreated.endpoint.unwrap_or_default().provider_endpoint_id),
        _ => bail!("the endpoint could not be made"),
    }
}

async fn reconcile(client: &mut Client) -> anyhow::Result<u64> {
    match manage(client, Operation::Reconcile(Reconcile {})).await? {
        Answer::Reconcile(walked) => Ok(walked.found),
        _ => bail!("the history could not be read"),
    }
}

fn next_steps(out: &mut impl Write, server: &Server) -> anyhow::Result<()> {
    let (program, at) = (output::program(), server.flag());
    writeln!(
        out,
        "Something happens every {} s. Try next, in another shell:\n",
        PACE.as_secs()
    )?;
    writeln!(out, "  {program} tail{at}")?;
    writeln!(out, "  {program} endpoint get{at} {ENDPOINT}")?;
    writeln!(out, "  {program} endpoint rotate-secret{at} {ENDPOINT}")?;
    writeln!(out, "  {program} endpoint rotate-callback-url{at} {ENDPOINT}")?;
    writeln!(out, "  {program} reconcile{at}\n")?;
    writeln!(out, "Serving until Ctrl-C.")?;
    Ok(())
}
