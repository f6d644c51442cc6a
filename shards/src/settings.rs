//! What the data plane needs to know, already parsed and checked: a struct per concern.
//!
//! Built by the binary from the configuration file. Values here are in range; the plane does not
//! check them again.

use std::{net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;

use crate::proto::{dc::DcTable, middle::proxy_req::AdTag, secret::Secret};

mod front;
mod listen;
mod mask;
mod me;
mod names;
mod upstream;

pub use self::front::{
    FlightBytes, Flights, Front, FrontTable, SIGNATURE_VARIES_BYTES, SuiteOrder,
};
pub use self::listen::{ListenerSettings, PlaceSettings, ProxySettings, UnixListenerSettings};
pub use self::mask::{MaskSettings, MaskTarget, OwnAddresses};
pub use self::me::{
    AdmissionSettings, DialSettings, DownlinkSettings, DrainSettings, FamilySettings,
    FloorSettings, HealthSettings, KeepaliveSettings, MeCounts, MeSettings, NoWriterMode, PickMode,
    PickSettings, RefreshSettings, ReinitSettings, SingleEndpointSettings, StaleBind,
    UplinkSettings,
};
pub use self::names::{Host, HostPort, NameTable, NoHostPort};
pub use self::upstream::{Interface, RouteKind, RouteSettings, SecretText, SourceSettings};

/// Everything `start` needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Cores, rings, buffers, bounds.
    pub plane: PlaneSettings,
    /// Where clients are accepted. Each shard opens every one of them (`SO_REUSEPORT`).
    pub listeners: Vec<ListenerSettings>,
    /// Where else they are accepted: one socket that all shards take from in turn.
    pub unix: Option<UnixListenerSettings>,
    /// Headers of load balancers, for listeners that want them.
    pub proxy: ProxySettings,
    /// Bound on clients of the whole process.
    pub places: PlaceSettings,
    /// Which kinds of client are served.
    pub modes: Modes,
    /// FakeTLS rules.
    pub tls: TlsSettings,
    /// Where strangers go; `None` reads and discards what they send.
    pub mask: Option<Arc<MaskSettings>>,
    /// Phase limits of a client connection.
    pub timeouts: TimeoutSettings,
    /// Replay protection.
    pub replay: ReplaySettings,
    /// How DCs are reached.
    pub upstream: UpstreamSettings,
    /// Middle proxies; `None`: every session goes to its DC directly.
    pub me: Option<MeSetup>,
    /// What can change while the plane runs, beside the users.
    pub hot: HotSettings,
    /// Users, their secrets and limits; replaced as a whole when the configuration changes.
    pub users: Arc<[UserSettings]>,
}

/// What a plane that may go through middle proxies starts with.
#[derive(Clone, Debug)]
pub struct MeSetup {
    /// The knobs until the first plan brings others.
    pub settings: Arc<MeSettings>,
    /// The system's id of this process; told to MEs.
    pub pid: u32,
    /// When this process started, Unix seconds; told to MEs.
    pub start_unix_secs: u32,
}

/// What applies to all users and may change while the plane runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HotSettings {
    /// What is counted.
    pub telemetry: TelemetrySettings,
    /// How addresses are counted against a user's limit.
    pub addresses: AddressSettings,
    /// Limits by source network. Of several keys that fit the longest exact net counts; where
    /// none fits, the longest template.
    pub net_rates: Vec<NetRate>,
    /// Ad tag of users without their own (`general.ad_tag`).
    pub ad_tag: Option<AdTag>,
}

/// What is counted; gauges and limits are right in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TelemetrySettings {
    /// Totals of client connections: `CoreCounters`, classes and stages.
    pub core: bool,
    /// Totals of each user.
    pub user: bool,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            core: true,
            user: true,
        }
    }
}

/// How source addresses count against `unique_ips_max` (config.md 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressSettings {
    /// Which addresses count.
    pub mode: AddressMode,
    /// How long an address is remembered after it was seen; also how long it stays listed.
    pub window: Duration,
}

impl Default for AddressSettings {
    fn default() -> Self {
        Self {
            mode: AddressMode::Live,
            window: Duration::from_secs(30),
        }
    }
}

/// Which addresses count against `unique_ips_max`. One that counts already is always let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressMode {
    /// Those with a session (`active_window`).
    Live,
    /// Those a session was opened from within the window (`time_window`).
    Recent,
    /// Those with a session, and for the window after its end (`combined`).
    Both,
}

/// Payload rates, bits per second; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateSettings {
    /// From the client.
    pub up_bps: u64,
    /// To the client.
    pub down_bps: u64,
}

/// A limit for clients of certain networks, on top of their user's (`cidr_rate_limits`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetRate {
    /// Which clients share it.
    pub nets: RateKey,
    /// The limit.
    pub rate: RateSettings,
}

/// Which clients share a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateKey {
    /// All of this net.
    Net(IpNet),
    /// All of one IPv4 subnet with a prefix of so many bits (`*4/N`), at most 32.
    EachV4(u8),
    /// All of one IPv6 subnet with a prefix of so many bits (`*6/N`), at most 128.
    EachV6(u8),
}

/// Cores, rings, buffers and per-shard bounds (`[shards]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaneSettings {
    /// The core of each shard, in shard order; its length is the number of shards.
    pub cores: Vec<usize>,
    /// How long a shard polls its ring before it parks; zero parks at once.
    pub spin: Duration,
    /// How new connections are spread over shards.
    pub steering: Steering,
    /// Receive buffers of one shard.
    pub buffers: BufferSettings,
    /// Client connections one shard holds at most; further ones are closed at accept.
    pub connections_max: usize,
    /// How long sessions may go on after SIGTERM.
    pub drain: Duration,
    /// How a shard waits when nothing is ready.
    pub parking: Parking,
    /// Which client sockets are closed with a reset.
    pub rst_on_close: RstOnClose,
    /// Count kinds of TLS clients (JA3, JA4): a few microseconds for each hello.
    pub fingerprints: bool,
    /// How long addresses that failed to become clients are remembered; `None` remembers none.
    pub observe: Option<Duration>,
}

/// Receive buffers of one shard: shared by all its sockets, owned by none while idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferSettings {
    /// Bytes of one small buffer (sockets with short messages).
    pub small_bytes: usize,
    /// Number of small buffers, a power of two.
    pub small_count: usize,
    /// Bytes of one large buffer (sockets that fill small ones).
    pub large_bytes: usize,
    /// Number of large buffers, a power of two.
    pub large_count: usize,
    /// Unsent bytes held for one socket before its source is no longer read.
    pub queue_bytes_max: usize,
    /// Unsent bytes of all stalled sockets together, kept outside the ring buffers, per shard.
    pub spill_bytes_max: usize,
}

/// Which client sockets are closed with a reset: cheap for the host, and nothing that an ordinary
/// server does. Source: protocol.md, `rst_on_close`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RstOnClose {
    /// None.
    #[default]
    Off,
    /// Those of clients that never became known.
    Errors,
    /// All but those of strangers who see the mask host: a reset there is the mask host's.
    Always,
}

/// How a shard waits when nothing is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parking {
    /// In the ring's own `io_uring_enter`: one syscall per turn; the core does nothing else.
    Ring,
    /// In the executor, which polls the ring's descriptor and can run other tasks.
    Executor,
}

/// How the kernel picks the shard of a new connection (engine.md, point 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// By hash of the four-tuple: an even spread on any host.
    Hash,
    /// To the shard of the core that took the SYN: for hosts with aligned NIC queues.
    Cpu,
}

/// Client modes that are served (protocol.md 1 and 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes {
    /// obfuscated2 with tag `ef` or `ee`.
    pub classic: bool,
    /// obfuscated2 with tag `dd`.
    pub secure: bool,
    /// FakeTLS.
    pub tls: bool,
}

/// FakeTLS rules (protocol.md 6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Lower-case host names that clients may name in SNI; the first is the main one.
    pub domains: Vec<String>,
    /// What to do with a valid hello that names another host.
    pub unknown_sni: UnknownSni,
    /// Largest difference of clocks, seconds; `None` ignores the client's clock.
    pub skew_secs_max: Option<u32>,
    /// Pause before the answer, drawn uniformly between the two, milliseconds.
    pub hello_delay_ms: (u32, u32),
    /// Bytes of the emulated certificate flight when none was measured, inclusive range.
    pub flight_bytes: (u16, u16),
    /// Clients whose list of application protocols has neither `h2` nor `http/1.1` are strangers.
    pub alpn_enforce: bool,
    /// Records behind the answer begin short and grow.
    pub record_ramp: bool,
    /// How long an address that got a full answer gets short ones; `None`: all are full.
    pub compact_ttl: Option<Duration>,
}

/// Policy for a valid hello with an SNI that is not ours (protocol.md 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownSni {
    /// Close without an answer.
    Drop,
    /// Treat as a stranger.
    Mask,
    /// Serve.
    Accept,
    /// Fatal alert `unrecognized_name`, then close.
    RejectHandshake,
}

/// Phase limits of a client connection (protocol.md 10.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutSettings {
    /// Accept to first byte; zero starts the handshake limit at once.
    pub first_byte: Duration,
    /// First byte to authenticated; up to half is added at random.
    pub handshake: Duration,
    /// ServerHello sent to inner header.
    pub inner_header: Duration,
    /// Relay with nothing in either direction.
    pub idle: Duration,
    /// After one side ended, the other may still take this long.
    pub half_close: Duration,
    /// TCP keepalive: idle time and interval of both sockets; zero turns it off.
    pub keepalive: Duration,
    /// `TCP_USER_TIMEOUT` of the client socket; zero leaves the kernel's.
    pub client_ack: Duration,
}

/// Replay protection (protocol.md 3.7, 6.6). Shared by all shards of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplaySettings {
    /// Keys remembered at least; rounded up to a power of two.
    pub entries: usize,
    /// How long a key is remembered.
    pub window: Duration,
}

/// How DCs are reached (protocol.md 1, 9.5, 9.6).
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// Addresses of all DCs, overrides included.
    pub dcs: DcTable,
    /// IPv4 may be used.
    pub ipv4: bool,
    /// IPv6 may be used.
    pub ipv6: bool,
    /// IPv6 is tried before IPv4.
    pub prefer_ipv6: bool,
    /// The ways out, in configuration order; none: no DC can be reached.
    pub routes: Vec<RouteSettings>,
    /// Encrypt the downlink with the client's keys at the DC (protocol.md 4.2).
    pub fast_mode: bool,
    /// Limit of one connect.
    pub connect_timeout: Duration,
    /// Connects after the first one.
    pub connect_retries: u32,
    /// Pause between connects; up to half is added at random.
    pub connect_backoff: Duration,
    /// Limit of all pauses and connects after the first one.
    pub connect_budget: Duration,
    /// Do not retry errors that cannot pass by themselves.
    pub failfast_hard_errors: bool,
    /// Client cycles that must fail in a row before the route counts as unhealthy.
    pub unhealthy_fails: u32,
    /// Pause between probes of all DCs; zero turns probing off.
    pub probe_every: Duration,
}

/// One user as the data plane sees it.
#[derive(Clone, Debug)]
pub struct UserSettings {
    /// Name as in the configuration; of two users with one name the later counts.
    pub name: Arc<str>,
    /// The 16-byte secret.
    pub secret: Secret,
    /// Disabled users fail like strangers.
    pub enabled: bool,
    /// Concurrent sessions; 0 is no limit.
    pub connections_max: u64,
    /// Unix time, seconds, from which on the user is refused and running sessions end.
    pub expires_at: Option<i64>,
    /// Payload bytes in both directions together; 0 blocks the user.
    pub quota_bytes: Option<u64>,
    /// Source addresses, counted as [`AddressSettings`] says; 0 is no limit.
    pub unique_ips_max: u64,
    /// Sources that are refused even with the right secret.
    pub source_deny: Vec<IpNet>,
    /// All sessions of the user together.
    pub rate: RateSettings,
    /// Quota used so far; looked at only when the plane does not know the name yet.
    pub quota_used_bytes: u64,
    /// The user's own ad tag, for sessions through middle proxies that begin from now on.
    pub ad_tag: Option<AdTag>,
}

#[cfg(any(test, fuzzing))]
impl UserSettings {
    /// A user without limits.
    pub(crate) fn unlimited(name: &str) -> Self {
        Self {
            name: name.into(),
            secret: Secret([7; 16]),
            enabled: true,
            connections_max: 0,
            expires_at: None,
            quota_bytes: None,
            unique_ips_max: 0,
            source_deny: Vec::new(),
            rate: RateSettings::default(),
            quota_used_bytes: 0,
            ad_tag: None,
        }
    }
}

/// An address as counted per user: IPv4-mapped IPv6 is unwrapped.
pub type SourceIp = IpAddr;
