//! What happens at limits: phases that take too long, as many connections or descriptors as there
//! may be, readers that do not read. What a DC can do wrong is in `dc_faults.rs`.

mod support;

use std::{
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use bench::{
    client::{Client, ClientError, Dial, Mode},
    fake_dc::{FakeDc, Fault},
};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};

use support::{
    Config, PATIENCE, Proxy,
    api::ask,
    bytes::{first_bytes, listen, say},
    expect_answers_after_half_close, fake_dc, hasty, until,
};

const MIB: usize = 1 << 20;

/// Closed after a limit of one second, to which up to half may be added, and no sooner.
fn expect_about_a_second(after: Duration, what: &str) {
    let range = Duration::from_millis(900)..Duration::from_secs(5);
    assert!(range.contains(&after), "{what}: closed after {after:?}");
}

#[tokio::test]
async fn silent_connections_end_with_the_first_byte_limit() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("timeouts.client_first_byte_idle_secs", 1)
        .start();
    let mut served = Client::connect(&proxy.dial(Mode::Ee)).await.unwrap();
    served.ping().await.unwrap();
    let said = say(proxy.addr, &[]).await;
    said.expect_silence("a silent connection");
    expect_about_a_second(said.after, "first byte");
    proxy.wait_for_bad("handshake_timeout", 1);
    served.ping().await.unwrap();
}

#[tokio::test]
async fn slow_handshakes_end_with_the_handshake_limit() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("timeouts.client_handshake", 1)
        .start();
    let (hello, header) = (
        first_bytes(&proxy.dial(Mode::Ee)),
        first_bytes(&proxy.dial(Mode::Dd)),
    );
    for (stage, bytes) in [
        ("first_packet_prelude", &hello[..2]),
        ("tls_clienthello_body", &hello[..300]),
        ("direct_mtproto", &header[..63]),
    ] {
        let said = say(proxy.addr, bytes).await;
        said.expect_silence(stage);
        expect_about_a_second(said.after, stage);
        assert_eq!(proxy.failed_at(stage), 1, "{stage}");
    }
    let timeouts = proxy.number("/v1/stats/summary", "/handshake_timeouts_total");
    assert_eq!(timeouts, 3);
    assert_eq!(proxy.bad("handshake_timeout"), 3);
}

#[tokio::test]
async fn the_inner_header_has_a_limit_of_its_own() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("timeouts.client_handshake", 1)
        .set("shards.inner_header_secs", 3)
        .start();
    let mut waits = Client::connect(&proxy.dial(Mode::Ee)).await.unwrap();
    let began = Instant::now();
    waits.closed().await.unwrap();
    let after = began.elapsed();
    let range = Duration::from_millis(2_800)..Duration::from_secs(10);
    assert!(range.contains(&after), "closed after {after:?}");
    assert_eq!(proxy.failed_at("tls_post_serverhello_mtproto"), 1);
    assert_eq!(dc.stats().accepted, 0);
}

#[tokio::test]
async fn silent_relays_end_and_busy_ones_do_not() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("shards.relay_idle_secs", 1)
        .start();
    for mode in [Mode::Abridged, Mode::Ee] {
        let mut busy = Client::connect(&proxy.dial(mode)).await.unwrap();
        let mut idle = Client::connect(&proxy.dial(mode)).await.unwrap();
        idle.ping().await.unwrap();
        let began = Instant::now();
        let closed = async {
            idle.closed().await.unwrap();
            began.elapsed()
        };
        tokio::pin!(closed);
        let after = loop {
            busy.ping().await.unwrap();
            tokio::select! {
                after = &mut closed => break after,
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        };
        expect_about_a_second(after, "idle");
        busy.ping().await.unwrap();
    }
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_at_once() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("server.max_connections", 4)
        .start();
    let mut held = Vec::new();
    for mode in Mode::PROXIED {
        let mut client = Client::connect(&proxy.dial(mode)).await.unwrap();
        client.ping().await.unwrap();
        held.push(client);
    }
    for _ in 0..3 {
        let said = say(proxy.addr, &[]).await;
        assert!(said.bytes.is_empty(), "{said:?}");
        assert!(said.after < Duration::from_secs(5), "{:?}", said.after);
    }
    for client in &mut held {
        client.ping().await.unwrap();
    }
    held.truncate(2);
    proxy.until_connections(2).await;
    serve(&proxy.dial(Mode::Ee)).await.unwrap();
}

async fn serve(dial: &Dial) -> Result<(), ClientError> {
    let mut client = Client::connect(dial).await?;
    client.ping().await?;
    client.exchange(50_000, 50_000).await
}

#[tokio::test]
async fn both_ports_recover_from_missing_descriptors() {
    let dc = fake_dc();
    let few = |command: Command| {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""])
            .arg(command.get_program())
            .env_remove("RUST_LOG");
        shell
    };
    let mut proxy = Proxy::start_with(Config::new(dc.addr()), &few);
    assert!(
        proxy.log().contains("64 open files are few"),
        "{}",
        proxy.log()
    );
    let mut served = Client::connect(&proxy.dial(Mode::Ee)).await.unwrap();
    served.ping().await.unwrap();
    for _ in 0..2 {
        let mut idle = Vec::new();
        for _ in 0..100 {
            // The kernel completes them, accepted or not.
            idle.push(TcpStream::connect(proxy.addr).await.unwrap());
        }
        let mut asking = Vec::new();
        for _ in 0..20 {
            asking.push(TcpStream::connect(proxy.api).await.unwrap());
        }
        until("accepting fails", || {
            let log = proxy.log();
            let both = log.contains("cannot accept") && log.contains("api: accept failed");
            both.then_some(())
        })
        .await;
        served.ping().await.unwrap();
        assert!(proxy.is_running());
        drop((idle, asking));
        until("the control API answers again", || {
            ask(proxy.api, "/v1/health")
        })
        .await;
        serve(&proxy.dial(Mode::Dd)).await.unwrap();
        served.ping().await.unwrap();
    }
    drop(served);
    proxy.until_connections(0).await;
}

/// Few and small buffers, so that a bound that does not hold shows early.
fn small(dc: &FakeDc) -> Proxy {
    Config::new(dc.addr())
        .set("shards.relay_idle_secs", 4)
        .set("shards.small_buffers", 256)
        .set("shards.large_buffer_bytes", 131_072)
        .set("shards.large_buffers", 16)
        .set("shards.queue_bytes_max", 131_072)
        .start()
}

/// What a proxy of [`small`] buffers may hold for a handful of stalled clients: 3 MiB of buffers,
/// the queues, and what an allocator keeps.
const HELD_BYTES_MAX: u64 = 16 << 20;

/// Waits until a count has stood still for a while.
async fn until_still(what: &str, look: impl Fn() -> u64) {
    let (last, still) = (AtomicU64::new(0), AtomicU64::new(0));
    until(what, || {
        let now = look();
        if last.swap(now, Ordering::Relaxed) != now || now == 0 {
            still.store(0, Ordering::Relaxed);
        }
        (still.fetch_add(1, Ordering::Relaxed) > 60).then_some(())
    })
    .await;
}

#[tokio::test]
async fn slow_readers_get_every_byte_and_are_not_held_in_memory() {
    const BYTES: u64 = 64 << 20;
    let dc = fake_dc();
    let proxy = small(&dc);
    serve(&proxy.dial(Mode::Ee)).await.unwrap();
    let before = proxy.process().rss_bytes().unwrap();
    let mut readers = Vec::new();
    for mode in [Mode::Dd, Mode::Ee, Mode::Ee, Mode::Abridged] {
        let slow = Dial {
            receive_buffer_bytes: Some(64 * 1024),
            ..proxy.dial(mode)
        };
        let (mut tx, rx) = Client::connect(&slow).await.unwrap().split();
        let id = tx.download(BYTES).await.unwrap();
        readers.push((tx, rx, id));
    }
    until_still("the DC sends no more", || dc.stats().bytes_out).await;
    assert!(dc.stats().bytes_out < BYTES * 2, "somebody holds it all");
    let growth = proxy.process().rss_bytes().unwrap().saturating_sub(before);
    assert!(growth < HELD_BYTES_MAX, "{growth} bytes held");
    // The others do not wait for them.
    for mode in Mode::PROXIED {
        serve(&hasty(proxy.dial(mode))).await.unwrap();
    }
    let mut reading = JoinSet::new();
    for (tx, mut rx, id) in readers {
        reading.spawn(async move {
            let answer = tokio::time::timeout(PATIENCE, rx.answer()).await;
            drop(tx);
            answer.expect("a reader stalls")?.expect_stream(id, BYTES)
        });
    }
    for read in reading.join_all().await {
        read.unwrap();
    }
    let growth = proxy.process().rss_bytes().unwrap().saturating_sub(before);
    assert!(growth < HELD_BYTES_MAX, "{growth} bytes held");
    proxy.until_connections(0).await;
}

#[tokio::test]
async fn a_dc_that_does_not_read_stops_the_client() {
    let dc = fake_dc();
    let proxy = small(&dc);
    serve(&proxy.dial(Mode::Ee)).await.unwrap();
    // The first answer of the control API costs 4 MiB, which nobody holds for a client.
    proxy.user("alice", "total_octets");
    let before = proxy.process().rss_bytes().unwrap();
    dc.set_fault(Fault::Silent);
    let mut sending = JoinSet::new();
    for mode in [Mode::Dd, Mode::Ee] {
        let dial = proxy.dial(mode);
        sending.spawn(async move { Client::connect(&dial).await?.upload(8 * MIB).await });
        let dial = proxy.dial(mode);
        sending.spawn(async move {
            let (mut tx, _rx) = Client::connect(&dial).await?.split();
            for _ in 0..64 {
                tx.upload(MIB).await?;
            }
            Ok(())
        });
    }
    let taken = || {
        let users = proxy.user("alice", "total_octets");
        assert!(users < 64 * MIB as u64, "{users} bytes taken");
        users
    };
    until_still("the proxy takes no more", taken).await;
    let growth = proxy.process().rss_bytes().unwrap().saturating_sub(before);
    assert!(growth < HELD_BYTES_MAX, "{growth} bytes held");
    dc.set_fault(Fault::None);
    serve(&hasty(proxy.dial(Mode::Ee))).await.unwrap();
    sending.shutdown().await;
    // Their ends wait behind bytes that nobody takes, so it is the idle limit that clears up.
    proxy.until_connections(0).await;
}

#[tokio::test]
async fn full_pipes_in_both_directions_do_not_stall() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr()).start();
    let mut clients = JoinSet::new();
    for mode in [Mode::Dd, Mode::Ee, Mode::Dd, Mode::Ee] {
        let dial = proxy.dial(mode);
        clients.spawn(async move {
            let (mut tx, mut rx) = Client::connect(&dial).await?.split();
            let (asked, mut answered) = tokio::sync::mpsc::unbounded_channel();
            let send = async {
                for _ in 0..PIPELINED {
                    asked.send(tx.exchange(MIB, MIB as u64).await?).unwrap();
                }
                Ok(())
            };
            let receive = async {
                for _ in 0..PIPELINED {
                    let (done, stream) = (rx.answer().await?, rx.answer().await?);
                    let (id, crc) = answered.recv().await.unwrap();
                    done.expect_arg(id, u64::from(crc))?;
                    stream.expect_stream(id, MIB as u64)?;
                }
                Ok(())
            };
            let both = async { tokio::try_join!(send, receive).map(drop) };
            let done = tokio::time::timeout(2 * PATIENCE, both).await;
            done.expect("both directions stall")
        });
    }
    for client in clients.join_all().await {
        let done: Result<(), ClientError> = client;
        done.unwrap();
    }
    assert_eq!(dc.stats().damaged, 0);
}

/// Requests of one client under way at once.
const PIPELINED: usize = 32;

#[tokio::test]
async fn clients_that_end_their_uplink_still_get_their_answers() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr()).start();
    expect_answers_after_half_close(&proxy).await;
}

#[tokio::test]
async fn resets_in_every_phase_leave_nothing_behind() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr()).start();
    let (hello, header) = (
        first_bytes(&proxy.dial(Mode::Ee)),
        first_bytes(&proxy.dial(Mode::Dd)),
    );
    let mut phases = vec![Vec::new(), hello[..100].to_vec(), header[..10].to_vec()];
    phases.extend([hello, header]);
    for _ in 0..20 {
        for bytes in &phases {
            let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            socket2::SockRef::from(&stream)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
    }
    let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
    stream.shutdown().await.unwrap();
    let said = listen(&mut stream, false).await;
    assert!(said.bytes.is_empty() && said.after < Duration::from_secs(5));
    proxy.until_connections(0).await;
    until("the DC's connections end", || {
        (dc.stats().open == 0).then_some(())
    })
    .await;
    serve(&proxy.dial(Mode::Ee)).await.unwrap();
}
