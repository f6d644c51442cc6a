//! Loading whole files: values, findings, and what any input may do.

use std::path::Path;

use proptest::prelude::*;

use super::{Failed, Loaded, keys::Row, parse, rows, unknown::TABLES};

mod reference;

const SECRET: &str = "3f1c0e5ab2d94c7786f0a1b2c3d4e5f6";

fn load(text: &str) -> Result<Loaded, Failed> {
    parse(Path::new("config.toml"), text.to_owned())
}

/// Loads `text` with a user added at the end.
fn with_user(text: &str) -> Result<Loaded, Failed> {
    load(&format!("{text}\n[access.users]\nalice = \"{SECRET}\"\n"))
}

fn errors(text: &str) -> Vec<String> {
    match with_user(text) {
        Ok(_) => Vec::new(),
        Err(failed) => failed.errors.iter().map(ToString::to_string).collect(),
    }
}

fn warnings(text: &str) -> Vec<String> {
    with_user(text)
        .unwrap()
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn says_where_what_and_what_is_allowed() {
    for (text, said) in [
        (
            "\n\n[general]\nme_pool_min_fresh_ratio = 1.5",
            "config.toml:4:27: general.me_pool_min_fresh_ratio = 1.5 is out of range; \
             allowed 0.0 to 1.0",
        ),
        (
            "[server]\nport = \"443\"",
            "config.toml:2:8: server.port = \"443\" is a string; expected a whole number 0 to \
             65535 (remove the quotes)",
        ),
        (
            "[general]\n         log_level = \"info\"",
            "config.toml:2:22: general.log_level = \"info\" is not one of debug, verbose, normal, \
             silent; did you mean \"normal\"?",
        ),
        (
            "[access.user_ad_tags]\nalice = \"ee00112233445566778899aabbccddeeff61626364\"",
            "config.toml:2:9: access.user_ad_tags.alice has 42 characters and starts with \"ee\"; \
             expected 32 hex digits (drop the ee prefix and the domain part)",
        ),
        (
            "[general]\nconfig_strict = true\n[timeouts]\ntg_connect = 5",
            "config.toml:4:1: timeouts.tg_connect is not a known key; it moved to \
             general.tg_connect",
        ),
        (
            "[general.links]\nshow = \"alice\"",
            "config.toml:2:8: general.links.show = \"alice\" is a string; expected \"*\" or a \
             list of names (put the name in brackets)",
        ),
        (
            "[network]\nprefer = \"4\"",
            "config.toml:2:10: network.prefer = \"4\" is a string; expected 4 or 6 (remove the \
             quotes)",
        ),
        (
            "[general]\nrpc_proxy_req_every = 5",
            "config.toml:2:23: general.rpc_proxy_req_every = 5 is out of range; allowed 0 or 10 \
             to 300",
        ),
        (
            "server = 5",
            "config.toml:1:1: server is a number; expected a table, [server]",
        ),
        (
            "[[server.listeners]]\nport = 1",
            "config.toml:1:1: server.listeners has no ip; expected ip = \"address\"",
        ),
        (
            "[shards]\nsmall_buffers = 1000",
            "config.toml:2:17: shards.small_buffers = 1000 does not fit; expected a power of two \
             from 16 to 32768",
        ),
    ] {
        assert_eq!(errors(text), [said]);
    }
}

#[test]
fn refuses_one_mistake_at_a_time() {
    for text in [
        "[general.modes]\ntls = false",
        "[network]\nipv4 = false",
        "[[upstreams]]\ntype = \"direct\"\nipv4 = false\nipv6 = false",
        "[[upstreams]]\naddress = \"a:1\"",
        "[[upstreams]]\ntype = \"socks5\"",
        "[[upstreams]]\ntype = \"socks5\"\naddress = \"socks5://a:1\"",
        "[[upstreams]]\ntype = \"direct\"\nbindtodevice = \"a\"\nforce_bind = \"b\"",
        "[[upstreams]]\ntype = \"direct\"\nbindtodevice = \"longer-than-fits\"",
        "[[upstreams]]\ntype = \"direct\"\nbind_addresses = []",
        "[[upstreams]]\ntype = \"socks5\"\naddress = \"a:1\"\nusername = \"u\"",
        "[[upstreams]]\ntype = \"socks5\"\naddress = \"a:1\"\npassword = \"p\"",
        "[[upstreams]]\ntype = \"socks4\"\naddress = \"a:1\"\nuser_id = \"a\\u0000b\"",
        "[[upstreams]]\ntype = \"shadowsocks\"\nurl = \"ss://aes-128-gcm:x@b:1\"",
        "general.use_middle_proxy = false\n\
         [[upstreams]]\ntype = \"shadowsocks\"\nurl = \"ss://a@b:1\"",
        "general.use_middle_proxy = false\n\
         [[upstreams]]\ntype = \"shadowsocks\"\nurl = \"ss://rc4-md5:x@b:1\"",
        "general.use_middle_proxy = false\n\
         [[upstreams]]\ntype = \"shadowsocks\"\nurl = \"ss://aes-128-gcm:x@b:1?plugin=v2ray\"",
        "[censorship]\nmask_host = \"a\"\nmask_unix_sock = \"/a\"",
        "[server.api]\nport = 1\n[server.admin_api]\n",
        "[server.api]\nlisten = \"localhost:1\"",
        "[server.api]\nwhitelist = [\"10.0.0.0/33\"]",
        "[server]\nmetrics_listen = \"9090\"",
        "[server]\nlisten_addr_ipv4 = \"::\"",
        "[server]\nlisten_unix_sock_perm = \"rw\"",
        "[server]\nclient_mss = \"5000\"",
        "[server]\nlisten_backlog = 0",
        "[[server.listeners]]\nip = \"1.2.3.4\"\nsynlimit = true",
        "[server.conntrack_control]\nmode = \"hybrid\"",
        "[server.conntrack_control]\npressure_low_watermark_pct = 85",
        "[censorship]\nmask_proxy_protocol = 3",
        "[censorship]\ntls_domain = \"\"",
        "[censorship]\ntls_domain = \"https://a.example\"",
        "[censorship]\nserver_hello_delay_max_ms = 60000",
        "[censorship]\nmask_timing_normalization_enabled = true",
        "[censorship]\nmask_shape_hardening = false\nmask_shape_above_cap_blur = true",
        "[timeouts]\nrelay_client_idle_soft_secs = 361",
        "[timeouts]\nclient_handshake = 0",
        "[general]\nad_tag = \"x\"",
        "[general]\nme_writer_byte_budget_bytes = 16384",
        "[general]\nme_writer_byte_budget_bytes = 33570817",
        "[general]\ndata_path = \"relative\"",
        "[logging]\ndestination = \"file\"",
        "dc_overrides = { 2 = \"1.2.3.4\" }",
        "dc_overrides = { two = \"1.2.3.4:443\" }",
        "default_dc = 6",
        "[access.user_expirations]\nalice = \"2026-12-31\"",
        "[access.user_expirations]\nalice = 2026-12-31T00:00:00",
        "[access.user_rate_limits]\nalice = { up_bps = 0 }",
        "[access.user_rate_limits]\nalice = { up_bps = 1, down = 1 }",
        "[access.cidr_rate_limits]\n\"*4/33\" = { up_bps = 1 }",
        "[access.cidr_rate_limits]\n\"*/24\" = { up_bps = 1 }\n\"*4/24\" = { up_bps = 1 }",
        "[access.user_source_deny]\nalice = [\"a\"]",
        "[shards]\ncores = \"3-1\"",
        "[shards]\ncount = 0",
    ] {
        let found = errors(text);
        assert_eq!(found.len(), 1, "{text}: {found:#?}");
        assert!(!found[0].contains(SECRET));
    }
}

#[test]
fn reports_all_errors_of_a_file_in_order() {
    let text = "default_dc = 9\n[server]\nport = true\nmax_connections = -1\n[timeouts]\n\
                client_handshake = \"x\"\n";
    let failed = with_user(text).unwrap_err();
    let lines: Vec<u32> = failed.errors.iter().map(|error| error.place.line).collect();
    assert_eq!(lines, [1, 3, 4, 6]);
}

#[test]
fn accepts_forms_seen_in_real_files() {
    for text in [
        "[server]\nlisteners = [{ ip = \"0.0.0.0\", port = 1 }]",
        "server.port = 1\nserver.api.enabled = false",
        "[server.admin_api]\nlisten = \"127.0.0.1:1\"",
        "[access]\nuser_ad_tags = {}",
        "upstreams = []",
        "dc_overrides = { 203 = [\"1.2.3.4:443\", \"\"] }",
        "[dc_overrides]\n203 = \"1.2.3.4:443\"\n-2 = \"[::1]:443\"",
        "[server]\nclient_mss = \"tspu\"",
        "[access.user_expirations]\nalice = 2026-12-31T00:00:00Z",
        "[access.user_source_deny]\nalice = [\"10.0.0.1\", \"10.0.0.0/8\"]",
        "[access.cidr_rate_limits]\n\"*/24\" = { up_bps = 1 }\n\"10.0.0.0/8\" = { up_bps = 1 }",
        "[general]\nconfig_strict = true\n[access.user_source_deny]\nalice = []",
        "[general]\nconfig_strict = true\n[[upstreams]]\ntype = \"direct\"\nprefer = 6",
        "[[server.listeners]]\nip = \"::\"\nsynlimit = \"off\"",
        "[general]\nme_pool_min_fresh_ratio = 1",
        "[general]\nmax_client_frame = 4096\nme_writer_byte_budget_bytes = 16384",
    ] {
        assert_eq!(errors(text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn users_need_secrets_of_their_own() {
    for (users, said) in [
        ("", "access.users has no entries"),
        (
            "a = \"00000000000000000000000000000000\"",
            "access.users.a is all zeros",
        ),
        (
            "a = \"dd3f1c0e5ab2d94c7786f0a1b2c3d4e5f6\"",
            "drop the dd prefix",
        ),
        ("a = \"tg://proxy?server=a&port=1&secret=dd\"", "is a link"),
        (
            "a = \"zz1c0e5ab2d94c7786f0a1b2c3d4e5f6\"",
            "other than 0-9 and a-f",
        ),
        ("a = 12345", "access.users.a is a number"),
        (
            "a = \"3f1c0e5ab2d94c7786f0a1b2c3d4e5f6\"\nb = \"3F1C0E5AB2D94C7786F0A1B2C3D4E5F6\"",
            "config.toml:3:5: access.users.b has the same secret as access.users.a",
        ),
    ] {
        let failed = load(&format!("[access.users]\n{users}\n")).unwrap_err();
        assert_eq!(failed.errors.len(), 1, "{users}: {failed}");
        let text = failed.to_string();
        assert!(text.contains(said), "{text}");
        assert!(!text.contains("4c77") && !text.contains("12345"), "{text}");
    }
    let failed = load("[general]\nfast_mode = true\n").unwrap_err();
    assert!(failed.to_string().contains("access.users has no entries"));
}

#[test]
fn warns_about_unknown_keys_with_the_closest_full_name() {
    for (text, said) in [
        (
            "[server]\nprot = 1",
            "server.prot is not a known key; did you mean server.port?",
        ),
        (
            "[timeouts]\nlog_level = \"debug\"",
            "timeouts.log_level is not a known key; did you mean general.log_level?",
        ),
        (
            "[censorhip]\ntls_domain = \"a.example\"",
            "did you mean [censorship]?",
        ),
        (
            "[general.tls]\ndomain = \"a.example\"",
            "use censorship.tls_domain",
        ),
        (
            "[limits]\nx = 1",
            "config.toml:1:1: limits is not a known key; use server.max",
        ),
        (
            "[[users]]\nusername = \"a\"",
            "users is not a known key; write users as",
        ),
        (
            "[server]\nwhatsoever = 1",
            "server.whatsoever is not a known key",
        ),
        (
            "[timeouts]\ntg_connect = 3",
            "it moved to general.tg_connect",
        ),
        (
            "[general]\nprefer_ipv6 = true",
            "general.prefer_ipv6 is deprecated; use network.prefer",
        ),
        (
            "[general]\nntp_check = true",
            "general.ntp_check is accepted for compatibility",
        ),
        (
            "[access.user_enabled]\nbob = true",
            "names \"bob\", who is not in access.users",
        ),
    ] {
        let found = warnings(text);
        assert!(
            found.iter().any(|warning| warning.contains(said)),
            "{text}: {found:#?}"
        );
    }
    assert_eq!(
        with_user("[timeouts]\ntg_connect = 3")
            .unwrap()
            .config
            .connect
            .tg_connect,
        3
    );
    let strict = errors("[general]\nconfig_strict = true\n[server]\nprot = 1\n[limits]\n");
    assert_eq!(strict.len(), 2);
}

#[test]
fn syntax_errors_have_a_place_and_no_secret() {
    let failed = with_user("[server]\nclient_mss = tspu").unwrap_err();
    let text = failed.to_string();
    assert!(text.starts_with("config.toml:2:14: "), "{text}");
    assert!(
        text.contains("(put the value in quotes: client_mss = \"tspu\")"),
        "{text}"
    );
    for line in [
        format!("alice = {SECRET}"),
        "bob = hunter2".into(),
        "password = hunter2".into(),
    ] {
        let said = load(&format!("[access.users]\n{line}"))
            .unwrap_err()
            .to_string();
        assert!(
            !said.contains("3f1c0e") && !said.contains("hunter2"),
            "{said}"
        );
    }
}

#[test]
fn values_of_secret_keys_are_never_printed() {
    for row in rows().filter(|row| row.secret && !row.key.starts_with("user")) {
        let (table, key) = (row.table, row.key);
        let header = if table == "upstreams" {
            "[[upstreams]]\ntype = \"direct\""
        } else {
            ""
        };
        let header = if header.is_empty() {
            format!("[{table}]")
        } else {
            header.to_owned()
        };
        for value in ["8642", "[8642]", "{ a = 8642 }"] {
            let said = errors(&format!("{header}\n{key} = {value}")).join("\n");
            assert!(said.contains(key) && !said.contains("8642"), "{said}");
        }
    }
}

#[test]
fn names_a_key_that_is_there_twice() {
    let failed = with_user("[server]\nport = 1\nport = 2").unwrap_err();
    let said = "config.toml:3:1: duplicate key port; it stands above already";
    assert_eq!(failed.to_string(), said);
}

#[test]
fn settles_values_that_depend_on_others() {
    let loaded = with_user(
        "show_link = [\"alice\"]\n[general]\nprefer_ipv6 = true\n\
         proxy_secret_auto_reload_secs = 7\n[general.links]\nshow = []\n[network]\nipv6 = true\n\
         [censorship]\n\
         tls_domain = \"A.example\"\ntls_domains = [\"a.example\", \"b.example\", \"b.example\"]\n\
         server_hello_delay_min_ms = 50\n[[server.listeners]]\nip = \"0.0.0.0\"\n\
         announce = \" \"\nannounce_ip = \"192.0.2.1\"",
    )
    .unwrap();
    let config = loaded.config;
    assert!(config.links.show.contains("alice") && !config.links.show.contains("bob"));
    assert_eq!(config.network.prefer, super::kinds::Family::V6);
    assert_eq!(config.me_source.update_every, Some(7));
    let domains: Vec<_> = config
        .censorship
        .tls_domains
        .iter()
        .map(|d| d.0.as_str())
        .collect();
    assert_eq!(
        (config.censorship.tls_domain.0.as_str(), domains),
        ("a.example", vec!["b.example"])
    );
    assert_eq!(config.censorship.server_hello_delay_max_ms, 50);
    assert_eq!(config.listeners[0].announce.as_deref(), Some("192.0.2.1"));
}

#[test]
fn names_the_included_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("users.toml"), "\nalice = \"ee\"\n").unwrap();
    let main = dir.path().join("config.toml");
    std::fs::write(
        &main,
        "[access.users]\ninclude = \"users.toml\"\n[server]\nport = -1\n",
    )
    .unwrap();
    let failed = super::load(&main).unwrap_err();
    assert!(
        failed.errors[0]
            .to_string()
            .contains("config.toml:4:8: server.port = -1")
    );
    assert!(
        failed.errors[1]
            .to_string()
            .contains("users.toml:2:9: access.users.alice has 2")
    );
}

#[test]
fn reports_a_file_that_cannot_be_read() {
    let failed = super::load(Path::new("/nowhere/config.toml")).unwrap_err();
    assert!(
        failed
            .to_string()
            .starts_with("/nowhere/config.toml:1:1: cannot be read: ")
    );
}

proptest! {
    #[test]
    fn any_text_is_judged_without_panic(text in "(?s).{0,200}") {
        let _ = load(&text);
    }

    #[test]
    fn toml_like_text_is_judged_without_panic(
        lines in prop::collection::vec(line(), 0..20),
    ) {
        let _ = load(&lines.join("\n"));
    }
}

/// A line that is often a known key with a fitting or unfitting value.
fn line() -> impl Strategy<Value = String> {
    let names: Vec<String> = rows().map(Row::name).collect();
    let key = prop::sample::select(names);
    let value = prop::sample::select(vec![
        "1",
        "-1",
        "1.5",
        "\"\"",
        "\"x\"",
        "'1.2.3.4:5'",
        "true",
        "[]",
        "[1]",
        "[\"*\"]",
        "{}",
        "{ a = \"b\" }",
        "{ 2 = [\"a\"] }",
        "9223372036854775807",
        "2026-01-01T00:00:00Z",
        "\"\"\"\nx\"\"\"",
        "[[{}]]",
        "tspu",
        "\u{1F600}",
    ]);
    prop_oneof![
        4 => (key.clone(), value.clone()).prop_map(|(key, value)| format!("{key} = {value}")),
        1 => prop::sample::select(TABLES.to_vec()).prop_map(|table| format!("[{table}]")),
        1 => prop::sample::select(TABLES.to_vec()).prop_map(|table| format!("[[{table}]]")),
        1 => value.prop_map(|value| format!("include = {value}")),
        1 => "[^\n]{0,30}",
    ]
}
