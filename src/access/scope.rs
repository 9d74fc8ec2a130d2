//! What an identity may do. Owns the scopes and their names; refuses to know which call asks for which.

use std::{collections::BTreeSet, fmt, str::FromStr};

/// A permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Subscribe to, list, await and get events.
    EventsRead,
    /// Acknowledge events of subscriptions.
    EventsAcknowledge,
    /// Look at endpoints.
    EndpointsRead,
    /// Look at endpoints and change them.
    EndpointsManage,
    /// Read metrics.
    MetricsRead,
    /// Everything: tokens and the audit trail besides all of the above.
    Admin,
}

/// A text that names no scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no scope; there are events:read, events:acknowledge, endpoints:read, endpoints:manage, metrics:read and admin"
)]
pub struct UnknownScope;

impl Scope {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::EventsRead,
        Self::EventsAcknowledge,
        Self::EndpointsRead,
        Self::EndpointsManage,
        Self::MetricsRead,
        Self::Admin,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EventsRead => "events:read",
            Self::EventsAcknowledge => "events:acknowledge",
            Self::EndpointsRead => "endpoints:read",
            Self::EndpointsManage => "endpoints:manage",
            Self::MetricsRead => "metrics:read",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        found.ok_or(UnknownScope)
    }
}

/// The permissions of an identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(BTreeSet<Scope>);

impl Scopes {
    /// Every permission.
    pub fn all() -> Self {
        Self::from_iter([Scope::Admin])
    }

    /// Whether they permit what asks for this scope.
    pub fn permit(&self, scope: Scope) -> bool {
        let holds = |scope| self.0.contains(&scope);
        holds(scope)
            || holds(Scope::Admin)
            || (scope == Scope::EndpointsRead && holds(Scope::EndpointsManage))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|scope| scope.as_str())
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scope_is_read_back_from_its_name() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
        }
        assert_eq!("events".parse::<Scope>(), Err(UnknownScope));
    }

    #[test]
    fn admin_permits_everything_and_managing_endpoints_permits_reading_them() {
        for scope in Scope::ALL {
            assert!(Scopes::all().permit(scope));
            assert!(!Scopes::default().permit(scope));
            let manage = Scopes::from_iter([Scope::EndpointsManage]);
            let permitted = [Scope::EndpointsManage, Scope::EndpointsRead].contains(&scope);
            assert_eq!(manage.permit(scope), permitted, "{scope}");
        }
    }
}
