//! The whole data plane through `shards::start`: real sockets, a DC on a thread, clients that speak
//! obfuscated2 and FakeTLS.
#![expect(
    clippy::disallowed_types,
    reason = "the threads of a test are no shards, and may wait for one another"
)]

mod doors;
mod ends;
mod fake_me;
mod headers;
mod limits;
mod middle;
mod middle_ends;
mod middle_start;
mod places;
mod quotas;
mod rates;
mod refusals;
mod replays;
mod scale;
mod serving;
mod strangers;
mod support;
mod talk;
mod users;
