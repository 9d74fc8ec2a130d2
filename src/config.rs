//! The configuration: flags over environment over a TOML file over defaults. Owns every setting's name, default and
//! meaning; refuses to act on any.

use std::{env, fmt, fs, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use clap::{Arg, ArgMatches, parser::ValueSource};

use crate::{
    heygen::{self, Credentials, Heygen},
    log::Retention,
    secret::Secret,
};

/// One setting: a flag `--key`, a variable `HOOKSTREAM_KEY`, and a key in the file.
#[derive(Debug)]
pub struct Setting {
    /// Its name, with dashes.
    pub key: &'static str,
    value_name: &'static str,
    default: Option<&'static str>,
    help: &'static str,
}

/// All settings of the service, in the order of the help.
pub const SETTINGS: [Setting; 18] = [
    Setting {
        key: "ingress-listen",
        value_name: "HOST:PORT",
        default: Some("127.0.0.1:8080"),
        help: "Where HeyGen's deliveries arrive. Every delivery is verified, so this may face the internet",
    },
    Setting {
        key: "grpc-listen",
        value_name: "HOST:PORT",
        default: Some("127.0.0.1:50051"),
        help: "Where backends connect",
    },
    Setting {
        key: "admin-listen",
        value_name: "HOST:PORT",
        default: Some("127.0.0.1:9090"),
        help: "Where /livez, /readyz and /metrics are",
    },
    Setting {
        key: "insecure",
        value_name: "BOOL",
        default: Some("false"),
        help: "Serve gRPC and admin beyond loopback although they ask for no credentials",
    },
    Setting {
        key: "public-url",
        value_name: "URL",
        default: None,
        help: "Where HeyGen reaches the ingress, such as https://hooks.example.com; without it, the ingress address",
    },
    Setting {
        key: "heygen-api-base",
        value_name: "URL",
        default: Some(heygen::BASE_URL),
        help: "HeyGen's API",
    },
    Setting {
        key: "heygen-api-key-file",
        value_name: "FILE",
        default: None,
        help: "A file with HeyGen's API key, to keep registrations and read the event history; or HOOKSTREAM_HEYGEN_API_KEY",
    },
    Setting {
        key: "heygen-oauth-token-file",
        value_name: "FILE",
        default: None,
        help: "The same with an OAuth access token instead of an API key; or HOOKSTREAM_HEYGEN_OAUTH_TOKEN",
    },
    Setting {
        key: "heygen-check-interval",
        value_name: "DURATION",
        default: Some("1min"),
        help: "How often HeyGen is asked whether registrations are still enabled, and what failed is tried again",
    },
    Setting {
        key: "reconcile-interval",
        value_name: "DURATION",
        default: Some("15min"),
        help: "How often HeyGen's event history is searched for undelivered events; `none` for only when asked",
    },
    Setting {
        key: "reconcile-grace",
        value_name: "DURATION",
        default: Some("5min"),
        help: "How old an entry of the history must be to count as undelivered: its delivery may be on its way",
    },
    Setting {
        key: "rotate-secrets-after",
        value_name: "DURATION",
        default: Some("none"),
        help: "Rotate the secrets of endpoints registered by this service at this age, such as 90days; `none` for never",
    },
    Setting {
        key: "data-dir",
        value_name: "DIR",
        default: Some("./hookstream-data"),
        help: "Where everything is stored; made if missing",
    },
    Setting {
        key: "log",
        value_name: "ENGINE",
        default: Some("sqlite"),
        help: "The event log: sqlite",
    },
    Setting {
        key: "retention-age",
        value_name: "DURATION",
        default: Some("30days"),
        help: "Remove events received longer ago than this, such as 12h or 30days; `none` keeps them",
    },
    Setting {
        key: "retention-size",
        value_name: "SIZE",
        default: Some("10GiB"),
        help: "Remove the oldest events while the log is larger than this, such as 500MiB; `none` for no bound",
    },
    Setting {
        key: "drain-deadline",
        value_name: "DURATION",
        default: Some("10s"),
        help: "How long open calls may take to end after SIGTERM",
    },
    Setting {
        key: "log-format",
        value_name: "FORMAT",
        default: Some("auto"),
        help: "auto (text on a terminal, else json), text or json. HOOKSTREAM_LOG_LEVEL sets the level (default info)",
    },
];

impl Setting {
    fn variable(&self) -> String {
        format!("HOOKSTREAM_{}", self.key.replace('-', "_").to_uppercase())
    }

    fn arg(&self) -> Arg {
        let default = self
            .default
            .map(|default| format!(" [default: {default}]"))
            .unwrap_or_default();
        let arg = Arg::new(self.key)
            .long(self.key)
            .env(self.variable())
            .hide_env_values(true);
        let arg = arg
            .value_name(self.value_name)
            .help(format!("{}{default}", self.help));
        if self.value_name == "BOOL" {
            arg.num_args(0..=1).default_missing_value("true")
        } else {
            arg
        }
    }
}

/// The flags of all settings, and `--config`.
pub fn args() -> impl Iterator<Item = Arg> {
    let file = Arg::new("config")
        .long("config")
        .env("HOOKSTREAM_CONFIG")
        .value_name("FILE")
        .help("A TOML file with any of these settings, such as `retention-age = \"7days\"`");
    std::iter::once(file).chain(SETTINGS.iter().map(Setting::arg))
}

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

/// The effective configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where deliveries arrive.
    pub ingress_listen: String,
    /// Where backends connect.
    pub grpc_listen: String,
    /// Where operators look.
    pub admin_listen: String,
    /// Where HeyGen reaches the ingress, if that is elsewhere.
    pub public_url: Option<String>,
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
    /// What to keep.
    pub retention: Retention,
    /// How long a drain may take.
    pub drain_deadline: Duration,
    /// The form of log lines.
    pub log_format: LogFormat,
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

/// A value with the place it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sourced {
    /// The setting's name.
    pub key: &'static str,
    /// The value as text; `None` where neither anybody nor a default sets it.
    pub value: Option<String>,
    /// Where it was set, as a person would say it.
    pub source: String,
}

/// Every setting's value and where it came from, not yet read.
pub fn layers(matches: &ArgMatches) -> Result<Vec<Sourced>, ConfigError> {
    let mut problems = Vec::new();
    let path = matches.get_one::<String>("config");
    let file = path.map(|path| (path, read_file(path, &mut problems)));
    let layered = SETTINGS
        .iter()
        .map(|setting| {
            let given = matches.get_one::<String>(setting.key).cloned();
            let in_file = || {
                let (path, table) = file.as_ref()?;
                let value = match table.get(setting.key)? {
                    toml::Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                Some((value, format!("{} in {path}", setting.key)))
            };
            let (value, source) = match (given, matches.value_source(setting.key)) {
                (Some(value), Some(ValueSource::EnvVariable)) => (Some(value), setting.variable()),
                (Some(value), _) => (Some(value), format!("--{}", setting.key)),
                (None, _) => match in_file() {
                    Some((value, source)) => (Some(value), source),
                    None => (setting.default.map(str::to_owned), "default".to_owned()),
                },
            };
            Sourced {
                key: setting.key,
                value,
                source,
            }
        })
        .collect();
    if problems.is_empty() {
        Ok(layered)
    } else {
        Err(ConfigError(problems))
    }
}

fn read_file(path: &str, problems: &mut Vec<String>) -> toml::Table {
    let text = fs::read_to_string(path).unwrap_or_else(|error| {
        problems.push(format!("{path}: cannot be read: {error}"));
        String::new()
    });
    let table: toml::Table = text.parse().unwrap_or_else(|error: toml::de::Error| {
        problems.push(format!("{path}: is not TOML: {}", error.message()));
        toml::Table::new()
    });
    for key in table
        .keys()
        .filter(|key| SETTINGS.iter().all(|setting| setting.key != key.as_str()))
    {
        let known = SETTINGS.map(|setting| setting.key).join(", ");
        problems.push(format!("{path}: `{key}` is not a setting; there are {known}"));
    }
    table
}

impl Config {
    /// Reads the configuration that the command line, the environment and the file make.
    pub fn from_matches(matches: &ArgMatches) -> Result<Self, ConfigError> {
        Self::parse(&layers(matches)?)
    }

    /// Whether HeyGen's API is a stand-in on this machine.
    pub fn heygen_is_local(&self) -> bool {
        self.heygen
            .as_ref()
            .is_some_and(|heygen| is_loopback_url(heygen.base_url()))
    }

    /// Reads the values of all settings. Every mistake is reported.
    pub fn parse(layered: &[Sourced]) -> Result<Self, ConfigError> {
        let mut reader = Reader {
            layered,
            problems: Vec::new(),
        };
        let insecure = reader.read("insecure", false, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("is neither true nor false".to_owned()),
        });
        let mut config = Self {
            ingress_listen: reader.read("ingress-listen", String::new(), address),
            grpc_listen: reader.read("grpc-listen", String::new(), |text| {
                private_address(text, insecure)
            }),
            admin_listen: reader.read("admin-listen", String::new(), |text| {
                private_address(text, insecure)
            }),
            public_url: reader.read("public-url", None, |text| public_url(text).map(Some)),
            heygen: None,
            heygen_check_interval: reader.read("heygen-check-interval", Duration::ZERO, positive_duration),
            reconcile_interval: reader.read("reconcile-interval", None, |text| {
                optional(text, positive_duration)
            }),
            reconcile_grace: reader.read("reconcile-grace", Duration::ZERO, duration),
            rotate_secrets_after: reader.read("rotate-secrets-after", None, |text| {
                optional(text, positive_duration)
            }),
            data_dir: reader.read("data-dir", PathBuf::new(), |text| match text {
                "" => Err("is empty".to_owned()),
                text => Ok(text.into()),
            }),
            retention: Retention {
                age: reader.read("retention-age", None, |text| optional(text, duration)),
                size_bytes: reader.read("retention-size", None, |text| {
                    optional(text, |text| text.parse::<ByteSize>().map(|size| size.as_u64()))
                }),
            },
            drain_deadline: reader.read("drain-deadline", Duration::ZERO, duration),
            log_format: reader.read("log-format", LogFormat::Auto, |text| match text {
                "auto" => Ok(LogFormat::Auto),
                "text" => Ok(LogFormat::Text),
                "json" => Ok(LogFormat::Json),
                _ => Err("is none of auto, text, json".to_owned()),
            }),
        };
        reader.read("log", (), |text| match text {
            "sqlite" => Ok(()),
            _ => Err("is not an engine; there is sqlite".to_owned()),
        });
        config.heygen = reader.heygen(config.public_url.as_deref());
        if reader.problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError(reader.problems))
        }
    }
}

struct Reader<'a> {
    layered: &'a [Sourced],
    problems: Vec<String>,
}

impl Reader<'_> {
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
            let in_file = self.read(key, None, |path| secret_in_file(path).map(Some));
            let in_environment = secret_in_variable(variable).unwrap_or_else(|problem| {
                self.problems.push(problem);
                None
            });
            credentials.extend(in_file.or(in_environment).map(kind));
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

    /// Reads a setting, or notes what is wrong with it and goes on with `otherwise`.
    fn read<T>(&mut self, key: &str, otherwise: T, parse: impl FnOnce(&str) -> Result<T, String>) -> T {
        let found = self.layered.iter().find(|sourced| sourced.key == key);
        let Some(Sourced {
            value: Some(value),
            source,
            ..
        }) = found
        else {
            return otherwise;
        };
        parse(value).unwrap_or_else(|problem| {
            self.problems.push(format!("{source}: `{value}` {problem}"));
            otherwise
        })
    }
}

/// The secret in a file; one newline at its end is not part of it.
fn secret_in_file(path: &str) -> Result<Secret, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    Secret::new(secret.to_owned()).map_err(|_| "is empty or holds more than a key".to_owned())
}

/// The secret in a variable, which is no flag, so that none is ever seen among a process's arguments.
#[allow(clippy::disallowed_methods, reason = "this is where the environment is read")]
fn secret_in_variable(name: &str) -> Result<Option<Secret>, String> {
    match env::var(name) {
        Ok(secret) => Secret::new(secret)
            .map(Some)
            .map_err(|_| format!("{name}: is empty or holds more than a key")),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(format!("{name}: is not UTF-8")),
    }
}

/// A stand-in for HeyGen on this machine, which takes any URL.
fn is_loopback_url(url: &str) -> bool {
    let url = url.parse::<http::Uri>().ok();
    let host = url.as_ref().and_then(http::Uri::host).unwrap_or_default();
    is_loopback(host)
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn address(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or_default();
    let valid = !host.is_empty() && port.parse::<u16>().is_ok();
    valid
        .then(|| text.to_owned())
        .ok_or_else(|| "is not HOST:PORT, such as 127.0.0.1:8080".to_owned())
}

fn private_address(text: &str, insecure: bool) -> Result<String, String> {
    let text = address(text)?;
    if is_loopback(text.rsplit_once(':').map_or("", |(host, _)| host)) || insecure {
        return Ok(text);
    }
    Err("would let anybody who reaches it read events and manage endpoints: use a loopback address and a proxy that \
         authenticates, or give --insecure if the network is yours alone"
        .to_owned())
}

fn public_url(text: &str) -> Result<String, String> {
    let url = text.parse::<http::Uri>().ok();
    let valid = url.is_some_and(|url| {
        matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some() && url.query().is_none()
    });
    valid
        .then(|| text.to_owned())
        .ok_or_else(|| "is not a URL such as https://hooks.example.com".to_owned())
}

fn optional<T, E: fmt::Display>(
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

fn positive_duration(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|duration| match duration {
        Duration::ZERO => Err("is no time at all".to_owned()),
        duration => Ok(duration),
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "is not a duration such as 90s, 12h or 30days".to_owned())
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
        let config = config(&[]).unwrap();
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
