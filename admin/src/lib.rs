//! The control API: HTTP, the `/v1` contract, and nothing of the data path.
//!
//! [`start`] binds the port and serves it from threads of its own. What the process is doing comes
//! from a [`ControlPlane`], what the configuration file says from a [`UserStore`]; the binary
//! implements both. Shards, TOML and the command line are unknown here.
#![forbid(unsafe_code)]

mod body;
mod cache;
mod connection;
mod events;
mod expiration;
mod gate;
mod handlers;
mod head;
mod input;
mod metrics;
mod model;
mod plane;
mod poller;
mod pool;
mod reply;
mod request;
mod route;
mod send;
mod server;
mod settings;
mod startup;
mod store;
mod users;

pub use self::{
    events::Events,
    expiration::Expiration,
    metrics::{Metrics, MetricsSettings, start_metrics},
    model::limits::{
        EffectiveLimitsData, EffectiveMiddleProxyLimits, EffectiveTimeoutLimits,
        EffectiveUpstreamLimits, EffectiveUserIpPolicyLimits, EffectiveUserTcpPolicyLimits,
    },
    model::minimal::{
        DcEndpointWriters, DcStatus, MeWriterStatus, MeWritersSummary, MinimalDcPathData,
        MinimalMeRuntimeData, MinimalQuarantineData, MinimalSnapshot,
    },
    model::nat_stun::{
        RuntimeNatStunFlagsData, RuntimeNatStunPayload, RuntimeNatStunReflectionBlockData,
        RuntimeNatStunReflectionData, RuntimeNatStunServersData,
    },
    model::pool_state::{
        RuntimeMePoolStateGenerationData, RuntimeMePoolStateHardswapData,
        RuntimeMePoolStatePayload, RuntimeMePoolStateRefillData, RuntimeMePoolStateRefillDcData,
        RuntimeMePoolStateWriterContourData, RuntimeMePoolStateWriterData,
        RuntimeMePoolStateWriterHealthData,
    },
    model::quality::{
        RuntimeMeQualityCountersData, RuntimeMeQualityDcRttData, RuntimeMeQualityDrainGateData,
        RuntimeMeQualityFamilyStateData, RuntimeMeQualityPayload, RuntimeMeQualityRouteDropData,
    },
    model::selftest::{
        LastSkew, RuntimeMeSelftestBndData, RuntimeMeSelftestIpData, RuntimeMeSelftestIpFamilyData,
        RuntimeMeSelftestKdfData, RuntimeMeSelftestPayload, RuntimeMeSelftestPidData,
        RuntimeMeSelftestTimeskewData,
    },
    model::upstreams::ip_preference,
    model::users::{TlsDomainLink, UserLinks},
    plane::{
        Build, ConntrackState, ControlPlane, DcAddresses, MeView, PlaneSnapshot, Process, Reloads,
        Reroute, RerouteReason, RouteKind, RouteMode, Running, Telemetry, Transport, UpstreamInfo,
    },
    server::{Api, StartError, bind, serve, start},
    settings::{ApiSettings, RefusedPeer},
    startup::{MeStartup, Startup, StartupStatus, Step, StepStatus},
    store::{
        ConfigPatched, CreateUser, Deleted, EDITABLE_SECTIONS, FailurePolicy, Patch, PatchUser,
        QuotaReset, QuotaRow, ReloadAccepted, ReloadMode, ReloadRequest, ReloadState, ReloadStatus,
        Revision, SecretText, StoreError, StoredConfig, StoredUser, StoredUsers, UserChanged,
        UserDefaults, UserStore,
    },
    users::UserNames,
};
