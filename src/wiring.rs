//! Configuration to `shards::Settings`: defaults that depend on the host are chosen here, and
//! units become durations. The data plane sees nothing of TOML.
//!
//! Not here: what a key may be (`config/`). Called by `serve`.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use shards::{
    proto::middle::proxy_req::AdTag,
    settings::{
        AddressMode, AddressSettings, BufferSettings, HotSettings, Modes, NetRate, Parking,
        PlaneSettings, RateKey, RateSettings, ReplaySettings, RstOnClose, Settings, Steering,
        TelemetrySettings, TimeoutSettings, TlsSettings, UnknownSni, UserSettings,
    },
};

use crate::config::{
    Config, Loaded,
    access::UniqueIpsMode,
    censorship::UnknownSniAction,
    general::RstOnClose as ResetOf,
    kinds::Rate,
    shards::{CoreList, Count, ParkingMode, RecordMode, SteeringMode},
    sockets::NetKey,
};

/// What the process may use of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostShare {
    /// Cores in the process's CPU mask, ascending.
    pub(crate) allowed: Vec<usize>,
    /// CPUs' worth of time its control group grants, rounded up; `None` is no limit.
    pub(crate) limit: Option<usize>,
    /// Memory of the host or of its control group, bytes; `None` where the kernel does not say.
    pub(crate) memory_bytes: Option<u64>,
}

/// Command-line values that win over the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overrides {
    /// `--shards`.
    pub(crate) shards: Option<usize>,
    /// `--cores`.
    pub(crate) cores: Option<CoreList>,
}

/// Settings, and what was left out of them.
#[derive(Clone, Debug)]
pub(crate) struct Wired {
    /// For the data plane.
    pub(crate) settings: Settings,
    /// Listeners of a family that is off.
    pub(crate) skipped: Vec<SocketAddr>,
    /// What does not fit the budget of buffers on this host, where the file alone does not show it.
    pub(crate) over_budget: Option<String>,
}

/// A configuration that does not fit this host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WiringError {
    /// Every listener is switched off.
    #[error(
        "nothing to listen on: set server.listen_addr_ipv4 or [[server.listeners]], and the \
         address family in [network]"
    )]
    NoListener,
    /// A named core is not ours.
    #[error("core {core} is not available to this process, which may use {allowed:?}")]
    Core {
        /// Its number.
        core: usize,
        /// Those that are.
        allowed: Vec<usize>,
    },
    /// More shards than cores.
    #[error("{shards} shards do not fit on {cores} cores; lower shards.count or --shards")]
    Shards {
        /// Asked for.
        shards: usize,
        /// There are.
        cores: usize,
    },
}

/// Builds the settings of the data plane.
///
/// # Errors
/// [`WiringError`]: no listener left, or cores that this process does not have.
pub(crate) fn wire(
    loaded: &Loaded,
    overrides: &Overrides,
    cpus: &HostShare,
    used_bytes: UsedBytes<'_>,
) -> Result<Wired, WiringError> {
    let config = &loaded.config;
    let (listeners, skipped) = listen::listeners(config);
    let unix = listen::unix(config);
    if listeners.is_empty() && unix.is_none() {
        return Err(WiringError::NoListener);
    }
    let cores = cores(config, overrides, cpus)?;
    let mask = mask::mask(config, cores.len());
    let (buffers, over_budget) = buffers(loaded, cores.len(), cpus.memory_bytes);
    let settings = Settings {
        plane: plane(config, cores, buffers),
        mask,
        listeners,
        unix,
        proxy: listen::proxy(config),
        places: listen::places(config),
        modes: Modes {
            classic: config.modes.classic,
            secure: config.modes.secure,
            tls: config.modes.tls,
        },
        tls: tls(loaded),
        timeouts: timeouts(config),
        replay: replay(loaded),
        upstream: upstream::upstream(config),
        me: me::setup(config),
        hot: hot(config),
        users: users(config, used_bytes),
    };
    Ok(Wired {
        settings,
        skipped,
        over_budget,
    })
}

/// The core of each shard.
fn cores(
    config: &Config,
    overrides: &Overrides,
    cpus: &HostShare,
) -> Result<Vec<usize>, WiringError> {
    let named = overrides.cores.as_ref().or(config.shards.cores.as_ref());
    let mut cores = match named {
        Some(CoreList(named)) => {
            if let Some(&core) = named.iter().find(|core| !cpus.allowed.contains(core)) {
                return Err(WiringError::Core {
                    core,
                    allowed: cpus.allowed.clone(),
                });
            }
            named.clone()
        }
        None => cpus.allowed.clone(),
    };
    let count = match (overrides.shards, config.shards.count) {
        (Some(count), _) | (None, Count::Fixed(count)) => count,
        // Named cores are all meant; otherwise more shards than CPU time only fight each other.
        (None, Count::Auto) if named.is_some() => cores.len(),
        (None, Count::Auto) => cores.len().min(cpus.limit.unwrap_or(usize::MAX)).max(1),
    };
    if count > cores.len() {
        return Err(WiringError::Shards {
            shards: count,
            cores: cores.len(),
        });
    }
    cores.truncate(count);
    Ok(cores)
}

/// The buffers of one shard, and what is to be said of them.
fn buffers(
    loaded: &Loaded,
    shards: usize,
    memory_bytes: Option<u64>,
) -> (BufferSettings, Option<String>) {
    let (config, is_set) = (&loaded.config, |key: &str| loaded.sets(key));
    let fitted = buffers::fit(config, &is_set, shards, memory_bytes);
    // What the file alone shows was said when it was read.
    let new = buffers::excess_of_any_host(config, &is_set).is_none();
    (fitted.buffers, fitted.excess.filter(|_| new))
}

fn plane(config: &Config, cores: Vec<usize>, buffers: BufferSettings) -> PlaneSettings {
    let own = &config.shards;
    PlaneSettings {
        cores,
        spin: Duration::from_micros(u64::from(own.spin_us)),
        steering: match own.steering {
            SteeringMode::Hash => Steering::Hash,
            SteeringMode::Cpu => Steering::Cpu,
        },
        buffers,
        connections_max: own.connections_max.unwrap_or(CONNECTIONS_MAX),
        drain: Duration::from_secs(own.drain_secs),
        parking: match own.parking {
            ParkingMode::Ring => Parking::Ring,
            ParkingMode::Executor => Parking::Executor,
        },
        rst_on_close: match config.general.rst_on_close {
            ResetOf::Off => RstOnClose::Off,
            ResetOf::Errors => RstOnClose::Errors,
            ResetOf::Always => RstOnClose::Always,
        },
        fingerprints: config.api.enabled && config.api.runtime_edge_enabled,
        observe: (config.general.beobachten)
            .then(|| Duration::from_secs(config.general.beobachten_minutes.saturating_mul(60))),
    }
}

fn tls(loaded: &Loaded) -> TlsSettings {
    let config = &loaded.config;
    let tls = &config.censorship;
    let millis = |ms: u64| u32::try_from(ms).unwrap_or(u32::MAX);
    TlsSettings {
        domains: std::iter::once(&tls.tls_domain)
            .chain(&tls.tls_domains)
            .map(|domain| domain.0.clone())
            .collect(),
        unknown_sni: match tls.unknown_sni_action {
            UnknownSniAction::Drop => UnknownSni::Drop,
            UnknownSniAction::Mask => UnknownSni::Mask,
            UnknownSniAction::Accept => UnknownSni::Accept,
            UnknownSniAction::RejectHandshake => UnknownSni::RejectHandshake,
        },
        skew_secs_max: (!config.access.ignore_time_skew).then_some(SKEW_SECS_MAX),
        hello_delay_ms: match tls.server_hello_delay_max_ms {
            0 => (0, 0),
            max => (millis(tls.server_hello_delay_min_ms), millis(max)),
        },
        flight_bytes: flight_bytes(loaded),
        alpn_enforce: tls.alpn_enforce,
        record_ramp: config.shards.record_sizes == RecordMode::Ramp,
        compact_ttl: (tls.serverhello_compact)
            .then(|| Duration::from_secs(tls.tls_full_cert_ttl_secs)),
    }
}

/// Sizes of the certificate flight where none was learned.
fn flight_bytes(loaded: &Loaded) -> (u16, u16) {
    let tls = &loaded.config.censorship;
    let one = if loaded.sets("censorship.fake_cert_len") {
        let bytes = u16::try_from(tls.fake_cert_len).unwrap_or(u16::MAX);
        bytes.clamp(FLIGHT_BYTES_MIN, FLIGHT_BYTES_MAX)
    } else if tls.tls_emulation {
        return FLIGHT_BYTES;
    } else {
        // One for the life of the process, as a server has one certificate.
        rand::random_range(FLIGHT_BYTES_MADE_UP)
    };
    (one, one)
}

fn timeouts(config: &Config) -> TimeoutSettings {
    let secs = Duration::from_secs;
    let timeouts = &config.timeouts;
    TimeoutSettings {
        first_byte: secs(timeouts.client_first_byte_idle_secs),
        handshake: secs(timeouts.client_handshake),
        inner_header: secs(config.shards.inner_header_secs),
        idle: secs(config.shards.relay_idle_secs),
        half_close: HALF_CLOSE,
        keepalive: secs(timeouts.client_keepalive),
        client_ack: secs(timeouts.client_ack),
    }
}

/// The reference forgets after 120 seconds, which lets a recorded handshake in again (protocol.md
/// 6.5); unless the file says otherwise we remember for two days.
fn replay(loaded: &Loaded) -> ReplaySettings {
    let access = &loaded.config.access;
    let entries = if loaded.sets("access.replay_check_len") {
        access.replay_check_len.clamp(1024, REPLAY_ENTRIES_MAX)
    } else {
        REPLAY_ENTRIES
    };
    let window = if loaded.sets("access.replay_window_secs") {
        Duration::from_secs(access.replay_window_secs)
    } else {
        REPLAY_WINDOW
    };
    ReplaySettings { entries, window }
}

/// What concerns all users and may change while the plane runs.
pub(crate) fn hot(config: &Config) -> HotSettings {
    let access = &config.access;
    let rates = access.cidr_rate_limits.0.iter();
    HotSettings {
        telemetry: TelemetrySettings {
            core: config.telemetry.core_enabled,
            user: config.telemetry.user_enabled,
        },
        addresses: AddressSettings {
            mode: match access.user_max_unique_ips_mode {
                UniqueIpsMode::ActiveWindow => AddressMode::Live,
                UniqueIpsMode::TimeWindow => AddressMode::Recent,
                UniqueIpsMode::Combined => AddressMode::Both,
            },
            window: Duration::from_secs(access.user_max_unique_ips_window_secs),
        },
        net_rates: rates
            .map(|(nets, limit)| NetRate {
                nets: match *nets {
                    NetKey::Net(net) => RateKey::Net(net),
                    NetKey::Each4(bits) => RateKey::EachV4(bits),
                    NetKey::Each6(bits) => RateKey::EachV6(bits),
                },
                rate: rate(*limit),
            })
            .collect(),
        ad_tag: config.general.ad_tag.as_ref().map(|tag| AdTag(tag.0)),
    }
}

fn rate(limit: Rate) -> RateSettings {
    RateSettings {
        up_bps: limit.up_bps,
        down_bps: limit.down_bps,
    }
}

/// What a user has used of a quota, bytes, by name.
pub(crate) type UsedBytes<'a> = &'a dyn Fn(&str) -> u64;

/// Users in file order: the index is the data plane's user id at the start.
pub(crate) fn users(config: &Config, used_bytes: UsedBytes<'_>) -> Arc<[UserSettings]> {
    fn by_name<T>(map: &crate::config::value::Map<T>) -> HashMap<&str, &T> {
        map.0
            .iter()
            .map(|(name, value)| (name.as_str(), value))
            .collect()
    }
    let access = &config.access;
    let enabled = by_name(&access.user_enabled);
    let conns = by_name(&access.user_max_tcp_conns);
    let ips = by_name(&access.user_max_unique_ips);
    let quotas = by_name(&access.user_data_quota);
    let expirations = by_name(&access.user_expirations);
    let denies = by_name(&access.user_source_deny);
    let rates = by_name(&access.user_rate_limits);
    let ad_tags = by_name(&access.user_ad_tags);
    // 0 falls back to the limit for everybody.
    let limit = |own: Option<&&usize>, each: usize| match own {
        Some(&&own) if own > 0 => own as u64,
        _ => each as u64,
    };
    let user = |(name, secret): &(String, crate::config::secrets::UserSecret)| {
        let name = name.as_str();
        UserSettings {
            name: Arc::from(name),
            secret: secret.0,
            enabled: enabled.get(name).is_none_or(|enabled| **enabled),
            connections_max: limit(conns.get(name), access.user_max_tcp_conns_global_each),
            expires_at: expirations.get(name).map(|moment| moment.0),
            quota_bytes: quotas.get(name).map(|bytes| **bytes),
            unique_ips_max: limit(ips.get(name), access.user_max_unique_ips_global_each),
            source_deny: denies
                .get(name)
                .map(|nets| (*nets).clone())
                .unwrap_or_default(),
            rate: rates
                .get(name)
                .map(|limit| rate(**limit))
                .unwrap_or_default(),
            quota_used_bytes: used_bytes(name),
            ad_tag: ad_tags.get(name).map(|tag| AdTag(tag.0)),
        }
    };
    access.users.0.iter().map(user).collect()
}

/// protocol.md 6.4.
const SKEW_SECS_MAX: u32 = 120;
/// protocol.md 6.7, without a measurement.
const FLIGHT_BYTES: (u16, u16) = (2048, 4500);
/// The same without learning, where the key keeps its default (config.json, `fake_cert_len`).
const FLIGHT_BYTES_MADE_UP: std::ops::RangeInclusive<u16> = 1024..=4095;
/// What the key may say: what clients take.
const FLIGHT_BYTES_MIN: u16 = 1024;
const FLIGHT_BYTES_MAX: u16 = 10_000;
/// protocol.md 6.6.
const REPLAY_ENTRIES: usize = 1_048_576;
const REPLAY_WINDOW: Duration = Duration::from_secs(48 * 3600);
/// 2 GiB of replay store.
const REPLAY_ENTRIES_MAX: usize = 67_108_864;
/// protocol.md 10.2.
const HALF_CLOSE: Duration = Duration::from_secs(5);
/// What "unlimited" means for one process.
const CONNECTIONS_MAX: usize = 16_777_216;

pub(crate) mod buffers;
pub(crate) mod front;
pub(crate) mod listen;
pub(crate) mod mask;
pub(crate) mod me;
pub(crate) mod names;
#[cfg(test)]
mod tests;
pub(crate) mod upstream;
