//! Keys nobody claimed: what they were probably meant to be. Source: config.md 4 and 15.

use super::{
    error::{Finding, Problem},
    keys::full_name,
    read::Reading,
    rows,
    section::{Entry, Section, entries},
};

/// Reports what is left of a section.
pub(crate) fn report(reading: &mut Reading, section: Section) {
    let table = section.name.clone();
    for entry in section.into_rest() {
        let key = full_name(&table, &entry.name);
        let is_table = entry.item.is_table() || entry.item.is_array_of_tables();
        if is_table && moved(&key).is_none() && report_inside(reading, &key, &entry) {
            continue;
        }
        let problem = judge(&table, &entry.name, is_table);
        let header = entry.item.span().filter(|_| is_table);
        push(
            reading,
            key,
            header.map_or(entry.at, |span| span.start),
            problem,
        );
    }
}

/// For a table that is not known: whether keys in it have a note of their own.
fn report_inside(reading: &mut Reading, table: &str, entry: &Entry) -> bool {
    let Ok(inside) = entry.item.clone().into_table() else {
        return false;
    };
    let mut any = false;
    for inner in entries(inside, entry.at) {
        let key = full_name(table, &inner.name);
        if let Some(to) = moved(&key) {
            push(reading, key, inner.at, Problem::Moved { to });
            any = true;
        }
    }
    any
}

fn push(reading: &mut Reading, key: String, at: usize, problem: Problem) {
    let place = reading.place(at);
    reading.unknown.push(Finding {
        place,
        key,
        value: None,
        problem,
    });
}

fn judge(table: &str, name: &str, is_table: bool) -> Problem {
    if let Some(to) = moved(&full_name(table, name)) {
        return Problem::Moved { to };
    }
    Problem::Unknown {
        near: if is_table {
            near_table(table, name)
        } else {
            near_key(table, name)
        },
    }
}

fn moved(key: &str) -> Option<&'static str> {
    MOVED.iter().find(|(old, _)| *old == key).map(|(_, to)| *to)
}

/// The full name of the known key whose own name is closest; a key of the same table wins a tie.
fn near_key(table: &str, name: &str) -> Option<String> {
    rows()
        .map(|row| (strsim::osa_distance(row.key, name), row.table != table, row))
        .filter(|(distance, ..)| close(*distance, name))
        .min_by_key(|(distance, elsewhere, _)| (*distance, *elsewhere))
        .map(|(_, _, row)| row.name())
}

fn near_table(parent: &str, name: &str) -> Option<String> {
    let full = full_name(parent, name);
    TABLES
        .iter()
        .map(|table| {
            let own = table.rsplit('.').next().unwrap_or(table);
            (
                strsim::osa_distance(table, &full).min(strsim::osa_distance(own, name)),
                table,
            )
        })
        .filter(|(distance, _)| close(*distance, name))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, table)| format!("[{table}]"))
}

/// At most 4 edits, and not most of the name: otherwise every short name is close to some key.
fn close(distance: usize, name: &str) -> bool {
    distance <= DISTANCE_MAX && distance * 2 <= name.len()
}

const DISTANCE_MAX: usize = 4;

/// Tables of the file that are not rows themselves.
pub(crate) const TABLES: &[&str] = &[
    "general",
    "general.modes",
    "general.links",
    "general.telemetry",
    "logging",
    "network",
    "server",
    "server.api",
    "server.admin_api",
    "server.listeners",
    "server.conntrack_control",
    "timeouts",
    "censorship",
    "censorship.tls_fetch",
    "access",
    "upstreams",
    "shards",
];

/// Names found in real files, and what to say about them. The value of the first is still used.
const MOVED: &[(&str, &str)] = &[
    ("timeouts.tg_connect", "it moved to general.tg_connect"),
    ("server.log_level", "use general.log_level"),
    ("network.log_level", "use general.log_level"),
    ("logging.level", "use general.log_level"),
    (
        "server.listen",
        "use server.listen_addr_ipv4, or ip in [[server.listeners]]",
    ),
    (
        "server.bind_addr",
        "use server.listen_addr_ipv4, or ip in [[server.listeners]]",
    ),
    (
        "server.host",
        "use server.listen_addr_ipv4, or ip in [[server.listeners]]",
    ),
    ("server.api_port", "use server.api.listen"),
    ("server.api_host", "use server.api.listen"),
    (
        "server.conntrack_control.enabled",
        "use server.conntrack_control.inline_conntrack_control",
    ),
    ("server.handshake_timeout", "use timeouts.client_handshake"),
    (
        "censorship.mask_timing_normalization",
        "use censorship.mask_timing_normalization_enabled",
    ),
    (
        "censorship.mask_timing_floor_ms",
        "use censorship.mask_timing_normalization_floor_ms",
    ),
    ("censorship.fallback_sni", "use censorship.mask_host"),
    ("general.tls.domain", "use censorship.tls_domain"),
    ("access.user_expiration", "use access.user_expirations"),
    ("access.user_quota_bytes", "use access.user_data_quota"),
    ("access.user_data_quota_bytes", "use access.user_data_quota"),
    (
        "users",
        "write users as name = \"secret\" under [access.users]",
    ),
    (
        "limits",
        "use server.max_connections and the access.user_max_* keys",
    ),
];

/// Moves the one key whose old place is still read to its new one.
pub(crate) fn carry(reading: &mut Reading, timeouts: &mut Section, general: &mut Section) {
    if general.has("tg_connect") {
        return;
    }
    if let Some(entry) = timeouts.take("tg_connect") {
        let problem = judge("timeouts", "tg_connect", false);
        push(reading, "timeouts.tg_connect".to_owned(), entry.at, problem);
        general.put("tg_connect", entry);
    }
}
