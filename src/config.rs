//! The configuration: flags over environment over a TOML file over defaults. Owns what a configuration is and which ones
//! are valid; refuses to act on any.

mod layers;
mod settings;
pub(crate) mod values;

use std::{fmt, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use clap::ArgMatches;

use self::values::*;
pub use self::{
    layers::{Sourced, layers},
    settings::args,
};
use crate::{
    forwarded::TrustedProxies,
    heygen::{Credentials, Heygen},
    log::Retention,
    nats,
    origin::AllowedOrigins,
    sealing::{SealingKey, SealingKeys},
    secret::Secret,
    tls::TlsFiles,
    traces::TraceSettings,
};

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Where events are kept.
#[derive(Clone, Debug)]
pub enum LogEngine {
    /// In the data directory.
    Sqlite,
    /// In a stream of NATS servers.
    JetStream(Box<nats::Settings>),
}

/// The effective configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where deliveries arrive.
    pub ingress_listen: String,
    /// Where backends connect.
    pub grpc_listen: String,
    /// Where operators look.
    pub admin_listen: String,
    /// The token that may do everything. With it, every caller must present credentials.
    pub operator_token: Option<Secret>,
    /// What deliveries are taken with; `None` for plain HTTP.
    pub ingress_tls: Option<TlsFiles>,
    /// The same for backends.
    pub grpc_tls: Option<TlsFiles>,
    /// The same for operators.
    pub admin_tls: Option<TlsFiles>,
    /// Where HeyGen reaches the ingress, if that is elsewhere.
    pub public_url: Option<String>,
    /// Whose word is taken for where a request comes from.
    pub trusted_proxies: TrustedProxies,
    /// The pages of other origins that may call.
    pub allowed_origins: AllowedOrigins,
    /// HeyGen's API; `None` without credentials for it.
    pub heygen: Option<Heygen>,
    /// How often HeyGen's side is looked at.
    pub heygen_check_interval: Duration,
    /// How often HeyGen's history is searched; `None` for only when asked.
    pub reconcile_interval: Option<Duration>,
    /// Age from which an entry of the history counts as undelivered.
    pub reconcile_grace: Duration,
    /// Age at which secrets are rotated; `None` for never.
    pub rotate_secrets_after: Option<Duration>,
    /// Where everything is stored.
    pub data_dir: PathBuf,
    /// What stored secrets are sealed with.
    pub sealing_keys: SealingKeys,
    /// Where events are kept.
    pub log: LogEngine,
    /// Where other replicas reach this one's gRPC, if that is not where it listens.
    pub advertise_url: Option<String>,
    /// Authorities for the certificates of other replicas.
    pub advertise_ca_file: Option<PathBuf>,
    /// What to keep.
    pub retention: Retention,
    /// Where traces go; `None` for nowhere.
    pub traces: Option<TraceSettings>,
    /// How long a drain may take.
    pub drain_deadline: Duration,
    /// The form of log lines.
    pub log_format: LogFormat,
    /// What is allowed but unwise, a line each.
    pub warnings: Vec<String>,
}

/// All that is wrong with a configuration, a line each.
#[derive(Debug, thiserror::Error)]
pub struct ConfigError(Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is not valid:")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl Config {
    /// Reads the configuration that the command line, the environment and the file make.
    pub fn from_matches(matches: &ArgMatches) -> Result<Self, ConfigError> {
        Self::parse(&layers(matches)?)
    }

    /// The defaults with these settings changed, whatever command line, environment and files say.
    pub fn with(changes: &[(&str, &str)]) -> Result<Self, ConfigError> {
        Self::read(&layers::defaults_with(changes)?, Variables::Ignored)
    }

    /// What a configuration file says about where and under which keys a service stores; everything else is as by default,
    /// whatever command line and environment say.
    pub fn of_storage(path: &str) -> Result<Self, ConfigError> {
        let is_of_storage = |key: &str| {
            ["data-dir", "log", "sealing-key-file", "previous-sealing-key-file"].contains(&key)
                || key.starts_with("jetstream-")
        };
        Self::read(
            &layers::defaults_with_file(path, is_of_storage)?,
            Variables::Ignored,
        )
    }

    /// Whether HeyGen's API is a stand-in on this machine.
    pub fn heygen_is_local(&self) -> bool {
        self.heygen
            .as_ref()
            .is_some_and(|heygen| is_loopback_url(heygen.base_url()))
    }

    /// Reads the values of all settings. Every mistake is reported.
    pub fn parse(layered: &[Sourced]) -> Result<Self, ConfigError> {
        Self::read(layered, Variables::Read)
    }

    fn read(layered: &[Sourced], variables: Variables) -> Result<Self, ConfigError> {
        let mut reader = Reader {
            layered,
            variables,
            problems: Vec::new(),
            warnings: Vec::new(),
        };
        let insecure = reader.read("insecure", false, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("is neither true nor false".to_owned()),
        });
        let operator_token = reader.operator_token();
        let [ingress_tls, grpc_tls, admin_tls] =
            ["ingress", "grpc", "admin"].map(|listener| reader.tls(listener));
        let exposure = |tls: &Option<TlsFiles>| Exposure {
            insecure,
            credentials: operator_token.is_some(),
            encryption: tls.is_some(),
        };
        let sealing_keys = reader.sealing_keys();
        let is_sealed = sealing_keys.current.is_some();
        let (grpc_exposure, admin_exposure) = (exposure(&grpc_tls), exposure(&admin_tls));
        let mut config = Self {
            ingress_listen: reader.read("ingress-listen", String::new(), address),
            grpc_listen: reader.read("grpc-listen", String::new(), |text| {
                private_address(text, grpc_exposure)
            }),
            admin_listen: reader.read("admin-listen", String::new(), |text| {
                private_address(text, admin_exposure)
            }),
            operator_token,
            ingress_tls,
            grpc_tls,
            admin_tls,
            public_url: reader.read("public-url", None, |text| public_url(text).map(Some)),
            trusted_proxies: reader.read("trusted-proxies", TrustedProxies::default(), str::parse),
            allowed_origins: reader.read("allowed-origins", AllowedOrigins::default(), str::parse),
            heygen: None,
            heygen_check_interval: reader.read("heygen-check-interval", Duration::ZERO, positive_duration),
            reconcile_interval: reader.read("reconcile-interval", None, |text| {
                optional(text, positive_duration)
            }),
            reconcile_grace: reader.read("reconcile-grace", Duration::ZERO, duration),
            rotate_secrets_after: reader.read("rotate-secrets-after", None, |text| {
                optional(text, positive_duration)
            }),
            data_dir: reader.read("data-dir", PathBuf::new(), path),
            sealing_keys,
            log: reader.log(is_sealed),
            advertise_url: reader.read("advertise-url", None, |text| public_url(text).map(Some)),
            advertise_ca_file: reader.read("advertise-ca-file", None, |text| path(text).map(Some)),
            retention: Retention {
                age: reader.read("retention-age", None, |text| optional(text, duration)),
                size_bytes: reader.read("retention-size", None, |text| {
                    optional(text, |text| text.parse::<ByteSize>().map(|size| size.as_u64()))
                }),
            },
            traces: {
                let ratio = reader.read("trace-ratio", 1.0, ratio);
                let endpoint = reader.read("otlp-endpoint", None, |text| public_url(text).map(Some));
                endpoint.map(|endpoint| TraceSettings { endpoint, ratio })
            },
            drain_deadline: reader.read("drain-deadline", Duration::ZERO, duration),
            log_format: reader.read("log-format", LogFormat::Auto, |text| match text {
                "auto" => Ok(LogFormat::Auto),
                "text" => Ok(LogFormat::Text),
                "json" => Ok(LogFormat::Json),
                _ => Err("is none of auto, text, json".to_owned()),
            }),
            warnings: Vec::new(),
        };
        config.heygen = reader.heygen(config.public_url.as_deref());
        if reader.problems.is_empty() {
            config.warnings = reader.warnings;
            Ok(config)
        } else {
            Err(ConfigError(reader.problems))
        }
    }
}

/// A secret, and where it was given.
struct Given {
    secret: Secret,
    source: String,
}

/// Whether secrets may come from environment variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variables {
    Read,
    Ignored,
}

struct Reader<'a> {
    layered: &'a [Sourced],
    variables: Variables,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    /// What a listener serves over TLS with, if it does.
    fn tls(&mut self, listener: &str) -> Option<TlsFiles> {
        let key = |what: &str| format!("{listener}-tls-{what}-file");
        let [certificate_key, key_key, client_ca_key] = ["certificate", "key", "client-ca"].map(key);
        let mut file = |key: &str| self.read(key, None, |text| path(text).map(Some));
        let (certificate, key, client_ca) = (file(&certificate_key), file(&key_key), file(&client_ca_key));
        let given = match (certificate, key, &client_ca) {
            (Some(certificate), Some(key), _) => {
                return Some(TlsFiles {
                    certificate,
                    key,
                    client_ca,
                });
            }
            (None, None, None) => return None,
            (Some(_), ..) => certificate_key,
            (_, Some(_), _) => key_key,
            (None, None, Some(_)) => client_ca_key,
        };
        self.problems.push(format!(
            "{given} alone is of no use: give {listener}-tls-certificate-file and {listener}-tls-key-file together"
        ));
        None
    }

    /// The operator's token, if there is one.
    fn operator_token(&mut self) -> Option<Secret> {
        let given = self.secret("admin-token-file", "HOOKSTREAM_ADMIN_TOKEN")?;
        self.parse(given, operator_token)
    }

    /// HeyGen's API, if there are credentials for it.
    fn heygen(&mut self, public_url: Option<&str>) -> Option<Heygen> {
        let base = self.read("heygen-api-base", String::new(), |text| Ok(text.to_owned()));
        let mut credentials = Vec::new();
        type Kind = fn(Secret) -> Credentials;
        let ways: [(_, _, Kind); 2] = [
            (
                "heygen-api-key-file",
                "HOOKSTREAM_HEYGEN_API_KEY",
                Credentials::ApiKey,
            ),
            (
                "heygen-oauth-token-file",
                "HOOKSTREAM_HEYGEN_OAUTH_TOKEN",
                Credentials::Bearer,
            ),
        ];
        for (key, variable, kind) in ways {
            let given = self.secret(key, variable);
            credentials.extend(given.map(|given| kind(given.secret)));
        }
        if credentials.len() > 1 {
            self.problems
                .push("give HeyGen's API key or its OAuth token, not both".to_owned());
        }
        let credentials = credentials.pop()?;
        if let Some(url) = public_url.filter(|url| !url.starts_with("https://") && !is_loopback_url(&base)) {
            self.problems.push(format!(
                "public-url: `{url}` must be https: HeyGen delivers to nothing else"
            ));
        }
        match Heygen::new(&base, credentials) {
            Ok(heygen) => Some(heygen),
            Err(problem) => {
                self.problems.push(format!("heygen-api-base: {problem}"));
                None
            }
        }
    }

    /// Where events are kept.
    fn log(&mut self, is_sealed: bool) -> LogEngine {
        let is_jetstream = self.read("log", false, |text| match text {
            "sqlite" => Ok(false),
            "jetstream" => Ok(true),
            _ => Err("is not an engine; there are sqlite and jetstream".to_owned()),
        });
        let replicas = self.read("jetstream-replicas", None, |text| match text {
            "auto" => Ok(None),
            text => match text.parse() {
                Ok(number @ 1..=5) => Ok(Some(number)),
                _ => Err("is neither `auto` nor a number from 1 to 5".to_owned()),
            },
        });
        let [credentials_file, ca_file, certificate, key] = [
            "jetstream-credentials-file",
            "jetstream-ca-file",
            "jetstream-client-certificate-file",
            "jetstream-client-key-file",
        ]
        .map(|key| self.read(key, None, |text| path(text).map(Some)));
        let client_certificate = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                self.problems.push(
                    "give jetstream-client-certificate-file and jetstream-client-key-file together"
                        .to_owned(),
                );
                None
            }
        };
        let nkey = self.secret("jetstream-nkey-file", "HOOKSTREAM_JETSTREAM_NKEY");
        if nkey.is_some() && credentials_file.is_some() {
            self.problems
                .push("give jetstream-credentials-file or jetstream-nkey-file, not both".to_owned());
        }
        let settings = nats::Settings {
            servers: self.read("jetstream-url", String::new(), nats_servers),
            stream: self.read("jetstream-stream", String::new(), stream_name),
            replicas,
            credentials_file,
            nkey_seed: nkey.map(|given| given.secret),
            ca_file,
            client_certificate,
        };
        if is_jetstream {
            if !is_sealed {
                self.problems.push(
                    "log jetstream: secrets leave this process to be shared with the other replicas, and are sealed before: give \
                     --sealing-key-file, the same at every replica (`hookstream config generate-sealing-key` makes one)"
                        .to_owned(),
                );
            }
            LogEngine::JetStream(Box::new(settings))
        } else {
            LogEngine::Sqlite
        }
    }

    /// The keys to seal stored secrets with, and to open them.
    fn sealing_keys(&mut self) -> SealingKeys {
        let problems = self.problems.len();
        let current = self.sealing_key("sealing-key-file", "HOOKSTREAM_SEALING_KEY");
        let previous = self.sealing_key("previous-sealing-key-file", "HOOKSTREAM_PREVIOUS_SEALING_KEY");
        if current.is_none() && previous.is_some() && problems == self.problems.len() {
            self.problems.push(
                "previous-sealing-key-file: there has to be a key that takes its place: give --sealing-key-file too"
                    .to_owned(),
            );
        }
        SealingKeys {
            current,
            previous: previous.into_iter().collect(),
        }
    }

    fn sealing_key(&mut self, key: &str, variable: &str) -> Option<SealingKey> {
        let given = self.secret(key, variable)?;
        self.parse(given, |secret| SealingKey::parse(secret.expose()))
    }

    /// What a secret stands for, or `None` and a note of what is wrong with it.
    fn parse<T, E: fmt::Display>(
        &mut self,
        given: Given,
        parse: impl FnOnce(Secret) -> Result<T, E>,
    ) -> Option<T> {
        let parsed = parse(given.secret);
        parsed
            .map_err(|problem| self.problems.push(format!("{}: {problem}", given.source)))
            .ok()
    }

    /// The secret in the file that a setting names, else in a variable.
    fn secret(&mut self, key: &str, variable: &str) -> Option<Given> {
        let in_environment = match self.variables {
            Variables::Read => secret_in_variable(variable),
            Variables::Ignored => Ok(None),
        };
        let in_environment = in_environment.unwrap_or_else(|problem| {
            self.problems.push(problem);
            None
        });
        let Some((path, source)) = self.value(key) else {
            let source = variable.to_owned();
            return in_environment.map(|secret| Given { secret, source });
        };
        let unwise = unwise_mode(path);
        self.warnings
            .extend(unwise.map(|unwise| format!("{source}: {unwise}")));
        match secret_in_file(path) {
            Ok(secret) => Some(Given {
                secret,
                source: source.to_owned(),
            }),
            Err(problem) => {
                self.problems.push(format!("{source}: {problem}"));
                None
            }
        }
    }

    /// A setting as it was given, and where.
    fn value(&self, key: &str) -> Option<(&'a str, &'a str)> {
        let found = self.layered.iter().find(|sourced| sourced.key == key)?;
        Some((found.value.as_deref()?, &found.source))
    }

    /// Reads a setting, or notes what is wrong with it and goes on with `otherwise`.
    fn read<T>(&mut self, key: &str, otherwise: T, parse: impl FnOnce(&str) -> Result<T, String>) -> T {
        let Some((value, source)) = self.value(key) else {
            return otherwise;
        };
        parse(value).unwrap_or_else(|problem| {
            // A URL may hold a password.
            let shown = if value.contains('@') {
                "what was given (not shown)"
            } else {
                value
            };
            self.problems.push(format!("{source}: `{shown}` {problem}"));
            otherwise
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn config(args: &[&str]) -> Result<Config, String> {
        let command = clap::Command::new("test")
            .args(super::args())
            .no_binary_name(true);
        let matches = command
            .try_get_matches_from(args)
            .map_err(|error| error.to_string())?;
        Config::from_matches(&matches).map_err(|error| error.to_string())
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn defaults_are_valid_and_on_loopback() {
        let config = Config::with(&[]).unwrap();
        assert_eq!(config.grpc_listen, "127.0.0.1:50051");
        assert_eq!(config.retention.age, Some(Duration::from_secs(30 * 24 * 3600)));
        assert_eq!(config.retention.size_bytes, Some(10 * 1024 * 1024 * 1024));
    }

    #[test]
    fn a_flag_outranks_the_file_and_the_file_outranks_the_default() {
        let file = file("retention-age = \"7days\"\nretention-size = \"1MiB\"\n");
        let path = file.path().to_str().unwrap();
        let config = config(&["--config", path, "--retention-size", "none"]).unwrap();
        assert_eq!(config.retention.age, Some(Duration::from_secs(7 * 24 * 3600)));
        assert_eq!(config.retention.size_bytes, None);
    }

    #[test]
    fn settings_are_changed_without_a_command_line_too() {
        let config = Config::with(&[("retention-size", "1MiB")]).unwrap();
        assert_eq!(config.retention.size_bytes, Some(1024 * 1024));
        let error = Config::with(&[("retention", "1MiB")]).unwrap_err();
        assert!(
            error.to_string().contains("`retention` is not a setting"),
            "{error}"
        );
    }

    #[test]
    fn every_mistake_is_listed_at_once() {
        let file = file("retention-age = 7\n");
        let path = file.path().to_str().unwrap();
        let error = config(&[
            "--config",
            path,
            "--ingress-listen",
            "nonsense",
            "--log-format",
            "xml",
        ])
        .unwrap_err();
        for part in [
            "retention-age in",
            "--ingress-listen: `nonsense`",
            "--log-format: `xml`",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_the_known_ones() {
        let file = file("retention-agee = \"7days\"\n");
        let error = config(&["--config", file.path().to_str().unwrap()]).unwrap_err();
        assert!(
            error.contains("`retention-agee` is not a setting") && error.contains("retention-age,"),
            "{error}"
        );
    }

    #[test]
    fn sealing_keys_are_read_from_files_and_the_one_before_needs_one_that_takes_its_place() {
        let (new, old) = (SealingKey::generate(), SealingKey::generate());
        let (new_file, old_file) = (file(&format!("{}\n", *new.to_base64())), file(&old.to_base64()));
        let new_flags = ["--sealing-key-file", new_file.path().to_str().unwrap()];
        let old_flags = ["--previous-sealing-key-file", old_file.path().to_str().unwrap()];
        let keys = config(&[new_flags, old_flags].concat()).unwrap().sealing_keys;
        assert_eq!(keys.current.unwrap().id(), new.id());
        assert_eq!(keys.previous[0].id(), old.id());
        assert!(
            config(&old_flags)
                .unwrap_err()
                .contains("give --sealing-key-file too")
        );
        assert!(config(&[]).unwrap().sealing_keys.current.is_none());
    }

    #[test]
    fn what_is_no_key_and_a_secret_in_place_of_its_file_are_mistakes_that_do_not_repeat_it() {
        let no_key = file("no-key-but-private");
        let error = config(&["--sealing-key-file", no_key.path().to_str().unwrap()]).unwrap_err();
        assert!(
            error.contains("--sealing-key-file: is not 32 bytes") && !error.contains("private"),
            "{error}"
        );
        for flag in ["--sealing-key-file", "--heygen-api-key-file"] {
            for secret in ["sk_private", &"private/".repeat(64)] {
                let error = config(&[flag, secret]).unwrap_err();
                assert!(
                    error.contains(flag) && error.contains("names no file") && !error.contains("private"),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn a_file_with_a_secret_that_others_can_read_is_a_warning() {
        use std::os::unix::fs::PermissionsExt;
        let key = file(&SealingKey::generate().to_base64());
        let flags = ["--sealing-key-file", key.path().to_str().unwrap()];
        assert_eq!(config(&flags).unwrap().warnings, [""; 0]);
        for mode in [0o640, 0o604, 0o620] {
            std::fs::set_permissions(key.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            let warnings = config(&flags).unwrap().warnings;
            assert!(
                warnings.len() == 1 && warnings[0].contains("chmod 600"),
                "{warnings:?}"
            );
        }
    }

    #[test]
    fn a_certificate_and_its_key_are_given_together() {
        let tls = |flags: &[&str]| config(flags).map(|config| config.grpc_tls);
        let pair = [
            "--grpc-tls-certificate-file",
            "cert.pem",
            "--grpc-tls-key-file",
            "key.pem",
        ];
        let authority = ["--grpc-tls-client-ca-file", "ca.pem"];
        let files = TlsFiles {
            certificate: "cert.pem".into(),
            key: "key.pem".into(),
            client_ca: None,
        };
        assert_eq!(tls(&[]).unwrap(), None);
        assert_eq!(tls(&pair).unwrap().unwrap(), files);
        let client_ca = Some("ca.pem".into());
        let mutual = tls(&[&pair[..], &authority].concat()).unwrap().unwrap();
        assert_eq!(mutual, TlsFiles { client_ca, ..files });
        for alone in [&pair[..2], &pair[2..], &authority] {
            let error = tls(alone).unwrap_err();
            assert!(error.contains(&alone[0][2..]), "{error}");
            assert!(
                error.contains("give grpc-tls-certificate-file and grpc-tls-key-file together"),
                "{error}"
            );
        }
        assert!(
            tls(&["--grpc-tls-key-file", ""])
                .unwrap_err()
                .contains("is empty")
        );
        assert!(config(&["--ingress-tls-client-ca-file", "ca.pem"]).is_err());
    }

    #[test]
    fn trusted_proxies_are_a_list_of_networks_and_nobody_by_default() {
        let trusts = |config: Config| config.trusted_proxies.contain([10, 1, 2, 3].into());
        assert!(!trusts(config(&[]).unwrap()));
        assert!(trusts(
            config(&["--trusted-proxies", "192.0.2.1, 10.0.0.0/8"]).unwrap()
        ));
        let error = config(&["--trusted-proxies", "10.0.0.0/8,nginx"]).unwrap_err();
        assert!(error.contains("`nginx`"), "{error}");
    }

    #[test]
    fn grpc_and_admin_stay_on_loopback_unless_told_otherwise() {
        for flag in ["--grpc-listen", "--admin-listen"] {
            for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.com:1"] {
                assert!(
                    config(&[flag, address]).unwrap_err().contains("--insecure"),
                    "{flag} {address}"
                );
                assert!(config(&[flag, address, "--insecure"]).is_ok(), "{flag} {address}");
            }
            for address in ["127.0.0.1:0", "[::1]:0", "localhost:0"] {
                assert!(config(&[flag, address]).is_ok(), "{flag} {address}");
            }
        }
        assert!(config(&["--ingress-listen", "0.0.0.0:8080"]).is_ok());
    }
}
