//! config, system/reload, system/reload/{id}. Source: control-api.md 16.

use super::ApiState;
use crate::{
    model::config::{ConfigData, PatchConfigResponse, ReloadAccepted, ReloadStatus},
    reply::{ApiError, Reply},
    request,
};

impl ApiState {
    pub(super) fn config(&self) -> Result<Reply, ApiError> {
        let stored = self.store.config()?;
        let data = ConfigData::new(&stored.sections);
        Reply::success(200, &data, &stored.revision)
    }

    pub(super) fn patch_config(
        &self,
        body: &[u8],
        target: &str,
        if_match: Option<&str>,
    ) -> Result<Reply, ApiError> {
        let reload = request::reload_query(target)?;
        let sections = request::config_sections(body)?;
        let result = self.store.patch_config(&sections, if_match, reload);
        match &result {
            Ok(patched) => {
                let changed = patched.changed.join(",");
                self.events
                    .record("api.config.patch.ok", &format!("changed={changed}"));
            }
            Err(error) => self
                .events
                .record("api.config.patch.failed", &format!("error={error}")),
        }
        let patched = result?;
        let status = if patched.reload.is_some() { 202 } else { 200 };
        let data = PatchConfigResponse::new(&patched);
        Reply::success(status, &data, &patched.revision)
    }

    pub(super) fn reload(&self, body: &[u8], if_match: Option<&str>) -> Result<Reply, ApiError> {
        let request = request::reload(body)?;
        let accepted = self.store.reload(request, if_match)?;
        let data = ReloadAccepted::new(&accepted);
        Reply::success(202, &data, &self.store.revision()?)
    }

    /// A word that is no number names no reload either.
    pub(super) fn reload_status(&self, id: &str) -> Result<Reply, ApiError> {
        let digits = id.bytes().all(|byte| byte.is_ascii_digit());
        let id = digits.then(|| id.parse().ok()).flatten();
        let status = id.and_then(|id| self.store.reload_status(id));
        let status = status.ok_or(ApiError::ReloadNotFound)?;
        self.ok(&ReloadStatus::new(&status))
    }
}
