//! Ways to the imitated site: `censorship.tls_fetch_scope`, and `tls_fetch.strict_route` for when
//! they lead nowhere.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use bench::{client::Mode, fake_dc::FakeDc};

use super::{ip, serve, sources, ways};
use crate::support::{
    Config, Proxy, fake_dc,
    socks_server::{SocksServer, microsocks},
    tls_site::{Certificate, TlsSite},
    until,
};

/// A site, and who has come to it.
struct Site {
    addr: SocketAddr,
    from: Arc<Mutex<BTreeSet<IpAddr>>>,
    _tls: TlsSite,
}

impl Site {
    /// `None` when a program that is needed is not installed.
    fn start() -> Option<Site> {
        let tls = TlsSite::start(Certificate::Rsa, "")?;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let from = Arc::<Mutex<BTreeSet<IpAddr>>>::default();
        let (seen, behind) = (Arc::clone(&from), tls.addr);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                seen.lock().unwrap().insert(near.peer_addr().unwrap().ip());
                let far = TcpStream::connect(behind).unwrap();
                let (from, to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                thread::spawn(move || pump(from, to));
                thread::spawn(move || pump(far, near));
            }
        });
        Some(Site {
            addr,
            from,
            _tls: tls,
        })
    }

    /// Source addresses so far.
    fn visitors(&self) -> BTreeSet<IpAddr> {
        self.from.lock().unwrap().clone()
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    // However it ends, the other side is told.
    drop(std::io::copy(&mut from, &mut to));
    drop(to.shutdown(Shutdown::Write));
}

/// A proxy that asks `site` through `server`, which is reserved for that; sessions go straight.
fn start(dc: &FakeDc, site: &Site, server: &SocksServer, strict: Option<bool>) -> Proxy {
    let entries = [
        server.entry("socks5", ", scopes = \"fetch\""),
        "{ type = \"direct\" }".to_owned(),
    ];
    let config = Config::new(dc.addr())
        .set("upstreams", ways(&entries))
        .set("censorship.tls_emulation", true)
        .set("censorship.tls_fetch_scope", "\"fetch\"")
        .set("censorship.mask_host", "\"127.0.0.1\"")
        .set("censorship.mask_port", site.addr.port());
    match strict {
        Some(strict) => config.set("censorship.tls_fetch.strict_route", strict),
        None => config,
    }
    .start()
}

/// How the first round of questions ended.
async fn learned(proxy: &Proxy) -> bool {
    until("the site is asked", || {
        let log = proxy.log();
        let failed = log.contains("nothing learned from");
        (failed || log.contains(": learned from")).then_some(!failed)
    })
    .await
}

/// Servers that do not lead there: one is not running, the other wants a password.
fn useless() -> Option<[SocksServer; 2]> {
    let mut down = microsocks("127.0.0.72", None)?;
    down.stop();
    Some([down, microsocks("127.0.0.73", Some(("user", "right")))?])
}

#[tokio::test]
async fn the_site_is_asked_through_the_upstreams_of_its_scope() {
    let (Some(site), Some(server)) = (Site::start(), microsocks("127.0.0.71", None)) else {
        return;
    };
    let dc = fake_dc();
    for strict in [Some(true), Some(false)] {
        let proxy = start(&dc, &site, &server, strict);
        assert!(learned(&proxy).await, "{}", proxy.log());
        assert_eq!(site.visitors(), [ip("127.0.0.71")].into());
        serve(&proxy.dial(Mode::Ee)).await.unwrap();
        assert_eq!(sources(&dc), [(ip("127.0.0.1"), 1)].into());
    }
}

#[tokio::test]
async fn a_strict_route_to_the_site_is_the_only_one() {
    let (Some(site), Some(servers)) = (Site::start(), useless()) else {
        return;
    };
    let dc = fake_dc();
    for server in &servers {
        // It is strict by default.
        for strict in [None, Some(true)] {
            let proxy = start(&dc, &site, server, strict);
            assert!(!learned(&proxy).await, "{}", proxy.log());
            // Clients are served all the same.
            serve(&proxy.dial(Mode::Ee)).await.unwrap();
            assert_eq!(site.visitors(), [].into());
        }
    }
}

#[tokio::test]
async fn the_site_is_asked_straight_where_that_is_allowed() {
    let (Some(site), Some(servers)) = (Site::start(), useless()) else {
        return;
    };
    let dc = fake_dc();
    for server in &servers {
        let proxy = start(&dc, &site, server, Some(false));
        assert!(learned(&proxy).await, "{}", proxy.log());
        assert_eq!(site.visitors(), [ip("127.0.0.1")].into());
        serve(&proxy.dial(Mode::Ee)).await.unwrap();
    }
}
