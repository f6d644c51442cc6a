//! The thread that finds out our public address: asks as `nat.rs` says and tells what came of it.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant},
};

use async_channel::Sender;

use super::{
    driver::{Addresses, Input},
    http::{Download, is_success},
    nat::Nat,
    stun::{self, Asking},
};
use crate::route_out::RouteOut;

/// Failed rounds and live servers are to be forgotten.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reset;

/// The thread's state.
pub(super) struct Asker {
    pub(super) nat: Arc<Mutex<Nat>>,
    pub(super) download: Arc<dyn Download>,
    /// Knows the pinned names.
    pub(super) out: Arc<RouteOut>,
    pub(super) asking: Asking,
    pub(super) local: fn(bool) -> Option<IpAddr>,
    pub(super) tell: Sender<Input>,
    /// The want of an address has been complained of.
    pub(super) complained: bool,
}

impl Asker {
    /// Until nobody listens any more.
    pub(super) fn run(mut self, resets: &mpsc::Receiver<Reset>) {
        let mut told = None;
        loop {
            for ipv6 in [false, true] {
                let local = (self.local)(ipv6);
                self.nat().set_local(ipv6, local);
            }
            if self.nat().is_helpless() {
                self.complain("and nobody is asked: set general.middle_proxy_nat_probe = true");
            }
            // Who need not wait for an answer does not, neither for the other family's.
            for ipv6 in [None, Some(false), Some(true)] {
                if let Some(ipv6) = ipv6
                    && self.nat().is_due(ipv6, Instant::now())
                {
                    self.ask(ipv6);
                }
                if self.tell_changes(&mut told).is_err() {
                    return;
                }
            }
            match resets.recv_timeout(self.pause()) {
                Ok(Reset) => {
                    // Several are as good as one.
                    while resets.try_recv().is_ok() {}
                    self.nat().reset();
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// One round of one family. Nothing is locked meanwhile.
    fn ask(&mut self, ipv6: bool) {
        let (servers, concurrency) = {
            let nat = self.nat();
            (nat.servers(ipv6).to_vec(), nat.sources().concurrency)
        };
        let pinned = |server: &str| self.out.pinned_addr(server);
        let round = stun::round(&servers, ipv6, concurrency, self.asking, pinned);
        let (answers, asked) = (round.answers.len(), servers.len());
        let (before, after) = {
            let mut nat = self.nat();
            let before = nat.reflected(ipv6);
            nat.round_ended(ipv6, round, Instant::now());
            (before, nat.reflected(ipv6))
        };
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        match after {
            Some(ip) if before != after => tracing::info!(
                "Middle-End: our public {family} address is {ip} by {answers} of {asked} STUN \
                 servers"
            ),
            _ if answers == 0 && asked > 0 => {
                tracing::debug!("none of {asked} STUN servers answers for {family}");
            }
            _ => {}
        }
        self.complained &= after.is_none();
        if !ipv6 && self.nat().wants_http() {
            self.ask_web_servers();
        }
    }

    fn ask_web_servers(&mut self) {
        let urls = self.nat().sources().http_urls.clone();
        let mut failures = Vec::new();
        for url in urls {
            match self.address_by(&url) {
                Ok(ip) => {
                    tracing::info!("Middle-End: our public IPv4 address is {ip} by {url}");
                    self.nat().http_said(ip);
                    self.complained = false;
                    return;
                }
                Err(error) => failures.push(format!("{url}: {error}")),
            }
        }
        self.complain(&format!(
            "and nobody says what the public one is ({}): allow STUN",
            failures.join("; ")
        ));
    }

    /// Says once what to do when MEs will not know us.
    fn complain(&mut self, why: &str) {
        let local = (self.local)(false);
        if let Some(local) = local.filter(|_| !self.complained) {
            tracing::warn!(
                "Middle-End: this host's address {local} is private {why}, or set \
                 general.middle_proxy_nat_ip; without it middle proxies refuse us"
            );
        }
        self.complained = true;
    }

    fn address_by(&self, url: &str) -> Result<IpAddr, String> {
        let answer = self.download.get(url, ANSWER_BYTES_MAX)?;
        if !is_success(answer.status) {
            return Err(format!("HTTP status {}", answer.status));
        }
        let text = String::from_utf8(answer.body).map_err(|error| error.to_string())?;
        match text.trim().parse::<IpAddr>() {
            Ok(ip) if ip.is_ipv4() => Ok(ip),
            Ok(_) => Err("answers with an IPv6 address".to_owned()),
            Err(_) => Err("answers with something else than an address".to_owned()),
        }
    }

    fn tell_changes(&self, told: &mut Option<Addresses>) -> Result<(), ()> {
        let addresses = {
            let nat = self.nat();
            Addresses {
                reflected: [false, true].map(|ipv6| nat.reflected(ipv6)),
                usable: [false, true].map(|ipv6| nat.is_usable(ipv6)),
                settled: nat.is_settled(),
            }
        };
        if *told == Some(addresses) {
            return Ok(());
        }
        *told = Some(addresses);
        let sent = self.tell.try_send(Input::Addresses(addresses));
        sent.map_err(drop)
    }

    /// Until somebody is to be asked; not too long, since interfaces come and go.
    fn pause(&self) -> Duration {
        let (nat, now) = (self.nat(), Instant::now());
        let due = [false, true].into_iter();
        let due = due.filter_map(|ipv6| nat.due_at(ipv6, now)).min();
        let left = due.map_or(LOOK_EVERY, |due| due.saturating_duration_since(now));
        left.min(LOOK_EVERY)
    }

    fn nat(&self) -> MutexGuard<'_, Nat> {
        self.nat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An address, blanks and a line end.
const ANSWER_BYTES_MAX: usize = 128;
const LOOK_EVERY: Duration = Duration::from_secs(30);
