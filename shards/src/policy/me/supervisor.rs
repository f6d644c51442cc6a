//! One per process: all that has to be decided for all shards at once.
//!
//! State, reports and `now` in; plans, events and status out. Its thread, the fetches and STUN are
//! the binary's. Every plan is whole, so a shard that missed one has missed nothing, and a shard
//! that is late or silent only keeps its last report.
//!
//! ```text
//!   offers, reports ──> facts ──advance──> start, health tick, reinit, admission ──> plan
//! ```
//!
//! Source: middle-proxy.md 10 to 16 and 22 to 25.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use super::super::Millis;
use super::{
    dice::Dice,
    families::Families,
    plan::{Plan, Replacing, Route, Secret, TaskKind},
    readiness::{Admission, Verdict},
    refresh::{Maps, Secrets},
    report::{PoolEvent, Report, WriterState},
    selftest::{Drift, Selftest},
    startup::{Stage, StageMove, Steps},
};
use crate::{
    counters::{MeCounters, PoolCounters},
    proto::middle::secret_file::ProxySecret,
    settings::MeSettings,
};

mod exchange;
mod groups;
mod health;
mod planning;
mod quarantine;
mod reinit;
mod start;
mod tasks;
mod telling;
#[cfg(test)]
mod tests;
mod view;

pub use exchange::{MeEvent, MeEventKind, Offered, Origin, Setup, SkewSource};

use groups::Groups;
use health::{Health, Topic};
use quarantine::Quarantine;
use reinit::{Done, Reinit, Sight, Trigger};
use start::{Facts, Start};
use tasks::{Owner, Tasks};
use view::View;

/// The supervisor. Create it, post its first plan, then feed it reports and call
/// [`advance`](Self::advance) when it asks for it.
#[derive(Debug)]
pub struct Supervisor {
    setup: Setup,
    dice: Dice,
    /// The latest of each shard, without its events.
    reports: Vec<Report>,
    maps: Maps,
    secrets: Secrets,
    secret: Option<Arc<Secret>>,
    /// What STUN or HTTP says, by family.
    reflected: [Option<IpAddr>; 2],
    families: Families,
    /// Families whose endpoints make the groups.
    in_use: [bool; 2],
    groups: Groups,
    /// Map, families in use or settings changed since the groups were made.
    groups_stale: bool,
    admission: Admission,
    start: Start,
    steps: Steps,
    health: Health,
    reinit: Reinit,
    tasks: Tasks,
    /// When a shard's next writer may be renewed for a new secret.
    secret_next: BTreeMap<usize, Millis>,
    quarantine: Quarantine,
    selftest: Selftest,
    warned: BTreeMap<Topic, Millis>,
    events: Vec<MeEvent>,
    last_error: Option<String>,
    map_changed_at: Option<Millis>,
    secret_changed_at: Option<Millis>,
    stun_reset: bool,
    me: MeCounters,
    pool: PoolCounters,
    plan: Arc<Plan>,
    /// Serial of the plan taken last.
    taken: Option<u64>,
}

impl Supervisor {
    /// A supervisor that knows nothing yet; its first plan is ready to be taken.
    #[must_use]
    pub fn new(setup: Setup, now: Millis) -> Self {
        let admission = Admission::new(&setup.settings.admission, now);
        let shards = setup.shards.max(1);
        let report = |shard| Report {
            shard,
            ..Report::default()
        };
        let plan = Plan::empty(Arc::clone(&setup.settings), Route::Closed);
        let mut supervisor = Self {
            dice: Dice::new(setup.seed),
            reports: (0..shards).map(report).collect(),
            maps: Maps::new(),
            secrets: Secrets::default(),
            secret: None,
            reflected: [None, None],
            families: Families::default(),
            in_use: [false; 2],
            groups: Groups::default(),
            groups_stale: true,
            admission,
            start: Start::new(),
            steps: Steps::new(now),
            health: Health::default(),
            reinit: Reinit::new(now),
            tasks: Tasks::default(),
            secret_next: BTreeMap::new(),
            quarantine: Quarantine::default(),
            selftest: Selftest::default(),
            warned: BTreeMap::new(),
            events: Vec::new(),
            last_error: None,
            map_changed_at: None,
            secret_changed_at: None,
            stun_reset: false,
            me: MeCounters::default(),
            pool: PoolCounters::default(),
            plan: Arc::new(plan),
            taken: None,
            setup,
        };
        supervisor.advance(now);
        // Pools begin with an empty plan of serial 0, whose route may be another one.
        if supervisor.plan.serial == 0 {
            Arc::make_mut(&mut supervisor.plan).serial = 1;
        }
        supervisor
    }

    /// The keys changed. Takes effect with the next [`advance`](Self::advance).
    pub fn set_settings(&mut self, settings: Arc<MeSettings>, now: Millis) {
        let before = std::mem::replace(&mut self.setup.settings, settings);
        let after = Arc::clone(&self.setup.settings);
        if before.floor.adaptive != after.floor.adaptive {
            self.count(|me| {
                me.floor_mode_switch_total += 1;
                match after.floor.adaptive {
                    true => me.floor_mode_switch_static_to_adaptive_total += 1,
                    false => me.floor_mode_switch_adaptive_to_static_total += 1,
                }
            });
        }
        self.reinit.set(&before.reinit, &after.reinit, now);
        self.groups_stale = true;
    }

    /// What a step of the start has come to that is not the supervisor's: the fetches.
    pub fn startup_stage(&mut self, stage: Stage, what: StageMove, now: Millis) {
        if let StageMove::Failed(why) = &what {
            let text = format!("{}: {why}", stage.id());
            self.last_error = Some(super::startup::shorten(text));
        }
        self.steps.update(stage, what, now);
    }

    /// A secret was read. Section 23 decides whether it is taken.
    pub fn offer_secret(&mut self, secret: ProxySecret, origin: Origin, now: Millis) {
        let settings = Arc::clone(self.settings());
        if !self.secrets.offer(secret, origin, &settings.refresh) {
            return;
        }
        self.secret = self.secrets.current().map(|secret| {
            Arc::new(Secret {
                epoch: self.secrets.epoch(),
                secret: secret.clone(),
            })
        });
        self.secret_changed_at = Some(now);
        let text = format!("proxy secret {} is in force", self.secrets.epoch());
        self.tell(MeEventKind::Secret, text);
        if self.secrets.epoch() > 1 && !self.start.is_underway() {
            self.reinit.trigger(Trigger::Secret, &settings.reinit, now);
        }
    }

    /// Maps were read: those of one cycle together, `None` for one that was not. Section 23
    /// decides whether they are taken.
    pub fn offer_maps(
        &mut self,
        v4: Option<Offered>,
        v6: Option<Offered>,
        origin: Origin,
        now: Millis,
    ) {
        let settings = Arc::clone(self.settings());
        let mut changed = false;
        for (ipv6, offered) in [(false, v4), (true, v6)] {
            let Some(offered) = offered else { continue };
            match self.maps.offer(ipv6, &offered, origin, &settings.refresh) {
                Ok(new) => changed |= new,
                Err(unfit) => {
                    let family = if ipv6 { "IPv6" } else { "IPv4" };
                    let text = format!("{family} map passed over: {unfit}");
                    self.tell(MeEventKind::Map, text);
                }
            }
        }
        if changed {
            self.map_changed(now);
        }
        self.stun_reset |= origin == Origin::Refresh;
    }

    /// What STUN or HTTP says of our address in a family; `None` when it is no longer known.
    pub fn reflected(&mut self, ipv6: bool, addr: Option<IpAddr>, now: Millis) {
        let _ = now;
        self.reflected[usize::from(ipv6)] = addr;
    }

    /// An answer's `Date` header differed by `secs` from our clock.
    pub fn skew_sample(&mut self, source: SkewSource, secs: u64, now: Millis) {
        self.selftest.skew(source, secs, now);
    }

    /// A shard's report. One that claims to be of a shard beyond the setup's is ignored.
    pub fn report(&mut self, mut report: Report, now: Millis) {
        let shard = report.shard;
        if shard >= self.reports.len() {
            return;
        }
        for event in std::mem::take(&mut report.events) {
            self.happened(shard, event, now);
        }
        if let Some(kept) = self.reports.get_mut(shard) {
            *kept = report;
        }
    }

    /// Runs what is due; returns when to call again at the latest. Call it after every input too.
    pub fn advance(&mut self, now: Millis) -> Millis {
        let settings = Arc::clone(self.settings());
        if self.maps.apply(&settings.refresh, now) {
            self.map_changed(now);
        }
        self.quarantine.expire(now);
        let sampled = self.selftest.advance(now);
        self.regroup(now);
        while let Some(open) = self.tasks.expire(now) {
            self.tended(&open, false, now);
        }
        self.step_start(now);
        let due = self.health.next.is_none_or(|next| next <= now);
        let tick = due && self.start.ticks(&settings.admission) && !self.groups.rows.is_empty();
        if tick {
            self.tick(now);
            // Suppression changes what is in use.
            self.regroup(now);
        }
        self.dial_outages(now);
        self.step_reinit(tick, now);
        let renewed = self.renew_secrets(now);
        self.admit(now);
        self.replan(now);
        self.next_call(sampled, renewed, now)
    }

    /// The plan to post, if it differs from the one taken last.
    pub fn take_plan(&mut self) -> Option<Arc<Plan>> {
        if self.taken == Some(self.plan.serial) {
            return None;
        }
        self.taken = Some(self.plan.serial);
        Some(Arc::clone(&self.plan))
    }

    /// What happened since the last call, for log and events ring.
    pub fn take_events(&mut self) -> Vec<MeEvent> {
        std::mem::take(&mut self.events)
    }

    /// STUN is to forget its failed rounds and live servers (not its cache); told once.
    pub fn wants_stun_reset(&mut self) -> bool {
        std::mem::take(&mut self.stun_reset)
    }

    fn settings(&self) -> &Arc<MeSettings> {
        &self.setup.settings
    }

    fn cores_detected(&self) -> u32 {
        u32::try_from(self.setup.cores).unwrap_or(u32::MAX).max(1)
    }

    fn happened(&mut self, shard: usize, event: PoolEvent, now: Millis) {
        match event {
            PoolEvent::LostEarly { endpoint } => self.bar(endpoint, now),
            PoolEvent::Keys(facts) => match self.selftest.keys(&facts) {
                Drift::None => {}
                Drift::Port => self.count(|me| me.kdf_port_only_drift_total += 1),
                Drift::Address => {
                    self.count(|me| me.kdf_drift_total += 1);
                    let text = format!("our address for {} changed", facts.me);
                    self.warn(Topic::Endpoint(facts.me), text, now);
                }
            },
            PoolEvent::Socks {
                me,
                reported,
                refused,
            } => self.selftest.socks(me, reported, refused, now),
            PoolEvent::TaskDone { id, done } => {
                if let Some(open) = self.tasks.finish(id, shard) {
                    if let Owner::Secret(shard) = open.owner {
                        self.secret_next.insert(shard, now.after(SECRET_PAUSE));
                    }
                    self.tended(&open, done, now);
                }
            }
            PoolEvent::DialFailed { endpoint, why } => {
                let text = format!("dial of {endpoint} failed: {why}");
                self.warn(Topic::Endpoint(endpoint), text, now);
            }
        }
    }

    fn bar(&mut self, endpoint: std::net::SocketAddr, now: Millis) {
        let mut lists = self.maps.current().values();
        if !lists.any(|list| list.binary_search(&endpoint).is_ok()) {
            return;
        }
        self.count(|me| me.endpoint_quarantine_total += 1);
        if self.quarantine.enter(endpoint, now) {
            let text = format!("{endpoint} is in quarantine");
            self.tell(MeEventKind::Quarantine, text);
        }
    }

    fn map_changed(&mut self, now: Millis) {
        let map = Arc::clone(self.maps.current());
        let in_map = |endpoint: &std::net::SocketAddr| {
            let mut lists = map.values();
            lists.any(|list| list.binary_search(endpoint).is_ok())
        };
        self.quarantine.retain(in_map);
        self.selftest.retain(in_map);
        self.groups_stale = true;
        self.map_changed_at = Some(now);
        let text = format!("map {} with {} DCs", self.maps.epoch(), map.len());
        self.tell(MeEventKind::Map, text);
        if !self.start.is_underway() {
            let settings = Arc::clone(self.settings());
            self.reinit.trigger(Trigger::Map, &settings.reinit, now);
        }
    }

    /// Makes the groups anew if what they are made of changed.
    fn regroup(&mut self, now: Millis) {
        let families = &self.setup.settings.families;
        let in_use = self.families.in_use(families, self.maps.families(), now);
        if !self.groups_stale && in_use == self.in_use {
            return;
        }
        self.groups_stale = false;
        self.in_use = in_use;
        self.families.set_in_use(in_use, now);
        let shards = self.reports.len();
        self.groups.rebuild(self.maps.current(), in_use, shards);
        self.refit(now);
    }

    /// Floors and shares by what is known now.
    fn refit(&mut self, now: Millis) {
        let cores = self.cores_detected();
        let settings = Arc::clone(self.settings());
        self.groups.fit(&settings, cores, &self.reports, now);
    }

    fn is_ready(&self) -> bool {
        let view = View::new(&self.reports);
        let map = self.maps.current();
        let served = |dc: i16| {
            let mapped = map.get(&dc);
            mapped.is_some_and(|list| view.is_served(dc, list))
        };
        !self.groups.rows.is_empty() && self.groups.rows.iter().all(|row| served(row.dc))
    }

    fn step_start(&mut self, now: Millis) {
        let admission = self.settings().admission.clone();
        loop {
            let view = View::new(&self.reports);
            let plan = self.start.round_plan;
            let facts = Facts {
                inputs: self.secret.is_some() && !self.groups.rows.is_empty(),
                served: self.is_ready(),
                over: plan.is_some_and(|plan| view.all(plan, |report| report.fill_done)),
            };
            let Some(step) = self.start.step(facts, &admission, now) else {
                break;
            };
            self.started(step, now);
        }
    }

    fn step_reinit(&mut self, tick: bool, now: Millis) {
        if self.start.is_underway() {
            return;
        }
        let settings = Arc::clone(self.settings());
        self.reinit.tick_timer(&settings.reinit, now);
        let mut tick = tick;
        loop {
            let sight = Sight {
                settings: &settings.reinit,
                groups: &self.groups,
                view: View::new(&self.reports),
                map: self.maps.current(),
                suppressed: self.families.any_suppressed(&settings.families, now),
                backoff_cap: settings.dial.backoff_cap,
                tick: std::mem::take(&mut tick),
            };
            let Some(done) = self.reinit.step(sight, now) else {
                break;
            };
            self.swapped(done);
        }
    }

    fn swapped(&mut self, done: Done) {
        match done {
            Done::Checking => {}
            Done::Reused(number) => {
                self.count(|me| me.hardswap_pending_reuse_total += 1);
                self.tell(MeEventKind::Swap, format!("generation {number} goes on"));
            }
            Done::Began { number, expired } => {
                if expired {
                    self.count(|me| me.hardswap_pending_ttl_expired_total += 1);
                }
                self.tell(MeEventKind::Swap, format!("generation {number} begins"));
            }
            Done::Blocked(reason) => {
                let text = format!("old writers stay: {}", reason.label());
                self.tell(MeEventKind::Swap, text);
            }
            Done::Committed { number, swapped } => {
                if swapped {
                    self.count_pool(|pool| pool.pool_swap_total += 1);
                }
                self.tell(MeEventKind::Swap, format!("generation {number} is active"));
            }
        }
    }

    /// Without hardswap a new secret is brought in writer by writer (15). Returns when one is due.
    fn renew_secrets(&mut self, now: Millis) -> Option<Millis> {
        if self.settings().reinit.hardswap || self.start.is_underway() {
            return None;
        }
        let epoch = self.secrets.epoch();
        let mut next: Option<Millis> = None;
        for shard in 0..self.reports.len() {
            let due = self.secret_next.get(&shard).copied().unwrap_or_default();
            if self.tasks.has(Owner::Secret(shard)) {
                continue;
            }
            let view = View::new(&self.reports);
            let old = view.writers().find(|(at, row)| {
                *at == shard
                    && row.state == WriterState::Active
                    && row.secret_epoch < epoch
                    && !self.tasks.concerns(row.id)
            });
            let Some((_, row)) = old else { continue };
            if due > now {
                next = Some(next.map_or(due, |next| next.min(due)));
                continue;
            }
            let group = self.groups.get(row.dc);
            let mapped = group.is_some_and(|group| group.has(row.dc, &row.endpoint));
            let kind = match group.filter(|_| !mapped) {
                // Its endpoint left the map: the next one of the group takes its place.
                Some(group) => group.endpoints.first().map(|endpoint| TaskKind::Replace {
                    writer: row.id,
                    endpoint: *endpoint,
                    why: Replacing::SecretChange,
                }),
                None => mapped.then_some(TaskKind::Replace {
                    writer: row.id,
                    endpoint: row.endpoint,
                    why: Replacing::SecretChange,
                }),
            };
            let kind = kind.unwrap_or(TaskKind::Drain { writer: row.id });
            self.tasks.add(shard, kind, Owner::Secret(shard), now);
        }
        next
    }

    fn admit(&mut self, now: Millis) {
        let settings = self.settings().admission.clone();
        let (ready, failed) = (self.is_ready(), self.start.failed);
        let Some(before) = self.admission.update(&settings, ready, failed, now) else {
            return;
        };
        let Verdict { route, reason } = self.admission.verdict();
        let open = |route: Route| route != Route::Closed;
        if open(before.route) != open(route) {
            let word = if open(route) { "opens" } else { "closes" };
            self.tell(MeEventKind::Admission, format!("the gate {word}"));
        }
        let direct = |route: Route| route == Route::Direct;
        if direct(before.route) != direct(route) {
            let text = match reason {
                Some(reason) => format!("new sessions go direct: {}", reason.label()),
                None => "new sessions go through middle proxies".to_owned(),
            };
            self.tell(MeEventKind::RouteMode, text);
        }
    }

    fn next_call(&self, sampled: Millis, renewed: Option<Millis>, now: Millis) -> Millis {
        let settings = self.settings();
        let ticks = self.start.ticks(&settings.admission) && !self.groups.rows.is_empty();
        let reinit = self.reinit.deadline(&settings.reinit);
        let poll = now.after(settings.admission.poll.max(Duration::from_millis(1)));
        let due = [
            Some(sampled),
            Some(poll),
            renewed,
            self.maps.deadline(&settings.refresh),
            self.quarantine.deadline(),
            self.families.deadline(now),
            self.tasks.deadline(),
            self.start.deadline(),
            self.health.deadline().filter(|_| ticks),
            Some(reinit).filter(|_| !self.start.is_underway()),
            self.admission.deadline(&settings.admission),
        ];
        let due = due.into_iter().flatten().min().unwrap_or(poll);
        due.max(Millis(now.0 + 1))
    }
}

/// Between two writers of a shard that are renewed for a new secret.
const SECRET_PAUSE: Duration = Duration::from_secs(2);
