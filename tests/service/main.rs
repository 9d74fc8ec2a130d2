//! The service from outside: a real process, real sockets, real files. Owns nothing; each module is one face of it.

mod commands;
mod crash;
mod endpoints;
mod events;
mod faults;
mod harness;
mod identity;
mod ingress;
mod process;
mod streams;
