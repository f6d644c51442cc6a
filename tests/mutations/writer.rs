//! A script that changes users and settings through the control API, one request after the other.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::SocketAddr,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use rand::{RngExt, rngs::StdRng};
use serde_json::Value;

use crate::{
    file::{FIELDS, KEYS, Key, SHARED, State},
    model::Op,
    support::api::{Lost, request},
};

/// What all writers count together.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Beginnings and ends of mutations.
    clock: AtomicU64,
    /// Mutations that were acknowledged.
    pub(crate) acknowledged: AtomicUsize,
    /// Of these with `If-Match`.
    pub(crate) conditional: AtomicUsize,
    /// Conditions that were not met.
    pub(crate) conflicts: AtomicUsize,
    /// Part of the requests that have a condition: one without makes those of all others fail.
    pub(crate) share: f64,
}

impl Counts {
    /// Nothing counted yet.
    pub(crate) fn new(share: f64) -> Self {
        Self {
            share,
            ..Self::default()
        }
    }
}

/// One writer between a start of the proxy and its kill.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    number: usize,
    api: SocketAddr,
    rng: StdRng,
    counts: &'a Counts,
    /// Its own users, and whether they are there.
    users: BTreeMap<String, bool>,
    /// Everything it has sent.
    ops: Vec<Op>,
    /// Stamps of quota resets by user, as long as nobody has deleted it.
    resets: BTreeMap<String, u64>,
}

/// A mutation to be sent.
struct Request {
    line: String,
    body: String,
    sets: Vec<(Key, Option<String>)>,
    user: Option<(String, Fate)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Comes,
    Stays,
    Reset,
    Goes,
}

impl<'a> Writer<'a> {
    /// `state` tells which of its users are there.
    pub(crate) fn new(
        number: usize,
        api: SocketAddr,
        rng: StdRng,
        counts: &'a Counts,
        state: &State,
    ) -> Self {
        // A dot wants quotes.
        let names = (0..OWN).map(|own| format!("w{number}{}{own}", [".", "-"][own % 2]));
        let there = |name: &String| state.contains_key(&(name.clone(), "users"));
        Self {
            number,
            api,
            rng,
            counts,
            users: names.map(|name| (name.clone(), there(&name))).collect(),
            ops: Vec::new(),
            resets: BTreeMap::new(),
        }
    }

    /// Goes on until the proxy is gone; what was sent, and when quotas were reset.
    pub(crate) fn work(mut self) -> (Vec<Op>, BTreeMap<String, u64>) {
        while self.mutate().is_ok() {}
        (self.ops, self.resets)
    }

    fn mutate(&mut self) -> Result<(), Lost> {
        let request = self.draw();
        for _ in 0..TRIES {
            let mut headers = String::new();
            let conditional = self.rng.random_bool(self.counts.share);
            if conditional {
                let (_, answer) = self::request(self.api, "GET /v1/health", "", "")?;
                let revision = answer["revision"].as_str().expect("a revision");
                headers = format!("If-Match: \"{revision}\"\r\n");
            }
            let start = self.counts.clock.fetch_add(1, Ordering::SeqCst);
            let answer = self::request(self.api, &request.line, &headers, &request.body);
            let end = self.counts.clock.fetch_add(1, Ordering::SeqCst);
            if answer == Err(Lost::Unsent) {
                return Err(Lost::Unsent);
            }
            let mut op = Op {
                what: format!("{} {}", request.line, request.body),
                writer: self.number,
                sets: request.sets.clone(),
                start,
                end: Some(end),
            };
            let (status, answer) = match answer {
                Ok(answer) => answer,
                Err(lost) => {
                    op.end = None;
                    self.forget_reset(&request);
                    self.ops.push(op);
                    return Err(lost);
                }
            };
            let code = answer["error"]["code"].as_str().unwrap_or_default();
            if conditional && status == 409 && code == "revision_conflict" {
                self.counts.conflicts.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            // Somebody else's reload is under way.
            if status == 409 && code == "reload_in_progress" {
                return Ok(());
            }
            assert!((200..300).contains(&status), "{status} {answer} to {op:?}");
            self.take_note(&request, &answer);
            self.ops.push(op);
            self.counts.acknowledged.fetch_add(1, Ordering::Relaxed);
            let conditions = usize::from(conditional);
            self.counts
                .conditional
                .fetch_add(conditions, Ordering::Relaxed);
            return Ok(());
        }
        Ok(())
    }

    fn forget_reset(&mut self, request: &Request) {
        if let Some((user, Fate::Reset | Fate::Goes)) = &request.user {
            self.resets.remove(user);
        }
    }

    fn take_note(&mut self, request: &Request, answer: &Value) {
        self.forget_reset(request);
        let Some((user, fate)) = &request.user else {
            return;
        };
        if *fate == Fate::Reset && self.users.contains_key(user) {
            let stamp = answer["data"]["last_reset_epoch_secs"].as_u64();
            self.resets.insert(user.clone(), stamp.expect("a stamp"));
        }
        if let Some(there) = self.users.get_mut(user) {
            *there = *fate != Fate::Goes;
        }
    }

    fn draw(&mut self) -> Request {
        match self.rng.random_range(0..10) {
            0 => self.settings(),
            1..=3 => {
                let user = SHARED[self.rng.random_range(0..SHARED.len())];
                self.change(user)
            }
            _ => {
                let nth = self.rng.random_range(0..OWN);
                let (user, there) = self.users.iter().nth(nth).expect("own users");
                let (user, there) = (user.clone(), *there);
                match (there, self.rng.random_range(0..5)) {
                    (false, _) => self.create(&user),
                    (true, 0) => delete(&user),
                    (true, _) => self.change(&user),
                }
            }
        }
    }

    fn create(&mut self, user: &str) -> Request {
        let mut fields = self.fields(false);
        fields.retain(|(field, _)| *field != "users");
        let secret = self.secret();
        fields.push(("users", Some(secret)));
        let body = body(&fields);
        Request {
            line: "POST /v1/users".to_owned(),
            body: format!("{{\"username\":\"{user}\",{body}}}"),
            sets: sets(user, fields),
            user: Some((user.to_owned(), Fate::Comes)),
        }
    }

    fn change(&mut self, user: &str) -> Request {
        let request = |what: &str, body: String, sets| Request {
            line: format!("POST /v1/users/{user}/{what}"),
            body,
            sets,
            user: Some((user.to_owned(), Fate::Stays)),
        };
        match self.rng.random_range(0..8) {
            0 => {
                let secret = self.secret();
                let body = format!("{{\"secret\":\"{secret}\"}}");
                request(
                    "rotate-secret",
                    body,
                    sets(user, vec![("users", Some(secret))]),
                )
            }
            1 => {
                let disabled = Some("false".to_owned());
                request(
                    "disable",
                    String::new(),
                    sets(user, vec![("user_enabled", disabled)]),
                )
            }
            2 => request(
                "enable",
                String::new(),
                sets(user, vec![("user_enabled", None)]),
            ),
            3 => {
                let mut request = request("reset-quota", String::new(), Vec::new());
                request.user = Some((user.to_owned(), Fate::Reset));
                request
            }
            _ => {
                let fields = self.fields(true);
                Request {
                    line: format!("PATCH /v1/users/{user}"),
                    body: format!("{{{}}}", body(&fields)),
                    sets: sets(user, fields),
                    user: Some((user.to_owned(), Fate::Stays)),
                }
            }
        }
    }

    fn settings(&mut self) -> Request {
        let key = KEYS[self.rng.random_range(0..KEYS.len())];
        let value = self.rng.random_range(30..60_000).to_string();
        let steps = key.split('.').rev();
        let body = steps.fold(value.clone(), |inner, step| {
            format!("{{\"{step}\":{inner}}}")
        });
        let query = ["", "", "", "?reload=instant"][self.rng.random_range(0..4)];
        Request {
            line: format!("PATCH /v1/config{query}"),
            body,
            sets: vec![((String::new(), key), Some(value))],
            user: None,
        }
    }

    /// Some fields with new values; with `removals` some are taken away.
    fn fields(&mut self, removals: bool) -> Vec<(&'static str, Option<String>)> {
        let mut fields = Vec::new();
        for field in FIELDS {
            if !self.rng.random_bool(0.3) {
                continue;
            }
            let number = self.rng.random_range(1..1_000_000_000_u64).to_string();
            let value = match field {
                "users" => self.secret(),
                "user_ad_tags" => self.secret(),
                "user_expirations" => {
                    let day = self.rng.random_range(1..29);
                    let second = self.rng.random_range(0..60);
                    format!("2031-02-{day:02}T03:04:{second:02}Z")
                }
                "user_enabled" => "false".to_owned(),
                _ => number,
            };
            let gone = removals && field != "users" && self.rng.random_bool(0.3);
            fields.push((field, (!gone).then_some(value)));
        }
        fields
    }

    fn secret(&mut self) -> String {
        hex::encode(self.rng.random::<[u8; 16]>())
    }
}

fn delete(user: &str) -> Request {
    Request {
        line: format!("DELETE /v1/users/{user}"),
        body: String::new(),
        sets: sets(user, FIELDS.iter().map(|field| (*field, None)).collect()),
        user: Some((user.to_owned(), Fate::Goes)),
    }
}

fn sets(user: &str, fields: Vec<(&'static str, Option<String>)>) -> Vec<(Key, Option<String>)> {
    let own = fields.into_iter();
    own.map(|(field, value)| ((user.to_owned(), field), value))
        .collect()
}

/// Members of a JSON object.
fn body(fields: &[(&'static str, Option<String>)]) -> String {
    let mut body = String::new();
    for (field, value) in fields {
        let (name, quoted) = match *field {
            "users" => ("secret", true),
            "user_ad_tags" => ("user_ad_tag", true),
            "user_expirations" => ("expiration_rfc3339", true),
            "user_max_tcp_conns" => ("max_tcp_conns", false),
            "user_data_quota" => ("data_quota_bytes", false),
            "user_max_unique_ips" => ("max_unique_ips", false),
            "user_enabled" => ("enabled", false),
            "up_bps" => ("rate_limit_up_bps", false),
            _ => ("rate_limit_down_bps", false),
        };
        let comma = if body.is_empty() { "" } else { "," };
        match value {
            None => write!(body, "{comma}\"{name}\":null").unwrap(),
            Some(text) if quoted => write!(body, "{comma}\"{name}\":\"{text}\"").unwrap(),
            Some(text) => write!(body, "{comma}\"{name}\":{text}").unwrap(),
        }
    }
    body
}

/// Users of each writer.
const OWN: usize = 4;
/// Conditions fail often while seven others write.
const TRIES: usize = 8;
