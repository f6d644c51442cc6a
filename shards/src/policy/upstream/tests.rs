//! Attempts, pauses, budget, families and routes, in virtual time and with seeded draws.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    counters::UpstreamCounters,
    proto::{
        dc::DcTable,
        shadowsocks::{Method, ServerKey},
    },
    settings::{HostPort, RouteSettings},
};

fn settings(weights: &[u16]) -> UpstreamSettings {
    let routes = weights.iter().map(|weight| RouteSettings {
        weight: *weight,
        ..RouteSettings::direct(true, true, false)
    });
    UpstreamSettings {
        dcs: DcTable::builtin(),
        ipv4: true,
        ipv6: true,
        prefer_ipv6: false,
        routes: routes.collect(),
        fast_mode: true,
        connect_timeout: Duration::from_secs(10),
        connect_retries: 2,
        connect_backoff: Duration::from_millis(100),
        connect_budget: Duration::from_secs(3),
        failfast_hard_errors: false,
        unhealthy_fails: 2,
        probe_every: Duration::ZERO,
    }
}

/// One client over the routes of one shard.
struct Client<'a> {
    ways: &'a mut Upstreams,
    settings: &'a UpstreamSettings,
    dial: Dial,
    now: Millis,
}

impl<'a> Client<'a> {
    fn new(ways: &'a mut Upstreams, settings: &'a UpstreamSettings, dc: i16) -> Self {
        Self {
            ways,
            settings,
            dial: Dial::new(dc, Millis(0)),
            now: Millis(0),
        }
    }

    fn connect(&mut self, draw: f64) -> Step {
        self.ways
            .connect(&mut self.dial, self.settings, self.now, draw)
    }

    fn failed(&mut self, cause: Cause, draws: (f64, f64)) -> Step {
        self.ways
            .failed(&mut self.dial, cause, self.settings, self.now, draws)
    }

    fn reached(&mut self) {
        self.ways.reached(&self.dial, self.now);
    }

    /// Fails every attempt, each at once; the routes of the attempts.
    fn fail_all(&mut self, cause: Cause, draw: f64) -> Vec<u16> {
        let mut routes = Vec::new();
        let mut step = self.connect(draw);
        loop {
            match step {
                Step::Connect(hop) => {
                    routes.push(hop.route);
                    step = self.failed(cause, (0.0, draw));
                }
                Step::Pause(until) => {
                    self.now = until;
                    step = self.connect(draw);
                }
                Step::Fail => return routes,
            }
        }
    }
}

fn target(step: Step) -> SocketAddr {
    hop(step).1
}

fn hop(step: Step) -> (u16, SocketAddr) {
    match step {
        Step::Connect(hop) => (hop.route, hop.addr),
        other => panic!("expected a connect, got {other:?}"),
    }
}

fn probed(route: usize, dc: i16, addr: &str, took_ms: Option<u64>) -> Probed {
    Probed {
        route,
        dc,
        addr: addr.parse().unwrap(),
        took_ms,
    }
}

fn healthy(ways: &Upstreams) -> Vec<bool> {
    ways.rows(Millis(0)).iter().map(|row| row.healthy).collect()
}

const V4: &str = "127.0.0.1:443";
const V6: &str = "[::1]:443";

#[test]
fn retries_with_pauses_inside_the_budget() {
    let settings = settings(&[1]);
    let mut ways = Upstreams::new(1);
    let mut client = Client::new(&mut ways, &settings, 1);
    assert_eq!(
        target(client.connect(0.0)).to_string(),
        "149.154.175.50:443"
    );
    client.now = Millis(10);
    let step = client.failed(Cause::Other, (0.5, 0.0));
    assert_eq!(step, Step::Pause(Millis(160)));
    client.now = Millis(160);
    let Step::Connect(hop) = client.connect(0.0) else {
        panic!("a second attempt");
    };
    assert_eq!(hop.addr.to_string(), "[2001:b28:f23d:f001::a]:443");
    assert_eq!(hop.until, Millis(3010));
    client.now = Millis(3010);
    assert_eq!(client.failed(Cause::Other, (0.0, 0.0)), Step::Fail);
    let mut counters = UpstreamCounters::default();
    client.dial.count(false, Millis(3010), &mut counters);
    assert_eq!(counters.connect_attempts_bucket_2, 1);
    assert_eq!(counters.connect_duration_fail_bucket_gt_1000ms, 1);
    assert_eq!(counters.connect_failfast_hard_error_total, 0);
}

#[test]
fn stops_after_the_configured_attempts() {
    let settings = settings(&[1]);
    let mut ways = Upstreams::new(1);
    let routes = Client::new(&mut ways, &settings, 4).fail_all(Cause::Other, 0.0);
    assert_eq!(routes, [0, 0, 0]);
}

#[test]
fn family_without_a_route_hands_over_at_once() {
    let settings = settings(&[1]);
    let mut ways = Upstreams::new(1);
    let mut client = Client::new(&mut ways, &settings, 2);
    assert!(target(client.connect(0.0)).is_ipv4());
    let step = client.failed(Cause::Family, (0.0, 0.0));
    assert!(target(step).is_ipv6());
    let mut counters = UpstreamCounters::default();
    client.dial.count(true, Millis(0), &mut counters);
    assert_eq!(counters.connect_attempts_bucket_1, 1);
}

#[test]
fn preference_and_state_order_the_families() {
    let mut settings = settings(&[1]);
    settings.routes[0].prefer_ipv6 = true;
    let mut ways = Upstreams::new(1);
    let first = |ways: &mut Upstreams, settings: &UpstreamSettings| {
        target(Client::new(ways, settings, 1).connect(0.0)).is_ipv6()
    };
    assert!(first(&mut ways, &settings));
    ways.learn(&probed(0, 1, V6, None), Millis(5));
    assert!(!first(&mut ways, &settings));
    // Neither works, as far as we know: the preferred one again.
    ways.learn(&probed(0, 1, V4, None), Millis(5));
    assert!(first(&mut ways, &settings));
    ways.learn(&probed(0, 1, V4, Some(3)), Millis(5));
    settings.routes[0].ipv4 = false;
    assert!(first(&mut ways, &settings));
}

#[test]
fn a_route_for_ipv4_only_is_never_given_another_address() {
    let mut settings = settings(&[1, 1]);
    settings.routes[0].ipv6 = false;
    settings.dcs.overrides.insert(2, vec![V6.parse().unwrap()]);
    let mut ways = Upstreams::new(2);
    for draw in [0.0, 0.4, 0.9] {
        assert_eq!(hop(Client::new(&mut ways, &settings, 2).connect(draw)).0, 1);
        let (route, addr) = hop(Client::new(&mut ways, &settings, 3).connect(draw));
        assert!(route == 1 || addr.is_ipv4());
    }
    settings.routes[1].ipv6 = false;
    let mut client = Client::new(&mut ways, &settings, 2);
    assert_eq!(client.connect(0.5), Step::Fail);
}

#[test]
fn routes_turn_unhealthy_by_failed_clients_and_healthy_by_probes() {
    let settings = settings(&[1]);
    let mut ways = Upstreams::new(1);
    Client::new(&mut ways, &settings, 2).fail_all(Cause::Other, 0.0);
    assert_eq!(healthy(&ways), [true]);
    Client::new(&mut ways, &settings, 2).fail_all(Cause::Other, 0.0);
    assert_eq!(healthy(&ways), [false]);
    let round = |answers: usize| -> Vec<Probed> {
        let dcs = [1, 2, 3, 4, 5].into_iter().enumerate();
        dcs.map(|(at, dc)| probed(0, dc, V4, (at < answers).then_some(7)))
            .collect()
    };
    ways.judge(&round(2));
    assert_eq!(healthy(&ways), [false]);
    ways.judge(&round(3));
    assert_eq!(healthy(&ways), [true]);
    assert_eq!(ways.rows(Millis(0))[0].fails, 0);
    // Two DCs tried, both must answer; one of them in one family is enough.
    let both = [probed(0, 1, V4, Some(1)), probed(0, 2, V4, None)];
    ways.judge(&both);
    assert_eq!(healthy(&ways), [false]);
    ways.judge(&[both[0], both[1], probed(0, 2, V6, Some(1))]);
    assert_eq!(healthy(&ways), [true]);
}

#[test]
fn a_failed_client_is_moved_to_another_route_and_counts_once_on_each() {
    let settings = settings(&[1, 1]);
    let mut ways = Upstreams::new(2);
    let routes = Client::new(&mut ways, &settings, 2).fail_all(Cause::Other, 0.0);
    assert_eq!(routes[..2], [0, 1]);
    let fails = |ways: &Upstreams| -> Vec<u32> {
        ways.rows(Millis(0)).iter().map(|row| row.fails).collect()
    };
    assert_eq!(fails(&ways), [1, 1]);
    let mut client = Client::new(&mut ways, &settings, 2);
    assert_eq!(hop(client.connect(0.0)).0, 0);
    let Step::Pause(until) = client.failed(Cause::Other, (0.0, 0.0)) else {
        panic!("a pause");
    };
    client.now = until;
    assert_eq!(hop(client.connect(0.0)).0, 1);
    client.reached();
    assert_eq!(fails(&ways), [2, 0]);
    assert_eq!(healthy(&ways), [false, true]);
    // From now on nobody starts with it.
    for draw in [0.0, 0.5, 0.99] {
        assert_eq!(hop(Client::new(&mut ways, &settings, 2).connect(draw)).0, 1);
    }
}

#[test]
fn when_none_is_healthy_all_are_tried() {
    let settings = settings(&[1, 1]);
    let mut ways = Upstreams::new(2);
    for route in 0..2 {
        ways.judge(&[probed(route, 1, V4, None)]);
    }
    assert_eq!(healthy(&ways), [false, false]);
    let first = |ways: &mut Upstreams, draw| hop(Client::new(ways, &settings, 2).connect(draw)).0;
    assert_eq!((first(&mut ways, 0.1), first(&mut ways, 0.9)), (0, 1));
}

#[test]
fn scoped_routes_are_not_for_clients() {
    let mut settings = settings(&[1, 1]);
    settings.routes[0].scopes = vec!["front".to_owned()];
    let mut ways = Upstreams::new(2);
    for draw in [0.0, 0.9] {
        assert_eq!(hop(Client::new(&mut ways, &settings, 2).connect(draw)).0, 1);
    }
    settings.routes[1].scopes = vec!["other".to_owned()];
    assert_eq!(
        Client::new(&mut ways, &settings, 2).connect(0.0),
        Step::Fail
    );
}

#[test]
fn hard_errors_end_it_at_once_only_if_asked_and_no_route_is_left() {
    let mut settings = settings(&[1]);
    settings.routes[0].ipv6 = false;
    let mut ways = Upstreams::new(1);
    let attempts = |ways: &mut Upstreams, settings: &UpstreamSettings, cause| {
        let mut client = Client::new(ways, settings, 2);
        let routes = client.fail_all(cause, 0.0);
        (routes, client.dial.has_failed_fast())
    };
    let patient = attempts(&mut ways, &settings, Cause::Hard);
    assert_eq!(patient, (vec![0, 0, 0], false));
    settings.failfast_hard_errors = true;
    for cause in [Cause::Hard, Cause::Family] {
        assert_eq!(attempts(&mut ways, &settings, cause), (vec![0], true));
    }
    assert_eq!(attempts(&mut ways, &settings, Cause::Other).0, [0, 0, 0]);
    settings
        .routes
        .push(RouteSettings::direct(true, false, false));
    let mut ways = Upstreams::new(2);
    assert_eq!(
        attempts(&mut ways, &settings, Cause::Hard),
        (vec![0, 1], true)
    );
}

#[test]
fn shares_follow_weight_and_latency() {
    let mut dice = StdRng::seed_from_u64(7);
    let mut share = |weights: &[u16], latencies: &[Option<u64>]| -> Vec<f64> {
        let settings = settings(weights);
        let mut ways = Upstreams::new(weights.len());
        for (route, took_ms) in latencies.iter().enumerate() {
            if took_ms.is_some() {
                ways.learn(&probed(route, 2, V4, *took_ms), Millis(0));
            }
        }
        let mut picks = vec![0.0; weights.len()];
        for _ in 0..20_000 {
            let draw = dice.random_range(0.0..1.0);
            let mut client = Client::new(&mut ways, &settings, 2);
            let route = hop(client.connect(draw)).0;
            picks[usize::from(route)] += 1.0 / 20_000.0;
            // The way to a middle proxy of the DC is the same one.
            let middle = ways.pick_middle(&settings, DcId(-2), false, draw);
            assert_eq!(middle, Some(route));
        }
        picks
    };
    let near = |got: Vec<f64>, wanted: &[f64]| {
        for (got, wanted) in got.iter().zip(wanted) {
            assert!((got - wanted).abs() < 0.02, "{got} for {wanted}");
        }
    };
    near(share(&[1, 3], &[None, None]), &[0.25, 0.75]);
    near(share(&[1, 1], &[Some(50), Some(150)]), &[0.75, 0.25]);
    near(
        share(&[4, 1, 1], &[Some(200), Some(100), Some(100)]),
        &[0.5, 0.25, 0.25],
    );
    // Unknown counts as a second, and nothing is faster than a millisecond.
    near(share(&[1, 1], &[Some(250), None]), &[0.8, 0.2]);
    near(share(&[1, 1], &[Some(0), Some(1)]), &[0.5, 0.5]);
    near(share(&[0, 2], &[Some(1), Some(900)]), &[0.0, 1.0]);
    near(share(&[0, 0], &[None, None]), &[0.5, 0.5]);
}

#[test]
fn other_shards_take_over_what_probes_found() {
    let addr: SocketAddr = V4.parse().unwrap();
    let board = Board::new([(0, 1, addr), (0, 2, addr), (1, 1, addr)].into_iter());
    let (mut prober, mut other) = (Upstreams::new(2), Upstreams::new(2));
    other.follow(&board, Millis(1));
    assert_eq!(other.rows(Millis(1))[0].last_check_ms, None);
    let round = [
        probed(0, 1, V4, Some(0)),
        probed(0, 2, V4, Some(40)),
        probed(1, 1, V4, None),
    ];
    prober.publish(&round, &board);
    other.follow(&board, Millis(10));
    assert_eq!(healthy(&other), [true, false]);
    let rows = other.rows(Millis(10));
    let latencies: Vec<_> = rows[0].dcs.iter().map(|dc| dc.latency_ema_ms).collect();
    assert_eq!(latencies, [Some(0.0), Some(40.0)]);
    // Each round once, and not at all by who wrote it.
    other.follow(&board, Millis(500));
    prober.follow(&board, Millis(500));
    assert_eq!(other.rows(Millis(500))[0].last_check_ms, Some(490));
    assert_eq!(prober.rows(Millis(500))[0].last_check_ms, None);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    struct Attempt {
        cause: u8,
        after_ms: u64,
        draw: f64,
        jitter: f64,
    }

    fn attempts() -> impl Strategy<Value = Vec<Attempt>> {
        let one = (0..4_u8, 0..12_000_u64, 0.0..1.0, 0.0..0.5).prop_map(
            |(cause, after_ms, draw, jitter)| Attempt {
                cause,
                after_ms,
                draw,
                jitter,
            },
        );
        prop::collection::vec(one, 40)
    }

    proptest! {
        /// Whatever happens: attempts and budget hold, families and scopes are respected, and it
        /// ends.
        #[test]
        fn a_dial_keeps_its_limits(
            attempts in attempts(),
            weights in prop::collection::vec((0..5_u16, any::<bool>(), any::<bool>()), 1..5),
            retries in 0..4_u32,
            failfast in any::<bool>(),
        ) {
            let mut settings = settings(&[]);
            settings.connect_retries = retries;
            settings.failfast_hard_errors = failfast;
            settings.routes = weights.iter().map(|(weight, v4, v6)| RouteSettings {
                weight: *weight,
                scopes: if *v4 || *v6 { Vec::new() } else { vec!["x".to_owned()] },
                ..RouteSettings::direct(*v4, *v6, false)
            }).collect();
            let mut ways = Upstreams::new(settings.routes.len());
            let mut client = Client::new(&mut ways, &settings, 2);
            let (mut began, mut first_end, mut over) = (0, None, false);
            let mut step = client.connect(0.3);
            for attempt in attempts {
                step = match step {
                    Step::Connect(hop) => {
                        began += 1;
                        let route = &client.settings.routes[usize::from(hop.route)];
                        prop_assert!(route.serves(None));
                        let allowed = if hop.addr.is_ipv4() { route.ipv4 } else { route.ipv6 };
                        prop_assert!(allowed);
                        prop_assert!(hop.until >= client.now);
                        if let Some(first) = first_end {
                            let budget = Millis::after(first, settings.connect_budget);
                            prop_assert!(hop.until <= budget);
                        }
                        client.now = Millis(client.now.0 + attempt.after_ms).min(hop.until);
                        first_end.get_or_insert(client.now);
                        if attempt.cause == 3 {
                            client.reached();
                            over = true;
                            break;
                        }
                        let causes = [Cause::Family, Cause::Hard, Cause::Other];
                        let cause = causes[usize::from(attempt.cause)];
                        client.failed(cause, (attempt.jitter, attempt.draw))
                    }
                    Step::Pause(until) => {
                        prop_assert!(until > client.now);
                        client.now = until;
                        client.connect(attempt.draw)
                    }
                    Step::Fail => {
                        over = true;
                        break;
                    }
                };
            }
            prop_assert!(over || step == Step::Fail);
            // A change of family is no attempt: at most two connects for each.
            prop_assert!(began <= 2 * (retries + 1));
        }
    }
}

#[test]
fn middle_proxies_are_reached_by_routes_that_tell_where_they_leave_from() {
    let server = HostPort::new("127.0.0.1", 1);
    let key = ServerKey::new(Method::Aes128Gcm, "x").unwrap();
    let sealed = RouteSettings {
        kind: RouteKind::Shadowsocks { server, key },
        ..RouteSettings::direct(true, true, false)
    };
    let reserved = RouteSettings {
        scopes: vec!["front".to_owned()],
        ..RouteSettings::direct(true, true, false)
    };
    let routes = [sealed, reserved, RouteSettings::direct(true, false, false)];
    let with = |routes: &[RouteSettings]| UpstreamSettings {
        routes: routes.to_vec(),
        ..settings(&[])
    };
    let pick = |upstreams: &Upstreams, routes: &[RouteSettings], ipv6: bool, draw: f64| {
        upstreams.pick_middle(&with(routes), DcId(1), ipv6, draw)
    };
    let mut upstreams = Upstreams::new(routes.len());
    for draw in [0.0, 0.5, 0.99] {
        assert_eq!(pick(&upstreams, &routes, false, draw), Some(2));
        assert_eq!(pick(&upstreams, &routes, true, draw), None);
    }
    // A route without an alternative is taken, healthy or not; a healthy one is taken rather.
    upstreams.routes[2].set_healthy(false);
    assert_eq!(pick(&upstreams, &routes, false, 0.5), Some(2));
    let both = [RouteSettings::direct(true, false, false), routes[2].clone()];
    let mut upstreams = Upstreams::new(both.len());
    upstreams.routes[0].set_healthy(false);
    assert_eq!(pick(&upstreams, &both, false, 0.0), Some(1));
}

/// A client of DC 1 whose first hop, a server, was connected in no time.
fn trial(ways: &mut Upstreams, settings: &UpstreamSettings, at: u64) -> Trial {
    let mut dial = Dial::new(1, Millis(at));
    let step = ways.connect(&mut dial, settings, Millis(at), 0.0);
    assert_eq!(hop(step).0, 0);
    Trial::new(dial, true, Millis(at))
}

#[test]
fn servers_that_pass_nothing_on_become_unhealthy() {
    let settings = settings(&[1]);
    let mut ways = Upstreams::new(1);
    let mut counters = UpstreamCounters::default();
    for (doubt, fails) in [(Doubt::Silent, 1), (Doubt::Ended, 2)] {
        let mut trial = trial(&mut ways, &settings, 0);
        assert_eq!(trial.due(&settings), Some(Millis(5_000)));
        let mut doubted = |ways: &mut Upstreams| {
            ways.doubted(&mut trial, doubt, &settings, Millis(5_000), &mut counters)
        };
        assert_eq!((doubted(&mut ways), doubted(&mut ways)), (Some(0), None));
        assert_eq!(trial.due(&settings), None);
        assert_eq!(ways.rows(Millis(0))[0].fails, fails);
    }
    assert_eq!(healthy(&ways), [false]);
    assert_eq!(counters.connect_fail_total, 2);
    // The first answer mends all.
    let trial = trial(&mut ways, &settings, 6_000);
    ways.answered(&trial, Millis(6_020), &mut counters);
    let row = &ways.rows(Millis(0))[0];
    assert_eq!((row.healthy, row.fails), (true, 0));
    assert_eq!(row.dcs[0].latency_ema_ms, Some(20.0));
    assert_eq!(counters.connect_success_total, 1);
}

#[test]
fn a_server_that_has_just_answered_is_blamed_only_for_what_cannot_be_opened() {
    let settings = settings(&[1]);
    let mut ways = Upstreams::new(1);
    let mut counters = UpstreamCounters::default();
    ways.learn(&probed(0, 2, V4, Some(3)), Millis(1_000));
    let mut fails = |doubt, at| {
        let mut trial = trial(&mut ways, &settings, at);
        ways.doubted(&mut trial, doubt, &settings, Millis(at), &mut counters);
        ways.rows(Millis(at))[0].fails
    };
    assert_eq!(fails(Doubt::Ended, 2_000), 0);
    assert_eq!(fails(Doubt::Silent, 40_999), 0);
    assert_eq!(fails(Doubt::Unreadable, 40_999), 1);
    assert_eq!(fails(Doubt::Ended, 41_000), 2);
}

#[test]
fn time_that_a_client_took_to_ask_is_not_the_routes() {
    let settings = settings(&[1]);
    let mut ways = Upstreams::new(1);
    let mut counters = UpstreamCounters::default();
    let mut dial = Dial::new(1, Millis(0));
    ways.connect(&mut dial, &settings, Millis(0), 0.0);
    let mut trial = Trial::new(dial, false, Millis(7));
    assert_eq!(trial.due(&settings), None);
    trial.asks(Millis(90_000));
    trial.asks(Millis(90_001));
    assert_eq!(trial.due(&settings), Some(Millis(95_000)));
    ways.answered(&trial, Millis(90_030), &mut counters);
    assert_eq!(ways.rows(Millis(0))[0].dcs[0].latency_ema_ms, Some(37.0));
    assert_eq!(counters.connect_duration_success_bucket_le_100ms, 1);
}
