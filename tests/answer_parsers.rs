//! Our answer as other people's TLS clients read it: they get as far as its encrypted part, which
//! nobody can decrypt, and complain of nothing before that.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    crypto::{
        SupportedKxGroup,
        aws_lc_rs::{self, kx_group},
    },
};
use shards::proto::{
    crypto::HmacKey,
    faketls::{
        client_hello::{RANDOM_AT, hello_len, parse_fields},
        server_hello::{Answer, Group, answer},
    },
    secret::Secret,
};

use support::servers;

/// What is answered.
#[derive(Clone, Copy, Debug)]
struct Case {
    suite: u16,
    group: Group,
    key_share_first: bool,
    flight_bytes: usize,
}

/// All that may be answered with this group.
fn cases(group: Group) -> Vec<Case> {
    let mut cases = Vec::new();
    for suite in [0x1301, 0x1302, 0x1303] {
        for (key_share_first, flight_bytes) in [(false, 1024), (true, 10_000)] {
            cases.push(Case {
                suite,
                group,
                key_share_first,
                flight_bytes,
            });
        }
    }
    cases
}

/// Answers every hello so, on a thread that ends with the process.
fn server(case: Case) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut seen = Vec::new();
            while hello_len(&seen) != Ok(Some(seen.len())) {
                let mut piece = [0; 4096];
                let read = stream.read(&mut piece).unwrap();
                assert!(read > 0, "no hello");
                seen.extend_from_slice(&piece[..read]);
            }
            stream.write_all(&ours(&seen, case)).unwrap();
            // Until it has had enough.
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    addr
}

fn ours(hello: &[u8], case: Case) -> Vec<u8> {
    let fields = parse_fields(hello);
    let mut key_share = vec![0x42; case.group.key_share_bytes()];
    // The base point: a public key like any other.
    let at = key_share.len() - 32;
    key_share[at..].fill(0);
    key_share[at] = 9;
    let says = Answer {
        session_id: fields.session_id,
        suite: case.suite,
        group: case.group,
        key_share: &key_share,
        flight_bytes: case.flight_bytes,
        key_share_first: case.key_share_first,
    };
    let random = hello[RANDOM_AT..].first_chunk().unwrap();
    let mut out = Vec::new();
    let key = HmacKey::new(&Secret([7; 16]));
    answer(&mut out, &key, random, &says, &mut |c| c.fill(0x77));
    out
}

#[test]
fn openssl_reads_the_server_hello_and_fails_to_decrypt() {
    let Some(openssl) = servers::find("openssl") else {
        return;
    };
    for case in cases(Group::X25519) {
        let output = Command::new(&openssl)
            .args(["s_client", "-msg", "-groups", "X25519", "-connect"])
            .arg(server(case).to_string())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("ServerHello"), "{case:?}: {said}{complained}");
        assert!(
            complained.contains("bad record mac"),
            "{case:?}: {said}{complained}"
        );
    }
}

/// What rustls says to the answer; it offers this group and no other.
fn rustls_says(case: Case, offers: &'static dyn SupportedKxGroup) -> rustls::Error {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![offers];
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = "www.example.org".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = TcpStream::connect(server(case)).unwrap();
    while client.wants_write() {
        client.write_tls(&mut stream).unwrap();
    }
    loop {
        assert!(client.read_tls(&mut stream).unwrap() > 0, "closed");
        if let Err(error) = client.process_new_packets() {
            return error;
        }
    }
}

#[test]
fn rustls_reads_the_server_hello_and_fails_to_decrypt() {
    let (x25519, hybrid) = (kx_group::X25519, kx_group::X25519MLKEM768);
    for (group, offers) in [(Group::X25519, x25519), (Group::Hybrid, hybrid)] {
        for case in cases(group) {
            let said = rustls_says(case, offers);
            assert_eq!(said, rustls::Error::DecryptError, "{case:?}");
        }
    }
}

#[test]
fn rustls_tells_a_group_that_it_has_not_asked_for() {
    // What is not read as another group would be another error.
    for case in cases(Group::Hybrid) {
        let said = rustls_says(case, kx_group::X25519);
        let want = rustls::PeerMisbehaved::WrongGroupForKeyShare;
        assert_eq!(said, rustls::Error::PeerMisbehaved(want), "{case:?}");
    }
}
