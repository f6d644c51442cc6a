//! From a request about one user to changes of single keys. Source: control-api.md 8 to 10, 16.
//!
//! Not here: making them (`config::edit`), writing (`store.rs`).

use admin::{CreateUser, Expiration, Patch, PatchUser, StoreError};
use toml_edit::{InlineTable, Value};

use super::view::View;
use crate::config::{
    self,
    edit::{self, Edit, Text, path},
};

/// The main file's text with what it says.
pub(super) struct Main<'v> {
    /// What it says.
    pub(super) view: &'v View,
    /// Where it says it.
    pub(super) text: Text<'v>,
}

/// Adds a user; `secret` as it is to be stored.
pub(super) fn create(main: &Main<'_>, user: &CreateUser, secret: &str) -> Vec<Edit> {
    let keep = |value: Option<u64>| value.map_or(Patch::Keep, Patch::Set);
    let patch = PatchUser {
        secret: None,
        user_ad_tag: user.user_ad_tag.clone().map_or(Patch::Keep, Patch::Set),
        max_tcp_conns: keep(user.max_tcp_conns),
        expiration: user.expiration.map_or(Patch::Keep, Patch::Set),
        data_quota_bytes: keep(user.data_quota_bytes),
        max_unique_ips: keep(user.max_unique_ips),
        rate_limit_up_bps: keep(user.rate_limit_up_bps),
        rate_limit_down_bps: keep(user.rate_limit_down_bps),
        enabled: match user.enabled {
            Some(false) => Patch::Set(false),
            _ => Patch::Keep,
        },
    };
    let mut edits = vec![Edit::set(&["access", "users", &user.username], secret)];
    edits.extend(self::patch(main, &user.username, &patch));
    edits
}

/// Changes the named fields of a user.
pub(super) fn patch(main: &Main<'_>, name: &str, patch: &PatchUser) -> Vec<Edit> {
    let mut edits = Vec::new();
    let mut field = |table: &str, patch: Patch<Value>| match patch {
        Patch::Keep => {}
        Patch::Remove => edits.push(Edit::remove(&["access", table, name])),
        Patch::Set(value) => edits.push(Edit::set(&["access", table, name], value)),
    };
    if let Some(secret) = &patch.secret {
        field("users", Patch::Set(secret.as_str().into()));
    }
    field("user_ad_tags", map(&patch.user_ad_tag, |tag| tag.into()));
    field("user_max_tcp_conns", map(&patch.max_tcp_conns, number));
    let expiration = map(&patch.expiration, |moment| written(main, name, *moment));
    field("user_expirations", expiration);
    field("user_data_quota", map(&patch.data_quota_bytes, number));
    field("user_max_unique_ips", map(&patch.max_unique_ips, number));
    let enabled = match patch.enabled {
        // Said already, or nothing said, which is as good.
        Patch::Set(true) if is_enabled(main, name) => Patch::Keep,
        Patch::Set(true) | Patch::Remove => Patch::Remove,
        Patch::Set(false) => Patch::Set(false.into()),
        Patch::Keep => Patch::Keep,
    };
    field("user_enabled", enabled);
    edits.extend(rates(main, name, patch));
    edits
}

/// Lets a user connect, or not.
pub(super) fn set_enabled(main: &Main<'_>, name: &str, enabled: bool) -> Vec<Edit> {
    let change = PatchUser {
        enabled: Patch::Set(enabled),
        ..PatchUser::default()
    };
    patch(main, name, &change)
}

/// Removes a user from every per-user table, those that this version does not know included.
pub(super) fn delete(main: &Main<'_>, name: &str) -> Vec<Edit> {
    let known = config::rows().filter(|row| row.table == "access");
    let mut tables = main.text.names(&["access"]);
    tables.extend(known.map(|row| row.key.to_owned()));
    tables.retain(|table| table == "users" || table.starts_with("user_"));
    let paths = tables.iter().map(|table| ["access", table, name]);
    paths.map(|keys| Edit::remove(&keys)).collect()
}

fn is_enabled(main: &Main<'_>, name: &str) -> bool {
    let enabled = main.view.loaded.config.access.user_enabled.get(name);
    enabled.copied().unwrap_or(true)
}

/// One direction may go while the other stays; an entry without either is none.
fn rates(main: &Main<'_>, name: &str, patch: &PatchUser) -> Vec<Edit> {
    let (up, down) = (&patch.rate_limit_up_bps, &patch.rate_limit_down_bps);
    if (up, down) == (&Patch::Keep, &Patch::Keep) {
        return Vec::new();
    }
    let stored = main.view.loaded.config.access.user_rate_limits.get(name);
    let (old_up, old_down) = stored.map_or((0, 0), |rate| (rate.up_bps, rate.down_bps));
    let after = |patch: &Patch<u64>, old: u64| match patch {
        Patch::Keep => old,
        Patch::Remove => 0,
        Patch::Set(bps) => *bps,
    };
    let rates = [
        ("up_bps", old_up, after(up, old_up)),
        ("down_bps", old_down, after(down, old_down)),
    ];
    let entry = ["access", "user_rate_limits", name];
    if rates.iter().all(|(_, _, bps)| *bps == 0) {
        return vec![Edit::remove(&entry)];
    }
    if stored.is_none() || !main.text.has(&path(&entry)) {
        let table: InlineTable = rates
            .iter()
            .map(|(key, _, bps)| (*key, number(bps)))
            .collect();
        return vec![Edit::set(&entry, table)];
    }
    let changed = rates.iter().filter(|(_, old, new)| old != new);
    changed
        .map(|(key, _, bps)| Edit::set(&["access", "user_rate_limits", name, key], number(bps)))
        .collect()
}

/// In UTC; without quotes where the file has the user's date without.
fn written(main: &Main<'_>, name: &str, moment: Expiration) -> Value {
    let text = moment.stored();
    let before = main.text.raw(&path(&["access", "user_expirations", name]));
    let bare = before.is_some_and(|raw| !raw.starts_with(['"', '\'']));
    let date = if bare {
        text.parse::<Value>().ok()
    } else {
        None
    };
    date.unwrap_or_else(|| text.into())
}

fn map<T>(patch: &Patch<T>, value: impl FnOnce(&T) -> Value) -> Patch<Value> {
    match patch {
        Patch::Keep => Patch::Keep,
        Patch::Remove => Patch::Remove,
        Patch::Set(own) => Patch::Set(value(own)),
    }
}

/// Requests have no integers above those of TOML (conflict C15).
fn number(value: &u64) -> Value {
    i64::try_from(*value).unwrap_or(i64::MAX).into()
}

/// Refuses changes of what stands in an included file: only the main one is edited.
///
/// # Errors
/// [`StoreError::Invalid`].
pub(super) fn in_main_file(main: &Main<'_>, edits: &[Edit]) -> Result<(), StoreError> {
    let loaded = &main.view.loaded;
    if loaded.files.len() < 2 {
        return Ok(());
    }
    let joined = edit::joined(&loaded.path, &loaded.text);
    let Some(joined) = joined.as_deref().and_then(Text::parse) else {
        return Ok(());
    };
    for edit in edits {
        let path = edit.path();
        let table = path.split_last().map_or(path, |(_, table)| table);
        let elsewhere = |path: &[_]| joined.has(path) && !main.text.has(path);
        // A new key of a table that another file has would make a second table of that name.
        let table = edit.is_set() && !table.is_empty() && elsewhere(table);
        if elsewhere(path) || table {
            let text = format!(
                "{} is in an included file, which is not edited here; change it there",
                edit.name()
            );
            return Err(StoreError::Invalid(text.into()));
        }
    }
    Ok(())
}
