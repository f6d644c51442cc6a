//! What is known of the sites that FakeTLS answers are made to look like.
//!
//! Learned by the binary (`src/front`), given to every shard as a whole, looked up once per answer.
//! Not here: how an answer is made of it (`policy/server_flight.rs`).

use std::collections::HashMap;

use crate::proto::faketls::client_hello::AlpnOffer;

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
/// in there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flights {
    /// To clients that offer `h2`.
    pub h2: Option<FlightBytes>,
    /// To clients that offer `http/1.1` and no `h2`.
    pub http11: Option<FlightBytes>,
    /// To clients that offer neither.
    pub neither: Option<FlightBytes>,
}

impl Flights {
    /// The size for such a client, or the nearest that is known.
    #[must_use]
    pub fn of(&self, offer: AlpnOffer) -> Option<FlightBytes> {
        let own = match offer {
            AlpnOffer::H2 => self.h2,
            AlpnOffer::Http11 => self.http11,
            AlpnOffer::Neither => self.neither,
        };
        own.or(self.h2).or(self.http11).or(self.neither)
    }
}

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
        assert_eq!(flights.of(AlpnOffer::H2), None);
        flights.neither = Some(bytes(3));
        assert_eq!(flights.of(AlpnOffer::H2), Some(bytes(3)));
        flights.h2 = Some(bytes(1));
        assert_eq!(flights.of(AlpnOffer::Http11), Some(bytes(1)));
        flights.http11 = Some(bytes(2));
        let all = [AlpnOffer::H2, AlpnOffer::Http11, AlpnOffer::Neither];
        assert_eq!(all.map(|offer| flights.of(offer).unwrap().least), [1, 2, 3]);
    }
}
