//! Endpoints that nobody dials for a while, because a writer there was lost too soon.
//!
//! Source: middle-proxy.md 14.3.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use super::super::{super::Millis, status::QuarantineStatus};

/// Endpoints with the end of their quarantine.
#[derive(Clone, Debug, Default)]
pub(super) struct Quarantine {
    until: BTreeMap<SocketAddr, Millis>,
}

impl Quarantine {
    /// Bars an endpoint, or prolongs it. Returns whether it was free before.
    pub(super) fn enter(&mut self, endpoint: SocketAddr, now: Millis) -> bool {
        let before = self.until.insert(endpoint, now.after(BARRED));
        before.is_none_or(|until| until <= now)
    }

    /// It is barred.
    pub(super) fn holds(&self, endpoint: &SocketAddr, now: Millis) -> bool {
        self.until.get(endpoint).is_some_and(|until| *until > now)
    }

    /// Forgets those whose time is over.
    pub(super) fn expire(&mut self, now: Millis) {
        self.until.retain(|_, until| *until > now);
    }

    /// Forgets those that left the map.
    pub(super) fn retain(&mut self, mut in_map: impl FnMut(&SocketAddr) -> bool) {
        self.until.retain(|endpoint, _| in_map(endpoint));
    }

    /// The next end.
    pub(super) fn deadline(&self) -> Option<Millis> {
        self.until.values().min().copied()
    }

    /// For the plan; `before` is given back when nothing changed.
    pub(super) fn plan(&self, before: &Arc<[(SocketAddr, Millis)]>) -> Arc<[(SocketAddr, Millis)]> {
        let rows = self
            .until
            .iter()
            .map(|(endpoint, until)| (*endpoint, *until));
        if before.iter().copied().eq(rows.clone()) {
            return Arc::clone(before);
        }
        rows.collect()
    }

    /// For the API.
    pub(super) fn status(&self, now: Millis) -> Vec<QuarantineStatus> {
        let live = self.until.iter().filter(|(_, until)| **until > now);
        live.map(|(endpoint, until)| QuarantineStatus {
            endpoint: *endpoint,
            remaining_ms: until.since(now),
        })
        .collect()
    }
}

const BARRED: Duration = Duration::from_secs(25);
