//! From files to the settings of the data plane.

use std::path::Path;

use shards::proto::dc::DcTable;

use super::*;
use crate::config::parse;

const USER: &str = "\n[access.users]\nalice = \"3f1c0e5ab2d94c7786f0a1b2c3d4e5f6\"\n";

fn wired(text: &str, cpus: &HostShare) -> Result<Wired, WiringError> {
    let loaded = parse(Path::new("config.toml"), format!("{text}{USER}")).unwrap();
    wire(&loaded, &Overrides::default(), cpus, &|_| 7)
}

fn host(cores: usize, limit: Option<usize>) -> HostShare {
    HostShare {
        allowed: (0..cores).collect(),
        limit,
        memory_bytes: None,
    }
}

#[test]
fn takes_the_protocols_choices_where_the_file_is_silent() {
    let settings = wired("", &host(2, None)).unwrap().settings;
    assert_eq!(settings.plane.cores, [0, 1]);
    assert_eq!(settings.plane.connections_max, CONNECTIONS_MAX);
    assert_eq!(settings.places.connections_max, 10_000);
    assert_eq!(settings.replay.window, REPLAY_WINDOW);
    assert_eq!(settings.tls.flight_bytes, (2048, 4500));
    assert_eq!(settings.tls.hello_delay_ms, (8, 24));
    assert_eq!(settings.listeners[0].addr.to_string(), "0.0.0.0:443");
    assert_eq!(settings.listeners.len(), 1);
    assert_eq!(settings.upstream.dcs, DcTable::builtin());
}

#[test]
fn hands_on_what_the_file_says() {
    let text = "default_dc = 4\ndc_overrides = { 2 = \"127.0.0.1:1\", 3 = [] }\n\
                [access]\nreplay_window_secs = 60\nignore_time_skew = true\n\
                user_max_tcp_conns_global_each = 7\nuser_max_tcp_conns = { alice = 0 }\n\
                user_enabled = { alice = false }\n\
                [censorship]\nserver_hello_delay_max_ms = 0\nfake_cert_len = 64\n\
                [network]\nipv6 = true\nprefer = 6\n[server]\nmax_connections = 0\n";
    let settings = wired(text, &host(1, None)).unwrap().settings;
    assert_eq!(settings.upstream.dcs.default_dc, 4);
    assert_eq!(settings.upstream.dcs.overrides.len(), 1);
    assert_eq!(settings.replay.window, Duration::from_secs(60));
    assert_eq!(settings.tls.skew_secs_max, None);
    assert_eq!(settings.tls.hello_delay_ms, (0, 0));
    assert_eq!(settings.tls.flight_bytes, (1024, 1024));
    assert!(settings.upstream.prefer_ipv6);
    assert_eq!(settings.listeners.len(), 2);
    assert_eq!(settings.users[0].connections_max, 7);
    assert!(!settings.users[0].enabled);
    assert_eq!(settings.plane.connections_max, CONNECTIONS_MAX);
}

#[test]
fn older_key_bounds_queues_where_only_it_is_set() {
    let bound = |text: &str| {
        let wired = wired(text, &host(1, None)).unwrap();
        wired.settings.plane.buffers.queue_bytes_max
    };
    let old = |bytes: usize| format!("[general]\ncrypto_pending_buffer = {bytes}\n");
    assert_eq!(bound(""), 524_288);
    assert_eq!(bound(&old(262_144)), 262_144);
    assert_eq!(bound(&old(1)), 65_536);
    assert_eq!(bound(&old(usize::MAX >> 1)), 67_108_864);
    let both = old(131_072) + "[shards]\nqueue_bytes_max = 524288\n";
    assert_eq!(bound(&both), 524_288);
}

#[test]
fn chooses_cores_by_file_mask_and_limit() {
    let cores =
        |text: &str, cpus: &HostShare| wired(text, cpus).map(|wired| wired.settings.plane.cores);
    assert_eq!(cores("", &host(8, Some(3))), Ok(vec![0, 1, 2]));
    assert_eq!(
        cores("[shards]\ncores = \"5,2\"", &host(8, Some(1))),
        Ok(vec![2, 5])
    );
    assert_eq!(
        cores("[shards]\ncores = \"2-5\"\ncount = 1", &host(8, None)),
        Ok(vec![2])
    );
    let core = WiringError::Core {
        core: 9,
        allowed: vec![0, 1],
    };
    assert_eq!(cores("[shards]\ncores = \"9\"", &host(2, None)), Err(core));
    let shards = WiringError::Shards {
        shards: 3,
        cores: 2,
    };
    assert_eq!(cores("[shards]\ncount = 3", &host(2, None)), Err(shards));
}

#[test]
fn listens_where_told_and_reports_what_it_skips() {
    let listener = "[[server.listeners]]\nip = \"::1\"\n[[server.listeners]]\n\
                    ip = \"127.0.0.1\"\nport = 5\n";
    let wired_up = wired(listener, &host(1, None)).unwrap();
    assert_eq!(
        wired_up.settings.listeners[0].addr.to_string(),
        "127.0.0.1:5"
    );
    assert_eq!(wired_up.skipped, ["[::1]:443".parse().unwrap()]);
    let none = wired("[server]\nlisten_tcp = false\n", &host(1, None));
    assert_eq!(none.unwrap_err(), WiringError::NoListener);
}
