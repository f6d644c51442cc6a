//! Where the proxy learns its own address and that of the middle proxies from: STUN, web servers,
//! downloads and files that somebody puts there.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    thread,
    time::Duration,
};

use bench::{
    client::{Client, Mode},
    fake_me::{Fault, Page, Said},
};

use support::{Proxy, me::Middle, until};

/// What the rest of the world sees us as.
const SEEN_AS: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);

/// Without a route nobody is asked for our address.
fn has_route() -> bool {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket
        .connect((Ipv4Addr::new(149, 154, 167, 51), 443))
        .is_ok()
}

/// A STUN server that sees everybody as [`SEEN_AS`].
fn stun_server() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut request = [0; 64];
        while let Ok((got, from)) = socket.recv_from(&mut request) {
            assert_eq!(got, 20);
            let mut answer = vec![1, 1, 0, 12];
            answer.extend(&request[4..20]);
            // MAPPED-ADDRESS, IPv4, port 5.
            answer.extend([0, 1, 0, 8, 0, 1, 0, 5]);
            answer.extend(SEEN_AS.octets());
            socket.send_to(&answer, from).unwrap();
        }
    });
    addr
}

/// A web server that tells everybody their address.
fn web_server() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let mut request = [0; 1024];
            let _ = socket.read(&mut request);
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{SEEN_AS}\n");
            let _ = socket.write_all(answer.as_bytes());
        }
    });
    addr
}

async fn ping(proxy: &Proxy) {
    let mut client = Client::connect(&proxy.dial(Mode::Dd)).await.unwrap();
    client.ping().await.unwrap();
}

#[tokio::test]
async fn address_that_stun_servers_name_enters_the_keys() {
    if !has_route() {
        return;
    }
    let middle = Middle::five_dcs(1);
    let seen_as: IpAddr = SEEN_AS.into();
    middle.me.set_fault_everywhere(Fault::SeenAs(seen_as));
    let (one, other) = (stun_server(), stun_server());
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let silent = silent.local_addr().unwrap();
    let config = middle
        .config()
        .set("general.middle_proxy_nat_probe", true)
        .set("network.stun_use", true)
        .set("network.stun_tcp_fallback", false)
        .set(
            "network.stun_servers",
            format!("[\"{one}\", \"{silent}\", \"{other}\"]"),
        );
    let proxy = middle.start(config).await;
    ping(&proxy).await;
    let mut seen = middle.me.seen().into_iter();
    assert!(seen.all(|seen| seen.proxy.ip() == seen_as));
    let shown = &proxy.get("/v1/runtime/nat_stun")["data"];
    assert_eq!(shown["reflection"]["v4"]["addr"], "9.9.9.9:5");
    assert_eq!(shown["servers"]["live_total"], 2, "{shown}");
    assert_eq!(shown["flags"]["nat_probe_enabled"], true);
    assert_eq!(shown["flags"]["nat_probe_attempts"], 0);
    middle.expect_clean();
}

#[tokio::test]
async fn web_servers_name_the_address_where_stun_is_off() {
    if !has_route() {
        return;
    }
    let middle = Middle::five_dcs(1);
    middle
        .me
        .set_fault_everywhere(Fault::SeenAs(SEEN_AS.into()));
    let config = middle
        .config()
        .set("general.middle_proxy_nat_probe", true)
        .set("network.stun_use", false)
        .set(
            "network.http_ip_detect_urls",
            format!(
                "[\"http://127.0.0.1:{}/\", \"http://{}/ip\"]",
                support::free_port(),
                web_server()
            ),
        );
    let proxy = middle.start(config).await;
    // A host with a public address needs nobody's word.
    if proxy.log().contains("our public IPv4 address is 9.9.9.9") {
        ping(&proxy).await;
        middle.expect_clean();
    }
}

#[tokio::test]
async fn downloads_that_agree_are_taken_over_while_clients_go_on() {
    let middle = Middle::five_dcs(1);
    let config = middle
        .config()
        .set("general.update_every", 1)
        .set("general.me_config_apply_cooldown_secs", 0)
        .set("general.me_reinit_coalesce_window_ms", 10)
        .set("general.me_hardswap_warmup_delay_min_ms", 0)
        .set("general.me_hardswap_warmup_delay_max_ms", 1);
    let proxy = middle.start(config).await;
    let mut client = Client::connect(&proxy.dial(Mode::Dd)).await.unwrap();
    client.ping().await.unwrap();
    let mut map = middle.me.map();
    let moved = middle.me.add(2, Ipv4Addr::new(127, 0, 0, 222).into());
    let moved = moved.unwrap();
    map.insert(2, vec![moved]);
    middle.me.set_map(map);
    until("the DC's writers are where it moved to", || {
        let shown = proxy.get("/v1/stats/dcs")["dcs"].clone();
        let dcs = shown.as_array()?;
        let dc = dcs.iter().find(|row| row["dc"] == 2)?;
        let there = dc["endpoints"][0] == moved.to_string() && dc["coverage_pct"] == 100.0;
        there.then_some(())
    })
    .await;
    client.ping().await.unwrap();
    let cached = std::fs::read_to_string(middle.files().join(Page::ConfigV4.file()));
    assert!(cached.unwrap().contains(&moved.to_string()));
    let said = proxy.log();
    assert!(said.contains("map"), "{said}");
}

#[tokio::test]
async fn files_put_there_count_while_nothing_can_be_downloaded() {
    let middle = Middle::five_dcs(1);
    for page in Page::ALL {
        let said = Said {
            status: 503,
            body: None,
        };
        middle.me.say(page, Some(said));
    }
    let config = middle
        .config()
        .set("general.update_every", 1)
        .set("general.me_config_stable_snapshots", 1)
        .set("general.me_config_apply_cooldown_secs", 0);
    let proxy = middle.start(config).await;
    let moved = middle.me.add(2, Ipv4Addr::new(127, 0, 0, 223).into());
    let moved = moved.unwrap();
    let path = middle.files().join(Page::ConfigV4.file());
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}\nproxy_for 2 {moved};\n")).unwrap();
    until("the endpoint is in the map", || {
        let shown = proxy.get("/v1/stats/dcs")["dcs"].clone();
        let dcs = shown.as_array()?;
        let dc = dcs.iter().find(|row| row["dc"] == 2)?;
        let endpoints = dc["endpoints"].as_array()?;
        (endpoints.len() == 2 && endpoints.contains(&moved.to_string().into())).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    ping(&proxy).await;
}

#[tokio::test]
async fn secret_that_changes_is_told_and_costs_no_session() {
    let middle = Middle::five_dcs(1);
    let config = middle
        .config()
        .set("server.api.runtime_edge_enabled", true)
        .set("general.update_every", 1)
        .set("general.me_reinit_coalesce_window_ms", 10)
        .set("general.me_hardswap_warmup_delay_min_ms", 0)
        .set("general.me_hardswap_warmup_delay_max_ms", 1);
    let proxy = middle.start(config).await;
    let mut client = Client::connect(&proxy.dial(Mode::Dd)).await.unwrap();
    client.ping().await.unwrap();
    let before = std::fs::read(middle.files().join(Page::Secret.file())).unwrap();
    middle.me.rotate_secret(true);
    until("writers with the new secret are in use", || {
        (proxy.pool_count("pool_swap_total") > 0).then_some(())
    })
    .await;
    client.ping().await.unwrap();
    let events = proxy.get("/v1/runtime/events/recent")["data"]["events"].clone();
    let kinds: Vec<&str> = events
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| event["event_type"].as_str())
        .collect();
    assert!(kinds.contains(&"me_secret"), "{kinds:?}");
    // The copy on disk is the new one.
    let cached = std::fs::read(middle.files().join(Page::Secret.file())).unwrap();
    assert_ne!(cached, before);
}

#[tokio::test]
async fn shorter_interval_asks_at_once() {
    let middle = Middle::five_dcs(1);
    let proxy = middle.start(middle.config()).await;
    let asked = middle.me.fetched(Page::ConfigV4);
    assert_eq!(asked, 1);
    let line = proxy.reload(&proxy.config().set("general.update_every", 200));
    assert!(line.contains("applied general.update_every"), "{line}");
    until("the map is asked for", || {
        (middle.me.fetched(Page::ConfigV4) > asked).then_some(())
    })
    .await;
}
