//! How metrics are declared: a field, its name, its labels, and its doc comment as the help.

use std::collections::HashMap;

use prometheus::{
    CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, Result, core::Collector,
};

/// A kind of metric.
pub(super) trait Declare: Collector + Clone + Sized + 'static {
    /// Makes one. Buckets are for histograms.
    fn declare(opts: Opts, labels: &[&str], buckets: &[f64]) -> Result<Self>;

    /// Removes the series with exactly these labels.
    fn remove_series(&self, _labels: &HashMap<&str, &str>) -> bool {
        false
    }
}

macro_rules! plain {
    ($($kind:ident),*) => {$(
        impl Declare for $kind {
            fn declare(opts: Opts, _: &[&str], _: &[f64]) -> Result<Self> {
                Self::with_opts(opts)
            }
        }
    )*};
}

macro_rules! labelled {
    ($($kind:ident),*) => {$(
        impl Declare for $kind {
            fn declare(opts: Opts, labels: &[&str], _: &[f64]) -> Result<Self> {
                Self::new(opts, labels)
            }

            fn remove_series(&self, labels: &HashMap<&str, &str>) -> bool {
                self.remove(labels).is_ok()
            }
        }
    )*};
}

plain!(IntCounter, IntGauge, Gauge);
labelled!(CounterVec, IntCounterVec, IntGaugeVec, GaugeVec);

impl Declare for Histogram {
    fn declare(opts: Opts, _: &[&str], buckets: &[f64]) -> Result<Self> {
        Self::with_opts(HistogramOpts::from(opts).buckets(buckets.to_vec()))
    }
}

impl Declare for HistogramVec {
    fn declare(opts: Opts, labels: &[&str], buckets: &[f64]) -> Result<Self> {
        Self::new(HistogramOpts::from(opts).buckets(buckets.to_vec()), labels)
    }

    fn remove_series(&self, labels: &HashMap<&str, &str>) -> bool {
        self.remove(labels).is_ok()
    }
}

/// Declares the struct of all metrics: every field with its kind, name and labels.
macro_rules! declare {
    (@buckets) => { &[] };
    (@buckets $buckets:ident) => { &$buckets };
    ($(
        #[doc = $help:literal]
        $field:ident: $kind:ident = $name:literal [$($label:literal),*] $($buckets:ident)?;
    )*) => {
        /// The metrics of the process.
        pub struct Metrics {
            registry: Registry,
            /// Model names that are labels.
            pub models: ModelLabels,
            /// The same under other names, if wanted.
            pub otel: Option<OtelNames>,
            /// When each provider's model list was fetched: its age is told at a scrape.
            lists_fetched: Mutex<HashMap<String, SystemTime>>,
            $(#[doc = $help] pub $field: $kind,)*
        }

        impl Metrics {
            fn declared() -> Self {
                let registry = Registry::new();
                $(let $field: $kind =
                    register(&registry, $name, $help, &[$($label),*], declare!(@buckets $($buckets)?));)*
                let (models, lists_fetched) = Default::default();
                Self { registry, models, otel: None, lists_fetched, $($field,)* }
            }

            /// Removes every series in which `label` is `value`.
            fn forget(&self, label: &str, value: &str) {
                $(forget(&self.$field, label, value);)*
            }
        }
    };
}
pub(super) use declare;

/// Makes a metric of a literal declaration, and registers it.
pub(super) fn register<M: Declare>(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> M {
    // Names and labels are literals of ours; a test builds them all.
    let metric = M::declare(Opts::new(name, help.trim()), labels, buckets).expect("a sound name");
    registry.register(Box::new(metric.clone())).expect("each name is registered once");
    metric
}

/// Removes the series of `metric` in which `label` is `value`.
pub(super) fn forget<M: Declare>(metric: &M, label: &str, value: &str) {
    for family in metric.collect() {
        for series in family.get_metric() {
            let labels: HashMap<&str, &str> =
                series.get_label().iter().map(|pair| (pair.name(), pair.value())).collect();
            if labels.get(label) == Some(&value) {
                metric.remove_series(&labels);
            }
        }
    }
}
