//! A supervisor that says what it was told to say, for tests.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use admin::RuntimeNatStunPayload;
use shards::{
    control::ShardSnapshot,
    me::{
        GroupStatus, GroupUse, InitStatus, MeStatus, Millis, Plan, Setup, Stage, StepState,
        StepStatus, Supervisor, WriterId, WriterRow, WriterState,
    },
    settings::MeSettings,
};

use super::Middle;

/// Says what its field holds.
pub(in crate::plane) struct Canned(pub(in crate::plane) MeStatus);

impl Middle for Canned {
    fn status(&self) -> MeStatus {
        self.0.clone()
    }

    fn nat_stun(&self) -> RuntimeNatStunPayload {
        RuntimeNatStunPayload::default()
    }

    fn local_address(&self, ipv6: bool) -> Option<IpAddr> {
        (!ipv6).then_some(Ipv4Addr::LOCALHOST.into())
    }

    fn now(&self) -> Millis {
        NOW
    }
}

/// Now, in tests.
pub(in crate::plane) const NOW: Millis = Millis(100_000);
/// Unix seconds at the start of the shards' clock, in tests.
pub(in crate::plane) const STARTED: u64 = 1_800_000_000;

/// An ME of this last byte.
pub(in crate::plane) fn endpoint(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 8888))
}

/// Two groups: DC 2 at two endpoints wants three writers, DC -3 at one wants three. The pool is
/// ready, nothing is wrong, generation 7 is active.
pub(in crate::plane) fn status() -> MeStatus {
    let settings = Arc::new(MeSettings::default());
    let setup = Setup {
        settings: Arc::clone(&settings),
        shards: 2,
        cores: 2,
        seed: 1,
        started_unix_ms: STARTED * 1_000 + 300,
    };
    let mut status = Supervisor::new(setup, Millis(0)).status(NOW);
    let map = BTreeMap::from([(-3, vec![endpoint(3)]), (2, vec![endpoint(1), endpoint(2)])]);
    status.groups = map.iter().map(|(dc, list)| group(*dc, list)).collect();
    status.plan = Arc::new(Plan {
        map: Arc::new(map),
        ..Plan::clone(&status.plan)
    });
    status.generations.active = 7;
    status.route.accepting = true;
    status.route.middle = true;
    status.route.ready = true;
    status.route.reason = None;
    status.startup.status = InitStatus::Ready;
    status.startup.current_stage = "ready";
    status.startup.ready_at = Some(Millis(2_500));
    status.startup.weight_done = 52.0;
    status.startup.steps = Stage::ALL
        .iter()
        .map(|&stage| StepStatus {
            stage,
            state: StepState::Ready,
            started_at: Some(Millis(1_001)),
            finished_at: Some(Millis(2_500)),
            attempts: 1,
            details: None,
        })
        .collect();
    status
}

fn group(dc: i16, endpoints: &[SocketAddr]) -> GroupStatus {
    GroupStatus {
        dc,
        endpoints: endpoints.into(),
        required: 3,
        floor_min: 1,
        floor_max: 5,
        target: 3,
        capped: false,
        outage: [false; 2],
    }
}

/// An active writer of the active generation, idle since a second.
pub(in crate::plane) fn writer(id: u64, dc: i16, last: u8) -> WriterRow {
    WriterRow {
        id: WriterId(id),
        dc,
        endpoint: endpoint(last),
        generation: 7,
        state: WriterState::Active,
        degraded: false,
        bound_clients: 0,
        idle_since: Some(Millis(NOW.0 - 1_999)),
        rtt_ema_ms: None,
        secret_epoch: 1,
        busy: false,
    }
}

/// All shards with these writers.
pub(in crate::plane) fn total(writers: Vec<WriterRow>) -> ShardSnapshot {
    ShardSnapshot {
        accepting: true,
        writers,
        me_groups: vec![GroupUse {
            dc: 2,
            sessions: 4,
            last_bind: None,
            wanted: false,
        }],
        ..ShardSnapshot::default()
    }
}
