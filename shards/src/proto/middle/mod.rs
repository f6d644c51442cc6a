//! The middle-proxy (ME) leg: everything of its wire that is bytes in and bytes out.
//!
//! | File | What |
//! |---|---|
//! | [`frame`], [`frame_stream`], [`checksum`] | frames written, read whole, read as they arrive |
//!
//! Source: middle-proxy.md, part A.

pub mod checksum;
pub mod frame;
pub mod frame_stream;
