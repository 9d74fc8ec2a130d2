//! Managing endpoints over gRPC. Owns the translation of `ManageEndpoint`; what an endpoint is and does is decided in
//! `endpoints`.

use std::{sync::Arc, time::Duration};

use super::{
    caller::check_endpoint_visible,
    encode::timestamp,
    events,
    proto::{
        self, ManageEndpointRequest, manage_endpoint_request as ask, manage_endpoint_response as answer,
    },
    status::{self, Refusal},
};
use crate::{
    access::Caller,
    clock::Clock,
    endpoints::{Endpoint, EndpointChange, EndpointError, NewEndpoint, Provider, ProviderStatus, State},
    event::EndpointName,
    limits,
    registrar::{Registrar, RegistrarError},
    secret::Secret,
};

/// Manages endpoints for gRPC callers.
#[derive(Clone)]
pub struct EndpointManager {
    registrar: Arc<Registrar>,
    clock: Clock,
    /// Where HeyGen reaches this service, without a slash at the end.
    public_url: Arc<str>,
}

impl EndpointManager {
    /// A manager of the registrar's endpoints, reached under this URL.
    pub fn new(registrar: Arc<Registrar>, clock: Clock, public_url: &str) -> Self {
        Self {
            registrar,
            clock,
            public_url: public_url.trim_end_matches('/').into(),
        }
    }

    /// One operation.
    pub async fn manage(
        &self,
        caller: Caller,
        request: ManageEndpointRequest,
    ) -> Result<proto::ManageEndpointResponse, Refusal> {
        use ask::Operation::{
            Create, Delete, Get, List, Reconcile, Recreate, RotateCallbackToken, RotateSecret, Update,
        };
        let operation = request
            .operation
            .ok_or_else(|| Refusal::field("operation", "must name what to do"))?;
        check_operation_visible(&operation, &caller)?;
        let result = match operation {
            Create(create) => answer::Result::Create(self.create(create).await?),
            Get(get) => answer::Result::Get(self.get(&get)?),
            List(list) => answer::Result::List(self.list(&list, &caller)?),
            Update(update) => answer::Result::Update(self.update(update).await?),
            Delete(delete) => {
                self.registrar.delete(&name(&delete.name)?).await?;
                answer::Result::Delete(answer::Delete {})
            }
            RotateSecret(rotate) => answer::Result::RotateSecret(self.rotate_secret(rotate).await?),
            Recreate(recreate) => {
                let endpoint = self.registrar.recreate(&name(&recreate.name)?).await?;
                answer::Result::Recreate(answer::Recreate {
                    endpoint: Some(self.message(&endpoint)),
                    secret: current_secret(&endpoint),
                })
            }
            Reconcile(ask::Reconcile {}) => answer::Result::Reconcile(self.reconcile().await?),
            RotateCallbackToken(rotate) => {
                answer::Result::RotateCallbackToken(self.rotate_callback_token(rotate).await?)
            }
        };
        Ok(proto::ManageEndpointResponse { result: Some(result) })
    }

    async fn create(&self, create: ask::Create) -> Result<answer::Create, Refusal> {
        let secret = secret(create.secret)?;
        let at_heygen = match proto::Registration::try_from(create.registration) {
            Ok(proto::Registration::Unspecified) => self.registrar.can_register() && secret.is_none(),
            Ok(proto::Registration::Local) => false,
            Ok(proto::Registration::Heygen) => true,
            Err(_) => return Err(Refusal::field("registration", "is not a known registration")),
        };
        let name = name(&create.name)?;
        let new = NewEndpoint {
            event_types: create.event_types,
            entity_id: create.entity_id,
            provider_endpoint_id: create.provider_endpoint_id,
            secret,
            ..NewEndpoint::default()
        };
        let endpoint = if at_heygen {
            self.registrar.register(name, new).await?
        } else {
            self.registrar.create(name, new).await?
        };
        Ok(answer::Create {
            endpoint: Some(self.message(&endpoint)),
            secret: current_secret(&endpoint),
        })
    }

    async fn reconcile(&self) -> Result<answer::Reconcile, Refusal> {
        let walked = self.registrar.reconciler()?.walk_now().await;
        let walked = walked.map_err(|error| Refusal::of_reconciliation(&error))?;
        Ok(answer::Reconcile {
            examined: walked.examined,
            found: walked.found,
        })
    }

    async fn rotate_callback_token(
        &self,
        rotate: ask::RotateCallbackToken,
    ) -> Result<answer::RotateCallbackToken, Refusal> {
        let name = name(&rotate.name)?;
        let overlap = overlap(rotate.overlap)?;
        let rotated = self
            .registrar
            .endpoints()
            .rotate_callback_token(&name, overlap)
            .await;
        let (endpoint, token) = rotated.map_err(RegistrarError::from)?;
        Ok(answer::RotateCallbackToken {
            endpoint: Some(self.message(&endpoint)),
            callback_url: format!("{}/callbacks/{name}/{}", self.public_url, token.expose()),
        })
    }

    fn get(&self, get: &ask::Get) -> Result<answer::Get, Refusal> {
        let name = name(&get.name)?;
        let endpoint = self
            .registrar
            .endpoints()
            .get(&name)
            .ok_or(RegistrarError::Endpoint(EndpointError::NotFound(name)))?;
        Ok(answer::Get {
            endpoint: Some(self.message(&endpoint)),
        })
    }

    /// A page's token is the last name on it: names are no secret, and the order of names needs no snapshot.
    fn list(&self, list: &ask::List, caller: &Caller) -> Result<answer::List, Refusal> {
        let size = status::page_size(list.page_size, limits::ENDPOINTS_PAGE_DEFAULT)?;
        let after = status::name_page_token::<EndpointName>(&list.page_token)?;
        let visible = |name: &EndpointName| check_endpoint_visible(name.as_str(), caller).is_ok();
        let mut found = self.registrar.endpoints().list(after.as_ref(), size + 1, visible);
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
        let endpoint = self.registrar.update(&name(&update.name)?, change).await?;
        Ok(answer::Update {
            endpoint: Some(self.message(&endpoint)),
        })
    }

    async fn rotate_secret(&self, rotate: ask::RotateSecret) -> Result<answer::RotateSecret, Refusal> {
        let overlap = overlap(rotate.overlap)?;
        let new = secret(rotate.secret)?;
        let name = name(&rotate.name)?;
        let endpoint = self.registrar.rotate_secret(&name, new, overlap).await?;
        Ok(answer::RotateSecret {
            endpoint: Some(self.message(&endpoint)),
            secret: current_secret(&endpoint),
        })
    }

    fn message(&self, endpoint: &Endpoint) -> proto::Endpoint {
        let now = self.clock.now();
        let state = match endpoint.state(now) {
            State::Active => proto::EndpointState::Active,
            State::Rotating => proto::EndpointState::Rotating,
            State::Pending => proto::EndpointState::Pending,
            State::Disabled => proto::EndpointState::Disabled,
            State::Failed => proto::EndpointState::Failed,
            State::Deleting => proto::EndpointState::Deleting,
        };
        let registration = match endpoint.provider() {
            None => proto::Registration::Local,
            Some(_) => proto::Registration::Heygen,
        };
        let reconciled_through = endpoint
            .provider()
            .and_then(|provider| provider.reconciled_through);
        proto::Endpoint {
            name: endpoint.name.to_string(),
            url: format!("{}/webhooks/{}", self.public_url, endpoint.name),
            event_types: endpoint.event_types.clone(),
            entity_id: endpoint.entity_id.clone(),
            state: state.into(),
            provider_endpoint_id: endpoint.provider_endpoint_id.clone(),
            created_at: Some(timestamp(endpoint.created_at)),
            last_delivery_at: endpoint.last_delivery_at().map(timestamp),
            registration: registration.into(),
            secret_version: endpoint.secret_version(),
            previous_secret_expires_at: endpoint.previous_secret_expires_at(now).map(timestamp),
            provider: endpoint.provider().map(provider),
            state_reason: endpoint.state_reason(now),
            reconciled_through: reconciled_through.map(timestamp),
            secret_since: endpoint.secret_since().map(timestamp),
            unverified_deliveries: endpoint.unverified_deliveries(),
            accepts_callbacks: !endpoint.callback_tokens.keys().is_empty(),
        }
    }
}

/// Refuses what concerns endpoints that the caller may not see. A listing just leaves them out.
fn check_operation_visible(operation: &ask::Operation, caller: &Caller) -> Result<(), Refusal> {
    use ask::Operation::{
        Create, Delete, Get, List, Reconcile, Recreate, RotateCallbackToken, RotateSecret, Update,
    };
    let name = match operation {
        Create(create) => create.name.as_str(),
        Get(get) => &get.name,
        Update(update) => &update.name,
        Delete(delete) => &delete.name,
        RotateSecret(rotate) => &rotate.name,
        Recreate(recreate) => &recreate.name,
        RotateCallbackToken(rotate) => &rotate.name,
        // No endpoint has this name, so only who sees all may.
        Reconcile(_) => "",
        List(_) => return Ok(()),
    };
    check_endpoint_visible(name, caller)
}

fn provider(provider: &Provider) -> proto::ProviderRegistration {
    let status = match provider.status {
        ProviderStatus::Unknown => proto::ProviderStatus::Unspecified,
        ProviderStatus::Enabled => proto::ProviderStatus::Enabled,
        ProviderStatus::Disabled => proto::ProviderStatus::Disabled,
        ProviderStatus::Missing => proto::ProviderStatus::Missing,
    };
    proto::ProviderRegistration {
        status: status.into(),
        url: provider.url.clone(),
        event_types: provider.event_types.clone(),
        checked_at: provider.checked_at.map(timestamp),
    }
}

fn current_secret(endpoint: &Endpoint) -> String {
    let current = endpoint.keyring.keys().first();
    current
        .map(|key| key.secret.expose().to_owned())
        .unwrap_or_default()
}

fn overlap(overlap: Option<prost_types::Duration>) -> Result<Duration, Refusal> {
    let range = Duration::ZERO..=limits::ROTATION_OVERLAP_MAX;
    events::duration("overlap", overlap, limits::ROTATION_OVERLAP_DEFAULT, range)
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
