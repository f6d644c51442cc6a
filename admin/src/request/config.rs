//! `PatchConfigRequest` with its query, `ReloadRequest`. Source: v1.json; control-api.md 16.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::object;
use crate::{
    reply::ApiError,
    route,
    store::{EDITABLE_SECTIONS, FailurePolicy, ReloadMode, ReloadRequest},
};

/// The sections to change: only editable ones, at least one, each of the right kind.
///
/// # Errors
/// [`ApiError::BadJson`], [`ApiError::AccessNotEditable`], [`ApiError::SectionNotEditable`],
/// [`ApiError::BadField`].
pub(crate) fn config_sections(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let mut given: Map<String, Value> = object(body)?;
    if given.contains_key("access") {
        return Err(ApiError::AccessNotEditable);
    }
    let editable = |name: &String| EDITABLE_SECTIONS.contains(&name.as_str());
    if !given.keys().all(editable) {
        return Err(ApiError::SectionNotEditable);
    }
    given.retain(|_, value| !value.is_null());
    if given.is_empty() {
        return Err(ApiError::BadField("nothing to change"));
    }
    for (name, value) in &given {
        let fits = match name.as_str() {
            "general" | "timeouts" | "censorship" | "dc_overrides" => value.is_object(),
            "upstreams" => value.is_array(),
            _ => true,
        };
        if !fits {
            return Err(ApiError::BadField(
                "upstreams must be an array, other sections objects",
            ));
        }
    }
    Ok(given)
}

/// The reload asked for in the query of a patch; `None` without a query. Unlike elsewhere unknown
/// and repeated parameters are errors.
///
/// # Errors
/// [`ApiError::BadField`].
pub(crate) fn reload_query(target: &str) -> Result<Option<ReloadRequest>, ApiError> {
    let (mut mode, mut timeout, mut policy) = (None, None, None);
    let mut any = false;
    for (name, value) in route::query(target) {
        any = true;
        let slot = match name {
            "reload" => &mut mode,
            "timeout_secs" => &mut timeout,
            "failure_policy" => &mut policy,
            _ => return Err(ApiError::BadField("unknown query parameter")),
        };
        if slot.replace(value).is_some() {
            return Err(ApiError::BadField("repeated query parameter"));
        }
    }
    if !any {
        return Ok(None);
    }
    let mode = mode.ok_or(ApiError::BadField(
        "timeout_secs and failure_policy need reload",
    ))?;
    let timeout = match timeout {
        None => None,
        Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(text.parse().map_err(|_| BAD_TIMEOUT)?)
        }
        Some(_) => return Err(BAD_TIMEOUT),
    };
    checked(Some(mode), timeout, policy).map(Some)
}

/// `ReloadRequest`; no bytes at all are as good as `{}`. Unlike elsewhere unknown members are
/// errors.
///
/// # Errors
/// [`ApiError::BadJson`], [`ApiError::BadField`].
pub(crate) fn reload(body: &[u8]) -> Result<ReloadRequest, ApiError> {
    if body.is_empty() {
        return Ok(ReloadRequest::default());
    }
    let given: ReloadBody = object(body)?;
    checked(
        given.mode.as_deref(),
        given.timeout_secs,
        given.failure_policy.as_deref(),
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReloadBody {
    mode: Option<String>,
    timeout_secs: Option<u64>,
    failure_policy: Option<String>,
}

fn checked(
    mode: Option<&str>,
    timeout_secs: Option<u64>,
    failure_policy: Option<&str>,
) -> Result<ReloadRequest, ApiError> {
    let mode = match (mode.unwrap_or("instant"), timeout_secs) {
        ("instant", None) => ReloadMode::Instant,
        ("instant", Some(_)) => {
            return Err(ApiError::BadField(
                "timeout_secs has no meaning with instant",
            ));
        }
        ("drain", Some(timeout_secs)) if (1..=3_600).contains(&timeout_secs) => {
            ReloadMode::Drain { timeout_secs }
        }
        ("drain", _) => return Err(BAD_TIMEOUT),
        _ => return Err(ApiError::BadField("reload must be instant or drain")),
    };
    let failure_policy = match failure_policy.unwrap_or("keep_new") {
        "keep_new" => FailurePolicy::KeepNew,
        "rollback" => FailurePolicy::Rollback,
        _ => {
            return Err(ApiError::BadField(
                "failure_policy must be keep_new or rollback",
            ));
        }
    };
    Ok(ReloadRequest {
        mode,
        failure_policy,
    })
}

const BAD_TIMEOUT: ApiError = ApiError::BadField("drain needs timeout_secs from 1 to 3600");

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN_9: ReloadRequest = ReloadRequest {
        mode: ReloadMode::Drain { timeout_secs: 9 },
        failure_policy: FailurePolicy::Rollback,
    };

    #[test]
    fn only_editable_sections_of_the_right_kind_pass() {
        let given = config_sections(br#"{"general":{"a":1},"upstreams":[],"show_link":null}"#);
        let names: Vec<_> = given.unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["general", "upstreams"]);
        for (body, error) in [
            ("", ApiError::BadJson),
            ("[]", ApiError::BadJson),
            (r#"{"general":}"#, ApiError::BadJson),
            (r#"{"server":{},"access":{}}"#, ApiError::AccessNotEditable),
            (
                r#"{"general":{},"server":{}}"#,
                ApiError::SectionNotEditable,
            ),
            (r#"{"network":null}"#, ApiError::SectionNotEditable),
        ] {
            assert_eq!(config_sections(body.as_bytes()), Err(error), "{body}");
        }
        for body in [
            "{}",
            r#"{"general":null}"#,
            r#"{"general":5}"#,
            r#"{"timeouts":[]}"#,
            r#"{"upstreams":{}}"#,
        ] {
            let error = config_sections(body.as_bytes()).unwrap_err();
            assert!(matches!(error, ApiError::BadField(_)), "{body}");
        }
    }

    #[test]
    fn queries_are_taken_at_their_word() {
        let path = |query: &str| format!("/v1/config{query}");
        for (query, expected) in [
            ("", None),
            ("?", None),
            ("?reload=instant", Some(ReloadRequest::default())),
            (
                "?failure_policy=rollback&timeout_secs=9&reload=drain",
                Some(DRAIN_9),
            ),
        ] {
            assert_eq!(reload_query(&path(query)), Ok(expected), "{query}");
        }
        for query in [
            "?x=1",
            "?reload",
            "?reload=",
            "?reload=Instant",
            "?reload=instant&reload=instant",
            "?reload=instant&x=1",
            "?reload=instant&timeout_secs=9",
            "?reload=drain",
            "?reload=drain&timeout_secs=",
            "?reload=drain&timeout_secs=+9",
            "?reload=drain&timeout_secs=0",
            "?reload=drain&timeout_secs=3601",
            "?reload=drain&timeout_secs=99999999999999999999",
            "?reload=instant&failure_policy=",
            "?failure_policy=rollback",
        ] {
            let error = reload_query(&path(query)).unwrap_err();
            assert!(matches!(error, ApiError::BadField(_)), "{query}");
        }
    }

    #[test]
    fn reload_bodies_are_strict() {
        let instant = ReloadRequest::default();
        for (body, expected) in [
            ("", instant),
            ("{}", instant),
            (
                r#"{"mode":null,"timeout_secs":null,"failure_policy":null}"#,
                instant,
            ),
            (
                r#"{"mode":"drain","timeout_secs":9,"failure_policy":"rollback"}"#,
                DRAIN_9,
            ),
        ] {
            assert_eq!(reload(body.as_bytes()), Ok(expected), "{body}");
        }
        for body in [
            " ",
            "[]",
            r#"{"x":1}"#,
            r#"{"mode":5}"#,
            r#"{"mode":"later"}"#,
            r#"{"mode":"drain"}"#,
            r#"{"mode":"drain","timeout_secs":0}"#,
            r#"{"mode":"drain","timeout_secs":-1}"#,
            r#"{"timeout_secs":5}"#,
            r#"{"failure_policy":"x"}"#,
        ] {
            assert!(reload(body.as_bytes()).is_err(), "{body}");
        }
    }
}
