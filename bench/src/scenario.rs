//! Named loads and their pass marks: what `bench run` and `bench suite` know by name.
//!
//! How a load is performed is in [`load`](crate::load); this is the table of them.

use crate::{client::Mode, load::Load};

/// A load with a name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scenario {
    /// On the command line and in reports.
    pub name: &'static str,
    /// One line for `bench list`.
    pub about: &'static str,
    /// What is done in one round.
    pub load: Load,
    /// `ee` clients send the hello of 517 bytes.
    pub classic_hello: bool,
    /// Every connection is another user's, so that no memory of earlier ones helps to find them.
    pub all_users: bool,
}

/// All loads. The ones that are no loads (`idle`, `stall`, `start`, `quiet`) are in
/// [`standing`](crate::standing) and [`stall`](crate::stall).
pub const SCENARIOS: [Scenario; 12] = [
    Scenario::new(
        "bulk-down",
        "4 connections download 1 GiB in all",
        down(4, GIB),
    ),
    Scenario::new(
        "bulk-down-1",
        "1 connection downloads 512 MiB",
        down(1, GIB / 2),
    ),
    Scenario::new(
        "bulk-parts",
        "4 connections download 1 GiB in parts of 1 MiB, 4 deep",
        Load::Parts {
            connections: 4,
            bytes: GIB,
            part_bytes: 1 << 20,
            depth: 4,
        },
    ),
    Scenario::new(
        "bulk-up-64k",
        "4 connections upload 512 MiB in requests of 64 KiB, 4 deep",
        up(64 << 10),
    ),
    Scenario::new(
        "bulk-up-1m",
        "4 connections upload 512 MiB in requests of 1 MiB, 4 deep",
        up(1 << 20),
    ),
    Scenario::new(
        "ping-1",
        "20,000 round trips of 64 bytes on 1 connection",
        ping(1, 20_000),
    ),
    Scenario::new(
        "ping-64",
        "100,000 round trips of 64 bytes on 64 connections",
        ping(64, 100_000),
    ),
    Scenario::new(
        "ping-1000",
        "100,000 round trips of 64 bytes on 1,000 connections",
        ping(1000, 100_000),
    ),
    Scenario::new(
        "ping-10000",
        "200,000 round trips of 64 bytes on 10,000 connections",
        ping(10_000, 200_000),
    ),
    Scenario::new(
        "churn",
        "4,000 times connect, one round trip, close; 16 at a time",
        churn(),
    ),
    Scenario {
        classic_hello: true,
        ..Scenario::new(
            "churn-517",
            "churn with a ClientHello of 517 bytes (ee)",
            churn(),
        )
    },
    Scenario {
        all_users: true,
        ..Scenario::new(
            "churn-users",
            "churn, every connection another user: cost per user, with --target pinnace:users=N",
            churn(),
        )
    },
];

impl Scenario {
    const fn new(name: &'static str, about: &'static str, load: Load) -> Scenario {
        Scenario {
            name,
            about,
            load,
            classic_hello: false,
            all_users: false,
        }
    }

    /// Whether it can be run straight to a DC, or through middle proxies. Those send a client all
    /// that it asks for, whatever it takes; and not every machine lets one process have the
    /// descriptors of 10,000 clients and as many connections of a DC.
    pub fn suits(&self, through_me: bool) -> bool {
        match self.load {
            Load::Down { .. } => !through_me,
            Load::Ping { connections, .. } => through_me || connections < 10_000,
            _ => true,
        }
    }

    /// The one with this name.
    pub fn find(name: &str) -> Option<&'static Scenario> {
        SCENARIOS.iter().find(|s| s.name == name)
    }
}

/// One line of the suite: a way to run our proxy, and how dear it may be compared with the relay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mark {
    /// [`Scenario::name`].
    pub scenario: &'static str,
    /// How clients speak.
    pub mode: Mode,
    /// Options of the target, as on the command line.
    pub options: &'static str,
    /// What its cost is compared with.
    pub base: Base,
    /// CPU per unit, ratio of medians, at most. `None` for a line without a goal.
    pub ratio_max: Option<f64>,
}

/// What a cost is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The relay.
    Relay,
    /// Our proxy in direct mode, for clients that speak alike.
    Direct,
}

impl Base {
    /// For reports.
    pub fn name(self) -> &'static str {
        match self {
            Base::Relay => "relay",
            Base::Direct => "direct mode",
        }
    }
}

/// The goals, in groups that are measured interleaved with each other and with the relay.
pub const MARKS: [Mark; 16] = [
    Mark::at_most("bulk-down", Mode::Dd, "", 0.60),
    Mark::at_most("bulk-down", Mode::Ee, "", 0.65),
    Mark::at_most("bulk-down", Mode::Dd, "fast=off", 0.95),
    Mark::at_most("bulk-up-64k", Mode::Dd, "", 0.95),
    Mark::at_most("bulk-up-64k", Mode::Ee, "", 1.20),
    Mark::at_most("bulk-up-1m", Mode::Dd, "", 0.95),
    Mark::at_most("bulk-up-1m", Mode::Ee, "", 1.20),
    Mark::shown("ping-1", Mode::Dd, ""),
    Mark::shown("ping-1", Mode::Ee, ""),
    Mark::at_most("ping-64", Mode::Dd, "", 1.10),
    Mark::at_most("ping-64", Mode::Ee, "", 1.10),
    Mark::at_most("ping-1000", Mode::Dd, "", 0.95),
    Mark::at_most("ping-1000", Mode::Ee, "", 0.95),
    Mark::at_most("churn", Mode::Ee, "", 1.5),
    Mark::shown("churn", Mode::Ee, "censorship.server_hello_delay_max_ms=24"),
    Mark::at_most("churn-517", Mode::Ee, "", 1.5),
];

/// The goals of the way through middle proxies.
pub const ME_MARKS: [Mark; 14] = [
    Mark::at_most("bulk-parts", Mode::Dd, ME, 1.0),
    Mark::shown("bulk-parts", Mode::Ee, ME),
    Mark::at_most("bulk-up-64k", Mode::Dd, ME, 2.0),
    Mark::shown("bulk-up-64k", Mode::Ee, ME),
    Mark::at_most("bulk-up-1m", Mode::Dd, ME, 2.0),
    Mark::shown("bulk-up-1m", Mode::Ee, ME),
    Mark::at_most("ping-64", Mode::Dd, ME, 1.05),
    Mark::shown("ping-64", Mode::Ee, ME),
    Mark::at_most("ping-1000", Mode::Dd, ME, 1.0),
    Mark::shown("ping-1000", Mode::Ee, ME),
    Mark {
        base: Base::Direct,
        ..Mark::at_most("churn", Mode::Dd, ME, 0.5)
    },
    Mark {
        base: Base::Direct,
        ..Mark::shown("churn", Mode::Ee, ME)
    },
    Mark::shown("churn", Mode::Dd, ""),
    Mark::shown("churn", Mode::Ee, ""),
];

const ME: &str = "through=me";

impl Mark {
    const fn at_most(
        scenario: &'static str,
        mode: Mode,
        options: &'static str,
        ratio: f64,
    ) -> Mark {
        Mark {
            scenario,
            mode,
            options,
            base: Base::Relay,
            ratio_max: Some(ratio),
        }
    }

    const fn shown(scenario: &'static str, mode: Mode, options: &'static str) -> Mark {
        Mark {
            ratio_max: None,
            ..Mark::at_most(scenario, mode, options, 0.0)
        }
    }
}

/// Memory per idle `ee` connection, bytes, at most.
pub const IDLE_BYTES_MAX: f64 = 4096.0;
/// Memory per idle connection through middle proxies, bytes, at most.
pub const ME_IDLE_BYTES_MAX: f64 = 3072.0;
/// p99 of clients on a writer that they share with a bad one, ratio to without, at most.
pub const NEIGHBOURS_P99_MAX: f64 = 1.5;
/// What a proxy may grow by for one bad client, bytes: the bound of its own queue, and the one of
/// the writer's.
pub const NEIGHBOURS_GROWTH_BYTES_MAX: u64 = 48 << 20;
/// CPU per unit of two shards, ratio to one, at most.
pub const TWO_SHARDS_RATIO_MAX: f64 = 1.10;
/// Part of the connections on the shard that has fewer of two, at least.
pub const SPREAD_MIN: f64 = 0.40;
/// From start to listening, milliseconds, at most.
pub const START_MS_MAX: f64 = 100.0;
/// CPU of a proxy without clients, parts of a core, at most: a tick of the kernel's clock in 5 s.
pub const QUIET_CPU_MAX: f64 = 0.002;
/// What a proxy may grow by while slow readers let 64 MiB each wait, bytes.
pub const STALL_GROWTH_BYTES_MAX: u64 = 48 << 20;

const GIB: u64 = 1 << 30;

const fn down(connections: usize, bytes: u64) -> Load {
    Load::Down { connections, bytes }
}

const fn up(request_bytes: usize) -> Load {
    Load::Up {
        connections: 4,
        bytes: GIB / 2,
        request_bytes,
        depth: 4,
    }
}

const fn ping(connections: usize, round_trips: u64) -> Load {
    Load::Ping {
        connections,
        round_trips,
    }
}

const fn churn() -> Load {
    Load::Churn {
        workers: 16,
        connections: 4000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_names_a_scenario_and_valid_options() {
        for mark in MARKS.into_iter().chain(ME_MARKS) {
            assert!(Scenario::find(mark.scenario).is_some(), "{mark:?}");
            assert!(
                mark.options
                    .parse::<crate::target::config::ProxyConfig>()
                    .is_ok(),
                "{mark:?}"
            );
        }
    }
}
