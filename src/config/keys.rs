//! The `keys!` macro: one row per key makes its field, its default, its limits, its parser and its
//! line in the table that tests compare with the reference.
//!
//! Not here: what a type of value looks like (`value.rs`, `kinds.rs`), rules between keys
//! (`checks.rs`).

use super::{read::Reading, section::Section};

/// One key of the file.
#[derive(Debug)]
pub(crate) struct Row {
    /// Full name of its table, empty for the root.
    pub(crate) table: &'static str,
    /// Its own name.
    pub(crate) key: &'static str,
    /// Older name in the same table.
    pub(crate) alias: Option<&'static str>,
    /// What it does.
    pub(crate) doc: &'static str,
    /// The type in the reference's words: `u64`, `string?`, `map<string,bool>`.
    pub(crate) kind: fn() -> String,
    /// The default as JSON.
    pub(crate) default: fn() -> String,
    /// Bounds of a number.
    pub(crate) limits: Limits,
    /// Words of an enumeration.
    pub(crate) choices: fn() -> &'static [&'static str],
    /// When a change applies.
    pub(crate) reload: Reload,
    /// Whether this build acts on it.
    pub(crate) effect: Effect,
    /// Full name of the key that replaces it.
    pub(crate) old: Option<&'static str>,
    /// Its value is never printed.
    pub(crate) secret: bool,
}

impl Row {
    /// Full name: `server.port`.
    pub(crate) fn name(&self) -> String {
        full_name(self.table, self.key)
    }
}

/// Joins a table's name and a key.
pub(crate) fn full_name(table: &str, key: &str) -> String {
    if table.is_empty() {
        key.to_owned()
    } else {
        format!("{table}.{key}")
    }
}

/// Bounds of a number besides those of its type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    /// Smallest value.
    pub(crate) min: Option<f64>,
    /// Largest value.
    pub(crate) max: Option<f64>,
    /// One more value that is allowed.
    pub(crate) also: Option<f64>,
    /// The value must be a multiple of this.
    pub(crate) step: Option<u64>,
}

/// When a change applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    /// Without a restart.
    Hot,
    /// After a restart.
    Restart,
}

/// Whether this build acts on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It does.
    Now,
    /// Never; accepted for compatibility.
    Inert,
}

/// A group of keys of one table, made by `keys!`.
pub(crate) trait Group: Sized {
    /// Its rows, in the order of its fields.
    const ROWS: &'static [Row];

    /// Takes the group's keys out of `section`; a bad value is reported and becomes the default.
    fn take(reading: &mut Reading, section: &mut Section) -> Self;

    /// Rows whose values differ from `other`'s, in the order of the fields.
    fn differing(&self, other: &Self) -> Vec<&'static Row>;

    /// Takes over every value that applies without a restart.
    fn take_hot(&mut self, from: &Self);
}

/// Declares a struct with one field per key of a table.
///
/// A row is `name: Type = default` (`name as "key": …` when the key is a Rust word), then limits
/// (`, from 1` or `, within 1..=9`, `, also 0`, `, step 4`, `, alias "older"`), then after `;` when
/// a change applies (`Hot`, `Restart`), whether it has an effect (`Now`) or never will
/// (`Inert`), and `, old "full.name"` or `; secret` where that is so.
macro_rules! keys {
    (
        $( #[doc = $group_doc:literal] )+
        $group:ident in $table:literal {
            $(
                $( #[doc = $doc:literal] )+
                $name:ident $( as $key:literal )? : $ty:ty = $default:expr
                $(, from $from:literal )? $(, within $lo:literal ..= $hi:literal )?
                $(, also $also:literal )? $(, step $step:literal )? $(, alias $alias:literal )? ;
                $reload:ident, $effect:ident $(, old $old:literal )? $(; $secret:ident )?
            )+
        }
    ) => {
        $( #[doc = $group_doc] )+
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) struct $group {
            $( $( #[doc = $doc] )+ pub(crate) $name: $ty, )+
        }

        impl $crate::config::keys::Group for $group {
            const ROWS: &'static [$crate::config::keys::Row] = &[ $(
                $crate::config::keys::Row {
                    table: $table,
                    key: $crate::config::keys::first!($( $key, )? stringify!($name)),
                    alias: $crate::config::keys::maybe!($( $alias )?),
                    doc: concat!($( $doc ),+),
                    kind: <$ty as $crate::config::value::Value>::kind,
                    default: || {
                        let value: $ty = $default;
                        $crate::config::value::Value::show(&value)
                    },
                    limits: $crate::config::keys::Limits {
                        min: $crate::config::keys::number!($( $from )? $( $lo )?),
                        max: $crate::config::keys::number!($( $hi )?),
                        also: $crate::config::keys::number!($( $also )?),
                        step: $crate::config::keys::maybe!($( $step )?),
                    },
                    choices: <$ty as $crate::config::value::Value>::choices,
                    reload: $crate::config::keys::Reload::$reload,
                    effect: $crate::config::keys::Effect::$effect,
                    old: $crate::config::keys::maybe!($( $old )?),
                    secret: $crate::config::keys::flag!($( $secret )?),
                },
            )+ ];

            fn take(
                reading: &mut $crate::config::read::Reading,
                section: &mut $crate::config::section::Section,
            ) -> Self {
                let mut rows = Self::ROWS.iter();
                // ROWS and the fields come from the same repetition: there is a row for each.
                let mut next = || rows.next().expect("a row per field");
                Self {
                    $( $name: reading.key(section, next(), || $default), )+
                }
            }

            fn differing(&self, other: &Self) -> Vec<&'static $crate::config::keys::Row> {
                let same = [ $( self.$name == other.$name ),+ ];
                let rows = Self::ROWS.iter().zip(same);
                rows.filter(|(_, same)| !same).map(|(row, _)| row).collect()
            }

            fn take_hot(&mut self, from: &Self) {
                // Some groups have no such key.
                let _ = from;
                $( $crate::config::keys::hot!($reload, self.$name = from.$name.clone()); )+
            }
        }
    };
}

macro_rules! first {
    ($first:expr $(, $rest:expr)*) => {
        $first
    };
}

macro_rules! maybe {
    () => {
        None
    };
    ($some:expr) => {
        Some($some)
    };
}

macro_rules! number {
    () => {
        None
    };
    ($some:expr) => {
        Some($some as f64)
    };
}

macro_rules! flag {
    () => {
        false
    };
    (secret) => {
        true
    };
}

macro_rules! hot {
    (Hot, $take:expr) => {
        $take
    };
    (Restart, $take:expr) => {};
}

pub(crate) use {first, flag, hot, keys, maybe, number};
