//! users, users/{username}, their changes, stats/users/active-ips.
//!
//! What the file says comes from the store, live numbers from the shards; users the running
//! process does not know have none. Source: control-api.md 7.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use serde::Serialize;
use shards::counters::UserCounters;

use super::{ApiState, edge::octets};
use crate::{
    model::users::{
        CreateUserResponse, DeleteUserResponse, ResetUserQuotaResponse, UserActiveIps, UserInfo,
        UserQuotaEntry, UserQuotaListData,
    },
    plane::{PlaneSnapshot, Running},
    reply::{ApiError, Reply},
    request,
    store::{Patch, Revision, StoreError, StoredUser, UserChanged, UserDefaults},
};

impl ApiState {
    pub(super) fn users(&self) -> Result<Reply, ApiError> {
        let stored = self.store.users()?;
        let mut live = self.live();
        let mut rows: Vec<_> = stored
            .users
            .into_iter()
            .map(|user| live.info(user, stored.defaults))
            .collect();
        rows.sort_unstable_by(|a, b| a.username.cmp(&b.username));
        Reply::success(200, &rows, &stored.revision)
    }

    pub(super) fn user(&self, username: &str) -> Result<Reply, ApiError> {
        let stored = self.store.user(username)?;
        let user = stored.users.into_iter().next();
        let user = user.ok_or(StoreError::UserNotFound)?;
        Reply::success(
            200,
            &self.live_of(username).info(user, stored.defaults),
            &stored.revision,
        )
    }

    /// Users with a live address; those the file no longer has are left out.
    pub(super) fn active_ips(&self) -> Result<Reply, ApiError> {
        let stored = self.store.users()?;
        let mut live = self.live();
        let mut rows: Vec<_> = stored
            .users
            .into_iter()
            .map(|user| {
                let active_ips = live.addresses(&user.username).active;
                UserActiveIps {
                    username: user.username,
                    active_ips,
                }
            })
            .filter(|row| !row.active_ips.is_empty())
            .collect();
        rows.sort_unstable_by(|a, b| a.username.cmp(&b.username));
        Reply::success(200, &rows, &stored.revision)
    }

    /// Users with a quota above 0, by name.
    pub(super) fn user_quotas(&self) -> UserQuotaListData {
        let mut rows = self.store.quotas();
        rows.retain(|row| row.data_quota_bytes > 0);
        rows.sort_unstable_by(|a, b| a.username.cmp(&b.username));
        let users = rows.into_iter().map(|row| UserQuotaEntry {
            username: row.username,
            data_quota_bytes: row.data_quota_bytes,
            used_bytes: row.used_bytes,
            last_reset_epoch_secs: row.last_reset_epoch_secs,
        });
        UserQuotaListData {
            users: users.collect(),
        }
    }

    pub(super) fn create_user(
        &self,
        body: &[u8],
        if_match: Option<&str>,
    ) -> Result<Reply, ApiError> {
        let user = request::create_user(body)?;
        let result = self.store.create(&user, if_match);
        let changed = self.noted(result, CREATE, &user.username)?;
        self.changed_with_secret(changed, 201)
    }

    pub(super) fn patch_user(
        &self,
        username: &str,
        body: &[u8],
        if_match: Option<&str>,
    ) -> Result<Reply, ApiError> {
        let patch = request::patch_user(body)?;
        let sessions = (patch.enabled == Patch::Set(false)).then(|| self.sessions(username));
        let result = self.store.patch(username, &patch, if_match);
        if result.is_ok() {
            self.note_disabled(username, sessions);
        }
        let changed = self.noted(result, PATCH, username)?;
        self.changed(changed)
    }

    /// `enable` and `disable`; neither has a body.
    pub(super) fn enable_user(
        &self,
        username: &str,
        enabled: bool,
        if_match: Option<&str>,
    ) -> Result<Reply, ApiError> {
        let sessions = (!enabled).then(|| self.sessions(username));
        let result = self.store.set_enabled(username, enabled, if_match);
        if result.is_ok() {
            self.note_disabled(username, sessions);
        }
        let events = if enabled { ENABLE } else { DISABLE };
        let changed = self.noted(result, events, username)?;
        self.changed(changed)
    }

    pub(super) fn rotate_secret(
        &self,
        username: &str,
        body: &[u8],
        if_match: Option<&str>,
    ) -> Result<Reply, ApiError> {
        let secret = request::rotate_secret(body)?;
        let result = self
            .store
            .rotate_secret(username, secret.as_ref(), if_match);
        let changed = self.noted(result, ROTATE, username)?;
        self.changed_with_secret(changed, 200)
    }

    pub(super) fn delete_user(
        &self,
        username: &str,
        if_match: Option<&str>,
    ) -> Result<Reply, ApiError> {
        let result = self.store.delete(username, if_match);
        let deleted = self.noted(result, DELETE, username)?;
        let in_runtime = self.plane.running().users.id(username).is_some();
        let status = if in_runtime { 202 } else { 200 };
        let data = DeleteUserResponse {
            username,
            in_runtime,
        };
        Reply::success(status, &data, &deleted.revision)
    }

    /// Its body, if any, is never looked at.
    pub(super) fn reset_quota(
        &self,
        username: &str,
        if_match: Option<&str>,
    ) -> Result<Reply, ApiError> {
        let result = self.store.reset_quota(username, if_match);
        let reset = self.noted(result, RESET, username)?;
        let data = ResetUserQuotaResponse {
            username,
            used_bytes: 0,
            last_reset_epoch_secs: reset.last_reset_epoch_secs,
        };
        Reply::success(200, &data, &reset.revision)
    }

    fn changed(&self, changed: UserChanged) -> Result<Reply, ApiError> {
        let mut live = self.live_of(&changed.user.username);
        let user = live.info(changed.user, changed.defaults);
        applied(user.in_runtime, 200, &user, &changed.revision)
    }

    fn changed_with_secret(&self, changed: UserChanged, done: u16) -> Result<Reply, ApiError> {
        let mut live = self.live_of(&changed.user.username);
        let user = live.info(changed.user, changed.defaults);
        let in_runtime = user.in_runtime;
        let data = CreateUserResponse {
            user,
            secret: changed.secret.as_str(),
        };
        applied(in_runtime, done, &data, &changed.revision)
    }

    /// Records how a change of a user ended.
    fn noted<T>(
        &self,
        result: Result<T, StoreError>,
        (ok, failed): (&'static str, &'static str),
        username: &str,
    ) -> Result<T, ApiError> {
        match &result {
            Ok(_) => self.events.record(ok, &format!("username={username}")),
            Err(error) => self
                .events
                .record(failed, &format!("username={username} error={error}")),
        }
        Ok(result?)
    }

    /// Sessions that a user has now.
    fn sessions(&self, username: &str) -> u64 {
        let id = self.plane.running().users.id(username);
        let snapshot = self.snapshot_or_zero();
        let row = id.and_then(|id| snapshot.total.users.get(id));
        row.map_or(0, |row| row.current_connections)
    }

    /// Records how many sessions were there to end when a user was disabled.
    fn note_disabled(&self, username: &str, sessions: Option<u64>) {
        if let Some(sessions) = sessions {
            let context = format!("username={username} cancelled_sessions={sessions}");
            self.events.record("api.user.disable.runtime", &context);
        }
    }

    fn live(&self) -> Live {
        Live::new(self.plane.running(), self.snapshot_or_zero(), None)
    }

    /// Knows the numbers of one user alone.
    fn live_of(&self, username: &str) -> Live {
        let only = Some(username);
        Live::new(self.plane.running(), self.snapshot_or_zero(), only)
    }
}

/// `done` when the running process knows the user already, else `202`.
fn applied<T: Serialize>(
    in_runtime: bool,
    done: u16,
    data: &T,
    revision: &Revision,
) -> Result<Reply, ApiError> {
    Reply::success(if in_runtime { done } else { 202 }, data, revision)
}

/// Live numbers by user name.
struct Live {
    running: Arc<Running>,
    snapshot: Arc<PlaneSnapshot>,
    addresses: HashMap<usize, Addresses>,
}

/// Addresses of one user, ascending.
#[derive(Clone, Debug, Default)]
struct Addresses {
    active: Vec<IpAddr>,
    recent: Vec<IpAddr>,
}

impl Live {
    /// Of all users, or of `only` this one: others' addresses are not sorted for nothing.
    fn new(running: Arc<Running>, snapshot: Arc<PlaneSnapshot>, only: Option<&str>) -> Self {
        let only = only.map(|name| running.users.id(name));
        let window_ms = running
            .limits
            .user_ip_policy
            .window_secs
            .saturating_mul(1_000);
        let mut addresses: HashMap<usize, Addresses> = HashMap::new();
        for row in &snapshot.total.user_ips {
            let Ok(id) = usize::try_from(row.user) else {
                continue;
            };
            if only.is_some_and(|only| only != Some(id)) {
                continue;
            }
            let user = addresses.entry(id).or_default();
            if row.active > 0 {
                user.active.push(row.ip);
            }
            if row.active > 0 || row.idle_ms <= window_ms {
                user.recent.push(row.ip);
            }
        }
        for user in addresses.values_mut() {
            user.active.sort_unstable();
            user.recent.sort_unstable();
        }
        Self {
            running,
            snapshot,
            addresses,
        }
    }

    fn knows(&self, username: &str) -> bool {
        self.running.users.id(username).is_some()
    }

    fn counters(&self, username: &str) -> UserCounters {
        let id = self.running.users.id(username);
        let row = id.and_then(|id| self.snapshot.total.users.get(id));
        row.copied().unwrap_or_default()
    }

    fn addresses(&mut self, username: &str) -> Addresses {
        let id = self.running.users.id(username);
        let user = id.and_then(|id| self.addresses.remove(&id));
        user.unwrap_or_default()
    }

    /// Takes the user's addresses out: once for each user.
    fn info(&mut self, user: StoredUser, defaults: UserDefaults) -> UserInfo {
        let counters = self.counters(&user.username);
        let Addresses { active, recent } = self.addresses(&user.username);
        UserInfo {
            enabled: user.enabled,
            in_runtime: self.knows(&user.username),
            user_ad_tag: user.user_ad_tag,
            max_tcp_conns: effective(user.max_tcp_conns, defaults.max_tcp_conns),
            expiration_rfc3339: user.expiration.map(crate::Expiration::shown),
            data_quota_bytes: user.data_quota_bytes,
            rate_limit_up_bps: user.rate_limit_up_bps.filter(|&bps| bps > 0),
            rate_limit_down_bps: user.rate_limit_down_bps.filter(|&bps| bps > 0),
            max_unique_ips: effective(user.max_unique_ips, defaults.max_unique_ips),
            current_connections: counters.current_connections,
            active_unique_ips: active.len(),
            active_unique_ips_list: active,
            recent_unique_ips: recent.len(),
            recent_unique_ips_list: recent,
            total_octets: octets(&counters),
            links: user.links,
            username: user.username,
        }
    }
}

/// Own value above 0, else the default above 0, else nothing (conflict C25).
fn effective(own: Option<u64>, default: u64) -> Option<u64> {
    own.filter(|&own| own > 0)
        .or(Some(default).filter(|&default| default > 0))
}

const CREATE: (&str, &str) = ("api.user.create.ok", "api.user.create.failed");
const PATCH: (&str, &str) = ("api.user.patch.ok", "api.user.patch.failed");
const ROTATE: (&str, &str) = ("api.user.rotate_secret.ok", "api.user.rotate_secret.failed");
const DELETE: (&str, &str) = ("api.user.delete.ok", "api.user.delete.failed");
const ENABLE: (&str, &str) = ("api.user.enable.ok", "api.user.enable.failed");
const DISABLE: (&str, &str) = ("api.user.disable.ok", "api.user.disable.failed");
const RESET: (&str, &str) = ("api.user.reset_quota.ok", "api.user.reset_quota.failed");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_limit_above_zero_goes_before_the_default() {
        for (own, default, expected) in [
            (None, 0, None),
            (Some(0), 0, None),
            (Some(0), 5, Some(5)),
            (None, 5, Some(5)),
            (Some(7), 5, Some(7)),
        ] {
            assert_eq!(effective(own, default), expected);
        }
    }
}
