//! The host names that have to be resolved for the shards.

use shards::settings::HostPort;

use super::{mask, upstream};
use crate::{
    config::{Config, kinds::Family},
    names::Families,
};

/// Every host that a shard may connect to, behind the key that it is from; addresses may be among
/// them.
pub(crate) fn hosts(config: &Config) -> impl Iterator<Item = (String, HostPort)> {
    let targets = mask::targets(config).into_iter();
    targets.chain(upstream::servers(config))
}

/// Which addresses of a host are of use.
pub(crate) fn families(config: &Config) -> Families {
    let network = &config.network;
    Families {
        ipv4: network.ipv4,
        ipv6: network.ipv6 == Some(true),
        prefer_ipv6: network.prefer == Family::V6,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    /// Names with their keys, as `key name`.
    fn names(text: &str) -> Vec<String> {
        let text = format!(
            "[censorship]\ntls_domain = \"main.example\"\n{text}\n\
             [access.users]\nalice = \"3f1c0e5ab2d94c7786f0a1b2c3d4e5f6\"\n"
        );
        let config = parse(Path::new("config.toml"), text).unwrap().config;
        let named = hosts(&config).filter(|(_, at)| at.host.name().is_some());
        let mut all: Vec<String> = named
            .map(|(key, at)| format!("{key} {}", at.host))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn only_names_are_resolved_and_only_those_in_use() {
        let two = "tls_domains = [\"two.example\"]\n";
        assert_eq!(
            names(two),
            [
                "censorship.tls_domain main.example",
                "censorship.tls_domains two.example"
            ]
        );
        let fixed = format!("{two}mask_host = \"Other.example\"");
        assert_eq!(names(&fixed), ["censorship.mask_host other.example"]);
        for text in [
            "mask_host = \"192.0.2.1\"",
            "mask = false",
            "mask_unix_sock = \"/m\"",
        ] {
            assert_eq!(names(text), [""; 0], "{text}");
        }
        let exclusive = "mask = true\nmask_host = \"192.0.2.1\"\n\
                         exclusive_mask = { \"a.example\" = \"b.example:4\" }";
        assert_eq!(
            names(exclusive),
            ["censorship.exclusive_mask.a.example b.example"]
        );
    }

    #[test]
    fn servers_are_named_by_their_place_in_the_file() {
        let upstreams = "mask = false\n\
            [[upstreams]]\ntype = \"direct\"\n\
            [[upstreams]]\ntype = \"socks4\"\naddress = \"off.example:1\"\nenabled = false\n\
            [[upstreams]]\ntype = \"socks5\"\naddress = \"Socks.example:1080\"\n\
            [[upstreams]]\ntype = \"socks5\"\naddress = \"192.0.2.1:1080\"\n\
            [[upstreams]]\ntype = \"shadowsocks\"\n\
            url = \"ss://aes-256-gcm:word@ss.example:8388\"\n\
            [general]\nuse_middle_proxy = false";
        assert_eq!(
            names(upstreams),
            [
                "upstreams[2].address socks.example",
                "upstreams[4].url ss.example"
            ]
        );
    }
}
