//! Counters: one row makes the field, its merge across shards, its export name and its help text.
//!
//! A shard adds to its own plain `u64`; a snapshot is a copy sent in a reply. Nothing here is
//! shared between threads.

mod core;
mod desync;
mod me;
mod pool;
mod upstream;
mod user;

pub use self::core::{BadClass, CoreCounters, FailureClass, FailureStage};
pub use self::desync::DesyncCounters;
pub use self::me::MeCounters;
pub use self::pool::PoolCounters;
pub use self::upstream::UpstreamCounters;
pub use self::user::UserCounters;

/// How a counter of several shards becomes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Added up.
    Sum,
    /// The largest.
    Max,
}

/// What exporters need to know of one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Field name, as in the contract.
    pub name: &'static str,
    /// First line of its documentation.
    pub help: &'static str,
    /// How shards are merged.
    pub merge: Merge,
}

/// Declares a struct of `u64` counters from rows of `name: sum` or `name: max`.
macro_rules! counters {
    ($(#[doc = $doc:expr])+ $name:ident {
        $($(#[doc = $help:expr])+ $field:ident: $merge:ident,)*
    }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[doc = $help])+ pub $field: u64,)*
        }

        impl $name {
            /// Every counter, in declaration order.
            pub const ROWS: &'static [$crate::counters::Row] = &[
                $($crate::counters::Row {
                    name: stringify!($field),
                    help: concat!($($help),+),
                    merge: $crate::counters::counters!(@kind $merge),
                },)*
            ];

            /// Takes another shard's counters in.
            pub fn merge(&mut self, other: &Self) {
                $($crate::counters::counters!(@merge $merge self.$field, other.$field);)*
            }

            /// What was counted since `earlier`.
            #[must_use]
            pub fn minus(&self, earlier: &Self) -> Self {
                Self { $($field: self.$field.saturating_sub(earlier.$field),)* }
            }

            /// Values in the order of [`Self::ROWS`].
            #[must_use]
            pub fn values(&self) -> [u64; { <[$crate::counters::Row]>::len(Self::ROWS) }] {
                [$(self.$field),*]
            }
        }
    };
    (@kind sum) => { $crate::counters::Merge::Sum };
    (@kind max) => { $crate::counters::Merge::Max };
    (@merge sum $a:expr, $b:expr) => { $a = $a.saturating_add($b) };
    (@merge max $a:expr, $b:expr) => { $a = $a.max($b) };
}
use counters;

/// Declares an enum of labels that are counted in an array, one slot each.
macro_rules! labels {
    ($(#[doc = $doc:expr])+ $name:ident {
        $($(#[doc = $help:expr])+ $variant:ident = $label:literal,)*
    }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[doc = $help])+ $variant,)*
        }

        impl $name {
            /// Every label, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// Number of labels.
            pub const COUNT: usize = Self::ALL.len();

            /// The text shown by the API.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}
use labels;
