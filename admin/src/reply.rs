//! Envelopes, and the one table from [`ApiError`] to status and code. Source: control-api.md 3.

use serde::Serialize;

use crate::store::{Revision, StoreError};

/// An answer before it is written: status, headers beyond the fixed ones, body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// HTTP status.
    pub(crate) status: u16,
    /// Value of `Content-Type`.
    pub(crate) content_type: &'static str,
    /// Value of `Allow`, with `405`.
    pub(crate) allow: Option<&'static str>,
    /// JSON, except for `/metrics`; empty only for refused peers that get an empty `200`.
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// A success envelope.
    pub(crate) fn success<T: Serialize>(
        status: u16,
        data: &T,
        revision: &Revision,
    ) -> Result<Self, ApiError> {
        let envelope = Success {
            ok: true,
            data,
            revision: &revision.0,
        };
        let body = serde_json::to_vec(&envelope).map_err(|_| ApiError::Internal)?;
        Ok(Self {
            status,
            content_type: JSON,
            allow: None,
            body,
        })
    }

    /// An error envelope.
    pub(crate) fn failure(error: &ApiError, request_id: u64) -> Self {
        let (status, code) = error.status_and_code();
        let message = error.to_string();
        let envelope = Failure {
            ok: false,
            error: ErrorBody {
                code,
                message: &message,
            },
            request_id,
        };
        let allow = match error {
            ApiError::MethodNotAllowed { allow } => Some(*allow),
            _ => None,
        };
        Self {
            status,
            content_type: JSON,
            allow,
            body: serde_json::to_vec(&envelope).unwrap_or_default(),
        }
    }

    /// Plain text.
    pub(crate) fn text(status: u16, body: &str) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            allow: None,
            body: body.as_bytes().to_vec(),
        }
    }

    /// A `200` without a body, for refused peers.
    pub(crate) fn empty() -> Self {
        Self {
            status: 200,
            content_type: JSON,
            allow: None,
            body: Vec::new(),
        }
    }
}

const JSON: &str = "application/json; charset=utf-8";

/// Everything that ends in an error envelope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiError {
    /// The API was switched off while its port is open.
    #[error("API is disabled")]
    Disabled,
    /// Peer outside the whitelist.
    #[error("Source address is not allowed")]
    Forbidden,
    /// `Authorization` missing or wrong.
    #[error("Missing or invalid Authorization header")]
    Unauthorized,
    /// No such route.
    #[error("Route not found")]
    NotFound,
    /// Known route, other method.
    #[error("Method not allowed")]
    MethodNotAllowed {
        /// Value of the `Allow` header.
        allow: &'static str,
    },
    /// A change while `read_only` is on.
    #[error("API runs in read-only mode")]
    ReadOnly,
    /// Name in the path does not fit the pattern.
    #[error("username must be 1 to 64 of A-Z a-z 0-9 _ . -")]
    BadUsername,
    /// The bytes are no HTTP request.
    #[error("Malformed HTTP request")]
    BadHttp,
    /// The body broke off, or its encoding is broken.
    #[error("Invalid request body")]
    BadBody,
    /// The body is no JSON, or has other types than the request needs.
    #[error("Invalid JSON body")]
    BadJson,
    /// A field does not pass its check.
    #[error("{0}")]
    BadField(&'static str),
    /// A patch of the configuration names `access`.
    #[error("access is edited through the users routes")]
    AccessNotEditable,
    /// A patch of the configuration names another section that is not editable.
    #[error(
        "only general, timeouts, censorship, upstreams, show_link and dc_overrides can be edited"
    )]
    SectionNotEditable,
    /// No remembered reload has this id.
    #[error("no such reload")]
    ReloadNotFound,
    /// More than `request_body_limit_bytes`.
    #[error("Request body is larger than {limit_bytes} bytes")]
    PayloadTooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// From the configuration file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Serialisation failed.
    #[error("Internal error")]
    Internal,
}

impl ApiError {
    /// The one table. Source: v1.json, `errors`.
    fn status_and_code(&self) -> (u16, &'static str) {
        match self {
            Self::Disabled => (503, "api_disabled"),
            Self::Forbidden => (403, "forbidden"),
            Self::Unauthorized => (401, "unauthorized"),
            Self::NotFound | Self::Store(StoreError::UserNotFound) => (404, "not_found"),
            Self::MethodNotAllowed { .. } => (405, "method_not_allowed"),
            Self::ReadOnly => (403, "read_only"),
            Self::BadUsername
            | Self::BadHttp
            | Self::BadBody
            | Self::BadJson
            | Self::BadField(_)
            | Self::Store(StoreError::Invalid(_)) => (400, "bad_request"),
            Self::AccessNotEditable => (400, "access_not_editable"),
            Self::SectionNotEditable => (400, "section_not_editable"),
            Self::ReloadNotFound => (404, "reload_not_found"),
            Self::PayloadTooLarge { .. } => (413, "payload_too_large"),
            Self::Store(StoreError::RevisionConflict) => (409, "revision_conflict"),
            Self::Store(StoreError::UserExists) => (409, "user_exists"),
            Self::Store(StoreError::LastUser) => (409, "last_user_forbidden"),
            Self::Store(StoreError::ReloadInProgress) => (409, "reload_in_progress"),
            Self::Store(StoreError::ReloadUnavailable) => (503, "maestro_unavailable"),
            Self::Store(
                StoreError::Unreadable
                | StoreError::Unparsable
                | StoreError::Unwritable(_)
                | StoreError::Unsupported,
            )
            | Self::Internal => (500, "internal_error"),
        }
    }
}

#[derive(Serialize)]
struct Success<'a, T> {
    ok: bool,
    data: &'a T,
    revision: &'a str,
}

#[derive(Serialize)]
struct Failure<'a> {
    ok: bool,
    error: ErrorBody<'a>,
    request_id: u64,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: &'static str,
    message: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_are_compact_and_in_contract_order() {
        let ok = Reply::success(200, &[1, 2], &Revision("ab".to_owned())).unwrap();
        assert_eq!(ok.body, br#"{"ok":true,"data":[1,2],"revision":"ab"}"#);
        let error = Reply::failure(&ApiError::NotFound, 7);
        let expected = concat!(
            r#"{"ok":false,"error":{"code":"not_found","message":"Route not found"},"#,
            r#""request_id":7}"#
        );
        assert_eq!(error.body, expected.as_bytes());
    }

    #[test]
    fn statuses_and_codes_are_those_of_the_contract() {
        let contract: serde_json::Value =
            serde_json::from_str(include_str!("../tests/vectors/v1.json")).unwrap();
        let errors = contract["errors"].as_array().unwrap();
        let all = [
            ApiError::Disabled,
            ApiError::Forbidden,
            ApiError::Unauthorized,
            ApiError::NotFound,
            ApiError::MethodNotAllowed { allow: "GET" },
            ApiError::ReadOnly,
            ApiError::PayloadTooLarge { limit_bytes: 1 },
            ApiError::BadJson,
            ApiError::Store(StoreError::RevisionConflict),
            ApiError::Store(StoreError::UserExists),
            ApiError::Store(StoreError::LastUser),
            ApiError::Store(StoreError::Unsupported),
            ApiError::AccessNotEditable,
            ApiError::SectionNotEditable,
            ApiError::ReloadNotFound,
            ApiError::Store(StoreError::ReloadInProgress),
            ApiError::Store(StoreError::ReloadUnavailable),
        ];
        for error in &all {
            let (status, code) = error.status_and_code();
            let row = errors.iter().find(|row| row["code"] == code).unwrap();
            assert_eq!(row["http"], status, "{code}");
        }
        for row in errors {
            let known = all
                .iter()
                .any(|error| row["code"] == error.status_and_code().1);
            assert!(known, "{}", row["code"]);
        }
    }
}
