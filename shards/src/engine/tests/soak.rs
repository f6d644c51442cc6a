//! Everything at once, for as long as `ENGINE_SOAK_SECS` says.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use super::{
    Rig, in_both,
    peers::{self, Dice, Peers, Plan},
};
use crate::settings::BufferSettings;

/// Few enough buffers that they run out now and then.
fn tight() -> BufferSettings {
    BufferSettings {
        small_bytes: 4096,
        small_count: 64,
        large_bytes: 131_072,
        large_count: 8,
        queue_bytes_max: 262_144,
        spill_bytes_max: 256 << 20,
    }
}

fn plans(seed: u64) -> (Plan, Plan) {
    let mut dice = Dice(seed | 1);
    let mut plan = |seed: u64| Plan {
        seed,
        bytes: match dice.draw() % 4 {
            0 => dice.up_to(200),
            1 => dice.up_to(20_000),
            2 => dice.up_to(300 << 10),
            _ => dice.up_to(4 << 20),
        },
        step: dice.up_to(300 << 10),
        pause_us: [0, 0, 300, 20_000][(dice.draw() >> 20) as usize % 4],
    };
    (plan(seed), plan(seed ^ 0x5a5a))
}

/// One connection after the other until `until`; some break off in the middle.
fn one_after_the_other(addr: std::net::SocketAddr, seed: u64, until: Instant, records: bool) {
    let mut dice = Dice(seed | 1);
    while Instant::now() < until {
        let seed = dice.draw() | 2;
        let kernel_bytes = [0, 0, 16_384][(dice.draw() >> 8) as usize % 3];
        let stream = peers::connect(addr, kernel_bytes);
        // The last bit tells the far side that this one will not last.
        if dice.draw().is_multiple_of(8) {
            peers::say_seed(&stream, seed | 1);
            break_off(&stream, &mut dice);
        } else {
            peers::say_seed(&stream, seed & !1);
            let (up, down) = plans(seed & !1);
            peers::converse(stream, up, down, records);
        }
    }
}

fn break_off(mut stream: &TcpStream, dice: &mut Dice) {
    let bytes = vec![1; dice.up_to(1 << 20)];
    let _ = std::io::Write::write_all(&mut stream, &bytes);
    if dice.draw().is_multiple_of(2) {
        let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
}

fn far(stream: TcpStream) {
    peers::set_limits(&stream);
    // One that breaks off may not even say its seed.
    let mut seed = [0; 8];
    if std::io::Read::read_exact(&mut { &stream }, &mut seed).is_err() {
        return;
    }
    let seed = u64::from_le_bytes(seed);
    if seed & 1 == 1 {
        let mut sink = vec![0; 100_000];
        while std::io::Read::read(&mut { &stream }, &mut sink).is_ok_and(|got| got > 0) {
            if std::io::Write::write(&mut { &stream }, &sink[..5_000]).is_err() {
                return;
            }
        }
        return;
    }
    let (up, down) = plans(seed);
    peers::converse(stream, down, up, false);
}

#[test]
fn soak() {
    let seconds = std::env::var("ENGINE_SOAK_SECS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(3.0_f64);
    for records in [false, true] {
        in_both(|parking| {
            let until = Instant::now() + Duration::from_secs_f64(seconds / 4.0);
            let mut rig = Rig::new(parking, tight());
            rig.records = records;
            // Buffers lose their memory in the middle of everything.
            rig.tidies = 400;
            // Small kernel buffers make stalls, pauses and spills the rule.
            rig.kernel_bytes = if records { 32_768 } else { 0 };
            let peers = Peers::new(&rig);
            rig.target = Some(peers.far(far));
            let addr = rig.addr;
            for seed in 1..=24_u64 {
                let seed = seed * 0x1234_5677 + u64::from(records);
                peers.spawn(move || one_after_the_other(addr, seed, until, records));
            }
            rig.run_until(|rig| peers.are_done() && rig.pairs.is_empty());
            peers.join(&mut rig);
            eprintln!("{parking:?}: {:?}, {:?}", short(&rig), rig.engine.stats());
            rig.expect_clean();
        });
    }
}

fn short(rig: &Rig) -> String {
    format!(
        "{} connections, {} MiB, {} failed, {} pauses, {} buffers at most",
        rig.seen.accepted,
        rig.seen.received_bytes >> 20,
        rig.seen.failed.len(),
        rig.seen.paused,
        rig.seen.most_held
    )
}
