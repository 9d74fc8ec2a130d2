//! What goes wrong in a call of HeyGen's API. Owns the kinds of failure, whether a repetition helps, whether the effect
//! may have happened, and the words a person reads; refuses to know what was called.

use std::{borrow::Cow, error::Error, fmt, time::Duration};

use crate::{decode::Fields, limits};

const ELLIPSIS: char = '…';
const SECRET_PREFIX: &str = "whsec_";

/// A call of HeyGen's API that failed, all its attempts together.
#[derive(Debug)]
pub struct ApiError {
    failure: Failure,
    attempts: u32,
    may_have_happened: bool,
}

/// How an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// HeyGen answered that it will not, or cannot.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// HeyGen wants fewer requests.
    #[error("HeyGen takes no more requests for now: try again {}{}", when(*.retry_after), shown_id(.request_id))]
    RateLimited {
        /// How long HeyGen wants to be left alone, if it says so.
        retry_after: Option<Duration>,
        /// HeyGen's id of the request.
        request_id: Option<String>,
    },
    /// No connection, or one that broke.
    #[error("HeyGen's API at {base_url} cannot be reached")]
    Unreachable {
        /// Where it should be.
        base_url: String,
        /// What the network says.
        source: reqwest::Error,
    },
    /// No answer in time.
    #[error("HeyGen's API at {base_url} does not answer: given up after {:.1} s", waited.as_secs_f64())]
    TimedOut {
        /// Where it is.
        base_url: String,
        /// How long the call has waited, all attempts together.
        waited: Duration,
    },
    /// A success that does not say what it has to.
    #[error("HeyGen's answer ({status}) cannot be used: {what}{}", shown_id(.request_id))]
    Unreadable {
        /// The HTTP status.
        status: u16,
        /// HeyGen's id of the request.
        request_id: Option<String>,
        /// What is missing.
        what: &'static str,
    },
    /// A list that repeats itself, or is longer than any may be.
    #[error(
        "HeyGen's list has no end: its pages repeat, or are more than {}",
        limits::HEYGEN_PAGES_MAX
    )]
    EndlessList,
    /// The id can be none of HeyGen's.
    #[error("this cannot be HeyGen's id of a registration")]
    InvalidId,
}

/// What HeyGen said when it refused: cleaned of credentials, secrets and control characters, and short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// HeyGen's code, such as `invalid_parameter`; empty if it gave none.
    pub code: String,
    /// HeyGen's message; empty if it gave none.
    pub message: String,
    /// The parameter that HeyGen objects to; empty if it named none.
    pub param: String,
    /// HeyGen's id of the request.
    pub request_id: Option<String>,
    /// How long HeyGen wants to be left alone, if it says so.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    pub(super) fn new(failure: Failure, attempts: u32, may_have_happened: bool) -> Self {
        Self {
            failure,
            attempts,
            may_have_happened,
        }
    }

    /// How the last attempt failed.
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    /// Whether the same call may succeed later, with the same idempotency key.
    pub fn is_transient(&self) -> bool {
        self.failure.is_transient()
    }

    /// Whether what was asked for may have happened all the same, in any of the attempts.
    pub fn may_have_happened(&self) -> bool {
        self.may_have_happened
    }

    /// Whether HeyGen does not know what was asked for.
    pub fn is_not_found(&self) -> bool {
        matches!(&self.failure, Failure::Refused(refusal) if refusal.status == 404)
    }

    /// HeyGen's id of the last attempt, for its support.
    pub fn request_id(&self) -> Option<&str> {
        match &self.failure {
            Failure::Refused(refusal) => refusal.request_id.as_deref(),
            Failure::RateLimited { request_id, .. } | Failure::Unreadable { request_id, .. } => {
                request_id.as_deref()
            }
            _ => None,
        }
    }
}

impl From<Failure> for ApiError {
    /// A failure before or after any request.
    fn from(failure: Failure) -> Self {
        Self::new(failure, 1, false)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.failure)?;
        if self.attempts > 1 {
            write!(f, " (tried {} times)", self.attempts)?;
        }
        Ok(())
    }
}

impl Error for ApiError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.failure.source()
    }
}

impl Failure {
    /// Whether the same request may succeed later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.status >= 500 || refusal.is_in_progress(),
            Self::RateLimited { .. } | Self::TimedOut { .. } => true,
            Self::Unreachable { source, .. } => !source.is_builder(),
            Self::Unreadable { .. } | Self::EndlessList | Self::InvalidId => false,
        }
    }

    /// Whether a request that failed like this may have had its effect.
    pub(super) fn may_have_happened(&self) -> bool {
        match self {
            Self::Refused(refusal) => {
                refusal.status >= 500 || refusal.status < 300 || refusal.is_in_progress()
            }
            Self::TimedOut { .. } | Self::Unreadable { .. } => true,
            Self::Unreachable { source, .. } => !source.is_connect() && !source.is_builder(),
            Self::RateLimited { .. } | Self::EndlessList | Self::InvalidId => false,
        }
    }

    /// How long HeyGen wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            Self::RateLimited { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl Refusal {
    /// What a body of any shape says: JSON as documented, other JSON, HTML, text, nothing.
    pub(super) fn of(status: u16, body: &[u8], credential: &str) -> Self {
        let (code, message, param) = read(body);
        let clean = |text: &str| clean(text, credential);
        Self {
            status,
            code: clean(&code),
            message: clean(&message),
            param: clean(&param),
            ..Self::default()
        }
    }

    fn is_in_progress(&self) -> bool {
        self.status == 409 && self.code == "request_in_progress"
    }

    fn what_to_do(&self) -> &'static str {
        match self.status {
            300..=399 => "HeyGen's API is elsewhere and redirects are not followed: check its address",
            401 => {
                "HeyGen does not take the API key: check --heygen-api-key-file or HOOKSTREAM_HEYGEN_API_KEY"
            }
            402 => "HeyGen wants to be paid first: check the plan and the credits of the account",
            403 => {
                "HeyGen does not let this API key do that: check the plan of the account, and \
                 --heygen-api-key-file or HOOKSTREAM_HEYGEN_API_KEY"
            }
            404 => "HeyGen does not know what it is asked for",
            _ if self.is_in_progress() => "HeyGen is still busy with the same request",
            500.. => "HeyGen's API is out of order",
            _ => "HeyGen refuses the request",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.what_to_do(), self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        if !self.param.is_empty() {
            write!(f, ", parameter `{}`", self.param)?;
        }
        f.write_str(")")?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        f.write_str(&shown_id(&self.request_id))
    }
}

fn when(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(
        || "later".to_owned(),
        |after| format!("in {} s", after.as_secs_f64().ceil()),
    )
}

fn shown_id(request_id: &Option<String>) -> String {
    let shown = request_id.as_ref().map(|id| format!(" [request id {id}]"));
    shown.unwrap_or_default()
}

/// Code, message and parameter of a refusal's body.
fn read(body: &[u8]) -> (String, String, String) {
    let nothing = String::new;
    let Ok(outer) = serde_json::from_slice::<Fields<'_>>(body) else {
        return (nothing(), plain(body), nothing());
    };
    let fields = outer.get("error").and_then(Fields::of).unwrap_or(outer);
    let messages = ["message", "detail", "msg", "error", "title"];
    let mut messages = messages.iter().filter_map(|name| fields.text(name));
    let message = messages.next().map(Cow::into_owned).unwrap_or_default();
    (fields.identifier("code"), message, fields.identifier("param"))
}

/// A body that is no JSON object, if it is meant to be read.
fn plain(body: &[u8]) -> String {
    let text = serde_json::from_slice(body).unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned());
    let markup = text.trim_start().starts_with(['<', '{', '[']);
    if markup { String::new() } else { text }
}

/// A text that may be shown: in one line, without what nobody may see, and short.
pub(super) fn clean(text: &str, credential: &str) -> String {
    let unseen = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let text = text.replace(unseen, " ");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = without_secrets(&text.replace(credential, "…"));
    match text.char_indices().nth(limits::HEYGEN_MESSAGE_CHARACTERS_MAX) {
        Some((end, _)) => text.get(..end).unwrap_or_default().to_owned() + "…",
        None => text,
    }
}

fn without_secrets(text: &str) -> String {
    let of_a_secret = |c: char| c.is_ascii_alphanumeric() || "_-=+/".contains(c);
    let mut parts = text.split(SECRET_PREFIX);
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        clean.push_str(SECRET_PREFIX);
        clean.push(ELLIPSIS);
        clean.push_str(part.trim_start_matches(of_a_secret));
    }
    clean
}
