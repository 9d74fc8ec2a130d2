//! Certificates that change while the service runs. Owns when files are read again, and what an operator is told of them;
//! refuses to judge what they hold.

use std::{error::Error, sync::Arc};

use jiff::Timestamp;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use rustls::ServerConfig;
use tokio::{
    sync::{Notify, watch},
    time::MissedTickBehavior,
};

use super::{
    Tls, TlsError, TlsFiles,
    certificate::Certificate,
    files::{Contents, Loaded},
};
use crate::{clock::Clock, limits, tasks};

/// Reads the files of the listeners, and later reads them again.
pub struct Reloader {
    clock: Clock,
    expiries: Family<ListenerLabel, Gauge>,
    failures: Family<ListenerLabel, Counter>,
    pub(super) watched: Vec<Watched>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabel {
    listener: &'static str,
}

/// One listener's files.
pub(super) struct Watched {
    listener: &'static str,
    files: TlsFiles,
    /// What was read last, good or bad.
    seen: [u8; 32],
    certificate: Certificate,
    serving: watch::Sender<Arc<ServerConfig>>,
    expiry: Gauge,
    /// When the certificate's end is next worth a warning; `None` for at once.
    pub(super) warn_at: Option<Timestamp>,
}

impl Reloader {
    /// One that has no files yet.
    pub fn new(clock: Clock, registry: &mut Registry) -> Self {
        let (expiries, failures) = (Family::default(), Family::default());
        let registry = registry.sub_registry_with_prefix("tls");
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When the certificate in use ends (Unix time)",
            Family::clone(&expiries),
        );
        registry.register(
            "handshake_failures",
            "Connections that did not get through the TLS handshake",
            Family::clone(&failures),
        );
        Self {
            clock,
            expiries,
            failures,
            watched: Vec::new(),
        }
    }

    /// The TLS of a listener, whose files are read now and watched from now on.
    pub fn load(&mut self, listener: &'static str, files: &TlsFiles) -> Result<Tls, TlsError> {
        let contents = Contents::read(files);
        let seen = contents.digest();
        let Loaded { serving, certificate } = contents.load(files)?;
        let (sender, receiver) = watch::channel(serving);
        let label = ListenerLabel { listener };
        let expiry = self.expiries.get_or_create_owned(&label);
        expiry.set(certificate.not_after.as_second());
        tell(listener, files, &certificate, "serving over TLS");
        self.watched.push(Watched {
            listener,
            files: files.clone(),
            seen,
            certificate,
            serving: sender,
            expiry,
            warn_at: None,
        });
        Ok(Tls {
            serving: receiver,
            failures: self.failures.get_or_create_owned(&label),
        })
    }

    /// Reads the files again at an interval, and when asked.
    pub async fn run(mut self, asked: Arc<Notify>) {
        if self.watched.is_empty() {
            return;
        }
        let mut ticks = tokio::time::interval(limits::TLS_RELOAD_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = asked.notified() => {}
            }
            self.read_again().await;
        }
    }

    pub(super) async fn read_again(&mut self) {
        for watched in &mut self.watched {
            let files = watched.files.clone();
            if let Ok(contents) = tasks::blocking(move || Contents::read(&files)).await {
                watched.turn_to(contents, self.clock.now());
            }
            watched.warn_of_its_end(self.clock.now());
        }
    }
}

impl Watched {
    /// Turns new connections to what the files hold, if that is new and good.
    fn turn_to(&mut self, contents: Contents, now: Timestamp) {
        let digest = contents.digest();
        if digest == self.seen {
            return;
        }
        self.seen = digest;
        let loaded = contents
            .load(&self.files)
            .and_then(|loaded| self.unexpired(loaded, now));
        let Loaded { serving, certificate } = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                let error: &(dyn Error + 'static) = &error;
                let reason = error.source().map(ToString::to_string);
                return tracing::error!(
                    listener = self.listener,
                    %error,
                    reason,
                    "the changed TLS files cannot be used; what was in use stays in use"
                );
            }
        };
        tell(
            self.listener,
            &self.files,
            &certificate,
            "new connections are served with the changed TLS files",
        );
        self.expiry.set(certificate.not_after.as_second());
        self.certificate = certificate;
        self.warn_at = None;
        self.serving.send_replace(serving);
    }

    fn unexpired(&self, loaded: Loaded, now: Timestamp) -> Result<Loaded, TlsError> {
        let not_after = loaded.certificate.not_after;
        if not_after > now {
            return Ok(loaded);
        }
        let path = self.files.certificate.display().to_string();
        Err(TlsError::Expired { path, not_after })
    }

    fn warn_of_its_end(&mut self, now: Timestamp) {
        let later = |after| now.checked_add(after).unwrap_or(Timestamp::MAX);
        let not_after = self.certificate.not_after;
        if not_after > later(limits::TLS_EXPIRY_WARNING) || self.warn_at.is_some_and(|at| now < at) {
            return;
        }
        self.warn_at = Some(later(limits::TLS_EXPIRY_WARNING_INTERVAL));
        tracing::warn!(
            listener = self.listener,
            certificate = %self.files.certificate.display(),
            %not_after,
            "{}",
            if not_after > now {
                "the certificate expires soon: replace its file"
            } else {
                "the certificate has expired, and clients refuse it: replace its file"
            }
        );
    }
}

fn tell(listener: &str, files: &TlsFiles, certificate: &Certificate, message: &str) {
    tracing::info!(
        listener,
        certificate = %files.certificate.display(),
        names = certificate.names.join(" "),
        not_after = %certificate.not_after,
        "{message}"
    );
}
