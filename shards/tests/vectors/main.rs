//! The codecs of `shards::proto` against bytes that other implementations agree with
//! (`tests/vectors/*.json`; their origin is told beside them).
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a broken vector fails the test"
)]

mod faketls;
mod framing;
mod middle;
mod middle_client;
mod middle_sessions;
mod obfuscated2;
mod outer;
mod secrets;

use std::sync::LazyLock;

use serde_json::Value;
use shards::proto::{framing::Framing, secret::Secret};

static CLIENT: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../tests/vectors/client.json")).expect("valid JSON")
});

/// The entries of a list, each with its name for messages.
fn list(key: &str) -> &'static [Value] {
    CLIENT[key].as_array().expect("a list")
}

/// The entry of a list with this name.
fn named(key: &str, name: &str) -> &'static Value {
    let found = list(key).iter().find(|entry| entry["name"] == name);
    found.unwrap_or_else(|| panic!("{key} has no {name}"))
}

fn text<'a>(entry: &'a Value, field: &str) -> &'a str {
    entry[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} is no text in {entry}"))
}

fn bytes(entry: &Value, field: &str) -> Vec<u8> {
    hex::decode(text(entry, field)).expect("hex")
}

fn array<const N: usize>(entry: &Value, field: &str) -> [u8; N] {
    bytes(entry, field)
        .try_into()
        .expect("a field of fixed length")
}

fn secret(entry: &Value) -> Secret {
    Secret(array(entry, "secret"))
}

fn framing(entry: &Value) -> Framing {
    match text(entry, "transport") {
        "abridged" => Framing::Abridged,
        "intermediate" => Framing::Intermediate,
        "padded" => Framing::Padded,
        other => panic!("no framing {other}"),
    }
}
