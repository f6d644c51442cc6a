//! users, users/{username}, their changes, stats/users/active-ips.
//!
//! What the file says comes from the store, live numbers from the shards; users the running
//! process does not know have none. Source: control-api.md 7.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use serde::Serialize;
use shards::counters::UserCounters;

use super::{ApiState, ReadBody, edge::octets};
use crate::{
    head::Head,
    model::users::{
        CreateUserResponse, DeleteUserResponse, ResetUserQuotaResponse, UserActiveIps, UserInfo,
    },
    plane::{PlaneSnapshot, Running},
    reply::{ApiError, Reply},
    request,
    route::Write,
    store::{Revision, StoreError, StoredUser, UserChanged, UserDefaults},
};

impl ApiState {
    pub(super) fn users(&self) -> Result<Reply, ApiError> {
        let stored = self.store.users()?;
        let live = self.live();
        let mut rows: Vec<_> = stored
            .users
            .into_iter()
            .map(|user| live.info(user, stored.defaults))
            .collect();
        rows.sort_unstable_by(|a, b| a.username.cmp(&b.username));
        Reply::success(200, &rows, &stored.revision)
    }

    pub(super) fn user(&self, username: &str) -> Result<Reply, ApiError> {
        let stored = self.store.users()?;
        let user = stored
            .users
            .into_iter()
            .find(|user| user.username == username);
        let user = user.ok_or(StoreError::UserNotFound)?;
        Reply::success(
            200,
            &self.live().info(user, stored.defaults),
            &stored.revision,
        )
    }

    /// Users with a live address; those the file no longer has are left out.
    pub(super) fn active_ips(&self) -> Result<Reply, ApiError> {
        let stored = self.store.users()?;
        let live = self.live();
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

    pub(super) fn write(
        &self,
        write: Write<'_>,
        head: &Head,
        read_body: &mut ReadBody<'_>,
    ) -> Result<Reply, ApiError> {
        let limit_bytes = self.settings.request_body_limit_bytes;
        let if_match = request::if_match(head.header("if-match"));
        let if_match = if_match.as_deref();
        match write {
            Write::CreateUser => {
                let user = request::create_user(&read_body(limit_bytes)?)?;
                let result = self.store.create(&user, if_match);
                let changed = self.noted(result, CREATE, &user.username)?;
                self.changed_with_secret(changed, 201)
            }
            Write::PatchUser(username) => {
                let patch = request::patch_user(&read_body(limit_bytes)?)?;
                let result = self.store.patch(username, &patch, if_match);
                let changed = self.noted(result, PATCH, username)?;
                let user = self.live().info(changed.user, changed.defaults);
                applied(user.in_runtime, 200, &user, &changed.revision)
            }
            Write::RotateSecret(username) => {
                let secret = request::rotate_secret(&read_body(limit_bytes)?)?;
                let result = self
                    .store
                    .rotate_secret(username, secret.as_ref(), if_match);
                let changed = self.noted(result, ROTATE, username)?;
                self.changed_with_secret(changed, 200)
            }
            Write::DeleteUser(username) => {
                let result = self.store.delete(username, if_match);
                let deleted = self.noted(result, DELETE, username)?;
                let in_runtime = self.live().knows(username);
                let status = if in_runtime { 202 } else { 200 };
                Reply::success(
                    status,
                    &DeleteUserResponse {
                        username,
                        in_runtime,
                    },
                    &deleted.revision,
                )
            }
            Write::ResetQuota(username) => {
                let result = self.store.reset_quota(username, if_match);
                let reset = self.noted(result, RESET, username)?;
                let last_reset_epoch_secs = reset.last_reset_epoch_secs;
                let data = ResetUserQuotaResponse {
                    username,
                    used_bytes: 0,
                    last_reset_epoch_secs,
                };
                Reply::success(200, &data, &reset.revision)
            }
        }
    }

    fn changed_with_secret(&self, changed: UserChanged, done: u16) -> Result<Reply, ApiError> {
        let user = self.live().info(changed.user, changed.defaults);
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

    fn live(&self) -> Live {
        Live::new(self.plane.running(), self.snapshot_or_zero())
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
    fn new(running: Arc<Running>, snapshot: Arc<PlaneSnapshot>) -> Self {
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

    fn addresses(&self, username: &str) -> Addresses {
        let id = self.running.users.id(username);
        let user = id.and_then(|id| self.addresses.get(&id));
        user.cloned().unwrap_or_default()
    }

    fn info(&self, user: StoredUser, defaults: UserDefaults) -> UserInfo {
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
