//! `RuntimeMeSelftestPayload` and its parts: what makes ME handshakes fail silently.
//!
//! Plain data in the contract's order and words: whoever has a pool fills it. Source:
//! middle-proxy.md 24.2 and 26.10.

use serde::Serialize;

/// What makes ME handshakes fail silently.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RuntimeMeSelftestPayload {
    /// Key derivation.
    pub kdf: RuntimeMeSelftestKdfData,
    /// Clocks.
    pub timeskew: RuntimeMeSelftestTimeskewData,
    /// Addresses of this host.
    pub ip: RuntimeMeSelftestIpData,
    /// This process.
    pub pid: RuntimeMeSelftestPidData,
    /// Addresses SOCKS servers bound; always there (conflict C6).
    pub bnd: RuntimeMeSelftestBndData,
}

/// Key derivation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RuntimeMeSelftestKdfData {
    /// `ok` or `error`.
    pub state: &'static str,
    /// Moving average of errors per minute.
    pub ewma_errors_per_min: f64,
    /// From where on it is an error.
    pub threshold_errors_per_min: f64,
    /// Errors since the start.
    pub errors_total: u64,
}

impl Default for RuntimeMeSelftestKdfData {
    fn default() -> Self {
        Self::new(0.0, 0)
    }
}

impl RuntimeMeSelftestKdfData {
    /// Errors per minute before rounding, and all of them.
    #[must_use]
    pub fn new(ewma_errors_per_min: f64, errors_total: u64) -> Self {
        let known = ewma_errors_per_min.is_finite();
        let ewma = if known { ewma_errors_per_min } else { 0.0 };
        Self {
            state: if ewma >= KDF_ERRORS_PER_MIN_MAX {
                "error"
            } else {
                "ok"
            },
            ewma_errors_per_min: thousandths(ewma),
            threshold_errors_per_min: KDF_ERRORS_PER_MIN_MAX,
            errors_total,
        }
    }
}

/// Clocks: ours against those of Telegram's HTTP servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RuntimeMeSelftestTimeskewData {
    /// `ok` or `error`.
    pub state: &'static str,
    /// Largest of the last 15 minutes, seconds.
    pub max_skew_secs_15m: Option<u64>,
    /// Samples of the last 15 minutes.
    pub samples_15m: usize,
    /// The newest sample, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_skew_secs: Option<u64>,
    /// Where the newest sample came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_source: Option<&'static str>,
    /// Age of the newest sample, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen_age_secs: Option<u64>,
}

/// The newest sample of the clocks' difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastSkew {
    /// Difference, seconds.
    pub skew_secs: u64,
    /// `proxy_secret_date_header` or `proxy_config_date_header`.
    pub source: &'static str,
    /// Since then, seconds.
    pub age_secs: u64,
}

impl Default for RuntimeMeSelftestTimeskewData {
    fn default() -> Self {
        Self::new(None, 0, None)
    }
}

impl RuntimeMeSelftestTimeskewData {
    /// Largest of the last 15 minutes, how many there were, and the newest, however old.
    #[must_use]
    pub fn new(max_skew_secs: Option<u64>, samples: usize, last: Option<LastSkew>) -> Self {
        Self {
            state: match max_skew_secs {
                Some(secs) if secs > SKEW_SECS_MAX => "error",
                _ => "ok",
            },
            max_skew_secs_15m: max_skew_secs,
            samples_15m: samples,
            last_skew_secs: last.map(|last| last.skew_secs),
            last_source: last.map(|last| last.source),
            last_seen_age_secs: last.map(|last| last.age_secs),
        }
    }
}

/// Addresses of this host that reach the Internet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuntimeMeSelftestIpData {
    /// IPv4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v4: Option<RuntimeMeSelftestIpFamilyData>,
    /// IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v6: Option<RuntimeMeSelftestIpFamilyData>,
}

/// One address of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuntimeMeSelftestIpFamilyData {
    /// The address.
    pub addr: String,
    /// `good`, `bogon` or `loopback`.
    pub state: &'static str,
}

/// This process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RuntimeMeSelftestPidData {
    /// Its number.
    pub pid: u32,
    /// `one` (in a container) or `non-one`.
    pub state: &'static str,
}

impl Default for RuntimeMeSelftestPidData {
    fn default() -> Self {
        Self::new(std::process::id())
    }
}

impl RuntimeMeSelftestPidData {
    /// The process of this number.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        let state = if pid == 1 { "one" } else { "non-one" };
        Self { pid, state }
    }
}

/// What the SOCKS server of the last dial through one bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuntimeMeSelftestBndData {
    /// `ok`, `bogon`, or `error` when there was none.
    pub addr_state: &'static str,
    /// `ok`, `zero`, or `error` when there was none.
    pub port_state: &'static str,
    /// Address and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_addr: Option<String>,
    /// Since then, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen_age_secs: Option<u64>,
}

impl Default for RuntimeMeSelftestBndData {
    /// Before the first dial through a SOCKS server, and without one.
    fn default() -> Self {
        Self {
            addr_state: "error",
            port_state: "error",
            last_addr: None,
            last_seen_age_secs: None,
        }
    }
}

/// Three decimals.
fn thousandths(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

const KDF_ERRORS_PER_MIN_MAX: f64 = 0.3;
const SKEW_SECS_MAX: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_per_minute_are_judged_before_they_are_rounded() {
        assert_eq!(RuntimeMeSelftestKdfData::new(0.299_99, 3).state, "ok");
        let shown = RuntimeMeSelftestKdfData::new(0.300_04, 3);
        assert_eq!(shown.state, "error");
        assert!((shown.ewma_errors_per_min - 0.3).abs() < f64::EPSILON);
        // JSON has no word for it.
        assert_eq!(RuntimeMeSelftestKdfData::new(f64::NAN, 0).state, "ok");
    }

    #[test]
    fn clocks_are_wrong_from_a_minute_on() {
        let state = |secs| RuntimeMeSelftestTimeskewData::new(secs, 1, None).state;
        assert_eq!(
            (state(None), state(Some(60)), state(Some(61))),
            ("ok", "ok", "error")
        );
    }

    #[test]
    fn first_process_is_a_container() {
        assert_eq!(RuntimeMeSelftestPidData::new(1).state, "one");
        assert_eq!(RuntimeMeSelftestPidData::new(2).state, "non-one");
    }
}
