//! What the file says of users, for the API's disk-first answers.
//!
//! Secrets and tags are shown with the letters they are written with, which the configuration's
//! values no longer have. Not here: reading the file (`cache.rs`).

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use admin::{
    Expiration, Revision, SecretText, StoreError, StoredUser, StoredUsers, TlsDomainLink,
    UserDefaults, UserLinks,
};

use crate::{
    config::{
        Loaded,
        access::PER_USER,
        edit::{
            self, Text,
            rows::{self, Kind, Lines},
        },
        secrets::UserSecret,
        value::Map,
    },
    links::LinkBase,
};

/// A configuration that is, or was, on disk.
pub(super) struct View {
    /// The main file's.
    pub(super) bytes: Arc<[u8]>,
    /// Its values.
    pub(super) loaded: Loaded,
    base: LinkBase,
    /// As written, by user; found when it is asked for.
    texts: OnceLock<Texts>,
    users: OnceLock<Vec<StoredUser>>,
}

/// Strings of per-user tables as they are written.
#[derive(Default)]
struct Texts {
    secrets: HashMap<String, String>,
    ad_tags: HashMap<String, String>,
    expirations: HashMap<String, String>,
}

impl Texts {
    /// Those of one user, or of all; `None` when there is not one plain row for each value.
    fn plain(loaded: &Loaded, wanted: Option<&str>) -> Option<Self> {
        if loaded.files.len() > 1 {
            return None;
        }
        let mut texts = Self::default();
        let mut rows = [0_usize; 3];
        let is_wanted = |name: &str| wanted.is_none_or(|wanted| wanted == name);
        for line in Lines::new(&loaded.text) {
            let Kind::Row { table, name, value } = line.ok()?.kind else {
                continue;
            };
            let (count, texts) = match *PER_USER.get(table)? {
                "users" => (&mut rows[0], &mut texts.secrets),
                "user_ad_tags" => (&mut rows[1], &mut texts.ad_tags),
                "user_expirations" => (&mut rows[2], &mut texts.expirations),
                _ => continue,
            };
            *count += 1;
            if is_wanted(name)
                && let Some(text) = rows::string(value)
            {
                texts.insert(name.to_owned(), text.to_owned());
            }
        }
        let access = &loaded.config.access;
        let values = [
            access.users.0.len(),
            access.user_ad_tags.0.len(),
            access.user_expirations.0.len(),
        ];
        (rows == values).then_some(texts)
    }

    fn new(loaded: &Loaded) -> Self {
        if let Some(texts) = Self::plain(loaded, None) {
            return texts;
        }
        let joined = if loaded.files.len() > 1 {
            edit::joined(&loaded.path, &loaded.text)
        } else {
            None
        };
        let text = joined.as_deref().unwrap_or(&loaded.text);
        let Some(text) = Text::parse(text) else {
            return Self::default();
        };
        let strings = |table: &str| text.strings(&["access", table]).into_iter().collect();
        Self {
            secrets: strings("users"),
            ad_tags: strings("user_ad_tags"),
            expirations: strings("user_expirations"),
        }
    }
}

/// Values of per-user tables, to be found by name.
struct Values<'v> {
    max_tcp_conns: HashMap<&'v str, u64>,
    max_unique_ips: HashMap<&'v str, u64>,
    data_quota: HashMap<&'v str, u64>,
    expirations: HashMap<&'v str, i64>,
    rates: HashMap<&'v str, (u64, u64)>,
    enabled: HashMap<&'v str, bool>,
}

impl View {
    pub(super) fn new(bytes: Arc<[u8]>, loaded: Loaded, base: LinkBase) -> Self {
        Self {
            bytes,
            loaded,
            base,
            texts: OnceLock::new(),
            users: OnceLock::new(),
        }
    }

    pub(super) fn revision(&self) -> Revision {
        Revision(self.loaded.revision.clone())
    }

    pub(super) fn defaults(&self) -> UserDefaults {
        let access = &self.loaded.config.access;
        UserDefaults {
            max_tcp_conns: access.user_max_tcp_conns_global_each as u64,
            max_unique_ips: access.user_max_unique_ips_global_each as u64,
        }
    }

    /// All users.
    pub(super) fn all(&self) -> StoredUsers {
        let users = self.users.get_or_init(|| {
            let (values, texts) = (self.values(&|_| true), self.texts());
            let users = self.loaded.config.access.users.0.iter();
            users
                .map(|(name, secret)| self.stored(name, secret, &values, texts))
                .collect()
        });
        StoredUsers {
            revision: self.revision(),
            users: users.clone(),
            defaults: self.defaults(),
        }
    }

    /// One user.
    pub(super) fn user(&self, name: &str) -> Result<(StoredUser, SecretText), StoreError> {
        let users = &self.loaded.config.access.users;
        let secret = users.get(name).ok_or(StoreError::UserNotFound)?;
        let values = self.values(&|other| other == name);
        let own = match self.texts.get() {
            None => Texts::plain(&self.loaded, Some(name)),
            Some(_) => None,
        };
        let texts = own.as_ref().unwrap_or_else(|| self.texts());
        let written = texts.secrets.get(name);
        let text = written.and_then(|text| SecretText::parse(text));
        let text = text.or_else(|| SecretText::parse(&hex::encode(secret.0.0)));
        let text = text.ok_or(StoreError::Unparsable)?;
        Ok((self.stored(name, secret, &values, texts), text))
    }

    fn texts(&self) -> &Texts {
        self.texts.get_or_init(|| Texts::new(&self.loaded))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.loaded.config.access.users.get(name).is_some()
    }

    fn values(&self, wanted: &dyn Fn(&str) -> bool) -> Values<'_> {
        fn pick<'v, T, V>(
            map: &'v Map<T>,
            wanted: &dyn Fn(&str) -> bool,
            value: impl Fn(&T) -> V,
        ) -> HashMap<&'v str, V> {
            let all = map.0.iter().filter(|(name, _)| wanted(name));
            all.map(|(name, own)| (name.as_str(), value(own))).collect()
        }
        let access = &self.loaded.config.access;
        Values {
            max_tcp_conns: pick(&access.user_max_tcp_conns, wanted, |count| *count as u64),
            max_unique_ips: pick(&access.user_max_unique_ips, wanted, |count| *count as u64),
            data_quota: pick(&access.user_data_quota, wanted, |bytes| *bytes),
            expirations: pick(&access.user_expirations, wanted, |moment| moment.0),
            rates: pick(&access.user_rate_limits, wanted, |rate| {
                (rate.up_bps, rate.down_bps)
            }),
            enabled: pick(&access.user_enabled, wanted, |enabled| *enabled),
        }
    }

    fn stored(
        &self,
        name: &str,
        secret: &UserSecret,
        values: &Values<'_>,
        texts: &Texts,
    ) -> StoredUser {
        let links = self.base.links(&self.loaded.config, secret.0);
        let domains = links.tls_domains.into_iter().map(|own| TlsDomainLink {
            domain: own.domain,
            link: own.link,
        });
        let (up_bps, down_bps) = values.rates.get(name).copied().unwrap_or_default();
        let expiration = values.expirations.get(name).and_then(|secs| {
            let written = texts.expirations.get(name);
            let exact = written.and_then(|text| Expiration::parse(text));
            exact.or_else(|| Expiration::from_epoch_secs(*secs))
        });
        StoredUser {
            username: name.to_owned(),
            user_ad_tag: texts.ad_tags.get(name).cloned(),
            max_tcp_conns: values.max_tcp_conns.get(name).copied(),
            expiration,
            data_quota_bytes: values.data_quota.get(name).copied(),
            max_unique_ips: values.max_unique_ips.get(name).copied(),
            rate_limit_up_bps: Some(up_bps).filter(|bps| *bps > 0),
            rate_limit_down_bps: Some(down_bps).filter(|bps| *bps > 0),
            enabled: values.enabled.get(name).copied().unwrap_or(true),
            links: UserLinks {
                classic: links.classic,
                secure: links.secure,
                tls: links.tls,
                tls_domains: domains.collect(),
            },
        }
    }
}
