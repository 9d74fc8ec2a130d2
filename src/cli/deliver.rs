//! `hookstream deliver`. Owns playing HeyGen: signing a body and posting it.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use data_encoding::HEXLOWER;
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior};
use zeroize::Zeroizing;

use super::{
    hints,
    trust::{self, Trust},
};
use crate::{samples, secret::Secret, signature};

/// Plays HeyGen: sends signed deliveries of one event type. Each is a new event, unless --event-id says otherwise.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hookstream deliver avatar_video.success --secret-file ./dev.secret
  hookstream deliver avatar_video.fail --secret-file ./dev.secret --data '{\"video_id\":\"v1\",\"msg\":\"no\"}'
  hookstream deliver video_translate.success --secret-file ./dev.secret --count 1000 --rate 200")]
pub struct Deliver {
    /// The event type, such as avatar_video.success; `hookstream events types` lists them. Any other is sent too.
    #[arg(value_name = "TYPE")]
    event_type: String,
    /// Where to deliver.
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:8080/webhooks/dev"
    )]
    url: String,
    /// A file with the endpoint's secret; one newline at its end is not part of it. Else HOOKSTREAM_SECRET is taken.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// The secret itself. Other users of this machine can see it in the list of processes: prefer --secret-file.
    #[arg(long, value_name = "SECRET", conflicts_with = "secret_file")]
    secret: Option<String>,
    #[command(flatten)]
    trust: Trust,
    /// The `event_data` to send instead of a sample.
    #[arg(long, value_name = "JSON")]
    data: Option<String>,
    /// The `event_id` of every delivery, so that they are duplicates of each other.
    #[arg(long, value_name = "ID")]
    event_id: Option<String>,
    /// How many to send.
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: u64,
    /// How many to send a second; as fast as they are answered if not given.
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// Print an object for each delivery.
    #[arg(long)]
    json: bool,
}

/// The secret in a file, or in the environment.
pub fn read_secret(file: Option<&Path>) -> anyhow::Result<Option<Secret>> {
    let Some(file) = file else {
        #[allow(
            clippy::disallowed_methods,
            reason = "a secret is not a setting: it is read where it is used"
        )]
        let secret = std::env::var("HOOKSTREAM_SECRET").ok();
        let secret = secret.filter(|secret| !secret.is_empty());
        return secret.map(Secret::new).transpose().context("HOOKSTREAM_SECRET");
    };
    let text = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let text = Zeroizing::new(text);
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = Secret::new(secret.strip_suffix('\r').unwrap_or(secret).to_owned());
    Ok(Some(secret.with_context(|| file.display().to_string())?))
}

/// What became of a delivery.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The text of the answer.
    pub text: String,
    /// How long it took.
    pub took: Duration,
}

impl Answer {
    /// Whether HeyGen would count it as delivered.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Posts signed bodies to one URL.
pub struct Sender {
    client: reqwest::Client,
    url: String,
    secret: Secret,
}

impl Sender {
    /// A sender to this URL.
    pub fn new(url: String, secret: Secret, trust: &Trust) -> anyhow::Result<Self> {
        // HeyGen's own limit.
        let client = trust.http_client()?.timeout(Duration::from_secs(10)).build()?;
        Ok(Self { client, url, secret })
    }

    /// Signs and posts a body.
    pub async fn send(&self, body: String) -> anyhow::Result<Answer> {
        let signature = HEXLOWER.encode(&signature::sign(&self.secret, body.as_bytes()));
        let started = Instant::now();
        let request = self
            .client
            .post(&self.url)
            .header("content-type", "application/json");
        let response = request.header("signature", signature).body(body).send().await;
        let response = response.map_err(|error| {
            let advice = trust::advice(&error).map(|advice| format!(": {advice}"));
            let text = format!("cannot deliver to {}{}", self.url, advice.unwrap_or_default());
            anyhow::Error::new(error).context(text)
        })?;
        let status = response.status().as_u16();
        let text = response.text().await.unwrap_or_default();
        Ok(Answer {
            status,
            text,
            took: started.elapsed(),
        })
    }
}

impl Deliver {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let secret = match self.secret {
            Some(secret) => Some(Secret::new(secret)?),
            None => read_secret(self.secret_file.as_deref())?,
        };
        let secret = secret.context("no secret: give --secret-file, or set HOOKSTREAM_SECRET")?;
        let data = self
            .data
            .as_deref()
            .map(serde_json::from_str::<Value>)
            .transpose();
        let data = data.context("--data is not JSON")?;
        if self
            .rate
            .is_some_and(|rate| !(rate.is_finite() && rate > 0.0 && rate <= 1e6))
        {
            bail!("--rate must be above 0 and at most 1000000");
        }
        let sender = Sender::new(self.url, secret, &self.trust)?;
        let mut ticks = self.rate.map(|rate| {
            let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            ticks
        });
        hints::note_unknown_types(std::slice::from_ref(&self.event_type));
        let (mut failed, mut advised) = (false, None);
        for _ in 0..self.count {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            let number = rand::random();
            let data = data
                .clone()
                .unwrap_or_else(|| samples::event_data(&self.event_type, number));
            let event_id = self
                .event_id
                .clone()
                .unwrap_or_else(|| format!("evt_sample_{number:016x}"));
            let body =
                serde_json::json!({"event_id": event_id, "event_type": self.event_type, "event_data": data});
            let answer = sender.send(body.to_string()).await?;
            failed |= !answer.is_success();
            let ms = answer.took.as_secs_f64() * 1e3;
            let mut out = anstream::stdout();
            if self.json {
                let object = serde_json::json!({
                    "eventId": event_id, "eventType": self.event_type, "status": answer.status,
                    "answer": answer.text, "milliseconds": ms,
                });
                writeln!(out, "{object}")?;
            } else {
                writeln!(
                    out,
                    "{} {}  {} {event_id}  {ms:.1} ms",
                    answer.status,
                    hints::one_line(&answer.text),
                    self.event_type
                )?;
            }
            // Once for all that are answered alike.
            let advice = hints::after_delivery(answer.status, &answer.text);
            if let Some(advice) = advice.filter(|_| advised.replace(answer.status) != Some(answer.status)) {
                anstream::eprintln!("{advice}");
            }
        }
        Ok(if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}
