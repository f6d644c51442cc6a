//! The whole data plane through `shards::start`: real sockets, a DC on a thread, clients that speak
//! obfuscated2 and FakeTLS.

mod ends;
mod limits;
mod refusals;
mod serving;
mod support;
mod talk;
