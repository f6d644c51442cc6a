//! From a request head to an answer: gates in the contract's order, then the route's handler.
//!
//! Sockets are unknown here; `connection.rs` calls [`Service::answer`]. Source: control-api.md 2.

mod config;
mod edge;
mod fingerprints;
mod health;
mod me;
mod network;
mod security;
mod stats;
mod system;
mod users;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;

use crate::{
    cache::Cache,
    connection::{Answer, ReadBody, Service},
    events::Events,
    gate::{Whitelist, authorized},
    head::Head,
    plane::{ControlPlane, MeView, PlaneSnapshot},
    reply::{ApiError, Reply},
    request,
    route::{self, Read, Route, Write},
    settings::{ApiSettings, RefusedPeer},
    store::UserStore,
};

/// Everything requests share.
pub(crate) struct ApiState {
    settings: ApiSettings,
    whitelist: Whitelist,
    enabled: AtomicBool,
    plane: Arc<dyn ControlPlane>,
    store: Arc<dyn UserStore>,
    events: Arc<Events>,
    connections: Cache<edge::Summary>,
    minimal: Cache<Arc<MeView>>,
    /// Requests that reached the first gate.
    requests: AtomicU64,
    /// Peers turned away by the whitelist.
    refusals: AtomicU64,
}

impl Service for ApiState {
    fn drops_at_once(&self, peer: IpAddr) -> bool {
        let drops = self.enabled.load(Ordering::Relaxed)
            && self.settings.refused == RefusedPeer::Close
            && !self.whitelist.allows(peer);
        if drops {
            self.note_refused(peer);
        }
        drops
    }

    fn answer(&self, peer: IpAddr, head: &Head, read_body: &mut ReadBody<'_>) -> Answer {
        self.gated(peer, |api| {
            let authorization = head.header("authorization");
            if !authorized(&api.settings.auth_header, authorization) {
                return Err(ApiError::Unauthorized);
            }
            match route::find(&head.method, &head.target)? {
                Route::Read(read) => api.read(read, &head.target),
                Route::Write(_) if api.settings.read_only => Err(ApiError::ReadOnly),
                Route::Write(write) => api.write(write, head, read_body),
            }
        })
    }

    /// Behind the gates that need only the peer.
    fn refuse(&self, peer: IpAddr) -> Answer {
        self.gated(peer, |_| Err(ApiError::BadHttp))
    }
}

impl ApiState {
    pub(crate) fn new(
        settings: ApiSettings,
        plane: Arc<dyn ControlPlane>,
        store: Arc<dyn UserStore>,
        events: Arc<Events>,
    ) -> Self {
        Self {
            whitelist: Whitelist::new(&settings.whitelist),
            enabled: AtomicBool::new(true),
            connections: Cache::new(Duration::from_millis(settings.runtime_edge_cache_ttl_ms)),
            minimal: Cache::new(Duration::from_millis(settings.minimal_runtime_cache_ttl_ms)),
            requests: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            settings,
            plane,
            store,
            events,
        }
    }

    /// See `Api::set_enabled`.
    pub(crate) fn set_enabled(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Relaxed);
    }

    /// Says who was turned away and what would let them in: ever more rarely, so that nobody can
    /// fill the log.
    fn note_refused(&self, peer: IpAddr) {
        let count = self
            .refusals
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_add(1);
        if count.is_power_of_two() {
            tracing::warn!(
                %peer,
                count,
                "control API: not in server.api.whitelist; add the address there to let it in"
            );
        }
    }

    fn gated(&self, peer: IpAddr, next: impl FnOnce(&Self) -> Result<Reply, ApiError>) -> Answer {
        let request_id = self
            .requests
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_add(1);
        let result = if !self.enabled.load(Ordering::Relaxed) {
            Err(ApiError::Disabled)
        } else if !self.whitelist.allows(peer) {
            self.note_refused(peer);
            match self.settings.refused {
                RefusedPeer::Forbidden => Err(ApiError::Forbidden),
                RefusedPeer::Empty => return Answer::Reply(Reply::empty()),
                RefusedPeer::Close => return Answer::Close,
            }
        } else {
            next(self)
        };
        Answer::Reply(result.unwrap_or_else(|error| Reply::failure(&error, request_id)))
    }

    fn read(&self, read: Read<'_>, target: &str) -> Result<Reply, ApiError> {
        match read {
            Read::Health => self.ok(&self.health()),
            Read::HealthReady => self.health_ready(),
            Read::SystemInfo => self.system_info(),
            Read::Gates => self.ok(&self.gates()),
            Read::Initialization => self.ok(&self.initialization()),
            Read::Limits => self.ok(&self.plane.running().limits),
            Read::Posture => self.ok(&self.posture()),
            Read::Whitelist => self.ok(&self.whitelist()),
            Read::Summary => self.ok(&self.summary()),
            Read::ZeroAll => self.ok(&self.zero_all()),
            Read::Upstreams => self.ok(&self.upstreams()),
            Read::MinimalAll => self.minimal_all(),
            Read::MeWriters => self.me_writers(),
            Read::Dcs => self.dcs(),
            Read::MePoolState => self.of_pool(|me| &me.pool_state),
            Read::MeQuality => self.of_pool(|me| &me.quality),
            Read::NatStun => self.of_pool(|me| &me.nat_stun),
            Read::MeSelftest => self.of_pool(|me| &me.selftest),
            Read::UpstreamQuality => self.ok(&self.upstream_quality()),
            Read::ConnectionsSummary => self.ok(&self.connections_summary()),
            Read::EventsRecent => self.ok(&self.events_recent(target)),
            Read::TlsFingerprints => self.ok(&self.tls_fingerprints(target)),
            Read::ActiveIps => self.active_ips(),
            Read::UserQuotas => self.ok(&self.user_quotas()),
            Read::Users => self.users(),
            Read::User(username) => self.user(username),
            Read::Config => self.config(),
            Read::ReloadStatus(id) => self.reload_status(id),
        }
    }

    fn write(
        &self,
        write: Write<'_>,
        head: &Head,
        read_body: &mut ReadBody<'_>,
    ) -> Result<Reply, ApiError> {
        let if_match = request::if_match(head.header("if-match"));
        let if_match = if_match.as_deref();
        let mut body = || read_body(self.settings.request_body_limit_bytes);
        match write {
            Write::CreateUser => self.create_user(&body()?, if_match),
            Write::PatchUser(username) => self.patch_user(username, &body()?, if_match),
            Write::RotateSecret(username) => self.rotate_secret(username, &body()?, if_match),
            Write::DeleteUser(username) => self.delete_user(username, if_match),
            Write::ResetQuota(username) => self.reset_quota(username, if_match),
            Write::EnableUser(username) => self.enable_user(username, true, if_match),
            Write::DisableUser(username) => self.enable_user(username, false, if_match),
            Write::PatchConfig => self.patch_config(&body()?, &head.target, if_match),
            Write::Reload => self.reload(&body()?, if_match),
        }
    }

    /// `200` with the revision of the file as it is now.
    fn ok<T: Serialize>(&self, data: &T) -> Result<Reply, ApiError> {
        Reply::success(200, data, &self.store.revision()?)
    }

    /// Counters and rows; zeros and nothing when no shard has answered yet.
    fn snapshot_or_zero(&self) -> Arc<PlaneSnapshot> {
        self.plane.snapshot().unwrap_or_default()
    }
}
