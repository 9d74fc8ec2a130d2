//! What the log tells of itself. Owns the log's metrics; refuses to know who reads them.

use std::time::Duration;

use prometheus_client::{
    metrics::{
        counter::Counter,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// The log's metrics. Clones count together.
#[derive(Clone, Debug)]
pub struct LogMetrics {
    commit_seconds: Histogram,
    commit_events: Histogram,
    append_failures: Counter,
    pub(super) wal_bytes: Gauge,
    pub(super) index_lag_events: Gauge,
    pub(super) trimmed_events: Counter,
    pub(super) servers: Gauge,
    pub(super) servers_in_step: Gauge,
}

impl Default for LogMetrics {
    fn default() -> Self {
        Self {
            commit_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
            commit_events: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            append_failures: Counter::default(),
            wal_bytes: Gauge::default(),
            index_lag_events: Gauge::default(),
            trimmed_events: Counter::default(),
            servers: Gauge::default(),
            servers_in_step: Gauge::default(),
        }
    }
}

impl LogMetrics {
    /// Metrics that `registry` shows.
    pub fn registered(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("log");
        registry.register(
            "commit_seconds",
            "Time of one commit, sync included",
            metrics.commit_seconds.clone(),
        );
        registry.register(
            "commit_events",
            "Events in one commit",
            metrics.commit_events.clone(),
        );
        registry.register(
            "append_failures",
            "Events that could not be stored",
            metrics.append_failures.clone(),
        );
        registry.register(
            "wal_bytes",
            "Size of the write-ahead log's used part",
            metrics.wal_bytes.clone(),
        );
        registry.register(
            "index_lag_events",
            "Events in memory that wait for the index",
            metrics.index_lag_events.clone(),
        );
        registry.register(
            "trimmed_events",
            "Events removed by retention",
            metrics.trimmed_events.clone(),
        );
        registry.register(
            "servers",
            "NATS servers that are to keep the log; 0 where it is on this machine",
            metrics.servers.clone(),
        );
        registry.register(
            "servers_in_step",
            "NATS servers that have all of the log at the moment; 0 while it has no leader",
            metrics.servers_in_step.clone(),
        );
        metrics
    }

    pub(super) fn committed(&self, events: usize, took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
        self.commit_events.observe(events as f64);
    }

    pub(super) fn failed(&self, events: usize) {
        self.append_failures.inc_by(events as u64);
    }
}
