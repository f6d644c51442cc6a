//! The probe table: what a stranger sends, and that the proxy and nginx itself answer it alike.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use bench::client::{Client, Dial, Mode, Opening};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use shards::proto::faketls::client_hello::HelloKind;

use crate::{
    masked,
    site::Peer,
    support::{Proxy, bytes::first_bytes, fake_dc, nginx::Nginx},
};

/// One stranger.
struct Probe {
    name: String,
    steps: Vec<Step>,
}

enum Step {
    Say(Vec<u8>),
    /// A byte or a few at a time.
    Drip(Vec<u8>),
    Finish,
}

/// What a stranger saw.
struct Seen {
    /// What came and how it ended, without what is random or a date.
    shape: Vec<String>,
    /// From the last byte said to the first one heard.
    first_byte: Option<Duration>,
}

/// More than a splice takes on a busy machine; a stalled beginning waits for five seconds besides.
const DELAY_MAX: Duration = Duration::from_secs(2);
const STALL: Duration = Duration::from_secs(5);

#[tokio::test]
async fn every_probe_sees_the_mask_site() {
    let Some(nginx) = Nginx::start_with("ssl_session_tickets off;") else {
        return;
    };
    let dc = fake_dc();
    // As patient as the site with those who say nothing.
    let config = masked(dc.addr(), nginx.addr).set("timeouts.client_first_byte_idle_secs", 3);
    let tls_only = config
        .clone()
        .set("general.modes.classic", false)
        .set("general.modes.secure", false);
    for config in [config, tls_only] {
        let proxy = config.start();
        let mut probes = table(&proxy);
        for hello in [HelloKind::Classic517, HelloKind::PostQuantum] {
            let dial = Dial {
                hello,
                ..proxy.dial(Mode::Ee)
            };
            let opening = Opening::new(&dial);
            Client::connect_with(&dial, &opening)
                .await
                .expect("a client");
            let again = opening.hello.expect("a hello");
            probes.push(probe(&format!("replayed {hello:?}"), [Step::Say(again)]));
        }
        compare(proxy.addr, nginx.addr, &probes);
        assert_eq!(proxy.bad("tls_replay"), 2);
        assert_eq!(proxy.bad("tls_clock_skew"), 2);
    }
}

/// All at once, each against the proxy and against the site itself.
fn compare(proxy: SocketAddr, site: SocketAddr, probes: &[Probe]) {
    thread::scope(|scope| {
        let started: Vec<_> = probes
            .iter()
            .map(|probe| {
                let through = scope.spawn(|| observe(proxy, probe));
                (probe, through, scope.spawn(|| observe(site, probe)))
            })
            .collect();
        let mut wrong = Vec::new();
        for (probe, through, direct) in started {
            let (through, direct) = (through.join().unwrap(), direct.join().unwrap());
            println!("{}: {:?}", probe.name, direct.shape);
            if through.shape != direct.shape {
                let (got, want) = (&through.shape, &direct.shape);
                wrong.push(format!(
                    "{}:\n    got  {got:?}\n    want {want:?}",
                    probe.name
                ));
            }
            let late = through.first_byte.zip(direct.first_byte);
            if let Some((through, direct)) = late
                && through > direct + STALL + DELAY_MAX
            {
                wrong.push(format!("{}: first byte after {through:?}", probe.name));
            }
        }
        assert!(
            wrong.is_empty(),
            "not like the site itself:\n{}",
            wrong.join("\n")
        );
    });
}

fn probe(name: &str, steps: impl Into<Vec<Step>>) -> Probe {
    Probe {
        name: name.to_owned(),
        steps: steps.into(),
    }
}

fn table(proxy: &Proxy) -> Vec<Probe> {
    let say = |name: &str, bytes: &[u8]| probe(name, [Step::Say(bytes.to_vec())]);
    let mut probes = vec![
        probe("silence", []),
        say("HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n"),
        say(
            "HTTP/1.1",
            b"GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n",
        ),
        say("HEAD", b"HEAD / HTTP/1.1\r\nHost: www.example.org\r\n\r\n"),
        say("unknown method", b"BREW /pot HTCPCP/1.0\r\n\r\n"),
        say(
            "h2 preface",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        ),
        say("SSH", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"),
        say("a TLS alert", b"\x15\x03\x03\x00\x02\x02\x28"),
        say(
            "a record that is no handshake",
            &[b"\x16\x03\x01\x00\x80\x02", &[0; 127][..]].concat(),
        ),
        probe(
            "a request and an end",
            [Step::Say(b"GET / HTTP/1.0\r\n\r\n".to_vec()), Step::Finish],
        ),
    ];
    let mut rng = StdRng::seed_from_u64(7);
    for first in [0x05, b'Q', 0xc3] {
        for bytes in [1, 63, 64, 65, 517, 5000] {
            let mut noise = vec![0; bytes];
            rng.fill(&mut noise[..]);
            noise[0] = first;
            probes.push(say(
                &format!("{bytes} random bytes from {first:#04x}"),
                &noise,
            ));
        }
    }
    for hello in [HelloKind::Classic517, HelloKind::PostQuantum] {
        let expired = first_bytes(&Dial {
            hello,
            clock_offset_secs: -1_000_000,
            ..proxy.dial(Mode::Ee)
        });
        let foreign = first_bytes(&Dial {
            hello,
            secret: shards::proto::secret::Secret([9; 16]),
            ..proxy.dial(Mode::Ee)
        });
        let (half, _) = foreign.split_at(foreign.len() / 2);
        probes.push(say(&format!("half a {hello:?}, then silence"), half));
        probes.push(say(&format!("expired {hello:?}"), &expired));
        let steps = [Step::Drip(foreign.clone())];
        probes.push(probe(&format!("{hello:?} byte by byte"), steps));
        let steps = [Step::Say(half.to_vec()), Step::Finish];
        probes.push(probe(&format!("half a {hello:?} and an end"), steps));
        let steps = [Step::Say(foreign), Step::Finish];
        probes.push(probe(&format!("{hello:?} and an end"), steps));
    }
    probes
}

fn observe(addr: SocketAddr, probe: &Probe) -> Seen {
    let mut peer = Peer::connect(addr);
    let mut ears = Peer::new(peer.0.try_clone().expect("another handle"));
    thread::scope(|scope| {
        let heard = scope.spawn(move || {
            // Does not take the byte: the rest is read in one go.
            let _ = ears.0.peek(&mut [0]);
            let at = Instant::now();
            let (bytes, end) = ears.rest();
            (bytes, end, at)
        });
        let mut said = Instant::now();
        for step in &probe.steps {
            // Whoever was sent away in the middle has seen enough.
            let done = match step {
                Step::Say(bytes) => std::io::Write::write_all(&mut peer.0, bytes),
                // Within the site's patience, on a busy machine too.
                Step::Drip(bytes) => bytes.chunks(1 + bytes.len() / 600).try_for_each(|bytes| {
                    thread::sleep(Duration::from_millis(1));
                    std::io::Write::write_all(&mut peer.0, bytes)
                }),
                Step::Finish => peer.0.shutdown(std::net::Shutdown::Write),
            };
            if done.is_err() {
                break;
            }
            said = Instant::now();
        }
        let (bytes, end, at) = heard.join().expect("a listener");
        let mut shape = shape(&bytes);
        shape.push(format!("{end:?}"));
        Seen {
            shape,
            first_byte: (!bytes.is_empty()).then(|| at.saturating_duration_since(said)),
        }
    })
}

/// One line per record of TLS, or the text without its date.
fn shape(bytes: &[u8]) -> Vec<String> {
    if !matches!(bytes, [0x14..=0x17, 3, ..]) {
        let text = String::from_utf8_lossy(bytes);
        let lines = text.lines().filter(|line| !line.starts_with("Date:"));
        return lines.map(str::to_owned).collect();
    }
    let mut lines = Vec::new();
    let mut rest = bytes;
    let mut encrypted = false;
    while let Some((head, behind)) = rest.split_first_chunk::<5>() {
        let len = usize::from(u16::from_be_bytes([head[3], head[4]])).min(behind.len());
        let (body, next) = behind.split_at(len);
        lines.push(record(head, body, encrypted));
        encrypted |= head[0] == 0x14;
        rest = next;
    }
    if !rest.is_empty() {
        lines.push(format!("and {} bytes", rest.len()));
    }
    lines
}

fn record(head: &[u8; 5], body: &[u8], encrypted: bool) -> String {
    let known = match (head[0], body.first()) {
        // ServerHello, without its random, session id and key.
        (0x16, Some(2)) if !encrypted => hex::encode(without_random(body)),
        // Certificate; an alert in plain text.
        (0x16, Some(11)) | (0x15, _) if !encrypted => hex::encode(body),
        _ => String::new(),
    };
    format!("{} {} {known}", hex::encode(&head[..3]), body.len())
}

fn without_random(hello: &[u8]) -> Vec<u8> {
    const RANDOM: std::ops::Range<usize> = 6..38;
    /// `key_share` with one key of X25519.
    const KEY: [u8; 8] = [0, 0x33, 0, 0x24, 0, 0x1d, 0, 0x20];
    let mut hello = hello.to_vec();
    hello[RANDOM].fill(0);
    let id = usize::from(hello[RANDOM.end]);
    hello[RANDOM.end + 1..][..id].fill(0);
    if let Some(at) = hello.windows(KEY.len()).position(|own| own == KEY) {
        hello[at + KEY.len()..][..32].fill(0);
    }
    hello
}
