//! Sessions whose writer ends: those that can go on elsewhere do, the others are closed and
//! counted. One test per row of the rule.

mod support;

use std::time::Duration;

use bench::{
    client::{Client, Mode},
    fake_me::{Ending, Fault, Order},
};

use support::{
    Proxy, has_two_cores,
    me::{Middle, a_while},
    persistent::Crowd,
    until,
};

const CLIENTS: usize = 40;
/// Endpoints of each DC. All of a DC with several would be barred for 25 s once young writers are
/// lost at each; a single one is dialled all the same.
const ALONE: u8 = 1;

/// Clients of all modes that have been answered.
async fn clients(proxy: &Proxy) -> Vec<Client> {
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let dial = proxy.dial(Mode::PROXIED[number % 4]);
        let mut client = Client::connect(&dial).await.expect("it is served");
        client.ping().await.expect("it is answered");
        clients.push(client);
    }
    clients
}

/// All are answered, on the connection that they have.
async fn all_go_on(clients: &mut [Client]) {
    for client in clients {
        client.ping().await.expect("it is answered");
        client
            .exchange(20_000, 100_000)
            .await
            .expect("every byte comes back");
    }
}

/// All are closed, and counted so.
async fn all_are_lost(proxy: &Proxy, mut clients: Vec<Client>, class: &str) {
    for client in &mut clients {
        client.ping().await.expect_err("its connection ends");
    }
    drop(clients);
    proxy.until_connections(0).await;
    assert_eq!(proxy.bad(class), CLIENTS as u64, "{class}");
}

/// Ends all writers and waits until the proxy has noticed: what is said before may get lost.
async fn end_all(middle: &Middle, proxy: &Proxy, ending: Ending) -> u64 {
    let writers = middle.me.order_everywhere(Order::End(ending)) as u64;
    until("the proxy has noticed", || {
        let removed = proxy.pool_count("writer_removed_unexpected_total");
        (removed == writers).then_some(())
    })
    .await;
    writers
}

async fn until_all_moved(middle: &Middle) {
    until("all have come again", || {
        (middle.me.total().clients_opened == 2 * CLIENTS as u64).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_end_of_a_stream_moves_its_sessions() {
    let middle = Middle::five_dcs(ALONE);
    let proxy = middle.start(middle.config()).await;
    let mut clients = clients(&proxy).await;
    let writers = end_all(&middle, &proxy, Ending::Fin).await;
    assert_eq!(proxy.me_count("reader_eof_total"), writers);
    all_go_on(&mut clients).await;
    until_all_moved(&middle).await;
    assert_eq!(middle.me.total().clients_lost, CLIENTS as u64);
    assert_eq!(proxy.bad("me_writer_lost"), 0);
    middle.expect_clean();
}

#[tokio::test]
async fn a_reset_moves_sessions_that_were_silent() {
    let middle = Middle::five_dcs(ALONE);
    let proxy = middle.start(middle.config()).await;
    let mut clients = clients(&proxy).await;
    tokio::time::sleep(Duration::from_millis(10_500)).await;
    end_all(&middle, &proxy, Ending::Rst).await;
    all_go_on(&mut clients).await;
    until_all_moved(&middle).await;
    assert_eq!(proxy.bad("me_writer_lost"), 0);
    middle.expect_clean();
}

#[tokio::test]
async fn a_reset_ends_sessions_that_have_just_said_something() {
    let middle = Middle::five_dcs(ALONE);
    let proxy = middle.start(middle.config()).await;
    let clients = clients(&proxy).await;
    end_all(&middle, &proxy, Ending::Rst).await;
    all_are_lost(&proxy, clients, "me_writer_lost").await;
}

#[tokio::test]
async fn a_broken_frame_ends_all_sessions_behind_it() {
    let middle = Middle::five_dcs(ALONE);
    let proxy = middle.start(middle.config()).await;
    let clients = clients(&proxy).await;
    middle.me.set_fault_everywhere(Fault::WrongChecksum);
    middle.me.order_everywhere(Order::Ping(1));
    all_are_lost(&proxy, clients, "me_writer_lost").await;
    middle.me.set_fault_everywhere(Fault::None);
    proxy.until_at_floor().await;
}

#[tokio::test]
async fn a_key_exchange_does_not_move() {
    let middle = Middle::five_dcs(ALONE);
    let proxy = middle.start(middle.config()).await;
    let mut clients = clients(&proxy).await;
    for client in &mut clients {
        client.send_frame(&[0; 40]).await.unwrap();
        client.recv_frame().await.unwrap();
    }
    end_all(&middle, &proxy, Ending::Fin).await;
    all_are_lost(&proxy, clients, "me_writer_lost").await;
}

#[tokio::test]
async fn sessions_without_any_writer_wait_and_are_closed() {
    let middle = Middle::five_dcs(ALONE);
    let config = middle
        .config()
        .set("general.me_route_hybrid_max_wait_ms", 400);
    let proxy = middle.start(config).await;
    let clients = clients(&proxy).await;
    middle.me.set_fault_everywhere(Fault::Refuse);
    end_all(&middle, &proxy, Ending::Fin).await;
    all_are_lost(&proxy, clients, "me_no_writer").await;
}

#[tokio::test]
async fn a_session_that_waits_goes_on_with_the_first_writer() {
    let middle = Middle::five_dcs(ALONE);
    let config = middle
        .config()
        .set("general.me_route_hybrid_max_wait_ms", 30_000);
    let proxy = middle.start(config).await;
    let mut clients = clients(&proxy).await;
    middle.me.set_fault_everywhere(Fault::Refuse);
    end_all(&middle, &proxy, Ending::Fin).await;
    let mut waiting = tokio::task::JoinSet::new();
    for mut client in clients.drain(..) {
        waiting.spawn(async move { client.ping().await });
    }
    a_while().await;
    middle.me.set_fault_everywhere(Fault::None);
    for answered in waiting.join_all().await {
        answered.unwrap();
    }
    middle.expect_clean();
}

/// A pool that follows new maps, new secrets and its own clock at once, with a short way out for
/// old writers.
async fn restless(middle: &Middle, reinit_secs: u64) -> Proxy {
    let mut config = middle
        .config()
        .set("general.update_every", 1)
        .set("general.me_reinit_every_secs", reinit_secs)
        .set("general.me_config_stable_snapshots", 1)
        .set("general.me_config_apply_cooldown_secs", 0)
        .set("general.proxy_secret_stable_snapshots", 1)
        .set("general.me_hardswap_warmup_delay_min_ms", 0)
        .set("general.me_hardswap_warmup_delay_max_ms", 20)
        .set("general.me_pool_drain_ttl_secs", 1)
        .set("general.me_reinit_drain_timeout_secs", 1);
    if has_two_cores() {
        config = config.shards(2);
    }
    middle.start(config).await
}

/// What is planned loses nobody but those who have a message half sent or an answer half received
/// when the time of their writer is over; a request may have to be made once more.
async fn expect_moves(middle: &Middle, proxy: &Proxy, crowd: &mut Crowd) {
    crowd.stop(String::new).await;
    proxy.until_connections(0).await;
    let (lost, counted) = (crowd.lost(), proxy.bad("me_writer_lost"));
    let moved = middle.me.total().clients_opened - CLIENTS as u64 - lost;
    println!(
        "{} answers, {} unanswered, {moved} moves, {lost} lost",
        crowd.answers(),
        crowd.unanswered()
    );
    assert_eq!(
        (lost, crowd.turned_away()),
        (counted, 0),
        "lost, turned away"
    );
    assert!(lost * 4 <= moved, "{lost} lost and {moved} moved");
    assert!(proxy.pool_count("pool_force_close_total") > 0);
    middle.expect_clean();
}

#[tokio::test]
async fn new_generations_take_sessions_over() {
    let middle = Middle::five_dcs(ALONE);
    let proxy = restless(&middle, 2).await;
    let mut crowd = Crowd::start(&proxy, CLIENTS, 1);
    until("three generations have come and gone", || {
        (proxy.pool_count("pool_swap_total") >= 3).then_some(())
    })
    .await;
    expect_moves(&middle, &proxy, &mut crowd).await;
}

#[tokio::test]
async fn endpoints_that_move_take_sessions_along() {
    let middle = Middle::five_dcs(ALONE);
    let proxy = restless(&middle, 900).await;
    let mut crowd = Crowd::start(&proxy, CLIENTS, 2);
    let old = middle.me.endpoints();
    let mut map = middle.me.map();
    for (dc, addrs) in &mut map {
        for addr in addrs {
            *addr = middle.me.add(*dc, addr.ip()).unwrap();
        }
    }
    middle.me.set_map(map);
    let left = || {
        old.iter()
            .map(|addr| middle.me.stats(*addr).writers)
            .sum::<u64>()
    };
    until("the old endpoints are left", || (left() == 0).then_some(())).await;
    proxy.until_at_floor().await;
    expect_moves(&middle, &proxy, &mut crowd).await;
}

#[tokio::test]
async fn a_new_secret_takes_sessions_over() {
    let middle = Middle::five_dcs(ALONE);
    let proxy = restless(&middle, 900).await;
    let mut crowd = Crowd::start(&proxy, CLIENTS, 3);
    let before = middle.me.total().handshakes;
    middle.me.rotate_secret(true);
    until("all writers are new", || {
        let total = middle.me.total();
        let wanted = proxy.writers("required_writers");
        (total.handshakes >= before + wanted && total.writers == wanted).then_some(())
    })
    .await;
    // The old secret is good no longer.
    middle.me.rotate_secret(false);
    until("the pool has changed once more", || {
        (proxy.pool_count("pool_swap_total") >= 2).then_some(())
    })
    .await;
    a_while().await;
    expect_moves(&middle, &proxy, &mut crowd).await;
}
