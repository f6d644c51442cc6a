//! DCs that refuse, keep silent, break off, or are reached in one address family only.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdStream},
    time::{Duration, Instant},
};

use bench::{
    client::{Client, ClientError, Dial, Mode},
    fake_dc::{FakeDc, Fault},
};

use support::{Config, Proxy, fake_dc, has_ipv6, until};

async fn serve(dial: &Dial) -> Result<(), ClientError> {
    let mut client = Client::connect(dial).await?;
    client.ping().await?;
    client.exchange(50_000, 50_000).await
}

/// A client whose DC is not there is closed without a byte.
async fn expect_closed(dial: &Dial) -> Duration {
    let began = Instant::now();
    let error = serve(dial).await.unwrap_err();
    let closed = matches!(error, ClientError::Closed { .. } | ClientError::Io { .. });
    assert!(closed, "{:?}: {error}", dial.mode);
    began.elapsed()
}

#[tokio::test]
async fn clients_of_a_refusing_dc_are_closed_after_all_attempts() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("general.upstream_connect_retry_attempts", 3)
        .start();
    dc.set_fault(Fault::Refuse);
    for (number, mode) in (1..).zip(Mode::PROXIED) {
        expect_closed(&proxy.dial(mode)).await;
        assert_eq!(proxy.zero("upstream/connect_attempt_total"), 4 * number);
        assert_eq!(proxy.zero("upstream/connect_fail_total"), number);
        assert_eq!(proxy.zero("upstream/connect_attempts_bucket_3_4"), number);
    }
    assert_eq!(proxy.zero("upstream/connect_success_total"), 0);
    proxy.until_connections(0).await;
    dc.set_fault(Fault::None);
    serve(&proxy.dial(Mode::Ee)).await.unwrap();
    assert_eq!(proxy.zero("upstream/connect_success_total"), 1);
}

#[tokio::test]
async fn a_client_waits_while_its_dc_comes_back() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("general.upstream_connect_retry_attempts", 100)
        .set("general.upstream_connect_retry_backoff_ms", 50)
        .set("general.upstream_connect_budget_ms", 30_000)
        .start();
    dc.set_fault(Fault::Refuse);
    let mut clients = tokio::task::JoinSet::new();
    for mode in Mode::PROXIED {
        let dial = proxy.dial(mode);
        // More than the proxy keeps for a client that waits.
        clients.spawn(async move { Client::connect(&dial).await?.exchange(1 << 20, 1000).await });
    }
    until("every client has been refused twice", || {
        (proxy.zero("upstream/connect_attempt_total") >= 8).then_some(())
    })
    .await;
    dc.set_fault(Fault::None);
    for client in clients.join_all().await {
        client.unwrap();
    }
    assert_eq!(dc.stats().damaged, 0);
}

#[tokio::test]
async fn a_dc_that_never_accepts_uses_up_the_connect_limit() {
    let deaf = deaf();
    let proxy = Config::new(fake_dc().addr())
        .dc(2, &[deaf.addr])
        .set("general.tg_connect", 1)
        .set("general.upstream_connect_retry_attempts", 1)
        .start();
    let took = expect_closed(&proxy.dial(Mode::Ee)).await;
    let range = Duration::from_millis(1_900)..Duration::from_secs(10);
    assert!(range.contains(&took), "closed after {took:?}");
    assert_eq!(proxy.zero("upstream/connect_attempts_bucket_2"), 1);
    assert_eq!(
        proxy.zero("upstream/connect_duration_fail_bucket_gt_1000ms"),
        1
    );
}

/// A listener whose queue is full: the kernel drops further SYNs.
struct Deaf {
    addr: SocketAddr,
    _listener: socket2::Socket,
    _queued: Vec<StdStream>,
}

fn deaf() -> Deaf {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let listener = listener.unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = StdStream::connect_timeout(&addr, Duration::from_millis(300)) {
        queued.push(stream);
    }
    Deaf {
        addr,
        _listener: listener,
        _queued: queued,
    }
}

#[tokio::test]
async fn a_silent_dc_keeps_the_client_until_the_idle_limit() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("shards.relay_idle_secs", 2)
        .start();
    dc.set_fault(Fault::Silent);
    for mode in [Mode::Intermediate, Mode::Ee] {
        let took = expect_closed(&proxy.dial(mode)).await;
        let range = Duration::from_millis(1_800)..Duration::from_secs(10);
        assert!(range.contains(&took), "{mode:?}: closed after {took:?}");
    }
    dc.set_fault(Fault::None);
    serve(&proxy.dial(Mode::Ee)).await.unwrap();
}

#[tokio::test]
async fn a_dc_that_closes_at_accept_closes_the_client() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr()).start();
    dc.set_fault(Fault::CloseAtAccept);
    for mode in Mode::PROXIED {
        expect_closed(&proxy.dial(mode)).await;
    }
    proxy.until_connections(0).await;
    // Only connects are tried again (protocol.md 9.5).
    assert_eq!(proxy.zero("upstream/connect_attempt_total"), 4);
}

#[tokio::test]
async fn a_dc_that_resets_mid_stream_ends_the_client() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr()).start();
    for fault in [Fault::ResetAfter(1), Fault::ResetAfter(300_000)] {
        dc.set_fault(fault);
        for mode in Mode::PROXIED {
            let mut client = Client::connect(&proxy.dial(mode)).await.unwrap();
            let error = client.exchange(100_000, 4 << 20).await.unwrap_err();
            let ended = matches!(error, ClientError::Closed { .. } | ClientError::Io { .. });
            assert!(ended, "{mode:?}: {error}");
        }
    }
    proxy.until_connections(0).await;
    dc.set_fault(Fault::None);
    serve(&proxy.dial(Mode::Dd)).await.unwrap();
}

#[tokio::test]
async fn a_dc_that_ends_lets_everything_through_first() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr()).start();
    for mode in Mode::PROXIED {
        let mut client = Client::connect(&proxy.dial(mode)).await.unwrap();
        client.download(1 << 20).await.unwrap();
        client.ask_close().await.unwrap();
        client.closed().await.unwrap();
    }
    proxy.until_connections(0).await;
}

#[tokio::test]
async fn slow_answers_are_waited_for() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr()).start();
    dc.set_fault(Fault::Delay(Duration::from_millis(700)));
    serve(&proxy.dial(Mode::Ee)).await.unwrap();
}

/// One DC 2 in both families.
struct TwoFamilies {
    v4: FakeDc,
    v6: FakeDc,
}

impl TwoFamilies {
    fn new() -> TwoFamilies {
        let any = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        TwoFamilies {
            v4: fake_dc(),
            v6: FakeDc::start(any).unwrap(),
        }
    }

    fn start(&self, prefer: u8) -> Proxy {
        let addrs = [self.v4.addr(), self.v6.addr()];
        Config::new(self.v4.addr())
            .dc(2, &addrs)
            .set("network.ipv6", true)
            .set("network.prefer", prefer)
            .start()
    }

    fn accepted(&self) -> (u64, u64) {
        (self.v4.stats().accepted, self.v6.stats().accepted)
    }
}

#[tokio::test]
async fn the_preferred_family_comes_first() {
    if !has_ipv6() {
        return;
    }
    for (prefer, expected) in [(4, (2, 0)), (6, (0, 2))] {
        let both = TwoFamilies::new();
        let proxy = both.start(prefer);
        serve(&proxy.dial(Mode::Ee)).await.unwrap();
        // The proxy listens in both families too.
        let over_v6 = Dial {
            addr: SocketAddr::from((Ipv6Addr::LOCALHOST, proxy.addr.port())),
            ..proxy.dial(Mode::Dd)
        };
        serve(&over_v6).await.unwrap();
        assert_eq!(both.accepted(), expected, "prefer {prefer}");
    }
}

#[tokio::test]
async fn the_other_family_is_tried_when_one_refuses() {
    if !has_ipv6() {
        return;
    }
    for prefer in [4, 6] {
        let both = TwoFamilies::new();
        let proxy = both.start(prefer);
        let down = if prefer == 4 { &both.v4 } else { &both.v6 };
        down.set_fault(Fault::Refuse);
        for _ in 0..3 {
            serve(&proxy.dial(Mode::Ee)).await.unwrap();
        }
        // The first client found out; the others went the other way at once.
        assert_eq!(proxy.zero("upstream/connect_attempt_total"), 4);
        assert_eq!(both.accepted().0 + both.accepted().1, 3);
    }
}

#[tokio::test]
async fn ipv6_addresses_are_left_alone_while_it_is_off() {
    if !has_ipv6() {
        return;
    }
    let both = TwoFamilies::new();
    let addrs = [both.v6.addr(), both.v4.addr()];
    let proxy = Config::new(both.v4.addr()).dc(2, &addrs).start();
    serve(&proxy.dial(Mode::Ee)).await.unwrap();
    assert_eq!(both.accepted(), (1, 0));
}
