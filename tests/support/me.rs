//! Proxies that go through fake middle proxies: the configuration, and what the API says of it.

use std::time::Duration;

use bench::{
    fake_dc::FakeDc,
    fake_me::{FakeMe, MeStats},
};
use serde_json::Value;
use tempfile::TempDir;

use super::{Config, Proxy, fake_dc, until};

/// MEs, the files that tell of them, and a DC for those who go direct.
#[derive(Debug)]
pub(crate) struct Middle {
    pub(crate) me: FakeMe,
    pub(crate) dc: FakeDc,
    files: TempDir,
}

impl Middle {
    /// DCs 1 to 5 with so many endpoints each.
    pub(crate) fn five_dcs(endpoints_each: u8) -> Middle {
        Middle::around(FakeMe::five_dcs(endpoints_each).expect("fake MEs"))
    }

    /// With MEs made elsewhere.
    pub(crate) fn around(me: FakeMe) -> Middle {
        let files = tempfile::tempdir().expect("a directory");
        me.write_files(files.path()).expect("files");
        let dc = fake_dc();
        Middle { me, dc, files }
    }

    /// Through the MEs or not at all; a pool that starts and looks after itself quickly.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config::new(self.dc.addr());
        for (key, value) in self.me.config_keys(self.files.path()) {
            config = config.set(&key, value);
        }
        for (key, value) in QUICK {
            config = config.set(key, value);
        }
        config
    }

    /// Where the files are, and the proxy's caches.
    pub(crate) fn files(&self) -> &std::path::Path {
        self.files.path()
    }

    /// Starts the proxy and waits until its pool is at its floor.
    pub(crate) async fn start(&self, config: Config) -> Proxy {
        let proxy = config.start();
        proxy.until_at_floor().await;
        proxy
    }

    /// Nobody has broken the protocol, and nobody went direct.
    pub(crate) fn expect_clean(&self) {
        let MeStats {
            damaged,
            violations,
            broken,
            ..
        } = self.me.total();
        let found = (damaged, violations, broken);
        assert_eq!(found, (0, 0, 0), "damaged, violations, broken");
        assert_eq!(self.dc.stats().accepted, 0, "direct sessions");
    }
}

impl Proxy {
    /// A number of the pool's summary, such as `alive_writers`.
    pub(crate) fn writers(&self, field: &str) -> u64 {
        self.number("/v1/stats/me-writers", &format!("/summary/{field}"))
    }

    /// Waits until every group has its writers, and no more are there or on their way out.
    pub(crate) async fn until_at_floor(&self) {
        until("the pool is at its floor", || {
            self.is_at_floor().then_some(())
        })
        .await;
    }

    /// Every group has its writers, and no more are there or on their way out.
    pub(crate) fn is_at_floor(&self) -> bool {
        let (writers, dcs) = (self.get("/v1/stats/me-writers"), self.get("/v1/stats/dcs"));
        let rows = |of: &Value| of.as_array().cloned().unwrap_or_default();
        let dcs = rows(&dcs["dcs"]);
        let at_floor = |row: &Value| {
            row["floor_target"].as_u64() > Some(0)
                && row["alive_writers"] == row["floor_target"]
                && row["fresh_alive_writers"] == row["floor_target"]
        };
        let wanted: u64 = dcs
            .iter()
            .filter_map(|row| row["floor_target"].as_u64())
            .sum();
        let there = rows(&writers["writers"]).len() as u64;
        !dcs.is_empty() && dcs.iter().all(at_floor) && there == wanted
    }

    /// A word of the gates, such as `route_mode`.
    pub(crate) fn gate(&self, field: &str) -> Value {
        self.get("/v1/runtime/gates")[field].clone()
    }

    /// Waits until new sessions take this way: `middle` or `direct`.
    pub(crate) async fn until_route(&self, mode: &str) {
        until(&format!("the route is {mode}"), || {
            let gates = self.get("/v1/runtime/gates");
            (gates["route_mode"] == mode).then_some(())
        })
        .await;
    }

    /// A counter of middle proxies, such as `reader_eof_total`.
    pub(crate) fn me_count(&self, name: &str) -> u64 {
        self.zero(&format!("middle_proxy/{name}"))
    }

    /// A counter of the pool, such as `refill_triggered_total`.
    pub(crate) fn pool_count(&self, name: &str) -> u64 {
        self.zero(&format!("pool/{name}"))
    }
}

/// Waits a moment in which nothing is expected to happen.
pub(crate) async fn a_while() {
    tokio::time::sleep(Duration::from_millis(1_200)).await;
}

const QUICK: [(&str, &str); 8] = [
    ("general.me2dc_fallback", "false"),
    ("general.me_warmup_step_delay_ms", "50"),
    ("general.me_warmup_step_jitter_ms", "20"),
    ("general.me_health_interval_ms_unhealthy", "200"),
    ("general.me_health_interval_ms_healthy", "300"),
    ("general.me_admission_poll_ms", "50"),
    ("general.me_reconnect_backoff_base_ms", "100"),
    ("general.me_reconnect_backoff_cap_ms", "500"),
];
