//! The whole of it against sites of our own: threads that answer as they were told.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::mpsc,
};

use shards::{
    proto::{
        crypto::HmacKey,
        faketls::{
            client_hello::{AlpnOffer, Compression, HelloFields, SUITES, hello_len, parse_fields},
            server_hello::{Answer, Group, answer},
        },
        secret::Secret,
    },
    settings::{FlightBytes, Flights},
};

use super::*;
use crate::route_out::RouteOut;

/// A site on a thread: what it answers to what a hello offers, in pieces. Ends with the process.
fn site(says: impl Fn(&HelloFields<'_>) -> Vec<Vec<u8>> + Send + 'static) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut seen = Vec::new();
            while hello_len(&seen) != Ok(Some(seen.len())) {
                let mut piece = [0; 4096];
                match stream.read(&mut piece) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => seen.extend_from_slice(&piece[..read]),
                }
            }
            for piece in says(&parse_fields(&seen)) {
                // It may have heard enough.
                let _ = stream.write_all(&piece);
                thread::sleep(Duration::from_millis(20));
            }
            // Waits for the client, as a server does.
            let _ = stream.read(&mut [0]);
        }
    });
    Target::Host("127.0.0.1".to_owned(), port)
}

/// An answer with its encrypted flight in two records, the second one cut in two.
fn pieces(fields: &HelloFields<'_>, suite: u16, flight_bytes: usize) -> Vec<Vec<u8>> {
    let group = if fields.mlkem {
        Group::Hybrid
    } else {
        Group::X25519
    };
    let says = Answer {
        session_id: fields.session_id,
        suite,
        group,
        key_share: &vec![8; group.key_share_bytes()],
        flight_bytes: flight_bytes - 300,
        key_share_first: true,
    };
    let mut first = Vec::new();
    let key = HmacKey::new(&Secret([3; 16]));
    answer(&mut first, &key, &[4; 32], &says, &mut |c| c.fill(0x77));
    let mut second = vec![0x17, 3, 3, 1, 44];
    second.extend([7; 300]);
    let third = second.split_off(100);
    vec![first, second, third]
}

fn how() -> Ask {
    Ask {
        styles: vec![SiteStyle::Chrome, SiteStyle::Firefox],
        attempt: Duration::from_secs(10),
        budget: Duration::from_secs(20),
        grease: false,
        deterministic: false,
        preamble: Vec::new(),
    }
}

fn straight() -> Route {
    let families = crate::names::Families {
        ipv4: true,
        ipv6: false,
        prefer_ipv6: false,
    };
    Route {
        out: Arc::new(RouteOut::new(Vec::new(), families, crate::names::resolve)),
        scope: None,
        strict: true,
    }
}

fn learn_from(target: &Target, how: &Ask) -> Result<Learned, ask::AskError> {
    let site = learn::Site {
        domain: "a.example",
        target,
    };
    learn::learn(how, &straight(), site, None)
}

fn exactly(bytes: u16) -> Option<FlightBytes> {
    Some(FlightBytes {
        least: bytes,
        most: bytes,
    })
}

#[test]
fn learns_sizes_order_and_whose_suite_counts() {
    for (preference, want) in [
        (None, SuiteOrder::Client),
        (
            Some([0x1302, 0x1303, 0x1301]),
            SuiteOrder::Site([0x1302, 0x1303, 0x1301]),
        ),
        (
            Some([0x1301, 0x1303, 0x1302]),
            SuiteOrder::Site([0x1301, 0x1303, 0x1302]),
        ),
    ] {
        let target = site(move |fields| {
            let suite = match preference {
                Some(order) => fields.suite_by(&order).unwrap(),
                None => fields.suite,
            };
            let hash = if suite == 0x1302 { 48 } else { 32 };
            let protocol = match fields.alpn_offer() {
                AlpnOffer::H2 => 9,
                AlpnOffer::Http11 => 15,
                AlpnOffer::Neither => 0,
            };
            let certificate = match fields.compression {
                Compression::Brotli => 2500,
                Compression::Zlib => 2600,
                Compression::None => 3900,
            };
            pieces(fields, suite, certificate + protocol + hash)
        });
        let learned = learn_from(&target, &how()).unwrap();
        let front = learned.front;
        assert_eq!(front.suites, want);
        assert!(front.hybrid && front.key_share_first && learned.tls13);
        let flights = Flights {
            h2: exactly(2509),
            http11: exactly(2515),
            neither: exactly(2500),
            h2_zlib: exactly(2609),
            h2_plain: exactly(3909),
        };
        assert_eq!(front.flights, flights);
    }
}

#[test]
fn tries_the_next_style_when_one_is_not_answered() {
    // Whoever offers TLS 1.3 is refused.
    let target = site(|fields| {
        if fields.suite_by(&SUITES).is_none() {
            return pieces(fields, 0x1301, 2000);
        }
        vec![vec![0x15, 3, 3, 0, 2, 2, 40]]
    });
    let error = learn_from(&target, &how()).unwrap_err().to_string();
    assert_eq!(error, "the site answered with alert 40");
    let styles = vec![SiteStyle::Firefox, SiteStyle::Compat12];
    let learned = learn_from(&target, &Ask { styles, ..how() }).unwrap();
    assert_eq!(learned.style, SiteStyle::Compat12);
}

#[test]
fn no_site_is_asked_past_the_upstreams_of_a_scope() {
    let target = site(|fields| pieces(fields, fields.suite, 3000));
    let scoped = |strict| Route {
        scope: Some("fronts".to_owned()),
        strict,
        ..straight()
    };
    let limit = Duration::from_secs(10);
    let error = scoped(true).open(&target, limit).err().unwrap();
    assert!(error.to_string().contains("fronts"), "{error}");
    assert!(scoped(false).open(&target, limit).is_ok());
}

#[test]
fn useless_sites_cost_no_more_than_the_budget() {
    let silent = site(|_| Vec::new());
    let endless = site(|_| vec![vec![0x16; 70_000], vec![0x16; 70_000]]);
    let other = site(|_| vec![b"SSH-2.0-x\r\n".to_vec()]);
    let how = Ask {
        attempt: Duration::from_millis(300),
        budget: Duration::from_millis(500),
        ..how()
    };
    for (target, said) in [
        (silent, "no complete answer in time"),
        (endless, "no ServerHello"),
        (other, "record type 0x53"),
        (Target::Host("127.0.0.1".into(), 9), "cannot connect"),
        (Target::Unix("/nowhere".into()), "cannot connect"),
    ] {
        let begun = Instant::now();
        let error = learn_from(&target, &how).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn what_was_learned_is_told_kept_and_survives_a_restart_without_the_site() {
    let dir = tempfile::tempdir().unwrap();
    let target = site(|fields| pieces(fields, fields.suite, 3000));
    let settings = |target: &Target| Settings {
        sites: vec![("a.example".to_owned(), target.clone())],
        ask: how(),
        style_ttl: Duration::from_secs(600),
        dir: dir.path().join("deep").join("tlsfront"),
    };
    let (tell, told) = mpsc::channel();
    let teller = move || -> Tell {
        let tell = tell.clone();
        Box::new(move |table| tell.send(table).unwrap())
    };
    let mut fronts = Fronts::new(settings(&target), straight(), teller());
    assert!(told.try_recv().is_err(), "nothing is known yet");
    fronts.round(0);
    let first = told.try_recv().unwrap();
    let front = *first.get("a.example").unwrap();
    assert_eq!(front.flights.h2, exactly(3000 - 32));
    // The next process hears of it before it asks anybody.
    drop(Fronts::new(settings(&target), straight(), teller()));
    assert_eq!(told.try_recv().unwrap(), first);
    // Another target is another site.
    let elsewhere = Target::Host("127.0.0.1".into(), 9);
    let mut gone = Fronts::new(settings(&elsewhere), straight(), teller());
    assert!(told.try_recv().is_err());
    gone.round(0);
    assert!(gone.sites[0].due > Instant::now());
    assert!(told.try_recv().is_err(), "a failure is nothing to tell");
}

#[test]
fn garbage_on_disk_is_no_knowledge_and_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::Host("a.example".into(), 443);
    let known = Known {
        front: Front {
            suites: SuiteOrder::Site([0x1302, 0x1301, 0x1303]),
            hybrid: true,
            key_share_first: false,
            flights: Flights {
                h2: exactly(2000),
                http11: None,
                neither: exactly(1991),
                h2_zlib: exactly(2000),
                h2_plain: None,
            },
        },
        at: 1_700_000_000,
    };
    let load = || cache::load(dir.path(), "a.example", &target);
    assert_eq!(load(), None);
    cache::store(dir.path(), "a.example", &target, &known).unwrap();
    assert_eq!(load(), Some(known));
    let path = dir.path().join("a.example.json");
    let good = std::fs::read(&path).unwrap();
    for cut in 0..good.len() {
        std::fs::write(&path, &good[..cut]).unwrap();
        assert_eq!(load(), None, "{cut} bytes");
    }
    let text = String::from_utf8(good).unwrap();
    for (from, to) in [
        ("\"version\": 1", "\"version\": 2"),
        ("a.example:443", "a.example:444"),
        ("4866", "4864"),
        ("1991", "70000"),
        ("\"hybrid\"", "\"other\""),
    ] {
        let bad = text.replacen(from, to, 1);
        assert_ne!(bad, text, "{from}");
        std::fs::write(&path, bad).unwrap();
        assert_eq!(load(), None, "{to}");
    }
    std::fs::write(&path, vec![b' '; 1 << 20]).unwrap();
    assert_eq!(load(), None);
    cache::store(dir.path(), "a.example", &target, &known).unwrap();
    assert_eq!(load(), Some(known));
}

#[test]
fn sizes_of_one_certificate_are_joined_and_those_of_another_replace_them() {
    let flights = |bytes| Flights {
        h2: exactly(bytes),
        ..Flights::default()
    };
    let both = learn::widen(flights(2000), flights(2002));
    let range = FlightBytes {
        least: 2000,
        most: 2002,
    };
    assert_eq!(both.h2, Some(range));
    assert_eq!(learn::widen(both, flights(2001)), both);
    assert_eq!(learn::widen(both, flights(3000)), flights(3000));
    assert_eq!(learn::widen(both, Flights::default()), both);
}
