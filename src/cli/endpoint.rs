//! `hookstream endpoint`. Owns managing endpoints from a shell.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};

use super::{
    client::{self, Server},
    deliver, hints, output,
    secret_file::{self, SecretFile},
};
use crate::grpc::proto::{
    Endpoint, ManageEndpointRequest, ManageEndpointResponse, Registration,
    manage_endpoint_request::{
        Create, Delete, Get, List, Operation, Reconcile as AskReconcile, Recreate, RotateCallbackToken,
        RotateSecret, Update,
    },
    manage_endpoint_response::Result as Answer,
};

/// Manages the endpoints that receive deliveries.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes an endpoint and prints its URL and secret. The secret is shown this once.
    #[command(after_help = "Examples:
  hookstream endpoint create prod --events 'avatar_video.*,video_translate.*'  # registers it at HeyGen
  hookstream endpoint create prod --adopt ep_123                 # takes over what is registered at HeyGen
  hookstream endpoint create prod --secret-file ./secret.txt     # registered by somebody else, with this secret
  hookstream endpoint create test --registration local --save-secret ./test.secret  # not registered; makes a secret

Without --registration, an endpoint is registered at HeyGen if the service has credentials for HeyGen's API and no
secret is given.")]
    Create(CreateArgs),
    /// Shows one endpoint.
    Get(Named),
    /// Lists the endpoints.
    List(ListArgs),
    /// Changes what an endpoint is registered for.
    #[command(after_help = "Example:\n  hookstream endpoint update prod --events 'avatar_video.*'")]
    Update(UpdateArgs),
    /// Removes an endpoint: deliveries to it are refused from now on, its events stay.
    Delete(Named),
    /// Registers an endpoint at HeyGen anew, when HeyGen has disabled it or no longer has it.
    #[command(after_help = "Example:\n  hookstream endpoint recreate prod")]
    Recreate(RecreateArgs),
    /// Makes or replaces the URL for callbacks of single requests, and prints it. It is shown this once.
    #[command(after_help = "Example:\n  hookstream endpoint rotate-callback-url prod --overlap 24h")]
    RotateCallbackUrl(RotateCallbackUrlArgs),
    /// Replaces the secret and prints the new one; the old one stays valid for the overlap.
    #[command(after_help = "Example:\n  hookstream endpoint rotate-secret prod --overlap 24h")]
    RotateSecret(RotateArgs),
}

/// One endpoint.
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

/// A new endpoint.
#[derive(Args, Debug)]
pub struct CreateArgs {
    #[command(flatten)]
    endpoint: Named,
    /// The types it is registered for, comma-separated, such as 'avatar_video.*'; all if not given. Whatever HeyGen signs
    /// for the endpoint is stored.
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    events: Vec<String>,
    /// The resource it is registered for; the whole account if not given.
    #[arg(long, value_name = "ID")]
    entity: Option<String>,
    /// Who registers it: `heygen` (this service, through HeyGen's API) or `local` (somebody else).
    #[arg(long, value_name = "WHO")]
    registration: Option<Registrant>,
    /// HeyGen's id of a registration to take over: it is pointed here, and its secret rotated unless you give it.
    #[arg(long, value_name = "ID", conflicts_with_all = ["provider_id", "registration"])]
    adopt: Option<String>,
    /// HeyGen's id of a registration that somebody else keeps. A note.
    #[arg(long, value_name = "ID")]
    provider_id: Option<String>,
    /// A file with the secret that HeyGen showed; one newline at its end is not part of it. Else HOOKSTREAM_SECRET is
    /// taken, else a secret is generated.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Write a secret that is made to this new file, which you alone can read, instead of printing it.
    #[arg(long, value_name = "FILE")]
    save_secret: Option<PathBuf>,
}

/// A registration made anew.
#[derive(Args, Debug)]
pub struct RecreateArgs {
    #[command(flatten)]
    endpoint: Named,
    /// Write a secret that is made to this new file, which you alone can read, instead of printing it.
    #[arg(long, value_name = "FILE")]
    save_secret: Option<PathBuf>,
}

/// Who registers an endpoint.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Registrant {
    /// This service, through HeyGen's API.
    Heygen,
    /// Somebody else.
    Local,
}

/// A new URL for callbacks.
#[derive(Args, Debug)]
pub struct RotateCallbackUrlArgs {
    #[command(flatten)]
    endpoint: Named,
    /// How long the old URL stays valid, up to 7days; 24h if not given.
    #[arg(long, value_name = "DURATION", value_parser = client::parse_duration)]
    overlap: Option<prost_types::Duration>,
}

/// A listing.
#[derive(Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    server: Server,
    /// Print JSON, one endpoint a line.
    #[arg(long)]
    json: bool,
}

/// A change.
#[derive(Args, Debug)]
pub struct UpdateArgs {
    #[command(flatten)]
    endpoint: Named,
    /// The types it is registered for, comma-separated; an empty text for all.
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    events: Option<Vec<String>>,
    /// The resource it is registered for; an empty text for none.
    #[arg(long, value_name = "ID")]
    entity: Option<String>,
}

/// A rotation.
#[derive(Args, Debug)]
pub struct RotateArgs {
    #[command(flatten)]
    endpoint: Named,
    /// A file with the new secret, if HeyGen made it. Else HOOKSTREAM_SECRET is taken, else a secret is generated.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// How long the old secret stays valid, up to 7days; 24h if not given.
    #[arg(long, value_name = "DURATION", value_parser = client::parse_duration)]
    overlap: Option<prost_types::Duration>,
    /// Write a secret that is made to this new file, which you alone can read, instead of printing it.
    #[arg(long, value_name = "FILE")]
    save_secret: Option<PathBuf>,
}

impl Command {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Create(args) => {
                let registration = match (&args.adopt, args.registration) {
                    (Some(_), _) | (None, Some(Registrant::Heygen)) => Registration::Heygen,
                    (None, Some(Registrant::Local)) => Registration::Local,
                    (None, None) => Registration::Unspecified,
                };
                hints::note_unknown_types(&args.events);
                let save = SecretFile::make(args.save_secret)?;
                let operation = Operation::Create(Create {
                    name: args.endpoint.name.clone(),
                    event_types: args.events,
                    entity_id: args.entity.unwrap_or_default(),
                    provider_endpoint_id: args.adopt.or(args.provider_id).unwrap_or_default(),
                    secret: secret(args.secret_file.as_deref())?,
                    registration: registration.into(),
                });
                args.endpoint.manage_saving(operation, save).await?;
            }
            Self::Recreate(args) => {
                let save = SecretFile::make(args.save_secret)?;
                let name = args.endpoint.name.clone();
                let operation = Operation::Recreate(Recreate { name });
                args.endpoint.manage_saving(operation, save).await?;
            }
            Self::RotateCallbackUrl(args) => {
                let operation = Operation::RotateCallbackToken(RotateCallbackToken {
                    name: args.endpoint.name.clone(),
                    overlap: args.overlap,
                });
                args.endpoint.manage(operation).await?;
            }
            Self::Get(named) => {
                let operation = Operation::Get(Get {
                    name: named.name.clone(),
                });
                named.manage(operation).await?;
            }
            Self::List(args) => args.run().await?,
            Self::Update(args) => {
                let paths = [
                    args.events.is_some().then_some("event_types"),
                    args.entity.is_some().then_some("entity_id"),
                ];
                let paths: Vec<_> = paths.into_iter().flatten().map(str::to_owned).collect();
                if paths.is_empty() {
                    bail!("nothing to change: give --events or --entity");
                }
                let mut event_types = args.events.unwrap_or_default();
                event_types.retain(|event_type| !event_type.is_empty());
                hints::note_unknown_types(&event_types);
                let operation = Operation::Update(Update {
                    name: args.endpoint.name.clone(),
                    event_types,
                    entity_id: args.entity.unwrap_or_default(),
                    update_mask: Some(prost_types::FieldMask { paths }),
                });
                args.endpoint.manage(operation).await?;
            }
            Self::Delete(named) => {
                let operation = Operation::Delete(Delete {
                    name: named.name.clone(),
                });
                named.manage(operation).await?;
            }
            Self::RotateSecret(args) => {
                let save = SecretFile::make(args.save_secret)?;
                let operation = Operation::RotateSecret(RotateSecret {
                    name: args.endpoint.name.clone(),
                    secret: secret(args.secret_file.as_deref())?,
                    overlap: args.overlap,
                });
                args.endpoint.manage_saving(operation, save).await?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The secret as it is sent; empty if none was given.
fn secret(file: Option<&Path>) -> anyhow::Result<String> {
    let secret = deliver::read_secret(file)?;
    Ok(secret
        .map(|secret| secret.expose().to_owned())
        .unwrap_or_default())
}

/// Searches HeyGen's event history for events that were never delivered, and stores them.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  hookstream reconcile")]
pub struct Reconcile {
    #[command(flatten)]
    server: Server,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Reconcile {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let answer = manage(&self.server, Operation::Reconcile(AskReconcile {})).await?;
        if self.json {
            output::print_json(&answer)?;
            return Ok(ExitCode::SUCCESS);
        }
        let Some(Answer::Reconcile(walked)) = answer.result else {
            bail!("the answer is empty")
        };
        let mut out = anstream::stdout();
        writeln!(
            out,
            "{} entries of HeyGen's history examined, {} undelivered events found",
            walked.examined, walked.found
        )?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn manage(server: &Server, operation: Operation) -> anyhow::Result<ManageEndpointResponse> {
    let request = ManageEndpointRequest {
        operation: Some(operation),
    };
    let answer = server.connect().await?.manage_endpoint(request).await;
    Ok(answer.map_err(|status| client::explain(&status))?.into_inner())
}

impl Named {
    async fn manage(&self, operation: Operation) -> anyhow::Result<()> {
        self.manage_saving(operation, None).await
    }

    async fn manage_saving(&self, operation: Operation, save: Option<SecretFile>) -> anyhow::Result<()> {
        let mut answer = manage(&self.server, operation).await?;
        let secret = match &mut answer.result {
            Some(Answer::Create(created)) => &mut created.secret,
            Some(Answer::RotateSecret(rotated)) => &mut rotated.secret,
            Some(Answer::Recreate(recreated)) => &mut recreated.secret,
            _ => &mut String::new(),
        };
        let secret = secret_file::keep(secret, save)?;
        if self.json {
            return output::print_json(&answer);
        }
        let mut out = anstream::stdout();
        match answer.result.context("the answer is empty")? {
            Answer::Create(created) => show(&mut out, created.endpoint, &secret)?,
            Answer::RotateSecret(rotated) => show(&mut out, rotated.endpoint, &secret)?,
            Answer::Get(found) => show(&mut out, found.endpoint, "")?,
            Answer::Update(updated) => show(&mut out, updated.endpoint, "")?,
            Answer::Delete(_) => writeln!(out, "{} is deleted", self.name)?,
            Answer::Recreate(recreated) => show(&mut out, recreated.endpoint, &secret)?,
            Answer::RotateCallbackToken(rotated) => {
                show(&mut out, rotated.endpoint, "")?;
                writeln!(out, "callback url   {}   (shown this once)", rotated.callback_url)?;
            }
            Answer::List(_) | Answer::Reconcile(_) => {}
        }
        Ok(())
    }
}

impl ListArgs {
    async fn run(self) -> anyhow::Result<()> {
        let endpoints = client::all_pages(async |page_token| {
            let operation = Operation::List(List {
                page_size: 1000,
                page_token,
            });
            let Some(Answer::List(page)) = manage(&self.server, operation).await?.result else {
                bail!("the answer is empty")
            };
            Ok((page.endpoints, page.next_page_token))
        })
        .await?;
        if self.json {
            return endpoints.iter().try_for_each(output::print_json);
        }
        let row = |endpoint: Endpoint| {
            [
                endpoint.name.clone(),
                state(&endpoint),
                output::time(endpoint.last_delivery_at),
                endpoint.url,
            ]
        };
        output::print_table(
            &["NAME", "STATE", "LAST DELIVERY", "URL"],
            endpoints.into_iter().map(row),
        )
    }
}

fn state(endpoint: &Endpoint) -> String {
    output::word(endpoint.state().as_str_name(), "ENDPOINT_STATE_")
}

fn show(out: &mut impl Write, endpoint: Option<Endpoint>, secret: &str) -> anyhow::Result<()> {
    let endpoint = endpoint.context("the answer is empty")?;
    let events = match endpoint.event_types.as_slice() {
        [] => "all".to_owned(),
        types => types.join(", "),
    };
    writeln!(out, "name           {}", endpoint.name)?;
    writeln!(out, "url            {}", endpoint.url)?;
    if !secret.is_empty() {
        writeln!(out, "secret         {secret}")?;
    }
    writeln!(out, "state          {}", state(&endpoint))?;
    if !endpoint.state_reason.is_empty() {
        writeln!(out, "               {}", endpoint.state_reason)?;
    }
    writeln!(out, "events         {events}")?;
    if !endpoint.entity_id.is_empty() {
        writeln!(out, "entity         {}", endpoint.entity_id)?;
    }
    writeln!(out, "created        {}", output::time(endpoint.created_at))?;
    writeln!(out, "last delivery  {}", output::time(endpoint.last_delivery_at))?;
    if endpoint.secret_since.is_some() {
        let (version, since) = (endpoint.secret_version, output::time(endpoint.secret_since));
        writeln!(out, "secret since   {since}, version {version}")?;
    }
    if endpoint.unverified_deliveries > 0 {
        let unverified = endpoint.unverified_deliveries;
        writeln!(
            out,
            "unverified     {unverified} deliveries since the service started"
        )?;
    }
    if let Some(provider) = &endpoint.provider {
        let status = output::word(provider.status().as_str_name(), "PROVIDER_STATUS_");
        let id = &endpoint.provider_endpoint_id;
        writeln!(
            out,
            "at HeyGen      {status} {id}, checked {}",
            output::time(provider.checked_at)
        )?;
        writeln!(
            out,
            "reconciled     through {}",
            output::time(endpoint.reconciled_through)
        )?;
    }
    if endpoint.previous_secret_expires_at.is_some() {
        writeln!(
            out,
            "old secret     accepted until {}",
            output::time(endpoint.previous_secret_expires_at)
        )?;
    }
    Ok(())
}
