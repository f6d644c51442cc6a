//! `[censorship]`: FakeTLS, the mask, and fetching the front site.

use super::{
    keys::keys,
    kinds::{Domain, HostPort},
    sockets::UnixPath,
    value::{Map, choices},
};

keys! {
    /// `[censorship]`: FakeTLS.
    Censorship in "censorship" {
        /// Sets the main fake-TLS domain.
        tls_domain: Domain = Domain("petrovich.ru".into()); Restart, Now
        /// Adds more fake-TLS domains, each with its own link.
        tls_domains: Vec<Domain> = Vec::new(); Restart, Now
        /// Chooses what happens to a TLS client naming an unknown domain.
        unknown_sni_action: UnknownSniAction = UnknownSniAction::Drop; Restart, Now
        /// Fetches front-site TLS data through upstreams with this scope.
        tls_fetch_scope: String = String::new(); Restart, Now
        /// Sets the size of the made-up certificate.
        fake_cert_len: usize = 2048; Restart, Now
        /// Copies TLS record sizes from the real front site.
        tls_emulation: bool = true; Restart, Now
        /// Names the directory for cached front-site data.
        tls_front_dir: String = "tlsfront".into(); Restart, Now
        /// Sets the shortest delay before the TLS answer.
        server_hello_delay_min_ms: u64 = 8; Restart, Now
        /// Sets the longest delay before the TLS answer.
        server_hello_delay_max_ms: u64 = 24; Restart, Now
        /// Sets how many session-ticket records follow the handshake; none ever do, because
        /// Telegram's own clients take them for data and hang up.
        tls_new_session_tickets: u8 = 0; Restart, Inert
        /// Allows shorter TLS answers for returning addresses.
        serverhello_compact: bool = false; Restart, Now
        /// Sets how long a client address gets the shorter TLS answer after a full one.
        tls_full_cert_ttl_secs: u64 = 90; Restart, Now
        /// Answers with an application protocol the client offered and treats clients offering no
        /// known one as strangers.
        alpn_enforce: bool = true; Restart, Now
    }
}

keys! {
    /// `[censorship]`: where strangers go.
    Mask in "censorship" {
        /// Relays strangers to a real web site; when off, their data is read and dropped.
        mask: bool = true; Restart, Now
        /// Sends a stranger to the configured domain it named.
        mask_dynamic: bool = true; Restart, Now
        /// Sets the masking site.
        mask_host: Option<String> = None; Restart, Now
        /// Sets the masking site port.
        mask_port: u16 = 443; Restart, Now
        /// Maps a domain to its own masking site.
        exclusive_mask: Map<HostPort> = Map::default(); Restart, Now
        /// Uses a Unix socket as the masking site.
        mask_unix_sock: Option<UnixPath> = None; Restart, Now
        /// Sends a PROXY header to the masking site.
        mask_proxy_protocol: u8 = 0, within 0..=2; Restart, Now
        /// Pads data sent to the masking site to hide probe lengths.
        mask_shape_hardening: bool = true; Restart, Inert
        /// Pads data to the masking site in more situations at the cost of compatibility.
        mask_shape_hardening_aggressive_mode: bool = false; Restart, Inert
        /// Sets the smallest size data to the masking site is padded to.
        mask_shape_bucket_floor_bytes: usize = 512, from 1; Restart, Inert
        /// Sets the largest size data to the masking site is padded to.
        mask_shape_bucket_cap_bytes: usize = 4096, from 1; Restart, Inert
        /// Adds random bytes to masking traffic beyond the largest padded size.
        mask_shape_above_cap_blur: bool = false; Restart, Inert
        /// Limits the random bytes added beyond the largest padded size.
        mask_shape_above_cap_blur_max_bytes: usize = 512, within 0..=1_048_576; Restart, Inert
        /// Limits bytes relayed each way for one stranger.
        mask_relay_max_bytes: usize = 5_242_880, within 0..=67_108_864; Restart, Now
        /// Limits the total time of one masking relay.
        mask_relay_timeout_ms: u64 = 60_000; Restart, Now
        /// Closes a masking relay with no data for this long.
        mask_relay_idle_timeout_ms: u64 = 5000; Restart, Now
        /// Waits this long for more first bytes before classifying a stranger.
        mask_classifier_prefetch_timeout_ms: u64 = 5, within 5..=50; Restart, Inert
        /// Evens out how long failed handshakes take.
        mask_timing_normalization_enabled: bool = false; Restart, Now
        /// Sets the shortest evened-out time of a failed handshake.
        mask_timing_normalization_floor_ms: u64 = 0; Restart, Now
        /// Sets the longest evened-out time of a failed handshake.
        mask_timing_normalization_ceiling_ms: u64 = 0, within 0..=60_000; Restart, Now
    }
}

keys! {
    /// `[censorship.tls_fetch]`.
    TlsFetch in "censorship.tls_fetch" {
        /// Orders the ClientHello styles tried against the front site.
        profiles: Vec<FetchProfile> = FetchProfile::ORDER.to_vec(); Restart, Now
        /// Fails instead of going direct when the chosen upstream cannot reach the front site.
        strict_route: bool = true; Restart, Now
        /// Limits one attempt to fetch front-site TLS data.
        attempt_timeout_ms: u64 = 5000, from 1; Restart, Now
        /// Limits all attempts to fetch front-site TLS data together.
        total_budget_ms: u64 = 15_000, from 1; Restart, Now
        /// Adds random reserved values to the fetch ClientHello.
        grease_enabled: bool = false; Restart, Now
        /// Makes the fetch ClientHello repeatable for tests.
        deterministic: bool = false; Restart, Now
        /// Remembers the ClientHello style that worked for this long.
        profile_cache_ttl_secs: u64 = 600; Restart, Now
    }
}

choices! {
    /// What happens to a client that names an unknown domain.
    UnknownSniAction {
        /// Closed.
        Drop = "drop",
        /// Treated as a stranger.
        Mask = "mask",
        /// Served.
        Accept = "accept",
        /// Told by an alert.
        RejectHandshake = "reject_handshake",
    }
}

choices! {
    /// A style of ClientHello.
    FetchProfile {
        /// Like Chrome.
        ModernChromeLike = "modern_chrome_like",
        /// Like Firefox.
        ModernFirefoxLike = "modern_firefox_like",
        /// TLS 1.2.
        CompatTls12 = "compat_tls12",
        /// The least there is.
        LegacyMinimal = "legacy_minimal",
    }
}

impl FetchProfile {
    /// The order they are tried in.
    pub(crate) const ORDER: [Self; 4] = [
        Self::ModernChromeLike,
        Self::ModernFirefoxLike,
        Self::CompatTls12,
        Self::LegacyMinimal,
    ];
}
