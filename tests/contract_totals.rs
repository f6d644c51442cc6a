//! What answers say of middle proxies while these end, refuse, come back and are exchanged: sums
//! add up in every answer, counters never go back, and what is counted is what happened.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bench::{
    client::{Client, Mode},
    fake_me::{Ending, Fault, Order},
};
use serde_json::Value;

use support::{Config, Proxy, has_two_cores, me::Middle, until};

/// Looks at every answer again and again.
#[derive(Default)]
struct Watch {
    before: BTreeMap<String, u64>,
}

impl Watch {
    /// Looks until `done`; whatever is seen meanwhile has to add up.
    async fn until(&mut self, proxy: &Proxy, what: &str, mut done: impl FnMut() -> bool) {
        until(what, || {
            self.look(proxy);
            done().then_some(())
        })
        .await;
    }

    fn look(&mut self, proxy: &Proxy) {
        check_pool(&proxy.get("/v1/runtime/me_pool_state")["data"]);
        check_rows(&proxy.get("/v1/stats/minimal/all")["data"]);
        self.check_totals(&proxy.get("/v1/stats/zero/all"));
        let gates = proxy.get("/v1/runtime/gates");
        let is_direct = gates["route_mode"] == "direct";
        assert_eq!(gates["reroute_active"], is_direct, "{gates}");
        assert_eq!(gates["reroute_reason"].is_string(), is_direct, "{gates}");
    }

    fn check_totals(&mut self, zero: &Value) {
        let (me, pool) = (&zero["middle_proxy"], &zero["pool"]);
        for (name, value) in me
            .as_object()
            .unwrap()
            .iter()
            .chain(pool.as_object().unwrap())
        {
            let Some(value) = value.as_u64() else {
                continue;
            };
            let before = self.before.insert(name.clone(), value).unwrap_or(0);
            assert!(
                value >= before || name == "pool_drain_active",
                "{name} went back"
            );
        }
        let of = |name: &str| number(me, name);
        let all: u64 = rows(me, "handshake_error_codes")
            .map(|row| number(row, "total"))
            .sum();
        assert_eq!(all, of("handshake_reject_total"));
        assert_eq!(
            of("route_drop_queue_full_total"),
            of("route_drop_queue_full_base_total") + of("route_drop_queue_full_high_total")
        );
        assert_eq!(
            of("d2c_batch_frames_total"),
            of("d2c_data_frames_total") + of("d2c_ack_frames_total")
        );
        assert!(of("reconnect_success_total") <= of("reconnect_attempt_total"));
        assert!(of("idle_close_by_peer_total") <= of("reader_eof_total"));
        let removed = number(pool, "writer_removed_total");
        assert!(
            number(pool, "writer_removed_unexpected_total") <= removed,
            "{pool}"
        );
        let refills = |name: &str| number(pool, name);
        let ended = refills("writer_restored_same_endpoint_total")
            + refills("writer_restored_fallback_total")
            + refills("refill_failed_total");
        assert!(ended <= refills("refill_triggered_total"), "{pool}");
    }
}

/// A number that has to be there.
fn number(of: &Value, name: &str) -> u64 {
    let found = of.get(name).and_then(Value::as_u64);
    assert!(found.is_some(), "no {name} in {of}");
    found.unwrap_or(0)
}

fn rows<'a>(of: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    of[name].as_array().unwrap().iter()
}

fn check_pool(pool: &Value) {
    let writers = &pool["writers"];
    let of = |name: &str| number(writers, name);
    let sum = |parts: &Value| -> u64 {
        let parts = parts.as_object().unwrap().values();
        parts.filter_map(Value::as_u64).sum()
    };
    assert_eq!(of("total"), of("alive_non_draining") + of("draining"));
    assert_eq!(of("total"), sum(&writers["contour"]));
    assert_eq!(of("total"), sum(&writers["health"]));
    let refill = &pool["refill"];
    let inflight: u64 = rows(refill, "by_dc")
        .map(|row| number(row, "inflight"))
        .sum();
    assert_eq!(inflight, number(refill, "inflight_endpoints_total"));
    let pending = number(&pool["generations"], "pending_hardswap_generation");
    assert_eq!(pool["hardswap"]["pending"], pending != 0);
    let age = &pool["generations"]["pending_hardswap_age_secs"];
    assert_eq!(age.is_u64(), pending != 0, "{pool}");
}

fn check_rows(all: &Value) {
    let writers: Vec<&Value> = rows(&all["me_writers"], "writers").collect();
    let mut ids: Vec<u64> = writers.iter().map(|row| number(row, "writer_id")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), writers.len(), "two writers have one id");
    for row in &writers {
        let draining = row["state"] == "draining";
        assert_eq!(row["draining"], draining, "{row}");
        assert_eq!(row["drain_deadline_epoch_secs"].is_u64(), draining, "{row}");
        assert_eq!(
            row["idle_for_secs"].is_u64(),
            row["bound_clients"] == 0,
            "{row}"
        );
    }
    let (summary, dcs) = (&all["me_writers"]["summary"], &all["dcs"]);
    let alive = writers
        .iter()
        .filter(|row| row["draining"] == false)
        .count();
    let sum = |name: &str| -> u64 { rows(dcs, "dcs").map(|row| number(row, name)).sum() };
    assert_eq!(number(summary, "alive_writers"), sum("alive_writers"));
    assert!(number(summary, "alive_writers") <= alive as u64);
    assert_eq!(number(summary, "required_writers"), sum("required_writers"));
    assert_eq!(
        number(summary, "available_endpoints"),
        sum("available_endpoints")
    );
    assert_eq!(
        number(summary, "configured_dc_groups"),
        rows(dcs, "dcs").count() as u64
    );
    for row in rows(dcs, "dcs") {
        let fresh = number(row, "fresh_alive_writers");
        assert!(fresh <= number(row, "alive_writers"), "{row}");
        let at: u64 = rows(row, "endpoint_writers")
            .map(|row| number(row, "active_writers"))
            .sum();
        assert!(at <= number(row, "alive_writers"), "{row}");
        assert!(
            (0.0..=100.0).contains(&row["coverage_pct"].as_f64().unwrap()),
            "{row}"
        );
        assert!(
            number(row, "floor_min") <= number(row, "floor_max"),
            "{row}"
        );
    }
    let runtime = &all["me_runtime"];
    let quarantined = rows(runtime, "quarantined_endpoints").count() as u64;
    assert_eq!(number(runtime, "quarantined_endpoints_total"), quarantined);
}

fn on_all_cores(config: Config) -> Config {
    match has_two_cores() {
        true => config.shards(2),
        false => config,
    }
}

async fn clients(proxy: &Proxy, count: usize) -> Vec<Client> {
    let mut held = Vec::new();
    for number in 0..count {
        let mode = Mode::PROXIED[number % Mode::PROXIED.len()];
        let mut client = Client::connect(&proxy.dial(mode)).await.unwrap();
        client.ping().await.unwrap();
        held.push(client);
    }
    held
}

#[tokio::test]
async fn lost_writers_are_counted_shown_and_made_up_for() {
    let middle = Middle::five_dcs(2);
    let config = on_all_cores(middle.config()).set("server.api.runtime_edge_enabled", "true");
    let proxy = middle.start(config).await;
    let _held = clients(&proxy, 8).await;
    let mut watch = Watch::default();
    watch.look(&proxy);
    // One of the two endpoints of each DC: the other one makes up for it.
    let half = middle.me.endpoints().into_iter().step_by(2);
    let ended = half.map(|endpoint| middle.me.order(endpoint, Order::End(Ending::Fin)));
    let ended = ended.sum::<usize>() as u64;
    assert!(ended > 0);
    watch
        .until(
            &proxy,
            "all ends are counted, and the supervisor knows",
            || {
                // They were younger than 20 s.
                proxy.me_count("reader_eof_total") == ended
                    && proxy.me_count("endpoint_quarantine_total") >= ended
            },
        )
        .await;
    assert_eq!(proxy.pool_count("writer_removed_unexpected_total"), ended);
    assert_eq!(proxy.pool_count("writer_removed_total"), ended);
    let runtime = proxy.get("/v1/stats/minimal/all")["data"]["me_runtime"].clone();
    for row in rows(&runtime, "quarantined_endpoints") {
        assert!((1..=25_000).contains(&number(row, "remaining_ms")), "{row}");
    }
    assert!(number(&runtime, "quarantined_endpoints_total") > 0);
    watch
        .until(&proxy, "all refills are over", || {
            let pool = proxy.get("/v1/runtime/me_pool_state")["data"].clone();
            number(&pool["refill"], "inflight_dc_total") == 0
        })
        .await;
    let of = |name| proxy.pool_count(name);
    let (same, fallback) = (
        of("writer_restored_same_endpoint_total"),
        of("writer_restored_fallback_total"),
    );
    let triggered = of("refill_triggered_total");
    assert_eq!(triggered, same + fallback + of("refill_failed_total"));
    // The endpoints that ended them are in quarantine.
    assert!(fallback > 0, "{same} at the same endpoint, none elsewhere");
    let events = proxy.get("/v1/runtime/events/recent?limit=1000");
    let mut rows = rows(&events["data"], "events");
    assert!(
        rows.any(|row| row["event_type"] == "me_quarantine"),
        "{events}"
    );
}

#[tokio::test]
async fn generations_change_under_the_eyes_of_the_api() {
    let middle = Middle::five_dcs(1);
    let config = on_all_cores(middle.config())
        .set("general.me_reinit_every_secs", 2)
        .set("general.me_hardswap_warmup_delay_min_ms", 1)
        .set("general.me_hardswap_warmup_delay_max_ms", 20);
    let proxy = middle.start(config).await;
    let mut held = clients(&proxy, 4).await;
    let mut watch = Watch::default();
    watch
        .until(&proxy, "two generations have been exchanged", || {
            let gate = proxy.get("/v1/runtime/me_quality")["data"]["drain_gate"].clone();
            let open = gate["route_quorum_ok"] == true && gate["redundancy_ok"] == true;
            assert!(!open || gate["block_reason"] == "open", "{gate}");
            proxy.pool_count("pool_swap_total") >= 2 && open
        })
        .await;
    let pool = proxy.get("/v1/runtime/me_pool_state")["data"].clone();
    assert!(
        number(&pool["generations"], "active_generation") >= 3,
        "{pool}"
    );
    for client in &mut held {
        client.ping().await.unwrap();
    }
    middle.expect_clean();
}

#[tokio::test]
async fn floor_and_level_follow_the_configuration() {
    let middle = Middle::five_dcs(2);
    let proxy = middle.start(on_all_cores(middle.config())).await;
    let mut watch = Watch::default();
    watch.look(&proxy);
    assert_eq!(proxy.me_count("floor_mode_switch_total"), 0);
    let ports = proxy.config();
    proxy.reload(&ports.clone().set("general.me_floor_mode", "\"static\""));
    watch
        .until(&proxy, "the floor is static", || {
            proxy.me_count("floor_mode_switch_total") == 1
        })
        .await;
    assert_eq!(
        proxy.me_count("floor_mode_switch_adaptive_to_static_total"),
        1
    );
    let all = proxy.get("/v1/stats/minimal/all")["data"].clone();
    assert_eq!(all["me_runtime"]["floor_mode"], "static");
    assert_eq!(
        proxy.get("/v1/limits/effective")["middle_proxy"]["floor_mode"],
        "static"
    );
    for row in rows(&all["dcs"], "dcs") {
        let required = number(row, "required_writers");
        let floors = ["floor_min", "floor_target", "floor_max"].map(|name| number(row, name));
        assert_eq!(floors, [required; 3], "{row}");
    }

    // From here on nothing is counted, and all that was stays.
    let silent = ports.set("general.telemetry.me_level", "\"silent\"");
    proxy.reload(&silent);
    let posture = proxy.get("/v1/security/posture");
    assert_eq!(posture["telemetry_me_level"], "silent");
    assert_eq!(
        proxy.get("/v1/stats/zero/all")["core"]["telemetry_me_level"],
        "silent"
    );
    let seen = || {
        let zero = proxy.get("/v1/stats/zero/all");
        (zero["middle_proxy"].clone(), zero["pool"].clone())
    };
    // Shards take it over with their next plan.
    let began = Instant::now();
    let mut before = seen();
    until("counters stand still", || {
        let now = seen();
        let still = now == before && began.elapsed() > Duration::from_millis(500);
        before = now;
        still.then_some(())
    })
    .await;
    let _held = clients(&proxy, 4).await;
    middle.me.set_fault_everywhere(Fault::HandshakeError(-7));
    middle.me.order_everywhere(Order::End(Ending::Rst));
    until("the pool is lost", || {
        (proxy.gate("accepting_new_connections") == false).then_some(())
    })
    .await;
    assert_eq!(seen(), before);
    watch.look(&proxy);
    assert_eq!(proxy.writers("alive_writers"), 0);
    assert_eq!(proxy.ask("/v1/health/ready").0, 503);
}
