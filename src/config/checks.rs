//! Rules between keys. Source: config.md 5.
//!
//! Not here: what one key may be (its row), corrections that are made silently (`settle.rs`).

use std::{collections::HashMap, path::Path};

use super::{
    Config,
    error::Problem,
    kinds::HostPort,
    logging::LogDestination,
    read::Reading,
    section::Section,
    server::{ConntrackMode, Listener},
    upstreams::{Upstream, UpstreamKind},
};
use crate::{names, wiring};

/// Reports every broken rule.
pub(crate) fn check(reading: &mut Reading, config: &Config) {
    switches(reading, config);
    ordered(reading, config);
    needs(reading, config);
    scaled(reading, config);
    users(reading, config);
    routes(reading, config);
    mask(reading, config);
    unknown_dcs(reading, config);
    if let Some(path) = config
        .general
        .data_path
        .as_ref()
        .filter(|path| !path.is_absolute())
    {
        let text = format!(
            "is relative; expected an absolute path, such as /{}",
            path.display()
        );
        reading.rule("general.data_path", text);
    }
}

fn switches(reading: &mut Reading, config: &Config) {
    let modes = &config.modes;
    if !(modes.classic || modes.secure || modes.tls) {
        let text = "leaves no mode on; set general.modes.classic, .secure or .tls to true";
        reading.rule("general.modes.tls", text);
    }
    if !config.network.ipv4 && !config.network.ipv6.unwrap_or(false) {
        reading.rule(
            "network.ipv4",
            "and network.ipv6 are both off; set one of them to true",
        );
    }
    if config.mask.mask_host.is_some() && config.mask.mask_unix_sock.is_some() {
        let text = "and censorship.mask_host exclude each other; remove one";
        reading.rule("censorship.mask_unix_sock", text);
    }
}

fn ordered(reading: &mut Reading, config: &Config) {
    let (floor, reinit, route) = (&config.me_floor, &config.me_reinit, &config.me_route);
    let (mask, timeouts) = (&config.mask, &config.timeouts);
    let at_most: [(&str, u64, &str, u64); 7] = [
        (
            "general.me_single_endpoint_outage_backoff_min_ms",
            floor.me_single_endpoint_outage_backoff_min_ms,
            "general.me_single_endpoint_outage_backoff_max_ms",
            floor.me_single_endpoint_outage_backoff_max_ms,
        ),
        (
            "general.me_hardswap_warmup_delay_min_ms",
            reinit.me_hardswap_warmup_delay_min_ms,
            "general.me_hardswap_warmup_delay_max_ms",
            reinit.me_hardswap_warmup_delay_max_ms,
        ),
        (
            "general.me_route_backpressure_base_timeout_ms",
            route.me_route_backpressure_base_timeout_ms,
            "general.me_route_backpressure_high_timeout_ms",
            route.me_route_backpressure_high_timeout_ms,
        ),
        (
            "censorship.mask_shape_bucket_floor_bytes",
            mask.mask_shape_bucket_floor_bytes as u64,
            "censorship.mask_shape_bucket_cap_bytes",
            mask.mask_shape_bucket_cap_bytes as u64,
        ),
        (
            "censorship.mask_timing_normalization_floor_ms",
            mask.mask_timing_normalization_floor_ms,
            "censorship.mask_timing_normalization_ceiling_ms",
            mask.mask_timing_normalization_ceiling_ms,
        ),
        (
            "timeouts.relay_client_idle_soft_secs",
            timeouts.relay_client_idle_soft_secs,
            "timeouts.relay_client_idle_hard_secs",
            timeouts.relay_client_idle_hard_secs,
        ),
        (
            "timeouts.relay_idle_grace_after_downstream_activity_secs",
            timeouts.relay_idle_grace_after_downstream_activity_secs,
            "timeouts.relay_client_idle_hard_secs",
            timeouts.relay_client_idle_hard_secs,
        ),
    ];
    for (low_key, low, high_key, high) in at_most {
        if low > high {
            pair(reading, (low_key, low), (high_key, high), "at most");
        }
    }
    let conntrack = &config.conntrack;
    let low = u64::from(conntrack.pressure_low_watermark_pct);
    let high = u64::from(conntrack.pressure_high_watermark_pct);
    if low >= high {
        let low = ("server.conntrack_control.pressure_low_watermark_pct", low);
        let high = ("server.conntrack_control.pressure_high_watermark_pct", high);
        pair(reading, low, high, "less than");
    }
}

/// Reports at whichever of the two the file sets.
fn pair(reading: &mut Reading, low: (&str, u64), high: (&str, u64), relation: &str) {
    if reading.is_set(low.0) {
        let text = format!(
            "is too large; expected {relation} {}, which is {}",
            high.0, high.1
        );
        reading.rule(low.0, text);
    } else {
        let text = format!(
            "is too small; {} must be {relation} it and is {}",
            low.0, low.1
        );
        reading.rule(high.0, text);
    }
}

fn needs(reading: &mut Reading, config: &Config) {
    let mask = &config.mask;
    let hardening = mask.mask_shape_hardening;
    let rules = [
        (
            mask.mask_shape_above_cap_blur && !hardening,
            "censorship.mask_shape_above_cap_blur",
            "needs censorship.mask_shape_hardening = true",
        ),
        (
            mask.mask_shape_hardening_aggressive_mode && !hardening,
            "censorship.mask_shape_hardening_aggressive_mode",
            "needs censorship.mask_shape_hardening = true",
        ),
        (
            mask.mask_shape_above_cap_blur && mask.mask_shape_above_cap_blur_max_bytes == 0,
            "censorship.mask_shape_above_cap_blur",
            "needs censorship.mask_shape_above_cap_blur_max_bytes above 0",
        ),
        (
            mask.mask_timing_normalization_enabled && mask.mask_timing_normalization_floor_ms == 0,
            "censorship.mask_timing_normalization_enabled",
            "needs censorship.mask_timing_normalization_floor_ms above 0",
        ),
        (
            config.conntrack.mode == ConntrackMode::Hybrid
                && config.conntrack.hybrid_listener_ips.is_empty(),
            "server.conntrack_control.mode",
            "needs addresses in server.conntrack_control.hybrid_listener_ips",
        ),
        (
            config.logging.destination == LogDestination::File && config.logging.path.is_none(),
            "logging.destination",
            "needs logging.path",
        ),
    ];
    for (broken, key, text) in rules {
        if broken {
            reading.rule(key, text);
        }
    }
}

fn scaled(reading: &mut Reading, config: &Config) {
    let handshake_ms = config.timeouts.client_handshake.saturating_mul(1000);
    let delay_ms = config.censorship.server_hello_delay_max_ms;
    if delay_ms >= handshake_ms {
        let text = format!(
            "is too long; expected less than timeouts.client_handshake, which is {handshake_ms} ms"
        );
        reading.rule("censorship.server_hello_delay_max_ms", text);
    }
    let route = &config.me_route;
    let least = route.max_client_frame.saturating_mul(2).saturating_add(256);
    let least = least.next_multiple_of(16_384);
    if route.me_writer_byte_budget_bytes < least {
        let text = format!("is too small for general.max_client_frame; expected at least {least}");
        reading.rule("general.me_writer_byte_budget_bytes", text);
    }
}

/// Strangers sent to ourselves would be sent to ourselves. Names are looked at when they are
/// resolved, by the shards.
fn mask(reading: &mut Reading, config: &Config) {
    let own = config.server.listen_unix_sock.as_ref();
    let site = config
        .mask
        .mask_unix_sock
        .as_ref()
        .filter(|_| config.mask.mask);
    if site.is_some() && site == own {
        let text = "is server.listen_unix_sock, which is this proxy itself; name another site";
        reading.rule("censorship.mask_unix_sock", text);
    }
    let Some((key, target, addr)) = wiring::mask::loops(config, &names::own_addresses()) else {
        return;
    };
    let text = format!(
        "sends strangers to {target}, which is this proxy itself (it listens on {addr}); name \
         another port in censorship.mask_port, or another site"
    );
    // An entry of a map is reported at the map.
    let key = match key.strip_prefix("censorship.exclusive_mask.") {
        Some(_) => "censorship.exclusive_mask",
        None => &key,
    };
    reading.rule(key, text);
}

/// Where a relative path leads is known at the start only, and looked at then.
fn unknown_dcs(reading: &mut Reading, config: &Config) {
    let general = &config.general;
    let path = general.unknown_dc_log_path.as_ref();
    let Some(path) = path.filter(|_| general.unknown_dc_file_log_enabled) else {
        return;
    };
    let path = Path::new(&path.0);
    let dir = path.parent().filter(|_| path.is_absolute());
    if dir.is_some_and(|dir| !dir.is_dir()) {
        let text = "is in a directory that does not exist; make it, or name another one";
        reading.rule("general.unknown_dc_log_path", text);
    }
}

fn users(reading: &mut Reading, config: &Config) {
    // A user whose secret is wrong has been reported; the list is not empty then.
    if config.access.users.0.is_empty() && reading.errors.is_empty() {
        let text = "has no entries; expected at least one user, name = \"32 hex digits\"";
        reading.rule("access.users", text);
    }
    let mut owners: HashMap<[u8; 16], &str> = HashMap::new();
    let mut repeats = Vec::new();
    for (name, secret) in config.access.users.0.iter() {
        match owners.get(&secret.0.0) {
            Some(first) => repeats.push((name, (*first).to_owned())),
            None => {
                owners.insert(secret.0.0, name);
            }
        }
    }
    for (name, first) in repeats {
        let text = format!("has the same secret as access.users.{first}; every user needs its own");
        let mut finding = reading.about("access.users", Problem::Rule { text });
        finding.key = format!("access.users.{name}");
        if let Some(at) = reading.entry_at(&finding.key) {
            finding.place = reading.place(at);
        }
        reading.errors.push(finding);
    }
}

/// Rules of one `[[server.listeners]]`.
pub(crate) fn listener(reading: &mut Reading, section: &Section, listener: &Listener) {
    if listener.ip.is_none() && !reading.had_error_in(section) {
        table_rule(reading, section, "has no ip; expected ip = \"address\"");
    }
}

/// Rules of one `[[upstreams]]`.
pub(crate) fn upstream(reading: &mut Reading, section: &Section, upstream: &Upstream) {
    if upstream.ipv4 == Some(false) && upstream.ipv6 == Some(false) {
        table_rule(
            reading,
            section,
            "has ipv4 and ipv6 both off; set one of them to true",
        );
    }
    if upstream.bindtodevice.is_some() && upstream.force_bind.is_some() {
        table_rule(
            reading,
            section,
            "has bindtodevice and its older name force_bind; remove one",
        );
    }
    if reading.had_error_in(section) {
        return;
    }
    let address = upstream.address.as_ref().map(|HostPort(address)| address);
    match upstream.kind {
        None => table_rule(
            reading,
            section,
            "has no type; expected type = \"direct\", \"socks4\", \"socks5\" or \"shadowsocks\"",
        ),
        Some(UpstreamKind::Socks4 | UpstreamKind::Socks5) if address.is_none() => {
            table_rule(
                reading,
                section,
                "has no address; expected address = \"host:port\"",
            );
        }
        Some(UpstreamKind::Shadowsocks) if upstream.url.is_none() => {
            table_rule(reading, section, "has no url; expected url = \"ss://…\"");
        }
        Some(_) => credentials(reading, section, upstream),
    }
}

/// What a SOCKS request can hold, and what only a direct route can do.
fn credentials(reading: &mut Reading, section: &Section, upstream: &Upstream) {
    let blank = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    let fits = |text: &Option<String>| {
        let text = text.as_deref().unwrap_or_default();
        text.len() <= 255 && !text.contains('\0')
    };
    let (user, password) = (&upstream.username, &upstream.password);
    if upstream.kind == Some(UpstreamKind::Socks5) && blank(user) != blank(password) {
        let text = "has one of username and password; SOCKS5 takes both or none";
        table_rule(reading, section, text);
    }
    for (name, text) in [
        ("user_id", &upstream.user_id),
        ("username", user),
        ("password", password),
    ] {
        if !fits(text) {
            let text = format!("has a {name} that is over 255 bytes or holds a zero byte");
            table_rule(reading, section, &text);
        }
    }
    let device = upstream
        .bindtodevice
        .as_ref()
        .or(upstream.force_bind.as_ref());
    if device.is_some_and(|name| name.len() > DEVICE_BYTES_MAX || name.contains(['/', '\0'])) {
        table_rule(
            reading,
            section,
            "has a bindtodevice that names no network device",
        );
    }
    if upstream.bind_addresses.as_ref().is_some_and(Vec::is_empty) {
        let text = "has an empty bind_addresses; list addresses or leave the key out";
        table_rule(reading, section, text);
    }
}

/// Longest name the kernel gives a network device.
const DEVICE_BYTES_MAX: usize = 15;

/// A `shadowsocks` route works in direct mode only.
fn routes(reading: &mut Reading, config: &Config) {
    let shadowsocks =
        |route: &Upstream| route.enabled && route.kind == Some(UpstreamKind::Shadowsocks);
    if config.general.use_middle_proxy && config.upstreams.iter().any(shadowsocks) {
        let text = "cannot be true while an enabled upstream has type \"shadowsocks\"";
        reading.rule("general.use_middle_proxy", text);
    }
}

fn table_rule(reading: &mut Reading, section: &Section, text: &str) {
    let place = reading.place(section.at.unwrap_or(0));
    let problem = Problem::Rule {
        text: text.to_owned(),
    };
    reading.errors.push(super::Finding {
        place,
        key: section.name.clone(),
        value: None,
        problem,
    });
}
