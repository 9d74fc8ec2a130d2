//! HeyGen's v3 webhook management API, typed. Owns HTTP towards HeyGen: addresses, credentials, repetition, and the
//! tolerant reading of what comes back. Refuses to know endpoints of ours, storage and gRPC.
//!
//! Every call that changes something carries an `Idempotency-Key`, the same in every attempt: HeyGen gives the first
//! answer again for 24 h, so a caller that stores the key before it calls may call again after a crash.

mod answer;
mod error;
mod exchange;
mod history;
mod idempotency_key;
mod registration;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue, Method, header};
use reqwest::{Url, redirect, retry};

use self::{
    answer::Answer,
    exchange::{Api, Call, Span},
};
pub use self::{
    error::{ApiError, Failure, Refusal},
    history::{HistoryEvent, HistoryPage},
    idempotency_key::{IdempotencyKey, InvalidIdempotencyKey},
    registration::{
        EventTypeDescription, NewRegistration, Registration, RegistrationChange, RegistrationStatus,
    },
};
use crate::{http_client, limits, secret::Secret};

/// Where HeyGen's API is.
pub const BASE_URL: &str = "https://api.heygen.com";

const ENDPOINTS: [&str; 3] = ["v3", "webhooks", "endpoints"];

/// A client of HeyGen's API. Clones share its connections.
#[derive(Clone)]
pub struct Heygen {
    api: Arc<Api>,
}

/// What HeyGen knows the caller by.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// An API key, sent as `X-Api-Key`.
    ApiKey(Secret),
    /// A token, sent as `Authorization: Bearer`.
    Bearer(Secret),
}

/// How long HeyGen is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the answer to one request.
    pub attempt: Duration,
    /// For a whole call, repetitions and pages included.
    pub call: Duration,
    /// Before the first repetition; it doubles each time.
    pub delay_min: Duration,
    /// Before any repetition.
    pub delay_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: limits::HEYGEN_CONNECT_TIMEOUT,
            attempt: limits::HEYGEN_ATTEMPT_TIMEOUT,
            call: limits::HEYGEN_CALL_TIMEOUT,
            delay_min: limits::HEYGEN_RETRY_DELAY_MIN,
            delay_max: limits::HEYGEN_RETRY_DELAY_MAX,
        }
    }
}

/// Settings no client can be made of.
#[derive(Debug, thiserror::Error)]
pub enum InvalidApi {
    /// The address is none.
    #[error(
        "the address of HeyGen's API must be an https URL without user, query and fragment, such as {BASE_URL}; \
         http is taken on this machine only, because credentials are sent"
    )]
    Url,
    /// The credentials cannot stand in a header.
    #[error(
        "the credentials for HeyGen's API must be visible ASCII characters without a space or line break in them"
    )]
    Credentials,
    /// TLS cannot be set up.
    #[error("no HTTP client can be made")]
    Client(#[source] reqwest::Error),
}

impl Heygen {
    /// A client of the API at `base_url`.
    pub fn new(base_url: &str, credentials: Credentials) -> Result<Self, InvalidApi> {
        Self::with_patience(base_url, credentials, Patience::default())
    }

    /// A client that waits as long as told.
    pub fn with_patience(
        base_url: &str,
        credentials: Credentials,
        patience: Patience,
    ) -> Result<Self, InvalidApi> {
        let base = parse_base(base_url)?;
        let credential = header_of(&credentials)?;
        let (Credentials::ApiKey(secret) | Credentials::Bearer(secret)) = credentials;
        // A redirect would take the credentials elsewhere, and repetition is decided in one place.
        let http = http_client::builder()
            .connect_timeout(patience.connect)
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .build()
            .map_err(InvalidApi::Client)?;
        Ok(Self {
            api: Arc::new(Api {
                http,
                base_url: base.as_str().trim_end_matches('/').to_owned(),
                base,
                credential,
                secret,
                patience,
            }),
        })
    }

    /// Where the API is, without a slash at its end.
    pub fn base_url(&self) -> &str {
        &self.api.base_url
    }

    /// The event types HeyGen has today.
    pub async fn event_types(&self) -> Result<Vec<EventTypeDescription>, ApiError> {
        let call = Call::get(self.api.url(&["v3", "webhooks", "event-types"]));
        let read = |answer: &Answer| Ok(EventTypeDescription::all_of(&answer.page()?));
        self.api.exchange(&call, self.span(), read).await
    }

    /// Every registration of the account, all pages of them.
    pub async fn registrations(&self) -> Result<Vec<Registration>, ApiError> {
        let span = self.span();
        let (mut registrations, mut seen, mut token) = (Vec::new(), HashSet::new(), None);
        for _ in 0..limits::HEYGEN_PAGES_MAX {
            let call = Call::get(page_of(self.api.url(&ENDPOINTS), token.as_deref()));
            let read = |answer: &Answer| {
                let page = answer.page()?;
                Ok((Registration::all_of(&page), page.next_token))
            };
            let (found, next_token) = self.api.exchange(&call, span, read).await?;
            registrations.extend(found);
            let Some(next_token) = next_token else {
                return Ok(registrations);
            };
            if !seen.insert(next_token.clone()) {
                break;
            }
            token = Some(next_token);
        }
        Err(Failure::EndlessList.into())
    }

    /// Registers a URL. The secret is in this answer and in no other.
    pub async fn register(
        &self,
        key: &IdempotencyKey,
        new: &NewRegistration,
    ) -> Result<(Registration, Secret), ApiError> {
        let call = Call::change(Method::POST, self.api.url(&ENDPOINTS), key).with_body(new);
        let read = |answer: &Answer| Ok((answer.registration()?, answer.secret()?));
        self.api.exchange(&call, self.span(), read).await
    }

    /// Changes a registration. See [`RegistrationChange`] for when to look whether it came about.
    pub async fn change(
        &self,
        key: &IdempotencyKey,
        id: &str,
        change: &RegistrationChange,
    ) -> Result<Registration, ApiError> {
        let call = Call::change(Method::PATCH, self.registration_url(id, &[])?, key).with_body(change);
        self.api.exchange(&call, self.span(), Answer::registration).await
    }

    /// Removes a registration.
    pub async fn remove(&self, key: &IdempotencyKey, id: &str) -> Result<(), ApiError> {
        let call = Call::change(Method::DELETE, self.registration_url(id, &[])?, key);
        self.api.exchange(&call, self.span(), Answer::done).await
    }

    /// Makes HeyGen sign with a new secret, from now on and for what it delivers again too.
    pub async fn rotate_secret(&self, key: &IdempotencyKey, id: &str) -> Result<Secret, ApiError> {
        let url = self.registration_url(id, &["rotate-secret"])?;
        let call = Call::change(Method::POST, url, key);
        self.api.exchange(&call, self.span(), Answer::secret).await
    }

    /// A page of what HeyGen says it had to tell; the first one without a token.
    pub async fn history_page(&self, token: Option<&str>) -> Result<HistoryPage, ApiError> {
        let url = self.api.url(&["v3", "webhooks", "events"]);
        let call = Call::get(page_of(url, token));
        let read = |answer: &Answer| Ok(HistoryPage::of(answer.page()?));
        let page = self.api.exchange(&call, self.span(), read).await?;
        if token.is_some() && page.next_token.as_deref() == token {
            return Err(Failure::EndlessList.into());
        }
        Ok(page)
    }

    fn span(&self) -> Span {
        Span::starting(Instant::now(), self.api.patience.call)
    }

    fn registration_url(&self, id: &str, below: &[&str]) -> Result<Url, ApiError> {
        // An id of dots would name the list, and what is done to it.
        let dots = id.bytes().all(|byte| byte == b'.');
        if dots || id.len() > limits::IDENTIFIER_BYTES_MAX {
            return Err(Failure::InvalidId.into());
        }
        Ok(self.api.url(&[ENDPOINTS.as_slice(), &[id], below].concat()))
    }
}

impl fmt::Debug for Heygen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heygen")
            .field("base_url", &self.api.base_url)
            .finish_non_exhaustive()
    }
}

fn parse_base(base_url: &str) -> Result<Url, InvalidApi> {
    let url: Url = base_url.parse().map_err(|_| InvalidApi::Url)?;
    let bare = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    let safe = url.scheme() == "https" || (url.scheme() == "http" && is_this_machine(&url));
    (bare && safe).then_some(url).ok_or(InvalidApi::Url)
}

fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse();
    host == "localhost" || address.is_ok_and(|address: IpAddr| address.is_loopback())
}

fn header_of(credentials: &Credentials) -> Result<(HeaderName, HeaderValue), InvalidApi> {
    let (name, secret, value) = match credentials {
        Credentials::ApiKey(key) => (HeaderName::from_static("x-api-key"), key, key.expose().to_owned()),
        Credentials::Bearer(token) => (header::AUTHORIZATION, token, format!("Bearer {}", token.expose())),
    };
    if !secret.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(InvalidApi::Credentials);
    }
    let mut value = HeaderValue::try_from(value).map_err(|_| InvalidApi::Credentials)?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn page_of(mut url: Url, token: Option<&str>) -> Url {
    url.query_pairs_mut()
        .append_pair("limit", &limits::HEYGEN_PAGE_ENTRIES.to_string())
        .extend_pairs(token.map(|token| ("token", token)));
    url
}
