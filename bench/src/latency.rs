//! A histogram of latencies in microseconds to three digits, and the percentiles we print.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies of one load.
#[derive(Clone, Debug)]
pub struct Latency {
    nanos: Histogram<u64>,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Samples.
    pub count: u64,
    /// Median.
    pub p50_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p999_us: f64,
    /// Longest.
    pub max_us: f64,
}

impl Latency {
    /// An empty histogram: 1 us to 10 minutes.
    pub fn new() -> Latency {
        // The bounds are constants that the constructor accepts.
        let nanos =
            Histogram::new_with_bounds(1_000, 600_000_000_000, 3).expect("bounds are in order");
        Latency { nanos }
    }

    /// Adds one sample.
    pub fn record(&mut self, took: Duration) {
        self.nanos
            .saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds all samples of `other`.
    pub fn add(&mut self, other: &Latency) {
        // Same bounds and digits on both sides, so that adding cannot fail.
        self.nanos
            .add(&other.nanos)
            .expect("histograms have the same bounds");
    }

    /// What is printed.
    pub fn percentiles(&self) -> Percentiles {
        let at = |q: f64| {
            if self.nanos.is_empty() {
                0.0
            } else {
                self.nanos.value_at_quantile(q) as f64 / 1e3
            }
        };
        Percentiles {
            count: self.nanos.len(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: at(1.0),
        }
    }
}

impl Default for Latency {
    fn default() -> Self {
        Latency::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_known_set() {
        let mut a = Latency::new();
        for us in 1..=500 {
            a.record(Duration::from_micros(us));
        }
        let mut b = Latency::new();
        for us in 501..=1000 {
            b.record(Duration::from_micros(us));
        }
        a.add(&b);
        let p = a.percentiles();
        assert_eq!(p.count, 1000);
        assert!((p.p50_us - 500.0).abs() < 2.0, "{p:?}");
        assert!((p.p99_us - 990.0).abs() < 3.0, "{p:?}");
        assert!((p.max_us - 1000.0).abs() < 2.0, "{p:?}");
    }

    #[test]
    fn empty_is_all_zero() {
        assert_eq!(Latency::new().percentiles(), Percentiles::default());
    }
}
