//! [`Me`] as answers see it: its threads' words in the contract's. Source: middle-proxy.md 26.9.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use admin::{
    RuntimeNatStunFlagsData, RuntimeNatStunPayload, RuntimeNatStunReflectionBlockData,
    RuntimeNatStunReflectionData, RuntimeNatStunServersData,
};
use shards::me::{MeStatus, Millis};

use super::Middle;
use crate::me::{Me, local_address, nat::NatStatus};

impl Middle for Me {
    fn status(&self) -> MeStatus {
        Self::status(self)
    }

    fn nat_stun(&self) -> RuntimeNatStunPayload {
        nat_stun(self.nat_status())
    }

    fn local_address(&self, ipv6: bool) -> Option<IpAddr> {
        local_address(ipv6)
    }

    fn now(&self) -> Millis {
        Self::now(self)
    }
}

fn nat_stun(nat: NatStatus) -> RuntimeNatStunPayload {
    let [v4, v6] = nat.reflections.map(|seen| seen.map(reflection));
    let live = each_once(nat.live);
    RuntimeNatStunPayload {
        flags: RuntimeNatStunFlagsData {
            nat_probe_enabled: nat.enabled,
            nat_probe_disabled_runtime: nat.disabled_runtime,
            nat_probe_attempts: nat.failed_rounds,
        },
        servers: RuntimeNatStunServersData {
            configured: each_once(nat.configured),
            live_total: live.len(),
            live,
        },
        reflection: RuntimeNatStunReflectionBlockData { v4, v6 },
        stun_backoff_remaining_ms: nat
            .backoff_left
            .map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
    }
}

fn reflection((addr, age): (SocketAddr, Duration)) -> RuntimeNatStunReflectionData {
    RuntimeNatStunReflectionData {
        addr: addr.to_string(),
        age_secs: age.as_secs(),
    }
}

/// Sorted.
fn each_once(mut servers: Vec<String>) -> Vec<String> {
    servers.sort_unstable();
    servers.dedup();
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stun_shows_servers_once_and_what_they_said() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let shown = nat_stun(NatStatus {
            enabled: true,
            disabled_runtime: false,
            failed_rounds: 2,
            configured: names(&["b:1", "a:1", "b:1"]),
            live: names(&["b:1"]),
            reflections: [
                Some((
                    ([203, 0, 113, 9], 4_000).into(),
                    Duration::from_millis(5_900),
                )),
                None,
            ],
            backoff_left: Some(Duration::from_micros(1_500)),
        });
        assert_eq!(shown.servers.configured, ["a:1", "b:1"]);
        assert_eq!(shown.servers.live_total, 1);
        assert!(shown.flags.nat_probe_enabled && !shown.flags.nat_probe_disabled_runtime);
        let v4 = shown.reflection.v4.unwrap();
        assert_eq!((v4.addr.as_str(), v4.age_secs), ("203.0.113.9:4000", 5));
        assert_eq!(shown.reflection.v6, None);
        assert_eq!(shown.stun_backoff_remaining_ms, Some(1));
    }
}
