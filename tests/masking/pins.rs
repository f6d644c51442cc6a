//! Names with a pin (`network.dns_overrides`) are never asked for: in a network of its own, whose
//! only name server takes notes.

use std::{
    fs,
    net::UdpSocket,
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use crate::{
    patient,
    site::{Peer, Site},
    support::{Proxy, fake_dc, namespace::alone, wait_until},
};

#[test]
fn no_question_leaves_for_a_pinned_name() {
    alone("pins::child", &["mount"]);
}

/// Knows no name; the names it was asked for, one entry for each question.
fn name_server() -> Arc<Mutex<Vec<String>>> {
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&asked);
    thread::spawn(move || {
        let mut message = [0; 512];
        loop {
            let (bytes, from) = socket.recv_from(&mut message).unwrap();
            notes.lock().unwrap().push(name(&message[12..bytes]));
            // A response that there is no such name.
            message[2] |= 0x80;
            message[3] = 0x83;
            socket.send_to(&message[..bytes], from).unwrap();
        }
    });
    asked
}

/// The name at the start of a question.
fn name(mut question: &[u8]) -> String {
    let mut labels = Vec::new();
    while let Some((&bytes, rest)) = question.split_first()
        && bytes > 0
    {
        let (label, behind) = rest.split_at(usize::from(bytes));
        labels.push(String::from_utf8_lossy(label).into_owned());
        question = behind;
    }
    labels.join(".")
}

#[test]
#[ignore = "child of another test"]
fn child() {
    let asked = name_server();
    let asked_for = |name: &str| {
        let asked = asked.lock().unwrap();
        asked.iter().filter(|own| own.starts_with(name)).count()
    };
    let dir = tempfile::tempdir().unwrap();
    let resolver = dir.path().join("resolv.conf");
    fs::write(&resolver, "nameserver 127.0.0.1\n").unwrap();
    let (site, dc) = (Site::new(), fake_dc());
    let port = site.addr().port();
    let config = patient(dc.addr())
        .set("censorship.tls_emulation", true)
        .set("censorship.mask_host", "\"pinned.example\"")
        .set("censorship.mask_port", port)
        .set(
            "network.dns_overrides",
            format!("[\"pinned.example:{port}:127.0.0.1\"]"),
        )
        .more(
            "[[upstreams]]\ntype = \"direct\"\n\
             [[upstreams]]\ntype = \"socks5\"\naddress = \"other.example:1080\"\n",
        );
    // The system's list of name servers is another one for this process alone.
    let script = format!(
        "mount --bind {} /etc/resolv.conf && exec \"$@\"",
        resolver.display()
    );
    let proxy = Proxy::start_with(config, &|command| {
        let mut other = Command::new("unshare");
        other.args(["-m", "sh", "-c", &script, "sh"]);
        other.arg(command.get_program()).env_remove("RUST_LOG");
        other
    });
    // The learner finds its way there as well, but no server.
    drop(site.next());
    let mut stranger = Peer::connect(proxy.addr);
    stranger.say(b"GET / HTTP/1.0\r\n\r\n");
    while site.next().take(5) != b"GET /" {
        // The learner again, with another hello.
    }
    // Each time it asks for both families, and it has begun anew.
    wait_until("a name without a pin is asked for again", || {
        (asked_for("other.example") > 4).then_some(())
    });
    assert_eq!(asked_for("pinned.example"), 0, "{:?}", asked.lock());
    proxy.reload(&proxy.config().set("network.dns_overrides", "[]"));
    wait_until("the name is asked for without its pin", || {
        (asked_for("pinned.example") > 0).then_some(())
    });
}
