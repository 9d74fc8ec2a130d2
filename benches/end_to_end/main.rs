//! The whole service, measured end to end, each measure beside its floor in the same run: the least that any program
//! would have to do for the same promise. Owns the choice of parts and the one table at the end.
//!
//! `cargo bench --bench end_to_end -- [--quick] [memory] [ingest] [latency] [fan-out] [replay] [listing]
//! [abuse] [subscription] [scale [--large]] [jetstream]`; all parts if none is named, but the last, which needs nats-server.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark stops at what it does not expect"
)]

mod abuse;
mod deliveries;
mod fan_out;
mod floor;
mod ingest;
mod jetstream;
mod latency;
mod listing;
mod memory;
mod meter;
#[path = "../../tests/support/nats.rs"]
mod nats;
#[path = "../../tests/support/port.rs"]
mod port;
mod replay;
mod scale;
mod stage;
mod subscription;
mod table;

use std::env;

use table::Row;

/// How much of everything is done.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds of service and floor in turn.
    pub rounds: usize,
    /// Scales counts and durations.
    pub scale: f64,
}

impl Effort {
    /// A part of `full`.
    pub fn of(self, full: usize) -> usize {
        (full as f64 * self.scale) as usize
    }
}

/// The binary's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut args: Vec<_> = env::args().skip(1).collect();
    if let [role, address, streams] = &args[..]
        && role == memory::CLIENT
    {
        return memory::hold_idle_streams(address, streams.parse().unwrap());
    }
    let large = args.iter().any(|arg| arg == "--large");
    let quick = args.iter().any(|arg| arg == "--quick");
    // Cargo and its users pass flags that mean something to other harnesses.
    args.retain(|arg| !arg.starts_with('-'));
    let effort = if quick {
        Effort {
            rounds: 1,
            scale: 0.1,
        }
    } else {
        Effort {
            rounds: 5,
            scale: 1.0,
        }
    };
    let chosen = |part: &str| args.is_empty() || args.iter().any(|arg| arg == part);

    let mut rows: Vec<Row> = Vec::new();
    // First, while the process is still small: what others allocated and freed would hide the growth.
    if chosen("memory") {
        rows.extend(stage::run(memory::measure(effort)));
    }
    if chosen("ingest") {
        rows.extend(stage::run(ingest::measure(effort)));
    }
    if chosen("latency") {
        rows.extend(stage::run(latency::measure(effort)));
    }
    if chosen("fan-out") {
        rows.extend(stage::run(fan_out::measure(effort)));
    }
    if chosen("replay") {
        rows.extend(stage::run(replay::measure(effort)));
    }
    if chosen("listing") {
        rows.extend(stage::run(listing::measure(effort)));
    }
    if chosen("abuse") {
        rows.extend(stage::run(abuse::measure(effort)));
    }
    if chosen("subscription") {
        rows.extend(stage::run(subscription::measure(effort)));
    }
    if chosen("scale") {
        rows.extend(stage::run(scale::measure(effort, large)));
    }
    if args.iter().any(|arg| arg == "jetstream") {
        rows.extend(stage::run(jetstream::measure(effort)));
    }
    table::print(&rows);
}
