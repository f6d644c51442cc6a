//! The configuration file that a proxy under test is started with: one or many users, all DCs at
//! the fake one, no mask. In the keys that our proxy shares with telemt, so that it serves both.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use shards::proto::secret::Secret;

use crate::{
    client::DOMAIN,
    fake_me::{FakeMe, Page},
};

/// What may differ between two runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// `[shards] count`; the number of cores the process may use when unset.
    pub shards: Option<usize>,
    /// Users beside the one that clients use, who stands last.
    pub users_more: usize,
    /// Through middle proxies in place of the fake DC.
    pub through_me: bool,
    /// Any keys by `table.key`, values as in TOML; these win over what is written here.
    pub keys: BTreeMap<String, String>,
    name: String,
}

/// Where and for whom a file is written.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Directory of its own.
    pub dir: &'a Path,
    /// To listen on, on 127.0.0.1.
    pub port: u16,
    /// The fake DC.
    pub dc: SocketAddr,
    /// The middle proxies, for those who go through them.
    pub me: Option<&'a FakeMe>,
    /// The user's secret.
    pub secret: Secret,
}

impl ProxyConfig {
    /// For headings.
    pub fn name(&self) -> String {
        if self.name.is_empty() {
            "pinnace".into()
        } else {
            format!("pinnace:{}", self.name)
        }
    }

    /// The same with one more option, as on the command line.
    ///
    /// # Errors
    /// An option that does not exist.
    pub fn with(&self, option: &str) -> Result<ProxyConfig, String> {
        let comma = if self.name.is_empty() { "" } else { "," };
        format!("{}{comma}{option}", self.name).parse()
    }

    /// The same with one way to all DCs: an entry of `upstreams`, and its name for headings.
    /// Options come before it.
    pub fn through(&self, name: &str, entry: &str) -> ProxyConfig {
        let mut config = self.clone();
        config.keys.insert("upstreams".into(), format!("[{entry}]"));
        config.name = name.into();
        config
    }

    /// Writes `bench.toml`, and what tells of the middle proxies; returns its path.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, place: &Place<'_>) -> io::Result<PathBuf> {
        if let Some(me) = place.me {
            me.write_files(place.dir)?;
        }
        let path = place.dir.join("bench.toml");
        std::fs::write(&path, self.text(place))?;
        Ok(path)
    }

    fn text(&self, place: &Place<'_>) -> String {
        let mut tables: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let mut set = |key: &str, value: String| {
            let (table, key) = key.rsplit_once('.').unwrap_or(("", key));
            tables
                .entry(table.into())
                .or_default()
                .insert(key.into(), value);
        };
        for (key, value) in FIXED {
            set(key, value.into());
        }
        set("server.port", place.port.to_string());
        set("censorship.tls_domain", format!("{DOMAIN:?}"));
        set("censorship.mask", "false".to_owned());
        for dc in DC_IDS {
            set(
                &format!("dc_overrides.{dc:?}"),
                format!("[\"{}\"]", place.dc),
            );
        }
        if let Some(me) = place.me.filter(|_| self.through_me) {
            for (key, value) in me.config_keys(place.dir) {
                set(&key, value);
            }
            // What is measured goes through them or not at all.
            set("general.me2dc_fallback", "false".into());
        }
        if let Some(shards) = self.shards {
            set("shards.count", shards.to_string());
        }
        for n in 0..self.users_more {
            let secret = hex::encode(other_secret(n).0);
            set(&format!("access.users.other{n}"), format!("\"{secret}\""));
        }
        set(
            "access.users.zz_bench",
            format!("\"{}\"", hex::encode(place.secret.0)),
        );
        for (key, value) in &self.keys {
            set(key, value.clone());
        }
        let mut text = String::new();
        for (table, keys) in tables {
            if !table.is_empty() {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "\n[{table}]");
            }
            for (key, value) in keys {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
        text
    }
}

impl FromStr for ProxyConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<ProxyConfig, String> {
        let mut config = ProxyConfig {
            name: text.into(),
            ..ProxyConfig::default()
        };
        for option in text.split(',').filter(|o| !o.is_empty()) {
            let (key, value) = option
                .split_once('=')
                .ok_or_else(|| format!("{option:?} is not option=value"))?;
            let number = || {
                value
                    .parse::<usize>()
                    .map_err(|_| format!("{option:?}: not a number"))
            };
            match (key, value) {
                ("shards", _) => config.shards = Some(number()?),
                ("users", _) => config.users_more = number()?.saturating_sub(1),
                ("through", "me") => config.through_me = true,
                ("fast", "on" | "off") => {
                    config
                        .keys
                        .insert("general.fast_mode".into(), (value == "on").to_string());
                }
                (key, _) if key.contains('.') => {
                    config.keys.insert(key.into(), value.into());
                }
                _ => {
                    return Err(format!(
                        "{option:?}: known are shards=N, users=N, fast=on|off, through=me, table.key=value"
                    ));
                }
            }
        }
        Ok(config)
    }
}

impl Place<'_> {
    /// Splits a command line at blanks and fills in its placeholders.
    pub fn fill_in(&self, line: &str, config: &Path) -> Vec<String> {
        let file = |page: Page| self.dir.join(page.file()).to_string_lossy().into_owned();
        let word = |word: &str| {
            word.replace("{config}", &config.to_string_lossy())
                .replace("{port}", &self.port.to_string())
                .replace("{secret}", &hex::encode(self.secret.0))
                .replace("{domain}", DOMAIN)
                .replace("{dc_ip}", &self.dc.ip().to_string())
                .replace("{dc_port}", &self.dc.port().to_string())
                .replace("{dc}", &self.dc.to_string())
                .replace("{dir}", &self.dir.to_string_lossy())
                .replace("{me_secret}", &file(Page::Secret))
                .replace("{me_config}", &file(Page::ConfigV4))
        };
        line.split_whitespace().map(word).collect()
    }
}

/// Secret of the user `n` of `users_more`.
pub fn other_secret(n: usize) -> Secret {
    // A made-up prefix, so that it is not refused as all zero; the number makes them differ.
    Secret((0xb0a7_u128 << 64 | n as u128).to_be_bytes())
}

const DC_IDS: [&str; 6] = ["1", "2", "3", "4", "5", "203"];

/// The same in every run. The pause before a server hello is policy and not cost: with it churn
/// waits more than it works, so it is off unless a run asks for it. The API is off: its port could
/// be taken.
const FIXED: [(&str, &str); 19] = [
    ("general.use_middle_proxy", "false"),
    ("general.log_level", "\"normal\""),
    ("general.fast_mode", "true"),
    ("general.modes.classic", "true"),
    ("general.modes.secure", "true"),
    ("general.modes.tls", "true"),
    ("general.links.public_host", "\"127.0.0.1\""),
    ("network.ipv4", "true"),
    ("network.ipv6", "false"),
    ("server.listen_addr_ipv4", "\"127.0.0.1\""),
    ("server.listen_backlog", "4096"),
    ("server.max_connections", "0"),
    ("server.api.enabled", "false"),
    ("censorship.mask", "false"),
    ("censorship.server_hello_delay_min_ms", "0"),
    ("censorship.server_hello_delay_max_ms", "0"),
    ("censorship.tls_emulation", "false"),
    ("access.replay_check_len", "1048576"),
    ("general.beobachten", "false"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn place(dir: &Path) -> Place<'_> {
        Place {
            dir,
            port: 2443,
            dc: SocketAddr::from(([127, 0, 0, 1], 9000)),
            me: None,
            secret: Secret([0x11; 16]),
        }
    }

    #[test]
    fn options_reach_the_file() {
        let config: ProxyConfig = "shards=2,fast=off,users=3,shards.spin_us=50"
            .parse()
            .unwrap();
        let text = config.text(&place(Path::new("/")));
        for line in [
            "fast_mode = false",
            "count = 2",
            "spin_us = 50",
            "port = 2443",
            "\"4\" = [\"127.0.0.1:9000\"]",
            "zz_bench = \"11111111111111111111111111111111\"",
            "[dc_overrides]",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        assert_eq!(text.matches("other").count(), 2);
        assert_eq!(config.with("users=9").unwrap().users_more, 8);
    }

    #[test]
    fn a_way_stands_before_all_tables() {
        let entry = "{ type = \"socks5\", address = \"127.0.0.1:1080\" }";
        let config = ProxyConfig::default().through("socks5", entry);
        assert_eq!(config.name(), "pinnace:socks5");
        let text = config.text(&place(Path::new("/")));
        assert!(
            text.starts_with(&format!("upstreams = [{entry}]\n")),
            "{text}"
        );
    }

    #[test]
    fn through_me_wants_the_files_of_the_fake() {
        let (dir, me) = (tempfile::tempdir().unwrap(), FakeMe::five_dcs(1).unwrap());
        let place = Place {
            me: Some(&me),
            ..place(dir.path())
        };
        let config: ProxyConfig = "through=me".parse().unwrap();
        let path = config.write(&place).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains("use_middle_proxy = true"), "{text}");
        assert!(text.contains("/proxy-config-v4.txt\""), "{text}");
        assert!(dir.path().join(Page::Secret.file()).is_file());
        let words = place.fill_in("--secret={me_secret}", Path::new("/"));
        assert!(words[0].ends_with("/proxy-secret"), "{words:?}");
    }

    #[test]
    fn fills_in_command_lines() {
        let words =
            place(Path::new("/d")).fill_in("x -p {port} --dc={dc} {config}", Path::new("/d/c"));
        assert_eq!(words, ["x", "-p", "2443", "--dc=127.0.0.1:9000", "/d/c"]);
    }
}
