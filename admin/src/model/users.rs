//! `UserInfo`, its links, and the answers to changes of users.

use std::net::IpAddr;

use serde::Serialize;

#[derive(Serialize)]
pub(crate) struct UserInfo {
    pub(crate) username: String,
    pub(crate) enabled: bool,
    pub(crate) in_runtime: bool,
    pub(crate) user_ad_tag: Option<String>,
    pub(crate) max_tcp_conns: Option<u64>,
    pub(crate) expiration_rfc3339: Option<String>,
    pub(crate) data_quota_bytes: Option<u64>,
    pub(crate) rate_limit_up_bps: Option<u64>,
    pub(crate) rate_limit_down_bps: Option<u64>,
    pub(crate) max_unique_ips: Option<u64>,
    pub(crate) current_connections: u64,
    pub(crate) active_unique_ips: usize,
    pub(crate) active_unique_ips_list: Vec<IpAddr>,
    pub(crate) recent_unique_ips: usize,
    pub(crate) recent_unique_ips_list: Vec<IpAddr>,
    pub(crate) total_octets: u64,
    pub(crate) links: UserLinks,
}

/// `tg://proxy` links by mode; a mode switched off has none. Source: control-api.md 13.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UserLinks {
    /// obfuscated2 without padding.
    pub classic: Vec<String>,
    /// obfuscated2 with padding (`dd`).
    pub secure: Vec<String>,
    /// FakeTLS (`ee`): every host and domain, the main domain first.
    pub tls: Vec<String>,
    /// The links of `tls` that name a domain other than the main one.
    pub tls_domains: Vec<TlsDomainLink>,
}

/// A FakeTLS link for a domain other than the main one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsDomainLink {
    /// The domain.
    pub domain: String,
    /// The link; also in `UserLinks::tls`.
    pub link: String,
}

#[derive(Serialize)]
pub(crate) struct UserActiveIps {
    pub(crate) username: String,
    pub(crate) active_ips: Vec<IpAddr>,
}

#[derive(Serialize)]
pub(crate) struct CreateUserResponse<'a> {
    pub(crate) user: UserInfo,
    pub(crate) secret: &'a str,
}

#[derive(Serialize)]
pub(crate) struct DeleteUserResponse<'a> {
    pub(crate) username: &'a str,
    pub(crate) in_runtime: bool,
}

#[derive(Serialize)]
pub(crate) struct ResetUserQuotaResponse<'a> {
    pub(crate) username: &'a str,
    pub(crate) used_bytes: u64,
    pub(crate) last_reset_epoch_secs: u64,
}

/// `UserQuotaListData`.
#[derive(Serialize)]
pub(crate) struct UserQuotaListData {
    pub(crate) users: Vec<UserQuotaEntry>,
}

#[derive(Serialize)]
pub(crate) struct UserQuotaEntry {
    pub(crate) username: String,
    pub(crate) data_quota_bytes: u64,
    pub(crate) used_bytes: u64,
    pub(crate) last_reset_epoch_secs: u64,
}
