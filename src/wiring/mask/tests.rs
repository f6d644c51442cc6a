//! From the keys of `[censorship]` to targets, limits and names.

use std::path::Path;

use super::*;
use crate::config::parse;

const USER: &str = "\n[access.users]\nalice = \"3f1c0e5ab2d94c7786f0a1b2c3d4e5f6\"\n";

fn config(keys: &str) -> Config {
    let text = format!("[censorship]\ntls_domain = \"main.example\"\n{keys}{USER}");
    parse(Path::new("config.toml"), text).unwrap().config
}

/// Where somebody goes who names nothing, and where who names `sni`.
fn places(keys: &str, sni: &str) -> (String, String) {
    let mask = mask(&config(keys), 1).unwrap();
    let named = mask.by_sni.get(sni).unwrap_or(&mask.target);
    (mask.target.to_string(), named.to_string())
}

#[test]
fn targets_follow_the_order_of_the_keys() {
    let domains = "tls_domains = [\"two.example\"]\n";
    let exclusive = "exclusive_mask = { \"Two.example\" = \"[2001:db8::1]:99\" }\n";
    for (keys, main, named) in [
        ("", "main.example:443", "two.example:443"),
        (
            "mask_port = 8443\n",
            "main.example:8443",
            "two.example:8443",
        ),
        (
            "mask_dynamic = false\n",
            "main.example:443",
            "main.example:443",
        ),
        (
            "mask_host = \"other.example\"\n",
            "other.example:443",
            "other.example:443",
        ),
        (
            "mask_host = \"192.0.2.1\"\n",
            "192.0.2.1:443",
            "192.0.2.1:443",
        ),
        (
            "mask_unix_sock = \"/run/m.sock\"\n",
            "/run/m.sock",
            "/run/m.sock",
        ),
    ] {
        let keys = format!("{domains}{keys}");
        let want = (main.to_owned(), named.to_owned());
        assert_eq!(places(&keys, "two.example"), want, "{keys}");
        let own = (main.to_owned(), "[2001:db8::1]:99".to_owned());
        assert_eq!(
            places(&format!("{keys}{exclusive}"), "two.example"),
            own,
            "{keys}"
        );
    }
    assert!(mask(&config("mask = false\n"), 1).is_none());
}

#[test]
fn limits_and_headers_are_handed_on() {
    let settings = |keys: &str| mask(&config(keys), 4).unwrap();
    let usual = settings("");
    assert_eq!(usual.bytes_max, Some(5_242_880));
    assert_eq!((usual.lifetime.as_secs(), usual.idle.as_secs()), (60, 5));
    assert_eq!((usual.splices_max, usual.pace_ms), (SPLICES_MAX / 4, None));
    assert_eq!(usual.proxy_header, None);
    let other = settings(
        "mask_relay_max_bytes = 0\nmask_proxy_protocol = 2\n\
         mask_timing_normalization_enabled = true\nmask_timing_normalization_floor_ms = 20\n\
         mask_timing_normalization_ceiling_ms = 30\n",
    );
    assert_eq!((other.bytes_max, other.pace_ms), (None, Some((20, 30))));
    assert_eq!(other.proxy_header, Some(Version::V2));
}

#[test]
fn a_mask_that_is_ourselves_does_not_load() {
    let own: IpAddr = "10.0.0.1".parse().unwrap();
    let found = |text: &str| {
        let parsed = parse(Path::new("config.toml"), format!("{text}{USER}"));
        let shown = parsed.as_ref().err().map(ToString::to_string);
        let key = parsed.ok().and_then(|loaded| loops(&loaded.config, &[own]));
        (key.map(|(key, ..)| key), shown)
    };
    for (text, key) in [
        (
            "[censorship]\nmask_host = \"127.0.0.1\"\n",
            "censorship.mask_host",
        ),
        (
            "[censorship]\nmask_host = \"localhost\"\n",
            "censorship.mask_host",
        ),
        (
            "[censorship]\nexclusive_mask = { \"a.b\" = \"[::1]:443\" }\n",
            "censorship.exclusive_mask",
        ),
    ] {
        let (_, shown) = found(text);
        let shown = shown.expect("an error");
        assert!(shown.contains(key) && shown.contains("itself"), "{shown}");
    }
    let unix = "[server]\nlisten_unix_sock = \"/s\"\n[censorship]\nmask_unix_sock = \"/s\"\n";
    let shown = found(unix).1.expect("an error");
    assert!(shown.contains("censorship.mask_unix_sock"), "{shown}");
    let interface = "[censorship]\nmask_host = \"10.0.0.1\"\n";
    assert_eq!(found(interface).0.as_deref(), Some("censorship.mask_host"));
    for fine in [
        "[censorship]\nmask_host = \"127.0.0.1\"\nmask_port = 8443\n",
        "[censorship]\nmask_host = \"127.0.0.1\"\nmask = false\n",
        "[server]\nport = 8443\n[censorship]\nmask_host = \"localhost\"\n",
    ] {
        assert_eq!(found(fine), (None, None), "{fine}");
    }
}
