//! The editable sections.

use serde_json::json;

use super::*;

const TEXT: &str = "show_link = \"*\" # all\n\n[general]\nfast_mode = true # fast\n# more\nlog_level = \"normal\"\n\n\
                    [general.links]\npublic_port = 443\n\n[server]\nport = 8443\n\n\
                    [[upstreams]] # one\ntype = \"direct\"\nweight = 1 # light\n\n\
                    [dc_overrides]\n203 = [\"192.0.2.1:443\"] # cdn\n\n[access.users]\n";

fn place() -> (Place, String) {
    let text = format!("{TEXT}al = \"{AL}\"\n");
    (Place::new(&text), text)
}

fn patch(place: &Place, body: Value) -> Result<ConfigPatched, StoreError> {
    place
        .store
        .patch_config(body.as_object().unwrap(), None, None)
}

#[test]
fn shows_the_editable_sections_of_the_file() {
    let (place, text) = place();
    let shown = place.store.config().unwrap();
    assert_eq!(shown.revision.0, config::revision(text.as_bytes()));
    let expected = json!({
        "general": {
            "fast_mode": true,
            "log_level": "normal",
            "links": {"public_port": 443},
        },
        "upstreams": [{"type": "direct", "weight": 1}],
        "show_link": "*",
        "dc_overrides": {"203": ["192.0.2.1:443"]},
    });
    assert_eq!(Value::Object(shown.sections), expected);
}

#[test]
fn rewrites_only_the_named_keys() {
    let (place, text) = place();
    let body = json!({
        "general": {
            "log_level": "debug",
            "fast_mode": true,
            "links": {"public_host": "p.example"},
            "modes": {"secure": true},
            "ad_tag": null,
        },
        "show_link": ["al"],
        "dc_overrides": {"203": "192.0.2.2:443", "2": ["192.0.2.3:443"]},
        "upstreams": [{"type": "direct", "weight": 2}, {"type": "direct", "enabled": false}],
        "timeouts": {},
    });
    let patched = patch(&place, body).unwrap();
    let expected = text
        .replace("\"*\" #", "[\"al\"] #")
        .replace("\"normal\"", "\"debug\"")
        .replace(
            "443\n\n[server]",
            "443\npublic_host = \"p.example\"\n\n[server]",
        )
        .replace(
            "weight = 1 # light\n",
            "weight = 2 # light\n\n[[upstreams]]\nenabled = false\ntype = \"direct\"\n",
        )
        .replace(
            "203 = [\"192.0.2.1:443\"] # cdn\n",
            "203 = \"192.0.2.2:443\" # cdn\n2 = [\"192.0.2.3:443\"]\n",
        )
        + "\n[general.modes]\nsecure = true\n";
    assert_eq!(place.text(), expected);
    let mut changed = patched.changed;
    changed.sort();
    assert_eq!(
        changed,
        ["dc_overrides", "general", "show_link", "upstreams"]
    );
    let all: Vec<_> = patched
        .restart_keys
        .iter()
        .chain(&patched.hot_keys)
        .collect();
    assert!(
        patched.hot_keys.contains(&"general.log_level".to_owned()),
        "{all:?}"
    );
    assert!(
        patched
            .restart_keys
            .contains(&"general.modes.secure".to_owned()),
        "{all:?}"
    );
    assert!(!all.iter().any(|key| key.contains("fast_mode")), "{all:?}");
    assert_eq!(patched.revision.0, config::revision(expected.as_bytes()));
    place.expect_clean(1);
    // And the array again, shorter.
    patch(&place, json!({"upstreams": [{"type": "direct"}]})).unwrap();
    assert!(
        place
            .text()
            .contains("[[upstreams]] # one\ntype = \"direct\"\n\n\n[dc_overrides]")
    );
}

#[test]
fn the_same_value_is_no_change() {
    let (place, text) = place();
    let body = json!({
        "general": {"log_level": "normal", "links": {}},
        "upstreams": [{"weight": 1, "type": "direct", "url": null}],
    });
    let patched = patch(&place, body).unwrap();
    assert_eq!((patched.changed.len(), place.text()), (0, text));
    assert!(place.process.applied.lock().unwrap().is_empty());
    // A default that was not said: the file changes, nothing else does.
    let patched = patch(&place, json!({"general": {"prefer_ipv6": false}})).unwrap();
    assert_eq!(patched.changed, ["general"]);
    assert_eq!(patched.restart_keys.len() + patched.hot_keys.len(), 0);
}

#[test]
fn what_would_not_load_is_not_written() {
    let (place, text) = place();
    for (body, said) in [
        (json!({"general": {"log_level": "loud"}}), "is not one of"),
        (json!({"general": {"log_level": 5}}), "expected one of"),
        (json!({"general": 5}), "general"),
        (
            json!({"general": {"links": {"public_port": 70_000}}}),
            "allowed",
        ),
        (
            json!({"general": {"log_levle": "debug"}}),
            "did you mean general.log_level?",
        ),
        (
            json!({"timeouts": {"client_handshake": u64::MAX}}),
            "too large",
        ),
        (json!({"upstreams": [{}]}), "has no type"),
        (
            json!({"dc_overrides": {"x": ["192.0.2.1:443"]}}),
            "does not name a DC",
        ),
        (json!({"dc_overrides": {"2": [null]}}), "null"),
    ] {
        let StoreError::Invalid(sentence) = patch(&place, body).unwrap_err() else {
            panic!("{said}");
        };
        assert!(sentence.contains(said), "{said}: {sentence}");
        assert!(!sentence.contains("config.toml"), "{sentence}");
    }
    let stale = place.store.patch_config(&Map::new(), Some("0"), None);
    assert_eq!(stale.unwrap_err(), StoreError::RevisionConflict);
    assert_eq!(place.text(), text);
    place.expect_clean(1);
}

#[test]
fn a_patch_for_a_reload_is_written_only_when_one_can_begin() {
    let (place, text) = place();
    let body = json!({"general": {"log_level": "debug"}});
    let request = ReloadRequest::default();
    let patch = || {
        let sections = body.as_object().unwrap();
        place.store.patch_config(sections, None, Some(request))
    };
    place.process.busy.store(true, Ordering::Relaxed);
    assert_eq!(patch().unwrap_err(), StoreError::ReloadInProgress);
    let refused = place.store.reload(request, None).unwrap_err();
    assert_eq!(refused, StoreError::ReloadInProgress);
    assert_eq!(place.text(), text);
    place.process.busy.store(false, Ordering::Relaxed);
    let patched = patch().unwrap();
    assert_eq!(patched.reload.unwrap().config_revision, patched.revision);
    assert_eq!(place.text(), text.replace("\"normal\"", "\"debug\""));
    // Nothing to write, but the reload is wanted all the same.
    assert!(patch().unwrap().reload.is_some());
    let stale = place.store.reload(request, Some("0")).unwrap_err();
    assert_eq!(stale, StoreError::RevisionConflict);
    place
        .store
        .reload(request, Some(&patched.revision.0))
        .unwrap();
    assert_eq!(place.process.reloaded.lock().unwrap().len(), 3);
    assert!(place.process.applied.lock().unwrap().is_empty());
}
