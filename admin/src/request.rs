//! Request bodies: JSON to the store's requests, with every check that needs no file.
//!
//! Source: v1.json, `requests`; control-api.md 6 and 8.

mod config;

use serde::{Deserialize, Deserializer, de::DeserializeOwned};

pub(crate) use self::config::{config_sections, reload, reload_query};

use crate::{
    Expiration,
    reply::ApiError,
    route::is_username,
    store::{CreateUser, Patch, PatchUser, SecretText},
};

/// `CreateUserRequest`.
///
/// # Errors
/// [`ApiError::BadJson`], [`ApiError::BadField`].
pub(crate) fn create_user(body: &[u8]) -> Result<CreateUser, ApiError> {
    let given: CreateBody = object(body)?;
    if !is_username(&given.username) {
        return Err(ApiError::BadField(
            "username must be 1 to 64 of A-Z a-z 0-9 _ . -",
        ));
    }
    Ok(CreateUser {
        username: given.username,
        secret: given.secret.map(secret).transpose()?,
        user_ad_tag: given.user_ad_tag.map(ad_tag).transpose()?,
        max_tcp_conns: given.max_tcp_conns.map(storable).transpose()?,
        expiration: given.expiration_rfc3339.map(expiration).transpose()?,
        data_quota_bytes: given.data_quota_bytes.map(storable).transpose()?,
        max_unique_ips: given.max_unique_ips.map(storable).transpose()?,
        rate_limit_up_bps: given.rate_limit_up_bps.map(storable).transpose()?,
        rate_limit_down_bps: given.rate_limit_down_bps.map(storable).transpose()?,
        enabled: given.enabled,
    })
}

/// `PatchUserRequest`.
///
/// # Errors
/// [`ApiError::BadJson`], [`ApiError::BadField`].
pub(crate) fn patch_user(body: &[u8]) -> Result<PatchUser, ApiError> {
    let given: PatchBody = object(body)?;
    Ok(PatchUser {
        // Conflict C23: `null` keeps the secret.
        secret: given.secret.map(secret).transpose()?,
        user_ad_tag: merge(given.user_ad_tag, ad_tag)?,
        max_tcp_conns: merge(given.max_tcp_conns, storable)?,
        expiration: merge(given.expiration_rfc3339, expiration)?,
        data_quota_bytes: merge(given.data_quota_bytes, storable)?,
        max_unique_ips: merge(given.max_unique_ips, storable)?,
        rate_limit_up_bps: merge(given.rate_limit_up_bps, storable)?,
        rate_limit_down_bps: merge(given.rate_limit_down_bps, storable)?,
        enabled: merge(given.enabled, Ok)?,
    })
}

/// `RotateSecretRequest`; no bytes at all are as good as `{}`.
///
/// # Errors
/// [`ApiError::BadJson`], [`ApiError::BadField`].
pub(crate) fn rotate_secret(body: &[u8]) -> Result<Option<SecretText>, ApiError> {
    if body.is_empty() {
        return Ok(None);
    }
    let given: RotateBody = object(body)?;
    given.secret.map(secret).transpose()
}

/// The value of `If-Match` to compare with: trimmed, without double quotes. An empty header is as
/// good as none; two quotes are not. Source: control-api.md 4.
pub(crate) fn if_match(header: Option<&[u8]>) -> Option<String> {
    let text = String::from_utf8_lossy(header?);
    let text = text.trim();
    (!text.is_empty()).then(|| text.trim_matches('"').to_owned())
}

#[derive(Deserialize)]
struct CreateBody {
    username: String,
    secret: Option<String>,
    user_ad_tag: Option<String>,
    max_tcp_conns: Option<u64>,
    expiration_rfc3339: Option<String>,
    data_quota_bytes: Option<u64>,
    max_unique_ips: Option<u64>,
    rate_limit_up_bps: Option<u64>,
    rate_limit_down_bps: Option<u64>,
    enabled: Option<bool>,
}

/// Outer `None`: left out. Inner `None`: `null`.
#[derive(Deserialize)]
struct PatchBody {
    secret: Option<String>,
    #[serde(default, deserialize_with = "present")]
    user_ad_tag: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    max_tcp_conns: Option<Option<u64>>,
    #[serde(default, deserialize_with = "present")]
    expiration_rfc3339: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    data_quota_bytes: Option<Option<u64>>,
    #[serde(default, deserialize_with = "present")]
    max_unique_ips: Option<Option<u64>>,
    #[serde(default, deserialize_with = "present")]
    rate_limit_up_bps: Option<Option<u64>>,
    #[serde(default, deserialize_with = "present")]
    rate_limit_down_bps: Option<Option<u64>>,
    #[serde(default, deserialize_with = "present")]
    enabled: Option<Option<bool>>,
}

#[derive(Deserialize)]
struct RotateBody {
    secret: Option<String>,
}

fn present<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// A JSON object; serde alone would read a struct from an array too.
fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::BadJson);
    }
    serde_json::from_slice(body).map_err(|_| ApiError::BadJson)
}

fn merge<A, B>(
    given: Option<Option<A>>,
    check: impl FnOnce(A) -> Result<B, ApiError>,
) -> Result<Patch<B>, ApiError> {
    match given {
        None => Ok(Patch::Keep),
        Some(None) => Ok(Patch::Remove),
        Some(Some(value)) => check(value).map(Patch::Set),
    }
}

fn secret(text: String) -> Result<SecretText, ApiError> {
    SecretText::parse(&text).ok_or(ApiError::BadField("secret must be exactly 32 hex digits"))
}

fn ad_tag(text: String) -> Result<String, ApiError> {
    let fits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    fits.then_some(text).ok_or(ApiError::BadField(
        "user_ad_tag must be exactly 32 hex digits",
    ))
}

fn expiration(text: String) -> Result<Expiration, ApiError> {
    Expiration::parse(&text).ok_or(ApiError::BadField(
        "expiration_rfc3339 must be RFC 3339 with an offset",
    ))
}

/// Conflict C15: TOML stores integers up to 2^63-1.
fn storable(value: u64) -> Result<u64, ApiError> {
    if i64::try_from(value).is_ok() {
        Ok(value)
    } else {
        Err(ApiError::BadField(
            "numbers must be at most 9223372036854775807",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn create_reads_every_field_and_ignores_others() {
        let body = br#"{"username":"a.b","secret":"00112233445566778899AABBccddeeff","other":[1],
            "max_tcp_conns":0,"expiration_rfc3339":"2030-01-02T03:04:05+01:00",
            "data_quota_bytes":9007199254740993,"max_unique_ips":null}"#;
        let user = create_user(body).unwrap();
        assert_eq!(user.username, "a.b");
        assert_eq!(
            user.secret.unwrap().as_str(),
            "00112233445566778899AABBccddeeff"
        );
        assert_eq!(user.max_tcp_conns, Some(0));
        assert_eq!(user.data_quota_bytes, Some(9_007_199_254_740_993));
        assert_eq!(user.max_unique_ips, None);
        assert_eq!(user.expiration.unwrap().stored(), "2030-01-02T02:04:05Z");
    }

    #[test]
    fn malformed_json_is_one_error_and_bad_fields_are_another() {
        for body in [
            &b""[..],
            b"  ",
            b"{",
            b"[]",
            b"\"x\"",
            b"5",
            b"null",
            b"{}",
            b"{\"username\":5}",
            b"{\"username\":null}",
            b"{\"username\":\"x\"} x",
            b"{\"username\":\"\xff\"}",
            b"{\"username\":\"x\",\"max_tcp_conns\":-1}",
            b"{\"username\":\"x\",\"max_tcp_conns\":1.5}",
            b"{\"username\":\"x\",\"max_tcp_conns\":\"5\"}",
            b"{\"username\":\"x\",\"username\":\"y\"}",
            b"{\"username\":\"x\",\"data_quota_bytes\":18446744073709551616}",
        ] {
            assert_eq!(
                create_user(body).unwrap_err(),
                ApiError::BadJson,
                "{body:?}"
            );
        }
        for body in [
            r#"{"username":""}"#,
            r#"{"username":"a b"}"#,
            r#"{"username":"é"}"#,
            r#"{"username":"x","secret":"00"}"#,
            r#"{"username":"x","secret":"zz112233445566778899aabbccddeeff"}"#,
            r#"{"username":"x","user_ad_tag":"12"}"#,
            r#"{"username":"x","expiration_rfc3339":"tomorrow"}"#,
            r#"{"username":"x","data_quota_bytes":9223372036854775808}"#,
        ] {
            let error = create_user(body.as_bytes()).unwrap_err();
            assert!(matches!(error, ApiError::BadField(_)), "{body}");
        }
    }

    #[test]
    fn patch_tells_absent_from_null() {
        assert!(patch_user(b"{}").unwrap().is_empty());
        assert!(patch_user(br#"{"secret":null,"x":1}"#).unwrap().is_empty());
        let patch = patch_user(br#"{"max_tcp_conns":null,"data_quota_bytes":0}"#).unwrap();
        assert_eq!(patch.max_tcp_conns, Patch::Remove);
        assert_eq!(patch.data_quota_bytes, Patch::Set(0));
        assert_eq!(patch.max_unique_ips, Patch::Keep);
        for body in [
            &b""[..],
            b"[]",
            b"{\"max_tcp_conns\":\"x\"}",
            b"{\"secret\":5}",
        ] {
            assert_eq!(patch_user(body).unwrap_err(), ApiError::BadJson, "{body:?}");
        }
    }

    #[test]
    fn rotate_takes_no_bytes_or_an_object() {
        assert_eq!(rotate_secret(b"").unwrap(), None);
        assert_eq!(rotate_secret(b"{\"secret\":null}").unwrap(), None);
        assert_eq!(rotate_secret(b" ").unwrap_err(), ApiError::BadJson);
        assert!(rotate_secret(b"{\"secret\":\"xyz\"}").is_err());
    }

    #[test]
    fn if_match_is_trimmed_and_unquoted() {
        assert_eq!(if_match(None), None);
        assert_eq!(if_match(Some(b"  ")), None);
        assert_eq!(if_match(Some(b" \"ab\" ")), Some("ab".to_owned()));
        assert_eq!(if_match(Some(b"\"\"")), Some(String::new()));
        assert_eq!(if_match(Some(b"*")), Some("*".to_owned()));
    }
}
