//! A store in memory: what the binary's store does to a file.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use admin::{
    ConfigPatched, CreateUser, Deleted, Patch, PatchUser, QuotaReset, QuotaRow, ReloadAccepted,
    ReloadRequest, ReloadState, ReloadStatus, Revision, SecretText, StoreError, StoredConfig,
    StoredUser, StoredUsers, UserChanged, UserDefaults, UserLinks, UserStore,
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::canned::CannedPlane;

/// Users and sections in memory; every change counts the revision up.
pub(crate) struct CannedStore {
    state: Mutex<State>,
}

struct State {
    users: BTreeMap<String, (StoredUser, SecretText)>,
    sections: Map<String, Value>,
    reloads: Vec<ReloadStatus>,
    /// Reloads stay accepted.
    reloads_held: bool,
    generation: u64,
    fault: Option<StoreError>,
    /// Learns of every change of the users.
    plane: Option<Arc<CannedPlane>>,
}

impl CannedStore {
    pub(crate) fn new(names: &[&str]) -> Self {
        let users = names
            .iter()
            .map(|name| ((*name).to_owned(), user(name, &"0a".repeat(16))));
        let sections = json!({
            "general": {"log_level": "normal", "links": {"public_port": 443}},
            "censorship": {"tls_domain": "example.com"},
            "dc_overrides": {"203": ["192.0.2.1:443"]},
        });
        Self {
            state: Mutex::new(State {
                users: users.collect(),
                sections: sections.as_object().unwrap().clone(),
                reloads: Vec::new(),
                reloads_held: false,
                generation: 0,
                fault: None,
                plane: None,
            }),
        }
    }

    /// One more user, without any notice.
    pub(crate) fn add(&self, name: &str) {
        let stored = user(name, &"0c".repeat(16));
        let mut state = self.state.lock().unwrap();
        state.users.insert(name.to_owned(), stored);
    }

    /// Leaves only this user.
    pub(crate) fn keep(&self, name: &str) {
        self.state
            .lock()
            .unwrap()
            .users
            .retain(|user, _| user == name);
    }

    /// Lets the process learn of every change at once.
    pub(crate) fn tell(&self, plane: &Arc<CannedPlane>) {
        let mut state = self.state.lock().unwrap();
        plane.set_users(state.users.keys().cloned());
        state.plane = Some(Arc::clone(plane));
    }

    /// Reloads stay as they were accepted, or not.
    pub(crate) fn hold_reloads(&self, held: bool) {
        self.state.lock().unwrap().reloads_held = held;
    }

    /// Every call fails from now on.
    pub(crate) fn break_with(&self, fault: Option<StoreError>) {
        self.state.lock().unwrap().fault = fault;
    }

    fn changing<T>(
        &self,
        if_match: Option<&str>,
        change: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut state = self.state.lock().unwrap();
        if let Some(fault) = &state.fault {
            return Err(fault.clone());
        }
        if if_match.is_some_and(|given| given != state.revision().0) {
            return Err(StoreError::RevisionConflict);
        }
        change(&mut state)
    }
}

impl UserStore for CannedStore {
    fn revision(&self) -> Result<Revision, StoreError> {
        self.changing(None, |state| Ok(state.revision()))
    }

    fn users(&self) -> Result<StoredUsers, StoreError> {
        self.changing(None, |state| {
            let users = state.users.values().map(|(user, _)| user.clone()).collect();
            Ok(StoredUsers {
                revision: state.revision(),
                users,
                defaults: UserDefaults::default(),
            })
        })
    }

    fn user(&self, name: &str) -> Result<StoredUsers, StoreError> {
        self.changing(None, |state| {
            let found = state.users.get(name).map(|(user, _)| user.clone());
            Ok(StoredUsers {
                revision: state.revision(),
                users: found.into_iter().collect(),
                defaults: UserDefaults::default(),
            })
        })
    }

    fn create(&self, new: &CreateUser, if_match: Option<&str>) -> Result<UserChanged, StoreError> {
        self.changing(if_match, |state| {
            if state.users.contains_key(&new.username) {
                return Err(StoreError::UserExists);
            }
            let secret = new
                .secret
                .as_ref()
                .map_or("0b".repeat(16), |secret| secret.as_str().to_owned());
            let (mut stored, secret) = user(&new.username, &secret);
            stored.user_ad_tag.clone_from(&new.user_ad_tag);
            stored.max_tcp_conns = new.max_tcp_conns;
            stored.expiration = new.expiration;
            stored.data_quota_bytes = new.data_quota_bytes;
            stored.max_unique_ips = new.max_unique_ips;
            stored.rate_limit_up_bps = new.rate_limit_up_bps;
            stored.rate_limit_down_bps = new.rate_limit_down_bps;
            stored.enabled = new.enabled != Some(false);
            state.put(stored, secret)
        })
    }

    fn patch(
        &self,
        name: &str,
        patch: &PatchUser,
        if_match: Option<&str>,
    ) -> Result<UserChanged, StoreError> {
        self.changing(if_match, |state| {
            let (mut stored, mut secret) = state.get(name)?;
            if let Some(new) = &patch.secret {
                secret = new.clone();
                stored.links = links(new.as_str());
            }
            apply(&mut stored.user_ad_tag, &patch.user_ad_tag);
            apply(&mut stored.max_tcp_conns, &patch.max_tcp_conns);
            apply(&mut stored.expiration, &patch.expiration);
            apply(&mut stored.data_quota_bytes, &patch.data_quota_bytes);
            apply(&mut stored.max_unique_ips, &patch.max_unique_ips);
            apply(&mut stored.rate_limit_up_bps, &patch.rate_limit_up_bps);
            apply(&mut stored.rate_limit_down_bps, &patch.rate_limit_down_bps);
            match patch.enabled {
                Patch::Keep => {}
                Patch::Remove => stored.enabled = true,
                Patch::Set(enabled) => stored.enabled = enabled,
            }
            if patch.is_empty() {
                return Ok(state.unchanged(stored, secret));
            }
            state.put(stored, secret)
        })
    }

    fn rotate_secret(
        &self,
        name: &str,
        secret: Option<&SecretText>,
        if_match: Option<&str>,
    ) -> Result<UserChanged, StoreError> {
        self.changing(if_match, |state| {
            let (mut stored, _) = state.get(name)?;
            let fresh = format!("{:032x}", state.generation + 1);
            let secret = secret.map_or(fresh, |secret| secret.as_str().to_owned());
            stored.links = links(&secret);
            state.put(stored, SecretText::parse(&secret).unwrap())
        })
    }

    fn delete(&self, name: &str, if_match: Option<&str>) -> Result<Deleted, StoreError> {
        self.changing(if_match, |state| {
            state.get(name)?;
            if state.users.len() == 1 {
                return Err(StoreError::LastUser);
            }
            state.users.remove(name);
            state.written();
            Ok(Deleted {
                revision: state.revision(),
            })
        })
    }

    fn reset_quota(&self, name: &str, if_match: Option<&str>) -> Result<QuotaReset, StoreError> {
        self.changing(if_match, |state| {
            state.get(name)?;
            Ok(QuotaReset {
                revision: state.revision(),
                last_reset_epoch_secs: SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap()
                    .as_secs(),
            })
        })
    }

    fn set_enabled(
        &self,
        name: &str,
        enabled: bool,
        if_match: Option<&str>,
    ) -> Result<UserChanged, StoreError> {
        self.changing(if_match, |state| {
            let (mut stored, secret) = state.get(name)?;
            if stored.enabled == enabled {
                return Ok(state.unchanged(stored, secret));
            }
            stored.enabled = enabled;
            state.put(stored, secret)
        })
    }

    fn quotas(&self) -> Vec<QuotaRow> {
        let state = self.state.lock().unwrap();
        let users = state.users.values().rev();
        users
            .filter_map(|(user, _)| {
                Some(QuotaRow {
                    username: user.username.clone(),
                    data_quota_bytes: user.data_quota_bytes.filter(|&bytes| bytes > 0)?,
                    used_bytes: 7,
                    last_reset_epoch_secs: 0,
                })
            })
            .collect()
    }

    fn config(&self) -> Result<StoredConfig, StoreError> {
        self.changing(None, |state| {
            Ok(StoredConfig {
                revision: state.revision(),
                sections: state.sections.clone(),
            })
        })
    }

    fn patch_config(
        &self,
        sections: &Map<String, Value>,
        if_match: Option<&str>,
        reload: Option<ReloadRequest>,
    ) -> Result<ConfigPatched, StoreError> {
        self.changing(if_match, |state| {
            if reload.is_some() {
                state.may_reload()?;
            }
            let mut after = Value::Object(state.sections.clone());
            merge(&mut after, &Value::Object(sections.clone()));
            let after = after.as_object().unwrap().clone();
            let names = sections.keys().cloned();
            let changed: Vec<String> = names
                .filter(|name| after.get(name) != state.sections.get(name))
                .collect();
            if !changed.is_empty() {
                state.sections = after;
                state.written();
            }
            Ok(ConfigPatched {
                revision: state.revision(),
                restart_keys: changed.iter().map(|name| format!("{name}.x")).collect(),
                hot_keys: Vec::new(),
                changed,
                reload: reload.map(|request| state.reload(request)),
            })
        })
    }

    fn reload(
        &self,
        request: ReloadRequest,
        if_match: Option<&str>,
    ) -> Result<ReloadAccepted, StoreError> {
        self.changing(if_match, |state| {
            state.may_reload()?;
            Ok(state.reload(request))
        })
    }

    fn reload_status(&self, id: u64) -> Option<ReloadStatus> {
        let state = self.state.lock().unwrap();
        let found = state.reloads.iter().find(|reload| reload.reload_id == id);
        found.cloned()
    }
}

impl State {
    fn revision(&self) -> Revision {
        let digest = Sha256::digest(self.generation.to_string());
        Revision(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn get(&self, name: &str) -> Result<(StoredUser, SecretText), StoreError> {
        self.users
            .get(name)
            .cloned()
            .ok_or(StoreError::UserNotFound)
    }

    fn written(&mut self) {
        self.generation += 1;
        if let Some(plane) = &self.plane {
            plane.set_users(self.users.keys().cloned());
        }
    }

    fn may_reload(&self) -> Result<(), StoreError> {
        match self.reloads.last() {
            Some(last) if !last.state.is_final() => Err(StoreError::ReloadInProgress),
            _ => Ok(()),
        }
    }

    fn reload(&mut self, request: ReloadRequest) -> ReloadAccepted {
        let id = u64::try_from(self.reloads.len()).unwrap() + 1;
        let held = self.reloads_held;
        self.reloads.push(ReloadStatus {
            reload_id: id,
            target_generation: id + 1,
            config_revision: self.revision(),
            state: if held {
                ReloadState::Accepted
            } else {
                ReloadState::Succeeded
            },
            mode: request.mode,
            failure_policy: request.failure_policy,
            requested_at_epoch_secs: 1_700_000_000,
            started_at_epoch_secs: (!held).then_some(1_700_000_000),
            finished_at_epoch_secs: (!held).then_some(1_700_000_001),
            deferred_process_fields: Vec::new(),
            warnings: vec!["canned".to_owned()],
            error: None,
        });
        ReloadAccepted {
            reload_id: id,
            target_generation: id + 1,
            config_revision: self.revision(),
            mode: request.mode,
            failure_policy: request.failure_policy,
        }
    }

    fn put(&mut self, user: StoredUser, secret: SecretText) -> Result<UserChanged, StoreError> {
        self.users
            .insert(user.username.clone(), (user.clone(), secret.clone()));
        self.written();
        Ok(self.unchanged(user, secret))
    }

    fn unchanged(&self, user: StoredUser, secret: SecretText) -> UserChanged {
        UserChanged {
            revision: self.revision(),
            user,
            defaults: UserDefaults::default(),
            secret,
        }
    }
}

fn apply<T: Clone>(stored: &mut Option<T>, patch: &Patch<T>) {
    match patch {
        Patch::Keep => {}
        Patch::Remove => *stored = None,
        Patch::Set(value) => *stored = Some(value.clone()),
    }
}

/// Tables merge, everything else replaces, nulls are ignored.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from.iter().filter(|(_, value)| !value.is_null()) {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => into.clone_from(from),
    }
}

fn user(name: &str, secret: &str) -> (StoredUser, SecretText) {
    let user = StoredUser {
        username: name.to_owned(),
        links: links(secret),
        ..StoredUser::default()
    };
    (user, SecretText::parse(secret).unwrap())
}

fn links(secret: &str) -> UserLinks {
    let link = |secret: String| format!("tg://proxy?server=192.0.2.1&port=8443&secret={secret}");
    UserLinks {
        classic: vec![link(secret.to_owned())],
        secure: vec![link(format!("dd{secret}"))],
        tls: vec![link(format!("ee{secret}6578616d706c652e636f6d"))],
        tls_domains: Vec::new(),
    }
}
