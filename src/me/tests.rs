//! The three threads together, on shards that only take notes.
