//! Where the secret, the maps and our public address come from: the keys of `config.json` in the
//! units the rest of `me` works with.

use std::path::PathBuf;

/// All sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sources {
    /// `proxy_secret_url`, `proxy_secret_path`.
    pub(crate) secret: Remote,
    /// `proxy_config_v4_url`, `proxy_config_v4_cache_path`.
    pub(crate) config_v4: Remote,
    /// `proxy_config_v6_url`, `proxy_config_v6_cache_path`.
    pub(crate) config_v6: Remote,
    /// `proxy_secret_len_max`, bytes.
    pub(crate) secret_bytes_max: usize,
    /// How our public address is found.
    pub(crate) nat: NatSources,
}

/// A file of Telegram's, and our copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    /// Where it is downloaded from.
    pub(crate) url: String,
    /// Where the last good one is kept, absolute.
    pub(crate) cache: PathBuf,
}

/// How our public address is found (middle-proxy.md 9.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NatSources {
    /// `middle_proxy_nat_probe` and `network.stun_use`: STUN servers may be asked.
    pub(crate) stun: bool,
    /// `middle_proxy_nat_probe`: web servers may be asked.
    pub(crate) http: bool,
    /// STUN servers, `host:port`.
    pub(crate) servers: Vec<String>,
    /// `stun_nat_probe_concurrency`, at least 1.
    pub(crate) concurrency: usize,
    /// `network.stun_tcp_fallback`.
    pub(crate) tcp_fallback: bool,
    /// `network.http_ip_detect_urls`: each answers with our IPv4 address as text.
    pub(crate) http_urls: Vec<String>,
    /// Families (v4, v6) that are on and whose address is not given by `middle_proxy_nat_ip`.
    pub(crate) wanted: [bool; 2],
}
