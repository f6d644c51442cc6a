//! The questions to a site and what follows from its answers.
//!
//! | Question | Suites offered | Application protocols | Tells |
//! |---|---|---|---|
//! | 1 | `1301 1302 1303` | h2, http/1.1 | group, order of extensions, size, first suite |
//! | 2 | `1303 1302 1301` | http/1.1 | whose order of suites counts, size |
//! | 3 | those that are left | none | the site's second suite, size |
//!
//! The first is asked in one style of hello after another until one is answered; the others, in
//! the style that was, are worth having and no more.
//!
//! Source: protocol.md 6.7.

use std::time::{Duration, Instant};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use shards::{
    proto::faketls::{
        client_hello::{AlpnOffer, SUITES},
        site_answer::SiteAnswer,
        site_hello::{SiteHello, SiteStyle, site_hello},
    },
    settings::{FlightBytes, Flights, Front, SuiteOrder},
};

use super::{
    Route, Target,
    ask::{AskError, ask},
};

/// How sites are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// In which order styles are tried.
    pub(crate) styles: Vec<SiteStyle>,
    /// Limit of one connection.
    pub(crate) attempt: Duration,
    /// Limit of all connections of one round.
    pub(crate) budget: Duration,
    /// Hellos have reserved values.
    pub(crate) grease: bool,
    /// Hellos are the same each time.
    pub(crate) deterministic: bool,
    /// Sent before each hello: a PROXY header where the site wants one.
    pub(crate) preamble: Vec<u8>,
}

/// Whom to ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site<'a> {
    /// The name in SNI.
    pub(super) domain: &'a str,
    /// Where it is.
    pub(super) target: &'a Target,
}

/// What a round has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Learned {
    pub(super) front: Front,
    /// The style that was answered.
    pub(super) style: SiteStyle,
    /// The site speaks TLS 1.3; otherwise sizes are estimates.
    pub(super) tls13: bool,
}

/// Asks a site; styles in their order, `first` before them.
///
/// # Errors
/// Why the last style was not answered.
pub(super) fn learn(
    how: &Ask,
    route: &Route,
    site: Site<'_>,
    first: Option<SiteStyle>,
) -> Result<Learned, AskError> {
    let round = Round {
        how,
        route,
        site,
        until: Instant::now() + how.budget,
    };
    let others = how.styles.iter().copied();
    let others = others.filter(|style| Some(*style) != first);
    let mut failed = AskError::TooSlow(0);
    let mut retried = None;
    for style in first.into_iter().chain(others) {
        if round.left().is_zero() {
            break;
        }
        match round.ask(style, AlpnOffer::H2, &SUITES, true) {
            Ok(answer) if answer.flight_bytes().is_some() => return Ok(round.more(style, &answer)),
            // It wants a share for another group: another style may have one.
            Ok(answer) => retried = retried.or(Some((style, answer))),
            Err(error) => {
                let domain = site.domain;
                tracing::debug!(%error, ?style, "front {domain}: not answered");
                failed = error;
            }
        }
    }
    match retried {
        Some((style, answer)) => Ok(round.more(style, &answer)),
        None => Err(failed),
    }
}

/// One round of questions.
struct Round<'a> {
    how: &'a Ask,
    route: &'a Route,
    site: Site<'a>,
    until: Instant,
}

impl Round<'_> {
    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    fn ask(
        &self,
        style: SiteStyle,
        alpn: AlpnOffer,
        suites: &[u16],
        hybrid: bool,
    ) -> Result<SiteAnswer, AskError> {
        let mut rng = if self.how.deterministic {
            StdRng::seed_from_u64(0)
        } else {
            rand::make_rng()
        };
        let hello = SiteHello {
            style,
            domain: self.site.domain,
            alpn,
            suites,
            hybrid,
            grease: self.how.grease,
        };
        let mut first = self.how.preamble.clone();
        first.extend(site_hello(&mut |out| rng.fill_bytes(out), &hello));
        let limit = self.how.attempt.min(self.left());
        ask(self.route, self.site.target, &first, limit)
    }

    /// What follows from the first answer and from those to further questions.
    fn more(&self, style: SiteStyle, answer: &SiteAnswer) -> Learned {
        let hello = answer.hello;
        let tls13 = hello.is_some_and(|hello| hello.tls13);
        let mut flights = Flights::default();
        note(&mut flights, offered(style, AlpnOffer::H2), answer);
        let suites = match hello {
            Some(hello) if tls13 && !hello.retry => {
                self.suites_and_sizes(style, hello.suite, &mut flights)
            }
            _ => SuiteOrder::Client,
        };
        Learned {
            front: Front {
                suites,
                hybrid: hello.and_then(|hello| hello.group) == Some(HYBRID),
                key_share_first: hello.is_some_and(|hello| hello.key_share_first),
                flights,
            },
            style,
            tls13,
        }
    }

    fn suites_and_sizes(&self, style: SiteStyle, first: u16, flights: &mut Flights) -> SuiteOrder {
        let mut reversed = SUITES;
        reversed.reverse();
        let second = self.further(style, AlpnOffer::Http11, &reversed, flights);
        let order = match second {
            // By the client's order, or by that of a site which does not have them all.
            Some(second) if second != first => return self.without_protocol(style, flights),
            // A client's first suite proves nothing by itself.
            None if SUITES.first() == Some(&first) => {
                return self.without_protocol(style, flights);
            }
            _ => first,
        };
        let mut rest = SUITES.into_iter().filter(|suite| *suite != order);
        let (Some(a), Some(b)) = (rest.next(), rest.next()) else {
            return self.without_protocol(style, flights);
        };
        let third = self.further(style, AlpnOffer::Neither, &[a, b], flights);
        SuiteOrder::Site(if third == Some(b) {
            [order, b, a]
        } else {
            [order, a, b]
        })
    }

    fn without_protocol(&self, style: SiteStyle, flights: &mut Flights) -> SuiteOrder {
        self.further(style, AlpnOffer::Neither, &SUITES, flights);
        SuiteOrder::Client
    }

    /// A question whose answer is not indispensable; the suite that was picked.
    fn further(
        &self,
        style: SiteStyle,
        alpn: AlpnOffer,
        suites: &[u16],
        flights: &mut Flights,
    ) -> Option<u16> {
        if self.left().is_zero() {
            return None;
        }
        match self.ask(style, alpn, suites, false) {
            Ok(answer) => {
                note(flights, offered(style, alpn), &answer);
                Some(answer.hello?.suite)
            }
            Err(error) => {
                let domain = self.site.domain;
                tracing::debug!(%error, ?alpn, "front {domain}: a further question failed");
                None
            }
        }
    }
}

/// What a hello of this style really offers.
fn offered(style: SiteStyle, alpn: AlpnOffer) -> AlpnOffer {
    match style {
        SiteStyle::Minimal => AlpnOffer::Neither,
        SiteStyle::Chrome | SiteStyle::Firefox | SiteStyle::Compat12 => alpn,
    }
}

fn note(flights: &mut Flights, offer: AlpnOffer, answer: &SiteAnswer) {
    let Some(bytes) = answer.flight_bytes() else {
        return;
    };
    let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
    let place = match offer {
        AlpnOffer::H2 => &mut flights.h2,
        AlpnOffer::Http11 => &mut flights.http11,
        AlpnOffer::Neither => &mut flights.neither,
    };
    *place = Some(FlightBytes {
        least: bytes,
        most: bytes,
    });
}

/// What is known now, with what was known before where that was about the same certificate: the
/// signatures of some vary by a few bytes.
pub(super) fn widen(before: Flights, now: Flights) -> Flights {
    let one = |before: Option<FlightBytes>, now: Option<FlightBytes>| match (before, now) {
        (Some(before), Some(now)) => {
            let (least, most) = (before.least.min(now.least), before.most.max(now.most));
            Some(if most - least <= VARIES_BYTES {
                FlightBytes { least, most }
            } else {
                now
            })
        }
        (before, now) => now.or(before),
    };
    Flights {
        h2: one(before.h2, now.h2),
        http11: one(before.http11, now.http11),
        neither: one(before.neither, now.neither),
    }
}

/// X25519MLKEM768.
const HYBRID: u16 = 0x11ec;
/// An ECDSA signature of P-256 has 70 to 72 bytes, seldom less.
const VARIES_BYTES: u16 = 3;
