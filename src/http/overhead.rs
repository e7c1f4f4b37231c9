//! Our own share of the time that an answer takes.

use std::time::Duration;

use crate::telemetry::{Metrics, metrics::Histogram};

/// Where the time goes that pieces of an answer take in us.
pub struct Overhead {
    first: Histogram,
    later: Histogram,
}

impl Overhead {
    /// Of a stream.
    pub fn of(metrics: &Metrics) -> Self {
        let phase = |phase| metrics.overhead.with_label_values(&[phase]);
        Self { first: phase("first_chunk"), later: phase("chunk") }
    }

    /// A piece took so long, the first or another.
    pub fn took(&self, first: bool, time: Duration) {
        let histogram = if first { &self.first } else { &self.later };
        histogram.observe(time.as_secs_f64());
    }
}
