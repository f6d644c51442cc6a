//! Values about sockets and networks: segment sizes, socket files, networks with rates.

use ipnet::IpNet;
use shards::proto::shadowsocks::ServerUrl;

use super::{
    keys::full_name,
    kinds::Rate,
    read::{Reading, Slot},
    value::{Value, quoted, text, wrong_form, wrong_type},
};

/// A TCP segment size: a preset or a number in quotes; `None` leaves the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mss(pub(crate) Option<u16>);

impl Value for Mss {
    fn kind() -> String {
        "string".to_owned()
    }

    fn choices() -> &'static [&'static str] {
        &["", "extreme-low", "tspu", "2in8"]
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        const EXPECTED: &str = "\"\", \"extreme-low\", \"tspu\", \"2in8\" or \"88\" to \"4096\"";
        match text(slot, reading, EXPECTED)?.trim() {
            "" => Some(Self(None)),
            "extreme-low" => Some(Self(Some(88))),
            "tspu" => Some(Self(Some(92))),
            "2in8" => Some(Self(Some(256))),
            other => match other.parse() {
                Ok(size @ 88..=4096) => Some(Self(Some(size))),
                Ok(_) => wrong_form(slot, reading, "is out of range", EXPECTED),
                Err(_) => wrong_form(slot, reading, "is neither", EXPECTED),
            },
        }
    }

    fn show(&self) -> String {
        quoted(&self.0.map(|size| size.to_string()).unwrap_or_default())
    }
}

/// The path of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnixPath(pub(crate) String);

impl Value for UnixPath {
    fn kind() -> String {
        "string".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        let path = text(slot, reading, "a path")?;
        match path.len() {
            1..=107 => Some(Self(path.to_owned())),
            0 => wrong_form(slot, reading, "is empty", "a path, or leave the key out"),
            long => {
                let what = format!("has {long} bytes");
                wrong_form(slot, reading, what, "at most 107, as a Unix socket's path")
            }
        }
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

/// A file mode in octal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileMode(pub(crate) u32);

impl Value for FileMode {
    fn kind() -> String {
        "string".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        const EXPECTED: &str = "octal digits in quotes, such as \"0660\"";
        let text = text(slot, reading, EXPECTED)?.trim();
        match u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8) {
            Ok(mode @ 0..=0o7777) => Some(Self(mode)),
            _ => wrong_form(slot, reading, "is no file mode", EXPECTED),
        }
    }

    fn show(&self) -> String {
        quoted(&format!("{:04o}", self.0))
    }
}

/// Firewall rules against connection floods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SynLimit {
    /// None.
    Off,
    /// With iptables.
    Iptables,
    /// With nftables.
    Nftables,
}

impl Value for SynLimit {
    fn kind() -> String {
        "bool|string".to_owned()
    }

    fn choices() -> &'static [&'static str] {
        &["false", "iptables", "nftables"]
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        const EXPECTED: &str = "false, \"iptables\" or \"nftables\"";
        match (slot.item.as_bool(), slot.item.as_str()) {
            (Some(false), _) | (_, Some("off" | "none" | "disabled" | "false")) => Some(Self::Off),
            (_, Some("iptables")) => Some(Self::Iptables),
            (_, Some("nftables")) => Some(Self::Nftables),
            (Some(true), _) => wrong_form(slot, reading, "does not name a firewall", EXPECTED),
            (_, Some(_)) => wrong_form(slot, reading, "is none of the three", EXPECTED),
            (None, None) => wrong_type(slot, reading, EXPECTED, None),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Off => "false".to_owned(),
            Self::Iptables => quoted("iptables"),
            Self::Nftables => quoted("nftables"),
        }
    }
}

/// The URL of a Shadowsocks server; holds a password, so it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SsUrl(pub(crate) String);

impl std::fmt::Debug for SsUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SsUrl(..)")
    }
}

impl Value for SsUrl {
    fn kind() -> String {
        "string".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        const EXPECTED: &str = "\"ss://…@host:port\" without a plugin";
        let url = text(slot, reading, EXPECTED)?.trim();
        if let Err(error) = ServerUrl::parse(url) {
            return wrong_form(slot, reading, error.to_string(), EXPECTED);
        }
        Some(Self(url.to_owned()))
    }

    fn show(&self) -> String {
        quoted("(hidden)")
    }
}

/// Whom a rate of `cidr_rate_limits` is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetKey {
    /// One network.
    Net(IpNet),
    /// Every IPv4 network of this length, each with its own bucket.
    Each4(u8),
    /// The same for IPv6.
    Each6(u8),
}

/// Rates by source network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NetRates(pub(crate) Vec<(NetKey, Rate)>);

impl Value for NetRates {
    fn kind() -> String {
        "map<cidr|template,{up_bps:u64,down_bps:u64}>".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        let entries = reading.map(slot, "\"network\" = { up_bps = n, down_bps = n }")?;
        let mut all: Vec<(NetKey, Rate)> = Vec::with_capacity(entries.len());
        for entry in entries {
            let inner = slot.inner(full_name(&slot.key, entry.name), &entry.item, entry.at);
            let keys = net_keys(entry.name);
            if keys.is_empty() {
                let expected = "a network, *4/N, *6/N or */N as its key";
                wrong_form::<()>(&inner, reading, "is for no network", expected);
            }
            let Some(rate) = Rate::read(&inner, reading) else {
                continue;
            };
            for key in keys {
                if all.iter().any(|(other, _)| *other == key) {
                    let expected = "one entry for each";
                    wrong_form::<()>(&inner, reading, "repeats another entry", expected);
                }
                all.push((key, rate));
            }
        }
        Some(Self(all))
    }

    fn show(&self) -> String {
        // Only ever shown as its default.
        "{}".to_owned()
    }
}

/// What a key of `cidr_rate_limits` stands for; empty when it is malformed.
fn net_keys(text: &str) -> Vec<NetKey> {
    let length = |text: &str, max: u8| text.parse().ok().filter(|bits| *bits <= max);
    if let Some(bits) = text.strip_prefix("*4/") {
        return length(bits, 32).map(NetKey::Each4).into_iter().collect();
    }
    if let Some(bits) = text.strip_prefix("*6/") {
        return length(bits, 128).map(NetKey::Each6).into_iter().collect();
    }
    if let Some(bits) = text.strip_prefix("*/") {
        let both = |bits: u8| vec![NetKey::Each4(bits), NetKey::Each6(bits * 4)];
        return length(bits, 32).map(both).unwrap_or_default();
    }
    text.parse().map(NetKey::Net).into_iter().collect()
}

/// Built-in lists of networks.
pub(crate) fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}
