//! The configuration file: reads it, says everything that is wrong with it, and hands out values.
//!
//! One file per TOML table; `keys.rs` holds the macro that makes a table out of rows. Not here:
//! what the data plane gets (`wiring.rs`), links (`links.rs`). Source: config.md.

pub(crate) mod access;
pub(crate) mod api;
pub(crate) mod censorship;
pub(crate) mod changes;
mod checks;
mod domain;
pub(crate) mod edit;
mod error;
pub(crate) mod general;
pub(crate) mod keys;
pub(crate) mod kinds;
pub(crate) mod logging;
pub(crate) mod me_pool;
pub(crate) mod me_route;
pub(crate) mod me_source;
pub(crate) mod network;
mod plain;
mod reach;
mod read;
pub(crate) mod root;
pub(crate) mod secrets;
mod section;
pub(crate) mod server;
mod settle;
pub(crate) mod shards;
pub(crate) mod sockets;
pub(crate) mod source;
mod syntax;
pub(crate) mod timeouts;
mod unknown;
pub(crate) mod upstreams;
pub(crate) mod value;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest as _, Sha256};
use toml_edit::Document;

pub(crate) use self::error::{Finding, Problem};
use self::{
    keys::{Group, Row},
    read::Reading,
    section::Section,
    source::Source,
};

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// The main file as it was named.
    pub(crate) path: PathBuf,
    /// Its text.
    pub(crate) text: String,
    /// SHA-256 of its bytes, lower-case hex: the revision of the control API.
    pub(crate) revision: String,
    /// It and all included files.
    pub(crate) files: Vec<Arc<Path>>,
    /// SHA-256 of the text with its includes.
    pub(crate) digest: Digest,
    /// The values.
    pub(crate) config: Config,
    /// What was noticed on the way, in file order.
    pub(crate) warnings: Vec<Finding>,
    /// Full names of the keys the file sets, sorted.
    pub(crate) set: Vec<String>,
}

impl Loaded {
    /// Whether the file sets a key; the others have their defaults.
    pub(crate) fn sets(&self, key: &str) -> bool {
        self.set
            .binary_search_by(|own| own.as_str().cmp(key))
            .is_ok()
    }
}

/// Tells texts apart, includes put in.
pub(crate) type Digest = [u8; 32];

/// A configuration that cannot be used.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    /// Everything that is wrong, in file order; at least one.
    pub(crate) errors: Vec<Finding>,
    /// What was noticed besides.
    pub(crate) warnings: Vec<Finding>,
}

impl Failed {
    /// Whether a file could not even be read because too many are open: it may be right.
    pub(crate) fn is_shortage(&self) -> bool {
        let mut problems = self.errors.iter().map(|error| &error.problem);
        problems.any(|problem| matches!(problem, Problem::Shortage { .. }))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failed {}

/// Reads and checks a file with all it includes.
///
/// # Errors
/// Everything that is wrong, in one go.
pub(crate) fn load(path: &Path) -> Result<Loaded, Failed> {
    match source::read(path) {
        Ok((text, bytes)) => {
            let mut loaded = parse(path, text)?;
            loaded.revision = revision(&bytes);
            Ok(loaded)
        }
        Err(reason) => Err(reason.into_failed(path)),
    }
}

/// The revision of a main file with these bytes.
pub(crate) fn revision(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Checks the text of the main file at `path`; included files are read from disk.
///
/// # Errors
/// As [`load`].
pub(crate) fn parse(path: &Path, text: String) -> Result<Loaded, Failed> {
    let fail = |errors| Failed {
        errors,
        warnings: Vec::new(),
    };
    let source = Source::assemble(path, &text).map_err(fail)?;
    let digest = Sha256::digest(&source.text).into();
    let document = Document::parse(source.text.as_str())
        .map_err(|error| fail(vec![syntax::finding(&source, &error)]))?;
    let root = Section::new("", 0, document.into_table());
    let files = source.files.clone();
    let mut reading = Reading::new(source);
    let mut config = Config::read(&mut reading, root);
    checks::check(&mut reading, &config);
    settle::settle(&reading, &mut config);
    settle::advise(&mut reading, &config);
    let unknown = std::mem::take(&mut reading.unknown);
    if config.general.config_strict {
        reading.errors.extend(unknown);
    } else {
        reading.warnings.extend(unknown);
    }
    let order = |finding: &Finding| {
        let file = files.iter().position(|file| *file == finding.place.file);
        (file, finding.place.line, finding.place.col)
    };
    reading.errors.sort_by_key(order);
    reading.warnings.sort_by_key(order);
    let set = reading.set_keys();
    let Reading {
        errors, warnings, ..
    } = reading;
    if !errors.is_empty() {
        return Err(Failed { errors, warnings });
    }
    let revision = revision(text.as_bytes());
    Ok(Loaded {
        path: path.to_owned(),
        text,
        revision,
        files,
        digest,
        config,
        warnings,
        set,
    })
}

/// What a start finds wrong with a key of a file that loads, as [`load`] would say it.
pub(crate) fn rule(loaded: &Loaded, key: &str, text: String) -> Finding {
    let problem = Problem::Rule { text };
    let source = Source::assemble(&loaded.path, &loaded.text)
        .unwrap_or_else(|_| Source::alone(&loaded.path, ""));
    let document = Document::parse(source.text.clone());
    let mut reading = Reading::new(source);
    if let Ok(document) = document {
        let _ = Config::read(&mut reading, Section::new("", 0, document.into_table()));
    }
    reading.about(key, problem)
}

/// What [`Loaded::digest`] would be for the files as they are now, without judging them; `None`
/// when one of them cannot be read.
pub(crate) fn digest(path: &Path) -> Option<Digest> {
    let (text, _) = source::read(path).ok()?;
    let source = Source::assemble(path, &text).ok()?;
    Some(Sha256::digest(&source.text).into())
}

macro_rules! config {
    (
        groups { $( $( #[doc = $doc:literal] )+ $field:ident: $ty:ty, )+ }
        lists { $( $( #[doc = $list_doc:literal] )+ $list:ident: $item:ty, )+ }
    ) => {
        /// All values of a file, each table as a field.
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) struct Config {
            $( $( #[doc = $doc] )+ pub(crate) $field: $ty, )+
            $( $( #[doc = $list_doc] )+ pub(crate) $list: Vec<$item>, )+
        }

        impl Config {
            /// Rows of plain tables whose values differ from `other`'s.
            fn differing(&self, other: &Self) -> Vec<&'static Row> {
                let groups = [ $( self.$field.differing(&other.$field) ),+ ];
                groups.into_iter().flatten().collect()
            }

            /// Takes over the values of plain tables that apply without a restart.
            fn take_hot(&mut self, from: &Self) {
                $( self.$field.take_hot(&from.$field); )+
            }
        }

        /// Every key of the file.
        pub(crate) fn rows() -> impl Iterator<Item = &'static Row> {
            let groups: Vec<&'static [Row]> =
                vec![ $( <$ty as Group>::ROWS, )+ $( <$item as Group>::ROWS, )+ ];
            groups.into_iter().flatten()
        }
    };
}

config! {
    groups {
        /// Before the first table.
        root: root::Root,
        /// `[general]`.
        general: general::General,
        /// `[general.modes]`.
        modes: general::Modes,
        /// `[general.links]`.
        links: general::Links,
        /// `[general.telemetry]`.
        telemetry: general::Telemetry,
        /// `[general]`: connecting to Telegram.
        connect: upstreams::Connect,
        /// `[general]`: address lists and our public address.
        me_source: me_source::MeSource,
        /// `[general]`: the Middle-End pool.
        me_pool: me_pool::MePool,
        /// `[general]`: its floor.
        me_floor: me_pool::MeFloor,
        /// `[general]`: its rebuilds.
        me_reinit: me_pool::MeReinit,
        /// `[general]`: its queues.
        me_route: me_route::MeRoute,
        /// `[logging]`.
        logging: logging::Logging,
        /// `[network]`.
        network: network::Network,
        /// `[server]`.
        server: server::Server,
        /// `[server.api]`.
        api: api::Api,
        /// `[server.conntrack_control]`.
        conntrack: server::Conntrack,
        /// `[timeouts]`.
        timeouts: timeouts::Timeouts,
        /// `[censorship]`: FakeTLS.
        censorship: censorship::Censorship,
        /// `[censorship]`: the mask.
        mask: censorship::Mask,
        /// `[censorship.tls_fetch]`.
        tls_fetch: censorship::TlsFetch,
        /// `[access]`.
        access: access::Access,
        /// `[shards]`.
        shards: shards::Shards,
    }
    lists {
        /// `[[server.listeners]]`.
        listeners: server::Listener,
        /// `[[upstreams]]`.
        upstreams: upstreams::Upstream,
    }
}

impl Config {
    /// Takes every known key out of the file and reports the rest.
    fn read(reading: &mut Reading, mut root: Section) -> Self {
        let mut general = reading.table(&mut root, "general");
        let mut modes = reading.table(&mut general, "modes");
        let mut links = reading.table(&mut general, "links");
        let mut telemetry = reading.table(&mut general, "telemetry");
        let mut logging = reading.table(&mut root, "logging");
        let mut network = reading.table(&mut root, "network");
        let mut server = reading.table(&mut root, "server");
        let mut api = api_section(reading, &mut server);
        let mut conntrack = reading.table(&mut server, "conntrack_control");
        let listeners = reading.tables(&mut server, "listeners");
        let mut timeouts = reading.table(&mut root, "timeouts");
        let mut censorship = reading.table(&mut root, "censorship");
        let mut tls_fetch = reading.table(&mut censorship, "tls_fetch");
        let mut access = reading.table(&mut root, "access");
        let mut shards = reading.table(&mut root, "shards");
        let upstreams = reading.tables(&mut root, "upstreams");
        unknown::carry(reading, &mut timeouts, &mut general);

        let config = Self {
            root: reading.group(&mut root),
            general: reading.group(&mut general),
            modes: reading.group(&mut modes),
            links: reading.group(&mut links),
            telemetry: reading.group(&mut telemetry),
            connect: reading.group(&mut general),
            me_source: reading.group(&mut general),
            me_pool: reading.group(&mut general),
            me_floor: reading.group(&mut general),
            me_reinit: reading.group(&mut general),
            me_route: reading.group(&mut general),
            logging: reading.group(&mut logging),
            network: reading.group(&mut network),
            server: reading.group(&mut server),
            api: reading.group(&mut api),
            conntrack: reading.group(&mut conntrack),
            timeouts: reading.group(&mut timeouts),
            censorship: reading.group(&mut censorship),
            mask: reading.group(&mut censorship),
            tls_fetch: reading.group(&mut tls_fetch),
            access: reading.group(&mut access),
            shards: reading.group(&mut shards),
            listeners: each(reading, listeners, checks::listener),
            upstreams: each(reading, upstreams, checks::upstream),
        };
        for section in [
            root, general, modes, links, telemetry, logging, network, server, api, conntrack,
            timeouts, censorship, tls_fetch, access, shards,
        ] {
            unknown::report(reading, section);
        }
        config
    }
}

/// Reads every table of an array, checks it and reports what is left of it.
fn each<G: Group>(
    reading: &mut Reading,
    sections: Vec<Section>,
    check: fn(&mut Reading, &Section, &G),
) -> Vec<G> {
    let read = |mut section: Section| {
        let group = reading.group(&mut section);
        check(reading, &section, &group);
        unknown::report(reading, section);
        group
    };
    sections.into_iter().map(read).collect()
}

/// `[server.api]`, or the same table under its older name.
fn api_section(reading: &mut Reading, server: &mut Section) -> Section {
    let api = reading.table(server, "api");
    let mut older = reading.table(server, "admin_api");
    let Some(at) = older.at else { return api };
    let (key, place) = (older.name.clone(), reading.place(at));
    let both = api.at.is_some();
    if both {
        let text = "is the older name of server.api, which is there too; remove one".to_owned();
        reading.errors.push(Finding {
            place,
            key,
            value: None,
            problem: Problem::Rule { text },
        });
        return api;
    }
    let problem = Problem::Old { new: "server.api" };
    reading.warnings.push(Finding {
        place,
        key,
        value: None,
        problem,
    });
    older.name = "server.api".to_owned();
    older
}

#[cfg(test)]
mod tests;
