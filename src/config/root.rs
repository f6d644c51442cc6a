//! Keys before the first table.

use super::{
    keys::keys,
    kinds::{DcAddrs, Filled, Names},
    value::Map,
};

keys! {
    /// Keys before the first table.
    Root in "" {
        /// Legacy spelling of general.links.show, effectively inert because that key defaults to
        /// all users.
        show_link: Names = Names::Some(Vec::new()); Restart, Now, old "general.links.show"
        /// Maps a data-centre number to explicit addresses instead of the built-in ones.
        dc_overrides: Map<DcAddrs> = Map::default(); Restart, Now
        /// Picks the data centre used when a client asks for an unknown one.
        default_dc: Option<u8> = None, within 1..=5; Restart, Now
        /// Legacy root-level spelling of general.beobachten, ignored when the new key is present.
        beobachten: Option<bool> = None; Restart, Now, old "general.beobachten"
        /// Legacy root-level spelling of general.beobachten_minutes.
        beobachten_minutes: Option<u64> =
            None, from 1; Restart, Now, old "general.beobachten_minutes"
        /// Legacy root-level spelling of general.beobachten_flush_secs.
        beobachten_flush_secs: Option<u64> =
            None, from 1; Restart, Now, old "general.beobachten_flush_secs"
        /// Legacy root-level spelling of general.beobachten_file.
        beobachten_file: Option<Filled> = None; Restart, Now, old "general.beobachten_file"
    }
}
