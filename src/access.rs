//! Who may do what. Owns credentials, identities, their scopes and their end; refuses to know what is called, and in what
//! tokens are stored.
//!
//! | credential | kept as | stands for |
//! |---|---|---|
//! | the operator's token, from the configuration | a digest in memory | everything |
//! | a token that was made here | its SHA-256 | the scopes and the part of the events it was made with |
//! | a client certificate | one of its names | the same, for a token made for that name |
//! | the word of another replica | nothing | whom that replica knows the caller to be |
//!
//! Without an operator's token whoever presents nothing may do everything: that is how a service that listens on loopback
//! alone starts. What is presented must be right in either case.

mod identity;
mod scope;
pub mod shared;
pub mod sqlite;
mod token;
mod voucher;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use jiff::Timestamp;
use parking_lot::RwLock;

pub use self::{
    identity::{Caller, Identity, OverQuota},
    scope::{Scope, Scopes, UnknownScope},
    token::{Credential, InvalidTokenName, Token, TokenDigest, TokenName},
    voucher::{HEADER as VOUCHER_HEADER, NotVouched, Vouchers},
};
use crate::{
    clock::Clock,
    filter::Filter,
    limits,
    peer::{ClientCertificate, Peer},
    secret::Secret,
    state_db::{Conflict, StoreError},
    tasks,
};

/// What the identity of the operator's token is called.
pub const OPERATOR: &str = "operator";
/// What an identity is called that presented no credentials.
pub const ANONYMOUS: &str = "anonymous";
/// What this service is called where it does something by itself.
pub const SERVICE: &str = "hookstream";

/// What a caller presents.
#[derive(Clone, Copy, Debug, Default)]
pub struct Presented<'a> {
    /// A token.
    pub token: Option<&'a str>,
    /// A certificate that the connection proved.
    pub certificate: Option<&'a ClientCertificate>,
    /// What another replica says of a caller of its own.
    pub voucher: Option<&'a [u8]>,
    /// Where it comes from.
    pub address: Option<SocketAddr>,
}

impl<'a> Presented<'a> {
    /// What a request presents: a token in its `authorization` header, and what its connection proved.
    pub fn of_request(headers: &'a HeaderMap, peer: Option<&'a Peer>) -> Result<Self, Unauthenticated> {
        Ok(Self {
            token: bearer(headers)?,
            certificate: peer.and_then(|peer| peer.certificate.as_deref()),
            voucher: headers.get(voucher::HEADER).map(HeaderValue::as_bytes),
            address: peer.map(|peer| peer.address),
        })
    }
}

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Unauthenticated> {
    let Some(value) = headers.get(AUTHORIZATION) else {
        return Ok(None);
    };
    match value.to_str().ok().and_then(|text| text.split_once(' ')) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Err(Unauthenticated::Malformed),
    }
}

/// Why nobody is known by what was presented.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthenticated {
    /// Nothing was presented.
    #[error("credentials are required: send `authorization: Bearer TOKEN`, or present a client certificate")]
    Missing,
    /// The header is of another form.
    #[error("the authorization header must be `Bearer TOKEN`")]
    Malformed,
    /// No token is this one; it may have been revoked.
    #[error("the token is not known; it may have been revoked")]
    UnknownToken,
    /// No token was made for a name of the certificate.
    #[error("no token is made for a name of this client certificate ({0})")]
    UnknownCertificate(String),
    /// It was known once.
    #[error("the token {0} has expired")]
    Expired(String),
    /// What claims to be another replica is not believed.
    #[error("the word of another replica is not believed: {0}")]
    NotVouched(#[from] NotVouched),
}

/// What a token is made of.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// See [`Token::name`].
    pub name: TokenName,
    /// The name of the certificate that stands for it; `None` for a random token.
    pub certificate_name: Option<String>,
    /// See [`Token::scopes`].
    pub scopes: Scopes,
    /// See [`Token::sees`].
    pub sees: Filter,
    /// How long it is accepted; `None` for ever.
    pub lifetime: Option<Duration>,
}

/// Why an operation on tokens failed. Nothing was changed, except that a failed store leaves it open.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The name is taken.
    #[error("a token named {0} exists")]
    Exists(TokenName),
    /// Another token stands for the certificate's name.
    #[error("the token {0} is made for this certificate name")]
    CertificateTaken(TokenName),
    /// There is none of this name.
    #[error("no token is named {0}")]
    NotFound(TokenName),
    /// There are as many as there may be.
    #[error("{} tokens exist; no more are allowed", limits::TOKENS_MAX)]
    TooMany,
    /// Another replica changed it at the same moment. A retry builds on that change.
    #[error("the token {0} was changed at another replica at the same moment: look at it and try again")]
    Conflict(TokenName),
    /// The change could not be stored. A retry may succeed.
    #[error("the token could not be stored")]
    Store(#[source] StoreError),
}

/// Who is told of a token that is there, or that is gone.
pub type TokenListener = Box<dyn Fn(TokenName, Option<Token>) + Send + Sync>;

/// Where tokens are kept. A change is durable, and told, when the call returns. Calls block.
pub trait TokenStore: Send + Sync + 'static {
    /// Tells `listener` of every token there is before it returns, and from then on of every change, in order, whoever
    /// makes it.
    fn follow(&self, listener: TokenListener) -> Result<(), StoreError>;
    /// Makes one. [`Conflict`] if there is one of this name.
    fn save(&self, token: &Token) -> Result<(), StoreError>;
    /// Removes one. [`Conflict`] if it is no longer of this revision.
    fn delete(&self, token: &Token) -> Result<(), StoreError>;
}

/// All credentials, in memory and in their store.
pub struct Access {
    store: Arc<dyn TokenStore>,
    clock: Clock,
    /// The operator, and the digest of its token.
    operator: Option<(TokenDigest, Arc<Identity>)>,
    anonymous: Arc<Identity>,
    /// How other replicas are believed, where there may be some.
    vouchers: Option<Vouchers>,
    known: Arc<RwLock<Known>>,
    /// Held over a change and its storing.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    tokens: BTreeMap<TokenName, Arc<Token>>,
    identities: HashMap<Credential, Arc<Identity>>,
}

impl Known {
    /// Takes in what a store tells.
    fn take_in(&mut self, name: TokenName, token: Option<Token>) {
        let before = self.tokens.remove(&name);
        match (before, token) {
            (Some(before), Some(token)) if before.credential == token.credential => {
                // The same as before: no token is ever changed.
                self.tokens.insert(name, before);
            }
            (before, token) => {
                if let Some(identity) = before.and_then(|before| self.identities.remove(&before.credential)) {
                    identity.revoke();
                }
                if let Some(token) = token {
                    self.insert(token);
                }
            }
        }
    }

    fn insert(&mut self, token: Token) {
        let Token {
            name, scopes, sees, ..
        } = &token;
        let identity = Identity::new(name.to_string(), scopes.clone(), sees.clone(), token.expires_at);
        self.identities
            .insert(token.credential.clone(), Arc::new(identity));
        self.tokens.insert(name.clone(), Arc::new(token));
    }
}

impl Access {
    /// The tokens of a store. With an operator's token, credentials are required. Blocks.
    pub fn load(
        store: Arc<dyn TokenStore>,
        operator_token: Option<&Secret>,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let known = Arc::new(RwLock::new(Known::default()));
        let told = Arc::clone(&known);
        store.follow(Box::new(move |name, token| told.write().take_in(name, token)))?;
        let operator = operator_token.map(|token| {
            let identity = Identity::unlimited(OPERATOR);
            (TokenDigest::of(token.expose()), Arc::new(identity))
        });
        Ok(Self {
            store,
            clock,
            operator,
            anonymous: Arc::new(Identity::unlimited(ANONYMOUS)),
            vouchers: None,
            known,
            changing: tokio::sync::Mutex::default(),
        })
    }

    /// Believes other replicas, too.
    pub fn with_vouchers(self, vouchers: Vouchers) -> Self {
        Self {
            vouchers: Some(vouchers),
            ..self
        }
    }

    /// Whom another replica vouches for.
    fn vouched(&self, voucher: &[u8]) -> Result<Caller, Unauthenticated> {
        let vouchers = self.vouchers.as_ref().ok_or(NotVouched::Alone)?;
        let name = vouchers.open(voucher)?;
        let identity = match (name.as_str(), &self.operator) {
            (OPERATOR, Some((_, operator))) => Arc::clone(operator),
            (OPERATOR | ANONYMOUS, _) => Arc::clone(&self.anonymous),
            (name, _) => {
                let known = self.known.read();
                let token = name
                    .parse()
                    .ok()
                    .and_then(|name: TokenName| known.tokens.get(&name));
                let identity = token.and_then(|token| known.identities.get(&token.credential));
                Arc::clone(identity.ok_or(Unauthenticated::UnknownToken)?)
            }
        };
        let valid_until = identity.expires_at;
        Ok(Caller::vouched(identity, valid_until, self.clock.clone()))
    }

    /// Who presents this. A token outranks a certificate, because it was chosen for the call.
    pub fn authenticate(&self, presented: Presented<'_>) -> Result<Caller, Unauthenticated> {
        if let Some(voucher) = presented.voucher {
            return self.vouched(voucher);
        }
        let nobody_is_asked = self.operator.is_none();
        let anonymous = || (Arc::clone(&self.anonymous), None);
        let (identity, valid_until) = match (presented.token, presented.certificate) {
            (Some(token), _) => (self.by_token(token)?, None),
            (None, Some(certificate)) => match self.by_certificate(certificate) {
                Ok(identity) => (identity, Some(certificate.not_after)),
                // It gains nothing that it would not have without the certificate.
                Err(_) if nobody_is_asked => anonymous(),
                Err(error) => return Err(error),
            },
            (None, None) if nobody_is_asked => anonymous(),
            (None, None) => return Err(Unauthenticated::Missing),
        };
        let valid_until = [identity.expires_at, valid_until].into_iter().flatten().min();
        if valid_until.is_some_and(|end| end <= self.clock.now()) {
            return Err(Unauthenticated::Expired(identity.name.clone()));
        }
        Ok(Caller::new(
            identity,
            presented.address,
            valid_until,
            self.clock.clone(),
        ))
    }

    fn by_token(&self, token: &str) -> Result<Arc<Identity>, Unauthenticated> {
        let digest = TokenDigest::of(token);
        if let Some((_, identity)) = self.operator.as_ref().filter(|(operator, _)| *operator == digest) {
            return Ok(Arc::clone(identity));
        }
        let known = self.known.read();
        let found = known.identities.get(&Credential::Token(digest)).cloned();
        found.ok_or(Unauthenticated::UnknownToken)
    }

    fn by_certificate(&self, certificate: &ClientCertificate) -> Result<Arc<Identity>, Unauthenticated> {
        let known = self.known.read();
        let mut names = certificate.names.iter().cloned().map(Credential::Certificate);
        let found = names.find_map(|name| known.identities.get(&name).cloned());
        found.ok_or_else(|| Unauthenticated::UnknownCertificate(certificate.names.join(", ")))
    }

    /// The tokens after a name, in the order of names.
    pub fn list(&self, after: Option<&TokenName>, most: usize) -> Vec<Arc<Token>> {
        let known = self.known.read();
        let after = |name: &TokenName| after.is_none_or(|after| name > after);
        let tokens = known.tokens.values().filter(|token| after(&token.name));
        tokens.take(most).cloned().collect()
    }

    /// Makes a token; the text that stands for it is told here and never again. None is made for a certificate.
    pub async fn create(&self, new: NewToken) -> Result<(Arc<Token>, Option<Secret>), AccessError> {
        let _changing = self.changing.lock().await;
        let now = self.clock.now();
        let (credential, secret) = match new.certificate_name {
            Some(name) => (Credential::Certificate(name), None),
            None => {
                let secret = token::generate();
                (Credential::Token(TokenDigest::of(secret.expose())), Some(secret))
            }
        };
        self.check_free(&new.name, &credential)?;
        let token = Token {
            name: new.name,
            credential,
            scopes: new.scopes,
            sees: new.sees,
            created_at: now,
            expires_at: new
                .lifetime
                .map(|lifetime| now.checked_add(lifetime).unwrap_or(Timestamp::MAX)),
            revision: 0,
        };
        let (store, stored) = (Arc::clone(&self.store), token.clone());
        flat(tasks::blocking(move || store.save(&stored)).await, &token.name)?;
        Ok((Arc::new(token), secret))
    }

    fn check_free(&self, name: &TokenName, credential: &Credential) -> Result<(), AccessError> {
        let known = self.known.read();
        if known.tokens.contains_key(name) {
            return Err(AccessError::Exists(name.clone()));
        }
        if let Some(other) = known
            .tokens
            .values()
            .find(|token| token.credential == *credential)
        {
            return Err(AccessError::CertificateTaken(other.name.clone()));
        }
        if known.tokens.len() >= limits::TOKENS_MAX {
            return Err(AccessError::TooMany);
        }
        Ok(())
    }

    /// Removes a token. Nothing is permitted to it any more, and the streams under it end.
    pub async fn revoke(&self, name: &TokenName) -> Result<(), AccessError> {
        let _changing = self.changing.lock().await;
        let found = self.known.read().tokens.get(name).cloned();
        let token = found.ok_or_else(|| AccessError::NotFound(name.clone()))?;
        let store = Arc::clone(&self.store);
        flat(tasks::blocking(move || store.delete(&token)).await, name)
    }
}

fn flat(changed: std::io::Result<Result<(), StoreError>>, name: &TokenName) -> Result<(), AccessError> {
    let changed = changed.map_err(StoreError::from).and_then(|changed| changed);
    changed.map_err(|error| match error.downcast_ref() {
        Some(Conflict) => AccessError::Conflict(name.clone()),
        None => AccessError::Store(error),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    struct Fixture {
        directory: tempfile::TempDir,
        now_s: Arc<AtomicI64>,
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                directory: tempfile::tempdir().unwrap(),
                now_s: Arc::new(AtomicI64::new(1_000)),
            }
        }

        fn access(&self, operator_token: Option<&str>) -> Access {
            let now_s = Arc::clone(&self.now_s);
            let clock = Clock::new(move || Timestamp::from_second(now_s.load(Ordering::SeqCst)).unwrap());
            let store = sqlite::SqliteTokenStore::open(&self.directory.path().join("tokens.db")).unwrap();
            let operator_token = operator_token.map(|token| Secret::new(token.to_owned()).unwrap());
            Access::load(Arc::new(store), operator_token.as_ref(), clock).unwrap()
        }
    }

    fn new(name: &str) -> NewToken {
        NewToken {
            name: name.parse().unwrap(),
            certificate_name: None,
            scopes: Scopes::from_iter([Scope::EventsRead]),
            sees: Filter::default(),
            lifetime: None,
        }
    }

    fn token(text: &str) -> Presented<'_> {
        Presented {
            token: Some(text),
            ..Presented::default()
        }
    }

    #[tokio::test]
    async fn without_an_operators_token_nothing_is_asked_for_but_what_is_presented_must_be_right() {
        let fixture = Fixture::new();
        let access = fixture.access(None);
        let caller = access.authenticate(Presented::default()).unwrap();
        assert_eq!(caller.identity().name, ANONYMOUS);
        assert!(caller.may(Scope::Admin));
        let wrong = access.authenticate(token("wrong")).unwrap_err();
        assert_eq!(wrong, Unauthenticated::UnknownToken);
    }

    #[tokio::test]
    async fn with_an_operators_token_everybody_must_present_something() {
        let fixture = Fixture::new();
        let access = fixture.access(Some("the operator's token"));
        let missing = access.authenticate(Presented::default()).unwrap_err();
        assert_eq!(missing, Unauthenticated::Missing);
        let operator = access.authenticate(token("the operator's token")).unwrap();
        assert_eq!(operator.identity().name, OPERATOR);
        assert!(operator.may(Scope::Admin));
    }

    #[tokio::test]
    async fn a_token_survives_a_restart_as_a_digest_with_all_it_was_made_with() {
        let fixture = Fixture::new();
        let made = NewToken {
            sees: Filter::parse(
                &["*.fail".into()],
                vec![],
                vec!["order".into()],
                vec!["dev".into()],
            )
            .unwrap(),
            lifetime: Some(Duration::from_secs(60)),
            ..new("billing")
        };
        let (made, secret) = fixture.access(None).create(made).await.unwrap();
        let secret = secret.unwrap();
        let stored = std::fs::read(fixture.directory.path().join("tokens.db")).unwrap();
        let text = secret.expose().as_bytes();
        assert!(!stored.windows(text.len()).any(|window| window == text));

        let access = fixture.access(None);
        assert_eq!(access.list(None, 10), [made]);
        let caller = access.authenticate(token(secret.expose())).unwrap();
        assert_eq!(caller.identity().name, "billing");
        assert!(caller.may(Scope::EventsRead) && !caller.may(Scope::EndpointsRead));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_ends_at_its_time_and_so_does_what_runs_under_it() {
        let fixture = Fixture::new();
        let access = fixture.access(None);
        let lifetime = Some(Duration::from_secs(60));
        let (_, secret) = access
            .create(NewToken {
                lifetime,
                ..new("brief")
            })
            .await
            .unwrap();
        let secret = secret.unwrap();
        let caller = access.authenticate(token(secret.expose())).unwrap();
        let ended = tasks::owned(caller.ended());
        fixture.now_s.store(1_060, Ordering::SeqCst);
        ended.await.unwrap();
        let late = access.authenticate(token(secret.expose())).unwrap_err();
        assert_eq!(late, Unauthenticated::Expired("brief".into()));
    }

    #[tokio::test]
    async fn a_revoked_token_is_unknown_and_what_runs_under_it_ends() {
        let fixture = Fixture::new();
        let access = fixture.access(None);
        let (made, secret) = access.create(new("billing")).await.unwrap();
        let secret = secret.unwrap();
        let caller = access.authenticate(token(secret.expose())).unwrap();
        access.revoke(&made.name).await.unwrap();
        assert!(caller.is_revoked());
        caller.ended().await;
        for access in [access, fixture.access(None)] {
            assert!(access.authenticate(token(secret.expose())).is_err());
            let again = access.revoke(&made.name).await;
            assert!(matches!(again, Err(AccessError::NotFound(_))));
        }
    }

    #[tokio::test]
    async fn a_certificate_is_known_by_any_of_its_names_until_it_ends() {
        let fixture = Fixture::new();
        let access = fixture.access(None);
        let certificate_name = Some("dns:billing.internal".to_owned());
        let for_certificate = |name: &str| NewToken {
            certificate_name: certificate_name.clone(),
            ..new(name)
        };
        assert!(
            access
                .create(for_certificate("billing"))
                .await
                .unwrap()
                .1
                .is_none()
        );
        let again = access.create(for_certificate("other")).await;
        assert!(matches!(again, Err(AccessError::CertificateTaken(_))));
        let certificate = |names: &[&str], not_after_s| ClientCertificate {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            not_after: Timestamp::from_second(not_after_s).unwrap(),
        };
        let authenticate = |certificate: &ClientCertificate| {
            let certificate = Some(certificate);
            access.authenticate(Presented {
                certificate,
                ..Presented::default()
            })
        };
        let known = certificate(&["dns:x", "dns:billing.internal"], 2_000);
        assert_eq!(authenticate(&known).unwrap().identity().name, "billing");
        let ended = certificate(&["dns:billing.internal"], 1_000);
        assert_eq!(
            authenticate(&ended).unwrap_err(),
            Unauthenticated::Expired("billing".into())
        );
        let other = certificate(&["uri:spiffe://x"], 2_000);
        assert_eq!(authenticate(&other).unwrap().identity().name, ANONYMOUS);
        let asking = fixture.access(Some("the-operators-token"));
        let unknown = asking.authenticate(Presented {
            certificate: Some(&other),
            ..Presented::default()
        });
        let expected = Unauthenticated::UnknownCertificate("uri:spiffe://x".into());
        assert_eq!(unknown.unwrap_err(), expected);
    }

    #[tokio::test]
    async fn a_name_is_used_once_and_some_names_never() {
        let access = Fixture::new().access(None);
        access.create(new("billing")).await.unwrap();
        let again = access.create(new("billing")).await;
        assert!(matches!(again, Err(AccessError::Exists(_))));
        for name in ["operator", "anonymous", "hookstream", "", "A", "-a"] {
            assert_eq!(name.parse::<TokenName>(), Err(InvalidTokenName), "{name}");
        }
    }

    #[tokio::test]
    async fn one_token_cannot_take_all_streams_or_call_without_bound() {
        let access = Fixture::new().access(None);
        let (_, secret) = access.create(new("greedy")).await.unwrap();
        let caller = access.authenticate(token(secret.unwrap().expose())).unwrap();
        let identity = caller.identity();
        let streams: Vec<_> = (0..limits::STREAMS_PER_TOKEN_MAX)
            .map(|_| identity.take_stream().unwrap())
            .collect();
        assert_eq!(identity.take_stream().unwrap_err(), OverQuota::Streams);
        drop(streams);
        assert!(identity.take_stream().is_ok());
        let calls = (0..=2 * limits::CALLS_PER_TOKEN_BURST_MAX).map(|_| identity.take_call());
        assert!(calls.into_iter().any(|call| call == Err(OverQuota::Calls)));
        let anonymous = access.authenticate(Presented::default()).unwrap();
        assert!(
            (0..=2 * limits::CALLS_PER_TOKEN_BURST_MAX).all(|_| anonymous.identity().take_call().is_ok())
        );
    }
}
