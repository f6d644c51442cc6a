//! Which of the secrets and maps that were fetched count.
//!
//! A snapshot has to be seen several times in a row before it is taken, and maps are not changed
//! too often. What is compared is the content; the specification's hash would only stand for it.
//!
//! Source: middle-proxy.md 2.2 and 23.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use super::super::Millis;
use super::supervisor::{Offered, Origin};
use crate::{
    proto::middle::{config_file::EndpointMap, secret_file::ProxySecret},
    settings::RefreshSettings,
};

/// Endpoints by signed DC id.
pub(crate) type Map = BTreeMap<i16, Vec<SocketAddr>>;

/// The map in force and what may follow it.
#[derive(Clone, Debug)]
pub(crate) struct Maps {
    families: [FamilyMap; 2],
    current: Arc<Map>,
    default_dc: i16,
    epoch: u64,
    applied_at: Option<Millis>,
}

#[derive(Clone, Debug, Default)]
struct FamilyMap {
    applied: Option<EndpointMap>,
    candidate: Option<EndpointMap>,
    hits: u32,
}

/// Why a snapshot was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    /// The answer's status.
    #[error("the answer was not 2xx")]
    Status,
    /// Under `me_snapshot_min_proxy_for_lines`.
    #[error("{got} usable lines, at least {min} wanted")]
    Lines {
        /// Of the snapshot.
        got: usize,
        /// The setting.
        min: u32,
    },
    /// No endpoint of its family.
    #[error("no endpoint of this family")]
    Empty,
}

impl Maps {
    /// No map.
    pub(crate) fn new() -> Self {
        Self {
            families: Default::default(),
            current: Arc::default(),
            default_dc: DEFAULT_DC,
            epoch: 0,
            applied_at: None,
        }
    }

    /// Takes a snapshot of one family in. `Ok(true)`: it was a new one and took effect at once,
    /// which only the start's do; [`apply`](Self::apply) decides about all others.
    ///
    /// # Errors
    /// [`Unfit`]: it is ignored and does not touch the candidate.
    pub(crate) fn offer(
        &mut self,
        ipv6: bool,
        offered: &Offered,
        origin: Origin,
        settings: &RefreshSettings,
    ) -> Result<bool, Unfit> {
        let map = judge(ipv6, offered, origin, settings)?;
        let family = &mut self.families[usize::from(ipv6)];
        let known = family.applied.as_ref() == Some(&map);
        match origin {
            Origin::Startup => {
                *family = FamilyMap {
                    applied: Some(map),
                    ..FamilyMap::default()
                };
                return Ok(self.rebuild() && !known);
            }
            Origin::Refresh if family.candidate.as_ref() == Some(&map) => {
                family.hits = family.hits.saturating_add(1);
            }
            Origin::Refresh => {
                family.hits = 1;
                family.candidate = Some(map);
            }
        }
        Ok(false)
    }

    /// Puts ready candidates of both families in force, if the last time is long enough ago.
    /// Returns whether anything differs.
    pub(crate) fn apply(&mut self, settings: &RefreshSettings, now: Millis) -> bool {
        let waits = self.deadline(settings).is_none_or(|due| due > now);
        if waits {
            return false;
        }
        for family in &mut self.families {
            if family.is_ready(settings) {
                family.applied.clone_from(&family.candidate);
            }
        }
        self.applied_at = Some(now);
        self.rebuild()
    }

    /// When a ready candidate may be put in force.
    pub(crate) fn deadline(&self, settings: &RefreshSettings) -> Option<Millis> {
        let ready = |family: &FamilyMap| family.is_ready(settings);
        let cooled = self
            .applied_at
            .map_or(Millis(0), |at| at.after(settings.config_cooldown));
        self.families.iter().any(ready).then_some(cooled)
    }

    /// All families' endpoints by DC.
    pub(crate) fn current(&self) -> &Arc<Map> {
        &self.current
    }

    /// Where ids without endpoints go.
    pub(crate) fn default_dc(&self) -> i16 {
        self.default_dc
    }

    /// Grows with each change; 0 before the first map.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Which families have endpoints.
    pub(crate) fn families(&self) -> [bool; 2] {
        [0, 1].map(|at| {
            let applied = self.families[at].applied.as_ref();
            applied.is_some_and(|map| !map.groups.is_empty())
        })
    }

    /// Joins the families. Returns whether anything differs.
    fn rebuild(&mut self) -> bool {
        let mut all = Map::new();
        let mut default = None;
        for map in self
            .families
            .iter()
            .filter_map(|family| family.applied.as_ref())
        {
            default = default.or(map.default);
            for (&dc, endpoints) in &map.groups {
                all.entry(dc).or_default().extend(endpoints);
            }
        }
        for endpoints in all.values_mut() {
            endpoints.sort_unstable();
            endpoints.dedup();
        }
        let default = default.unwrap_or(DEFAULT_DC);
        if *self.current == all && self.default_dc == default && self.epoch != 0 {
            return false;
        }
        self.current = Arc::new(all);
        self.default_dc = default;
        self.epoch += 1;
        true
    }
}

impl FamilyMap {
    fn is_ready(&self, settings: &RefreshSettings) -> bool {
        self.hits >= settings.config_stable.max(1)
            && self.candidate.is_some()
            && self.candidate != self.applied
    }
}

/// The guards, the family's own endpoints, and the mirror rule.
fn judge(
    ipv6: bool,
    offered: &Offered,
    origin: Origin,
    settings: &RefreshSettings,
) -> Result<EndpointMap, Unfit> {
    if settings.require_2xx && !offered.http_ok {
        return Err(Unfit::Status);
    }
    let (got, min) = (offered.file.accepted, settings.lines_min);
    if u32::try_from(got).unwrap_or(u32::MAX) < min {
        return Err(Unfit::Lines { got, min });
    }
    let mut map = offered.file.map.of_family(ipv6);
    if map.groups.is_empty() && (settings.reject_empty || origin == Origin::Startup) {
        return Err(Unfit::Empty);
    }
    map.mirror();
    Ok(map)
}

/// The secret in force and what may follow it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Secrets {
    current: Option<ProxySecret>,
    candidate: Option<ProxySecret>,
    hits: u32,
    epoch: u64,
}

impl Secrets {
    /// Takes a file in; returns whether the secret in force is another one now.
    pub(crate) fn offer(
        &mut self,
        secret: ProxySecret,
        origin: Origin,
        settings: &RefreshSettings,
    ) -> bool {
        if origin == Origin::Refresh && self.current.is_some() {
            if !settings.rotate_secret {
                return false;
            }
            self.hits = match self.candidate.as_ref() == Some(&secret) {
                true => self.hits.saturating_add(1),
                false => 1,
            };
            self.candidate = Some(secret.clone());
            if self.hits < settings.secret_stable {
                return false;
            }
        }
        if self.current.as_ref() == Some(&secret) {
            return false;
        }
        self.current = Some(secret);
        self.epoch += 1;
        true
    }

    /// The secret in force.
    pub(crate) fn current(&self) -> Option<&ProxySecret> {
        self.current.as_ref()
    }

    /// Grows with each change; 0 before the first secret.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }
}

const DEFAULT_DC: i16 = 2;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::proto::middle::config_file::ConfigFile;

    fn file(text: &str) -> Offered {
        Offered {
            file: ConfigFile::parse(text.as_bytes()),
            http_ok: true,
        }
    }

    fn started(settings: &RefreshSettings) -> Maps {
        let mut maps = Maps::new();
        let first = file("proxy_for 1 1.1.1.1:1; proxy_for 4 1.1.1.4:1; default 4");
        assert_eq!(
            maps.offer(false, &first, Origin::Startup, settings),
            Ok(true)
        );
        maps
    }

    #[test]
    fn the_start_mirrors_and_stores_the_default() {
        let settings = RefreshSettings::default();
        let mut maps = started(&settings);
        assert_eq!(
            maps.current().keys().copied().collect::<Vec<_>>(),
            [-4, -1, 1, 4]
        );
        assert_eq!((maps.default_dc(), maps.epoch()), (4, 1));
        assert_eq!(maps.families(), [true, false]);
        let sixth = file("proxy_for 1 [::1]:1; proxy_for 1 9.9.9.9:9");
        assert_eq!(
            maps.offer(true, &sixth, Origin::Startup, &settings),
            Ok(true)
        );
        assert_eq!(maps.current()[&-1].len(), 2, "of its own family only");
        assert_eq!(maps.default_dc(), 4);
        assert_eq!(
            maps.offer(true, &sixth, Origin::Startup, &settings),
            Ok(false)
        );
    }

    #[test]
    fn a_snapshot_counts_when_it_came_often_enough() {
        let settings = RefreshSettings::default();
        let mut maps = started(&settings);
        let (one, two) = (file("proxy_for 1 1.1.1.2:1"), file("proxy_for 1 1.1.1.3:1"));
        for (at, offered, applies) in [
            (0, &one, false),
            (1, &two, false),
            (2, &one, false),
            (3, &one, true),
            (4, &one, false),
        ] {
            let taken = maps.offer(false, offered, Origin::Refresh, &settings);
            assert_eq!(taken, Ok(false));
            assert_eq!(maps.apply(&settings, Millis(at)), applies, "{at}");
        }
        assert_eq!(maps.epoch(), 2);
        assert_eq!(maps.default_dc(), 2, "no default line: 2");
    }

    #[test]
    fn a_ready_one_waits_for_the_cooldown() {
        let settings = RefreshSettings {
            config_stable: 1,
            config_cooldown: Duration::from_secs(300),
            ..RefreshSettings::default()
        };
        let mut maps = started(&settings);
        let take =
            |maps: &mut Maps, text| maps.offer(false, &file(text), Origin::Refresh, &settings);
        take(&mut maps, "proxy_for 1 1.1.1.2:1").unwrap();
        assert!(maps.apply(&settings, Millis(10)));
        take(&mut maps, "proxy_for 1 1.1.1.3:1").unwrap();
        assert!(!maps.apply(&settings, Millis(300_009)));
        assert_eq!(maps.deadline(&settings), Some(Millis(300_010)));
        assert!(maps.apply(&settings, Millis(300_010)));
        assert_eq!(maps.deadline(&settings), None);
    }

    #[test]
    fn guards_leave_the_candidate_alone() {
        let mut settings = RefreshSettings::default();
        let mut maps = started(&settings);
        let good = file("proxy_for 1 1.1.1.2:1; proxy_for 2 1.1.1.2:1");
        maps.offer(false, &good, Origin::Refresh, &settings)
            .unwrap();
        let mut bad = good.clone();
        bad.http_ok = false;
        let mut refuse = |offered: &Offered, settings: &RefreshSettings| {
            maps.offer(false, offered, Origin::Refresh, settings)
                .unwrap_err()
        };
        assert_eq!(refuse(&bad, &settings), Unfit::Status);
        assert_eq!(
            refuse(&file("#"), &settings),
            Unfit::Lines { got: 0, min: 1 }
        );
        assert_eq!(
            refuse(&file("proxy_for 1 [::1]:1"), &settings),
            Unfit::Empty
        );
        settings.lines_min = 3;
        assert_eq!(refuse(&good, &settings), Unfit::Lines { got: 2, min: 3 });
        settings.lines_min = 1;
        maps.offer(false, &good, Origin::Refresh, &settings)
            .unwrap();
        assert!(maps.apply(&settings, Millis(0)), "its second time");
        settings.reject_empty = false;
        settings.require_2xx = false;
        for _ in 0..2 {
            let mut empty = file("proxy_for 1 [::1]:1");
            empty.http_ok = false;
            maps.offer(false, &empty, Origin::Refresh, &settings)
                .unwrap();
        }
        assert!(maps.apply(&settings, Millis(400_000)));
        assert!(maps.current().is_empty());
    }

    #[test]
    fn secrets_rotate_when_stable_and_allowed() {
        let secret = |byte| ProxySecret::new(&[byte; 32], 256).unwrap();
        let mut settings = RefreshSettings::default();
        let mut secrets = Secrets::default();
        assert!(secrets.offer(secret(1), Origin::Startup, &settings));
        assert!(!secrets.offer(secret(1), Origin::Startup, &settings));
        for (byte, changes) in [(2, false), (3, false), (2, false), (2, true), (2, false)] {
            let changed = secrets.offer(secret(byte), Origin::Refresh, &settings);
            assert_eq!(changed, changes);
        }
        assert_eq!(secrets.epoch(), 2);
        settings.rotate_secret = false;
        for _ in 0..3 {
            assert!(!secrets.offer(secret(4), Origin::Refresh, &settings));
        }
        assert_eq!(secrets.current(), Some(&secret(2)));
    }
}
