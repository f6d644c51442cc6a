//! Method and path to [`Route`]: every route of the contract, and nothing of what it answers.
//!
//! Only the path is looked at, without its query; trailing slashes go, percent-escapes stay as
//! they are. Source: control-api.md 5.
//!
//! ```text
//! GET    /v1/health                      GET  /v1/runtime/gates
//! GET    /v1/health/ready                GET  /v1/runtime/initialization
//! GET    /v1/system/info                 GET  /v1/runtime/me_pool_state    (also me-pool-state)
//! GET    /v1/limits/effective            GET  /v1/runtime/me_quality       (also me-quality)
//! GET    /v1/security/posture            GET  /v1/runtime/upstream_quality (also upstream-quality)
//! GET    /v1/security/whitelist          GET  /v1/runtime/nat_stun         (also nat-stun)
//! GET    /v1/stats/summary               GET  /v1/runtime/me-selftest
//! GET    /v1/stats/zero/all              GET  /v1/runtime/connections/summary
//! GET    /v1/stats/upstreams             GET  /v1/runtime/events/recent
//! GET    /v1/stats/minimal/all           GET  /v1/stats/users, /v1/users
//! GET    /v1/stats/me-writers            GET  /v1/stats/users/active-ips
//! GET    /v1/stats/dcs                   GET  /v1/users/{username}
//! POST   /v1/users                       PATCH, DELETE /v1/users/{username}
//! POST   /v1/users/{username}/rotate-secret, reset-quota, enable, disable
//! GET, PATCH /v1/config                  GET  /v1/stats/users/quota
//! POST   /v1/system/reload               GET  /v1/runtime/tls-fingerprints
//! GET    /v1/system/reload/{id}
//! ```

use crate::reply::ApiError;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// Something to look at.
    Read(Read<'a>),
    /// Something to change.
    Write(Write<'a>),
}

/// Routes that change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read<'a> {
    Health,
    HealthReady,
    SystemInfo,
    Gates,
    Initialization,
    Limits,
    Posture,
    Whitelist,
    Summary,
    ZeroAll,
    Upstreams,
    MinimalAll,
    MeWriters,
    Dcs,
    MePoolState,
    MeQuality,
    UpstreamQuality,
    NatStun,
    MeSelftest,
    ConnectionsSummary,
    EventsRecent,
    TlsFingerprints,
    ActiveIps,
    UserQuotas,
    Users,
    User(&'a str),
    Config,
    ReloadStatus(&'a str),
}

/// Routes that `read_only` refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write<'a> {
    CreateUser,
    PatchUser(&'a str),
    DeleteUser(&'a str),
    RotateSecret(&'a str),
    ResetQuota(&'a str),
    EnableUser(&'a str),
    DisableUser(&'a str),
    PatchConfig,
    Reload,
}

/// Finds the route of a request; `target` may carry a query.
///
/// # Errors
/// [`ApiError::NotFound`], [`ApiError::MethodNotAllowed`], and [`ApiError::BadUsername`] for a
/// malformed name in the path.
pub(crate) fn find<'a>(method: &str, target: &'a str) -> Result<Route<'a>, ApiError> {
    let path = trimmed(target.split_once('?').map_or(target, |(path, _)| path));
    let Some(path) = path.strip_prefix("/v1/") else {
        return Err(ApiError::NotFound);
    };
    if let Some(below) = path.strip_prefix("users/") {
        return find_user(method, below);
    }
    let not_allowed = |allow| Err(ApiError::MethodNotAllowed { allow });
    match (path, method) {
        ("users", "GET") => Ok(Route::Read(Read::Users)),
        ("users", "POST") => Ok(Route::Write(Write::CreateUser)),
        ("users", _) => not_allowed("GET, POST"),
        ("config", "GET") => Ok(Route::Read(Read::Config)),
        ("config", "PATCH") => Ok(Route::Write(Write::PatchConfig)),
        ("config", _) => not_allowed("GET, PATCH"),
        ("system/reload", "POST") => Ok(Route::Write(Write::Reload)),
        ("system/reload", _) => not_allowed("POST"),
        _ => match (find_read(path), method) {
            (None, _) => Err(ApiError::NotFound),
            (Some(read), "GET") => Ok(Route::Read(read)),
            (Some(_), _) => not_allowed("GET"),
        },
    }
}

/// The value of the first query parameter `name`, undecoded.
pub(crate) fn query_value<'a>(target: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = target.split_once('?')?;
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

/// All query parameters, undecoded; one without `=` has an empty value.
pub(crate) fn query(target: &str) -> impl Iterator<Item = (&str, &str)> {
    let (_, query) = target.split_once('?').unwrap_or_default();
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// 1 to 64 of letters, digits, `_`, `.`, `-`. Source: v1.json, `formats.username`.
pub(crate) fn is_username(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn find_read(path: &str) -> Option<Read<'_>> {
    if let Some(id) = path.strip_prefix("system/reload/") {
        return (!id.contains('/')).then_some(Read::ReloadStatus(id));
    }
    Some(match path {
        "health" => Read::Health,
        "health/ready" => Read::HealthReady,
        "system/info" => Read::SystemInfo,
        "runtime/gates" => Read::Gates,
        "runtime/initialization" => Read::Initialization,
        "limits/effective" => Read::Limits,
        "security/posture" => Read::Posture,
        "security/whitelist" => Read::Whitelist,
        "stats/summary" => Read::Summary,
        "stats/zero/all" => Read::ZeroAll,
        "stats/upstreams" => Read::Upstreams,
        "stats/minimal/all" => Read::MinimalAll,
        "stats/me-writers" => Read::MeWriters,
        "stats/dcs" => Read::Dcs,
        "runtime/me_pool_state" | "runtime/me-pool-state" => Read::MePoolState,
        "runtime/me_quality" | "runtime/me-quality" => Read::MeQuality,
        "runtime/upstream_quality" | "runtime/upstream-quality" => Read::UpstreamQuality,
        "runtime/nat_stun" | "runtime/nat-stun" => Read::NatStun,
        "runtime/me-selftest" => Read::MeSelftest,
        "runtime/connections/summary" => Read::ConnectionsSummary,
        "runtime/events/recent" => Read::EventsRecent,
        "runtime/tls-fingerprints" => Read::TlsFingerprints,
        "stats/users/active-ips" => Read::ActiveIps,
        "stats/users/quota" => Read::UserQuotas,
        "stats/users" => Read::Users,
        _ => return None,
    })
}

fn find_user<'a>(method: &str, below: &'a str) -> Result<Route<'a>, ApiError> {
    let (username, action) = match below.split_once('/') {
        Some((username, action)) => (username, Some(action)),
        None => (below, None),
    };
    let write = match (action, method) {
        (None, "GET") => None,
        (None, "PATCH") => Some(Write::PatchUser(username)),
        (None, "DELETE") => Some(Write::DeleteUser(username)),
        // Conflict C4: not a method of this route but no route at all.
        (None, "POST") => return Err(ApiError::NotFound),
        (None, _) => {
            return Err(ApiError::MethodNotAllowed {
                allow: "GET, PATCH, DELETE",
            });
        }
        (Some("rotate-secret"), "POST") => Some(Write::RotateSecret(username)),
        (Some("reset-quota"), "POST") => Some(Write::ResetQuota(username)),
        (Some("enable"), "POST") => Some(Write::EnableUser(username)),
        (Some("disable"), "POST") => Some(Write::DisableUser(username)),
        (Some("rotate-secret" | "reset-quota" | "enable" | "disable"), _) => {
            return Err(ApiError::MethodNotAllowed { allow: "POST" });
        }
        (Some(_), _) => return Err(ApiError::NotFound),
    };
    if !is_username(username) {
        return Err(ApiError::BadUsername);
    }
    Ok(write.map_or(Route::Read(Read::User(username)), Route::Write))
}

/// Without trailing slashes, as long as more than one character is left.
fn trimmed(path: &str) -> &str {
    let short = path.trim_end_matches('/');
    if short.is_empty() {
        path.get(..1).unwrap_or_default()
    } else {
        short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_FOUND: Result<Route<'static>, ApiError> = Err(ApiError::NotFound);

    fn not_allowed(allow: &'static str) -> Result<Route<'static>, ApiError> {
        Err(ApiError::MethodNotAllowed { allow })
    }

    #[test]
    fn user_routes_follow_the_contract() {
        let read = |read| Ok(Route::Read(read));
        let write = |write| Ok(Route::Write(write));
        for (method, target, expected) in [
            ("GET", "/v1/users", read(Read::Users)),
            ("GET", "/v1/users//", read(Read::Users)),
            ("GET", "/v1/stats/users/?a=/b", read(Read::Users)),
            ("POST", "/v1/users/", write(Write::CreateUser)),
            ("DELETE", "/v1/users", not_allowed("GET, POST")),
            ("GET", "/v1/users/a.b-C_9/", read(Read::User("a.b-C_9"))),
            ("PATCH", "/v1/users/a?x=y", write(Write::PatchUser("a"))),
            ("DELETE", "/v1/users/a", write(Write::DeleteUser("a"))),
            ("PUT", "/v1/users/a", not_allowed("GET, PATCH, DELETE")),
            ("POST", "/v1/users/a", NOT_FOUND),
            ("GET", "/v1/users/bad%20name", Err(ApiError::BadUsername)),
            ("DELETE", "/v1/users/b+d", Err(ApiError::BadUsername)),
            (
                "POST",
                "/v1/users/a/rotate-secret/",
                write(Write::RotateSecret("a")),
            ),
            (
                "POST",
                "/v1/users/a/reset-quota",
                write(Write::ResetQuota("a")),
            ),
            (
                "POST",
                "/v1/users/b+d/reset-quota",
                Err(ApiError::BadUsername),
            ),
            ("GET", "/v1/users/a/rotate-secret", not_allowed("POST")),
            ("POST", "/v1/users/a/enable/", write(Write::EnableUser("a"))),
            (
                "POST",
                "/v1/users/a/disable",
                write(Write::DisableUser("a")),
            ),
            ("GET", "/v1/users/a/enable", not_allowed("POST")),
            ("POST", "/v1/users/a/enabled", NOT_FOUND),
            ("POST", "/v1/users/a/rotate-secret/x", NOT_FOUND),
            ("GET", "/v1/users/a/b/c", NOT_FOUND),
            ("GET", "/v1/users//a", NOT_FOUND),
        ] {
            assert_eq!(find(method, target), expected, "{method} {target}");
        }
        assert_eq!(
            find("GET", &format!("/v1/users/{}", "a".repeat(65))),
            Err(ApiError::BadUsername)
        );
    }

    #[test]
    fn config_and_reload_routes_follow_the_contract() {
        let status = |id| Ok(Route::Read(Read::ReloadStatus(id)));
        for (method, target, expected) in [
            ("GET", "/v1/config/", Ok(Route::Read(Read::Config))),
            (
                "PATCH",
                "/v1/config?reload=instant",
                Ok(Route::Write(Write::PatchConfig)),
            ),
            ("DELETE", "/v1/config", not_allowed("GET, PATCH")),
            ("POST", "/v1/system/reload", Ok(Route::Write(Write::Reload))),
            ("GET", "/v1/system/reload", not_allowed("POST")),
            ("GET", "/v1/system/reload/7/", status("7")),
            ("GET", "/v1/system/reload/x", status("x")),
            ("POST", "/v1/system/reload/7", not_allowed("GET")),
            ("GET", "/v1/system/reload/7/8", NOT_FOUND),
        ] {
            assert_eq!(find(method, target), expected, "{method} {target}");
        }
    }

    #[test]
    fn paths_are_matched_exactly() {
        for target in [
            "",
            "/",
            "//",
            "*",
            "/v1",
            "/v1/",
            "//v1/health",
            "/V1/health",
            "/v1/healthx",
            "/v1/stats",
            "v1/health",
        ] {
            assert_eq!(find("GET", target), NOT_FOUND, "{target}");
        }
        assert_eq!(
            find("GET", "/v1/runtime/me-quality///"),
            Ok(Route::Read(Read::MeQuality))
        );
        assert_eq!(find("HEAD", "/v1/health"), not_allowed("GET"));
        assert_eq!(find("get", "/v1/health"), not_allowed("GET"));
    }

    #[test]
    fn query_values_are_found_by_name() {
        for (target, value) in [
            ("/x", None),
            ("/x?limit", None),
            ("/x?limit=", Some("")),
            ("/x?other=1&limit=2&limit=3", Some("2")),
            ("/x?unlimit=1", None),
        ] {
            assert_eq!(query_value(target, "limit"), value, "{target}");
        }
        let all: Vec<_> = query("/x?a=1&&b&c==&a=").collect();
        assert_eq!(all, [("a", "1"), ("b", ""), ("c", "="), ("a", "")]);
        assert_eq!(query("/x").count() + query("/x?").count(), 0);
    }
}
