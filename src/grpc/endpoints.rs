//! Managing endpoints over gRPC. Owns the translation of `ManageEndpoint`; what an endpoint is and does is decided in
//! `endpoints`.

use std::{sync::Arc, time::Duration};

use super::{
    encode::timestamp,
    events,
    proto::{
        self, ManageEndpointRequest, manage_endpoint_request as ask, manage_endpoint_response as answer,
    },
    status::{self, Refusal},
};
use crate::{
    clock::Clock,
    endpoints::{Endpoint, EndpointChange, Endpoints, NewEndpoint},
    event::EndpointName,
    limits,
    secret::Secret,
};

/// Manages endpoints for gRPC callers.
#[derive(Clone)]
pub struct EndpointManager {
    endpoints: Arc<Endpoints>,
    clock: Clock,
    /// Where HeyGen reaches this service, without a slash at the end.
    public_url: Arc<str>,
}

impl EndpointManager {
    /// A manager of these endpoints, reached under this URL.
    pub fn new(endpoints: Arc<Endpoints>, clock: Clock, public_url: &str) -> Self {
        Self {
            endpoints,
            clock,
            public_url: public_url.trim_end_matches('/').into(),
        }
    }

    /// One operation.
    pub async fn manage(
        &self,
        request: ManageEndpointRequest,
    ) -> Result<proto::ManageEndpointResponse, Refusal> {
        use ask::Operation::{Create, Delete, Get, List, RotateSecret, Update};
        let operation = request
            .operation
            .ok_or_else(|| Refusal::field("operation", "must name what to do"))?;
        let result = match operation {
            Create(create) => answer::Result::Create(self.create(create).await?),
            Get(get) => answer::Result::Get(self.get(&get)?),
            List(list) => answer::Result::List(self.list(&list)?),
            Update(update) => answer::Result::Update(self.update(update).await?),
            Delete(delete) => {
                self.endpoints.delete(&name(&delete.name)?).await?;
                answer::Result::Delete(answer::Delete {})
            }
            RotateSecret(rotate) => answer::Result::RotateSecret(self.rotate_secret(rotate).await?),
        };
        Ok(proto::ManageEndpointResponse { result: Some(result) })
    }

    async fn create(&self, create: ask::Create) -> Result<answer::Create, Refusal> {
        if proto::Registration::try_from(create.registration).is_err() {
            return Err(Refusal::field("registration", "is not a known registration"));
        }
        let new = NewEndpoint {
            event_types: create.event_types,
            entity_id: create.entity_id,
            provider_endpoint_id: create.provider_endpoint_id,
            secret: secret(create.secret)?,
        };
        let (endpoint, secret) = self.endpoints.create(name(&create.name)?, new).await?;
        Ok(answer::Create {
            endpoint: Some(self.message(&endpoint)),
            secret: secret.expose().to_owned(),
        })
    }

    fn get(&self, get: &ask::Get) -> Result<answer::Get, Refusal> {
        let name = name(&get.name)?;
        let endpoint = self
            .endpoints
            .get(&name)
            .ok_or(crate::endpoints::EndpointError::NotFound(name))?;
        Ok(answer::Get {
            endpoint: Some(self.message(&endpoint)),
        })
    }

    /// A page's token is the last name on it: names are no secret, and the order of names needs no snapshot.
    fn list(&self, list: &ask::List) -> Result<answer::List, Refusal> {
        let size = status::page_size(list.page_size, limits::ENDPOINTS_PAGE_DEFAULT)?;
        let after =
            match list.page_token.as_str() {
                "" => None,
                token => Some(token.parse::<EndpointName>().map_err(|_| {
                    Refusal::field("page_token", "is damaged or was not issued by this service")
                })?),
            };
        let mut found = self.endpoints.list(after.as_ref(), size + 1);
        let more = found.len() > size;
        found.truncate(size);
        let last = found.last().filter(|_| more);
        Ok(answer::List {
            next_page_token: last.map(|endpoint| endpoint.name.to_string()).unwrap_or_default(),
            endpoints: found.iter().map(|endpoint| self.message(endpoint)).collect(),
        })
    }

    async fn update(&self, update: ask::Update) -> Result<answer::Update, Refusal> {
        let paths = update.update_mask.unwrap_or_default().paths;
        if paths.is_empty() {
            return Err(Refusal::field(
                "update_mask",
                "must name what to replace: event_types, entity_id",
            ));
        }
        let mut change = EndpointChange::default();
        for path in paths {
            match path.as_str() {
                "event_types" => change.event_types = Some(update.event_types.clone()),
                "entity_id" => change.entity_id = Some(update.entity_id.clone()),
                other => {
                    let reason = format!("names `{other}`; only event_types and entity_id can be replaced");
                    return Err(Refusal::field("update_mask", reason));
                }
            }
        }
        let endpoint = self.endpoints.update(&name(&update.name)?, change).await?;
        Ok(answer::Update {
            endpoint: Some(self.message(&endpoint)),
        })
    }

    async fn rotate_secret(&self, rotate: ask::RotateSecret) -> Result<answer::RotateSecret, Refusal> {
        let overlap = events::duration(
            "overlap",
            rotate.overlap,
            limits::ROTATION_OVERLAP_DEFAULT,
            Duration::ZERO..=limits::ROTATION_OVERLAP_MAX,
        )?;
        let new = secret(rotate.secret)?;
        let (endpoint, secret) = self
            .endpoints
            .rotate_secret(&name(&rotate.name)?, new, overlap)
            .await?;
        Ok(answer::RotateSecret {
            endpoint: Some(self.message(&endpoint)),
            secret: secret.expose().to_owned(),
        })
    }

    fn message(&self, endpoint: &Endpoint) -> proto::Endpoint {
        let previous_expiry = endpoint.previous_secret_expires_at(self.clock.now());
        let state = match previous_expiry {
            Some(_) => proto::EndpointState::Rotating,
            None => proto::EndpointState::Active,
        };
        proto::Endpoint {
            name: endpoint.name.to_string(),
            url: format!("{}/webhooks/{}", self.public_url, endpoint.name),
            event_types: endpoint.event_types.clone(),
            entity_id: endpoint.entity_id.clone(),
            state: state.into(),
            provider_endpoint_id: endpoint.provider_endpoint_id.clone(),
            created_at: Some(timestamp(endpoint.created_at)),
            last_delivery_at: endpoint.last_delivery_at().map(timestamp),
            registration: proto::Registration::Local.into(),
            secret_version: endpoint.secret_version(),
            previous_secret_expires_at: previous_expiry.map(timestamp),
        }
    }
}

fn name(name: &str) -> Result<EndpointName, Refusal> {
    name.parse().map_err(|_| {
        Refusal::field(
            "name",
            "must be 1 to 63 characters of a-z, 0-9 and -, and start with a letter or digit",
        )
    })
}

fn secret(secret: String) -> Result<Option<Secret>, Refusal> {
    if secret.is_empty() {
        return Ok(None);
    }
    Secret::new(secret)
        .map(Some)
        .map_err(|_| Refusal::field("secret", "must be 1 to 512 bytes"))
}
