//! hookstream: HeyGen's webhooks as gRPC streams.
//!
//! ```text
//!  HeyGen ─POST→ ingress ─→ signature ─→ decode ─→ log (durable) ─→ 2xx
//!                              ↑                    │ tail  ↑
//!                          endpoints                ▼       │
//!                              ↑         hub → stream → grpc → your backend
//!                              │                  └→ subscriptions ─┘
//!                              │                            │
//!  HeyGen ←REST─ heygen ←─ registrar ←─ ManageEndpoint      │
//!         ←REST─ heygen ←─ reconcile ───────────────────────┘
//! ```
//!
//! # Map
//!
//! | module | owns |
//! |---|---|
//! | [`ingress`] | a delivery's way from HTTP to the log, and the table of answers |
//! | [`signature`], [`secret`] | verification; knows no HTTP and no JSON |
//! | [`decode`], [`event_type`] | what a body says; the known types |
//! | [`event`], [`cursor`], [`filter`] | the vocabulary: event, sequence, identity, cursor, filter |
//! | [`log`] | the contract of the event log; `log::sqlite` is the engine, `log::jetstream` shares it between replicas, `log::memory` is the reference |
//! | [`endpoints`] | names, secrets and states of the endpoints |
//! | [`sealing`] | stored secrets, sealed and opened; knows no storage |
//! | [`state_db`] | how the file of what is configured over the interface is opened |
//! | [`registrar`] | registrations at HeyGen kept in step with the endpoints, through any crash |
//! | [`reconcile`] | what HeyGen could not deliver, found in its history |
//! | [`hub`] | the newest events, encoded once, and who waits for which |
//! | [`stream`] | one reader: catch up, go live, fall back; knows no gRPC |
//! | [`subscriptions`] | places that the service keeps, and work that streams share: hand out, acknowledge, hand out again; of several replicas, one does it for all |
//! | [`grpc`] | the interface of `proto/`, served; the table of statuses |
//! | [`access`], [`audit`] | who may do what, and who did |
//! | [`heygen`] | HeyGen's management API, called; knows no endpoint of ours, no storage, no gRPC |
//! | [`console`] | the web console's files, served; its source is in `console/` |
//! | [`archive`] | events in a file, for backups and for moving a log |
//! | [`admin`] | liveness, readiness, metrics |
//! | [`traces`] | what happened to an event, told to an OpenTelemetry collector |
//! | [`transport`] | sockets, connection limits, the orderly end of connections |
//! | [`tls`] | certificates: ours, replaced while it runs, and the clients' |
//! | [`nats`] | the connection to NATS, what replicas share in buckets there, and leases |
//! | [`origin`] | of which origins web pages may call |
//! | [`forwarded`], [`source`] | whose request it is, and which addresses count as one where they are limited |
//! | [`peer`] | the words for who is at the other end of a connection |
//! | [`http_client`] | how a connection to somebody else is made |
//! | [`service`] | the composition root: sockets, engines (the one file that names concrete ones), what is the same with all of them, and the copy of what one stores into another |
//! | [`config`], [`limits`], [`data_dir`] | settings, bounds, the data directory |
//! | [`process`] | the process's own limits and privacy |
//! | [`clock`], [`tasks`] | the homes of the wall clock and of `spawn` |
//! | [`cli`], [`samples`] | the commands |
//! | [`stand_in`] | HeyGen's webhook side, played for the tests and for a machine without HeyGen |
//!
//! # Invariants
//!
//! * **I1** Every 2xx is a stored event: kill -9, power cut and full disk included.
//! * **I2** Nothing unverified is ever stored or sent: an event is signed, came to a URL with a secret token, or was read
//!   from HeyGen's API, and says which.
//! * **I3** Sequences rise strictly, never repeat, never regress, across restarts too.
//! * **I4** A stream gets exactly the matching events after its cursor: in order, each once, whatever crashes, lags or
//!   reconnects happen.
//! * **I5** A slow reader costs bounded memory and slows nobody else.
//! * **I6** A duplicate delivery is one event for as long as the event is kept. Identity, per endpoint, is signed content
//!   only: the `event_id` inside the body when there is one, else the digest of the raw body. A push without one and its
//!   entry in the event history are one event too, as far as [`log::EventLog`] can tell.
//! * **I7** Secrets and bodies never reach a log line, an error, a metric or `config print`.
//! * **I8** After a drain nothing runs on, and the process ends within its deadline whatever clients do.
//! * **I9** An event whose acknowledgement was answered is never handed out again, and one that was not acknowledged is
//!   never forgotten, whatever crashes.
//!
//! # Deliberately absent
//!
//! A queue for each stream (a stream is a position; the log is the queue), in-memory de-duplication windows (the index
//! knows every event that is kept), trust in unsigned headers (HeyGen signs the body and nothing else), and consensus or
//! replication of our own.

pub mod access;
pub mod admin;
pub mod archive;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
pub mod cursor;
pub mod data_dir;
pub mod decode;
pub mod endpoints;
pub mod event;
pub mod event_type;
pub mod filter;
pub mod forwarded;
pub mod grpc;
pub mod heygen;
pub mod http_client;
pub mod hub;
pub mod ingress;
pub mod limits;
pub mod log;
pub mod nats;
pub mod origin;
pub mod peer;
pub mod process;
pub mod reconcile;
pub mod registrar;
pub mod samples;
pub mod sealing;
pub mod secret;
pub mod service;
pub mod signature;
pub mod source;
pub mod stand_in;
pub mod state_db;
pub mod stream;
pub mod subscriptions;
pub mod tasks;
pub mod tls;
pub mod traces;
pub mod transport;

#[cfg(test)]
#[path = "../tests/support/nats.rs"]
mod nats_server;
#[cfg(test)]
#[path = "../tests/support/port.rs"]
mod port;
