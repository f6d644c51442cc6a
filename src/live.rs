//! The one place where a configuration takes effect while the process runs.
//!
//! The control API, the watched files, SIGHUP and asked-for reloads all end in [`Live::apply`] or
//! in `put`, one at a time. Keys that may change are applied on all shards, to the log and to what
//! the API shows; the others keep the values the process started with and are named. Not here: who
//! notices changes (`watch.rs`), how a reload is followed (`reload.rs`). Source: config.md 11.

mod account;
mod quotas;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use admin::{Events, QuotaRow, ReloadAccepted, ReloadRequest, ReloadStatus, StoreError};
use shards::{
    Control,
    control::QuotaUse,
    settings::{HotSettings, UserSettings},
};

use self::account::Account;
use crate::{
    config::{self, Config, Digest, Failed, Loaded, changes::Changes, general::LogLevel},
    firewall::Firewall,
    links::{Detected, LinkBase, page},
    logging::Log,
    me::Me,
    names::Names,
    plane::ShardPlane,
    quota_file::QuotaFile,
    reload::Reloads,
    route_out::RouteOut,
    running::running,
    serve::say,
    store::Applies,
    watch::{Noticed, Watched},
    wiring,
};

/// The running configuration.
pub(crate) struct Live {
    path: PathBuf,
    /// What the process started with, without its users: keys that need a restart still have
    /// these values.
    started: Loaded,
    parts: Parts,
    shards: Mutex<Box<dyn Shards>>,
    /// Held while a configuration takes effect.
    state: Mutex<State>,
    pub(crate) reloads: Reloads,
}

/// What a configuration takes effect on, besides the shards.
pub(crate) struct Parts {
    /// What the API sees.
    pub(crate) plane: Arc<ShardPlane>,
    /// What has happened.
    pub(crate) events: Arc<Events>,
    /// Used quotas.
    pub(crate) quotas: QuotaFile,
    /// The log.
    pub(crate) log: Log,
    /// Set when the command line chose the level, so the file does not.
    pub(crate) log_level: Option<LogLevel>,
    /// This host's addresses, for links of new users.
    pub(crate) detected: Detected,
    /// Whoever decides about middle proxies; `None` when every session goes direct.
    pub(crate) me: Option<Arc<Me>>,
    /// Who looks after the firewall.
    pub(crate) firewall: Option<Arc<Firewall>>,
    /// The ways out of threads that are no shards.
    pub(crate) out: Arc<RouteOut>,
    /// Whoever resolves names for the shards.
    pub(crate) names: Option<Names>,
}

/// The data plane as far as a configuration concerns it; tests have one without sockets.
pub(crate) trait Shards: Send {
    /// See `shards::Control::update`.
    fn update(&mut self, users: &[UserSettings], hot: &HotSettings, keep_removed: bool) -> Pending;
    /// See `shards::Control::end_removed`.
    fn end_removed(&mut self) -> Pending;
    /// See `shards::Control::removed_sessions`.
    fn removed_sessions(&self) -> u64;
    /// See `shards::Control::names`.
    fn names(&self) -> Vec<Arc<str>>;
    /// See `shards::Control::quotas`.
    fn quotas(&self) -> Vec<QuotaUse>;
    /// See `shards::Control::reset_quota`.
    fn reset_quota(&self, name: &str) -> Option<u64>;
}

/// Waits until every shard has taken a change over; false when the time is up before.
pub(crate) type Pending = Box<dyn FnOnce(Duration) -> bool>;

impl Shards for Control {
    fn update(&mut self, users: &[UserSettings], hot: &HotSettings, keep_removed: bool) -> Pending {
        let updating = Control::update(self, users, hot, keep_removed);
        Box::new(|limit| updating.wait(limit))
    }

    fn end_removed(&mut self) -> Pending {
        let updating = Control::end_removed(self);
        Box::new(|limit| updating.wait(limit))
    }

    fn removed_sessions(&self) -> u64 {
        Control::removed_sessions(self)
    }

    fn names(&self) -> Vec<Arc<str>> {
        Control::names(self)
    }

    fn quotas(&self) -> Vec<QuotaUse> {
        Control::quotas(self)
    }

    fn reset_quota(&self, name: &str) -> Option<u64> {
        Control::reset_quota(self, name)
    }
}

/// The configuration in force.
#[derive(Clone)]
pub(crate) struct State {
    /// The values in force: the file's where they are hot, else those of the start.
    config: Config,
    /// The file's values, without its users.
    file: Config,
    digest: Digest,
    files: Vec<Arc<Path>>,
    /// Counts configurations; the one of the start is 1.
    generation: u64,
    /// A text that was in force for a moment and taken back.
    refused: Option<Digest>,
}

/// Who brought a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A change made through the control API.
    Api,
    /// The file was edited.
    File,
    /// SIGHUP.
    Signal,
    /// The control API was asked to reload.
    Reload,
}

/// What became of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    /// What it changed against the one before; restart keys against the start.
    pub(crate) changes: Changes,
    /// Every shard has it; false after a second without an answer.
    pub(crate) complete: bool,
}

impl Live {
    /// Takes over what the process has started with.
    pub(crate) fn new(loaded: &Loaded, parts: Parts, shards: Box<dyn Shards>) -> Arc<Self> {
        let mut started = Loaded {
            text: String::new(),
            warnings: Vec::new(),
            ..loaded.clone()
        };
        started.config.access.forget_users();
        let state = State {
            config: loaded.config.clone(),
            file: started.config.clone(),
            digest: loaded.digest,
            files: loaded.files.clone(),
            generation: 1,
            refused: None,
        };
        Arc::new(Self {
            path: loaded.path.clone(),
            started,
            parts,
            shards: Mutex::new(shards),
            state: Mutex::new(state),
            reloads: Reloads::default(),
        })
    }

    /// Puts a configuration in force; the text that is in force already changes nothing.
    pub(crate) fn apply(&self, loaded: Loaded, cause: Cause) -> Applied {
        let mut state = self.state();
        self.put(&mut state, loaded, cause, false)
    }

    /// The configuration in force, which stays so while this is held.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number the next configuration will have.
    pub(crate) fn next_generation(&self) -> u64 {
        self.state().generation + 1
    }

    /// As [`Self::apply`], by whoever holds the state. With `keep_removed` sessions of users that
    /// are gone or disabled may go on until [`Self::end_removed`].
    pub(crate) fn put(
        &self,
        state: &mut State,
        loaded: Loaded,
        cause: Cause,
        keep_removed: bool,
    ) -> Applied {
        let account = Account::new(&self.path, cause, &self.parts.events);
        if loaded.digest == state.digest {
            if matches!(cause, Cause::Signal | Cause::Reload) {
                account.unchanged();
            }
            state.refused = None;
            return Applied {
                changes: Changes {
                    restart: Changes::between(&self.started, &loaded).restart,
                    ..Changes::default()
                },
                complete: true,
            };
        }
        let config = self.started.config.with_hot(&loaded.config);
        let changes = Changes {
            hot: Changes::of(&state.config, &config).hot,
            restart: Changes::between(&self.started, &loaded).restart,
            idle: Changes::of(&state.file, &without_users(&loaded.config)).idle,
        };
        let (complete, before) = self.put_values(state, config, &changes.hot, keep_removed);
        state.file = without_users(&loaded.config);
        state.digest = loaded.digest;
        state.files = loaded.files.clone();
        // The store follows links; whoever watches must see the link itself change.
        if let Some(main) = state.files.first_mut() {
            *main = Arc::from(self.path.as_path());
        }
        state.generation += 1;
        state.refused = None;
        account.applied(&loaded, &changes, complete);
        if cause != Cause::Api {
            self.show_new_links(&before, &state.config);
        }
        drop((loaded, before));
        shards::host::release_freed_memory();
        Applied { changes, complete }
    }

    /// Puts an earlier state in force again; false when a shard is late.
    pub(crate) fn put_back(&self, state: &mut State, earlier: State) -> bool {
        let refused = state.digest;
        let hot = Changes::of(&state.config, &earlier.config).hot;
        let (complete, _) = self.put_values(state, earlier.config.clone(), &hot, false);
        let generation = state.generation + 1;
        *state = State {
            generation,
            refused: Some(refused),
            ..earlier
        };
        complete
    }

    /// Makes these values true everywhere; false when a shard is late. Gives back those before.
    fn put_values(
        &self,
        state: &mut State,
        config: Config,
        hot: &[String],
        keep_removed: bool,
    ) -> (bool, Config) {
        let complete = hot.is_empty() || self.update_shards(&config, keep_removed);
        let level = self.parts.log_level.unwrap_or(config.general.log_level);
        if state.config.general.log_level != config.general.log_level {
            self.parts.log.set_level(level);
        }
        if let Some(me) = &self.parts.me
            && !hot.is_empty()
        {
            let secret_bytes_max = config.me_source.proxy_secret_len_max;
            me.apply(wiring::me::settings(&config), secret_bytes_max);
        }
        if state.config.network.dns_overrides != config.network.dns_overrides {
            self.parts.out.pin(&config.network.dns_overrides);
            if let Some(names) = &self.parts.names {
                names.pin(&config.network.dns_overrides);
            }
        }
        if let Some(firewall) = &self.parts.firewall
            && !hot.is_empty()
        {
            firewall.apply(&config);
        }
        let names = self.shards().names();
        self.parts.plane.reloaded(running(&config, level, names));
        (complete, std::mem::replace(&mut state.config, config))
    }

    fn update_shards(&self, config: &Config, keep_removed: bool) -> bool {
        let quotas = &self.parts.quotas;
        let users = &config.access.users.0;
        let names: HashSet<&str> = users.iter().map(|(name, _)| name.as_str()).collect();
        let pending = {
            // Nobody notes what a user has used between the two: it would come back.
            let mut shards = self.shards();
            quotas.keep(&names);
            let users = wiring::users(config, &|name| quotas.used_bytes(name));
            shards.update(&users, &wiring::hot(config), keep_removed)
        };
        // At once: after a kill, a name that was deleted and comes back must start at zero.
        if let Err(error) = quotas.save() {
            let path = quotas.path().display();
            tracing::error!(%error, "used quotas are not written to {path}");
        }
        pending(PATIENCE)
    }

    /// Ends the sessions that were let stay; false when a shard is late.
    pub(crate) fn end_removed(&self) -> bool {
        let pending = self.shards().end_removed();
        pending(PATIENCE)
    }

    /// Sessions that were let stay and are still open.
    pub(crate) fn removed_sessions(&self) -> u64 {
        self.shards().removed_sessions()
    }

    fn shards(&self) -> MutexGuard<'_, Box<dyn Shards>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show_new_links(&self, before: &Config, now: &Config) {
        let known = before.access.users.0.iter();
        let known: HashSet<&str> = known.map(|(name, _)| name.as_str()).collect();
        let new = |name: &str| !known.contains(name) && now.links.show.contains(name);
        let base = LinkBase::new(now, self.parts.detected);
        say(&page(now, &base, &new, false));
    }
}

impl Watched for Live {
    fn path(&self) -> &Path {
        &self.path
    }

    fn files(&self) -> Vec<Arc<Path>> {
        self.state().files.clone()
    }

    fn is_settled(&self, digest: &Digest) -> bool {
        let state = self.state();
        state.digest == *digest || state.refused == Some(*digest)
    }

    fn reload(&self, noticed: Noticed) -> Result<(), Failed> {
        // Read with the state held, so that nobody puts something newer in force meanwhile.
        let mut state = self.state();
        let loaded = config::load(&self.path)?;
        self.put(&mut state, loaded, noticed.into(), false);
        Ok(())
    }

    fn failed(&self, failed: &Failed, noticed: Noticed) {
        Account::new(&self.path, noticed.into(), &self.parts.events).failed(failed);
    }
}

impl From<Noticed> for Cause {
    fn from(noticed: Noticed) -> Self {
        match noticed {
            Noticed::Change => Self::File,
            Noticed::Signal => Self::Signal,
        }
    }
}

/// Taken by the store, which writes files and leaves the rest to us.
pub(crate) struct LiveStore(pub(crate) Arc<Live>);

impl Applies for LiveStore {
    fn apply(&self, loaded: Loaded) {
        self.0.apply(loaded, Cause::Api);
    }

    fn quotas(&self) -> Vec<QuotaRow> {
        self.0.quota_rows()
    }

    fn reset_quota(&self, username: &str) -> std::io::Result<u64> {
        self.0.reset_quota(username)
    }

    fn may_reload(&self) -> Result<(), StoreError> {
        self.0.reloads.may_begin()
    }

    fn reload(&self, request: ReloadRequest, loaded: Loaded) -> Result<ReloadAccepted, StoreError> {
        crate::reload::begin(&self.0, request, loaded)
    }

    fn reload_status(&self, id: u64) -> Option<ReloadStatus> {
        self.0.reloads.status(id)
    }
}

fn without_users(config: &Config) -> Config {
    let mut config = config.clone();
    config.access.forget_users();
    config
}

/// A shard answers within a millisecond; one that takes longer than this is stuck.
const PATIENCE: Duration = Duration::from_secs(1);
