//! What operators see of subscriptions. Owns their series, one of each kind for a subscription, so that the subscriptions
//! that may exist are their bound; counts nothing by itself.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{Serving, ServingReplica, Standing, survey::Backlog};

/// The series of all subscriptions that this replica serves, made when somebody asks.
struct Series(ServingReplica);

/// A subscription as one series sees it.
struct View {
    name: String,
    standing: Standing,
    backlog: Backlog,
    age_seconds: f64,
}

/// Name, meaning, value.
type Kind<T> = (&'static str, &'static str, fn(&View) -> T);

const GAUGES: [Kind<f64>; 5] = [
    (
        "subscription_backlog",
        "Events of a subscription that are not settled, as of a few seconds ago",
        |view| view.backlog.events as f64,
    ),
    (
        "subscription_oldest_unacknowledged_age_seconds",
        "How long ago the oldest of them was received",
        |view| view.age_seconds,
    ),
    (
        "subscription_in_flight",
        "Events that streams of a subscription hold unacknowledged",
        |view| view.standing.in_flight as f64,
    ),
    (
        "subscription_dead_letters",
        "Events that a subscription has put aside",
        |view| view.standing.dead_letters as f64,
    ),
    ("subscription_streams", "Streams of a subscription", |view| {
        view.standing.streams as f64
    }),
];

const COUNTERS: [Kind<u64>; 2] = [
    (
        "subscription_acknowledged",
        "Events of a subscription acknowledged as done, since the service started",
        |view| view.standing.counts.acknowledged,
    ),
    (
        "subscription_redeliveries",
        "Attempts beyond the first, since the service started",
        |view| view.standing.counts.redeliveries,
    ),
];

pub(super) fn register(serving: &ServingReplica, registry: &mut Registry) {
    registry.register_collector(Box::new(Series(serving.clone())));
}

impl fmt::Debug for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Series")
    }
}

impl Collector for Series {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Serving::Here(subscriptions) = self.0.now() else {
            return Ok(());
        };
        let now = subscriptions.clock.now();
        let view = |subscription: Arc<super::Subscription>| {
            let backlog = subscription.survey.last();
            View {
                name: subscription.name.to_string(),
                standing: subscription.standing(),
                age_seconds: backlog.age(now).unwrap_or_default().as_secs_f64(),
                backlog,
            }
        };
        let views: Vec<_> = subscriptions.all().into_iter().map(view).collect();
        for (name, help, value) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for view in &views {
                let label = [("subscription", view.name.as_str())];
                ConstGauge::new(value(view)).encode(family.encode_family(&label)?)?;
            }
        }
        for (name, help, value) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for view in &views {
                let label = [("subscription", view.name.as_str())];
                ConstCounter::new(value(view)).encode(family.encode_family(&label)?)?;
            }
        }
        Ok(())
    }
}
