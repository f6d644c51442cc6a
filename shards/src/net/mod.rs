//! The edge: joins engine and policy on glommio. Receives, asks policy, does what it says; holds
//! no rule of its own.

mod accept;
mod client;
mod connector;
mod control;
mod dial;
mod doors;
mod expiry;
mod listen;
mod mailbox;
mod mask;
mod me;
mod pace;
mod pressure;
mod probing;
mod relay;
mod shard;
mod sources;
mod splice;
mod start;
mod tally;
mod update;

pub use self::control::{Control, Updating};
pub use self::mailbox::Mailbox;
pub use self::start::{
    Clock, FrontLink, MeLink, NameLink, PlaceGauge, Plane, PressureLink, StartError, start,
};
