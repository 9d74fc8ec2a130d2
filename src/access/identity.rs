//! Who calls. Owns what an identity may do and for how long; refuses to know how it was proved.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{Scope, Scopes};
use crate::{clock::Clock, filter::Filter, limits};

/// Longest sleep towards a far end: timers have bounds too.
const SLEEP_MAX: Duration = Duration::from_secs(24 * 3600);

/// Somebody known.
#[derive(Debug)]
pub struct Identity {
    /// The name.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// The events and endpoints it may see; empty for all.
    pub sees: Filter,
    /// When it ends; `None` for never.
    pub expires_at: Option<Timestamp>,
    revoked: AtomicBool,
    revocation: CancellationToken,
    quota: Option<IdentityQuota>,
}

/// How much one identity may take, so that it leaves something for others.
#[derive(Debug)]
struct IdentityQuota {
    calls: DefaultDirectRateLimiter,
    streams: Arc<Semaphore>,
}

/// An identity has taken all that one may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverQuota {
    /// It calls too often.
    #[error(
        "this token makes more than {} calls a second",
        limits::CALLS_PER_TOKEN_PER_SECOND_MAX
    )]
    Calls,
    /// It has too many streams open.
    #[error(
        "this token has {} streams open; no more are allowed",
        limits::STREAMS_PER_TOKEN_MAX
    )]
    Streams,
}

impl Identity {
    /// An identity with a quota of its own.
    pub(super) fn new(name: String, scopes: Scopes, sees: Filter, expires_at: Option<Timestamp>) -> Self {
        let per_second = NonZeroU32::new(limits::CALLS_PER_TOKEN_PER_SECOND_MAX).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(limits::CALLS_PER_TOKEN_BURST_MAX).unwrap_or(NonZeroU32::MIN);
        let quota = IdentityQuota {
            calls: RateLimiter::direct(Quota::per_second(per_second).allow_burst(burst)),
            streams: Arc::new(Semaphore::new(limits::STREAMS_PER_TOKEN_MAX)),
        };
        Self {
            name,
            scopes,
            sees,
            expires_at,
            revoked: AtomicBool::new(false),
            revocation: CancellationToken::new(),
            quota: Some(quota),
        }
    }

    /// One that may do everything, as much as the service can bear.
    pub(super) fn unlimited(name: &str) -> Self {
        Self {
            quota: None,
            ..Self::new(name.to_owned(), Scopes::all(), Filter::default(), None)
        }
    }

    /// Ends it: nothing more is permitted, and what runs under it ends.
    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
        self.revocation.cancel();
    }

    pub(super) fn take_call(&self) -> Result<(), OverQuota> {
        let Some(quota) = &self.quota else { return Ok(()) };
        quota.calls.check().map_err(|_| OverQuota::Calls)
    }

    pub(super) fn take_stream(&self) -> Result<Option<OwnedSemaphorePermit>, OverQuota> {
        let Some(quota) = &self.quota else { return Ok(None) };
        let permit = Arc::clone(&quota.streams).try_acquire_owned();
        permit.map(Some).map_err(|_| OverQuota::Streams)
    }
}

/// An identity at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Caller {
    identity: Arc<Identity>,
    address: Option<SocketAddr>,
    valid_until: Option<Timestamp>,
    clock: Clock,
    /// Another replica has let it in, counted it, and keeps the record.
    is_vouched: bool,
}

impl Caller {
    /// A caller that is who it says until `valid_until`, if that is ever over.
    pub(super) fn new(
        identity: Arc<Identity>,
        address: Option<SocketAddr>,
        valid_until: Option<Timestamp>,
        clock: Clock,
    ) -> Self {
        Self {
            identity,
            address,
            valid_until,
            clock,
            is_vouched: false,
        }
    }

    /// A caller of another replica.
    pub(super) fn vouched(identity: Arc<Identity>, valid_until: Option<Timestamp>, clock: Clock) -> Self {
        Self {
            is_vouched: true,
            ..Self::new(identity, None, valid_until, clock)
        }
    }

    /// Whether it calls another replica, which asks this one.
    pub fn is_vouched(&self) -> bool {
        self.is_vouched
    }

    /// Takes one call from its quota.
    pub fn take_call(&self) -> Result<(), OverQuota> {
        if self.is_vouched {
            Ok(())
        } else {
            self.identity.take_call()
        }
    }

    /// Takes one stream from its quota, until the permit is dropped.
    pub fn take_stream(&self) -> Result<Option<OwnedSemaphorePermit>, OverQuota> {
        if self.is_vouched {
            Ok(None)
        } else {
            self.identity.take_stream()
        }
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where it calls from.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Whether it may do what asks for this scope.
    pub fn may(&self, scope: Scope) -> bool {
        self.identity.scopes.permit(scope)
    }

    /// Whether its credentials were withdrawn. Cheap enough to ask for every event.
    pub fn is_revoked(&self) -> bool {
        self.identity.revoked.load(Ordering::Acquire)
    }

    /// Waits until its credentials are withdrawn or end by themselves.
    pub async fn ended(self) {
        let expired = async {
            let Some(end) = self.valid_until else {
                return std::future::pending().await;
            };
            while let Ok(left) = Duration::try_from(end.duration_since(self.clock.now()))
                && !left.is_zero()
            {
                tokio::time::sleep(left.min(SLEEP_MAX)).await;
            }
        };
        tokio::select! {
            () = self.identity.revocation.cancelled() => {}
            () = expired => {}
        }
    }
}
