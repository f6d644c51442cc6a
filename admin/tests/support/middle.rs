//! ME pools in every state, as a plane would show them.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use admin::{
    DcEndpointWriters, DcStatus, LastSkew, MeStartup, MeView, MeWriterStatus, MeWritersSummary,
    MinimalDcPathData, MinimalMeRuntimeData, MinimalQuarantineData, MinimalSnapshot, Reroute,
    RerouteReason, RouteMode, RuntimeMePoolStateGenerationData, RuntimeMePoolStateHardswapData,
    RuntimeMePoolStatePayload, RuntimeMePoolStateRefillData, RuntimeMePoolStateRefillDcData,
    RuntimeMePoolStateWriterContourData, RuntimeMePoolStateWriterData,
    RuntimeMePoolStateWriterHealthData, RuntimeMeQualityCountersData, RuntimeMeQualityDcRttData,
    RuntimeMeQualityDrainGateData, RuntimeMeQualityFamilyStateData, RuntimeMeQualityPayload,
    RuntimeMeQualityRouteDropData, RuntimeMeSelftestBndData, RuntimeMeSelftestIpData,
    RuntimeMeSelftestIpFamilyData, RuntimeMeSelftestKdfData, RuntimeMeSelftestPayload,
    RuntimeMeSelftestPidData, RuntimeMeSelftestTimeskewData, RuntimeNatStunFlagsData,
    RuntimeNatStunPayload, RuntimeNatStunReflectionBlockData, RuntimeNatStunReflectionData,
    RuntimeNatStunServersData, StartupStatus, StepStatus, Transport,
};

use super::canned::CannedPlane;

/// What may be of the middle proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Middle {
    /// Not wanted.
    Off,
    /// Wanted, no pool yet: the secret is missing.
    Waiting,
    /// In use.
    Up,
    /// Not a single writer, and nothing may bypass it.
    Down,
    /// Not a single writer, bypassed.
    Fallback,
}

/// Every state.
pub(crate) const ALL: [Middle; 5] = [
    Middle::Off,
    Middle::Waiting,
    Middle::Up,
    Middle::Down,
    Middle::Fallback,
];

impl Middle {
    /// Puts a plane into this state.
    pub(crate) fn show(self, plane: &CannedPlane) {
        *plane.transport.lock().unwrap() = self.transport();
        *plane.me_startup.lock().unwrap() = self.startup();
        *plane.me.lock().unwrap() = self.view().map(Arc::new);
    }

    fn transport(self) -> Transport {
        let wanted = Transport {
            use_middle_proxy: true,
            me2dc_fast: false,
            route: RouteMode::Middle,
            ..Transport::direct()
        };
        match self {
            Self::Off => Transport::direct(),
            Self::Up => Transport {
                me_pool_ready: true,
                ..wanted
            },
            Self::Waiting | Self::Down => Transport {
                me2dc_fallback: false,
                admission_open: false,
                ..wanted
            },
            Self::Fallback => Transport {
                route: RouteMode::Direct,
                reroute: Some(Reroute {
                    since_epoch_secs: 1_800_000_000,
                    reason: RerouteReason::StrictGrace,
                }),
                ..wanted
            },
        }
    }

    fn startup(self) -> MeStartup {
        let mut me = MeStartup::skipped();
        let (status, stage, step) = match self {
            Self::Off => return me,
            Self::Waiting => (
                StartupStatus::Initializing,
                "me_secret_fetch",
                StepStatus::Running,
            ),
            Self::Up => (StartupStatus::Ready, "ready", StepStatus::Ready),
            Self::Down => (StartupStatus::Failed, "failed", StepStatus::Failed),
            Self::Fallback => (
                StartupStatus::Initializing,
                "background_init",
                StepStatus::Running,
            ),
        };
        me.status = status;
        me.current_stage = stage;
        me.init_attempt = 3;
        me.retry_limit = (self == Self::Down).then_some(3);
        me.last_error = (self != Self::Up).then(|| "no writer for DC 2".to_owned());
        me.holds_start = matches!(self, Self::Waiting | Self::Down);
        me.ready_at_epoch_secs = (self == Self::Up).then_some(1_800_000_000);
        me.weight_done = if self == Self::Up { 52.0 } else { 8.0 };
        for each in &mut me.steps {
            each.status = step;
            each.attempts = 3;
            each.started_at_epoch_ms = Some(1_800_000_000_123);
            each.details = Some("é".repeat(200));
        }
        me
    }

    fn view(self) -> Option<MeView> {
        let up = match self {
            Self::Off | Self::Waiting => return None,
            Self::Up => true,
            Self::Down | Self::Fallback => false,
        };
        Some(MeView {
            generated_at_epoch_secs: now_epoch_secs(),
            minimal: minimal(up),
            pool_state: pool_state(up),
            quality: quality(up),
            nat_stun: nat_stun(up),
            selftest: selftest(up),
        })
    }
}

fn now_epoch_secs() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}

fn minimal(up: bool) -> MinimalSnapshot {
    let (alive, percent) = if up { (1, 50.0) } else { (0, 0.0) };
    MinimalSnapshot {
        summary: MeWritersSummary {
            configured_dc_groups: 1,
            configured_endpoints: 2,
            available_endpoints: alive,
            available_pct: percent,
            required_writers: 2,
            alive_writers: alive,
            coverage_pct: percent,
            fresh_alive_writers: alive,
            fresh_coverage_pct: percent,
        },
        writers: if up { writers() } else { Vec::new() },
        dcs: vec![DcStatus {
            dc: -2,
            endpoints: vec![LIVE.to_owned(), DEAD.to_owned()],
            endpoint_writers: vec![
                DcEndpointWriters {
                    endpoint: LIVE.to_owned(),
                    active_writers: alive,
                },
                DcEndpointWriters {
                    endpoint: DEAD.to_owned(),
                    active_writers: 0,
                },
            ],
            available_endpoints: alive,
            available_pct: percent,
            required_writers: 2,
            floor_min: 1,
            floor_target: 2,
            floor_max: 4,
            floor_capped: false,
            alive_writers: alive,
            coverage_pct: percent,
            fresh_alive_writers: alive,
            fresh_coverage_pct: percent,
            rtt_ms: up.then_some(12.5),
            load: alive,
        }],
        runtime: MinimalMeRuntimeData {
            active_generation: 3,
            hardswap_enabled: true,
            floor_mode: "adaptive",
            me_pool_min_fresh_ratio: 0.8,
            me_bind_stale_mode: "never",
            me_writer_pick_mode: "p2c",
            me_socks_kdf_policy: "strict",
            quarantined_endpoints_total: 1,
            quarantined_endpoints: vec![MinimalQuarantineData {
                endpoint: DEAD.to_owned(),
                remaining_ms: 24_000,
            }],
            ..MinimalMeRuntimeData::default()
        },
        network_path: vec![MinimalDcPathData {
            dc: 2,
            ip_preference: Some("prefer_v4"),
            selected_addr_v4: Some("192.0.2.1:443".to_owned()),
            selected_addr_v6: None,
        }],
    }
}

fn writers() -> Vec<MeWriterStatus> {
    let active = MeWriterStatus {
        writer_id: 1,
        dc: Some(-2),
        endpoint: LIVE.to_owned(),
        generation: 3,
        state: "active",
        bound_clients: 1,
        rtt_ema_ms: Some(12.5),
        matches_active_generation: true,
        in_desired_map: true,
        ..MeWriterStatus::default()
    };
    let draining = MeWriterStatus {
        writer_id: 2,
        generation: 2,
        state: "draining",
        draining: true,
        bound_clients: 0,
        idle_for_secs: Some(4),
        rtt_ema_ms: None,
        matches_active_generation: false,
        drain_started_at_epoch_secs: Some(1_800_000_000),
        drain_deadline_epoch_secs: Some(1_800_000_090),
        ..active.clone()
    };
    vec![active, draining]
}

fn pool_state(up: bool) -> RuntimeMePoolStatePayload {
    let (total, alive) = if up { (2, 1) } else { (0, 0) };
    RuntimeMePoolStatePayload {
        generations: RuntimeMePoolStateGenerationData {
            active_generation: 3,
            warm_generation: 4,
            pending_hardswap_generation: 4,
            pending_hardswap_age_secs: Some(12),
            draining_generations: if up { vec![2] } else { Vec::new() },
        },
        hardswap: RuntimeMePoolStateHardswapData {
            enabled: true,
            pending: true,
        },
        writers: RuntimeMePoolStateWriterData {
            total,
            alive_non_draining: alive,
            draining: total - alive,
            degraded: 0,
            contour: RuntimeMePoolStateWriterContourData {
                warm: 0,
                active: alive,
                draining: total - alive,
            },
            health: RuntimeMePoolStateWriterHealthData {
                healthy: alive,
                degraded: 0,
                draining: total - alive,
            },
        },
        refill: RuntimeMePoolStateRefillData {
            inflight_endpoints_total: 3,
            inflight_dc_total: 2,
            by_dc: [("V4", 2), ("V6", 1)]
                .map(|(family, inflight)| RuntimeMePoolStateRefillDcData {
                    dc: -2,
                    family,
                    inflight,
                })
                .to_vec(),
        },
    }
}

fn quality(up: bool) -> RuntimeMeQualityPayload {
    let family = |family, state, suppressed_until_epoch_secs| RuntimeMeQualityFamilyStateData {
        family,
        state,
        state_since_epoch_secs: 1_800_000_000,
        suppressed_until_epoch_secs,
        fail_streak: 5,
        recover_success_streak: 0,
    };
    RuntimeMeQualityPayload {
        counters: RuntimeMeQualityCountersData {
            reader_eof_total: 1,
            ..RuntimeMeQualityCountersData::default()
        },
        route_drops: RuntimeMeQualityRouteDropData::default(),
        family_states: vec![
            family("v4", if up { "healthy" } else { "degraded" }, None),
            family("v6", "suppressed", Some(1_800_000_060)),
        ],
        drain_gate: RuntimeMeQualityDrainGateData {
            route_quorum_ok: up,
            redundancy_ok: false,
            block_reason: if up { "redundancy" } else { "coverage_quorum" },
            updated_at_epoch_secs: 1_800_000_000,
        },
        dc_rtt: vec![RuntimeMeQualityDcRttData {
            dc: -2,
            rtt_ema_ms: up.then_some(12.5),
            alive_writers: usize::from(up),
            required_writers: 2,
            coverage_pct: if up { 50.0 } else { 0.0 },
        }],
    }
}

fn nat_stun(up: bool) -> RuntimeNatStunPayload {
    let server = "stun.example.org:3478".to_owned();
    RuntimeNatStunPayload {
        flags: RuntimeNatStunFlagsData {
            nat_probe_enabled: true,
            nat_probe_disabled_runtime: !up,
            nat_probe_attempts: if up { 0 } else { u8::MAX },
        },
        servers: RuntimeNatStunServersData {
            configured: vec![server.clone()],
            live: if up { vec![server] } else { Vec::new() },
            live_total: usize::from(up),
        },
        reflection: RuntimeNatStunReflectionBlockData {
            v4: up.then(|| RuntimeNatStunReflectionData {
                addr: "203.0.113.7:40000".to_owned(),
                age_secs: 5,
            }),
            v6: None,
        },
        stun_backoff_remaining_ms: (!up).then_some(60_000),
    }
}

fn selftest(up: bool) -> RuntimeMeSelftestPayload {
    let last = LastSkew {
        skew_secs: 61,
        source: "proxy_config_date_header",
        age_secs: 3,
    };
    RuntimeMeSelftestPayload {
        kdf: RuntimeMeSelftestKdfData::new(if up { 0.1 } else { 0.4 }, 2),
        timeskew: RuntimeMeSelftestTimeskewData::new(
            (!up).then_some(61),
            usize::from(!up),
            (!up).then_some(last),
        ),
        ip: RuntimeMeSelftestIpData {
            v4: Some(RuntimeMeSelftestIpFamilyData {
                addr: "192.168.1.2".to_owned(),
                state: "bogon",
            }),
            v6: None,
        },
        pid: RuntimeMeSelftestPidData::new(if up { 1 } else { 77 }),
        bnd: RuntimeMeSelftestBndData::default(),
    }
}

const LIVE: &str = "192.0.2.7:8888";
const DEAD: &str = "[2001:db8::7]:8888";
