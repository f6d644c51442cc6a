//! What new sessions get while the pool is not there: direct at once, direct after a grace, or
//! nothing; and that they come back to the MEs afterwards.

mod support;

use std::time::Duration;

use bench::{
    client::{Client, ClientError, Dial, Mode},
    fake_me::{Ending, Fault, Order, Page, Said},
};

use support::{
    Config, Proxy,
    me::{Middle, a_while},
    until,
};

async fn ping(dial: &Dial) -> Result<Client, ClientError> {
    let mut client = Client::connect(dial).await?;
    client.ping().await?;
    Ok(client)
}

/// A client of each mode, and how many of them the DC has got since.
async fn clients(middle: &Middle, proxy: &Proxy) -> (Vec<Client>, u64) {
    let before = middle.dc.stats().accepted;
    let mut clients = Vec::new();
    for mode in Mode::PROXIED {
        clients.push(
            ping(&proxy.dial(mode))
                .await
                .expect("a client of each mode is served"),
        );
    }
    (clients, middle.dc.stats().accepted - before)
}

fn with_fallback(middle: &Middle, fast: bool) -> Config {
    middle
        .config()
        .set("general.me2dc_fallback", true)
        .set("general.me2dc_fast", fast)
}

async fn expect_direct(middle: &Middle, proxy: &Proxy, reason: &str) -> Vec<Client> {
    proxy.until_route("direct").await;
    let gates = proxy.get("/v1/runtime/gates");
    assert_eq!(gates["accepting_new_connections"], true);
    assert_eq!(gates["reroute_active"], true);
    assert_eq!(gates["reroute_reason"], reason);
    assert_eq!(gates["me_runtime_ready"], false);
    let (clients, direct) = clients(middle, proxy).await;
    assert_eq!(direct, 4, "sessions that went direct");
    clients
}

async fn expect_middle(middle: &Middle, proxy: &Proxy) -> Vec<Client> {
    proxy.until_route("middle").await;
    let gates = until("the gate is open", || {
        let gates = proxy.get("/v1/runtime/gates");
        let open = gates["accepting_new_connections"] == true;
        open.then_some(gates)
    })
    .await;
    assert_eq!(gates["reroute_active"], false);
    assert_eq!(gates["me_runtime_ready"], true);
    let before = middle.me.total().clients_opened;
    let (clients, direct) = clients(middle, proxy).await;
    let through_me = middle.me.total().clients_opened - before;
    assert_eq!((direct, through_me), (0, 4), "direct, through MEs");
    clients
}

fn go_away(middle: &Middle) {
    middle.me.set_fault_everywhere(Fault::Refuse);
    middle.me.order_everywhere(Order::End(Ending::Rst));
}

#[tokio::test]
async fn a_start_never_waits_for_mes_that_may_be_bypassed() {
    let middle = Middle::five_dcs(2);
    go_away(&middle);
    let proxy = with_fallback(&middle, true).start();
    // At once: nothing was waited for.
    let mut direct = expect_direct(&middle, &proxy, "fast_not_ready_fallback").await;
    middle.me.set_fault_everywhere(Fault::None);
    let _through = expect_middle(&middle, &proxy).await;
    // Those who went direct stay as they are.
    for client in &mut direct {
        client.exchange(10_000, 100_000).await.unwrap();
    }
}

#[tokio::test]
async fn lost_mes_are_bypassed_at_once_and_taken_again() {
    let middle = Middle::five_dcs(2);
    let proxy = middle.start(with_fallback(&middle, true)).await;
    let through = expect_middle(&middle, &proxy).await;
    for _ in 0..2 {
        go_away(&middle);
        let mut direct = expect_direct(&middle, &proxy, "fast_not_ready_fallback").await;
        middle.me.set_fault_everywhere(Fault::None);
        expect_middle(&middle, &proxy).await;
        for client in &mut direct {
            client.ping().await.unwrap();
        }
    }
    drop(through);
    let gates = proxy.get("/v1/runtime/gates");
    assert!(
        gates
            .get("reroute_reason")
            .is_none_or(serde_json::Value::is_null)
    );
}

#[tokio::test]
async fn without_the_fast_way_lost_mes_have_a_grace() {
    let middle = Middle::five_dcs(1);
    let proxy = middle.start(with_fallback(&middle, false)).await;
    expect_middle(&middle, &proxy).await;
    go_away(&middle);
    until("the gate is closed", || {
        (proxy.gate("accepting_new_connections") == false).then_some(())
    })
    .await;
    assert_eq!(proxy.gate("route_mode"), "middle");
    // After six seconds.
    let direct = expect_direct(&middle, &proxy, "strict_grace_fallback").await;
    middle.me.set_fault_everywhere(Fault::None);
    expect_middle(&middle, &proxy).await;
    drop(direct);
}

#[tokio::test]
async fn without_fallback_nobody_is_served_meanwhile() {
    let middle = Middle::five_dcs(1);
    let proxy = middle.start(middle.config()).await;
    let mut through = expect_middle(&middle, &proxy).await;
    go_away(&middle);
    until("the gate is closed", || {
        (proxy.gate("accepting_new_connections") == false).then_some(())
    })
    .await;
    assert_eq!(proxy.gate("route_mode"), "middle");
    let (status, ready) = proxy.ask("/v1/health/ready");
    assert_eq!(
        (status, &ready["data"]["admission_open"]),
        (503, &false.into())
    );
    let hasty = Dial {
        timeout: Duration::from_millis(1_500),
        ..proxy.dial(Mode::Dd)
    };
    ping(&hasty).await.unwrap_err();
    assert_eq!(middle.dc.stats().accepted, 0);
    middle.me.set_fault_everywhere(Fault::None);
    expect_middle(&middle, &proxy).await;
    // Nobody of before was waiting for anything, and whoever asks in time is moved or closed.
    for client in &mut through {
        let _ = client.ping().await;
    }
    assert_eq!(middle.dc.stats().accepted, 0);
}

#[tokio::test]
async fn files_alone_are_enough() {
    let middle = Middle::five_dcs(2);
    // A port that nobody listens on.
    let nowhere = format!("\"http://127.0.0.1:{}/\"", support::free_port());
    let config = middle
        .config()
        .set("general.proxy_secret_url", &nowhere)
        .set("general.proxy_config_v4_url", &nowhere)
        .set("general.proxy_config_v6_url", &nowhere);
    let proxy = middle.start(config).await;
    expect_middle(&middle, &proxy).await;
    assert_eq!(middle.me.fetched(Page::Secret), 0);
}

#[tokio::test]
async fn what_is_missing_at_the_start_is_tried_again() {
    let middle = Middle::five_dcs(1);
    for page in Page::ALL {
        std::fs::remove_file(middle.files().join(page.file())).unwrap();
        middle.me.say(
            page,
            Some(Said {
                status: 503,
                body: None,
            }),
        );
    }
    let proxy = with_fallback(&middle, true).start();
    expect_direct(&middle, &proxy, "fast_not_ready_fallback").await;
    until("the secret was asked for", || {
        (middle.me.fetched(Page::Secret) > 0).then_some(())
    })
    .await;
    a_while().await;
    for page in Page::ALL {
        middle.me.say(page, None);
    }
    proxy.until_at_floor().await;
    expect_middle(&middle, &proxy).await;
    for page in [Page::Secret, Page::ConfigV4] {
        let cached = std::fs::read(middle.files().join(page.file()));
        assert!(cached.is_ok_and(|bytes| !bytes.is_empty()), "{page:?}");
    }
}
