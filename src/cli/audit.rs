//! `hookstream audit`. Owns showing the audit trail.

use std::process::ExitCode;

use clap::Args;

use super::{
    client::{self, Server},
    output,
};
use crate::grpc::proto::{AuditRecord, ListAuditRecordsRequest};

/// Shows who changed what, newest first.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hookstream audit
  hookstream audit --since 24h --json | jq 'select(.outcome != \"OK\")'")]
pub struct Audit {
    #[command(flatten)]
    server: Server,
    /// Only what was done at or after this time, or this long ago.
    #[arg(long, value_name = "TIME", value_parser = client::parse_time)]
    since: Option<prost_types::Timestamp>,
    /// How much to show.
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Print JSON, one record a line.
    #[arg(long)]
    json: bool,
}

impl Audit {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let mut client = self.server.connect_access().await?;
        let mut records = Vec::new();
        let mut page_token = String::new();
        while records.len() < self.limit {
            let request = ListAuditRecordsRequest {
                since: self.since,
                page_size: i32::try_from((self.limit - records.len()).min(1000))?,
                page_token,
            };
            let page = client.list_audit_records(request).await;
            let page = page.map_err(|status| client::explain(&status))?.into_inner();
            records.extend(page.records);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        if self.json {
            records.iter().try_for_each(output::print_json)?;
            return Ok(ExitCode::SUCCESS);
        }
        let row = |record: AuditRecord| {
            [
                output::time(record.at),
                record.actor,
                output::or_dash(&record.address).to_owned(),
                record.action,
                record.target,
                record.outcome,
            ]
        };
        output::print_table(
            &["TIME", "WHO", "FROM", "DID", "TO", "OUTCOME"],
            records.into_iter().map(row),
        )?;
        Ok(ExitCode::SUCCESS)
    }
}
