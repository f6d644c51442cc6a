//! First bytes and ClientHellos: judged the same however many of them are there, authenticated only
//! when signed, and readable without a limit on what they hold.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinnace_fuzz::{Choices, secrets};
use shards::{
    proto::{
        crypto::HmacKey,
        faketls::{
            client_hello::{HelloError, hello_len, parse_fields, replay_key, verify, zero_random},
            fingerprint::Fingerprint,
        },
        secret::Secret,
        sniff::{Sniffed, sniff},
    },
    settings::Modes,
};

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::new(input);
    let flags = choices.byte();
    let modes = Modes {
        classic: flags & 1 != 0,
        secure: flags & 2 != 0,
        tls: flags & 4 != 0,
    };
    let mut record = choices.rest().to_vec();
    sniffed(&record, modes);
    if flags & 8 != 0 {
        fix_lengths(&mut record);
    }
    judged(&record);
    let [secret, ..] = secrets(input);
    let signed = flags & 16 != 0 && record.len() >= 43;
    if signed {
        sign(&mut record, &secret);
    }
    let sent = record.clone();
    let random = zero_random(&mut record);
    let verified = verify(&record, &random, &HmacKey::new(&secret));
    assert_eq!(verified, signed.then_some(TIME));
    assert_eq!(replay_key(&random), random[..16]);
    read(&record);
    // The random enters neither fingerprint.
    assert_eq!(Fingerprint::of(&record), Fingerprint::of(&sent));
});

/// What was decided from few bytes stays decided with more.
fn sniffed(seen: &[u8], modes: Modes) {
    let mut before = Sniffed::NeedMore;
    for end in 0..=seen.len().min(16) {
        let now = sniff(&seen[..end], modes);
        assert!(before == Sniffed::NeedMore || before == now, "{end} bytes");
        before = now;
    }
}

/// The same for the length of a hello: a wrong byte is wrong in every longer piece, and a length
/// once told does not change, until bytes behind it are.
fn judged(record: &[u8]) {
    let whole = hello_len(record);
    let ends = (0..=record.len().min(100)).chain([record.len()]);
    let mut told = None;
    for end in ends {
        match hello_len(&record[..end]) {
            Ok(None) => assert!(told.is_none(), "{end} bytes"),
            Ok(Some(total)) => {
                assert!(told.is_none_or(|before| before == total), "{end} bytes");
                told = Some(total);
            }
            Err(error) if end == record.len() => assert_eq!(Err(error), whole),
            Err(HelloError::Trailing { extra }) => assert!(extra > 0),
            Err(error) => {
                return assert_eq!(Err(error), whole, "{end} bytes");
            }
        }
    }
}

/// Makes both lengths those of what is there.
fn fix_lengths(record: &mut [u8]) {
    let Some(length) = record.len().checked_sub(9) else {
        return;
    };
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [d, e] = (length as u16 + 4).to_be_bytes();
    record[..9].copy_from_slice(&[0x16, 3, 1, d, e, 1, a, b, c]);
}

fn sign(record: &mut [u8], secret: &Secret) {
    record[11..43].fill(0);
    let mut mac = HmacKey::new(secret).mac(&[record]);
    for (byte, time) in mac[28..].iter_mut().zip(TIME.to_le_bytes()) {
        *byte ^= time;
    }
    record[11..43].copy_from_slice(&mac);
}

/// What follows when the digest fits: best effort, and bounded by what came.
fn read(record: &[u8]) {
    let fields = parse_fields(record);
    assert!(fields.session_id.len() <= 32);
    assert!((0x1301..=0x1303).contains(&fields.suite));
    if let Some(sni) = fields.sni {
        let domain = sni.strip_suffix('.').unwrap_or(sni).to_ascii_lowercase();
        assert_eq!(fields.sni_is(&domain), Some(true));
        assert!(sni.len() <= record.len());
    }
    if let Some(alpn) = fields.alpn {
        let names: Vec<_> = alpn.names().collect();
        assert!(names.len() <= record.len());
        let http = |name: &&[u8]| [&b"h2"[..], b"http/1.1"].contains(name);
        assert_eq!(alpn.offers_http(), names.iter().any(http));
    }
}

const TIME: u32 = 1_800_000_000;
