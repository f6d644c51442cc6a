//! Servers that refuse, end and come back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bench::client::{Client, Dial, Mode};

use super::{ip, row, serve, sources, ways};
use crate::support::{
    Config, fake_dc, has_two_cores, hasty,
    socks_server::{dante, microsocks},
    until,
};

#[tokio::test]
async fn refused_credentials_fail_at_once_if_asked() {
    let users = [
        microsocks("127.0.0.1", Some(("user", "right"))),
        dante(5, "username"),
    ];
    for server in users.into_iter().flatten() {
        let more = ", username = \"no-such-user\", password = \"wrong-word\"";
        for (failfast, expected) in [(true, (1, 1)), (false, (3, 0))] {
            let dc = fake_dc();
            let proxy = Config::new(dc.addr())
                .set("upstreams", ways(&[server.entry("socks5", more)]))
                .set("general.upstream_connect_failfast_hard_errors", failfast)
                .start();
            let dial = Dial {
                timeout: Duration::from_secs(20),
                ..proxy.dial(Mode::Ee)
            };
            serve(&dial).await.unwrap_err();
            let counted = (
                proxy.zero("upstream/connect_attempt_total"),
                proxy.zero("upstream/connect_failfast_hard_error_total"),
            );
            assert_eq!(counted, expected, "{}", proxy.log());
            assert_eq!(proxy.zero("upstream/connect_fail_total"), 1);
            assert_eq!(dc.stats().accepted, 0);
            assert!(!proxy.log().contains("wrong-word"));
        }
    }
}

#[tokio::test]
async fn a_route_that_fails_is_unhealthy_until_a_probe_succeeds() {
    let Some(mut server) = microsocks("127.0.0.41", None) else {
        return;
    };
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("upstreams", ways(&[server.entry("socks5", "")]))
        .set("general.upstream_unhealthy_fail_threshold", 2)
        .set("shards.probe_secs", 1)
        .start();
    let ready = || proxy.ask("/v1/health/ready").0 == 200;
    until("it is found healthy", || {
        (ready() && row(&proxy, 0)["dc"][0].is_object()).then_some(())
    })
    .await;
    server.stop();
    until("it is found unhealthy", || (!ready()).then_some(())).await;
    assert_eq!(row(&proxy, 0)["healthy"], false);
    serve(&hasty(proxy.dial(Mode::Ee))).await.unwrap_err();
    server.start_again();
    until("it is found healthy again", || ready().then_some(())).await;
    let shown = row(&proxy, 0);
    assert_eq!(
        (&shown["healthy"], &shown["fails"]),
        (&true.into(), &0.into())
    );
    serve(&proxy.dial(Mode::Ee)).await.unwrap();
    assert_eq!(sources(&dc), [(ip("127.0.0.41"), 1)].into());
}

#[tokio::test]
async fn sessions_without_a_way_out_do_not_leave_straight() {
    let (Some(mut down), Some(up)) = (
        microsocks("127.0.0.42", None),
        microsocks("127.0.0.43", None),
    ) else {
        return;
    };
    down.stop();
    let entries = [
        down.entry("socks5", ""),
        // It serves, but not sessions.
        up.entry("socks5", ", scopes = \"fetch\""),
        "{ type = \"direct\", enabled = false }".to_owned(),
    ];
    // What is said of the mask site's route is not about sessions.
    for strict in [true, false] {
        let dc = fake_dc();
        let proxy = Config::new(dc.addr())
            .set("upstreams", ways(&entries))
            .set("censorship.tls_fetch_scope", "\"fetch\"")
            .set("censorship.tls_fetch.strict_route", strict)
            .start();
        for mode in Mode::PROXIED {
            serve(&hasty(proxy.dial(mode))).await.unwrap_err();
        }
        assert_eq!(sources(&dc), [].into());
        assert_eq!(dc.stats().accepted, 0);
        assert!(proxy.zero("upstream/connect_fail_total") > 0);
    }
}

/// Clients that come one after another, each with a round trip.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    served: AtomicUsize,
    failed: AtomicUsize,
    slowest_ms: AtomicUsize,
}

impl Load {
    async fn run(self: Arc<Self>, dial: Dial) {
        while !self.stop.load(Relaxed) {
            let began = Instant::now();
            let served = async {
                let mut client = Client::connect(&dial).await?;
                client.ping().await
            };
            // A session that was open when its server was killed is lost, as all of them are: only
            // what begins afterwards is judged.
            match served.await {
                Ok(()) => self.served.fetch_add(1, Relaxed),
                Err(_) => self.failed.fetch_add(1, Relaxed),
            };
            let ms = usize::try_from(began.elapsed().as_millis()).unwrap_or(usize::MAX);
            self.slowest_ms.fetch_max(ms, Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn since(&self, before: usize, count: usize) -> Option<()> {
        (self.served.load(Relaxed) >= before + count).then_some(())
    }
}

#[tokio::test]
async fn new_sessions_leave_a_killed_server_and_return_to_it() {
    let Some(mut first) = microsocks("127.0.0.51", None) else {
        return;
    };
    let Some(second) = microsocks("127.0.0.52", None) else {
        return;
    };
    let dc = fake_dc();
    let entries = [
        first.entry("socks5", ", weight = 100"),
        second.entry("socks5", ""),
    ];
    let proxy = Config::new(dc.addr())
        .set("upstreams", ways(&entries))
        .set("general.upstream_connect_budget_ms", 3000)
        .set("shards.probe_secs", 1)
        .start();
    let load = Arc::new(Load::default());
    let tasks: Vec<_> = Mode::PROXIED
        .map(|mode| tokio::spawn(Arc::clone(&load).run(proxy.dial(mode))))
        .into();
    until("both are found", || {
        let both = row(&proxy, 0)["healthy"] == true && row(&proxy, 1)["dc"][0].is_object();
        (both && load.served.load(Relaxed) > 20).then_some(())
    })
    .await;
    assert_eq!(load.failed.load(Relaxed), 0);
    first.stop();
    let lost = load.failed.load(Relaxed);
    let before = load.served.load(Relaxed);
    load.slowest_ms.store(0, Relaxed);
    until("sessions go on", || load.since(before, 40)).await;
    // At most those whose round trip was under way; of the others none failed, and the slowest took
    // no longer than all attempts may.
    let failed = load.failed.load(Relaxed) - lost;
    assert!(failed <= Mode::PROXIED.len(), "{failed} sessions failed");
    let slowest = load.slowest_ms.load(Relaxed);
    println!("{failed} sessions broken, the slowest new one took {slowest} ms");
    assert!(slowest < 3_000 + 10_000, "{slowest} ms");
    until("the first is found unhealthy", || {
        (row(&proxy, 0)["healthy"] == false).then_some(())
    })
    .await;
    // From now on nobody even tries it.
    let attempts = || proxy.zero("upstream/connect_attempt_total");
    let successes = || proxy.zero("upstream/connect_success_total");
    let (failed, tried) = (load.failed.load(Relaxed), attempts() - successes());
    sources(&dc);
    let before = load.served.load(Relaxed);
    until("more sessions are served", || load.since(before, 40)).await;
    assert_eq!(load.failed.load(Relaxed), failed);
    let under_way = Mode::PROXIED.len() as u64;
    assert!(attempts() - successes() <= tried + under_way);
    let taken = sources(&dc);
    assert_eq!(
        taken.keys().copied().collect::<Vec<_>>(),
        [ip("127.0.0.52")]
    );
    first.start_again();
    until("sessions return to the first", || {
        sources(&dc).contains_key(&ip("127.0.0.51")).then_some(())
    })
    .await;
    assert_eq!(row(&proxy, 0)["healthy"], true);
    load.stop.store(true, Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(load.failed.load(Relaxed), failed);
}

#[tokio::test]
async fn every_shard_hears_of_what_probes_found() {
    let Some(mut first) = microsocks("127.0.0.61", None) else {
        return;
    };
    let (true, Some(second)) = (has_two_cores(), microsocks("127.0.0.62", None)) else {
        return;
    };
    let dc = fake_dc();
    let entries = [
        first.entry("socks5", ", weight = 200"),
        second.entry("socks5", ""),
    ];
    let proxy = Config::new(dc.addr())
        .shards(2)
        .set("upstreams", ways(&entries))
        .set("general.upstream_unhealthy_fail_threshold", 1)
        .set("shards.probe_secs", 1)
        .start();
    let healthy = |wanted: bool| (row(&proxy, 0)["healthy"] == wanted).then_some(());
    until("it is probed", || {
        let known = |index| row(&proxy, index)["effective_latency_ms"].is_number();
        (known(0) && known(1)).then_some(())
    })
    .await;
    first.stop();
    // One client of each shard at least finds out, and neither will try again by itself.
    for _ in 0..20 {
        serve(&proxy.dial(Mode::Dd)).await.unwrap();
    }
    until("all shards have found out", || healthy(false)).await;
    sources(&dc);
    first.start_again();
    until("a probe finds it again", || healthy(true)).await;
    // A snapshot asks every shard, which takes over what was found.
    for _ in 0..40 {
        serve(&proxy.dial(Mode::Dd)).await.unwrap();
    }
    let taken = sources(&dc);
    let returned = taken.get(&ip("127.0.0.61")).copied().unwrap_or(0);
    assert!(returned > 30, "{taken:?}");
}
