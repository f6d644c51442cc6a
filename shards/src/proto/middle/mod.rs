//! The middle-proxy (ME) leg: everything of its wire that is bytes in and bytes out.
//!
//! | File | What |
//! |---|---|
//! | [`secret_file`], [`config_file`] | what Telegram publishes: the secret, and endpoints by DC |
//! | [`frame`], [`frame_stream`], [`checksum`] | frames written, read whole, read as they arrive |
//! | [`cipher`] | AES-256-CBC in place: one stream, or several in lockstep |
//! | [`ops`], [`tl`], [`proxy_req`], [`answers`] | what frames say in both directions |
//!
//! Source: middle-proxy.md, part A.

pub mod answers;
pub mod checksum;
pub mod cipher;
pub mod config_file;
pub mod frame;
pub mod frame_stream;
pub mod handshake;
pub mod keys;
pub mod nonce;
pub mod ops;
pub mod proxy_req;
pub mod secret_file;
pub mod tl;
