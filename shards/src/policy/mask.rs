//! What becomes of a stranger: which site they see, when a splice is over, who waits for a place.
//!
//! Sockets and bytes are `net/mask`'s. Source: protocol.md 7.

use std::{collections::VecDeque, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use super::Millis;
use crate::{
    proto::faketls::client_hello::parse_fields,
    settings::{MaskSettings, MaskTarget, NameTable, OwnAddresses},
};

/// Where a stranger goes who has sent `seen` so far. Nobody goes to a host merely because they
/// named it.
///
/// Source: protocol.md 7.3.
pub(crate) fn choose<'a>(settings: &'a MaskSettings, seen: &[u8]) -> &'a Arc<MaskTarget> {
    if settings.by_sni.is_empty() || seen.first() != Some(&TLS_HANDSHAKE) {
        return &settings.target;
    }
    let fields = parse_fields(seen);
    let named = fields.sni.and_then(|sni| {
        let sni = sni.strip_suffix('.').unwrap_or(sni);
        settings.by_sni.get(&sni.to_ascii_lowercase())
    });
    named.unwrap_or(&settings.target)
}

/// The ways to one target, tried one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempts {
    next: usize,
    /// When nothing is tried any more.
    pub(crate) until: Millis,
}

/// What to try next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt<'a> {
    /// Connect, and give up at this moment.
    Tcp(SocketAddr, Millis),
    /// Connect to a Unix socket, and give up at this moment.
    Unix(&'a Path, Millis),
    /// The target is ourselves.
    Own(SocketAddr),
    /// Its name has not been resolved yet, as in the first moments of a process.
    Unknown,
    /// There is nothing left to try.
    Fail,
}

impl Attempts {
    /// From `now` on, for as long as a connect may take.
    pub(crate) fn begin(now: Millis) -> Self {
        Self {
            next: 0,
            until: now.after(CONNECT_MAX),
        }
    }

    /// The next way to a target. The last one has all the time that is left. Whether an address
    /// is ours is asked each time: names and interfaces change.
    pub(crate) fn next<'a>(
        &mut self,
        target: &'a MaskTarget,
        own: &OwnAddresses,
        names: &NameTable,
        now: Millis,
    ) -> Attempt<'a> {
        let left = self.until.since(now);
        if left == 0 {
            return Attempt::Fail;
        }
        let index = self.next;
        if let MaskTarget::Tcp(at) = target
            && names.addresses(at).is_empty()
        {
            return Attempt::Unknown;
        }
        self.next += 1;
        let at = match target {
            MaskTarget::Unix(path) if index == 0 => return Attempt::Unix(path, self.until),
            MaskTarget::Unix(_) => return Attempt::Fail,
            MaskTarget::Tcp(at) => at,
        };
        let addresses = names.addresses(at);
        let addresses = addresses.get(..ADDRESSES_MAX).unwrap_or(addresses);
        let Some(ip) = addresses.get(index) else {
            return Attempt::Fail;
        };
        let addr = SocketAddr::new(*ip, at.port);
        if own.has(addr, |ip| names.is_own(ip)) {
            return Attempt::Own(addr);
        }
        let is_last = self.next >= addresses.len();
        let share = if is_last { left } else { left / 2 };
        Attempt::Tcp(addr, Millis(now.0 + share))
    }
}

/// Limits of one splice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes left of each direction: to the mask host, to the stranger.
    left: [u64; 2],
    last_active: Millis,
    /// When it ends in any case.
    until: Millis,
}

impl Limits {
    /// For a splice that begins now.
    pub(crate) fn new(settings: &MaskSettings, now: Millis) -> Self {
        Self {
            left: [settings.bytes_max.unwrap_or(u64::MAX); 2],
            last_active: now,
            until: now.after(settings.lifetime),
        }
    }

    /// How many of `bytes` may go on, towards the mask host (`up`) or the stranger.
    pub(crate) fn take(&mut self, up: bool, bytes: usize, now: Millis) -> usize {
        self.last_active = now;
        let left = &mut self.left[usize::from(!up)];
        let taken = u64::try_from(bytes).unwrap_or(u64::MAX).min(*left);
        *left -= taken;
        usize::try_from(taken).unwrap_or(bytes)
    }

    /// Something moved that is no byte.
    pub(crate) fn moved(&mut self, now: Millis) {
        self.last_active = now;
    }

    /// When it is over if nothing moves.
    pub(crate) fn deadline(&self, idle: Duration) -> Millis {
        self.last_active.after(idle).min(self.until)
    }
}

/// Places of one shard for splices, and who waits for one.
#[derive(Debug, Default)]
pub(crate) struct Places {
    taken: usize,
    waiting: VecDeque<u32>,
}

impl Places {
    /// Takes a place; false when there is none.
    #[must_use]
    pub(crate) fn take(&mut self, max: usize) -> bool {
        let free = self.taken < max;
        self.taken += usize::from(free);
        free
    }

    /// Gives a place back.
    pub(crate) fn give_back(&mut self) {
        debug_assert!(self.taken > 0);
        self.taken = self.taken.saturating_sub(1);
    }

    /// Lets a session wait. Whoever left meanwhile is still listed: see [`Self::tidy`].
    pub(crate) fn wait(&mut self, key: u32) {
        self.waiting.push_back(key);
    }

    /// Who has waited longest, when a place is free.
    pub(crate) fn next(&mut self, max: usize) -> Option<u32> {
        if self.taken >= max {
            return None;
        }
        self.waiting.pop_front()
    }

    /// Entries, of those who left among them.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Forgets whoever does not wait any more.
    pub(crate) fn tidy(&mut self, waits: impl Fn(u32) -> bool) {
        self.waiting.retain(|key| waits(*key));
    }
}

/// First byte of a TLS record with a handshake message.
const TLS_HANDSHAKE: u8 = 0x16;
/// All connects to a mask host together (protocol.md 7.3, 7.5).
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Addresses of one host that are tried.
const ADDRESSES_MAX: usize = 4;
/// A stranger who stands still with an unfinished beginning is sent on (protocol.md 7.2).
pub(crate) const STALL_MAX: Duration = Duration::from_secs(5);
/// What a stranger may send while nobody listens, if the target is ourselves (protocol.md 7.3).
pub(crate) const DISCARD_MAX: usize = 8 * 1024;

#[cfg(test)]
mod tests;
