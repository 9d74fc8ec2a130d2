//! Who calls, and whether they may. Owns reading credentials from requests and the table of what each call needs; who is
//! who is decided in `access`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use tonic::Status;

use super::{
    calls::Bound,
    proto::{
        ManageEndpointRequest, ManageSubscriptionRequest, ManageTokenRequest, Subscription,
        manage_endpoint_request as endpoint, manage_subscription_request as subscription,
        manage_token_request as token,
    },
    status::Refusal,
};
use crate::{
    access::{Access, Caller, Presented, Scope},
    filter::Filter,
    limits,
};

/// Health is what probes ask for; it says nothing else.
const OPEN_PATH: &str = "/grpc.health.v1.Health/";

/// A call with what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// Its name, in metrics and in the audit trail.
    pub(super) name: &'static str,
    /// The permission it needs.
    pub(super) scope: Scope,
    /// For a change, the name of what it changes: it goes to the audit trail.
    pub(super) changes: Option<String>,
    /// What keeps it from taking too much.
    pub(super) bound: Bound,
    /// Whether it counts for how many calls the caller may make. An acknowledgement does not: the events that were handed
    /// out bound them, and to refuse one would be to hand an event out again.
    pub(super) is_limited: bool,
}

impl Call {
    /// A call that changes nothing.
    pub(super) fn reading(name: &'static str, scope: Scope) -> Self {
        Self {
            name,
            scope,
            changes: None,
            bound: Bound::Time(limits::READ_CALL_TIMEOUT),
            is_limited: true,
        }
    }

    /// A call that waits for events.
    pub(super) fn waiting(name: &'static str, scope: Scope) -> Self {
        Self {
            bound: Bound::Streams,
            ..Self::reading(name, scope)
        }
    }

    fn changing(name: &'static str, scope: Scope, target: &str) -> Self {
        Self {
            changes: Some(target.to_owned()),
            bound: Bound::Time(limits::MANAGE_CALL_TIMEOUT),
            ..Self::reading(name, scope)
        }
    }

    /// What a call of ManageEndpoint needs.
    pub(super) fn of_endpoint(request: &ManageEndpointRequest) -> Self {
        use endpoint::Operation::{
            Create, Delete, Get, List, Reconcile, Recreate, RotateCallbackToken, RotateSecret, Update,
        };
        let manage = |name, target: &str| Self::changing(name, Scope::EndpointsManage, target);
        match &request.operation {
            Some(Create(create)) => manage("ManageEndpoint.create", &create.name),
            Some(Update(update)) => manage("ManageEndpoint.update", &update.name),
            Some(Delete(delete)) => manage("ManageEndpoint.delete", &delete.name),
            Some(RotateSecret(rotate)) => manage("ManageEndpoint.rotate_secret", &rotate.name),
            Some(Recreate(recreate)) => manage("ManageEndpoint.recreate", &recreate.name),
            Some(RotateCallbackToken(rotate)) => manage("ManageEndpoint.rotate_callback_token", &rotate.name),
            Some(Reconcile(_)) => Self {
                bound: Bound::Place,
                ..Self::reading("ManageEndpoint.reconcile", Scope::EndpointsManage)
            },
            Some(Get(_)) => Self::reading("ManageEndpoint.get", Scope::EndpointsRead),
            Some(List(_)) => Self::reading("ManageEndpoint.list", Scope::EndpointsRead),
            None => Self::reading("ManageEndpoint", Scope::EndpointsRead),
        }
    }

    /// What a call of ManageSubscription needs.
    pub(super) fn of_subscription(request: &ManageSubscriptionRequest) -> Self {
        use subscription::Operation::{
            Create, Delete, DiscardDeadLetters, Get, List, ReplayDeadLetters, Seek, Update,
        };
        let manage = |name, target: &str| Self::changing(name, Scope::EventsAcknowledge, target);
        let named = |subscription: &Option<Subscription>| {
            subscription
                .as_ref()
                .map(|one| one.name.clone())
                .unwrap_or_default()
        };
        match &request.operation {
            Some(Create(create)) => manage("ManageSubscription.create", &named(&create.subscription)),
            Some(Update(update)) => manage("ManageSubscription.update", &named(&update.subscription)),
            Some(Delete(delete)) => manage("ManageSubscription.delete", &delete.name),
            Some(Seek(seek)) => manage("ManageSubscription.seek", &seek.name),
            Some(ReplayDeadLetters(replay)) => manage("ManageSubscription.replay_dead_letters", &replay.name),
            Some(DiscardDeadLetters(discard)) => {
                manage("ManageSubscription.discard_dead_letters", &discard.name)
            }
            Some(Get(_)) => Self::reading("ManageSubscription.get", Scope::EventsRead),
            Some(List(_)) => Self::reading("ManageSubscription.list", Scope::EventsRead),
            None => Self::reading("ManageSubscription", Scope::EventsRead),
        }
    }

    /// What a call of AcknowledgeEvents needs.
    pub(super) fn of_acknowledgement() -> Self {
        Self {
            is_limited: false,
            ..Self::reading("AcknowledgeEvents", Scope::EventsAcknowledge)
        }
    }

    /// What a call of ManageToken needs.
    pub(super) fn of_token(request: &ManageTokenRequest) -> Self {
        use token::Operation::{Create, List, Revoke};
        match &request.operation {
            Some(Create(create)) => Self::changing("ManageToken.create", Scope::Admin, &create.name),
            Some(Revoke(revoke)) => Self::changing("ManageToken.revoke", Scope::Admin, &revoke.name),
            Some(List(_)) => Self::reading("ManageToken.list", Scope::Admin),
            None => Self::reading("ManageToken", Scope::Admin),
        }
    }

    /// Lets the caller through, or says why not.
    pub(super) fn admit(&self, caller: &Caller) -> Result<(), Refusal> {
        if !caller.may(self.scope) {
            return Err(Refusal::ScopeMissing(self.scope));
        }
        if self.is_limited {
            caller.take_call()?;
        }
        Ok(())
    }
}

/// Refuses a filter that asks for more than the caller may see.
pub(super) fn check_visible(asked: &Filter, caller: &Caller) -> Result<(), Refusal> {
    let sees = &caller.identity().sees;
    asked.exceeds(sees).map_or(Ok(()), |field| {
        Err(Refusal::NotVisible {
            field: format!("filter.{field}"),
            allowed: sees.values(field),
        })
    })
}

/// Refuses an endpoint that the caller may not see.
pub(super) fn check_endpoint_visible(name: &str, caller: &Caller) -> Result<(), Refusal> {
    let visible = &caller.identity().sees.endpoints;
    if visible.is_empty() || visible.iter().any(|visible| visible == name) {
        return Ok(());
    }
    Err(Refusal::NotVisible {
        field: "name".to_owned(),
        allowed: visible.clone(),
    })
}

/// Finds out who calls before anything else looks at the request.
pub(super) async fn authenticate(
    State(access): State<Arc<Access>>,
    mut request: Request,
    next: Next,
) -> Response {
    if request.uri().path().starts_with(OPEN_PATH) {
        return next.run(request).await;
    }
    let caller = Presented::of_request(request.headers(), request.extensions().get())
        .and_then(|presented| access.authenticate(presented));
    match caller {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => Status::from(Refusal::from(error)).into_http(),
    }
}
