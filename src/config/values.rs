//! The values of settings. Owns how each kind is written and what is said of one that is not.

use std::{env, fmt, fs, io, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use zeroize::Zeroizing;

use crate::{limits, secret::Secret};

/// The secret in a file; one newline at its end is not part of it.
pub(crate) fn secret_in_file(path: &str) -> Result<Secret, String> {
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        // A secret that was given in place of its file must not be repeated.
        io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename => {
            "names no file (what was given is not shown, in case it is the secret itself)".to_owned()
        }
        _ => format!("`{path}` cannot be read: {error}"),
    })?;
    let text = Zeroizing::new(text);
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    Secret::new(secret.to_owned()).map_err(|_| format!("`{path}` is empty or holds more than a key"))
}

/// What is unwise about a file that holds a secret.
pub(super) fn unwise_mode(path: &str) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then(|| format!("`{path}` is not its owner's alone (mode {mode:o}): chmod 600 it"))
}

/// The secret in a variable, which is no flag, so that none is ever seen among a process's arguments.
#[allow(clippy::disallowed_methods, reason = "this is where the environment is read")]
pub(crate) fn secret_in_variable(name: &str) -> Result<Option<Secret>, String> {
    match env::var(name) {
        Ok(secret) => Secret::new(secret)
            .map(Some)
            .map_err(|_| format!("{name}: is empty or holds more than a key")),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(format!("{name}: is not UTF-8")),
    }
}

/// Whether a URL is of this machine alone.
pub(crate) fn is_loopback_url(url: &str) -> bool {
    let url = url.parse::<http::Uri>().ok();
    let host = url.as_ref().and_then(http::Uri::host).unwrap_or_default();
    is_loopback(host)
}

pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("is empty".to_owned()),
        text => Ok(text.into()),
    }
}

pub(super) fn address(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or_default();
    let valid = !host.is_empty() && port.parse::<u16>().is_ok();
    valid
        .then(|| text.to_owned())
        .ok_or_else(|| "is not HOST:PORT, such as 127.0.0.1:8080".to_owned())
}

/// What a listener that must not be open to everybody has to protect it.
#[derive(Clone, Copy)]
pub(super) struct Exposure {
    /// The operator wants it open.
    pub(super) insecure: bool,
    /// Callers must present credentials.
    pub(super) credentials: bool,
    /// It serves over TLS.
    pub(super) encryption: bool,
}

/// An address that only callers with credentials reach, through a connection that keeps them secret.
pub(super) fn private_address(text: &str, exposure: Exposure) -> Result<String, String> {
    let text = address(text)?;
    let on_loopback = is_loopback(text.rsplit_once(':').map_or("", |(host, _)| host));
    if on_loopback || exposure.insecure || (exposure.credentials && exposure.encryption) {
        return Ok(text);
    }
    Err(if exposure.credentials {
        "would carry tokens and events unencrypted: give a certificate with the settings -tls-certificate-file and \
         -tls-key-file of this listener, or --insecure if a proxy or mesh in front of it encrypts"
    } else {
        "would let anybody who reaches it read events and manage endpoints: give --admin-token-file, and a certificate \
         with the settings -tls-certificate-file and -tls-key-file of this listener, or --insecure if the network is \
         yours alone"
    }
    .to_owned())
}

/// A token that the operator chose, long enough not to be guessed, and fit for a header.
pub(super) fn operator_token(token: Secret) -> Result<Secret, String> {
    let text = token.expose();
    let fit =
        text.len() >= limits::OPERATOR_TOKEN_BYTES_MIN && text.bytes().all(|byte| byte.is_ascii_graphic());
    fit.then_some(token).ok_or_else(|| {
        "does not hold a token of at least 32 printable characters; `hookstream token generate` prints one".to_owned()
    })
}

pub(super) fn public_url(text: &str) -> Result<String, String> {
    let url = text.parse::<http::Uri>().ok();
    let valid = url.is_some_and(|url| {
        matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some() && url.query().is_none()
    });
    valid
        .then(|| text.to_owned())
        .ok_or_else(|| "is not a URL such as https://hooks.example.com".to_owned())
}

pub(super) fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "is not a number between 0 and 1".to_owned())
}

pub(super) fn optional<T, E: fmt::Display>(
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, String> {
    if text == "none" {
        Ok(None)
    } else {
        parse(text)
            .map(Some)
            .map_err(|error| format!("is not valid: {error}"))
    }
}

pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|duration| match duration {
        Duration::ZERO => Err("is no time at all".to_owned()),
        duration => Ok(duration),
    })
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "is not a duration such as 90s, 12h or 30days".to_owned())
}

/// The addresses of NATS servers. Passwords do not belong there: they would be seen among a process's arguments.
pub(super) fn nats_servers(text: &str) -> Result<String, String> {
    if text.contains('@') {
        return Err(
            "must not hold a user or password: use --jetstream-credentials-file or --jetstream-nkey-file"
                .to_owned(),
        );
    }
    if text.split(',').any(|server| server.trim().is_empty()) {
        return Err("is no list such as nats://10.0.0.1:4222,nats://10.0.0.2:4222".to_owned());
    }
    Ok(text.to_owned())
}

/// The name of a stream: it is the first token of subjects, too.
pub(super) fn stream_name(text: &str) -> Result<String, String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if (1..=limits::NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(legal) {
        Ok(text.to_owned())
    } else {
        Err("is not 1 to 63 letters, digits, - and _".to_owned())
    }
}
