//! What is known of the sites that FakeTLS answers are made to look like.
//!
//! Learned by the binary (`src/front`), given to every shard as a whole, looked up once per answer.
//! Not here: how an answer is made of it (`policy/server_flight.rs`).

use std::collections::HashMap;

use crate::proto::faketls::client_hello::{AlpnOffer, Compression};

/// What was learned, by FakeTLS domain. A domain that is missing gets the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrontTable {
    fronts: HashMap<String, Front>,
}

impl FrontTable {
    /// A table of these; domains in lower case.
    pub fn new(fronts: impl IntoIterator<Item = (String, Front)>) -> Self {
        Self {
            fronts: fronts.into_iter().collect(),
        }
    }

    /// What is known of the site behind `domain`, lower case.
    #[must_use]
    pub fn get(&self, domain: &str) -> Option<&Front> {
        self.fronts.get(domain)
    }
}

/// How one site answers a TLS 1.3 hello.
///
/// Source: protocol.md 6.7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Front {
    /// Which suite it takes of those offered.
    pub suites: SuiteOrder,
    /// It answers with X25519MLKEM768 where that is offered.
    pub hybrid: bool,
    /// `key_share` comes before `supported_versions`.
    pub key_share_first: bool,
    /// Sizes of its encrypted flight.
    pub flights: Flights,
}

/// Whose preference among TLS 1.3 suites counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuiteOrder {
    /// The client's.
    Client,
    /// The site's: all three suites, best first.
    Site([u16; 3]),
}

/// Sizes of a site's encrypted flight, by what was offered to it: the protocol it picks is named
/// in there, and some send certificates compressed to those who take them so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flights {
    /// To clients that offer `h2`, and Brotli, as all do down to `neither`.
    pub h2: Option<FlightBytes>,
    /// To clients that offer `http/1.1` and no `h2`.
    pub http11: Option<FlightBytes>,
    /// To clients that offer neither.
    pub neither: Option<FlightBytes>,
    /// To clients that offer `h2` and zlib.
    pub h2_zlib: Option<FlightBytes>,
    /// To clients that offer `h2` and take certificates as they are only.
    pub h2_plain: Option<FlightBytes>,
}

impl Flights {
    /// The size for such a client, or the nearest that is known.
    #[must_use]
    pub fn of(&self, offer: AlpnOffer, compression: Compression) -> Option<FlightBytes> {
        let own = match offer {
            AlpnOffer::H2 => self.h2,
            AlpnOffer::Http11 => self.http11,
            AlpnOffer::Neither => self.neither,
        };
        let own = own.or(self.h2).or(self.http11).or(self.neither)?;
        Some(match (self.h2, self.with(compression)) {
            (Some(h2), Some(other)) if h2.least.abs_diff(other.least) > SIGNATURE_VARIES_BYTES => {
                // Names of protocols take as much as ever.
                let moved = |bytes: u16| {
                    let bytes = i32::from(bytes) + i32::from(own.least) - i32::from(h2.least);
                    u16::try_from(bytes.max(0)).unwrap_or(u16::MAX)
                };
                FlightBytes {
                    least: moved(other.least),
                    most: moved(other.most),
                }
            }
            // Measured better, and not more than the signature apart.
            _ => own,
        })
    }

    /// What was seen with `h2` and another compression than Brotli.
    fn with(&self, compression: Compression) -> Option<FlightBytes> {
        match compression {
            Compression::Brotli => None,
            Compression::Zlib => self.h2_zlib,
            Compression::None => self.h2_plain,
        }
    }
}

/// An ECDSA signature of P-256 has 70 to 72 bytes, seldom less.
pub const SIGNATURE_VARIES_BYTES: u16 = 3;

/// Payload bytes of all encrypted records of one flight together, without the hash in `Finished`,
/// whose length follows from the suite. A range, because some signatures vary by a few bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlightBytes {
    /// Fewest seen.
    pub least: u16,
    /// Most seen.
    pub most: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_nearest_size_that_is_known() {
        let bytes = |least| FlightBytes { least, most: least };
        let mut flights = Flights::default();
        let of = |flights: &Flights, offer| flights.of(offer, Compression::Brotli);
        assert_eq!(of(&flights, AlpnOffer::H2), None);
        flights.neither = Some(bytes(3));
        assert_eq!(of(&flights, AlpnOffer::H2), Some(bytes(3)));
        flights.h2 = Some(bytes(1));
        assert_eq!(of(&flights, AlpnOffer::Http11), Some(bytes(1)));
        flights.http11 = Some(bytes(2));
        let all = [AlpnOffer::H2, AlpnOffer::Http11, AlpnOffer::Neither];
        let least = |offer| of(&flights, offer).unwrap().least;
        assert_eq!(all.map(least), [1, 2, 3]);
    }

    #[test]
    fn other_compressions_change_sizes_only_where_the_site_compresses() {
        let bytes = |least| FlightBytes {
            least,
            most: least + 1,
        };
        let mut flights = Flights {
            h2: Some(bytes(1000)),
            http11: Some(bytes(1006)),
            neither: None,
            h2_zlib: Some(bytes(1002)),
            h2_plain: Some(bytes(2000)),
        };
        let least = |flights: &Flights, offer| {
            let all = [Compression::Brotli, Compression::Zlib, Compression::None];
            all.map(|compression| flights.of(offer, compression).unwrap().least)
        };
        assert_eq!(least(&flights, AlpnOffer::H2), [1000, 1000, 2000]);
        assert_eq!(least(&flights, AlpnOffer::Http11), [1006, 1006, 2006]);
        assert_eq!(least(&flights, AlpnOffer::Neither), [1000, 1000, 2000]);
        flights.h2_plain = None;
        assert_eq!(least(&flights, AlpnOffer::H2), [1000; 3]);
    }
}
