//! What this front end counts.

use std::fmt::{self, Write as _};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::error::ErrorCode;

/// Metrics of the Kafka front end. Clones share their values.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<Request, Counter>,
    duration: Family<Api, Histogram, fn() -> Histogram>,
    connections: Family<Listener, Gauge>,
    fetches_waiting: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    api: &'static str,
    error: ErrorCode,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Api {
    api: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Listener {
    listener: String,
}

impl EncodeLabelValue for ErrorCode {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), fmt::Error> {
        write!(encoder, "{self}")
    }
}

/// 100 µs to 52 s: below is a request answered from memory, above it a long poll.
fn duration_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 3.0, 13))
}

impl Metrics {
    /// Registers all of them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(duration_histogram),
            connections: Family::default(),
            fetches_waiting: Gauge::default(),
        };
        registry.register(
            "kafka_requests",
            "Kafka requests answered, by API and by the first error of the answer",
            metrics.requests.clone(),
        );
        registry.register(
            "kafka_request_duration_seconds",
            "Time from the last byte of a Kafka request to its answer being ready",
            metrics.duration.clone(),
        );
        registry.register(
            "kafka_connections",
            "Open Kafka connections",
            metrics.connections.clone(),
        );
        registry.register(
            "kafka_fetches_waiting",
            "Fetches that wait for data",
            metrics.fetches_waiting.clone(),
        );
        metrics
    }

    /// A request has its answer.
    pub fn answered(&self, api: &'static str, error: ErrorCode, after: Duration) {
        self.requests.get_or_create(&Request { api, error }).inc();
        self.duration.get_or_create(&Api { api }).observe(after.as_secs_f64());
    }

    /// A connection came to be; it counts until the returned value is dropped.
    pub fn connected(&self, listener: &str) -> Counted {
        let listener = Listener { listener: listener.to_owned() };
        Counted::new(self.connections.get_or_create_owned(&listener))
    }

    /// A fetch waits for data; it counts until the returned value is dropped.
    pub fn fetch_waits(&self) -> Counted {
        Counted::new(self.fetches_waiting.clone())
    }

    /// Fetches that wait now.
    #[cfg(test)]
    pub fn fetches_waiting(&self) -> i64 {
        self.fetches_waiting.get()
    }
}

/// Something that counts for as long as it is there.
#[derive(Debug)]
pub struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_documentation() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        metrics.answered("Produce", ErrorCode::NONE, Duration::from_millis(1));
        let (open, waiting) = (metrics.connected("main"), metrics.fetch_waits());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"kafka_requests_total{api="Produce",error="none"} 1"#,
            r#"kafka_request_duration_seconds_count{api="Produce"} 1"#,
            r#"kafka_connections{listener="main"} 1"#,
            "kafka_fetches_waiting 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        drop((open, waiting));
        assert_eq!(metrics.fetches_waiting(), 0);
        assert_eq!(
            metrics.connections.get_or_create(&Listener { listener: "main".into() }).get(),
            0
        );
    }
}
