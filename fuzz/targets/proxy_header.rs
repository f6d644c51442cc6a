//! PROXY headers, v1 and v2: judged the same however many bytes are there, and what is read is
//! what was written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shards::proto::proxy_protocol::{Stated, Version, encode, parse};

/// v2 with the longest accepted length.
const BYTES_MAX: usize = 16 + 4096;

fuzz_target!(|seen: &[u8]| {
    let whole = parse(seen);
    let ends = (0..seen.len().min(300)).chain([seen.len().min(BYTES_MAX)]);
    for end in ends {
        match parse(&seen[..end]) {
            Ok(None) => assert!(end < BYTES_MAX, "a header without an end"),
            settled => {
                assert_eq!(settled, whole, "{end} of {} bytes", seen.len());
                break;
            }
        }
    }
    let Ok(Some((used, stated))) = whole else {
        return;
    };
    assert!(used <= seen.len() && used <= BYTES_MAX);
    let Stated::Addrs {
        source,
        destination,
    } = stated
    else {
        return;
    };
    for version in [Version::V1, Version::V2] {
        let mut out = Vec::new();
        encode(&mut out, version, source, destination);
        let again = parse(&out);
        if source.is_ipv4() == destination.is_ipv4() {
            assert_eq!(again, Ok(Some((out.len(), stated))));
        } else {
            assert_eq!(again, Ok(Some((out.len(), Stated::Keep))));
        }
    }
});
