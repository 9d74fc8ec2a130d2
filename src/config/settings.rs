//! The settings of the service. Owns every setting's name, default and meaning; refuses to read any.

use clap::Arg;

use crate::heygen;

/// One setting: a flag `--key`, a variable `HOOKSTREAM_KEY`, and a key in the file.
#[derive(Debug)]
pub(super) struct Setting {
    /// Its name, with dashes.
    pub(super) key: &'static str,
    value_name: &'static str,
    /// Its value if nobody sets it.
    pub(super) default: Option<&'static str>,
    help: &'static str,
}

/// All settings of the service, in the order of the help.
pub(super) const SETTINGS: &[Setting] = &[
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
        help: "Where the web console, /livez, /readyz and /metrics are",
    },
    Setting {
        key: "ingress-tls-certificate-file",
        value_name: "FILE",
        default: None,
        help: "Take deliveries over TLS with this certificate (PEM; its intermediates after it). Changed files are used within seconds, or at once on SIGHUP; so are those of the other listeners",
    },
    Setting {
        key: "ingress-tls-key-file",
        value_name: "FILE",
        default: None,
        help: "The private key of that certificate (PEM, unencrypted)",
    },
    Setting {
        key: "grpc-tls-certificate-file",
        value_name: "FILE",
        default: None,
        help: "Serve backends over TLS with this certificate (PEM); clients then use https:// as the server's URL",
    },
    Setting {
        key: "grpc-tls-key-file",
        value_name: "FILE",
        default: None,
        help: "The private key of that certificate (PEM, unencrypted)",
    },
    Setting {
        key: "grpc-tls-client-ca-file",
        value_name: "FILE",
        default: None,
        help: "Authorities for the certificates of backends (PEM): one from elsewhere or out of date is refused, none at all is not",
    },
    Setting {
        key: "admin-tls-certificate-file",
        value_name: "FILE",
        default: None,
        help: "Serve the web console, /livez, /readyz and /metrics over TLS with this certificate (PEM)",
    },
    Setting {
        key: "admin-tls-key-file",
        value_name: "FILE",
        default: None,
        help: "The private key of that certificate (PEM, unencrypted)",
    },
    Setting {
        key: "admin-tls-client-ca-file",
        value_name: "FILE",
        default: None,
        help: "Authorities for the certificates of operators (PEM), as for grpc-tls-client-ca-file",
    },
    Setting {
        key: "insecure",
        value_name: "BOOL",
        default: Some("false"),
        help: "Serve gRPC and admin beyond loopback without credentials or without TLS: the network is trusted",
    },
    Setting {
        key: "admin-token-file",
        value_name: "FILE",
        default: None,
        help: "A file with the operator's token, which may do everything; or HOOKSTREAM_ADMIN_TOKEN. With it, every \
               caller must present a token or a client certificate",
    },
    Setting {
        key: "public-url",
        value_name: "URL",
        default: None,
        help: "Where HeyGen reaches the ingress, such as https://hooks.example.com; without it, the ingress address",
    },
    Setting {
        key: "trusted-proxies",
        value_name: "LIST",
        default: Some("none"),
        help: "Addresses and networks of your reverse proxies, such as 10.0.0.0/8,2001:db8::7: their X-Forwarded-For says \
               whose request it is (the header Forwarded is not read), and only clients behind them are limited",
    },
    Setting {
        key: "allowed-origins",
        value_name: "LIST",
        default: Some("none"),
        help: "Origins of web pages that may call over gRPC-Web, such as https://app.example.com; pages that this service \
               serves itself always may",
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
        key: "sealing-key-file",
        value_name: "FILE",
        default: None,
        help: "A file with the key that stored secrets are sealed with (`hookstream config generate-sealing-key` makes one); \
               or HOOKSTREAM_SEALING_KEY. Without it they are readable in the data directory, by its owner",
    },
    Setting {
        key: "previous-sealing-key-file",
        value_name: "FILE",
        default: None,
        help: "The key before, for the one start at which another takes its place; or HOOKSTREAM_PREVIOUS_SEALING_KEY",
    },
    Setting {
        key: "log",
        value_name: "ENGINE",
        default: Some("sqlite"),
        help: "Where events are kept: sqlite (in the data directory), or jetstream (in a stream of NATS servers, with a copy in \
               the data directory)",
    },
    Setting {
        key: "jetstream-url",
        value_name: "LIST",
        default: Some("nats://127.0.0.1:4222"),
        help: "The NATS servers, such as nats://10.0.0.1:4222,nats://10.0.0.2:4222; tls:// for TLS",
    },
    Setting {
        key: "jetstream-stream",
        value_name: "NAME",
        default: Some("hookstream"),
        help: "The stream, made if missing. Replicas of one service name the same",
    },
    Setting {
        key: "jetstream-replicas",
        value_name: "NUMBER",
        default: Some("auto"),
        help: "On how many servers the stream is kept, 1 to 5; `auto` is three in a cluster that has them. For a stream that \
               is there it is only compared",
    },
    Setting {
        key: "jetstream-credentials-file",
        value_name: "FILE",
        default: None,
        help: "A NATS credentials file (a user's JWT and seed)",
    },
    Setting {
        key: "jetstream-nkey-file",
        value_name: "FILE",
        default: None,
        help: "A file with the seed of an nkey instead; or HOOKSTREAM_JETSTREAM_NKEY",
    },
    Setting {
        key: "jetstream-ca-file",
        value_name: "FILE",
        default: None,
        help: "Authorities for the certificates of the NATS servers (PEM)",
    },
    Setting {
        key: "jetstream-client-certificate-file",
        value_name: "FILE",
        default: None,
        help: "Our own certificate for them (PEM)",
    },
    Setting {
        key: "jetstream-client-key-file",
        value_name: "FILE",
        default: None,
        help: "The private key of that certificate (PEM, unencrypted)",
    },
    Setting {
        key: "advertise-url",
        value_name: "URL",
        default: None,
        help: "Where other replicas reach this one's gRPC (--log jetstream), such as http://10.0.0.7:50051. Without it: the \
               address that it listens on, or, where that is every address, the one that it reaches NATS from",
    },
    Setting {
        key: "advertise-ca-file",
        value_name: "FILE",
        default: None,
        help: "Authorities for the certificates of other replicas (PEM), beside those of the system",
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
        key: "otlp-endpoint",
        value_name: "URL",
        default: None,
        help: "Send traces to this OpenTelemetry collector (OTLP over gRPC), such as http://127.0.0.1:4317. OTEL_EXPORTER_OTLP_HEADERS and OTEL_RESOURCE_ATTRIBUTES are read, too",
    },
    Setting {
        key: "trace-ratio",
        value_name: "NUMBER",
        default: Some("1"),
        help: "Share of the events that are traced, 0 to 1, and of the calls that do not say themselves whether they are. All replicas trace the same events",
    },
    Setting {
        key: "log-format",
        value_name: "FORMAT",
        default: Some("auto"),
        help: "auto (text on a terminal, else json), text or json. HOOKSTREAM_LOG_LEVEL sets the level (default info)",
    },
];

impl Setting {
    /// The variable that sets it.
    pub(super) fn variable(&self) -> String {
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
