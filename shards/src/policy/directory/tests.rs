use super::*;
use crate::{proto::secret::Secret, settings::RateSettings};

/// A user without limits.
pub(crate) fn user(name: &str) -> UserSettings {
    UserSettings {
        name: name.into(),
        secret: Secret([7; 16]),
        enabled: true,
        connections_max: 0,
        expires_at: None,
        quota_bytes: None,
        unique_ips_max: 0,
        source_deny: Vec::new(),
        rate: RateSettings::default(),
        quota_used_bytes: 0,
    }
}
