//! `hookstream dev`. Owns a newcomer's first minute: the whole way of an event on one machine, shown and checked.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anstyle::Style;
use anyhow::{Context, bail};
use clap::Args;

use super::{
    client::{self, Client, Server},
    deliver::Sender,
    output,
    playground::Playground,
    serve::{self, Settings, Signals},
    telemetry,
    trust::Trust,
};
use crate::{
    clock::Clock,
    config::{Config, Sourced},
    grpc::proto::{
        Event, ManageEndpointRequest, Registration, SubscribeEventsRequest, SubscribeEventsResponse,
        manage_endpoint_request::{Create, Delete, Operation},
        manage_endpoint_response::Result as Answer,
        subscribe_events_request::Start,
        subscribe_events_response::Frame,
    },
    samples,
    secret::Secret,
    service::Service,
};

const ENDPOINT: &str = "dev";
/// How long a sample may take to come back.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves on this machine, delivers one signed sample of every event type over HTTP, prints each event as a gRPC
/// subscriber received it, and keeps serving. Stores in a temporary directory unless --data-dir is given.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hookstream dev
  hookstream dev --exit     # status 0 only if every sample arrived, in order, once
  hookstream dev --heygen   # the whole loop with a stand-in for HeyGen and its API")]
pub struct Dev {
    /// End after the samples.
    #[arg(long)]
    exit: bool,
    /// Play HeyGen with its API too: register, deliver, lose a delivery and find it again, rotate the secret.
    #[arg(long)]
    heygen: bool,
    #[command(flatten)]
    settings: Settings,
}

impl Dev {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let mut layered = self.settings.0?;
        let temporary = use_temporary_data_dir(&mut layered)?;
        let mut config = Config::parse(&layered)?;
        let tls = [&config.ingress_tls, &config.grpc_tls, &config.admin_tls];
        if tls.iter().any(|files| files.is_some()) {
            bail!(
                "`hookstream dev` does without TLS: leave out the settings with -tls-, or use `hookstream serve`"
            );
        }
        telemetry::start_quietly();
        serve::say_what_is_unwise(&config);
        serve::prepare_process();
        if self.heygen {
            return play(config, self.exit).await;
        }
        // The samples come from here, and nothing is to be registered for them.
        config.heygen = None;
        let mut signals = Signals::new()?;
        let service = Service::start(&config, Clock::system()).await?;
        let shown = tokio::select! {
            shown = show(&service, &config.data_dir, temporary.is_some(), self.exit) => shown,
            () = signals.next() => Ok(()),
        };
        if !self.exit && shown.is_ok() {
            signals.next().await;
        }
        serve::drain(service, signals).await;
        shown?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn play(mut config: Config, exit: bool) -> anyhow::Result<ExitCode> {
    let mut playground = Playground::start(&mut config).await?;
    let mut signals = Signals::new()?;
    let service = Service::start(&config, Clock::system()).await?;
    let shown = tokio::select! {
        shown = playground.tour(&service, exit) => shown,
        () = signals.next() => Ok(()),
    };
    if !exit && shown.is_ok() {
        tokio::select! {
            () = playground.go_on() => {}
            () = signals.next() => {}
        }
    }
    serve::drain(service, signals).await;
    playground.end().await;
    shown?;
    Ok(ExitCode::SUCCESS)
}

/// Unless the user names a directory, nothing stays behind.
fn use_temporary_data_dir(layered: &mut [Sourced]) -> anyhow::Result<Option<tempfile::TempDir>> {
    let data_dir = layered.iter_mut().find(|sourced| sourced.key == "data-dir");
    let Some(data_dir) = data_dir.filter(|sourced| sourced.source == "default") else {
        return Ok(None);
    };
    let directory = tempfile::Builder::new().prefix("hookstream-dev-").tempdir();
    let directory = directory.context("no temporary directory: give --data-dir")?;
    data_dir.value = Some(directory.path().display().to_string());
    Ok(Some(directory))
}

async fn show(service: &Service, data_dir: &Path, is_temporary: bool, exit: bool) -> anyhow::Result<()> {
    let (bold, dim) = (Style::new().bold(), Style::new().dimmed());
    let mut out = anstream::stdout();
    let url = format!("http://{}/webhooks/{ENDPOINT}", service.ingress_address);
    let server = Server::at(service.grpc_address);
    let mut client = server.connect().await?;
    let secret = make_endpoint(&mut client).await?;
    let secret_file = write_secret(data_dir, &secret)?;

    writeln!(
        out,
        "{bold}hookstream{bold:#} receives HeyGen's webhooks and streams them over gRPC.\n"
    )?;
    let kept = if is_temporary { "until this ends" } else { "kept" };
    writeln!(
        out,
        "  webhooks in   POST {url}   {dim}signed, answered once stored{dim:#}"
    )?;
    writeln!(
        out,
        "  streams out   grpc://{}   {dim}SubscribeEvents, ListEvents, AwaitEvent, …{dim:#}",
        service.grpc_address
    )?;
    writeln!(
        out,
        "  operators     http://{}   {dim}console at /, /livez /readyz /metrics{dim:#}",
        service.admin_address
    )?;
    writeln!(
        out,
        "  stored in     {}   {dim}{kept}{dim:#}\n",
        data_dir.display()
    )?;
    writeln!(
        out,
        "Delivering one signed sample of every event type; each line is an event as a gRPC subscriber received it:\n"
    )?;
    writeln!(out, "{}", output::header())?;

    let mut frames = client
        .subscribe_events(SubscribeEventsRequest::default())
        .await?
        .into_inner();
    let Some(Frame::CaughtUp(start)) = next(&mut frames).await? else {
        bail!("the stream did not start")
    };
    let sender = Sender::new(url, secret, &Trust::default())?;
    let mut expected = Vec::new();
    let mut received = Vec::new();
    for (event_type, body) in samples::all(rand::random_range(0..u64::MAX / 2)) {
        let answer = sender.send(body.clone()).await?;
        if !answer.is_success() {
            bail!(
                "the sample of {event_type} was answered with {} {}",
                answer.status,
                answer.text
            );
        }
        expected.push(body);
        let event = loop {
            match next(&mut frames).await? {
                Some(Frame::Event(event)) => break event,
                Some(_) => {}
                None => bail!("the stream ended early"),
            }
        };
        writeln!(out, "{}", output::line(&event))?;
        received.push(event);
    }
    let stored = everything_after(&mut client, start.cursor).await?;
    check(&expected, &received)?;
    check(&expected, &stored)?;
    writeln!(
        out,
        "\n{bold}{} of {} arrived, in order, once.{bold:#}\n",
        received.len(),
        expected.len()
    )?;
    if !exit {
        next_steps(&mut out, service, &server, &secret_file, received.last())?;
    }
    Ok(())
}

async fn next(frames: &mut tonic::Streaming<SubscribeEventsResponse>) -> anyhow::Result<Option<Frame>> {
    let response = tokio::time::timeout(PATIENCE, frames.message())
        .await
        .context("no event arrived in time")?;
    Ok(response
        .map_err(|status| client::explain(&status))?
        .and_then(|response| response.frame))
}

/// Reads again what is stored, so that an event stored twice would show.
async fn everything_after(client: &mut Client, cursor: String) -> anyhow::Result<Vec<Event>> {
    let request = SubscribeEventsRequest {
        start: Some(Start::AfterCursor(cursor)),
        stop_at_tail: true,
        ..SubscribeEventsRequest::default()
    };
    let mut frames = client.subscribe_events(request).await?.into_inner();
    let mut events = Vec::new();
    while let Some(frame) = next(&mut frames).await? {
        if let Frame::Event(event) = frame {
            events.push(event);
        }
    }
    Ok(events)
}

fn check(expected: &[String], events: &[Event]) -> anyhow::Result<()> {
    let same = expected.len() == events.len()
        && expected
            .iter()
            .zip(events)
            .all(|(body, event)| event.raw_body == body.as_bytes());
    if !same {
        bail!(
            "sent {} samples, but {} events came back, or in another order",
            expected.len(),
            events.len()
        );
    }
    Ok(())
}

/// Makes the endpoint anew, so that its secret is known also in a directory that was used before.
async fn make_endpoint(client: &mut Client) -> anyhow::Result<Secret> {
    let mut manage = async |operation| {
        client
            .manage_endpoint(ManageEndpointRequest {
                operation: Some(operation),
            })
            .await
    };
    // It need not exist.
    let _ = manage(Operation::Delete(Delete {
        name: ENDPOINT.to_owned(),
    }))
    .await;
    let create = Create {
        name: ENDPOINT.to_owned(),
        registration: Registration::Local.into(),
        ..Create::default()
    };
    let answer = manage(Operation::Create(create))
        .await
        .map_err(|status| client::explain(&status))?;
    match answer.into_inner().result {
        Some(Answer::Create(created)) => Ok(Secret::new(created.secret)?),
        _ => bail!("the endpoint could not be made"),
    }
}

fn write_secret(data_dir: &Path, secret: &Secret) -> anyhow::Result<PathBuf> {
    let path = data_dir.join("dev.secret");
    let mut options = OpenOptions::new();
    let file = options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&path);
    let mut file = file.with_context(|| format!("{} cannot be written", path.display()))?;
    writeln!(file, "{}", secret.expose())?;
    Ok(path)
}

fn next_steps(
    out: &mut impl Write,
    service: &Service,
    server: &Server,
    secret_file: &Path,
    last: Option<&Event>,
) -> anyhow::Result<()> {
    let (program, at) = (output::program(), server.flag());
    let url_is_default = service.ingress_address.to_string() == "127.0.0.1:8080";
    let to = if url_is_default {
        String::new()
    } else {
        format!(" --url http://{}/webhooks/{ENDPOINT}", service.ingress_address)
    };
    let secret_file = secret_file.display();
    writeln!(out, "Try next, in another shell:\n")?;
    writeln!(out, "  # follow failures; then, in a third shell, cause one")?;
    writeln!(out, "  {program} tail{at} --type '*.fail'")?;
    writeln!(
        out,
        "  {program} deliver avatar_video.fail{to} --secret-file {secret_file}"
    )?;
    writeln!(out, "  # wait for the event that belongs to one of your calls")?;
    writeln!(
        out,
        "  {program} await{at} --callback-id {} --since 1h",
        last.map_or("", |event| &event.callback_id)
    )?;
    writeln!(
        out,
        "  # look at what is stored, and go on from any event's cursor"
    )?;
    writeln!(out, "  {program} events list{at}")?;
    if let Some(event) = last {
        writeln!(out, "  {program} tail{at} --after {} --json", event.cursor)?;
    }
    writeln!(
        out,
        "  # share events between replicas: each goes to one, and again to another until it is handled"
    )?;
    writeln!(out, "  {program} subscription create work{at} --from-start")?;
    writeln!(
        out,
        "  {program} tail{at} --subscription work --exec 'echo \"$HOOKSTREAM_EVENT_TYPE\"'"
    )?;
    writeln!(out, "  # the service itself")?;
    writeln!(out, "  {program} serve --help\n")?;
    writeln!(out, "Serving until Ctrl-C.")?;
    Ok(())
}
