//! What a client's hello is answered with: as the site behind its domain would, as far as that is
//! known.
//!
//! Not here: the bytes (`proto/faketls/server_hello.rs`), whether there is an answer
//! (`handshake.rs`, which calls this).
//!
//! Source: protocol.md 6.7.

use crate::{
    proto::{
        crypto::HmacKey,
        faketls::{
            client_hello::HelloFields,
            server_hello::{Answer, FLIGHT_BYTES_MIN, Group, answer},
            site_answer::finished_bytes,
        },
    },
    settings::{Front, SuiteOrder, TlsSettings},
};

/// Whom an answer is for.
pub(crate) struct Asked<'a> {
    /// Read from the hello.
    pub(crate) fields: &'a HelloFields<'a>,
    /// As it came.
    pub(crate) random: &'a [u8; 32],
    /// The user's.
    pub(crate) hmac: &'a HmacKey,
    /// The site of the domain it named.
    pub(crate) front: Option<&'a Front>,
    /// Its address got a full answer a moment ago.
    pub(crate) returns: bool,
}

/// What an answer is made with.
pub(crate) struct Means<'a> {
    /// Fills with unguessable bytes.
    pub(crate) random: &'a mut dyn FnMut(&mut [u8]),
    /// Makes an X25519 public key.
    pub(crate) public_key: &'a mut dyn FnMut() -> [u8; 32],
}

/// The answer: to be sent in one write.
pub(crate) fn server_flight(asked: &Asked<'_>, tls: &TlsSettings, means: Means<'_>) -> Box<[u8]> {
    let Means { random, public_key } = means;
    let fields = asked.fields;
    let suite = suite(fields, asked.front);
    let hybrid = asked.front.is_none_or(|front| front.hybrid);
    let group = if fields.mlkem && hybrid {
        Group::Hybrid
    } else {
        Group::X25519
    };
    let mut share = [0; 1088 + 32];
    let bytes = group.key_share_bytes();
    let share = share.get_mut(..bytes).unwrap_or_default();
    // Any bytes are a ciphertext; the key behind it is a real one.
    if let Some((ciphertext, key)) = share.split_last_chunk_mut::<32>() {
        random(ciphertext);
        *key = public_key();
    }
    let mut draw = [0; 4];
    random(&mut draw);
    let flight_bytes = flight_bytes(asked, suite, tls, u32::from_le_bytes(draw));
    let mut out = Vec::with_capacity(2048 + flight_bytes);
    let says = Answer {
        session_id: fields.session_id,
        suite,
        group,
        key_share: share,
        flight_bytes,
        key_share_first: asked.front.is_some_and(|front| front.key_share_first),
    };
    answer(&mut out, asked.hmac, asked.random, &says, random);
    out.into_boxed_slice()
}

/// By whose preference the site picks; what the client does not offer is not picked.
fn suite(fields: &HelloFields<'_>, front: Option<&Front>) -> u16 {
    match front.map(|front| front.suites) {
        Some(SuiteOrder::Site(order)) => fields.suite_by(&order).unwrap_or(fields.suite),
        Some(SuiteOrder::Client) | None => fields.suite,
    }
}

fn flight_bytes(asked: &Asked<'_>, suite: u16, tls: &TlsSettings, draw: u32) -> usize {
    let between = |least: u16, most: u16| {
        let spread = u32::from(most.saturating_sub(least)) + 1;
        usize::from(least) + (draw % spread) as usize
    };
    if asked.returns {
        return FLIGHT_BYTES_MIN + (draw % COMPACT_SPREAD) as usize;
    }
    let (offer, compression) = (asked.fields.alpn_offer(), asked.fields.compression);
    let front = asked.front;
    match front.and_then(|front| front.flights.of(offer, compression)) {
        // Only as far as the site's own vary: a site with an RSA key never sends another size.
        Some(seen) => {
            let hash = finished_bytes(suite).unwrap_or_default();
            between(seen.least, seen.most) + hash
        }
        None => between(tls.flight_bytes.0, tls.flight_bytes.1),
    }
}

/// Short answers differ by less than this, bytes.
const COMPACT_SPREAD: u32 = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proto::{
            faketls::{
                client_hello::{HelloKind, build_hello, parse_fields},
                server_hello::FLIGHT_BYTES_MAX,
                site_answer::{SiteAnswer, read_site_answer},
            },
            secret::Secret,
        },
        settings::{FlightBytes, Flights, UnknownSni},
    };

    fn tls() -> TlsSettings {
        TlsSettings {
            domains: vec!["www.example.com".to_owned()],
            unknown_sni: UnknownSni::Drop,
            skew_secs_max: None,
            hello_delay_ms: (0, 0),
            flight_bytes: (2048, 4500),
            alpn_enforce: true,
            record_ramp: false,
            compact_ttl: None,
        }
    }

    fn front() -> Front {
        Front {
            suites: SuiteOrder::Client,
            hybrid: true,
            key_share_first: false,
            flights: Flights {
                h2: Some(FlightBytes {
                    least: 3000,
                    most: 3002,
                }),
                ..Flights::default()
            },
        }
    }

    /// The answers to `count` hellos, as a browser would read them.
    fn answers(kind: HelloKind, front: Option<Front>, returns: bool) -> Vec<SiteAnswer> {
        let mut state = 1_u64;
        let mut random = |out: &mut [u8]| {
            for byte in out {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                *byte = (state >> 56) as u8;
            }
        };
        let secret = Secret([5; 16]);
        let hello = build_hello(&mut random, &secret, "www.example.com", 1, kind);
        let fields = parse_fields(&hello);
        let one = |_| {
            let asked = Asked {
                fields: &fields,
                random: &[7; 32],
                hmac: &HmacKey::new(&secret),
                front: front.as_ref(),
                returns,
            };
            let means = Means {
                random: &mut random,
                public_key: &mut || [9; 32],
            };
            read_site_answer(&server_flight(&asked, &tls(), means)).unwrap()
        };
        (0..60).map(one).collect()
    }

    fn sizes(answers: &[SiteAnswer]) -> (usize, usize) {
        let bytes = || answers.iter().map(SiteAnswer::encrypted_bytes);
        (bytes().min().unwrap(), bytes().max().unwrap())
    }

    #[test]
    fn nothing_learned_gives_the_defaults() {
        let answers = answers(HelloKind::PostQuantum, None, false);
        let hello = answers[0].hello.unwrap();
        assert_eq!((hello.suite, hello.group), (0x1301, Some(0x11ec)));
        assert!(!hello.key_share_first);
        let (least, most) = sizes(&answers);
        assert!((2048..=4500).contains(&least) && most <= 4500 && most - least > 500);
    }

    #[test]
    fn learned_site_is_imitated() {
        let site = Front {
            suites: SuiteOrder::Site([0x1302, 0x1303, 0x1301]),
            hybrid: false,
            key_share_first: true,
            ..front()
        };
        let answers = answers(HelloKind::PostQuantum, Some(site), false);
        let hello = answers[0].hello.unwrap();
        assert_eq!((hello.suite, hello.group), (0x1302, Some(0x1d)));
        assert!(hello.key_share_first);
        // With the 48 bytes that SHA-384 has.
        assert_eq!(sizes(&answers), (3048, 3050));
    }

    #[test]
    fn post_quantum_group_needs_client_and_site() {
        for (kind, hybrid, want) in [
            (HelloKind::PostQuantum, true, 0x11ec),
            (HelloKind::PostQuantum, false, 0x1d),
            (HelloKind::Classic517, true, 0x1d),
        ] {
            let site = Front { hybrid, ..front() };
            let hello = answers(kind, Some(site), false)[0].hello.unwrap();
            assert_eq!(hello.group, Some(want));
            assert_eq!(hello.suite, 0x1301, "the client's first");
        }
    }

    #[test]
    fn sizes_stay_within_what_clients_take() {
        for (bytes, want) in [(20_000, FLIGHT_BYTES_MAX), (100, FLIGHT_BYTES_MIN)] {
            let mut site = front();
            site.flights.h2 = Some(FlightBytes {
                least: bytes,
                most: bytes,
            });
            let answers = answers(HelloKind::PostQuantum, Some(site), false);
            assert_eq!(sizes(&answers), (want, want));
        }
    }

    #[test]
    fn short_answers_are_shorter_than_any_certificate() {
        let (least, most) = sizes(&answers(HelloKind::Classic517, Some(front()), true));
        assert!(least >= FLIGHT_BYTES_MIN && most < FLIGHT_BYTES_MIN + 256 && most > least);
    }
}
