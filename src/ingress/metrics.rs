//! What operators see of the ingress. Owns its metrics; counts nothing by itself.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};

use super::{answer::Answer, failures::Failures};
use crate::endpoints::Endpoints;

/// What is counted when it happens.
#[derive(Clone, Debug, Default)]
pub(super) struct IngressMetrics {
    deliveries: Family<AnswerLabel, Counter>,
    pub(super) in_flight: Gauge,
    pub(super) differing_duplicates: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabel {
    outcome: &'static str,
}

impl IngressMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "deliveries",
            "Deliveries by what became of them",
            metrics.deliveries.clone(),
        );
        registry.register(
            "deliveries_in_flight",
            "Deliveries being handled",
            metrics.in_flight.clone(),
        );
        registry.register(
            "deliveries_differing_duplicates",
            "Duplicates whose body differs from the first one's; the first is kept",
            metrics.differing_duplicates.clone(),
        );
        metrics
    }

    pub(super) fn answered(&self, answer: Answer) {
        let outcome = answer.name();
        self.deliveries.get_or_create(&AnswerLabel { outcome }).inc();
    }
}

/// What is looked up when somebody asks. The endpoints that exist are the bound of the series, and one that is deleted
/// leaves none behind.
pub(super) struct Unverified {
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) failures: Arc<Failures>,
}

impl fmt::Debug for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unverified")
    }
}

impl Collector for Unverified {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let refused = i64::try_from(self.failures.refused_now()).unwrap_or(i64::MAX);
        let gauge = encoder.encode_descriptor(
            "addresses_limited",
            "Addresses refused at the moment because their deliveries fail too often",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(refused).encode(gauge)?;
        let mut family = encoder.encode_descriptor(
            "endpoint_unverified_deliveries",
            "Deliveries to an endpoint that did not verify, since the service started",
            None,
            MetricType::Counter,
        )?;
        for endpoint in self.endpoints.all() {
            let label = [("endpoint", endpoint.name.as_str())];
            let counter = ConstCounter::new(endpoint.unverified_deliveries());
            counter.encode(family.encode_family(&label)?)?;
        }
        Ok(())
    }
}
