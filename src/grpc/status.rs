//! The table of gRPC refusals: condition, status, reason, details. The one place where gRPC statuses are chosen.

use std::{collections::HashMap, str::FromStr, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    access::{AccessError, OverQuota, Scope, Unauthenticated},
    cursor::Cursor,
    endpoints::EndpointError,
    event::{LogId, Sequence},
    filter::InvalidFilter,
    heygen::{ApiError, Failure},
    limits,
    log::ReadError,
    reconcile::ReconcileError,
    registrar::RegistrarError,
    stream::TooManyStreams,
    subscriptions::{NotStored, SubscriptionError},
};

const DOMAIN: &str = "hookstream";
/// How long a caller is asked to wait where trying again helps.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Why a call is refused.
#[derive(Debug)]
pub enum Refusal {
    /// A field is malformed or out of its bounds; `reason` ends a sentence that starts with the field's name.
    InvalidField {
        /// The field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What follows the cursor was removed by retention.
    CursorTrimmed {
        /// Where the kept events begin.
        earliest: Cursor,
    },
    /// The cursor or token was issued for another log.
    CursorOfAnotherLog,
    /// The cursor is past the end of the log.
    CursorAheadOfLog,
    /// No such event is kept.
    EventNotFound,
    /// No endpoint has this name.
    EndpointNotFound(String),
    /// An endpoint has this name.
    EndpointExists(String),
    /// As many endpoints exist as may.
    TooManyEndpoints(String),
    /// No subscription has this name.
    SubscriptionNotFound(String),
    /// A subscription has this name.
    SubscriptionExists(String),
    /// As many subscriptions exist as may.
    TooManySubscriptions(String),
    /// As many streams are open as may be.
    TooManyStreams(String),
    /// The call took longer than it may.
    CallTooSlow,
    /// No event matched in time.
    NoEventInTime {
        /// Where to go on.
        cursor: Cursor,
    },
    /// Credentials are required.
    CredentialsMissing(String),
    /// Nobody is known by what was presented.
    CredentialsUnknown(String),
    /// What was presented is no longer accepted.
    CredentialsEnded(String),
    /// The caller lacks a permission.
    ScopeMissing(Scope),
    /// The caller asks for more than it may see.
    NotVisible {
        /// The field of the request that asks for it.
        field: String,
        /// What the caller may ask for there.
        allowed: Vec<String>,
    },
    /// The caller makes too many calls.
    TooManyCalls(String),
    /// No token has this name.
    TokenNotFound(String),
    /// A token has this name or stands for this certificate.
    TokenExists(String),
    /// As many tokens exist as may.
    TooManyTokens(String),
    /// Another replica changed the same thing at the same moment.
    ChangedElsewhere(String),
    /// The service is shutting down.
    Draining,
    /// The log or a store failed. The cause is logged and not told.
    LogUnavailable,
    /// A stored record fails its checksum.
    RecordDamaged(Sequence),
    /// What was asked for needs something that is not configured, or does not fit the endpoint's state.
    NotPossible {
        /// The machine-readable reason.
        reason: &'static str,
        /// What to do.
        text: String,
    },
    /// HeyGen refuses for good.
    HeygenRefused {
        /// What HeyGen said.
        text: String,
        /// HeyGen's code, message and request id.
        metadata: HashMap<String, String>,
    },
    /// HeyGen wants fewer requests.
    HeygenRateLimited(String),
    /// HeyGen cannot be reached, or failed.
    HeygenUnavailable(String),
    /// The reconciliation was not carried out.
    NotReconciled(String),
    /// No replica that serves the subscriptions answers at the moment.
    SubscriptionsMoving,
    /// The replica that serves the subscriptions did not even get the call.
    ReplicaNotReached,
    /// What the replica that serves the subscriptions refused.
    OfReplica(Box<Status>),
}

impl Refusal {
    /// The refusal of one field.
    pub fn field(field: impl Into<String>, reason: impl ToString) -> Self {
        Self::InvalidField {
            field: field.into(),
            reason: reason.to_string(),
        }
    }

    /// What a failed read of this log means to a caller.
    pub fn of_read(error: ReadError, log_id: LogId) -> Self {
        match error {
            ReadError::Trimmed { trimmed } => Self::CursorTrimmed {
                earliest: Cursor {
                    log_id,
                    sequence: trimmed,
                },
            },
            ReadError::Damaged { sequence } => {
                tracing::error!(%sequence, "a stored record is damaged");
                Self::RecordDamaged(sequence)
            }
            ReadError::Unavailable(error) => {
                tracing::error!(%error, "the log cannot be read");
                Self::LogUnavailable
            }
        }
    }

    /// Status, reason, text.
    fn row(&self) -> (Code, &str, String) {
        match self {
            Self::InvalidField { field, reason } => {
                (Code::InvalidArgument, "INVALID_FIELD", format!("{field} {reason}"))
            }
            Self::CursorTrimmed { .. } => (
                Code::OutOfRange,
                "CURSOR_TRIMMED",
                "retention removed events after this cursor; start from `earliest_cursor`, or set continue_after_gap"
                    .into(),
            ),
            Self::CursorOfAnotherLog => (
                Code::FailedPrecondition,
                "CURSOR_OF_ANOTHER_LOG",
                "the cursor or page token was issued for another log; start without it".into(),
            ),
            Self::CursorAheadOfLog => (
                Code::FailedPrecondition,
                "CURSOR_AHEAD_OF_LOG",
                "the cursor is past the end of this log, which must have lost events; start without it".into(),
            ),
            Self::EventNotFound => {
                (Code::NotFound, "EVENT_NOT_FOUND", "no event with this id is kept".into())
            }
            Self::EndpointNotFound(text) => (Code::NotFound, "ENDPOINT_NOT_FOUND", text.clone()),
            Self::EndpointExists(text) => (Code::AlreadyExists, "ENDPOINT_EXISTS", text.clone()),
            Self::TooManyEndpoints(text) => (Code::ResourceExhausted, "TOO_MANY_ENDPOINTS", text.clone()),
            Self::SubscriptionNotFound(text) => (Code::NotFound, "SUBSCRIPTION_NOT_FOUND", text.clone()),
            Self::SubscriptionExists(text) => (Code::AlreadyExists, "SUBSCRIPTION_EXISTS", text.clone()),
            Self::TooManySubscriptions(text) => {
                (Code::ResourceExhausted, "TOO_MANY_SUBSCRIPTIONS", text.clone())
            }
            Self::TooManyStreams(text) => (Code::ResourceExhausted, "TOO_MANY_STREAMS", text.clone()),
            Self::CallTooSlow => (
                Code::DeadlineExceeded,
                "CALL_TOO_SLOW",
                "the call took longer than it may; if it was to change something, look whether it did".into(),
            ),
            Self::NoEventInTime { .. } => (
                Code::DeadlineExceeded,
                "NO_EVENT_IN_TIME",
                "no event matched in time; await again after `cursor`".into(),
            ),
            Self::CredentialsMissing(text) => (Code::Unauthenticated, "CREDENTIALS_MISSING", text.clone()),
            Self::CredentialsUnknown(text) => (Code::Unauthenticated, "CREDENTIALS_UNKNOWN", text.clone()),
            Self::CredentialsEnded(text) => (Code::Unauthenticated, "CREDENTIALS_ENDED", text.clone()),
            Self::ScopeMissing(scope) => {
                (Code::PermissionDenied, "SCOPE_MISSING", format!("this needs the scope {scope}"))
            }
            Self::NotVisible { field, allowed } if allowed.is_empty() => {
                (Code::PermissionDenied, "NOT_VISIBLE", format!("{field}: your token may not see this"))
            }
            Self::NotVisible { field, allowed } => {
                let allowed = allowed.join(", ");
                let text = format!("{field} asks for more than your token may see; ask for {allowed}");
                (Code::PermissionDenied, "NOT_VISIBLE", text)
            }
            Self::TooManyCalls(text) => (Code::ResourceExhausted, "TOO_MANY_CALLS", text.clone()),
            Self::TokenNotFound(text) => (Code::NotFound, "TOKEN_NOT_FOUND", text.clone()),
            Self::TokenExists(text) => (Code::AlreadyExists, "TOKEN_EXISTS", text.clone()),
            Self::TooManyTokens(text) => (Code::ResourceExhausted, "TOO_MANY_TOKENS", text.clone()),
            Self::ChangedElsewhere(text) => (Code::Aborted, "CHANGED_ELSEWHERE", text.clone()),
            Self::Draining => {
                (Code::Unavailable, "DRAINING", "the service is shutting down; reconnect with your cursor".into())
            }
            Self::LogUnavailable => {
                (Code::Unavailable, "LOG_UNAVAILABLE", "the log cannot be read or written at the moment".into())
            }
            Self::NotPossible { reason, text } => (Code::FailedPrecondition, reason, text.clone()),
            Self::HeygenRefused { text, .. } => (Code::FailedPrecondition, "HEYGEN_REFUSED", text.clone()),
            Self::HeygenRateLimited(text) => (Code::ResourceExhausted, "HEYGEN_RATE_LIMITED", text.clone()),
            Self::HeygenUnavailable(text) => (Code::Unavailable, "HEYGEN_UNAVAILABLE", text.clone()),
            Self::NotReconciled(text) => (Code::Unavailable, "NOT_RECONCILED", text.clone()),
            Self::SubscriptionsMoving | Self::ReplicaNotReached => (
                Code::Unavailable,
                "SUBSCRIPTIONS_MOVING",
                "the subscriptions are moving to another replica; try again".into(),
            ),
            Self::OfReplica(status) => (status.code(), "OF_REPLICA", status.message().to_owned()),
            Self::RecordDamaged(sequence) => {
                (Code::DataLoss, "RECORD_DAMAGED", format!("the record of sequence {sequence} is damaged"))
            }
        }
    }

    /// The machine-readable reason.
    pub fn reason(&self) -> String {
        match self {
            Self::OfReplica(status) => status
                .get_details_error_info()
                .map(|info| info.reason)
                .unwrap_or_default(),
            _ => self.row().1.to_owned(),
        }
    }

    fn metadata(&self) -> HashMap<String, String> {
        let entry = |name: &str, value: &dyn ToString| HashMap::from([(name.to_owned(), value.to_string())]);
        match self {
            Self::CursorTrimmed { earliest } => entry("earliest_cursor", earliest),
            Self::NoEventInTime { cursor } => entry("cursor", cursor),
            Self::RecordDamaged(sequence) => entry("sequence", sequence),
            Self::ScopeMissing(scope) => entry("scope", scope),
            Self::NotVisible { field, .. } => entry("field", field),
            Self::HeygenRefused { metadata, .. } => metadata.clone(),
            _ => HashMap::new(),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        if let Refusal::OfReplica(status) = refusal {
            return *status;
        }
        let (code, reason, text) = refusal.row();
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, DOMAIN, refusal.metadata());
        if let Refusal::InvalidField { field, reason } = &refusal {
            details.add_bad_request_violation(field, reason);
        }
        if matches!(code, Code::Unavailable | Code::ResourceExhausted | Code::Aborted) {
            details.set_retry_info(Some(RETRY_DELAY));
        }
        Self::with_error_details(code, text, details)
    }
}

impl From<InvalidFilter> for Refusal {
    fn from(InvalidFilter { field, reason }: InvalidFilter) -> Self {
        Self::field(format!("filter.{field}"), reason)
    }
}

impl From<Unauthenticated> for Refusal {
    fn from(error: Unauthenticated) -> Self {
        let text = error.to_string();
        match error {
            Unauthenticated::Missing => Self::CredentialsMissing(text),
            Unauthenticated::Malformed
            | Unauthenticated::UnknownToken
            | Unauthenticated::NotVouched(_)
            | Unauthenticated::UnknownCertificate(_) => Self::CredentialsUnknown(text),
            Unauthenticated::Expired(_) => Self::CredentialsEnded(text),
        }
    }
}

impl From<OverQuota> for Refusal {
    fn from(error: OverQuota) -> Self {
        match error {
            OverQuota::Calls => Self::TooManyCalls(error.to_string()),
            OverQuota::Streams => Self::TooManyStreams(error.to_string()),
        }
    }
}

impl From<AccessError> for Refusal {
    fn from(error: AccessError) -> Self {
        let text = error.to_string();
        match error {
            AccessError::Exists(_) | AccessError::CertificateTaken(_) => Self::TokenExists(text),
            AccessError::NotFound(_) => Self::TokenNotFound(text),
            AccessError::TooMany => Self::TooManyTokens(text),
            AccessError::Conflict(_) => Self::ChangedElsewhere(text),
            AccessError::Store(error) => {
                tracing::error!(%error, "a token could not be stored");
                Self::LogUnavailable
            }
        }
    }
}

impl From<TooManyStreams> for Refusal {
    fn from(error: TooManyStreams) -> Self {
        Self::TooManyStreams(error.to_string())
    }
}

impl From<SubscriptionError> for Refusal {
    fn from(error: SubscriptionError) -> Self {
        let text = error.to_string();
        match error {
            SubscriptionError::Exists(_) => Self::SubscriptionExists(text),
            SubscriptionError::NotFound(_) => Self::SubscriptionNotFound(text),
            SubscriptionError::TooMany => Self::TooManySubscriptions(text),
            SubscriptionError::Store(error) => {
                tracing::error!(%error, "a subscription could not be stored or read");
                Self::LogUnavailable
            }
            // The storage has logged the cause.
            SubscriptionError::NotStored(NotStored) => Self::LogUnavailable,
            SubscriptionError::Read(error) => {
                tracing::error!(%error, "the log cannot be read");
                Self::LogUnavailable
            }
        }
    }
}

impl From<EndpointError> for Refusal {
    fn from(error: EndpointError) -> Self {
        let text = error.to_string();
        match error {
            EndpointError::Exists(_) => Self::EndpointExists(text),
            EndpointError::NotFound(_) => Self::EndpointNotFound(text),
            EndpointError::TooMany => Self::TooManyEndpoints(text),
            EndpointError::Invalid { field, reason } => Self::InvalidField {
                field,
                reason: reason.to_owned(),
            },
            EndpointError::Conflict(_) => Self::ChangedElsewhere(text),
            EndpointError::Store(error) => {
                tracing::error!(%error, "an endpoint could not be stored");
                Self::LogUnavailable
            }
        }
    }
}

impl From<RegistrarError> for Refusal {
    fn from(error: RegistrarError) -> Self {
        let text = error.to_string();
        let not_possible = |reason| Self::NotPossible {
            reason,
            text: text.clone(),
        };
        match error {
            RegistrarError::Endpoint(error) => error.into(),
            RegistrarError::NoCredentials => not_possible("HEYGEN_CREDENTIALS_MISSING"),
            RegistrarError::NoPublicUrl => not_possible("PUBLIC_URL_MISSING"),
            RegistrarError::NotOurs(_) => not_possible("ENDPOINT_IS_LOCAL"),
            RegistrarError::Busy(_) => not_possible("OPERATION_UNDER_WAY"),
            RegistrarError::Invalid { field, reason } => Self::field(field, reason),
            RegistrarError::UrlTaken { .. } => Self::EndpointExists(text),
            RegistrarError::Heygen { error, .. } => Self::of_heygen(&error, text),
        }
    }
}

impl Refusal {
    /// What a failed call of HeyGen's API means to a caller.
    fn of_heygen(error: &ApiError, text: String) -> Self {
        match error.failure() {
            Failure::RateLimited { .. } => Self::HeygenRateLimited(text),
            _ if error.is_transient() => Self::HeygenUnavailable(text),
            Failure::Refused(refusal) => {
                let entries = [
                    ("heygen_status", refusal.status.to_string()),
                    ("heygen_code", refusal.code.clone()),
                    ("heygen_message", refusal.message.clone()),
                    ("heygen_param", refusal.param.clone()),
                    (
                        "heygen_request_id",
                        error.request_id().unwrap_or_default().to_owned(),
                    ),
                ];
                let said = entries.into_iter().filter(|(_, value)| !value.is_empty());
                Self::HeygenRefused {
                    text,
                    metadata: said.map(|(name, value)| (name.to_owned(), value)).collect(),
                }
            }
            _ => Self::HeygenUnavailable(text),
        }
    }

    /// What a walk through HeyGen's history that ended early means to a caller.
    pub fn of_reconciliation(error: &ReconcileError) -> Self {
        match error {
            ReconcileError::Heygen(cause) => Self::of_heygen(cause, format!("{error}: {cause}")),
            ReconcileError::Append(_) | ReconcileError::Read(_) | ReconcileError::Refused => {
                Self::NotReconciled(error.to_string())
            }
        }
    }
}

/// A number of entries on a page, or the refusal of a number that is none.
pub fn page_size(asked: i32, default: usize) -> Result<usize, Refusal> {
    match usize::try_from(asked) {
        Ok(0) => Ok(default),
        Ok(size) if size <= limits::PAGE_MAX => Ok(size),
        _ => Err(Refusal::field(
            "page_size",
            "must be 1 to 1000, or 0 for the default",
        )),
    }
}

/// The name that a listing by name goes on after, or the refusal of a token that is none.
pub fn name_page_token<N: FromStr>(token: &str) -> Result<Option<N>, Refusal> {
    if token.is_empty() {
        return Ok(None);
    }
    let damaged = |_| Refusal::field("page_token", "is damaged or was not issued by this service");
    token.parse().map(Some).map_err(damaged)
}
