//! What a web server answers to a hello of ours: what was read of few bytes stays so with more.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shards::proto::faketls::site_answer::{SiteAnswer, read_site_answer};

fuzz_target!(|seen: &[u8]| {
    let mut before = SiteAnswer::default();
    let step = (seen.len() / 64).max(1);
    for end in (0..seen.len()).step_by(step).chain([seen.len()]) {
        match read_site_answer(&seen[..end]) {
            Ok(now) => {
                check(&before, &now, end);
                before = now;
            }
            Err(error) => {
                // Whatever comes behind it.
                let whole = read_site_answer(seen);
                assert!(whole.is_err(), "{error} after {end} bytes, then {whole:?}");
                return;
            }
        }
    }
});

fn check(before: &SiteAnswer, now: &SiteAnswer, end: usize) {
    assert!(
        before.hello.is_none() || now.hello == before.hello,
        "{end} bytes"
    );
    assert!(now.encrypted.starts_with(&before.encrypted), "{end} bytes");
    assert!(now.encrypted_bytes() <= end);
    // A flight of TLS 1.2 is at most twice its bytes as one of TLS 1.3, and what is around it.
    let flight = now.flight_bytes();
    assert!(
        flight.is_none_or(|bytes| bytes <= 3 * end + 1_000),
        "{flight:?}"
    );
    assert!(!now.may_be_complete() || now.hello.is_some());
}
