//! A configuration file, built key by key.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use shards::proto::secret::Secret;

use super::{free_port, process::Proxy};

/// The secret of user `alice`, whom every configuration has.
pub(crate) const ALICE: Secret = Secret([0xa1; 16]);
/// The secret of user `bob`, whom a configuration may have.
pub(crate) const BOB: Secret = Secret([0xb0; 16]);

/// Keys by table. The ports are chosen when the proxy starts.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    tables: BTreeMap<String, BTreeMap<String, String>>,
    args: Vec<String>,
    more: String,
}

impl Config {
    /// One shard, all modes, user `alice`, every DC at `dc`, no probes, no delay before the answer.
    pub(crate) fn new(dc: SocketAddr) -> Config {
        let mut config = Config {
            tables: BTreeMap::new(),
            args: Vec::new(),
            more: String::new(),
        };
        for (key, value) in FIXED {
            config = config.set(key, value);
        }
        for id in DC_IDS {
            config = config.dc(id, &[dc]);
        }
        config.on_one_core().user("alice", ALICE)
    }

    /// Sets `table.key` to a TOML value.
    pub(crate) fn set(mut self, key: &str, value: impl ToString) -> Config {
        let (table, key) = key.rsplit_once('.').unwrap_or(("", key));
        let table = self.tables.entry(table.to_owned()).or_default();
        table.insert(key.to_owned(), value.to_string());
        self
    }

    /// Leaves a key to its default.
    pub(crate) fn unset(mut self, key: &str) -> Config {
        let (table, key) = key.rsplit_once('.').unwrap_or(("", key));
        self.tables.get_mut(table).unwrap().remove(key);
        self
    }

    /// Where DC `id` is.
    pub(crate) fn dc(self, id: i16, addrs: &[SocketAddr]) -> Config {
        let list: Vec<String> = addrs.iter().map(|addr| format!("\"{addr}\"")).collect();
        self.set(
            &format!("dc_overrides.\"{id}\""),
            format!("[{}]", list.join(", ")),
        )
    }

    /// One more user.
    pub(crate) fn user(self, name: &str, secret: Secret) -> Config {
        self.set(
            &format!("access.users.{name}"),
            format!("\"{}\"", hex::encode(secret.0)),
        )
    }

    /// So many shards, on any cores.
    pub(crate) fn shards(self, count: usize) -> Config {
        self.unset("shards.cores").set("shards.count", count)
    }

    /// Text behind everything else: arrays of tables.
    pub(crate) fn more(mut self, text: &str) -> Config {
        self.more.push_str(text);
        self
    }

    /// The same with a part of that text replaced.
    pub(crate) fn edit(mut self, from: &str, to: &str) -> Config {
        assert!(self.more.contains(from), "{from}");
        self.more = self.more.replace(from, to);
        self
    }

    /// One more word on the command line.
    pub(crate) fn arg(mut self, word: &str) -> Config {
        self.args.push(word.to_owned());
        self
    }

    /// Words behind the file name on the command line.
    pub(crate) fn args(&self) -> &[String] {
        &self.args
    }

    /// Whether a key was set.
    pub(crate) fn has(&self, table: &str, key: &str) -> bool {
        self.tables
            .get(table)
            .is_some_and(|table| table.contains_key(key))
    }

    /// Ports that are still open to choice.
    pub(crate) fn with_ports(mut self) -> Config {
        if !self.has("server", "port") {
            self = self.set("server.port", free_port());
        }
        if !self.has("server.api", "listen") {
            let api = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
            self = self.set("server.api.listen", format!("\"{api}\""));
        }
        self
    }

    /// The value as it stands in the file.
    pub(crate) fn value(&self, table: &str, key: &str) -> &str {
        &self.tables[table][key]
    }

    /// The file.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (table, keys) in &self.tables {
            if !table.is_empty() {
                writeln!(text, "[{table}]").unwrap();
            }
            for (key, value) in keys {
                writeln!(text, "{key} = {value}").unwrap();
            }
        }
        text + &self.more
    }

    /// Writes the file.
    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, self.text()).expect("a configuration file");
    }

    /// Starts the proxy and waits until it serves.
    pub(crate) fn start(self) -> Proxy {
        Proxy::start(self)
    }

    /// Single shards would all be pinned to the first core otherwise, many tests at once.
    fn on_one_core(self) -> Config {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let config = self.set("shards.count", 1);
        match cores.get(number % cores.len().max(1)) {
            Some(core) => config.set("shards.cores", format!("\"{}\"", core.id)),
            None => config,
        }
    }
}

/// All that `proto/dc.rs` has addresses for: none of those may ever be connected to.
const DC_IDS: [i16; 9] = [1, 2, 3, 4, 5, 203, 10001, 10002, 10003];

const FIXED: [(&str, &str); 21] = [
    ("general.use_middle_proxy", "false"),
    ("general.log_level", "\"verbose\""),
    ("general.disable_colors", "true"),
    ("general.upstream_connect_retry_backoff_ms", "20"),
    ("general.modes.classic", "true"),
    ("general.modes.secure", "true"),
    ("general.modes.tls", "true"),
    ("general.links.public_host", "\"127.0.0.1\""),
    ("network.ipv4", "true"),
    ("network.ipv6", "false"),
    ("server.listen_addr_ipv4", "\"127.0.0.1\""),
    ("server.listen_addr_ipv6", "\"::1\""),
    ("server.api.enabled", "true"),
    ("server.api.whitelist", "[\"127.0.0.0/8\"]"),
    ("server.api.minimal_runtime_cache_ttl_ms", "0"),
    ("censorship.tls_domain", "\"www.example.org\""),
    // The default would send strangers to the main domain, on the Internet.
    ("censorship.mask", "false"),
    // Nobody outside is asked how that site answers.
    ("censorship.tls_emulation", "false"),
    ("censorship.server_hello_delay_min_ms", "0"),
    ("censorship.server_hello_delay_max_ms", "0"),
    ("shards.probe_secs", "0"),
];
