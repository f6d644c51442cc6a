//! `[general]`: connections to the Middle-End: pool, floor, reinit, hardswap and drain.

use super::{keys::keys, value::choices};

keys! {
    /// Pool size, keepalive, warm-up, reconnect, choice of a writer.
    MePool in "general" {
        /// Sets the target number of active Middle-End connections.
        middle_proxy_pool_size: usize = 8; Restart, Inert
        /// Spare Middle-End connection count, accepted but unused by the reference.
        middle_proxy_warm_standby: usize = 16; Restart, Inert
        /// Limits startup attempts to bring up the Middle-End pool.
        me_init_retry_attempts: u32 = 0, within 0..=1_000_000; Restart, Now
        /// Sends periodic keepalive frames on Middle-End connections.
        me_keepalive_enabled: bool = true; Restart, Now
        /// Sets the base pause between Middle-End keepalives.
        me_keepalive_interval_secs: u64 = 8; Restart, Now
        /// Adds random spread to the Middle-End keepalive pause.
        me_keepalive_jitter_secs: u64 = 2; Restart, Now
        /// Fills keepalive payloads with random bytes instead of zeros.
        me_keepalive_payload_random: bool = true; Restart, Now
        /// Sets how often an activity request is sent to idle Middle-End connections.
        rpc_proxy_req_every: u64 = 0, within 10..=300, also 0; Restart, Now
        /// Spaces out extra Middle-End dials during warm-up.
        me_warmup_stagger_enabled: bool = true; Restart, Now
        /// Sets the base pause between warm-up dials.
        me_warmup_step_delay_ms: u64 = 500; Restart, Now
        /// Adds random spread to the pause between warm-up dials.
        me_warmup_step_jitter_ms: u64 = 300; Restart, Now
        /// Limits parallel reconnects to one data centre.
        me_reconnect_max_concurrent_per_dc: u32 = 8; Restart, Now
        /// Sets the first Middle-End reconnect delay.
        me_reconnect_backoff_base_ms: u64 = 500; Restart, Now
        /// Caps the growing Middle-End reconnect delay.
        me_reconnect_backoff_cap_ms: u64 = 30_000; Restart, Now
        /// Sets how many quick reconnects happen before backoff starts.
        me_reconnect_fast_retry_count: u32 = 16; Restart, Now
        /// Decides whether Middle-End key derivation over SOCKS may proceed without a usable bound
        /// address from the SOCKS server.
        me_socks_kdf_policy: KdfPolicy = KdfPolicy::Strict; Hot, Now
        /// Sets the Middle-End health-check pause while coverage is degraded.
        me_health_interval_ms_unhealthy: u64 = 1000, from 1; Hot, Now
        /// Sets the Middle-End health-check pause while coverage is complete.
        me_health_interval_ms_healthy: u64 = 3000, from 1; Hot, Now
        /// Sets how often the connection gate rechecks Middle-End readiness.
        me_admission_poll_ms: u64 = 1000, from 1; Hot, Now
        /// Limits how often the same Middle-End warning is logged.
        me_warn_rate_limit_ms: u64 = 5000, from 1; Hot, Now
        /// Orders candidate connections the same way every time.
        me_deterministic_writer_sort: bool = true; Hot, Now
        /// Chooses how a session picks its Middle-End connection.
        me_writer_pick_mode: WriterPickMode = WriterPickMode::P2c; Hot, Now
        /// Sets how many candidates the p2c picker compares.
        me_writer_pick_sample_size: u8 = 3, within 2..=4; Hot, Now
    }
}

keys! {
    /// Fewest writers of a DC.
    MeFloor in "general" {
        /// Adds reserve connections for data centres that publish one endpoint.
        me_single_endpoint_shadow_writers: u8 = 2, within 0..=32; Hot, Now
        /// Uses aggressive recovery when the only endpoint of a data centre is down.
        me_single_endpoint_outage_mode_enabled: bool = true; Hot, Now
        /// Skips endpoint quarantine while recovering a one-endpoint data centre.
        me_single_endpoint_outage_disable_quarantine: bool = true; Hot, Now
        /// Sets the shortest retry delay during single-endpoint recovery.
        me_single_endpoint_outage_backoff_min_ms: u64 = 250, from 1; Hot, Now
        /// Sets the longest retry delay during single-endpoint recovery.
        me_single_endpoint_outage_backoff_max_ms: u64 = 3000, from 1; Hot, Now
        /// Sets how often reserve connections are replaced.
        me_single_endpoint_shadow_rotate_every_secs: u64 = 900; Hot, Now
        /// Chooses a fixed or load-following minimum number of Middle-End connections.
        me_floor_mode: FloorMode = FloorMode::Adaptive; Hot, Now
        /// Sets the idle time before the adaptive minimum may shrink.
        me_adaptive_floor_idle_secs: u64 = 90; Hot, Now
        /// Sets the smallest adaptive minimum for one-endpoint data centres.
        me_adaptive_floor_min_writers_single_endpoint: u8 = 1, within 1..=32; Hot, Now
        /// Sets the smallest adaptive minimum for multi-endpoint data centres.
        me_adaptive_floor_min_writers_multi_endpoint: u8 = 1, within 1..=32; Hot, Now
        /// Holds the full connection minimum this long after activity returns.
        me_adaptive_floor_recover_grace_secs: u64 = 180; Hot, Now
        /// Sets the total Middle-End connection budget per CPU core.
        me_adaptive_floor_writers_per_core_total: u16 = 48, from 1; Hot, Now
        /// Replaces the detected CPU core count in adaptive sizing.
        me_adaptive_floor_cpu_cores_override: u16 = 0; Hot, Now
        /// Caps extra per-core connections for one-endpoint data centres.
        me_adaptive_floor_max_extra_writers_single_per_core: u16 = 1; Hot, Now
        /// Caps extra per-core connections for multi-endpoint data centres.
        me_adaptive_floor_max_extra_writers_multi_per_core: u16 = 2; Hot, Now
        /// Caps active Middle-End connections per CPU core.
        me_adaptive_floor_max_active_writers_per_core: u16 = 64, from 1; Hot, Now
        /// Caps warm Middle-End connections per CPU core.
        me_adaptive_floor_max_warm_writers_per_core: u16 = 64, from 1; Hot, Now
        /// Caps active Middle-End connections for the whole process.
        me_adaptive_floor_max_active_writers_global: u32 = 256, from 1; Hot, Now
        /// Caps warm Middle-End connections for the whole process.
        me_adaptive_floor_max_warm_writers_global: u32 = 256, from 1; Hot, Now
    }
}

keys! {
    /// Pool rebuilds, hardswap, drain.
    MeReinit in "general" {
        /// Warms a complete new pool generation before switching to it.
        hardswap: bool = true; Hot, Now
        /// Sets how often the whole Middle-End pool is rebuilt without dropping sessions.
        me_reinit_every_secs: u64 = 900, from 1; Hot, Now
        /// Sets the shortest pause between dials of a new generation.
        me_hardswap_warmup_delay_min_ms: u64 = 1000; Hot, Now
        /// Sets the longest pause between dials of a new generation.
        me_hardswap_warmup_delay_max_ms: u64 = 2000, from 1; Hot, Now
        /// Sets how many extra dial passes a new generation may take.
        me_hardswap_warmup_extra_passes: u8 = 3, within 0..=10; Hot, Now
        /// Sets the base pause between extra dial passes of a new generation.
        me_hardswap_warmup_pass_backoff_base_ms: u64 = 500, from 1; Hot, Now
        /// Sets how long retired connections may still serve as fallback.
        me_pool_drain_ttl_secs: u64 = 90; Hot, Now
        /// Removes retired connections at the next cleanup regardless of age.
        me_instadrain: bool = false; Hot, Now
        /// Force-closes the oldest retired connections above this count.
        me_pool_drain_threshold: u64 = 32; Hot, Now
        /// Moves sessions off retired connections gradually after their time is up.
        me_pool_drain_soft_evict_enabled: bool = true; Restart, Now
        /// Adds time before sessions start moving off retired connections.
        me_pool_drain_soft_evict_grace_secs: u64 = 10, within 0..=3600; Restart, Now
        /// Caps sessions moved off one retired connection per health tick.
        me_pool_drain_soft_evict_per_writer: u8 = 2, within 1..=16; Restart, Now
        /// Caps sessions moved off retired connections per CPU core and health tick.
        me_pool_drain_soft_evict_budget_per_core: u16 = 16, within 1..=64; Restart, Now
        /// Sets the pause before sessions move off the same retired connection again.
        me_pool_drain_soft_evict_cooldown_ms: u64 = 1000, from 1; Restart, Now
        /// Decides whether new sessions may use retired connections.
        me_bind_stale_mode: BindStaleMode = BindStaleMode::Never; Hot, Now
        /// Sets how long new sessions may use retired connections in ttl mode.
        me_bind_stale_ttl_secs: u64 = 90; Hot, Now
        /// Requires this share of data centres on new connections before old ones drain.
        me_pool_min_fresh_ratio: f32 = 0.8, within 0..=1.0; Hot, Now
        /// Force-closes retired connections after this time.
        me_reinit_drain_timeout_secs: u64 = 90; Hot, Now
        /// Allows only one pool rebuild at a time.
        me_reinit_singleflight: bool = true; Hot, Inert
        /// Bounds the queue of pool rebuild requests.
        me_reinit_trigger_channel: usize = 64, from 1; Restart, Now
        /// Merges pool rebuild requests that arrive within this window.
        me_reinit_coalesce_window_ms: u64 = 200; Hot, Now
    }
}

choices! {
    /// How the floor is set.
    FloorMode {
        /// Fixed.
        Static = "static",
        /// Follows the load.
        Adaptive = "adaptive",
    }
}

choices! {
    /// Key derivation over SOCKS without a usable bound address.
    KdfPolicy {
        /// Refused.
        Strict = "strict",
        /// Allowed.
        Compat = "compat",
    }
}

choices! {
    /// Whether new sessions may use retired writers.
    BindStaleMode {
        /// Not at all.
        Never = "never",
        /// For a while.
        Ttl = "ttl",
        /// As long as they live.
        Always = "always",
    }
}

choices! {
    /// How a session picks its writer.
    WriterPickMode {
        /// In order, in turn.
        SortedRr = "sorted_rr",
        /// The better of a few.
        P2c = "p2c",
    }
}
