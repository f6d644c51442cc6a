//! A client from its first byte until it is known: whose secret it holds and which DC it wants.
//!
//! ```text
//!   Prelude ──> Hello ──answer──> Inner ──> accepted
//!      └──────> Header ───────────────────> accepted       (refused from any of them)
//! ```
//!
//! Source: protocol.md 3, 6, 7.2.

use super::{
    Millis,
    admission::Visit,
    end::Refusal,
    fingerprints::Fingerprints,
    replay::{KeyKind, ReplayStore, Seen},
    returning::Returning,
    server_flight::{Asked, Means, server_flight},
    users::{Hints, UserId, UserTable},
};
use crate::{
    counters::FailureStage,
    proto::{
        faketls::{
            client_hello::{
                AlpnOffer, HelloError, HelloFields, RANDOM_AT, check_skew, hello_len, parse_fields,
                replay_key, verify, zero_random,
            },
            record::RecordReader,
        },
        obfuscated2::{self, ClientKeys, HEADER_BYTES, Opening},
        sniff::{Sniffed, sniff},
    },
    settings::{FrontTable, Modes, TlsSettings, UnknownSni},
};

/// One client that is not known yet.
#[derive(Debug, Default)]
pub(crate) struct Handshake {
    /// What was read and not used up; at most a hello, or a header and what came with it.
    seen: Vec<u8>,
    phase: Phase,
    /// The hello as it came, while its answer waits.
    hello: Vec<u8>,
    /// When the first byte came.
    pub(crate) began: Millis,
    /// When the client has to be known.
    pub(crate) until: Millis,
}

#[derive(Clone, Copy, Debug, Default)]
enum Phase {
    /// Too few bytes to tell what it is.
    #[default]
    Prelude,
    /// A ClientHello is coming in.
    Hello,
    /// A plain obfuscated2 header is coming in.
    Header,
    /// The hello was accepted and answered; records with the inner header follow.
    Inner { user: UserId, records: RecordReader },
}

/// What a handshake looks at; lent for one call.
pub(crate) struct Context<'a> {
    pub(crate) modes: Modes,
    pub(crate) tls: &'a TlsSettings,
    /// What is known of the sites that are imitated.
    pub(crate) fronts: &'a FrontTable,
    /// Set when addresses that return get short answers.
    pub(crate) returning: Option<&'a mut Returning>,
    pub(crate) users: &'a UserTable,
    pub(crate) hints: &'a mut Hints,
    pub(crate) replay: &'a ReplayStore,
    pub(crate) visit: Visit,
    /// Fills with unguessable bytes.
    pub(crate) random: &'a mut dyn FnMut(&mut [u8]),
    /// Makes an X25519 public key.
    pub(crate) public_key: &'a mut dyn FnMut() -> [u8; 32],
    /// Replay keys forgotten before their time; added to.
    pub(crate) evicted_early: &'a mut u64,
    /// Set when kinds of TLS clients are counted.
    pub(crate) fingerprints: Option<&'a mut Fingerprints>,
}

/// What is to be done next.
pub(crate) enum Progress {
    /// Wait for more bytes.
    More,
    /// Send this in one write, then wait for more.
    Answer(Box<[u8]>),
    /// The client is known; the handshake is over.
    Accepted(Box<Accepted>),
    /// Not one of ours: no answer. What came so far is in [`Handshake::take_seen`].
    Refused(Refusal),
    /// Close without an answer, or after these bytes.
    Close(Refusal, &'static [u8]),
}

/// A client that is known.
pub(crate) struct Accepted {
    pub(crate) user: UserId,
    pub(crate) opening: Opening,
    pub(crate) keys: ClientKeys,
    /// The header as it came.
    header: [u8; HEADER_BYTES],
    /// Set for FakeTLS: where the reader of its records stands.
    pub(crate) records: Option<RecordReader>,
    /// What came behind the header, records already removed, still encrypted.
    pub(crate) early: Vec<u8>,
    /// An alert came behind it: nothing more will.
    pub(crate) ended: bool,
}

impl Accepted {
    /// All that came, as it came; of a client without FakeTLS.
    pub(crate) fn into_seen(self) -> Vec<u8> {
        let mut seen = self.header.to_vec();
        seen.extend_from_slice(&self.early);
        seen
    }
}

/// More than a hello, or a header with the first flight of a client that does not wait.
const SEEN_BYTES_MAX: usize = 5 + 16_384;

impl Handshake {
    /// Takes what the client sent.
    pub(crate) fn receive(&mut self, bytes: &[u8], ctx: &mut Context<'_>) -> Progress {
        if let Phase::Inner { user, records } = &mut self.phase {
            let (user, mut reader) = (*user, *records);
            let from = self.seen.len();
            self.seen.extend_from_slice(bytes);
            let tail = self.seen.get_mut(from..).unwrap_or_default();
            let Ok(compacted) = reader.compact(tail) else {
                return Progress::Close(Refusal::TlsInner, &[]);
            };
            self.seen.truncate(from + compacted.payload);
            self.phase = Phase::Inner {
                user,
                records: reader,
            };
            return self.inner(user, reader, compacted.ended, ctx);
        }
        self.seen.extend_from_slice(bytes);
        self.go_on(ctx)
    }

    /// Whether anything came yet.
    pub(crate) fn has_bytes(&self) -> bool {
        !self.seen.is_empty() || matches!(self.phase, Phase::Inner { .. })
    }

    /// Takes all that came, as it came, of a client that nothing was answered to.
    pub(crate) fn take_seen(&mut self) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.hello);
        if all.is_empty() {
            std::mem::swap(&mut all, &mut self.seen);
        }
        all
    }

    /// The answer is sent: there is no way back to being a stranger.
    pub(crate) fn answered(&mut self) {
        self.hello = Vec::new();
    }

    /// No answer was made: whoever stands still here may be a stranger.
    pub(crate) fn is_unanswered(&self) -> bool {
        !matches!(self.phase, Phase::Inner { .. })
    }

    /// Where it stands, for counters.
    pub(crate) fn stage(&self) -> FailureStage {
        match self.phase {
            Phase::Prelude => FailureStage::FirstPacketPrelude,
            Phase::Hello => FailureStage::TlsClienthelloBody,
            Phase::Header => FailureStage::DirectMtproto,
            Phase::Inner { .. } => FailureStage::TlsPostServerhelloMtproto,
        }
    }

    fn go_on(&mut self, ctx: &mut Context<'_>) -> Progress {
        if let Phase::Prelude = self.phase {
            self.phase = match sniff(&self.seen, ctx.modes) {
                Sniffed::NeedMore => return Progress::More,
                Sniffed::Stranger => return Progress::Refused(Refusal::NotOurs),
                Sniffed::Tls => Phase::Hello,
                Sniffed::Header => Phase::Header,
            };
        }
        match self.phase {
            Phase::Hello => self.hello(ctx),
            Phase::Header => self.header(ctx),
            Phase::Prelude | Phase::Inner { .. } => Progress::More,
        }
    }

    fn hello(&mut self, ctx: &mut Context<'_>) -> Progress {
        match hello_len(&self.seen) {
            Ok(Some(total)) if self.seen.len() == total => {}
            Ok(_) => return Progress::More,
            Err(error) => return Progress::Refused(Refusal::TlsMalformed(error)),
        }
        let random = zero_random(&mut self.seen);
        let progress = self.judge_hello(&random, ctx);
        // Whoever else gets these bytes gets them as they came.
        if let Some(place) = self.seen.get_mut(RANDOM_AT..RANDOM_AT + random.len()) {
            place.copy_from_slice(&random);
        }
        if let Progress::Answer(_) = progress {
            self.hello = std::mem::take(&mut self.seen);
        }
        progress
    }

    /// Judges a whole hello whose random is zeroed.
    fn judge_hello(&mut self, random: &[u8; 32], ctx: &mut Context<'_>) -> Progress {
        let seen = &self.seen;
        let found = ctx.hints.find(ctx.users, ctx.visit.from, |user| {
            verify(seen, random, ctx.users.hmac(user)?)
        });
        if let Some(fingerprints) = &mut ctx.fingerprints {
            let user = found.as_ref().map(|(user, _)| *user);
            fingerprints.note(&self.seen, ctx.visit.from, user, ctx.visit.now_unix);
        }
        let Some((user, timestamp)) = found else {
            return Progress::Refused(Refusal::TlsDigest);
        };
        if let Err(HelloError::Skew { skew_secs, .. }) =
            check_skew(timestamp, ctx.visit.now_unix, ctx.tls.skew_secs_max)
        {
            return Progress::Refused(Refusal::TlsSkew { skew_secs });
        }
        // Before anything that a wrong secret would not lead to.
        if let Some(refused) = judge_user(user, FailureStage::TlsCore, ctx) {
            return refused;
        }
        // Before the answer, and in one step with the test: of two copies at once one wins.
        match ctx
            .replay
            .insert(KeyKind::Hello, &replay_key(random), ctx.visit.now_unix)
        {
            Seen::Before => return Progress::Refused(Refusal::TlsReplay),
            Seen::Fresh { evicted_early } => *ctx.evicted_early += u64::from(evicted_early),
        }
        let fields = parse_fields(&self.seen);
        if let Some(refused) = judge_sni(&fields, ctx.tls) {
            return refused;
        }
        if ctx.tls.alpn_enforce && offers_no_web(&fields) {
            return Progress::Refused(Refusal::TlsUnknownAlpn);
        }
        let Some(hmac) = ctx.users.hmac(user) else {
            return Progress::Refused(Refusal::TlsDigest);
        };
        let returning = ctx.returning.as_mut();
        let asked = Asked {
            fields: &fields,
            random,
            hmac,
            front: ctx.fronts.get(named_domain(&fields, ctx.tls)),
            returns: returning.is_some_and(|one| !one.wants_full(ctx.visit.from, ctx.visit.now)),
        };
        let means = Means {
            random: ctx.random,
            public_key: ctx.public_key,
        };
        let flight = server_flight(&asked, ctx.tls, means);
        ctx.hints.learn(user, ctx.visit.from);
        self.phase = Phase::Inner {
            user,
            records: RecordReader::new(),
        };
        Progress::Answer(flight)
    }

    fn header(&mut self, ctx: &mut Context<'_>) -> Progress {
        let Some(header) = self.seen.first_chunk::<HEADER_BYTES>() else {
            return Progress::More;
        };
        let key = obfuscated2::replay_key(header);
        if ctx
            .replay
            .contains(KeyKind::Header, key, ctx.visit.now_unix)
        {
            return Progress::Refused(Refusal::ObfuscatedReplay);
        }
        let found = ctx.hints.find(ctx.users, ctx.visit.from, |user| {
            obfuscated2::open(header, ctx.users.secret(user)?)
        });
        let Some((user, opening)) = found else {
            return Progress::Refused(Refusal::ObfuscatedAuth);
        };
        if !opening.is_served(ctx.modes, false) {
            return Progress::Refused(Refusal::ObfuscatedMode);
        }
        if let Some(refused) = judge_user(user, FailureStage::DirectMtproto, ctx) {
            return refused;
        }
        match ctx.replay.insert(KeyKind::Header, key, ctx.visit.now_unix) {
            Seen::Before => return Progress::Refused(Refusal::ObfuscatedReplay),
            Seen::Fresh { evicted_early } => *ctx.evicted_early += u64::from(evicted_early),
        }
        let Some(secret) = ctx.users.secret(user) else {
            return Progress::Refused(Refusal::ObfuscatedAuth);
        };
        let keys = obfuscated2::client_keys(header, secret);
        ctx.hints.learn(user, ctx.visit.from);
        self.accepted(user, opening, keys, None, false)
    }

    fn inner(
        &mut self,
        user: UserId,
        records: RecordReader,
        ended: bool,
        ctx: &mut Context<'_>,
    ) -> Progress {
        let Some(header) = self.seen.first_chunk::<HEADER_BYTES>() else {
            let over = ended || self.seen.len() > SEEN_BYTES_MAX;
            return if over {
                Progress::Close(Refusal::TlsInner, &[])
            } else {
                Progress::More
            };
        };
        let Some((secret, opening)) = ctx
            .users
            .secret(user)
            .and_then(|secret| obfuscated2::open(header, secret).map(|opening| (secret, opening)))
        else {
            return Progress::Close(Refusal::TlsInner, &[]);
        };
        if !opening.is_served(ctx.modes, true) {
            return Progress::Close(Refusal::TlsInnerMode, &[]);
        }
        let key = obfuscated2::replay_key(header);
        match ctx.replay.insert(KeyKind::Header, key, ctx.visit.now_unix) {
            Seen::Before => return Progress::Close(Refusal::TlsInner, &[]),
            Seen::Fresh { evicted_early } => *ctx.evicted_early += u64::from(evicted_early),
        }
        let keys = obfuscated2::client_keys(header, secret);
        self.accepted(user, opening, keys, Some(records), ended)
    }

    fn accepted(
        &mut self,
        user: UserId,
        opening: Opening,
        keys: ClientKeys,
        records: Option<RecordReader>,
        ended: bool,
    ) -> Progress {
        let mut early = std::mem::take(&mut self.seen);
        let header = early.first_chunk().copied().unwrap_or([0; HEADER_BYTES]);
        early.drain(..HEADER_BYTES.min(early.len()));
        Progress::Accepted(Box::new(Accepted {
            user,
            opening,
            keys,
            header,
            records,
            early,
            ended,
        }))
    }
}

/// A user who may not come in now: like a stranger, as long as nothing was answered.
fn judge_user(user: UserId, stage: FailureStage, ctx: &Context<'_>) -> Option<Progress> {
    let why = ctx.users.served(user)?.admits(&ctx.visit).err()?;
    Some(Progress::Refused(Refusal::User(why, stage)))
}

/// A missing or unreadable SNI is not unknown: such clients are served (protocol.md 7.4).
fn judge_sni(fields: &HelloFields<'_>, tls: &TlsSettings) -> Option<Progress> {
    fields.sni?;
    if tls
        .domains
        .iter()
        .any(|domain| fields.sni_is(domain) == Some(true))
    {
        return None;
    }
    const REFUSAL: Refusal = Refusal::TlsUnknownSni;
    match tls.unknown_sni {
        UnknownSni::Accept => None,
        UnknownSni::Mask => Some(Progress::Refused(REFUSAL)),
        UnknownSni::Drop => Some(Progress::Close(REFUSAL, &[])),
        UnknownSni::RejectHandshake => Some(Progress::Close(
            REFUSAL,
            &crate::proto::faketls::record::ALERT_UNRECOGNIZED_NAME,
        )),
    }
}

/// Our domain that the client named; the main one when it named none of ours.
fn named_domain<'a>(fields: &HelloFields<'_>, tls: &'a TlsSettings) -> &'a str {
    let own = || tls.domains.iter();
    let named = own().find(|domain| fields.sni_is(domain) == Some(true));
    named.or_else(|| own().next()).map_or("", String::as_str)
}

/// A list of application protocols of which a web server speaks none. A missing or unreadable list
/// is none: some of Telegram's own builds have odd extensions (protocol.md 6.2).
fn offers_no_web(fields: &HelloFields<'_>) -> bool {
    let first = fields.alpn.and_then(|alpn| alpn.names().next());
    first.is_some() && fields.alpn_offer() == AlpnOffer::Neither
}
