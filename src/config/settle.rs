//! What follows from other keys once all are read: older names, corrected values, and warnings
//! about settings that do not do what their author expects. Source: config.md 5, 9, 12, 15.

use std::collections::HashSet;

use super::{
    Config,
    censorship::Censorship,
    error::Problem,
    keys::full_name,
    kinds::{Family, Names},
    read::Reading,
    value::Map,
};
use crate::wiring;

/// Fills in and corrects values that depend on others.
pub(crate) fn settle(reading: &Reading, config: &mut Config) {
    legacy_root(reading, config);
    let general = &config.general;
    if matches!(&config.links.show, Names::Some(names) if names.is_empty()) {
        config.links.show = config.root.show_link.clone();
    }
    if general.prefer_ipv6 && config.network.prefer == Family::V4 {
        config.network.prefer = Family::V6;
    }
    let (v4, v6) = (config.network.ipv4, config.network.ipv6.unwrap_or(false));
    match (v4, v6) {
        (true, false) => config.network.prefer = Family::V4,
        (false, true) => config.network.prefer = Family::V6,
        _ => {}
    }
    let source = &mut config.me_source;
    let legacy = [
        (
            "general.proxy_secret_auto_reload_secs",
            source.proxy_secret_auto_reload_secs,
        ),
        (
            "general.proxy_config_auto_reload_secs",
            source.proxy_config_auto_reload_secs,
        ),
    ];
    let legacy = legacy
        .into_iter()
        .filter(|(key, _)| reading.is_set(key))
        .map(|(_, secs)| secs);
    if let Some(secs) = legacy
        .min()
        .filter(|_| !reading.is_set("general.update_every"))
    {
        source.update_every = Some(secs);
    }
    source.me_secret_atomic_snapshot |= general.use_middle_proxy;
    let reinit = &mut config.me_reinit;
    if reinit.me_reinit_drain_timeout_secs != 0 {
        reinit.me_reinit_drain_timeout_secs = reinit
            .me_reinit_drain_timeout_secs
            .max(reinit.me_pool_drain_ttl_secs);
    }
    faketls(&mut config.censorship);
    routes(config);
}

/// Keys that once stood before the first table.
fn legacy_root(reading: &Reading, config: &mut Config) {
    let general = &mut config.general;
    let root = &config.root;
    if !reading.is_set("general.beobachten") {
        general.beobachten = root.beobachten.unwrap_or(general.beobachten);
    }
    if !reading.is_set("general.beobachten_minutes") {
        general.beobachten_minutes = root
            .beobachten_minutes
            .unwrap_or(general.beobachten_minutes);
    }
    if !reading.is_set("general.beobachten_flush_secs") {
        let legacy = root.beobachten_flush_secs;
        general.beobachten_flush_secs = legacy.unwrap_or(general.beobachten_flush_secs);
    }
    if let Some(file) = root.beobachten_file.as_ref()
        && !reading.is_set("general.beobachten_file")
    {
        general.beobachten_file = file.clone();
    }
}

/// One ordered pair, and every domain once.
fn faketls(tls: &mut Censorship) {
    if tls.server_hello_delay_max_ms != 0 {
        tls.server_hello_delay_max_ms = tls
            .server_hello_delay_max_ms
            .max(tls.server_hello_delay_min_ms);
    }
    tls.tls_domains.retain(|domain| *domain != tls.tls_domain);
    let mut seen = HashSet::new();
    tls.tls_domains
        .retain(|domain| seen.insert(domain.0.clone()));
}

/// Older names in listeners and upstreams.
fn routes(config: &mut Config) {
    for listener in &mut config.listeners {
        let own = listener
            .announce
            .take()
            .filter(|host| !host.trim().is_empty());
        let legacy = listener.announce_ip.filter(|ip| !ip.is_unspecified());
        listener.announce = own.or_else(|| legacy.map(|ip| ip.to_string()));
    }
    for upstream in &mut config.upstreams {
        upstream.bindtodevice = upstream
            .bindtodevice
            .take()
            .or_else(|| upstream.force_bind.take());
    }
}

/// Warns about what loads but will surprise.
pub(crate) fn advise(reading: &mut Reading, config: &Config) {
    let general = &config.general;
    let mut advise = |key: &str, text: &str| {
        let finding = reading.about(
            key,
            Problem::Rule {
                text: text.to_owned(),
            },
        );
        reading.warnings.push(finding);
    };
    let tagged = general.ad_tag.is_some() || !config.access.user_ad_tags.0.is_empty();
    if tagged && !general.use_middle_proxy {
        let key = if general.ad_tag.is_some() {
            "general.ad_tag"
        } else {
            "access.user_ad_tags"
        };
        advise(
            key,
            "shows nothing while sessions go direct; it needs general.use_middle_proxy = true",
        );
    }
    let scoped = |text: &str| text.split(',').any(|scope| !scope.trim().is_empty());
    let mut routes = config.upstreams.iter().filter(|route| route.enabled);
    if !config.upstreams.is_empty() && routes.all(|route| scoped(&route.scopes)) {
        let text = "leaves clients no way out: every entry is disabled or has scopes";
        advise("upstreams", text);
    }
    if config.modes.tls && !reading.is_set("censorship.tls_domain") {
        let text = "is not set, so everybody's default is used; name a web site of your choice";
        let finding = reading.about("censorship.tls_domain", Problem::Rule { text: text.into() });
        reading.warnings.push(finding);
    }
    let window = config.access.replay_window_secs;
    if reading.is_set("access.replay_window_secs") && window < REPLAY_WINDOW_SHORT_SECS {
        let text =
            "is short: a recorded handshake works again after it (without the key: 48 hours)";
        let finding = reading.about(
            "access.replay_window_secs",
            Problem::Rule { text: text.into() },
        );
        reading.warnings.push(finding);
    }
    let cert = config.censorship.fake_cert_len;
    if reading.is_set("censorship.fake_cert_len") && !(1024..=10_000).contains(&cert) {
        let text = "is not a plausible size; the nearest of 1024 to 10000 is used";
        let finding = reading.about(
            "censorship.fake_cert_len",
            Problem::Rule { text: text.into() },
        );
        reading.warnings.push(finding);
    }
    super::reach::advise(reading, config);
    let excess = wiring::buffers::excess_of_any_host(config, &|key| reading.is_set(key));
    if let Some(text) = excess {
        let key = "general.direct_relay_buffer_budget_max_bytes";
        let finding = reading.about(key, Problem::Rule { text });
        reading.warnings.push(finding);
    }
    strangers(reading, config);
}

/// Names that no user has.
fn strangers(reading: &mut Reading, config: &Config) {
    fn names<T>(map: &Map<T>) -> Vec<String> {
        map.0.iter().map(|(name, _)| name.clone()).collect()
    }
    let access = &config.access;
    let maps = [
        ("access.user_enabled", names(&access.user_enabled)),
        ("access.user_ad_tags", names(&access.user_ad_tags)),
        (
            "access.user_max_tcp_conns",
            names(&access.user_max_tcp_conns),
        ),
        ("access.user_expirations", names(&access.user_expirations)),
        ("access.user_data_quota", names(&access.user_data_quota)),
        ("access.user_rate_limits", names(&access.user_rate_limits)),
        ("access.user_source_deny", names(&access.user_source_deny)),
        (
            "access.user_max_unique_ips",
            names(&access.user_max_unique_ips),
        ),
    ];
    let shown = match &config.links.show {
        Names::All => Vec::new(),
        Names::Some(names) => names.clone(),
    };
    let users: HashSet<&str> = access
        .users
        .0
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    for (key, names) in maps.into_iter().chain([("general.links.show", shown)]) {
        for name in names.iter().filter(|name| !users.contains(name.as_str())) {
            let text = format!("names \"{name}\", who is not in access.users");
            let mut finding = reading.about(key, Problem::Rule { text });
            finding.value = None;
            if let Some(at) = reading.entry_at(&full_name(key, name)) {
                finding.place = reading.place(at);
            }
            reading.warnings.push(finding);
        }
    }
}

const REPLAY_WINDOW_SHORT_SECS: u64 = 3600;
