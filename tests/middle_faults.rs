//! A campaign of faults under load, by a seed: endpoints refuse, reset, stall, flap, lie and move,
//! secrets rotate. Sessions are lost only where nothing could keep them, each loss has its counter,
//! and afterwards the pool is as at its start.
//!
//! `MIDDLE_FAULTS_SECS` makes it longer, `MIDDLE_FAULTS_SEED` repeats one.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bench::fake_me::{Ending, Fault, Order};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use support::{
    PATIENCE, Proxy, has_two_cores,
    me::{Middle, a_while},
    persistent::Crowd,
    until,
};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The campaign itself.
struct Campaign<'a> {
    middle: &'a Middle,
    dice: StdRng,
    /// When the fault of an endpoint is over.
    until: BTreeMap<SocketAddr, Instant>,
    log: Vec<String>,
}

impl Campaign<'_> {
    async fn run(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.lift(Instant::now());
            self.strike();
            let pause = Duration::from_millis(self.dice.random_range(200..1_000));
            tokio::time::sleep(pause).await;
        }
        self.lift(end + Duration::from_secs(3600));
        self.middle.me.set_fault_everywhere(Fault::None);
    }

    fn lift(&mut self, now: Instant) {
        let over: Vec<SocketAddr> = self
            .until
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(addr, _)| *addr)
            .collect();
        for addr in over {
            self.until.remove(&addr);
            self.middle.me.set_fault(addr, Fault::None);
        }
    }

    fn strike(&mut self) {
        let (me, dice) = (&self.middle.me, &mut self.dice);
        let map: Vec<(i16, Vec<SocketAddr>)> = me.map().into_iter().collect();
        let (dc, addrs) = &map[dice.random_range(0..map.len())];
        let addr = addrs[dice.random_range(0..addrs.len())];
        let order = match dice.random_range(0..24) {
            0..4 => Some(Order::End(Ending::Fin)),
            4..6 => Some(Order::End(Ending::Rst)),
            6 => Some(Order::CloseClients(2)),
            7 => Some(Order::AnswerNobody(shards::proto::middle::ops::ConnId(
                1 << 60,
            ))),
            8 => Some(Order::Ping(dice.random())),
            _ => None,
        };
        if let Some(order) = order {
            self.log.push(format!("{addr}: {order:?}"));
            me.order(addr, order);
            return;
        }
        match dice.random_range(0..20) {
            0 => {
                self.log.push("the secret rotates".into());
                me.rotate_secret(true);
            }
            1..3 => {
                let moved = me.add(*dc, addr.ip()).unwrap();
                let mut map: BTreeMap<i16, Vec<SocketAddr>> = map.iter().cloned().collect();
                for one in map.get_mut(dc).unwrap() {
                    if *one == addr {
                        *one = moved;
                    }
                }
                self.log.push(format!("{addr} moves to {moved}"));
                me.set_map(map);
            }
            _ => {
                let fault = FAULTS[dice.random_range(0..FAULTS.len())];
                let time = Duration::from_millis(dice.random_range(100..2_500));
                self.log.push(format!("{addr}: {fault:?} for {time:?}"));
                me.set_fault(addr, fault);
                self.until.insert(addr, Instant::now() + time);
            }
        }
    }
}

const FAULTS: [Fault; 16] = [
    Fault::Refuse,
    Fault::Silent,
    Fault::ResetAtAccept,
    Fault::CloseAtNonce,
    Fault::WrongSelector,
    Fault::WrongNonce,
    Fault::ClockSkew(90),
    Fault::CloseAtHandshake,
    Fault::SilentAtHandshake,
    Fault::HandshakeError(-4),
    Fault::ResetAfter(Duration::from_millis(300)),
    Fault::StallReading,
    Fault::StallWriting,
    Fault::SlowReading(20_000),
    Fault::Delay(Duration::from_millis(200)),
    Fault::WrongChecksum,
];

/// Sessions that the API says were lost for a reason.
fn counted(proxy: &Proxy) -> u64 {
    ["me_no_writer", "me_writer_full", "me_writer_lost"]
        .map(|class| proxy.bad(class))
        .iter()
        .sum::<u64>()
        + proxy.me_count("route_drop_queue_full_total")
}

fn expect_identities(proxy: &Proxy) {
    let zero = proxy.get("/v1/stats/zero/all");
    let of = |pointer: &str| zero.pointer(pointer).and_then(|v| v.as_u64()).unwrap();
    let (me, pool) = (
        |name: &str| of(&format!("/middle_proxy/{name}")),
        |name: &str| of(&format!("/pool/{name}")),
    );
    assert_eq!(
        me("route_drop_queue_full_total"),
        me("route_drop_queue_full_base_total") + me("route_drop_queue_full_high_total")
    );
    assert_eq!(
        me("d2c_data_frames_total") + me("d2c_ack_frames_total"),
        me("d2c_batch_frames_total")
    );
    assert!(me("idle_close_by_peer_total") <= me("reader_eof_total"));
    assert!(me("reader_eof_total") <= pool("writer_removed_total"));
    assert!(pool("writer_removed_unexpected_total") <= pool("writer_removed_total"));
    assert!(me("reconnect_success_total") <= me("reconnect_attempt_total"));
    let ended = pool("writer_restored_same_endpoint_total")
        + pool("writer_restored_fallback_total")
        + pool("refill_failed_total");
    assert_eq!(
        pool("refill_triggered_total"),
        ended,
        "no refill is running"
    );
    assert_eq!(pool("pool_drain_active"), 0);
}

/// What a process holds that must not grow.
fn held(proxy: &Proxy) -> (usize, usize) {
    let proc = format!("/proc/{}", proxy.process().pid());
    let count = |dir: &str| std::fs::read_dir(format!("{proc}/{dir}")).unwrap().count();
    (count("fd"), count("task"))
}

#[tokio::test]
async fn sessions_outlive_what_they_can_and_the_pool_recovers() {
    let seed = number("MIDDLE_FAULTS_SEED").unwrap_or_else(rand::random);
    let secs = number("MIDDLE_FAULTS_SECS").unwrap_or(20);
    println!("MIDDLE_FAULTS_SEED={seed} MIDDLE_FAULTS_SECS={secs}");
    let middle = Middle::five_dcs(4);
    let mut config = middle
        .config()
        .set("general.update_every", 1)
        .set("general.me_config_stable_snapshots", 1)
        .set("general.me_config_apply_cooldown_secs", 0)
        .set("general.proxy_secret_stable_snapshots", 1)
        .set("general.me_hardswap_warmup_delay_min_ms", 0)
        .set("general.me_hardswap_warmup_delay_max_ms", 50)
        .set("general.me_pool_drain_ttl_secs", 2)
        .set("general.me_reinit_drain_timeout_secs", 4);
    if has_two_cores() {
        config = config.shards(2);
    }
    let proxy = middle.start(config).await;
    let before = held(&proxy);
    let mut crowd = Crowd::start(&proxy, 40, seed);
    let mut campaign = Campaign {
        middle: &middle,
        dice: StdRng::seed_from_u64(seed),
        until: BTreeMap::new(),
        log: Vec::new(),
    };
    campaign.run(Duration::from_secs(secs)).await;
    check_recovery(&middle, &proxy, &mut crowd, &campaign.log).await;
    // All is given back.
    until("descriptors and threads are given back", || {
        let now = held(&proxy);
        (now.0 <= before.0 && now.1 <= before.1).then_some(())
    })
    .await;
    expect_identities(&proxy);
}

/// Endpoints are barred for 25 s, and writers on their way out have four.
async fn recovers(proxy: &Proxy) {
    let began = Instant::now();
    while !proxy.is_at_floor() {
        assert!(began.elapsed() < 2 * PATIENCE, "the pool does not recover");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("at its floor again after {:?}", began.elapsed());
}

async fn check_recovery(middle: &Middle, proxy: &Proxy, crowd: &mut Crowd, log: &[String]) {
    recovers(proxy).await;
    // All are served again.
    let answers = crowd.answers();
    a_while().await;
    crowd.stop(|| log.join("\n")).await;
    assert!(crowd.answers() > answers, "nobody is served any more");
    proxy.until_connections(0).await;
    until("the MEs know that all are gone", || {
        (middle.me.total().clients_open == 0).then_some(())
    })
    .await;
    let (lost, away, counted) = (crowd.lost(), crowd.turned_away(), counted(proxy));
    let ended = middle.me.total().clients_ended;
    println!(
        "{} faults, {} answers, {} unanswered; {lost} sessions lost and {away} turned away, \
         {counted} counted, {ended} closed by MEs",
        log.len(),
        crowd.answers(),
        crowd.unanswered(),
    );
    assert!(
        (lost..=lost + away).contains(&(counted + ended)),
        "each loss has its counter: {lost} lost, {away} turned away, {counted} counted, \
         {ended} closed by MEs"
    );
    // Whatever the MEs did, the proxy has kept to the protocol.
    let total = middle.me.total();
    let found = (total.damaged, total.violations, total.broken);
    assert_eq!(found, (0, 0, 0), "damaged, violations, broken");
    recovers(proxy).await;
    assert_eq!(middle.me.total().writers, proxy.writers("alive_writers"));
}
