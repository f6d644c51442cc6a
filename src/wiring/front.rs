//! The keys about learning from the mask site to what `front` goes by.
//!
//! Source: config.md 8 (where strangers of a domain go is where its clients' answers are learned).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use shards::proto::faketls::site_hello::SiteStyle;

use crate::{
    config::{Config, censorship::FetchProfile},
    front::{Ask, Route, Settings, Target},
    route_out::RouteOut,
};

/// What is learned and how; `None` when nothing is to be imitated.
pub(crate) fn settings(config: &Config, data_path: &Path) -> Option<Settings> {
    let (tls, fetch) = (&config.censorship, &config.tls_fetch);
    if !tls.tls_emulation || !config.modes.tls {
        return None;
    }
    let domains = std::iter::once(&tls.tls_domain).chain(&tls.tls_domains);
    let millis = Duration::from_millis;
    Some(Settings {
        sites: domains
            .map(|domain| (domain.0.clone(), target(config, &domain.0)))
            .collect(),
        ask: Ask {
            styles: fetch.profiles.iter().copied().map(style).collect(),
            attempt: millis(fetch.attempt_timeout_ms),
            budget: millis(fetch.total_budget_ms),
            grease: fetch.grease_enabled,
            deterministic: fetch.deterministic,
            preamble: preamble(config.mask.mask_proxy_protocol).to_vec(),
        },
        style_ttl: Duration::from_secs(fetch.profile_cache_ttl_secs),
        dir: data_path.join(&tls.tls_front_dir),
    })
}

/// How sites are reached.
pub(crate) fn route(config: &Config, out: &Arc<RouteOut>) -> Route {
    let scope = config.censorship.tls_fetch_scope.trim();
    Route {
        out: Arc::clone(out),
        scope: (!scope.is_empty()).then(|| scope.to_owned()),
        strict: config.tls_fetch.strict_route,
    }
}

/// Where strangers that name `domain` go.
fn target(config: &Config, domain: &str) -> Target {
    let mask = &config.mask;
    let own = mask.exclusive_mask.0.iter();
    if let Some((_, at)) = own
        .into_iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(domain))
        && let Some((host, port)) = at.0.rsplit_once(':')
        && let Ok(port) = port.parse()
    {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        return Target::Host(host.to_owned(), port);
    }
    if let Some(path) = &mask.mask_unix_sock {
        return Target::Unix(PathBuf::from(&path.0));
    }
    let host = match &mask.mask_host {
        Some(host) => host,
        None if mask.mask_dynamic => domain,
        None => &config.censorship.tls_domain.0,
    };
    Target::Host(host.to_owned(), mask.mask_port)
}

fn style(profile: FetchProfile) -> SiteStyle {
    match profile {
        FetchProfile::ModernChromeLike => SiteStyle::Chrome,
        FetchProfile::ModernFirefoxLike => SiteStyle::Firefox,
        FetchProfile::CompatTls12 => SiteStyle::Compat12,
        FetchProfile::LegacyMinimal => SiteStyle::Minimal,
    }
}

/// A PROXY header that names nobody: we ask on our own behalf (protocol.md 8.2).
fn preamble(version: u8) -> &'static [u8] {
    match version {
        1 => b"PROXY UNKNOWN\r\n",
        2 => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
        _ => b"",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn read(text: &str) -> Config {
        let text = format!(
            "[censorship]\ntls_domain = \"a.example\"\ntls_domains = [\"b.example\"]\n{text}\n\
             [access.users]\nu = \"{}\"\n",
            "1".repeat(32)
        );
        config::parse(Path::new("config.toml"), text)
            .unwrap()
            .config
    }

    #[test]
    fn answers_are_learned_where_strangers_go() {
        let host = |host: &str, port| Target::Host(host.to_owned(), port);
        for (text, want) in [
            ("", [host("a.example", 443), host("b.example", 443)]),
            (
                "mask_port = 8443",
                [host("a.example", 8443), host("b.example", 8443)],
            ),
            (
                "mask_dynamic = false",
                [host("a.example", 443), host("a.example", 443)],
            ),
            (
                "mask_host = \"192.0.2.7\"",
                [host("192.0.2.7", 443), host("192.0.2.7", 443)],
            ),
            (
                "exclusive_mask = { \"b.example\" = \"[::1]:9\" }",
                [host("a.example", 443), host("::1", 9)],
            ),
            (
                "mask_unix_sock = \"/run/x\"",
                [Target::Unix("/run/x".into()), Target::Unix("/run/x".into())],
            ),
        ] {
            let settings = settings(&read(text), Path::new("/data")).unwrap();
            let got: Vec<Target> = settings.sites.into_iter().map(|(_, at)| at).collect();
            assert_eq!(got, want, "{text}");
            assert_eq!(settings.dir, Path::new("/data/tlsfront"));
        }
    }

    #[test]
    fn nothing_is_learned_where_nothing_is_imitated() {
        assert!(settings(&read("tls_emulation = false"), Path::new("/")).is_none());
    }

    #[test]
    fn headers_before_the_hello_are_well_formed() {
        assert_eq!(preamble(0), b"");
        assert!(preamble(1).ends_with(b"\r\n"));
        // Signature, version 2 and LOCAL, no family, no addresses.
        assert_eq!(preamble(2).len(), 16);
    }
}
