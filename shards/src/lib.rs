//! The data plane: one pinned executor per core, its client sockets and its connections to
//! Telegram. Knows nothing of HTTP, TOML files or the command line.
//!
//! Layers, each importing only those before it: [`proto`] (bytes), `policy` (decisions), `engine`
//! (the shard's own io_uring), `net` (joins them on glommio). What control and data say to each
//! other is in [`control`], [`counters`] and [`settings`].
#![deny(unsafe_code)]

pub mod control;
pub mod counters;
mod engine;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod keys;
mod net;
mod policy;
pub mod proto;
pub mod settings;

pub use settings::FrontTable;

pub use net::{
    Clock, Control, FrontLink, Mailbox, NameLink, PlaceGauge, Plane, PressureLink, StartError,
    Updating, start,
};

/// Middle proxies: what the supervisor of the process decides with, and what it says to the shards.
pub mod me {
    pub use crate::net::MeLink;
    pub use crate::policy::Millis;
    pub use crate::policy::me::{
        families::FamilyState,
        plan::{
            Addresses, Fill, Generations, GroupPlan, Plan, Replacing, Route, Secret, ShardLimits,
            Task, TaskKind, WriterId,
        },
        report::{GroupUse, KeyFacts, PoolEvent, RefillRow, Report, WriterRow, WriterState},
        startup::{Stage, StageMove},
        status::{
            BlockReason, BoundStatus, FamilyStatus, FloorStatus, GateStatus, GenerationStatus,
            GroupStatus, InitStatus, MeStatus, QuarantineStatus, RefreshStatus, RerouteReason,
            RouteStatus, SelftestStatus, SkewStatus, StartupStatus, StepState, StepStatus,
        },
        supervisor::{MeEvent, MeEventKind, Offered, Origin, Setup, SkewSource, Supervisor},
    };
}

/// What the host offers and lacks.
pub mod host {
    pub use crate::engine::descriptors::make_descriptor_room;
    pub use crate::engine::memory::{
        avoid_huge_pages, release_freed_memory, release_on_request, with_memory_released,
    };
    pub use crate::engine::probe::{HostError, HostReport, allowed_cores, check_host};
}
