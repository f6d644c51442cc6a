//! Many short connections, and descriptors running out.

use std::{fs, process::Command};

use super::{
    Rig, buffers, in_both,
    peers::{self, Peers, Plan},
};

fn hello(seed: u64) -> Plan {
    Plan {
        seed,
        bytes: 100,
        step: 100,
        pause_us: 0,
    }
}

#[test]
fn ten_thousand_quick_connects_leave_nothing() {
    in_both(|parking| {
        const THREADS: u64 = 4;
        const EACH: u64 = 2_500;
        let mut rig = Rig::new(parking, buffers());
        let peers = Peers::new(&rig);
        let addr = rig.addr;
        for thread in 0..THREADS {
            peers.spawn(move || {
                for round in 0..EACH {
                    let plan = hello(thread * EACH + round);
                    let stream = peers::connect(addr, 0);
                    peers::write_all(&stream, plan);
                    peers::read_some(&stream, plan, false);
                    // Three ways to go, one of them a reset with bytes unread.
                    match round % 3 {
                        0 => stream
                            .shutdown(std::net::Shutdown::Write)
                            .expect("half-close"),
                        1 => peers::write_all(&stream, plan),
                        _ => {}
                    }
                }
            });
        }
        rig.run_until(|rig| {
            peers.are_done() && rig.pairs.is_empty() && rig.seen.accepted as u64 == THREADS * EACH
        });
        peers.join(&mut rig);
        rig.expect_clean();
    });
}

/// Lowers the limit of the whole process, hence a process of its own.
#[test]
fn accepting_goes_on_when_descriptors_come_back() {
    const CHILD: &str = "ENGINE_TEST_FEW_DESCRIPTORS";
    const NAME: &str = "engine::tests::churn::accepting_goes_on_when_descriptors_come_back";
    if std::env::var_os(CHILD).is_some() {
        engines_come_and_go_without_a_trace();
        return run_out_of_descriptors();
    }
    let status = Command::new(std::env::current_exe().expect("this test"))
        .args([NAME, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .status()
        .expect("a child");
    assert!(status.success());
}

fn run_out_of_descriptors() {
    in_both(|parking| {
        let mut rig = Rig::new(parking, buffers());
        // Made before the limit: sockets that wait for their connect.
        let sockets: Vec<_> = (0..40)
            .map(|_| {
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
                    .expect("a socket")
            })
            .collect();
        set_limit(open_files() + 10);
        let addr = rig.addr;
        for socket in &sockets {
            socket.connect(&addr.into()).expect("connect");
        }
        let mut failures = 0;
        let mut kept = Vec::new();
        rig.run_until(|rig| {
            failures += usize::from(rig.seen.accept_failed > 0);
            if failures > 3 && kept.is_empty() {
                // Those that were accepted go, and make room for the others.
                kept = rig.pairs.keys().copied().collect();
                kept.iter().for_each(|key| rig.close(*key));
                failures = 0;
            } else if failures > 3 {
                let all = rig.pairs.keys().copied().collect::<Vec<_>>();
                all.iter().for_each(|key| rig.close(*key));
                failures = 0;
            }
            rig.seen.accepted == 40
        });
        assert!(!kept.is_empty(), "the limit was never met");
        rig.expect_clean();
        set_limit(1_000);
        drop(sockets);
        // And a connect of our own without descriptors is an error, no more.
        set_limit(0);
        let refused = rig.engine.connect(addr, super::super::Owner(1));
        assert_eq!(
            refused.map_err(|error| error.raw_os_error()),
            Err(Some(libc::EMFILE))
        );
        set_limit(1_000);
    });
}

fn open_files() -> u64 {
    fs::read_dir("/proc/self/fd").expect("proc").count() as u64
}

fn set_limit(files: u64) {
    let limit = libc::rlimit {
        rlim_cur: files,
        rlim_max: 20_000,
    };
    // SAFETY: reads one structure of ours.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(set, 0, "setrlimit");
}

fn engines_come_and_go_without_a_trace() {
    let before = open_files();
    for _ in 0..50 {
        in_both(|parking| Rig::new(parking, buffers()).turn_once_rung());
    }
    // The watchdogs hold a bell each until they notice.
    for _ in 0..1_000 {
        if open_files() == before {
            return;
        }
        peers::pause(10_000);
    }
    panic!("{} files open, {before} before", open_files());
}
