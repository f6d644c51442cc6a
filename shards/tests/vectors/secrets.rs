//! `secrets`, `domain`, `links`, `links_invalid`.

use shards::proto::secret::{LinkSecret, ProxyLink, Secret, check_domain};

use super::{CLIENT, array, list, text};

#[test]
fn secrets_have_three_forms() {
    let domain = check_domain(text(&CLIENT["domain"], "name")).unwrap();
    assert_eq!(hex::encode(&domain), text(&CLIENT["domain"], "hex"));
    for (user, entry) in CLIENT["secrets"].as_object().unwrap() {
        let secret = Secret(array(entry, "secret"));
        for (field, form) in [
            ("link_classic", LinkSecret::Classic(secret)),
            ("link_dd", LinkSecret::Secure(secret)),
            (
                "link_ee",
                LinkSecret::Tls {
                    secret,
                    domain: domain.clone(),
                },
            ),
        ] {
            assert_eq!(form.to_hex(), text(entry, field), "{user}");
            assert_eq!(LinkSecret::parse(text(entry, field)), Ok(form), "{user}");
        }
    }
}

#[test]
fn links_are_read_and_printed() {
    for entry in list("links") {
        let kind = text(entry, "kind");
        let link = ProxyLink::parse(text(entry, "tg")).expect(kind);
        assert_eq!(
            ProxyLink::parse(text(entry, "https")),
            Ok(link.clone()),
            "{kind}"
        );
        assert_eq!(link.port, 443);
        assert_eq!(
            link.secret,
            LinkSecret::parse(text(entry, "secret_text")).unwrap()
        );
        assert_eq!(
            link.secret.secret(),
            &Secret(array(entry, "secret")),
            "{kind}"
        );
        assert_eq!(link.secret.domain(), entry["domain"].as_str(), "{kind}");
        if kind.contains("input only") {
            assert_ne!(link.to_string(), text(entry, "tg"), "{kind}");
        } else {
            assert_eq!(link.to_string(), text(entry, "tg"), "{kind}");
            assert_eq!(link.https(), text(entry, "https"), "{kind}");
        }
        assert_eq!(ProxyLink::parse(&link.to_string()), Ok(link), "{kind}");
    }
}

#[test]
fn bad_secrets_are_refused() {
    for entry in list("links_invalid") {
        let secret = LinkSecret::parse(text(entry, "secret_text"));
        assert!(secret.is_err(), "{}", entry["why"]);
    }
}
