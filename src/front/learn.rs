//! The questions to a site and what follows from its answers.
//!
//! | Question | Suites offered | Application protocols | Tells |
//! |---|---|---|---|
//! | 1 | `1301 1302 1303` | h2, http/1.1 | group, order of extensions, size, first suite |
//! | 2 | `1303 1302 1301` | http/1.1 | whose order of suites counts, size |
//! | 3 | those that are left | none | the site's second suite, size |
//! | 4, 5 | `1301 1302 1303` | h2, http/1.1 | size without Brotli: with zlib, then without any |
//!
//! The first is asked in one style of hello after another until one is answered; the others, in
//! the style that was, are worth having and no more. Certificates may come compressed by Brotli
//! where nothing else is said.
//!
//! Source: protocol.md 6.7.

use std::time::{Duration, Instant};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use shards::{
    proto::faketls::{
        client_hello::{AlpnOffer, Compression, SUITES},
        site_answer::SiteAnswer,
        site_hello::{SiteHello, SiteStyle, site_hello},
    },
    settings::{FlightBytes, Flights, Front, SIGNATURE_VARIES_BYTES, SuiteOrder},
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
        match round.ask(style, Question::FIRST) {
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

/// What a hello asks, by what it offers.
#[derive(Clone, Copy, Debug)]
struct Question<'a> {
    alpn: AlpnOffer,
    suites: &'a [u16],
    hybrid: bool,
    compression: Compression,
}

impl Question<'static> {
    const FIRST: Self = Self {
        alpn: AlpnOffer::H2,
        suites: &SUITES,
        hybrid: true,
        compression: Compression::Brotli,
    };
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

    fn ask(&self, style: SiteStyle, question: Question<'_>) -> Result<SiteAnswer, AskError> {
        let mut rng = if self.how.deterministic {
            StdRng::seed_from_u64(0)
        } else {
            rand::make_rng()
        };
        let hello = SiteHello {
            style,
            domain: self.site.domain,
            alpn: question.alpn,
            suites: question.suites,
            hybrid: question.hybrid,
            compression: question.compression,
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
        note(&mut flights, style, Question::FIRST, answer);
        let suites = match hello {
            Some(hello) if tls13 && !hello.retry => {
                let suites = self.suites_and_sizes(style, hello.suite, &mut flights);
                for compression in [Compression::Zlib, Compression::None] {
                    let question = Question {
                        compression,
                        hybrid: false,
                        ..Question::FIRST
                    };
                    self.further(style, question, &mut flights);
                }
                suites
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
        let second = self.offering(style, AlpnOffer::Http11, &reversed, flights);
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
        let third = self.offering(style, AlpnOffer::Neither, &[a, b], flights);
        SuiteOrder::Site(if third == Some(b) {
            [order, b, a]
        } else {
            [order, a, b]
        })
    }

    fn without_protocol(&self, style: SiteStyle, flights: &mut Flights) -> SuiteOrder {
        self.offering(style, AlpnOffer::Neither, &SUITES, flights);
        SuiteOrder::Client
    }

    /// Such protocols and suites.
    fn offering(
        &self,
        style: SiteStyle,
        alpn: AlpnOffer,
        suites: &[u16],
        flights: &mut Flights,
    ) -> Option<u16> {
        let question = Question {
            alpn,
            suites,
            hybrid: false,
            ..Question::FIRST
        };
        self.further(style, question, flights)
    }

    /// A question whose answer is not indispensable; the suite that was picked.
    fn further(
        &self,
        style: SiteStyle,
        question: Question<'_>,
        flights: &mut Flights,
    ) -> Option<u16> {
        if self.left().is_zero() {
            return None;
        }
        match self.ask(style, question) {
            Ok(answer) => {
                note(flights, style, question, &answer);
                Some(answer.hello?.suite)
            }
            Err(error) => {
                let domain = self.site.domain;
                tracing::debug!(%error, ?question, "front {domain}: a further question failed");
                None
            }
        }
    }
}

fn note(flights: &mut Flights, style: SiteStyle, question: Question<'_>, answer: &SiteAnswer) {
    let Some(bytes) = answer.flight_bytes() else {
        return;
    };
    let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
    // What a hello of this style really offers.
    let offer = match style {
        SiteStyle::Minimal => AlpnOffer::Neither,
        SiteStyle::Chrome | SiteStyle::Firefox | SiteStyle::Compat12 => question.alpn,
    };
    let place = match (offer, question.compression) {
        (_, Compression::Zlib) => &mut flights.h2_zlib,
        (_, Compression::None) => &mut flights.h2_plain,
        (AlpnOffer::H2, Compression::Brotli) => &mut flights.h2,
        (AlpnOffer::Http11, Compression::Brotli) => &mut flights.http11,
        (AlpnOffer::Neither, Compression::Brotli) => &mut flights.neither,
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
            Some(if most - least <= SIGNATURE_VARIES_BYTES {
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
        h2_zlib: one(before.h2_zlib, now.h2_zlib),
        h2_plain: one(before.h2_plain, now.h2_plain),
    }
}

/// X25519MLKEM768.
const HYBRID: u16 = 0x11ec;
