//! What the client commands share. Owns connecting, and saying what a refusal means.

use std::{error::Error, net::SocketAddr};

use anyhow::{Context, anyhow};
use clap::Args;
use http::uri::Scheme;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;

use super::{
    hints,
    trust::{self, ClientIdentity, Trust},
};
use crate::{
    config::values,
    grpc::proto::{
        EventFilter, access_service_client::AccessServiceClient,
        hookstream_service_client::HookstreamServiceClient,
    },
    limits,
    secret::Secret,
};

/// A connection that presents the token.
pub type Connection = InterceptedService<Channel, Bearer>;
/// The client of the interface.
pub type Client = HookstreamServiceClient<Connection>;

/// Adds the token to every call.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(authorization) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", authorization.clone());
        }
        Ok(request)
    }
}

/// Which service to talk to.
#[derive(Args, Clone, Debug)]
pub struct Server {
    /// The gRPC address of the service: a URL, or HOST:PORT.
    #[arg(
        long,
        env = "HOOKSTREAM_SERVER",
        value_name = "URL",
        default_value = "http://127.0.0.1:50051"
    )]
    pub server: String,
    /// A file with the token to present; else HOOKSTREAM_TOKEN is taken, else none is presented.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<String>,
    #[command(flatten)]
    trust: Trust,
    #[command(flatten)]
    identity: ClientIdentity,
}

impl Server {
    /// A server without TLS.
    pub fn at(address: SocketAddr) -> Self {
        Self {
            server: format!("http://{address}"),
            token_file: None,
            trust: Trust::default(),
            identity: ClientIdentity::default(),
        }
    }

    /// What a client command needs on its line to reach this server; nothing if that is the default.
    pub fn flag(&self) -> String {
        let server = match self.server.as_str() {
            "http://127.0.0.1:50051" => String::new(),
            other => format!(" --server {other}"),
        };
        server + &self.trust.flag() + &self.identity.flag()
    }

    /// Connects to the events and endpoints.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        Ok(Client::new(self.connection().await?))
    }

    /// Connects to the tokens and the audit trail.
    pub async fn connect_access(&self) -> anyhow::Result<AccessServiceClient<Connection>> {
        Ok(AccessServiceClient::new(self.connection().await?))
    }

    /// The address with a scheme: who brings what TLS needs means TLS.
    fn url(&self) -> String {
        if self.server.contains("://") {
            return self.server.clone();
        }
        let is_tls = self.trust.is_given() || self.identity.is_given();
        let scheme = if is_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.server)
    }

    fn bearer(&self) -> anyhow::Result<Bearer> {
        let token = match &self.token_file {
            Some(path) => {
                Some(values::secret_in_file(path).map_err(|problem| anyhow!("--token-file: {problem}"))?)
            }
            None => values::secret_in_variable("HOOKSTREAM_TOKEN").map_err(anyhow::Error::msg)?,
        };
        let header = |token: Secret| {
            let value = MetadataValue::try_from(format!("Bearer {}", token.expose()));
            let mut value = value.context("the token is none: it holds what no header can")?;
            value.set_sensitive(true);
            anyhow::Ok(value)
        };
        Ok(Bearer(token.map(header).transpose()?))
    }

    async fn connection(&self) -> anyhow::Result<Connection> {
        let bearer = self.bearer()?;
        let mut endpoint = Endpoint::from_shared(self.url())
            .with_context(|| format!("`{}` is not a URL such as http://127.0.0.1:50051", self.server))?
            .http2_keep_alive_interval(limits::HTTP2_KEEPALIVE_INTERVAL)
            .keep_alive_timeout(limits::HTTP2_KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        if endpoint.uri().scheme() == Some(&Scheme::HTTPS) {
            let tls = self.identity.tls(&self.trust)?;
            endpoint = endpoint
                .tls_config(tls)
                .context("TLS cannot be set up (without --ca-file, the system must have authorities)")?;
        }
        let channel = endpoint.connect().await.map_err(|error| {
            let advice = trust::advice(&error)
                .unwrap_or("is `hookstream serve` running there? (--server names another)");
            anyhow::Error::new(error).context(format!("cannot reach {}: {advice}", self.server))
        })?;
        if self.identity.is_given() {
            self.check_acceptance(channel.clone()).await?;
        }
        Ok(InterceptedService::new(channel, bearer))
    }

    /// A client believes itself connected before the server has looked at its certificate: only an answer shows that the
    /// server took it, whatever the answer is.
    async fn check_acceptance(&self, channel: Channel) -> anyhow::Result<()> {
        let answer = HealthClient::new(channel)
            .check(HealthCheckRequest::default())
            .await;
        match answer {
            Err(status) if status.source().is_some() => Err(anyhow::Error::new(status).context(format!(
                "{} closed the connection: is --client-certificate-file one that it trusts?",
                self.server
            ))),
            _ => Ok(()),
        }
    }
}

/// Which events, as flags.
#[derive(Args, Clone, Debug)]
pub struct FilterFlags {
    /// Only this type: avatar_video.success, avatar_video.*, *.fail. May be repeated or comma-separated.
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    event_types: Vec<String>,
    /// Only events about this resource. May be repeated.
    #[arg(long = "entity", value_name = "ID")]
    entity_ids: Vec<String>,
    /// Only events with this callback id. May be repeated.
    #[arg(long = "callback-id", value_name = "ID")]
    callback_ids: Vec<String>,
    /// Only events that this endpoint received. May be repeated.
    #[arg(long = "endpoint", value_name = "NAME")]
    endpoints: Vec<String>,
}

impl FilterFlags {
    /// The filter as it is sent. What looks like a slip is said on standard error.
    pub fn filter(self) -> EventFilter {
        hints::note_unknown_types(&self.event_types);
        EventFilter {
            event_types: self.event_types,
            entity_ids: self.entity_ids,
            callback_ids: self.callback_ids,
            endpoints: self.endpoints,
        }
    }
}

/// Every entry of a listing that comes in pages: `page` takes a token and gives entries and the next token.
pub async fn all_pages<T>(
    mut page: impl AsyncFnMut(String) -> anyhow::Result<(Vec<T>, String)>,
) -> anyhow::Result<Vec<T>> {
    let (mut entries, mut token) = page(String::new()).await?;
    while !token.is_empty() {
        let (more, next) = page(token).await?;
        entries.extend(more);
        token = next;
    }
    Ok(entries)
}

/// What a refusal means, for a person: its text, its reason, and what the service says to do next.
pub fn explain(status: &Status) -> anyhow::Error {
    let details = status.get_error_details();
    let mut text = status.message().to_owned();
    if let Some(info) = details.error_info() {
        text.push_str(&format!(" ({})", info.reason));
        for (name, value) in &info.metadata {
            text.push_str(&format!("\n  {name}: {value}"));
        }
    } else {
        text = format!("{:?}: {text}", status.code());
    }
    if let Some(advice) = hints::after_refusal(status) {
        text.push_str(&format!("\n{advice}"));
    }
    anyhow!(text)
}

/// Whether an answer is a refusal of HTTP's with nothing of gRPC's in it. tonic says so in the text alone, in one of two ways:
/// it depends on whether there is a body.
pub fn is_of_http(status: &Status) -> bool {
    let text = status.message();
    text.contains("receiving response with status: 4") || text.contains("mapped from HTTP status code 4")
}

/// Whether trying again may help.
pub fn is_passing(status: &Status) -> bool {
    if is_of_http(status) {
        return false;
    }
    // A connection that breaks under a call is reported as Unknown or Internal without details.
    let broken = matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled);
    status.code() == Code::Unavailable || (broken && status.details().is_empty())
}

/// A time: RFC 3339, or how long ago.
pub fn parse_time(text: &str) -> Result<prost_types::Timestamp, String> {
    let time = match humantime::parse_duration(text) {
        Ok(ago) => crate::clock::Clock::system()
            .now()
            .checked_sub(ago)
            .map_err(|error| error.to_string())?,
        Err(_) => text.parse().map_err(|_| {
            format!("`{text}` is neither a time such as 2026-03-25T12:05:00Z nor a duration such as 15m")
        })?,
    };
    Ok(prost_types::Timestamp {
        seconds: time.as_second(),
        nanos: time.subsec_nanosecond().max(0),
    })
}

/// A duration as the interface has it.
pub fn parse_duration(text: &str) -> Result<prost_types::Duration, String> {
    let duration =
        humantime::parse_duration(text).map_err(|_| format!("`{text}` is not a duration such as 90s"))?;
    prost_types::Duration::try_from(duration).map_err(|_| format!("`{text}` is too long"))
}
