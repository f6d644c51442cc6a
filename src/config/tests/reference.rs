//! The rows against the reference's table of keys.

use serde_json::Value as Json;

use crate::config::{
    keys::{Effect, Reload, Row, full_name},
    rows,
    unknown::TABLES,
};

/// Rows that knowingly differ from the reference: what config.md 5 says to reject.
const STRICTER: &[&str] = &["default_dc", "censorship.mask_proxy_protocol"];

#[test]
fn rows_agree_with_the_reference() {
    let reference: Vec<Json> =
        serde_json::from_str(include_str!("../../../tests/vectors/config.json")).unwrap();
    let mut ours: Vec<&Row> = rows().filter(|row| row.table != "shards").collect();
    for fact in &reference {
        let text = |field: &str| fact[field].as_str().unwrap_or("");
        let name = full_name(text("table"), text("key"));
        match text("type") {
            "directive" => continue,
            "table" | "table[]" => {
                assert!(TABLES.contains(&name.as_str()), "{name}");
                continue;
            }
            _ => {}
        }
        let at = ours.iter().position(|row| row.name() == name);
        let row = ours.remove(at.unwrap_or_else(|| panic!("no row for {name}")));
        compare(row, fact, &name);
    }
    assert!(ours.is_empty(), "{ours:?}");
}

fn compare(row: &Row, fact: &Json, name: &str) {
    let kind = fact["type"].as_str().unwrap();
    // A key that must be there is an option here, so that its absence can be reported.
    let required = fact["default"].is_null() && !kind.ends_with('?');
    // Local addresses are parsed here and mere strings there.
    let own = (row.kind)().replace("ip[]?", "string[]?");
    assert_eq!(
        if required {
            own.trim_end_matches('?')
        } else {
            &own
        },
        kind,
        "{name}"
    );
    let default: Json = serde_json::from_str(&(row.default)()).unwrap();
    if name != "access.users" {
        assert_eq!(default, fact["default"], "{name}");
    }
    assert_eq!(row.reload == Reload::Hot, hot(name, fact), "{name}");
    let words: Vec<String> = match &fact["enum"] {
        Json::Array(words) => words
            .iter()
            .map(|word| {
                word.as_str()
                    .map_or_else(|| word.to_string(), str::to_owned)
            })
            .collect(),
        _ => Vec::new(),
    };
    if !STRICTER.contains(&name) && name != "show_link" {
        assert_eq!((row.choices)(), words, "{name}");
    }
    if own.contains("string") && !own.contains("map") || STRICTER.contains(&name) {
        return;
    }
    let type_max = match own.trim_end_matches('?') {
        "u8" => 255.0,
        "u16" => 65_535.0,
        _ => f64::INFINITY,
    };
    let limit = |field: &str| fact[field].as_f64();
    assert_eq!(
        row.limits.min.unwrap_or(0.0),
        limit("min").unwrap_or(0.0),
        "{name}"
    );
    let max = limit("max").unwrap_or(type_max);
    assert_eq!(row.limits.max.unwrap_or(type_max), max, "{name}");
    assert_eq!(row.limits.also, fact["also"][0].as_f64(), "{name}");
    assert_eq!(row.limits.step, fact["multiple_of"].as_u64(), "{name}");
    assert!(row.effect != Effect::Now || row.old.is_none() || !row.secret);
}

/// config.md 11 asks for one key to be hot that is not in the reference.
fn hot(name: &str, fact: &Json) -> bool {
    name == "access.user_source_deny" || fact["reload"] == "hot"
}
