//! FakeTLS: a connection that looks like TLS 1.3 and carries obfuscated2 in its records
//! (protocol.md 6). Nothing is encrypted by TLS.

pub mod client_hello;
pub mod fingerprint;
mod hello_builder;
mod hello_fields;
pub mod record;
pub mod server_hello;
pub mod site_answer;
pub mod site_hello;
