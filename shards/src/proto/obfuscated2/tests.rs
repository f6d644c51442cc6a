//! Headers of clients and DCs against each other.

use super::*;

const SECRET: Secret = Secret(*b"0123456789abcdef");
const OTHER: Secret = Secret(*b"0123456789abcdeF");
const FRAMINGS: [Framing; 3] = [Framing::Abridged, Framing::Intermediate, Framing::Padded];

/// A cheap deterministic source; each byte differs from its neighbours.
fn source(seed: u8) -> impl FnMut(&mut [u8]) {
    let mut state = u32::from(seed) + 1;
    move |out| {
        for byte in out {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
    }
}

fn same(mut a: CtrStream, mut b: CtrStream) -> bool {
    let (mut x, mut y) = ([0; 80], [0; 80]);
    a.apply(&mut x);
    b.apply(&mut y);
    x == y
}

#[test]
fn opens_what_a_client_writes() {
    for (seed, framing) in (0..60).zip(FRAMINGS.into_iter().cycle()) {
        let dc = DcId(i16::from(seed) - 30);
        let client = client_side(&mut source(seed), &SECRET, framing, dc);
        assert!(may_write(&client.wire));
        assert_eq!(open(&client.wire, &SECRET), Some(Opening { framing, dc }));
        assert_eq!(open(&client.wire, &OTHER), None);
        let keys = client_keys(&client.wire, &SECRET);
        assert!(same(keys.c2p.clone(), client.c2p));
        assert!(same(keys.p2c(), client.p2c));
    }
}

#[test]
fn a_dc_reads_both_modes() {
    for (seed, framing) in (0..60).zip(FRAMINGS.into_iter().cycle()) {
        let dc = DcId(-i16::from(seed));
        let client = client_side(&mut source(seed), &SECRET, framing, dc);
        let keys = client_keys(&client.wire, &SECRET);
        let fast = Some((&keys.p2c_key, &keys.p2c_iv));
        for fast in [None, fast] {
            let ours = dc_header(&mut source(seed + 1), &Opening { framing, dc }, fast);
            assert!(may_write(&ours.wire));
            let far = dc_side(&ours.wire).unwrap();
            assert_eq!((far.framing, far.dc), (framing, dc));
            assert!(same(far.p2d, ours.p2d));
            assert!(same(far.d2p.clone(), ours.d2p));
            assert_eq!(same(far.d2p, keys.p2c()), fast.is_some());
        }
    }
}

#[test]
fn draws_again_until_the_opening_may_be_written() {
    let mut calls = 0;
    let mut random = |out: &mut [u8]| {
        out.fill(0x55);
        if calls < 3 {
            out[0] = 0xef;
        }
        calls += 1;
    };
    let opening = Opening {
        framing: Framing::Padded,
        dc: DcId(2),
    };
    let header = dc_header(&mut random, &opening, None);
    assert_eq!(header.wire[..8], [0x55; 8]);
    assert_eq!(calls, 4);
}

#[test]
fn survives_a_broken_random_source() {
    for stuck in [0, 0xef, 0xee, 0xdd] {
        let opening = Opening {
            framing: Framing::Padded,
            dc: DcId(2),
        };
        let header = dc_header(&mut |out| out.fill(stuck), &opening, None);
        assert!(may_write(&header.wire), "{stuck:02x}");
    }
}

#[test]
fn serves_tags_by_mode() {
    let modes = |classic, secure, tls| Modes {
        classic,
        secure,
        tls,
    };
    let served = |framing, modes, inside| {
        Opening {
            framing,
            dc: DcId(2),
        }
        .is_served(modes, inside)
    };
    for framing in [Framing::Abridged, Framing::Intermediate] {
        assert!(served(framing, modes(true, false, false), false));
        assert!(!served(framing, modes(false, true, true), false));
        assert!(!served(framing, modes(true, true, true), true));
    }
    assert!(served(Framing::Padded, modes(false, true, false), false));
    assert!(!served(Framing::Padded, modes(true, false, true), false));
    assert!(served(Framing::Padded, modes(false, false, true), true));
}

#[test]
fn replay_key_ignores_what_can_be_altered() {
    let mut header = client_side(&mut source(1), &SECRET, Framing::Padded, DcId(2)).wire;
    let key = *replay_key(&header);
    for at in (0..8).chain(56..64) {
        header[at] ^= 1;
    }
    assert_eq!(*replay_key(&header), key);
    header[8] ^= 1;
    assert_ne!(*replay_key(&header), key);
}
