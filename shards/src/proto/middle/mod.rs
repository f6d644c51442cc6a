//! The middle-proxy (ME) leg: everything of its wire that is bytes in and bytes out.
//!
//! | File | What |
//! |---|---|
//! | [`secret_file`], [`config_file`] | what Telegram publishes: the secret, and endpoints by DC |
//! | [`frame`], [`frame_stream`], [`checksum`] | frames written, read whole, read as they arrive |
//! | [`nonce`], [`keys`], [`handshake`], [`opening`] | a connection's beginning and keys |
//! | [`cipher`] | AES-256-CBC in place: one stream, or several in lockstep |
//! | [`ops`], [`tl`], [`proxy_req`], [`answers`] | what frames say in both directions |
//! | [`client_frames`] | a client's framing to ME messages and back |
//! | [`address`], [`bound`], [`stun`] | under which address the ME sees us |
//! | [`far_side`] | the ME's own side, for tests and fakes |
//!
//! One connection: [`opening::MeOpening`] until it is ready, then a [`cipher::DecryptStream`] with
//! an [`answers::AnswerReader`] inwards, and a [`frame::FrameEncoder`] with a
//! [`cipher::CbcEncryptor`] outwards. Pools, queues and timers are `policy`'s.
//!
//! Source: middle-proxy.md, part A.

pub mod address;
pub mod answers;
pub mod bound;
pub mod checksum;
pub mod cipher;
pub mod client_frames;
pub mod config_file;
pub mod far_side;
pub mod frame;
pub mod frame_stream;
pub mod handshake;
pub mod keys;
pub mod nonce;
pub mod opening;
pub mod ops;
pub mod proxy_req;
pub mod secret_file;
pub mod stun;
pub mod tl;

#[cfg(test)]
mod properties;
