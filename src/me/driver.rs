//! The supervisor's thread: brings it what happened, takes its plans to the shards and its events
//! to the log.
//!
//! Decides two things itself. Secret and maps are held back while our public address is being
//! asked for and the interface's cannot be the right one: every dial before would fail without
//! saying why. And a family that has no address MEs could answer to is left out, if another one is
//! better off.
//!
//! Source: middle-proxy.md 9.1 (family use), 12.

use std::{
    future::Future as _,
    net::IpAddr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use admin::Events;
use async_channel::Receiver;
use shards::{
    me::{
        MeEvent, MeEventKind, Millis, Offered, Origin, Report, SkewSource, Stage, StageMove,
        Supervisor,
    },
    proto::middle::secret_file::ProxySecret,
    settings::MeSettings,
};

use super::{Link, Now, nat_thread::Reset};

/// What the other threads say.
#[derive(Debug)]
pub(super) enum Input {
    /// Other keys.
    Settings(Box<MeSettings>),
    /// What a step of the start came to.
    Stage(Stage, StageMove),
    /// A server's clock.
    Skew(SkewSource, u64),
    /// What was read in one cycle.
    Offer(Box<Offer>),
    /// Our addresses.
    Addresses(Addresses),
}

/// What was read in one cycle.
#[derive(Debug, Default)]
pub(super) struct Offer {
    /// The secret.
    pub(super) secret: Option<(ProxySecret, Origin)>,
    /// Maps for IPv4 and IPv6.
    pub(super) maps: [Option<(Offered, Origin)>; 2],
}

/// What is known of our addresses, IPv4 and IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    /// As others see them.
    pub(super) reflected: [Option<IpAddr>; 2],
    /// MEs can answer to the family.
    pub(super) usable: [bool; 2],
    /// Dials need not wait for more.
    pub(super) settled: bool,
}

/// What a driver is made of.
pub(super) struct Parts {
    pub(super) supervisor: Arc<Mutex<Supervisor>>,
    pub(super) settings: MeSettings,
    pub(super) link: Box<dyn Link>,
    pub(super) now: Now,
    pub(super) events: Arc<Events>,
    pub(super) reset_nat: mpsc::Sender<Reset>,
}

/// The thread's state.
pub(super) struct Driver {
    parts: Parts,
    addresses: Addresses,
    /// What waits for our address, and until when at most.
    held: Option<(Vec<Offer>, Millis)>,
    /// When the supervisor wants to be called.
    due: Millis,
}

impl Driver {
    pub(super) fn new(parts: Parts) -> Self {
        let now = (parts.now)();
        Self {
            parts,
            addresses: Addresses::default(),
            held: Some((Vec::new(), now.after(HOLD_MAX))),
            due: now,
        }
    }

    /// Until the shards have ended.
    pub(super) fn run(mut self, reports: &Receiver<Report>, inputs: &Receiver<Input>) {
        self.step();
        loop {
            let now = (self.parts.now)();
            let due = match &self.held {
                Some((_, until)) => self.due.min(*until),
                None => self.due,
            };
            let limit = Duration::from_millis(due.since(now));
            match next(reports, inputs, limit) {
                Heard::Report(report) => self.report(report),
                Heard::Input(input) => self.take(input),
                Heard::Nothing => {}
                Heard::End => return,
            }
            // Whatever else has come meanwhile is part of the same step.
            for _ in 0..BURST_MAX {
                if let Ok(report) = reports.try_recv() {
                    self.report(report);
                } else if let Ok(input) = inputs.try_recv() {
                    self.take(input);
                } else {
                    break;
                }
            }
            self.step();
        }
    }

    fn report(&self, report: Report) {
        let now = (self.parts.now)();
        self.supervisor().report(report, now);
    }

    fn take(&mut self, input: Input) {
        let now = (self.parts.now)();
        match input {
            // Most changes are about users.
            Input::Settings(settings) if *settings == self.parts.settings => {}
            Input::Settings(settings) => {
                self.parts.settings = *settings;
                self.set_settings(now);
            }
            Input::Stage(stage, what) => self.supervisor().startup_stage(stage, what, now),
            Input::Skew(source, secs) => self.supervisor().skew_sample(source, secs, now),
            Input::Offer(offer) => match &mut self.held {
                Some((held, _)) => held.push(*offer),
                None => self.offer(*offer, now),
            },
            Input::Addresses(addresses) => self.set_addresses(addresses, now),
        }
    }

    fn set_addresses(&mut self, addresses: Addresses, now: Millis) {
        let before = std::mem::replace(&mut self.addresses, addresses);
        for (ipv6, (old, new)) in [false, true]
            .into_iter()
            .zip(before.reflected.into_iter().zip(addresses.reflected))
        {
            if old != new {
                self.supervisor().reflected(ipv6, new, now);
            }
        }
        if before.usable != addresses.usable {
            self.set_settings(now);
        }
        if addresses.settled {
            self.release(now);
        }
    }

    fn set_settings(&self, now: Millis) {
        let mut settings = self.parts.settings.clone();
        let families = &mut settings.families;
        // The only family stays, come what may: in a closed network nothing looks public.
        let both = families.ipv4 && families.ipv6;
        if let ([v4, v6], true) = (self.addresses.usable, both)
            && (v4 || v6)
        {
            (families.ipv4, families.ipv6) = (v4, v6);
        }
        self.supervisor().set_settings(Arc::new(settings), now);
    }

    fn release(&mut self, now: Millis) {
        let Some((held, _)) = self.held.take() else {
            return;
        };
        for offer in held {
            self.offer(offer, now);
        }
    }

    fn offer(&self, offer: Offer, now: Millis) {
        let mut supervisor = self.supervisor();
        if let Some((secret, origin)) = offer.secret {
            supervisor.offer_secret(secret, origin, now);
        }
        // The maps of one cycle go together, unless only one of them is the first of its kind.
        let of = |at: usize, wanted: Origin| {
            let map = offer.maps.get(at)?.as_ref();
            map.filter(|(_, origin)| *origin == wanted)
                .map(|(map, _)| map.clone())
        };
        for origin in [Origin::Startup, Origin::Refresh] {
            let (v4, v6) = (of(0, origin), of(1, origin));
            if v4.is_some() || v6.is_some() {
                supervisor.offer_maps(v4, v6, origin, now);
            }
        }
    }

    fn step(&mut self) {
        let now = (self.parts.now)();
        if let Some((held, until)) = &self.held
            && now >= *until
        {
            if !held.is_empty() {
                tracing::warn!("our public address is still unknown: trying without it");
            }
            self.release(now);
        }
        let (due, plan, events, reset) = {
            let mut supervisor = self.supervisor();
            let due = supervisor.advance(now);
            let plan = supervisor.take_plan();
            let reset = supervisor.wants_stun_reset();
            (due, plan, supervisor.take_events(), reset)
        };
        self.due = due;
        if let Some(plan) = plan {
            self.parts.link.post(&plan);
        }
        if reset {
            // Fails when that thread has ended with the shards.
            let _ = self.parts.reset_nat.send(Reset);
        }
        for event in events {
            self.tell(&event);
        }
    }

    fn tell(&self, event: &MeEvent) {
        let text = &event.text;
        match event.kind {
            MeEventKind::Warning | MeEventKind::Outage => tracing::warn!("Middle-End: {text}"),
            MeEventKind::Quarantine => tracing::debug!("Middle-End: {text}"),
            MeEventKind::Admission
            | MeEventKind::RouteMode
            | MeEventKind::Swap
            | MeEventKind::Map
            | MeEventKind::Secret
            | MeEventKind::Family => tracing::info!("Middle-End: {text}"),
        }
        if let Some(label) = event.kind.label() {
            self.parts.events.record(label, text);
        }
    }

    fn supervisor(&self) -> MutexGuard<'_, Supervisor> {
        let supervisor = self.parts.supervisor.lock();
        supervisor.unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a wait came to.
enum Heard {
    Report(Report),
    Input(Input),
    /// The time is up.
    Nothing,
    /// All shards have ended.
    End,
}

/// Waits for either channel; inputs may all be gone, reports may not.
fn next(reports: &Receiver<Report>, inputs: &Receiver<Input>, limit: Duration) -> Heard {
    let deadline = std::time::Instant::now() + limit.min(SLEEP_MAX);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let (mut report, mut input) = (pin!(reports.recv()), pin!(inputs.recv()));
    let mut inputs_gone = false;
    loop {
        match report.as_mut().poll(&mut context) {
            Poll::Ready(Ok(report)) => return Heard::Report(report),
            Poll::Ready(Err(_)) => return Heard::End,
            Poll::Pending => {}
        }
        if !inputs_gone {
            match input.as_mut().poll(&mut context) {
                Poll::Ready(Ok(input)) => return Heard::Input(input),
                Poll::Ready(Err(_)) => inputs_gone = true,
                Poll::Pending => {}
            }
        }
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return Heard::Nothing;
        }
        thread::park_timeout(left);
    }
}

/// Wakes a parked thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A round over all STUN servers takes under half a minute.
const HOLD_MAX: Duration = Duration::from_secs(30);
/// The supervisor's clock and this thread's sleep may differ a little over hours.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// Of what is waiting; the rest is the next step's.
const BURST_MAX: usize = 256;
