//! Secrets and tags: 32 hex digits that never appear in a message. Source: config.md 6 and 15.

use shards::proto::secret::Secret;

use super::{
    read::{Reading, Slot},
    value::{Value, quoted, text, wrong_form},
};

/// A user's secret: 32 hex digits, not all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UserSecret(pub(crate) Secret);

impl Value for UserSecret {
    fn kind() -> String {
        "string".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        let bytes = hex_digits(slot, reading)?;
        if bytes == [0; 16] {
            let expected = "32 random hex digits (openssl rand -hex 16 prints some)";
            return wrong_form(
                slot,
                reading,
                "is all zeros, which everybody can guess",
                expected,
            );
        }
        Some(Self(Secret(bytes)))
    }

    fn show(&self) -> String {
        quoted("(hidden)")
    }
}

/// A sponsored-channel tag: 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct AdTag(pub(crate) [u8; 16]);

impl std::fmt::Debug for AdTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdTag(..)")
    }
}

impl Value for AdTag {
    fn kind() -> String {
        "string".to_owned()
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        hex_digits(slot, reading).map(Self)
    }

    fn show(&self) -> String {
        quoted("(hidden)")
    }
}

/// Exactly 32 hex digits; says what to cut when a secret was copied out of a link.
fn hex_digits(slot: &Slot<'_>, reading: &mut Reading) -> Option<[u8; 16]> {
    let text = text(slot, reading, "32 hex digits in quotes")?;
    let mut bytes = [0; 16];
    if hex::decode_to_slice(text, &mut bytes).is_ok() {
        return Some(bytes);
    }
    let chars = text.chars().count();
    let hex = text.bytes().all(|b| b.is_ascii_hexdigit());
    let lower = text.to_ascii_lowercase();
    let (what, fix) = if hex && chars > 34 && lower.starts_with("ee") {
        (
            format!("has {chars} characters and starts with \"ee\""),
            "32 hex digits (drop the ee prefix and the domain part)",
        )
    } else if hex && chars == 34 && (lower.starts_with("dd") || lower.starts_with("ee")) {
        let prefix = &lower[..2];
        let fix = if prefix == "dd" {
            "32 hex digits (drop the dd prefix)"
        } else {
            "32 hex digits (drop the ee prefix)"
        };
        (
            format!("has {chars} characters and starts with \"{prefix}\""),
            fix,
        )
    } else if lower.contains("proxy?") {
        (
            "is a link".to_owned(),
            "32 hex digits (the part after secret=, without a dd or ee prefix)",
        )
    } else if chars != 32 {
        (format!("has {chars} characters"), "32 hex digits")
    } else {
        (
            "has characters other than 0-9 and a-f".to_owned(),
            "32 hex digits",
        )
    };
    wrong_form(slot, reading, what, fix)
}
