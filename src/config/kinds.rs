//! Values with a form of their own: host names, dates, rates, lists of names.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Component, Path},
};

use jiff::Timestamp;
use toml_edit::Item;

use super::{
    error::Problem,
    keys::full_name,
    read::{Reading, Slot},
    value::{Value, quoted, text, wrong_form, wrong_type},
};

/// A FakeTLS domain: a bare host name, lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Domain(pub(crate) String);

impl Value for Domain {
    fn kind() -> String {
        "string".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        const EXPECTED: &str = "a host name such as \"www.example.org\"";
        let text = text(slot, reading, EXPECTED)?;
        match super::domain::check(text) {
            Ok(domain) => Some(Self(domain)),
            Err(what) => wrong_form(slot, reading, what, EXPECTED),
        }
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

/// Text that is not blank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filled(pub(crate) String);

impl Value for Filled {
    fn kind() -> String {
        "string".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        let text = text(slot, reading, "a string")?;
        if text.trim().is_empty() {
            return wrong_form(slot, reading, "is blank", "some text, or leave the key out");
        }
        Some(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

/// The path of a file that the process writes, without `..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StatePath(pub(crate) String);

impl Value for StatePath {
    fn kind() -> String {
        "string".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        const EXPECTED: &str = "a path without \"..\", of a file in a directory that exists";
        let Filled(path) = Filled::read(slot, reading)?;
        let parts = &mut Path::new(&path).components();
        if parts.any(|part| part == Component::ParentDir) {
            return wrong_form(slot, reading, "has \"..\" in it", EXPECTED);
        }
        Some(Self(path))
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

/// `host:port`, IPv6 in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort(pub(crate) String);

impl Value for HostPort {
    fn kind() -> String {
        "string".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        const EXPECTED: &str = "host:port, IPv6 in brackets";
        let text = text(slot, reading, EXPECTED)?.trim();
        let what = match text.rsplit_once(':') {
            _ if text.contains("://") => "has a scheme",
            None => "has no port",
            Some((host, port)) => {
                let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
                match port.parse::<u16>() {
                    Ok(1..) if !host.is_empty() && !bare_v6 => {
                        return Some(Self(text.to_owned()));
                    }
                    Ok(1..) if bare_v6 => "has an IPv6 address without brackets",
                    Ok(1..) => "has no host",
                    _ => "has no port from 1 to 65535",
                }
            }
        };
        wrong_form(slot, reading, what, EXPECTED)
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

/// Addresses of a DC: one `ip:port` or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DcAddrs(pub(crate) Vec<SocketAddr>);

impl Value for DcAddrs {
    fn kind() -> String {
        "string|string[]".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        let number = slot.key.rsplit('.').next().unwrap_or("");
        if number.parse::<i16>().is_err() {
            return wrong_form(
                slot,
                reading,
                "does not name a DC",
                "a DC number as its key",
            );
        }
        // Blank entries are dropped, as templates leave them behind.
        let blank = |item: &Item| item.as_str().is_some_and(|text| text.trim().is_empty());
        let items: Vec<Item> = match slot.item.as_array() {
            Some(list) => list.iter().cloned().map(Item::Value).collect(),
            None => vec![slot.item.clone()],
        };
        let read: Vec<Option<SocketAddr>> = items
            .iter()
            .filter(|item| !blank(item))
            .map(|item| SocketAddr::read(&slot.inner(slot.key.clone(), item, slot.at), reading))
            .collect();
        read.into_iter().collect::<Option<_>>().map(Self)
    }

    fn show(&self) -> String {
        self.0.show()
    }
}

/// A moment as seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) i64);

impl Value for Moment {
    fn kind() -> String {
        "datetime".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        const EXPECTED: &str = "date, time and offset, such as \"2026-12-31T23:59:59Z\"";
        let text = match slot.item.as_datetime() {
            Some(date) => date.to_string(),
            None => text(slot, reading, EXPECTED)?.to_owned(),
        };
        // A bare date or a missing offset does not parse as a timestamp.
        match text.parse::<Timestamp>() {
            Ok(moment) => Some(Self(moment.as_second())),
            Err(_) => wrong_form(slot, reading, "is no complete moment", EXPECTED),
        }
    }

    fn show(&self) -> String {
        quoted(
            &Timestamp::from_second(self.0)
                .map(|at| at.to_string())
                .unwrap_or_default(),
        )
    }
}

/// Bits per second in both directions; 0 is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// From the client.
    pub(crate) up_bps: u64,
    /// To the client.
    pub(crate) down_bps: u64,
}

impl Value for Rate {
    fn kind() -> String {
        "{up_bps:u64,down_bps:u64}".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        let entries = reading.map(slot, "{ up_bps = n, down_bps = n }")?;
        let mut rate = Self {
            up_bps: 0,
            down_bps: 0,
        };
        for entry in entries {
            let inner = slot.inner(full_name(&slot.key, entry.name), &entry.item, entry.at);
            match entry.name {
                "up_bps" => rate.up_bps = u64::read(&inner, reading)?,
                "down_bps" => rate.down_bps = u64::read(&inner, reading)?,
                _ => reading.error(
                    &inner,
                    Problem::Unknown {
                        near: Some("up_bps".into()),
                    },
                ),
            }
        }
        if rate.up_bps == 0 && rate.down_bps == 0 {
            let expected = "up_bps or down_bps above 0, in bits per second";
            return wrong_form(slot, reading, "limits nothing", expected);
        }
        Some(rate)
    }

    fn show(&self) -> String {
        format!(
            "{{\"up_bps\":{},\"down_bps\":{}}}",
            self.up_bps, self.down_bps
        )
    }
}

/// Users whose links are printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// `"*"`.
    All,
    /// A list.
    Some(Vec<String>),
}

impl Names {
    /// Whether a name is meant.
    pub(crate) fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(names) => names.iter().any(|own| own == name),
        }
    }
}

impl Value for Names {
    fn kind() -> String {
        "string|string[]".to_owned()
    }

    fn choices() -> &'static [&'static str] {
        &["*"]
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        if slot.item.as_str() == Some("*") {
            return Some(Self::All);
        }
        let expected = "\"*\" or a list of names";
        if slot.item.is_str() {
            let fix = Some("put the name in brackets");
            return wrong_type(slot, reading, expected, fix);
        }
        if !slot.item.is_array() {
            return wrong_type(slot, reading, expected, None);
        }
        Vec::read(slot, reading).map(Self::Some)
    }

    fn show(&self) -> String {
        match self {
            Self::All => quoted("*"),
            Self::Some(names) => names.show(),
        }
    }
}

/// 4 or 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4 first.
    V4,
    /// IPv6 first.
    V6,
}

impl Value for Family {
    fn kind() -> String {
        "u8".to_owned()
    }

    fn choices() -> &'static [&'static str] {
        &["4", "6"]
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        match slot.item.as_integer() {
            Some(4) => Some(Self::V4),
            Some(6) => Some(Self::V6),
            Some(_) => {
                reading.error(
                    slot,
                    Problem::OutOfRange {
                        allowed: "4 or 6".to_owned(),
                    },
                );
                None
            }
            None => {
                let fix = slot.item.is_str().then_some("remove the quotes");
                wrong_type(slot, reading, "4 or 6", fix)
            }
        }
    }

    fn show(&self) -> String {
        match self {
            Self::V4 => "4".to_owned(),
            Self::V6 => "6".to_owned(),
        }
    }
}

/// `host:port:ip`, a pinned address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DnsPin {
    /// Host name.
    pub(crate) host: String,
    /// Port it is pinned for.
    pub(crate) port: u16,
    /// Its address.
    pub(crate) ip: IpAddr,
}

impl Value for DnsPin {
    fn kind() -> String {
        "string".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        const EXPECTED: &str = "host:port:ip, IPv6 in brackets";
        let mut parts = text(slot, reading, EXPECTED)?.splitn(3, ':');
        let pin = (|| {
            let host = parts.next().filter(|host| !host.is_empty())?.to_owned();
            let port = parts.next()?.parse().ok()?;
            let ip = parts.next()?;
            let v6 = ip.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            let ip = v6.map_or_else(
                || ip.parse().map(IpAddr::V4).ok(),
                |v6| v6.parse().map(IpAddr::V6).ok(),
            )?;
            Some(Self { host, port, ip })
        })();
        pin.or_else(|| wrong_form(slot, reading, "does not fit", EXPECTED))
    }

    fn show(&self) -> String {
        quoted(&format!("{}:{}:{}", self.host, self.port, self.ip))
    }
}
