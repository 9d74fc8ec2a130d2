//! `hookstream token`. Owns making, listing and revoking tokens from a shell.

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::bail;
use clap::{Args, Subcommand};

use super::{
    client::{self, FilterFlags, Server},
    output,
    secret_file::{self, SecretFile},
};
use crate::{
    grpc::proto::{
        ManageTokenRequest, ManageTokenResponse, Token,
        manage_token_request::{Create, List, Operation, Revoke},
        manage_token_response::Result as Answer,
    },
    secret::Secret,
};

/// Manages who may use the service.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes a token. It is shown once.
    #[command(after_help = "Examples:
  hookstream token create billing --scope events:read --endpoint prod --expires-in 90days --save-token ./billing.token
  hookstream token create deployer --scope endpoints:manage
  hookstream token create billing --scope events:read --certificate-name dns:billing.internal")]
    Create(CreateArgs),
    /// Lists tokens.
    #[command(after_help = "Example:\n  hookstream token list")]
    List(ListArgs),
    /// Ends a token and the streams that were opened with it.
    #[command(after_help = "Example:\n  hookstream token revoke billing")]
    Revoke(RevokeArgs),
    /// Prints a random token for --admin-token-file. Asks no service.
    #[command(after_help = "Example:\n  (umask 077; hookstream token generate > admin.token)")]
    Generate,
}

/// A new token.
#[derive(Args, Debug)]
pub struct CreateArgs {
    #[command(flatten)]
    server: Server,
    /// Its name, in listings and in the audit trail.
    name: String,
    /// What it permits: events:read, events:acknowledge, endpoints:read, endpoints:manage, metrics:read, admin. May be
    /// repeated or comma-separated.
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',', required = true)]
    scopes: Vec<String>,
    #[command(flatten)]
    filter: FilterFlags,
    /// How long it is accepted; for ever if not given.
    #[arg(long, value_name = "DURATION", value_parser = client::parse_duration)]
    expires_in: Option<prost_types::Duration>,
    /// Make no token: a client certificate with this name (dns:…, uri:…, email:…, ip:…) stands for it.
    #[arg(long, value_name = "NAME")]
    certificate_name: Option<String>,
    /// Write the token to this new file, which you alone can read, instead of printing it.
    #[arg(long, value_name = "FILE", conflicts_with = "certificate_name")]
    save_token: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A listing.
#[derive(Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    server: Server,
    /// Print JSON, one token a line.
    #[arg(long)]
    json: bool,
}

/// The end of a token.
#[derive(Args, Debug)]
pub struct RevokeArgs {
    #[command(flatten)]
    server: Server,
    /// Its name.
    name: String,
}

impl Command {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Create(args) => args.run().await?,
            Self::List(args) => args.run().await?,
            Self::Revoke(RevokeArgs { server, name }) => {
                manage(&server, Operation::Revoke(Revoke { name: name.clone() })).await?;
                writeln!(anstream::stdout(), "{name} is revoked")?;
            }
            Self::Generate => writeln!(anstream::stdout(), "{}", Secret::generate_token().expose())?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl CreateArgs {
    async fn run(self) -> anyhow::Result<()> {
        let filter = self.filter.filter();
        let save = SecretFile::make(self.save_token)?;
        let operation = Operation::Create(Create {
            name: self.name,
            scopes: self.scopes,
            filter: Some(filter),
            certificate_name: self.certificate_name.unwrap_or_default(),
            expires_in: self.expires_in,
        });
        let mut answer = manage(&self.server, operation).await?;
        let Some(Answer::Create(created)) = &mut answer.result else {
            bail!("the answer is empty")
        };
        let secret = secret_file::keep(&mut created.secret, save)?;
        let token = created.token.clone().unwrap_or_default();
        if self.json {
            return output::print_json(&answer);
        }
        let mut out = anstream::stdout();
        writeln!(out, "name         {}", token.name)?;
        if secret.is_empty() {
            writeln!(out, "certificate  {}", token.certificate_name)?;
        } else {
            writeln!(out, "token        {secret}")?;
        }
        writeln!(out, "scopes       {}", token.scopes.join(", "))?;
        writeln!(out, "sees         {}", output::filter(token.filter.as_ref()))?;
        writeln!(out, "expires      {}", output::time(token.expires_at))?;
        Ok(())
    }
}

impl ListArgs {
    async fn run(self) -> anyhow::Result<()> {
        let tokens = client::all_pages(async |page_token| {
            let operation = Operation::List(List {
                page_size: 1000,
                page_token,
            });
            let Some(Answer::List(page)) = manage(&self.server, operation).await?.result else {
                bail!("the answer is empty")
            };
            Ok((page.tokens, page.next_page_token))
        })
        .await?;
        if self.json {
            return tokens.iter().try_for_each(output::print_json);
        }
        let row = |token: Token| {
            [
                token.name.clone(),
                token.scopes.join(", "),
                output::filter(token.filter.as_ref()),
                output::time(token.expires_at),
                output::or_dash(&token.certificate_name).to_owned(),
            ]
        };
        output::print_table(
            &["NAME", "SCOPES", "SEES", "EXPIRES", "CERTIFICATE"],
            tokens.into_iter().map(row),
        )
    }
}

async fn manage(server: &Server, operation: Operation) -> anyhow::Result<ManageTokenResponse> {
    let request = ManageTokenRequest {
        operation: Some(operation),
    };
    let answer = server.connect_access().await?.manage_token(request).await;
    Ok(answer.map_err(|status| client::explain(&status))?.into_inner())
}
