//! What a type of value has to be able to do, and what its readers share: maps, enumerations, the
//! usual errors. Not here: the types themselves (`plain.rs`, `kinds.rs`,
//! `secrets.rs`, `sockets.rs`).

use std::{collections::HashSet, sync::Arc};

use super::{
    error::Problem,
    keys::full_name,
    read::{Reading, Slot, type_name},
};

/// A type a key can have.
pub(crate) trait Value: Sized {
    /// Its name in the reference's words.
    fn kind() -> String;

    /// The words of an enumeration.
    fn choices() -> &'static [&'static str] {
        &[]
    }

    /// Reads a value; `None` after the error was reported.
    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self>;

    /// The value as JSON.
    fn show(&self) -> String;
}

/// Reports a value of the wrong type.
pub(crate) fn wrong_type<T>(
    slot: &Slot<'_>,
    reading: &mut Reading,
    expected: impl Into<String>,
    fix: Option<&'static str>,
) -> Option<T> {
    let found = type_name(slot.item);
    reading.error(
        slot,
        Problem::WrongType {
            found,
            expected: expected.into(),
            fix,
        },
    );
    None
}

/// Reports a string of the wrong form.
pub(crate) fn wrong_form<T>(
    slot: &Slot<'_>,
    reading: &mut Reading,
    what: impl Into<String>,
    expected: impl Into<String>,
) -> Option<T> {
    reading.error(
        slot,
        Problem::Form {
            what: what.into(),
            expected: expected.into(),
        },
    );
    None
}

/// A string, or the error that it is none.
pub(crate) fn text<'a>(slot: &Slot<'a>, reading: &mut Reading, expected: &str) -> Option<&'a str> {
    slot.item.as_str().or_else(|| {
        let number = slot.item.is_integer() || slot.item.is_float() || slot.item.is_bool();
        let fix = if number {
            Some("put it in quotes")
        } else {
            slot.item.is_array().then_some("drop the brackets")
        };
        wrong_type(slot, reading, expected, fix)
    })
}

/// A table with free keys, in file order. It may have very many and is copied with every
/// configuration, so copies share it.
#[derive(Debug)]
pub(crate) struct Map<T>(pub(crate) Arc<[(String, T)]>);

impl<T> Clone for Map<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: PartialEq> PartialEq for Map<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl<T> Default for Map<T> {
    fn default() -> Self {
        Self(Arc::from([]))
    }
}

impl<T> Map<T> {
    /// The value of one name.
    pub(crate) fn get(&self, name: &str) -> Option<&T> {
        self.0
            .iter()
            .find(|(own, _)| own == name)
            .map(|(_, value)| value)
    }

    /// All names, in file order.
    pub(crate) fn names(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }
}

impl<T: Clone + PartialEq> Map<T> {
    /// These entries with those of the names in `told` as `part` has them; new ones at the end.
    pub(crate) fn with_part(&self, part: &Self, told: &HashSet<&str>) -> Self {
        let is_told = |(name, _): &&(String, T)| told.contains(name.as_str());
        if self.0.iter().filter(is_told).eq(part.0.iter()) {
            return self.clone();
        }
        let own: HashSet<&str> = self.names().filter(|name| told.contains(name)).collect();
        let new = part
            .0
            .iter()
            .filter(|(name, _)| !own.contains(name.as_str()));
        let all = self.0.iter().filter_map(|entry| match is_told(&entry) {
            true => part.0.iter().find(|(name, _)| *name == entry.0),
            false => Some(entry),
        });
        Self(all.chain(new).cloned().collect())
    }
}

impl<T: Value> Value for Map<T> {
    fn kind() -> String {
        format!("map<string,{}>", T::kind())
    }

    fn read(slot: &Slot<'_>, reading: &mut Reading) -> Option<Self> {
        let entries = reading.map(slot, "name = value")?;
        let mut all = Vec::with_capacity(entries.len());
        for entry in entries {
            let inner = slot.inner(full_name(&slot.key, entry.name), &entry.item, entry.at);
            reading.note_entry(&inner);
            if let Some(value) = T::read(&inner, reading) {
                all.push((entry.name.to_owned(), value));
            }
        }
        Some(Self(all.into()))
    }

    fn show(&self) -> String {
        let parts: Vec<String> = self
            .0
            .iter()
            .map(|(name, value)| format!("{}:{}", quoted(name), value.show()))
            .collect();
        format!("{{{}}}", parts.join(","))
    }
}

/// A JSON string.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Declares an enumeration: its words as they stand in the file.
macro_rules! choices {
    (
        $( #[doc = $doc:literal] )+
        $name:ident {
            $( $( #[doc = $word_doc:literal] )+ $variant:ident = $word:literal, )+
        }
    ) => {
        $( #[doc = $doc] )+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name {
            $( $( #[doc = $word_doc] )+ $variant, )+
        }

        impl $name {
            /// The word in the file and in the control API.
            pub(crate) fn as_str(self) -> &'static str {
                match self {
                    $( Self::$variant => $word, )+
                }
            }
        }

        impl $crate::config::value::Value for $name {
            fn kind() -> String {
                "enum".to_owned()
            }

            fn choices() -> &'static [&'static str] {
                &[$( $word ),+]
            }

            fn read(
                slot: &$crate::config::read::Slot<'_>,
                reading: &mut $crate::config::read::Reading,
            ) -> Option<Self> {
                match $crate::config::value::word(slot, reading, Self::choices())? {
                    $( $word => Some(Self::$variant), )+
                    _ => None,
                }
            }

            fn show(&self) -> String {
                $crate::config::value::quoted(self.as_str())
            }
        }
    };
}
pub(crate) use choices;

/// One of `allowed`, or the error that says which are.
pub(crate) fn word(
    slot: &Slot<'_>,
    reading: &mut Reading,
    allowed: &'static [&'static str],
) -> Option<&'static str> {
    let text = text(slot, reading, &format!("one of {}", allowed.join(", ")))?;
    if let Some(word) = allowed.iter().find(|word| **word == text) {
        return Some(word);
    }
    let same = |word: &&&str| word.eq_ignore_ascii_case(text.trim());
    let meant = SYNONYMS
        .iter()
        .find(|(other, _)| other.eq_ignore_ascii_case(text));
    let near = allowed
        .iter()
        .find(same)
        .or_else(|| meant.and_then(|(_, word)| allowed.iter().find(|other| *other == word)))
        .or_else(|| {
            let close = |word: &&&str| strsim::osa_distance(word, text) * 2 <= word.len();
            allowed
                .iter()
                .filter(close)
                .min_by_key(|word| strsim::osa_distance(word, text))
        })
        .copied();
    reading.error(slot, Problem::NotOneOf { allowed, near });
    None
}

/// Words other programs use, and ours.
const SYNONYMS: &[(&str, &str)] = &[
    ("info", "normal"),
    ("trace", "debug"),
    ("warn", "silent"),
    ("warning", "silent"),
    ("error", "silent"),
    ("quiet", "silent"),
    ("reject", "reject_handshake"),
    ("socks", "socks5"),
];
