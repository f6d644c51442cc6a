//! The file a first start writes: one user with a fresh secret, every line explained.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Writes a new configuration, readable by its owner only.
///
/// # Errors
/// Those of the file system; `AlreadyExists` when somebody else was quicker.
pub(crate) fn write(path: &Path) -> io::Result<()> {
    let text = text(rand::random());
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn text(secret: [u8; 16]) -> String {
    TEMPLATE.replace("{secret}", &hex::encode(secret))
}

const TEMPLATE: &str = r#"# Written at the first start. Check changes: pinnace check config.toml
# Every other key is explained in config.example.toml.

[general]
use_middle_proxy = false            # connect to Telegram's data centres directly
fast_mode = true                    # let Telegram encrypt downloads for the client: half the work
log_level = "normal"                # debug, verbose, normal, silent

[general.modes]
classic = false                     # plain obfuscated2, easy to recognise
secure = false                      # the same with padding ("dd" links)
tls = true                          # looks like a web site ("ee" links)

[general.links]
show = "*"                          # whose links are printed at start: "*" or ["name", …]
# public_host = "proxy.example.com" # the name or address clients connect to; else it is detected
# public_port = 443                 # the port clients connect to, if another one is forwarded here

[server]
port = 8443                         # works without privileges; 443 is less conspicuous
listen_addr_ipv4 = "0.0.0.0"        # on all addresses of this host
max_connections = 10000             # further clients are turned away; 0 is no limit

[server.api]
enabled = true                      # the control API
listen = "127.0.0.1:9091"           # reachable from this host only
whitelist = ["127.0.0.0/8", "::1/128"] # who may ask

[censorship]
tls_domain = "www.debian.org"       # the web site we look like; changing it breaks old links
mask = true                         # whoever is not ours is passed on to that site, and sees it
unknown_sni_action = "mask"         # clients that name another site: mask, drop, accept, reject_handshake

[access.users]
me = "{secret}" # name = "32 hex digits"; one line per user
"#;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config;

    #[test]
    fn writes_a_file_that_loads_without_a_word() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        write(&path).unwrap();
        let loaded = config::load(&path).unwrap();
        assert_eq!(loaded.warnings, []);
        assert_eq!(loaded.config.server.port, 8443);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            write(&path).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
    }

    #[test]
    fn explains_every_line() {
        for line in TEMPLATE
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('['))
        {
            assert!(line.contains("# ") || line.starts_with('#'), "{line}");
        }
    }
}
