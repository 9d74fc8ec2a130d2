//! Managing tokens and reading the audit trail over gRPC. Owns the translation; who may do what is decided in `access`.

use std::{sync::Arc, time::Duration};

use super::{
    encode::timestamp,
    events,
    proto::{
        self, EventFilter, ManageTokenRequest, manage_token_request as ask, manage_token_response as answer,
    },
    status::{self, Refusal},
};
use crate::{
    access::{Access, Credential, NewToken, Token, TokenName},
    audit::{Audit, Question, Record},
    filter::Filter,
    limits,
};

/// Longest a token may be accepted, where it has an end at all.
const LIFETIME_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Manages tokens for gRPC callers, and shows them the audit trail.
#[derive(Clone)]
pub(super) struct TokenManager {
    access: Arc<Access>,
    audit: Audit,
}

impl TokenManager {
    /// A manager of these tokens.
    pub(super) fn new(access: Arc<Access>, audit: Audit) -> Self {
        Self { access, audit }
    }

    /// One operation.
    pub(super) async fn manage(
        &self,
        request: ManageTokenRequest,
    ) -> Result<proto::ManageTokenResponse, Refusal> {
        let operation = request
            .operation
            .ok_or_else(|| Refusal::field("operation", "must name what to do"))?;
        let result = match operation {
            ask::Operation::Create(create) => answer::Result::Create(self.create(create).await?),
            ask::Operation::List(list) => answer::Result::List(self.list(&list)?),
            ask::Operation::Revoke(revoke) => {
                self.access.revoke(&name("name", &revoke.name)?).await?;
                answer::Result::Revoke(answer::Revoke {})
            }
        };
        Ok(proto::ManageTokenResponse { result: Some(result) })
    }

    async fn create(&self, create: ask::Create) -> Result<answer::Create, Refusal> {
        if create.scopes.is_empty() {
            return Err(Refusal::field(
                "scopes",
                "must have at least one, such as events:read",
            ));
        }
        let scope = |(at, text): (usize, &String)| {
            let scope = text.parse();
            scope.map_err(|error| Refusal::field(format!("scopes[{at}]"), format!("`{text}` {error}")))
        };
        let bounds = Duration::from_secs(1)..=LIFETIME_MAX;
        let lifetime = create
            .expires_in
            .map(|asked| events::duration("expires_in", Some(asked), Duration::ZERO, bounds))
            .transpose()?;
        let (token, secret) = self
            .access
            .create(NewToken {
                name: name("name", &create.name)?,
                certificate_name: certificate_name(create.certificate_name)?,
                scopes: create
                    .scopes
                    .iter()
                    .enumerate()
                    .map(scope)
                    .collect::<Result<_, _>>()?,
                sees: events::filter(create.filter)?,
                lifetime,
            })
            .await?;
        Ok(answer::Create {
            token: Some(message(&token)),
            secret: secret
                .map(|secret| secret.expose().to_owned())
                .unwrap_or_default(),
        })
    }

    /// A page's token is the last name on it: names are no secret, and the order of names needs no snapshot.
    fn list(&self, list: &ask::List) -> Result<answer::List, Refusal> {
        let size = status::page_size(list.page_size, limits::RECORDS_PAGE_DEFAULT)?;
        let after = match list.page_token.as_str() {
            "" => None,
            token => Some(name("page_token", token)?),
        };
        let mut found = self.access.list(after.as_ref(), size + 1);
        let more = found.len() > size;
        found.truncate(size);
        let last = found.last().filter(|_| more);
        Ok(answer::List {
            next_page_token: last.map(|token| token.name.to_string()).unwrap_or_default(),
            tokens: found.iter().map(|token| message(token)).collect(),
        })
    }

    /// A page of the audit trail. Its token is the number of the last record on it.
    pub(super) async fn records(
        &self,
        request: proto::ListAuditRecordsRequest,
    ) -> Result<proto::ListAuditRecordsResponse, Refusal> {
        let size = status::page_size(request.page_size, limits::RECORDS_PAGE_DEFAULT)?;
        let before_id =
            match request.page_token.as_str() {
                "" => None,
                token => Some(token.parse().map_err(|_| {
                    Refusal::field("page_token", "is damaged or was not issued by this service")
                })?),
            };
        let question = Question {
            before_id,
            since: events::time("since", request.since)?,
            most: size + 1,
        };
        let mut records = self.audit.list(question).await.map_err(|error| {
            tracing::error!(%error, "the audit trail cannot be read");
            Refusal::LogUnavailable
        })?;
        let more = records.len() > size;
        records.truncate(size);
        let last = records.last().filter(|_| more);
        Ok(proto::ListAuditRecordsResponse {
            next_page_token: last.map(|record| record.id.to_string()).unwrap_or_default(),
            records: records.into_iter().map(record).collect(),
        })
    }
}

fn message(token: &Token) -> proto::Token {
    let certificate_name = match &token.credential {
        Credential::Token(_) => String::new(),
        Credential::Certificate(name) => name.clone(),
    };
    proto::Token {
        name: token.name.to_string(),
        scopes: token.scopes.names().map(str::to_owned).collect(),
        filter: Some(filter_message(&token.sees)).filter(|_| !token.sees.is_empty()),
        certificate_name,
        created_at: Some(timestamp(token.created_at)),
        expires_at: token.expires_at.map(timestamp),
    }
}

fn filter_message(filter: &Filter) -> EventFilter {
    EventFilter {
        event_types: filter.event_types.iter().map(ToString::to_string).collect(),
        entity_ids: filter.entity_ids.clone(),
        callback_ids: filter.callback_ids.clone(),
        endpoints: filter.endpoints.clone(),
    }
}

fn record(Record { at, action, .. }: Record) -> proto::AuditRecord {
    proto::AuditRecord {
        at: Some(timestamp(at)),
        actor: action.actor,
        address: action.address,
        action: action.action,
        target: action.target,
        outcome: action.outcome,
    }
}

fn name(field: &str, name: &str) -> Result<TokenName, Refusal> {
    name.parse().map_err(|error| Refusal::field(field, error))
}

fn certificate_name(name: String) -> Result<Option<String>, Refusal> {
    if name.is_empty() {
        return Ok(None);
    }
    let kinds = ["uri:", "dns:", "email:", "ip:"];
    let known = kinds
        .iter()
        .any(|kind| name.strip_prefix(kind).is_some_and(|rest| !rest.is_empty()));
    if !known || name.len() > limits::IDENTIFIER_BYTES_MAX {
        let reason = "must be a name with its kind, such as dns:billing.internal or uri:spiffe://example.org/billing, \
                      of at most 256 bytes";
        return Err(Refusal::field("certificate_name", reason));
    }
    Ok(Some(name))
}
