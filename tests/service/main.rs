//! The service from outside: a real process, real sockets, real files. Owns nothing; each module is one face of it.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test stops at what it does not expect, and starts what it likes"
)]

mod abuse;
mod access;
mod authority;
mod browsers;
mod cluster;
mod commands;
mod crash;
mod endpoints;
mod events;
mod faults;
mod fleet;
mod harness;
mod heygen;
#[path = "../support/history.rs"]
mod history;
mod identity;
mod ingress;
mod json;
mod link;
mod moving;
#[path = "../support/nats.rs"]
mod nats;
mod nats_access;
#[path = "../support/port.rs"]
mod port;
mod process;
mod replicas;
#[path = "../schemas/requests.rs"]
mod schemas;
mod secrecy;
mod segments;
mod shared;
mod shell;
mod streams;
mod subscriptions;
mod sweep;
mod tls;
mod traces;
mod work;
